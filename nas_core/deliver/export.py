"""A retrained network in the forms that a deployment takes: ONNX, torch.export, stand-alone files, a model card.

Everything here works on a copy on the CPU in evaluation mode and draws nothing from the global random state, so that
a training process can hand out one network and go on with the next. Programs are run and compared with the network
itself before they are given out.
"""

import ast
import copy
import inspect
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from nas_core.data import decoding
from nas_core.data.decoding import Decoding
from nas_core.data.loading import Data
from nas_core.data.summary import in_words
from nas_core.files import FILES
from nas_core.search.latency import Latency
from nas_core.space import Architecture
from nas_core.spec import NO_EXPORT_OPTIONS, ExportOptions, SearchSpec
from nas_core.supernet.layers import SqueezeExcitation
from nas_core.supernet.network import Network, NetworkBlock, NetworkReduction
from nas_core.train.evaluation import Evaluation, names_of

TOLERANCE = 1e-4
"""How far another runtime's logits may be off, as a share of the largest logit (or of 1): it sums in another order."""


def restore(architecture: Architecture, weights: Mapping[str, Tensor]) -> Network:
    """The network of `architecture` with the state dict `weights`, on the CPU, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        network = Network(architecture)
    network.load_state_dict(weights)
    return network.eval()


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of an image on its way into a network, and what the network's outputs are called.

    Bytes that were decoded by `decoding` enter as (byte − `mean`) / `deviation` of their channel. `class_names` are in
    the order of the logits.
    """

    decoding: Decoding
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, data: Data, spec: SearchSpec) -> Self:
        """What becomes of the images of `data` in a search of `spec`."""
        given = Decoding(spec.space.channels_in, spec.space.image_size, spec.data.background)
        # A class is called what its folder is called, which need not be text.
        names = (name.encode(errors="backslashreplace").decode() for name in names_of(data.classes, data.class_names))
        return cls(data.decoding or given, tuple(data.mean), tuple(data.deviation), tuple(names))

    def metadata(self, normalised: bool) -> dict[str, str]:
        """What an ONNX file says of its input and output, by name; lists are JSON. `normalised`: the file does that."""
        outside = "(byte - mean) / deviation of each channel, with bytes from 0 to 255"
        return {
            "class_names": json.dumps(self.class_names),
            "input_layout": "NCHW",
            "colour_order": "RGB" if self.decoding.channels == 3 else "grey",
            "image_size": str(self.decoding.size),
            "value_range": "0 to 255" if normalised else outside,
            "normalisation": "inside" if normalised else "outside",
            "mean": json.dumps(self.mean),
            "deviation": json.dumps(self.deviation),
            "mean_and_deviation_scale": "bytes, 0 to 255",
            "resize": RESIZE,
            "orientation": "as the EXIF tag says",
            "background": self.decoding.background,
            "decoding": json.dumps(self.decoding.to_dict()),
        }


RESIZE = "scaled until it covers the square (bilinear, antialiased), then cropped about the centre"
"""How an image becomes a square (`nas_core.data.decoding.decode`)."""


class Normalised(nn.Module):
    """`network` behind the normalisation: bytes as floats (B, C, H, W), 0 … 255 → logits (B, classes)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """The network's logits."""
        logits: Tensor = self.network((images - self.mean) / self.deviation)
        return logits


