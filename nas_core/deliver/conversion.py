"""Writes a delivered network as LiteRT or Core ML: python conversion.py OPTIONS (JSON), which prints a JSON report.

It needs a delivered folder, torch, Pillow and a converter, but not Yoso: `yoso convert` runs this file in the
environment of the converter, which need not be Yoso's.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

FORMS = {"litert": "LiteRT", "coreml": "Core ML"}
MODULES = {"litert": "litert_torch", "coreml": "coremltools"}
"""The converter for each form."""
NAMES = {"litert": "network.tflite", "litert_int8": "network.int8.tflite", "coreml": "network.mlpackage"}
"""What is written, by kind: files, and for Core ML a folder."""
TOLERANCE = 1e-4
"""How far LiteRT's logits may be off, as `nas_core.deliver.programs` allows for ONNX: it sums in another order."""
CALIBRATED_ON, MADE_UP = 256, 64
MOST_TESTED = 64 * 2**20
"""Bytes of the images that files are tested on, as for ONNX (`nas_core.deliver.onnx_files`)."""
RUNS, WARM_UP = 100, 10


class Refused(Exception):
    """What the user has to change: the name of an option, its value, why it cannot be used, and what can."""


class Sample(NamedTuple):
    """Images that files are compared on: bytes (n, C, H, W), what `kind` they are, and of test images the classes."""

    images: Any
    kind: str
    labels: Sequence[int] | None


def convert(folder: Path, to: str, test: Path | None, int8: Path | None) -> dict[str, Any]:
    """Write the network of `folder` beside its other files in the form `to`, and return what the files are like.

    `test` is a folder of images, in one folder per class, to measure accuracy on. `int8` is a folder of images to take
    the ranges of int8 activations from; with it there is a second file for LiteRT. Raises `Refused` where an option
    cannot be used, and `RuntimeError` where LiteRT does not find the network's own logits.
    """
    sys.path[0] = str(folder)
    predict = importlib.import_module("predict")
    calibration = None if int8 is None else images_in(predict, "int8", int8)
    if test is not None:
        sample = labelled_images(predict, test)
    elif calibration is not None:
        sample = Sample(calibration, "calibration", None)
    else:
        sample = Sample(made_up(predict), "random", None)
    whole = whole_network(folder, predict, channels_last=to == "litert")
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=folder) as name:
        scratch = Path(name)
        if to == "litert":
            files = write_litert(scratch, whole, sample, calibration)
        else:
            files = write_core_ml(scratch, whole, predict)
        for kind, told in files.items():
            told["name"] = NAMES[kind]
            replace(scratch, folder, NAMES[kind])
    converter = MODULES[to].replace("_", "-")
    report = {"converter": f"{converter} {importlib.metadata.version(converter)}", "files": files}
    if (card := folder / "README.md").exists():
        written = card.with_name("README.md.part")
        written.write_text(
            with_section(card.read_text("utf-8"), f"## {FORMS[to]}\n", section(to, report, predict)), "utf-8"
        )
        written.replace(card)
    return report


def whole_network(folder: Path, predict: ModuleType, channels_last: bool) -> Any:
    """The network behind its normalisation: values of 0 … 255, (1, C, H, W) or (1, H, W, C) → logits."""
    import torch

    network = importlib.import_module("network").load(folder / "weights.safetensors")

    class FromBytes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("mean", torch.tensor(predict.MEAN).view(1, -1, 1, 1))
            self.register_buffer("deviation", torch.tensor(predict.DEVIATION).view(1, -1, 1, 1))

        def forward(self, images: Any) -> Any:
            if channels_last:
                images = images.permute(0, 3, 1, 2)
            return {"logits": self.network((images - self.mean) / self.deviation)}

    return FromBytes().eval().requires_grad_(False)


def write_litert(scratch: Path, whole: Any, sample: Sample, calibration: Any) -> dict[str, Any]:
    """Write the network as LiteRT, and with images for `calibration` as int8 too; returns what each file is like."""
    import litert_torch
    import torch

    example = torch.from_numpy(given(sample.images[:1]))
    path = scratch / NAMES["litert"]
    litert_torch.convert(whole, sample_kwargs={"images": example}).export(str(path))
    with torch.no_grad():
        wanted = [whole(torch.from_numpy(given(image[None])))["logits"][0].numpy() for image in sample.images]
    files = {"litert": measure(path, sample, wanted)}
    off, allowed = files["litert"]["difference"], TOLERANCE * max(1.0, *(float(abs(one).max()) for one in wanted))
    if not off <= allowed:
        raise RuntimeError(f"the logits of LiteRT are off by {off:.2g}, of {allowed:.2g} allowed")
    if calibration is not None:
        from ai_edge_quantizer import calibrator, quantizer, recipe, recipe_manager
        from ai_edge_quantizer.utils import qsv_utils

        manager = recipe_manager.RecipeManager()
        manager.load_quantization_recipe(recipe.static_wi8_ai8())
        # The lowest and highest values, as for ONNX; the quantiser's own, moving averages, cut off what is rare.
        ranges = calibrator.Calibrator(str(path), qsv_update_func=qsv_utils.min_max_update)
        ranges.calibrate({"serving_default": [{"images": given(image[None])} for image in calibration]}, manager)
        work = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        path = scratch / NAMES["litert_int8"]
        path.write_bytes(work.quantize(ranges.get_model_qsvs()).quantized_model)
        files["litert_int8"] = measure(path, sample, wanted) | {"calibrated_on": len(calibration)}
    return files


