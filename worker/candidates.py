"""What lived of a supernet when a search passed a budget, on its way from the search's folder to whoever trains on."""

import json
import posixpath

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from nas_core import parallel
from nas_core.search.search import Candidate
from nas_core.seeds import generator
from nas_core.space import Architecture
from nas_core.supernet.inherit import inherited
from worker.run_folder import RunFolder


def write_candidate(folder: RunFolder, budget: int, candidate: Candidate) -> None:
    """Write what a search in `folder` kept for a budget."""
    folder.write(_name(budget), save(candidate.state, {"architecture": candidate.live.to_json()}))


def read_candidate(folder: RunFolder, search_id: str, budget: int) -> Candidate | None:
    """What the search `search_id`, whose folder lies beside `folder`, kept for a budget; None where it kept nothing.

    Raises `ValueError` where its file holds something else.
    """
    url = f"{posixpath.dirname(folder.url.rstrip('/'))}/{search_id}"
    source = RunFolder(url, max(RunFolder(url).attempts(), default=None))
    if not source.exists(_name(budget)):
        return None
    content = source.read(_name(budget))
    try:
        state = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return Candidate(Architecture.from_json(header["__metadata__"]["architecture"]), state)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"damaged: {error}") from error


def start_from(
    folder: RunFolder, search_id: str, budget: int, architecture: Architecture, seed: int
) -> dict[str, Tensor] | None:
    """The state of the network of `architecture` that a search found, with the weights that its supernet had for it.

    It is the same on all workers, of which the first reads the file. None where the search kept none. Raises
    `ValueError` on all of them where the file is no such supernet's.
    """

    def make() -> tuple[dict[str, Tensor] | None, str]:
        try:
            candidate = read_candidate(folder, search_id, budget)
            if candidate is None:
                return None, ""
            return inherited(architecture, candidate.supernet(), generator(seed, "start", budget)), ""
        except (ValueError, RuntimeError) as error:  # torch's for tensors of other names or shapes
            return None, f"{_name(budget)} of the search {search_id} cannot be used: {error}"

    state, problem = parallel.first(make)
    if problem:
        raise ValueError(problem)
    return state


def _name(budget: int) -> str:
    return f"candidates/{budget}.safetensors"
