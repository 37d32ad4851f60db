"""What a node does with a message: find its site, let it answer, and turn every failure into a code without data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message, RecordDict

from mpssl_fed import environment
from mpssl_fed.config import Config
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import Handed, SiteCard, TableReply, TrainReply, TrainRequest
from mpssl_fed.federation.refusal import Refusal, to_error
from mpssl_fed.federation.secure_messages import SecureRequest, masked_record, said
from mpssl_fed.federation.site.budget import simulated_budget
from mpssl_fed.federation.site.held import SimulatedContext
from mpssl_fed.federation.site.masking import Masking, OnDisk, require_masks
from mpssl_fed.federation.site.sharing import SharedPart
from mpssl_fed.federation.site.site import Site
from mpssl_fed.method.parts import Parts

log = logging.getLogger("mpssl_fed.site")


def answer_train(message: Message, context: Context) -> Message:
    """Answer a train message: one round of the site at this node."""

    def work() -> RecordDict:
        site = _site(context)
        request = _request(site, message)
        require_masks(request, request.config())
        if not request.secure:
            reply = answer_request(site, request)
            if isinstance(reply, SharedPart):  # a study of public data, whose sums are made of the very integers
                return masked_record(reply.vector())
            return Handed(reply) if isinstance(context, SimulatedContext) else reply.to_record()
        return masked_record(simulated_masking(site).masked(request, request.config(), lambda: answer_request(site, request)))

    return _answer(message, context, work)


def answer_secure(message: Message, context: Context) -> Message:
    """Answer a message about a sum of masked updates: keys, shares, signatures of the site at this node."""

    def work() -> RecordDict:
        request = SecureRequest.from_record(message.content)
        return said(simulated_masking(_site(context)).answer(request, request.config()))

    return _answer(message, context, work)


def answer_evaluate(message: Message, context: Context) -> Message:
    """Answer an evaluate message: the table of the site at this node."""

    def work() -> RecordDict:
        site = _site(context)
        return evaluate_request(site, _request(site, message)).to_record()

    return _answer(message, context, work)


def answer_query(message: Message, context: Context) -> Message:
    """Answer a query: which site this node is."""

    def work() -> RecordDict:
        return SiteCard(_site(context).partition, int(context.node_config.get("num-partitions", 0))).to_record()

    return _answer(message, context, work)


def answer_request(site: Site, request: TrainRequest) -> TrainReply | SharedPart:
    """Return a simulated site's reply: its parts and its budget follow from the config of the request."""
    config = request.config()
    made, budget = _parts(site, config), simulated_budget(config, site.folder)
    return site.answer(request.sent.run_id, request.round, config, request.weights, made, budget)


def evaluate_request(site: Site, request: TrainRequest) -> TableReply:
    """Return a simulated site's table, as :func:`answer_request` does its reply."""
    config = request.config()
    made, budget = _parts(site, config), simulated_budget(config, site.folder)
    return site.evaluate(request.sent.run_id, request.round, config, request.weights, made, budget)


def simulated_masking(site: Site) -> Masking:
    """Return how a simulated site takes part in sums."""
    return Masking(site.folder, OnDisk(site.folder))


def site_folder(context_run_id: int) -> Path:
    """Return where sites of ``flwr run`` keep their state: the owner's state folder, apart for each Flower run."""
    return environment.state_folder() / "simulated" / str(context_run_id)


def _site(context: Context) -> Site:
    """Return the simulated site that ``node_config`` names. What a server sends never chooses a path."""
    partition = context.node_config.get("partition-id")
    if type(partition) is not int or partition < 0:
        raise Refusal("no-site")
    held = context.held if isinstance(context, SimulatedContext) else None
    if held is not None:
        return Site(partition, held.folder / str(partition), held=held)
    folder = context.node_config.get("state-dir")
    root = Path(str(folder)) if folder else site_folder(context.run_id)
    return Site(partition, root / str(partition))


def _request(site: Site, message: Message) -> TrainRequest:
    return TrainRequest.from_record(message.content) if site.held is None else site.held.request(message.content)


def _parts(site: Site, config: Config) -> Parts:
    return parts.simulated(config, site.partition) if site.held is None else site.held.parts(config, site.partition)


def _answer(message: Message, context: Context, work: Callable[[], RecordDict]) -> Message:
    try:
        return Message(work(), reply_to=message)
    except Refusal as refusal:
        code = refusal.code
    except Exception:  # Flower would send the exception's text, which may quote private data, to the server
        log.exception("site %s failed", context.node_config.get("partition-id"))
        code = "site-failed"
    return Message(to_error(code), reply_to=message)