def measure(path: Path, sample: Sample, wanted: Sequence[Any]) -> dict[str, Any]:
    """What a LiteRT file is like beside the network, whose logits for the images are `wanted`, and how long it takes.

    It runs on one thread of the CPU, an image at a time.
    """
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    [takes], [gives] = interpreter.get_input_details(), interpreter.get_output_details()

    def logits(image: Any) -> Any:
        value = given(image[None])
        if takes["dtype"] is np.int8:
            scale, zero = takes["quantization"]
            value = np.clip(np.round(value / scale + zero), -128, 127).astype(np.int8)
        interpreter.set_tensor(takes["index"], value)
        interpreter.invoke()
        [found] = interpreter.get_tensor(gives["index"])
        if gives["dtype"] is np.int8:
            scale, zero = gives["quantization"]
            found = (found.astype(np.float32) - zero) * np.float32(scale)
        return found

    found = [logits(image) for image in sample.images]
    took = []
    for run in range(WARM_UP + RUNS):
        begun = time.perf_counter()
        interpreter.invoke()
        if run >= WARM_UP:
            took.append(1000 * (time.perf_counter() - begun))
    low, median, high = np.percentile(took, [10, 50, 90])
    classes = [[int(one.argmax()) for one in each] for each in (found, wanted)]
    about = {
        "bytes": path.stat().st_size, "images": len(found), "images_from": sample.kind,
        "difference": max(float(abs(one - other).max()) for one, other in zip(found, wanted, strict=True)),
        "same_class": sum(one == other for one, other in zip(*classes, strict=True)),
        "latency_ms": median, "latency_low_ms": low, "latency_high_ms": high,
        "latency_device": f"one thread of a CPU ({platform.machine()})",
    }  # fmt: skip
    if sample.labels is not None:
        for name, predicted in zip(("accuracy", "accuracy_in_pytorch"), classes, strict=True):
            right = sum(one == label for one, label in zip(predicted, sample.labels, strict=True))
            about[name] = right / len(sample.labels)
    return about


