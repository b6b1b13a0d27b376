"""What the dispatchers saw of the cluster, for whoever has no connection to Ray."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Engine, select

from service.domain.scheduling import Capacity, Node
from service.store.database import insert, reading, writing
from service.store.models import ClusterRow, now


@dataclass(frozen=True)
class ClusterState:
    """The newest report: the nodes, those that may be added too, why Ray could not be asked, and its age in seconds."""

    nodes: tuple[Node, ...]
    error: str | None
    age: float

    @property
    def capacity(self) -> Capacity:
        """What the nodes have together; no limit where none has been seen."""
        return Capacity.of(self.nodes) if self.nodes else Capacity()


class ClusterStore:
    """The one row about the cluster, in the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def read(self) -> ClusterState | None:
        """The newest report; None where no dispatcher has ever made one."""
        with reading(self.engine) as session:
            found = session.execute(select(ClusterRow, now())).one_or_none()
        if found is None:
            return None
        row, time = found
        return ClusterState(tuple(map(_node, row.nodes)), row.error, time - row.seen_at)

    def report(self, reporter: str, nodes: Sequence[Node] | None, error: str | None) -> None:
        """Note what was seen; without `nodes` those of the last report stay."""
        seen: dict[str, Any] = {"error": error, "seen_at": now(), "reporter": reporter}
        if nodes is not None:
            seen["nodes"] = [asdict(node) for node in nodes]
        with writing(self.engine) as session:
            first = insert(session, ClusterRow).values({"id": 1, "nodes": []} | seen)
            session.execute(first.on_conflict_do_update(index_elements=["id"], set_=seen))


def _node(told: dict[str, Any]) -> Node:
    """A node as it was reported, by an older dispatcher perhaps."""
    types = tuple(told.get("accelerator_types", ()))
    return Node(told["name"], told["cpus"], told["gpus"], types, told.get("possible", False))
