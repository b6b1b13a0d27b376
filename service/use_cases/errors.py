"""What use cases raise, besides what the rules of the domain and the stores do, and how a wrong field is told of."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json

from nas_core.errors import InvalidValue
from service import answers
from service.domain.request import InvalidRequest
from service.store.projects import OverQuota


class NotFound(LookupError):
    """There is no such thing, or not any more, or not for the caller; `title` says what."""

    def __init__(self, title: str, detail: str) -> None:
        super().__init__(detail)
        self.title = title


class NotNow(RuntimeError):
    """What was asked for cannot be done in the state that things are in; `title` says why in few words."""

    def __init__(self, title: str, detail: str) -> None:
        super().__init__(detail)
        self.title = title


def field_error(
    field: str, value: Any, reason: str, accepted: str, choices: Sequence[dict[str, Any]] = ()
) -> answers.FieldError:
    """What is wrong with one field, in a form that every answer can carry."""
    ways = [{legible(name): shown(one) for name, one in way.items()} for way in choices]
    return answers.FieldError(
        field=legible(field), value=shown(value), reason=legible(reason), accepted=legible(accepted), choices=ways
    )


def error_of(problem: InvalidValue) -> answers.FieldError:
    """A value that cannot be used."""
    return field_error(problem.field, problem.value, problem.reason, problem.accepted, problem.choices)


def errors_of(refused: InvalidRequest | InvalidValue | OverQuota) -> list[answers.FieldError]:
    """What is wrong with the fields of a request that was refused."""
    match refused:
        case InvalidRequest():
            return [error_of(problem) for problem in refused.problems]
        case InvalidValue():
            return [error_of(refused)]
        case OverQuota():
            return [field_error("project", refused.project, str(refused), refused.accepted)]


def legible(text: str) -> str:
    """`text` without halves of surrogate pairs: JSON carries them in, and UTF-8 does not carry them out."""
    return text.encode(errors="backslashreplace").decode()


def shown(value: Any) -> Any:
    """`value` as JSON has it, or what can be told of one that no answer can carry, such as a thousand nested lists."""
    try:
        return from_json(to_json(value, inf_nan_mode="null"))
    except ValueError:
        return legible(value) if isinstance(value, str) else f"{type(value).__name__} that cannot be shown"
