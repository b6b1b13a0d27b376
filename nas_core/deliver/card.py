"""The model card of a retrained network: what the next person must know of it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nas_core.data.loading import Data
from nas_core.data.summary import in_words
from nas_core.deliver.comparison import called, headline
from nas_core.deliver.preprocessing import Preprocessing, resizing
from nas_core.files import FILES
from nas_core.search.latency import Latency
from nas_core.space import Architecture, Reference
from nas_core.spec import ExportOptions, SearchSpec
from nas_core.train.evaluation import Evaluation
from nas_core.train.retrain import untaken
from nas_core.wording import number_of


def model_card(
    spec: SearchSpec,
    architecture: Architecture | Reference,
    data: Data,
    found: Mapping[str, Any],
    test: Evaluation,
    latency: Latency,
    versions: Mapping[str, str],
    onnx: Mapping[str, Mapping[str, Any]],
    not_exported: Mapping[str, str] | None = None,
) -> str:
    """What the next person must know of a network, in Markdown.

    `found` is what its result says of its `budget`, of what its training began with (`start`), of the `compute` that
    it took and of what to beware of (`warnings`); `versions` are the software by name, `onnx` what each ONNX file is
    like (`worker.exports.Exports.write`), `not_exported` why a kind of file is missing.
    """
    budget = found["budget"]
    channels_in, size, _ = architecture.input_shape
    preprocessing, summary = Preprocessing.of(data, spec), test.summary()
    channels = enumerate(zip(data.mean, data.deviation, strict=True))
    rows = "\n".join(f"| {channel} | {mean:.4f} | {deviation:.4f} |" for channel, (mean, deviation) in channels)
    splits = ", ".join(f"{count:,} {part}" for part, count in data.splits.items())
    missing = not_exported or {}
    loading = "\n\n".join(
        f"`{FILES[kind]}` is missing: {missing[kind]}" if kind in missing else text
        for kind, text in _loading(spec.export, isinstance(architecture, Reference), onnx).items()
    )
    warnings = "".join(f"> **Warning.** {_plain(warning)}\n\n" for warning in found["warnings"])
    top5 = "" if test.top5_accuracy is None else f"\n- Top-5 accuracy: {test.top5_accuracy:.2%}"
    present = test.classes - len(test.absent)
    return f"""# An image classifier for {budget:,} multiply-adds

{_origin(architecture, spec, found["start"])}

{warnings}- Dataset: `{data.name}`, {data.classes} classes, fingerprint `{data.fingerprint}`
- Images by part: {splits}.
  The network was trained on the parts for weights and scaling, and was tested once, at the end.
- Cost: {architecture.multiply_adds:,} multiply-adds per image, {architecture.multiply_adds / budget:.1%} of the budget
- Parameters: {architecture.parameters:,}
- Compute, as multiply-adds of forward passes: {_compute(found["compute"])}
- Test accuracy: **{test.accuracy:.2%}** on {test.total:,} images,
  95 % interval {summary["accuracy_low"]:.1%} to {summary["accuracy_high"]:.1%} (Wilson)
- Balanced accuracy: **{test.balanced_accuracy:.2%}**, the mean recall of {present:,} classes{top5}
- Latency: {latency.median:.3g} ms for one image in PyTorch (median; 10th to 90th percentile {latency.low:.3g} to
  {latency.high:.3g} ms), {latency.where}

## Test, class by class

{_by_class(test)}
{_dataset(spec)}
## Input and output

Float32 images (batch, {channels_in}, {size}, {size}) with any batch size, \
{"in the order red, green, blue" if channels_in == 3 else "grey"}.
Each pixel value (0 to 255) is normalised as (value − mean) / deviation of its channel:

| channel | mean | deviation |
|---|---|---|
{rows}

{_recipe(preprocessing)}
`read_image` in `{FILES["predict"]}` does all of this. The output is a logit for each of the {data.classes} classes,
{"listed at the end of this page" if data.class_names else "numbered as in the dataset"}.

## Use it

{loading}

## How it was found

Seed {spec.seed}, with {", ".join(f"{name} {version}" for name, version in versions.items())}.
The complete specification:

```json
{json.dumps(spec.to_dict(), indent=1)}
```

## Limits

- The accuracy holds for images like those of the test part. The interval accounts for the number of test images
  ({test.total:,}), not for the variation between seeds.
- The softmax of the logits ranks the classes. It is not a calibrated probability.
- Every image gets one of the {data.classes} classes; there is no class for "something else".
- Multiply-adds count convolutions and the classifier. How long they take depends on the machine.
- Weights and activations are float32, except in the smaller ONNX files.
{_classes(data.class_names)}"""


def _compute(compute: Mapping[str, int | None]) -> str:
    """What a network's search and training took, in words."""
    told = f"{compute['training']:.3g} for training"
    return f"{told}, after {search:.3g} for the search" if (search := compute.get("search")) else told


