"""What is read from a confusion matrix."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nas_core.data.images import TensorImages
from nas_core.data.loading import Data
from nas_core.errors import InvalidValue
from nas_core.job import SearchJob
from nas_core.train.evaluation import MOST_CONFUSED, MOST_MISTAKES, TOP5_ABOVE, Evaluation
from nas_core.train.steps import evaluate
from tests.unit.nas_core.networks import tiny_spec


def imbalanced() -> Data:
    """600 images of cats and 8 of dogs that nobody can tell apart, of which 120 and 2 are for the test."""
    labels = torch.tensor([0] * 600 + [1] * 8)
    images = torch.randint(0, 256, (608, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    numbers = torch.arange(608)
    test = (numbers < 120) | (numbers >= 606)
    validation = ~test & (numbers % 10 == 3)
    weights = ~test & ~validation & (numbers % 2 == 0)
    masks = {"test": test, "validation": validation, "weights": weights, "scaling": ~(test | validation | weights)}
    parts = {part: mask.nonzero().view(-1) for part, mask in masks.items()}
    named: dict[str, Any] = {"class_names": ("cat", "dog", "fox")}
    return Data("pets", 3, TensorImages(images), labels, parts, "pets", torch.device("cpu"), **named)


def test_a_rare_class_that_is_never_recognised_is_told_of_however_high_the_accuracy_is() -> None:
    spec = tiny_spec(settings={"pretrain_epochs": 0, "search_epochs": 1, "retrain_epochs": 1, "batch_size": 64})
    job, lines = SearchJob(spec, imbalanced(), "cpu"), []
    while not job.done:
        lines += job.advance()
    told = next(line for line in lines if line["kind"] == "retrained")
    assert told["accuracy"] > 0.98 and told["balanced_accuracy"] == 0.5
    assert told["per_class"] == {
        "names": ["cat", "dog", "fox"],
        "images": [120, 2, 0],
        "predicted": [122, 0, 0],
        "recall": [1.0, 0.0, None],
        "precision": [round(120 / 122, 6), None, None],
    }
    assert told["confused"] == [[1, 0, 2]]
    assert told["warnings"][:3] == [
        "The accuracy of 98.4 % is not better than always predicting 'cat': 98.4 %.",
        "The class 'dog' is never recognised: none of its 2 test images is classified correctly.",
        "1 of 3 classes has no test images: 'fox'. "
        "Its recall is unknown, and the balanced accuracy is over the other 2.",
    ]
    assert [one.partition(":")[0] for one in told["warnings"][3:]] == ["The network was trained for few steps"]
    assert told.items() >= job.results[0].items(), "the result tells the same"
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert epochs and all(0 <= line["balanced_accuracy"] <= 1 for line in epochs)


answered = st.integers(2, 14).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=60),
    )
)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
@given(answered)
def test_it_finds_what_scikit_learn_finds(given: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = given
    labels, answers = [label for label, _ in pairs], [predicted for _, predicted in pairs]
    evaluation = Evaluation.of(labels, answers, [f"class {label}" for label in range(classes)])
    known = list(range(classes))
    from sklearn import metrics as reference  # not by every process that collects tests

    matrix = reference.confusion_matrix(labels, answers, labels=known)
    assert {pair: matrix[pair] for pair in zip(*matrix.nonzero(), strict=True)} == dict(evaluation.counts)
    precision, recall, _, support = reference.precision_recall_fscore_support(
        labels, answers, labels=known, zero_division=0.0
    )
    assert evaluation.images == list(support)
    assert [share or 0.0 for share in evaluation.recall] == pytest.approx(list(recall))
    assert [share or 0.0 for share in evaluation.precision] == pytest.approx(list(precision))
    assert [share is None for share in evaluation.recall] == [label not in labels for label in known]
    assert [share is None for share in evaluation.precision] == [label not in answers for label in known]
    assert evaluation.accuracy == pytest.approx(reference.accuracy_score(labels, answers))
    assert evaluation.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(labels, answers))
    assert evaluation.worst_first[-1] in (evaluation.absent or known)
    assert Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict()))) == evaluation


class Fixed(nn.Module):
    """Gives the logits out that its images, which are numbers of images, stand for."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[images.flatten().long()]


def numbered(classes: int, images: int) -> Data:
    """Images of one pixel, which is the image's number, of random classes."""
    labels = torch.randint(0, classes, (images,), generator=torch.Generator().manual_seed(classes))
    pixels = torch.arange(images, dtype=torch.uint8).view(-1, 1, 1, 1)
    data = Data("numbers", classes, TensorImages(pixels), labels, {}, "numbers", torch.device("cpu"))
    data.__dict__["_normalisation"] = torch.zeros(()), torch.ones(())
    return data


