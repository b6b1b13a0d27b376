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
    """What an ONNX file of a network is like, as onnxruntime runs it on one thread of a CPU."""

    bytes: int
    accuracy: float
    """On the network's test images, or on as many of them as fit into 64 MB."""
    test_images: int
    latency_ms: float
    """Of one image: the median."""
    latency_low_ms: float
    """The 10th percentile."""
    latency_high_ms: float
    """The 90th percentile."""
    latency_device: str
    """The CPU of the machine that trained the network."""


class Architecture(Answer):
    """A network that a search returned for a budget; costs in multiply-adds, parameters and elements of activations."""

    id: str
    budget: int
    origin: Origin
    """Whether it was searched for, and else what it is."""
    label: str | None
    """What it is called beside other networks of its search for the budget; None where there are no such."""
    variant: str | None
    """The name of the network that people have drawn which it is, scaled, such as resnet8; None for any other."""
    winner: bool
    """Whether it is the one to take for its budget, of any origin: finals retrain several."""
    comparison: str | None
    """How it did in the test beside the best network of another origin for its budget; None where there is none."""
    multiply_adds: int
    parameters: int
    activations: int | None
    """The most that inference of one image holds at once; None where it was not counted."""
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    test_images: int
    balanced_accuracy: float | None
    """The mean recall of the classes that have test images; None where it was not measured."""
    top5_accuracy: float | None
    """None for at most ten classes."""
    warnings: list[str]
    """What the accuracy does not show, such as a class that is never recognised."""
    latency_ms: float | None
    """Of one image on the machine that trained it (on the search's device where it is limited); None where it was not
    measured."""
    files: dict[str, str]
    """Paths for `Client.download`, by kind of file."""
    onnx: dict[str, OnnxFile]
    """What each ONNX file is like, by kind of file; empty where that was not measured."""
    not_exported: dict[str, str]
    """Why a kind of file is missing, by kind."""


class ClassResult(Answer):
    """How a network did on the test images of one class."""

    name: str
    images: int
    """Test images of the class."""
    predicted: int
    """Test images that were classified as it."""
    recall: float | None
    """The share of its images that are classified correctly; None without test images."""
    precision: float | None
    """The share of its predictions that are right; None where it was never predicted."""


class Evaluation(Answer):
    """A network's test, class by class in the order of the logits, and its confusion matrix."""

    classes: list[ClassResult]
    confusion: list[list[int]]
    """The confusion matrix as [class, predicted class, images], both classes as numbers, without what does not
    occur."""


class ArchitectureDetail(Architecture):
    """A network with its genotype, which `nas_core.space.read_genotype` reads, and its test."""

    search_id: str
    architecture: dict[str, Any]
    evaluation: Evaluation | None
    """None for a network from before tests were kept class by class, or where their file is lost or damaged."""


class Decoding(Answer):
    """How every image of the dataset is decoded: to `channels` by `size` by `size` bytes.

    Transparent pixels show `background`. Values of 16 or 32 bits are scaled from the range `integers` to 0 … 255,
    floating-point values from `floats`.
    """

    channels: int
    size: int
    background: str
    integers: list[float]
    floats: list[float]


class LeftOut(Answer):
    """Files of a dataset that are not used, for one reason: how many, and the first of them."""

    reason: str
    count: int
    examples: list[str]


class Found(Answer):
    """Images that have something in common: how many or, of images that are alike, how many groups; and the first."""

    count: int
    examples: list[list[str]]


class FieldError(Answer):
    """What is wrong with one field; `choices` are requests that would be accepted, where there are few."""

    field: str
    value: Any
    reason: str
    accepted: str
    choices: list[dict[str, Any]]
    """Requests that would be accepted where there are few: the fields that differ, by their paths, and their values."""


class Problem(Answer):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError]