def _origin(architecture: Architecture | Reference, spec: SearchSpec, start: str) -> str:
    """Where a network comes from, in a sentence or two."""
    if not isinstance(architecture, Reference):
        begun = "from scratch" if start == "scratch" else f"from the {start}'s weights"
        return (
            "Found by Yoso with direct sparse optimisation ([DSO-NAS](https://arxiv.org/abs/1811.01567)), and trained "
            f"{begun}."
        )
    missing = untaken(architecture, spec.settings)
    recipe = f", but without {' and '.join(missing)}" if missing else ""
    return (
        f"A hand-made network: {architecture.variant} at {architecture.scale:.2f} times its published width, with "
        f"{number_of(architecture.halvings, 'reduction')}.\n"
        f"Yoso trained it from scratch, with the recipe of the networks that it finds{recipe}."
    )


def beside_others(
    network: Mapping[str, Any], networks: Sequence[Mapping[str, Any]], left_out: Sequence[str], choose_by: str
) -> str:
    """The end of a network's card: how it did beside the other `networks` of its budget, in Markdown.

    All are what finals tell of networks (`nas_core.deliver.comparison`); `left_out` says why others are missing.
    """
    lines = ["", COMPARISON_HEADING, ""]
    winner = next((one for one in networks if one["winner"]), None)
    if winner is not None and (told := headline(winner)) is not None:
        lines.append(f"**{told}**" if winner is network else f"This is not the best network of its budget. {told}")
    if winner is not network and network["comparison"] is not None:
        lines.append(f"Its test accuracy is {network['comparison']}.")
    if len(networks) > 1:
        lines += [
            f"All were trained with the same recipe on the same images. The best is chosen by {choose_by} on the",
            "validation part, not by the test. If intervals overlap, the order may be chance.",
            "",
            "| network | multiply-adds | parameters | validation | test | 95 % interval |",
            "|---|---|---|---|---|---|",
        ]
    for one in sorted(networks, key=lambda one: -float(one[f"validation_{choose_by}"])) if len(networks) > 1 else []:
        lines.append(
            f"| {called(one)}{' (this one)' if one is network else ''} | {one['multiply_adds']:,} "
            f"| {one['parameters']:,} | {one[f'validation_{choose_by}']:.2%} | {one[choose_by]:.2%} "
            f"| {one['accuracy_low']:.1%} to {one['accuracy_high']:.1%} |"
        )
    notes = [
        f"- {one['variant']} was trained without {missing}."
        for one in networks
        for missing in one.get("recipe_without", ())
    ]
    notes += [f"- Left out: {_plain(reason)}" for reason in left_out]
    lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


COMPARISON_HEADING = "## Compared with other networks of this cost"


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
    told = ["Classes with the lowest recall come first.", ""]
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
        f"Image files are rotated as their orientation tags say, transparent pixels are put on {given.background},\n"
        f"and images are {resizing(given)}."
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


def _onnx_files(onnx: Mapping[str, Mapping[str, Any]]) -> str:
    """What each ONNX file is like, as a table in Markdown; nothing where there is none."""
    if not onnx:
        return ""
    first = next(iter(onnx.values()))
    rows = "\n".join(
        f"| `{FILES[kind]}` | {one['bytes']:,} | {one['accuracy']:.2%} | {one['latency_ms']:.3g} ms "
        f"({one['latency_low_ms']:.3g} to {one['latency_high_ms']:.3g} ms) |"
        for kind, one in onnx.items()
    )
    return f"""

The model in three precisions: float32, fp16, and int8 (static quantisation, calibrated on training images).
Latency was measured with onnxruntime for one image on {first["latency_device"]} (median; 10th to 90th percentile):

| file | bytes | accuracy on {first["test_images"]:,} test images | latency |
|---|---|---|---|
{rows}"""


def _loading(options: ExportOptions, reference: bool, onnx: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """How each form is used, by kind, as code that runs beside the files."""
    described, network = ("Reference", "ReferenceNetwork") if reference else ("Architecture", "Network")
    read = 'read_pixels("photo.jpg").astype("float32")' if options.normalise else 'read_image("photo.jpg")'
    takes = "pixel values of 0 to 255 as floats, and normalises them" if options.normalise else "normalised images"
    return {
        "predict": f"""On the command line (`{FILES["predict"]}`, with numpy, Pillow and onnxruntime or torch):

```sh
python {FILES["predict"]} photo.jpg
```""",
        "onnx": f"""ONNX (`{FILES["onnx"]}`, opset {options.opset}, IR version {options.ir_version}).
It takes {takes}.
Its metadata contain the class names, the mean, the deviation and how images are prepared:

```python
import onnxruntime
from predict import CLASSES, {"read_pixels" if options.normalise else "read_image"}

session = onnxruntime.InferenceSession("{FILES["onnx"]}")
[logits] = session.run(None, {{"images": {read}}})
print(CLASSES[logits[0].argmax()])
```{_onnx_files(onnx)}""",
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
from nas_core import {described}, {network}
from predict import CLASSES, read_image
from safetensors.torch import load_file

network = {network}({described}.from_json(Path("{FILES["architecture"]}").read_text()))
network.load_state_dict(load_file("{FILES["weights"]}"))
network.eval()
logits = network(torch.from_numpy(read_image("photo.jpg")))
print(CLASSES[logits[0].argmax()])
```""",
    }
