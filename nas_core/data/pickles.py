"""CIFAR's own pickled batches, read without running what they say."""

import io
import pickle
from pathlib import Path
from typing import Any


def unpickle(file: Path) -> dict[bytes, Any]:
    """The arrays and values in one of CIFAR's files. Raises `pickle.UnpicklingError` for anything else.

    Not by torchvision's reader: that one unpickles, which runs what a file says, and trusts an MD5 sum to forbid it.
    """
    return _ArraysOnly(io.BytesIO(file.read_bytes()), encoding="bytes").load()


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that builds numpy arrays and plain values and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        # CIFAR's files name numpy's modules as they were then.
        module = module.replace("numpy.core", "numpy._core")
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "scalar"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a CIFAR batch")
