"""Runs that are kept: one that came to its end is not run again, and one that was stopped goes on."""

from protocol.settings import RunSettings
from server_app.run_folder import RunFolder
from simulation.run import simulate


def run_once(settings: RunSettings, clients: int, workers: int | None = 0) -> RunFolder:
    """Run a federation, unless a run in its output folder has come to its end.

    Parameters
    ----------
    settings
        Of the run: with an ``output-dir`` of its own, and ``resume = "auto"``.
    clients
        How many there are.
    workers
        Processes that do the clients' work: 0 for none beside this one, None for one a core.

    Returns
    -------
    RunFolder
        Where the results lie.
    """
    finished = [RunFolder(models.parent) for models in settings.output_path.glob("*/models")]
    return finished[0] if finished else simulate(settings, clients, workers)
