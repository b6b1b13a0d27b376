"""The form that queues a search or a sweep: it looks at the dataset, and says what is feasible while one types."""

import json
import math
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError
from pydantic_core import from_json

from nas_core.data.datasets import at_hand
from nas_core.data.summary import in_words, summarise
from nas_core.errors import InvalidValue
from nas_core.space import PRESETS, SearchSpace
from nas_core.space.operations import OPERATION_SETS, OPERATIONS
from nas_core.spec import (
    BALANCES,
    BASELINES,
    CHOOSE_BY,
    DEFAULT_BASELINES,
    FORMS,
    NO_FINALS,
    OPSETS,
    PENALTIES,
    PRECISIONS,
    RECIPES,
    SCHEDULES,
    STARTS,
    ExportOptions,
    Settings,
)
from nas_core.wording import number_of
from service import answers
from service.answers import DatasetReport, FieldError
from service.dashboard.frame import TEMPLATES, ReadingViewerDep, ViewerDep, page
from service.domain.estimates import Estimate, estimate, warnings
from service.domain.references import left_out
from service.domain.request import (
    DataRequest,
    InvalidRequest,
    NewDescription,
    SearchRequest,
    SpaceRequest,
    Text,
    check,
    space_of,
)
from service.domain.sweep import SweepRequest, expand, sorted_budgets
from service.inspections import Found, StillLooking
from service.store.idempotency import KeyReused
from service.store.projects import OverQuota
from service.use_cases import datasets, searches, sweeps
from service.use_cases.errors import error_of, errors_of, field_error
from service.use_cases.once import before
from service.web.checks import CHECKED
from service.web.context import Context, ContextDep
from service.web.idempotency import key_of_form
from service.web.problems import field_errors

REMEMBERED_SECONDS = 30.0
"""How long the form believes that a dataset is as it was; before a search is queued it is compared again."""
PATIENCE_SECONDS = 0.5
"""How long the form waits for a dataset to be looked at, before it says how far that is."""

Form = Mapping[str, Sequence[str]]
"""The texts of each field that was filled in."""

router = APIRouter(include_in_schema=False)


def _text(texts: Sequence[str]) -> str:
    return texts[0].replace("\r\n", "\n")  # as forms send the ends of lines


def _texts(texts: Sequence[str]) -> list[str]:
    return [one for text in texts for one in text.replace(",", " ").replace(";", " ").split()]


def _number(texts: Sequence[str]) -> int | float | str:
    """The number that a text is, or the text, which is refused as the API refuses it."""
    for kind in (int, float):
        try:
            return kind(texts[0])
        except ValueError:
            continue
    return texts[0]


def _number_or_range(texts: Sequence[str]) -> Any:
    """The number that a text such as 2 is, or the range that one such as 1-8 is."""
    least, dash, most = texts[0].partition("-")
    return {"min": _number([least]), "max": _number([most])} if least and dash else _number(texts)


def _numbers(texts: Sequence[str]) -> list[int | float | str]:
    return [_number([one]) for one in _texts(texts)]


def _seed_or_seeds(texts: Sequence[str]) -> Any:
    seeds = _numbers(texts)
    return seeds[0] if len(seeds) == 1 else seeds


def _json(texts: Sequence[str]) -> Any:
    """What a text means as JSON, or the text, which is refused as the API refuses it."""
    try:
        return from_json(texts[0], allow_inf_nan=False)
    except ValueError:
        return texts[0]


def _patterns(texts: Sequence[str]) -> list[str]:
    return [one for text in texts for part in text.split(",") if (one := part.strip())]


def _names(texts: Sequence[str]) -> list[str]:
    """The names in texts; where that is "none", there are none."""
    return [] if (names := _texts(texts)) == ["none"] else names


def _truth(texts: Sequence[str]) -> bool:
    return texts[0] == "true"


