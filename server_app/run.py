"""One run from its settings to its report."""

import logging
import shutil
from dataclasses import dataclass

import torch
from flwr.serverapp import Grid
from flwr.supercore.exit import add_exit_handler

from data import Inputs, Samples, load_server_test, load_shared, load_withheld
from learning.precision import usable_precision
from learning.saved import model_facts
from models import save_weights
from protocol.device import choose_device
from protocol.digests import code_digest
from protocol.errors import RunStoppedError
from protocol.settings import RunSettings
from server_app.checkpoint import CheckpointHook, CheckpointStore
from server_app.clock import Clock, WallClock
from server_app.hooks import EarlyStoppingHook, EvaluationHook, MetricsHook
from server_app.report import Summary, as_text, conclude
from server_app.roster import Roster, Terms
from server_app.rounds import RoundHook, RoundLoop
from server_app.run_folder import RunFolder
from server_app.strategy import MethodStrategy
from strategies import compose
from strategies.composition import models_named
from strategies.levels import split_architecture
from strategies.method import Method, ServerMethod
from strategies.sides import ServerSide
from strategies.state import StateStore
from strategies.trial import try_model

log = logging.getLogger("flwr")


@dataclass(frozen=True)
class Federation:
    """The parts of a run, built from its settings."""

    settings: RunSettings
    folder: RunFolder
    side: ServerSide
    test: Samples | None
    kind: Method
    method: ServerMethod
    roster: Roster
    strategy: MethodStrategy
    checkpoints: CheckpointStore


def build(settings: RunSettings, simulation: bool, clock: Clock) -> Federation:
    """Check the settings, read the data, build the method, open the run folder.

    Parameters
    ----------
    settings
        Of the run.
    simulation
        Whether nodes are simulated; real ones must have names.
    clock
        The time, for deadlines.

    Raises
    ------
    MotleyError
        If the settings or the data cannot be used.
    """
    kind = compose(settings, simulation)
    device = choose_device(settings.device)
    own = settings if simulation else settings_here(settings, device)
    shared, test = load_shared(settings), load_server_test(settings)
    calibration = calibration_inputs(settings)
    side = ServerSide(
        own,
        shared.pool.to(device),
        shared.input_shape,
        len(shared.classes),
        device,
        None if calibration is None else calibration.to(device),
    )
    for setting, name in models_named(settings):
        try_model(name, own, device, setting)
    folder = RunFolder.open(settings)
    method = kind.server(side, folder.experiment)
    folder.write_data_facts(shared.facts() | {"server's test": 0 if test is None else len(test)})
    terms = Terms(folder.experiment, shared.pool.digest, code_digest(), simulation)
    roster = Roster(terms, method.greet, clock, settings.wait_for_nodes)
    strategy = MethodStrategy(method, roster, settings, clock)
    checkpoints = CheckpointStore(folder.checkpoints)
    test = None if test is None else test.to(device)
    return Federation(settings, folder, side, test, kind, method, roster, strategy, checkpoints)


def settings_here(settings: RunSettings, device: torch.device) -> RunSettings:
    """Return a run's settings with a precision that the server's device supports; log if it is another one.

    The nodes of a real federation may support a precision that the server does not. In a simulation all are
    on the same machine, where an unsupported precision is refused (`learning.precision.Arithmetic`).
    """
    precision, slower = usable_precision(settings.precision, device)
    if not slower:
        return settings
    log.warning("The server: %s", slower)
    return settings.model_copy(update={"precision": precision})


def calibration_inputs(settings: RunSettings) -> Inputs | None:
    """Return the inputs on which the server calibrates norms; they are never its test data."""
    match settings.scalefl.calibration:
        case "public":
            return load_shared(settings).pool.inputs
        case "withheld":
            return load_withheld(settings).inputs
        case "none":
            return None