class DatasetReport(Answer):
    """What was found of a dataset, and what the networks of a search would see of it."""

    dataset: str
    usable: bool
    """Whether a search can be made on it: there are no `problems`."""
    path: str | None
    kind: str
    layout: str
    class_names: list[str]
    counts: dict[str, dict[str, int]]
    """Images by part and class."""
    images: int
    examined: int
    """Images that were decoded: all of them, or a sample. What follows up to `nearly_identical` is counted on these."""
    sizes: dict[str, int]
    modes: dict[str, int]
    """As Pillow names them."""
    bit_depths: dict[str, int]
    orientations: dict[str, int]
    """By the value of the orientation tag (EXIF); 1 is upright."""
    duplicates: dict[str, Found]
    """Groups of images with the same pixels, by where they are: within or across parts, across classes."""
    constant: Found
    """Images of one colour."""
    nearly_identical: dict[str, Found]
    left_out: list[LeftOut]
    channels: int
    image_size: int
    decoding: Decoding
    fingerprint: str
    """What tells this dataset from another, and from what it was before a file changed."""
    notes: list[str]
    """What was done to the images, and what one may want to know."""
    warnings: list[str]
    problems: list[FieldError]
    """Why a search on it is refused, each with what would be accepted."""
    contact_sheet: str | None
    """Where the picture of what a network would see is, as PNG."""


class Looking(Answer):
    """How far the look at a dataset is; the same request again gets its report once there is one."""

    dataset: str
    doing: str
    done: int
    """Files so far."""
    total: int | None


class Search(Answer):
    """One search."""

    id: str
    kind: str
    """`search`, or `finals`, which retrain what the searches of a sweep have found."""
    project: str
    sweep: str | None
    """The sweep that it belongs to."""
    name: str
    submitted_by: str | None
    """The name of the token that it was submitted with."""
    status: str
    reason: str | None
    phase: str | None
    progress: float
    seconds_left: float | None
    """By how long it has taken so far; None while that says too little, and while it has stalled."""
    stalled_for: float | None
    """Seconds since its last update where that is longer than expected of a running search; None otherwise."""
    accuracy: float | None
    dataset: str
    dataset_report: dict[str, Any] | None
    """What was found when the dataset was looked at: layout, counts, decoding, what is left out, fingerprint."""
    budgets: list[int]
    limits: dict[str, Any]
    seed: int
    workers: int
    """While it is queued the most that it wants; from its launch on as many as it was granted."""
    min_workers: int
    max_workers: int
    accelerator_type: str | None
    """The accelerator that nodes must have; None for any."""
    priority: int
    preempts: bool
    """Whether running searches of its project that have a lower priority make room for it."""
    max_wait: float | None
    """Seconds that it may wait until its workers start, since its user has queued it."""
    max_run: float | None
    """Seconds that it may run, in all attempts since its user has queued it."""
    start_by: str | None
    """By when its workers must have started, while they have not and nobody has paused its sweep."""
    stop_by: str | None
    """While it runs: when it will be stopped if it has not ended."""
    attempt: int
    supernet_multiply_adds: int
    created_at: str
    started_at: str | None
    heard_at: str | None
    """When its workers last told of anything, as they do of every epoch."""
    ended_at: str | None
    stored: int
    """Bytes in the storage when its last attempt had ended."""
    pruned: list[str]
    """What was removed of it since, by its age: checkpoints, events or logs."""
    error: dict[str, Any] | None
    architectures: list[Architecture]
    notes: list[str]
    """What else there is to say of it when it is submitted: of reference networks that are left out."""
    request: dict[str, Any]
    space: dict[str, Any]
    settings: dict[str, Any]


class Attempt(Answer):
    """One launch of a search: from the claim until its job was proved gone."""

    number: int
    dispatcher: str
    started_at: str
    ended_at: str | None
    outcome: str | None
    """The state that the search went to; None while it lasts."""
    error: dict[str, Any] | None


class Log(Answer):
    """A part of what the driver of an attempt has printed, which `begin` bytes of the log precede.

    `end` is what to give as `after` for what comes next. While the attempt is `running` there may be more; `note` says
    why there is nothing to read, or not all.
    """

    attempt: int
    running: bool
    begin: int
    end: int
    text: str
    note: str | None


