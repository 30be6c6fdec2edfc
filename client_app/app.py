"""The ClientApp: one hello, and one message a round."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client_app.node import Node

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Answer the server's hello."""
    return Message(Node(context).hello(message.content), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do one round's work."""
    return Message(Node(context).method(message.content).answer(message.content), reply_to=message)
