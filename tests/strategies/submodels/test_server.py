import itertools
import re

import pytest
import torch

from protocol.errors import MessageError
from protocol.messages import Evaluation
from strategies.submodels.evaluation import THRESHOLDS
from strategies.submodels.variants import VARIANTS
from tests.strategies.sides import CLASSES, assert_same_weights
from tests.strategies.submodels.exchange import (
    ALL_LEVELS,
    CNN,
    IMAGES,
    begin,
    hello,
    play,
    reply_to,
    samples,
    server_for,
    shapes,
    shapes_of,
    submodel_settings,
    weights,
)
from tests.support.elastic import submodels_of

SETTINGS = submodel_settings()
ROLLING, RANDOM = submodel_settings("fedrolex"), submodel_settings("federated-dropout")


@pytest.fixture
def server():
    return server_for(SETTINGS)


def covered(settings, level, round=1, client="client-1"):
    """Return, of each parameter, which coordinates a level's submodel covers."""
    submodels = submodels_of(settings, IMAGES, CLASSES)
    where = submodels.map(level, round, client)
    whole = submodels.build(submodels.plan.whole).state_dict()
    masks = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in whole.items()}
    for name in where:
        masks[name][where.places(name)] = True
    return masks


def numbers_of(kind, request):
    return {int(name.split(".")[1]) for name in request.weights if name.startswith(f"{kind}.")}


# --- what is sent --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_client_is_sent_its_level_and_nothing_of_a_larger_one(server, level):
    request = begin(server, 1, f"client-{level}")[f"client-{level}"]

    assert request.level == level
    assert shapes(request.weights) == shapes_of(CNN.preset[level - 1])


def test_the_smallest_level_is_sent_no_deep_block_no_later_exit_and_no_statistics(server):
    request = begin(server, 1, "client-1")["client-1"]

    (exit_,) = CNN.preset[0].exits
    assert exit_ < CNN.depth
    assert numbers_of("blocks", request) == set(range(exit_))
    assert numbers_of("heads", request) == {exit_}
    assert not [name for name in request.weights if "running" in name or "tracked" in name]


def test_a_submodel_is_cut_out_of_the_network_as_it_is(server):
    play(server, 1, {"client-4": 0.25})

    request = begin(server, 2, "client-2")["client-2"]

    where = submodels_of(SETTINGS, IMAGES, CLASSES).map(2, 2)
    assert_same_weights(request.weights, where.extract(weights(server)))


def test_a_message_costs_four_bytes_a_number(server):
    outgoing = server.begin(1, ["client-1", "client-4"], final=False)
    for client, level in (("client-1", 1), ("client-4", 4)):
        numbers = sum(torch.Size(shape).numel() for shape in shapes_of(CNN.preset[level - 1]).values())
        assert outgoing[client].paper_down == 4 * numbers


def test_a_reply_costs_four_bytes_a_number(server):
    request = begin(server, 1, "client-1")["client-1"]
    incoming = server.accept("client-1", 1, reply_to(request).to_record())
    assert incoming.paper_up == 4 * sum(tensor.numel() for tensor in request.weights.values())


def test_clients_of_one_level_share_one_message():
    server = server_for(SETTINGS, {"ada": 1, "ben": 1, "cem": 2})
    outgoing = server.begin(1, ["ada", "ben", "cem"], final=False)
    assert outgoing["ada"] is outgoing["ben"]
    assert outgoing["ada"] is not outgoing["cem"]


# --- how it is merged ----------------------------------------------------------------------------


def test_only_the_coordinates_of_a_clients_slice_change(server):
    before = weights(server)

    after = play(server, 1, {"client-1": 0.5})

    for name, mask in covered(SETTINGS, 1).items():
        assert torch.equal(after[name][~mask], before[name][~mask]), name
        torch.testing.assert_close(after[name][mask], before[name][mask] + 0.5)
    assert covered(SETTINGS, 1)["blocks.7.0.weight"].sum() == 0


def test_a_coordinate_becomes_the_mean_over_those_that_cover_it(server):
    before = weights(server)

    after = play(server, 1, {"client-1": 0.5, "client-3": -0.25, "client-4": 1.0})

    one, three = covered(SETTINGS, 1), covered(SETTINGS, 3)
    for name, tensor in before.items():
        shift = torch.full(tensor.shape, 1.0)
        shift[three[name]] = (1.0 - 0.25) / 2
        shift[one[name]] = (1.0 - 0.25 + 0.5) / 3
        torch.testing.assert_close(after[name], tensor + shift)


def test_by_examples_a_client_counts_as_often_as_it_has_samples():
    server = server_for(submodel_settings(scalefl__weighting="examples"), {"ada": 2, "ben": 2})
    before = weights(server)

    after = play(server, 1, {"ada": 1.0, "ben": 0.0}, trained_on={"ada": 30, "ben": 10})

    for name, mask in covered(SETTINGS, 2).items():
        torch.testing.assert_close(after[name][mask], before[name][mask] + 0.75)


