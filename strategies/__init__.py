"""The methods, each a server half and a client half, and the adapter that makes them Flower strategies."""

from strategies.individual import IndividualClient, IndividualServer
from strategies.method import ClientMethod, ClientSide, ServerMethod, ServerSide
from strategies.soft_labels.dsfl import dsfl_client, dsfl_server
from strategies.soft_labels.scarlet import scarlet_client, scarlet_server
from strategies.submodels import SubmodelClient, SubmodelServer
from strategies.weights.fedavg import FedAvgClient, FedAvgServer

__all__ = ["client_method", "server_method"]


def server_method(server: ServerSide, experiment: str) -> ServerMethod:
    """Build the server half of the method that the settings name."""
    match server.settings.strategy:
        case "scarlet":
            return scarlet_server(server, experiment)
        case "dsfl":
            return dsfl_server(server, experiment)
        case "fedavg":
            return FedAvgServer(server, experiment)
        case "individual":
            return IndividualServer(experiment)
        case _:  # ScaleFL and its relatives
            return SubmodelServer(server, experiment)


def client_method(client: ClientSide) -> ClientMethod:
    """Build the client half of the method that the settings name."""
    match client.settings.strategy:
        case "scarlet":
            return scarlet_client(client)
        case "dsfl":
            return dsfl_client(client)
        case "fedavg":
            return FedAvgClient(client)
        case "individual":
            return IndividualClient(client)
        case _:
            return SubmodelClient(client)
