"""BERT (Devlin et al. 2019) with exits, as ScaleFL trains it on texts.

The network is that of transformers, built at the size of the submodel. The number of attention heads stays
the same; the leading part of each head is kept. Every other hidden dimension (residual stream, embeddings,
norms, feed-forward layers) is divided into as many parts as there are heads and cut in the same way.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial, reduce
from operator import add
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from models.elastic.channels import Axes, Channels, scaled
from models.elastic.layers import ElasticLinear
from models.elastic.network import ElasticDesign, ExitNetwork, Shape, class_outputs, nested
from protocol.errors import SettingsError
from protocol.values import expanded

if TYPE_CHECKING:
    from transformers import BertConfig

FAMILY = "bert"
PADDING = 0
WIDTHS = (0.4, 0.55, 0.75, 1.0)
DEPTH_SHARES = ((1, 3), (1, 2), (3, 4), (1, 1))
"""The levels of ScaleFL's own experiments: exits after layers 4, 6, 9 and 12 of BERT-base."""


class BertHead(nn.Module):
    """BERT's classification head: a dense layer on the first token, tanh, dropout and a linear layer.

    ScaleFL has one at every exit; with it the numbers of parameters are those of ScaleFL's code.

    Parameters
    ----------
    hidden
        Channels of the residual stream.
    pooled
        Output channels of the dense layer, as many.
    num_classes
        Number of classes.
    dropout
        Dropout probability.
    deviation
        Standard deviation of the initial weights.
    """

    def __init__(
        self, hidden: Channels, pooled: Channels, num_classes: int, dropout: float, deviation: float
    ) -> None:
        super().__init__()
        self.dense = ElasticLinear(hidden, pooled)
        self.dropout = nn.Dropout(dropout)
        self.linear = ElasticLinear(pooled, class_outputs(num_classes))
        for layer in (self.dense, self.linear):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Map ``(batch, positions, hidden)`` to logits ``(batch, classes)``."""
        logits: Tensor = self.linear(self.dropout(torch.tanh(self.dense(states[:, 0]))))
        return logits


class ElasticBert(ExitNetwork):
    """BERT's encoder with a head after some of its layers.

    Parameters
    ----------
    configuration
        Configuration of the encoder, at the size and depth of this network.
    exits
        The layers with a head, counted from 1.
    num_classes
        Number of classes.
    """

    answers_at_once = 64

    def __init__(self, configuration: "BertConfig", exits: tuple[int, ...], num_classes: int) -> None:
        from transformers import BertModel

        super().__init__()
        self.bert: Any = BertModel(configuration, add_pooling_layer=False)
        hidden = _state_axes(self.bert, configuration)
        parts = configuration.num_attention_heads
        self.heads = nn.ModuleDict(
            {
                str(number): BertHead(
                    hidden,
                    _in_parts(f"pooled{number}", len(hidden), parts),
                    num_classes,
                    configuration.hidden_dropout_prob,
                    configuration.initializer_range,
                )
                for number in exits
            }
        )

    def exits(self, inputs: Tensor) -> list[Tensor]:
        """Map ids of tokens ``(batch, positions)``, int64, to each exit's logits ``(batch, classes)``."""
        states = self._encode(inputs, output_hidden_states=True).hidden_states
        return [head(states[int(number)]) for number, head in self.heads.items()]

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ids of tokens ``(batch, positions)``, int64, to the last exit's logits ``(batch, classes)``."""
        *_, last = self.heads.values()
        logits: Tensor = last(self._encode(inputs).last_hidden_state)
        return logits

    def _encode(self, inputs: Tensor, **options: bool) -> Any:  # noqa: ANN401 - the library's own record
        # A tensor on the meta device has no values to compare with the padding.
        mask = None if inputs.is_meta else (inputs != PADDING).long()
        return self.bert(input_ids=inputs, attention_mask=mask, **options)


