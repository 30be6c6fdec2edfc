import dataclasses
from functools import cache
from itertools import combinations

import pytest
import torch

from learning.training import evaluate
from models.elastic import recalibrate
from protocol.errors import MessageError
from strategies import method_of
from strategies.submodels.messages import SliceReply, SliceRequest
from strategies.submodels.submodels import Submodels
from strategies.submodels.variants import VARIANTS
from tests.strategies.sides import CLASSES, EXPERIMENT, assert_same_weights
from tests.strategies.submodels.exchange import (
    CNN,
    IMAGES,
    begin,
    client_side,
    server_for,
    shapes,
    shapes_of,
    submodel_settings,
)

SETTINGS = submodel_settings(num_rounds=8)


@cache
def request_for(settings, level):
    """Return what a new server sends a client of a level in round 1."""
    return begin(server_for(settings), 1, f"client-{level}")[f"client-{level}"]


def answer(side, request):
    return SliceReply.from_record(method_of(side.settings).client(side).answer(request.to_record()))


def trained(folder, level=4, round=1, classes=CLASSES, strategy="scalefl", **changes):
    """Return the weights that a client sends after training a new network's submodel."""
    settings = submodel_settings(strategy, **{"num_rounds": 8, **changes})
    side = client_side(settings, folder, classes=classes)
    return answer(side, dataclasses.replace(request_for(settings, level), round=round)).weights


def differ(one, other):
    assert one.keys() == other.keys()
    return not all(torch.equal(one[name], other[name]) for name in one)


# --- what it holds and sends ---------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_reply_holds_the_level_that_came_and_nothing_else(level, tmp_path):
    reply = answer(client_side(SETTINGS, tmp_path), request_for(SETTINGS, level))
    assert reply.level == level
    assert shapes(reply.weights) == shapes_of(CNN.preset[level - 1])


def test_a_client_never_builds_a_block_beyond_its_level(tmp_path, monkeypatch):
    built = []
    build = Submodels.build

    def note(submodels, shape, **options):
        built.append(shape)
        return build(submodels, shape, **options)

    request = request_for(SETTINGS, 1)
    monkeypatch.setattr(Submodels, "build", note)
    answer(client_side(SETTINGS, tmp_path), request)

    assert built == [CNN.preset[0]]


def test_a_client_keeps_nothing(tmp_path):
    side = client_side(SETTINGS, tmp_path)
    request = request_for(SETTINGS, 2)

    first, again = answer(side, request), answer(side, request)

    assert_same_weights(again.weights, first.weights)
    assert not side.store.folder.exists()
    assert method_of(side.settings).client(side).state_digests() == []


def test_a_client_scores_the_submodel_that_came_calibrated_on_its_own_samples(tmp_path):
    side, request = client_side(SETTINGS, tmp_path), request_for(SETTINGS, 2)
    submodel = CNN.build(IMAGES, CLASSES, CNN.preset[1])
    submodel.load_state_dict(request.weights, strict=False)
    recalibrate(submodel, [side.data.train.inputs.values])

    reply = answer(side, request)

    assert reply.evaluation == evaluate(submodel, side.data.test)
    assert reply.trained_on == len(side.data.train)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", sorted(VARIANTS))
def test_every_variant_trains_every_weight_of_the_largest_level(strategy, tmp_path):
    settings = submodel_settings(strategy)
    request = request_for(settings, 4)

    reply = answer(client_side(settings, tmp_path), request)

    assert shapes(reply.weights) == shapes(request.weights)
    for name, tensor in reply.weights.items():
        assert tensor.isfinite().all(), name
        assert not torch.equal(tensor, request.weights[name]), name


# --- what it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, -1, 5])
def test_a_level_that_does_not_exist_is_refused(level, tmp_path):
    request = SliceRequest(EXPERIMENT, 1, level, {})
    with pytest.raises(MessageError, match=f"level = {level}: there is no submodel for it"):
        answer(client_side(SETTINGS, tmp_path), request)


