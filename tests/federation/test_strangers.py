"""A stranger's things, named by reference, in the place of ours: under faults, out of order, resumed.

What holds for ours must hold for theirs: the order of arrival changes nothing, a broken reply leaves no
trace, and a run that was killed goes on as if it had not been.
"""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

import tests.support
from models import load_weights
from protocol import references
from protocol.errors import MotleyError
from server_app.run_folder import RunFolder
from simulation.grid import Delivery, Faults, is_train
from tests.support.faults import by_round, dropped, emptied, failing, late_by, twice
from tests.support.federation import run_quickly, without_times

SERIES = {"data__source": "custom.sources:SensorSeries", "model": "custom.networks:GRU"}
THINGS: dict[str, dict[str, Any]] = {
    "method": {"strategy": "custom.fedprox:FEDPROX", "custom__fedprox__mu": 0.1},
    "network and source, labels exchanged": SERIES,
    "network and source, weights averaged": {**SERIES, "strategy": "fedavg"},
    "encoding": {"distillation__labels": "custom.encodings:TopK"},
    "encoding, positions named": {
        "distillation__labels": "custom.encodings:TopK",
        "distillation__indices": "explicit",
    },
    "label aggregator": {"aggregation__labels": "custom.aggregators:trimmed_mean"},
    "weight aggregator": {"strategy": "fedavg", "aggregation__weights": "tests_custom.median:Median"},
    "weight aggregator of submodels": {
        "strategy": "scalefl",
        "model": "elastic-cnn",
        "aggregation__weights": "tests_custom.median:Median",
    },
    "uplink transform": {"strategy": "fedavg", "uplink": "custom.transforms:noise"},
    "uplink transform of submodels": {
        "strategy": "heterofl",
        "model": "elastic-cnn",
        "uplink": "custom.transforms:noise",
    },
    "loss": {"train__loss": "custom.losses:focal"},
    "metric": {"data__metric": "custom.metrics:BALANCED_ACCURACY"},
    "optimizer of torch's": {"train__optimizer": "tests_custom.optimizers:rmsprop"},
    "all at once": {
        **SERIES,
        "distillation__labels": "custom.encodings:TopK",
        "aggregation__labels": "custom.aggregators:trimmed_mean",
        "train__loss": "custom.losses:focal",
        "data__metric": "custom.metrics:BALANCED_ACCURACY",
    },
}
NODES = 4


@pytest.fixture(scope="module", autouse=True)
def _their_package() -> Iterator[None]:
    """Open the package of another project, as its apps would."""
    folder = str(Path(tests.support.__file__).parent)
    sys.path.insert(0, folder)
    before = dict(references._open_packages)
    references.open_package("tests_custom")
    yield
    references._open_packages.clear()
    references._open_packages.update(before)
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """Return the run of a thing without any fault, each run once."""
    runs: dict[str, RunFolder] = {}

    def run(thing: str) -> RunFolder:
        if thing not in runs:
            runs[thing] = run_with(thing, tmp_path_factory.mktemp("undisturbed"))
        return runs[thing]

    return run


def run_with(thing: str, folder: Path, faults: Faults | None = None, **changes: Any) -> RunFolder:
    named = {"num_rounds": 3, "round_timeout": 0.5, **THINGS[thing], **changes}
    return run_quickly(folder, NODES, faults or by_round({}), **named)


def out_of_order(request: Message, reply: Message, now: float) -> list[Delivery]:
    """Deliver every reply in time, but in another order than they were asked for."""
    drawn = random.Random(reply.metadata.src_node_id * 1000 + int(request.metadata.group_id or 0))
    return [Delivery(reply, now + drawn.uniform(0, 0.4) if is_train(request) else now)]


@pytest.mark.parametrize("thing", THINGS)
def test_the_order_in_which_replies_arrive_changes_not_a_bit(
    thing: str, tmp_path: Path, undisturbed: Callable[[str], RunFolder]
) -> None:
    shuffled = run_with(thing, tmp_path, out_of_order)
    assert without_times(shuffled.rounds()) == without_times(undisturbed(thing).rounds())
    assert_same_models(shuffled, undisturbed(thing))


