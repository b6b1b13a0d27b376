"""Networks that people have drawn, of a size and for images of one's own: what a search has to beat.

A family is written in the notation of timm and the papers' published code: `ir_r2_k3_s2_e6_c24` is two inverted
bottlenecks with 3×3 kernels, of which the first has stride 2, that expand six times and give out 24 channels. At the
widths written here and 224 pixels these are the published networks.

They are adapted by these rules. An image is halved as often as `halvings` says, by the last of the places that halve
it in the published network: the earlier ones keep its size, where a 7×7 stem becomes 3×3 and a pool is left out, as He
et al. do for CIFAR (arXiv 1512.03385, section 4.2). All `widths` may be others, the stem's and the head's too: a head
of 1280 channels alone would cost more than many a budget. What follows from the widths, such as expanded and squeezed
channels, is rounded to multiples of `divisor`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, NamedTuple, Self

from nas_core.errors import InvalidValue
from nas_core.space.genotype import Genotype
from nas_core.space.topology import (
    INPUT,
    Activate,
    Activation,
    Classify,
    ConvBnAct,
    Dense,
    Gate,
    Half,
    MaxPool,
    Mean,
    Part,
    Shuffle,
    Step,
)

VERSION = 1
DIVISORS = (1, 8)
FEWEST, MOST = 4, 65536
"""Channels: with fewer a network would not be one of its family any more."""


class Unit(NamedTuple):
    """A block: "bb" two convolutions and a shortcut, "ds" and "ir" a separable one and an inverted bottleneck with
    shortcuts, "dsa" one without, "su" a shuffle unit, "cn" a convolution.
    """

    kind: str
    kernel: int
    expansion: float
    squeeze: bool
    activation: Activation


class Stage(NamedTuple):
    """Units of so many channels, of which the first halves the image where `halves` is set."""

    channels: int
    halves: bool
    units: tuple[Unit, ...]


class Variant(NamedTuple):
    """A published network: its stem of `stem` channels (None: as many as its first stage has) and its stages.

    `pool` follows the stem; `dense` are the channels between the mean and the classifier.
    """

    stages: tuple[Stage, ...]
    stem: int | None
    kernel: int = 3
    pool: bool = False
    dense: int | None = None
    activation: Activation = "relu"

    @property
    def widths(self) -> tuple[int, ...]:
        """The published widths, of what is not as wide as another part."""
        return tuple(filter(None, (self.stem, *(stage.channels for stage in self.stages), self.dense)))

    @property
    def places(self) -> int:
        """How often an image can be halved: by the stem, the pool after it, and stages."""
        return 1 + self.pool + sum(stage.halves for stage in self.stages)


_STRING = re.compile(r"([a-z]+)_r(\d+)_k(\d)_s([12])(?:_e([\d.]+))?_c(\d+)(_se0\.25)?(_nre)?")


def _row(text: str) -> tuple[str, ...]:
    match = _STRING.fullmatch(text)
    assert match is not None, text
    return match.groups()


def _stage(text: str, activation: Activation) -> Stage:
    """A stage, of which `text` tells one or several rows of like channels."""
    rows = [_row(row) for row in text.split()]
    units = tuple(
        Unit(kind, int(kernel), float(expansion or 1), bool(squeeze), "relu" if relu else activation)
        for kind, repeats, kernel, _, expansion, _, squeeze, relu in rows
        for _ in range(int(repeats))
    )
    return Stage(int(rows[0][5]), rows[0][3] == "2", units)


def _variant(stem: int | None, *stages: str, activation: Activation = "relu", **more: Any) -> Variant:
    return Variant(tuple(_stage(text, activation) for text in stages), stem, activation=activation, **more)


def _residual(repeats: tuple[int, ...], channels: tuple[int, ...], **more: Any) -> Variant:
    """A ResNet of blocks of two convolutions, of which every stage but the first halves the image."""
    rows = enumerate(zip(repeats, channels, strict=True))
    return _variant(None, *(f"bb_r{repeat}_k3_s{2 if i else 1}_c{width}" for i, (repeat, width) in rows), **more)


def _lite(depth: float) -> Variant:
    """EfficientNet-Lite with all but its first and last blocks repeated `depth` times as often, rounded up."""
    first, *between, last = (
        "ds_r1_k3_s1_e1_c16", "ir_r2_k3_s2_e6_c24", "ir_r2_k5_s2_e6_c40", "ir_r3_k3_s2_e6_c80",
        "ir_r3_k5_s1_e6_c112", "ir_r4_k5_s2_e6_c192", "ir_r1_k3_s1_e6_c320",
    )  # fmt: skip
    deeper = [re.sub(r"_r(\d)", lambda r: f"_r{-(-int(r[1]) * round(depth * 10) // 10)}", row) for row in between]
    return _variant(32, first, *deeper, last, "cn_r1_k1_s1_c1280", activation="relu6")


Family = Literal["resnet", "mobilenetv1", "mobilenetv2", "mobilenetv3", "shufflenetv2", "mnasnet", "efficientnet_lite"]
Origin = Literal["search", "random", "thin", Family]
"""Where a network comes from: a search, or what it is compared with."""
BESIDE = ("random", "thin")
"""Of these, those that are no choice of anybody's: what is left of a search space without a search."""

