"""What the API answers, as types for Python programs that ask it: the client returns these dictionaries.

They say what the API's own models say (a test compares the two), and load neither those nor the server that they
belong to.
"""

from typing import Any, Literal, TypedDict, final

from nas_core.space import Origin


class OnnxFile(TypedDict):
    """What an ONNX file of a network is like, as onnxruntime runs it on one thread of a CPU."""

    bytes: int
    accuracy: float
    test_images: int
    latency_ms: float
    latency_low_ms: float
    latency_high_ms: float
    latency_device: str


class Architecture(TypedDict):
    """A network that a search returned for a budget; costs in multiply-adds, parameters and elements of activations."""

    id: str
    budget: int
    origin: Origin
    label: str | None
    variant: str | None
    winner: bool
    comparison: str | None
    multiply_adds: int
    parameters: int
    activations: int | None
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    test_images: int
    balanced_accuracy: float | None
    top5_accuracy: float | None
    warnings: list[str]
    latency_ms: float | None
    files: dict[str, str]
    """Paths for `Client.download`, by kind of file."""
    onnx: dict[str, OnnxFile]
    not_exported: dict[str, str]


class ClassResult(TypedDict):
    """How a network did on the test images of one class."""

    name: str
    images: int
    predicted: int
    recall: float | None
    precision: float | None


class Evaluation(TypedDict):
    """A network's test, class by class, and its confusion matrix as [class, predicted, images]."""

    classes: list[ClassResult]
    confusion: list[list[int]]


class ArchitectureDetail(Architecture):
    """A network with its genotype, which `nas_core.space.read_genotype` reads, and its test."""

    search_id: str
    architecture: dict[str, Any]
    evaluation: Evaluation | None


class Decoding(TypedDict):
    """How every image of a dataset is decoded."""

    channels: int
    size: int
    background: str
    integers: list[float]
    floats: list[float]


class LeftOut(TypedDict):
    """Files of a dataset that are not used, for one reason: how many, and the first of them."""

    reason: str
    count: int
    examples: list[str]


class Found(TypedDict):
    """Images that have something in common: how many, or how many groups of them, and the first."""

    count: int
    examples: list[list[str]]


class FieldError(TypedDict):
    """What is wrong with one field; `choices` are requests that would be accepted, where there are few."""

    field: str
    value: Any
    reason: str
    accepted: str
    choices: list[dict[str, Any]]


@final
class DatasetReport(TypedDict):
    """What was found of a dataset, and what the networks of a search would see of it."""

    dataset: str
    usable: bool
    path: str | None
    kind: str
    layout: str
    class_names: list[str]
    counts: dict[str, dict[str, int]]
    images: int
    examined: int
    sizes: dict[str, int]
    modes: dict[str, int]
    bit_depths: dict[str, int]
    orientations: dict[str, int]
    duplicates: dict[str, Found]
    constant: Found
    nearly_identical: dict[str, Found]
    left_out: list[LeftOut]
    channels: int
    image_size: int
    decoding: Decoding
    fingerprint: str
    notes: list[str]
    warnings: list[str]
    problems: list[FieldError]
    contact_sheet: str | None


@final
class Looking(TypedDict):
    """How far the look at a dataset is: what is done at present, for how many files, and of how many."""

    dataset: str
    doing: str
    done: int
    total: int | None


@final
class Search(TypedDict):
    """One search."""

    id: str
    kind: str
    project: str
    sweep: str | None
    name: str
    submitted_by: str | None
    status: str
    reason: str | None
    phase: str | None
    progress: float
    seconds_left: float | None
    accuracy: float | None
    dataset: str
    dataset_report: dict[str, Any] | None
    budgets: list[int]
    limits: dict[str, Any]
    seed: int
    workers: int
    min_workers: int
    max_workers: int
    accelerator_type: str | None
    priority: int
    max_wait: float | None
    max_run: float | None
    start_by: str | None
    stop_by: str | None
    attempt: int
    supernet_multiply_adds: int
    created_at: str
    started_at: str | None
    heard_at: str | None
    ended_at: str | None
    stored: int
    pruned: list[str]
    error: dict[str, Any] | None
    architectures: list[Architecture]
    notes: list[str]
    request: dict[str, Any]
    space: dict[str, Any]
    settings: dict[str, Any]


class Attempt(TypedDict):
    """One launch of a search."""

    number: int
    dispatcher: str
    started_at: str
    ended_at: str | None
    outcome: str | None
    error: dict[str, Any] | None


class Log(TypedDict):
    """A part of what an attempt's driver has printed; `end` is what to give as `after` for what comes next.

    While the attempt is `running` there may be more; `note` says why there is nothing to read.
    """

    attempt: int
    running: bool
    begin: int
    end: int
    text: str
    note: str | None


