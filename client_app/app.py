"""The ClientApp: one hello, and one message a round."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client_app.node import Node
from protocol.messages import mark_reply

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Answer the server's hello."""
    return Message(Node(context).hello(message.content), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do one round's work."""
    reply = Node(context).method(message.content).answer(message.content)
    return Message(mark_reply(reply, message.content), reply_to=message)
