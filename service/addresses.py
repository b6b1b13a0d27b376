"""Which addresses a receiver's URL leads to, by the names of the network, and whether these may be sent to."""

import queue
import socket
import threading
from collections.abc import Callable, Sequence

from service.domain.receivers import Network, may_be_sent_to, place_of

Resolve = Callable[[str, int], Sequence[str]]
"""From a host and a port to IP addresses; raises `OSError`."""
LOOK_UP_SECONDS = 5.0


class NowhereToSend(RuntimeError):
    """A URL leads nowhere, or where nothing may be sent; the text says which."""


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the operating system knows them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def addresses_of(url: str, networks: Sequence[Network], resolve: Resolve = resolve) -> list[str]:
    """The addresses that a URL leads to now. Raises `NowhereToSend` where one of them may not be sent to, or there is
    none, and `InvalidValue` for a URL that is none.

    To send to a name again would look it up again, and find another address: so send to one of these.
    """
    return judge(*place_of(url), networks, resolve)


def judge(host: str, port: int, networks: Sequence[Network], resolve: Resolve = resolve) -> list[str]:
    """The same of a host and a port."""
    found = _in_time(lambda: resolve(host, port))
    if isinstance(found, Exception):
        raise NowhereToSend(f"{host} cannot be looked up: {getattr(found, 'strerror', None) or found}")
    for address in found:
        if not may_be_sent_to(address, networks):
            raise NowhereToSend(f"{host} leads to {address}, which is not a public address")
    return list(found)


def _in_time(ask: Callable[[], Sequence[str]]) -> Sequence[str] | Exception:
    """What `ask` answers, or its error. It cannot be stopped, so it is left alone where it takes too long."""
    answered: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            answered.put(ask() or OSError("it has no address"))
        except (OSError, ValueError) as error:  # ValueError: no name at all
            answered.put(error)

    threading.Thread(target=run, name="look-up", daemon=True).start()
    try:
        return answered.get(timeout=LOOK_UP_SECONDS)
    except queue.Empty:
        return TimeoutError(f"it took longer than {LOOK_UP_SECONDS:g} s")
