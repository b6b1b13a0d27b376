"""A network's steps: in order, each with a name of its own, and those that its modules take."""

from hypothesis import given

from nas_core import Architecture, Network
from nas_core.space.topology import INPUT, ConvBnAct, Join, Operate
from tests.unit.nas_core.networks import architectures


@given(architectures())
def test_a_step_reads_only_what_is_there_and_nothing_is_computed_for_nobody(architecture: Architecture) -> None:
    for part in architecture.parts():
        there = {INPUT}
        for step in part.steps:
            assert step.reads and set(step.reads) <= there and step.name not in there
            there.add(step.name)
        assert part.leaves and set(part.leaves) <= there
        read = {name for step in part.steps for name in step.reads} | set(part.leaves)
        assert read == there or read == there - {INPUT}


@given(architectures())
def test_what_leaves_a_part_enters_the_next(architecture: Architecture) -> None:
    space = architecture.space
    channels, size = space.channels_in, space.image_size
    for part in architecture.parts():
        assert (part.channels, part.size) == (channels, size)
        for step in part.steps:
            if step.name in part.leaves and isinstance(step, (ConvBnAct, Operate, Join)):
                channels, size = step.channels, step.size


@given(architectures())
def test_a_networks_modules_are_named_as_its_parts(architecture: Architecture) -> None:
    names = [part.name for part in architecture.parts()]
    assert [name for name, _ in Network(architecture).body.named_children()] == names[1:-1]
    assert len(set(names)) == len(names) and (names[0], names[-1]) == ("stem", "head")
