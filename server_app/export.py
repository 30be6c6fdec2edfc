"""Exports the submodel of a level from a run's folder.

python -m server_app.export ~/motley/runs/20261121-… --level 1 --output level1.safetensors
python -m server_app.export ~/motley/runs/20261121-… --level 1 --output level1.onnx --format onnx
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from data import load_shared
from models import (
    build_elastic,
    elastic_design,
    learned_state,
    load_learned_state,
    load_weights,
    save_weights,
)
from models.elastic import ElasticNetwork, ExitNetwork, Shape, has_norms, track_statistics
from protocol.errors import MotleyError, ResumeError, SettingsError
from protocol.files import write_atomically
from protocol.formats import FileKind, stamped_metadata
from protocol.settings import RunSettings
from server_app.checkpoint import CheckpointStore
from server_app.run import calibration_inputs
from server_app.run_folder import RunFolder
from strategies import method_of
from strategies.submodels.methods import SubmodelMethod
from strategies.submodels.submodels import Submodels


def export(run: Path, level: int, output: Path, form: str = "safetensors") -> None:
    """Write the submodel of a level, with its normalisation statistics, as one file.

    Parameters
    ----------
    run
        The run's folder; its newest checkpoint is taken.
    level
        From 1.
    output
        The file; replaced whole if it is there.
    form
        ``safetensors``: weights, normalisation statistics and settings, for `load_submodel`. ``onnx``: maps
        images ``(batch, channels, height, width)`` to the ``logits`` of the last exit, for any batch size.

    Raises
    ------
    ResumeError
        If the folder holds no run, or one without a checkpoint.
    SettingsError
        If the run has no submodels, no such level, or no samples to compute normalisation statistics on; or
        if its network cannot be exported to ONNX.
    FormatError
        If the run is of a newer version.
    """
    settings = settings_of(run)
    model, facts = submodel_of(run, settings, level)
    if form == "onnx":
        _write_onnx(model, facts, output)
    else:
        metadata = {name: json.dumps(value) for name, value in facts.items()}
        save_weights(output, learned_state(model), metadata, FileKind.EXPORT)


def load_submodel(path: Path) -> ExitNetwork:
    """Read a submodel that `export` wrote as safetensors.

    Returns
    -------
    ExitNetwork
        In eval mode, on the CPU.

    Raises
    ------
    ResumeError
        If the file is missing, damaged or of another kind.
    FormatError
        If it is of a newer version.
    """
    weights, text = load_weights(path, FileKind.EXPORT)
    try:
        facts = {name: json.loads(value) for name, value in text.items()}
        shape = Shape(facts["width"], tuple(facts["exits"]))
        design = elastic_design(facts["model"], RunSettings.parse(facts["settings"]))
        model = build_elastic(design, tuple(facts["input_shape"]), facts["num_classes"], 0, shape)
        track_statistics(model)
        load_learned_state(model, weights)
    except (KeyError, ValueError, RuntimeError, SettingsError) as error:
        raise ResumeError(f"{path}: not an exported submodel ({error})") from error
    return model.eval()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--level", type=int, required=True, help="level of the submodel, from 1")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    parser.add_argument("--format", choices=("safetensors", "onnx"), default="safetensors")
    options = parser.parse_args(arguments)
    try:
        export(options.run.expanduser(), options.level, options.output.expanduser(), options.format)
    except (MotleyError, OSError) as error:
        Console(stderr=True, markup=False).print(f"error: {error}", highlight=False, soft_wrap=True)
        return 1
    Console(markup=False).print(f"Wrote {options.output}", highlight=False, soft_wrap=True)
    return 0


def settings_of(run: Path) -> RunSettings:
    """Return the settings of a run.

    Raises
    ------
    ResumeError
        If the folder holds no run.
    FormatError
        If it is of a newer version.
    """
    try:
        return RunSettings.parse(RunFolder(run).kept_settings())
    except ResumeError as error:
        raise ResumeError(f"{run}: not the folder of a run ({error})") from error


def submodel_of(run: Path, settings: RunSettings, level: int) -> tuple[ExitNetwork, dict[str, Any]]:
    """Return the submodel of a level as of the newest checkpoint, and the facts an export holds about it.

    Parameters
    ----------
    run
        The run's folder.
    settings
        Of the run.
    level
        From 1.

    Returns
    -------
    model
        In eval mode, with normalisation statistics.
    facts
        Values as JSON holds them, by name: network, shape, data, round, settings.

    Raises
    ------
    ResumeError, SettingsError, FormatError
        As `export` does.
    """
    method = method_of(settings)
    if not isinstance(method, SubmodelMethod):
        raise SettingsError(f'strategy = "{settings.strategy}": its clients train no submodels')
    checkpoint = CheckpointStore(RunFolder(run).checkpoints).newest()
    if checkpoint is None:
        raise ResumeError(f"{run}: holds no checkpoint yet")
    shared = load_shared(settings)
    num_classes = len(shared.classes)
    submodels = Submodels(method.variant, settings, shared.input_shape, num_classes)
    if not submodels.plan.trains(level):
        raise SettingsError(f"level = {level}: this run has no submodel for it")
    inputs = calibration_inputs(settings)
    if inputs is None and has_norms(submodels.build(submodels.shape(level), pretrained=False)):
        raise SettingsError(
            'scalefl.calibration = "none": there are no samples to compute normalisation statistics on'
        )
    model = submodels.calibrated(level, checkpoint.round, checkpoint.weights, inputs).eval()
    shape = submodels.shape(level)
    facts = {
        "model": settings.model,
        "level": level,
        "width": shape.width,
        "exits": list(shape.exits),
        "input_shape": list(shared.input_shape),
        "num_classes": num_classes,
        "data": shared.facts(),
        "experiment": RunFolder(run).experiment,
        "round": checkpoint.round,
        "settings": settings.flat(),
    }
    return model, facts


def _write_onnx(model: nn.Module, facts: Mapping[str, Any], output: Path) -> None:
    """Export to memory, then write the file atomically, which torch's exporter does not."""
    if not isinstance(model, ElasticNetwork):
        raise SettingsError(
            f'--format onnx: model = "{facts["model"]}" cannot be exported to ONNX; allowed is safetensors'
        )
    images: Tensor = torch.zeros(2, *facts["input_shape"])
    batch = {0: torch.export.Dim("batch")}
    try:
        program = torch.onnx.export(
            model,
            (images,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=(batch,),
            verbose=False,
        )
    except ImportError as error:
        raise SettingsError(f"--format onnx: {error}; `uv pip install onnx onnxscript`") from error
    assert program is not None
    metadata = {name: str(facts[name]) for name in ("model", "level", "experiment", "round")}
    program.model.metadata_props.update(stamped_metadata(FileKind.EXPORT, metadata))
    write_atomically(output, program.model_proto.SerializeToString())


if __name__ == "__main__":
    sys.exit(main())
