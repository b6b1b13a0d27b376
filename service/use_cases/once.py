"""Requests that are done once however often they are sent, and what came of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from sqlalchemy.orm import Session

from service.store import idempotency
from service.store.idempotency import Answer, Key
from service.use_cases.service import Service

T = TypeVar("T")


@dataclass(frozen=True)
class Done(Generic[T]):
    """What a request came to, now or, where it is `replayed`, when it was sent with the same key before."""

    value: T
    replayed: bool = False


def once(
    service: Service, key: Key | None, do: Callable[[Session], T], status: int = 200, place: str | None = None
) -> Done[T]:
    """What `do` returns, as JSON has it, done once for a key; then the dispatcher is woken.

    `status`, and `place` with the value's `id` in it, are what a replica of the last release answers with, where the
    request is sent to it again. Raises `KeyReused`, and what `do` raises.
    """

    def answer(session: Session) -> Answer:
        value: Any = do(session)
        return Answer(status, value, {"Location": place.format(value["id"])} if place else {})

    answered = idempotency.once(service.searches.engine, key, answer)
    service.wake()
    return Done(cast("T", answered.body), answered.replayed)


def before(service: Service, key: Key | None) -> Done[Any] | None:
    """What a key's request came to before, if it did: what was accepted is not held to the rules once more."""
    answered = idempotency.given(service.searches.engine, key)
    return Done(answered.body, replayed=True) if answered is not None else None
