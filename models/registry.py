"""From a network's name to the network."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import TypeVar

import torch
from torch import nn

from models.cnn import SmallCNN
from models.elastic import ElasticDesign, ExitNetwork, Shape, SliceMap, axes_of
from models.elastic.cnn import CNN
from models.elastic.efficientnet import EFFICIENTNET_B4
from models.elastic.msdnet import MSDNET24
from models.elastic.resnet import RESNET20, RESNET56, RESNET110
from models.mlp import MLP
from models.resnet_cifar import CifarResNet
from models.torchvision_models import resnet18
from protocol.errors import SettingsError
from protocol.settings import DEFAULTS, RunSettings
from protocol.values import MODEL_NAMES, is_elastic

ModelBuilder = Callable[[tuple[int, ...], int], nn.Module]
"""Builds a network for inputs of a shape and a number of classes."""

MODEL_BUILDERS: Mapping[str, ModelBuilder] = {
    "mlp": MLP,
    "cnn": SmallCNN,
    "resnet20": partial(CifarResNet, 20),
    "resnet32": partial(CifarResNet, 32),
    "resnet18": resnet18,
}

ELASTIC_DESIGNS: Mapping[str, ElasticDesign] = {
    "elastic-cnn": CNN,
    "elastic-resnet20": RESNET20,
    "elastic-resnet56": RESNET56,
    "elastic-resnet110": RESNET110,
    "elastic-msdnet24": MSDNET24,
    "elastic-efficientnet-b4": EFFICIENTNET_B4,
}


def build_model(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    settings: RunSettings = DEFAULTS,
) -> nn.Module:
    """Build a network on the CPU whose initial weights follow from the seed and a checkpoint alone.

    The global random generators are left as they were.

    Parameters
    ----------
    name
        One of ``protocol.settings.MODEL_NAMES``; an elastic network is built whole, with one exit.
    input_shape
        Channels, height and width of an image, (features,) of a table's row, or (length, vocabulary) of a
        text.
    num_classes
        Width of the output.
    seed
        From 0 to 2**64 - 1.
    settings
        Of the run: where a checkpoint lies, and what is made of it.

    Returns
    -------
    nn.Module
        In training mode; maps a batch of inputs to logits ``(batch, num_classes)``.

    Raises
    ------
    SettingsError
        When there is no network of that name, or it cannot take such inputs.
    """
    if name not in MODEL_NAMES:
        raise SettingsError(f"model = {name!r}: must be one of {', '.join(MODEL_NAMES)}")
    require_inputs(name, input_shape, settings)
    if is_elastic(name):
        return build_elastic(elastic_design(name, settings), input_shape, num_classes, seed, None)
    builder = MODEL_BUILDERS[name]
    return _seeded(lambda: builder(input_shape, num_classes), seed)


def build_elastic(
    design: ElasticDesign,
    input_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    shape: Shape | None,
    pretrained: bool = True,
) -> ExitNetwork:
    """Build a shape of an elastic network on the CPU, by default the whole without early exits.

    Pretrained weights are cut as submodels are: leading channels. Without ``pretrained`` those that learn
    are not read, for others take their place. As `build_model`; raises ``SettingsError`` when the network
    cannot take such inputs or shapes.
    """
    shape = shape or design.whole()
    try:
        model = _seeded(lambda: design.build(input_shape, num_classes, shape), seed)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    if pretrained and design.initial is not None:
        whole = axes_of(design.on_meta(input_shape, num_classes, design.preset[-1]))
        initial = design.initial()
        part = {name: axes for name, axes in axes_of(model).items() if name in initial}
        model.load_state_dict(SliceMap(whole, part).extract(initial), strict=False)
    return model


@lru_cache(maxsize=8)
def elastic_design(name: str, settings: RunSettings = DEFAULTS) -> ElasticDesign:
    """Return the elastic network of a name; one with a checkpoint is as the checkpoint says.

    Raises
    ------
    SettingsError
        When there is none, or its checkpoint cannot be used.
    """
    match name:
        case "elastic-bert":
            from models.elastic.bert import bert_design

            return bert_design(settings.pretrained)
        case "elastic-bert-tiny":
            from models.elastic.bert import BERT_TINY

            return BERT_TINY
        case "elastic-vlm":
            from models.vlm import vlm_design

            return vlm_design(settings)
    if name not in ELASTIC_DESIGNS:
        raise SettingsError(
            f"model = {name!r}: has no submodels; those that have are "
            f"{', '.join(filter(is_elastic, MODEL_NAMES))}"
        )
    return ELASTIC_DESIGNS[name]


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers the network learns; buffers, as running means, and frozen ones do not count."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


_KINDS = {1: "a table's rows", 2: "texts", 3: "images"}
"""By the number of dimensions of an input's shape, see ``data.Inputs``."""
_DIMENSIONS = {"numbers": 1, "texts": 2, "images": 3}
_ALLOWED = {1: '"mlp"', 2: '"elastic-bert" or "elastic-bert-tiny"', 3: "a network that reads images"}


def require_inputs(model: str, input_shape: tuple[int, ...], settings: RunSettings = DEFAULTS) -> None:
    """Refuse inputs of another kind than a network reads; an MLP takes images too.

    Raises
    ------
    SettingsError
        Naming the network and what the data are.
    """
    reads = "images"
    if model == "mlp":
        reads = "numbers"
    elif is_elastic(model):
        reads = elastic_design(model, settings).reads
    dimensions = len(input_shape)
    if dimensions == _DIMENSIONS[reads] or (reads == "numbers" and dimensions == 3):
        return
    unseen = reads == "images" and dimensions == 1
    hint = "; a column that names files of images is named in data.image" if unseen else ""
    raise SettingsError(
        f"model = {model!r}: reads {reads}, but the data are {_KINDS[dimensions]}; allowed is "
        f"{_ALLOWED[dimensions]}{hint}"
    )


_M = TypeVar("_M", bound=nn.Module)


def _seeded(build: Callable[[], _M], seed: int) -> _M:
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the CUDA generators too, and nothing would restore these.
        torch.default_generator.manual_seed(seed)
        return build()
