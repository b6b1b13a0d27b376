"""Which requests go by way of a proxy: those to this machine never do, whatever the environment says.

HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, in either case, are for the network beyond this machine. A proxy that is asked
for 127.0.0.1 looks for it on its own.
"""

import ipaddress
import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from nas_core.errors import InvalidValue

Made = TypeVar("Made", httpx.Client, httpx.AsyncClient)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def on_this_machine(url: str) -> bool:
    """Whether `url` names this machine by a loopback address or name, or by 0.0.0.0 as the one it listens at."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
        if host == "localhost" or host.endswith(".localhost"):
            return True
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def client(kind: Callable[..., Made], url: str, **options: Any) -> Made:
    """An httpx client, of the class `kind`, for requests to `url`: by way of the environment's proxy, or without.

    Raises `InvalidValue` where the environment names a proxy that cannot be used.
    """
    if on_this_machine(url):
        return kind(**options, **alone(url))
    try:
        return kind(**options)
    except ImportError as error:
        raise InvalidValue(
            "proxy", proxy_of(url), "a SOCKS proxy needs a package", "pip install 'httpx[socks]', or an HTTP proxy"
        ) from error
    except (ValueError, httpx.InvalidURL) as error:
        accepted = "http://HOST:PORT in HTTP_PROXY, HTTPS_PROXY and ALL_PROXY; hosts without brackets in NO_PROXY"
        raise InvalidValue("proxy", proxy_of(url), "the environment's proxies cannot be used", accepted) from error


def alone(url: str) -> dict[str, Any]:
    """The options of an httpx client for requests to `url` on this machine."""
    # Without the environment, since httpx reads all of it at once, and fails where a part is malformed.
    options: dict[str, Any] = {"trust_env": False}
    if url.startswith("https:"):
        options["verify"] = httpx.create_ssl_context()  # which SSL_CERT_FILE may change
    return options


def proxy_of(url: str) -> str | None:
    """The proxy that a request to `url` goes by way of, with the variable that names it and without credentials."""
    parts = urlsplit(url)
    if on_this_machine(url) or not parts.hostname or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    kind = parts.scheme if parts.scheme in proxies else "all"
    if kind not in proxies:
        return None
    named = urlsplit(proxies[kind] if "://" in proxies[kind] else f"http://{proxies[kind]}")
    return f"{named.scheme}://{named.netloc.rpartition('@')[2]} ({kind.upper()}_PROXY)"


def spare_loopback(environment: MutableMapping[str, str] = os.environ) -> None:
    """Except this machine from the proxies of a process and of all that it starts, for libraries that read no_proxy."""
    environment.update(direct(environment))


def direct(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that except this machine from the proxies that `environment` names."""
    known = dict.fromkeys(name for key in ("no_proxy", "NO_PROXY") for name in _listed(environment.get(key, "")))
    hosts = ",".join(dict.fromkeys([*known, *LOOPBACK]))
    return {"no_proxy": hosts, "NO_PROXY": hosts}


def _listed(hosts: str) -> Iterator[str]:
    return filter(None, (host.strip() for host in hosts.split(",")))
