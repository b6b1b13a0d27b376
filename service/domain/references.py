"""What is known of reference networks before anything runs: which cannot be made as small as a budget."""

from collections.abc import Sequence
from functools import lru_cache

from nas_core.search.references import candidates
from nas_core.search.spending import effective_cost
from nas_core.space import FAMILIES, SearchSpace
from nas_core.spec import Limits, SearchSpec
from service.domain.patience import carry_on


def left_out(spec: SearchSpec, budgets: Sequence[int], baselines: Sequence[str]) -> list[str]:
    """What is said of those `baselines` that finals in the space and the limits of `spec` do without for some budgets.

    Latency is not judged, which takes the device.
    """
    told = []
    for family in [one for one in baselines if one in FAMILIES]:
        carry_on()
        if (one := _left_out(family, spec.space, spec.limits, tuple(budgets))) is not None:
            told.append(one)
    return told


@lru_cache(1024)  # most requests are for spaces and budgets that were asked for before
def _left_out(family: str, space: SearchSpace, limits: Limits, budgets: tuple[int, ...]) -> str | None:
    smallest = [one.narrowest() for one in candidates(family, space)]
    dear = [budget for budget in budgets if all(effective_cost(one, budget, limits) > budget for one in smallest)]
    if not dear:
        return None
    least = min(smallest, key=lambda one: effective_cost(one, dear[0], limits))
    return (
        f"{family} takes at least {least.multiply_adds:,} multiply-adds, {least.parameters:,} parameters and "
        f"{least.peak_activations:,} activations: it is left out for {', '.join(f'{one:,}' for one in dear)}"
    )
