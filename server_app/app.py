"""The ServerApp."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import HttpGrid

from protocol.settings import RunSettings
from server_app.bounded_grid import BoundedGrid
from server_app.logs import show_errors_as_messages
from server_app.run import run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run-config describes."""
    show_errors_as_messages()
    settings = RunSettings.parse(context.run_config)
    if isinstance(grid, HttpGrid):
        run(BoundedGrid(grid), settings, simulation=False)
    else:
        run(grid, settings, simulation=True)
