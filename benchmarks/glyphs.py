"""A made dataset of glyphs that is hard enough for architectures to differ.

Each class is a fixed glyph of a few random strokes. An image shows it jittered, turned, sheared, scaled and moved, with
strokes of random weight, a stray stroke and noise. Nothing is downloaded and nothing is random: the same numbers give
the same images on every machine, up to rounding.
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from nas_core.seeds import generator

CLASSES, SIZE, STROKES = 20, 16, 4


def glyphs(count: int, part: str) -> tuple[Tensor, Tensor]:
    """`count` images of a part ("train", "test"): bytes (count, SIZE, SIZE) and labels (count,), classes in turn."""
    shapes = torch.rand(CLASSES, STROKES, 2, 2, generator=generator("glyphs")) * 1.5 - 0.75
    random = generator("glyphs", part)
    labels = torch.arange(count) % CLASSES
    ends = shapes[labels] + 0.04 * torch.randn(count, STROKES, 2, 2, generator=random)
    angle, shear = 0.2 * torch.randn(count, generator=random), 0.15 * torch.randn(count, generator=random)
    scale = 0.85 + 0.15 * torch.randn(count, generator=random).clamp(-2, 2)
    turn = torch.stack(
        [torch.stack([angle.cos(), shear - angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], 1
    )
    ends = torch.einsum("nij,nspj->nspi", turn * scale.view(-1, 1, 1), ends)
    ends = ends + 0.12 * torch.randn(count, 1, 1, 2, generator=random)
    stray = torch.rand(count, 1, 2, 2, generator=random) * 2 - 1
    ink = _draw(torch.cat([ends, stray], 1), 0.05 + 0.05 * torch.rand(count, 1, 1, 1, generator=random))
    ink = ink * (0.6 + 0.4 * torch.rand(count, 1, 1, generator=random))
    noisy = ink + 0.1 * torch.randn(ink.shape, generator=random)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8), labels


def _draw(ends: Tensor, weight: Tensor) -> Tensor:
    """Strokes from end to end (n, strokes, 2, 2) of a `weight` in half image sides → ink (n, SIZE, SIZE) in 0 … 1."""
    axis = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(1, 1, -1, 2)
    start, along = ends[:, :, :1], ends[:, :, 1:] - ends[:, :, :1]
    where = (((points - start) * along).sum(-1) / (along * along).sum(-1).clamp(min=1e-6)).clamp(0, 1)
    distance = (points - start - where.unsqueeze(-1) * along).norm(dim=-1)
    ink: Tensor = (1.5 - distance / weight[:, :, 0]).clamp(0, 1).amax(1)
    return ink.view(-1, SIZE, SIZE)


def write(folder: Path, train: int = 4000, test: int = 4000) -> Path:
    """Write the dataset as an image folder with `train` and `test` images, unless it is there; returns `folder`."""
    if (folder / "done").exists():
        return folder
    for part, count in (("train", train), ("test", test)):
        images, labels = glyphs(count, part)
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            file = folder / part / f"{label:02d}" / f"{number:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.numpy()).save(file)
    (folder / "done").touch()
    return folder
