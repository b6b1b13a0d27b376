"""Who is told of what becomes of searches: events, addresses that may be sent to, and signatures.

The signature is that of Standard Webhooks
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Sequence
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from nas_core.errors import InvalidValue
from service.domain.lifecycle import Status

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PREFIX = "whsec_"
LONGEST_URL = 2000
ACCEPTED = "the http or https URL of a server outside, such as https://hooks.example.org/yoso"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_INSIDE = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "64:ff9b:1::/48")))
"""Inside, although Python or some release of it says otherwise: where Azure and Oracle's cloud tell their machines
secrets, and what stands for private IPv4 addresses."""


SCHEMES = (
    *("mailto", "mailtos", "slack", "discord", "workflows", "tgram", "gchat"),
    *("mmost", "mmosts", "ntfy", "ntfys", "matrix", "matrixs"),
)
"""By which notifications may be sent unless the operator says otherwise: e-mail, and chats that teams use."""
PARAMETERS = {
    *("to", "from", "name", "cc", "bcc", "reply", "smtp", "mode", "user", "pass", "format", "footer", "image", "batch"),
    *("timestamp", "thread", "topic", "channel", "priority", "tags", "region"),
}
"""What a notification's URL may set behind its question mark: others read files of this machine, or leave certificates
unchecked."""


class Event(StrEnum):
    """What may be told of: states that a search or a sweep has come to."""

    RUNNING = Status.RUNNING
    SUCCEEDED = Status.SUCCEEDED
    FAILED = Status.FAILED
    CANCELLED = Status.CANCELLED


ENDS = (Event.SUCCEEDED, Event.FAILED, Event.CANCELLED)
PAUSES = (10.0, 60.0, 300.0, 900.0, 3600.0, 3 * 3600.0, 6 * 3600.0, 12 * 3600.0)
"""Seconds until a delivery that was not taken is tried again; after the last, 22 hours after the first, it is given
up."""


def new_secret() -> str:
    """What a receiver knows signatures by: the specification's prefix and 256 random bits in base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """What `webhook-signature` says of a message that is sent at a time, in whole seconds since 1970."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed).decode()}"


def place_of(url: str) -> tuple[str, int]:
    """The host and the port that a URL leads to. Raises `InvalidValue`, without what the URL says, for one that is
    none, or that has a user or a password in it.
    """
    told = "not the URL of a receiver"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InvalidValue("url", "…", told, ACCEPTED) from None
    if len(url) > LONGEST_URL:
        raise InvalidValue("url", "…", f"longer than {LONGEST_URL} characters", "a shorter one")
    if parts.username is not None or parts.password is not None:
        raise InvalidValue("url", "…", "has a user or a password in it", "one without: receivers check signatures")
    plain = url.isascii() and url.isprintable() and not any(sign in url for sign in ' "<>\\^`{|}')
    if parts.scheme not in ("http", "https") or not host or port == 0 or "#" in url or not plain:
        raise InvalidValue("url", "…", told, f"{ACCEPTED}, in ASCII and without a fragment")
    return host, port or {"http": 80, "https": 443}[parts.scheme]


def is_notified(url: str) -> bool:
    """Whether a URL is a notification's, and not that of a webhook."""
    return not url.lower().startswith(("http:", "https:"))


def check_notified(url: str, schemes: Sequence[str]) -> str:
    """The scheme of a notification's URL. Raises `InvalidValue`, without the URL, where it may not be used."""
    scheme, slashes, _ = url.partition("://")
    if not slashes or scheme.lower() not in schemes:
        told = f"{ACCEPTED}, or a notification's: {', '.join(f'{one}://' for one in schemes)}"
        raise InvalidValue("url", "…", "not the URL of a receiver", told)
    if len(url) > LONGEST_URL or not url.isprintable():
        raise InvalidValue(
            "url",
            "…",
            f"longer than {LONGEST_URL} characters, or with characters that cannot be printed",
            "a shorter one",
        )
    for pair in re.split("[?&;]", url)[1:]:
        name = unquote(pair.partition("=")[0])
        if name.lower() not in PARAMETERS:
            told = f"of parameters only {', '.join(sorted(PARAMETERS))}; others in the URL as %3F, %26 and %3B"
            raise InvalidValue("url", "…", "it has a parameter that cannot be used here", told)
    return scheme.lower()


def parse_schemes(text: str) -> tuple[str, ...]:
    """The schemes of a setting. Raises `InvalidValue`."""
    found = tuple(dict.fromkeys(text.replace(",", " ").lower().split()))
    for one in found:
        if not re.fullmatch("[a-z0-9]{1,20}", one) or one in ("http", "https"):
            raise InvalidValue("YOSO_NOTIFY_SCHEMES", text, f"{one!r} is not a scheme of Apprise", " ".join(SCHEMES))
    return found


def may_be_sent_to(address: str, networks: Sequence[Network]) -> bool:
    """Whether an IP address is one of the Internet's, or in one of the `networks` that the operator allows.

    An IPv6 address that stands for an IPv4 one is judged as that.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
        ip = ip.ipv4_mapped or ip.sixtofour or translated or (ip.teredo[1] if ip.teredo else ip)
    if any(ip in network for network in networks):
        return True
    inside = (
        ip.is_multicast
        or ip.is_reserved
        or any(ip in network for network in _INSIDE)
        or getattr(ip, "is_site_local", False)
    )
    return ip.is_global and not inside


def parse_networks(text: str) -> tuple[Network, ...]:
    """The networks of a setting. Raises `InvalidValue`."""
    try:
        return tuple(ipaddress.ip_network(one) for one in text.replace(",", " ").split())
    except ValueError as error:
        raise InvalidValue(
            "YOSO_WEBHOOK_NETWORKS", text, str(error), "networks such as 10.20.0.0/16,fd00:20::/32"
        ) from error
