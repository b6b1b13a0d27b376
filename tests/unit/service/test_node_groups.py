"""Clusters that an autoscaler grows: searches are launched ahead of the nodes that they will run on."""

import json
import time
from contextlib import closing
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nas_core.errors import InvalidValue
from service import cli
from service.dispatch.dispatcher import GROUP_LABEL, Dispatcher
from service.domain.node_groups import NodeGroup, grown, parse
from service.domain.scheduling import Ask, Capacity, Node, Room
from service.settings import Settings
from service.store.database import FRESH_SECONDS
from tests import seeding
from tests.ray_double import RayDouble

GPU = NodeGroup(name="gpu", cpus=8, gpus=1, accelerator_types=("A100",), max_nodes=3)
CPU = NodeGroup(name="cpu", cpus=4, max_nodes=2)


def test_groups_are_read_from_the_environment(tmp_path: Any) -> None:
    text = json.dumps([GPU.model_dump(), CPU.model_dump()])
    settings = Settings.from_environment({"YOSO_STORAGE": str(tmp_path), "YOSO_NODE_GROUPS": text})
    assert settings.node_groups == (GPU, CPU)
    assert parse("") == parse(" ") == ()


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("gpu", "YOSO_NODE_GROUPS", "Invalid JSON"),
        ('{"name": "gpu"}', "YOSO_NODE_GROUPS", "valid"),
        ('[{"name": "gpu", "cpus": 8}]', "YOSO_NODE_GROUPS[0].max_nodes", "Field required"),
        ('[{"name": "gpu", "cpus": "8", "max_nodes": 1}]', "YOSO_NODE_GROUPS[0].cpus", "valid number"),
        ('[{"name": "gpu", "cpus": 8, "max_nodes": -1}]', "YOSO_NODE_GROUPS[0].max_nodes", "greater than or equal"),
        ('[{"name": "gpu", "cpus": NaN, "max_nodes": 1}]', "YOSO_NODE_GROUPS[0].cpus", "finite"),
        ('[{"name": "gpu", "cpus": 8, "max_nodes": 1, "gpu": 1}]', "YOSO_NODE_GROUPS[0].gpu", "not permitted"),
        ('[{"name": "a", "cpus": 8, "max_nodes": 1}, {"name": "a", "cpus": 4, "max_nodes": 1}]', "YOSO_NODE_GROUPS",
         "two groups have this name"),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_are_refused_by_place(text: str, field: str, reason: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        parse(text)
    assert refused.value.field == field and reason in refused.value.reason


nodes = st.tuples(
    st.sampled_from([None, "gpu", "cpu", "head"]),
    st.builds(Node, st.just("n"), st.sampled_from([0.0, 4.0, 8.0]), st.sampled_from([0.0, 1.0]), st.just(())),
)


@given(st.lists(nodes, max_size=8))
def test_a_group_grows_to_its_most_and_not_beyond(there: list[tuple[str | None, Node]]) -> None:
    found = grown(there, [GPU, CPU])
    assert found[: len(there)] == [node for _, node in there]
    for group in (GPU, CPU):
        own = [label for label, node in there if group.has(label, node)]
        more = [node for node in found[len(there) :] if node.name == group.name]
        assert len(more) == max(0, group.max_nodes - len(own)) and all(node == group.node for node in more)


def test_nodes_that_are_there_are_filled_before_others_are_added() -> None:
    there = Node("a", 4, 0)
    room = Room(Capacity.of([CPU.node, there, CPU.node]), [])
    room.take(Ask("first", 2, 4, 0))
    assert {space.node.name: space.cpus for space in room.spaces if not space.node.possible} == {"a": 0}
    room.take(Ask("second", 1, 2, 0))
    assert sorted(space.cpus for space in room.spaces if space.node.possible) == [2, 4]


def test_a_search_is_launched_ahead_of_its_node(app: FastAPI, url: str) -> None:
    """The head alone is there, without CPUs. What more the groups could never have is refused."""
    ray, group = RayDouble(cpus=0), NodeGroup(name="cpu", cpus=1, max_nodes=2)
    with closing(ray.ray_jobs()) as jobs:
        context = seeding.parts(app)
        without = Dispatcher(context.searches, context.runs, jobs, python="python")
        search_id = seeding.queue(app)
        without.turn()
        assert context.searches.get(search_id).status == "queued", "no node could run it"
        dispatcher = Dispatcher(context.searches, context.runs, jobs, python="python", node_groups=[group])
        dispatcher.turn()
        dispatcher.turn()
        search = context.searches.get(search_id)
        assert search.status == "waiting" and "may grow to 2 CPUs" in str(search.reason)
        shown = CliRunner().invoke(cli.app, ["cluster", "--url", url])
        assert "1 node, and 2 that may be added" in shown.stdout
        refused = CliRunner().invoke(
            cli.app, ["submit", "digits", "-b", "300k", "--workers", "3", "--json", "--url", url]
        )
        assert refused.exit_code == cli.MISUSED and "at most 2 such workers" in refused.output
        told = json.loads(CliRunner().invoke(cli.app, ["cluster", "--json", "--url", url]).stdout)
        assert [node["possible"] for node in told["nodes"]] == [False, True, True]
        ray.labels, ray.cpus = {GROUP_LABEL: "cpu"}, 1
        dispatcher._measured = float("-inf")
        dispatcher.turn()
        time.sleep(FRESH_SECONDS)
        told = json.loads(CliRunner().invoke(cli.app, ["cluster", "--json", "--url", url]).stdout)
        assert [node["possible"] for node in told["nodes"]] == [False, True], "one of the two has come"
