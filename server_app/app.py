"""The ServerApp, and a factory with which other Flower projects make their own."""

from collections.abc import Sequence

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import HttpGrid

from protocol.references import open_package
from protocol.settings import RunSettings
from server_app.bounded_grid import BoundedGrid
from server_app.logs import show_errors_as_messages
from server_app.run import run


def create_server_app(packages: Sequence[str] = ()) -> ServerApp:
    """Return a ServerApp that runs the federation which the run-config describes.

    Parameters
    ----------
    packages
        Packages of another Flower project that references in the settings may point into.
    """
    for package in packages:
        open_package(package)
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        show_errors_as_messages()
        settings = RunSettings.parse(context.run_config)
        if isinstance(grid, HttpGrid):
            run(BoundedGrid(grid), settings, simulation=False)
        else:
            run(grid, settings, simulation=True)

    return app


app = create_server_app()
