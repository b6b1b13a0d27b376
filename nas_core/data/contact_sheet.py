"""A picture of what a network will see of a dataset."""

import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nas_core.data.decoding import Bytes

MOST_ROWS = 10
MOST_IMAGES = 10
THUMBNAIL_COLUMNS = 8
_CELL, _GAP, _TEXT = 64, 4, 200

Row = tuple[str, str, Sequence[Bytes]]
"""A class, its part, and images (channels, size, size) of it."""


def contact_sheet(title: str, rows: Iterable[Row], more: str = "") -> bytes:
    """A PNG with a row per class and part, small images enlarged without smoothing; `more` says what is not shown."""
    rows = list(rows)
    cell = max([_CELL, *(image.shape[1] for _, _, images in rows for image in images)])
    cell = min(cell, 128)
    width = _TEXT + MOST_IMAGES * (cell + _GAP)
    height = 28 + len(rows) * (cell + _GAP) + (28 if more else 0)
    sheet = Image.new("RGB", (width, height), "white")
    draw, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(14), ImageFont.load_default(12)
    draw.text((_GAP, 6), _fitting(draw, title, large, width), fill="black", font=large)
    for number, (name, part, images) in enumerate(rows):
        top = 28 + number * (cell + _GAP)
        draw.text((_GAP, top + 8), _fitting(draw, name, large, _TEXT - 2 * _GAP), fill="black", font=large)
        draw.text((_GAP, top + 30), part, fill="#555555", font=small)
        for column, image in enumerate(images):
            picture = _picture(image)
            enlarged = picture.width < cell
            way = Image.Resampling.NEAREST if enlarged else Image.Resampling.BILINEAR
            sheet.paste(picture.resize((cell, cell), way), (_TEXT + column * (cell + _GAP), top))
    if more:
        draw.text((_GAP, height - 22), _fitting(draw, more, small, width), fill="#555555", font=small)
    return _written(sheet)


def thumbnails(images: Sequence[Bytes]) -> bytes:
    """A PNG of `images` (channels, size, size) without text, at most 64 pixels wide, `THUMBNAIL_COLUMNS` in a row."""
    cell = min(_CELL, images[0].shape[1])
    columns, rows = min(len(images), THUMBNAIL_COLUMNS), -(-len(images) // THUMBNAIL_COLUMNS)
    sheet = Image.new("L" if len(images[0]) == 1 else "RGB", (columns * cell, rows * cell), "white")
    for number, image in enumerate(images):
        row, column = divmod(number, THUMBNAIL_COLUMNS)
        sheet.paste(_picture(image).resize((cell, cell), Image.Resampling.BILINEAR), (column * cell, row * cell))
    return _written(sheet)


def _picture(image: Bytes) -> Image.Image:
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def _written(sheet: Image.Image) -> bytes:
    written = io.BytesIO()
    sheet.save(written, "PNG")
    return written.getvalue()


def _fitting(
    draw: ImageDraw.ImageDraw, text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", most: int
) -> str:
    """As much of the text as fits into so many pixels, on one line."""
    text = " ".join(text.split())[:200]
    while draw.textlength(text, font) > most and len(text) > 1:
        text = text[:-2] + "…"
    return text