def run(grid: Grid, settings: RunSettings, simulation: bool, clock: Clock | None = None) -> RunFolder:
    """Run a federation to its end, and write a report however it ends.

    Parameters
    ----------
    grid
        Connects to the nodes.
    settings
        Of the run.
    simulation
        Whether the grid's nodes are simulated; real ones must have names.
    clock
        The time, for deadlines; by default the real one.

    Returns
    -------
    RunFolder
        Where the results are.

    Raises
    ------
    MotleyError
        If the settings or the data cannot be used, or the federation cannot continue.
    """
    if simulation:
        torch.set_num_threads(1)
    clock = clock or WallClock()
    federation = build(settings, simulation, clock)
    with federation.folder.lock():
        _run(grid, federation, clock)
    return federation.folder


def _run(grid: Grid, federation: Federation, clock: Clock) -> None:
    settings, folder = federation.settings, federation.folder
    done = _resume(federation)
    log.info("Run folder: %s", folder.path)
    report = _Epilogue(federation)
    early_stopping = EarlyStoppingHook(settings.early_stopping, folder.records(until=done))
    metrics = MetricsHook(folder, resumed_after=done)
    hooks: list[RoundHook] = [
        EvaluationHook(federation.method, federation.test, settings.evaluate_every, settings.num_rounds),
        early_stopping,
        metrics,
        CheckpointHook(federation.checkpoints, federation.method),
    ]
    loop = RoundLoop(federation.strategy, grid, hooks, clock)

    def on_exit() -> None:
        loop.stop()
        report("stopped")

    add_exit_handler(on_exit)
    ending = "failed"
    try:
        stop = _run_what_is_left(federation, loop, done, early_stopping.reason())
        ending = f"stopped early: {stop}" if stop else "finished"
        _save_models(federation)
    except RunStoppedError:
        ending = "stopped"
        raise
    finally:
        metrics.close()
        report(ending)


class _Epilogue:
    """Writes the report and logs the table, once."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._written = False

    def __call__(self, ending: str) -> None:
        if self._written:
            return
        self._written = True
        federation = self._federation
        summary = Summary(
            federation.settings,
            federation.kind,
            federation.side.num_classes,
            federation.folder.records(),
            federation.roster.traffic,
            ending,
        )
        log.info("\n%s", as_text(summary, federation.folder))
        conclude(federation.folder, summary)


def _resume(federation: Federation) -> int:
    """Restore the newest checkpoint, if the folder has one; return the number of finished rounds."""
    checkpoint = federation.checkpoints.newest()
    federation.folder.write_settings(federation.settings)
    if checkpoint is None:
        return 0
    federation.method.load_state(checkpoint.state, checkpoint.weights)
    log.info("Resuming after round %d", checkpoint.round)
    return checkpoint.round


def _run_what_is_left(federation: Federation, loop: RoundLoop, done: int, stopped: str) -> str:
    """Run the rounds after ``done``, and the final exchange; return why the run ended early, if it did.

    Nothing is left of a run that is finished, or that was ``stopped`` early.
    """
    folder = federation.folder
    last = done if stopped else federation.settings.num_rounds
    if done >= last and (folder.had_final_exchange() or not federation.method.final_exchange):
        return stopped
    folder.forget_rounds_after(done)
    shutil.rmtree(folder.models, ignore_errors=True)
    return loop.run(done + 1, last) or stopped


def _save_models(federation: Federation) -> None:
    """Save the server's model, and each simulated client's own, as safetensors.

    The folder gets its final name once it is complete, and so marks a finished run.
    """
    folder = federation.folder
    unfinished = folder.path / ".models"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    if weights := federation.method.weights():
        facts = _facts_of(federation, federation.settings.model)
        save_weights(unfinished / "server.safetensors", weights, facts)
    for path in sorted(folder.clients.glob("*")):
        state = StateStore(path).newest()
        if state is not None:
            facts = {**_facts_of(federation, state.model), "client": path.name}
            save_weights(unfinished / f"{path.name}.safetensors", state.weights, facts)
    shutil.rmtree(folder.models, ignore_errors=True)
    unfinished.rename(folder.models)


def _facts_of(federation: Federation, architecture: str) -> dict[str, str]:
    """Return what must be known of a saved model to use it (`learning.saved.load_model`)."""
    settings, side = federation.settings, federation.side
    model, shape = split_architecture(architecture, settings, side.input_shape, side.num_classes)
    facts = model_facts(model, settings, side.input_shape, side.num_classes, shape)
    return {**facts, "experiment": federation.folder.experiment}
