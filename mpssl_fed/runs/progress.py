"""What a run tells whoever watches it; the command line shows it live, Python callers may pass their own."""

from __future__ import annotations

from typing import Any

from mpssl_fed.config import Config


class Progress:
    """Hears of a run as it goes. This one is silent; a subclass shows something."""

    def start(self, config: Config, folder: str) -> None:
        """A run begins, or goes on, in ``folder``."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def round(self, record: dict[str, Any]) -> None:
        """A round is done; ``record`` is its line of metrics.jsonl. Round 0 is the initial model."""

    def end(self) -> None:
        """The run is over, well or not."""


class Lines(Progress):
    """One plain line a round, for logs and pipes."""

    def __init__(self, write: Any = print) -> None:
        self.write = write
        self.rounds = 0

    def start(self, config: Config, folder: str) -> None:
        """Print where the run goes."""
        self.rounds = config.federation.rounds
        self.write(f"{config.method.name or 'own method'}, {config.federation.sites} sites -> {folder}")

    def note(self, text: str) -> None:
        """Print the note."""
        self.write(text)

    def round(self, record: dict[str, Any]) -> None:
        """Print the round."""
        self.write(f"round {record['round']}/{self.rounds}  {describe(record)}")


def describe(record: dict[str, Any]) -> str:
    """Return a record of metrics.jsonl in words."""
    accuracy, loss = record["test_accuracy"], record["train_loss"]
    words = [
        f"accuracy {accuracy:.4f}" if accuracy is not None else "not evaluated",
        f"loss {loss:.4f}" if loss is not None else "",
        f"{record['seconds']:.1f} s",
    ]
    if record["sites_asked"]:
        words.append(f"{record['sites_answered']}/{record['sites_asked']} sites")
    if record["missing"]:
        words.append(f"{record['missing']} missing")
    if record["rejected"]:
        words.append("left out: " + ", ".join(f"{n} {code}" for code, n in record["rejected"].items()))
    if record.get("failed"):
        words.append("round failed, weights kept")
    return "  ".join(word for word in words if word)
