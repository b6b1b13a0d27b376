"""APG-NAG: the proximal Nesterov step that presses λ to exact zeros (paper, eq. 6–8)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def soft_threshold(z: Tensor, level: float | Tensor) -> Tensor:
    """Shrink every element of `z` towards zero by `level`, stopping there: the proximal operator of level·‖z‖₁."""
    return z.sign() * (z.abs() - level).clamp(min=0)


class ApgNag(Optimizer):
    """Accelerated proximal gradient in the form of Nesterov's momentum.

    With the data loss's gradient g (clipped elementwise to ±`clip`), learning rate η = `lr`, L1 weight γ = `gamma`
    and momentum μ, one step from (λ, v), v₀ = 0, is

        z = λ − ηg                        (eq. 6)
        s = soft_threshold(z, ηγ)
        v ← s − λ + μv                    (eq. 7)
        λ ← max(s + μv, 0)                (eq. 8; the clamp and the clip are the published code's)

    The gradient belongs to the look-ahead point that λ itself is, so each step needs one backward pass. With γ = 0
    and no clamp in play it is Nesterov's step. A parameter group may carry its own `gamma`; where a parameter has
    an attribute `gamma_scale` (a number or a tensor of its shape), its γ is multiplied by it.

    Raises `ValueError` for hyper-parameters out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        gamma: float = 1e-3,
        clip: float = 2.0,
    ) -> None:
        if lr <= 0 or not 0 <= momentum < 1 or gamma < 0 or clip <= 0:
            raise ValueError(
                f"ApgNag needs lr > 0, 0 ≤ momentum < 1, gamma ≥ 0 and clip > 0; "
                f"got lr={lr}, momentum={momentum}, gamma={gamma}, clip={clip}"
            )
        super().__init__(params, {"lr": lr, "momentum": momentum, "gamma": gamma, "clip": clip})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step for every parameter that has a gradient; returns what `closure` returns, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                velocity = state.get("velocity", torch.zeros_like(parameter))
                gradient = parameter.grad.clamp(-group["clip"], group["clip"])
                level = lr * group["gamma"] * getattr(parameter, "gamma_scale", 1.0)
                shrunk = soft_threshold(parameter - lr * gradient, level)
                state["velocity"] = shrunk - parameter + momentum * velocity
                parameter.copy_((shrunk + momentum * state["velocity"]).clamp(min=0))
        return loss
