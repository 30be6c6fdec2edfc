"""The sizes of real vision-language checkpoints, so that their needs are computed without fetching them."""

from collections.abc import Callable, Mapping
from typing import Any


def _llava_7b() -> Any:  # noqa: ANN401
    """Return a CLIP ViT-L/14 at 336 pixels, a projector of two layers, and Vicuna-7B."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=32000)


def _smolvlm(hidden: int, intermediate: int, layers: int, heads: int, groups: int) -> Any:  # noqa: ANN401
    """Return a SigLIP base ViT at 512 pixels, pixels shuffled four by four, and SmolLM2."""
    from transformers import LlamaConfig, SmolVLMConfig, SmolVLMVisionConfig

    vision = SmolVLMVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=512,
        patch_size=16,
    )
    text = LlamaConfig(
        vocab_size=49280,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
    )
    return SmolVLMConfig(
        vision_config=vision.to_dict(), text_config=text, scale_factor=4, image_token_id=49190
    )


def _medgemma_4b() -> Any:  # noqa: ANN401
    """Return a SigLIP So400m at 896 pixels and Gemma 3 with 4 billion parameters."""
    from transformers import Gemma3Config, Gemma3TextConfig, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=896,
        patch_size=14,
        vision_use_head=False,
    )
    text = Gemma3TextConfig(
        vocab_size=262208,
        hidden_size=2560,
        intermediate_size=10240,
        num_hidden_layers=34,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
    )
    return Gemma3Config(vision_config=vision.to_dict(), text_config=text, mm_tokens_per_image=256)


PRESETS: Mapping[str, Callable[[], Any]] = {
    "llava-hf/llava-1.5-7b-hf": _llava_7b,
    "HuggingFaceTB/SmolVLM-256M-Instruct": lambda: _smolvlm(576, 1536, 30, 9, 3),
    "HuggingFaceTB/SmolVLM-500M-Instruct": lambda: _smolvlm(960, 2560, 32, 15, 5),
    "google/medgemma-4b-it": _medgemma_4b,
}
"""By hub id, a function that returns the configuration; as transformers is needed for it, it is lazy."""