class Compute(Answer):
    """Multiply-adds of forward passes; backward passes cost about twice as much again."""

    search: int
    training: int


class Epochs(Answer):
    """The schedule."""

    pretrain: int
    search: int
    retrain: int


class Estimate(Answer):
    """How long a search is expected to run once it has started, and what follows from that.

    `seconds` lie between `low` and `high`, as far as can be told by so many `searches` on this cluster; with 0 it is a
    guess. `images` are those that networks are trained on, about.
    """

    seconds: float
    low: float
    high: float
    """`seconds` lie between `low` and `high`, as far as can be told."""
    searches: int
    """How many searches on this cluster the estimate follows from; with 0 it is a guess."""
    cpu_hours: float
    gpu_hours: float
    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    images: int
    """Images that networks are trained on, about."""
    epochs: Epochs
    multiply_adds: Compute
    supernet_multiply_adds: int
    notes: list[str]


class Deleted(Answer):
    """What is left of a search that was deleted."""

    id: str


class SearchPage(TypedDict):
    """A page of searches, newest first; `next` asks for the following one, as `after`."""

    items: list[Search]
    next: str | None


class Sweep(Answer):
    """A sweep: what was asked, and how many of its searches are in each state."""

    id: str
    project: str
    name: str
    submitted_by: str | None
    strategy: str
    budgets: list[int]
    seeds: list[int]
    paused: bool
    searches: int
    counts: dict[str, int]
    """Searches by state."""
    finals: dict[str, int]
    """Finals, which retrain what the searches have found, by state."""
    done: bool
    seconds_left: float | None
    """About how long it goes on if as many run at once as do now; None while none runs."""
    created_at: str
    request: dict[str, Any]
    notes: list[str]
    """What was changed of the request, such as equal budgets that were merged."""


class SweepPage(TypedDict):
    """A page of sweeps, newest first; `next` asks for the following one, as `after`."""

    items: list[Sweep]
    next: str | None


class Point(Answer):
    """A network on the plane of cost and accuracy."""

    architecture: str
    search: str
    """The search or the finals that retrained it."""
    origin: Origin
    """Whether it was searched for, and else what it is."""
    winner: bool
    """Whether it is the one that its search or its finals deliver for the budget."""
    seed: int
    budget: int
    cost: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    """The ends of the accuracy's 95 % interval."""
    balanced_accuracy: float | None
    """None where it was tested by a version that did not tell it."""
    validation_accuracy: float | None
    """On the part by which networks are chosen; None where it was retrained by a version that did not tell it."""
    on_front: bool
    """Whether it was searched for or is a reference network, and no other such is at once as cheap and as good."""


class Front(Answer):
    """All networks of a sweep by cost, those that are dominated too; `by` is what says which is better."""

    cost: str
    by: By
    points: list[Point]


class Project(Answer):
    """A project: what it may have, holds and has used. `share` is its part of the weights of all that have something
    queued or running."""

    name: str
    weight: float
    max_running: int | None
    max_accelerators: float | None
    max_queued: int | None
    max_stored: int | None
    running: int
    queued: int
    accelerators: float
    """Held now; a GPU counts 1, a search without GPUs an eighth a CPU."""
    used: float
    """Accelerator-seconds, of which half are forgotten every six hours."""
    share: float
    stored: int
    """Bytes in the storage; of searches that run, what they held when their last attempt ended."""


class Node(Answer):
    """A machine of the cluster that is alive, or may be added to it, and what it has."""

    name: str
    cpus: float
    gpus: float
    accelerator_types: list[str]
    """As Ray names them, such as A100."""
    possible: bool
    """Whether it is not there yet: its autoscaled group, whose name it bears, may grow by it."""


