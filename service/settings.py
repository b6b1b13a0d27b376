"""The service's settings, from YOSO_* environment variables."""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit

from nas_core.errors import InvalidValue, did_you_mean
from service.domain.grants import NAME, Grant
from service.domain.lifecycle import WAITING_SECONDS
from service.domain.node_groups import NodeGroup
from service.domain.node_groups import parse as parse_groups
from service.domain.rayjobs import Template
from service.domain.receivers import SCHEMES, Network, parse_networks, parse_schemes
from service.domain.retention import BY_DEFAULT, FOREVER, Kept, Part, Retention
from service.domain.sign_on import SignOn

DEFAULT_PORT = 8765
SECRETS = (
    "YOSO_TOKENS",
    "YOSO_DATABASE_URL",
    "YOSO_DATABASE_PASSWORD",
    "YOSO_MLFLOW_URI",
    "YOSO_OTLP_URL",
    "YOSO_OIDC_CLIENT_SECRET",
    "YOSO_RATE_STORAGE",
)
"""The settings that may be read from a file, which is named by the same variable with _FILE behind it."""
KNOWN = (
    *SECRETS,
    *(f"{name}_FILE" for name in SECRETS),
    *("YOSO_STORAGE", "YOSO_RAY_ADDRESS", "YOSO_EXECUTOR", "YOSO_RAYJOB_TEMPLATE", "YOSO_NODE_GROUPS"),
    *("YOSO_HOST", "YOSO_PORT", "YOSO_PUBLIC_URL", "YOSO_ALLOWED_HOSTS", "YOSO_DATA_ROOTS", "YOSO_LOG_FORMAT"),
    *("YOSO_MAX_BODY", "YOSO_RATE", "YOSO_RATE_BURST", "YOSO_MAX_STREAMS"),
    *("YOSO_INSPECTION_SECONDS", "YOSO_WAITING_SECONDS", "YOSO_STORAGE_SECONDS"),
    *("YOSO_KEEP_DAYS", "YOSO_KEEP_CHECKPOINTS_DAYS", "YOSO_KEEP_EVENTS_DAYS", "YOSO_KEEP_LOGS_DAYS"),
    *("YOSO_KEEP_AUDIT_DAYS", "YOSO_KEEP_DELIVERIES_DAYS", "YOSO_WEBHOOK_NETWORKS", "YOSO_NOTIFY_SCHEMES"),
    *("YOSO_OIDC_ISSUER", "YOSO_OIDC_CLIENT_ID", "YOSO_OIDC_GRANTS"),
    *("YOSO_OIDC_CLAIM", "YOSO_OIDC_SCOPES", "YOSO_OIDC_NAME"),
)
"""The settings of the service."""
ELSEWHERE = (
    *("YOSO_URL", "YOSO_TOKEN", "YOSO_PROFILE"),
    *("YOSO_ATTEMPT", "YOSO_CHECKPOINT_SECONDS", "YOSO_RESIZE_SECONDS", "YOSO_RAY_FOLDER"),
    *("YOSO_LISTEN", "YOSO_DATA_FOLDER", "YOSO_SECRETS_FOLDER", "YOSO_GPUS", "YOSO_WORKER_CPUS"),
    "YOSO_GPU_WORKER_CPUS",
)
"""What the environment may hold for the clients, for workers and a Ray, and for docker-compose.yml."""
SERVICE_LINK = re.compile(r"YOSO_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)", re.ASCII)
"""Variables that Kubernetes sets for a Service called yoso
(https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables)."""
HOST = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?", re.ASCII)
"""A host as the header Host names it: a name or an address, and perhaps a port."""
Number = TypeVar("Number", int, float)
WEB = ("http", "https")
LOCAL_STORAGE = Path.home() / ".local" / "share" / "yoso"


