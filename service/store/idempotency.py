"""Requests that are made once however often they are sent (draft-ietf-httpapi-idempotency-key-header-07).

The key and the answer are written in the transaction that does what was asked: either both are there or neither is.
Two requests with one key at the same time wait for each other on the key's row.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, Select, select
from sqlalchemy.orm import Session

from service.store import changes
from service.store.database import insert, reading, writing
from service.store.models import IdempotencyKey


class KeyReused(RuntimeError):
    """A key that another request has used."""


@dataclass(frozen=True)
class Key:
    """What a caller sent: whose key it is, the key, and the request that it stands for."""

    scope: str
    key: str
    request: str
    """Method and path."""
    fingerprint: str
    """SHA-256 of method, path and body, in hexadecimal."""


@dataclass(frozen=True)
class Answer:
    """An answer as it is sent: status, JSON body and headers; `replayed` where it was given before."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    replayed: bool = False


def given(engine: Engine, key: Key | None) -> Answer | None:
    """The answer that was given to a key before, if any. Raises `KeyReused`."""
    if key is None:
        return None
    with reading(engine) as session:
        row = session.execute(_of(key)).scalar_one_or_none()
        return _again(key, row) if row is not None else None


def _of(key: Key) -> "Select[IdempotencyKey]":
    return select(IdempotencyKey).where(IdempotencyKey.scope == key.scope, IdempotencyKey.key == key.key)


def _again(key: Key, row: IdempotencyKey) -> Answer:
    if row.fingerprint != key.fingerprint:
        raise KeyReused(
            f"the key {key.key!r} stands for {row.request} with content {row.fingerprint[:12]}…, and this is "
            f"{key.request} with content {key.fingerprint[:12]}…"
        )
    return Answer(row.status or 200, row.body, row.headers or {}, replayed=True)


def once(engine: Engine, key: Key | None, do: Callable[[Session], Answer]) -> Answer:
    """What `do` answers, done in one transaction with the noting of the key; or the answer that was given before.

    Raises `KeyReused` where the key stands for another request, and whatever `do` raises: then nothing is noted, and
    the key is free.
    """
    with writing(engine) as session:
        if key is None:
            return do(session)
        values = {
            "scope": key.scope,
            "key": key.key,
            "request": key.request,
            "fingerprint": key.fingerprint,
            "created_at": changes.time_of(session),
        }
        claimed = session.execute(
            insert(session, IdempotencyKey).values(values).on_conflict_do_nothing().returning(IdempotencyKey.key)
        ).one_or_none()
        row = session.execute(_of(key)).scalar_one()
        if claimed is None:
            return _again(key, row)
        answer = do(session)
        row.status, row.body, row.headers = answer.status, answer.body, answer.headers
        return answer