FIELDS: dict[str, Callable[[Sequence[str]], Any]] = {
    "dataset": _text,
    "budgets": _texts,
    "name": _text,
    "tags": _texts,
    "description": _text,
    "project": _text,
    "priority": _number,
    "preempts": _truth,
    "max_wait": _text,
    "max_run": _text,
    "time": _text,
    "confirmed": _truth,
    "seed": _seed_or_seeds,
    "workers": _number_or_range,
    "cpus_per_worker": _number,
    "gpus_per_worker": _number,
    "accelerator_type": _text,
    "space.preset": _text,
    "space.share": _truth,
    "space.stem": _numbers,
    "space.channels": _number,
    "space.blocks": _numbers,
    "space.levels": _number,
    "space.operations": list,
    "data.train": _text,
    "data.test": _text,
    "data.validation": _text,
    "data.ignore": _patterns,
    "data.channels": _number,
    "data.image_size": _number,
    "data.background": _text,
    "limits.parameters": _text,
    "limits.activations": _text,
    "limits.latency_ms": _number,
    "settings.recipe": _text,
    "settings.pretrain_epochs": _number,
    "settings.search_epochs": _number,
    "settings.retrain_epochs": _number,
    "settings.batch_size": _number,
    "settings.retrain_batch_size": _number,
    "settings.lr": _number,
    "settings.retrain_lr": _number,
    "settings.retrain_patience": _number,
    "settings.retrain_start": _text,
    "settings.balance": _text,
    "settings.form": _text,
    "settings.penalty": _text,
    "settings.choose_by": _text,
    "finals.candidates": _number,
    "finals.baselines": _names,
    "export.opset": _number,
    "export.ir": _number,
    "export.normalise": _truth,
    "engine.synchronised_bn": _truth,
    "engine.precision": _text,
    "engine.compile": _truth,
    "engine.recompute": _truth,
    "sweep.strategy": _text,
    "sweep.finals": _truth,
    "sweep.baselines": _names,
    "sweep.grid": _json,
}
"""What the form asks for, by the API's names, and how the texts are read; `sweep` holds the fields of a sweep."""
LONG = ("description",)
"""The fields that may have several lines."""
ALSO = "also"
"""What of the form holds fields of a request that have no input, or not for such a value: `settings.flip=false`."""
OBJECTS = {field.partition(".")[0] for field in FIELDS if "." in field}
"""The fields of a request that hold others."""
DEFAULTS = {
    prefix + name: field.get_default(call_default_factory=True)
    for prefix, model in (
        ("", SearchRequest),
        ("space.", SpaceRequest),
        ("data.", DataRequest),
        ("sweep.", SweepRequest),
    )
    for name, field in model.model_fields.items()
}
"""The fields of a request that mean the same where they are left out."""
DATA = {
    "train": "Training folder",
    "test": "Test folder",
    "validation": "Validation folder",
    "ignore": "Ignore",
    "channels": "Image channels",
    "image_size": "Image size",
    "background": "Background",
}
"""What the form calls the fields of `data`."""
FOLDED = {
    "Sweep": ("sweep.",),
    "Limits besides the budget": ("limits.",),
    "How the dataset is read": ("data.",),
    "Search space": (
        "space.stem",
        "space.channels",
        "space.blocks",
        "space.levels",
        "space.operations",
    ),
    "Training schedule": tuple(
        f"settings.{name}"
        for name in ("recipe", "pretrain", "search", "retrain", "batch", "lr", "balance", "form", "penalty")
    ),
    "Finals": ("finals.", "settings.choose_by"),
    "ONNX": ("export.",),
    "Engine": ("engine.",),
}
"""The parts of the form that are folded away while nothing in them is filled in or wrong, by what their fields begin
with."""
AT_FIRST: Form = {name: ["1"] for name in ("workers", "cpus_per_worker")} | {
    name: ["0"] for name in ("seed", "priority")
}
CHOICES: dict[str, list[tuple[str, str]]] = {
    "space.preset": [("", "what suits the images"), *((name, name) for name in (*SCHEDULES, *PRESETS))],
    "space.share": [("", "each block has its own"), ("true", "the same for all blocks")],
    "preempts": [("", "wait"), ("true", "stop running searches of lower priority")],
    "confirmed": [("", "refuse"), ("true", "queue it anyway")],
    "data.channels": [("", "as in the images"), ("1", "grey"), ("3", "colour")],
    "gpus_per_worker": [("", "one, if the cluster has GPUs"), ("0", "none"), ("1", "one")],
    "settings.recipe": [("", "the preset's"), *((name, name) for name in RECIPES)],
    "settings.retrain_start": [("", "the recipe's"), *((name, name) for name in STARTS)],
    "settings.balance": [("", "in proportion to their images"), *((name, name) for name in BALANCES if name != "none")],
    "settings.form": [("", "the preset's"), *((name, name) for name in FORMS)],
    "settings.penalty": [("", "the preset's"), *((name, name) for name in PENALTIES)],
    "settings.choose_by": [("", "accuracy"), *((name, name.replace("_", " ")) for name in CHOOSE_BY[1:])],
    "export.opset": [("", f"{ExportOptions.opset}, the default"), *((str(opset), str(opset)) for opset in OPSETS)],
    "export.normalise": [
        ("", "in the model, which takes values of 0 to 255"),
        ("false", "outside: the model takes normalised images"),
    ],
    "engine.synchronised_bn": [("", "those of all workers"), ("false", "those of each worker")],
    "engine.precision": [("", "what suits the device"), *((name, name) for name in PRECISIONS if name != "auto")],
    "engine.compile": [("", "off"), ("true", "compile each block")],
    "engine.recompute": [("", "keep activations"), ("true", "compute activations twice")],
    "sweep.strategy": [
        ("", "one search, or one for each seed"),
        ("path", "a sweep: one search of each seed for all budgets"),
        ("independent", "a sweep: one search for each seed and budget"),
    ],
    "sweep.finals": [
        ("", "with several seeds"),
        ("true", "always: the networks of all searches are retrained together"),
        ("false", "never: each search retrains its own networks"),
    ],
}
"""What can be chosen, as value and words."""


