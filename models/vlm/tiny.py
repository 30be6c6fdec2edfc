"""A tiny LLaVA made on the spot: a ViT, a projector and a LLaMA decoder, with a processor of its own.

Its weights are random, but the same everywhere: it stands for a real checkpoint in tests and on a laptop.

    python -m models.vlm.tiny ~/tiny-llava

writes it as a checkpoint's folder, for ``pretrained``.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from protocol.randomness import derive_seed, torch_generator

IMAGE_SIZE = 64
PATCH_SIZE = 16
_SEED = 1
_TEXT = (
    "What is the Kellgren-Lawrence grade of this knee? KL Describe image. X-ray joint space bone osteophytes "
    "narrowing none doubtful mild moderate severe normal USER: ASSISTANT: 0 1 2 3 4 5 6 7 8 9"
)
_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tiny_config() -> Any:  # noqa: ANN401
    """Return the configuration: images of 64 pixels in 16 patches, 4 decoder layers of width 64."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    tokens = _vocabulary()
    vision = CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=256,
    )
    text = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        pad_token_id=tokens["<pad>"],
        bos_token_id=tokens["<s>"],
        eos_token_id=tokens["</s>"],
        tie_word_embeddings=False,
    )
    return LlavaConfig(  # type: ignore[call-arg]
        vision_config=vision,
        text_config=text,
        image_token_id=tokens["<image>"],
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )


def tiny_model(config: Any) -> nn.Module:  # noqa: ANN401
    """Build the model; every number follows from the parameter's name alone, whatever the library's version.

    Matrices are normal with variance one over their inputs, so that signals keep their size; norms are 1 and
    biases 0, as in any new network.
    """
    from transformers import LlavaForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        model: nn.Module = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_initial(name, parameter))
    return model


def _initial(name: str, like: Tensor) -> Tensor:
    if like.dim() < 2:
        return torch.zeros_like(like) if name.endswith(("bias", "class_embedding")) else torch.ones_like(like)
    # Of an embedding too, so that layers outweigh the token they begin with.
    scale = like[0].numel() ** -0.5
    if "position_embedding" in name:
        scale = 1.0  # as large as what is seen, or the decoder could not tell where it is
    values = torch.empty_like(like).normal_(generator=torch_generator(derive_seed(_SEED, name), "tiny"))
    if "patch_embedding" in name:
        values -= values.mean(dim=(2, 3), keepdim=True)  # filters that see edges and not how bright it is
    initial: Tensor = scale * values
    return initial


def tiny_processor(config: Any) -> Any:  # noqa: ANN401
    """Return what turns images and texts into the model's inputs."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    side = config.vision_config.image_size
    images = CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, do_convert_rgb=False
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=images,
        tokenizer=tiny_tokenizer(),
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    )


def tiny_tokenizer() -> Any:  # noqa: ANN401
    """Return a byte-level BPE tokeniser: it writes any text, each of the words above with one token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(vocab=_vocabulary(), merges=_merges()))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokens = _vocabulary()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokens["<s>"])]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token in [*_SPECIAL.values(), "<image>"]]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, extra_special_tokens={"image_token": "<image>"}, **_SPECIAL
    )


def _vocabulary() -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*_SPECIAL.values(), "<image>", *sorted(ByteLevel.alphabet())]
    tokens += ["".join(pair) for pair in _merges()]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def _merges() -> list[tuple[str, str]]:
    """Return the merges that build each word from its front, with and without the space before it (Ġ)."""
    merges = []
    words = _TEXT.split()
    for word in [*(f"Ġ{word}" for word in words), *words]:
        merges += [(word[:end], word[end]) for end in range(1, len(word))]
    return list(dict.fromkeys(merges))


def write(folder: Path) -> None:
    """Write the model and its processor as a checkpoint's folder."""
    config = tiny_config()
    tiny_model(config).save_pretrained(folder)  # type: ignore[operator]
    tiny_processor(config).save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]).expanduser())
