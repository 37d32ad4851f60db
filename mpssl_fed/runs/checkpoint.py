"""The server's state after a round, in one file that is there whole or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mpssl_fed.errors import UserError, flag
from mpssl_fed.files import parse_json, readable, write_atomic, write_json
from mpssl_fed.models import Weights
from mpssl_fed.runs.rounds import History, Round


@dataclass(frozen=True)
class Checkpoint:
    """Weights, strategy state and history after ``round``; what a resumed run continues from."""

    run_id: str
    round: int
    weights: Weights
    strategy: dict[str, Tensor] = field(default_factory=dict)
    history: History = ()


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``last.safetensors``, and ``best.safetensors`` when this round has the best test accuracy so far.

    ``last.json`` and ``best.json`` repeat round and history for people; nothing reads them back.
    """
    tensors = {f"weights/{key}": value for key, value in checkpoint.weights.items()}
    tensors |= {f"strategy/{key}": value.contiguous() for key, value in checkpoint.strategy.items()}
    state = {"run_id": checkpoint.run_id, "round": checkpoint.round, "history": [one.to_json() for one in checkpoint.history]}
    content = safetensors.torch.save(tensors, {"state": json.dumps(state)})
    names = ["last"] + (["best"] if _is_best(checkpoint.history) else [])
    for name in names:
        write_atomic(folder / f"{name}.safetensors", content)
        write_json(folder / f"{name}.json", state)


def load(path: Path) -> Checkpoint | None:
    """Return the checkpoint in ``path``; None if there is none. UserError for a file that is not one."""
    if not path.is_file():
        return None
    readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            state = parse_json(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        run_id, number = str(state["run_id"]), int(state["round"])
        history = [Round.from_json(entry, f"{path}, round {index}") for index, entry in enumerate(state["history"])]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a checkpoint of this toolkit ({error}); remove it or start with {flag('overwrite')}"
        ) from error
    weights = {key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")}
    strategy = {key.removeprefix("strategy/"): value for key, value in tensors.items() if key.startswith("strategy/")}
    return Checkpoint(run_id, number, weights, strategy, history)


def _is_best(history: History) -> bool:
    last = history[-1].accuracy
    return last is not None and last >= max(one.accuracy for one in history if one.accuracy is not None)