@dataclass(frozen=True)
class Range:
    """What a search space costs: its supernet, and the budgets for which it holds a network."""

    space: SearchSpace
    settings: Settings | None
    """The schedule, where all of the request can be used."""
    smallest: int
    largest: int
    parameters: int
    activations: int
    budgets: tuple[int, ...]
    """What was asked for, where all of the request can be used."""


@dataclass(frozen=True)
class Judged:
    """What can be said of a form: the request that it stands for, what that would cost, and what is wrong with it."""

    asked: SearchRequest | None
    problems: list[FieldError]
    range: Range | None = None
    found: Found | None = None
    """What was found of its dataset."""
    looking: StillLooking | None = None
    """How far the look at its dataset is, where nothing can be said before that ends."""
    left_out: Sequence[str] = ()
    """The baselines that cannot be made as small as a budget."""
    expected: Estimate | None = None
    """How long it would run."""
    sweep: SweepRequest | None = None
    """The sweep that the form stands for; `asked` is then its first search, for all budgets."""
    size: str = ""
    """How many searches and finals that sweep has, in words."""


async def _sent(request: Request) -> Form:
    """The form as it was sent, in the body or, by a page that only asks, in the address."""
    text = (await request.body()).decode(errors="replace") if request.method == "POST" else request.url.query
    try:
        return parse_qs(text, max_num_fields=200)
    except ValueError as error:
        raise InvalidValue("form", f"{len(text)} characters", "too many fields", "the form of /submit") from error


FormDep = Annotated[Form, Depends(_sent)]


@router.get("/submit", dependencies=[CHECKED])
def form_page(
    request: Request,
    service: ContextDep,
    project: ViewerDep,
    form: FormDep,
    search_id: Annotated[Text | None, Query(alias="from")] = None,
    sweep_id: Annotated[Text | None, Query(alias="from_sweep")] = None,
) -> Response:
    """The form; the address may name a search or a sweep whose request fills it in, and fill fields in itself."""
    made: Form = {}
    if search_id is not None:
        search = searches.seen(service, project, search_id)
        if search.kind == "finals":
            raise InvalidValue("from", search_id, "these are the finals of a sweep", f"from_sweep={search.sweep_id}")
        made = again(search.request)
    elif sweep_id is not None:
        made = sweep_again(sweeps.view(service, sweeps.seen(service, project, sweep_id)))
    return page("submit.html", request, **shown(service, project, {**AT_FIRST, **made, **form}, []))


@router.post("/fragments/submit", dependencies=[CHECKED])
def form_fragment(request: Request, service: ContextDep, project: ReadingViewerDep, form: FormDep) -> Response:
    """What a search as the form describes it would cost, and what is wrong with the form so far.

    It changes nothing; a form with thousands of seeds is too long for an address.
    """
    seen = judged(service, project, form)
    # Nobody has to be told of what they have not come to yet.
    begun = [one for one in seen.problems if (field := in_the_form(one)) not in ("dataset", "budgets") or field in form]
    return page("submit_parts.html", request, **looked(form, seen), **told(begun))


