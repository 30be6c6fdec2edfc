"""Converts weights that were pickled, as torch saves them, to safetensors, which Motley reads.

python -m models.convert resnet18.pth resnet18.safetensors

Only tensors and plain containers are unpickled (``torch.load`` with ``weights_only``); do it on your own
machine.
"""

import argparse
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from models.weights import save_weights
from protocol.errors import DataError, MotleyError

_WITHIN = ("state_dict", "model")
"""Under what training scripts keep the weights beside other things."""
_PARALLEL = "module."
"""What torch's parallel training writes before each name."""
_FACTS = {"format": "pt"}
"""Without it transformers reads no file of safetensors."""


def convert(source: Path, target: Path) -> int:
    """Write a pickle's weights as a file of safetensors.

    Parameters
    ----------
    source
        What ``torch.save`` wrote: a state dict, or a dictionary that holds one under ``state_dict`` or
        ``model``.
    target
        The file; replaced whole if it is there.

    Returns
    -------
    int
        How many tensors there are.

    Raises
    ------
    DataError
        If the pickle holds anything but weights.
    OSError
        If a file cannot be read or written.
    """
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        # Not torch's own words: they advise to unpickle everything.
        raise DataError(f"{source}: holds more than weights, or is damaged") from error
    state = _weights_in(source, content)
    save_weights(target, state, _FACTS)
    return len(state)


def _weights_in(source: Path, content: object) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for within in _WITHIN:
            if isinstance(content.get(within), Mapping):
                return _weights_in(source, content[within])
        others = [name for name, value in content.items() if not isinstance(value, Tensor)]
        if content and not others:
            return {str(name).removeprefix(_PARALLEL): tensor for name, tensor in content.items()}
        if content:
            raise DataError(f"{source}: {others[0]!r} is no tensor; a state dict has nothing else")
    raise DataError(f"{source}: holds no state dict but {type(content).__name__}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the pickled weights, as resnet18.pth")
    parser.add_argument("target", type=Path, help="the file to write, as resnet18.safetensors")
    options = parser.parse_args(arguments)
    try:
        count = convert(options.source.expanduser(), options.target.expanduser())
    except (MotleyError, OSError) as error:
        Console(stderr=True, markup=False).print(f"error: {error}", highlight=False, soft_wrap=True)
        return 1
    said = f"Wrote {count} tensors to {options.target}"
    Console(markup=False).print(said, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
