"""Architectures: JSON, reachability, and costs against independent counters."""

import json
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from torch.utils.flop_counter import FlopCounterMode

from nas_core import Architecture, Network, SearchSpace
from nas_core.errors import InvalidValue
from nas_core.space import Block, Edge, Reduction, cost, live, memory, schema
from nas_core.space.picture import draw
from tests.thoroughness import some
from tests.unit.nas_core.networks import architectures, peak_of_execution


@given(architectures())
def test_json_brings_an_architecture_back(architecture: Architecture) -> None:
    assert Architecture.from_json(architecture.to_json()) == architecture


@settings(max_examples=some(40))
@given(architectures())
def test_costs_are_those_of_the_network_itself(architecture: Architecture) -> None:
    space = architecture.space
    with torch.device("meta"):
        network = Network(architecture).eval()
        images = torch.empty(1, space.channels_in, space.image_size, space.image_size)
    with FlopCounterMode(display=False) as counter:
        logits = network(images)
    assert logits.shape == (1, space.classes)
    assert counter.get_total_flops() == 2 * architecture.multiply_adds
    assert sum(parameter.numel() for parameter in network.parameters()) == architecture.parameters
    counted = counter.get_flop_counts()
    for part in architecture.parts():
        place, costs = part.name if part.name in ("stem", "head") else f"body.{part.name}", cost.of_part(part)
        assert sum(counted.get(f"Network.{place}", {}).values()) == 2 * costs.multiply_adds
        assert sum(parameter.numel() for parameter in network.get_submodule(place).parameters()) == costs.parameters


@settings(max_examples=some(40))
@given(architectures())
def test_the_peak_of_activations_is_that_of_the_networks_execution(architecture: Architecture) -> None:
    with torch.device("meta"):
        network = Network(architecture).eval()
    assert architecture.peak_activations == peak_of_execution(network)


def test_the_peak_of_a_small_network_by_hand() -> None:
    space = SearchSpace("small", 1, 4, 2, stem=(1,), channels=2, blocks=(1,), levels=2, operations=("separable3",))
    edges = (Edge(0, 1, 1.0), Edge(0, 2, 1.0), Edge(1, 2, 1.0), Edge(1, 3, 1.0), Edge(2, 3, 1.0))
    pixels = 16
    # The concatenation (4 channels) is written while the shortcut and both operations (2 each) are held.
    assert Architecture(space, (2,), (Block(edges),), ()).peak_activations == (2 + 2 + 2 + 4) * pixels
    # Without operations: the stem's output and its shortcut.
    assert Architecture(space, (2,), (Block(()),), ()).peak_activations == (2 + 2) * pixels
    # A reduction holds what it reads and both branches, on a quarter of the pixels.
    two = replace(space, blocks=(1, 1))
    reduced = Architecture(two, (2, 9), (Block(()), Block(())), (Reduction(1.0, 1.0),))
    assert reduced.peak_activations == 2 * pixels + (9 + 9) * pixels // 4


@given(architectures(), st.data())
def test_many_widths_are_counted_at_once(architecture: Architecture, data: st.DataObject) -> None:
    some = st.lists(st.integers(2, 40), min_size=3, max_size=3)
    widths = [np.array(data.draw(some)) for _ in architecture.widths]
    parts = architecture.parts(widths)
    totals, peaks = cost.total(parts), memory.peak_activations(parts)
    for index in range(3):
        one = replace(architecture, widths=tuple(int(axis[index]) for axis in widths))
        assert totals.multiply_adds[index] == one.multiply_adds
        assert totals.parameters[index] == one.parameters
        assert totals.memory_access[index] == one.cost.memory_access
        assert peaks[index] == one.peak_activations


def reachable(edges: list[tuple[int, int]], start: int, forward: bool) -> set[int]:
    """Every node that can be reached from `start`, by plain search."""
    found, todo = {start}, [start]
    while todo:
        node = todo.pop()
        for source, target in edges:
            here, there = (source, target) if forward else (target, source)
            if here == node and there not in found:
                found.add(there)
                todo.append(there)
    return found


@given(st.sets(st.tuples(st.integers(0, 7), st.integers(1, 8)).filter(lambda edge: edge[0] < edge[1])))
def test_an_edge_lives_iff_it_is_on_a_path_through_the_block(edges: set[tuple[int, int]]) -> None:
    given_edges = list(edges)
    on_a_path = reachable(given_edges, 0, forward=True) & reachable(given_edges, 8, forward=False)
    assert set(live(given_edges, 8)) == {edge for edge in edges if set(edge) <= on_a_path}


