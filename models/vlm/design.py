"""Builds vision-language models of any shape from the settings."""

from dataclasses import dataclass

import torch

from models.elastic.channels import scaled
from models.elastic.network import ElasticDesign, Shape, nested
from models.vlm.base import Source, base_of, checkpoint_of, decoder_of
from models.vlm.lora import add_adapters
from models.vlm.network import VisionLanguageNetwork
from models.vlm.question import answers_of, ask
from protocol.errors import SettingsError
from protocol.settings import RunSettings
from protocol.values import split_names

RANKS = (0.125, 0.25, 0.5, 1.0)
"""Each level's share of ``lora.rank``: 8, 16, 32 and 64 of 64, as in ScaleFL-med."""


@dataclass(frozen=True)
class VisionLanguageBuilder:
    """Builds shapes of one vision-language model; a shape's width is its share of ``lora.rank``."""

    source: Source
    prompt: str
    answers: str
    targets: tuple[str, ...]
    rank: int
    scale: float
    stacked: bool

    def __call__(self, input_shape: tuple[int, ...], num_classes: int, shape: Shape) -> VisionLanguageNetwork:
        """Build a shape for images of (channels, height, width); grey ones repeat their channel.

        Raises
        ------
        SettingsError
            If the images do not have 1 or 3 channels, or the base cannot be used with this prompt or these
            adapters.
        """
        channels, height, width = input_shape
        if channels not in (1, 3):
            raise SettingsError(
                f"images of {channels} channels: a vision-language model reads grey or colour; set "
                "data.channels = 1 or 3"
            )
        checkpoint = checkpoint_of(self.source.place)
        answers = answers_of(self.answers, num_classes)
        question = ask(checkpoint, self.prompt, answers, (channels, height, width))
        base = base_of(self.source, shape.depth)
        decoder = decoder_of(base, checkpoint.family)
        add_adapters(decoder, self.targets, scaled(self.rank, shape.width), self.scale, self.stacked)
        return VisionLanguageNetwork(base, checkpoint, question, (channels, height, width), shape)


def vlm_design(settings: RunSettings) -> ElasticDesign:
    """Return the vision-language model that the settings name, as an elastic network.

    Its levels have exits after a quarter, half, three quarters and all of the decoder's layers.

    Raises
    ------
    SettingsError
        If the checkpoint cannot be used, or images would be standardised, which the processor does itself.
    """
    data, lora, vlm = settings.data, settings.lora, settings.vlm
    if data.normalisation != "none" and data.source != "digits":  # digits are from 0 to 1 anyway
        raise SettingsError(
            f'data.normalisation = "{data.normalisation}": a vision-language model normalises images '
            'itself; allowed is "none"'
        )
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    source = Source(settings.pretrained, dtype, vlm.quantisation)
    if vlm.quantisation == "4bit" and not settings.pretrained:
        raise SettingsError('vlm.quantisation = "4bit": needs a checkpoint, `pretrained` is empty')
    builder = VisionLanguageBuilder(
        source,
        vlm.prompt,
        vlm.answers,
        tuple(split_names(lora.targets)),
        lora.rank,
        lora.scale,
        lora.merge == "stack",
    )
    depth = checkpoint_of(settings.pretrained).depth
    if depth < len(RANKS):
        raise SettingsError(f'pretrained = "{settings.pretrained}": {depth} layers are too few for 4 exits')
    exits = [depth * quarter // len(RANKS) for quarter in range(1, len(RANKS) + 1)]
    return ElasticDesign(builder, depth, nested(RANKS, exits))
