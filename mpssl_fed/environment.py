"""What surrounds a process: its streams, its user's folders, and switches for Flower and Ray, read when these are imported.

The switches keep them from phoning home, installing packages and hiding devices.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import importlib.util
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import platformdirs

from mpssl_fed.errors import UserError

SWITCHES: dict[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
"""Variable -> value. A variable that the user has set is left alone."""

HUB_SWITCHES = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""The same for packages that use the Hugging Face hub, set when an extra needs one: they read this machine and ask nobody."""

NOWHERE = "/nonexistent"
"""The home folder of who has none, as passwd of many systems names it."""

AT_START = {name: os.environ.get(name) for name in SWITCHES}
"""What the shell had set when this process began, before :func:`apply`."""


FLOWERS_POLL = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
"""How often, in seconds, Flower's processes look for work to start; their default of 1 is half a second of each round."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""This machine, as our own commands name it; no proxy reaches it."""


def apply() -> None:
    """Set each switch in this process, hence in its children, and keep loopback from proxies; must run before ``import flwr``."""
    have_home()
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    os.environ.update(past_proxies())


def require_linux() -> None:
    """Raise UserError where no site can be deployed: Linux alone says who calls on a Unix socket."""
    if sys.platform != "linux":
        raise UserError("deployment needs Linux; here `mpssl-fed simulate` and `mpssl-fed study` run the same federation")


def have_home() -> None:
    """Give a process without any home folder (no HOME, a user id that passwd does not know) one that is not there.

    Packages that we use ask for it while they are imported, and raise where nobody answers. What is to be kept there is refused
    by :func:`cache_folder` and :func:`state_folder`.
    """
    try:
        Path.home()
    except (RuntimeError, KeyError):
        os.environ["HOME"] = NOWHERE


def extra(name: str, package: str, key: str) -> ModuleType:
    """Return the imported ``package`` of the extra [name], which ``key`` needs, with the hub's switches set before.

    UserError, in a sentence that names the extra, where it is not installed.
    """
    have_home()
    for switch, value in HUB_SWITCHES.items():
        os.environ.setdefault(switch, value)
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package
        said = "which is not installed here" if missing else f"which cannot be imported here ({error})"
        raise UserError(f"{key} needs the package {package}, {said}: pip install 'mpssl-fed[{name}]'") from error


def of_flower(home: Path, server: str = "") -> dict[str, str]:
    """Return what Flower's commands are started with: the switches, their files in ``home``, their helpers on the PATH.

    server: the ``HOST:PORT`` that they talk to. Towards loopback they know of no proxy at all, beyond it of those that Flower's
    HTTP client can use: the name of another kind stops it even where it need not use one.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    here = server.rpartition(":")[0].strip("[]") in LOOPBACK
    proxies = dict.fromkeys((name for name in _proxies() if here or not _usable(os.environ[name])), "")
    polls = {name: os.environ.get(name, value) for name, value in FLOWERS_POLL.items()}
    return {**SWITCHES, **polls, "FLWR_HOME": str(home), "PATH": path, **past_proxies(), **proxies}


def past_proxies() -> dict[str, str]:
    """Return ``no_proxy`` and ``NO_PROXY`` with loopback added; empty where no proxy is set, or all is excepted already."""
    if not _proxies():
        return {}
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    missing = [] if "*" in names else [name for name in LOOPBACK if name not in names]
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join([*names, *missing]))


PLAIN = {"·": "-", "±": "+-", "–": "-", "—": "-", "…": "...", "×": "x", "→": "->", "≤": "<=", "≥": ">="}
"""What stands for a character that a terminal's encoding lacks; others are escaped."""


def _plainer(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode("ascii") for one in found), error.end


codecs.register_error("mpssl-plain", _plainer)


def open_streams() -> None:
    """Make standard input, output and error usable, whatever was handed over: none may be closed or stop at a character.

    A closed one leads nowhere, so that no file that is opened later gets its number and what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            with contextlib.suppress(ValueError, OSError):
                stream.reconfigure(errors="mpssl-plain")


def expanded(path: str | Path) -> Path:
    """Return ``path`` with ``~`` and ``~user`` resolved; UserError where that user, or any home folder, is not known."""
    try:
        found = Path(path).expanduser()
    except (RuntimeError, KeyError) as error:  # KeyError: a user id without an entry in passwd
        raise UserError(f"{path}: the home folder of that user is not known; write the path out, or set HOME") from error
    if str(path).startswith("~") and found.is_relative_to(NOWHERE):
        raise UserError(f"{path}: this user has no home folder; write the path out, or set HOME")
    return found


def cache_folder() -> Path:
    """Return the folder of what was downloaded, ``$XDG_CACHE_HOME/mpssl-fed``; UserError where no home folder is known."""
    return _of_user("XDG_CACHE_HOME", platformdirs.user_cache_path)


def image_cache_folder() -> Path | None:
    """Return the folder of decoded images: ``images`` in :func:`cache_folder`, or what ``MPSSL_FED_IMAGE_CACHE`` names.

    None where that says ``off``, or no home folder is known. UserError for a folder that is not absolute.
    """
    said = os.environ.get("MPSSL_FED_IMAGE_CACHE", "")
    if said.lower() in ("off", "0", "no"):
        return None
    if said and not Path(said).is_absolute():
        raise UserError(f"MPSSL_FED_IMAGE_CACHE={said}: want 'off', or the folder's whole path")
    try:
        return Path(said) if said else cache_folder() / "images"
    except UserError:
        return None


def state_folder() -> Path:
    """Return the folder of what sites keep, ``$XDG_STATE_HOME/mpssl-fed``; UserError where no home folder is known."""
    return _of_user("XDG_STATE_HOME", platformdirs.user_state_path)


def _of_user(variable: str, folder: Callable[..., Path]) -> Path:
    try:
        found = folder("mpssl-fed", appauthor=False)
    except (RuntimeError, KeyError):  # no HOME, and a user id that passwd does not know
        found = Path(NOWHERE)
    if found.is_relative_to(NOWHERE) and not Path(os.environ.get(variable, "")).is_absolute():
        raise UserError(f"this user has no home folder (no HOME, or no entry in passwd): set HOME or {variable}")
    return found


def export_lines() -> str:
    """Return shell lines that set the switches: ``eval "$(mpssl-fed doctor --env)"``."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in {**SWITCHES, **past_proxies()}.items())


def _proxies() -> list[str]:
    """Return the variables that name a proxy for some or all addresses (``http_proxy``, ``ALL_PROXY``, ``grpc_proxy``, ...)."""
    return [name for name, value in os.environ.items() if name.lower().endswith("_proxy") and name.lower() != "no_proxy" and value]


def _usable(proxy: str) -> bool:
    """Whether httpx, which Flower uses, takes this proxy; SOCKS needs a package of its own."""
    kind = proxy.partition("://")[0].lower() if "://" in proxy else "http"
    return kind in ("http", "https") or (kind in ("socks5", "socks5h") and importlib.util.find_spec("socksio") is not None)
