"""The forms in which a retrained network is given out, written into its run's folder."""

from collections.abc import Callable, Mapping
from typing import Any

from nas_core import export
from nas_core.files import FILES
from nas_core.job import SearchJob, path
from nas_core.latency import measure_latency
from worker.run_folder import RunFolder


def write_exports(folder: RunFolder, job: SearchJob, versions: Mapping[str, str]) -> dict[str, Any]:
    """Write the newest network of `job` in every form; returns what its result says of them.

    That is its `files` by kind, its `latency_ms` (that which was held to a limit, where there is one), and under
    `not_exported` by kind why a form is missing: a network that one format cannot express is a result all the same.
    """
    data, result = job.data, job.results[-1]
    budget = result["budget"]
    architecture = job.architectures[budget]
    network = export.restore(architecture, job.weights[budget])
    latency = job.search.latencies.get(budget) or measure_latency(network)
    not_exported: dict[str, str] = {}
    forms: dict[str, Callable[[], bytes]] = {
        "onnx": lambda: export.to_onnx(network),
        "torch_export": lambda: export.to_torch_export(network),
        "python": lambda: export.to_python(architecture, data.mean, data.deviation, data.class_names).encode(),
        # A class is called what its folder is called, which need not be text.
        "card": lambda: export.model_card(job.spec, architecture, data, result, latency, versions, not_exported).encode(
            errors="backslashreplace"
        ),
    }
    for kind, form in forms.items():
        try:
            content = form()
        except Exception as error:
            not_exported[kind] = f"{type(error).__name__}: {error}"
        else:
            folder.write(f"{path(budget)}/{FILES[kind]}", content)
    files = {kind: name for kind, name in FILES.items() if kind not in not_exported}
    return {"latency_ms": latency.median, "files": files, "not_exported": not_exported}