def test_by_default_every_client_counts_alike():
    counted, other = (
        play(server_for(SETTINGS), 1, {"client-1": 1.0, "client-2": 0.0}, trained_on=counts)
        for counts in ({"client-1": 30}, {"client-2": 7})
    )
    assert_same_weights(counted, other)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["clients", "examples"])
def test_arrival_order_does_not_change_a_bit(weighting):
    shifts = {"client-1": 0.1, "client-2": -0.3, "client-3": 0.7, "client-4": 1e-3}
    counts = {"client-1": 7, "client-2": 23, "client-3": 1, "client-4": 100}
    settings = submodel_settings(scalefl__weighting=weighting)
    merged = [
        play(server_for(settings), 1, dict(order), counts)
        for order in list(itertools.permutations(shifts.items()))[::5]
    ]

    for other in merged[1:]:
        assert_same_weights(other, merged[0])


def test_every_round_starts_its_own_mean(server):
    middle = play(server, 1, {"client-4": 1.0})

    after = play(server, 2, {"client-4": 0.5})

    assert_same_weights(after, {name: tensor + 0.5 for name, tensor in middle.items()})


def test_a_round_without_reply_keeps_the_model(server):
    before = play(server, 1, {"client-2": 0.5})

    begin(server, 2, *ALL_LEVELS)
    server.finish(2)

    assert_same_weights(weights(server), before)


def test_a_late_reply_is_not_merged(server):
    late = begin(server, 1, "client-4")["client-4"]
    server.finish(1)
    before = weights(server)
    request = begin(server, 2, "client-1")["client-1"]
    server.accept("client-1", 2, reply_to(request, 0.5).to_record())

    incoming = server.accept("client-4", 1, reply_to(late, 9.0).to_record())

    server.finish(2)
    assert incoming.evaluation == Evaluation(0.5, 1.0, 4)
    other = server_for(SETTINGS)
    assert_same_weights(before, weights(other))
    assert_same_weights(weights(server), play(other, 2, {"client-1": 0.5}))


# --- what is refused -----------------------------------------------------------------------------


def spoiled(change):
    """Change one tensor, or take it away."""

    def weights_of(request):
        tensors = dict(request.weights)
        name = "blocks.0.0.weight"
        assert name in tensors
        tensors[name] = change(tensors[name])
        return {key: tensor for key, tensor in tensors.items() if tensor is not None}

    return weights_of