FAMILIES: dict[str, dict[str, Variant]] = {
    # He et al., arXiv 1512.03385: table 1, and section 4.2 for images up to 64 pixels (`SMALL`).
    "resnet": {
        **{f"resnet{6 * n + 2}": _residual((n, n, n), (16, 32, 64)) for n in (1, 2, 3, 5, 7, 9, 18)},
        "resnet10": _residual((1, 1, 1, 1), (64, 128, 256, 512), kernel=7, pool=True),
        "resnet18": _residual((2, 2, 2, 2), (64, 128, 256, 512), kernel=7, pool=True),
        "resnet34": _residual((3, 4, 6, 3), (64, 128, 256, 512), kernel=7, pool=True),
    },
    # Howard et al., arXiv 1704.04861, table 1.
    "mobilenetv1": {
        "mobilenetv1": _variant(
            32, "dsa_r1_k3_s1_c64", "dsa_r2_k3_s2_c128", "dsa_r2_k3_s2_c256", "dsa_r6_k3_s2_c512",
            "dsa_r2_k3_s2_c1024", activation="relu6",
        )
    },
    # Sandler et al., arXiv 1801.04381, table 2.
    "mobilenetv2": {
        "mobilenetv2": _variant(
            32, "ds_r1_k3_s1_c16", "ir_r2_k3_s2_e6_c24", "ir_r3_k3_s2_e6_c32", "ir_r4_k3_s2_e6_c64",
            "ir_r3_k3_s1_e6_c96", "ir_r3_k3_s2_e6_c160", "ir_r1_k3_s1_e6_c320", "cn_r1_k1_s1_c1280",
            activation="relu6",
        )
    },
    # Howard et al., arXiv 1905.02244, tables 1 and 2.
    "mobilenetv3": {
        "mobilenetv3_small": _variant(
            None, "ds_r1_k3_s2_e1_c16_se0.25_nre", "ir_r1_k3_s2_e4.5_c24_nre ir_r1_k3_s1_e3.67_c24_nre",
            "ir_r1_k5_s2_e4_c40_se0.25 ir_r2_k5_s1_e6_c40_se0.25", "ir_r2_k5_s1_e3_c48_se0.25",
            "ir_r3_k5_s2_e6_c96_se0.25", "cn_r1_k1_s1_c576", dense=1024, activation="hard_swish",
        ),
        "mobilenetv3_large": _variant(
            None, "ds_r1_k3_s1_e1_c16_nre", "ir_r1_k3_s2_e4_c24_nre ir_r1_k3_s1_e3_c24_nre",
            "ir_r3_k5_s2_e3_c40_se0.25_nre", "ir_r1_k3_s2_e6_c80 ir_r1_k3_s1_e2.5_c80 ir_r2_k3_s1_e2.3_c80",
            "ir_r2_k3_s1_e6_c112_se0.25", "ir_r3_k5_s2_e6_c160_se0.25", "cn_r1_k1_s1_c960", dense=1280,
            activation="hard_swish",
        ),
    },
    # Ma et al., arXiv 1807.11164, table 5.
    "shufflenetv2": {
        "shufflenetv2": _variant(
            24, "su_r4_k3_s2_c116", "su_r8_k3_s2_c232", "su_r4_k3_s2_c464", "cn_r1_k1_s1_c1024", pool=True
        )
    },
    # Tan et al., arXiv 1807.11626, figure 7 (B1).
    "mnasnet": {
        "mnasnet": _variant(
            32, "ds_r1_k3_s1_c16", "ir_r3_k3_s2_e3_c24", "ir_r3_k5_s2_e3_c40", "ir_r3_k5_s2_e6_c80",
            "ir_r2_k3_s1_e6_c96", "ir_r4_k5_s2_e6_c192", "ir_r1_k3_s1_e6_c320", "cn_r1_k1_s1_c1280",
        )
    },
    # EfficientNet (Tan and Le, arXiv 1905.11946) without squeeze-excite and with ReLU6, as Google published it in 2020.
    # Lite2 is as deep as Lite1, and only wider.
    "efficientnet_lite": {f"efficientnet_lite{n}": _lite(d) for n, d in ((0, 1.0), (1, 1.1), (3, 1.4), (4, 1.8))},
}  # fmt: skip
"""The variants of every family, the shallowest first."""

