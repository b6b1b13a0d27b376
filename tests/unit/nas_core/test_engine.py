"""How a step is computed changes its memory, time and rounding, and no more; what a device cannot do it refuses."""

import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cache, partialmethod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_core.errors import InvalidValue, OutOfMemory
from nas_core.job import SearchJob
from nas_core.search.search import Search, supernet_per_image
from nas_core.space import Block, SearchSpace
from nas_core.spec import EngineOptions, SearchSpec
from nas_core.supernet.supernet import Supernet, SupernetBlock
from nas_core.train.engine import Engine
from nas_core.train.retrain import Retraining
from tests.unit.nas_core.networks import tiny_data, tiny_spec

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def spec(**options: Any) -> SearchSpec:
    return replace(tiny_spec(), engine=EngineOptions(**options))


def job(**options: Any) -> SearchJob:
    return SearchJob(spec(**options), tiny_data(), "cpu")


def finished(job: SearchJob) -> tuple[list[dict[str, Any]], list[Tensor]]:
    """What a job tells of its results, and all weights."""
    while not job.done:
        job.advance()
    return job.results, [tensor for weights in job.weights.values() for tensor in weights.values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile without its last step, which needs a C++ compiler."""
    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", partialmethod(compile_, backend="aot_eager"))
    monkeypatch.setattr("nas_core.train.engine._lacks_compiler", lambda device: None)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def left_alone() -> Callable[..., tuple[list[dict[str, Any]], list[Tensor]]]:
    """What a job with some options tells and holds that is never cut; each runs once."""
    return cache(lambda **options: finished(job(**options)))


def test_computing_activations_again_changes_no_bit_and_keeps_less(
    left_alone: Callable[..., tuple[list[dict[str, Any]], list[Tensor]]],
) -> None:
    plain, twice = job(), job(recompute=True)
    least, most = (supernet_per_image(one.spec.space, one.search.engine) for one in (twice, plain))
    assert 0 < least < most / 2
    (results, weights), (expected, wanted) = left_alone(recompute=True), finished(plain)
    assert results == expected and same(weights, wanted)


def test_in_bfloat16_activations_are_rounded_and_what_is_learned_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[torch.dtype] = set()
    forward = SupernetBlock.forward

    def watched(block: SupernetBlock, x: Tensor, scaling: Tensor) -> Tensor:
        given = forward(block, x, scaling)
        seen.update((x.dtype, given.dtype))
        return given

    monkeypatch.setattr(SupernetBlock, "forward", watched)
    rounded = job(precision="bfloat16")
    results, weights = finished(rounded)
    assert seen == {torch.bfloat16}
    search = rounded.search
    learned = [*search.supernet.parameters(), *search.supernet.buffers(), *weights]
    learned += [v for state in search.scaling_step.state.values() for v in state.values()]
    assert {tensor.dtype for tensor in learned if tensor.is_floating_point()} == {torch.float32}
    assert all(0.9 * one["budget"] <= one["multiply_adds"] <= one["budget"] for one in results)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the tracer's own
def test_compiled_blocks_compute_what_blocks_as_written_do_also_after_a_removal(traced: None) -> None:
    space = SearchSpace("small", 1, 6, 3, (1,), 2, (1,), 1, ("separable3", "max_pool3"))
    plain = Supernet(space)
    compiled = deepcopy(plain)
    Engine(EngineOptions(compile=True), CPU).prepare(compiled)
    images = torch.randn(4, 1, 6, 6)
    everything = space.complete()
    smaller = replace(everything, blocks=(Block(tuple(e for e in everything.blocks[0].edges if 2 not in e[:2])),))
    for architecture in (everything, smaller):
        for supernet in (plain, compiled):
            supernet.prune(architecture)
            supernet.zero_grad()
            supernet(images).square().sum().backward()
        for own, wanted in zip(compiled.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(own.grad, wanted.grad)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"recompute": True}], ids=str)
def test_every_engine_resumes_bit_for_bit(
    options: dict[str, Any], left_alone: Callable[..., tuple[list[dict[str, Any]], list[Tensor]]]
) -> None:
    begun, (expected, wanted) = job(**options), left_alone(**options)
    for step in range(1, 17):
        begun.advance()
        if step in (4, 16):
            kept = io.BytesIO()
            torch.save(begun.state_dict(), kept)
            kept.seek(0)
            resumed = job(**options)
            resumed.load_state_dict(torch.load(kept, weights_only=True))
            results, weights = finished(resumed)
            assert results == expected and same(weights, wanted), step


def test_another_precision_is_another_search() -> None:
    begun = job(precision="bfloat16")
    begun.advance()
    with pytest.raises(InvalidValue, match=r"engine\.precision"):
        job().load_state_dict(begun.state_dict())


@pytest.mark.parametrize(
    ("options", "device", "field", "accepted"),
    [
        ({"precision": "tf32"}, CPU, "engine.precision", "auto or float32 or bfloat16"),
        ({"precision": "bfloat16"}, GPU, "engine.precision", "auto or float32"),
        ({"precision": "tf32"}, GPU, "engine.precision", "auto or float32"),
        ({"compile": True}, CPU, "engine.compile", "a worker with a compiler"),
        ({"compile": True}, GPU, "engine.compile", "a worker with a compiler"),
    ],
    ids=str,
)
def test_what_a_device_cannot_do_is_refused_by_name(
    options: dict[str, Any], device: torch.device, field: str, accepted: str, old_gpu: None, no_compiler: None
) -> None:
    with pytest.raises(InvalidValue) as raised:
        Engine(EngineOptions(**options), device)
    assert raised.value.field == field and accepted in raised.value.accepted


def test_auto_takes_what_the_device_has_and_says_what_it_lacks(old_gpu: None) -> None:
    assert Engine(EngineOptions(), CPU).told() == {"precision": "float32", "compile": False, "recompute": False}
    told = Engine(EngineOptions(), GPU).told()
    assert told["precision"] == "float32" and told["remark"] == "Tesla V100 has no bfloat16"


@pytest.mark.parametrize("amx", [False, True])
def test_a_processor_that_emulates_bfloat16_is_named_in_the_result(monkeypatch: pytest.MonkeyPatch, amx: bool) -> None:
    known = {"architecture": "x86_64", "cpu_name": "Zen 3", "avx512_bf16": False, "amx_bf16": amx}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    told = Engine(EngineOptions(precision="bfloat16"), CPU).told()
    assert told["precision"] == "bfloat16" and ("remark" in told) == (not amx)
    assert amx or "Zen 3 has no instructions for bfloat16" in told["remark"]
    assert "remark" not in Engine(EngineOptions(), CPU).told()


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)


def test_the_memory_of_a_step_is_told_without_taking_it() -> None:
    search = Search(tiny_spec(), tiny_data(), "cpu")
    kept: dict[int, Tensor] = {}
    own = {
        tensor.untyped_storage().data_ptr() for tensor in [*search.supernet.parameters(), *search.supernet.buffers()]
    }

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    count = 16
    space = search.spec.space
    images = torch.randn(count, space.channels_in, space.image_size, space.image_size)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = search._loss(images, torch.zeros(count, dtype=torch.long))
    held = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert loss.requires_grad and supernet_per_image(space, search.engine) * count == pytest.approx(held, rel=0.1)


@contextmanager
def full_memory(module: type[nn.Module], patch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `module` computes on the CPU takes more memory than there is."""
    forward = module.forward

    def greedy(self: nn.Module, *inputs: Any) -> Any:
        if next(iter(self.parameters())).device == CPU:
            torch.empty(2**50)
        return forward(self, *inputs)

    with patch.context() as patched:
        patched.setattr(module, "forward", greedy)
        yield


def test_a_step_that_does_not_fit_names_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(tiny_spec(), tiny_data(), "cpu")
    with full_memory(Supernet, monkeypatch), pytest.raises(OutOfMemory, match="allocate") as raised:
        search.advance()
    error = pickle.loads(pickle.dumps(raised.value))
    assert (error.field, error.size, error.per_image) == (
        "batch_size",
        16,
        supernet_per_image(search.spec.space, search.engine),
    )


def test_a_step_of_retraining_that_does_not_fit_names_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    retraining = Retraining(tiny_spec(), tiny_spec().space.complete(), tiny_data(), "cpu")
    with full_memory(type(retraining.trainee), monkeypatch), pytest.raises(OutOfMemory) as raised:
        retraining.advance()
    assert (raised.value.field, raised.value.size) == ("retrain_batch_size", 16) and raised.value.per_image > 0
