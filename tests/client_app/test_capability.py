"""Which level a device carries, and why."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from client_app import capability
from client_app.capability import Budgets, Carried, Need, choose, free_memory, measure, pinned
from data import ClientData, Samples, load_client_data
from data.inputs import TensorInputs
from learning.precision import Arithmetic
from models.elastic import Shape
from protocol.errors import SettingsError
from protocol.settings import NodeSettings, RunSettings

CPU = torch.device("cpu")
NEEDS = [
    Need(level, Shape(1.0, (level,)), 1000 * level, 10_000_000 * level, 0.1 * level, 2.0 * level)
    for level in (1, 2, 3, 4)
]


def chosen(memory: float = math.inf, seconds: float = math.inf) -> Carried:
    return choose(NEEDS, Budgets(int(min(memory, 1e12)), seconds))


# --- choosing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "seconds", "level"),
    [
        (math.inf, math.inf, 4),
        (40e6, 8.0, 4),
        (40e6 - 1, 8.0, 3),
        (math.inf, 7.9, 3),
        (25e6, math.inf, 2),
        (25e6, 2.0, 1),
        (1e6, math.inf, 1),
        (math.inf, 0.1, 1),
    ],
)
def test_the_largest_level_that_fits_both_budgets_is_carried(
    memory: float, seconds: float, level: int
) -> None:
    assert chosen(memory, seconds).level == level


def test_a_reason_names_what_stands_in_the_next_levels_way() -> None:
    assert chosen(memory=25e6).reason == "fits: 20 MB, 4 s a round; level 3 needs 30 MB of 25 MB"
    assert chosen(seconds=5.0).reason == "fits: 20 MB, 4 s a round; level 3 needs 6 s a round of 5 s"


def test_the_largest_level_just_fits() -> None:
    assert chosen().reason == "fits: 40 MB, 8 s a round"


def test_where_no_level_fits_the_smallest_is_carried_and_said_not_to_fit() -> None:
    assert chosen(memory=5e6) == Carried(1, "even the smallest level needs 10 MB of 5 MB")


# --- measuring ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def needs() -> list[Need]:
    run = RunSettings.parse({"strategy": "scalefl", "model": "elastic-cnn", "train.epochs": 3})
    return measure(run, run.model, load_client_data(run, 0, 10), CPU)


def test_a_larger_level_needs_more(needs: list[Need]) -> None:
    assert [need.level for need in needs] == [1, 2, 3, 4]
    for figure in ("parameters", "memory"):
        figures = [getattr(need, figure) for need in needs]
        assert figures == sorted(set(figures))


def test_memory_is_more_than_weights_gradients_and_momentum(needs: list[Need]) -> None:
    for need in needs:
        assert need.memory > 3 * 4 * need.parameters


def test_a_round_takes_its_steps(needs: list[Need]) -> None:
    run = RunSettings()
    steps = 3 * math.ceil(len(load_client_data(run, 0, 10).train) / run.train.batch_size)
    for need in needs:
        assert need.seconds_per_step > 0
        assert need.seconds_per_round == pytest.approx(steps * need.seconds_per_step)


def test_frozen_weights_count_once() -> None:
    """A step keeps them for its backward pass, but they are held anyway."""
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 1000), torch.nn.Linear(1000, 1000), torch.nn.Linear(1000, 3)
    )
    network[1].requires_grad_(False)
    inputs, targets = torch.rand(2, 64), torch.tensor([0, 1])
    kept, _ = capability._measure_step(network, inputs, targets, Arithmetic("fp32", CPU))
    assert kept < network[1].weight.nbytes


def test_two_moments_take_more_than_one_momentum(needs: list[Need]) -> None:
    run = RunSettings.parse({"strategy": "scalefl", "model": "elastic-cnn", "train.optimizer": "adamw"})
    (*_, whole) = measure(run, run.model, load_client_data(run, 0, 10), CPU)
    assert whole.memory == needs[-1].memory + 4 * whole.parameters


def test_in_16_bits_activations_take_less(needs: list[Need]) -> None:
    run = RunSettings.parse({"strategy": "scalefl", "model": "elastic-cnn", "precision": "bf16"})
    (*_, whole) = measure(run, run.model, load_client_data(run, 0, 10), CPU)
    assert whole.parameters == needs[-1].parameters
    assert whole.memory < needs[-1].memory


def test_a_level_whose_batch_does_not_fit_is_measured_on_a_part_of_it(
    needs: list[Need], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_steps(monkeypatch, most=20)
    run = RunSettings.parse({"strategy": "scalefl", "model": "elastic-cnn", "train.epochs": 3})
    found = measure(run, run.model, load_client_data(run, 0, 10), CPU)
    for need, whole in zip(found, needs, strict=True):  # weights that a step keeps count with each part
        assert whole.memory <= need.memory < 1.5 * whole.memory


def test_a_level_of_which_one_sample_does_not_fit_needs_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_steps(monkeypatch, most=0)
    run = RunSettings.parse({"strategy": "scalefl", "model": "elastic-cnn", "train.batch-size": 4})
    found = measure(run, run.model, load_client_data(run, 0, 10), CPU)
    assert choose(found, Budgets(10**12, math.inf)) == Carried(
        1, "even the smallest level does not fit the memory with one sample"
    )


def test_an_error_of_another_kind_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(capability, "_step", broken)
    run = RunSettings.parse({"strategy": "scalefl", "model": "elastic-cnn"})
    with pytest.raises(RuntimeError, match="size mismatch"):
        measure(run, run.model, load_client_data(run, 0, 10), CPU)


def limit_steps(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let memory be too small for a step with more than ``most`` samples."""
    step = capability._step

    def limited(network: Any, inputs: Any, *others: Any) -> None:
        if len(inputs) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        step(network, inputs, *others)

    monkeypatch.setattr(capability, "_step", limited)