TITLES: dict[str, str] = {
    "resnet": "ResNet", "mobilenetv1": "MobileNetV1", "mobilenetv2": "MobileNetV2", "mobilenetv3": "MobileNetV3",
    "shufflenetv2": "ShuffleNetV2", "mnasnet": "MnasNet", "efficientnet_lite": "EfficientNet-Lite",
}  # fmt: skip
"""What the families are called."""

SMALL = 64
"""Pixels up to which ResNets are those that were drawn for CIFAR, with three stages."""


def variants_for(family: str, image_size: int) -> list[str]:
    """The variants of a family for images of so many pixels, the shallowest first."""
    small = image_size <= SMALL
    return [n for n, one in FAMILIES[family].items() if family != "resnet" or (len(one.stages) == 3) == small]


def divisible(value: Any, divisor: int) -> Any:
    """The multiple of `divisor` next to a number of channels, or to an array of them; at least nine tenths of it.

    It rounds as the published code of the MobileNets does.
    """
    rounded = (value + divisor / 2) // divisor * divisor
    rounded = rounded + divisor * (rounded < 0.9 * value)
    return int(rounded) if isinstance(rounded, float) else rounded.astype(int)


@dataclass(frozen=True)
class Reference(Genotype):
    """A `variant` of a `family` for square images of `image_size` pixels, which it halves `halvings` times.

    `widths` are those of its stem, of its stages and of what comes after the mean, in the order of `Variant.widths`.
    Raises `InvalidValue` where a field cannot be used.
    """

    family: str
    variant: str
    channels_in: int
    image_size: int
    classes: int
    halvings: int
    divisor: int
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.family, str) or self.family not in FAMILIES:
            raise InvalidValue("reference.family", self.family, "no such family", "one of " + ", ".join(FAMILIES))
        variants = FAMILIES[self.family]
        if not isinstance(self.variant, str) or self.variant not in variants:
            raise InvalidValue("reference.variant", self.variant, "no such variant", "one of " + ", ".join(variants))
        for field, smallest, largest in (
            ("channels_in", 1, 4096), ("image_size", 4, 4096), ("classes", 2, 1_000_000),
            ("halvings", 0, self.drawn.places),
        ):  # fmt: skip
            value = getattr(self, field)
            if type(value) is not int or not smallest <= value <= largest:
                accepted = f"an integer from {smallest} to {largest}"
                raise InvalidValue(f"reference.{field}", value, "not a usable number", accepted)
        if self.divisor not in DIVISORS or type(self.divisor) is not int:
            raise InvalidValue("reference.divisor", self.divisor, "no divisor", f"one of {DIVISORS}")
        wanted = len(self.drawn.widths)
        if len(self.widths) != wanted or not all(
            type(width) is int and FEWEST <= width <= MOST and width % self.step == 0 for width in self.widths
        ):
            accepted = f"{wanted} multiples of {self.step} from {FEWEST} to {MOST}"
            raise InvalidValue("reference.widths", self.widths, "no widths of this variant", accepted)

    @property
    def drawn(self) -> Variant:
        """The published network."""
        return FAMILIES[self.family][self.variant]

    @property
    def shuffles(self) -> bool:
        """Whether it splits channels in halves, so that their number must be even."""
        return any(unit.kind == "su" for stage in self.drawn.stages for unit in stage.units)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.channels_in, self.image_size, self.image_size

    @property
    def outputs(self) -> int:
        """How many classes it tells apart."""
        return self.classes

    @property
    def step(self) -> int:
        """What widths must be multiples of."""
        return 2 if self.shuffles else 1

    @property
    def fewest(self) -> tuple[int, ...]:
        """Four channels each."""
        return (FEWEST,) * len(self.widths)

    def narrowest(self) -> Self:
        """The network with the fewest channels that it may have."""
        return replace(self, divisor=1, widths=self.fewest)

    @property
    def scale(self) -> float:
        """By what its widths are those of the published network, as a mean of ratios."""
        ratios = [width / published for width, published in zip(self.widths, self.drawn.widths, strict=True)]
        return sum(ratios) / len(ratios)

    @property
    def tapped(self) -> str:
        """The first block of the last stage that halves the image in the published network."""
        stages = self.drawn.stages
        last = max(number for number, stage in enumerate(stages) if stage.halves)
        return f"block{1 + sum(len(stage.units) for stage in stages[:last])}"

    @property
    def has_shortcuts(self) -> bool:
        """Whether it adds anything to what enters a block."""
        joins = (part for part in self.parts() for step in part.steps if isinstance(step, Activate))
        return any(joins) or any(len(part.leaves) > 1 for part in self.parts())

    def parts(self, widths: Sequence[Any] | None = None) -> tuple[Part, ...]:
        """The network's parts in order; `widths`, which may be arrays of them, replace its own."""
        return tuple(self._parts(list(self.widths if widths is None else widths)))

    def _parts(self, widths: list[Any]) -> Iterator[Part]:
        drawn, kept = self.drawn, self.drawn.places - self.halvings
        """So many places that halve the image in the published network keep its size here."""
        stem = widths[0] if drawn.stem is None else widths.pop(0)
        stride = 1 if kept > 0 else 2
        kernel = drawn.kernel if stride == 2 else 3
        name, channels, size = f"conv{kernel}", stem, -(-self.image_size // stride)
        steps: list[Step] = [
            ConvBnAct(name, (INPUT,), kernel, self.channels_in, stem, size, stride, activation=drawn.activation)
        ]
        if drawn.pool and kept < 2:
            size = -(-size // 2)
            steps.append(MaxPool("pool", (name,), stem, size))
        yield Part("stem", "stem", 0, self.channels_in, self.image_size, tuple(steps), (steps[-1].name,))
        kept -= 1 + drawn.pool
        number = 0
        same = drawn.stem is None
        """Whether as many channels enter as leave, by the drawing and not by chance."""
        for index, (stage, width) in enumerate(zip(drawn.stages, widths, strict=False)):
            for place, unit in enumerate(stage.units):
                halves = stage.halves and place == 0
                stride = 2 if halves and kept <= 0 else 1
                kept -= halves
                number += 1
                out = -(-size // stride)
                shortcut = same or place > 0
                leaving, leaves = self._unit(unit, channels, width, size, out, stride, shortcut)
                yield Part(f"block{number}", "block", index, channels, size, leaving, leaves)
                channels, size = width, out
            same = False
        mean = Mean("mean", (INPUT,), channels, size)
        head: list[Step] = [mean]
        if drawn.dense is not None:
            head.append(Dense("dense", (mean.name,), channels, widths[-1]))
            channels = widths[-1]
        head.append(Classify("classifier", (head[-1].name,), channels, self.classes))
        yield Part("head", "head", len(drawn.stages) - 1, mean.channels, size, tuple(head), (head[-1].name,))

    def _unit(
        self, unit: Unit, entering: Any, width: Any, before: int, size: int, stride: int, same: bool
    ) -> tuple[tuple[Step, ...], tuple[str, ...]]:
        """The steps of a unit, which `before`² pixels enter and `size`² leave, and its leaves.

        `same` says whether as many channels enter as leave.
        """
        kernel, activation = unit.kernel, unit.activation

        def pointwise(name: str, read: str, channels_in: Any, channels: Any, act: Activation, pixels: int) -> ConvBnAct:
            return ConvBnAct(name, (read,), 1, channels_in, channels, pixels, activation=act)

        def depthwise(name: str, read: str, channels: Any, act: Activation) -> ConvBnAct:
            return ConvBnAct(name, (read,), kernel, channels, channels, size, stride, channels, act)

        match unit.kind:
            case "cn":
                return (pointwise("conv1", INPUT, entering, width, activation, size),), ("conv1",)
            case "bb":
                steps: list[Step] = [
                    ConvBnAct("conv3 1", (INPUT,), 3, entering, width, size, stride),
                    ConvBnAct("conv3 2", ("conv3 1",), 3, width, width, size, activation="none"),
                ]
                beside = INPUT
                if not same or stride > 1:
                    beside = "shortcut"
                    steps.append(ConvBnAct(beside, (INPUT,), 1, entering, width, size, stride, activation="none"))
                steps.append(Activate("sum", ("conv3 2", beside), width, size))
                return tuple(steps), ("sum",)
            case "su":
                half = width // 2
                if same and stride == 1:
                    return (
                        Half("first", (INPUT,), 0, half),
                        Half("second", (INPUT,), 1, half),
                        pointwise("expand", "second", half, half, activation, size),
                        depthwise("depthwise", "expand", half, "none"),
                        pointwise("project", "depthwise", half, half, activation, size),
                        Shuffle("shuffle", ("first", "project"), width, size),
                    ), ("shuffle",)
                return (
                    depthwise("depthwise 1", INPUT, entering, "none"),
                    pointwise("project 1", "depthwise 1", entering, half, activation, size),
                    pointwise("expand", INPUT, entering, half, activation, before),
                    depthwise("depthwise 2", "expand", half, "none"),
                    pointwise("project 2", "depthwise 2", half, half, activation, size),
                    Shuffle("shuffle", ("project 1", "project 2"), width, size),
                ), ("shuffle",)
        inner, read, steps = entering, INPUT, []
        if unit.kind == "ir":
            inner, read = divisible(entering * unit.expansion, self.divisor), "expand"
            steps.append(pointwise(read, INPUT, entering, inner, activation, before))
        steps.append(depthwise("depthwise", read, inner, activation))
        if unit.squeeze:
            squeezed = divisible(inner * 0.25, self.divisor)
            steps.append(Gate("gate", ("depthwise",), inner, squeezed, size))
        last: Activation = activation if unit.kind == "dsa" else "none"
        steps.append(pointwise("project", steps[-1].name, inner, width, last, size))
        residual = same and stride == 1 and unit.kind != "dsa"
        return tuple(steps), ("project", INPUT) if residual else ("project",)

    def to_dict(self) -> dict[str, Any]:
        """The network as JSON values, with its costs for the reader's convenience."""
        stated = {name: getattr(self, name) for name in ("multiply_adds", "parameters")}
        return {"version": VERSION, "reference": asdict(self) | {"widths": list(self.widths)}} | stated

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The network that `to_dict` described.

        Raises `InvalidValue` where a part is missing or wrong, also where the stated costs are not the true ones.
        """
        if not isinstance(values, dict) or values.get("version") != VERSION:
            values = values if isinstance(values, dict) else {}
            raise InvalidValue("version", values.get("version"), "unknown version", str(VERSION))
        told, known = values.get("reference"), {field.name for field in fields(cls)}
        if not isinstance(told, dict) or set(told) != known or not isinstance(told["widths"], list):
            raise InvalidValue("reference", told, "a field is missing, unknown or of the wrong kind", ", ".join(known))
        reference = cls(**told | {"widths": tuple(told["widths"])})
        for name in ("multiply_adds", "parameters"):
            if values.get(name) != getattr(reference, name):
                raise InvalidValue(name, values.get(name), "not what the network costs", str(getattr(reference, name)))
        return reference
