"""Reference networks are the published ones, keep any budget, cost what they are said to, and train as others do."""

import io
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas_core import Reference, ReferenceNetwork, Retraining, SearchSpace
from nas_core.data.decoding import Decoding
from nas_core.deliver import onnx_files, programs, standalone
from nas_core.deliver.preprocessing import Preprocessing
from nas_core.errors import InvalidValue
from nas_core.search.references import LEAST_SCALE, candidates, fit_reference
from nas_core.space import FAMILIES, Family, read_genotype
from nas_core.space.picture import draw
from nas_core.space.references import TITLES
from nas_core.spec import OPSETS, ExportOptions, Limits, Settings
from nas_core.train.retrain import Trainee, untaken
from tests.thoroughness import some
from tests.unit.nas_core.networks import peak_of_execution, tiny_data, tiny_spec

SMALL = {family: fit_reference(family, SearchSpace.preset("digits"), 4_000_000) for family in FAMILIES}
"""A network of each family for scans of digits."""
WITH_EVERYTHING: dict[str, Any] = {"drop_path": 0.5, "dropout": 0.4, "auxiliary_weight": 0.4, "retrain_clip": 5.0}


def test_every_family_has_a_name_in_requests_and_a_title() -> None:
    assert set(get_args(Family)) == set(FAMILIES) == set(TITLES)


def published(variant: str) -> nn.Module:
    """The network of that name, as timm or torchvision has it."""
    import timm  # not by every process that collects tests

    alike = {"mobilenetv1", "mobilenetv2", "mobilenetv3_small", "mobilenetv3_large", "mnasnet"}
    made: nn.Module = (
        torchvision.models.shufflenet_v2_x1_0(weights=None)
        if variant == "shufflenetv2"
        else timm.create_model(f"{variant}_100" if variant in alike else variant, pretrained=False)
    )
    return made


@pytest.mark.parametrize(
    "variant",
    [
        *("resnet18", "resnet34", "mobilenetv1", "mobilenetv2", "mobilenetv3_small", "mobilenetv3_large"),
        *("shufflenetv2", "mnasnet", "efficientnet_lite0"),
    ],
)
def test_as_wide_as_it_was_drawn_it_is_the_published_network(variant: str) -> None:
    """The same weights, in the same order, give the same logits at the same cost."""
    family = next(family for family, variants in FAMILIES.items() if variant in variants)
    drawn = FAMILIES[family][variant]
    reference = Reference(family, variant, 3, 96, 1000, drawn.places, 8, drawn.widths)
    own, theirs = ReferenceNetwork(reference).eval(), published(variant).eval()
    random = torch.Generator().manual_seed(0)
    for target, source in zip(own.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert target.numel() == source.numel()
        if source.is_floating_point():
            varied = source * (1 + 0.1 * torch.rand(source.shape, generator=random))
            source.copy_(varied)
            target.copy_(varied.reshape(target.shape))
    for norm in [*own.modules(), *theirs.modules()]:
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 1e-3
    images = torch.randn(2, 3, 96, 96, generator=random)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        wanted = theirs(images)
    torch.testing.assert_close(own(images), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())
    assert counter.get_total_flops() == 2 * 2 * reference.multiply_adds
    assert sum(parameter.numel() for parameter in theirs.parameters()) == reference.parameters


@pytest.mark.parametrize("depth", [1.0, 1.1, 1.4, 1.8])
def test_efficientnet_lite_is_as_deep_as_published(depth: float) -> None:
    name = {1.0: "efficientnet_lite0", 1.1: "efficientnet_lite1", 1.4: "efficientnet_lite3", 1.8: "efficientnet_lite4"}
    import timm  # not by every process that collects tests

    with torch.device("meta"):
        theirs = timm.create_model(name[depth], pretrained=False)
    blocks = sum(len(stage.units) for stage in FAMILIES["efficientnet_lite"][name[depth]].stages)
    assert blocks == len([block for stage in theirs.blocks for block in stage]) + 1, "the head is a stage here"


shapes = st.builds(
    lambda size, classes, channels: SearchSpace.preset(
        "cifar10", image_size=size, classes=classes, channels_in=channels
    ),
    st.integers(16, 224),
    st.integers(2, 1000),
    st.sampled_from([1, 3]),
)


@settings(max_examples=some(25), deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), shapes, st.floats(4.5, 9.5), st.sampled_from([1, 8]))
def test_a_family_uses_any_budget_up_or_says_what_it_costs_at_least(
    family: str, space: SearchSpace, exponent: float, divisor: int
) -> None:
    budget = round(10**exponent)
    least = min(one.narrowest().multiply_adds for one in candidates(family, space))
    if budget < least:
        with pytest.raises(ValueError, match=rf"{family} takes at least {least:,} multiply-adds"):
            fit_reference(family, space, budget)
        return
    found = fit_reference(family, space, budget, divisor=divisor)
    assert 0.97 * budget <= found.multiply_adds <= budget
    assert all(width % found.step == 0 for width in found.widths)
    assert (found.image_size, found.classes, found.channels_in) == (space.image_size, space.classes, space.channels_in)
    assert found.parts()[-1].size <= 8 or found.halvings == found.drawn.places


