"""Groups of nodes that an autoscaler adds and removes: what the cluster may come to have.

Ray adds a node when something waits for it, and nothing waits in Ray that was not launched. So what a group may still
grow by counts as room: a search that fits there is launched ahead of the node that it will run on.
"""

import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nas_core.errors import InvalidValue
from service.domain.scheduling import Node

FIELD = "YOSO_NODE_GROUPS"
ACCEPTED = (
    'a JSON list such as [{"name": "gpu", "cpus": 8, "gpus": 1, "accelerator_types": ["A100"], "max_nodes": 10}], or '
    "unset"
)


class NodeGroup(BaseModel):
    """Nodes that are alike, of which the autoscaler keeps `max_nodes` at most.

    `name` is what the autoscaler calls the group: a worker group's `groupName` in KubeRay, a node type in Ray's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1, max_length=63)
    max_nodes: int = Field(ge=0, le=1000)
    cpus: float = Field(ge=0, le=1e6, allow_inf_nan=False)
    gpus: float = Field(0.0, ge=0, le=1e4, allow_inf_nan=False)
    accelerator_types: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()

    @property
    def node(self) -> Node:
        """One that may still be added."""
        return Node(self.name, self.cpus, self.gpus, tuple(sorted(self.accelerator_types)), possible=True)

    def has(self, label: str | None, node: Node) -> bool:
        """Whether a node that is there, with its group's name where Ray tells it, is one of the group."""
        if label is not None:
            return label == self.name
        own = self.node
        return (node.cpus, node.gpus, node.accelerator_types) == (own.cpus, own.gpus, own.accelerator_types)


_GROUPS = TypeAdapter(tuple[NodeGroup, ...])


def parse(text: str) -> tuple[NodeGroup, ...]:
    """The groups of a JSON text; an empty one has none.

    Raises `InvalidValue`, with the place in the text, for what is none, and for a name that is there twice.
    """
    if not text.strip():
        return ()
    try:
        groups = _GROUPS.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in first["loc"])
        shown = first["input"] if place else text
        raise InvalidValue(f"{FIELD}{place}", _short(shown), first["msg"], ACCEPTED) from error
    names = [group.name for group in groups]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidValue(FIELD, twice[0], "two groups have this name", ACCEPTED)
    return groups


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 200 else f"{text[:200]}…"


def grown(nodes: Sequence[tuple[str | None, Node]], groups: Sequence[NodeGroup]) -> list[Node]:
    """The nodes that are there, each given with the name of its group where that is known, and those that may come."""
    left = {group.name: group.max_nodes for group in groups}
    for label, node in nodes:
        own = next((group for group in groups if group.has(label, node)), None)
        if own is not None:
            left[own.name] -= 1
    return [node for _, node in nodes] + [group.node for group in groups for _ in range(left[group.name])]