@dataclass(frozen=True)
class Settings:
    """Where the service keeps things and whom it listens to.

    `storage` is a folder or an fsspec URL; `ray_address` the URL of a Ray cluster's dashboard, or None for a Ray of the
    service's own on this machine, unless `rayjob` is what KubeRay makes a cluster of for each search; `public_url` the
    URL that users open, and `allowed_hosts` the other names, each with or without a port, by which it may be asked
    (`service.web.doors`); `data_roots` the folders that image folders may lie in, and `project_roots` those of single
    projects, both empty for any; `tokens` maps a bearer token to what it opens; `mlflow_uri` is the MLflow server that
    searches are mirrored to, or None. What one process takes on: bodies of `max_body` bytes; from one token (or
    address, where it is not this machine's own) `rate` requests a second, `rate_burst` at once, and `max_streams` open
    streams of events. `rate_storage` is the URL of a Redis where all processes count these requests together, or None.
    A dataset is looked at for at most `inspection_seconds`; a search that waits in Ray for its workers for more than
    `waiting_seconds` is queued again; `retention` says how long what searches leave behind is
    kept. `node_groups` are what an autoscaler may let the cluster grow by; `webhook_networks` those inside that
    webhooks and notifications may be sent to, `notify_schemes` how the latter may; `sign_on` is the provider that
    people sign on with, or None. Raises `InvalidValue` where a setting cannot be used.
    """

    storage: str
    database_url: str = field(repr=False)
    ray_address: str | None = None
    rayjob: Template | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    public_url: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    data_roots: tuple[str, ...] = ()
    project_roots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tokens: Mapping[str, Grant] = field(default_factory=dict, repr=False)
    mlflow_uri: str | None = field(default=None, repr=False)
    otlp_url: str | None = None
    max_body: int = 1024 * 1024
    rate: float = 50.0
    rate_burst: int = 200
    rate_storage: str | None = field(default=None, repr=False)
    max_streams: int = 200
    inspection_seconds: float = 600.0
    waiting_seconds: float = WAITING_SECONDS
    retention: Retention = BY_DEFAULT
    node_groups: tuple[NodeGroup, ...] = ()
    webhook_networks: tuple[Network, ...] = ()
    notify_schemes: tuple[str, ...] = SCHEMES
    sign_on: SignOn | None = None

    def __post_init__(self) -> None:
        for name, value, least in (
            ("YOSO_MAX_BODY", self.max_body, 1024),
            ("YOSO_RATE_BURST", self.rate_burst, 1),
            ("YOSO_MAX_STREAMS", self.max_streams, 1),
        ):
            if value < least:
                raise InvalidValue(name, value, "too small", f"{least} or more")
        scheme, colon, rest = self.storage.partition(":")
        if scheme == "memory" or (colon and scheme.isalnum() and len(scheme) > 1 and not rest.startswith("//")):
            raise InvalidValue(
                "YOSO_STORAGE",
                self.storage,
                "not where workers can find it",
                "a folder, or a URL such as s3://BUCKET/FOLDER",
            )
        if not 1e-4 <= self.rate < float("inf"):
            raise InvalidValue("YOSO_RATE", self.rate, "not a rate", "requests a second, 0.0001 or more")
        if not 1 <= self.inspection_seconds <= 86400:
            raise InvalidValue("YOSO_INSPECTION_SECONDS", self.inspection_seconds, "not usable", "1 to 86400 seconds")
        if not 1 <= self.waiting_seconds <= 30 * 86400:
            raise InvalidValue("YOSO_WAITING_SECONDS", self.waiting_seconds, "not usable", "1 to 2592000 seconds")
        if not 0 < self.port < 65536:
            raise InvalidValue("YOSO_PORT", self.port, "not a port", "a number from 1 to 65535")
        if self.public_url is not None:
            checked_url(self.public_url)
        for host in self.allowed_hosts:
            if not re.fullmatch(HOST, host):
                raise InvalidValue("YOSO_ALLOWED_HOSTS", host, "not a host", "such as yoso.example.org, api-1:8765")
        if self.mlflow_uri is not None:
            without_credentials(self.mlflow_uri)
        if self.otlp_url is not None:
            check_collector(self.otlp_url)
        if self.rate_storage is not None:
            check_redis(self.rate_storage)
        if self.sign_on is not None and not self.data_roots and not self.project_roots:
            told = "anyone who signs on could read any folder of this machine"
            raise InvalidValue("YOSO_DATA_ROOTS", None, told, "folders that datasets may lie in")
        if not is_loopback(self.host):
            if not self.tokens:
                raise InvalidValue(
                    "YOSO_HOST",
                    self.host,
                    "listening beyond this machine needs tokens",
                    "127.0.0.1, or YOSO_TOKENS set to project=token pairs",
                )
            if not self.data_roots and not self.project_roots:
                raise InvalidValue(
                    "YOSO_HOST",
                    self.host,
                    "listening beyond this machine needs data roots",
                    "127.0.0.1, or YOSO_DATA_ROOTS set to folders",
                )

    @property
    def ray_folder(self) -> Path:
        """Where a Ray of the service's own keeps its whereabouts: the storage, or a folder of this machine."""
        return LOCAL_STORAGE if "://" in self.storage else Path(self.storage)

    @property
    def guarded(self) -> bool:
        """Whether whoever asks must show who they are."""
        return bool(self.tokens) or self.sign_on is not None

    @property
    def any_folder(self) -> bool:
        """Whether image folders may lie anywhere on this machine: only where nobody else is listened to."""
        return not (self.data_roots or self.project_roots) and all(grant.own for grant in self.tokens.values())

    def roots_of(self, project: str | None) -> tuple[str, ...]:
        """The folders that image folders of a project may lie in; of all projects together where it is None."""
        own = [self.project_roots.get(project, ())] if project is not None else self.project_roots.values()
        return tuple(dict.fromkeys([*(root for roots in own for root in roots), *self.data_roots]))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """The settings that the environment (default: the process's own) asks for."""
        given = {k: v for k, v in (os.environ if environment is None else environment).items() if v != ""}
        refuse_misspelled(given)
        given = with_files(given)
        storage = given.get("YOSO_STORAGE", str(LOCAL_STORAGE))
        if "://" not in storage and not re.match(r"[a-z0-9]{2,}:", storage):
            storage = str(Path(storage).expanduser().absolute())
        database_url = given.get("YOSO_DATABASE_URL")
        if database_url is None:
            if "://" in storage:
                raise InvalidValue(
                    "YOSO_DATABASE_URL",
                    None,
                    "needed where YOSO_STORAGE is not a local folder",
                    "sqlite:///PATH or postgresql://…",
                )
            database_url = f"sqlite:///{storage}/yoso.db"
        if "YOSO_DATABASE_PASSWORD" in given:
            database_url = with_password(database_url, given["YOSO_DATABASE_PASSWORD"])
        address = given.get("YOSO_RAY_ADDRESS")
        if address is not None and not address.startswith(("http://", "https://")):
            raise InvalidValue(
                "YOSO_RAY_ADDRESS", address, "not the URL of a Ray dashboard", "http://HOST:8265, or unset"
            )
        roots = parse_roots(given.get("YOSO_DATA_ROOTS", ""))
        groups = parse_groups(given.get("YOSO_NODE_GROUPS", ""))
        return cls(
            storage=storage,
            database_url=database_url,
            ray_address=address.rstrip("/") if address else None,
            rayjob=rayjob(given.get("YOSO_EXECUTOR", "ray"), given.get("YOSO_RAYJOB_TEMPLATE"), address, groups),
            host=given.get("YOSO_HOST", "127.0.0.1"),
            port=number(given, "YOSO_PORT", int, DEFAULT_PORT),
            public_url=given.get("YOSO_PUBLIC_URL", "").rstrip("/") or None,
            allowed_hosts=tuple(given.get("YOSO_ALLOWED_HOSTS", "").replace(",", " ").lower().split()),
            data_roots=roots.pop("", ()),
            project_roots=roots,
            tokens=parse_tokens(given.get("YOSO_TOKENS", "")),
            mlflow_uri=given.get("YOSO_MLFLOW_URI"),
            otlp_url=given.get("YOSO_OTLP_URL"),
            max_body=number(given, "YOSO_MAX_BODY", int, cls.max_body),
            rate=number(given, "YOSO_RATE", float, cls.rate),
            rate_burst=number(given, "YOSO_RATE_BURST", int, cls.rate_burst),
            rate_storage=given.get("YOSO_RATE_STORAGE"),
            max_streams=number(given, "YOSO_MAX_STREAMS", int, cls.max_streams),
            retention=Retention(
                searches=kept(given, "YOSO_KEEP_DAYS"),
                parts={
                    Part.CHECKPOINTS: kept(given, "YOSO_KEEP_CHECKPOINTS_DAYS"),
                    Part.EVENTS: kept(given, "YOSO_KEEP_EVENTS_DAYS"),
                    Part.LOGS: kept(given, "YOSO_KEEP_LOGS_DAYS"),
                },
                audit_days=days_of_all(given, "YOSO_KEEP_AUDIT_DAYS", BY_DEFAULT.audit_days),
                delivery_days=days_of_all(given, "YOSO_KEEP_DELIVERIES_DAYS", BY_DEFAULT.delivery_days),
            ),
            inspection_seconds=number(given, "YOSO_INSPECTION_SECONDS", float, cls.inspection_seconds),
            waiting_seconds=number(given, "YOSO_WAITING_SECONDS", float, cls.waiting_seconds),
            node_groups=groups,
            webhook_networks=parse_networks(given.get("YOSO_WEBHOOK_NETWORKS", "")),
            notify_schemes=parse_schemes(given["YOSO_NOTIFY_SCHEMES"]) if "YOSO_NOTIFY_SCHEMES" in given else SCHEMES,
            sign_on=SignOn.parse(given),
        )


