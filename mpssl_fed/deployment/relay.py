"""What a deployed node does with a message: pass it to the owner's daemon and its answer back. Holds nothing, imports no torch."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from mpssl_fed.codes import Code
from mpssl_fed.deployment import wire
from mpssl_fed.federation import packed
from mpssl_fed.federation.refusal import Refusal, to_error

SOCKET = "site-socket"
"""Key of ``node_config`` that names the daemon's socket; only the operator of the node sets it."""

HEADER = {"protocol": "protocol", "run-id": "run_id", "round": "round", "config": "config", "sha256": "sha256"}
SECURE_HEADER = {**{key: ours for key, ours in HEADER.items() if key != "round"}, "phase": "phase", "body": "body"}
PATIENCE_S = 180.0
"""How long a daemon may be away, for example to be restarted, before a message is given back unanswered."""


def relays(context: Context) -> bool:
    """Whether this node has a daemon."""
    return SOCKET in context.node_config


def relay_train(message: Message, context: Context) -> Message:
    """Pass a train message to the daemon and return its reply."""
    return _relay(message, context, wire.TRAIN)


def relay_evaluate(message: Message, context: Context) -> Message:
    """Pass an evaluate message to the daemon and return its reply."""
    return _relay(message, context, wire.EVALUATE)


def _relay(message: Message, context: Context, target: str) -> Message:

    def work() -> RecordDict:
        arrays, header = message.content["arrays"], message.content["config"]
        if not isinstance(arrays, ArrayRecord) or not isinstance(header, ConfigRecord):
            raise Refusal("malformed")
        try:
            weights = packed.values(arrays)
            fields = {ours: header[theirs] for theirs, ours in HEADER.items()}
            body = wire.pack(weights, "request", fields | ({"secure": header["secure"]} if "secure" in header else {}))
        except (KeyError, ValueError, TypeError) as error:
            raise Refusal("malformed") from error
        values, metrics = wire.unpack(_ask(context, "POST", target, body), "metrics")
        apart = len(values) < 2 or not packed.is_one(arrays)  # as the server asked
        released = ArrayRecord({name: Array(values[name]) for name in sorted(values)}) if apart else packed.whole(values)
        scalars, reply = json.loads(metrics), RecordDict({"arrays": released})
        if scalars:
            reply["metrics"] = MetricRecord(scalars)
        return reply

    return _answer(message, work)


def relay_query(message: Message, context: Context) -> Message:
    """Ask the daemon which site it is."""

    def work() -> RecordDict:
        site = json.loads(_ask(context, "GET", wire.CARD))["site"]
        return RecordDict({"site": ConfigRecord({"partition-id": int(site), "num-partitions": 0, packed.PACKED: 1})})

    return _answer(message, work)


def relay_secure(message: Message, context: Context) -> Message:
    """Pass a message about a sum to the daemon and return what it says."""

    def work() -> RecordDict:
        header = message.content["config"]
        if not isinstance(header, ConfigRecord):
            raise Refusal("malformed")
        try:
            fields = {ours: header[theirs] for theirs, ours in SECURE_HEADER.items()}
            body = json.dumps(fields, allow_nan=False).encode()
        except (KeyError, ValueError, TypeError) as error:
            raise Refusal("malformed") from error
        said = _ask(context, "POST", wire.SECURE, body).decode("ascii")
        return RecordDict({"config": ConfigRecord({"body": said})})

    return _answer(message, work)


def _ask(context: Context, method: str, target: str, body: bytes | None = None) -> bytes:
    """Return the body of the daemon's answer; the same request again is harmless, so a daemon that died is asked again."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        try:
            status, answer = wire.call(str(context.node_config[SOCKET]), method, target, body, timeout=None)
            break
        except PermissionError as error:
            raise Refusal("no-daemon") from error
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > ends:
                raise Refusal("no-daemon") from error
            time.sleep(0.5)
    if status == 200:
        return answer
    raise Refusal(_code(answer))


def _code(answer: bytes) -> str:
    try:
        return Code(json.loads(answer)["code"])
    except (ValueError, KeyError, TypeError):
        return Code.SITE_FAILED


def _answer(message: Message, work: Callable[[], RecordDict]) -> Message:
    try:
        return Message(work(), reply_to=message)
    except Refusal as refusal:
        code = refusal.code
    except ValueError:  # an answer that is not what the protocol says; Flower would send the text of the error on
        code = "site-failed"
    return Message(to_error(code), reply_to=message)