@router.post("/submit", dependencies=[CHECKED])
def send(request: Request, service: ContextDep, project: ViewerDep, form: FormDep) -> Response:
    """Queue the search or the sweep and go to its page; the form again where it cannot be queued, with what is
    wrong."""
    seen: Judged | None = None
    try:
        asked = body(form)
        key = key_of_form(project, form, "POST /submit", asked)
        queued = before(service, key)  # what was accepted before is not judged once more
        if queued is None:
            seen = judged(service, project, form)
            if seen.asked is not None and not seen.problems:
                if seen.sweep is not None:
                    queued = sweeps.submit(service, seen.sweep, project, key)
                else:
                    queued = searches.submit(service, seen.asked, project, key)
        if queued is not None:
            kind = "searches" if swept(asked) is None else "sweeps"
            return RedirectResponse(f"/{kind}/{queued.value['id']}", 303)
        problems = seen.problems if seen is not None else []
    except StillLooking as error:
        problems = [field_error("dataset", None, str(error), "the same form again in a moment")]
    except (InvalidRequest, InvalidValue, OverQuota) as error:
        problems = errors_of(error)
    except KeyReused:
        accepted = "the button again, if you want a second search"
        problems = [field_error("form", None, "this form has queued another search before", accepted)]
    return page("submit.html", request, 422, **shown(service, project, form, problems, seen))


def judged(service: Context, project: str | None, form: Form) -> Judged:
    """What can be said of a form; a request is held to the same rules as the API's.

    Of a sweep, all searches but the first are held to them when it is sent.
    """
    made = body(form)
    own = swept(made)
    try:
        if own is None:
            return judged_search(service, project, SearchRequest.model_validate(made))
        sweep = service.confined(SweepRequest.model_validate(own), project)
        budgets, _ = sorted_budgets(sweep)
        groups = expand(sweep, budgets)
        first = groups[0][0].model_copy(update={"budgets": budgets})
        size = number_of(sum(map(len, groups)), "search")
        if sweep.with_finals:
            size += ", and finals that retrain what they find"
        return replace(judged_search(service, project, first, sweep), sweep=sweep, size=size)
    except ValidationError as error:
        problems = field_errors(error.errors(), SearchRequest if own is None else SweepRequest)
    except InvalidRequest as error:
        problems = [error_of(problem) for problem in error.problems]
    except InvalidValue as problem:
        problems = [error_of(problem)]
    return Judged(None, problems)


def judged_search(
    service: Context, project: str | None, asked: SearchRequest, sweep: SweepRequest | None = None
) -> Judged:
    """What can be said of a search, which may be one of a sweep."""
    settings, look = service.settings, service.look(PATIENCE_SECONDS, REMEMBERED_SECONDS)
    found, options = None, asked.data
    try:
        asked = service.confined(asked, project)
        roots = settings.roots_of(asked.project)
        with suppress(InvalidValue):  # which the rules tell of
            size = options.size(asked.space.image_size)
            found = service.inspections.look(
                asked.dataset, options.options(), size, PATIENCE_SECONDS, REMEMBERED_SECONDS, roots
            )
        known_searches = service.history.searches()
        spec = check(asked, roots, settings.any_folder, service.capacity(), look, sweep is None, known_searches)
        finals = sweep is not None and sweep.with_finals
        dear = left_out(spec, spec.budgets, sweep.baselines if sweep is not None and finals else spec.finals.baselines)
        known = costs(spec.space, spec.settings, spec.budgets)
        if finals:
            spec = replace(spec, retrain=False, finals=NO_FINALS)
        return Judged(asked, [], known, found, left_out=dear, expected=estimate(spec, known_searches))
    except StillLooking as looking:
        return Judged(asked, [], looking=looking)
    except InvalidRequest as error:
        problems = [error_of(problem) for problem in error.problems]
    except InvalidValue as problem:
        problems = [error_of(problem)]
    space = None
    if found is not None and not found.problems:
        with suppress(InvalidValue):
            space = costs(space_of(asked, found.info))
    return Judged(asked, problems, space, found)


