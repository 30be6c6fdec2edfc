"""Networks of libraries and of users in SCARLET and FedAvg; what cannot learn is refused at once."""

import itertools
import shutil

import pytest
import torch

from models import build_model, load_weights, save_weights
from protocol.errors import SettingsError
from simulation.run import grid_for, run_over
from tests.support.checkpoints import another_package, write_distilbert, write_reviews, write_vit
from tests.support.federation import run_quickly, settings

STRATEGIES = ["scarlet", "fedavg"]
SMALL = {"num_rounds": 2, "public__size": 40, "public__subset_size": 20, "data__server_test_size": 40}
FEW = {**SMALL, "data__max_samples": 160, "data__alpha": 100.0}
WORDS = ("a lovely film", "an awful film")


@pytest.fixture(scope="module", autouse=True)
def _their_package():
    with another_package():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with pretrained weights, checkpoints and texts."""
    folder = tmp_path_factory.mktemp("place")
    published = build_model("torchvision:resnet18", (3, 32, 32), 1000, seed=9).state_dict()
    save_weights(folder / "resnet18.safetensors", published, {})
    write_vit(folder / "vit", classes=7)
    write_distilbert(folder / "distilbert", WORDS)
    write_reviews(folder / "reviews.csv")
    return folder


def kinds(place):
    texts = {"data__source": str(place / "reviews.csv"), "text__length": 12, "public__size": 20}
    return {
        "torchvision": {"model": "torchvision:mobilenet_v3_small"},
        "pretrained": {
            "model": "torchvision:resnet18",
            "pretrained": str(place / "resnet18.safetensors"),
            "train__learning_rate": 0.01,
        },
        "timm": {"model": "timm:test_resnet"},
        "own": {"model": "tests_custom.networks:Odd"},
        "transformers, images": {"model": f"transformers:{place / 'vit'}"},
        "transformers, texts": {"model": f"transformers:{place / 'distilbert'}", **texts},
    }


KINDS = ["torchvision", "pretrained", "timm", "own", "transformers, images", "transformers, texts"]


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [case for case in itertools.product(KINDS, STRATEGIES) if case != ("pretrained", "fedavg")],
)
def test_any_network_learns(kind, strategy, place, tmp_path):
    folder = run_quickly(tmp_path, nodes=2, **{**FEW, "strategy": strategy, **kinds(place)[kind]})
    lines = list(folder.rounds())
    assert len(lines) == 2
    assert all(not line["nodes"]["failed"] for line in lines)
    assert 0 <= lines[-1]["server"]["accuracy"] <= 1
    weights, _ = load_weights(folder.models / "server.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_unlike_networks_learn_from_each_other_s_labels(place, tmp_path):
    models = ["torchvision:mobilenet_v3_small", "timm:test_resnet", "tests_custom.networks:Odd", "cnn"]
    folder = run_quickly(tmp_path, nodes=4, **{**FEW, "models": ",".join(models)})
    assert all(line["nodes"]["asked"] == 4 and not line["nodes"]["failed"] for line in folder.rounds())


def test_averaged_weights_begin_with_the_pretrained_ones_and_a_head_at_random(place, tmp_path):
    changes = {**kinds(place)["pretrained"], "num_rounds": 1, "train__learning_rate": 1e-12}
    folder = run_quickly(tmp_path, nodes=2, **{**FEW, "strategy": "fedavg", **changes})
    assert [line["nodes"]["failed"] for line in folder.rounds()] == [[]]
    learned, _ = load_weights(folder.models / "server.safetensors")
    begun, _ = load_weights(place / "resnet18.safetensors")
    for name, tensor in learned.items():
        if name.startswith("fc."):
            assert tensor.shape[0] == 10
        elif name == "conv1.weight":
            torch.testing.assert_close(tensor, begun[name].sum(dim=1, keepdim=True))
        elif "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, begun[name])


def test_what_of_a_network_learns_nothing_is_the_server_s_on_every_client(tmp_path):
    folder = run_quickly(
        tmp_path, nodes=2, **{**FEW, "strategy": "fedavg", "model": "tests_custom.networks:Odd"}
    )
    first, last = (
        load_weights(path / "model.safetensors")[0] for path in sorted((folder.path / "checkpoint").iterdir())
    )
    assert torch.equal(first["frozen.weight"], last["frozen.weight"])
    assert torch.equal(last["mixing.weight"], last["again.weight"])
    assert not torch.equal(first["mixing.weight"], last["mixing.weight"])
    assert last["order"].tolist() == list(range(8))[::-1]
    assert last["switch"].dtype == torch.bool


# --- refused before the first round ----------------------------------------------------------------

WRONG = {
    "model": (
        {"model": "tests_custom.networks:Wide"},
        r'^model = ".*:Wide": given 2 inputs of shape \(1, 8, 8\)',
    ),
    "models": (
        {"models": "cnn,tests_custom.networks:Wide"},
        r'^models = ".*:Wide": .*got a tensor of .*\(2, 11\)',
    ),
    "size": ({"model": "torchvision:alexnet"}, r"expected logits of .*\(2, 10\); .* data.image-size = 64$"),
    "weights": (
        {"model": "cnn", "pretrained": "/nowhere.safetensors"},
        r'^pretrained = "/nowhere.safetensors": model .cnn. reads its weights from a file',
    ),
    "two places": (
        {"model": "transformers:/srv/vit", "pretrained": "/srv/resnet"},
        r'^pretrained = "/srv/resnet": model = "transformers:/srv/vit" names its weights itself',
    ),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_learn_is_refused_before_there_is_a_run(changes, message, strategy, tmp_path):
    if strategy == "fedavg" and "models" in changes:
        changes = {"model": "tests_custom.networks:Wide", "models": "tests_custom.networks:Wide"}
        message = '^model = "tests_custom.networks:Wide": given 2 inputs'
    with pytest.raises(SettingsError, match=message):
        run_quickly(tmp_path, nodes=2, **{**FEW, "strategy": strategy, **changes})
    assert list(tmp_path.iterdir()) == []


def test_a_node_s_own_network_that_does_not_work_is_refused_at_its_hello(tmp_path):
    run = settings(tmp_path, **FEW)
    grid = grid_for(run, 2)
    config = {"client-name": "clinic", "partition-id": 1, "num-partitions": 3}
    config |= {"state-dir": str(tmp_path / "state"), "model": "tests_custom.networks:Wide"}
    node = grid.add_node(run.flat(), config)

    folder = run_over(grid, run)

    assert all(line["nodes"]["asked"] == 2 for line in folder.rounds())
    assert not (tmp_path / "state").exists() or not list((tmp_path / "state").rglob("*.safetensors"))
    assert not [request for request in grid.requests_to(node) if request.metadata.message_type == "train"]


def test_a_node_reads_a_checkpoint_where_its_own_settings_say(place, tmp_path):
    run = settings(
        tmp_path / "runs",
        **{**FEW, **kinds(place)["transformers, texts"], "strategy": "fedavg", "min_nodes": 1},
    )
    shutil.copytree(place / "distilbert", tmp_path / "copy")
    grid = grid_for(run, 0)
    config = {"client-name": "clinic", "partition-id": 0, "num-partitions": 2}
    config |= {"state-dir": str(tmp_path / "state"), "model-path": str(tmp_path / "copy")}
    grid.add_node(run.flat(), config)

    folder = run_over(grid, run, simulation=False)

    assert [line["nodes"]["asked"] for line in folder.rounds()] == [1, 1]
    assert all(not line["nodes"]["failed"] for line in folder.rounds())