def not_finite(value):
    def change(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return change


WRONG_WEIGHTS = {
    "NaN": (spoiled(not_finite(float("nan"))), "not all values are finite"),
    "infinite": (spoiled(not_finite(float("-inf"))), "not all values are finite"),
    "flipped bits": (spoiled(not_finite(-1e30)), "1e+30 among the values"),
    "a channel too many": (
        spoiled(lambda tensor: torch.cat([tensor, tensor[:1]])),
        "level 1: tensor 'blocks.0.0.weight': got torch.float32 of shape (",
    ),
    "another type": (spoiled(lambda tensor: tensor.double()), "got torch.float64"),
    "a tensor missing": (spoiled(lambda tensor: None), "tensor 'blocks.0.0.weight': missing"),
    "a deeper block": (
        lambda request: {**request.weights, "blocks.7.0.weight": torch.zeros(3)},
        "tensor 'blocks.7.0.weight': unexpected",
    ),
    "norm statistics": (
        lambda request: {**request.weights, "stem.1.running_mean": torch.zeros(11)},
        "tensor 'stem.1.running_mean': unexpected",
    ),
    "nothing at all": (lambda request: {}, "missing"),
}


@pytest.mark.parametrize(("change", "message"), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_weights_that_do_not_fit_the_level_are_refused_without_a_trace(server, change, message):
    requests = begin(server, 1, "client-1", "client-2", "client-4")
    server.accept("client-2", 1, reply_to(requests["client-2"], 0.5).to_record())

    bad = reply_to(requests["client-1"], weights=change(requests["client-1"]))
    with pytest.raises(MessageError, match=re.escape(message)):
        server.accept("client-1", 1, bad.to_record())

    server.accept("client-4", 1, reply_to(requests["client-4"], -0.5).to_record())
    server.finish(1)
    expected = play(server_for(SETTINGS), 1, {"client-2": 0.5, "client-4": -0.5})
    assert_same_weights(weights(server), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": 2}, "level = 2: it was sent level 1"),
        ({"level": -1}, "level = -1: it was sent level 1"),
        ({"loss": float("nan")}, "must be finite"),
        ({"examples": 0}, "examples = 0"),
    ],
)
def test_a_reply_that_cannot_be_is_refused_without_a_trace(server, changes, message):
    before = weights(server)
    request = begin(server, 1, "client-1")["client-1"]

    with pytest.raises(MessageError, match=message):
        server.accept("client-1", 1, reply_to(request, 9.0, **changes).to_record())

    server.finish(1)
    assert_same_weights(weights(server), before)


# --- levels --------------------------------------------------------------------------------------


def test_a_nodes_level_and_its_reason_are_remarked():
    server = server_for(SETTINGS, {})
    assert server.greet(hello("ada", 2, "fits: 3 MB")) == "level 2, fits: 3 MB"


def test_a_level_holds_until_another_is_reported(server):
    assert server.greet(hello("client-1", 3)) == "level 3 in place of 1, set in its node-config"
    assert begin(server, 1, "client-1")["client-1"].level == 3
    assert server.greet(hello("client-1", 3)) == "level 3, set in its node-config"


def test_a_level_reported_in_the_middle_of_a_round_counts_from_the_next_on(server):
    request = begin(server, 1, "client-1")["client-1"]
    server.greet(hello("client-1", 3))

    server.accept("client-1", 1, reply_to(request, 0.5).to_record())

    server.finish(1)
    assert_same_weights(weights(server), play(server_for(SETTINGS), 1, {"client-1": 0.5}))


@pytest.mark.parametrize("level", [None, 0, -1, 5])
def test_a_node_without_a_level_of_this_network_is_refused(server, level):
    with pytest.raises(MessageError, match=f"level = {level}: there are levels 1 to 4"):
        server.greet(hello("ada", level))
    assert server.candidates(["ada"]) == []


def test_levels_are_kept_in_a_checkpoint(server):
    middle = play(server, 1, {"client-1": 0.5, "client-4": 0.25})
    resumed = server_for(SETTINGS, {})

    resumed.load_state(server.state(), middle)

    assert resumed.candidates(sorted(ALL_LEVELS)) == sorted(ALL_LEVELS)
    shifts = {"client-1": 0.5, "client-2": 0.125}
    assert_same_weights(play(resumed, 2, shifts), play(server, 2, shifts))


# --- the relatives -------------------------------------------------------------------------------


def sent(strategy, round, *clients):
    """Return what clients are sent in a round by a new server."""
    return begin(server_for(submodel_settings(strategy)), round, *clients)


@pytest.mark.parametrize("strategy", ["heterofl", "fedrolex", "federated-dropout"])
def test_those_that_cut_the_width_send_every_block_and_one_exit(strategy):
    request = sent(strategy, 1, "client-1")["client-1"]
    whole = shapes_of(CNN.whole())
    assert request.weights.keys() == whole.keys()
    for name, tensor in request.weights.items():
        sides = zip(tensor.shape, whole[name], strict=True)
        assert all(own <= full for own, full in sides), name
    assert request.weights["blocks.7.0.weight"].numel() < torch.Size(whole["blocks.7.0.weight"]).numel() / 4


def test_depthfl_sends_whole_blocks():
    request = sent("depthfl", 1, "client-1")["client-1"]
    whole = shapes_of(CNN.whole())
    blocks = {name: shape for name, shape in shapes(request.weights).items() if name.startswith("blocks.")}
    assert blocks
    assert blocks.items() < whole.items()


def test_a_rolling_window_moves_on_by_a_channel_a_round():
    first, second = (sent("fedrolex", round, "client-1")["client-1"].weights for round in (1, 2))
    stem, following = (part["stem.0.weight"] for part in (first, second))
    assert torch.equal(stem[1:], following[:-1])
    assert not torch.equal(stem, following)


def test_a_rolling_window_is_the_same_for_all_of_a_round():
    server = server_for(ROLLING, {"ada": 1, "ben": 1})
    requests = begin(server, 3, "ada", "ben")
    assert_same_weights(requests["ada"].weights, requests["ben"].weights)


def test_random_channels_differ_by_client_and_by_round():
    server = server_for(RANDOM, {"ada": 1, "ben": 1})
    first = begin(server, 1, "ada", "ben")
    second = begin(server, 2, "ada")
    stems = [request.weights["stem.0.weight"] for request in (*first.values(), *second.values())]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(stems, 2))


@pytest.mark.parametrize("settings", [ROLLING, RANDOM], ids=["rolling", "random"])
def test_what_moves_is_merged_where_it_was_cut_out(settings):
    server = server_for(settings)
    before = weights(server)

    after = play(server, 5, {"client-1": 0.5})

    masks = covered(settings, 1, round=5)
    for name, mask in masks.items():
        assert torch.equal(after[name][~mask], before[name][~mask]), name
        torch.testing.assert_close(after[name][mask], before[name][mask] + 0.5)
    leading = torch.arange(int(masks["stem.1.weight"].sum()))
    assert masks["stem.1.weight"].nonzero().flatten().tolist() != leading.tolist()


