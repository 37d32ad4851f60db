"""How a command ends: one place turns what is foreseeable into one message and exit status 2; a bug stays a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable
from itertools import pairwise

from mpssl_fed.errors import UserError
from mpssl_fed.names import printable

BAD_INPUT, BUG, CUT_SHORT, INTERRUPTED = 2, 1, 1, 130
MEMORY = re.compile(r"out of memory|allocate memory|MemoryError", re.IGNORECASE)


def ending_of(command: Callable[[], object]) -> int:
    """Run ``command`` and return the exit status it deserves, with everything that it printed written out.

    2 and one message: bad input, whatever the system refuses (a place that cannot be written or read, a full disk), memory that
    ran out. 130: Ctrl-C. 1 without a word: nobody reads the output any more. What else is raised is a bug: 1 and a traceback.
    """
    try:
        status = _status_of(command)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED, "WARNING")
    except OSError as error:
        _drop_output()
        unread = error.errno in (errno.EPIPE, errno.ESHUTDOWN)
        return CUT_SHORT if unread else _say(f"error: {_of_system(error)}", BAD_INPUT)
    except (UserError, UnicodeError, MemoryError) as error:
        return _say(f"error: {_text(error)}", BAD_INPUT)
    except Exception as error:  # noqa: BLE001  a bug, told from the foreseeable here alone
        return _unforeseen(error)


def _unforeseen(error: Exception) -> int:
    if MEMORY.search(f"{type(error).__name__}: {error}"):
        return _say(f"error: {_text(MemoryError(str(error).splitlines()[0]))}", BAD_INPUT)
    if _as_json():
        frames = "; ".join(f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__))
        return _say(f"This is a bug of mpssl-fed: {type(error).__name__} at {frames}", BUG)  # its text may quote private data
    with contextlib.suppress(OSError):
        traceback.print_exception(error)
    return _say("This is a bug of mpssl-fed: please report it, with the lines above and the command.", BUG)


def _status_of(command: Callable[[], object]) -> int:
    try:
        command()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            return _say(ended.code, BUG)
        return ended.code or 0
    return 0


def _text(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return (
            f"memory ran out ({str(error) or 'no more can be had'}): lower method.batch, method.lmo_batch, optim.batch_size or "
            "data.size, or set method.micro_batch"
        )
    return f"text that cannot be written or read as such: {error}" if isinstance(error, UnicodeError) else str(error)


def _of_system(error: OSError) -> str:
    """Return what the system refused in words: the place and the reason, as far as it tells them."""
    if isinstance(error, UserError):
        return str(error)
    reason = error.strerror or str(error) or type(error).__name__
    if error.args and isinstance(error.args[0], list):  # shutil.Error: a list of (source, target, reason)
        reason = "; ".join(str(one[-1]) for one in error.args[0][:2])
    places = [_shown(place) for place in (error.filename, error.filename2) if place is not None]
    if not places and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):
        places = ["standard output, or a file"]
    return f"{' -> '.join(places)}: {reason}" if places else reason


def _shown(place: object) -> str:
    text = os.fsdecode(place) if isinstance(place, bytes) else str(place)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def _say(text: str, status: int, level: str = "ERROR") -> int:
    line = printable(text)
    if _as_json():
        from mpssl_fed.runs.json_lines import json_line  # here: it brings the config's schema in

        line = json_line(level, "mpssl_fed", text.removeprefix("error: "))
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    return status


def _as_json() -> bool:
    """Whether the command that ends was asked for lines of JSON, however far it came in reading its options."""
    words = sys.argv[1:]
    return "--log-format=json" in words or ("--log-format", "json") in pairwise(words)


def _drop_output() -> None:
    """Let what could not be written go nowhere, so that Python does not try again, and complain, as it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
