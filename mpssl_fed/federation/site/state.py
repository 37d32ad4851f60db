"""What lives at a site between rounds: latents before and after a round, and the update it released."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from mpssl_fed.federation.messages import TableReply, TrainReply
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.files import write_atomic
from mpssl_fed.reply_metrics import CONFUSION

State = dict[str, Tensor]
KEPT, KEPT_RUNS = 2, 8
"""Rounds kept of a run: the server may ask for its last round again after a crash, and for the one before if it lost a checkpoint.
Runs that are kept, by their last round: one that trained before all of them is over, and is answered by a code."""

FORGOTTEN, MOST_FORGOTTEN = "forgotten", 100_000
"""A file with the run ids, one a line, whose rounds were dropped, and how many it holds."""

TABLE = "table-after-"
"""What the name of a stored table has before the number of its round."""

MOST_NUMBERED = 1000
"""Rounds of a run whose numbers are kept."""


@dataclass(frozen=True)
class Entry:
    """One trained round: (run, round, hash of the global weights) -> latents before and after, and the reply (None: it is trained
    again when it is asked for).

    numbers: what the learner tells of its source beside what leaves; settings: what the run's later rounds have to say too.
    """

    run_id: str
    round: int
    weights_sha256: str
    before: State
    after: State
    reply: TrainReply | None
    numbers: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


class SiteState:
    """The entries of one site, one safetensors file per round, written whole or not at all; 0600."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rounds(self, run_id: str) -> list[int]:
        """Return the rounds of ``run_id`` that are stored, ascending."""
        return self._numbered(run_id, "")

    def require(self, run_id: str, settings: Mapping[str, Any]) -> None:
        """Raise Refusal ``plan`` where the rounds of ``run_id`` were trained under other settings; a key that they know nothing of
        (another version wrote them) may have any value."""
        files = [self._path(run_id, number) for number in self.rounds(run_id)[-1:]]
        files += [self._table_path(run_id, number) for number in self._tables(run_id)[-1:]]
        if not files:
            return
        with safe_open(files[0], framework="pt") as file:
            known = json.loads(file.metadata().get("settings", "{}"))
        asked = json.loads(json.dumps(settings))
        if any(known[key] != value for key, value in asked.items() if key in known):
            raise Refusal("plan")

    def stored_reply(self, run_id: str, number: int, weights_sha256: str) -> TrainReply | None:
        """Return the reply already given to this very message, unaltered; None if there was none."""
        path = self._path(run_id, number)
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            if header["run"] != run_id or header["weights_sha256"] != weights_sha256 or "metrics" not in header:
                return None
            weights = {key.removeprefix("update/"): file.get_tensor(key) for key in file.keys() if key.startswith("update/")}  # noqa: SIM118
        return TrainReply(weights, json.loads(header["metrics"]))

    def stored_table(self, run_id: str, number: int, weights_sha256: str) -> TableReply | None:
        """Return the table already given for these weights after round ``number``, unaltered; None if there was none."""
        path = self._table_path(run_id, number)
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            if header["run"] != run_id or header["weights_sha256"] != weights_sha256:
                return None
            return TableReply(file.get_tensor(CONFUSION), float(header["noise_std"]))

    def save_table(self, run_id: str, number: int, weights_sha256: str, reply: TableReply, settings: Mapping[str, Any]) -> None:
        """Store what an evaluation after round ``number`` released; of a run, the tables of the last two such rounds stay."""
        header = {
            "run": run_id,
            "round": str(number),
            "weights_sha256": weights_sha256,
            "noise_std": repr(reply.noise_std),
            "settings": json.dumps(settings),
        }
        content = safetensors.torch.save({CONFUSION: _plain(reply.counts)}, header)
        write_atomic(self._table_path(run_id, number), content, mode=0o600)
        for earlier in [one for one in self._tables(run_id) if one < number][: 1 - KEPT]:
            self._table_path(run_id, earlier).unlink()
        self._forget_old_runs()

    def before(self, run_id: str, number: int) -> State | None:
        """Return the latents to start round ``number`` from; None for a site that never trained in this run.

        Refusal ``round-lost`` where only later rounds are left, whose latents have seen what came after, or where the run gave
        way to later ones.
        """
        stored = self.rounds(run_id)
        if number in stored:
            return self._part(run_id, number, "before/")
        earlier = [r for r in stored if r < number]
        if earlier:
            return self._part(run_id, earlier[-1], "after/")
        if stored or run_id in self._forgotten():
            raise Refusal("round-lost")
        return None

    def latest(self, run_id: str) -> State | None:
        """Return the latents after the last round trained; None for a site that never trained."""
        stored = self.rounds(run_id)
        return self._part(run_id, stored[-1], "after/") if stored else None

    def numbers(self, run_id: str) -> dict[int, dict[str, float]]:
        """Return what the learner told of each round of ``run_id`` that led to the last one, ascending; they stay at the site."""
        stored = self.rounds(run_id)
        return self._numbers(run_id, stored[-1]) if stored else {}

    def save(self, entry: Entry, durable: bool = True) -> None:
        """Store ``entry``; then drop later rounds (they followed from what it replaces), all but the last two, and old runs.

        durable: whether it has to outlive a loss of power.
        """
        parts = {"before/": entry.before, "after/": entry.after, "update/": entry.reply.weights if entry.reply else {}}
        tensors = {prefix + key: _plain(value) for prefix, part in parts.items() for key, value in part.items()}
        header = {
            "run": entry.run_id,
            "round": str(entry.round),
            "weights_sha256": entry.weights_sha256,
            **({"metrics": json.dumps(entry.reply.metrics)} if entry.reply else {}),
            "numbers": json.dumps(self._numbers_with(entry)),
            "settings": json.dumps(entry.settings),
        }
        write_atomic(self._path(entry.run_id, entry.round), safetensors.torch.save(tensors, header), 0o600, durable)
        stored = self.rounds(entry.run_id)
        kept = [r for r in stored if r <= entry.round][-KEPT:]
        for number in set(stored) - set(kept):
            self._path(entry.run_id, number).unlink()
        self._forget_old_runs()

    def tidy(self) -> None:
        """Remove what a process that was killed while it wrote left behind; no other may write meanwhile."""
        for part in self.folder.glob(".*.safetensors.*"):
            part.unlink(missing_ok=True)

    def _forget_old_runs(self) -> None:
        """Drop all but the last KEPT_RUNS runs; first their names go on record, so that none of them starts anew unnoticed."""
        files: dict[str, list[Path]] = {}
        for file in sorted(self.folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns, reverse=True):
            files.setdefault(file.name.partition("-")[0], []).append(file)
        gone = list(files)[KEPT_RUNS:]
        if gone:
            names = [*self._forgotten(), *gone][-MOST_FORGOTTEN:]
            write_atomic(self.folder / FORGOTTEN, "".join(f"{name}\n" for name in names), mode=0o600)
        for name in gone:
            for file in files[name]:
                file.unlink()

    def _forgotten(self) -> list[str]:
        file = self.folder / FORGOTTEN
        return file.read_text(encoding="ascii").splitlines() if file.is_file() else []

    def _numbers_with(self, entry: Entry) -> dict[int, dict[str, float]]:
        """Return the numbers of the rounds before ``entry`` and its own, without those that are not finite."""
        earlier = [number for number in self.rounds(entry.run_id) if number < entry.round]
        found = self._numbers(entry.run_id, earlier[-1]) if earlier else {}
        own = {key: float(f"{value:.6g}") for key, value in entry.numbers.items() if math.isfinite(value)}
        return dict([*found.items(), *([(entry.round, own)] if own else [])][-MOST_NUMBERED:])

    def _numbers(self, run_id: str, number: int) -> dict[int, dict[str, float]]:
        with safe_open(self._path(run_id, number), framework="pt") as file:
            found = json.loads(file.metadata().get("numbers", "{}"))  # version 0.1 wrote none
        return {int(key): value for key, value in found.items()}

    def _part(self, run_id: str, number: int, prefix: str) -> State:
        with safe_open(self._path(run_id, number), framework="pt") as file:
            return {key.removeprefix(prefix): file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118

    def _tables(self, run_id: str) -> list[int]:
        """Return after which rounds of ``run_id`` tables are stored, ascending."""
        return self._numbered(run_id, TABLE)

    def _numbered(self, run_id: str, kind: str) -> list[int]:
        pattern = re.compile(rf"{re.escape(_stem(run_id))}-{kind}(\d+)\.safetensors")
        if not self.folder.is_dir():
            return []
        return sorted(int(match[1]) for file in self.folder.iterdir() if (match := pattern.fullmatch(file.name)))

    def _table_path(self, run_id: str, number: int) -> Path:
        return self.folder / f"{_stem(run_id)}-{TABLE}{number:06d}.safetensors"

    def _path(self, run_id: str, number: int) -> Path:
        return self.folder / f"{_stem(run_id)}-{number:06d}.safetensors"


def _stem(run_id: str) -> str:
    """Return the part of a file name that stands for a run; a run id is text from outside."""
    if not re.fullmatch(r"[A-Za-z0-9_.]{1,64}", run_id) or run_id.startswith("."):
        raise Refusal("malformed")
    return run_id


def snapshot(state: Mapping[str, Tensor]) -> State:
    """Return CPU copies of ``state`` that later training cannot change."""
    return {key: _plain(value).clone() for key, value in state.items()}


def _plain(value: Tensor) -> Tensor:
    return value.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
