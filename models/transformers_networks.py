"""transformers' classifiers of images and of texts, named by the place of a checkpoint.

``transformers:/srv/vit`` or ``transformers:google/vit-base-patch16-224``: the checkpoint's configuration says
which network it is and what it reads. Its weights are read from there, from safetensors alone, and no code
that lies beside them is run. Texts must be tokenised as the checkpoint does.
"""

import copy
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from models.image_library import SIDES, fitting_images
from models.network import Network
from models.pretrained import PICKLE, conversion_of, put_weights
from protocol.errors import SettingsError
from protocol.references import CHECKPOINTS, checkpoint_in
from protocol.settings import RunSettings
from protocol.values import expanded, is_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PADDING = 0

Kind = Literal["images", "texts"]


class Classifier(nn.Module):
    """A classifier of transformers that answers with logits alone.

    Parameters
    ----------
    network
        With a head for classes.
    kind
        What it reads.
    """

    def __init__(self, network: nn.Module, kind: Kind) -> None:
        super().__init__()
        self.network = network
        self.kind = kind

    def forward(self, inputs: Tensor) -> Tensor:
        """Map a batch of images, or int64 ids of tokens (batch, positions), to logits (batch, classes)."""
        if self.kind == "images":
            answer = self.network(pixel_values=inputs)
        else:
            answer = self.network(input_ids=inputs, attention_mask=(inputs != PADDING).long())
        logits: Tensor = answer.logits
        return logits


def find(place: str, setting: str) -> Network:
    """Return the network of a checkpoint; nothing of it is read yet.

    On a node it may lie elsewhere: there ``model-path`` stands for the place in the name.

    Parameters
    ----------
    place
        An absolute path, or a hub id.
    setting
        The key that names it, for messages.

    Raises
    ------
    SettingsError
        If the place can be neither.
    """
    name = f"{CHECKPOINTS}:{place}"
    if not is_checkpoint(place):
        raise SettingsError(
            f'{setting} = "{name}": after {CHECKPOINTS}: stands the absolute path of a checkpoint\'s folder '
            "(~ is allowed) or a Hugging Face hub id such as google/vit-base-patch16-224"
        )
    return Network(
        name,
        frozenset({"images", "texts"}),
        partial(_build, name),
        pretrained=True,
        checkpoint=place,
        remedy=partial(_remedy, name),
    )


def _build(name: str, input_shape: tuple[int, ...], num_classes: int, settings: RunSettings) -> nn.Module:
    """Build a checkpoint's network for the data at hand and read its weights.

    Raises
    ------
    SettingsError
        If there is no such checkpoint, it is no classifier of such inputs, or its weights are not whole.
    """
    place = settings.pretrained or checkpoint_in(name)
    source = f'model = "{CHECKPOINTS}:{place}"'
    kind: Kind = "texts" if len(input_shape) == 2 else "images"
    network = _at_random(source, place, kind, input_shape, num_classes)
    weights, absent = _weights_of(source, place, kind)
    model = Classifier(network, kind)
    put_weights(model, weights, num_classes, name, source, absent)
    return model


def _at_random(
    source: str, place: str, kind: Kind, input_shape: tuple[int, ...], num_classes: int
) -> nn.Module:
    """Build the network of a checkpoint's configuration with random weights."""
    configuration = copy.deepcopy(_configuration_of(source, place))
    _require_kind(source, configuration, kind)
    if kind == "texts":
        _require_room(source, configuration, *input_shape)
    else:
        configuration.num_channels = input_shape[0]
    if configuration.num_labels != num_classes:
        configuration.num_labels = num_classes
    network: nn.Module = _library_class(kind).from_config(
        configuration, dtype=torch.float32, trust_remote_code=False
    )
    return network


def _remedy(name: str, input_shape: tuple[int, ...], num_classes: int, settings: RunSettings) -> str:
    """Say which images a checkpoint's network takes: of its own size, if it has one."""
    place = settings.pretrained or checkpoint_in(name)
    source = f'model = "{name}"'
    if len(input_shape) != 3:
        return ""

    def build(shape: tuple[int, ...], classes: int) -> nn.Module:
        return Classifier(_at_random(source, place, "images", shape, classes), "images")

    own = getattr(_configuration_of(source, place), "image_size", None)
    sides = {*SIDES, own} if isinstance(own, int) else {*SIDES}
    return fitting_images(build, input_shape, num_classes, sorted(sides))


def _require_kind(source: str, configuration: "PreTrainedConfig", kind: Kind) -> None:
    """Refuse a checkpoint whose family has no classifier of such inputs."""
    from transformers.models.auto import modeling_auto as known

    families: Mapping[Kind, Mapping[str, object]] = {
        "images": known.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        "texts": known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    }
    family = configuration.model_type
    if family in families[kind]:
        return
    reads = [other for other, names in families.items() if family in names]
    raise SettingsError(
        f'{source}: is of the family "{family}", which classifies {" and ".join(reads) or "nothing"}; the '
        f"data are {kind}"
    )


def _require_room(source: str, configuration: "PreTrainedConfig", length: int, vocabulary: int) -> None:
    """Refuse texts that are longer than a network's positions, or have more pieces than it knows."""
    positions = getattr(configuration, "max_position_embeddings", None)
    if positions is not None and 0 < positions < length:
        raise SettingsError(f"text.length = {length}: {source} has {positions} positions")
    pieces = getattr(configuration, "vocab_size", vocabulary)
    if vocabulary > pieces:
        raise SettingsError(f"{source}: the tokeniser has {vocabulary} pieces, the network knows {pieces}")


# --- what is read of a checkpoint ----------------------------------------------------------------


@lru_cache(maxsize=4)
def _configuration_of(source: str, place: str) -> "PreTrainedConfig":
    from transformers import AutoConfig

    try:
        configuration: PreTrainedConfig = AutoConfig.from_pretrained(expanded(place), trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise SettingsError(f"{source}: no configuration can be read there ({error})") from error
    return configuration


@lru_cache(maxsize=2)
def _weights_of(source: str, place: str, kind: Kind) -> tuple[Mapping[str, Tensor], frozenset[str]]:
    """Read a checkpoint's weights by the names of `Classifier`, and the names of those that it lacks.

    It may lack a head, and a pooler, which belongs to one: whoever trained it may have had none.
    """
    from safetensors import SafetensorError

    try:
        with torch.random.fork_rng(devices=[]):  # the library draws what a checkpoint lacks
            read: Any = _library_class(kind).from_pretrained(
                expanded(place),
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
            network, report = read
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        pickle = Path(expanded(place)) / PICKLE
        hint = f"; convert {PICKLE}: {conversion_of(pickle)}" if pickle.is_file() else ""
        raise SettingsError(f"{source}: no weights can be read there ({error}){hint}") from error
    absent = frozenset(report["missing_keys"])
    base = f"{network.base_model_prefix}."
    if lacking := sorted(name for name in absent if name.startswith(base) and ".pooler." not in name):
        raise SettingsError(f"{source}: its weights lack {', '.join(lacking[:3])}; {len(lacking)} in all")
    weights = {f"network.{name}": value for name, value in network.state_dict().items() if name not in absent}
    return weights, frozenset(f"network.{name}" for name in absent)


def _library_class(kind: Kind) -> Any:  # noqa: ANN401 - a class of the library's own
    import transformers

    if kind == "images":
        return transformers.AutoModelForImageClassification
    return transformers.AutoModelForSequenceClassification
