"""The finals: for every budget the networks that several searches have found are retrained, and compete.

Ray Tune runs a trial for each, which drives a Ray Train run of its own, and ASHA judges at each rung which go on (Li
et al., arXiv 1810.05934): the searched ones of a budget among themselves, and the reference networks among themselves
(`nas_core.finals`). A trial that is to stop is told so by a file in the run's folder (`verdicts/`) and ends
by itself: Tune would kill its process, and what Ray Train had started for it would keep its CPUs.

The driver alone writes the journal; a trial writes its network's files, and `result.json` beside them when it is
trained. An interrupted run goes on with what Tune has noted of its trials, and each trial from its last checkpoint;
epochs that the driver may have died without telling of it tells again, from a file of the trial's own (`epochs/`).
"""

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from torch import Tensor

from nas_core import parallel
from nas_core.data.loading import Data
from nas_core.errors import Diverged
from nas_core.finals import baseline, check_latency, delivered, path
from nas_core.search.spending import spend
from nas_core.space import Architecture, Reference
from nas_core.spec import CHOOSE_BY, SearchSpec
from nas_core.spec.finals import FIRST_RUNG, REDUCTION, rungs, side_of
from nas_core.train.evaluation import Evaluation
from nas_core.train.retrain import Retraining
from worker.candidates import start_from
from worker.checkpoints import Checkpoints, Clock
from worker.exports import Exports, write_genotype
from worker.failures import Failure, ends_run
from worker.journal import Journal
from worker.launch import trainer
from worker.run_folder import VERSION, RunFolder
from worker.training import dataset, load_data, versions
from worker.trials import compare_on_cards, competition

REPORT_SECONDS = 1.0
"""How often a trial tells of its epochs, besides at each rung: telling waits for Ray Train to listen."""
VERDICT_SECONDS = 0.1
TRIAL_RESOURCES = {"memory": 1e6}
"""What a trial's own process asks for, since Tune takes no trial that asks for nothing: the CPUs are its workers'."""
NOTHING = dict.fromkeys(CHOOSE_BY, 0.0)
"""What a network that fell out has reached."""
TUNE_ENVIRONMENT = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_GLOBAL_CHECKPOINT_S": "5"}


@dataclass(frozen=True)
class Finalist:
    """A network that is to be retrained for `budget`, as `spec.json` lists it under `finalists`.

    Its `origin` is "search" (found with `seed` by the search `source`), or that of a network which was not searched for
    (`nas_core.finals.baseline`). One that is to `fit` is a network that a search passed on its way, whose widths are
    still to use the budget up.
    """

    number: int
    budget: int
    origin: str
    seed: int
    source: str | None = None
    architecture: Mapping[str, Any] | None = None
    fit: bool = False

    @property
    def path(self) -> str:
        """Where its files are, below the run's folder."""
        return path(self.budget, self.number)

    def build(self, spec: SearchSpec) -> Architecture | Reference:
        """Its architecture. Raises `ValueError` for a baseline that the budget or a limit is too small for."""
        if self.origin != "search":
            return baseline(self.origin, spec, self.budget, self.seed)
        architecture = Architecture.from_dict(dict(self.architecture or {}))
        divisor = spec.settings.width_divisor
        return spend(architecture, self.budget, spec.limits, divisor) if self.fit else architecture


def finalists_of(values: Mapping[str, Any]) -> list[Finalist]:
    """The finalists that a specification (the content of `spec.json`) lists."""
    return [Finalist(number, **one) for number, one in enumerate(values["finalists"])]


