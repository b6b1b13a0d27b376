"""Retraining follows its schedules, drops without bias, can be cut anywhere, and saves the network alone."""

import io
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_core import Network, Retraining, Search, SearchSpace
from nas_core.data.loading import Data
from nas_core.errors import Diverged
from nas_core.job import SearchJob
from nas_core.seeds import generator
from nas_core.spec import Settings
from nas_core.supernet.network import NetworkBlock
from nas_core.train.retrain import Trainee, class_weights, keep_factors, learning_rate
from nas_core.train.steps import evaluate
from tests.unit.nas_core.networks import tiny_data, tiny_spec

EVERYTHING: dict[str, Any] = {
    "retrain_epochs": 2,
    "retrain_schedule": "cosine_restarts",
    "retrain_warmup_epochs": 1,
    "retrain_clip": 5.0,
    "label_smoothing": 0.1,
    "drop_path": 0.5,
    "dropout": 0.4,
    "auxiliary_weight": 0.4,
    "cutout": 2,
    "flip": True,
    "mixup": 0.2,
    "policy": "trivial_augment",
    "decay_biases": False,
    "retrain_accumulation": 3,
    "ema_share": 0.25,
    "retrain_patience": 1,
}


def test_cifar_restarts_after_10_30_70_150_and_310_epochs_and_ends_at_the_bottom() -> None:
    settings = Settings.preset("cifar10", "paper")
    for start in (0, 10, 30, 70, 150, 310):
        assert learning_rate(settings, start) == settings.retrain_lr
        middle = start + (start + 10) / 2
        assert learning_rate(settings, middle) == pytest.approx((settings.retrain_lr + 1e-4) / 2)
    for end in (10, 30, 70, 150, 310, 630):
        assert learning_rate(settings, end - 1e-3) == pytest.approx(1e-4, abs=1e-7)


def test_imagenet_warms_up_for_five_epochs_and_falls_in_a_line_to_zero() -> None:
    settings = Settings.preset("imagenet")
    expected = {0: 0.1, 2.5: 0.3, 5: 0.5, 5 + 235 / 2: 0.25, 240: 0.0}
    assert {epoch: learning_rate(settings, epoch) for epoch in expected} == pytest.approx(expected)


def test_digits_fall_along_one_cosine() -> None:
    settings = Settings.preset("digits")
    for epoch in (0.0, 7.5, 30.0, 59.9):
        expected = settings.retrain_lr * (1 + math.cos(math.pi * epoch / settings.retrain_epochs)) / 2
        assert learning_rate(settings, epoch) == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [1, 7, 29, 30, 50, 629])
@pytest.mark.parametrize("warmup", [0, 5])
def test_cycles_end_with_the_training_however_long_it_is(epochs: int, warmup: int) -> None:
    given = {"retrain_epochs": epochs + warmup, "retrain_warmup_epochs": warmup}
    settings = Settings.preset("cifar10", "paper", **given)
    assert learning_rate(settings, warmup) == settings.retrain_lr
    assert learning_rate(settings, epochs + warmup - 1e-3) == pytest.approx(1e-4, abs=2e-6)


def test_what_is_kept_makes_up_for_what_is_dropped() -> None:
    drop = torch.tensor([0.0, 0.1, 0.5, 0.9])
    factors = keep_factors(drop, 20_000, generator("test"))
    for probability, row in zip(drop.tolist(), factors, strict=True):
        assert row.unique().tolist() == pytest.approx([0.0, 1 / (1 - probability)] if probability else [1.0])
        assert (row == 0).float().mean().item() == pytest.approx(probability, abs=0.015)
    assert factors.mean(1).tolist() == pytest.approx([1.0] * 4, abs=0.06)


def trainee(**settings: Any) -> Trainee:
    torch.manual_seed(0)
    space = SearchSpace.preset("digits", channels=4, blocks=(1, 2), levels=2)
    return Trainee(Network(space.complete()), Settings.preset("digits", **EVERYTHING | settings))


def logits(training: Trainee, images: Tensor, progress: float = 1.0, share: slice = slice(0, 8)) -> Tensor:
    own: Tensor = training(images, generator("drawn"), 8, share, progress)[0]
    return own


