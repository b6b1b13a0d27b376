"""How long the work for a request may go on: until a time, and while whoever asked is still there.

Work that may take long calls `carry_on` between its steps. It is told in a context variable, which threads that work
for a request inherit, so that nobody has to hand it on.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class OutOfPatience(RuntimeError):
    """The work took too long, or nobody waits for it any more."""


class Patience:
    """`seconds` to work for a request, from now on; `gone` is set where the client has left."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.until = seconds, time.monotonic() + seconds
        self.gone = threading.Event()

    @contextmanager
    def having(self) -> Iterator[None]:
        """Hold the work in this context to it."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)


_CURRENT = ContextVar[Patience | None]("patience", default=None)


def carry_on() -> None:
    """Raise `OutOfPatience` where the work in this context is to stop."""
    patience = _CURRENT.get()
    if patience is None:
        return
    if patience.gone.is_set():
        raise OutOfPatience("the client has disconnected")
    if time.monotonic() > patience.until:
        raise OutOfPatience(f"checking this request took more than {patience.seconds:g} seconds")
