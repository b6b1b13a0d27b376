"""What all networks of a search space have in common.

A network is a stem, S stages of blocks with a reduction block after every stage but the last, and a head. A block
holds M levels of N operations; each operation may read the block's input and every operation of a lower level, and
the block's output may read every operation (paper, section 3.1 and figure 3).

Nodes of a block are numbered: 0 is its input, 1 … M·N its operations, level by level, and M·N+1 its output.
"""

from dataclasses import dataclass

from nas_core.errors import InvalidValue
from nas_core.space.operations import OPERATION_SETS, OPERATIONS, PAPER_OPERATIONS

MOST_OPERATIONS = 2048
"""Candidate operations of all blocks together: five times those of the largest preset. What a check of a request costs
grows with them."""


@dataclass(frozen=True)
class Skeleton:
    """The stages, the candidate operations and the sizes of a space's networks.

    `image_size` is the height and width of the square input in pixels; `stem` the strides of the stem's 3×3
    convolutions, of which all but the last have half of `channels`; `channels` the width of the first stage, which
    doubles with every stage; `blocks` the number of blocks per stage. With `share` all blocks have one set of edges.

    Raises `InvalidValue` where a field cannot be used.
    """

    name: str
    channels_in: int
    image_size: int
    classes: int
    stem: tuple[int, ...]
    channels: int
    blocks: tuple[int, ...]
    levels: int = 4
    operations: tuple[str, ...] = PAPER_OPERATIONS
    share: bool = False

    def __post_init__(self) -> None:
        for field, smallest, largest in (
            ("channels_in", 1, 4096),
            ("image_size", 4, 4096),
            ("classes", 2, 1_000_000),
            ("channels", 2, 4096),
            ("levels", 1, 8),
        ):
            value = getattr(self, field)
            if type(value) is not int or not smallest <= value <= largest:
                raise InvalidValue(
                    f"space.{field}", value, "not a usable number", f"an integer from {smallest} to {largest}"
                )
        if type(self.share) is not bool:
            raise InvalidValue("space.share", self.share, "not a truth value", "true or false")
        for field, smallest, largest, longest in (("stem", 1, 2, 4), ("blocks", 1, 64, 6)):
            values = getattr(self, field)
            if (
                not isinstance(values, tuple)
                or not 1 <= len(values) <= longest
                or not all(type(v) is int and smallest <= v <= largest for v in values)
            ):
                raise InvalidValue(
                    f"space.{field}",
                    values,
                    "not a usable list",
                    f"1 to {longest} integers from {smallest} to {largest}",
                )
        if (
            not isinstance(self.operations, tuple)
            or not self.operations
            or not all(isinstance(name, str) and name in OPERATIONS for name in self.operations)
            or len(set(self.operations)) != len(self.operations)
        ):
            raise InvalidValue(
                "space.operations",
                self.operations,
                "not a list of different known operations",
                f"one or more of {', '.join(OPERATIONS)}, or of the sets {', '.join(OPERATION_SETS)}",
            )
        if self.size > MOST_OPERATIONS:
            raise InvalidValue(
                "space",
                self.size,
                f"too many candidate operations: {sum(self.blocks)} blocks of {self.levels} levels of "
                f"{len(self.operations)}",
                f"at most {MOST_OPERATIONS} in all; fewer blocks, levels or operations",
            )
        if self.resolution(len(self.blocks) - 1) < 1:
            raise InvalidValue(
                "space.image_size", self.image_size, "too small for so many stages", "a larger image or fewer stages"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """What an image is: channels, height, width."""
        return self.channels_in, self.image_size, self.image_size

    @property
    def stage_of_block(self) -> tuple[int, ...]:
        """The stage of each block, counted from 0."""
        return tuple(stage for stage, count in enumerate(self.blocks) for _ in range(count))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels per stage of the supernet."""
        return tuple(self.channels << stage for stage in range(len(self.blocks)))

    @property
    def nodes(self) -> int:
        """The number of operations in a block."""
        return self.levels * len(self.operations)

    @property
    def size(self) -> int:
        """The number of candidate operations in all blocks together."""
        return sum(self.blocks) * self.nodes

    def operation(self, node: int) -> str:
        """The name of the operation at `node` (1 … nodes)."""
        return self.operations[(node - 1) % len(self.operations)]

    def level(self, node: int) -> int:
        """The level of `node`, from 1; the block's input is at level 0 and its output above all."""
        return (node - 1) // len(self.operations) + 1

    def edges(self) -> list[tuple[int, int]]:
        """Every (source, target) of the complete block, sorted by target and then source."""
        kinds = len(self.operations)
        into = [
            (source, target)
            for target in range(1, self.nodes + 1)
            for source in range(1 + (self.level(target) - 1) * kinds)
        ]
        return into + [(source, self.nodes + 1) for source in range(1, self.nodes + 1)]

    def resolution(self, stage: int) -> int:
        """Height and width in pixels of the images in `stage`."""
        size = self.image_size
        for stride in self.stem:
            size = -(-size // stride)
        for _ in range(stage):
            size = -(-size // 2)
        return size

    def node_name(self, node: int) -> str:
        """The name of a block's node in JSON and pictures: `input`, `2.separable5` (level 2), `output`."""
        if node == 0:
            return "input"
        if node == self.nodes + 1:
            return "output"
        return f"{self.level(node)}.{self.operation(node)}"
