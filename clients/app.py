"""The ClientApp: hands each message to the site at this node. No logic of its own."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from mpssl_fed.federation.client import answer_query, answer_train

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round at this node's site."""
    return answer_train(message, context)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which site this node is."""
    return answer_query(message, context)
