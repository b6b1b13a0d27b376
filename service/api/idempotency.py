"""The header `Idempotency-Key`: a request that is sent again is answered as it was the first time.

https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from nas_core.errors import InvalidValue
from service.api.context import Context, ProjectDep
from service.store import idempotency
from service.store.idempotency import Answer, Key

LONGEST = 255


async def key_of(
    request: Request,
    project: ProjectDep,
    idempotency_key: Annotated[
        str | None,
        Header(description="Any text that is the request's own; sent again with it, the request is done only once."),
    ] = None,
) -> Key | None:
    """What the request says of itself. Raises `InvalidValue` for a key that is none."""
    if idempotency_key is None:
        return None
    body = await request.body()
    with contextlib.suppress(ValueError):  # what is not JSON is compared as it is
        body = json.dumps(json.loads(body), sort_keys=True).encode()
    return key_for(project, idempotency_key, f"{request.method} {request.url.path}", body)


def key_for(project: str | None, text: str, named: str, body: bytes) -> Key:
    """The key `text` of a request, which is told by its method and path and its `body`. Raises `InvalidValue`."""
    if not text or len(text) > LONGEST or not text.isprintable():
        raise InvalidValue("Idempotency-Key", text[:LONGEST], "not a key", f"1 to {LONGEST} printable characters")
    return Key(project or "", text, named, hashlib.sha256(named.encode() + b"\0" + body).hexdigest())


KeyDep = Annotated[Key | None, Depends(key_of)]


def once(service: Context, key: Key | None, do: Callable[[Session], Answer]) -> Response:
    """The answer of `do`, which is done once for a key; then the dispatcher is woken."""
    answer = idempotency.once(service.searches.engine, key, do)
    service.wake()
    return _response(answer)


def given(service: Context, key: Key | None) -> Response | None:
    """The answer that a key got before, if any: what was accepted is not held to the rules once more."""
    answer = idempotency.given(service.searches.engine, key)
    return _response(answer) if answer is not None else None


def _response(answer: Answer) -> Response:
    headers = answer.headers | ({"Idempotency-Replayed": "true"} if answer.replayed else {})
    return JSONResponse(answer.body, answer.status, headers)
