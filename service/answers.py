"""What the API answers: use cases make these objects, the service sends them, and the clients return them.

The API's description is made from them too. Each is a dictionary whose keys are also attributes: `search.status` is
`search["status"]`. So an answer can be written as JSON directly, and the annotations of its class are the only list of
its fields, for type checkers, for the API's description and for readers. Only pages have no attributes, because `items`
is a method of dictionaries.
"""

import functools
from collections.abc import Callable, Mapping
from types import UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args, get_origin, get_type_hints

from typing_extensions import TypedDict, dataclass_transform

from nas_core.errors import did_you_mean
from nas_core.space import Origin

By = Literal["accuracy", "balanced_accuracy"]
"""What says which of two networks is better."""

ENDED = frozenset({"succeeded", "failed", "cancelled"})
"""The states of a search that has ended."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Answer(dict[str, Any]):
    """A JSON object whose fields are read-only attributes too."""

    shown: ClassVar[tuple[str, ...]] = ()
    """The fields in its representation; if empty, all."""

    if not TYPE_CHECKING:  # or a field that is not there would pass for one of any type

        def __getattr__(self, name: str) -> Any:
            try:
                return self[name]
            except KeyError:
                kind = type(self).__name__
                hint = "" if name.startswith("_") else did_you_mean(name, self)
                raise AttributeError(f"{kind!r} object has no attribute {name!r}{hint}") from None

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(f"{name}: attributes of answers cannot be assigned")

    def _repr_html_(self) -> str:
        from service.cards import card

        return card(type(self).__name__, {name: self.get(name) for name in self.shown or self})

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def __repr__(self) -> str:
        told = (f"{name}={self[name]!r}" for name in self.shown or self if name in self)
        return f"{type(self).__name__}({', '.join(told)})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        """The schema in the API's description: an object with these fields."""
        return handler(_shape(cls))


@functools.cache
def _shape(kind: type[Answer]) -> Any:
    """A TypedDict with the same fields, which pydantic supports."""
    shape = cast(Any, TypedDict)(kind.__name__, fields(kind))
    shape.__module__, shape.__qualname__, shape.__doc__ = kind.__module__, kind.__qualname__, kind.__doc__
    shape.__pydantic_config__ = getattr(kind, "__pydantic_config__", {})
    return shape


@functools.cache
def fields(kind: type) -> dict[str, Any]:
    """The fields of an answer or a page and their types, in order."""
    return {name: one for name, one in get_type_hints(kind).items() if get_origin(one) is not ClassVar}


def read(kind: Any, value: Any, instead: Mapping[type, Callable[..., Any]] | None = None) -> Any:
    """Convert `value`, as parsed from JSON, to the type `kind`: objects become answers, also inside lists and objects.

    For a union, the answer that shares the most fields with the object is chosen. `instead` maps classes of answers to
    functions that make something else. Missing fields stay missing and unknown ones are kept, because the service may
    be of another release.
    """
    choices = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if isinstance(value, list):
        [inside] = [get_args(one)[0] for one in choices if get_origin(one) is list] or [Any]
        return [read(inside, one, instead) for one in value]
    if not isinstance(value, dict):
        return value
    known = [one for one in choices if isinstance(one, type) and issubclass(one, dict) and one is not dict]
    if not known:
        [inside] = [get_args(one)[1] for one in choices if get_origin(one) is dict] or [Any]
        return {name: read(inside, one, instead) for name, one in value.items()}
    meant = max(known, key=lambda one: len(value.keys() & fields(one).keys()))
    told = {name: read(fields(meant).get(name, Any), one, instead) for name, one in value.items()}
    return (instead or {}).get(meant, meant)(told)


class OnnxFile(Answer):
    """Size, accuracy and latency of an ONNX file, measured with onnxruntime on one CPU thread."""

    bytes: int
    accuracy: float
    """On the test images, or on as many of them as fit into 64 MB."""
    test_images: int
    latency_ms: float
    """The median latency of one image."""
    latency_low_ms: float
    """The 10th percentile."""
    latency_high_ms: float
    """The 90th percentile."""
    latency_device: str
    """The CPU of the machine that trained the network."""