def test_inputs_that_are_no_images_have_no_levels() -> None:
    row = Samples(TensorInputs(torch.zeros(4, 12)), torch.zeros(4, dtype=torch.int64))
    run = RunSettings.parse({"strategy": "scalefl", "model": "elastic-cnn"})
    with pytest.raises(SettingsError, match="reads images, but the data are a table's rows"):
        measure(run, run.model, ClientData(row, row, 2), CPU)


# --- budgets -----------------------------------------------------------------------------------


def test_budgets_are_those_of_the_node_config() -> None:
    node = NodeSettings.parse({"client-name": "a", "memory-budget": 0.5, "seconds-per-round-budget": 30})
    assert Budgets.of(node, CPU) == Budgets(500_000_000, 30)


def test_without_budgets_free_memory_is_the_limit(machine: Path) -> None:
    assert Budgets.of(NodeSettings.parse({"client-name": "a"}), CPU) == Budgets(8_000_000 * 1024, math.inf)


GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("config", "memory"),
    [
        ({}, 9_500_000_000),
        ({"gpu-memory": 4.0}, 3_000_000_000),
        ({"gpu-memory": 4.0, "memory-budget": 2.0}, 2_000_000_000),
        ({"gpu-memory": 4.0, "memory-budget": 8.0}, 3_000_000_000),
        ({"gpu-memory": 16.0}, 9_500_000_000),
        ({"memory-budget": 2.0}, 2_000_000_000),
    ],
    ids=str,
)
def test_a_share_of_a_gpu_is_the_memory_there_is(
    config: dict[str, float], memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the card 9 GB are free; 1 GB is taken by what lies there already, and 0.5 GB kept for later."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (9_000_000_000, 16_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1_000_000_000)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1_500_000_000)
    node = NodeSettings.parse({"client-name": "a", **config})
    assert Budgets.of(node, GPU).memory == memory


def test_a_share_of_a_gpu_does_not_count_on_a_cpu() -> None:
    node = NodeSettings.parse({"client-name": "a", "memory-budget": 2.0, "gpu-memory": 1.0})
    assert Budgets.of(node, CPU).memory == 2_000_000_000


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a container, on a machine with 8 GB free, that has no limit yet."""
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\nCached: 1 kB\n")
    monkeypatch.setattr(capability, "_MEMORY_INFO", info)
    monkeypatch.setattr(capability, "_CONTAINER", tmp_path)
    return tmp_path


def limit(container: Path, most: str, used: int, cached: int = 0) -> None:
    (container / "memory.max").write_text(f"{most}\n")
    (container / "memory.current").write_text(f"{used}\n")
    (container / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nactive_file 7\n")


@pytest.mark.usefixtures("machine")
def test_outside_a_container_the_machine_is_the_limit() -> None:
    assert free_memory(CPU) == 8_000_000 * 1024


def test_a_containers_limit_counts_where_it_is_lower(machine: Path) -> None:
    limit(machine, "3000000", used=1_000_000)
    assert free_memory(CPU) == 2_000_000


def test_files_that_a_container_has_read_do_not_count_as_used(machine: Path) -> None:
    limit(machine, "3000000", used=2_900_000, cached=2_000_000)
    assert free_memory(CPU) == 2_100_000


def test_a_container_without_a_limit_does_not_count(machine: Path) -> None:
    limit(machine, "max", used=1_000_000)
    assert free_memory(CPU) == 8_000_000 * 1024


def test_a_system_that_does_not_tell_is_an_error_that_says_what_to_set(machine: Path) -> None:
    (machine / "meminfo").write_text("MemTotal: 16000000 kB\n")
    with pytest.raises(OSError, match="set memory-budget in the node-config"):
        free_memory(CPU)


# --- pinning -----------------------------------------------------------------------------------

QUESTION: dict[str, Any] = {"model": "elastic-cnn", "budgets": [None, 30.0]}
FIRST, SECOND = Carried(2, "fits"), Carried(3, "fits better")


def test_an_answer_is_kept_for_the_same_question(tmp_path: Path) -> None:
    file = tmp_path / "new" / "level.json"
    assert pinned(file, QUESTION, lambda: FIRST) == FIRST
    assert pinned(file, dict(QUESTION), lambda: SECOND) == FIRST


def test_another_question_is_answered_anew_and_kept_instead(tmp_path: Path) -> None:
    file = tmp_path / "level.json"
    pinned(file, QUESTION, lambda: FIRST)
    other = {**QUESTION, "budgets": [None, 60.0]}
    assert pinned(file, other, lambda: SECOND) == SECOND
    assert pinned(file, other, lambda: FIRST) == SECOND


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"question": QUESTION}), "\xff"])
def test_a_file_that_cannot_be_used_is_written_anew(content: str, tmp_path: Path) -> None:
    file = tmp_path / "level.json"
    file.write_text(content, encoding="latin-1")
    assert pinned(file, QUESTION, lambda: SECOND) == SECOND
    assert pinned(file, QUESTION, lambda: FIRST) == SECOND