@pytest.mark.parametrize("thing", THINGS)
def test_lost_late_doubled_and_broken_replies_are_counted_and_leave_no_trace(
    thing: str, tmp_path: Path
) -> None:
    """A broken reply does what an error does, a late one what a lost one does, a second copy nothing."""
    broken = {(2, 0): emptied, (2, 1): twice, (3, 2): late_by(0.7)}
    lost = {(2, 0): failing("lost"), (3, 2): dropped}
    folders = [
        run_with(thing, tmp_path / name, by_round(faults))
        for name, faults in (("broken", broken), ("lost", lost))
    ]
    figures = [[(line["server"], line["clients"]) for line in folder.rounds()] for folder in folders]
    assert figures[0] == figures[1]
    assert_same_models(*folders)
    failed = [[each["client"] for each in line["nodes"]["failed"]] for line in folders[0].rounds()]
    assert failed == [[], ["client-0000"], ["client-0002"]]


@pytest.mark.parametrize("thing", THINGS)
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    thing: str, tmp_path: Path, undisturbed: Callable[[str], RunFolder]
) -> None:
    run_with(thing, tmp_path, num_rounds=1)
    resumed = run_with(thing, tmp_path, resume="auto")
    assert [line["round"] for line in resumed.rounds()] == [1, 2, 3]
    assert_same_models(resumed, undisturbed(thing))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a method that is none": ({"strategy": "custom.losses:focal"}, "must be a strategies.method.Method"),
    "a module that is not there": (
        {"strategy": "custom.fedprx:FEDPROX"},
        "there is no module custom.fedprx; custom has custom.aggregators, ",
    ),
    "an attribute that is not there": (
        {"strategy": "custom.fedprox:FEDPRX"},
        "module custom.fedprox defines no FEDPRX; it defines FEDPROX, FedProxClient, FedProxSettings",
    ),
    "a module that cannot be imported": (
        {"train__loss": "tests_custom.broken:loss"},
        "module tests_custom.broken cannot be imported: ZeroDivisionError",
    ),
    "a module that imports what is not installed": (
        {"train__loss": "tests_custom.lacking:loss"},
        "module tests_custom.lacking imports No module named 'nowhere_to_be_found'",
    ),
    "something that a module only imported": (
        {"train__loss": "custom.losses:F"},
        "module custom.losses defines no F; it defines FocalSettings, focal",
    ),
    "a setting of its own that is wrong": (
        {"strategy": "custom.fedprox:FEDPROX", "custom__fedprox__mu": -1.0},
        "custom.fedprox.mu = -1.0: Input should be greater than or equal to 0",
    ),
    "a setting of its own that is not there": (
        {"strategy": "custom.fedprox:FEDPROX", "custom__fedprox__nu": 1.0},
        "custom.fedprox.nu = 1.0: there is no such setting; there are custom.fedprox.mu",
    ),
    "networks that a stranger's method cannot average": (
        {"strategy": "custom.fedprox:FEDPROX", "models": "cnn,resnet20"},
        "strategy FedProx averages weights, so every client must run",
    ),
    "a transform of weights where labels are sent": (
        {"uplink": "custom.transforms:noise"},
        'uplink = "custom.transforms:noise": changes weights, which strategy scarlet does not send',
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused_before_the_first_round(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(MotleyError) as refused:
        run_quickly(tmp_path, **changes)
    assert message in str(refused.value)


def test_fedprox_learns_with_submodels_as_a_whole(tmp_path: Path) -> None:
    """An elastic network is a network like any other to a method that averages whole ones."""
    folder = run_quickly(tmp_path, strategy="custom.fedprox:FEDPROX", model="elastic-cnn", num_rounds=2)
    assert all(line["nodes"]["failed"] == [] for line in folder.rounds())


def test_the_own_setting_of_a_method_changes_what_is_learned(tmp_path: Path) -> None:
    """With a large μ clients stay at the global model, so a round moves it less."""
    losses = []
    for mu in (0.0, 10.0):
        changes = {"strategy": "custom.fedprox:FEDPROX", "custom__fedprox__mu": mu, "num_rounds": 1}
        folder = run_quickly(tmp_path / str(mu), train__learning_rate=0.05, **changes)
        losses.append(folder.rounds()[0]["server"]["loss"])
    plain = run_quickly(tmp_path / "fedavg", strategy="fedavg", num_rounds=1, train__learning_rate=0.05)
    assert losses[0] == plain.rounds()[0]["server"]["loss"]
    assert losses[1] > losses[0]


def assert_same_models(one: RunFolder, other: RunFolder) -> None:
    files = [sorted(path.name for path in folder.models.iterdir()) for folder in (one, other)]
    assert files[0] == files[1]
    for name in files[0]:
        tensors = [load_weights(folder.models / name)[0] for folder in (one, other)]
        assert tensors[0].keys() == tensors[1].keys()
        for key, tensor in tensors[0].items():
            assert torch.equal(tensor, tensors[1][key]), (name, key)