def to_onnx(
    network: Network,
    options: ExportOptions = NO_EXPORT_OPTIONS,
    preprocessing: Preprocessing | None = None,
    version: str = "",
) -> bytes:
    """`network` as an ONNX model: `images` (batch, channels, height, width) float32 → `logits` (batch, classes).

    The batch may have any size. With `preprocessing` its metadata tell how images are made and what the classes are
    called; it is needed where the `options` ask to normalise inside. `version` is that of Yoso. Raises `RuntimeError`
    where onnxruntime does not find the network's own logits, and `onnx.checker.ValidationError` where a layer cannot be
    written with the operator set.
    """
    network = _deployed(network)
    whole: nn.Module = network
    images_of = _images
    if options.normalise:
        if preprocessing is None:
            raise ValueError("normalisation needs the mean and the deviation")
        whole, images_of = Normalised(network, preprocessing.mean, preprocessing.deviation).eval(), _bytes
    program = torch.onnx.export(
        _program(whole, images_of(network, 2)),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        opset_version=max(options.opset, _OLDEST_WRITTEN),
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    _tidy(model)
    if options.opset < _OLDEST_WRITTEN:
        _write_axes_as_attributes(model.graph)
    [opset] = [one for one in model.opset_import if one.domain in ("", "ai.onnx")]
    opset.version, model.ir_version = options.opset, options.ir_version
    model.producer_name, model.producer_version = "yoso", version
    onnx.helper.set_model_props(model, preprocessing.metadata(options.normalise) if preprocessing else {})
    onnx.checker.check_model(model, full_check=True)
    content = bytes(model.SerializeToString())

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    _check("onnxruntime", whole, run, [images_of(network, count) for count in (1, 3)])
    return content


_OLDEST_WRITTEN = 18
"""The oldest operator set that torch writes itself."""


def _tidy(model: onnx.ModelProto) -> None:
    """Call the batch axis "batch", and leave out where torch's code lies on this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del part.metadata_props[:]
    name = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == name:
                axis.dim_param = "batch"


def _write_axes_as_attributes(graph: onnx.GraphProto) -> None:
    """Write the means of a graph as operator sets before 18 do, of which no other layer's operator differs since 15.

    ReduceMean has its axes as an input from 18 on, and before as an attribute.
    """
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    for node in graph.node:
        if node.op_type == "ReduceMean" and len(node.input) == 2:
            node.attribute.append(onnx.helper.make_attribute("axes", constants[node.input[1]].tolist()))
            del node.input[1], node.attribute[[one.name for one in node.attribute].index("noop_with_empty_axes")]
    read = {name for node in graph.node for name in node.input}
    for one in [one for one in graph.initializer if one.name not in read]:
        graph.initializer.remove(one)
    for node in [node for node in graph.node if node.op_type == "Constant" and node.output[0] not in read]:
        graph.node.remove(node)


def to_torch_export(network: Network) -> bytes:
    """`network` as a torch.export program (.pt2): images (batch, channels, height, width) → logits (batch, classes).

    `torch.export.load(file).module()` runs it without Yoso, for a batch of any size. Raises `RuntimeError` where that
    does not find the network's own logits.
    """
    network = _deployed(network)
    file = io.BytesIO()
    torch.export.save(_program(network, _images(network, 2)), file)
    file.seek(0)
    images = [_images(network, count) for count in (1, 3)]
    _check("torch.export", network, torch.export.load(file).module(), images)
    return file.getvalue()


def _deployed(network: Network) -> Network:
    return copy.deepcopy(network).cpu().eval().requires_grad_(False)


def _images(network: Network, count: int) -> Tensor:
    space = network.architecture.space
    shape = (count, space.channels_in, space.image_size, space.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(count))


def _bytes(network: Network, count: int) -> Tensor:
    shape = _images(network, count).shape
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(count)).float()


def _program(network: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """The program of `network` for a batch of any size, of which there must be two `images` or more to go by.

    torch.export takes a batch of one for a constant.
    """
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (images,), dynamic_shapes={"images": {0: batch}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it tells where the code lies on this machine
    return program


@torch.no_grad()
def _check(runtime: str, network: nn.Module, run: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> None:
    for images in batches:
        wanted, found = network(images), run(images)
        allowed = TOLERANCE * max(1.0, wanted.abs().max().item())
        if not torch.allclose(found, wanted, rtol=0, atol=allowed):
            off = (found - wanted).abs().max().item()
            batch = f"a batch of {len(images)}"
            raise RuntimeError(f"the logits of {runtime} are off by {off:.2g} for {batch}, of {allowed:.2g} allowed")


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
    return f'''"""An image classifier that Yoso found. `{FILES["predict"]}` beside it runs it on image files.

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
    if isinstance(module, nn.BatchNorm2d):  # torch's own writing has words that older versions of it do not know
        return f"nn.BatchNorm2d({module.num_features}, {module.eps}, {module.momentum})"
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
    if images.dtype != torch.uint8:
        raise TypeError(f"expected bytes (torch.uint8, 0 … 255), not {{images.dtype}}")
    mean, deviation = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (MEAN, DEVIATION))
    return (images.float() - mean) / deviation
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
        if images.shape[1:] != ({shape}):
            raise ValueError(f"expected images (B, {shape}), not {{tuple(images.shape)}}")
        return self.head(self.body(self.stem(images)))
