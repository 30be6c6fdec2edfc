"""ScaleFL and its relatives: what each cuts, which channels it keeps, how its exits learn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from models import elastic_design
from models.elastic import Cut, PolicyKind, Shape
from protocol.settings import RunSettings
from strategies.levels import plan_levels


@dataclass(frozen=True)
class Variant:
    """One way to train unequal devices on parts of one network."""

    cut: Cut
    """Whether width, depth or both are cut."""
    policy: PolicyKind = "leading"
    """Which channels a submodel keeps."""
    exits: Literal["last", "self", "mutual"] = "last"
    """Whether there is only the last exit, or early exits learn from the last one, or from each other."""
    classes: Literal["plain", "masked", "balanced"] = "plain"
    """How a client's loss treats class imbalance, unless the settings say otherwise."""
    devices: Literal["all", "smallest", "largest"] = "all"
    """Whether each client trains the submodel of its level, all train the smallest, or only clients of the
    largest level train."""


VARIANTS: Mapping[str, Variant] = {
    # Ilhan, Su, Liu: ScaleFL, CVPR 2023; plain there, balanced was measured better (docs/submodels.md)
    "scalefl": Variant("both", exits="self", classes="balanced"),
    # Diao, Ding, Tarokh: HeteroFL, ICLR 2021 (the mask is their section 3's "masking trick")
    "heterofl": Variant("width", classes="masked"),
    # Alam, Liu, Yan, Zhang: FedRolex, NeurIPS 2022 (trained as HeteroFL is)
    "fedrolex": Variant("width", policy="rolling", classes="masked"),
    # Caldas et al.: Expanding the Reach of Federated Learning by Reducing Client Resource Requirements, 2018
    "federated-dropout": Variant("width", policy="random"),
    # Kim, Yu, Kim, Moon: DepthFL, ICLR 2023
    "depthfl": Variant("depth", exits="mutual"),
    # The two ends: FedAvg over everybody with the smallest submodel, and over the most capable with the whole
    "fedavg-smallest": Variant("both", devices="smallest"),
    "fedavg-largest": Variant("both", devices="largest"),
}


@dataclass(frozen=True)
class LevelPlan:
    """What each level trains under a variant."""

    whole: Shape
    """The network that the server holds."""
    shapes: tuple[Shape | None, ...]
    """By level, from the smallest; ``None`` for a level that is not trained."""

    @classmethod
    def of(
        cls, variant: Variant, settings: RunSettings, input_shape: tuple[int, ...], num_classes: int
    ) -> "LevelPlan":
        """Plan the levels of a run.

        Parameters
        ----------
        variant
            How submodels are cut, and which levels are trained.
        settings
            Of the run.
        input_shape
            Shape of one input.
        num_classes
            Width of the output.

        Raises
        ------
        SettingsError
            If the network has no such submodels.
        """
        design = elastic_design(settings.model, settings)
        shapes = plan_levels(settings.levels, design, input_shape, num_classes, variant.cut)
        match variant.devices:
            case "all":
                return cls(shapes[-1], shapes)
            case "smallest":
                return cls(shapes[0], (shapes[0],) * len(shapes))
            case "largest":
                whole = Shape(1.0, (shapes[-1].depth,))
                return cls(whole, (None,) * (len(shapes) - 1) + (whole,))

    def trains(self, level: int) -> bool:
        """Tell whether a level is trained."""
        return 1 <= level <= len(self.shapes) and self.shapes[level - 1] is not None

    def distinct(self) -> list[tuple[int, Shape]]:
        """Return level and shape of the distinct submodels, the smallest first."""
        found: list[tuple[int, Shape]] = []
        for level, shape in enumerate(self.shapes, start=1):
            if shape is not None and shape not in [known for _, known in found]:
                found.append((level, shape))
        return found
