"""Levels of an elastic network: their shapes, and their assignment to clients."""

from collections.abc import Sequence
from functools import lru_cache

from models import elastic_design
from models.elastic import Cut, ElasticDesign, Shape
from models.elastic.cost import macs_of, parameters_of
from models.elastic.network import nested
from models.elastic.planning import CostFunction, reshaped, search
from protocol.errors import SettingsError
from protocol.randomness import derive_seed, draw_subset
from protocol.settings import LevelsSettings, RunSettings
from protocol.values import numbers

_LEVEL = " level "


@lru_cache(maxsize=16)
def plan_levels(
    settings: LevelsSettings,
    design: ElasticDesign,
    input_shape: tuple[int, ...],
    num_classes: int,
    cut: Cut = "both",
) -> tuple[Shape, ...]:
    """Return the shape of each level, the smallest first.

    Parameters
    ----------
    settings
        The table ``levels``.
    design
        The elastic network.
    input_shape
        Shape of one input.
    num_classes
        Width of the output.
    cut
        Whether width, depth or both are cut. If only one is, levels have the cost of the planned ones.

    Raises
    ------
    SettingsError
        If the network has no submodels, or none of this kind.
    """
    count = macs_of if settings.plan == "flops" else parameters_of

    def cost(width: float, last_block: int) -> float:
        return count(design, input_shape, num_classes, Shape(width, (last_block,)))

    levels = _explicit(settings, design) or _planned(settings, design, cost)
    shares = len(numbers(settings.shares))
    if shares != len(levels):
        raise SettingsError(
            f'levels.shares = "{settings.shares}": must be {len(levels)} numbers, one a level, not {shares}'
        )
    try:
        return reshaped(levels, cost, design, cut)
    except ValueError as error:
        raise SettingsError(f"levels: {error}") from error


def level_shape(levels: Sequence[Shape], level: int) -> Shape:
    """Return the shape of a level, counted from 1.

    Raises
    ------
    SettingsError
        If there is no such level.
    """
    if not 1 <= level <= len(levels):
        raise SettingsError(f"level = {level}: there are levels 1 to {len(levels)}")
    return levels[level - 1]


def architecture_of(model: str, level: int | None) -> str:
    """Return a network's name with the level of its submodel, if it has one: what a kept state is of."""
    return model if level is None else f"{model}{_LEVEL}{level}"


def split_architecture(
    architecture: str, settings: RunSettings, input_shape: tuple[int, ...], num_classes: int
) -> tuple[str, Shape | None]:
    """Return the network's name and the submodel's shape of what `architecture_of` returned.

    Parameters
    ----------
    architecture
        As a client's state has it.
    settings
        Of the run.
    input_shape
        Shape of one input.
    num_classes
        Width of the output.
    """
    model, _, level = architecture.partition(_LEVEL)
    if not level:
        return model, None
    design = elastic_design(model, settings)
    return model, level_shape(plan_levels(settings.levels, design, input_shape, num_classes), int(level))


def assign_levels(shares: Sequence[float], clients: int, seed: int) -> list[int]:
    """Assign a level to each simulated client.

    Each level gets its share of the clients, rounded by largest remainder; clients are drawn at random.

    Parameters
    ----------
    shares
        Share of the clients at each level, summing to 1.
    clients
        Number of clients.
    seed
        Of the run.

    Returns
    -------
    list[int]
        The level, from 1, of each client.
    """
    exact = [share * clients for share in shares]
    counts = [int(part + 1e-9) for part in exact]
    by_remainder = sorted(range(len(shares)), key=lambda level: (counts[level] - exact[level], level))
    for level in by_remainder[: clients - sum(counts)]:
        counts[level] += 1
    assigned = [0] * clients
    free = list(range(clients))
    for level, count in enumerate(counts, start=1):
        if count == 0:
            continue
        drawn = draw_subset(derive_seed(seed, "levels"), level, len(free), count)
        taken = {free[place] for place in drawn}
        for client in taken:
            assigned[client] = level
        free = [client for client in free if client not in taken]
    return assigned


def _explicit(settings: LevelsSettings, design: ElasticDesign) -> tuple[Shape, ...]:
    """Return the levels that ``levels.widths`` and ``levels.exits`` define; empty if they are not set."""
    widths, exits = numbers(settings.widths), [int(block) for block in numbers(settings.exits)]
    if not widths:
        return ()
    if exits[-1] != design.depth or exits[0] < design.first_exit:
        raise SettingsError(
            f'levels.exits = "{settings.exits}": must lie from {design.first_exit} to {design.depth}, '
            f"the last being {design.depth}: this network has {design.depth} blocks"
        )
    return nested(widths, exits)


def _planned(settings: LevelsSettings, design: ElasticDesign, cost: CostFunction) -> tuple[Shape, ...]:
    if settings.plan == "preset":
        return design.preset
    try:
        return search(cost, design, numbers(settings.budgets))
    except ValueError as error:
        raise SettingsError(f'levels.budgets = "{settings.budgets}": {error}') from error