@settings(max_examples=some(8), deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), shapes, st.floats(0.05, 0.9), st.sampled_from(["parameters", "activations"]))
def test_limits_are_kept_and_used_up_too(family: str, space: SearchSpace, share: float, name: str) -> None:
    what = {"parameters": "parameters", "activations": "peak_activations"}[name]
    free = fit_reference(family, space, 10**8)
    limit = round(share * getattr(free, what))
    if limit < min(getattr(one.narrowest(), what) for one in candidates(family, space)):
        with pytest.raises(ValueError, match=f"{family} takes at least"):
            fit_reference(family, space, 10**8, Limits(**{name: limit}))
        return
    found = fit_reference(family, space, 10**8, Limits(**{name: limit}))
    assert getattr(found, what) <= limit and found.multiply_adds <= 10**8
    # A peak grows by whole channels of one stage.
    assert max(getattr(found, what) / limit, found.multiply_adds / 10**8) > (0.97 if name == "parameters" else 0.7)


@settings(max_examples=some(12), deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(4, 70), st.integers(2, 5), st.integers(0, 100), st.data())
def test_costs_are_those_of_the_network_itself(
    family: str, size: int, classes: int, which: int, data: st.DataObject
) -> None:
    drawn = data.draw(st.sampled_from(candidates(family, SearchSpace.preset("cifar10", image_size=size))))
    widths = tuple(2 * data.draw(st.integers(2, 8)) for _ in drawn.widths)
    reference = replace(drawn, widths=widths, classes=classes, divisor=data.draw(st.sampled_from([1, 8])))
    with torch.device("meta"):
        network = ReferenceNetwork(reference).eval()
        images = torch.empty(1, *reference.input_shape)
    with FlopCounterMode(display=False) as counter:
        assert network(images).shape == (1, classes)
    assert counter.get_total_flops() == 2 * reference.multiply_adds
    assert sum(parameter.numel() for parameter in network.parameters()) == reference.parameters
    assert peak_of_execution(network) == reference.peak_activations
    assert Reference.from_json(reference.to_json()) == reference == read_genotype(reference.to_dict())


def test_strides_and_depth_follow_the_rule_and_no_accuracy() -> None:
    images = SearchSpace.preset("cifar10")
    for family in FAMILIES:
        for budget in (1_500_000, 15_000_000):
            chosen = fit_reference(family, images, budget)
            others = [one for one in candidates(family, images) if one.narrowest().multiply_adds <= budget]
            if chosen.scale < LEAST_SCALE:
                assert chosen.halvings == max(one.halvings for one in others)
                assert chosen.variant == others[0].variant
    assert fit_reference("resnet", images, 1_500_000).variant == "resnet8"
    deep = fit_reference("resnet", images, 60_000_000)
    assert (deep.variant, deep.halvings) == ("resnet56", 2)
    photos = SearchSpace.preset("imagenet")
    assert fit_reference("resnet", photos, 1_850_000_000).variant == "resnet34"
    wide = fit_reference("mobilenetv2", photos, 301_000_000, divisor=8)
    assert wide.widths == FAMILIES["mobilenetv2"]["mobilenetv2"].widths and wide.divisor == 8 and wide.halvings == 5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"family": "vgg"}, "reference.family"),
        ({"family": ["resnet"]}, "reference.family"),
        ({"variant": "resnet9"}, "reference.variant"),
        ({"image_size": 2}, "reference.image_size"),
        ({"classes": True}, "reference.classes"),
        ({"halvings": 4}, "reference.halvings"),
        ({"divisor": 3}, "reference.divisor"),
        ({"widths": [8, 8]}, "reference.widths"),
        ({"widths": [8, 8, 3]}, "reference.widths"),
        ({"widths": [8, 8, 10**9]}, "reference.widths"),
        ({"widths": "888"}, "reference"),
        ({"more": 1}, "reference"),
    ],
)
def test_what_is_no_reference_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    told = SMALL["resnet"].to_dict()
    with pytest.raises(InvalidValue) as refused:
        Reference.from_dict(told | {"reference": told["reference"] | change})
    assert refused.value.field == field


