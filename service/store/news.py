"""Which searches have news for somebody who follows the events of all, without missing any.

Numbers of events are given out in order, but on PostgreSQL a transaction that has taken a lower one may be committed
after one with a higher one. So the number up to which a follower has seen everything, which outlives it in the
`counters`, may only be one that was there a while ago: `SETTLED_SECONDS`, longer than any transaction here takes.
"""

from sqlalchemy import Connection, Engine, func, select

from service.store.database import insert, reading, writing
from service.store.models import Counter, Event

SETTLED_SECONDS = 60.0


class News:
    """The events behind `engine` for the one follower of this `name`; processes that follow take turns by the `lock`.

    `lock` is the key of an advisory lock on PostgreSQL: any number that nobody else uses.
    """

    def __init__(self, engine: Engine, name: str, lock: int) -> None:
        self.engine, self.name, self.lock = engine, name, lock
        self._holding: Connection | None = None

    def hold(self) -> bool:
        """Whether this process is the one that follows, from now on until `let_go`; to be asked before each turn.

        The lock belongs to a connection without a transaction, and goes with it where the database does. On SQLite
        there is one process. Raises `SQLAlchemyError`.
        """
        if self.engine.dialect.name != "postgresql":
            return True
        if self._holding is None:
            connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            connection.detach()  # back in the pool it would go on holding the lock
            self._holding = connection
        return bool(self._holding.execute(select(func.pg_try_advisory_lock(self.lock))).scalar_one())

    def let_go(self) -> None:
        """Let another process follow."""
        if self._holding is not None:
            self._holding.close()
            self._holding = None

    def seen(self) -> int:
        """The number up to which all events have been seen."""
        with reading(self.engine) as session:
            row = session.get(Counter, self.name)
            return row.value if row is not None else 0

    def see(self, seq: int) -> None:
        """Note that all events up to a number have been seen."""
        with writing(self.engine) as session:
            first = insert(session, Counter).values(name=self.name, value=seq)
            session.execute(first.on_conflict_do_update(index_elements=["name"], set_={"value": seq}))

    def between(self, after: int, until: int) -> dict[str, int]:
        """The searches that have events with numbers behind `after`, up to `until`: ids, with the last such number."""
        query = (
            select(Event.search_id, func.max(Event.seq).label("last"))
            .where(Event.seq > after, Event.seq <= until)
            .group_by(Event.search_id)
            .order_by("last")
        )
        with reading(self.engine) as session:
            return {row.search_id: row.last for row in session.execute(query)}