def rayjob(executor: str, path: str | None, address: str | None, groups: tuple[NodeGroup, ...]) -> Template | None:
    """What RayJobs are made from, where searches are to run as such. Raises `InvalidValue`."""
    if executor not in ("ray", "rayjob"):
        raise InvalidValue("YOSO_EXECUTOR", executor, "no such executor", "ray or rayjob")
    if executor == "ray":
        if path is not None:
            raise InvalidValue("YOSO_RAYJOB_TEMPLATE", path, "YOSO_EXECUTOR is not rayjob", "both, or neither")
        return None
    if address is not None:
        told = "with YOSO_EXECUTOR=rayjob every search has a cluster of its own"
        raise InvalidValue("YOSO_RAY_ADDRESS", address, told, "one of both")
    if not groups:
        raise InvalidValue(
            "YOSO_NODE_GROUPS", None, "needed by YOSO_EXECUTOR=rayjob", "the groups that workers may be of"
        )
    try:
        return Template.parse(Path(path or "").read_text(), groups)
    except (OSError, UnicodeDecodeError) as error:
        told = f"cannot be read: {error}" if path else "needed by YOSO_EXECUTOR=rayjob"
        raise InvalidValue("YOSO_RAYJOB_TEMPLATE", path, told, "a file with a RayJob as YAML") from error


