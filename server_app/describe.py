"""Asks a vision-language model, a level's submodel of a run, about images, and prints its answers.

python -m server_app.describe ~/motley/runs/20261121-… --level 2 --prompt "Describe this knee." knee.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from data.images import read_image
from models.registry import MODELS, network_of
from protocol.device import choose_device
from protocol.errors import MotleyError, SettingsError
from server_app.export import settings_of, submodel_of


def describe(run: Path, level: int, images: Sequence[Path], prompt: str = "", most: int = 64) -> list[str]:
    """Return the answers of a level's submodel to a question about each of some images.

    Parameters
    ----------
    run
        The run's folder; its newest checkpoint is taken.
    level
        From 1.
    images
        Files, each brought to the size and the channels of the run's images.
    prompt
        The question; empty: the run's ``vlm.prompt``.
    most
        The largest number of tokens of an answer; from 1.

    Returns
    -------
    list[str]
        An answer for each image.

    Raises
    ------
    ResumeError
        If the folder holds no run, or one without a checkpoint.
    SettingsError
        If the run's network cannot generate text, or has no such level, or ``most`` is below 1.
    FormatError
        If the run is of a newer version.
    DataError
        If a file is not an image that can be read.
    """
    if most < 1:
        raise SettingsError(f"--most = {most}: must be at least 1")
    settings = settings_of(run)
    if not network_of(settings.model).generates_text:
        able = ", ".join(f'"{name}"' for name in MODELS if network_of(name).generates_text)
        raise SettingsError(f'model = "{settings.model}": cannot generate text; allowed is {able}')
    from models.vlm import VisionLanguageNetwork

    network, facts = submodel_of(run, settings, level)
    assert isinstance(network, VisionLanguageNetwork)
    channels, height, width = facts["input_shape"]
    device = choose_device("auto")
    network.to(device)
    pixels = torch.stack([read_image(path, (channels, height, width)) for path in images])
    answers: list[str] = []
    for batch in torch.split(pixels, network.answers_at_once):
        answers += network.describe(batch.to(device) / 255, prompt or settings.vlm.prompt, most)
    return answers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("images", type=Path, nargs="+", help="image files")
    parser.add_argument("--level", type=int, required=True, help="level of the submodel, from 1")
    parser.add_argument("--prompt", default="", help="the question; default: the run's vlm.prompt")
    parser.add_argument("--most", type=int, default=64, help="largest number of tokens of an answer")
    options = parser.parse_args(arguments)
    images = [path.expanduser() for path in options.images]
    try:
        answers = describe(options.run.expanduser(), options.level, images, options.prompt, options.most)
    except (MotleyError, OSError) as error:
        Console(stderr=True, markup=False).print(f"error: {error}", highlight=False, soft_wrap=True)
        return 1
    for path, text in zip(options.images, answers, strict=True):
        Console(markup=False).print(f"{path}: {text}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