def test_drop_path_cuts_more_with_depth_and_only_what_may_be_cut() -> None:
    # Two levels of four operations: those of the first read the input alone, those of the second 1 + 4 each.
    depth = trainee().depth.tolist()
    assert depth == pytest.approx([1 / 3] * 28 + [2 / 3] * 28 + [1.0] * 28)


def test_without_dropping_the_trainee_computes_what_the_network_does() -> None:
    images = torch.randn(8, 1, 8, 8)
    plain = trainee(drop_path=0.0, dropout=0.0)
    torch.testing.assert_close(logits(plain.eval(), images), plain.network(images))
    early = trainee(dropout=0.0)
    torch.testing.assert_close(logits(early.eval(), images, progress=0.0), early.network(images))
    assert not torch.equal(logits(early, images), early.network(images))
    assert not torch.equal(logits(trainee(drop_path=0.0).eval(), images), plain.network(images))


def test_the_network_that_is_evaluated_drops_nothing() -> None:
    images = torch.randn(8, 1, 8, 8)
    dropping, plain = trainee(), trainee(drop_path=0.0, dropout=0.0, auxiliary_weight=0.0)
    assert torch.equal(dropping.network.eval()(images), plain.network.eval()(images))


def test_workers_together_drop_what_one_would_have() -> None:
    images, whole = torch.randn(8, 1, 8, 8), trainee()
    whole.eval()  # BN would look at the batch
    shares = [logits(whole, images[share], share=share) for share in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(torch.cat(shares), logits(whole, images))


def test_drop_path_leaves_the_mean_of_what_a_connection_carries() -> None:
    block = trainee().network.body[-1].eval()
    assert isinstance(block, NetworkBlock)
    x, seen = torch.randn(1, 8, 4, 4).expand(4000, -1, -1, -1), []
    block.output.register_forward_hook(lambda _module, inputs, _out: seen.append(inputs[0]))
    drop = torch.full((block.droppable,), 0.5)
    drop[: -len(block.part.steps[-1].reads)] = 0
    with torch.no_grad():
        block(x)
        block(x, keep_factors(drop, 4000, generator("mean")))
    torch.testing.assert_close(seen[1].mean(0), seen[0][0], atol=0.1, rtol=0.1)


@pytest.mark.parametrize("preset", ["digits", "cifar10", "imagenet"])
@pytest.mark.parametrize("smaller", [1, 2])
def test_the_auxiliary_head_classifies_images_of_any_size(preset: str, smaller: int) -> None:
    space = SearchSpace.preset(preset)
    space = SearchSpace.preset(preset, image_size=space.image_size // smaller)
    learner = Trainee(Network(space.cheapest()), Settings.preset(preset, auxiliary_weight=0.4)).to("meta")
    images = torch.empty(2, space.channels_in, space.image_size, space.image_size, device="meta")
    own, auxiliary = learner(images, generator("test"), 2, slice(0, 2), 1.0)
    assert auxiliary is not None and own.shape == auxiliary.shape == (2, space.classes)


def retraining(**settings: Any) -> Retraining:
    spec = tiny_spec(settings=EVERYTHING | settings)
    return Retraining(spec, spec.space.complete(), tiny_data(), "cpu")


def finish(learner: Retraining) -> list[dict[str, Any]]:
    """Every line of the rest, without what depends on the clock."""
    lines = []
    while not learner.done:
        lines += [{k: v for k, v in line.items() if k != "seconds"} for line in learner.advance()]
    return lines


@pytest.mark.parametrize(("cut", "balance"), [(1, "sampling"), (8, "loss")])
def test_cut_and_resumed_with_everything_switched_on_it_gives_bit_for_bit_the_same(cut: int, balance: str) -> None:
    whole, broken, resumed = (retraining(balance=balance) for _ in range(3))
    for _ in range(cut):
        whole.advance()
        broken.advance()
    kept = io.BytesIO()
    torch.save(broken.state_dict(), kept)
    kept.seek(0)
    resumed.load_state_dict(torch.load(kept, weights_only=True))
    assert finish(resumed) == finish(whole) and resumed.validated == whole.validated
    for part in ("trainee", "delivered"):
        ours, theirs = getattr(resumed, part).state_dict(), getattr(whole, part).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_delivered_is_the_moving_average_of_weights_and_statistics() -> None:
    learner = retraining(ema_share=0.2, retrain_patience=0)
    decay = 1 - 1 / (0.2 * learner.steps)
    learner.advance()
    expected = {name: value.double() for name, value in learner.network.state_dict().items()}
    for _ in range(3):
        learner.advance()
        for name, value in learner.network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    found = learner.delivered.state_dict()
    for name in (name for name in expected if not name.endswith("num_batches_tracked")):
        torch.testing.assert_close(found[name].double(), expected[name], atol=1e-6, rtol=1e-5)
    assert not torch.equal(found["head.bn.running_var"], learner.network.state_dict()["head.bn.running_var"])
    with torch.no_grad():
        learner.delivered.head.classifier.bias[1] = 1e6
    tested = learner.test()
    assert tested.predicted[1] == tested.total, "what is judged is the average"


def test_a_batch_in_parts_teaches_what_it_teaches_at_once() -> None:
    once, parts = retraining(retrain_accumulation=1), retraining(retrain_accumulation=4)
    for learner in (once, parts):
        learner.trainee.eval()  # or BN would look at the parts
        learner.advance()
    assert (once.parts, parts.parts) == (1, 4)
    for name, value in once.trainee.state_dict().items():
        torch.testing.assert_close(parts.trainee.state_dict()[name], value, atol=1e-5, rtol=1e-3)
    assert parts.losses.read() == pytest.approx(once.losses.read(), rel=1e-5)


def test_parts_are_fewer_where_there_are_too_few_images_for_the_batch() -> None:
    learner = retraining(retrain_batch_size=1000, retrain_accumulation=20)
    images = len(learner.data.training)
    assert learner.batch_size == images < 1000 and learner.parts == images * 20 // 1000
    learner.advance()


def test_training_ends_when_patience_does_and_delivers_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = retraining(retrain_epochs=9, retrain_patience=2, choose_by="balanced_accuracy")
    told = iter([0.5, 0.7, 0.6, 0.7, 0.9])
    monkeypatch.setattr(
        "nas_core.train.retrain.evaluate",
        lambda *_: SimpleNamespace(accuracy=0.0, balanced_accuracy=next(told)),
    )
    while not learner.done:
        learner.advance()
        if learner.step == 2 * learner.steps_per_epoch:
            best = {name: value.clone() for name, value in learner.delivered.state_dict().items()}
    assert learner.epochs == 4 and learner.validated == {"accuracy": 0.0, "balanced_accuracy": 0.7}
    assert all(torch.equal(value, best[name]) for name, value in learner.delivered.state_dict().items())


def test_a_result_tells_how_many_epochs_there_were(monkeypatch: pytest.MonkeyPatch) -> None:
    real = evaluate

    def never_better(network: nn.Module, data: Data, indices: Tensor) -> Any:
        validating = indices is data.parts["validation"]
        return SimpleNamespace(accuracy=0.5, balanced_accuracy=0.5) if validating else real(network, data, indices)

    monkeypatch.setattr("nas_core.train.retrain.evaluate", never_better)
    spec = tiny_spec(settings={"retrain_epochs": 5, "retrain_patience": 2, "ema_share": 0.1})
    job, lines = SearchJob(spec, tiny_data(), "cpu"), list[dict[str, Any]]()
    trained: Retraining | None = None
    while not job.done:
        trained = (job.race and job.race.contenders[-1].retraining) or trained
        lines += job.advance()
    told = [line for line in lines if line["kind"] == "retrained"]
    assert [line["epochs"] for line in told] == [line["epoch"] for line in told] == [3] * len(spec.budgets)
    assert [result["epochs"] for result in job.results] == [3] * len(spec.budgets)
    assert trained is not None and trained.best is not None
    written = job.weights[spec.budgets[-1]]
    assert all(torch.equal(value, written[name]) for name, value in trained.best["weights"].items())


def test_rare_classes_count_as_much_as_frequent_ones() -> None:
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    weights = class_weights(labels, 3)
    counts = torch.tensor([90.0, 9.0, 1.0])
    torch.testing.assert_close(weights * counts, torch.full((3,), 100 / 3))

    weighed = retraining(balance="loss")
    weighed.class_weights = weights
    logits = torch.randn(100, 3)
    by_class = torch.stack(
        [F.cross_entropy(logits[labels == c], labels[labels == c], label_smoothing=0.0) for c in range(3)]
    )
    weighed.settings = replace(weighed.settings, label_smoothing=0.0)
    torch.testing.assert_close(weighed._entropy(logits, labels), by_class.mean())

    indices = torch.arange(1000, 1100)
    data = tiny_data(count=1200)
    uneven = replace(
        data, labels=torch.cat([torch.zeros(1000, dtype=torch.long), labels, torch.zeros(100, dtype=torch.long)])
    )
    chances, seen = weights[labels], torch.zeros(3)
    for step in range(30):
        _, drawn = uneven.batch(indices, step, 100, 0, "test", None, chances)
        seen += drawn.bincount(minlength=3)
    assert (seen / seen.sum()).tolist() == pytest.approx([1 / 3] * 3, abs=0.04)
    again = uneven.batch(indices, 29, 100, 0, "test", None, chances)[1]
    assert torch.equal(again, drawn)
    assert retraining(balance="sampling").chances is not None and retraining().chances is None


def test_what_is_saved_is_the_network_and_what_counts_is_too() -> None:
    learner = retraining()
    learner.advance()
    fresh = Network(learner.architecture)
    fresh.load_state_dict(learner.network.state_dict())
    assert sum(p.numel() for p in learner.network.parameters()) == learner.architecture.parameters
    auxiliary = learner.trainee.auxiliary
    assert auxiliary is not None and {id(p) for p in auxiliary.parameters()} <= {id(p) for p in learner.weights}


@pytest.mark.parametrize("decay_biases", [True, False])
def test_scales_of_bn_do_not_decay_and_biases_only_where_that_is_asked_for(decay_biases: bool) -> None:
    learner = retraining(decay_biases=decay_biases)
    for parameter in learner.weights:
        parameter.data.fill_(1)
        parameter.grad = torch.zeros_like(parameter)
    learner.optimizer.step()
    norms = [name for name, part in learner.trainee.named_modules() if isinstance(part, nn.BatchNorm2d)]
    kept = {name for name, parameter in learner.trainee.named_parameters() if (parameter == 1).all()}
    biases = {name for name, _ in learner.trainee.named_parameters() if name.endswith("bias")}
    assert kept == {f"{name}.weight" for name in norms} | (set() if decay_biases else biases)


@pytest.mark.parametrize("phase", ["pretrain", "search", "retrain"])
def test_a_training_that_diverges_says_where_and_stops(phase: str) -> None:
    spec = tiny_spec(settings={"pretrain_epochs": int(phase == "pretrain")})
    job: Search | Retraining = retraining() if phase == "retrain" else Search(spec, tiny_data(), "cpu")
    network = job.network if isinstance(job, Retraining) else job.supernet
    job.advance()
    with torch.no_grad():
        network.head.classifier.bias[0] = math.nan
    with pytest.raises(Diverged) as told:
        while not job.done:  # losses are read once in many steps
            job.advance()
    assert (told.value.phase, told.value.step) == (phase, 1) and math.isnan(told.value.loss)
    assert phase in str(told.value) and "step 1" in str(told.value) and "nan" in str(told.value)


@pytest.mark.parametrize("kind", [Search, Retraining])
def test_an_epoch_that_was_cut_counts_the_seconds_before_and_none_between(
    kind: type[Search | Retraining], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(f"{kind.__module__}.time", SimpleNamespace(monotonic=lambda: clock.now))

    def made() -> Search | Retraining:
        spec = tiny_spec()
        return Search(spec, tiny_data(), "cpu") if kind is Search else retraining()

    def step(job: Search | Retraining) -> list[dict[str, Any]]:
        clock.now += 1
        return [line for line in job.advance() if line["kind"] == "epoch"]

    cut = made()
    for _ in range(2):
        step(cut)
    state = cut.state_dict()
    clock.now += 1000
    resumed = made()
    resumed.load_state_dict(state)
    lines = [line for _ in range(2 * cut.steps_per_epoch - 2) for line in step(resumed)]
    assert [line["seconds"] for line in lines] == [cut.steps_per_epoch] * 2