'''

_LOAD = '''def load(weights: str | Path | dict[str, Tensor]) -> Network:
    """The network with its weights, from a safetensors file or a state dict, ready to classify."""
    network = Network()
    network.load_state_dict(weights if isinstance(weights, dict) else read_safetensors(weights))
    return network.eval()


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: the length of a JSON header (8 bytes), the header, and the bare numbers."""
    floats = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    types = floats | {"I64": torch.int64}
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


def to_predict(preprocessing: Preprocessing, onnx_normalises: bool = False) -> str:
    """A Python file that classifies image files, from the command line or by its functions.

    It decodes them as the training images were: that code is copied from `nas_core.data.decoding`. It needs numpy and
    Pillow, and to classify onnxruntime with the ONNX file beside it, or else torch with the stand-alone network.
    """
    names = "".join(f"    {name!r},\n" for name in preprocessing.class_names)
    return _PREDICT.format(
        files=FILES,
        decoding=_source_of_decoding(),
        names=names,
        mean=preprocessing.mean,
        deviation=preprocessing.deviation,
        given=preprocessing.decoding,
        shape=f"{preprocessing.decoding.channels}, {preprocessing.decoding.size}, {preprocessing.decoding.size}",
        onnx_input='read_pixels(file).astype("float32")' if onnx_normalises else "read_image(file)",
    )


def _source_of_decoding() -> str:
    """The code of `nas_core.data.decoding`, which needs nothing else of Yoso, without the docstring."""
    source = inspect.getsource(decoding)
    docstring = ast.parse(source).body[0]
    return "\n".join(source.splitlines()[docstring.end_lineno :]).strip()


_PREDICT = '''"""Classifies image files: python predict.py photo.jpg

It needs numpy, Pillow, and onnxruntime with `{files[onnx]}` beside it, or else torch with `{files[python]}` and
`{files[weights]}`. Images are decoded as those were that the network was trained on: turned as the orientation tag
says, on the background where they are transparent, scaled until they cover the square, and cropped about its centre.
"""

import sys
{decoding}

CLASSES = (
{names})
MEAN = {mean}
DEVIATION = {deviation}
DECODING = {given}


def read_pixels(file):
    """The image in a file as bytes, 0 … 255: (1, {shape})."""
    return decode(file, DECODING)[None]


def read_image(file):
    """The image in a file as the network wants it: (byte − mean) / deviation as float32, (1, {shape})."""
    mean, deviation = (np.array(values, dtype=np.float32).reshape(1, -1, 1, 1) for values in (MEAN, DEVIATION))
    return (read_pixels(file).astype(np.float32) - mean) / deviation


def logits_of(file):
    """The network's logits (classes,) for the image in a file."""
    here = Path(__file__).resolve().parent
    try:
        import onnxruntime
    except ImportError:
        onnxruntime = None
    if onnxruntime is not None and (here / "{files[onnx]}").exists():
        session = onnxruntime.InferenceSession(str(here / "{files[onnx]}"), providers=["CPUExecutionProvider"])
        return session.run(None, {{"images": {onnx_input}}})[0][0]
    import torch
    from network import load

    with torch.no_grad():
        return load(here / "{files[weights]}")(torch.from_numpy(read_image(file)))[0].numpy()


def predict(file, most=5):
    """The likeliest classes of the image in a file, with the softmax of their logits, the likeliest first."""
    logits = logits_of(file)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    return [(CLASSES[label], float(shares[label])) for label in np.argsort(-shares)[:most]]


if __name__ == "__main__":
    for file in sys.argv[1:]:
        try:
            found = predict(file)
        except OSError as error:
            sys.exit(f"{{file}}: {{error}}")
        print(f"{{file}}: " + ", ".join(f"{{name}} {{share:.1%}}" for name, share in found))
