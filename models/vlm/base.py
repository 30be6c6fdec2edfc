"""The frozen base of a vision-language model: loaded once per process and shared by all levels."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn
from torch.cuda import is_available as has_gpu

from models.vlm.families import Family, family_of, meta
from models.vlm.tiny import tiny_config, tiny_model, tiny_processor
from protocol.errors import SettingsError
from protocol.values import expanded

Quantisation = Literal["none", "4bit"]


@dataclass(frozen=True)
class Source:
    """Which base is used, in which precision."""

    place: str
    """A folder, a hub id, or an empty string for the tiny LLaVA that is created here."""
    dtype: torch.dtype = torch.float32
    quantisation: Quantisation = "none"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint without its weights: its configuration and its processor."""

    place: str
    config: Any
    processor: Any
    family: Family

    @property
    def depth(self) -> int:
        """Layers of the decoder."""
        return int(self.config.get_text_config().num_hidden_layers)


@lru_cache(maxsize=4)
def checkpoint_of(place: str) -> Checkpoint:
    """Read a checkpoint's configuration and processor.

    Raises
    ------
    SettingsError
        If there is no such checkpoint, it is of an unknown family, or has no processor.
    """
    if not place:
        config = tiny_config()
        return Checkpoint(place, config, tiny_processor(config), family_of(config.model_type, place))
    from transformers import AutoConfig

    with _as_settings_error(place, "cannot be read"):
        config = AutoConfig.from_pretrained(expanded(place))
    family = family_of(config.model_type, place)
    return Checkpoint(place, config, _processor(place), family)


def _processor(place: str) -> Any:  # noqa: ANN401
    from transformers import AutoProcessor

    with _as_settings_error(place, "has no processor that can be used"):
        processor = AutoProcessor.from_pretrained(expanded(place))  # type: ignore[no-untyped-call]
    # Without a processor's file transformers falls back on whatever of it there is.
    lacking = [part for part in ("image_processor", "tokenizer") if not hasattr(processor, part)]
    if lacking:
        raise SettingsError(f'pretrained = "{place}": its processor has no {" and no ".join(lacking)}')
    return processor


@contextmanager
def _as_settings_error(place: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers raises all sorts, of foreign files and missing packages
        raise SettingsError(f'pretrained = "{place}": {what}: {error}') from error


_loaded: dict[Source, nn.Module] = {}
"""The base loaded last, with the largest depth requested so far."""


def base_of(source: Source, depth: int) -> nn.Module:
    """Return a model with the decoder's first layers; models share its parameters and buffers.

    Its trainable projector is not shared. On the meta device nothing is loaded. Layers beyond the requested
    depth are not loaded from a checkpoint, unless a deeper model was loaded before.

    Parameters
    ----------
    source
        Which base.
    depth
        Layers of the decoder.

    Raises
    ------
    SettingsError
        If it cannot be loaded, or not in the requested precision.
    """
    checkpoint = checkpoint_of(source.place)
    if meta():
        return _without_memory(checkpoint, depth)
    held = _loaded.get(source)
    if held is None or len(decoder_of(held, checkpoint.family).layers) < depth:
        held = None
        _loaded.clear()  # two large bases would not fit
        # Loading draws random numbers; later draws must not depend on whether something was loaded.
        with torch.random.fork_rng(devices=[]):
            held = _load(source, checkpoint, depth)
        held.requires_grad_(False)
        _loaded[source] = held
    return _shared(held, checkpoint.family, depth)


def decoder_of(model: nn.Module, family: Family) -> Any:  # noqa: ANN401
    """Return the language decoder of a model."""
    return model.get_submodule(f"model.{family.decoder}")


def projector_of(model: nn.Module, family: Family) -> nn.Module:
    """Return the projector, which maps image features to the decoder's embeddings."""
    return model.get_submodule(f"model.{family.projector}")


def _load(source: Source, checkpoint: Checkpoint, depth: int) -> nn.Module:
    if not source.place:
        return tiny_model(checkpoint.config).to(source.dtype)
    from transformers import AutoModelForImageTextToText

    options: dict[str, Any] = {"dtype": source.dtype}
    if source.quantisation == "4bit":
        options["quantization_config"] = _four_bits(checkpoint.family, source.dtype)
        options["device_map"] = {"": "cpu"}  # as all others, until the network is moved
    with _as_settings_error(source.place, "its weights cannot be read"), _quiet():
        read: Any = AutoModelForImageTextToText.from_pretrained(
            expanded(source.place),
            config=_truncated(checkpoint.config, depth),
            output_loading_info=True,
            **options,
        )
    model, report = read
    # Missing weights are initialised randomly by transformers: each party would have a different base.
    if lacking := sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]):
        raise SettingsError(
            f'pretrained = "{source.place}": its weights lack {", ".join(lacking[:3])}; {len(lacking)} in all'
        )
    loaded: nn.Module = model
    return loaded


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from listing layers that are omitted on purpose, and from showing progress bars."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _four_bits(family: Family, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """Return the configuration for a decoder in 4 bits (NF4, Dettmers et al. 2023)."""
    try:
        import bitsandbytes  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            'vlm.quantisation = "4bit": needs bitsandbytes; `uv pip install bitsandbytes` where this runs'
        ) from error
    if not has_gpu():  # bitsandbytes computes on a CPU too, but after the first answer no gradient passes it
        raise SettingsError('vlm.quantisation = "4bit": needs a GPU, there is none')
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", f"model.{family.tower}", f"model.{family.projector}"],
    )


def _without_memory(checkpoint: Checkpoint, depth: int) -> nn.Module:
    from transformers import AutoModelForImageTextToText

    config = _truncated(checkpoint.config, depth)
    model: nn.Module = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
    return model.requires_grad_(False)


def _truncated(config: Any, depth: int) -> Any:  # noqa: ANN401
    """Return a configuration with only the decoder's first layers."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = depth
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:depth]
    return config


def _shared(base: Any, family: Family, depth: int) -> nn.Module:  # noqa: ANN401
    """Copy a model's modules, but not its parameters and buffers, nor the layers that are cut off."""
    layers = decoder_of(base, family).layers
    own = {id(parameter) for parameter in projector_of(base, family).parameters()}
    kept = [*base.parameters(), *base.buffers()]
    memo: dict[int, Any] = {id(tensor): tensor for tensor in kept if id(tensor) not in own}
    memo[id(layers)] = nn.ModuleList()
    memo[id(base.config)] = _truncated(base.config, depth)
    model: Any = copy.deepcopy(base, memo)
    decoder = decoder_of(model, family)
    decoder.layers = nn.ModuleList(copy.deepcopy(layer, memo) for layer in layers[:depth])
    decoder.config = model.config.get_text_config()
    shared: nn.Module = model
    return shared