class Holder(Answer):
    """A search that holds a part of the cluster."""

    id: str
    project: str
    status: str
    reason: str | None
    workers: int
    """As many as it was granted."""
    cpus: int
    gpus: int
    accelerator_type: str | None
    dispatcher: str | None


class Waiting(Answer):
    """A queued search: its place if everything came free now, and why it waits."""

    place: int
    """Among those that are shown."""
    id: str
    project: str
    workers: int
    """The most that it wants."""
    min_workers: int
    """The fewest that will do."""
    cpus: int
    """Of the most workers, like `gpus`."""
    gpus: int
    accelerator_type: str | None
    reason: str


class Cluster(Answer):
    """The cluster as a dispatcher last saw it, `age` seconds ago; `error` says why Ray could not be asked.

    With a project's token all but what is held in all is of that project alone.
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
    """A link that signs a browser in, once, within so many seconds."""

    url: str
    seconds: float


class Me(Answer):
    """Who asks, as events name them, and what their token opens; the project `*` is all of them."""

    name: str
    project: str
    """`*` for all."""
    role: str
    expires_at: str | None


class Token(Answer):
    """A token, without what is sent for it."""

    name: str
    project: str
    """`*` for all."""
    role: str
    created_by: str | None
    created_at: str
    expires_at: str | None
    """None where it never ends."""
    last_used_at: str | None
    """To about a minute; None where it was not used yet."""


class MadeToken(Token):
    """A token that was just made, and what is to be sent for it: it is told this once."""

    token: str
    """What is to be sent as `Authorization: Bearer …`; it is told here and nowhere again."""


class TokenPage(TypedDict):
    """A page of tokens, by name; `next` asks for the following one, as `after`."""

    items: list[Token]
    next: str | None


class Webhook(Answer):
    """A URL that is told what becomes of a project's searches and sweeps, without its secret."""

    id: str
    project: str
    url: str
    """That of a notification without what is secret in it."""
    events: list[str]
    created_by: str | None
    created_at: str
    taken_at: str | None
    """When it last took a message."""
    off_at: str | None
    """Since when it is switched off; None where it is on."""
    off_reason: str | None


class MadeWebhook(Webhook):
    """A webhook that was just made, and what its messages are signed with: it is told this once, to no notification."""

    secret: str | None
    """What its messages are signed with, for the receiver; it is told here and nowhere again. Notifications: None."""


class WebhookPage(TypedDict):
    """A page of webhooks, by id; `next` asks for the following one, as `after`."""

    items: list[Webhook]
    next: str | None


class DeliveryAttempt(Answer):
    """What came of sending a message once."""

    time: str
    status: int | None
    """Of the answer; None where there was none."""
    seconds: float
    reason: str | None
    """Why it was not taken; None where it was."""


class Delivery(Answer):
    """A message to a webhook; its outcome is taken, given_up, or None while it is to be sent."""

    id: str
    """What the header `webhook-id` says."""
    type: str
    """Such as search.succeeded, sweep.failed or test."""
    document: dict[str, Any]
    """What is sent; links are below `YOSO_PUBLIC_URL` then, where that is set."""
    created_at: str
    due_at: str | None
    """When it is to be sent (again)."""
    outcome: str | None
    """`taken`, `given_up`, or None while it is to be sent."""
    attempts: list[DeliveryAttempt]


class DeliveryPage(TypedDict):
    """A page of messages to a webhook, newest first; `next` asks for the following one, as `after`."""

    items: list[Delivery]
    next: str | None


class AuditEntry(Answer):
    """Something that somebody did."""

    time: str
    by: str | None
    """The name of the token that it was done with; None for nobody who is known, or the service itself."""
    action: str
    project: str | None
    """None where it is about no project, or about all."""
    about: str | None
    """Such as search/ID, sweep/ID, token/NAME, person/NAME or project/NAME."""
    data: dict[str, Any]


class AuditPage(TypedDict):
    """A page of the audit log, newest first; `next` asks for the following one, as `after`."""

    items: list[AuditEntry]
    next: str | None
