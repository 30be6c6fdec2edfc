"""The client half of ScaleFL and its relatives: score the received submodel, train it, send it back."""

from functools import partial

import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from learning.local import LossOfBatch
from learning.losses import ClassLoss, class_loss_of
from learning.training import all_exits, with_own_loss
from models import trained_state
from models.elastic import ExitNetwork, forget_statistics
from protocol.errors import MessageError
from strategies.sides import ClientSide
from strategies.submodels.loss import (
    ExitsLoss,
    balanced_loss,
    masked_loss,
    mutual_loss,
    official_loss,
    self_distillation_loss,
)
from strategies.submodels.messages import SliceReply, SliceRequest
from strategies.submodels.submodels import Submodels, calibrate
from strategies.submodels.variants import Variant


class SubmodelClient:
    """Keeps no state between rounds; in a round it only has the blocks and channels of its level."""

    def __init__(self, variant: Variant, client: ClientSide) -> None:
        self._variant = variant
        self._client = client

    def answer(self, content: RecordDict) -> RecordDict:
        """Evaluate the submodel on the client's test part, then train it."""
        request = SliceRequest.from_record(content)
        train = self._client.data.train
        model = self._submodel(request)
        calibrate(model, train.inputs)
        before = self._client.evaluate(model)
        forget_statistics(model)
        self._client.train(model, request.round, self._loss(request.round))
        trained = trained_state(model)
        received = {name: request.weights[name] for name in trained}
        weights = self._client.to_send(trained, request.round, received)
        return SliceReply(
            **vars(before), trained_on=len(train), weights=weights, level=request.level
        ).to_record()

    def state_digests(self) -> list[bytes]:
        """Return nothing: no state outlives a round."""
        return []

    def _submodel(self, request: SliceRequest) -> ExitNetwork:
        client, train = self._client, self._client.data.train
        submodels = Submodels(
            self._variant, client.settings, train.input_shape, client.data.num_classes, train.inputs.kind
        )
        if not submodels.plan.trains(request.level):
            raise MessageError(f"level = {request.level}: there is no submodel for it")
        try:
            model = submodels.submodel(request.level, request.weights)
        except RuntimeError as error:
            raise MessageError(f"weights: not those of level {request.level}: {error}") from error
        return model.to(client.device)

    def _loss(self, round: int) -> LossOfBatch:
        """Return the variant's loss in a round; distillation between exits begins after ``scalefl.start``."""
        settings, run = self._client.settings.scalefl, self._client.settings
        started = round > settings.start * run.num_rounds
        weight = settings.distillation if started else 0.0
        exits_loss: ExitsLoss = partial(self_distillation_loss, weights=settings.exit_weights)
        if self._variant.exits == "mutual" or settings.loss == "mutual":
            exits_loss = mutual_loss
        elif settings.loss == "official":
            exits_loss = official_loss
        class_loss = self._class_loss()

        def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            logits = all_exits(model, inputs)
            if self._variant.exits == "last":
                learned = class_loss(logits[-1], targets)
            else:
                learned = exits_loss(logits, targets, weight, settings.temperature, class_loss)
            return with_own_loss(model, learned)

        return loss

    def _class_loss(self) -> ClassLoss:
        """Return the run's loss, with logits adjusted by the client's class frequencies."""
        client = self._client
        counts = torch.bincount(client.data.train.targets, minlength=client.data.num_classes)
        stated = client.settings.scalefl.classes
        loss = class_loss_of(client.settings)
        match self._variant.classes if stated == "own" else stated:
            case "balanced":
                return balanced_loss(counts, loss)
            case "masked":
                return masked_loss(counts, loss)
            case "plain":
                return loss
