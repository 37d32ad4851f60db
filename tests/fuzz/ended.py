"""Running one case: within its time, to a result or to one message."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType

from mpssl_fed.cli import main
from mpssl_fed.errors import UserError

CPU_S, WALL_S = 20.0, 120.0
"""What a case may take of the processor, so that a busy machine changes nothing, and by the clock, should it only wait."""


class Hangs(BaseException):
    """A case took too long. No code catches it."""


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Raise Hangs in the block when it takes longer than a case may."""

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise Hangs

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, CPU_S), signal.SIGALRM: (signal.ITIMER_REAL, WALL_S)}
    before = {number: signal.signal(number, too_long) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def wrong_with(case: Callable[[], object]) -> str | None:
    """Return what is wrong with the end of ``case``, a traceback or a hang; None where it ended well or in a UserError."""
    try:
        with in_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case()
    except UserError as error:
        return None if str(error).strip() and len(str(error)) < 20_000 else f"a message of {len(str(error))} characters"
    except OSError as error:
        return None if error.strerror else traceback.format_exc()
    except Hangs:
        return f"took more than {CPU_S:g} s of the processor:\n{traceback.format_exc()[-3000:]}"
    except Exception:  # noqa: BLE001  this is what is looked for
        return traceback.format_exc()[-3000:]
    return None


def wrong_with_command(words: list[str]) -> str | None:
    """Return what is wrong with the end of ``mpssl-fed WORDS``: a traceback, another status than 0, 1 or 2, no message, a hang."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    streams, argv, here, before = (sys.stdout, sys.stderr), sys.argv, os.getcwd(), dict(os.environ)  # noqa: PTH109
    sys.stdout, sys.stderr, sys.argv = out, err, ["mpssl-fed", *words]
    status: object = None
    try:
        with in_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            main()
    except SystemExit as ended:
        status = ended.code or 0
    except Hangs:
        return f"took more than {CPU_S:g} s of the processor:\n{traceback.format_exc()[-3000:]}"
    finally:
        (sys.stdout, sys.stderr), sys.argv = streams, argv
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)
    err.flush()
    said = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    if "Traceback" in said or "bug of mpssl-fed" in said or status not in (0, 1, 2):
        return f"status {status}: {said[-3000:]}"
    return None if status != 2 or said.strip() else "status 2 without a message"
