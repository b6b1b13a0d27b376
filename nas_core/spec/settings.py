"""How each phase of a search trains, and how that goes with a space; docs/method.md gives the sources."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

from nas_core.errors import InvalidValue, did_you_mean, refuse_unknown
from nas_core.spec.augmentation import AugmentationSettings
from nas_core.spec.checks import Phase, choice, number, switch, whole

FORMS = ("cut", "press", "paper")
"""How a search brings the cost down: the weakest edges are cut on a schedule (`cut`); a proximal step whose level is
solved for takes them on the same schedule (`press`); or a fixed L1 weight does it on none, with an exact cut at the end
where that was not enough (`paper`)."""

PENALTIES = ("uniform", "flops", "memory", "latency")
"""How the pressure differs between edges: not at all; by what is alive of the block (paper, eq. 9); by the memory
access of the operation that the edge enters (eq. 10); or by that operation's measured latency."""

RETRAIN_SCHEDULES = ("cosine", "cosine_restarts", "linear")
"""How the learning rate of retraining may fall (`nas_core.train.retrain.learning_rate`)."""

BALANCES = ("none", "loss", "sampling")
"""What makes a rare class count as much as a frequent one in retraining: nothing; its images' losses, which weigh more;
or that its images are drawn more often, with replacement."""

STARTS = ("scratch", "supernet")
"""What retraining starts from: weights drawn anew (paper, section 3.2), or those that the supernet had for the network
when the cost passed its budget (`nas_core.supernet.inherit`)."""

CHOOSE_BY = ("accuracy", "balanced_accuracy")
"""What decides between networks, on the validation part: the share of images answered right, or the mean of that share
over the classes, in which a rare class counts as much as a frequent one (`nas_core.train.evaluation`)."""


@dataclass(frozen=True)
class SupernetSettings(Phase):
    """How the supernet's weights W train: first alone, in pretraining, and then in the search, in turns with λ.

    An epoch of pretraining passes over its part of the training data once, one of the search over W's part.
    `batch_size` counts the images of one step over all workers. `lr` stays as it is. `clip` bounds each gradient of
    the search. With `split` W and λ train on images of their own; without, both on all of them (paper, table 3).
    """

    pretrain_epochs: int = whole(120, 0)
    search_epochs: int = whole(120, 1)
    batch_size: int = whole(128, 2)
    lr: float = number(0.1, above=0)
    weight_decay: float = number(1e-4)
    clip: float = number(2.0, above=0)
    split: bool = switch(True)


@dataclass(frozen=True)
class ScalingSettings(Phase):
    """How λ are learned and how the cost comes down.

    `ratio` is how many weight steps go with one λ step, whose rate is `scaling_lr`. `form` says how the cost comes down
    (`FORMS`). `gamma` is a fixed L1 weight: all that presses in the form `paper`, and by default none in the others.
    `penalty` says how that, and the level at which edges are cut, differ between edges (`PENALTIES`).
    """

    ratio: int = whole(1, 1)
    scaling_lr: float = number(0.1, above=0)
    gamma: float = number(0.0)
    form: str = choice("cut", FORMS)
    penalty: str = choice("flops", PENALTIES)