class Architecture(Answer):
    """A network that a search delivered for a budget."""

    id: str
    budget: int
    origin: Origin
    """`search` for a network that was searched for, otherwise the kind of baseline."""
    label: str | None
    """Its name among the networks for the same budget; None if it is the only one."""
    variant: str | None
    """The name of a hand-made network, such as resnet8; None for others."""
    winner: bool
    """Whether it is the best for its budget, of all origins, on validation data."""
    comparison: str | None
    """Its test accuracy compared with the best network of another origin for the budget; None if there is none."""
    multiply_adds: int
    parameters: int
    activations: int | None
    """The peak number of elements during inference of one image; None if not counted."""
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    test_images: int
    balanced_accuracy: float | None
    """The mean recall of the classes with test images; None if not measured."""
    top5_accuracy: float | None
    """None for ten classes or fewer."""
    warnings: list[str]
    """Problems that the accuracy does not show, such as a class that is never recognised."""
    latency_ms: float | None
    """The latency of one image on the machine that trained it (with a latency limit: on the search's device); None if
    not measured."""
    files: dict[str, str]
    """Paths for `Client.download`, by kind of file."""
    onnx: dict[str, OnnxFile]
    """Size, accuracy and latency of each ONNX file, by kind; empty if not measured."""
    not_exported: dict[str, str]
    """Why a kind of file is missing, by kind."""


class ClassResult(Answer):
    """The test results of one class."""

    name: str
    images: int
    """Test images of the class."""
    predicted: int
    """Test images classified as this class."""
    recall: float | None
    """The share of its images that are classified correctly; None without test images."""
    precision: float | None
    """The share of its predictions that are correct; None if it was never predicted."""


class Evaluation(Answer):
    """Test results by class, in the order of the logits, and the confusion matrix."""

    classes: list[ClassResult]
    confusion: list[list[int]]
    """The confusion matrix as rows of [class, predicted class, images], with classes as numbers and without zeros."""


class ArchitectureDetail(Architecture):
    """A network with its genotype, which `nas_core.space.read_genotype` reads, and its test."""

    search_id: str
    architecture: dict[str, Any]
    evaluation: Evaluation | None
    """None if the network is from a release that did not store it, or if its file is missing or damaged."""


class Decoding(Answer):
    """How images of the dataset are decoded: to `channels` by `size` by `size` bytes.

    Transparent pixels are put on `background`. Values of 16 or 32 bits are scaled from the range `integers` to 0 … 255,
    floating-point values from `floats`.
    """

    channels: int
    size: int
    background: str
    integers: list[float]
    floats: list[float]


class LeftOut(Answer):
    """Files of a dataset that are not used: the reason, the count, and the first of them."""

    reason: str
    count: int
    examples: list[str]


class Found(Answer):
    """Images with something in common: the count (of groups, for duplicates) and the first of them."""

    count: int
    examples: list[list[str]]


class FieldError(Answer):
    """An invalid field: its value, the reason, and what would be accepted."""

    field: str
    value: Any
    reason: str
    accepted: str
    choices: list[dict[str, Any]]
    """Changes that would make the request valid, if there are few: fields by their paths, with their values."""


class Problem(Answer):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError]


class DatasetReport(Answer):
    """The report of an inspection: what the dataset contains, and how a search would read it."""

    dataset: str
    usable: bool
    """Whether a search can use it, that is, there are no `problems`."""
    path: str | None
    kind: str
    layout: str
    class_names: list[str]
    counts: dict[str, dict[str, int]]
    """Images by part and class."""
    images: int
    examined: int
    """Images that were decoded: all, or a sample. The fields from here to `nearly_identical` count these."""
    sizes: dict[str, int]
    modes: dict[str, int]
    """By Pillow's names."""
    bit_depths: dict[str, int]
    orientations: dict[str, int]
    """By the EXIF orientation tag; 1 is upright."""
    duplicates: dict[str, Found]
    """Groups of images with the same pixels: within or across parts, or across classes."""
    constant: Found
    """Images of one colour."""
    nearly_identical: dict[str, Found]
    left_out: list[LeftOut]
    channels: int
    image_size: int
    decoding: Decoding
    fingerprint: str
    """A hash that changes when a file of the dataset changes."""
    notes: list[str]
    """How images were converted, and other remarks."""
    warnings: list[str]
    problems: list[FieldError]
    """Why a search on it is refused, with what would be accepted."""
    contact_sheet: str | None
    """The URL of a picture of images as a network would see them, as PNG."""


class Looking(Answer):
    """The progress of an inspection. Send the same request again to get the report."""

    dataset: str
    doing: str
    done: int
    """Files so far."""
    total: int | None


