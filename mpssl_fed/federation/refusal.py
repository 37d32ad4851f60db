"""Why a message is not answered, as a code without data: nothing private may ride on an error."""

from __future__ import annotations

from flwr.app import Error

CODES: dict[str, int] = {
    "site-failed": 101,
    "malformed": 102,
    "protocol": 103,
    "config": 104,
    "misshapen": 105,
    "non-finite": 106,
    "round-lost": 107,
    "no-site": 108,
    "policy": 109,
    "budget": 110,
    "size": 111,
    "classes": 112,
    "no-daemon": 113,
    "too-large": 114,
    "busy": 115,
    "image-shape": 116,
    "number": 117,
    "unreadable": 118,
    "time-limit": 119,
    "no-policy": 120,
    "scope": 121,
    "epsilon": 122,
    "delta": 123,
    "sigma": 124,
    "sample-rate": 125,
    "clip": 126,
    "steps": 127,
    "rounds": 128,
    "model-size": 129,
    "method": 130,
    "generator": 131,
    "metric": 132,
    "noise": 133,
    "path": 134,
    "unit": 135,
    "plan": 136,
    "ledger": 137,
    "site-key": 140,
    "server-key": 141,
    "model": 142,
}
"""Code -> number in a Flower ``Error``. 101: the site raised; its own log says what. 107: the site no longer has the
latents from before that round. 108: the node holds no site. 109, 110: the site's policy or privacy budget says no.
111: a number of examples that is not a whole number from 1 to
federation.max_examples. 112: the site agreed to other classes. 113: the site's daemon does not
answer. 114: a weight beyond any that training ends at. 115: the site has too much to do. 116: images of another
size or number of channels than the site's owner gave. 117: a number outside its range. 118: a reply on which reading it failed;
the server's log says how. 119: the round took longer than the site's owner allows.
120 and above: what in the request is beyond the site's policy. 140: a key that is the owner's differs from what the owner says.
141: a key that a server may set is beyond what the site takes. 142: the site cannot build the model, or the
ImageNet weights installed there are others than this version names; its own log says why."""

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


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault
    """A message or a reply is not taken; ``code`` is one of CODES."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def to_error(code: str) -> Error:
    """Return the Flower error that carries ``code`` and nothing else."""
    return Error(code=CODES[code], reason=code)


def code_of(error: Error) -> str:
    """Return the code of an error reply, ours or Flower's; the free text of ``reason`` is never read."""
    ours = {number: code for code, number in CODES.items()}
    return ours.get(error.code) or FLOWER_CODES.get(error.code, "unknown")
