"""The method against numbers that its published implementation produced (tests/reference)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nas_core import ApgNag, SearchSpace
from nas_core.space import live
from nas_core.supernet.supernet import SupernetBlock, SupernetReduction
from nas_core.train.steps import weight_optimizer

REFERENCE = Path(__file__).parents[2] / "reference"
KINDS = ("conv3x3", "conv5x5", "max_pool", "avg_pool")
TRACES = json.loads((REFERENCE / "apgnag.json").read_text())
BLOCKS = json.loads((REFERENCE / "prune.json").read_text())


def trace(kind: str) -> dict[str, Any]:
    return next(trace for trace in TRACES if trace["kind"] == kind)


def test_apg_nag_follows_the_published_trace() -> None:
    expected = trace("lambda")
    scaling = torch.nn.Parameter(torch.tensor(expected["w0"]))
    optimizer = ApgNag([scaling], lr=expected["lr"], momentum=expected["mu"], gamma=expected["gamma"], clip=2.0)
    for gradient, after in zip(expected["grads"], expected["trace"], strict=True):
        scaling.grad = torch.tensor(gradient)
        optimizer.step()
        torch.testing.assert_close(scaling.data, torch.tensor(after["w"]), atol=1e-5, rtol=0)
        torch.testing.assert_close(optimizer.state[scaling]["velocity"], torch.tensor(after["mom"]), atol=1e-5, rtol=0)


def test_the_weights_follow_the_published_trace() -> None:
    expected = trace("weight_nag_wd")
    weight = torch.nn.Parameter(torch.tensor(expected["w0"]))
    optimizer = weight_optimizer([weight], expected["lr"], expected["mu"], expected["wd"])
    for gradient, after in zip(expected["grads"], expected["trace"], strict=True):
        weight.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_value_([weight], expected["clip"])
        optimizer.step()
        torch.testing.assert_close(weight.data, torch.tensor(after["w"]), atol=1e-5, rtol=0)


def strengths(block: dict[str, Any]) -> dict[tuple[int, int], float]:
    """λ by edge; the published code has none on the input's edges to level 1, which always live."""
    edges = {(0, target): 1.0 for target in range(1, 5)}
    for key, values in block.items():
        numbers = [int(part) for part in key.split("_") if part.isdigit()]
        if key.startswith("into"):
            level, kind = numbers
            edges |= {(source, (level - 1) * 4 + kind): value for source, value in enumerate(values)}
        else:
            edges |= {((numbers[0] - 1) * 4 + kind, 17): value for kind, value in enumerate(values, start=1)}
    return edges


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_isolated_operations_go_as_in_the_published_code(number: int) -> None:
    before, after = strengths(BLOCKS[number]["before"]), strengths(BLOCKS[number]["after"])
    kept = live([edge for edge, strength in before.items() if strength > 0], output=17)
    expected = [edge for edge, strength in after.items() if (strength > 0 and edge[0] != 0) or edge in kept]
    assert sorted(kept) == sorted(expected)
    inputs_of_levels_above = {edge for edge, strength in after.items() if strength > 0 and edge[1] > 4}
    assert {edge for edge in kept if edge[1] > 4} == inputs_of_levels_above


def block_of(arrays: dict[str, Any]) -> tuple[SupernetBlock, Tensor]:
    space = SearchSpace.preset("digits")
    block = SupernetBlock(space, width=8, first=False, scale=True)
    scaling = []
    with torch.no_grad():
        for m, level in enumerate(block.levels, start=1):
            for ours, theirs in (("weight", "gamma"), ("bias", "beta")):
                parts = [tensor(arrays, f"b_{m}_{kind}_bn_{theirs}") for kind in KINDS]
                getattr(level.bn, ours).copy_(torch.cat(parts))
            for name in ("mean", "var"):
                parts = [tensor(arrays, f"aux_b_{m}_{kind}_bn_moving_{name}") for kind in KINDS]
                getattr(level.bn, f"running_{name}").copy_(torch.cat(parts))
            for index, kind in enumerate(KINDS[:2]):
                level.bodies[str(level.nodes[index])][0].weight.copy_(tensor(arrays, f"b_{m}_{kind}_sep_weight"))
                level.pointwise[index].copy_(tensor(arrays, f"b_{m}_{kind}_weight"))
            for n in range(1, 5):
                into = torch.ones(1, 1) if m == 1 else tensor(arrays, f"lambda_b_layer_{m}_{n}")
                scaling.append(into.view(-1))
        for node in range(1, 17):
            block.output[node - 1].copy_(tensor(arrays, f"b_output_conv_{node}_weight"))
        block.output_bn.weight.copy_(tensor(arrays, "b_bn_gamma"))
        block.output_bn.bias.copy_(tensor(arrays, "b_bn_beta"))
        for name in ("mean", "var"):
            getattr(block.output_bn, f"running_{name}").copy_(tensor(arrays, f"aux_b_bn_moving_{name}"))
    return block, torch.cat([*scaling, tensor(arrays, "lambda_after_b").view(-1)])


def tensor(arrays: dict[str, Any], name: str) -> Tensor:
    return torch.from_numpy(arrays[name])


def test_a_block_computes_what_the_published_one_does() -> None:
    arrays = dict(np.load(REFERENCE / "block_identity_shortcut.npz"))
    block, scaling = block_of(arrays)
    images = tensor(arrays, "data")
    torch.testing.assert_close(block.eval()(images, scaling), tensor(arrays, "out_eval"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(block.train()(images, scaling), tensor(arrays, "out_train"), atol=1e-5, rtol=1e-5)
    for m, level in enumerate(block.levels, start=1):
        after = torch.cat([tensor(arrays, f"aux_after_b_{m}_{kind}_bn_moving_mean") for kind in KINDS])
        torch.testing.assert_close(level.bn.running_mean, after, atol=1e-5, rtol=1e-5)


def test_a_reduction_computes_what_the_published_one_does() -> None:
    arrays = dict(np.load(REFERENCE / "reduction.npz"))
    reduction = SupernetReduction(8, 16, scale=True)
    with torch.no_grad():
        for kernel, branch in reduction.branches.items():
            name = f"r_conv{kernel}x{kernel}"
            branch[0].weight.copy_(tensor(arrays, f"{name}_weight"))
            branch[1].weight.copy_(tensor(arrays, f"{name}_bn_gamma"))
            branch[1].bias.copy_(tensor(arrays, f"{name}_bn_beta"))
            branch[1].running_mean.copy_(tensor(arrays, f"aux_{name}_bn_moving_mean"))
            branch[1].running_var.copy_(tensor(arrays, f"aux_{name}_bn_moving_var"))
    images, scaling = tensor(arrays, "data"), tensor(arrays, "lambda_r").view(-1)
    torch.testing.assert_close(reduction.eval()(images, scaling), tensor(arrays, "out_eval"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reduction.train()(images, scaling), tensor(arrays, "out_train"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("preset", "multiply_adds"), [("cifar10", 1_484_539_776), ("imagenet", 1_503_496_960)])
def test_the_complete_supernets_cost_what_the_published_ones_do(preset: str, multiply_adds: int) -> None:
    assert SearchSpace.preset(preset).complete().multiply_adds == multiply_adds
