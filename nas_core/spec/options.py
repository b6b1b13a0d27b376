"""What a user may decide about the way in and the way out: how images are read and how networks are written."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from PIL import ImageColor

from nas_core.errors import InvalidValue, refuse_unknown


@dataclass(frozen=True)
class DataOptions:
    """How the images of a folder are read, where it does not follow from the folder itself.

    `train`, `test` and `validation` are folders below the dataset, each with one folder of images per class ("." is
    the dataset itself). `ignore` are patterns such as "*.gif" or "old": what they match, as a path relative to the
    dataset or as any part of it, is left out. `channels` is 1 (grey) or 3. Transparent pixels show `background`, any
    opaque colour that `PIL.ImageColor` knows. Raises `InvalidValue` where a field cannot be used.
    """

    train: str | None = None
    test: str | None = None
    validation: str | None = None
    ignore: tuple[str, ...] = ()
    channels: int | None = None
    background: str = "white"

    def __post_init__(self) -> None:
        for name in ("train", "test", "validation"):
            folder = getattr(self, name)
            if folder is None:
                continue
            accepted = 'the path of a folder below the dataset, such as "images/train", or "." for the dataset itself'
            if type(folder) is not str or "\0" in folder or os.path.isabs(folder):
                raise InvalidValue(f"data.{name}", folder, "not a path below the dataset", accepted)
            path = os.path.normpath(folder or ".")
            if path.split(os.sep)[0] == "..":
                raise InvalidValue(f"data.{name}", folder, "outside the dataset", accepted)
            object.__setattr__(self, name, path)
        if type(self.ignore) not in (tuple, list) or any(type(one) is not str or not one for one in self.ignore):
            raise InvalidValue(
                "data.ignore", self.ignore, "not a list of patterns", 'patterns such as "*.gif" or "old"'
            )
        object.__setattr__(self, "ignore", tuple(self.ignore))
        if self.channels is not None and (type(self.channels) is not int or self.channels not in (1, 3)):
            raise InvalidValue("data.channels", self.channels, "not a number of channels", "1 (grey) or 3 (colour)")
        try:
            opaque = len(ImageColor.getrgb(self.background)) == 3
        except (ValueError, TypeError, AttributeError):
            opaque = False
        if not opaque:
            accepted = 'an opaque colour such as "white" or "#808080"'
            raise InvalidValue("data.background", self.background, "not a colour", accepted)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values."""
        return asdict(self) | {"ignore": list(self.ignore)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The options that a user gives or `to_dict` described.

        Raises `InvalidValue` for an unknown option or one that cannot be used.
        """
        refuse_unknown("data", values, [field.name for field in fields(cls)], "option")
        return cls(**values)


NO_OPTIONS = DataOptions()

OPSETS = {15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""The ONNX operator sets that networks can be written in, each with the oldest IR version (file format) it allows."""
NEWEST_IR = 11


@dataclass(frozen=True)
class ExportOptions:
    """How networks are written as ONNX: with the operator set `opset` in the file format `ir`, where None is the oldest
    that the operator set allows.

    Opset 17 and IR 8, the default, are what runtimes since 2022 read (onnxruntime 1.13, TensorRT 8.6). With
    `normalise` the file does the normalisation itself, and takes bytes (0 … 255) as floats; without, it takes
    normalised images. Raises `InvalidValue` where a field cannot be used.
    """

    opset: int = 17
    ir: int | None = None
    normalise: bool = True

    def __post_init__(self) -> None:
        if type(self.opset) is not int or self.opset not in OPSETS:
            accepted = f"an integer from {min(OPSETS)} to {max(OPSETS)}"
            raise InvalidValue("export.opset", self.opset, "not an operator set that networks are written in", accepted)
        oldest = OPSETS[self.opset]
        if self.ir is not None and (type(self.ir) is not int or not oldest <= self.ir <= NEWEST_IR):
            reason = f"not an IR version that opset {self.opset} can be written in"
            raise InvalidValue("export.ir", self.ir, reason, f"an integer from {oldest} to {NEWEST_IR}")
        if type(self.normalise) is not bool:
            raise InvalidValue("export.normalise", self.normalise, "not a truth value", "true or false")

    @property
    def ir_version(self) -> int:
        """The version of the file format."""
        return OPSETS[self.opset] if self.ir is None else self.ir

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The options that a user gives. Raises `InvalidValue` for an unknown option or one that cannot be used."""
        refuse_unknown("export", values, [field.name for field in fields(cls)], "option")
        return cls(**values)


NO_EXPORT_OPTIONS = ExportOptions()