def refuse_misspelled(given: Mapping[str, str]) -> None:
    """Raise `InvalidValue` for a variable that looks like a setting and is none: it would change nothing."""
    for name in given:
        if name.startswith("YOSO_") and name not in (*KNOWN, *ELSEWHERE) and not SERVICE_LINK.fullmatch(name):
            told = f"no such setting{did_you_mean(name, KNOWN)}"
            raise InvalidValue(name, "…", told, "the settings that `yoso serve --help` lists")


def number(given: Mapping[str, str], name: str, kind: Callable[[str], Number], default: Number) -> Number:
    """The number that a variable holds, or `default`. Raises `InvalidValue` for what is no number."""
    try:
        return kind(given[name]) if name in given else default
    except ValueError as error:
        raise InvalidValue(name, given[name], "not a number", f"such as {default}") from error


def kept(given: Mapping[str, str], name: str) -> Kept:
    """How long a variable says that something is kept; for ever where it is not set. Raises `InvalidValue`."""
    return Kept.parse(name, given[name]) if name in given else Kept()


def days_of_all(given: Mapping[str, str], name: str, default: float | None) -> float | None:
    """For how many days a variable says that something is kept, in all projects; None for ever.

    Raises `InvalidValue`.
    """
    if name not in given:
        return default
    found = Kept.parse(name, given[name])
    if found.projects:
        raise InvalidValue(
            name, given[name], "is for all projects", f"days for all projects, such as 365, or {FOREVER}"
        )
    return found.days


def parse_tokens(text: str) -> dict[str, Grant]:
    """What each token opens, from GRANT=TOKEN pairs (`Grant.parse`) behind commas, spaces or line breaks.

    Raises `InvalidValue`, without the text, where a pair is not one or a token is shorter than 16 characters.
    """
    tokens: dict[str, Grant] = {}
    accepted = (
        "PROJECT=TOKEN or PROJECT:ROLE:NAME@DAY=TOKEN, separated by commas or line breaks; the role is read, submit or "
        "admin, the day such as 2027-01-31, and a token has at least 16 characters"
    )
    for number, pair in enumerate(re.split(r"[,\s]+", text.strip(", \n\t\r")), 1):
        if not pair:
            continue
        grant, equals, token = pair.partition("=")
        try:
            if not equals or len(token) < 16 or token in tokens:
                raise ValueError("no token")
            tokens[token] = Grant.parse(grant)
        except ValueError as error:
            raise InvalidValue(
                "YOSO_TOKENS", "…", f"pair {number} is malformed, or its token is too short or there twice", accepted
            ) from error
    return tokens


