"""Writes the README's table of settings from the settings themselves.

python -m docs.settings_table
"""

import json
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from learning import losses, metrics, optimizers
from models.registry import MODELS
from protocol.encodings import ENCODINGS
from protocol.settings import RunSettings
from strategies.composition import METHODS

NAMES: Mapping[str, Iterable[str]] = {
    "strategy": METHODS,
    "model": MODELS,
    "data.metric": (metrics.NO_METRIC, *metrics.METRICS),
    "train.loss": losses.LOSSES,
    "train.optimizer": optimizers.OPTIMIZERS,
    "distillation.optimizer": optimizers.OPTIMIZERS,
    "distillation.labels": ENCODINGS,
}
"""Our things that a setting can name; each may be a reference too."""

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- settings: written by `make docs` -->\n", "<!-- end of settings -->"


def table() -> str:
    """Return the table in Markdown: every key, its default, what it means and what it allows."""
    rows = [f"| `{key}` | `{default}` | {meaning} |" for key, default, meaning in entries(RunSettings())]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) + "\n"


def entries(settings: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield key, default and meaning of each setting, tables last."""
    tables = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        key = prefix + (field.alias or name)
        if isinstance(value, BaseModel):
            tables.append((value, f"{key}."))
        else:
            yield (
                key,
                json.dumps(value),
                _meaning(field.description or "", field.annotation, NAMES.get(key, ())),
            )
    for value, nested in tables:
        yield from entries(value, nested)


def in_readme(text: str) -> str:
    """Return a README's text with the table put between its marks."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}{table()}{END}{after}"


def _meaning(description: str, kind: Any, names: Iterable[str]) -> str:  # noqa: ANN401
    allowed = [choice for part in _parts(kind) if get_origin(part) is Literal for choice in get_args(part)]
    allowed += names
    return f"{description} ({', '.join(f'`{choice}`' for choice in allowed)})" if allowed else description


def _parts(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


if __name__ == "__main__":
    README.write_text(in_readme(README.read_text()))
