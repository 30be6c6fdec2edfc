"""The submodels of each level: their indices in the network, and how they are cut out."""

from collections.abc import Mapping
from functools import cached_property

from torch import Tensor

from data import Inputs, in_batches
from learning.memory import Halving
from models import build_elastic, elastic_design, load_learned_state
from models.elastic import (
    Axes,
    Cost,
    ExitNetwork,
    Shape,
    SliceMap,
    axes_of,
    cost_of,
    forget_statistics,
    index_policy,
    recalibrate,
)
from models.elastic.norms import CALIBRATION_BATCH
from models.registry import require_inputs
from protocol.randomness import derive_seed
from protocol.settings import RunSettings
from protocol.values import InputKind
from strategies.submodels.variants import LevelPlan, Variant

SERVER = "server"
"""The name with which the server draws its own submodels (Federated Dropout)."""


def calibrate(submodel: ExitNetwork, inputs: Inputs) -> None:
    """Compute the norms' statistics on at least two inputs, in batches that fit the memory."""
    halving = Halving(CALIBRATION_BATCH, smallest=2)
    halving(lambda size: recalibrate(submodel, in_batches(inputs, size)), len(inputs))


class Submodels:
    """The submodels of one run's network.

    Parameters
    ----------
    variant
        How submodels are cut.
    settings
        Of the run.
    input_shape
        Shape of one input.
    num_classes
        Width of the output.
    kind
        What the inputs are; None takes what their shape tells.

    Raises
    ------
    SettingsError
        If the network has no such submodels, or takes other inputs.
    """

    def __init__(
        self,
        variant: Variant,
        settings: RunSettings,
        input_shape: tuple[int, ...],
        num_classes: int,
        kind: InputKind | None = None,
    ) -> None:
        require_inputs(settings.model, input_shape, settings, kind)
        self.plan = LevelPlan.of(variant, settings, input_shape, num_classes)
        self._policy = variant.policy
        self._seed = settings.seed
        self._design = elastic_design(settings.model, settings)
        self._input_shape = input_shape
        self._num_classes = num_classes
        self._maps: dict[tuple[int, int, str], SliceMap] = {}

    def build(self, shape: Shape, pretrained: bool = True) -> ExitNetwork:
        """Build a network on the CPU with the run's initial weights and without norms' statistics.

        Parameters
        ----------
        shape
            Width and exits.
        pretrained
            Whether a checkpoint's weights are read, if the run has one.
        """
        seed = derive_seed(self._seed, "model", client=SERVER)
        model = build_elastic(self._design, self._input_shape, self._num_classes, seed, shape, pretrained)
        forget_statistics(model)
        return model

    def submodel(self, level: int, weights: Mapping[str, Tensor]) -> ExitNetwork:
        """Build a level's submodel on the CPU with given weights.

        Raises
        ------
        RuntimeError
            If they are not those of the level.
        """
        model = self.build(self.shape(level), pretrained=False)
        load_learned_state(model, weights)
        return model

    def shape(self, level: int) -> Shape:
        """Return the shape of a level that is trained."""
        shape = self.plan.shapes[level - 1]
        if shape is None:
            raise ValueError(f"level {level} is not trained by this strategy")
        return shape

    def cost(self, level: int) -> Cost:
        """Return the cost of a level."""
        return cost_of(self._design, self._input_shape, self._num_classes, self.shape(level))

    def map(self, level: int, round: int, client: str = SERVER) -> SliceMap:
        """Return the index map of a level's submodel, for a client in a round.

        Maps are cached while they are valid: those of leading channels for the run, others for the round.

        Parameters
        ----------
        level
            From 1.
        round
            From 1.
        client
            The client's name.
        """
        key = (level, 0 if self._policy == "leading" else round, client if self._policy == "random" else "")
        if key not in self._maps:
            self._maps = {kept: where for kept, where in self._maps.items() if kept[1] == key[1]}
            part = axes_of(self._on_meta(self.shape(level)))
            choice = index_policy(self._policy, self._seed, round, client)
            self._maps[key] = SliceMap(self._whole_axes, part, choice)
        return self._maps[key]

    def calibrated(
        self, level: int, round: int, whole: Mapping[str, Tensor], calibration: Inputs | None
    ) -> ExitNetwork:
        """Cut a level's submodel out of the network's weights and compute its norms' statistics.

        Parameters
        ----------
        level
            From 1.
        round
            The round after which the weights are taken.
        whole
            The network's weights, on the CPU.
        calibration
            At least two inputs, on the device where the submodel is to be; None if it has no batch norms.
        """
        submodel = self.submodel(level, self.map(level, round).extract(whole))
        if calibration is not None:
            calibrate(submodel.to(calibration.device), calibration)
        return submodel

    @cached_property
    def _whole_axes(self) -> Mapping[str, Axes]:
        return axes_of(self._on_meta(self.plan.whole))

    def _on_meta(self, shape: Shape) -> ExitNetwork:
        return self._design.on_meta(self._input_shape, self._num_classes, shape)
