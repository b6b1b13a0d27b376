"""How a module is trained on a device: in which precision, compiled or not, and with what of a pass computed twice."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nas_core import parallel
from nas_core.errors import InvalidValue
from nas_core.spec import EngineOptions
from nas_core.supernet.passes import blocks, recompute
from nas_core.train.batch_norm import synchronise

MOST_SHAPES = 4096
"""So many variants of the code that blocks share may be compiled: each block has its own, and anew after removals."""


class Engine:
    """What becomes of `options` on `device`, where every worker has one of its own kind.

    Raises `InvalidValue` for an option that the device of any worker cannot do; "auto" takes what all can do.
    """

    def __init__(self, options: EngineOptions, device: torch.device) -> None:
        self.options, self.device = options, device
        self.remark: str | None = None
        """Why "auto" did not take the fastest, where a GPU might have been expected to, or what was asked for is
        slow."""
        # What each worker's device lacks, and why.
        told = parallel.each(
            {
                "tf32": _lacks_tf32(device),
                "bfloat16": _lacks_bfloat16(device),
                "compile": _lacks_compiler(device) if options.compile else None,
            }
        )
        lacking = {name: next(filter(None, (one[name] for one in told)), None) for name in told[0]}
        self.precision = options.precision
        if options.precision == "auto":
            self.precision = "bfloat16" if device.type == "cuda" and not lacking["bfloat16"] else "float32"
            self.remark = lacking["bfloat16"] if device.type == "cuda" else None
        elif reason := lacking.get(options.precision):
            able = ["auto", "float32", *(name for name in ("tf32", "bfloat16") if not lacking[name])]
            raise InvalidValue("engine.precision", options.precision, reason, " or ".join(able))
        if self.precision == "bfloat16" and device.type == "cpu":
            self.remark = _emulates_bfloat16()
        if reason := lacking["compile"]:
            raise InvalidValue("engine.compile", True, reason, "false, or a worker with a compiler")

    def told(self) -> dict[str, Any]:
        """What a result tells of it."""
        told = {"precision": self.precision, "compile": self.options.compile, "recompute": self.options.recompute}
        return told | ({"remark": self.remark} if self.remark else {})

    def prepare(self, module: nn.Module) -> None:
        """Make `module`, which lies on the device, train as the options say."""
        synchronise(module, self.options)
        if self.options.recompute:
            recompute(module)
        if self.options.compile:
            torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MOST_SHAPES
            for block in blocks(module):
                block.compile(dynamic=False)

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """The precision of what is computed in here: the forward passes of training, and what is made for them."""
        matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
        before = matmul.fp32_precision, conv.fp32_precision
        matmul.fp32_precision = conv.fp32_precision = "ieee" if self.precision == "float32" else "tf32"
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                yield
        finally:
            matmul.fp32_precision, conv.fp32_precision = before


@contextmanager
def apart_from(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """In here nothing is computed or kept for gradients of `parameters`."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _lacks_tf32(device: torch.device) -> str | None:
    """Why there is no TF32 on `device`."""
    if device.type != "cuda":
        return "TF32 needs a GPU"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} has no TF32"
    return None


def _lacks_bfloat16(device: torch.device) -> str | None:
    """Why there is no bfloat16 on `device`; any CPU has it, though not every one has it fast."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return f"{torch.cuda.get_device_name(device)} has no bfloat16"
    return None


def _emulates_bfloat16() -> str | None:
    """Why bfloat16 is slow on this processor, as far as torch can tell."""
    # torch 2.11 does not tell.
    told = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if told.get("architecture") != "x86_64" or told["avx512_bf16"] or told["amx_bf16"]:
        return None
    return f"{told['cpu_name']} has no instructions for bfloat16, so bfloat16 would be slower than float32"


def _lacks_compiler(device: torch.device) -> str | None:
    """Why torch.compile cannot work for `device`."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else f"Triton does not work with {torch.cuda.get_device_name(device)}"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return f"there is no C++ compiler for the code that torch.compile writes on {sys.platform}"
    return None
