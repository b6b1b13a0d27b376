"""How long a search will take, by what searches before it took on this cluster. No I/O.

What a search computes is known before it runs (`nas_core.search.forecast`). How much of it a worker computes in a
second is not, since small networks leave a device idle. So the estimate follows from the searches nearest in cost; the
fewer they are and the farther away, the wider its range.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nas_core.errors import InvalidValue
from nas_core.search.forecast import forecast
from nas_core.spec import SearchSpec
from nas_core.wording import number_of
from service.formats import duration

NEIGHBOURS = 8
"""How many searches an estimate follows from."""
GUESSED = {False: 2e9, True: 1e12}
"""Multiply-adds of forward passes in a second of training, of a worker with one CPU and of one with a GPU, where none
has run yet: what was measured on two machines, and projected for an H100 (docs/performance.md)."""
GUESS_FACTOR = 5.0
"""By how much such a guess may be off."""
LEAST_SPREAD = math.log(1.25)
START_SECONDS = 12.0
"""From the launch to the first training step (`make bench-start`)."""
EPOCHS = ("pretrain_epochs", "search_epochs", "retrain_epochs")
"""What makes a schedule long."""
DAYS_SECONDS = 86400.0
"""From here on a search on CPUs is said to take days."""
LONG_SECONDS = 30 * 86400.0
"""What is expected to take longer is only queued when its user confirms it."""


@dataclass(frozen=True)
class Ran:
    """A search that has succeeded: what it computed, in how many seconds of all attempts, and with what."""

    multiply_adds: int
    seconds: float
    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    accelerator_type: str | None

    @property
    def rate(self) -> float:
        """Multiply-adds in a second of training of one worker."""
        return self.multiply_adds / max(self.seconds - START_SECONDS, self.seconds / 4) / self.workers


@dataclass(frozen=True)
class Estimate:
    """How long a search is expected to take once it has started, and how sure that is.

    `seconds` lie between `low` and `high`, as far as the `searches` before it tell; with none of them it is a guess.
    """

    multiply_adds: int
    seconds: float
    low: float
    high: float
    searches: int
    workers: int
    cpus: int
    gpus: int

    @property
    def cpu_hours(self) -> float:
        """Of all workers together, as `gpu_hours`."""
        return self.cpus * self.seconds / 3600

    @property
    def gpu_hours(self) -> float:
        """0 for a search on CPUs."""
        return self.gpus * self.seconds / 3600

    def __str__(self) -> str:
        basis = "a rough estimate: no similar search has run on this cluster yet"
        if self.searches:
            basis = f"by {number_of(self.searches, 'search')} on this cluster"
        return f"about {duration(self.seconds)} ({duration(self.low)} to {duration(self.high)}; {basis})"


def estimate(spec: SearchSpec, before: Iterable[Ran]) -> Estimate:
    """How long the search of `spec` will take with all its workers, by the searches `before`.

    Raises `ValueError` where the specification does not say how many images there are.
    """
    multiply_adds = forecast(spec).multiply_adds
    alike = [
        one
        for one in before
        if one.gpus_per_worker == spec.gpus_per_worker and spec.accelerator_type in (None, one.accelerator_type)
    ]

    def distance(one: Ran) -> float:
        fewer = abs(math.log(max(1, one.cpus_per_worker) / max(1, spec.cpus_per_worker)))
        return abs(math.log(one.multiply_adds / multiply_adds)) + (0 if spec.gpus_per_worker else fewer)

    nearest = sorted(alike, key=distance)[:NEIGHBOURS]
    if nearest:
        logs = [math.log(one.rate) for one in nearest]
        rate = statistics.median(logs)
        spread = max((max(logs) - min(logs)) / 2, LEAST_SPREAD) + math.log(2) / len(logs)
        spread += statistics.median(map(distance, nearest)) / 3
    else:
        cores = 1 if spec.gpus_per_worker else max(1, spec.cpus_per_worker)
        rate, spread = math.log(GUESSED[spec.gpus_per_worker > 0] * cores), math.log(GUESS_FACTOR)
    seconds, factor = START_SECONDS + multiply_adds / math.exp(rate) / spec.workers, math.exp(spread)
    return Estimate(
        multiply_adds,
        seconds,
        seconds / factor,
        seconds * factor,
        len(nearest),
        spec.workers,
        spec.workers * spec.cpus_per_worker,
        spec.workers * spec.gpus_per_worker,
    )


def within(spec: SearchSpec, seconds: float, before: Sequence[Ran]) -> SearchSpec:
    """`spec` with so much shorter a schedule that it is expected to take `seconds`; as it is where it takes no longer.

    Raises `InvalidValue` where even one epoch of each phase takes longer.
    """
    if estimate(spec, before).seconds <= seconds:
        return spec
    least = estimate(_shortened(spec, 0.0), before)
    if least.seconds > seconds:
        reason = f"too short: an epoch of each phase is expected to take {least}"
        accepted = f"at least {duration(least.seconds)}, more workers, or fewer budgets"
        raise InvalidValue("time", duration(seconds), reason, accepted)
    fits, exceeds = 0.0, 1.0
    for _ in range(12):
        share = (fits + exceeds) / 2
        if estimate(_shortened(spec, share), before).seconds <= seconds:
            fits = share
        else:
            exceeds = share
    return _shortened(spec, fits)


def _shortened(spec: SearchSpec, share: float) -> SearchSpec:
    """`spec` with so large a share of its epochs."""
    settings = spec.settings
    pretraining, retraining = settings.pretrain_epochs, max(1, int(settings.retrain_epochs * share))
    shorter = replace(
        settings,
        pretrain_epochs=max(1, int(pretraining * share)) if pretraining else 0,
        search_epochs=max(1, int(settings.search_epochs * share)),
        retrain_epochs=retraining,
        retrain_warmup_epochs=min(settings.retrain_warmup_epochs, retraining - 1),
    )
    return replace(spec, settings=shorter)


def warnings(expected: Estimate) -> list[str]:
    """What the user of a search that is expected to take so long should know."""
    if expected.gpus or expected.seconds <= DAYS_SECONDS:
        return []
    return [
        f"on CPUs it is expected to run for {duration(expected.seconds, 1)}: use GPUs, a limit (time), or fewer epochs"
    ]


def refuse_too_long(expected: Estimate, confirmed: bool) -> None:
    """Raise `InvalidValue` where a search is expected to take very long, unless its user has confirmed it."""
    if expected.seconds > LONG_SECONDS and not confirmed:
        accepted = "true (--yes) to queue it anyway; or a time, fewer epochs (settings), more workers, or GPUs"
        raise InvalidValue("confirmed", confirmed, f"the search is expected to run for {expected}", accepted)
