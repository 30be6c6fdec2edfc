import pytest
import torch

from data.inputs import TensorInputs
from models.elastic import recalibrate
from models.elastic.norms import CALIBRATION_BATCH
from protocol.errors import SettingsError
from tests.strategies.sides import CLASSES, assert_same_weights
from tests.strategies.submodels.exchange import (
    IMAGES,
    images,
    shapes,
    shapes_of,
    submodel_settings,
)
from tests.support import elastic


def submodels_of(strategy, **changes):
    return elastic.submodels_of(submodel_settings(strategy, **changes), IMAGES, CLASSES)


# --- maps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["scalefl", "heterofl", "depthfl"])
def test_leading_channels_have_one_map_for_the_whole_run(strategy):
    submodels = submodels_of(strategy)
    first = submodels.map(1, 1, "ada")
    assert submodels.map(1, 2, "ben") is first
    assert submodels.map(2, 2, "ben") is not first


def test_a_rolling_window_has_one_map_a_round():
    submodels = submodels_of("fedrolex")
    first = submodels.map(1, 1, "ada")
    assert submodels.map(1, 1, "ben") is first
    assert submodels.map(1, 2, "ada") is not first


def test_random_channels_have_one_map_a_round_and_client():
    submodels = submodels_of("federated-dropout")
    first = submodels.map(1, 1, "ada")
    assert submodels.map(1, 1, "ada") is first
    assert submodels.map(1, 1, "ben") is not first
    assert submodels.map(1, 2, "ada") is not first


@pytest.mark.parametrize("strategy", ["fedrolex", "federated-dropout"])
def test_maps_of_earlier_rounds_are_let_go(strategy):
    submodels = submodels_of(strategy)
    first = submodels.map(1, 1, "ada")
    submodels.map(1, 2, "ada")
    assert submodels.map(1, 1, "ada") is not first


# --- networks ------------------------------------------------------------------------------------


def test_a_submodel_holds_its_level_and_no_statistics():
    submodels = submodels_of("scalefl")
    for level in (1, 2, 3, 4):
        shape = submodels.shape(level)
        assert shapes(submodels.build(shape).state_dict()) == shapes_of(shape)


def test_weights_follow_from_the_runs_seed():
    first, again, other = (
        submodels_of("scalefl", seed=seed).build(submodels_of("scalefl").plan.whole).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_level_that_takes_no_part_has_no_shape():
    with pytest.raises(ValueError, match="level 1 is not trained"):
        submodels_of("fedavg-largest").shape(1)


def test_a_level_costs_what_it_holds():
    submodels = submodels_of("scalefl")
    for level in (1, 4):
        built = submodels.build(submodels.shape(level))
        assert submodels.cost(level).parameters == sum(p.numel() for p in built.parameters())
        assert len(submodels.cost(level).macs) == level


def test_a_calibrated_submodel_is_the_networks_part_with_statistics():
    submodels = submodels_of("scalefl")
    whole = submodels.build(submodels.plan.whole).state_dict()

    submodel = submodels.calibrated(1, 1, whole, TensorInputs(images(20, "public"))).eval()

    part = submodels.map(1, 1).extract(whole)
    state = submodel.state_dict()
    assert all(torch.equal(state[name], part[name]) for name in part)
    assert {name.rsplit(".", 1)[1] for name in state.keys() - part.keys()} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_more_inputs_than_fit_a_batch_calibrate_in_batches_of_equal_size():
    submodels, inputs = submodels_of("scalefl"), images(CALIBRATION_BATCH + 2, "public")
    whole = submodels.build(submodels.plan.whole).state_dict()
    expected = submodels.calibrated(1, 1, whole, TensorInputs(inputs))

    recalibrate(expected, inputs.tensor_split(2))

    found = submodels.calibrated(1, 1, whole, TensorInputs(inputs))
    assert_same_weights(found.state_dict(), expected.state_dict())


@pytest.mark.slow
def test_calibration_goes_on_in_smaller_batches_where_memory_is_short(monkeypatch):
    submodels, inputs, sizes = submodels_of("scalefl"), TensorInputs(images(40, "public")), []
    whole = submodels.build(submodels.plan.whole).state_dict()

    def short(network, batches):
        parts = list(batches)
        sizes.append(len(parts[0]))
        if len(parts[0]) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        recalibrate(network, iter(parts))

    monkeypatch.setattr("strategies.submodels.submodels.recalibrate", short)
    submodels.calibrated(1, 1, whole, inputs)
    assert sizes == [40, 20]


def test_inputs_that_are_no_images_are_refused():
    with pytest.raises(SettingsError, match="model = 'elastic-cnn': reads images"):
        elastic.submodels_of(submodel_settings("scalefl"), (12,), CLASSES)


def test_calibration_makes_eval_mode_agree_with_the_batch_it_saw():
    submodels = submodels_of("scalefl")
    inputs = images(30, "public")
    whole = submodels.build(submodels.plan.whole).state_dict()
    submodel = submodels.calibrated(2, 1, whole, TensorInputs(inputs))

    in_eval_mode = submodel.eval()(inputs)

    # Running variances are unbiased, those of a batch are not.
    torch.testing.assert_close(in_eval_mode, submodel.train()(inputs), rtol=0.05, atol=0.05)
