"""Requests whose check takes a processor: a few at a time, and none for longer than anybody waits for it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, Request

from service.domain.patience import Patience
from service.web.context import ContextDep

CHECK_SECONDS = 10.0
"""How long a request may take to check."""


async def checked(request: Request, service: ContextDep) -> AsyncIterator[None]:
    """Let a request's check have its turn, and stop it where it takes too long or its client leaves."""
    if request.state.caller is None:  # which is refused
        yield
        return
    await request.body()  # so that what comes next can only be that the client leaves
    patience = Patience(CHECK_SECONDS)
    watching = asyncio.create_task(_watch(request, patience))
    try:
        async with service.checks.turn(request.state.caller.key):
            with patience.having():
                yield
    finally:
        watching.cancel()


async def _watch(request: Request, patience: Patience) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    patience.gone.set()


CHECKED: Any = Depends(checked)
"""What makes a route one whose requests are checked in turns."""
