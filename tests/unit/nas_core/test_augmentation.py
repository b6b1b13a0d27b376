"""Augmentation by its names, and evaluation as torchvision's references crop it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from nas_core.data.augmentation import Augment, Vary
from nas_core.data.decoding import Bytes, Decoding, decode
from nas_core.data.images import HostImages
from nas_core.errors import InvalidValue
from nas_core.seeds import generator
from nas_core.spec import Settings
from nas_core.spec.augmentation import resize_of
from nas_core.train.retrain import Retraining
from tests.unit.nas_core.networks import tiny_data, tiny_spec


def photo(width: int, height: int, channels: int = 3) -> Image.Image:
    """A smooth picture in which every place looks different."""
    rows, columns = np.mgrid[0:height, 0:width]
    grain = max(1.0, width / 500)
    waves = [127 + 120 * np.sin((rows / (9 + one) + columns / (23 - 3 * one)) / grain + one) for one in range(channels)]
    pixels = np.stack(waves, -1).astype(np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


@pytest.mark.parametrize(
    ("width", "height"), [(500, 375), (375, 500), (67, 64), (64, 300), (301, 257), (2000, 1500), (1501, 1999)]
)
@pytest.mark.parametrize("size", [224, 64])
def test_evaluation_is_torchvisions(tmp_path: Path, width: int, height: int, size: int) -> None:
    file = tmp_path / ("photo.jpg" if width > 1000 else "photo.png")
    photo(width, height).save(file)
    resize = resize_of("resized", size)
    assert resize == {224: 256, 64: 73}[size]
    seen = decode(file, Decoding(3, size, resize=resize)).astype(int)
    reference = v2.Compose([v2.Resize(resize), v2.CenterCrop(size), v2.PILToTensor()])
    wanted = reference(Image.open(file)).numpy().astype(int)
    off = np.abs(seen - wanted)
    # Few bytes round otherwise; of a JPEG that is scaled down by its decoder, half of them do.
    assert off.max() <= 2 and off.mean() < (0.5 if file.suffix == ".jpg" else 0.02)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_the_part_that_is_chosen_is_one_of_the_upright_image(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    photo(901, 603).save(tmp_path / f"photo.{kind}", exif=exif)
    sizes = []

    def choose(width: int, height: int) -> tuple[float, float, float, float]:
        sizes.append((width, height))
        return 20, 10, 420, 310

    seen = decode(tmp_path / f"photo.{kind}", Decoding(3, 32), choose).astype(int)
    with Image.open(tmp_path / f"photo.{kind}") as image:
        upright = ImageOps.exif_transpose(image)
    assert sizes == [upright.size]
    wanted = np.asarray(upright.resize((32, 32), Image.Resampling.BILINEAR, (20, 10, 420, 310))).astype(int)
    assert np.abs(seen - wanted.transpose(2, 0, 1)).max() <= 2


def varied(vary: Vary, places: range, channels: int = 3) -> list[Bytes]:
    images = HostImages(torch.from_numpy(np.asarray(photo(40, 40, channels)).reshape(1, 40, 40, channels)
                                         .transpose(0, 3, 1, 2).copy()), Decoding(channels, 24, resize=27))  # fmt: skip
    return [vary(lambda choose: images.read(0, choose), (0, "a", place)) for place in places]


VARIED = {
    "resized crop": Vary(0.08),
    "resized crop and flip": Vary(0.9, flip=True),
    "colour jitter": Vary(0.0, 0.4),
    "RandAugment": Vary(0.0, 0.0, "rand_augment"),
    "TrivialAugment": Vary(0.0, 0.0, "trivial_augment"),
    "all": Vary(0.3, 0.2, "rand_augment", 3, 12),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("vary", VARIED.values(), ids=VARIED)
def test_what_is_drawn_for_an_image_changes_it_and_follows_from_its_place(vary: Vary, channels: int) -> None:
    state = torch.get_rng_state()
    first = varied(vary, range(8), channels)
    torch.manual_seed(1)
    assert all(map(np.array_equal, first, varied(vary, range(8), channels)))
    [plain] = varied(Vary(), range(1), channels)
    assert all(one.shape == plain.shape and one.dtype == np.uint8 for one in first)
    assert sum(not np.array_equal(one, plain) for one in first) >= 4
    assert len({one.tobytes() for one in first}) >= 4
    torch.set_rng_state(state)


def test_erasing_takes_rectangles_out_of_some_images() -> None:
    images = torch.ones(400, 1, 20, 30)
    augment = Augment(0, False, erasing=0.5)
    whole = augment(images, generator("x"), 400, slice(0, 400))
    assert torch.equal(whole, augment(images, generator("x"), 400, slice(0, 400)))
    assert torch.equal(whole[100:200], augment(images[100:200], generator("x"), 400, slice(100, 200)))
    gone = (whole == 0)[:, 0]
    erased = gone.flatten(1).any(1)
    assert 150 < erased.sum() < 250
    for one in gone[erased]:
        area = one.any(1).sum() * one.any(0).sum()
        assert one.sum() == area and 0.01 * 600 < area < 0.36 * 600


@pytest.mark.parametrize("ways", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}], ids=str)
def test_every_worker_mixes_as_one_would(ways: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_data()
    augment = Augment(1, True, 2, **ways)

    def batch(part: slice | None = None, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        if part is not None:
            monkeypatch.setattr("nas_core.parallel.share", lambda size: part)
        found = data.batch(data.training, step, 12, 0, "a", augment)
        monkeypatch.undo()
        return found

    plain, labels = data.batch(data.training, 0, 12, 0, "a", Augment(1, True, 2))
    images, shares = batch()
    assert images.shape == plain.shape and shares.shape == (12, 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(12))
    assert not torch.equal(images, plain)
    # A share of the image's own label, and the rest of that before it.
    before = labels.roll(1)
    own = shares[torch.arange(12), labels]
    assert ((shares > 0).sum(1) <= 2).all() and (own[labels == before] == 1).all()
    rest = shares[torch.arange(12), before][labels != before]
    torch.testing.assert_close(own[labels != before] + rest, torch.ones(len(rest)))
    parts = [batch(part) for part in (slice(0, 5), slice(5, 12))]
    assert torch.equal(images, torch.cat([one for one, _ in parts]))
    assert torch.equal(shares, torch.cat([one for _, one in parts]))
    assert not torch.equal(shares, batch(step=1)[1])


def test_strong_augmentation_is_for_retraining_unless_it_is_always() -> None:
    strong: dict[str, Any] = {"colour_jitter": 0.4, "policy": "rand_augment", "random_erasing": 0.2, "mixup": 0.1}
    settings = Settings(**strong, cutmix=1.0, crop="resized")
    search, retraining = (Augment.of(settings, retraining) for retraining in (False, True))
    assert (
        search.vary == Vary(0.08, flip=True)
        and not search.flip
        and (search.erasing, search.mixes, search.cutout, search.padding)
        == (
            0,
            False,
            0,
            0,
        )
    )
    assert (
        retraining.vary == Vary(0.08, 0.4, "rand_augment", flip=True) and retraining.mixes and retraining.cutout == 16
    )
    always = Augment.of(replace(settings, augment="always"), False)
    assert always.vary == retraining.vary and always.mixes and always.erasing == 0.2 and always.cutout == 0
    assert Augment.of(Settings(), True).vary is None and Augment.of(Settings(), True).padding == 4


WRONG: dict[str, tuple[Any, str]] = {
    "crop": ("random", "one of shift, resized"),
    "crop_scale": (0, "a number above 0 to 1"),
    "policy": ("auto", "one of none, rand_augment, trivial_augment"),
    "augment": ("never", "one of retraining, always"),
    "random_erasing": (1.5, "a number from 0 to 1"),
    "colour_jitter": (-0.1, "a number from 0 to 1"),
    "mixup": (True, "a number from 0 to 100"),
    "rand_augment_magnitude": (31, "an integer from 0 to 30"),
    "rand_augment_operations": (0, "an integer from 1 to 10"),
}


@pytest.mark.parametrize("field", WRONG)
def test_what_cannot_be_used_is_refused_by_name(field: str) -> None:
    value, accepted = WRONG[field]
    with pytest.raises(InvalidValue) as raised:
        Settings(**{field: value})
    assert raised.value.field == f"settings.{field}" and raised.value.accepted == accepted


def test_a_network_trains_on_mixed_and_varied_images_and_goes_on_bit_for_bit() -> None:
    settings = {"policy": "trivial_augment", "mixup": 0.2, "random_erasing": 0.3, "label_smoothing": 0.1}
    spec, data = tiny_spec(settings=settings), tiny_data()

    def made() -> Retraining:
        return Retraining(spec, spec.space.single_paths()[0], data, "cpu")

    through, first, second = made(), made(), made()
    for _ in range(4):
        through.advance()
    for _ in range(2):
        first.advance()
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.advance()
    wanted, found = through.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert through.losses.read() == second.losses.read()
    data.close()
