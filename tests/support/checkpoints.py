"""Tiny random checkpoints of transformers' classifiers, and a user's own networks, for tests."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import tests.support
from data.tokenisers import read, train_wordpiece
from protocol import references

REVIEWS = {"0": ("awful", "boring", "dull"), "1": ("lovely", "bright", "great")}


def write_vit(folder: Path, classes: int = 10, head: bool = True, **changes: Any) -> Path:
    """Write a ViT of 8x8 grey images, by default with a head for ten classes."""
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    torch.manual_seed(5)
    size: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
    }
    configuration = ViTConfig(**{**size, **changes}, num_labels=classes)
    (ViTForImageClassification if head else ViTModel)(configuration).save_pretrained(folder)
    return folder


def write_distilbert(folder: Path, texts: tuple[str, ...], positions: int = 32, vocabulary: int = 90) -> Path:
    """Write a DistilBERT for two classes, with a tokeniser trained on some texts."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast

    tokeniser = read(train_wordpiece(texts, vocabulary), 64)
    PreTrainedTokenizerFast(tokenizer_object=tokeniser, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    torch.manual_seed(5)
    configuration = DistilBertConfig(
        vocab_size=tokeniser.get_vocab_size(),
        max_position_embeddings=positions,
        dim=16,
        n_layers=2,
        n_heads=2,
        hidden_dim=32,
        num_labels=2,
    )
    DistilBertForSequenceClassification(configuration).save_pretrained(folder)
    return folder


def write_reviews(path: Path) -> Path:
    """Write 120 short reviews, good and bad ones."""
    rows = [
        f"a {REVIEWS[label][number % 3]} film number {number},{label}"
        for number in range(60)
        for label in "01"
    ]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return path


@contextmanager
def another_package() -> Iterator[None]:
    """Open the package of another project, as its apps would: ``tests_custom``."""
    folder = str(Path(tests.support.__file__).parent)
    sys.path.insert(0, folder)
    before = dict(references._open_packages)
    references.open_package("tests_custom")
    try:
        yield
    finally:
        references._open_packages.clear()
        references._open_packages.update(before)
        sys.path.remove(folder)