@pytest.mark.parametrize("classes", [3, TOP5_ABOVE, TOP5_ABOVE + 1])
def test_answers_are_the_highest_logits_and_top_5_is_told_of_many_classes(classes: int) -> None:
    data, indices = numbered(classes, 200), torch.arange(3, 200)
    network = Fixed(torch.randn(200, classes, generator=torch.Generator().manual_seed(1)))
    found = evaluate(network, data, indices)
    logits = network.logits[indices]
    ranks = (logits > logits.gather(1, data.labels[indices][:, None])).sum(1)
    assert found.right == int((ranks == 0).sum()) and found.total == 197
    assert found.top5_accuracy == (int((ranks < 5).sum()) / 197 if classes > TOP5_ABOVE else None)
    assert found.mistakes is not None and len(found.mistakes) == MOST_MISTAKES
    shares = network.logits.softmax(1)
    wrong = [image for image in indices.tolist() if shares[image].argmax() != data.labels[image]]
    wrong.sort(key=lambda image: (-round(float(shares[image].max()), 4), image))
    assert [one.image for one in found.mistakes] == wrong[:MOST_MISTAKES]
    for one in found.mistakes:
        assert (one.label, one.predicted) == (int(data.labels[one.image]), int(shares[one.image].argmax()))
        assert one.confidence == pytest.approx(float(shares[one.image].max()), abs=1e-4) and one.file is None
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert evaluate(Fixed(data.labels[:, None] == torch.arange(classes)), data, indices).mistakes == ()


def test_a_thousand_classes_stay_small_in_a_result() -> None:
    labels = [label for label in range(1000) for _ in range(50)]
    answers = [(label * 7 + image) % 1000 if image else label for label in range(1000) for image in range(50)]
    names = [f"n{label:08d}" for label in range(1000)]
    evaluation = Evaluation.of(labels, answers, names, top5_right=30_000)
    summary = evaluation.summary()
    assert len(json.dumps(summary)) < 100_000 and len(summary["confused"]) == MOST_CONFUSED
    assert summary["top5_accuracy"] == 0.6
    assert len(evaluation.to_dict()["counts"]) <= len(labels)


def test_many_classes_without_a_right_answer_are_counted_and_some_named() -> None:
    evaluation = Evaluation.of(range(40), [39] * 40, [f"c{label}" for label in range(50)])
    told = evaluation.warnings
    assert "39 of 50 classes are never recognised: 'c0', 'c1', 'c2', 'c3', 'c4' and 34 more." in told[1]
    assert "10 of 50 classes have no test images: 'c40'" in told[2] and "and 5 more" in told[2]


def test_a_good_network_gets_no_warning_and_one_near_the_majority_gets_a_careful_one() -> None:
    names = ("a", "b")
    assert Evaluation.of([0, 1] * 50, [0, 1] * 50, names).warnings == []
    labels = [0] * 60 + [1] * 40
    near = Evaluation.of(labels, [0] * 60 + [1] * 6 + [0] * 34, names)
    [warning] = near.warnings
    assert warning == "The accuracy of 66.0 % on 100 images may be no better than always predicting 'a': 60.0 %."


GOOD: dict[str, Any] = {"class_names": ["a", "b"], "counts": [[0, 0, 3], [1, 0, 1]], "top5_right": None}


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        GOOD | {"class_names": []},
        GOOD | {"class_names": ["a", 1]},
        GOOD | {"class_names": ["a", "\x00"]},
        GOOD | {"class_names": ["a", "\ud800"]},
        GOOD | {"class_names": ["a", "b" * 256]},
        GOOD | {"counts": None},
        GOOD | {"counts": []},
        GOOD | {"counts": [[0, 2, 1]]},
        GOOD | {"counts": [[0, -1, 1]]},
        GOOD | {"counts": [[0, 0, 0]]},
        GOOD | {"counts": [[0, 0, 2**60]]},
        GOOD | {"counts": [[0, 0, 1.5]]},
        GOOD | {"counts": [[True, 0, 1]]},
        GOOD | {"counts": ["000"]},
        GOOD | {"top5_right": 5},
        GOOD | {"top5_right": "1"},
        GOOD | {"mistakes": {}},
        GOOD | {"mistakes": [[1, 0, 0.9, 0, None]] * (MOST_MISTAKES + 1)},
        GOOD | {"mistakes": [[1, 2, 0.9, 0, None]]},
        GOOD | {"mistakes": [[1, 0, 1.1, 0, None]]},
        GOOD | {"mistakes": [[1, 0, 0.9, 0, "\ud800"]]},
    ],
)
def test_what_is_no_evaluation_is_refused(values: Any) -> None:
    with pytest.raises(InvalidValue, match="evaluation"):
        Evaluation.from_dict(values)


def test_a_class_may_be_called_anything() -> None:
    evaluation = Evaluation.of([0, 1], [0, 1], ["\udcff", "x" * 300])
    assert evaluation.class_names == ("\\udcff", "x" * 255)
    assert Evaluation.from_dict(evaluation.to_dict()) == evaluation