def test_at_the_small_end_everybody_gets_the_smallest_submodel():
    requests = sent("fedavg-smallest", 1, *ALL_LEVELS)
    for client, level in ALL_LEVELS.items():
        assert shapes(requests[client].weights) == shapes_of(CNN.preset[0])
        assert requests[client].level == level


def test_at_the_large_end_only_the_largest_level_is_asked():
    server = server_for(submodel_settings("fedavg-largest"))
    assert server.candidates([*ALL_LEVELS, "stranger"]) == ["client-4"]
    assert shapes(begin(server, 1, "client-4")["client-4"].weights) == shapes_of(CNN.whole())


@pytest.mark.parametrize("strategy", sorted(VARIANTS.keys() - {"fedavg-largest"}))
def test_whoever_has_a_level_is_asked(strategy):
    server = server_for(submodel_settings(strategy))
    assert server.candidates(["client-3", "stranger", "client-1"]) == ["client-3", "client-1"]


# --- scoring -------------------------------------------------------------------------------------


def test_every_level_is_scored_and_the_score_is_their_mean(server):
    score = server.score(samples(12, "test"))

    lines = score.details["levels"]
    assert [line["level"] for line in lines] == [1, 2, 3, 4]
    accuracies = [line["accuracy"] for line in lines]
    assert score.evaluation.accuracy == pytest.approx(sum(accuracies) / 4)
    assert score.evaluation.examples == 12


def test_exits_the_ensemble_and_early_answers_of_the_whole_network_are_scored(server):
    details = server.score(samples(12, "test")).details
    assert len(details["exits"]) == 4
    assert details["exits"][-1] == details["levels"][-1]["accuracy"]
    assert 0 <= details["ensemble"] <= 1
    assert [point["threshold"] for point in details["early_exit"]] == list(THRESHOLDS)


@pytest.mark.parametrize(
    ("strategy", "levels"), [("heterofl", [1, 2, 3, 4]), ("fedavg-smallest", [1]), ("fedavg-largest", [4])]
)
def test_networks_of_one_exit_are_scored_by_level_alone(strategy, levels):
    details = server_for(submodel_settings(strategy)).score(samples(12, "test")).details
    assert [line["level"] for line in details["levels"]] == levels
    assert details.keys() == {"levels"}


def test_every_levels_metric_stands_in_its_line_and_the_score_has_their_mean():
    score = server_for(submodel_settings(data__metric="kappa")).score(samples(12, "test"))

    metrics = [line["metric"] for line in score.details["levels"]]
    assert score.evaluation.metric == pytest.approx(sum(metrics) / 4)


def test_ordered_classes_are_graded_by_level_by_exit_and_by_all_exits_together():
    details = server_for(submodel_settings(data__metric="kappa")).score(samples(12, "test")).details

    lines, grades = details["levels"], details["grades"]
    for line in lines:
        assert line["grades"]["accuracy"] == line["accuracy"]
        assert line["grades"]["kappa"] == line["metric"]
    assert [exit_["accuracy"] for exit_ in grades["exits"]] == details["exits"]
    assert grades["exits"][-1] == lines[-1]["grades"]
    assert grades["ensemble"]["accuracy"] == details["ensemble"]


def test_networks_of_one_exit_are_graded_by_level_alone():
    settings = submodel_settings("heterofl", data__metric="kappa")
    details = server_for(settings).score(samples(12, "test")).details
    assert details.keys() == {"levels"}
    assert all("grades" in line for line in details["levels"])


@pytest.mark.parametrize(("metric", "added"), [("none", []), ("auroc", ["metric"])])
def test_without_ordered_classes_nothing_is_graded(metric, added):
    details = server_for(submodel_settings(data__metric=metric)).score(samples(12, "test")).details
    assert list(details) == ["levels", "exits", "ensemble", "early_exit"]
    assert list(details["levels"][0]) == ["level", "accuracy", "loss", *added, "examples", "ensemble"]


def test_without_a_metric_a_levels_line_has_none(server):
    (line, *_) = server.score(samples(12, "test")).details["levels"]
    assert list(line) == ["level", "accuracy", "loss", "examples", "ensemble"]


def test_scoring_changes_nothing(server):
    before = weights(server)

    first, second = (server.score(samples(12, "test")) for _ in range(2))

    assert first == second
    assert_same_weights(weights(server), before)


def test_without_calibration_nothing_is_scored_and_the_log_says_so(caplog):
    server = server_for(SETTINGS, calibrated=False)
    assert server.score(samples(12, "test")) is None
    assert 'The server evaluates nothing: with scalefl.calibration = "none"' in caplog.text
