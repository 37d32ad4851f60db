"""Starting a site's daemon: what is checked before it serves, and the SuperNode that may run beside it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mpssl_fed.config.data import Fit
from mpssl_fed.deployment import wire
from mpssl_fed.deployment.asking import warnings_of
from mpssl_fed.deployment.daemon import Daemon, Door, forbid_tracing
from mpssl_fed.deployment.isolation import User, code_places, exposed, group_id, make_private, replaceable, state_folder
from mpssl_fed.deployment.notify import READY, notify
from mpssl_fed.deployment.own_data import ABOUT, OwnData
from mpssl_fed.deployment.own_generator import OwnGenerator
from mpssl_fed.deployment.resident import LEDGER, Resident
from mpssl_fed.deployment.site_log import Form, Level, log_plainly
from mpssl_fed.deployment.worker import LIMIT_S
from mpssl_fed.errors import UserError
from mpssl_fed.federation.site.budget import identities
from mpssl_fed.federation.site.identity import fingerprint_of, identity_key
from mpssl_fed.files import sha256, write_atomic
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.policy import Policy, load_policy
from mpssl_fed.runs.json_lines import json_line


@dataclass(frozen=True)
class SiteSettings:
    """How one site is started; each field is an option of ``mpssl-fed site run``."""

    name: str
    number: int
    data: Path
    classes: tuple[str, ...]
    policy: Path
    state: Path | None = None
    socket: Path | None = None
    supernode_user: str | None = None
    group: str | None = None
    trust_bundles: bool = False
    size: int = 32
    channels: int = 3
    subjects: str | None = None
    generator_path: str | None = None
    device: str | None = None
    round_limit_s: float = LIMIT_S
    facts: dict[str, Any] = field(default_factory=dict)
    stored_size: int | None = None
    ledger_head: Path | None = None
    fit: Fit = "crop"
    white_level: float | None = None
    window: tuple[float, float] | None = None
    log_level: Level = "info"
    log_format: Form = "text"

    @property
    def state_dir(self) -> Path:
        """Everything of the site that never leaves."""
        return self.state or state_folder(self.name)

    @property
    def socket_path(self) -> Path:
        """Where the daemon listens; beside the state unless said otherwise."""
        return self.socket or self.state_dir / "site.sock"


class Companion(Protocol):
    """What runs beside the daemon, for as long as it does."""

    def start(self) -> None:
        """Start it."""

    def stop(self) -> None:
        """End it."""


def check_site(settings: SiteSettings) -> tuple[Policy, OwnData, User]:
    """Return policy, data and the SuperNode's user, all in order.

    UserError for a missing policy, data that do not fit the classes or name no subject where the policy counts subjects, a
    generator that the policy does not list, or files that the SuperNode's user could read or, where they are run, replace. With
    log_format json what is said of the data, such as files that are wrong and how many were left out, goes to ABOUT in the state.
    """
    if not settings.policy.is_file():
        raise UserError(f"--policy {settings.policy}: no such file; a site without a policy answers nothing")
    policy = load_policy(settings.policy)
    state = make_private(settings.state_dir)
    _refuse_not_its_own_peer(settings.policy, policy, state)
    user = User.named(settings.supernode_user or str(os.geteuid()))
    shape = (settings.size, settings.channels, settings.stored_size, settings.fit, settings.white_level, settings.window)
    data = OwnData(settings.data.resolve(), settings.classes, settings.subjects, *shape)
    (state / ABOUT).unlink(missing_ok=True)
    with _named_here_alone(settings):
        left_out = data.check()
        if policy.unit == "subject" and data.images().subjects is None:
            raise UserError(
                f"{settings.policy}: unit=subject, but {settings.data} names no subject; list the images in a CSV file "
                "path,label,subject, or put them into CLASS/SUBJECT/ and start with --subjects parent"
            )
    if left_out:  # counts alone: whoever reads the log learns no name
        logging.getLogger("mpssl_fed.daemon").warning("of the data: %s", _sayable(settings, left_out))
    head = settings.ledger_head
    if head is not None and not head.parent.is_dir():
        raise UserError(f"--ledger-head {head}: no folder {head.parent}; make it, or mount its disk")
    if head is not None and head.resolve().is_relative_to(state.resolve()):
        raise UserError(f"--ledger-head {head}: lies in the state folder, so one backup rolls both back; name a file elsewhere")
    generator = OwnGenerator(policy, settings.generator_path, state / "cache" / "generators")
    generator.check()
    with _named_here_alone(settings):
        _refuse_exposed(settings, user, [*data.files(), settings.policy, state, *generator.private_files()])
    _refuse_replaceable(settings, user, [*generator.public_places(), *code_places()])
    return policy, data, user


@contextmanager
def _named_here_alone(settings: SiteSettings) -> Iterator[None]:
    """Raise a UserError that says no more of the data than the log may hold."""
    try:
        yield
    except (UserError, OSError) as error:
        if settings.log_format == "text":
            raise
        raise UserError(f"the data cannot be served: {_sayable(settings, str(error))}") from error


def _sayable(settings: SiteSettings, words: str) -> str:
    """Return ``words`` of the data; in lines for machines, which travel, where the owner finds them."""
    if settings.log_format == "text":
        return words
    return f"what there is to say stands in {write_atomic(settings.state_dir / ABOUT, words + chr(10), 0o600)}"


def open_ledger(settings: SiteSettings, policy: Policy, data: OwnData) -> Ledger:
    """Return the site's ledger, checked, and its records held against the data.

    With --ledger-head one is made, which notes where its head lives; else the first charge makes it. UserError for a ledger that
    does not check out, or data that stand on record under another name: now, not in round 7.
    """
    ledger = Ledger(settings.state_dir / LEDGER, None if settings.ledger_head is None else settings.ledger_head.absolute())
    if settings.ledger_head is not None and ledger.files.absent:
        ledger.make()
    if not ledger.files.absent:
        ledger.verify()
        ledger.compare(policy.dataset, identities(data.images(), policy.unit))
    return ledger


def serve_site(settings: SiteSettings, node: Companion | None = None) -> None:
    """Check everything (:func:`check_site`), then serve until SIGTERM or SIGINT; ``node``, if any, runs while the daemon does."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise UserError("a site daemon needs Linux: this system does not say which user calls on a Unix socket")
    log_plainly(settings.log_level, settings.log_format)
    forbid_tracing()
    os.umask(0o077)
    policy, data, user = check_site(settings)
    ledger = open_ledger(settings, policy, data)
    state = settings.state_dir
    warnings = warnings_of(settings.trust_bundles, policy.scope)
    resident = Resident(
        settings.number,
        state,
        data,
        policy,
        settings.generator_path,
        settings.device,
        warnings,
        settings.round_limit_s,
        ledger=ledger,
    )
    door = Door(settings.socket_path, user.uid, None if settings.group is None else group_id(settings.group))
    facts = {
        "name": settings.name,
        "trust_bundles": settings.trust_bundles,
        "policy_sha256": sha256(settings.policy),
        "scope": policy.scope,
        "supernode_uid": user.uid,
        "state": str(state),
        "subjects": data.subjects_found(),
        **settings.facts,
    }
    most_bytes = 4 * policy.max_parameters + 2 * wire.MOST_HEADER
    daemon = Daemon(resident, door, facts, most_bytes, start_again=lambda: _start_again(node))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    for warning in warnings:
        logging.getLogger("mpssl_fed.daemon").warning(warning)
    ready = f"site {settings.name} is ready"
    notify(READY)
    print(json_line("INFO", "mpssl_fed.daemon", ready) if settings.log_format == "json" else ready, flush=True)
    if node is not None:
        node.start()
    try:
        daemon.run()
    finally:
        if node is not None:
            node.stop()
    os._exit(0)  # a round in work is abandoned: nothing of it was stored, and its thread would hold the exit up