class Search(Answer):
    """One search."""

    id: str
    kind: str
    """`search`, or `finals`, which retrain the networks of a sweep's searches."""
    project: str
    sweep: str | None
    """The sweep that it belongs to."""
    name: str
    tags: list[str]
    description: str
    submitted_by: str | None
    """The name of the token that submitted it."""
    status: str
    reason: str | None
    phase: str | None
    progress: float
    seconds_left: float | None
    """Estimated from its progress so far; None at the beginning, and while it has stalled."""
    stalled_for: float | None
    """Seconds since the last update of a running search, if that is longer than expected; otherwise None."""
    accuracy: float | None
    dataset: str
    dataset_report: dict[str, Any] | None
    """A summary of the inspection: layout, counts, decoding, files left out, fingerprint."""
    budgets: list[int]
    limits: dict[str, Any]
    seed: int
    workers: int
    """While queued, the maximum it asks for; after launch, the number granted."""
    min_workers: int
    max_workers: int
    accelerator_type: str | None
    """The accelerator that nodes must have; None for any."""
    priority: int
    preempts: bool
    """Whether it may stop running searches of its project that have a lower priority."""
    max_wait: float | None
    """Maximum seconds from queueing to the start of its workers."""
    max_run: float | None
    """Maximum seconds of running time, in all attempts since it was queued by its user."""
    start_by: str | None
    """When it fails if its workers have not started; None after their start and while its sweep is paused."""
    stop_by: str | None
    """When a running search will be stopped if it has not ended."""
    attempt: int
    supernet_multiply_adds: int
    created_at: str
    started_at: str | None
    heard_at: str | None
    """When its workers last reported; they report every epoch."""
    ended_at: str | None
    stored: int
    """Bytes in storage at the end of its last attempt."""
    pruned: list[str]
    """What retention has removed: checkpoints, events or logs."""
    error: dict[str, Any] | None
    architectures: list[Architecture]
    notes: list[str]
    """Remarks on the request, such as reference networks that are left out."""
    request: dict[str, Any]
    space: dict[str, Any]
    settings: dict[str, Any]


class Attempt(Answer):
    """One launch of a search, from the claim until its job is gone."""

    number: int
    dispatcher: str
    started_at: str
    ended_at: str | None
    outcome: str | None
    """The next state of the search; None while the attempt runs."""
    error: dict[str, Any] | None


class Log(Answer):
    """A part of the driver's log of an attempt, from byte `begin` to byte `end`.

    Pass `end` as `after` to read on. While the attempt is `running` there may be more; `note` says why the log is
    missing or incomplete.
    """

    attempt: int
    running: bool
    begin: int
    end: int
    text: str
    note: str | None


class Compute(Answer):
    """Multiply-adds of forward passes; backward passes take about twice as many in addition."""

    search: int
    training: int


class Epochs(Answer):
    """The schedule."""

    pretrain: int
    search: int
    retrain: int


class Estimate(Answer):
    """How long a search is expected to run after its start, and what it will use."""

    seconds: float
    low: float
    high: float
    """The range in which `seconds` is expected to be is from `low` to `high`."""
    searches: int
    """Number of earlier searches on this cluster that the estimate is based on; with 0 it is rough."""
    cpu_hours: float
    gpu_hours: float
    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    images: int
    """Approximate number of training images."""
    epochs: Epochs
    multiply_adds: Compute
    supernet_multiply_adds: int
    notes: list[str]


class Deleted(Answer):
    """A deleted search."""

    id: str


class SearchPage(TypedDict):
    """A page of searches, newest first; pass `next` as `after` for the following page."""

    items: list[Search]
    next: str | None


class Sweep(Answer):
    """A sweep: its request, and its searches by state."""

    id: str
    project: str
    name: str
    tags: list[str]
    """The tags that all its searches have."""
    description: str
    submitted_by: str | None
    strategy: str
    budgets: list[int]
    seeds: list[int]
    paused: bool
    searches: int
    counts: dict[str, int]
    """Searches by state."""
    finals: dict[str, int]
    """Finals, which retrain the networks of the searches, by state."""
    done: bool
    stalled: int
    """Running searches and finals without an update for longer than expected."""
    seconds_left: float | None
    """Estimated for as many running searches as now, without stalled ones; None while no other is running."""
    created_at: str
    request: dict[str, Any]
    notes: list[str]
    """Changes to the request, such as equal budgets that were merged."""


class SweepPage(TypedDict):
    """A page of sweeps, newest first; pass `next` as `after` for the following page."""

    items: list[Sweep]
    next: str | None


class Point(Answer):
    """A network by cost and accuracy."""

    architecture: str
    search: str
    """The search or the finals that retrained it."""
    origin: Origin
    """`search` for a network that was searched for, otherwise the kind of baseline."""
    winner: bool
    """Whether its search or finals deliver it for the budget."""
    seed: int
    budget: int
    cost: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    """The ends of the accuracy's 95 % interval."""
    balanced_accuracy: float | None
    """None if it was tested by a release that did not report it."""
    validation_accuracy: float | None
    """None if it was retrained by a release that did not report it."""
    on_front: bool
    """Whether it is on the Pareto front of searched and reference networks."""


class Front(Answer):
    """All networks of a sweep by cost, including dominated ones; `by` is the metric."""

    cost: str
    by: By
    points: list[Point]


