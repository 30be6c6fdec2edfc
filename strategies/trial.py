"""Networks are tried on two real samples before the first round; one that does not work is refused."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from data import Shared, load_shared
from data.texts import TextForm
from data.tokenisers import load_checkpoint_tokeniser
from learning.precision import Arithmetic
from models import build_elastic, build_model
from models.elastic import ExitNetwork
from models.network import Network
from models.registry import model_of, require_inputs
from protocol.errors import MotleyError, SettingsError
from protocol.settings import RunSettings

_SAMPLES = 2
"""As few as batch norms can train on."""


@lru_cache(maxsize=64)
def try_model(
    name: str, settings: RunSettings, device: torch.device, setting: str = "model", public_path: str = ""
) -> None:
    """Refuse a network that does not take the run's inputs, or does not answer with logits; once a process.

    One that our tests have not tried, or that begins with pretrained weights, is built and given two samples
    of the public pool, in training and in eval mode. No random draw of the run is changed by it.

    Parameters
    ----------
    name
        Of a network or an estimator; of an estimator only what it reads is checked.
    settings
        Of the run.
    device
        Where it will compute.
    setting
        The key that names it, for messages.
    public_path
        Where ``public.source`` lies on this machine, if elsewhere.

    Raises
    ------
    SettingsError
        Naming the network, the inputs' shape, what came of them and what was expected.
    DataError
        If the public pool cannot be read.
    """
    found = model_of(name, setting)
    shared = load_shared(settings, public_path)
    require_inputs(name, shared.input_shape, settings, shared.pool.inputs.kind)
    if not isinstance(found, Network) or _is_known_to_work(found, settings):
        return
    _require_tokeniser(found, settings, shared, setting)
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        trial = _Trial(found, settings, shared, device, setting)
        trial.run()


class _Trial:
    """One network, and what is asked of it."""

    def __init__(
        self, network: Network, settings: RunSettings, shared: Shared, device: torch.device, setting: str
    ) -> None:
        pool = shared.pool.inputs
        some = pool.take(torch.arange(_SAMPLES) % len(pool)).to(device)
        self._batch = some[torch.arange(_SAMPLES)]
        self._network = network
        self._settings = settings
        self._shape, self._classes = shared.input_shape, len(shared.classes)
        self._arithmetic = Arithmetic(settings.precision, device)
        self._subject = f'{setting} = "{network.name}"'

    def run(self) -> None:
        """Build it, and look at its answers in both modes."""
        try:
            model = self._build().to(self._batch.device)
        except MotleyError:
            raise
        except Exception as error:  # it may be a stranger's
            raise self._refusal("", f"{type(error).__name__}: {error}") from error
        self._require_known_sizes(model)
        for training in (True, False):
            self._ask(model.train(training), "training" if training else "eval")

    def _build(self) -> nn.Module:
        design = None if self._network.design is None else self._network.design(self._settings)
        if design is None:
            return build_model(self._network.name, self._shape, self._classes, 0, self._settings)
        return build_elastic(design, self._shape, self._classes, 0, design.preset[-1])

    def _require_known_sizes(self, model: nn.Module) -> None:
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if is_lazy(tensor):
                raise self._refusal("", f"a lazy layer ({name})", "layers whose sizes are given")

    def _ask(self, model: nn.Module, mode: str) -> None:
        try:
            with self._arithmetic.autocast(), torch.set_grad_enabled(model.training):
                answers = _answers(model, self._batch)
        except Exception as error:  # it may be a stranger's
            hint = self._network.remedy(self._shape, self._classes, self._settings)
            raise self._refusal(mode, f"{type(error).__name__}: {error}", hint=hint) from error
        for answer in answers:
            self._require_logits(answer, mode)

    def _require_logits(self, answer: object, mode: str) -> None:
        if not isinstance(answer, Tensor):
            raise self._refusal(mode, f"a {type(answer).__name__}")
        if tuple(answer.shape) != (_SAMPLES, self._classes):
            raise self._refusal(mode, f"a tensor of shape {tuple(answer.shape)}")
        if not answer.is_floating_point():
            raise self._refusal(mode, f"numbers of {answer.dtype}")
        if not answer.isfinite().all():
            raise self._refusal(mode, "values that are not finite")
        if mode == "training" and not answer.requires_grad:
            raise self._refusal(mode, "an answer that depends on no parameter that learns")

    def _refusal(self, mode: str, got: str, expected: str = "", hint: str = "") -> SettingsError:
        within = f" in {mode} mode" if mode else ""
        logits = expected or f"logits of shape {(_SAMPLES, self._classes)}"
        return SettingsError(
            f"{self._subject}: given {_SAMPLES} inputs of shape {self._shape}{within}: got {got}; expected "
            f"{logits}{f'; {hint}' if hint else ''}"
        )


def _is_known_to_work(found: Network, settings: RunSettings) -> bool:
    """Tell whether our tests tried a network, and no weights are put into it that they do not know."""
    return found.tried and (found.is_elastic or not settings.pretrained)


def _answers(model: nn.Module, batch: Tensor) -> Sequence[object]:
    """Return what a network answers, at each of its exits; of a stranger's it may be anything."""
    if isinstance(model, ExitNetwork):
        return model.exits(batch)
    return [model(batch)]


def _require_tokeniser(found: Network, settings: RunSettings, shared: Shared, setting: str) -> None:
    """Refuse a checkpoint's network where the run's texts are not cut as the checkpoint's tokeniser does."""
    own = settings.pretrained or found.name
    form = shared.form
    if not (found.checkpoint and isinstance(form, TextForm)) or own == settings.checkpoint:
        return
    if TextForm(load_checkpoint_tokeniser(own), form.length).digest != form.digest:
        named = f'that of "{settings.checkpoint}"' if settings.checkpoint else "trained on the public pool"
        raise SettingsError(
            f'{setting} = "{found.name}": its tokeniser has another vocabulary than the run\'s, which is '
            f"{named}; networks that read texts in one run need the same, and the run's is that of `model`"
        )
