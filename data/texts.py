"""Texts, and how they become token ids."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from data.inputs import TokenInputs
from data.tokenisers import PADDING, load_checkpoint_tokeniser, read, train_wordpiece, vocabulary_of
from protocol.settings import TextSettings

_TEXTS_AT_ONCE = 4096
"""So many texts are tokenised at once: the library's objects take far more memory than the ids."""


@dataclass(frozen=True)
class TextForm:
    """How texts become tokens.

    Parameters
    ----------
    tokeniser
        As JSON, see ``data.tokenisers``.
    length
        Largest number of tokens of a text, its start and end tokens included.
    """

    tokeniser: str
    length: int

    @property
    def shape(self) -> tuple[int, int]:
        """Largest number of tokens of a text, and the size of the vocabulary."""
        return self.length, self.vocabulary

    @property
    def vocabulary(self) -> int:
        """Number of token ids, from 0."""
        return self._pieces[-1][0] + 1

    @cached_property
    def digest(self) -> str:
        """Fingerprint of the vocabulary and its order: 32 hexadecimal digits.

        It does not cover the JSON, which another version of the library may write differently.
        """
        return hashlib.blake2b(repr(self._pieces).encode(), digest_size=16).hexdigest()

    def tokens(self, texts: Sequence[str]) -> TokenInputs:
        """Tokenise texts and truncate them to the length; an empty text is its start and end tokens."""
        tokeniser = read(self.tokeniser, self.length)
        ids: list[list[int]] = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            ids += [
                text.ids for text in tokeniser.encode_batch_fast(list(texts[start : start + _TEXTS_AT_ONCE]))
            ]
        lengths = [len(row) for row in ids]
        table = np.full((len(ids), max(lengths, default=0)), PADDING, dtype=np.int32)
        for row, own in zip(table, ids, strict=True):
            row[: len(own)] = own
        return TokenInputs(torch.from_numpy(table), torch.tensor(lengths, dtype=torch.int64), self.shape)

    def facts(self) -> dict[str, Any]:
        """Return the form as JSON values, the tokeniser included."""
        return {"shape": list(self.shape), "vocabulary": self.digest, "tokeniser": self.tokeniser}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Return the form that has these `facts`, which a run's or an export's ``input`` holds."""
        return cls(facts["tokeniser"], facts["shape"][0])

    @cached_property
    def _pieces(self) -> list[tuple[int, str]]:
        return vocabulary_of(read(self.tokeniser, self.length))


@dataclass(frozen=True, eq=False)
class Texts:
    """All texts of a source."""

    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def digest(self, rows: Tensor) -> str:
        """Fingerprint some texts and their order: 32 hexadecimal digits."""
        fingerprint = hashlib.blake2b(digest_size=16)
        for text in self._at(rows):
            encoded = text.encode()
            fingerprint.update(len(encoded).to_bytes(8, "little") + encoded)
        return fingerprint.hexdigest()

    def token_digest(self, rows: Tensor, form: TextForm) -> str:
        """Fingerprint some texts, the vocabulary, and the texts' tokens.

        So parties with the same texts but different tokenisers notice that their inputs differ.
        """
        fingerprint = hashlib.blake2b(f"{self.digest(rows)} {form.digest}".encode(), digest_size=16)
        tokens = form.tokens(self._at(rows)).tokens.numpy()
        fingerprint.update(repr(tokens.shape).encode() + tokens.astype("<i4").tobytes())
        return fingerprint.hexdigest()

    def fit(self, rows: Tensor, settings: TextSettings, checkpoint: str) -> TextForm:
        """Take the tokeniser of a checkpoint, or train one on some texts if there is no checkpoint.

        Parameters
        ----------
        rows
            Int64 tensor of shape (N,): the texts to train on.
        settings
            Length of texts, and size of a trained vocabulary.
        checkpoint
            What names it, see ``load_checkpoint_tokeniser``; empty: none.

        Raises
        ------
        SettingsError
            If the checkpoint has no tokeniser that can be used.
        """
        if checkpoint:
            return TextForm(load_checkpoint_tokeniser(checkpoint), settings.length)
        return TextForm(train_wordpiece(self._at(rows), settings.vocabulary), settings.length)

    def inputs(self, rows: Tensor, form: TextForm) -> TokenInputs:
        """Return some texts as a network's inputs."""
        return form.tokens(self._at(rows))

    def _at(self, rows: Tensor) -> list[str]:
        return [self.texts[row] for row in rows.tolist()]