def complete() -> dict[str, Any]:
    values: dict[str, Any] = SearchSpace.preset("digits").complete().to_dict()
    return values


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("version", 2, "version"),
        ("multiply_adds", 1, "multiply_adds"),
        ("parameters", 1, "parameters"),
        ("widths", [16], "widths"),
        ("widths", [16, 0], "widths"),
        ("blocks", [], "blocks"),
        ("blocks", [{"edges": [{"from": "input", "to": "1.separable3", "strength": 1.0}]}] * 4, "blocks[0].edges"),
        ("blocks", [{"edges": [{"from": "input", "to": "output", "strength": 1.0}]}] * 4, "blocks[0].edges"),
        ("blocks", [{"edges": [{"from": "nowhere", "to": "output", "strength": 1.0}]}] * 4, "blocks[0].edges"),
        ("blocks", [{"edges": [{"from": "input", "to": "nowhere", "strength": 1.0}]}] * 4, "blocks[0].edges"),
        ("blocks", [{"edges": [{"from": "input", "to": "1.separable3", "strength": "x"}]}] * 4, "architecture"),
        ("reductions", [{"conv1": 0.0, "conv3": 0.0}], "reductions[0]"),
    ],
)
def test_what_is_no_architecture_is_refused(field: str, value: object, told: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Architecture.from_dict(complete() | {field: value})
    assert refused.value.field == told


def test_a_file_of_a_newer_yoso_is_told_from_one_that_is_no_architecture() -> None:
    with pytest.raises(InvalidValue, match="the file is from a newer version of Yoso"):
        Architecture.from_dict({"version": 2, "unheard_of": 1})
    with pytest.raises(InvalidValue, match="unknown version"):
        Architecture.from_dict(complete() | {"version": "1"})


def test_an_architecture_with_a_part_missing_is_refused() -> None:
    for field in complete():
        values = complete()
        del values[field]
        with pytest.raises(InvalidValue):
            Architecture.from_json(json.dumps(values))
    with pytest.raises(InvalidValue, match="not JSON"):
        Architecture.from_json("{")


@settings(max_examples=some(30))
@given(architectures())
def test_a_picture_shows_every_live_operation(architecture: Architecture) -> None:
    words = " ".join(ElementTree.fromstring(draw(architecture)).itertext())
    for block in architecture.blocks:
        for edge in block.edges:
            assert f"{architecture.node_name(edge.source)} → {architecture.node_name(edge.target)}" in words


def test_a_picture_tells_convolutions_pools_and_the_rest_apart() -> None:
    operations = ("separable3", "inverted_bottleneck3", "average_pool3", "identity")
    space = SearchSpace.preset("digits", blocks=(1,), levels=1, operations=operations)
    picture = ElementTree.fromstring(draw(space.complete()))
    groups = picture.findall(".//*[@class]")
    kinds = {"".join(group.itertext()).split(":")[0]: group.get("class") for group in groups if len(group) == 3}
    wanted = {
        "1.separable3": "conv",
        "1.inverted_bottleneck3": "conv",
        "1.average_pool3": "pool",
        "1.identity": "plain",
    }
    assert {name: kinds[name] for name in wanted} == {name: f"node {kind} alive" for name, kind in wanted.items()}


VALIDATOR = Draft202012Validator(schema())


@settings(max_examples=some(60))
@given(architectures())
def test_every_architecture_keeps_to_the_schema(architecture: Architecture) -> None:
    VALIDATOR.validate(json.loads(architecture.to_json()))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["version"], 2),
        (["widths", 0], 0),
        (["widths", 0], "16"),
        (["blocks"], []),
        (["blocks", 0, "edges", 0, "to"], "nowhere"),
        (["blocks", 0, "edges", 0, "from"], "output"),
        (["blocks", 0, "edges", 0, "strength"], 0),
        (["blocks", 0, "edges", 0, "colour"], "red"),
        (["reductions", 0], {"conv1": 0, "conv3": 0}),
        (["reductions", 0], {"conv1": 1}),
        (["space", "operations"], ["separable3", "separable3"]),
        (["space", "share"], "yes"),
        (["space", "levels"], 9),
        (["multiply_adds"], None),
    ],
)
def test_what_is_mangled_breaks_the_schema(place: list[Any], value: object) -> None:
    Draft202012Validator.check_schema(schema())
    mangled = complete()
    assert VALIDATOR.is_valid(mangled)
    part: Any = mangled
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    assert not VALIDATOR.is_valid(mangled)


def test_the_schema_asks_for_every_part() -> None:
    for field in complete():
        assert not VALIDATOR.is_valid({name: value for name, value in complete().items() if name != field})
    for field in complete()["space"]:
        space = {name: value for name, value in complete()["space"].items() if name != field}
        assert not VALIDATOR.is_valid(complete() | {"space": space})
