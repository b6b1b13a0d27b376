"""What the service's processes log, for people or, as a JSON object a line, for programs."""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

from nas_core.errors import InvalidValue

FORMATS = ("text", "json")
ACCESS = "service.access"
"""The logger that has a line for every request; only programs get them."""
REQUEST: ContextVar[str | None] = ContextVar("request", default=None)
"""The id of the request that is being answered (`service.web.access_log`)."""
SEARCH: ContextVar[str | None] = ContextVar("search", default=None)
"""The search that a dispatcher is taking a step with."""


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: when, how grave, by whom, what, and for which request and search."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": REQUEST.get(),
            "search": SEARCH.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps({key: value for key, value in told.items() if value is not None}, default=str)


def configure(form: str) -> None:
    """Log to stderr in one of `FORMATS`. Raises `InvalidValue` for another."""
    if form not in FORMATS:
        raise InvalidValue("YOSO_LOG_FORMAT", form, "no such format", "one of " + ", ".join(FORMATS))
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("httpx", "httpx2", "alembic", *([] if form == "json" else [ACCESS])):
        logging.getLogger(noisy).setLevel(logging.WARNING)
