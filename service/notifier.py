"""The process that sends notifications by Apprise: `python -m service.notifier`, which `service.notifications` starts.

It is told on its only line of input where to and what, and answers in lines of JSON: first how the URL is shown, or
what is wrong with it, and then what came of each message. A process of its own, since Apprise's plugins connect on
their own: here every connection of any of them is judged as it is made, by whatever name, redirect or proxy it came
about, there are no secrets in the environment, and it can be killed.
"""

import errno
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import apprise

from service.domain.receivers import Network, may_be_sent_to, parse_networks

LONGEST_REASON = 200
CONNECTS = ("socket.connect", "socket.sendto", "socket.sendmsg")
STARTS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork", "os.forkpty")


class Guard:
    """Refuses connections of this process to where nothing may be sent, and all that would start another process."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = networks
        self.refused: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See https://docs.python.org/3/library/audit_events.html; what is raised here is raised where it happens."""
        if event in STARTS:
            raise PermissionError(errno.EACCES, "a notification starts no process")
        if event not in CONNECTS or (address := arguments[1]) is None:
            return
        host = address[0] if isinstance(address, tuple) else "a socket of this machine"
        try:
            if may_be_sent_to(host, self.networks):
                return
        except ValueError:
            pass
        self.refused.append(f"it leads to {host}, which is not a public address")
        raise PermissionError(errno.EACCES, "not an allowed address")


class Complaints(logging.Handler):
    """What Apprise complains of, without anything that the URL says."""

    def __init__(self, url: str) -> None:
        super().__init__(logging.WARNING)
        words = {word for text in (url, unquote(url)) for word in re.split(r"[/:@?&=#,]+", text) if len(word) > 3}
        self.words = sorted(words, key=len, reverse=True)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        text = " ".join(record.getMessage().split())
        for word in self.words:
            text = text.replace(word, "…")
        self.told.append(text[:LONGEST_REASON])


def main() -> None:
    """Do what the line of input says."""
    asked = json.loads(sys.stdin.buffer.readline())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a plugin prints must not come between the lines

    def tell(**said: Any) -> None:
        print(json.dumps(said), file=answers, flush=True)

    guard, complaints = Guard(parse_networks(asked["networks"])), Complaints(asked["url"])
    logging.getLogger("apprise").addHandler(complaints)
    asset = apprise.AppriseAsset(app_id="Yoso", app_desc="Yoso", app_url="", image_url_mask="", image_url_logo="")
    plugin = apprise.Apprise.instantiate(asked["url"], asset=asset, suppress_exceptions=True)
    if plugin is None:
        tell(wrong="it is not one that Apprise can use")
        return
    host = getattr(plugin, "smtp_host", None)
    tell(
        shown=str(plugin.url(privacy=True)),  # type: ignore[no-untyped-call]
        host=host,
        port=getattr(plugin, "port", None) or 25,
    )
    sys.addaudithook(guard)
    for number, (title, body, kind) in enumerate(asked["messages"]):
        began, reason = time.monotonic(), None
        complaints.told.clear()
        guard.refused.clear()
        try:
            if not plugin.notify(body=body, title=title, notify_type=kind, body_format="text"):
                reason = "the receiver did not accept it"
        except Exception as error:
            reason = type(error).__name__
        if reason is not None:
            reason = next(iter(guard.refused or complaints.told), reason)
        tell(number=number, seconds=round(time.monotonic() - began, 3), reason=reason)


if __name__ == "__main__":
    main()
