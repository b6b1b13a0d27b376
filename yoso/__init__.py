"""Yoso's public face: a service's clients, and the method to be called without one.

    import yoso

    with yoso.Client() as client:
        search = client.submit("digits", ["300k"])

Every name is loaded when it is first used: a program that asks a service never pays for loading torch, and a worker,
which has no service, needs none of the service's packages. Other names of `nas_core`, `service` and `worker` may change
with any release.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_core.errors import InvalidValue
    from nas_core.job import SearchJob
    from nas_core.search.proximal import ApgNag
    from nas_core.search.search import Search
    from nas_core.space import Architecture, Reference, SearchSpace
    from nas_core.spec import SearchSpec, Settings
    from nas_core.supernet.network import Network
    from nas_core.supernet.references import ReferenceNetwork
    from nas_core.supernet.supernet import Supernet
    from nas_core.train.retrain import Retraining
    from nas_core.version import __version__
    from service import answers, objects
    from service.client import AsyncClient, Client, ClientError, Event, Unreachable

__all__ = [
    "ApgNag",
    "Architecture",
    "AsyncClient",
    "Client",
    "ClientError",
    "Event",
    "InvalidValue",
    "Network",
    "Reference",
    "ReferenceNetwork",
    "Retraining",
    "Search",
    "SearchJob",
    "SearchSpace",
    "SearchSpec",
    "Settings",
    "Supernet",
    "Unreachable",
    "__version__",
    "answers",
    "objects",
]

_HOME = dict.fromkeys(("AsyncClient", "Client", "ClientError", "Event", "Unreachable"), "service.client") | {
    "InvalidValue": "nas_core.errors",
    "__version__": "nas_core.version",
    "answers": "service.answers",
    "objects": "service.objects",
}
"""Where names are that `nas_core` does not have."""


if not TYPE_CHECKING:  # or a name that is not there would pass for one of any type

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'yoso' has no attribute {name!r}")
        home = import_module(_HOME.get(name, "nas_core"))
        return home if name in ("answers", "objects") else getattr(home, name)


def __dir__() -> list[str]:
    return __all__
