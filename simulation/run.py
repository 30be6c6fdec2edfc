"""Runs a federation on this machine, from Python."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial

from flwr.clientapp import ClientApp

from client_app.app import app as client_app
from data import load_shared
from protocol.settings import RunSettings
from server_app.run import run
from server_app.run_folder import RunFolder
from simulation.clock import RealClock, SimulatedClock
from simulation.executors import Executor, InThisProcess
from simulation.grid import Faults, InProcessGrid, no_faults
from simulation.messages import task_identity
from simulation.workers import WorkerPool, cores


def simulate(
    settings: RunSettings,
    clients: int,
    workers: int | None = 0,
    *,
    app: ClientApp = client_app,
    faults: Faults = no_faults,
    real_time: bool = False,
) -> RunFolder:
    """Run a federation of simulated clients to its end.

    Its results are the same, bit for bit, with any number of workers.

    Parameters
    ----------
    settings
        Of the run.
    clients
        How many there are; they share what the settings split.
    workers
        Processes that do the clients' work: 0 for none beside this one, None for one a core.
    app
        The clients' ClientApp.
    faults
        What happens to replies on their way.
    real_time
        Whether deadlines (``round-timeout``, ``wait-for-nodes``) count the real time, as over Flower, so that
        a client can be late on a slow machine. If not, time stands still while clients work.

    Returns
    -------
    RunFolder
        Where the results lie.

    Raises
    ------
    MotleyError
        If the settings or the data cannot be used, or the federation cannot go on.
    """
    count = min(cores() if workers is None else workers, clients)
    with _executor(app, count, settings) as executor:
        clock = RealClock(executor.wait) if real_time else SimulatedClock()
        grid = InProcessGrid(executor, clock, faults)
        grid.add_simulated_nodes(settings.flat(), clients)
        return run_over(grid, settings)


def grid_for(settings: RunSettings, nodes: int = 3, faults: Faults = no_faults) -> InProcessGrid:
    """Return a grid with simulated nodes that work in this process, whose messages can be read afterwards.

    Parameters
    ----------
    settings
        Of the run.
    nodes
        How many there are; they share what the settings split.
    faults
        What happens to replies on their way.
    """
    grid = InProcessGrid(InThisProcess(client_app), SimulatedClock(), faults, recording=True)
    grid.add_simulated_nodes(settings.flat(), nodes)
    return grid


def run_over(grid: InProcessGrid, settings: RunSettings, simulation: bool = True) -> RunFolder:
    """Run a federation over a grid to its end.

    Parameters
    ----------
    grid
        With its nodes.
    settings
        Of the run.
    simulation
        Whether nodes may come without names.

    Returns
    -------
    RunFolder
        Where the results lie.

    Raises
    ------
    MotleyError
        If the settings or the data cannot be used, or the federation cannot go on.
    """
    with task_identity():
        return run(grid, settings, simulation, grid.clock)


def _executor(app: ClientApp, workers: int, settings: RunSettings) -> AbstractContextManager[Executor]:
    if workers == 0:
        return nullcontext(InThisProcess(app))
    return WorkerPool(app, workers, warm_up=partial(load_shared, settings))
