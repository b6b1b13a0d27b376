"""The header `Idempotency-Key`: a request that is sent again is answered as it was the first time.

https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07
"""

import contextlib
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.responses import JSONResponse

from nas_core.errors import InvalidValue
from service.store.idempotency import Key
from service.use_cases.once import Done
from service.web.context import ProjectDep

LONGEST = 255


async def key_of(
    request: Request,
    project: ProjectDep,
    idempotency_key: Annotated[
        str | None,
        Header(description="A unique text. A request that is sent again with the same key is executed only once."),
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


def key_of_form(project: str | None, form: Mapping[str, Sequence[str]], named: str, asked: Any) -> Key:
    """The key of a form whose field `key` has one that was made with its page, and what it asks for, as JSON has it."""
    return key_for(
        project, form.get("key", [secrets.token_hex()])[0], named, json.dumps(asked, sort_keys=True).encode()
    )


KeyDep = Annotated[Key | None, Depends(key_of)]


def created_at(above: str, made: Done[Any]) -> Response:
    """The answer to a request that made something: it is at its `id` below a path."""
    return done(made, 201, {"Location": above + made.value["id"]})


def done(did: Done[Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """What a request came to, and whether that was so before."""
    replayed = {"Idempotency-Replayed": "true"} if did.replayed else {}
    return JSONResponse(did.value, status, {**(headers or {}), **replayed})
