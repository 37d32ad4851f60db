"""Why a message is not answered, as a code without data: nothing private may ride on an error."""

from __future__ import annotations

from flwr.app import Error

from mpssl_fed.codes import FLOWER_CODES, Code

BY_NUMBER = {code.number: code for code in Code if code.number}


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault
    """A message or a reply is not taken; ``code`` is one of Code, ValueError for another."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = Code(code).value


def to_error(code: str) -> Error:
    """Return the Flower error that carries ``code`` and nothing else."""
    return Error(code=Code(code).number, reason=code)


def code_of(error: Error) -> str:
    """Return the code of an error reply, ours or Flower's; the free text of ``reason`` is never read."""
    ours = BY_NUMBER.get(error.code)
    return FLOWER_CODES.get(error.code, "unknown") if ours is None else ours.value
