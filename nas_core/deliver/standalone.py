"""A retrained network as Python files that need no Yoso: its definition, and what classifies image files with it."""

import ast
import inspect
from collections.abc import Sequence

import torch
from torch import nn

from nas_core.data import decoding
from nas_core.deliver.preprocessing import Preprocessing, resizing
from nas_core.files import FILES
from nas_core.space import Architecture, Reference
from nas_core.space.topology import INPUT, ConvBnAct, Half, Join, Operate, Shuffle
from nas_core.supernet.layers import SqueezeExcitation
from nas_core.supernet.network import NetworkBlock, NetworkReduction
from nas_core.supernet.references import ReferenceHead, ReferenceNetwork, ReferencePart, build, identifier


def to_python(
    architecture: Architecture | Reference,
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
    shape = ", ".join(map(str, architecture.input_shape))
    with torch.device("meta"):
        network = build(architecture)
    sections = [_heading(architecture, shape, mean is not None, bool(class_names))]
    if class_names:
        sections[0] += "\nCLASSES = (\n" + "".join(f"    {name!r},\n" for name in class_names) + ")\n"
    if mean is not None and deviation is not None:
        sections[0] += f"\nMEAN = {tuple(mean)}\nDEVIATION = {tuple(deviation)}\n"
        sections.append(_NORMALISE.format(shape=shape))
    if any(isinstance(module, SqueezeExcitation) for module in network.modules()):
        sections.append(_SQUEEZE_EXCITATION)
    if isinstance(network, ReferenceNetwork):
        sections.append(_MODULE.format(name="Stem", **_steps(network.stem)))
    for name, part in network.body.named_children():
        assert isinstance(part, (NetworkBlock, NetworkReduction, ReferencePart))
        told = _steps(part) if isinstance(part, ReferencePart) else _body(part)
        sections.append(_MODULE.format(name=name.title(), **told))
    if isinstance(network, ReferenceNetwork):
        stem = "Stem()"
        sections.append(_MODULE.format(name="Head", **_steps(network.head)))
    else:
        stem = _code(network.stem, 2)
        sections.append(_HEAD.format(bn=_code(network.head.bn), classifier=_code(network.head.classifier)))
    body = "".join(f"                {name}={name.title()}(),\n" for name, _ in network.body.named_children())
    sections.append(_NETWORK.format(shape=shape, classes=architecture.outputs, stem=stem, body=body))
    return "\n\n".join([*sections, _LOAD])


def _heading(architecture: Architecture | Reference, shape: str, normalises: bool, named: bool) -> str:
    imported = ", ".join(["CLASSES"] * named + ["load"] + ["normalise"] * normalises)
    argument, given = ("normalise(images)", "bytes") if normalises else ("images", "normalised floats")
    naming = "\n    names = [CLASSES[index] for index in logits.argmax(1)]" if named else ""
    origin = f"a {architecture.variant} that Yoso scaled" if isinstance(architecture, Reference) else "that Yoso found"
    return f'''"""An image classifier, {origin}. `{FILES["predict"]}` beside it runs it on image files.

It takes {architecture.multiply_adds:,} multiply-adds an image, has {architecture.parameters:,} parameters, and needs
torch and nothing else:

    from network import {imported}

    network = load("{FILES["weights"]}")
    logits = network({argument})  # images: {given} (B, {shape}) → logits (B, {architecture.outputs}){naming}
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
        return f"SqueezeExcitation({module.squeeze.in_channels}, {module.squeeze.out_channels}, nn.{module.gate!r})"
    indent = "    " * depth
    if isinstance(module, nn.Sequential):
        parts = "".join(f"{indent}    {_code(part, depth + 1)},\n" for part in module)
        return f"nn.Sequential(\n{parts}{indent})" if parts else "nn.Sequential()"
    if isinstance(module, nn.ModuleList):
        parts = "".join(f"{indent}        {_code(part, depth + 2)},\n" for part in module)
        return f"nn.ModuleList(\n{indent}    [\n{parts}{indent}    ]\n{indent})"
    if isinstance(module, nn.ModuleDict):
        parts = "".join(f'{indent}        "{name}": {_code(part, depth + 2)},\n' for name, part in module.items())
        return f"nn.ModuleDict(\n{indent}    {{\n{parts}{indent}    }}\n{indent})"
    if type(module).__module__.startswith("torch.nn.modules."):
        return f"nn.{module!r}"  # torch writes its layers as the calls that make them
    raise TypeError(f"no stand-alone code for a {type(module).__name__}")


def _body(module: NetworkBlock | NetworkReduction) -> dict[str, str]:
    """What `_MODULE` tells of a part of a network, what it makes and the steps that it takes."""
    part, told = module.part, "A shortcut"
    values, steps = {INPUT: "x"}, []
    for index, step in enumerate(part.steps):
        reads = [values[name] for name in step.reads]
        match step:
            case ConvBnAct(name=value) if part.kind == "reduction":
                told, call = "Halves height and width", f"self.branches[{index}]({reads[0]})"
            case ConvBnAct(name=value):
                call = f"self.shortcut({reads[0]})"
            case Operate(name=name, node=node):
                value, call = f"x{node}", f'self.operations["{node}"]({" + ".join(reads)})  # {name}'
            case Join(name=value):
                told = "Operations over sums of what they read, joined by a 1×1 convolution"
                call = f"F.relu(self.output_bn(self.output(torch.cat([{', '.join(reads)}], 1))))"
        values[step.name] = value
        steps.append(f"        {value} = {call}\n")
    total = " + ".join(values[name] for name in part.leaves)
    made = (f"        self.{name} = {_code(child, 2)}\n" for name, child in module.named_children())
    return {"told": told, "made": "".join(made), "steps": "".join(steps) + f"        return {total}\n"}


def _steps(module: ReferencePart) -> dict[str, str]:
    """What `_MODULE` tells of a part of a reference network, what it makes and the steps that it takes."""
    values, lines = {INPUT: "x"}, []

    def total(names: Sequence[str]) -> str:
        return " + ".join(values[name] for name in names)

    for step in module.part.steps:
        match step:
            case Half(half=half, channels=channels):
                call = f"{total(step.reads)}[:, {half * channels}:{(half + 1) * channels}]"
            case Shuffle():
                call = f"torch.stack([{', '.join(values[name] for name in step.reads)}], 2).flatten(1, 2)"
            case _:
                call = f'self.steps["{identifier(step.name)}"]({total(step.reads)})'
        values[step.name] = identifier(step.name)
        lines.append(f"        {values[step.name]} = {call}\n")
    result = total(module.part.leaves)
    if isinstance(module, ReferenceHead):
        result = f"self.classifier({result})"
    made = (f"        self.{name} = {_code(child, 2)}\n" for name, child in module.named_children())
    told = {"stem": "The first convolution", "head": "The mean over all pixels, and the classifier"}
    return {
        "told": told.get(module.part.kind, "A block"),
        "made": "".join(made),
        "steps": "".join(lines) + f"        return {result}\n",
    }


_NORMALISE = '''def normalise(images: Tensor) -> Tensor:
    """Images as the network wants them: bytes, 0 … 255, (B, {shape}) → floats."""
    if images.dtype != torch.uint8:
        raise TypeError(f"expected bytes (torch.uint8, 0 … 255), not {{images.dtype}}")
    mean, deviation = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (MEAN, DEVIATION))
    return (images.float() - mean) / deviation
'''

_SQUEEZE_EXCITATION = '''class SqueezeExcitation(nn.Module):
    """Every channel times a gate that the means of all channels decide on."""

    def __init__(self, channels: int, squeezed: int, gate: nn.Module) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
'''

_MODULE = '''class {name}(nn.Module):
    """{told}."""

    def __init__(self) -> None:
        super().__init__()
{made}
    def forward(self, x: Tensor) -> Tensor:
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


def to_predict(preprocessing: Preprocessing, onnx_normalises: bool) -> str:
    """A Python file that classifies image files, from the command line or by its functions.

    It decodes them as the training images were: that code is copied from `nas_core.data.decoding`. It needs numpy and
    Pillow, and to classify onnxruntime with the ONNX file beside it, which may normalise images itself, or else torch
    with the stand-alone network.
    """
    names = "".join(f"    {name!r},\n" for name in preprocessing.class_names)
    return _PREDICT.format(
        files=FILES,
        decoding=_source_of_decoding(),
        names=names,
        mean=preprocessing.mean,
        deviation=preprocessing.deviation,
        given=preprocessing.decoding,
        resizing=resizing(preprocessing.decoding),
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
says, on the background where they are transparent, and {resizing}.
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
