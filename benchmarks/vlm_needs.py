"""What the levels of real vision-language checkpoints need, computed from their configurations.

Nothing is downloaded and no memory taken: networks are built on the meta device. Weights in bfloat16, or the
decoder's matrices in 4 bits; of what learns four float32 numbers each (value, gradient, AdamW's two moments).
Activations are not counted. Where there is a GPU, a step of a decoder of LLaMA-7B's shape with random weights
is measured at each level as well.

    python -m benchmarks.vlm_needs
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from models import count_parameters
from models.elastic.channels import scaled
from models.vlm.base import decoder_of, projector_of
from models.vlm.design import RANKS
from models.vlm.families import family_of
from models.vlm.lora import add_adapters
from models.vlm.presets import PRESETS
from protocol.settings import LoraSettings
from protocol.values import split_names

GIGABYTE, MEGABYTE = 1e9, 1e6
TOKENS = 640
"""Of a prompt with an image of LLaVA: 576 patches and some words."""
STEPS = 5


def level_of(config: Any, rank: float, depth: int) -> nn.Module:  # noqa: ANN401
    """Build a level without memory: the first layers, adapters, and what else learns."""
    from transformers import AutoModelForImageTextToText

    config.get_text_config().num_hidden_layers = depth
    if layer_types := getattr(config.get_text_config(), "layer_types", None):
        config.get_text_config().layer_types = layer_types[:depth]
    model = AutoModelForImageTextToText.from_config(config).requires_grad_(False)
    family = family_of(config.model_type, config.model_type)
    lora = LoraSettings()
    add_adapters(
        decoder_of(model, family), split_names(lora.targets), scaled(lora.rank, rank), lora.scale, False
    )
    projector_of(model, family).requires_grad_(True)
    return model


def rows() -> Iterator[str]:
    """Yield the table's lines in Markdown."""
    yield (
        "| checkpoint | level | layers | rank | parameters held | learned | MB each way | whole adapter | "
        "whole model, bf16 | memory, bf16 | 4 bit |"
    )
    yield "|---" * 11 + "|"
    for place, configuration in PRESETS.items():
        total = configuration().get_text_config().num_hidden_layers
        with torch.device("meta"):
            levels = [
                (depth, rank, level_of(configuration(), rank, depth))
                for number, rank in enumerate(RANKS, start=1)
                for depth in [total * number // len(RANKS)]
            ]
        width = levels[0][2].config.get_text_config().hidden_size
        learned = [count_parameters(model) + width * level for level, (_, _, model) in enumerate(levels, 1)]
        held = [sum(p.numel() for p in model.parameters()) for _, _, model in levels]
        for level, (depth, rank, model) in enumerate(levels, start=1):
            own, all_of_it = learned[level - 1], held[level - 1]
            packed = _packed(model)
            frozen = all_of_it - own
            yield (
                f"| {place} | {level} | {depth} | {scaled(LoraSettings().rank, rank)} "
                f"| {all_of_it / GIGABYTE:.2f} G | {own / MEGABYTE:.2f} M "
                f"| {4 * own / MEGABYTE:.1f} | {4 * learned[-1] / MEGABYTE:.1f} "
                f"| {2 * held[-1] / MEGABYTE:,.0f} "
                f"| {(2 * frozen + 16 * own) / GIGABYTE:.2f} GB "
                f"| {(2 * (frozen - packed) + 0.5 * packed + 16 * own) / GIGABYTE:.2f} GB |"
            )


def _packed(model: Any) -> int:  # noqa: ANN401
    """Return how many numbers of the decoder's matrices 4 bits can hold."""
    layers = decoder_of(model, family_of(model.config.model_type, "")).layers
    return sum(p.numel() for p in layers.parameters() if p.dim() == 2 and not p.requires_grad)


def measured() -> Iterator[str]:
    """Yield what a step of each level takes on this GPU: batch 1, bfloat16."""
    yield "| level | layers | peak memory | seconds a step |"
    yield "|---|---|---|---|"
    for level, rank in enumerate(RANKS, start=1):
        depth = 32 * level // len(RANKS)
        with torch.device("meta"):
            model: Any = level_of(PRESETS["llava-hf/llava-1.5-7b-hf"](), rank, depth)
        decoder = decoder_of(model, family_of("llava", ""))
        decoder.to_empty(device="cuda")
        for parameter in decoder.parameters():
            nn.init.normal_(parameter, std=0.02)
        for parameter in decoder.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data.bfloat16()
        decoder.rotary_emb = type(decoder.rotary_emb)(decoder.config).to("cuda")
        learned = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=1e-4)
        torch.cuda.reset_peak_memory_stats()
        inputs = torch.randn(1, TOKENS, decoder.config.hidden_size, device="cuda", dtype=torch.bfloat16)
        for step in range(STEPS + 1):
            if step == 1:
                torch.cuda.synchronize()
                began = time.perf_counter()
            with torch.autocast("cuda", torch.bfloat16):
                loss = (
                    decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state.float().square().mean()
                )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - began) / STEPS
        peak = torch.cuda.max_memory_allocated() / GIGABYTE
        yield f"| {level} | {depth} | {peak:.1f} GB | {seconds:.2f} |"
        del model, decoder, optimizer, learned


def main() -> None:
    """Print the tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    print("\n".join(rows()))
    if torch.cuda.is_available():
        print("\n".join(measured()))


if __name__ == "__main__":
    main()
