"""A retrained network in the forms that a deployment takes: ONNX, torch.export, a stand-alone file, a model card.

Everything here works on a copy on the CPU in evaluation mode and draws nothing from the global random state, so that
a training process can hand out one network and go on with the next. Programs are run and compared with the network
itself before they are given out.
"""

import copy
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from nas_core.architecture import Architecture
from nas_core.data import Data
from nas_core.files import FILES
from nas_core.latency import Latency
from nas_core.layers import BN_EPS, BN_MOMENTUM, BatchNorm, SqueezeExcitation
from nas_core.network import Network, NetworkBlock, NetworkReduction
from nas_core.spec import SearchSpec

TOLERANCE = 1e-4
"""How far another runtime's logits may be off, as a share of the largest logit (or of 1): it sums in another order."""


def restore(architecture: Architecture, weights: Mapping[str, Tensor]) -> Network:
    """The network of `architecture` with the state dict `weights`, on the CPU, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        network = Network(architecture)
    network.load_state_dict(weights)
    return network.eval()


def to_onnx(network: Network) -> bytes:
    """`network` as an ONNX model: `images` (batch, channels, height, width) float32 → `logits` (batch, classes).

    The batch may have any size. Raises `RuntimeError` where onnxruntime does not find the network's own logits.
    """
    network = _deployed(network)
    program = torch.onnx.export(
        _program(network), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
    )
    assert program is not None
    model = program.model_proto
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del part.metadata_props[:]  # torch notes where its code lies on this machine
    content = bytes(model.SerializeToString())

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    _check("onnxruntime", network, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]))
    return content


def to_torch_export(network: Network) -> bytes:
    """`network` as a torch.export program (.pt2): images (batch, channels, height, width) → logits (batch, classes).

    `torch.export.load(file).module()` runs it without Yoso, for a batch of any size. Raises `RuntimeError` where that
    does not find the network's own logits.
    """
    network = _deployed(network)
    file = io.BytesIO()
    torch.export.save(_program(network), file)
    file.seek(0)
    _check("torch.export", network, torch.export.load(file).module())
    return file.getvalue()


def _deployed(network: Network) -> Network:
    return copy.deepcopy(network).cpu().eval().requires_grad_(False)


def _images(network: Network, count: int) -> Tensor:
    space = network.architecture.space
    shape = (count, space.channels_in, space.image_size, space.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(count))


def _program(network: Network) -> torch.export.ExportedProgram:
    # Two images: torch.export takes a batch of one for a constant.
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (_images(network, 2),), dynamic_shapes={"images": {0: batch}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it tells where the code lies on this machine
    return program


@torch.no_grad()
def _check(runtime: str, network: Network, run: Callable[[Tensor], Tensor]) -> None:
    for count in (1, 3):
        images = _images(network, count)
        wanted, found = network(images), run(images)
        allowed = TOLERANCE * max(1.0, wanted.abs().max().item())
        if not torch.allclose(found, wanted, rtol=0, atol=allowed):
            off = (found - wanted).abs().max().item()
            raise RuntimeError(f"the logits of {runtime} are off by {off:.2g}, of {allowed:.2g} allowed")


def to_python(
    architecture: Architecture,
    mean: Sequence[float] | None = None,
    deviation: Sequence[float] | None = None,
    class_names: Sequence[str] = (),
) -> str:
    """A Python file that defines the network of `architecture`, and needs nothing but torch.

    Its `Network` has the state dict of `nas_core.Network`, its `load` takes a safetensors file or a state dict. With
    `mean` and `deviation` of each channel (bytes), its `normalise` turns images into what the network wants; with
    `class_names`, in the order of the logits, its `CLASSES` holds them. Raises `TypeError` for a layer that is neither
    torch's nor written out here.
    """
    space = architecture.space
    shape = f"{space.channels_in}, {space.image_size}, {space.image_size}"
    with torch.device("meta"):
        network = Network(architecture)
    sections = [_heading(architecture, shape, mean is not None, bool(class_names))]
    if class_names:
        sections[0] += "\nCLASSES = (\n" + "".join(f"    {name!r},\n" for name in class_names) + ")\n"
    if mean is not None and deviation is not None:
        sections[0] += f"\nMEAN = {tuple(mean)}\nDEVIATION = {tuple(deviation)}\n"
        sections.append(_NORMALISE.format(shape=shape))
    sections.append(_BATCH_NORM.format(momentum=BN_MOMENTUM, eps=BN_EPS))
    if any(isinstance(module, SqueezeExcitation) for module in network.modules()):
        sections.append(_SQUEEZE_EXCITATION)
    for name, part in network.body.named_children():
        if isinstance(part, NetworkBlock):
            sections.append(_block(name.title(), part, architecture))
        elif isinstance(part, NetworkReduction):
            sections.append(_reduction(name.title(), part))
        else:
            raise TypeError(f"no stand-alone code for a {type(part).__name__}")
    sections.append(_HEAD.format(bn=_code(network.head.bn), classifier=_code(network.head.classifier)))
    body = "".join(f"                {name}={name.title()}(),\n" for name, _ in network.body.named_children())
    sections.append(_NETWORK.format(shape=shape, classes=space.classes, stem=_code(network.stem, 2), body=body))
    return "\n\n".join([*sections, _LOAD])


def _heading(architecture: Architecture, shape: str, normalises: bool, named: bool) -> str:
    imported = ", ".join(["CLASSES"] * named + ["load"] + ["normalise"] * normalises)
    argument, given = ("normalise(images)", "bytes") if normalises else ("images", "normalised floats")
    naming = "\n    names = [CLASSES[index] for index in logits.argmax(1)]" if named else ""
    return f'''"""An image classifier that Yoso found.

