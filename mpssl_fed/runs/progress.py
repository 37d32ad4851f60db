"""What a run tells whoever watches it; the command line shows it live, Python callers may pass their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from mpssl_fed.config import Config
from mpssl_fed.runs import at_sites
from mpssl_fed.runs.rounds import Round

T = TypeVar("T")


class Progress:
    """Hears of a run as it goes. This one is silent; a subclass shows something."""

    def start(self, config: Config, folder: str) -> None:
        """A run begins, or goes on, in ``folder``."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def round(self, record: Round) -> None:
        """A round is done; round 0 is the initial model."""

    def step(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of a part of the work are done: of a warm start, or of a site in a round."""

    def end(self) -> None:
        """The run is over, well or not."""


class RoundSteps:
    """Tells a Progress how far a round is: its sites one after the other, each with its steps where they run in this process."""

    def __init__(self, progress: Progress, number: int, sites: int) -> None:
        self.progress, self.number, self.sites, self.answered = progress, number, sites, 0

    def __call__(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of the site that is at work are done."""
        self.progress.step(f"round {self.number}, site {min(self.answered + 1, self.sites)} of {self.sites}", done, total)

    def after(self, read: Callable[[Any], T]) -> Callable[[Any], T]:
        """Return ``read``, which reads a site's reply, and count the replies."""

        def counting(reply: Any) -> T:
            self.answered += 1
            self.progress.step(f"round {self.number}, sites that answered", self.answered, self.sites)
            return read(reply)

        return counting


SILENCE_S, LONGEST_SILENCE_S = 10.0, 60.0
"""How long :class:`Lines` prints nothing while it is told of steps: at first, and, each time twice as long, at most."""


class Lines(Progress):
    """One plain line per round, and one now and then within a longer one, for logs and pipes."""

    def __init__(self, write: Any = print, clock: Callable[[], float] = time.monotonic) -> None:
        self.write, self.clock = write, clock
        self.rounds = 0
        self.printed, self.silence = clock(), SILENCE_S

    def start(self, config: Config, folder: str) -> None:
        """Print where the run goes."""
        self.rounds = config.federation.rounds
        self._print(f"{config.method.name or 'own method'}, {config.federation.sites} sites -> {folder}")

    def note(self, text: str) -> None:
        """Print the note."""
        self._print(text)

    def round(self, record: Round) -> None:
        """Print the round, and what the sites told of the model after it."""
        self._print(f"round {record.number}/{self.rounds}  {describe(record)}")
        for line in () if record.at_sites is None else at_sites.lines(record.number, record.at_sites):
            self._print(line)

    def step(self, what: str, done: int, total: int) -> None:
        """Print how far the work is, where nothing has been printed for a while."""
        if self.clock() - self.printed >= self.silence:
            self._print(f"{what}: {done} of {total}", min(2 * self.silence, LONGEST_SILENCE_S))

    def _print(self, text: str, silence: float = SILENCE_S) -> None:
        self.write(text)
        self.printed, self.silence = self.clock(), silence


def describe(record: Round) -> str:
    """Return a round in words."""
    words = [
        f"accuracy {record.accuracy:.4f}" if record.accuracy is not None else "not evaluated",
        f"loss {record.train_loss:.4f}" if record.train_loss is not None else "",
        f"{record.seconds:.1f} s",
    ]
    if record.asked:
        words.append(f"{record.answered}/{record.asked} sites")
    if record.missing:
        words.append(f"{record.missing} missing")
    if record.rejected:
        words.append("left out: " + ", ".join(record.left_out()))
    if record.failed:
        words.append("round failed, weights kept")
    return "  ".join(word for word in words if word)
