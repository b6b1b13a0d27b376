"""What becomes of an image on its way into a network that is given out."""

import json
from dataclasses import dataclass
from typing import Self

from nas_core.data.decoding import Decoding
from nas_core.data.loading import Data
from nas_core.spec import SearchSpec
from nas_core.train.evaluation import names_of


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
            "resize": resizing(self.decoding),
            "orientation": "as the EXIF tag says",
            "background": self.decoding.background,
            "decoding": json.dumps(self.decoding.to_dict()),
        }


def resizing(given: Decoding) -> str:
    """How an image becomes a square, in words (`nas_core.data.decoding.decode`)."""
    until = "it covers the square" if given.resize is None else f"its shorter side has {given.resize} pixels"
    return f"scaled until {until} (bilinear, antialiased), then cropped at the centre"