It takes {architecture.multiply_adds:,} multiply-adds an image, has {architecture.parameters:,} parameters, and needs
torch and nothing else:

    from network import {imported}

    network = load("{FILES["weights"]}")
    logits = network({argument})  # images: {given} (B, {shape}) → logits (B, {architecture.space.classes}){naming}
"""

import json
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
'''


def _code(module: nn.Module, depth: int = 0) -> str:
    """The expression that makes `module`; lines after the first are indented by `depth` levels."""
    if isinstance(module, BatchNorm):
        return f"BatchNorm({module.bias.numel()})"
    if isinstance(module, SqueezeExcitation):
        return f"SqueezeExcitation({module.squeeze.in_channels}, {module.squeeze.out_channels})"
    if isinstance(module, nn.Sequential):
        indent = "    " * depth
        parts = "".join(f"{indent}    {_code(part, depth + 1)},\n" for part in module)
        return f"nn.Sequential(\n{parts}{indent})" if parts else "nn.Sequential()"
    if type(module).__module__.startswith("torch.nn.modules."):
        return f"nn.{module!r}"  # torch writes its layers as the calls that make them
    raise TypeError(f"no stand-alone code for a {type(module).__name__}")


def _block(name: str, block: NetworkBlock, architecture: Architecture) -> str:
    made, steps = [], []
    shortcut = "x0"
    if not isinstance(block.shortcut, nn.Identity):
        made.append(f"        self.shortcut = {_code(block.shortcut, 2)}\n")
        shortcut = "self.shortcut(x0)"
    if block.outputs:
        operations = "".join(
            f'                "{node}": {_code(part, 4)},\n' for node, part in block.operations.items()
        )
        made.append(
            f"        self.operations = nn.ModuleDict(\n            {{\n{operations}            }}\n        )\n"
        )
        made.append(f"        self.output = {_code(block.output)}\n        self.output_bn = {_code(block.output_bn)}\n")
    for node, sources in block.inputs.items():
        entering = " + ".join(f"x{source}" for source in sources)
        steps.append(f'        x{node} = self.operations["{node}"]({entering})  # {architecture.node_name(node)}\n')
    if block.outputs:
        joined = ", ".join(f"x{node}" for node in block.outputs)
        steps.append(f"        joined = self.output(torch.cat([{joined}], 1))\n")
        shortcut += " + F.relu(self.output_bn(joined))"
    return _MODULE.format(
        name=name,
        told="Operations over sums of what they read, joined by a 1×1 convolution" if block.outputs else "A shortcut",
        made="".join(made),
        input="x0",
        steps="".join(steps) + f"        return {shortcut}\n",
    )


def _reduction(name: str, reduction: NetworkReduction) -> str:
    branches = "".join(f"                {_code(branch, 4)},\n" for branch in reduction.branches)
    total = " + ".join(f"self.branches[{index}](x)" for index in range(len(reduction.branches)))
    return _MODULE.format(
        name=name,
        told="Halves height and width",
        made=f"        self.branches = nn.ModuleList(\n            [\n{branches}            ]\n        )\n",
        input="x",
        steps=f"        return {total}\n",
    )


_NORMALISE = '''def normalise(images: Tensor) -> Tensor:
    """Images as the network wants them: bytes, 0 … 255, (B, {shape}) → floats."""
    mean, deviation = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (MEAN, DEVIATION))
    return (images.float() - mean) / deviation
'''

_BATCH_NORM = '''class BatchNorm(nn.Module):
    """Batch normalisation over all but the channel axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, self.training, {momentum}, {eps})
'''

_SQUEEZE_EXCITATION = '''class SqueezeExcitation(nn.Module):
    """Every channel times a gate that the means of all channels decide on."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
'''

_MODULE = '''class {name}(nn.Module):
    """{told}."""

    def __init__(self) -> None:
        super().__init__()
{made}
    def forward(self, {input}: Tensor) -> Tensor:
{steps}'''

_HEAD = '''class Head(nn.Module):
    """BN, ReLU, global average pool, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = {bn}
        self.classifier = {classifier}

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.relu(self.bn(x)).mean((2, 3)))
'''

_NETWORK = '''class Network(nn.Module):
    """Normalised images (B, {shape}) → logits (B, {classes})."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = {stem}
        self.body = nn.Sequential(
            OrderedDict(
{body}            )
        )
        self.head = Head()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.stem(images)))
'''

_LOAD = '''def load(weights: str | Path | dict[str, Tensor]) -> Network:
    """The network with its weights, from a safetensors file or a state dict, ready to classify."""
    network = Network()
    network.load_state_dict(weights if isinstance(weights, dict) else read_safetensors(weights))
    return network.eval()


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: the length of a JSON header (8 bytes), the header, and the bare numbers."""
    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        content = bytearray(file.read())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = torch.frombuffer(content[begin:end], dtype=types[entry["dtype"]]).reshape(entry["shape"])
    return tensors