def test_a_level_that_takes_no_part_is_refused(tmp_path):
    side = client_side(submodel_settings("fedavg-largest"), tmp_path)
    with pytest.raises(MessageError, match="level = 1: there is no submodel for it"):
        answer(side, SliceRequest(EXPERIMENT, 1, 1, {}))


@pytest.mark.parametrize("other", [2, 4])
def test_weights_of_another_level_are_refused(other, tmp_path):
    request = dataclasses.replace(request_for(SETTINGS, other), level=1)
    with pytest.raises(MessageError, match=r"(?s)weights: not those of level 1: .*heads"):
        answer(client_side(SETTINGS, tmp_path), request)


# --- what it learns ------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["scalefl", "depthfl"])
def test_exits_learn_from_each_other_only_after_the_first_rounds(strategy, tmp_path):
    """A quarter of 8 rounds: from the third on."""
    starts = [
        differ(
            trained(tmp_path, strategy=strategy, round=round, level=2),
            trained(tmp_path, strategy=strategy, round=round, level=2, scalefl__distillation=0.0),
        )
        for round in (2, 3)
    ]
    assert starts == [False, True]


def test_exits_can_learn_from_each_other_from_the_first_round_on(tmp_path):
    assert differ(
        trained(tmp_path, scalefl__start=0.0),
        trained(tmp_path, scalefl__start=0.0, scalefl__distillation=0.0),
    )


def test_a_network_of_one_exit_has_nobody_to_learn_from(tmp_path):
    strong, none = (
        trained(tmp_path, level=1, scalefl__start=0.0, scalefl__distillation=weight) for weight in (9.0, 0.0)
    )
    assert_same_weights(strong, none)


@pytest.mark.slow
def test_every_setting_of_the_loss_learns_something_else(tmp_path):
    choices = [{"scalefl__loss": kind} for kind in ("official", "mutual")]
    for kind in ("linear", "equal", "full"):
        choices.append({"scalefl__loss": "paper", "scalefl__exit_weights": kind})
    plain = {"scalefl__classes": "plain", "scalefl__start": 0.0}
    learned = [trained(tmp_path, **plain, **choice) for choice in choices]
    assert all(differ(one, other) for one, other in combinations(learned, 2))


def head_rows(weights, image_class):
    """Return what the heads hold of one class."""
    return {name: tensor[image_class] for name, tensor in weights.items() if name.startswith("heads.")}


LACKING = {"classes": 2}
"""Of a client that has no sample of class 2."""


@pytest.mark.parametrize("strategy", ["scalefl", "heterofl", "fedrolex"])
def test_some_variants_leave_a_class_alone_that_the_client_lacks(strategy, tmp_path):
    before = request_for(submodel_settings(strategy), 4).weights
    after = trained(tmp_path, strategy=strategy, **LACKING)
    assert_same_weights(head_rows(after, 2), head_rows(before, 2))
    assert differ(head_rows(after, 1), head_rows(before, 1))


@pytest.mark.parametrize("strategy", ["federated-dropout", "depthfl", "fedavg-largest"])
def test_the_others_unlearn_a_class_that_the_client_lacks(strategy, tmp_path):
    before = request_for(submodel_settings(strategy), 4).weights
    after = trained(tmp_path, strategy=strategy, **LACKING)
    assert differ(head_rows(after, 2), head_rows(before, 2))


@pytest.mark.parametrize(
    ("strategy", "classes", "alone"),
    [
        ("depthfl", "masked", True),
        ("depthfl", "balanced", True),
        ("scalefl", "masked", True),
        ("scalefl", "plain", False),
        ("heterofl", "plain", False),
    ],
)
def test_any_variant_can_be_told_what_to_make_of_such_a_class(strategy, classes, alone, tmp_path):
    before = request_for(submodel_settings(strategy), 4).weights
    after = trained(tmp_path, strategy=strategy, scalefl__classes=classes, **LACKING)
    assert differ(head_rows(after, 2), head_rows(before, 2)) == (not alone)
