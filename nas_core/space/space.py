"""The search space: which networks a search may return.

A network is a stem, S stages of blocks with a reduction block after every stage but the last, and a head. A block
holds M levels of N operations; each operation may read the block's input and every operation of a lower level, and
the block's output may read every operation (paper, section 3.1 and figure 3).

Nodes of a block are numbered: 0 is its input, 1 … M·N its operations, level by level, and M·N+1 its output.
"""

from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from nas_core.errors import InvalidValue, refuse_unknown
from nas_core.space.operations import OPERATIONS, PAPER_OPERATIONS

if TYPE_CHECKING:
    from nas_core.space.architecture import Architecture

MOST_OPERATIONS = 2048
"""Candidate operations of all blocks together: five times those of the largest preset. What a check of a request costs
grows with them."""


@dataclass(frozen=True)
class SearchSpace:
    """The set of networks that one search chooses from.

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
                "one or more of " + ", ".join(OPERATIONS),
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

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """The space called `name` (see `PRESETS`) with some of its fields replaced.

        Raises `InvalidValue` for an unknown name or field.
        """
        if name not in PRESETS:
            raise InvalidValue("space.preset", name, "no such preset", "one of " + ", ".join(PRESETS))
        refuse_unknown("space", overrides, [field.name for field in fields(cls) if field.name != "name"])
        overrides = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
        return replace(cls(**PRESETS[name]), **overrides)

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

    def complete(self) -> "Architecture":
        """The network with every edge alive."""
        from nas_core.space.architecture import Architecture, Block, Edge, Reduction

        block = Block(tuple(Edge(source, target, 1.0) for source, target in self.edges()))
        return Architecture(
            space=self,
            widths=self.widths,
            blocks=(block,) * sum(self.blocks),
            reductions=(Reduction(1.0, 1.0),) * (len(self.blocks) - 1),
        )

    def single_paths(self) -> list["Architecture"]:
        """The smallest networks that are no bare chain of shortcuts.

        One block (every block, where they share their edges) holds a single operation; reductions are their 1×1
        branch. That block is the first or the second of a stage: what comes behind costs what the second does.
        """
        from nas_core.space.architecture import Architecture, Block, Edge, Reduction

        output = self.nodes + 1
        empty = Block(())
        count = sum(self.blocks)
        stages = self.stage_of_block
        telling = [block for block in range(count) if block < 2 or stages[block] != stages[block - 2]]
        candidates = []
        for node in range(1, len(self.operations) + 1):
            path = Block((Edge(0, node, 1.0), Edge(node, output, 1.0)))
            layouts = (
                [(path,) * count]
                if self.share
                else [tuple(path if b == full else empty for b in range(count)) for full in telling]
            )
            candidates += [
                Architecture(self, self.widths, blocks, (Reduction(1.0, 0.0),) * (len(self.blocks) - 1))
                for blocks in layouts
            ]
        return candidates

    def cheapest(self) -> "Architecture":
        """Of the `single_paths` the one of the fewest multiply-adds."""
        return min(self.single_paths(), key=lambda architecture: architecture.multiply_adds)

    def feasible_budgets(self) -> tuple[int, int]:
        """The smallest and the largest budget, in multiply-adds, for which this space holds a network."""
        return _feasible_budgets(self)

    def to_dict(self) -> dict[str, Any]:
        """The space as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The space that `to_dict` described. Raises `InvalidValue` where a field is missing, unknown or unusable."""
        known = {field.name for field in fields(cls)}
        for field in sorted(known ^ set(values)):
            raise InvalidValue(
                f"space.{field}",
                values.get(field),
                "missing" if field in known else "no such field",
                "exactly " + ", ".join(sorted(known)),
            )
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**given)


@lru_cache(maxsize=256)
def _feasible_budgets(space: SearchSpace) -> tuple[int, int]:
    """Kept, since a request is held to it at several doors and a large space takes a tenth of a second."""
    return space.cheapest().multiply_adds, space.complete().multiply_adds


PRESETS: dict[str, dict[str, Any]] = {
    # 8×8 grey scans of digits: a space that two CPU cores search in a minute or two.
    "digits": dict(name="digits", channels_in=1, image_size=8, classes=10, stem=(1,), channels=16, blocks=(2, 2)),
    # Paper, section 4.1: three stages of eight blocks; 48 channels in the published search.
    "cifar10": dict(name="cifar10", channels_in=3, image_size=32, classes=10, stem=(1,), channels=48, blocks=(8, 8, 8)),
    # Paper, section 4.1: stages of 2, 2, 13 and 6 blocks; 28 channels in the published search.
    "imagenet": dict(
        name="imagenet", channels_in=3, image_size=224, classes=1000, stem=(2, 2), channels=28, blocks=(2, 2, 13, 6)
    ),
}
