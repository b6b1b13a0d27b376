"""A retrained network as a program that another runtime runs: ONNX and torch.export.

Everything here works on a copy on the CPU in evaluation mode and draws nothing from the global random state, so that
a training process can hand out one network and go on with the next. Programs are run and compared with the network
itself before they are given out.
"""

import copy
import io
from collections.abc import Callable, Mapping, Sequence

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from nas_core.deliver.preprocessing import Preprocessing
from nas_core.space import Architecture, Reference
from nas_core.spec import ExportOptions
from nas_core.supernet.network import Network
from nas_core.supernet.references import ReferenceNetwork, build

TOLERANCE = 1e-4
"""How far another runtime's logits may be off, as a share of the largest logit (or of 1): it sums in another order."""


Deployable = Network | ReferenceNetwork


def restore(architecture: Architecture | Reference, weights: Mapping[str, Tensor]) -> Deployable:
    """The network of `architecture` with the state dict `weights`, on the CPU, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        network = build(architecture)
    network.load_state_dict(weights)
    return network.eval()


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


def to_onnx(network: Deployable, options: ExportOptions, preprocessing: Preprocessing, version: str = "") -> bytes:
    """`network` as an ONNX model: `images` (batch, channels, height, width) float32 → `logits` (batch, classes).

    The batch may have any size. The metadata tell how images are made and what the classes are called, as
    `preprocessing` has it. `version` is that of Yoso. Raises `RuntimeError` where onnxruntime does not find the
    network's own logits, and `onnx.checker.ValidationError` where a layer cannot be written with the operator set.
    """
    network = _deployed(network)
    whole: nn.Module = network
    images_of = _images
    if options.normalise:
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
    onnx.helper.set_model_props(model, preprocessing.metadata(options.normalise))
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


def to_torch_export(network: Deployable) -> bytes:
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


def _deployed(network: Deployable) -> Deployable:
    return copy.deepcopy(network).cpu().eval().requires_grad_(False)


def _images(network: Deployable, count: int) -> Tensor:
    shape = (count, *network.architecture.input_shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(count))


def _bytes(network: Deployable, count: int) -> Tensor:
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