class Project(Answer):
    """A project: quotas, resources in use, and past use. `share` is its part of the weights of all projects with queued
    or running searches."""

    name: str
    weight: float
    max_running: int | None
    max_accelerators: float | None
    max_queued: int | None
    max_stored: int | None
    running: int
    queued: int
    accelerators: float
    """In use now. A GPU counts 1, a CPU of a search without GPUs an eighth."""
    used: float
    """Accelerator-seconds with a half-life of six hours."""
    share: float
    stored: int
    """Bytes in storage; of running searches, those at the end of their last attempt."""


class Node(Answer):
    """A node of the cluster that is running or may be added, and its resources."""

    name: str
    cpus: float
    gpus: float
    accelerator_types: list[str]
    """By their names in Ray, such as A100."""
    possible: bool
    """Whether it may be added by its autoscaled group, whose name it has."""


class Holder(Answer):
    """A search that uses resources of the cluster."""

    id: str
    project: str
    status: str
    reason: str | None
    workers: int
    """The number granted."""
    cpus: int
    gpus: int
    accelerator_type: str | None
    dispatcher: str | None


class Waiting(Answer):
    """A queued search, its place in the queue, and why it waits."""

    place: int
    """Its place among those that the caller may see."""
    id: str
    project: str
    workers: int
    """The maximum it asks for."""
    min_workers: int
    """The minimum it needs."""
    cpus: int
    """CPUs of the maximum number of workers; `gpus` likewise."""
    gpus: int
    accelerator_type: str | None
    reason: str


class Cluster(Answer):
    """The cluster as a dispatcher last saw it, `age` seconds ago; `error` says why Ray did not answer.

    With a project's token, searches and projects are only those of the project.
    """

    cpus: float
    gpus: float
    held_cpus: int
    held_gpus: int
    nodes: list[Node]
    age: float | None
    error: str | None
    holders: list[Holder]
    queued: int
    queue: list[Waiting]
    projects: list[Project]


class LoginLink(Answer):
    """A link that signs a browser in once, within `seconds`."""

    url: str
    seconds: float


class Me(Answer):
    """The caller's name in events, and what the token allows."""

    name: str
    project: str
    """`*` for all projects."""
    role: str
    expires_at: str | None


class Token(Answer):
    """A token, without its secret."""

    name: str
    project: str
    """`*` for all projects."""
    role: str
    created_by: str | None
    created_at: str
    expires_at: str | None
    """None if it does not expire."""
    last_used_at: str | None
    """Accurate to about a minute; None if it was never used."""


class MadeToken(Token):
    """A new token with its secret."""

    token: str
    """The secret to send as `Authorization: Bearer …`; only this answer contains it."""


class TokenPage(TypedDict):
    """A page of tokens, by name; pass `next` as `after` for the following page."""

    items: list[Token]
    next: str | None


class Webhook(Answer):
    """A URL that receives the events of a project's searches and sweeps, without its secret."""

    id: str
    project: str
    url: str
    """For notifications, without the secret parts."""
    events: list[str]
    created_by: str | None
    created_at: str
    taken_at: str | None
    """When it last accepted a message."""
    off_at: str | None
    """When it was switched off; None if it is on."""
    off_reason: str | None


class MadeWebhook(Webhook):
    """A new webhook with its secret."""

    secret: str | None
    """The key that signs its messages; only this answer contains it. None for notifications."""


class WebhookPage(TypedDict):
    """A page of webhooks, by id; pass `next` as `after` for the following page."""

    items: list[Webhook]
    next: str | None


class DeliveryAttempt(Answer):
    """One attempt to deliver a message."""

    time: str
    status: int | None
    """The HTTP status of the answer; None without an answer."""
    seconds: float
    reason: str | None
    """Why it was not taken; None where it was."""


class Delivery(Answer):
    """A message to a webhook."""

    id: str
    """The header `webhook-id`."""
    type: str
    """Such as search.succeeded, sweep.failed or test."""
    document: dict[str, Any]
    """The message. Its links begin with `YOSO_PUBLIC_URL`, if that is set."""
    created_at: str
    due_at: str | None
    """When it will be sent, or sent again."""
    outcome: str | None
    """`taken`, `given_up`, or None while it is pending."""
    attempts: list[DeliveryAttempt]


class DeliveryPage(TypedDict):
    """A page of messages to a webhook, newest first; pass `next` as `after` for the following page."""

    items: list[Delivery]
    next: str | None


class AuditEntry(Answer):
    """An action in the audit log."""

    time: str
    by: str | None
    """The name of the token; None for the service itself and for unknown callers."""
    action: str
    project: str | None
    """None for actions on no project or on all."""
    about: str | None
    """The object, such as search/ID, sweep/ID, token/NAME, person/NAME or project/NAME."""
    data: dict[str, Any]


class AuditPage(TypedDict):
    """A page of the audit log, newest first; pass `next` as `after` for the following page."""

    items: list[AuditEntry]
    next: str | None
