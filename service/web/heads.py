"""HEAD, which every resource that has GET must answer (RFC 9110, section 9.3.2): probes and `curl -I` ask so."""

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Heads:
    """ASGI middleware that answers HEAD with what GET would begin with; nothing further is worked for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the status and the headers that GET has."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        with anyio.CancelScope() as answering:

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    answering.cancel()
                    await anyio.lowlevel.checkpoint()

            await self.app({**scope, "method": "GET"}, receive, sending)
