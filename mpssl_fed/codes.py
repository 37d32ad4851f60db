"""The codes by which a message or a reply is not taken: all that either side learns of why, and what an operator reads of each.

A code carries no value: nothing private may ride on an error.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

By = Literal["site", "policy", "budget", "daemon", "relay", "server"]
"""Who raises a code: the site while it reads or trains; its owner's policy; its budget or ledger; the owner's process; the node
that passes messages on; the server, of a reply."""


class Code(StrEnum):
    """One code. number: in a Flower ``Error``, 0 where it is counted at the server and never sent; by: who raises it; means: what
    the operator reads. Of several reasons of a policy, the first one here is told."""

    number: int
    by: tuple[By, ...]
    means: str

    def __new__(cls, value: str, number: int = 0, by: tuple[By, ...] = (), means: str = "") -> Code:
        """Return a member that is its name on the wire."""
        code = str.__new__(cls, value)
        code._value_ = value
        code.number, code.by, code.means = number, by, means
        return code

    NO_POLICY = "no-policy", 120, ("policy",), "the site has no policy and answers nothing"
    SCOPE = "scope", 121, ("policy",), "the site asks for a stricter privacy.scope"
    EPSILON = "epsilon", 122, ("policy",), "privacy.epsilon is beyond the site's policy"
    DELTA = "delta", 123, ("policy",), "privacy.delta is beyond the site's policy"
    UNIT = "unit", 135, ("policy", "budget", "daemon"), "privacy.unit is not the policy's, or the images name no subjects"
    TRUST = "trust", 150, ("policy",), "noise would be shared with more sites than the owner believes in, or at all (privacy.trust)"
    SIGMA = "sigma", 124, ("policy",), "a planned release has less noise than the site's policy wants"
    SAMPLE_RATE = "sample-rate", 125, ("policy",), "privacy.sample_rate is beyond the site's policy"
    CLIP = "clip", 126, ("policy",), "a clip bound is outside the range of the site's policy"
    NOISE = "noise", 133, ("policy",), "privacy.noise=fast is for simulations alone"
    ROUNDS = "rounds", 128, ("policy", "daemon"), "federation.rounds, or the round asked for, is beyond the site's policy"
    STEPS = "steps", 127, ("policy",), "local steps, a round or in all, are beyond the site's policy"
    EVALUATIONS = "evaluations", 143, ("policy",), "federation.evaluate_at_sites.times is beyond the site's policy"
    TABLE_SIZE = "table-size", 145, ("policy",), "a table of an evaluation would have more classes than the site's policy allows"
    MODEL_SIZE = "model-size", 129, ("policy", "daemon"), "the classifier is larger than the site's policy allows"
    METHOD = "method", 130, ("policy",), "the site's policy does not list the method"
    GENERATOR = "generator", 131, ("policy", "daemon"), "the site has no such generator, or its files are others than the policy's"
    METRIC = "metric", 132, ("policy",), "a number beside the weights that the policy does not list"
    PATH = "path", 134, ("policy",), "the name of a part looks like a path or an import"
    SITE_KEY = "site-key", 140, ("policy",), "a key that is the owner's differs from what the owner says"
    SERVER_KEY = "server-key", 141, ("policy",), "a key that a server may set is beyond what the site takes"
    PLAN = "plan", 136, ("site", "budget"), "a round outside the run's plan, a config other than its earlier rounds had"
    BUDGET = "budget", 110, ("budget",), "the privacy budget of the site's data is spent"
    LEDGER = "ledger", 137, ("budget",), "the site's ledger does not check out; its own log says how"

    SITE_FAILED = "site-failed", 101, ("site", "daemon", "relay"), "the site raised: its own log says what"
    MALFORMED = "malformed", 102, ("site", "daemon", "relay", "server"), "the message is not what the protocol says"
    PROTOCOL = "protocol", 103, ("site", "daemon"), "server and site run versions with different protocols"
    CONFIG = "config", 104, ("site", "daemon"), "the site's version does not accept the config, or its hash does not fit"
    MISSHAPEN = "misshapen", 105, ("site", "daemon", "server"), "weights of another classifier"
    NON_FINITE = "non-finite", 106, ("site", "server"), "a weight or number is not finite; of a site: its training diverged"
    ROUND_LOST = "round-lost", 107, ("site",), "the site no longer has its latents from before that round"
    NO_SITE = "no-site", 108, ("site",), "no site is at that node"
    POLICY = "policy", 109, ("site", "daemon"), "the site's owner does not allow it, whatever the policy says"
    SIZE = "size", 111, ("site", "server"), "a number of examples that is no whole number from 1 to federation.max_examples"
    CLASSES = "classes", 112, ("daemon",), "the site's owner agreed to other classes"
    NO_DAEMON = "no-daemon", 113, ("relay",), "the daemon of the site does not answer"
    TOO_LARGE = "too-large", 114, ("site", "server"), "a weight beyond any that training ends at"
    BUSY = "busy", 115, ("daemon",), "the site has too much to do"
    IMAGE_SHAPE = "image-shape", 116, ("daemon",), "images of another size, fit, window or number of channels than the owner gave"
    NUMBER = "number", 117, ("site", "server"), "a number outside its range"
    UNREADABLE = "unreadable", 118, ("server",), "reading the reply failed; the server's log says how"
    MODEL = "model", 142, ("daemon",), "the site cannot build the classifier: its own log says why"
    TIME_LIMIT = "time-limit", 119, ("daemon",), "the round took longer than the site's owner allows"
    TOO_FEW = "too-few", 144, ("site",), "scope off: the site has too few images to hold some out, so it evaluates nothing"
    SECURE_TERMS = (
        "secure-terms",
        146,
        ("site", "server"),
        "a sum under looser terms than the site wants, or that do not fit the sites",
    )
    SECURE_EPOCH = "secure-epoch", 147, ("site",), "the site holds no keys for that sum: it was restarted, or came later"
    SECURE_CLOSED = "secure-closed", 148, ("site",), "the site has given its one answer for that slot or round"
    SECURE_WANTED = "secure-wanted", 149, ("policy",), "the site's policy wants federation.aggregation=secure"
    NUMBER_TAKEN = "number-taken", 0, ("server",), "the node claims the number of another site"


FLOWER_CODES: dict[int, str] = {
    0: "unknown",
    1: "app-not-loaded",
    2: "app-raised",
    3: "message-unavailable",
    4: "reply-unavailable",
    5: "node-unavailable",
    6: "mod-failed",
    7: "invalid-bundle",
    8: "app-crashed",
}
"""Flower's own, of which a reply may be, too."""
