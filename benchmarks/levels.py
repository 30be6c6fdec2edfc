"""What each level of each elastic network costs: its preset, and what the search finds.

python -m benchmarks.levels elastic-resnet110 --image 3 32 32 --classes 10
"""

import argparse
from collections.abc import Iterator, Sequence

from models import elastic_design
from models.elastic import Cut, Shape, cost_of
from models.registry import elastic_names
from protocol.settings import LevelsSettings
from strategies.levels import plan_levels

PLANS: Sequence[tuple[str, str, Cut]] = (
    ("preset", "preset", "both"),
    ("search by parameters", "parameters", "both"),
    ("search by MACs", "flops", "both"),
    ("width alone, parameters as the preset's", "preset", "width"),
    ("depth alone, parameters as the preset's", "preset", "depth"),
)


def rows(model: str, image_shape: tuple[int, int, int], classes: int) -> Iterator[str]:
    """Yield the table's lines, in Markdown."""
    design = elastic_design(model)
    yield "| levels | level | width | exits after | parameters | share | kB each way | MACs (M) | share |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, plan, cut in PLANS:
        levels = plan_levels(LevelsSettings.model_validate({"plan": plan}), design, image_shape, classes, cut)
        costs = [cost_of(design, image_shape, classes, shape) for shape in levels]
        whole = costs[-1]
        for level, (shape, cost) in enumerate(zip(levels, costs, strict=True), start=1):
            yield (
                f"| {name} | {level} | {_shape(shape)} | {cost.parameters:,} "
                f"| {cost.parameters / whole.parameters:.3f} | {cost.bytes / 1e3:,.1f} "
                f"| {cost.macs[-1] / 1e6:,.2f} | {cost.macs[-1] / whole.macs[-1]:.3f} |"
            )


def _shape(shape: Shape) -> str:
    return f"{shape.width:g} | {' '.join(map(str, shape.exits))}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", choices=elastic_names())
    parser.add_argument("--image", type=int, nargs=3, default=(3, 32, 32), help="channels, height, width")
    parser.add_argument("--classes", type=int, default=10)
    arguments = parser.parse_args()
    channels, height, width = arguments.image
    print("\n".join(rows(arguments.model, (channels, height, width), arguments.classes)))


if __name__ == "__main__":
    main()
