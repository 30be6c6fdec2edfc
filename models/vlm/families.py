"""Where the parts of a vision-language model are, by the family of its checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from protocol.errors import SettingsError

Pixels = Mapping[str, Tensor]
"""The output of a family's image processor for a batch: arguments of the model."""


def _encode(inner: nn.Module, pixels: Pixels) -> None:
    inner.get_image_features(**pixels)  # type: ignore[operator]


def _encode_tiles(inner: Any, pixels: Pixels) -> None:  # noqa: ANN401
    """Send tiles past the padding that Idefics3 looks for, which a tensor without values cannot show."""
    tiles = pixels["pixel_values"].flatten(0, 1)
    patches = inner.vision_model.embeddings.patch_embedding(tiles).flatten(2).transpose(1, 2)
    hidden = inner.vision_model.encoder(inputs_embeds=patches).last_hidden_state
    inner.connector(inner.vision_model.post_layernorm(hidden))


def _encode_patches(inner: Any, pixels: Pixels) -> None:  # noqa: ANN401
    """Send one image's patches through Qwen2-VL's blocks, which lay several images out by their values."""
    visual, patches = inner.visual, pixels["pixel_values"]
    hidden = visual.patch_embed(patches)
    half = visual.config.embed_dim // visual.config.num_heads // 2
    turns = torch.empty(len(patches), 2 * half, device="meta")
    for block in visual.blocks:
        hidden = block(hidden, cu_seqlens=torch.tensor([0, len(patches)]), position_embeddings=(turns, turns))
    visual.merger(hidden)


@dataclass(frozen=True)
class Family:
    """How one family of checkpoints is built."""

    decoder: str
    """Path, in the model without its output layer, of the decoder; its ``layers`` end with ``norm``."""
    projector: str
    """Path of the projector, which maps image features to the decoder's embeddings."""
    tower: str
    """Path of the vision encoder; for Qwen2-VL it contains the projector."""
    answer_type: int = 0
    """Token type of the answer: PaliGemma attends to prompts bidirectionally, to answers causally."""
    ending: str = ""
    """What its processor appends to a prompt."""
    encode: Callable[[Any, Pixels], None] = _encode
    """Runs images on the meta device through the vision encoder and the projector, to count their cost."""


FAMILIES: Mapping[str, Family] = {
    "llava": Family("language_model", "multi_modal_projector", "vision_tower"),
    "smolvlm": Family("text_model", "connector", "vision_model", encode=_encode_tiles),
    "idefics3": Family("text_model", "connector", "vision_model", encode=_encode_tiles),
    "paligemma": Family(
        "language_model", "multi_modal_projector", "vision_tower", answer_type=1, ending="\n"
    ),
    "gemma3": Family("language_model", "multi_modal_projector", "vision_tower"),
    "qwen2_vl": Family("language_model", "visual.merger", "visual", encode=_encode_patches),
}
"""By ``model_type`` of the configuration. MedGemma is of the family gemma3."""


def family_of(model_type: str, place: str) -> Family:
    """Return a family by the name its configuration gives.

    Parameters
    ----------
    model_type
        Of the checkpoint's configuration.
    place
        Where it lies, for the message.

    Raises
    ------
    SettingsError
        If it is none of those known to work.
    """
    if model_type not in FAMILIES:
        raise SettingsError(
            f'pretrained = "{place}": is of the family {model_type!r}; those known to work are '
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def meta() -> bool:
    """Tell whether networks are being built without memory, see ``ElasticDesign.on_meta``."""
    return torch.get_default_device().type == "meta"
