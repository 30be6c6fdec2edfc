"""The ClientApp, which answers a hello and one message per round, and a factory for other projects."""

from collections.abc import Sequence

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client_app.node import Node
from protocol.messages import mark_reply
from protocol.references import open_package


def create_client_app(packages: Sequence[str] = ()) -> ClientApp:
    """Return a ClientApp that takes part in the federation which the run-config describes.

    Parameters
    ----------
    packages
        Packages of another Flower project that references in the settings may point into.
    """
    for package in packages:
        open_package(package)
    app = ClientApp()

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return Message(Node(context).hello(message.content), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = Node(context).method(message.content).answer(message.content)
        return Message(mark_reply(reply, message.content), reply_to=message)

    return app


app = create_client_app()
