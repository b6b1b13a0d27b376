"""A network as ONNX with numbers of 32, 16 and 8 bits, and how accurate each file is and how long it takes."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from nas_core.data.loading import Data
from nas_core.deliver import programs
from nas_core.deliver.preprocessing import Preprocessing
from nas_core.search.latency import Latency, milliseconds
from nas_core.spec import ExportOptions

KINDS = ("onnx", "onnx_fp16", "onnx_int8")
"""Of the files, as `nas_core.files.FILES` names them."""
CALIBRATED_ON = 256
"""Training images that the ranges of int8 activations are taken from."""
MOST_TESTED = 64 * 2**20
"""Bytes of the test images that the files are tested on: they go to another process."""
_BATCH = 64

Pixels = NDArray[np.uint8]


class Sample(NamedTuple):
    """Training images to calibrate on and test images, as bytes (n, C, H, W), and the classes (n,) of the latter."""

    training: Pixels
    test: Pixels
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, data: Data) -> "Sample":
        """Some images of `data`, always the same."""

        def some(indices: torch.Tensor, most: int) -> torch.Tensor:
            return indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))[:most]]

        training = data.images.fetch(some(data.training, CALIBRATED_ON)).cpu().numpy()
        tested = some(data.parts["test"], max(1, MOST_TESTED // training[0].nbytes))
        return cls(training, data.images.fetch(tested).cpu().numpy(), data.labels[tested].cpu().numpy())


class OnnxFile(NamedTuple):
    """An ONNX file, and the share of the sample's test images that onnxruntime classifies correctly with it."""

    content: bytes
    accuracy: float


def write_all(
    network: programs.Deployable, options: ExportOptions, preprocessing: Preprocessing, version: str, sample: Sample
) -> dict[str, OnnxFile | Exception]:
    """`network` as ONNX by kind (`KINDS`), or why it cannot be written so; without the first there are no others."""

    def given(pixels: Pixels) -> NDArray[np.float32]:
        images = pixels.astype(np.float32)
        if options.normalise:
            return images
        mean, deviation = (np.reshape(one, (-1, 1, 1)) for one in (preprocessing.mean, preprocessing.deviation))
        return ((images - mean) / deviation).astype(np.float32)

    def written(make: Callable[[], bytes]) -> OnnxFile | Exception:
        try:
            content = make()
            session, right = _session(content), 0
            for begin in range(0, len(sample.labels), _BATCH):
                [logits] = session.run(None, {"images": given(sample.test[begin : begin + _BATCH])})
                if not np.isfinite(logits).all():
                    raise RuntimeError("a logit for a test image is not finite")
                right += int((logits.argmax(1) == sample.labels[begin : begin + _BATCH]).sum())
            return OnnxFile(content, right / len(sample.labels))
        except Exception as error:
            return error

    whole = written(lambda: programs.to_onnx(network, options, preprocessing, version))
    if isinstance(whole, Exception):
        return dict.fromkeys(KINDS, whole)
    return {
        "onnx": whole,
        "onnx_fp16": written(lambda: to_float16(whole.content)),
        "onnx_int8": written(lambda: to_int8(whole.content, given(sample.training))),
    }


def to_float16(content: bytes) -> bytes:
    """The ONNX file `content` with weights and activations of 16 bits; its input and output keep 32."""
    model = onnx.load_model_from_string(content)
    with warnings.catch_warnings(action="ignore"):  # of weights next to zero, which the accuracy tells
        # Bytes are normalised as before: a mean of 16 bits would be off by up to a sixteenth.
        kept = [*DEFAULT_OP_BLOCK_LIST, "Sub", "Div"]
        smaller = convert_float_to_float16(model, keep_io_types=True, op_block_list=kept)
    OnnxModel.graph_topological_sort(smaller.graph)  # it puts casts at the end
    return _labelled(smaller, content)


def to_int8(content: bytes, calibration: NDArray[np.float32]) -> bytes:
    """The ONNX file `content` with int8 weights by channel and int8 activations, between QDQ nodes.

    The ranges of activations are their lowest and highest values for the images `calibration`, as the file takes them.
    """

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(np.array_split(calibration, -(-len(calibration) // _BATCH)))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(({"images": batch} for batch in self.batches), None)

    with tempfile.TemporaryDirectory() as folder:
        whole, fused, quantised = (Path(folder, f"{name}.onnx") for name in ("whole", "fused", "quantised"))
        whole.write_bytes(content)
        # Where it can, BN becomes part of the convolution before it, and is quantised with it.
        quant_pre_process(whole, fused, skip_symbolic_shape=True)
        operators = {node.op_type for node in onnx.load(fused).graph.node} - {"BatchNormalization", "Sub", "Div"}
        quantization.quantize_static(
            fused, quantised, Reader(), per_channel=True, op_types_to_quantize=sorted(operators),
            activation_type=quantization.QuantType.QInt8, weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
        return _labelled(onnx.load(quantised), content)


def _labelled(model: onnx.ModelProto, content: bytes) -> bytes:
    """`model` as a file that says of itself what the ONNX file `content` does."""
    original = onnx.load_model_from_string(content)
    used = {node.domain for node in model.graph.node}
    for domain in [one for one in model.opset_import if one.domain and one.domain not in used]:
        model.opset_import.remove(domain)
    model.ir_version = original.ir_version
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def measure(content: bytes, runs: int = 100, warm_up: int = 10) -> Latency:
    """Time `runs` runs of onnxruntime for one image, on one thread of this machine's CPU, after `warm_up` untimed."""
    session = _session(content)
    [images] = session.get_inputs()
    image = np.zeros((1, *images.shape[1:]), np.float32)
    cpu = torch.device("cpu")
    return Latency.of(milliseconds(lambda: session.run(None, {"images": image}), cpu, 1, runs, warm_up), 1, cpu)


def _session(content: bytes) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