def _start_again(node: Companion | None) -> None:
    """Become a new process of the same command, in place of one whose training thread is stuck and can be ended by nothing else."""
    logging.getLogger("mpssl_fed.daemon").error(
        "a round is stuck beyond its time limit: the daemon starts anew; what it reserved stays"
    )
    if node is not None:
        node.stop()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _refuse_not_its_own_peer(file: Path, policy: Policy, state: Path) -> None:
    peers, own = policy.secure_aggregation.peers, fingerprint_of(identity_key(state))
    if peers and own not in peers:
        raise UserError(
            f"{file}: secure_aggregation.peers lists {len(peers)} sites and not this one, {own}; list it too, here and "
            "at every peer"
        )


def _refuse_exposed(settings: SiteSettings, user: User, private: Sequence[Path]) -> None:
    if settings.trust_bundles:
        return
    if user.uid in (0, os.geteuid()):
        who = "root" if user.uid == 0 else "the user of this daemon"
        raise UserError(
            f"the SuperNode's user is {who}, so every app bundle that a server sends could read this site's data. Run it as "
            "another user and name that with --supernode-user, or accept it with --trust-bundles"
        )
    head = settings.ledger_head
    found = exposed(user, private if head is None or not head.exists() else [*private, head])
    if found is None and head is not None:
        found = user.can_swap(head)
    if found is not None:
        raise UserError(
            f"the SuperNode's user (uid {user.uid}) can read {found} or replace what is in it; close it (chmod 700 on its folder), "
            "or accept that every app bundle a server sends may do so with --trust-bundles"
        )


def _refuse_replaceable(settings: SiteSettings, user: User, run: Sequence[Path]) -> None:
    """Refuse what this daemon runs or unpickles where the SuperNode's user could put something else in its place."""
    found = None if settings.trust_bundles else replaceable(user, run)
    if found is not None:
        raise UserError(
            f"the SuperNode's user (uid {user.uid}) can change {found}, which this daemon runs: whatever is put there runs as the "
            "owner. Take the right to write from it, or install the toolkit where that user cannot write"
        )