def looked(form: Form, seen: Judged) -> dict[str, Any]:
    """What the form shows of the dataset and of the budgets that are feasible."""
    found = seen.found
    report = datasets.view(found, seen.asked.data) if found is not None and seen.asked is not None else None
    ways = [
        (problem, [(words(one), chosen(form, one), filled(one)) for one in problem["choices"]])
        for problem in told_beside(report)
    ]
    return {
        "range": seen.range,
        "place": place,
        "looking": seen.looking,
        "report": report,
        "facts": in_words(summarise(found.report)) if found is not None else [],
        "size": seen.size,
        "left_out": seen.left_out,
        "expected": seen.expected,
        "slow": warnings(seen.expected) if seen.expected is not None else [],
        "ways": ways,
    }


def told_beside(report: DatasetReport | None) -> list[FieldError]:
    """The problems of a dataset that no field in sight stands for, or that have a way out."""
    return [one for one in (report["problems"] if report else ()) if one["choices"] or one["field"].startswith("data.")]


def words(choice: Mapping[str, Any]) -> str:
    """What is chosen, such as "Training folder: Training"."""
    return ", ".join(f"{DATA[field.removeprefix('data.')]}: {_line(value)}" for field, value in choice.items())


def in_form(text: str) -> str:
    """What would be accepted, with the form's fields in the place of the command line's options."""
    return OPTION.sub(lambda found: f"“{DATA[found[1].replace('-', '_')]}”", text)


OPTION = re.compile(rf"--({'|'.join(DATA).replace('_', '-')})\b")
TEMPLATES.filters["in_form"] = in_form


def chosen(form: Form, choice: Mapping[str, Any]) -> str:
    """The address of the form as it is filled in, with a choice made."""
    made = {field: texts for field, texts in form.items() if field in FIELDS or field == ALSO}
    return "/submit?" + urlencode({**made, **filled(choice)}, doseq=True)


def filled(choice: Mapping[str, Any]) -> dict[str, str]:
    """The texts that a choice puts into fields of the form."""
    return {field: _line(value) for field, value in choice.items()}


