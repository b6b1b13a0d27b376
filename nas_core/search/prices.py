"""What every part of a supernet costs that a search may remove: the price of keeping it."""

from nas_core.space import SearchSpace, cost
from nas_core.space.cost import Cost
from nas_core.space.topology import Join, Operate


class Prices:
    """The costs of the parts of `space`'s complete network, of which a network without some costs the rest.

    A group is the blocks that share a row of λ: each block by itself, or all of them together. `of_nodes` has for each
    group the cost of each of a block's nodes, of which the input costs nothing, and `of_output` that of an edge to the
    output. `of_branches` has the 1×1 and the 3×3 branch of each reduction; the rest, which always stays, is `fixed`.
    """

    def __init__(self, space: SearchSpace) -> None:
        groups = 1 if space.share else sum(space.blocks)
        self.of_nodes = [[Cost()] * (space.nodes + 1) for _ in range(groups)]
        self.of_output = [Cost()] * groups
        self.of_branches: list[tuple[Cost, Cost]] = []
        self.fixed = Cost()
        block = 0
        for part in space.complete().parts():
            if part.kind == "reduction":
                small, wide = map(cost.of, part.steps)
                self.of_branches.append((small, wide))
                continue
            group = 0 if space.share else block
            for step in part.steps:
                match step:
                    case Operate():
                        self.of_nodes[group][step.node] += cost.of(step)
                    case Join():
                        self.of_output[group] += cost.output_edge(step.channels, step.size)
                    case _:
                        self.fixed += cost.of(step)
            block += part.kind == "block"


def memory_access_weights(space: SearchSpace) -> list[list[float]]:
    """The L1 weights of adaptive memory access (paper, eq. 10), for each vector of λ, in the order of `space.edges()`.

    An edge into an operation weighs that operation's memory access, and an edge into the block's output that of its
    own 1×1 convolution, over the largest of the block's operations, at the supernet's width and resolution. So the
    edges into that operation weigh 1, and only an output edge may weigh more. There is one vector a block, or one
    in all where the blocks share their λ, with the memory access of all blocks together.
    """
    prices = Prices(space)
    vectors = []
    for of_nodes, of_output in zip(prices.of_nodes, prices.of_output, strict=True):
        into = [price.memory_access for price in (*of_nodes, of_output)]
        largest = max(into[1:-1])
        vectors.append([into[target] / largest for _, target in space.edges()])
    return vectors