def write_core_ml(scratch: Path, whole: Any, predict: ModuleType) -> dict[str, Any]:
    """Write the network as Core ML, which only Apple's systems run, and return what the folder is like."""
    import coremltools
    import torch

    decoding = predict.DECODING
    shape = 1, decoding.channels, decoding.size, decoding.size
    colours = coremltools.colorlayout.RGB if decoding.channels == 3 else coremltools.colorlayout.GRAYSCALE
    model = coremltools.convert(
        torch.export.export(whole, (torch.zeros(shape),)).run_decompositions({}),
        inputs=[coremltools.ImageType(name="images", shape=shape, color_layout=colours)],
        outputs=[coremltools.TensorType(name="logits")],
        convert_to="mlprogram",
        # Bytes are normalised in float32, as in the ONNX file with fp16.
        compute_precision=coremltools.transform.FP16ComputePrecision(
            lambda one: one.op_type not in ("sub", "real_div")
        ),
        skip_model_load=True,
    )
    model.user_defined_metadata["class_names"] = json.dumps(predict.CLASSES)
    path = scratch / NAMES["coreml"]
    model.save(str(path))
    return {"coreml": {"bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file())}}


def given(images: Any) -> Any:
    """Bytes (n, C, H, W) as a file for LiteRT takes them: floats (n, H, W, C)."""
    import numpy as np

    return np.ascontiguousarray(images.transpose(0, 2, 3, 1), dtype=np.float32)


def made_up(predict: ModuleType) -> Any:
    """Random images, always the same."""
    import numpy as np

    decoding = predict.DECODING
    shape = MADE_UP, decoding.channels, decoding.size, decoding.size
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def images_in(predict: ModuleType, option: str, folder: Path) -> Any:
    """Some of the images below `folder`, as bytes (n, C, H, W). Raises `Refused` where there are none."""
    return decoded(predict, option, some(files_below(option, folder), CALIBRATED_ON))


def labelled_images(predict: ModuleType, folder: Path) -> Sample:
    """The images of `folder`, or as many as are tested on, with their classes.

    Raises `Refused` for a folder that is not called like a class, and where there are no images.
    """
    decoding, classes = predict.DECODING, list(predict.CLASSES)

    def class_of(file: Path) -> str:  # as `nas_core.deliver.preprocessing` writes it where it is not text
        return file.relative_to(folder).parts[0].encode(errors="backslashreplace").decode()

    found = files_below("test", folder)
    for file in found:
        if class_of(file) not in classes:
            accepted = f"a folder with one folder of images for each of the classes {', '.join(classes)[:200]}"
            raise Refused("test", str(folder), f"{file} is not in a folder with the name of a class", accepted)
    found = some(found, max(1, MOST_TESTED // (decoding.channels * decoding.size**2)))
    labels = [classes.index(class_of(file)) for file in found]
    return Sample(decoded(predict, "test", found), "test", labels)


def files_below(option: str, folder: Path) -> list[Path]:
    """The image files below `folder`, by their names' endings, in order. Raises `Refused` where there are none."""
    from PIL import Image

    endings = Image.registered_extensions()
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in endings and file.is_file())
    if not found:
        raise Refused(option, str(folder), "no image files below it", "a folder of images")
    return found


def some(files: Sequence[Path], most: int) -> list[Path]:
    """At most so many of `files`, always the same."""
    return sorted(random.Random(0).sample(files, min(most, len(files))))


def decoded(predict: ModuleType, option: str, files: Sequence[Path]) -> Any:
    """The images in `files`, as the training images were decoded. Raises `Refused` for one that cannot be."""
    import numpy as np

    images = []
    for file in files:
        try:
            images.append(predict.read_pixels(file))
        except OSError as error:
            raise Refused(option, str(file), str(error), "images that can be decoded") from error
    return np.concatenate(images)


def replace(scratch: Path, folder: Path, name: str) -> None:
    """Move what `scratch` has of that name into `folder`, in place of what is there."""
    if (folder / name).is_dir():  # which cannot be replaced by a folder at once, as a file can by a file
        (folder / name).replace(scratch / f"old-{name}")
    (scratch / name).replace(folder / name)


def section(to: str, report: dict[str, Any], predict: ModuleType) -> str:
    """What a model card says of the files, in Markdown."""
    size, channels, files = predict.DECODING.size, predict.DECODING.channels, report["files"]
    colours = "RGB" if channels == 3 else "grey"
    if to == "coreml":
        return f"""## {FORMS[to]}

`{NAMES[to]}` was written by {report["converter"]}. It is an ML program with fp16 weights and activations.
Its input `images` is one image, {colours}, {size} × {size}, which it normalises; its output is `logits`.
Its metadata contain `class_names`.

> **Not tested.** Only Apple's systems run Core ML: neither the accuracy nor the latency of this file was measured.
"""
    first = files["litert"]
    kind, tested = first["images_from"], "accuracy" in first
    header = ["file", "bytes", "largest difference of a logit", "images with the same class"]
    header += ["accuracy"] * tested + ["latency"]
    rows = [header, ["---"] * len(header)]
    for one in files.values():
        row = [f"`{one['name']}`", f"{one['bytes']:,}", f"{one['difference']:.2g}", f"{one['same_class']:,}"]
        row += [f"{one['accuracy']:.2%}"] if tested else []
        rows.append(
            [*row, f"{one['latency_ms']:.3g} ms ({one['latency_low_ms']:.3g} to {one['latency_high_ms']:.3g} ms)"]
        )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    accuracy = f"accuracy {first['accuracy_in_pytorch']:.2%}" if tested else "accuracy not measured"
    int8 = ""
    if "litert_int8" in files:
        int8 = f"""
`{NAMES["litert_int8"]}` has int8 weights and activations, and int8 input and output with a scale and a zero point.
It was calibrated on {files["litert_int8"]["calibrated_on"]:,} images.
"""
    return f"""## {FORMS[to]}

Written by {report["converter"]}. The input is one image, {colours}, channels last:
`images` (1, {size}, {size}, {channels}), float32 values of 0 to 255, which the file normalises.
The output is `logits` (1, {len(predict.CLASSES)}).
{int8}
Compared with the network in PyTorch on {first["images"]:,} {kind} images ({accuracy}).
Latency was measured with LiteRT for one image on {first["latency_device"]} (median; 10th to 90th percentile):

{table}
"""


def with_section(card: str, heading: str, told: str) -> str:
    """The Markdown `card` with the section `told` in place of that with the same `heading`, or else at its end."""
    kept = re.sub(rf"^{re.escape(heading)}.*?(?=^## |\Z)", "", card, flags=re.M | re.S)
    return f"{kept.rstrip()}\n\n{told}"


def main() -> None:
    """Do what the options say, and print a report, or what was refused; what converters print goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    options = json.loads(sys.argv[1])
    paths = {name: path and Path(path) for name, path in options["paths"].items()}
    needed = "torch", "PIL", MODULES[options["to"]]
    told: dict[str, Any]
    if lacking := [name for name in needed if importlib.util.find_spec(name) is None]:
        told = {"lacking": lacking}
    else:
        try:
            told = convert(to=options["to"], **paths)
        except Refused as refused:
            told = {"refused": refused.args}
    with answer:
        json.dump(told, answer)


if __name__ == "__main__":
    main()
