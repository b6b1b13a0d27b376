"""APG-NAG's algebra, beyond the published traces."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_core import ApgNag
from nas_core.search.proximal import soft_threshold

values = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=8)


@given(values, st.floats(0, 2, width=32))
def test_the_proximal_map_solves_its_problem(numbers: list[float], level: float) -> None:
    z = torch.tensor(numbers, dtype=torch.float64)
    at = soft_threshold(z, level)

    def objective(x: torch.Tensor) -> torch.Tensor:
        return (x - z) ** 2 / 2 + level * x.abs()

    for away in (-1e-3, 1e-3, 0.3, -0.3):
        assert (objective(at) <= objective(at + away) + 1e-12).all()


@given(values, st.floats(0.01, 0.5), st.floats(0, 0.9))
def test_without_penalty_it_is_nesterovs_momentum(numbers: list[float], lr: float, momentum: float) -> None:
    start = torch.tensor(numbers, dtype=torch.float64).abs() + 100
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    one = ApgNag([ours], lr=lr, momentum=momentum, gamma=0.0, clip=5.0)
    other = torch.optim.SGD([theirs], lr=lr, momentum=momentum, nesterov=momentum > 0)
    for step in range(4):
        gradient = torch.sin(start * (step + 1))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs)


@given(values, st.floats(0.1, 2))
def test_factors_never_fall_below_zero_and_zeros_are_exact(numbers: list[float], gamma: float) -> None:
    parameter = torch.nn.Parameter(torch.tensor(numbers).abs())
    optimizer = ApgNag([parameter], lr=0.5, gamma=gamma)
    for _ in range(30):
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert (parameter >= 0).all()
    assert (parameter == 0).all()


def test_each_vector_may_weigh_its_penalty() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    setattr(parameters[1], "gamma_scale", torch.tensor([0.0, 2.0]))  # noqa: B010
    optimizer = ApgNag(parameters, lr=0.1, momentum=0.0, gamma=1.0)
    for parameter in parameters:
        parameter.grad = torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(parameters[0].data, torch.tensor([0.9, 0.9]))
    torch.testing.assert_close(parameters[1].data, torch.tensor([1.0, 0.8]))


@pytest.mark.parametrize("wrong", [{"lr": 0}, {"momentum": 1}, {"momentum": -0.1}, {"gamma": -1}, {"clip": 0}])
def test_hyper_parameters_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="ApgNag needs"):
        ApgNag([torch.nn.Parameter(torch.ones(1))], **{"lr": 0.1} | wrong)
