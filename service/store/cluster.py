"""What the dispatchers saw of the cluster, for whoever has no connection to Ray."""

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

from cachetools import TTLCache, cachedmethod
from sqlalchemy import Engine, select

from service.domain.scheduling import Capacity, Node
from service.store.database import FRESH_SECONDS, insert, reading, writing
from service.store.models import ClusterRow, now

_NEWEST = select(ClusterRow.nodes, ClusterRow.error, now() - ClusterRow.seen_at)


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
        self._read: TTLCache[Any, ClusterState | None] = TTLCache(1, FRESH_SECONDS)
        self._reading = threading.Lock()

    @cachedmethod(attrgetter("_read"), lock=attrgetter("_reading"))
    def read(self) -> ClusterState | None:
        """The newest report, or what it was `FRESH_SECONDS` ago; None where no dispatcher has ever made one."""
        with reading(self.engine) as session:
            found = session.execute(_NEWEST).one_or_none()
        if found is None:
            return None
        nodes, error, age = found
        return ClusterState(tuple(map(_node, nodes)), error, age)

    def report(self, reporter: str, nodes: Sequence[Node] | None, error: str | None) -> None:
        """Note what was seen; without `nodes` those of the last report stay."""
        seen: dict[str, Any] = {"error": error, "seen_at": now(), "reporter": reporter}
        if nodes is not None:
            seen["nodes"] = [asdict(node) for node in nodes]
        with writing(self.engine) as session:
            first = insert(session, ClusterRow).values({"id": 1, "nodes": []} | seen)
            session.execute(first.on_conflict_do_update(index_elements=["id"], set_=seen))
        with self._reading:
            self._read.clear()


def _node(told: dict[str, Any]) -> Node:
    """A node as it was reported, by an older dispatcher perhaps."""
    types = tuple(told.get("accelerator_types", ()))
    return Node(told["name"], told["cpus"], told["gpus"], types, told.get("possible", False))
