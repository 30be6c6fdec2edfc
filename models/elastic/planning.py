"""Search for the width and depth of each level that fit a budget (ScaleFL, section 3.1)."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from models.elastic.network import ElasticDesign, Shape, nested

Cut = Literal["both", "width", "depth"]
"""What is cut: width and depth (ScaleFL), width alone (HeteroFL), depth alone (DepthFL)."""

CostFunction = Callable[[float, int], float]
"""Maps a width and the number of the last block to the cost of that network, in any unit."""

WIDTH_STEP = 0.05
FINE_WIDTH_STEP = 0.01
TOLERANCE = 0.1
_NEAR = 4


def search(
    cost: CostFunction, design: ElasticDesign, budgets: Sequence[float], cut: Cut = "both"
) -> tuple[Shape, ...]:
    """Find the levels' shapes for budgets that are shares of the whole network's cost.

    Among all pairs (exit, width) whose cost is within 10 % of the budget, a level gets the pair with the most
    similar shares of depth and width. If there is none, or only width or depth is cut, it gets the pair of
    the nearest cost. Levels are nested: exits increase, widths do not decrease. Only a level's last exit
    counts in its cost.

    Parameters
    ----------
    cost
        Increases with the width and with the last block.
    design
        The network: its number of blocks, and the first block that can have an exit.
    budgets
        Increasing shares in (0, 1]; only the last is 1, the whole network.
    cut
        Whether width, depth or both are cut.

    Raises
    ------
    ValueError
        If there are more levels than blocks that can have an exit.
    """
    whole = cost(1.0, design.depth)
    chosen: list[tuple[int, float]] = []
    exit_, width = design.first_exit - 1, 0.0
    for level, budget in enumerate(budgets, start=1):
        later = len(budgets) - level
        exits = range(exit_ + 1, design.depth - later + 1)
        if cut == "width" or budget == 1:
            exits = range(design.depth, design.depth + 1)
        if not exits:
            raise ValueError(
                f"{len(budgets)} levels: the network has {design.depth - design.first_exit + 1} exits"
            )
        widths = _widths(cut, width) if budget < 1 else [1.0]
        exit_, width = _best(cost, design.depth, exits, widths, budget * whole, cut)
        chosen.append((exit_, width))
    if cut == "width":
        return tuple(Shape(width, (design.depth,)) for _, width in chosen)
    return nested([width for _, width in chosen], [exit_ for exit_, _ in chosen])


def reshaped(
    levels: Sequence[Shape], cost: CostFunction, design: ElasticDesign, cut: Cut
) -> tuple[Shape, ...]:
    """Return levels with the cost of the given ones that are cut in width alone or in depth alone.

    Methods that cut in different ways can thus be compared on the same devices.

    Parameters
    ----------
    levels
        The levels' shapes, the smallest first.
    cost
        Increases with the width and with the last block.
    design
        The network.
    cut
        Whether width, depth or both are cut; for both, the levels are returned unchanged.
    """
    if cut == "both":
        return tuple(levels)
    whole = cost(1.0, design.depth)
    budgets = [cost(level.width, level.depth) / whole for level in levels]
    return search(cost, design, budgets, cut)


def _widths(cut: Cut, least: float) -> list[float]:
    if cut == "depth":
        return [1.0]
    step = FINE_WIDTH_STEP if cut == "width" else WIDTH_STEP
    widths = [round(number * step, 2) for number in range(1, round(1 / step) + 1)]
    return [width for width in widths if width >= least]


def _best(
    cost: CostFunction,
    depth: int,
    exits: Sequence[int],
    widths: Sequence[float],
    budget: float,
    cut: Cut,
) -> tuple[int, float]:
    """Return the exit and width that fit a budget best."""
    near = _near_balance(cost, depth, exits, widths, budget)
    found = _ranked(cost, depth, near, widths, budget, cut)
    if not found[0][0].balanced and len(near) < len(exits):
        found = _ranked(cost, depth, exits, widths, budget, cut)
    _, exit_, width = found[0]
    return exit_, width


class _Rank(NamedTuple):
    """How well an exit and a width fit; the smaller the better."""

    unbalanced: bool
    first: float
    second: float

    @property
    def balanced(self) -> bool:
        return not self.unbalanced


def _near_balance(
    cost: CostFunction, depth: int, exits: Sequence[int], widths: Sequence[float], budget: float
) -> Sequence[int]:
    """Return the exits around the one whose share of the depth is the width that fits the budget there.

    The deeper the exit, the narrower the network must be, so there is one such place, found by bisection:
    a cost in MACs takes a good part of a second.
    """

    def is_deep(exit_: int) -> bool:
        fitting = bisect_left(widths, budget, key=lambda width: cost(width, exit_))
        return exit_ / depth >= widths[min(fitting, len(widths) - 1)]

    place = bisect_left(exits, True, key=is_deep)
    return exits[max(0, place - _NEAR) : place + _NEAR]


def _ranked(
    cost: CostFunction,
    depth: int,
    exits: Sequence[int],
    widths: Sequence[float],
    budget: float,
    cut: Cut,
) -> list[tuple[_Rank, int, float]]:
    """Return exits and widths near the budget, the best first."""
    found = []
    for exit_ in exits:
        middle = bisect_left(widths, budget, key=lambda width: cost(width, exit_))
        for width in widths[max(0, middle - 2) : middle + 2]:
            error = abs(cost(width, exit_) / budget - 1)
            imbalance = abs(exit_ / depth - width)
            fits = cut == "both" and error <= TOLERANCE
            rank = _Rank(False, imbalance, error) if fits else _Rank(True, error, imbalance)
            found.append((rank, exit_, width))
    return sorted(found)