'''


def model_card(
    spec: SearchSpec,
    architecture: Architecture,
    data: Data,
    result: Mapping[str, Any],
    latency: Latency,
    versions: Mapping[str, str],
    not_exported: Mapping[str, str] | None = None,
) -> str:
    """What the next person must know of a network, in Markdown.

    `result` holds the keys of a `retrained` journal line (budget, costs, accuracy), `versions` the software by name,
    `not_exported` why a kind of file is missing.
    """
    space, budget, images = architecture.space, result["budget"], result["test_images"]
    channels = enumerate(zip(data.mean, data.deviation, strict=True))
    rows = "\n".join(f"| {channel} | {mean:.4f} | {deviation:.4f} |" for channel, (mean, deviation) in channels)
    splits = ", ".join(f"{count:,} {part}" for part, count in data.splits.items())
    missing = not_exported or {}
    loading = "\n\n".join(
        f"`{FILES[kind]}` is missing: {missing[kind]}" if kind in missing else text for kind, text in _LOADING.items()
    )
    return f"""# An image classifier for {budget:,} multiply-adds

Found by direct sparse optimisation ([DSO-NAS](https://arxiv.org/abs/1811.01567)) and trained from scratch, by Yoso.

- Data set: `{data.name}`, {data.classes} classes, fingerprint `{data.fingerprint}`
- Its images by part: {splits}.
  The network was trained on the parts for weights and scaling, and met the test part once, at the end.
- Cost: {architecture.multiply_adds:,} multiply-adds an image, {architecture.multiply_adds / budget:.1%} of the budget
- Parameters: {architecture.parameters:,}
- Test accuracy: **{result["accuracy"]:.2%}** on {images:,} images,
  95 % interval {result["accuracy_low"]:.1%} to {result["accuracy_high"]:.1%} (Wilson)
- Latency: {latency.median:.3g} ms for one image in PyTorch (median; 10th to 90th percentile {latency.low:.3g} to
  {latency.high:.3g} ms), {latency.where}

## Input and output

Float32 images (batch, {space.channels_in}, {space.image_size}, {space.image_size}), as many in a batch as you like.
Each byte (0 … 255) enters as (byte − mean) / deviation of its channel:

| channel | mean | deviation |
|---|---|---|
{rows}

`normalise` in `{FILES["python"]}` does this; the other forms expect it done. The output is a logit for each of the
{data.classes} classes, {"which the end of this page names" if data.class_names else "numbered as in the data set"}.

## Load it

{loading}

## How it was found

Seed {spec.seed}, with {", ".join(f"{name} {version}" for name, version in versions.items())}. All that was asked for:

```json
{json.dumps(spec.to_dict(), indent=1)}
```

## Limits

- The accuracy is that on images like the test part's. The interval tells what {images:,} images can tell, and not how
  other seeds would do.
- The softmax of the logits ranks the classes; it is no calibrated probability.
- Every image gets one of the {data.classes} classes: there is none for "something else".
- Multiply-adds count convolutions and the classifier. What they take in time depends on the machine.
- Weights and activations are float32; nothing is quantised.
{_classes(data.class_names)}"""


def _classes(names: Sequence[str]) -> str:
    if not names:
        return ""
    numbered = json.dumps(dict(enumerate(names)), indent=1, ensure_ascii=False)  # whatever a folder is called
    return f"\n## Classes\n\n```json\n{numbered}\n```\n"


_LOADING = {
    "python": f"""Stand-alone, with torch alone (`{FILES["python"]}`, `{FILES["weights"]}`):

```python
from network import load, normalise

logits = load("{FILES["weights"]}")(normalise(images))  # images: bytes
```""",
    "onnx": f"""ONNX (`{FILES["onnx"]}`):

```python
import onnxruntime

session = onnxruntime.InferenceSession("{FILES["onnx"]}")
[logits] = session.run(None, {{"images": images}})
```""",
    "torch_export": f"""torch.export (`{FILES["torch_export"]}`):

```python
import torch

logits = torch.export.load("{FILES["torch_export"]}").module()(images)
```""",
    "weights": f"""With Yoso (`{FILES["architecture"]}`, `{FILES["weights"]}`), to train it further or to look at it:

```python
from pathlib import Path
from nas_core import Architecture, Network
from safetensors.torch import load_file

network = Network(Architecture.from_json(Path("{FILES["architecture"]}").read_text()))
network.load_state_dict(load_file("{FILES["weights"]}"))
network.eval()
```""",
}
