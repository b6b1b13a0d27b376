"""Files in every mode that Pillow writes become the pixels that a person sees."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from nas_core.data import decoding
from nas_core.data.decoding import Bytes, Damaged, Decoding, decode, natural
from tests.unit.nas_core.images import bomb, png, tiff

SIZE = 16
GREY = np.arange(256, dtype=np.uint8).reshape(SIZE, SIZE)
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], 2)
ALPHA = GREY[::-1].copy()


def seen(file: Path, channels: Any = 3, **given: Any) -> Bytes:
    """The pixels (16, 16, 3) or (16, 16) as decoded."""
    pixels = decode(file, Decoding(channels, SIZE, **given))
    assert pixels.shape == (channels, SIZE, SIZE) and pixels.dtype == np.uint8
    return pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)


def composited(pixels: Any, alpha: Any, background: tuple[int, int, int] = (255, 255, 255)) -> Any:
    front = np.broadcast_to(pixels.reshape(SIZE, SIZE, -1), (SIZE, SIZE, 3)).astype(float)
    share = np.asarray(alpha, dtype=float)[:, :, None] / 255
    return front * share + np.array(background) * (1 - share)


def close(found: Bytes, expected: Any, by: float = 1.0) -> None:
    expected = np.broadcast_to(np.asarray(expected, dtype=float).reshape(SIZE, SIZE, -1), (SIZE, SIZE, 3))
    assert np.abs(found.astype(float) - expected).max() <= by


LOSSLESS = {
    "1": "BMP DIB ICO IM MSP PCX PNG PPM TGA TIFF XBM",
    "L": "BMP DDS DIB GIF ICO IM JPEG2000 PCX PNG PPM SGI TGA TIFF",
    "P": "BMP DIB GIF ICO IM PCX PNG TGA TIFF",
    "LA": "DDS ICO IM JPEG2000 PNG TGA TIFF",
    "RGB": "AVIF BMP DDS DIB ICO IM JPEG2000 PCX PNG PPM QOI SGI TGA TIFF WEBP",
    "RGBA": "AVIF DDS ICO IM JPEG2000 PNG QOI SGI TGA TIFF WEBP",
    "RGBX": "IM TIFF",
    "CMYK": "IM JPEG2000 TIFF",
    "YCbCr": "IM TIFF",
}
"""What Pillow writes without a loss, for each mode."""
OPTIONS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


def hand_made(mode: str) -> tuple[Image.Image, Any]:
    """An image of the mode and what a person sees of it on white."""
    if mode == "1":
        return Image.fromarray(GREY > 100).convert("1"), np.where(GREY > 100, 255, 0)
    if mode == "L":
        return Image.fromarray(GREY), GREY
    if mode == "LA":
        return Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), composited(GREY, ALPHA)
    if mode == "RGBA":
        return Image.fromarray(np.dstack([COLOUR, ALPHA])), composited(COLOUR, ALPHA)
    if mode == "P":
        image = Image.fromarray(GREY).convert("P")
        image.putpalette([*range(256)] * 3)
        return image, np.asarray(image.convert("RGB"))
    colours = Image.fromarray(COLOUR).convert(mode)
    return colours, np.asarray(colours.convert("RGB"))


@pytest.mark.parametrize(
    ("mode", "format"), [(mode, one) for mode, formats in LOSSLESS.items() for one in formats.split()]
)
def test_every_mode_in_every_format_looks_right(tmp_path: Path, mode: str, format: str) -> None:  # fmt: skip
    image, expected = hand_made(mode)
    file = tmp_path / ("image.tga" if format == "TGA" else "image")  # of the others the content tells
    image.save(file, format, **OPTIONS.get(format, {}))
    tolerance = 6 if format == "AVIF" else 3 if mode == "CMYK" and format == "JPEG2000" else 1
    if mode == "RGB" and format in ("JPEG2000",):
        tolerance = 2
    close(seen(file), expected, tolerance)
    grey = np.asarray(Image.fromarray(np.asarray(expected).round().astype(np.uint8)).convert("L"), dtype=float)
    assert np.abs(seen(file, channels=1) - grey.reshape(SIZE, SIZE)).max() <= tolerance + 1


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
def test_jpeg_is_near(tmp_path: Path, mode: str) -> None:
    smooth = Image.fromarray(np.stack([GREY // 2 + GREY.T // 2] * 3, 2)).convert(mode)
    smooth.save(tmp_path / "photo.jpg", quality=100, subsampling=0)
    close(seen(tmp_path / "photo.jpg"), np.asarray(smooth.convert("RGB")), 4)


def test_lab_looks_right(tmp_path: Path) -> None:
    image = Image.merge("LAB", [Image.fromarray(GREY), *[Image.new("L", (SIZE, SIZE), 128)] * 2])
    image.save(tmp_path / "one.tif")
    found = seen(tmp_path / "one.tif")
    assert (np.ptp(found, axis=2) <= 3).all() and (np.diff(found[:, 0, 0].astype(int)) > 0).all()
    assert found[0, 0].max() <= 1 and found[-1, -1].min() >= 254


def test_a_palette_with_opacity_looks_right(tmp_path: Path) -> None:
    image = Image.merge("PA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])
    image.putpalette([255 - index for index in range(256) for _ in range(3)])
    image.save(tmp_path / "one.tif")
    close(seen(tmp_path / "one.tif"), composited(255 - GREY, ALPHA))


def test_colours_that_are_multiplied_by_their_opacity_look_right(tmp_path: Path) -> None:
    multiplied = (COLOUR * (ALPHA[:, :, None] / 255)).round().astype(np.uint8)
    tiff(tmp_path / "one.tif", np.dstack([multiplied, ALPHA]), (338, 3, 1))
    close(seen(tmp_path / "one.tif"), composited(COLOUR, ALPHA), 2)


@pytest.mark.parametrize("background", ["white", "#204060"])
@pytest.mark.parametrize(
    "name", ["LA", "RGBA", "P bytes", "P index", "L key", "1 key", "RGB key", "GIF", "L;2 key", "L;4 key"]
)
def test_transparency_shows_the_background(tmp_path: Path, name: str, background: str) -> None:  # fmt: skip
    colour = (255, 255, 255) if background == "white" else (0x20, 0x40, 0x60)
    file = tmp_path / "icon.png"
    if name in ("LA", "RGBA"):
        image, _ = hand_made(name)
        image.save(file)
        expected = composited(GREY if name == "LA" else COLOUR, ALPHA, colour)
    elif name == "P bytes":
        image, plain = hand_made("P")
        image.save(file, transparency=bytes(ALPHA.reshape(-1)))
        expected = composited(plain, bytes_of(ALPHA)[GREY], colour)
    elif name in ("P index", "GIF"):
        image, plain = hand_made("P")
        file = file.with_suffix(".gif") if name == "GIF" else file
        image.save(file, transparency=7)
        expected = composited(plain, np.where(GREY == 7, 0, 255), colour)
    elif name == "L key":
        Image.fromarray(GREY).save(file, transparency=7)
        expected = composited(GREY, np.where(GREY == 7, 0, 255), colour)
    elif name == "1 key":
        image, plain = hand_made("1")
        image.save(file, transparency=1)
        expected = composited(plain, np.where(plain == 255, 0, 255), colour)
    elif name == "RGB key":
        Image.fromarray(COLOUR).save(file, transparency=tuple(COLOUR[2, 3].tolist()))
        expected = composited(COLOUR, np.where((COLOUR[2, 3] == COLOUR).all(2), 0, 255), colour)
    else:
        bits = int(name[2])
        steps = GREY >> (8 - bits)
        png(file, steps, bits, 0, key=struct.pack(">H", 2))
        expected = composited(steps * (255 // (2**bits - 1)), np.where(steps == 2, 0, 255), colour)
    close(seen(file, background=background), expected)


def bytes_of(values: Any) -> Any:
    return np.asarray(values).reshape(-1)


RAMP = np.arange(256).reshape(SIZE, SIZE)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "big TIFF", "ICO", "JPEG2000", "IM", "PPM"])
def test_deep_greys_keep_their_shades(tmp_path: Path, format: str, bits: int) -> None:
    deep = (RAMP * (2**bits - 1) / 255).round().astype(np.uint16)
    image = Image.fromarray(deep.astype(">u2") if format == "big TIFF" else deep)
    image.save(tmp_path / "deep", format.removeprefix("big "))
    low_high = natural("integers", (0, 2**bits - 1))
    assert low_high == (0, 2**bits - 1)
    close(seen(tmp_path / "deep", integers=low_high), RAMP)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_deep_png_keeps_its_shades_whatever_it_says_of_them(
    tmp_path: Path, channels: int, colour_type: int, bits: int
) -> None:
    deep = (np.stack([RAMP, RAMP.T, 255 - RAMP], 2) * ((2**bits - 1) / 255)).round()
    pixels = deep[:, :, : 1 if channels < 3 else 3]
    opaque = np.where(RAMP % 3, 65535, 20000)[:, :, None]
    values = np.dstack([pixels, opaque]) if channels % 2 == 0 else pixels
    png(tmp_path / "deep.png", values, 16, colour_type, sbit=bytes([min(bits, 12)] * channels))
    expected = pixels * (255 / (2**bits - 1))
    if channels % 2 == 0:
        expected = composited(expected, opaque[:, :, 0] / 257)
    close(seen(tmp_path / "deep.png", integers=(0, 2**bits - 1)), expected)


@pytest.mark.parametrize("colour_type", [0, 2])
def test_a_deep_value_can_be_transparent(tmp_path: Path, colour_type: int) -> None:
    deep = (np.stack([RAMP, RAMP.T, 255 - RAMP], 2) * 257)[:, :, : 3 if colour_type else 1]
    key = struct.pack(f">{deep.shape[2]}H", *deep[3, 4].tolist())
    png(tmp_path / "deep.png", deep, 16, colour_type, key=key)
    hidden = np.where((deep == deep[3, 4]).all(2), 0, 255)
    close(seen(tmp_path / "deep.png"), composited(deep / 257, hidden))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_deep_colours_of_tiff_keep_their_shades(tmp_path: Path, bits: int, order: str) -> None:
    colours = np.stack([RAMP, RAMP.T, 255 - RAMP], 2)
    tiff(tmp_path / "deep.tif", (colours * ((2**bits - 1) / 255)).round().astype(np.uint16), order=order)
    close(seen(tmp_path / "deep.tif", integers=(0, 2**bits - 1)), colours)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "low", "high", "sample_format"),
    [("u2", 0, 4095, 1), ("i2", -500, 500, 2), ("i4", -100_000, 100_000, 2), ("f4", 0.0, 1.0, 3), ("f4", -7.5, 1e6, 3)],
)
def test_numbers_of_any_kind_are_scaled_from_their_range(
    tmp_path: Path, dtype: str, low: float, high: float, sample_format: int, order: str
) -> None:
    values = (low + RAMP * ((high - low) / 255)).astype(dtype)
    tiff(tmp_path / "deep.tif", values, order=order, sample_format=sample_format)
    close(seen(tmp_path / "deep.tif", **{"floats" if dtype == "f4" else "integers": (low, high)}), RAMP, 1)


def test_large_unsigned_numbers_do_not_turn_negative(tmp_path: Path) -> None:
    tiff(tmp_path / "deep.tif", (RAMP * (4_000_000_000 / 255)).astype(np.uint32))
    close(seen(tmp_path / "deep.tif", integers=(0, 4e9)), RAMP)


@pytest.mark.parametrize("values", [RAMP.astype(np.uint8), (RAMP * 257).astype(np.uint16)])
def test_white_may_be_zero(tmp_path: Path, values: Any) -> None:
    tiff(tmp_path / "negative.tif", values, (262, 3, 0))
    close(seen(tmp_path / "negative.tif"), 255 - RAMP)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_damage(tmp_path: Path, value: float) -> None:
    values = RAMP.astype(np.float32)
    values[3, 3] = value
    Image.fromarray(values).save(tmp_path / "nan.tif")
    with pytest.raises(Damaged, match="not finite"):
        seen(tmp_path / "nan.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "deep PNG", "transparent PNG"])
def test_images_are_turned_upright(tmp_path: Path, format: str, orientation: int) -> None:
    flat = np.zeros((SIZE, SIZE), dtype=np.uint8)
    flat[:8, :8], flat[:8, 8:], flat[8:, :8] = 250, 160, 80
    image = Image.fromarray((flat.astype(np.uint16) * 257) if format == "deep PNG" else np.dstack([flat] * 3))
    if format == "transparent PNG":
        image.putalpha(Image.new("L", image.size, 255))
    exif = Image.Exif()
    exif[274] = orientation
    given: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}
    image.save(tmp_path / "photo", format.split()[-1], exif=exif, **given.get(format, {}))
    plain = Image.fromarray(flat)
    plain.getexif()[274] = orientation
    close(seen(tmp_path / "photo"), np.asarray(ImageOps.exif_transpose(plain)), 12)


def test_the_first_of_several_images_counts(tmp_path: Path) -> None:
    first, second = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
    for format in ("GIF", "PNG", "TIFF", "WEBP"):
        first.save(tmp_path / "film", format, save_all=True, append_images=[second], **OPTIONS.get(format, {}))
        expected = np.asarray(first.convert("RGB"))
        if format == "GIF":
            with Image.open(tmp_path / "film") as film:
                expected = np.asarray(film.convert("RGB"))
        close(seen(tmp_path / "film"), expected)


def test_what_is_no_image_says_why(tmp_path: Path) -> None:
    file = tmp_path / "some.png"
    for content, reason in (
        (b"", "empty file"),
        (b"just text", "not an image: .png"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "not an image: .png"),
    ):
        file.write_bytes(content)
        with pytest.raises(Damaged, match=f"^{reason}$"):
            seen(file)
    bomb(file)
    with pytest.raises(Damaged, match="decompression bomb: 14,000×14,000 pixels, at most 178,956,970"):
        seen(file)
    for format in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file, format)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(Damaged, match=r"^(truncated|damaged) \w+|not an image: .png"):
            seen(file)


def test_only_what_a_decoder_raises_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "some.png"
    with pytest.raises(FileNotFoundError):
        seen(file)
    Image.fromarray(COLOUR).save(file)

    def wrong(*given: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(decoding, "upright", wrong)
    with pytest.raises(TypeError, match="a bug"):
        seen(file)
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(Damaged, match="truncated PNG"):
        seen(file)


def test_a_range_that_is_damaged_is_no_range(tmp_path: Path) -> None:
    values = np.arange(16, dtype=np.float32).reshape(4, 4)
    for high in (float("nan"), float("inf")):
        (number,) = struct.unpack("<I", struct.pack("<f", high))
        tiff(tmp_path / "a.tif", values, (341, 11, number), sample_format=3)
        with decoding.opened(tmp_path / "a.tif") as image:
            assert decoding.stated_range(image) is None


@pytest.mark.timeout(20)
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(Damaged, match="not a regular file"):
        seen(tmp_path / "pipe.png")


@pytest.mark.parametrize(
    ("kind", "low_high", "expected"),
    [
        ("integers", (0, 255), (0, 255)),
        ("integers", (3, 900), (0, 1023)),
        ("integers", (0, 4000), (0, 4095)),
        ("integers", (10, 65535), (0, 65535)),
        ("integers", (29_500, 30_500), (29_500, 30_500)),
        ("integers", (-5, 100_000), (-5, 100_000)),
        ("floats", (0.0, 0.99), (0.0, 1.0)),
        ("floats", (-0.9, 0.8), (-1.0, 1.0)),
        ("floats", (0.0, 250.0), (0.0, 255.0)),
        ("floats", (0.0, 1e-3), (0.0, 1e-3)),
    ],
)
def test_the_range_is_a_usual_one_unless_that_would_leave_few_shades(kind: Any, low_high: Any, expected: Any) -> None:
    assert natural(kind, low_high) == expected


def test_a_decoding_can_be_stored() -> None:
    one = Decoding(1, 32, "#102030", (0.0, 4095.0), (-1.0, 1.0))
    assert Decoding.from_dict(one.to_dict()) == one
