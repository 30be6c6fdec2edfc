"""Texts, which are taken as they are."""

import hashlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from data.inputs import TextInputs


@dataclass(frozen=True)
class TextForm:
    """Nothing is done to texts before a network's own tokeniser."""

    shape: tuple[int, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return the form as JSON holds it."""
        return {"shape": []}


@dataclass(frozen=True, eq=False)
class Texts:
    """All texts of a source."""

    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def digest(self, rows: Tensor) -> str:
        """Fingerprint some texts and their order: 32 hexadecimal digits."""
        fingerprint = hashlib.blake2b(digest_size=16)
        for row in rows.tolist():
            text = self.texts[row].encode()
            fingerprint.update(len(text).to_bytes(8, "little") + text)
        return fingerprint.hexdigest()

    def inputs(self, rows: Tensor) -> TextInputs:
        """Return some texts."""
        return TextInputs(tuple(self.texts[row] for row in rows.tolist()))
