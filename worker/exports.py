"""The forms in which a retrained network is given out, written into its run's folder."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from safetensors.torch import save
from torch import Tensor

from nas_core.data.loading import Data
from nas_core.deliver import card, programs, standalone
from nas_core.deliver.preprocessing import Preprocessing
from nas_core.files import FILES
from nas_core.search.latency import Latency, measure_latency
from nas_core.space import Architecture
from nas_core.space.picture import draw
from nas_core.spec import SearchSpec
from nas_core.train.evaluation import Evaluation
from worker.run_folder import RunFolder


def write_genotype(folder: RunFolder, path: str, architecture: Architecture) -> dict[str, str]:
    """Write a network's architecture and picture at `path` of the folder; returns these files' names by kind."""
    folder.write(f"{path}/{FILES['architecture']}", architecture.to_json().encode())
    folder.write(f"{path}/{FILES['picture']}", draw(architecture).encode())
    return {kind: FILES[kind] for kind in ("architecture", "picture")}


def write_weights(folder: RunFolder, path: str, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Write a network's weights at `path` of the folder; returns the file's name by kind."""
    folder.write(f"{path}/{FILES['weights']}", save(dict(weights)))
    return {"weights": FILES["weights"]}


def write_evaluation(folder: RunFolder, path: str, evaluation: Evaluation) -> dict[str, str]:
    """Write the confusion matrix of a network's test at `path` of the folder; returns the file's name by kind."""
    folder.write(f"{path}/{FILES['evaluation']}", json.dumps(evaluation.to_dict()).encode())
    return {"evaluation": FILES["evaluation"]}


def write_exports(
    folder: RunFolder,
    path: str,
    spec: SearchSpec,
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    data: Data,
    evaluation: Evaluation,
    budget: int,
    versions: Mapping[str, str],
    latency: Latency | None = None,
) -> dict[str, Any]:
    """Write a retrained network in every form at `path` of the folder; returns what its result says of them.

    It was found for `budget`, and `evaluation` is its test; `latency` is measured where it is not known. Returned are
    its `files` by kind, its `latency_ms` (that which was held to a limit, where there is one), and under `not_exported`
    by kind why a form is missing: a network that one format cannot express is a result all the same.
    """
    write_weights(folder, path, weights)
    write_evaluation(folder, path, evaluation)
    network, preprocessing = programs.restore(architecture, weights), Preprocessing.of(data, spec)
    latency = latency or measure_latency(network, spec.cpus_per_worker, device=data.device)
    not_exported: dict[str, str] = {}
    forms: dict[str, Callable[[], bytes]] = {
        "onnx": lambda: programs.to_onnx(network, spec.export, preprocessing, versions.get("yoso", "")),
        "torch_export": lambda: programs.to_torch_export(network),
        "predict": lambda: standalone.to_predict(preprocessing, spec.export.normalise).encode(),
        "python": lambda: standalone.to_python(architecture, data.mean, data.deviation, data.class_names).encode(),
        # A class is called what its folder is called, which need not be text.
        "card": lambda: card.model_card(
            spec, architecture, data, budget, evaluation, latency, versions, not_exported
        ).encode(errors="backslashreplace"),
    }
    for kind, form in forms.items():
        try:
            content = form()
        except Exception as error:
            not_exported[kind] = f"{type(error).__name__}: {error}"
        else:
            folder.write(f"{path}/{FILES[kind]}", content)
    files = {kind: name for kind, name in FILES.items() if kind not in not_exported}
    return {"latency_ms": latency.median, "latency_device": latency.where, "files": files, "not_exported": not_exported}
