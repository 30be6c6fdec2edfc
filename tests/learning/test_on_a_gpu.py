"""What only a card can show: its memory is shared, runs out, and is given back; it computes in bfloat16.

A limit of memory holds for a process, and from before its first allocation. So each test starts its own.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from learning.precision import usable_precision
from protocol.device import find_place
from protocol.errors import SettingsError
from tests.support.processes import PROJECT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = torch.device("cuda")

LIMITED = """
import torch
from protocol.device import find_place

place = find_place("cuda", {gigabytes})
"""

TRAINING = """
import torch.nn.functional as F
from torch import nn
from data.inputs import TensorInputs
from protocol.settings import TrainSettings
from learning.precision import Arithmetic
from learning.training import predict
from tests.support.training import fit

torch.manual_seed(0)
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True
model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3),
).to(place.device)
inputs, targets = torch.rand(256, 1, 64, 64).to(place.device), (torch.arange(256) % 3).to(place.device)
held = torch.cuda.memory_allocated()

def loss(indices):
    return F.cross_entropy(model(inputs[indices.to(place.device)]), targets[indices.to(place.device)])

settings = TrainSettings(epochs=3, batch_size=256, learning_rate=0.1)
arithmetic = Arithmetic("{precision}", place.device)
fit(model, loss, 256, settings, torch.Generator().manual_seed(1), momentum=0.9, arithmetic=arithmetic)
answers = predict(model, TensorInputs(inputs), arithmetic).cpu()
left = torch.cuda.memory_allocated() - held
print([model[6].bias.tolist(), answers.mean(0).tolist(), left, torch.cuda.max_memory_reserved()])
"""
"""A batch's activations take 0.55 GB in float32, and their gradients a good part of it."""


def python(script):
    """Return what a script prints, as a value, and what it logs."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return eval(done.stdout), done.stderr


def trained(gigabytes, precision="fp32"):
    return python(LIMITED.format(gigabytes=gigabytes) + TRAINING.format(precision=precision))


# --- a limit of memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("segments", ["False", "True"])
def test_no_more_memory_is_taken_than_the_node_may(segments, monkeypatch):
    """With and without the allocator's expandable segments, which an operator may choose."""
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", f"expandable_segments:{segments}")
    script = """
held = []
try:
    while len(held) < 40:
        held.append(torch.empty(100_000_000, dtype=torch.uint8, device=place.device))
except torch.OutOfMemoryError:
    pass
print(len(held))
"""
    count, _ = python(LIMITED.format(gigabytes=1.0) + script)
    assert 8 <= count <= 10


def test_more_memory_than_the_card_has_is_refused():
    with pytest.raises(SettingsError, match=r"gpu-memory = 100000 .* has .* GB"):
        find_place("cuda", 100_000.0)


def test_a_card_that_is_not_there_is_refused():
    number = torch.cuda.device_count()
    with pytest.raises(SettingsError, match=rf'"cuda:{number}": there is no such GPU; .*cuda:{number - 1}$'):
        find_place(f"cuda:{number}")


# --- out of memory -------------------------------------------------------------------------------


def test_a_node_with_little_memory_learns_what_one_with_more_does():
    (bias, answers, left, taken), told = trained(0.4)
    (whole_bias, whole_answers, _, _), told_nothing = trained(None)

    assert "Out of memory at batch size 256: continuing with micro-batches of 128" in told
    assert "Out of memory" not in told_nothing
    assert bias == pytest.approx(whole_bias, abs=1e-4)
    assert answers == pytest.approx(whole_answers, abs=1e-4)
    assert taken <= 0.4e9
    assert left < 64_000_000  # nothing of the failed steps, only what cuBLAS keeps to work in


def test_nodes_share_a_card_at_once():
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(trained, [0.4, 0.4, 2.0]))
    biases = [bias for (bias, *_), _ in results]
    for bias in biases[1:]:
        assert bias == pytest.approx(biases[0], abs=1e-4)
    assert ["Out of memory" in told for _, told in results] == [True, True, False]


def test_where_one_sample_does_not_fit_the_node_says_so():
    script = LIMITED.format(gigabytes=0.05) + TRAINING.format(precision="fp32").replace(
        "nn.Conv2d(1, 32, 3, padding=1)", "nn.Conv2d(1, 32, 3, padding=400)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "MemoryShortageError: out of memory even at batch size 1" in done.stderr
    assert "CUDA out of memory" in done.stderr


# --- precision -----------------------------------------------------------------------------------


def test_a_card_computes_in_bfloat16_if_it_is_of_capability_8_or_more():
    precision, note = usable_precision("bf16", GPU)
    new_enough = torch.version.hip is not None or torch.cuda.get_device_capability(GPU) >= (8, 0)
    assert (precision, bool(note)) == (("bf16", False) if new_enough else ("fp32", True))


@pytest.mark.parametrize("wanted", ["bf16", "fp16"])
def test_fewer_bits_take_less_memory_and_learn_nearly_the_same(wanted):
    if usable_precision(wanted, GPU)[0] != wanted:
        pytest.skip(f"needs a GPU with {wanted}")
    (_, answers, _, taken), _ = trained(None, wanted)
    (_, exact, _, taken_by_float32), _ = trained(None)
    assert answers == pytest.approx(exact, abs=0.02)
    assert taken < taken_by_float32


def test_float16_goes_on_in_micro_batches_too():
    (_, answers, *_), told = trained(0.15, "fp16")
    (_, exact, *_), _ = trained(None, "fp16")
    assert "Out of memory at batch size 256" in told
    assert answers == pytest.approx(exact, abs=0.02)