class Compute(TypedDict):
    """Multiply-adds of forward passes; backward passes cost about twice as much again."""

    search: int
    training: int


class Epochs(TypedDict):
    """The schedule."""

    pretrain: int
    search: int
    retrain: int


class Estimate(TypedDict):
    """How long a search is expected to run once it has started, and what follows from that.

    `seconds` lie between `low` and `high`, as far as can be told by so many `searches` on this cluster; with 0 it is a
    guess. `images` are those that networks are trained on, about.
    """

    seconds: float
    low: float
    high: float
    searches: int
    cpu_hours: float
    gpu_hours: float
    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    images: int
    epochs: Epochs
    multiply_adds: Compute
    supernet_multiply_adds: int
    notes: list[str]


class SearchPage(TypedDict):
    """A page of searches; `next` is to be given as `after`."""

    items: list[Search]
    next: str | None


@final
class Sweep(TypedDict):
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
    finals: dict[str, int]
    done: bool
    seconds_left: float | None
    created_at: str
    request: dict[str, Any]
    notes: list[str]


class SweepPage(TypedDict):
    """A page of sweeps; `next` is to be given as `after`."""

    items: list[Sweep]
    next: str | None


class Point(TypedDict):
    """A network on the plane of cost and accuracy."""

    architecture: str
    search: str
    origin: Origin
    winner: bool
    seed: int
    budget: int
    cost: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float | None
    validation_accuracy: float | None
    on_front: bool


class Front(TypedDict):
    """A sweep's networks by cost, the cheapest first; those that others beat too."""

    cost: str
    by: Literal["accuracy", "balanced_accuracy"]
    points: list[Point]


class Project(TypedDict):
    """A project: what it may have, holds and has used."""

    name: str
    weight: float
    max_running: int | None
    max_accelerators: float | None
    max_queued: int | None
    max_stored: int | None
    running: int
    queued: int
    accelerators: float
    used: float
    share: float
    stored: int


class Node(TypedDict):
    """A machine of the cluster."""

    name: str
    cpus: float
    gpus: float
    accelerator_types: list[str]
    possible: bool


class Holder(TypedDict):
    """A search that holds a part of the cluster."""

    id: str
    project: str
    status: str
    reason: str | None
    workers: int
    cpus: int
    gpus: int
    accelerator_type: str | None
    dispatcher: str | None


class Waiting(TypedDict):
    """A queued search: its place, and why it waits."""

    place: int
    id: str
    project: str
    workers: int
    min_workers: int
    cpus: int
    gpus: int
    accelerator_type: str | None
    reason: str


class Cluster(TypedDict):
    """What the cluster has, who holds it, and who waits."""

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


class LoginLink(TypedDict):
    """A link that signs a browser in, once, within so many seconds."""

    url: str
    seconds: float


class Me(TypedDict):
    """Who asks, as events name them, and what their token opens; the project `*` is all of them."""

    name: str
    project: str
    role: str
    expires_at: str | None


class Token(TypedDict):
    """A token, without what is sent for it."""

    name: str
    project: str
    role: str
    created_by: str | None
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class MadeToken(Token):
    """A token that was just made, and what is to be sent for it: it is told this once."""

    token: str


class TokenPage(TypedDict):
    """A page of tokens; `next` is to be given as `after`."""

    items: list[Token]
    next: str | None


class Webhook(TypedDict):
    """A URL that is told what becomes of a project's searches and sweeps, without its secret."""

    id: str
    project: str
    url: str
    events: list[str]
    created_by: str | None
    created_at: str
    taken_at: str | None
    off_at: str | None
    off_reason: str | None


class MadeWebhook(Webhook):
    """A webhook that was just made, and what its messages are signed with: it is told this once, to no notification."""

    secret: str | None


class WebhookPage(TypedDict):
    """A page of webhooks; `next` is to be given as `after`."""

    items: list[Webhook]
    next: str | None


class DeliveryAttempt(TypedDict):
    """What came of sending a message once."""

    time: str
    status: int | None
    seconds: float
    reason: str | None


class Delivery(TypedDict):
    """A message to a webhook; its outcome is taken, given_up, or None while it is to be sent."""

    id: str
    type: str
    document: dict[str, Any]
    created_at: str
    due_at: str | None
    outcome: str | None
    attempts: list[DeliveryAttempt]


class DeliveryPage(TypedDict):
    """A page of messages to a webhook; `next` is to be given as `after`."""

    items: list[Delivery]
    next: str | None


class AuditEntry(TypedDict):
    """Something that somebody did."""

    time: str
    by: str | None
    action: str
    project: str | None
    about: str | None
    data: dict[str, Any]


class AuditPage(TypedDict):
    """A page of the audit log; `next` is to be given as `after`."""

    items: list[AuditEntry]
    next: str | None
