"""Runs a federation over the in-process grid."""

from client_app.app import app as client_app
from protocol.settings import RunSettings
from server_app.run import run
from server_app.run_folder import RunFolder
from simulation.clock import SimulatedClock
from simulation.grid import Faults, InProcessGrid, no_faults, task_identity


def grid_for(settings: RunSettings, clients: int, faults: Faults = no_faults) -> InProcessGrid:
    """Return a grid with simulated clients, who share what the settings split.

    Parameters
    ----------
    settings
        Of the run.
    clients
        How many there are.
    faults
        What happens to replies on their way.
    """
    grid = InProcessGrid(client_app, SimulatedClock(), faults)
    grid.add_simulated_nodes(settings.flat(), clients)
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
    """
    with task_identity():
        return run(grid, settings, simulation, grid.clock)
