"""What a run leaves behind, and that it is true."""

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data import load_client_data, load_server_test
from learning.training import evaluate
from models import build_model, load_weights
from protocol.ledger import wire_bytes
from protocol.settings import RunSettings
from server_app.run_folder import RunFolder
from simulation.grid import InProcessGrid, is_train, read_reply
from simulation.run import grid_for, run_over
from strategies.soft_labels.messages import SoftLabelReply, SoftLabelRequest
from tests.support.faults import by_round, dropped
from tests.support.federation import run_quickly, settings, without_times

CLIENTS, ROUNDS, CLASSES = 3, 4, 10


@pytest.fixture(scope="module", autouse=True)
def without_pictures() -> Iterator[None]:
    """Draw them."""
    return


@pytest.fixture(scope="module")
def run_settings(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    """Return the settings of a run with three networks and a final exchange."""
    return settings(
        tmp_path_factory.mktemp("runs"),
        models="cnn,resnet20,resnet32",
        num_rounds=ROUNDS,
        distillation__final_exchange=True,
    )


@pytest.fixture(scope="module")
def grid(run_settings: RunSettings) -> InProcessGrid:
    return grid_for(run_settings, CLIENTS)


@pytest.fixture(scope="module")
def folder(grid: InProcessGrid, run_settings: RunSettings) -> RunFolder:
    return run_over(grid, run_settings)


# --- the folder --------------------------------------------------------------------------------


def test_settings_are_kept_as_they_were(folder: RunFolder, run_settings: RunSettings) -> None:
    assert json.loads(folder.settings_file.read_text()) == {"format": 1, **run_settings.flat()}
    assert RunSettings.parse(folder.kept_settings()) == run_settings


def test_a_line_has_exactly_the_promised_keys(folder: RunFolder) -> None:
    *rounds, final = folder.rounds()
    promised = ["format", "round", "nodes", "seconds", "bytes", "server", "clients"]
    assert [list(line) for line in rounds] == [promised] * ROUNDS
    assert list(final) == [*promised, "final"]
    for line in folder.rounds():
        assert list(line["nodes"]) == ["asked", "answered", "failed"]
        assert list(line["bytes"]) == ["paper_up", "paper_down", "wire_up", "wire_down"]
        assert list(line["server"]) == list(line["clients"]) == ["accuracy", "loss"]
        assert set(line["seconds"]) == {"send", "wait", "aggregate", "evaluate"}
        assert all(seconds >= 0 for seconds in line["seconds"].values())


def test_a_failure_has_a_client_and_a_reason(tmp_path: Path) -> None:
    silence = by_round({}, otherwise=dropped)
    folder = run_quickly(tmp_path, 2, silence, num_rounds=1, min_replies=0, round_timeout=0.5)
    reason = "no reply within 0.5 s (round-timeout)"
    assert folder.rounds()[0]["nodes"]["failed"] == [
        {"client": "client-0000", "reason": reason},
        {"client": "client-0001", "reason": reason},
    ]


def test_the_last_two_checkpoints_are_kept(folder: RunFolder) -> None:
    assert [path.name for path in sorted(folder.checkpoints.iterdir())] == ["round-000003", "round-000004"]


def test_nothing_is_pickled(folder: RunFolder) -> None:
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    events = [path for path in files if path.name.startswith("events.out.tfevents.")]
    others = set(files) - set(events)
    assert {path.suffix for path in others} == {".lock", ".json", ".jsonl", ".txt", ".html", ".safetensors"}
    pickle_or_zip = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
    assert not [path for path in files if path.read_bytes().startswith(pickle_or_zip)]


def test_the_summary_tells_rounds_accuracy_bytes_and_place(folder: RunFolder) -> None:
    text, last = folder.summary_file.read_text(), folder.rounds()[-1]
    assert "scarlet on digits, finished" in text
    assert f"{ROUNDS} of {ROUNDS}" in text
    assert f"{100 * last['server']['accuracy']:.1f} %" in text
    assert f"{100 * last['clients']['accuracy']:.1f} %" in text
    assert "against DS-FL" in text
    assert text.endswith(f"Run folder: {folder.path}\n")


class Page(HTMLParser):
    """Collects the tags and the text of a page, and sees that every tag is closed in its order."""

    EMPTY = frozenset({"meta", "path", "use"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_is_a_whole_page_with_its_pictures(folder: RunFolder) -> None:
    text = folder.report_file.read_text()
    page = Page(text)
    assert page.tags.count("svg") == 1
    assert page.tags.count("table") == 2
    assert folder.experiment in page.words
    assert "scarlet.cache-duration" in page.words
    assert 'src="http' not in text, "the page needs nothing from elsewhere"
    assert "<link" not in text


def test_tensorboard_has_a_point_a_round(folder: RunFolder) -> None:
    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    lines = folder.rounds()
    for side in ("server", "clients"):
        points = events.Scalars(f"{side}/accuracy")
        assert [point.step for point in points] == [line["round"] for line in lines]
        assert [point.value for point in points] == pytest.approx([line[side]["accuracy"] for line in lines])


def test_wire_bytes_are_what_really_was_sent(folder: RunFolder, grid: InProcessGrid) -> None:
    for line in folder.rounds():
        number = str(line["round"])
        requests = [m for m in grid.requests if is_train(m) and m.metadata.group_id == number]
        replies = [m for m in grid.replies if is_train(m) and m.metadata.group_id == number]
        assert len(requests) == len(replies) == CLIENTS
        assert line["bytes"]["wire_down"] == sum(wire_bytes(message) for message in requests)
        assert line["bytes"]["wire_up"] == sum(wire_bytes(message) for message in replies)


def test_hellos_are_counted_apart(folder: RunFolder, grid: InProcessGrid) -> None:
    down = sum(wire_bytes(message) for message in grid.requests if not is_train(message))
    up = sum(wire_bytes(message) for message in grid.replies if not is_train(message))
    assert f"{up / 1e3:.2f} kB / {down / 1e3:.2f} kB" in folder.summary_file.read_text()


def test_paper_bytes_follow_from_what_was_requested_and_sent(tmp_path: Path) -> None:
    """Up n(4C + 8), down 8n + 4Cs + 16m, with n and s counted in the messages themselves."""
    run_settings = settings(tmp_path, distillation__labels="float32")
    grid = grid_for(run_settings, nodes=2)
    clients, label, subset = 2, 4 * CLASSES, run_settings.public.subset_size
    for line in run_over(grid, run_settings).rounds():
        number = str(line["round"])
        sent = [
            len(SoftLabelRequest.from_record(message.content).labels) // label
            for message in grid.requests
            if is_train(message) and message.metadata.group_id == number
        ]
        predicted = [
            len(read_reply(SoftLabelReply, message).labels or b"") // label
            for message in grid.replies
            if is_train(message) and message.metadata.group_id == number
        ]
        assert line["bytes"]["paper_up"] == sum(predicted) * (label + 8)
        indices_and_signals = 0 if line["round"] == 1 else clients * 16 * subset
        assert line["bytes"]["paper_down"] == 8 * sum(predicted) + label * sum(sent) + indices_and_signals


# --- three networks ----------------------------------------------------------------------------


def test_three_networks_learn_together(folder: RunFolder, grid: InProcessGrid) -> None:
    names = {"server": "cnn", "client-0000": "cnn", "client-0001": "resnet20", "client-0002": "resnet32"}
    assert {file.stem for file in folder.models.iterdir()} == set(names)
    for name, network in names.items():
        assert load_weights(folder.models / f"{name}.safetensors")[1]["model"] == network
    caches = {read_reply(SoftLabelReply, reply).cache for reply in grid.replies[-CLIENTS:]}
    assert len(caches) == 1


def test_saved_models_score_as_the_last_line_says(
    folder: RunFolder, grid: InProcessGrid, run_settings: RunSettings
) -> None:
    test, last = load_server_test(run_settings), folder.rounds()[-1]
    assert test is not None
    model = build_model("cnn", test.input_shape, CLASSES, seed=0)
    model.load_state_dict(load_weights(folder.models / "server.safetensors")[0])
    result = evaluate(model, test)
    assert (result.accuracy, result.loss) == (last["server"]["accuracy"], last["server"]["loss"])


@pytest.mark.parametrize("part", range(CLIENTS))
def test_each_saved_client_scores_as_it_replied(
    part: int, folder: RunFolder, grid: InProcessGrid, run_settings: RunSettings
) -> None:
    network = ["cnn", "resnet20", "resnet32"][part]
    data = load_client_data(run_settings, part, CLIENTS)
    model = build_model(network, data.test.input_shape, CLASSES, seed=0)
    model.load_state_dict(load_weights(folder.models / f"client-000{part}.safetensors")[0])
    replied = read_reply(SoftLabelReply, grid.replies_of(list(grid.nodes)[part])[-1])
    assert evaluate(model, data.test) == replied.evaluation


# --- the final exchange ------------------------------------------------------------------------


def test_the_final_exchange_brings_the_last_labels_to_the_clients(
    folder: RunFolder, grid: InProcessGrid
) -> None:
    """What the clients then hold is what the server's last checkpoint holds."""
    assert [line.get("final") for line in folder.rounds()] == [None] * ROUNDS + [True]
    newest = folder.checkpoints / "round-000004" / "strategy.safetensors"
    server = load_weights(newest)[0]
    held = torch.nonzero(server["stored"]).flatten()
    for client in range(CLIENTS):
        [state] = (folder.clients / f"client-000{client}").glob("round-000005.safetensors")
        own = load_weights(state)[0]
        versions = dict(zip(own["cache.indices"].tolist(), own["cache.versions"].tolist(), strict=True))
        assert versions == {index: int(server["stored"][index]) for index in held.tolist()}
        assert torch.equal(own["cache.rows"], server["cache.rows"][held])


def test_the_final_exchange_asks_for_no_predictions_and_leaves_the_server_as_it_is(
    folder: RunFolder,
) -> None:
    last, final = folder.rounds()[-2:]
    assert final["bytes"]["paper_up"] == 0
    assert final["server"] == last["server"]
    assert final["clients"] != last["clients"]


def test_the_final_exchange_changes_no_round_before_it(tmp_path: Path) -> None:
    plain = run_quickly(tmp_path / "plain", nodes=2, num_rounds=2)
    final = run_quickly(tmp_path / "final", nodes=2, num_rounds=2, distillation__final_exchange=True)
    assert without_times(plain.rounds()) == without_times(final.rounds())[:2]


# --- methods without a server's model, and early stopping ----------------------------------------


def test_individual_training_has_no_server_figures(tmp_path: Path) -> None:
    folder = run_quickly(tmp_path, nodes=2, strategy="individual", num_rounds=2)
    assert [line["server"] for line in folder.rounds()] == [{"accuracy": None, "loss": None}] * 2
    assert [file.name for file in sorted(folder.models.iterdir())] == [
        "client-0000.safetensors",
        "client-0001.safetensors",
    ]
    Page(folder.report_file.read_text())


@pytest.mark.parametrize("final_exchange", [False, True])
def test_early_stopping_stops_and_says_why(final_exchange: bool, tmp_path: Path) -> None:
    # Learning so slowly that nothing changes: the first round stays the best.
    still = {"train__learning_rate": 1e-9, "distillation__learning_rate": 1e-9}
    folder = run_quickly(
        tmp_path,
        nodes=2,
        num_rounds=9,
        early_stopping__patience=2,
        distillation__final_exchange=final_exchange,
        **still,
    )
    lines = folder.rounds()
    assert [line["round"] for line in lines if "final" not in line] == [1, 2, 3]
    assert ("final" in lines[-1]) == final_exchange
    best = lines[0]["clients"]["accuracy"]
    words = " ".join(folder.summary_file.read_text().replace("│", " ").split())
    assert (
        f"stopped early: clients-accuracy has not improved for 2 rounds (best {best:.4f} in round 1)" in words
    )
