"""How a network did on the test part, class by class: a confusion matrix, and all that is read from it (no torch)."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

from nas_core.errors import InvalidValue

TOP5_ABOVE = 10
"""Top-5 accuracy is told where there are more classes than this: of ten, five at random are right half the time."""
MOST_CONFUSED = 20
"""Pairs of classes that a result tells of; `evaluation.json` has all."""
MOST_NAMED = 5
"""Classes that a warning names; the others are counted."""
MOST_MISTAKES = 24
"""Wrongly classified images that are kept."""
LONGEST_NAME = 255
LONGEST_PATH = 4096
LARGEST_COUNT = 2**53


class Mistake(NamedTuple):
    """A test image of the class `label` that was classified as `predicted`, with a `confidence` (its softmax).

    `image` is its number in the dataset, and `file` its path below the dataset's folder, where it has one.
    """

    label: int
    predicted: int
    confidence: float
    image: int
    file: str | None


@dataclass(frozen=True)
class Evaluation:
    """How a network classified a number of images: the confusion matrix, sparse.

    `counts` maps (class, predicted class), both as numbers from 0, to the number of images; pairs that do not occur are
    left out. `class_names` holds one name for every class, also for those without images. Of `top5_right` images the
    class is among the five highest logits; None where there are at most `TOP5_ABOVE` classes. `mistakes` are at most
    `MOST_MISTAKES` wrongly classified images, those with the highest confidence; None where they were not kept.

    Recall is the share of a class's images that are classified correctly, precision the share of a class's predictions
    that are right. Raises `ValueError` where there are no images.
    """

    class_names: tuple[str, ...]
    counts: Mapping[tuple[int, int], int]
    top5_right: int | None = None
    mistakes: tuple[Mistake, ...] | None = None

    def __post_init__(self) -> None:
        if not self.counts:
            raise ValueError("no images were evaluated")

    @classmethod
    def of(
        cls,
        labels: Sequence[int],
        predicted: Sequence[int],
        class_names: Sequence[str],
        top5_right: int | None = None,
        mistakes: Sequence[Mistake] | None = None,
    ) -> Self:
        """The evaluation of images whose classes are `labels` and which were classified as `predicted`.

        Bytes of a name that are no text become escapes, since a folder may be called anything.
        """
        pairs = Counter(zip(labels, predicted, strict=True))
        names = tuple(name.encode(errors="backslashreplace").decode()[:LONGEST_NAME] for name in class_names)
        top5 = top5_right if len(names) > TOP5_ABOVE else None
        return cls(names, dict(sorted(pairs.items())), top5, None if mistakes is None else tuple(mistakes))

    @property
    def classes(self) -> int:
        """How many classes there are, with images or without."""
        return len(self.class_names)

    @cached_property
    def images(self) -> list[int]:
        """Of each class how many images there are (the support)."""
        return self._sums(0)

    @cached_property
    def predicted(self) -> list[int]:
        """Of each class how many images were classified as it."""
        return self._sums(1)

    def _sums(self, axis: int) -> list[int]:
        sums = [0] * self.classes
        for pair, count in self.counts.items():
            sums[pair[axis]] += count
        return sums

    @cached_property
    def total(self) -> int:
        """How many images there are."""
        return sum(self.counts.values())

    @cached_property
    def right(self) -> int:
        """How many images are classified correctly."""
        return sum(count for (label, predicted), count in self.counts.items() if label == predicted)

    @property
    def accuracy(self) -> float:
        """The share of the images that are classified correctly."""
        return self.right / self.total

    @cached_property
    def recall(self) -> list[float | None]:
        """Of each class the share of its images that are classified correctly; None for a class without images."""
        return [self._right(label) / count if count else None for label, count in enumerate(self.images)]

    @cached_property
    def precision(self) -> list[float | None]:
        """Of each class the share of its predictions that are right; None for a class that is never predicted."""
        return [self._right(label) / count if count else None for label, count in enumerate(self.predicted)]

    def _right(self, label: int) -> int:
        return self.counts.get((label, label), 0)

    @property
    def absent(self) -> list[int]:
        """The classes without images."""
        return [label for label, count in enumerate(self.images) if not count]

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images."""
        known = [recall for recall in self.recall if recall is not None]
        return sum(known) / len(known)

    @property
    def top5_accuracy(self) -> float | None:
        """The share of the images whose class is among the five highest logits; None for few classes."""
        return None if self.top5_right is None else self.top5_right / self.total

    @property
    def majority(self) -> tuple[int, float]:
        """The class with the most images, and the accuracy of always predicting it."""
        label = self.images.index(max(self.images))
        return label, self.images[label] / self.total

    @property
    def worst_first(self) -> list[int]:
        """All classes, the lowest recall first, and those without images last."""

        def order(label: int) -> tuple[bool, float, int]:
            recall = self.recall[label]
            return recall is None, recall or 0.0, label

        return sorted(range(self.classes), key=order)

    @property
    def confused(self) -> list[tuple[int, int, int]]:
        """The mistakes as (class, predicted, images), the most frequent first."""
        wrong = [(label, predicted, count) for (label, predicted), count in self.counts.items() if label != predicted]
        return sorted(wrong, key=lambda one: (-one[2], one))

    @property
    def warnings(self) -> list[str]:
        """What a reader of the accuracy alone would not expect, as sentences."""
        told = []
        label, share = self.majority
        if self.accuracy <= share:
            told.append(
                f"The accuracy of {_percent(self.accuracy)} is not better than always predicting "
                f"{self.class_names[label]!r}: {_percent(share)}."
            )
        elif wilson(self.right, self.total)[0] <= share:
            told.append(
                f"The accuracy of {_percent(self.accuracy)} on {self.total:,} images may be no better than always "
                f"predicting {self.class_names[label]!r}: {_percent(share)}."
            )
        missed = [label for label, recall in enumerate(self.recall) if recall == 0]
        if len(missed) == 1:
            images = self.images[missed[0]]
            told.append(
                f"The class {self.class_names[missed[0]]!r} is never recognised: none of its {images:,} test "
                f"image{'s' if images > 1 else ''} is classified correctly."
            )
        elif missed:
            told.append(
                f"{len(missed):,} of {self.classes:,} classes are never recognised: {self._named(missed)}. None of "
                f"their {sum(self.images[label] for label in missed):,} test images is classified correctly."
            )
        if self.absent:
            verb, whose = ("has", "Its") if len(self.absent) == 1 else ("have", "Their")
            told.append(
                f"{len(self.absent):,} of {self.classes:,} classes {verb} no test images: "
                f"{self._named(self.absent)}. {whose} recall is unknown, and the balanced accuracy is over the "
                f"other {self.classes - len(self.absent):,}."
            )
        return told

    def _named(self, labels: Sequence[int]) -> str:
        names = ", ".join(repr(self.class_names[label]) for label in labels[:MOST_NAMED])
        return names + (f" and {len(labels) - MOST_NAMED:,} more" if len(labels) > MOST_NAMED else "")

    def summary(self) -> dict[str, Any]:
        """What `result.json` and a `retrained` journal line tell, as JSON values.

        `accuracy` with its 95 % interval `accuracy_low` … `accuracy_high`, on so many `test_images`;
        `balanced_accuracy`, over the classes that have test images; `top5_accuracy`, or null; `per_class`: lists with
        one entry for each class, in the order of the logits: `names`, `images` (the support), `predicted` (how many
        images were classified as it), `recall` (null without images) and `precision` (null where never predicted), both
        rounded to six digits; `confused`: at most 20 of [class, predicted, images], the most frequent mistakes
        first; `warnings`: sentences. Some 70 bytes for each class.
        """
        low, high = wilson(self.right, self.total)
        return {
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "test_images": self.total,
            "balanced_accuracy": self.balanced_accuracy,
            "top5_accuracy": self.top5_accuracy,
            "per_class": {
                "names": list(self.class_names),
                "images": self.images,
                "predicted": self.predicted,
                "recall": [None if share is None else round(share, 6) for share in self.recall],
                "precision": [None if share is None else round(share, 6) for share in self.precision],
            },
            "confused": [list(one) for one in self.confused[:MOST_CONFUSED]],
            "warnings": self.warnings,
        }

    def to_dict(self) -> dict[str, Any]:
        """The content of `evaluation.json`, as JSON values.

        `class_names`; `counts`: the whole confusion matrix as [class, predicted, images], without what does not occur,
        so that there are never more entries than test images; `top5_right`, or null; `mistakes` as [class, predicted,
        confidence, number of the image, its file or null], the highest confidence first, or null.
        """
        return {
            "class_names": list(self.class_names),
            "counts": [[label, predicted, count] for (label, predicted), count in self.counts.items()],
            "top5_right": self.top5_right,
            "mistakes": None if self.mistakes is None else [list(one) for one in self.mistakes],
        }

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The evaluation that `to_dict` described. Raises `InvalidValue` for anything else."""
        if not isinstance(values, dict):
            raise InvalidValue("evaluation", type(values).__name__, "not an evaluation", "an object")
        names, listed, top5 = (values.get(name) for name in ("class_names", "counts", "top5_right"))
        if not isinstance(names, list) or not names or not all(_is_name(name) for name in names):
            accepted = f"a list of texts of at most {LONGEST_NAME} characters"
            raise InvalidValue("evaluation.class_names", _short(names), "not the names of classes", accepted)
        counts: dict[tuple[int, int], int] = {}
        one: Any
        for one in listed if isinstance(listed, list) else [listed]:
            if not _is_count(one, len(names)):
                accepted = f"[class, predicted, images], with classes below {len(names)}"
                raise InvalidValue("evaluation.counts", _short(one), "not a count", accepted)
            counts[one[0], one[1]] = counts.get((one[0], one[1]), 0) + one[2]
        if not counts:
            raise InvalidValue("evaluation.counts", listed, "no images", "a count of at least one image")
        if top5 is not None and (type(top5) is not int or not 0 <= top5 <= sum(counts.values())):
            raise InvalidValue("evaluation.top5_right", _short(top5), "not a count of the images", "a number, or null")
        mistakes = values.get("mistakes")
        if mistakes is not None and not (isinstance(mistakes, list) and len(mistakes) <= MOST_MISTAKES):
            accepted = f"a list of at most {MOST_MISTAKES} mistakes"
            raise InvalidValue("evaluation.mistakes", _short(mistakes), "not the mistakes", accepted)
        for one in mistakes or ():
            if not _is_mistake(one, len(names)):
                accepted = f"[class, predicted, confidence, image, file or null], with classes below {len(names)}"
                raise InvalidValue("evaluation.mistakes", _short(one), "not a mistake", accepted)
        return cls(tuple(names), counts, top5, None if mistakes is None else tuple(Mistake(*one) for one in mistakes))


def names_of(classes: int, class_names: Sequence[str]) -> tuple[str, ...]:
    """A name for each class: those of the dataset, or the numbers of classes that have none."""
    return tuple(class_names) if len(class_names) == classes else tuple(map(str, range(classes)))


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy (Wilson's score interval, JASA 22, 1927)."""
    share = right / count
    centre = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def _is_name(name: Any, longest: int = LONGEST_NAME) -> bool:
    return isinstance(name, str) and len(name) <= longest and not re.search("[\x00\ud800-\udfff]", name)


def _is_count(one: Any, classes: int) -> bool:
    if not isinstance(one, list) or len(one) != 3 or any(type(number) is not int for number in one):
        return False
    label, predicted, images = one
    return 0 <= label < classes and 0 <= predicted < classes and 0 < images < LARGEST_COUNT


def _is_mistake(one: Any, classes: int) -> bool:
    if not isinstance(one, list) or len(one) != 5:
        return False
    label, predicted, confidence, image, file = one
    if any(type(number) is not int for number in (label, predicted, image)):
        return False
    known = 0 <= label < classes and 0 <= predicted < classes and label != predicted and 0 <= image < LARGEST_COUNT
    named = file is None or _is_name(file, LONGEST_PATH)
    return known and named and type(confidence) in (int, float) and 0 <= confidence <= 1


def _short(value: Any) -> str:
    return repr(value)[:80]