@dataclass(frozen=True)
class BertSize:
    """The size of a randomly initialised network."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    deviation: float = 0.02
    """Of the initial weights."""

    def configuration(self, length: int, vocabulary: int) -> "BertConfig":
        """Return the whole network's configuration, with as many positions and pieces as texts need."""
        from transformers import BertConfig

        return BertConfig(
            num_hidden_layers=self.layers,
            hidden_size=self.hidden,
            num_attention_heads=self.heads,
            intermediate_size=self.intermediate,
            max_position_embeddings=length,
            vocab_size=vocabulary,
            initializer_range=self.deviation,
        )


Configuration = Callable[[int, int], "BertConfig"]
"""Maps the length of texts and the size of the vocabulary to the whole network's configuration."""


def build_bert(
    configuration: Configuration, input_shape: tuple[int, ...], num_classes: int, shape: Shape
) -> ElasticBert:
    """Build BERT in a given shape.

    Parameters
    ----------
    configuration
        Configuration of the whole network.
    input_shape
        The largest number of tokens of a text, and the size of the vocabulary.
    num_classes
        Number of classes.
    shape
        Width and exits of the submodel.
    """
    length, vocabulary = input_shape
    part = copy.deepcopy(configuration(length, vocabulary))
    heads = part.num_attention_heads
    part.num_hidden_layers = shape.depth
    part.hidden_size = heads * scaled(part.hidden_size // heads, shape.width)
    part.intermediate_size = heads * scaled(part.intermediate_size // heads, shape.width)
    return ElasticBert(part, shape.exits, num_classes)


def preset(layers: int) -> tuple[Shape, ...]:
    """Return ScaleFL's levels for a depth, its shares of the layers; fewer for a shallow network."""
    exits: list[int] = []
    for share, of in reversed(DEPTH_SHARES):
        exits.insert(0, min(-(-share * layers // of), exits[0] - 1 if exits else layers))
    kept = [(width, exit_) for width, exit_ in zip(WIDTHS, exits, strict=True) if exit_ >= 1]
    return nested([width for width, _ in kept], [exit_ for _, exit_ in kept])


def bert_design(pretrained: str = "") -> ElasticDesign:
    """Return BERT as a checkpoint has it, or BERT-base with random weights if there is none.

    Parameters
    ----------
    pretrained
        A folder or a hub id; weights are read when a network is first built.

    Raises
    ------
    SettingsError
        If the checkpoint cannot be read, or is of another family.
    """
    if not pretrained:
        return _design(BERT_BASE)
    configuration = _configuration_of(pretrained)
    layers = configuration.num_hidden_layers
    build = partial(build_bert, partial(_as_pretrained, pretrained, configuration))
    initial = cache(partial(_weights_of, pretrained, layers))
    return ElasticDesign(build, layers, preset(layers), reads="texts", initial=initial)


def _design(size: BertSize) -> ElasticDesign:
    build = partial(build_bert, size.configuration)
    return ElasticDesign(build, size.layers, preset(size.layers), reads="texts")


BERT_BASE = BertSize(layers=12, hidden=768, heads=12, intermediate=3072)
BERT_TINY = _design(BertSize(layers=6, hidden=64, heads=4, intermediate=256, deviation=0.08))
"""Small enough to be trained from scratch on a CPU.

BERT's initial deviation is meant for layers of 768 units; so narrow a network hardly learns with it at first.
"""


# --- axes ----------------------------------------------------------------------------------------


def _in_parts(name: str, size: int, parts: int) -> Channels:
    """Return as many groups as there are heads, so that the leading part of each is kept."""
    return reduce(add, (Channels.of(f"{name}.{part}", size // parts) for part in range(parts)))


def _state_axes(bert: Any, configuration: "BertConfig") -> Channels:  # noqa: ANN401
    """Name the channels of all parameters of the encoder, and return those of the residual stream."""
    parts = configuration.num_attention_heads
    hidden = _in_parts("hidden", configuration.hidden_size, parts)
    embeddings = bert.embeddings
    for name, module in (
        ("vocabulary", embeddings.word_embeddings),
        ("positions", embeddings.position_embeddings),
        ("token types", embeddings.token_type_embeddings),
    ):
        _state(module, weight=(Channels.of(name, module.num_embeddings), hidden))
    _state(embeddings.LayerNorm, weight=(hidden,), bias=(hidden,))
    for number, layer in enumerate(bert.encoder.layer, start=1):
        attention = layer.attention
        keys, values = (
            _in_parts(f"layer{number}.{name}", configuration.hidden_size, parts) for name in ("key", "value")
        )
        wide = _in_parts(f"layer{number}.wide", configuration.intermediate_size, parts)
        for module, inputs, outputs in (
            (attention.self.query, hidden, keys),
            (attention.self.key, hidden, keys),
            (attention.self.value, hidden, values),
            (attention.output.dense, values, hidden),
            (layer.intermediate.dense, hidden, wide),
            (layer.output.dense, wide, hidden),
        ):
            _state(module, weight=(outputs, inputs), bias=(outputs,))
        for norm in (attention.output.LayerNorm, layer.output.LayerNorm):
            _state(norm, weight=(hidden,), bias=(hidden,))
    return hidden


def _state(module: nn.Module, **axes: Axes) -> None:
    cast("Any", module).axes = axes


# --- checkpoints ---------------------------------------------------------------------------------


def _configuration_of(place: str) -> "BertConfig":
    """Read a checkpoint's configuration; refuse those from which submodels cannot be cut."""
    from transformers import AutoConfig

    setting = f'pretrained = "{place}"'
    try:
        configuration = AutoConfig.from_pretrained(expanded(place))
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(f"{setting}: no configuration can be read there ({error})") from error
    if configuration.model_type != FAMILY:
        raise SettingsError(
            f'{setting}: is of the family "{configuration.model_type}"; model = "elastic-bert" takes '
            f'"{FAMILY}" alone'
        )
    positions = getattr(configuration, "position_embedding_type", "absolute")
    if positions != "absolute" or configuration.is_decoder:
        kind = "a decoder" if configuration.is_decoder else f"with positions that are {positions}"
        raise SettingsError(f"{setting}: is {kind}; allowed is an encoder with absolute positions")
    heads = configuration.num_attention_heads
    for size in ("hidden_size", "intermediate_size"):
        if getattr(configuration, size) % heads:
            raise SettingsError(
                f"{setting}: {size} = {getattr(configuration, size)} is no multiple of its {heads} heads"
            )
    return cast("BertConfig", configuration)


def _as_pretrained(place: str, configuration: "BertConfig", length: int, vocabulary: int) -> "BertConfig":
    """Return a checkpoint's configuration after checking that the texts fit it.

    Raises
    ------
    ValueError
        If texts are longer than its positions, or the vocabulary is larger than its embedding.
    """
    if length > configuration.max_position_embeddings:
        raise ValueError(
            f'text.length = {length}: pretrained = "{place}" has {configuration.max_position_embeddings} '
            "positions"
        )
    if vocabulary > configuration.vocab_size:
        raise ValueError(
            f'pretrained = "{place}": its tokeniser has {vocabulary} pieces, its network knows '
            f"{configuration.vocab_size}"
        )
    return configuration


def _weights_of(place: str, layers: int) -> Mapping[str, Tensor]:
    """Read a checkpoint's weights by our names; its pooler, if it has one, belongs to the last exit."""
    from safetensors import SafetensorError
    from transformers import BertModel

    setting = f'pretrained = "{place}"'
    try:
        with torch.random.fork_rng(devices=[]):  # the library draws what a checkpoint lacks
            read: Any = BertModel.from_pretrained(
                expanded(place), dtype=torch.float32, output_loading_info=True
            )
            model, report = read
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise SettingsError(f"{setting}: no weights can be read there ({error})") from error
    missing = set(report["missing_keys"])
    if lacking := sorted(name for name in missing if not name.startswith("pooler.")):
        raise SettingsError(f"{setting}: its weights lack {', '.join(lacking[:3])}; {len(lacking)} in all")
    return {
        _our_name(name, layers): value for name, value in model.state_dict().items() if name not in missing
    }


def _our_name(name: str, layers: int) -> str:
    pooler = "pooler.dense."
    return f"heads.{layers}.dense.{name.removeprefix(pooler)}" if name.startswith(pooler) else f"bert.{name}"