def asha(epochs: int, choose_by: str = "accuracy") -> ASHAScheduler:
    """Who goes on at a rung, among networks that are trained for `epochs` and judged by `choose_by`."""
    return ASHAScheduler(
        time_attr="epoch",
        metric=choose_by,
        mode="max",
        max_t=epochs + 1,  # ASHA ends what reaches it, and a trial is to end by itself
        grace_period=max(1, epochs // FIRST_RUNG),
        reduction_factor=REDUCTION,
    )


def verdict(number: int, epoch: int) -> str:
    """The file that says whether a finalist goes on after the rung at `epoch`."""
    return f"verdicts/{number}-{epoch}.json"


def past(number: int) -> str:
    """The file with the journal lines of the epochs that a finalist never trains again, and maybe of later ones."""
    return f"epochs/{number}.json"


def own_folder(url: str) -> RunFolder:
    """The run's folder at `url` for the attempt of this driver.

    Tune keeps what was given to it with the experiment, and an attempt that goes on has it from there.
    """
    return RunFolder(url, int(os.environ["YOSO_ATTEMPT"]))


class Heats(FIFOScheduler):
    """For each budget one ASHA for what was searched for and one for reference networks; others are in no heat.

    What it decides at a rung it writes into `folder`, once, and leaves the trial to end by itself. Trials start in the
    order in which they were made. See `ray.tune.schedulers.TrialScheduler` for the methods.
    """

    def __init__(self, folder: str, finalists: list[Finalist], epochs: int, choose_by: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.folder, self.finalists, self.rungs = folder, finalists, set(rungs(epochs))
        self.heats = {
            (finalist.budget, side): asha(epochs, choose_by)
            for finalist in finalists
            if (side := side_of(finalist.origin)) is not None
        }

    def heat_of(self, trial: Trial) -> ASHAScheduler | None:
        """The heat that a trial runs in, if it is in any."""
        finalist = self.finalists[trial.config["number"]]
        side = side_of(finalist.origin)
        return None if side is None else self.heats[finalist.budget, side]

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Enter a trial in its heat."""
        if heat := self.heat_of(trial):
            heat.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Judge a trial at a rung, by what its heat says; a verdict that is there from before stays."""
        if (heat := self.heat_of(trial)) and result["epoch"] in self.rungs:
            goes_on = heat.on_trial_result(tune_controller, trial, result) == TrialScheduler.CONTINUE
            folder, name = own_folder(self.folder), verdict(trial.config["number"], result["epoch"])
            if not folder.exists(name):
                folder.write_json(name, {"goes_on": goes_on} | scores(result))
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Note the end of a trial in its heat."""
        if heat := self.heat_of(trial):
            heat.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Take a trial out of its heat."""
        if heat := self.heat_of(trial):
            heat.on_trial_remove(tune_controller, trial)


class Follow(tune.Callback):
    """Writes what the trials tell into the run's journal.

    Tune keeps it with the experiment, and an attempt that goes on has it from there: so the journal is opened in
    `setup`, for the attempt that YOSO_ATTEMPT names. See `ray.tune.Callback` for the methods.
    """

    def __init__(self, folder: str, finalists: list[Finalist], epochs: int) -> None:
        self.folder, self.finalists, self.epochs = folder, finalists, epochs
        self.done = dict.fromkeys(range(len(finalists)), 0)
        """Of each trial the epochs that are behind it, or that it was spared."""
        self.journal: Journal | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"journal": None}

    def get_state(self) -> dict[str, Any]:
        """What an attempt that goes on must know."""
        return {"done": dict(self.done)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` told."""
        self.done = dict(state["done"])

    def setup(self, *args: Any, **info: Any) -> None:
        """Open the journal of this attempt."""
        self.journal = Journal(own_folder(self.folder), int(os.environ["YOSO_ATTEMPT"]))

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell that a network is being retrained, long before its first epoch has ended."""
        self._write(self.finalists[trial.config["number"]], {"kind": "began"})
        self._flush(force=True)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Write the epochs that a trial tells of."""
        finalist = self.finalists[trial.config["number"]]
        self.done[finalist.number] = result["epoch"]
        for line in result["lines"]:
            self._write(finalist, line | {"progress": self.progress})
        self._flush()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tell that a network is retrained, or was stopped, or fell out, and why."""
        finalist = self.finalists[trial.config["number"]]
        told = trial.last_result
        self.done[finalist.number] = self.epochs
        if told.get("dropped"):
            self._write(finalist, {"kind": "warning", "message": told["dropped"]})
        elif told["epoch"] < self.epochs:
            self._write(finalist, {"kind": "stopped", "epoch": told["epoch"], "accuracy": told["accuracy"]})
        else:
            result = own_folder(self.folder).read_json(f"{finalist.path}/result.json")
            untold = ("dataset", "engine", "files", "latency_ms", "not_exported", "of_new_kinds", "onnx")
            line = {name: value for name, value in result.items() if name not in untold}
            self._write(finalist, {"kind": "retrained", "epoch": line.get("epochs", told["epoch"])} | line)
        self._flush(force=True)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Write what is left of the journal and the event files."""
        assert self.journal is not None
        self.journal.close()

    @property
    def progress(self) -> float:
        """The share of all epochs that is behind: 0 … 1."""
        return sum(self.done.values()) / (self.epochs * len(self.done))

    def _write(self, finalist: Finalist, line: dict[str, Any]) -> None:
        assert self.journal is not None
        own = {"trial": finalist.number, "origin": finalist.origin, "budget": finalist.budget, "seed": finalist.seed}
        self.journal.write(line | own)

    def _flush(self, force: bool = False) -> None:
        assert self.journal is not None
        self.journal.flush(force)


def run_finals(folder: RunFolder, attempt: int, values: dict[str, Any], checkpoint_seconds: float) -> None:
    """Retrain the finalists of `values` (the content of `spec.json`), and write `result.json`.

    `values["at_once"]` trials run at a time. Raises `RuntimeError` where trials failed, or were interrupted: another
    attempt goes on with them.
    """
    begin = time.time()
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["YOSO_ATTEMPT"] = str(attempt)
    spec, finalists = SearchSpec.from_dict(values), finalists_of(values)
    epochs = spec.settings.retrain_epochs
    journal = Journal(folder, attempt)
    experiment = take_over_experiment(folder)
    resumed = tune.Tuner.can_restore(experiment)
    at_once = min(values["at_once"], len(finalists))
    device = "cuda" if spec.gpus_per_worker else "cpu"
    journal.write({"kind": "started", "workers": at_once * spec.workers, "device": device, "resumed": resumed})
    journal.write({"kind": "phase", "phase": "retrain", "finalists": len(finalists)})
    journal.close()

    trial = tune.with_resources(
        tune.with_parameters(drive, folder=folder.url, attempt=attempt, seconds=checkpoint_seconds), TRIAL_RESOURCES
    )
    if resumed:
        tuner = tune.Tuner.restore(experiment, trial, resume_unfinished=True, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trial,
            param_space={"number": tune.grid_search([finalist.number for finalist in finalists])},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=at_once,
                scheduler=Heats(folder.url, finalists, epochs, spec.settings.choose_by),
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder.url_of(""),
                verbose=0,
                failure_config=tune.FailureConfig(fail_fast=True),
                callbacks=[Follow(folder.url, finalists, epochs), JsonLoggerCallback()],  # type: ignore[no-untyped-call]
            ),
        )
    outcome = tuner.fit()
    if outcome.errors:
        raise RuntimeError(f"{len(outcome.errors)} of {len(finalists)} trials failed") from outcome.errors[0]
    if outcome.num_terminated < len(finalists):
        raise RuntimeError(f"interrupted with {outcome.num_terminated} of {len(finalists)} trials at their end")
    ended = [outcome[index] for index in range(len(outcome))]
    told = {one.config["number"]: one.metrics or {} for one in ended if one.config}
    trials = [trial_result(folder, finalist, told[finalist.number], epochs) for finalist in finalists]
    trained = [one for one in trials if one["outcome"] == "trained"]
    if not trained:
        reasons = "; ".join(sorted({one["reason"] for one in trials if one.get("reason")}))
        raise Failure("diverged", f"no network was trained: {reasons}")
    told_of = competition(trials, spec.settings.choose_by)
    compare_on_cards(folder, told_of)
    folder.write_json("result.json", result(values, attempt, spec, trained[0], told_of, time.time() - begin))


def take_over_experiment(folder: RunFolder) -> str:
    """The URL of Tune's notes, of which an attempt begins with those that an earlier one has left."""
    own, found = folder.path("tune"), folder.find("tune")
    if found is not None and found != own:
        names = [str(path).removeprefix(f"{found}/") for path in folder.fs.find(found)]
        for name in sorted(names):
            folder.write(f"tune/{name}", folder.fs.cat_file(f"{found}/{name}"))
    return folder.url_of("tune")


def _name(trial: Trial) -> str:
    return f"{trial.config['number']:05d}"


def trial_result(folder: RunFolder, finalist: Finalist, told: dict[str, Any], epochs: int) -> dict[str, Any]:
    """What became of a finalist: its `outcome` is "trained", "stopped" or "dropped", the latter with a `reason`.

    `validation_accuracy` and `validation_balanced_accuracy` are those after the last of its `epochs`, or of what is
    delivered.
    """
    own = {"trial": finalist.number, "budget": finalist.budget, "origin": finalist.origin, "seed": finalist.seed,
           "source": finalist.source, "epochs": told["epoch"]}  # fmt: skip
    own |= {f"validation_{name}": value for name, value in scores(told).items()}
    if told.get("dropped"):
        return own | {"outcome": "dropped", "reason": told["dropped"]}
    if told["epoch"] < epochs:
        return own | {"outcome": "stopped"}
    return own | {"outcome": "trained"} | folder.read_json(f"{finalist.path}/result.json")


def result(
    values: dict[str, Any],
    attempt: int,
    spec: SearchSpec,
    first: Mapping[str, Any],
    told: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """The content of the finals' `result.json`; `told` is their `competition`, and `first` a network's own result."""
    complete = spec.space.complete()
    return {
        "version": VERSION,
        "search_id": values.get("search_id"),
        "attempt": attempt,
        "seconds": seconds,
        "versions": versions(),
        "dataset": first["dataset"],
        "engine": first.get("engine"),
        "supernet": {"multiply_adds": complete.multiply_adds, "parameters": complete.parameters},
        **told,
    }


def drive(config: dict[str, Any], folder: str, attempt: int, seconds: float) -> None:
    """One trial: a Ray Train run that retrains the finalist `config["number"]` of the run in `folder`.

    It runs in a process of Tune's; raises what Ray Train raises when its workers failed too often.
    """
    own = RunFolder(folder, attempt)
    spec = SearchSpec.from_dict(own.read_json("spec.json"))
    config = {"folder": folder, "attempt": attempt, "number": config["number"], "checkpoint_seconds": seconds}
    storage, name = own.url_of("train"), f"{config['number']:05d}"
    callback = TuneReportCallback()  # type: ignore[no-untyped-call]
    trainer("worker.tuning:train_finalist", config, spec, storage, name, [callback]).fit()


def train_finalist(config: dict[str, Any]) -> None:
    """What each Ray Train worker of a trial runs.

    Epochs are told at the rungs and about once a second. A network that diverges, or cannot be had for its budget, is
    told as `dropped`; whatever else fails ends the finals (`ends_run`).
    """
    folder = RunFolder(config["folder"], config["attempt"])
    values = folder.read_json("spec.json")
    finalist = finalists_of(values)[config["number"]]
    spec = replace(SearchSpec.from_dict(values), seed=finalist.seed)
    checkpoints = Checkpoints(folder, f"train/{finalist.number:05d}", spec, config["attempt"])
    with ends_run(folder, config["attempt"], spec):
        retrain(folder, values, spec, finalist, checkpoints, config["checkpoint_seconds"])


def retrain(
    folder: RunFolder,
    values: dict[str, Any],
    spec: SearchSpec,
    finalist: Finalist,
    checkpoints: Checkpoints,
    checkpoint_seconds: float,
) -> None:
    """Retrain a finalist from its last checkpoint to its end, or to the rung at which it is stopped.

    `values` is the content of `spec.json`.
    """
    epochs, rank = spec.settings.retrain_epochs, parallel.world()[0]
    torch.set_num_threads(spec.cpus_per_worker)
    device = ray.train.torch.get_device()
    lines: list[dict[str, Any]] = []
    told = 0

    def tell(epoch: int, reached: Mapping[str, Any], state: dict[str, Any] | None = None, **more: Any) -> None:
        nonlocal told
        checkpoints.report({"epoch": epoch, "lines": lines[told:]} | scores(reached) | more, state)
        told = len(lines)

    def keep() -> None:
        if rank == 0:
            folder.write_json(past(finalist.number), {"lines": lines})

    def recall(epoch: int) -> None:
        if folder.exists(past(finalist.number)):  # a Yoso of before, which may have begun this, kept none
            lines.extend(line for line in folder.read_json(past(finalist.number))["lines"] if line["epoch"] <= epoch)

    if (ended := at_end(folder, finalist, epochs)) is not None:
        recall(ended[0])
        tell(*ended)
        return
    data = load_data(folder, spec, values, device)
    try:
        architecture = finalist.build(spec)
        if finalist.origin != "search":
            check_latency(architecture, finalist.origin, spec, device)
        state = checkpoints.load()
        start = begin_with(folder, spec, finalist, architecture) if state is None else None
    except ValueError as error:
        tell(0, NOTHING, dropped=f"no {finalist.origin} network for {finalist.budget}: {error}")
        return
    retraining = Retraining(spec, architecture, data, device, start)
    if state is not None:
        retraining.load_state_dict(state)
        recall(retraining.step // retraining.steps_per_epoch)
    if rank == 0:
        folder.take(f"{finalist.number:05d}")
    judged = rungs(epochs) if side_of(finalist.origin) else []
    saving, telling = Clock(checkpoint_seconds), Clock(REPORT_SECONDS)
    while not retraining.done:
        try:
            lines += retraining.advance()
            due = not retraining.done and saving.due(ready=lambda: not checkpoints.pending)
            state = retraining.state_dict() if due else None
        except Diverged as error:
            tell(retraining.step // retraining.steps_per_epoch, NOTHING, dropped=str(error))
            return
        if retraining.done:
            break
        epoch, begun = divmod(retraining.step, retraining.steps_per_epoch)
        judging = not begun and epoch in judged
        if due or judging:
            keep()
        if due or judging or (not begun and telling.due()):
            tell(epoch, lines[-1] if lines else NOTHING, state)
        if judging and not parallel.first(partial(goes_on, folder, finalist.number, epoch)):
            return
    tested = retraining.test()
    keep()
    if rank == 0:
        write_network(folder, finalist, spec, retraining, data, tested)
    tell(epochs, retraining.validated)


def begin_with(
    folder: RunFolder, spec: SearchSpec, finalist: Finalist, architecture: Architecture | Reference
) -> dict[str, Tensor] | None:
    """The state that a finalist's training begins with; None is from scratch.

    What was searched for begins with what its search kept of the supernet for its budget, where it was asked for that
    one and settings say so. Raises `ValueError` on all workers where what is kept is damaged.
    """
    if spec.settings.retrain_start == "scratch" or finalist.source is None or finalist.fit:
        return None
    assert isinstance(architecture, Architecture)
    return start_from(folder, finalist.source, finalist.budget, architecture, finalist.seed)


def scores(reached: Mapping[str, Any]) -> dict[str, Any]:
    """What networks may be chosen by, of a line or a result; None where a Yoso of before has not noted it."""
    return {name: reached.get(name) for name in CHOOSE_BY}


def at_end(folder: RunFolder, finalist: Finalist, epochs: int) -> tuple[int, dict[str, Any]] | None:
    """The epoch at which a finalist ended in an earlier attempt, and its `scores` then; None where it did not.

    Tune notes such things only every few seconds.
    """
    if folder.exists(f"{finalist.path}/result.json"):
        found = folder.read_json(f"{finalist.path}/result.json")
        return epochs, {name: found.get(f"validation_{name}") for name in CHOOSE_BY}
    for epoch in rungs(epochs):
        name = verdict(finalist.number, epoch)
        if folder.exists(name) and not (told := folder.read_json(name))["goes_on"]:
            return epoch, told
    return None


def goes_on(folder: RunFolder, number: int, epoch: int) -> bool:
    """What the heat says of a finalist at a rung; waits until it says it."""
    name = verdict(number, epoch)
    while not folder.exists(name):
        time.sleep(folder.every(VERDICT_SECONDS))
    return bool(folder.read_json(name)["goes_on"])


def write_network(
    folder: RunFolder,
    finalist: Finalist,
    spec: SearchSpec,
    retraining: Retraining,
    data: Data,
    tested: Evaluation,
) -> None:
    """Write a retrained finalist's files, and `result.json` beside them when all are there.

    `tested` is what `Retraining.test` told. Where its patience was at its end, its `epochs` are fewer than were asked.
    """
    architecture = retraining.architecture
    write_genotype(folder, finalist.path, architecture)
    told, weights = delivered(retraining, tested)
    found = {"budget": finalist.budget, "path": finalist.path} | told
    found |= {f"validation_{name}": value for name, value in retraining.validated.items()}
    with ThreadPoolExecutor(1) as pool:
        found |= Exports(
            pool, folder, finalist.path, spec, architecture, weights, data, tested, found, versions()
        ).write()
    found |= {"dataset": dataset(data) | {"inspection": spec.inspection}, "engine": retraining.engine.told()}
    folder.write_json(f"{finalist.path}/result.json", found)