@dataclass(frozen=True)
class RetrainSettings(Phase):
    """How a network that was found trains.

    An epoch passes over all training data. `retrain_start` is what it starts from (`STARTS`); what no search has found
    starts from scratch. `retrain_batch_size` counts the images of one step over all workers.
    `retrain_schedule` takes `retrain_lr` down after `retrain_warmup_epochs`. `retrain_clip` bounds the norm of the
    gradient, 0 does not. `drop_path` and `dropout` are probabilities to drop, that of the last block at the end and
    that before the classifier; `auxiliary_weight` is what the auxiliary head's loss counts, 0 for no such head;
    `cutout` is in pixels.

    With `decay_biases` weight decay acts on biases too, those of BN among them; on BN's scales it never does. A step's
    batch passes in `retrain_accumulation` parts, one after another, whose gradients are added up: memory holds one
    part, and BN's statistics are of one part. `ema_share` is the share of the training over which weights and BN's
    statistics are averaged (exponentially); what is judged and delivered is the average, with 0 the weights themselves.
    `balance` is what makes classes count alike (`BALANCES`). With a `retrain_patience` above 0 training ends when
    validation has not improved for so many epochs, and what is delivered is the best epoch's.
    """

    retrain_epochs: int = whole(630, 1)
    retrain_batch_size: int = whole(128, 2)
    retrain_lr: float = number(0.05, above=0)
    retrain_schedule: str = choice("cosine_restarts", RETRAIN_SCHEDULES)
    retrain_warmup_epochs: int = whole(0, 0)
    retrain_weight_decay: float = number(3e-4)
    retrain_clip: float = number(5.0)
    label_smoothing: float = number(0.0, below=1)
    drop_path: float = number(0.5, below=1)
    dropout: float = number(0.4, below=1)
    auxiliary_weight: float = number(0.4)
    cutout: int = whole(16, 0)
    decay_biases: bool = switch(True)
    retrain_accumulation: int = whole(1, 1)
    ema_share: float = number(0.0, most=0.25)
    balance: str = choice("none", BALANCES)
    retrain_patience: int = whole(0, 0)
    retrain_start: str = choice("scratch", STARTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.retrain_warmup_epochs >= self.retrain_epochs:
            accepted = f"fewer than the {self.retrain_epochs} of retrain_epochs"
            raise InvalidValue("settings.retrain_warmup_epochs", self.retrain_warmup_epochs, "too many", accepted)


@dataclass(frozen=True)
class Settings(AugmentationSettings, RetrainSettings, ScalingSettings, SupernetSettings):
    """How long and how fast every phase trains; everything that is not the space.

    To users the phases' fields are one flat list. All phases share `momentum`; `choose_by` is what networks that
    compete are judged by (`CHOOSE_BY`); widths of 32 channels or more are multiples of `width_divisor` where a budget
    can be used up by such (`nas_core.search.spending.fit_widths`). Raises `InvalidValue` where a field cannot be used.
    """

    momentum: float = number(0.9, below=1)
    choose_by: str = choice("accuracy", CHOOSE_BY)
    width_divisor: int = whole(8, 1, 64)

    @classmethod
    def preset(cls, name: str, /, recipe: str | None = None, **overrides: Any) -> Self:
        """The schedule that goes with the space called `name`, retrained by `recipe` (`RECIPES`), with some fields
        replaced.

        Where no recipe is named, the preset for CIFAR-10 has `standard`, and the others the preset's own fields, from
        what the supernet has learned. With the form `paper` comes its `gamma`, where none is given; and a warm-up that
        is not given is shortened to less than the epochs. Raises `InvalidValue` for an unknown name, recipe or field.
        """
        if name not in SETTINGS:
            raise InvalidValue(
                "space.preset", name, "no such preset" + did_you_mean(name, SETTINGS), "one of " + ", ".join(SETTINGS)
            )
        if recipe is not None and recipe not in list(RECIPES):
            raise InvalidValue(
                "settings.recipe",
                recipe,
                "no such recipe" + did_you_mean(str(recipe), RECIPES),
                "one of " + ", ".join(RECIPES),
            )
        refuse_unknown("settings", overrides, ["recipe", *(field.name for field in fields(cls))])
        gamma = {"gamma": PAPER_GAMMA[name]} if overrides.get("form") == "paper" else {}
        unnamed = STANDARD if name == "cifar10" else {"retrain_start": "supernet"}
        made = SETTINGS[name] | (unnamed if recipe is None else RECIPES[recipe])
        epochs, warmup = overrides.get("retrain_epochs"), made.get("retrain_warmup_epochs", 0)
        if type(epochs) is int and 1 <= epochs <= warmup:
            made["retrain_warmup_epochs"] = epochs - 1
        return replace(cls(**made), **gamma | overrides)


SETTINGS: dict[str, dict[str, Any]] = {
    "digits": dict(
        pretrain_epochs=12,
        search_epochs=30,
        retrain_epochs=60,
        batch_size=64,
        retrain_batch_size=64,
        retrain_lr=0.1,
        retrain_schedule="cosine",
        retrain_clip=0.0,
        drop_path=0.0,
        dropout=0.0,
        auxiliary_weight=0.0,
        cutout=0,
        crop_padding=1,
        flip=False,
    ),
    "cifar10": {},
    "imagenet": dict(
        pretrain_epochs=30,
        search_epochs=30,
        retrain_epochs=240,
        batch_size=256,
        retrain_batch_size=1024,
        retrain_lr=0.5,
        retrain_schedule="linear",
        retrain_warmup_epochs=5,
        weight_decay=4e-5,
        retrain_weight_decay=4e-5,
        retrain_clip=0.0,
        ratio=4,
        label_smoothing=0.1,
        drop_path=0.0,
        dropout=0.0,
        cutout=0,
        crop="resized",
    ),
}

PAPER_GAMMA = {"digits": 1e-2, "cifar10": 1e-3, "imagenet": 1e-2}
"""The L1 weight of the form `paper`, by preset: the published code's, and for the digits, whose search is short, ten
times that for CIFAR-10."""

STANDARD: dict[str, Any] = dict(
    retrain_batch_size=128,
    retrain_lr=0.1,
    retrain_schedule="cosine",
    retrain_warmup_epochs=1,
    retrain_weight_decay=5e-4,
    decay_biases=False,
    retrain_clip=0.0,
    label_smoothing=0.0,
    drop_path=0.0,
    dropout=0.0,
    auxiliary_weight=0.0,
    cutout=0,
    retrain_start="supernet",
)
RECIPES: dict[str, dict[str, Any]] = {"paper": {}, "standard": STANDARD, "quick": STANDARD | dict(retrain_epochs=15)}
"""The fields of retraining that a recipe replaces in a preset: none (`paper`: the preset's own, which are the paper's
for `cifar10` and `imagenet`, from scratch); all but the epochs, by what was measured to pay (`standard`,
`benchmarks/recipes.py`); or these and the epochs (`quick`)."""

SCHEDULES: dict[str, dict[str, Any]] = {
    "quick": dict(recipe="standard", pretrain_epochs=6, search_epochs=12, retrain_epochs=15),
    "standard": dict(recipe="standard"),
    "paper": dict(recipe="paper", form="paper"),
}
"""The fields that a whole search replaces in the preset that suits its images: epochs with which a search was measured
to find better networks than random ones (`quick`, `benchmarks/peers.py`), what was measured to pay in retraining, or
all as the paper has it."""
