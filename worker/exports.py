"""The forms in which a retrained network is given out, written into its run's folder."""

import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from nas_core.data.contact_sheet import thumbnails
from nas_core.data.loading import Data
from nas_core.deliver import card, onnx_files, programs, standalone
from nas_core.deliver.onnx_files import OnnxFile, Sample
from nas_core.deliver.preprocessing import Preprocessing
from nas_core.files import FILES, set_apart
from nas_core.search.latency import Latency, measure_latency
from nas_core.space import Architecture, Reference
from nas_core.space.picture import draw
from nas_core.spec import ExportOptions, SearchSpec
from nas_core.train.evaluation import Evaluation
from worker.run_folder import RunFolder


def write_genotype(folder: RunFolder, path: str, architecture: Architecture | Reference) -> None:
    """Write a network's architecture and picture at `path` of the folder."""
    folder.write(f"{path}/{FILES['architecture']}", architecture.to_json().encode())
    folder.write(f"{path}/{FILES['picture']}", draw(architecture).encode())


def beside() -> Executor:
    """One process beside this one, in which networks are exported while the next one trains.

    A thread would not do: to export is Python's work for seconds, and torch.export changes how modules are called.
    """
    pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_serve)
    pool.submit(bool)  # starts it, so that it has loaded what it needs when the first network comes
    return pool


def _serve() -> None:
    """Leave the processor to the training, and this world with the process that it is for."""
    os.nice(19)
    torch.set_num_threads(1)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class Exports:
    """A retrained network on its way into every form, at `path` of the folder; the slow forms are made by `pool`.

    `found` is what its result says so far, and `evaluation` its test; `latency` is measured where it is not known.
    """

    def __init__(
        self,
        pool: Executor,
        folder: RunFolder,
        path: str,
        spec: SearchSpec,
        architecture: Architecture | Reference,
        weights: Mapping[str, Tensor],
        data: Data,
        evaluation: Evaluation,
        found: Mapping[str, Any],
        versions: Mapping[str, str],
        latency: Latency | None = None,
    ) -> None:
        self.folder, self.path = folder, path
        folder.write(f"{path}/{FILES['weights']}", save(dict(weights)))
        folder.write(f"{path}/{FILES['evaluation']}", json.dumps(evaluation.to_dict()).encode())
        self.mistakes = evaluation.mistakes
        if self.mistakes:
            wrong = data.images.fetch(torch.tensor([one.image for one in self.mistakes])).cpu().numpy()
            folder.write(f"{path}/{FILES['mistakes']}", thumbnails(list(wrong)))
        preprocessing = Preprocessing.of(data, spec)
        network = programs.restore(architecture, weights)
        measured = latency or measure_latency(network, spec.cpus_per_worker, device=data.device)
        self.latency = measured
        sample = Sample.of(data)
        told = spec.export, preprocessing, versions.get("yoso", ""), sample
        onnx = pool.submit(_onnx, architecture, weights, *told)
        torch_export = pool.submit(_torch_export, architecture, weights)
        self.slow = onnx, torch_export
        self.not_exported: dict[str, str] = {}
        self.onnx: dict[str, dict[str, Any]] = {}

        def written(kind: str) -> bytes:
            file = onnx.result()[kind]
            if isinstance(file, Exception):
                raise file
            took = onnx_files.measure(file.content)
            self.onnx[kind] = {
                "bytes": len(file.content), "accuracy": file.accuracy, "test_images": len(sample.labels),
                "latency_ms": took.median, "latency_low_ms": took.low, "latency_high_ms": took.high,
                "latency_device": took.where,
            }  # fmt: skip
            return file.content

        self.forms: dict[str, Callable[[], bytes]] = {
            **{kind: partial(written, kind) for kind in onnx_files.KINDS},
            "torch_export": torch_export.result,
            "predict": lambda: standalone.to_predict(preprocessing, spec.export.normalise).encode(),
            "python": lambda: standalone.to_python(architecture, data.mean, data.deviation, data.class_names).encode(),
            # A class is called what its folder is called, which need not be text.
            "card": lambda: card.model_card(
                spec, architecture, data, found, evaluation, measured, versions, self.onnx, self.not_exported
            ).encode(errors="backslashreplace"),
        }

    @property
    def ready(self) -> bool:
        """Whether `write` has nothing to wait for."""
        return all(one.done() for one in self.slow)

    def write(self) -> dict[str, Any]:
        """Write every form, and return what the network's result says of them.

        Returned are its `files` by kind, its `latency_ms` in PyTorch (that which was held to a limit, where there is
        one), under `onnx` by kind what each ONNX file is like, and under `not_exported` by kind why a form is missing:
        a network that one format cannot express is a result all the same. An ONNX file has so many `bytes`, reaches an
        `accuracy` on so many `test_images`, and onnxruntime takes `latency_ms` for one image on one thread of the
        `latency_device` (the median; the 10th and 90th percentile `latency_low_ms` and `latency_high_ms`). Raises
        `BrokenExecutor` where the process that exports has died.
        """
        for kind, form in self.forms.items():
            try:
                content = form()
            except BrokenExecutor:
                raise
            except Exception as error:
                self.not_exported[kind] = f"{type(error).__name__}: {error}"
            else:
                self.folder.write(f"{self.path}/{FILES[kind]}", content)
        lacking = {*self.not_exported, *(() if self.mistakes else ("mistakes",))}
        files = {kind: name for kind, name in FILES.items() if kind not in lacking}
        told = {"latency_ms": self.latency.median, "latency_device": self.latency.where, "onnx": self.onnx}
        return set_apart(told | {"files": files, "not_exported": self.not_exported})


def _onnx(
    architecture: Architecture | Reference,
    weights: Mapping[str, Tensor],
    options: ExportOptions,
    preprocessing: Preprocessing,
    version: str,
    sample: Sample,
) -> dict[str, OnnxFile | Exception]:
    return onnx_files.write_all(programs.restore(architecture, weights), options, preprocessing, version, sample)


def _torch_export(architecture: Architecture | Reference, weights: Mapping[str, Tensor]) -> bytes:
    return programs.to_torch_export(programs.restore(architecture, weights))
