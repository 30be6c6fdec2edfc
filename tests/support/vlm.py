"""Small random checkpoints of the families of vision-language models, with processors made offline."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from models.vlm import tiny
from protocol.settings import RunSettings

IMAGES = (1, 40, 40)
CLASSES = 5
DEPTH = 4
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def vlm_settings(**changes: Any) -> RunSettings:
    """Return settings of a vision-language model, keys with ``__`` for a dot and ``_`` for a dash."""
    named = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    return RunSettings.parse({"model": "elastic-vlm", "lora.rank": 8, **named})


def _tokenizer(*tokens: str, **named: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    backend = tiny.tiny_tokenizer().backend_tokenizer
    backend.add_special_tokens([*tokens, *named.values()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=named, **tiny._SPECIAL)


def _llava() -> tuple[Any, Any]:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    config = tiny.tiny_config()
    processor = tiny.tiny_processor(config)
    text = LlamaConfig(vocab_size=len(processor.tokenizer), **_TEXT)
    vision = CLIPVisionConfig(**_VISION | {"image_size": tiny.IMAGE_SIZE, "patch_size": tiny.PATCH_SIZE})
    token = config.image_token_id
    return LlavaConfig(vision_config=vision, text_config=text, image_token_id=token), processor


def _tiles(name: str) -> tuple[Any, Any]:
    """Return a configuration and processor of Idefics3 or SmolVLM, which differ in their names alone."""
    import transformers

    sides = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = _tokenizer(
        "<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *places
    )
    vision = getattr(transformers, f"{name}VisionConfig")(**_VISION)
    text = transformers.LlamaConfig(vocab_size=len(tokenizer), **_TEXT)
    config = getattr(transformers, f"{name}Config")(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    images = getattr(transformers, f"{name}ImageProcessor")(**sides)
    parts = [images, tokenizer]
    if name == "SmolVLM":
        parts.append(transformers.SmolVLMVideoProcessor(**sides))
    processor = getattr(transformers, f"{name}Processor")(*parts, image_seq_len=1)
    return config, processor


def _idefics3() -> tuple[Any, Any]:
    return _tiles("Idefics3")


def _smolvlm() -> tuple[Any, Any]:
    return _tiles("SmolVLM")


def _paligemma() -> tuple[Any, Any]:
    import transformers

    images = transformers.SiglipImageProcessor(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(images, _tokenizer(image_token="<image>"))
    vocabulary = len(processor.tokenizer)
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**_VISION),
        text_config=transformers.Gemma2Config(vocab_size=vocabulary, sliding_window=4, **_TEXT),
        image_token_index=processor.image_token_id,
        vocab_size=vocabulary,
        projection_dim=32,
        hidden_size=32,
    )
    return config, processor


def _gemma3() -> tuple[Any, Any]:
    import transformers

    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = _tokenizer(**named)
    images = transformers.Gemma3ImageProcessor(size={"height": 28, "width": 28})
    processor = transformers.Gemma3Processor(images, tokenizer, image_seq_length=4)
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**_VISION),
        text_config=transformers.Gemma3TextConfig(
            vocab_size=len(tokenizer),
            sliding_window=4,
            layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            **_TEXT,
        ),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    return config, processor


def _qwen2_vl() -> tuple[Any, Any]:
    import transformers

    names = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer = _tokenizer(*names)
    sides = {"min_pixels": 56 * 56, "max_pixels": 56 * 56}
    processor = transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(**sides), tokenizer, transformers.Qwen2VLVideoProcessor(**sides)
    )
    image, video, start, end = tokenizer.convert_tokens_to_ids(names)
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = transformers.Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2},
        text_config={**_TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    return config, processor


MAKERS: Mapping[str, Callable[[], tuple[Any, Any]]] = {
    "llava": _llava,
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "paligemma": _paligemma,
    "gemma3": _gemma3,
    "qwen2_vl": _qwen2_vl,
}


def write_checkpoint(family: str, folder: Path) -> Path:
    """Write a random checkpoint of a family with its processor."""
    from transformers import AutoModelForImageTextToText

    config, processor = MAKERS[family]()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        model = AutoModelForImageTextToText.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)  # as new, layers would change next to nothing
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
