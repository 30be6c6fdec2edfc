"""Where tensors live: what a name means here, and what is said where it means nothing."""

from types import SimpleNamespace

import pytest
import torch

import protocol.device
from protocol.device import allowed_devices, choose_device, find_place
from protocol.errors import SettingsError
from protocol.settings import NodeSettings

TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)."


class Cards:
    """Cards of 16 GB in place of this machine's; it notes what is done to them, in order."""

    def __init__(self, monkeypatch, folder):
        self.calls, self._patch, self._folder = [], monkeypatch, folder
        monkeypatch.setattr(protocol.device, "_DEVICE_FILES", folder)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for name in ("set_device", "set_per_process_memory_fraction"):
            monkeypatch.setattr(torch.cuda, name, self._noting(name))
        monkeypatch.setattr(protocol.device, "_try", self._noting("try"))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        card = SimpleNamespace(name="Tesla T4", total_memory=16_000_000_000)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
        self.there(0)

    def _noting(self, name):
        return lambda *values: self.calls.append((name, *values))

    def there(self, count):
        self._patch.setattr(torch.cuda, "is_available", lambda: count > 0)
        self._patch.setattr(torch.cuda, "device_count", lambda: count)

    def unusable(self, says=TOO_OLD, kind=RuntimeError):
        """Let there be a card, and CUDA not start."""

        def init():
            raise kind(says)

        (self._folder / "nvidia0").touch()
        (self._folder / "nvidiactl").touch()
        self._patch.setattr(torch.cuda, "init", init)

    def broken(self, says):
        def fail(device):
            raise says

        self._patch.setattr(protocol.device, "_try", fail)


@pytest.fixture
def cards(monkeypatch, tmp_path):
    return Cards(monkeypatch, tmp_path)


# --- which device --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "name", "expected"),
    [
        (1, "auto", "cuda"),
        (0, "auto", "cpu"),
        (1, "cpu", "cpu"),
        (1, "cuda", "cuda"),
        (1, "cuda:0", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_a_name_means_the_device_there_is(cards, count, name, expected):
    cards.there(count)
    assert choose_device(name) == torch.device(expected)
    assert find_place(name).note == ""


def test_a_card_that_is_named_becomes_the_process_s_own(cards):
    cards.there(2)
    find_place("cuda:1")
    assert cards.calls == [("set_device", torch.device("cuda:1")), ("try", torch.device("cuda:1"))]


def test_a_cpu_leaves_cuda_alone(cards):
    cards.there(1)
    find_place("cpu")
    assert cards.calls == []


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [
        (0, "cuda", r'device = "cuda": .* no usable GPU; allowed here: auto, cpu$'),
        (0, "cuda:0", r'device = "cuda:0": .* no usable GPU; allowed here: auto, cpu$'),
        (2, "cuda:7", r'device = "cuda:7": there is no such GPU; .* auto, cpu, cuda, cuda:0, cuda:1$'),
        (1, "tpu", r'device = "tpu": there is no such device; allowed here: auto, cpu, cuda, cuda:0$'),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_what_is_allowed_here(cards, count, name, message):
    cards.there(count)
    with pytest.raises(SettingsError, match=message):
        choose_device(name)


def test_a_card_that_does_not_start_is_refused_with_the_reason(cards):
    cards.unusable()
    with pytest.raises(SettingsError, match=r'device = "cuda": .* no usable GPU \(The NVIDIA driver'):
        choose_device("cuda")


def test_a_card_without_room_is_refused_with_the_reason(cards):
    cards.there(1)
    cards.broken(torch.OutOfMemoryError("CUDA out of memory.\nTried"))
    with pytest.raises(
        SettingsError, match=r'device = "cuda:0": the GPU does not work: CUDA out of memory\.;'
    ):
        choose_device("cuda:0")


@pytest.mark.parametrize(
    "name", ["tpu", "gpu", "cuda:x", "cuda:", "cuda:-1", "cuda:01", "cuda:1 ", "CUDA", ""]
)
def test_a_node_s_device_of_another_form_is_refused_with_what_is_allowed_here(cards, name):
    cards.there(2)
    message = rf"""device = "{name}": must be 'auto'.*; allowed here: auto, cpu, cuda, cuda:0, cuda:1"""
    with pytest.raises(SettingsError, match=message):
        NodeSettings.parse({"client-name": "a", "device": name})


def test_a_node_may_name_a_card_by_its_number():
    assert NodeSettings.parse({"client-name": "a", "device": "cuda:3"}).device == "cuda:3"


# --- a GPU that does not work --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "kind"),
    [(TOO_OLD, RuntimeError), ("Torch not compiled with CUDA enabled", AssertionError)],
)
def test_auto_falls_back_from_a_card_that_does_not_start_and_says_why(cards, caplog, says, kind):
    cards.unusable(f"{says}\nPlease update", kind)
    assert choose_device("auto").type == "cpu"
    assert f'device = "auto": the GPU does not work, computing on the CPU: {says}' in caplog.messages


@pytest.mark.parametrize(
    "says",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        torch.cuda.DeferredCudaCallError("CUDA call failed lazily"),
    ],
)
def test_auto_falls_back_from_a_card_whose_first_allocation_fails(cards, says):
    cards.there(1)
    cards.broken(says)
    place = find_place("auto")
    assert place.device.type == "cpu"
    assert place.note == f'device = "auto": the GPU does not work, computing on the CPU: {says}'


def test_a_card_that_is_hidden_on_purpose_is_no_fault(cards, monkeypatch):
    cards.unusable()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert find_place("auto").note == ""


def test_a_simulated_client_without_a_share_of_the_card_says_so(cards, monkeypatch):
    """Else a run whose server has the card would look like one on a card."""
    cards.unusable()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is empty; a simulated client gets" in find_place("auto").note


def test_a_machine_without_a_card_is_no_fault(caplog, cards):
    assert choose_device("auto").type == "cpu"
    assert not caplog.messages


# --- a limit of memory ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_memory_is_limited_before_any_is_taken(cards, name, number):
    cards.there(2)
    find_place(name, gpu_memory=4.0)
    assert [call for call in cards.calls if call[0] != "set_device"] == [
        ("set_per_process_memory_fraction", 0.25, number),
        ("try", torch.device(name if name != "auto" else "cuda")),
    ]


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_more_memory_than_the_card_has_is_refused_with_what_it_has(cards, name):
    cards.there(1)
    message = r"gpu-memory = 17 \(node-config\): cuda:0 \(Tesla T4\) has 16\.0 GB"
    with pytest.raises(SettingsError, match=message):
        find_place(name, gpu_memory=17.0)
    assert ("try", torch.device("cuda")) not in cards.calls


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_a_limit_is_said_to_be_of_no_effect_on_a_cpu(cards, name):
    place = find_place(name, gpu_memory=4.0)
    assert place.device.type == "cpu"
    assert place.note == "gpu-memory = 4 has no effect on a CPU"


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_limit_is_more_than_nothing(value):
    with pytest.raises(SettingsError, match=rf"gpu-memory = {value}.*greater than 0"):
        NodeSettings.parse({"client-name": "a", "gpu-memory": value})


def test_without_a_gpu_two_names_are_allowed(cards):
    assert allowed_devices() == ["auto", "cpu"]
