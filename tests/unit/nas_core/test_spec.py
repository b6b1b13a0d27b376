"""What a user asks for is read exactly, or refused with the field and what would do."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_core.errors import InvalidValue
from nas_core.space import MOST_OPERATIONS, PRESETS, Architecture, Block, Edge, Reduction, SearchSpace
from nas_core.space.operations import OPERATIONS
from nas_core.spec import FORMS, ExportOptions, Limits, SearchSpec, Settings, parse_count
from nas_core.spec.augmentation import AugmentationSettings
from nas_core.spec.settings import SETTINGS, RetrainSettings
from tests.unit.nas_core.networks import spaces, tiny_spec


@pytest.mark.parametrize("same", [600_000_000, 6e8, "600M", "600m", " 600 M ", "6e8", "0.6G", "600000k", "600000000"])
def test_one_number_can_be_written_in_many_ways(same: Any) -> None:
    assert parse_count(same) == 600_000_000


@given(st.integers(1, 10**12))
def test_whole_numbers_are_read_exactly(number: int) -> None:
    assert parse_count(number) == parse_count(str(number)) == number


@pytest.mark.parametrize(
    "wrong",
    [
        0,
        -1,
        -6e8,
        "0",
        "0k",
        0.2,
        float("nan"),
        float("inf"),
        "",
        "k",
        "6 00",
        "600MM",
        "1e999",
        "-5M",
        True,
        None,
        [],
        {},
    ],
)
def test_what_is_no_number_of_multiply_adds_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        parse_count(wrong)
    assert refused.value.field == "budgets" and "600M" in refused.value.accepted


@given(spaces())
def test_a_space_comes_back_from_json(space: SearchSpace) -> None:
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


@given(spaces())
def test_the_feasible_range_is_that_of_the_space(space: SearchSpace) -> None:
    smallest, largest = space.feasible_budgets()
    assert 0 < smallest <= largest == space.complete().multiply_adds


def test_a_specification_comes_back_from_json() -> None:
    spec = tiny_spec(seed=3, workers=2)
    assert SearchSpec.from_dict(json.loads(json.dumps(spec.to_dict() | {"search_id": "x"}))) == spec
    limited = tiny_spec(limits=Limits(parameters=2000, latency_ms=2.5))
    assert SearchSpec.from_dict(json.loads(json.dumps(limited.to_dict()))) == limited
    younger = ("limits", "min_workers", "accelerator_type")
    before = {name: value for name, value in spec.to_dict().items() if name not in younger}
    assert SearchSpec.from_dict(before) == spec
    options = replace(spec, export=ExportOptions(normalise=False)).to_dict()
    del options["export"]
    assert not SearchSpec.from_dict(options).export.normalise, "as files were before there was the option"
    elastic = tiny_spec(workers=4, min_workers=2, accelerator_type="A100-40G")
    assert SearchSpec.from_dict(json.loads(json.dumps(elastic.to_dict()))) == elastic


def test_limits_are_read_as_users_write_them() -> None:
    assert Limits.parse({"parameters": "20k", "activations": 9e3}) == Limits(20_000, 9000)
    assert Limits.parse({"latency_ms": 2, "parameters": None}) == Limits(latency_ms=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("parameters", value) for value in (0, -1, "many", True, 0.2)],
        *[("activations", "0"), ("activations", float("inf")), ("activations", [])],
        *[("latency_ms", value) for value in (0, -1.0, "2ms", True, float("nan"), float("inf"))],
        ("flops", 1),
    ],
)
def test_a_limit_that_cannot_be_used_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        Limits.parse({name: value})
    assert refused.value.field == f"limits.{name}" and refused.value.accepted


@pytest.mark.parametrize("name", ["parameters", "activations"])
@pytest.mark.parametrize("share", [False, True])
def test_the_smallest_limit_that_a_network_keeps_is_accepted_and_told_for_a_smaller_one(name: str, share: bool) -> None:
    space = tiny_spec(share=share).space
    costs = {"parameters": [one.parameters for one in space.single_paths()]}
    costs["activations"] = [one.peak_activations for one in space.single_paths()]
    smallest = min(costs[name])
    tiny_spec(share=share, limits=Limits(**{name: smallest}))
    with pytest.raises(InvalidValue) as refused:
        tiny_spec(share=share, limits=Limits(**{name: smallest - 1}))
    assert refused.value.field == f"limits.{name}" and refused.value.accepted == f"{smallest} or more"


def test_limits_that_no_network_keeps_together_are_refused_with_an_example() -> None:
    space = SearchSpace.preset("digits", blocks=(1, 1), levels=1, operations=["max_pool3"])
    early, late = space.single_paths()
    assert early.parameters < late.parameters and early.peak_activations > late.peak_activations
    both = Limits(parameters=early.parameters, activations=late.peak_activations)
    settings = Settings.preset("digits")
    budgets = (space.complete().multiply_adds,)
    for limits in (Limits(parameters=both.parameters), Limits(activations=both.activations)):
        SearchSpec("digits", budgets, space, settings, limits=limits)
    with pytest.raises(InvalidValue) as refused:
        SearchSpec("digits", budgets, space, settings, limits=both)
    assert refused.value.field == "limits" and f"activations {late.peak_activations}" in refused.value.accepted


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("batch_size", value) for value in (1, 0, -1, 2.0, "64", None, True)],
        *[("lr", value) for value in (0, -0.1, float("nan"), float("inf"), "0.1", True)],
        *[("scaling_lr", 0), ("retrain_lr", 0), ("clip", 0), ("momentum", 1), ("label_smoothing", 1)],
        *[("flip", 1), ("split", "no"), ("search_epochs", 0), ("retrain_epochs", 0), ("ratio", 0), ("cutout", -1)],
        *[("retrain_batch_size", 1), ("retrain_warmup_epochs", -1), ("retrain_warmup_epochs", 60)],
        *[("retrain_schedule", value) for value in ("step", "", None, 1, ["cosine"])],
        *[("drop_path", 1), ("drop_path", -0.1), ("dropout", 1.0), ("auxiliary_weight", -1), ("retrain_clip", "5")],
        *[("decay_biases", 1), ("retrain_accumulation", 0), ("retrain_accumulation", 2.0), ("retrain_patience", -1)],
        *[("width_divisor", value) for value in (0, 65, 8.0, "8", None)],
        *[("ema_share", value) for value in (-1, 0.3, float("nan"), float("inf"), "1", True)],
        *[("balance", value) for value in ("weights", "", None, True)],
        *[("retrain_start", value) for value in ("warm", "", None, True)],
        ("nonsense", 1),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        Settings.preset("digits", **{field: value})
    assert refused.value.field == f"settings.{field}" and refused.value.accepted


@pytest.mark.parametrize(("preset", "published"), [("cifar10", 1e-3), ("imagenet", 1e-2)])
def test_a_fixed_l1_presses_in_the_form_of_the_paper_alone_unless_one_is_asked_for(
    preset: str, published: float
) -> None:
    assert Settings.preset(preset).gamma == Settings.preset(preset, form="press").gamma == 0
    assert Settings.preset(preset, form="paper").gamma == published
    for form in FORMS:
        assert Settings.preset(preset, form=form, gamma=0.5).gamma == 0.5


def test_the_method_tells_where_every_setting_comes_from() -> None:
    told = (Path(__file__).parents[3] / "docs" / "method.md").read_text()
    for table in ("CIFAR-10", "ImageNet"):
        section = told.split(f"### {table}\n")[1].split("\n#")[0]
        assert [field.name for field in fields(Settings) if f"`{field.name}`" not in section] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("image_size", 3), ("classes", 1), ("channels", 1), ("levels", 9), ("channels_in", 0), ("share", 1)],
        *[("blocks", []), ("blocks", [0]), ("blocks", "88"), ("stem", [3]), ("operations", ["conv"])],
        *[("operations", []), ("operations", ["separable3", "separable3"]), ("width", 3)],
    ],
)
def test_a_space_that_cannot_be_used_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        SearchSpace.preset("digits", **{field: value})
    assert refused.value.field == f"space.{field}" and refused.value.accepted


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("budgets", ()), ("budgets", (600_000, 300_000)), ("budgets", (1,)), ("budgets", (10**12,))],
        *[("seed", -1), ("workers", 0), ("workers", 2.0), ("gpus_per_worker", 2), ("cpus_per_worker", 0)],
    ],
)
def test_a_specification_that_cannot_be_used_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        tiny_spec(**{field: value})
    assert refused.value.field == field


def test_the_fewest_workers_are_no_more_than_the_most() -> None:
    assert tiny_spec(workers=3).least_workers == 3 and tiny_spec(workers=3, min_workers=1).least_workers == 1
    for wrong in (0, 4, 1.0, True, "1"):
        with pytest.raises(InvalidValue) as refused:
            tiny_spec(workers=3, min_workers=wrong)
        assert refused.value.field == "workers.min" and "from 1 to 3" in refused.value.accepted


@pytest.mark.parametrize("wrong", ["", " A100", "A100 ", "-", "A/100", "A" * 65, 100])
def test_a_type_of_accelerator_is_a_name(wrong: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        tiny_spec(accelerator_type=wrong)
    assert refused.value.field == "accelerator_type" and "A100" in refused.value.accepted


def test_every_worker_has_two_images_of_a_batch_however_it_is_shared_out() -> None:
    tiny_spec(workers=7, settings={"batch_size": 14})
    with pytest.raises(InvalidValue) as refused:
        tiny_spec(workers=9)
    assert refused.value.field == "settings.batch_size" and refused.value.accepted == "18 or more, 2 images a worker"
    with pytest.raises(InvalidValue) as refused:
        tiny_spec(workers=9, settings={"batch_size": 18})
    assert refused.value.field == "settings.retrain_batch_size"
    tiny_spec(workers=2, settings={"retrain_accumulation": 4})
    with pytest.raises(InvalidValue, match="in 5 parts of retrain_accumulation") as refused:
        tiny_spec(workers=2, settings={"retrain_accumulation": 5})
    assert refused.value.field == "settings.retrain_batch_size" and refused.value.accepted.startswith("20 or more")


def test_a_specification_from_before_there_was_a_recipe_means_what_it_meant() -> None:
    values = tiny_spec(settings={"retrain_epochs": 3, "retrain_start": "scratch"}).to_dict()
    younger = ("decay_biases", "retrain_accumulation", "ema_share", "balance", "retrain_patience", "retrain_start")
    meant = [values["settings"].pop(name) for name in younger]
    assert meant == [True, 1, 0.0, "none", 0, "scratch"]
    assert values["settings"].pop("width_divisor") == 8
    then = {"retrain_epochs": 3, "width_divisor": 1, "retrain_start": "scratch"}
    assert SearchSpec.from_dict(values) == tiny_spec(settings=then)


@pytest.mark.parametrize("preset", SETTINGS)
def test_a_recipe_sets_the_retraining_and_what_is_given_goes_first(preset: str) -> None:
    own = Settings.preset(preset, "paper")
    standard, quick = Settings.preset(preset, recipe="standard"), Settings.preset(preset, recipe="quick")
    assert quick == replace(standard, retrain_epochs=15) and standard.retrain_epochs == own.retrain_epochs
    changed = {field.name for field in fields(Settings) if getattr(standard, field.name) != getattr(own, field.name)}
    assert changed <= {field.name for part in (RetrainSettings, AugmentationSettings) for field in fields(part)}
    # But for their epochs, networks of all presets are retrained alike.
    for field in fields(RetrainSettings):
        if field.name != "retrain_epochs":
            assert getattr(standard, field.name) == getattr(Settings.preset("cifar10", recipe="standard"), field.name)
    given = Settings.preset(preset, recipe="quick", retrain_epochs=40, label_smoothing=0.2)
    assert given == replace(standard, retrain_epochs=40, label_smoothing=0.2)
    unnamed = standard if preset == "cifar10" else replace(own, retrain_start="supernet")
    assert Settings.preset(preset) == unnamed and own.retrain_start == "scratch"


@pytest.mark.parametrize(("preset", "warmup"), [("digits", 0), ("cifar10", 1), ("imagenet", 5)])
def test_a_warm_up_that_is_not_given_leaves_an_epoch_behind_it(preset: str, warmup: int) -> None:
    for epochs in (1, 2, 5, 6):
        settings = Settings.preset(preset, retrain_epochs=epochs)
        assert settings.retrain_warmup_epochs == min(warmup, epochs - 1)
    with pytest.raises(InvalidValue, match="retrain_warmup_epochs"):
        Settings.preset(preset, retrain_epochs=2, retrain_warmup_epochs=2)


@pytest.mark.parametrize("recipe", ["Standard", "", 1, ["paper"]])
def test_a_recipe_that_is_none_is_refused(recipe: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        Settings.preset("digits", recipe=recipe)
    assert refused.value.field == "settings.recipe" and refused.value.accepted == "one of paper, standard, quick"
    with pytest.raises(InvalidValue, match=r"settings\.name"):
        Settings.preset("digits", **{"name": "cifar10"})


def test_an_auxiliary_head_needs_a_stage_to_stand_at_the_end_of() -> None:
    one_stage = SearchSpace.preset("digits", blocks=(1,))
    budgets = (one_stage.feasible_budgets()[1],)
    SearchSpec("digits", budgets, one_stage, Settings.preset("digits"))
    with pytest.raises(InvalidValue) as refused:
        SearchSpec("digits", budgets, one_stage, Settings.preset("digits", auxiliary_weight=0.4))
    assert refused.value.field == "settings.auxiliary_weight"


@pytest.mark.parametrize(
    "fields",
    [
        {"preset": "digits", "levels": 8, "blocks": [64] * 6},
        {"preset": "digits", "levels": 8, "blocks": [64, 64], "operations": list(OPERATIONS)},
        {"preset": "imagenet", "levels": 8, "blocks": [20, 20, 20, 20]},
    ],
)
def test_a_space_of_too_many_operations_is_refused_with_how_many_there_may_be(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="too many candidate operations") as refused:
        SearchSpace.preset(fields.pop("preset"), **fields)
    assert refused.value.field == "space" and str(MOST_OPERATIONS) in refused.value.accepted


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_may_have_all_operations_or_twice_the_levels(preset: str) -> None:
    assert SearchSpace.preset(preset, operations=tuple(OPERATIONS)).size <= MOST_OPERATIONS
    assert SearchSpace.preset(preset, levels=8).size <= MOST_OPERATIONS


def test_a_stage_of_many_blocks_costs_no_more_to_check_than_one_of_two() -> None:
    """The smallest networks are as many, and are those that all blocks would give."""
    few, many = (SearchSpace.preset("digits", blocks=(count, 2), levels=1) for count in (2, 40))
    assert len(many.single_paths()) == len(few.single_paths())
    path = Block((Edge(0, 1, 1.0), Edge(1, many.nodes + 1, 1.0)))
    costs = set()
    for full in range(40):
        blocks = tuple(path if block == full else Block(()) for block in range(42))
        one = Architecture(many, many.widths, blocks, (Reduction(1.0, 0.0),))
        costs.add((one.multiply_adds, one.parameters, one.peak_activations))
    assert costs <= {(one.multiply_adds, one.parameters, one.peak_activations) for one in many.single_paths()}
