"""Notifications: what a webhook would be told, in words, by e-mail or to a chat, as an Apprise URL says.

A process of its own sends them (`service.notifier`).
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas_core.errors import InvalidValue
from service.addresses import NowhereToSend, Resolve, judge
from service.domain.receivers import Network, check_notified

COMMAND = (sys.executable, "-m", "service.notifier")
KEPT = (
    *("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "HOME", "TMPDIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
"""What the process inherits of the environment: neither secrets nor proxies."""
CHECK_SECONDS = 20.0
SEND_SECONDS = 45.0
"""How long sending some messages may take as a whole; below `service.store.webhooks.LEASE_SECONDS`."""
KINDS = {"succeeded": "success", "failed": "failure", "cancelled": "warning"}
_PLAIN = str.maketrans(
    {
        "<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}",
        ">": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}",
        "@": "@\N{ZERO WIDTH SPACE}",
    }
)
"""Chats would take a name such as @everyone or <!channel> for a call."""


@dataclass(frozen=True)
class Sent:
    """What came of a message: seconds, and why the receiver did not accept it, if so."""

    seconds: float
    reason: str | None


def check(url: str, schemes: Sequence[str], networks: Sequence[Network], resolve: Resolve) -> str:
    """How a notification's URL is shown, without its secrets. Raises `InvalidValue`, without any of it.

    Where its host is known before something is sent, which is an e-mail server's, it is judged here already.
    """
    check_notified(url, schemes)
    try:
        done = subprocess.run(
            COMMAND, input=_line(url, networks, ()), env=_environment(), capture_output=True, timeout=CHECK_SECONDS
        )
        told: Mapping[str, Any] = json.loads(done.stdout.partition(b"\n")[0])
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise InvalidValue("url", "…", "Apprise could not read it", "see https://appriseit.com/services/") from error
    if "wrong" in told:
        raise InvalidValue("url", "…", told["wrong"], "as https://appriseit.com/services/ describes it")
    if told["host"]:
        try:
            judge(told["host"], told["port"], networks, resolve)
        except NowhereToSend as error:
            accepted = "a server outside; the operator may allow others by YOSO_WEBHOOK_NETWORKS"
            raise InvalidValue("url", "…", str(error), accepted) from error
    return str(told["shown"])


async def send(url: str, documents: Sequence[Mapping[str, Any]], networks: Sequence[Network]) -> list[Sent]:
    """Send what these documents say, one after the other; what came of each."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    )
    assert process.stdin is not None and process.stdout is not None
    told: list[Mapping[str, Any]] = []
    reason = f"no answer within {SEND_SECONDS:g} s"
    try:
        async with asyncio.timeout(SEND_SECONDS):
            process.stdin.write(_line(url, networks, [in_words(document) for document in documents]))
            process.stdin.close()
            async for line in process.stdout:
                told.append(json.loads(line))
        reason = told[0].get("wrong", "the process died that sent it") if told else "no process could send it"
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    done = {one["number"]: Sent(one["seconds"], one["reason"]) for one in told if "number" in one}
    return [done.get(number, Sent(0.0, reason)) for number in range(len(documents))]


def in_words(document: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a message is called, what it says, and whether that is good news, for Apprise."""
    data = document["data"]
    if "status" not in data:
        return "Yoso: a test", f"This is what messages about the project {data['project']} look like.", "info"
    name = " ".join(f"{data['name']}".translate(_PLAIN).split())
    several, status = data["kind"] == "finals", data["status"]
    what = "finals" if several else f"the {data['kind']}"
    if status == "running":
        state = "are running" if several else "is running"
    elif status == "cancelled":
        state = "were cancelled" if several else "was cancelled"
    else:
        state = f"have {status}" if several else f"has {status}"
    lines = [f"Project: {data['project']}", f"Id: {data['id']}"]
    page = data["links"]["page"]
    if page.startswith("http"):
        lines.append(page)
    return f"Yoso: {what} {name} {state}", "\n".join(lines), KINDS.get(status, "info")


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in KEPT if name in os.environ} | {"no_proxy": "*"}


def _line(url: str, networks: Sequence[Network], messages: Sequence[tuple[str, str, str]]) -> bytes:
    asked = {"url": url, "networks": " ".join(map(str, networks)), "messages": list(messages)}
    return json.dumps(asked).encode() + b"\n"
