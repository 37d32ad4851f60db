"""TensorBoard events of a run (extra ``[tensorboard]``), below its folder."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from mpssl_fed.runs.rounds import History
from mpssl_fed.runs.run_directory import RunDirectory


class TensorBoard:
    """Writes numbers as scalars of their round; a resumed run goes on after its last round."""

    def __init__(self, run: RunDirectory, history: History) -> None:
        self._before = history[-1].number
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=self._before)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Write them and flush; not those of rounds before this process."""
        if step <= self._before:
            return
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def end(self, finished: bool) -> None:
        """Close the file; TensorBoard knows no end of a run."""
        self._writer.close()