def test_stated_costs_must_be_true() -> None:
    told = SMALL["resnet"].to_dict()
    with pytest.raises(InvalidValue, match="not what the network costs"):
        Reference.from_dict(told | {"parameters": 1})
    others: list[Any] = [[], {}, {"version": 1}, told | {"version": 2}]
    for other in others:
        with pytest.raises(InvalidValue):
            Reference.from_dict(other)


@pytest.mark.parametrize("family", ["resnet", "mobilenetv3", "shufflenetv2"])
def test_it_trains_by_the_whole_recipe_and_can_be_cut_anywhere(family: str) -> None:
    spec = tiny_spec(settings=WITH_EVERYTHING)
    reference = fit_reference(family, spec.space, 1_500_000)

    def retraining() -> Retraining:
        return Retraining(spec, reference, tiny_data(count=60), "cpu")

    whole = retraining()
    while not whole.done:
        whole.advance()
    first = retraining()
    for _ in range(whole.steps // 2):
        first.advance()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    second = retraining()
    second.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    while not second.done:
        second.advance()
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name])
    assert whole.test().total > 0


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_drop_path_cuts_what_is_added_to_shortcuts(family: str) -> None:
    settings, reference = Settings.preset("digits", drop_path=0.999), SMALL[family]
    trainee = Trainee(ReferenceNetwork(reference), settings).eval()
    body = reference.parts()[1:-1] if family != "shufflenetv2" else ()
    assert len(trainee.depth) == len([one for one in body if len(one.leaves) > 1 or len(one.steps[-1].reads) > 1])
    images = torch.randn(2, 1, 8, 8)

    def logits(progress: float) -> Tensor:
        found: Tensor = trainee(images, torch.Generator().manual_seed(1), 2, slice(0, 2), progress)[0]
        return found

    torch.testing.assert_close(logits(0.0), trainee.network(images))
    without = family in ("mobilenetv1", "shufflenetv2")
    assert torch.equal(logits(1.0), logits(0.0)) is without
    assert untaken(reference, settings) == (["drop path, since it has no shortcuts"] if without else [])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_auxiliary_head_reads_what_the_last_stage_with_a_stride_begins_with(family: str) -> None:
    reference = SMALL[family]
    network = ReferenceNetwork(reference)
    trainee = Trainee(network, Settings.preset("digits", auxiliary_weight=0.4))
    assert trainee.auxiliary is not None
    whole = replace(reference, image_size=64, halvings=reference.drawn.places)
    names, sizes = zip(*((part.name, part.size) for part in whole.parts()), strict=True)
    assert names.index(reference.tapped) == max(n for n, size in enumerate(sizes[:-1]) if sizes[n + 1] < size)
    read: list[Tensor] = []
    trainee.auxiliary.register_forward_hook(lambda module, given, out: read.append(given[0]))
    written: list[Tensor] = []
    network.body.get_submodule(reference.tapped).register_forward_hook(lambda module, given, out: written.append(out))
    trainee(torch.randn(2, 1, 8, 8), torch.Generator(), 2, slice(0, 2), 0.5)
    assert read[0] is written[0]


@pytest.mark.proof
@pytest.mark.parametrize("family", ["mobilenetv3", "shufflenetv2"])
def test_every_form_finds_the_same_logits(family: str) -> None:
    network = ReferenceNetwork(SMALL[family]).eval()
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        wanted = network(images)
    untouched = Preprocessing(Decoding(1, 8), (0.0,), (1.0,), ())
    oldest = programs.to_onnx(network, ExportOptions(opset=min(OPSETS)), untouched)
    session = onnxruntime.InferenceSession(oldest, providers=["CPUExecutionProvider"])
    [logits] = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), wanted, rtol=0, atol=1e-4)
    for smaller in (onnx_files.to_float16(oldest), onnx_files.to_int8(oldest, images.numpy())):
        assert len(smaller) != len(oldest)
        session = onnxruntime.InferenceSession(smaller, providers=["CPUExecutionProvider"])
        [logits] = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), wanted, rtol=0, atol=0.3 * float(np.ptp(wanted.numpy())))
    assert programs.to_torch_export(network)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_stand_alone_file_is_the_same_network(family: str) -> None:
    network = ReferenceNetwork(SMALL[family]).eval()
    written: dict[str, Any] = {}
    exec(compile(standalone.to_python(SMALL[family]), "network.py", "exec"), written)
    alone = written["load"](network.state_dict())
    assert list(alone.state_dict()) == list(network.state_dict())
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(alone(images), network(images))


def test_its_picture_names_all_parts() -> None:
    drawn = draw(SMALL["mobilenetv3"])
    assert all(f">{part.name}<" in drawn for part in SMALL["mobilenetv3"].parts())
    assert f"{SMALL['mobilenetv3'].multiply_adds:,} multiply-adds" in drawn
