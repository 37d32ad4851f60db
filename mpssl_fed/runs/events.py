"""TensorBoard events of a run, where ``output.tensorboard`` asks for them (extra ``[tensorboard]``)."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from mpssl_fed.errors import UserError
from mpssl_fed.runs.rounds import Round

SHOWN = ("test_accuracy", "test_loss", "train_loss", "seconds", "sites_answered")
"""Keys of a line of metrics.jsonl."""


class Events:
    """Writes a round as scalars of its round below ``folder``; a resumed run goes on after its last round.

    Raises UserError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path, next_round: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("output.tensorboard=true needs TensorBoard: pip install 'mpssl-fed[tensorboard]'") from error
        self.writer = SummaryWriter(str(folder), purge_step=next_round)

    def __enter__(self) -> Events:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.writer.close()

    def round(self, record: Round) -> None:
        """Write one record and flush it."""
        line = record.to_json()
        for key in SHOWN:
            if line[key] is not None:
                self.writer.add_scalar(key, line[key], record.number)
        for key, seconds in record.timings.items():
            self.writer.add_scalar(f"seconds/{key}", seconds, record.number)
        self.writer.flush()
