"""The ClientApp: hands each message to the daemon of this node's owner, or to the simulated site. No logic of its own."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from mpssl_fed.deployment.relay import relay_evaluate, relay_query, relay_secure, relay_train, relays

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round at this node's site."""
    if relays(context):
        return relay_train(message, context)
    from mpssl_fed.federation.site.client import answer_train  # torch comes in where there is no daemon that holds it

    return answer_train(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model on what this node's site holds out."""
    if relays(context):
        return relay_evaluate(message, context)
    from mpssl_fed.federation.site.client import answer_evaluate

    return answer_evaluate(message, context)


@app.query("secure")
def secure(message: Message, context: Context) -> Message:
    """Exchange keys, sign and open sums of masked updates, for this node's site."""
    if relays(context):
        return relay_secure(message, context)
    from mpssl_fed.federation.site.client import answer_secure

    return answer_secure(message, context)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which site this node is."""
    if relays(context):
        return relay_query(message, context)
    from mpssl_fed.federation.site.client import answer_query

    return answer_query(message, context)
