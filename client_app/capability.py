"""The level that a device can train: memory and time of each level are measured and compared with budgets."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import ClientData
from learning.memory import Halving, is_out_of_memory, leave_device, training_bytes
from learning.precision import Arithmetic
from learning.training import mean_over_exits
from models import build_elastic, count_parameters, elastic_design
from models.elastic import Shape
from models.registry import require_inputs
from protocol.files import write_atomically
from protocol.formats import FileKind, checked, stamped
from protocol.settings import NodeSettings, RunSettings
from strategies.levels import plan_levels

_TIMED_STEPS = 2
_MEMORY_INFO = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Need:
    """The memory and time that training at a level needs on this device."""

    level: int
    shape: Shape
    parameters: int
    memory: float
    """Bytes of parameters, gradients, optimizer state and one batch's activations; infinite if not even one
    sample fits the memory."""
    seconds_per_step: float
    seconds_per_round: float


@dataclass(frozen=True)
class Budgets:
    """What training may use: bytes of memory, and seconds per round."""

    memory: int
    seconds_per_round: float

    @classmethod
    def of(cls, node: NodeSettings, device: torch.device) -> "Budgets":
        """Read the node's budgets; by default the free memory, within ``gpu-memory``."""
        limit = node.memory_budget
        memory = free_memory(device) if limit is None else int(limit * 1e9)
        if node.gpu_memory is not None and device.type == "cuda":
            memory = min(memory, int(node.gpu_memory * 1e9) - torch.cuda.memory_allocated(device))
        return cls(memory, node.seconds_per_round_budget or math.inf)

    def objection(self, need: Need) -> str:
        """Return which budget a level exceeds; empty if none."""
        if math.isinf(need.memory):
            return "does not fit the memory with one sample"
        if need.memory > self.memory:
            return f"needs {need.memory / 1e6:.3g} MB of {self.memory / 1e6:.3g} MB"
        if need.seconds_per_round > self.seconds_per_round:
            return f"needs {need.seconds_per_round:.2g} s a round of {self.seconds_per_round:g} s"
        return ""


@dataclass(frozen=True)
class Carried:
    """The level that a node trains, and why."""

    level: int
    reason: str


def measure(run: RunSettings, model: str, data: ClientData, device: torch.device) -> list[Need]:
    """Measure a training step at each level of an elastic network; return the smallest level first.

    Parameters
    ----------
    run
        The run's settings.
    model
        Name of the elastic network.
    data
        The node's data.
    device
        The device to measure.
    """
    input_shape, classes = data.train.input_shape, data.num_classes
    require_inputs(model, input_shape, run, data.train.inputs.kind)
    design = elastic_design(model, run)
    levels = plan_levels(run.levels, design, input_shape, classes)
    batch = torch.arange(min(run.train.batch_size, len(data.train)))
    inputs, targets = data.train.inputs[batch].to(device), data.train.targets[batch].to(device)
    arithmetic = Arithmetic(run.precision, device)
    steps = run.train.epochs * math.ceil(len(data.train) / run.train.batch_size)
    needs: list[Need] = []
    for level, shape in reversed(
        list(enumerate(levels, start=1))
    ):  # deepest first, so that a frozen base is read once
        network = build_elastic(design, input_shape, classes, run.seed, shape, pretrained=False)
        activations, seconds = _measure_batch(network, inputs, targets, arithmetic)
        memory = training_bytes(network, run.train.optimizer, device) + activations
        needs.insert(0, Need(level, shape, count_parameters(network), memory, seconds, steps * seconds))
    return needs


def choose(needs: Sequence[Need], budgets: Budgets) -> Carried:
    """Return the largest level that fits the budgets, or the smallest if none does, with the reason."""
    objection = ""
    for need in reversed(needs):
        before, objection = objection, budgets.objection(need)
        if not objection:
            fits = f"fits: {need.memory / 1e6:.3g} MB, {need.seconds_per_round:.2g} s a round"
            return Carried(need.level, f"{fits}; level {need.level + 1} {before}" if before else fits)
    return Carried(needs[0].level, f"even the smallest level {objection}")


def pinned(file: Path, question: Mapping[str, Any], answer: Callable[[], Carried]) -> Carried:
    """Return the answer kept in a file if it is to the same question, else find it and keep it.

    This keeps a node from changing its level between two hellos because a step took longer.

    Parameters
    ----------
    file
        The JSON file of the answer; replaced if it cannot be read, or answers another question.
    question
        All that the answer depends on, as JSON values.
    answer
        Finds the answer.

    Raises
    ------
    FormatError
        If the file is of a newer version.
    """
    try:
        kept = checked(FileKind.LEVEL, json.loads(file.read_text()), file)
        if kept["question"] == question:
            return Carried(kept["level"], kept["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is no readable answer: measure
    carried = answer()
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"question": question, "level": carried.level, "reason": carried.reason}
    write_atomically(file, json.dumps(stamped(FileKind.LEVEL, content)).encode())
    return carried


def free_memory(device: torch.device) -> int:
    """Return the free memory in bytes: of the GPU, or of this machine or container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + kept  # memory that torch has reserved is free for it
    return min(_machine_memory(), _container_memory())


def _machine_memory() -> int:
    for line in _MEMORY_INFO.read_text().splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) * 1024
    raise OSError(f"{_MEMORY_INFO} has no MemAvailable: set memory-budget in the node-config")


def _container_memory() -> int:
    try:
        limit = (_CONTAINER / "memory.max").read_text().strip()
        used = int((_CONTAINER / "memory.current").read_text())
        counts = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())
    except OSError:
        return sys.maxsize  # no container, or one that does not limit memory
    cached = int(counts.get("inactive_file", 0))  # files read, which the kernel drops when memory is short
    return sys.maxsize if limit == "max" else int(limit) - used + cached


def _measure_batch(
    network: nn.Module, inputs: Tensor, targets: Tensor, arithmetic: Arithmetic
) -> tuple[float, float]:
    """Return the bytes and seconds of a step; both are proportional to the batch, so a part of it is enough.

    They are infinite if not even one sample fits the memory.
    """
    whole = len(targets)

    def measure_part(samples: int) -> tuple[float, float]:
        kept, seconds = _measure_step(network, inputs[:samples], targets[:samples], arithmetic)
        return kept * whole / samples, seconds * whole / samples

    try:
        network.to(inputs.device)
        return Halving(whole, smallest=2)(measure_part, whole)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return math.inf, math.inf
    finally:
        leave_device(network)


def _measure_step(
    network: nn.Module, inputs: Tensor, targets: Tensor, arithmetic: Arithmetic
) -> tuple[int, float]:
    """Return the bytes that a step saves for its backward pass, and its seconds after a warm-up step.

    Saved weights are not counted, as they are in memory anyway.
    """
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _step(network, inputs, targets, arithmetic)
    started = time.perf_counter()
    for _ in range(_TIMED_STEPS):
        _step(network, inputs, targets, arithmetic)
    return sum(kept.values()), (time.perf_counter() - started) / _TIMED_STEPS


def _step(network: nn.Module, inputs: Tensor, targets: Tensor, arithmetic: Arithmetic) -> None:
    with arithmetic.autocast():
        loss = mean_over_exits(network, inputs, lambda logits: F.cross_entropy(logits, targets))
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    torch.autograd.grad(loss, learned)
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
