"""Levels: which width and depth fit a budget (ScaleFL, section 3.1)."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal

from models.elastic.network import ElasticDesign, Shape, nested

Cut = Literal["both", "width", "depth"]
"""What is cut: width and depth (ScaleFL), width alone (HeteroFL), depth alone (DepthFL)."""

CostFunction = Callable[[float, int], float]
"""What a network of a width costs that ends with an exit after a block, in any unit."""

WIDTH_STEP = 0.05
FINE_WIDTH_STEP = 0.01
TOLERANCE = 0.1


def search(
    cost: CostFunction, design: ElasticDesign, budgets: Sequence[float], cut: Cut = "both"
) -> tuple[Shape, ...]:
    """Find the levels' shapes for budgets that are shares of the whole network's cost.

    Of the (exit, width) whose cost is within a tenth of the budget, a level takes those whose share of the
    depth and of the width are most alike; where none is, or width or depth alone is cut, the one of the
    nearest cost. Levels nest: exits ascend, widths do not descend. A level's cost counts its last exit alone.

    Parameters
    ----------
    cost
        Ascends with the width and with the exit's block.
    design
        Says how many blocks there are, and which can be the first exit.
    budgets
        Shares in (0, 1] that ascend, the last alone 1: the whole network.
    cut
        What may be cut.

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
    """Return levels that cost what the given ones cost, but are cut in width or in depth alone.

    So relatives that cut otherwise are compared on the same devices.
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
    cost: CostFunction, depth: int, exits: Sequence[int], widths: Sequence[float], budget: float, cut: Cut
) -> tuple[int, float]:
    """Return the exit and width that fit a budget best; only widths near the budget are costed."""
    found: list[tuple[tuple[bool, float, float], int, float]] = []
    for exit_ in exits:
        middle = bisect_left(widths, budget, key=lambda width: cost(width, exit_))
        for width in widths[max(0, middle - 2) : middle + 2]:
            error = abs(cost(width, exit_) / budget - 1)
            imbalance = abs(exit_ / depth - width)
            balanced = cut == "both" and error <= TOLERANCE
            rank = (False, imbalance, error) if balanced else (True, error, imbalance)
            found.append((rank, exit_, width))
    _, exit_, width = min(found)
    return exit_, width