def parse_roots(text: str) -> dict[str, tuple[str, ...]]:
    """Folders by the project that may use them, from "/shared:vision=/data/vision"; those of all are under ""."""
    roots: dict[str, tuple[str, ...]] = {}
    for entry in filter(None, text.split(os.pathsep)):
        project, equals, folder = entry.partition("=")
        if not equals or not folder or not NAME.fullmatch(project):
            project, folder = "", entry
        roots[project] = (*roots.get(project, ()), folder)
    return roots


def with_files(given: Mapping[str, str]) -> dict[str, str]:
    """The settings with those that are secrets read from files, where `NAME_FILE` names one in place of `NAME`.

    Raises `InvalidValue` where the file cannot be read, or both are given.
    """
    read = dict(given)
    for name in SECRETS:
        path = given.get(f"{name}_FILE")
        if path is None:
            continue
        if name in given:
            raise InvalidValue(f"{name}_FILE", path, f"{name} is set as well", "one of them")
        try:
            read[name] = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidValue(f"{name}_FILE", path, f"cannot be read: {error}", "a text file") from error
    return {name: text for name, text in read.items() if text != ""}


def with_password(url: str, password: str) -> str:
    """A database's URL with the password of its user. Raises `InvalidValue`, without either, where it has no place."""
    head, at, rest = url.partition("@")
    scheme, slashes, user = head.partition("://")
    if not at or not slashes or not re.fullmatch(r"[^:/?#]+", user):
        told = "has no user without a password, whose it would be"
        raise InvalidValue(
            "YOSO_DATABASE_PASSWORD", "…", f"YOSO_DATABASE_URL {told}", "such as postgresql://USER@HOST/NAME"
        )
    return f"{scheme}://{user}:{quote(password, safe='')}@{rest}"


def checked_url(url: str) -> SplitResult:
    """The parts of the URL under which users find the service. Raises `InvalidValue` where it is none."""
    what, accepted = "the URL of a service", "such as https://yoso.example.org or https://example.org/yoso"
    parts = server("YOSO_PUBLIC_URL", url, WEB, what, accepted, shown=url)
    plain = HOST.fullmatch(parts.netloc) and re.fullmatch(r"(/[\w.~-]+)*/?", parts.path, re.ASCII)
    if not plain or parts.query or parts.fragment:
        raise InvalidValue("YOSO_PUBLIC_URL", url, f"not {what}", accepted)
    return parts


def without_credentials(uri: str) -> tuple[str, dict[str, str]]:
    """An address without user and password, and these as MLflow's client reads them from the environment.

    Raises `InvalidValue`, without the address, where it is not one of a server.
    """
    accepted = "http://HOST:5000 or https://HOST, or unset"
    parts = server("YOSO_MLFLOW_URI", uri, WEB, "the URL of an MLflow server", accepted)
    given = {"MLFLOW_TRACKING_USERNAME": parts.username, "MLFLOW_TRACKING_PASSWORD": parts.password}
    clean = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return clean, {name: unquote(value) for name, value in given.items() if value}


def check_collector(url: str) -> None:
    """Raise `InvalidValue`, without the URL, where it is not that of an OTLP collector's traces."""
    what = "the URL of an OTLP collector's traces"
    accepted = "such as http://HOST:4318/v1/traces; put credentials into OTEL_EXPORTER_OTLP_HEADERS"
    parts = server("YOSO_OTLP_URL", url, WEB, what, accepted)
    if parts.path in ("", "/") or "@" in parts.netloc:
        raise InvalidValue("YOSO_OTLP_URL", "…", f"not {what}", accepted)


def check_redis(url: str) -> None:
    """Raise `InvalidValue`, without the URL, where it is not that of a Redis server, or has options of its client."""
    what, accepted = (
        "the URL of a Redis server",
        "such as redis://HOST:6379, or rediss://USER:PASSWORD@HOST:6379/0 for TLS",
    )
    parts = server("YOSO_RATE_STORAGE", url, ("redis", "rediss"), what, accepted)
    if not re.fullmatch(r"(/\d*)?", parts.path) or parts.query or parts.fragment:
        raise InvalidValue("YOSO_RATE_STORAGE", "…", f"not {what}", accepted)


def server(name: str, url: str, schemes: tuple[str, ...], what: str, accepted: str, shown: str = "…") -> SplitResult:
    """The parts of the URL in the setting `name`, where it has one of the schemes, a host and no impossible port.

    Raises `InvalidValue` otherwise; the URL may have a password, and the error has what is `shown` in its place.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError as error:
        raise InvalidValue(name, shown, f"not {what}", accepted) from error
    if not good:
        raise InvalidValue(name, shown, f"not {what}", accepted)
    return parts


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