'''


def model_card(
    spec: SearchSpec,
    architecture: Architecture,
    data: Data,
    budget: int,
    test: Evaluation,
    latency: Latency,
    versions: Mapping[str, str],
    not_exported: Mapping[str, str] | None = None,
) -> str:
    """What the next person must know of a network, in Markdown.

    It was found for `budget`; `versions` are the software by name, `not_exported` why a kind of file is missing.
    """
    space = architecture.space
    preprocessing, summary = Preprocessing.of(data, spec), test.summary()
    channels = enumerate(zip(data.mean, data.deviation, strict=True))
    rows = "\n".join(f"| {channel} | {mean:.4f} | {deviation:.4f} |" for channel, (mean, deviation) in channels)
    splits = ", ".join(f"{count:,} {part}" for part, count in data.splits.items())
    missing = not_exported or {}
    loading = "\n\n".join(
        f"`{FILES[kind]}` is missing: {missing[kind]}" if kind in missing else text
        for kind, text in _loading(spec.export).items()
    )
    warnings = "".join(f"> **Warning.** {_plain(warning)}\n\n" for warning in test.warnings)
    top5 = "" if test.top5_accuracy is None else f"\n- Top-5 accuracy: {test.top5_accuracy:.2%}"
    present = test.classes - len(test.absent)
    return f"""# An image classifier for {budget:,} multiply-adds

Found by direct sparse optimisation ([DSO-NAS](https://arxiv.org/abs/1811.01567)) and trained from scratch, by Yoso.

{warnings}- Dataset: `{data.name}`, {data.classes} classes, fingerprint `{data.fingerprint}`
- Its images by part: {splits}.
  The network was trained on the parts for weights and scaling, and met the test part once, at the end.
- Cost: {architecture.multiply_adds:,} multiply-adds an image, {architecture.multiply_adds / budget:.1%} of the budget
- Parameters: {architecture.parameters:,}
- Test accuracy: **{test.accuracy:.2%}** on {test.total:,} images,
  95 % interval {summary["accuracy_low"]:.1%} to {summary["accuracy_high"]:.1%} (Wilson)
- Balanced accuracy: **{test.balanced_accuracy:.2%}**, the mean recall of {present:,} classes{top5}
- Latency: {latency.median:.3g} ms for one image in PyTorch (median; 10th to 90th percentile {latency.low:.3g} to
  {latency.high:.3g} ms), {latency.where}

## Test, class by class

{_by_class(test)}
{_dataset(spec)}
## Input and output

Float32 images (batch, {space.channels_in}, {space.image_size}, {space.image_size}), as many in a batch as you like, \
{"in the order red, green, blue" if space.channels_in == 3 else "grey"}.
Each byte (0 … 255) enters as (byte − mean) / deviation of its channel:

| channel | mean | deviation |
|---|---|---|
{rows}

{_recipe(preprocessing)}
`read_image` in `{FILES["predict"]}` does all of this. The output is a logit for each of the {data.classes} classes,
{"which the end of this page names" if data.class_names else "numbered as in the dataset"}.

## Use it

{loading}

## How it was found

Seed {spec.seed}, with {", ".join(f"{name} {version}" for name, version in versions.items())}. All that was asked for:

```json
{json.dumps(spec.to_dict(), indent=1)}
```

## Limits

- The accuracy is that on images like the test part's. The interval tells what {test.total:,} images can tell, and not
  how other seeds would do.
- The softmax of the logits ranks the classes; it is no calibrated probability.
- Every image gets one of the {data.classes} classes: there is none for "something else".
- Multiply-adds count convolutions and the classifier. What they take in time depends on the machine.
- Weights and activations are float32; nothing is quantised.
{_classes(data.class_names)}"""


MOST_TOLD = 50
"""Classes that a model card's table lists."""


def _by_class(test: Evaluation) -> str:
    """The classes with the lowest recall, and what is confused most, in Markdown."""

    def share(value: float | None, otherwise: str) -> str:
        return otherwise if value is None else f"{value:.1%}"

    rows = [
        f"| {_plain(test.class_names[label])} | {test.images[label]:,} | {share(test.recall[label], 'no test images')} "
        f"| {test.predicted[label]:,} | {share(test.precision[label], 'never predicted')} |"
        for label in test.worst_first[:MOST_TOLD]
    ]
    more = test.classes - MOST_TOLD
    told = ["The lowest recall first.", ""]
    told += ["| class | test images | recall | predicted | precision |", "|---|---|---|---|---|", *rows]
    told += ["", f"{more:,} more classes are in `{FILES['evaluation']}`."] if more > 0 else []
    if test.confused:
        told += ["", "Most often confused:", ""]
    for label, predicted, images in test.confused[:MOST_CONFUSED_TOLD]:
        of = f"{images:,} of {test.images[label]:,} images of {_plain(test.class_names[label])}"
        told.append(f"- {of} predicted as {_plain(test.class_names[predicted])}")
    return "\n".join(told)


MOST_CONFUSED_TOLD = 10


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|&~#])", r"\\\1", " ".join(text.split()))


def _recipe(preprocessing: Preprocessing) -> str:
    given = preprocessing.decoding
    return (
        f"An image file is turned upright as its orientation tag says, shown on {given.background} where it is "
        f"transparent,\n{RESIZE}."
    )


def _classes(names: Sequence[str]) -> str:
    if not names:
        return ""
    numbered = json.dumps(dict(enumerate(names)), indent=1, ensure_ascii=False)  # whatever a folder is called
    return f"\n## Classes\n\n```json\n{numbered}\n```\n"


def _dataset(spec: SearchSpec) -> str:
    """What was found when the dataset was looked at, and what was done to its images."""
    if spec.inspection is None:
        return ""
    lines = (f"- {heading}: {_plain(words)}" for heading, words in in_words(spec.inspection))
    return "\n## Dataset\n\n" + "\n".join(lines) + "\n"


def _loading(options: ExportOptions) -> dict[str, str]:
    """How each form is used, by kind, as code that runs beside the files."""
    read = 'read_pixels("photo.jpg").astype("float32")' if options.normalise else 'read_image("photo.jpg")'
    takes = "bytes (0 … 255) as floats, and normalises them itself" if options.normalise else "normalised images"
    return {
        "predict": f"""On the command line (`{FILES["predict"]}`, with numpy, Pillow and onnxruntime or torch):

```sh
python {FILES["predict"]} photo.jpg
```""",
        "onnx": f"""ONNX (`{FILES["onnx"]}`, opset {options.opset}, IR version {options.ir_version}).
It takes {takes}.
Its metadata hold the class names, the mean, the deviation and how images are prepared:

```python
import onnxruntime
from predict import CLASSES, {"read_pixels" if options.normalise else "read_image"}

session = onnxruntime.InferenceSession("{FILES["onnx"]}")
[logits] = session.run(None, {{"images": {read}}})
print(CLASSES[logits[0].argmax()])
```""",
        "python": f"""Stand-alone, with torch (`{FILES["python"]}`, `{FILES["weights"]}`):

```python
import torch
from network import load, normalise
from predict import CLASSES, read_pixels

network = load("{FILES["weights"]}")
logits = network(normalise(torch.from_numpy(read_pixels("photo.jpg"))))
print(CLASSES[logits[0].argmax()])
```""",
        "torch_export": f"""torch.export (`{FILES["torch_export"]}`):

```python
import torch
from predict import CLASSES, read_image

network = torch.export.load("{FILES["torch_export"]}").module()
logits = network(torch.from_numpy(read_image("photo.jpg")))
print(CLASSES[logits[0].argmax()])
```""",
        "weights": f"""With Yoso, to train or examine it further (`{FILES["architecture"]}`, `{FILES["weights"]}`):

```python
from pathlib import Path

import torch
from nas_core import Architecture, Network
from predict import CLASSES, read_image
from safetensors.torch import load_file

network = Network(Architecture.from_json(Path("{FILES["architecture"]}").read_text()))
network.load_state_dict(load_file("{FILES["weights"]}"))
network.eval()
logits = network(torch.from_numpy(read_image("photo.jpg")))
print(CLASSES[logits[0].argmax()])
```""",
    }
