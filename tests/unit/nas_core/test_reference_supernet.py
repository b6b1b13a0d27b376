"""The supernet that searches against the plainest one that is right."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks.reference_supernet import ReferenceSupernet, pairs, trained
from nas_core import SearchSpace
from nas_core.space.operations import OPERATIONS
from nas_core.supernet.supernet import Supernet

SPACES: dict[str, dict[str, Any]] = {
    "digits": {"preset": "digits", "channels": 4, "blocks": (2, 1)},
    "shared": {"preset": "digits", "channels": 4, "blocks": (2, 1), "share": True},
    "every operation": {
        "preset": "digits",
        "channels": 4,
        "blocks": (1,),
        "levels": 2,
        "operations": tuple(OPERATIONS),
    },
    "imagenet": {"preset": "imagenet", "channels": 2, "blocks": (1, 1), "image_size": 32, "classes": 5},
}


@pytest.mark.parametrize("name", SPACES)
def test_parameters_outputs_and_gradients_are_those_of_the_plainest_supernet(name: str) -> None:
    space = SearchSpace.preset(**{"name" if key == "preset" else key: value for key, value in SPACES[name].items()})
    torch.manual_seed(0)
    ours, reference = Supernet(space).double(), ReferenceSupernet(space).double()
    with torch.no_grad():
        for factor in ours.scaling_factors():
            factor.uniform_(0.2, 1.5)
    reference.copy(ours)
    together = list(pairs(reference, ours))
    assert sum(own.numel() for own, _ in together) == sum(one.numel() for one in trained(ours))
    assert sum(own.numel() for own, _ in together) == sum(one.numel() for one in trained(reference))

    images = torch.randn(3, space.channels_in, space.image_size, space.image_size, dtype=torch.double)
    labels = torch.arange(3)
    logits, expected = ours(images), reference(images)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    F.cross_entropy(logits, labels).backward()
    F.cross_entropy(expected, labels).backward()
    with torch.no_grad():
        for parameter in trained(ours):
            if parameter.numel():  # a space of one stage has no reduction
                assert parameter.grad is not None
                parameter.copy_(parameter.grad)
    for own, theirs in pairs(reference, ours):
        if own.numel():
            torch.testing.assert_close(own.grad, theirs, atol=1e-5, rtol=1e-5)