def _line(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def body(form: Form) -> dict[str, Any]:
    """The JSON that a client would send; what was left empty is not in it."""
    made: dict[str, Any] = {}
    for text in form.get(ALSO, ()):
        field, _, value = text.partition("=")
        _put(made, field, _json([value]))
    for field, read in FIELDS.items():
        texts = [stripped for text in form.get(field, ()) if (stripped := text.strip())]
        if texts:
            _put(made, field, read(texts))
    return made


def _put(made: dict[str, Any], field: str, value: Any) -> None:
    """Put a value at its place; where that is in no object, under the field's whole name, which is then refused."""
    root, dot, rest = field.partition(".")
    nested = made.setdefault(root, {}) if dot else None
    if isinstance(nested, dict):
        nested[rest] = value
    else:
        made[field] = value


def swept(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The sweep that a form of several seeds, or of a sweep's own fields, stands for; None for one search."""
    if "sweep" not in asked and not isinstance(asked.get("seed"), list):
        return None
    search = {field: value for field, value in asked.items() if field != "sweep"}
    own = asked.get("sweep", {})
    own = {**own} if isinstance(own, dict) else {"sweep": own}
    if "seed" in search:
        seed = search.pop("seed")
        own["seeds"] = seed if isinstance(seed, list) else [seed]
    own |= {field: search.pop(field) for field in SHARED if field in search}
    return own | {"search": search}


SHARED = ("budgets", "project", "priority", "name", "description")
"""The fields that a sweep has as a search has them."""


def description_of(form: Form) -> dict[str, Any]:
    """The name, tags and description that a form asks for."""
    empty = NewDescription().model_dump()  # an empty field of a form is not sent
    return empty | {field: FIELDS[field](form[field]) for field in empty if field in form}


def costs(space: SearchSpace, settings: Settings | None = None, budgets: Sequence[int] = ()) -> Range:
    """What a space costs."""
    complete = space.complete()
    smallest, largest = space.feasible_budgets()
    return Range(space, settings, smallest, largest, complete.parameters, complete.peak_activations, tuple(budgets))


def told(problems: Sequence[FieldError]) -> dict[str, Any]:
    """Problems by the field of the form that they stand beside; those of no field are under `form`."""
    by_field: dict[str, list[FieldError]] = {}
    for problem in problems:
        field = in_the_form(problem)
        while field and field not in FIELDS:
            field = field.rpartition(".")[0]
        by_field.setdefault(field or "form", []).append(problem)
    return {"problems": by_field, "fields": list(FIELDS)}


def in_the_form(problem: FieldError) -> str:
    """What the form calls the field of a search or of a sweep that a problem is about."""
    field: str = problem["field"].removeprefix("search.")
    root = field.partition(".")[0]
    if root == "seeds":
        return "seed"
    if field == "finals" or root in ("strategy", "baselines", "grid"):
        return f"sweep.{field}"
    return field


def shown(
    service: Context, project: str | None, form: Form, problems: Sequence[FieldError], seen: Judged | None = None
) -> dict[str, Any]:
    """What the page shows."""
    seen = seen or judged(service, project, form)
    wrong = told(problems)
    filled = {field for field in FIELDS if any(text.strip() for text in form.get(field, ()))}
    busy = filled | wrong["problems"].keys()
    return (
        wrong
        | looked(form, seen)
        | {
            "value": lambda field: (form.get(field) or [""])[0],
            "sweep": swept(body(form)) is not None,
            "also": form.get(ALSO, ()),
            "ticked": form.get("space.operations", ()),
            "operations": [*OPERATION_SETS, *OPERATIONS],
            "sets": OPERATION_SETS,
            "choices": CHOICES,
            "baselines": BASELINES,
            "default_baselines": DEFAULT_BASELINES,
            "data": DATA,
            "open": {part for part, begins in FOLDED.items() if any(field.startswith(begins) for field in busy)},
            "datasets": at_hand(service.settings.roots_of(project)),
            "any_folder": service.settings.any_folder,
            "projects": service.projects.names() if project is None else [],
            "own": project,
            "key": secrets.token_urlsafe(16),
        }
    )


def again(request: Mapping[str, Any]) -> Form:
    """The form filled in with a request that was made before; what its inputs cannot hold is under `ALSO`."""
    if (size := (request.get("space") or {}).get("image_size")) is not None:
        space = {field: value for field, value in request["space"].items() if field != "image_size"}
        request = {**request, "space": space, "data": {**(request.get("data") or {}), "image_size": size}}
    form: dict[str, list[str]] = {}
    for field, value in _by_field(request):
        if field in FIELDS and _holds(field, texts := _as_texts(field, value), value):
            form[field] = texts
        elif value != DEFAULTS.get(field, ...):
            form.setdefault(ALSO, []).append(f"{field}={json.dumps(value)}")
    return form


def _by_field(request: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for root, value in request.items():
        if root in OBJECTS:
            yield from ((f"{root}.{rest}", one) for rest, one in (value or {}).items())
        else:
            yield root, value


def _as_texts(field: str, value: Any) -> list[str]:
    """What is filled in for a value of a field, as `FIELDS` reads it."""
    if field == "space.operations":
        return value if isinstance(value, list) else [str(value)]
    if field == "sweep.grid":
        return [json.dumps(value) if value else ""]
    if isinstance(value, list):
        return [", ".join(map(str, value)) or ("none" if field.endswith(".baselines") else "")]
    if isinstance(value, dict):
        return [f"{value['min']}-{value['max']}"]
    return ["" if value is None else str(value).lower() if isinstance(value, bool) else str(value)]


def _holds(field: str, texts: Sequence[str], value: Any) -> bool:
    """Whether a field of the form that is filled in so is sent as `value`, or as a text that means the same."""
    if field in CHOICES:
        return texts[0] in (choice for choice, _ in CHOICES[field])
    if not all(text and text == text.strip() for text in texts):
        return False
    if field not in LONG and any(len(text.splitlines()) > 1 for text in texts):
        return False
    read = FIELDS[field](texts)
    if isinstance(read, list) and isinstance(value, list):
        return [str(one) for one in read] == [str(one) for one in value]
    return read == value or str(read) == str(value) or read == [value]


def sweep_again(sweep: answers.Sweep) -> Form:
    """The form filled in with a sweep that was made before, and the budgets that it has by now."""
    request = sweep["request"]
    own = {field: request[field] for field in ("finals", "baselines", "grid") if field in request}
    shared = {field: request[field] for field in SHARED if field in request}
    asked = {**request["search"], **shared, "budgets": sweep["budgets"], "seed": sweep["seeds"]}
    return again(asked | {"sweep": own | {"strategy": sweep["strategy"]}})


def place(smallest: int, largest: int, budget: int) -> float:
    """Where a budget lies in the feasible range, by ratios: 0 is the smallest and 100 the largest."""
    return 100 * math.log(budget / smallest) / math.log(largest / smallest) if largest > smallest else 50.0
