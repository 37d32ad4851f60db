"""What a simulation of public data keeps in memory changes no bit, and what it writes does not grow with its rounds."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context, Message
from safetensors.torch import load_file

from clients.app import app
from mpssl_fed.config import from_mapping
from mpssl_fed.federation.engines import simulation
from mpssl_fed.federation.site import held, site
from mpssl_fed.federation.site.state import SiteState
from mpssl_fed.runs.run_directory import RunDirectory
from tests.federation.conftest import TINY

Runner = Callable[..., RunDirectory]

SOURCE = ("method={name: p-ssl, batch: 4, buffer: 2}", "federation.rounds=3", "federation.fraction=0.7")


def _end(run: RunDirectory) -> dict[str, object]:
    """Return the trained weights and the latents of each site, by name."""
    found: dict[str, object] = dict(load_file(run.folder / "model.safetensors"))
    for folder in run.sites.iterdir():
        latents = SiteState(folder).latest(run.run_id)
        assert latents
        found |= {f"{folder.name}/{key}": value for key, value in latents.items()}
    return found


def test_memory_changes_no_bit(run_tiny: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept in memory, written and read again as memory is full, or written before each answer: one end."""
    kept = _end(run_tiny(*SOURCE, folder=tmp_path / "kept"))
    monkeypatch.setattr(held, "MOST_BYTES", 0)
    spilled = _end(run_tiny(*SOURCE, folder=tmp_path / "spilled"))
    monkeypatch.setattr(simulation, "can_be_held", lambda _: False)
    written = _end(run_tiny(*SOURCE, folder=tmp_path / "written"))
    assert kept.keys() == spilled.keys() == written.keys()
    for key, value in kept.items():
        assert value.equal(spilled[key]), key  # type: ignore[attr-defined]
        assert value.equal(written[key]), key  # type: ignore[attr-defined]


def test_nothing_is_written_for_a_site_that_keeps_nothing(run_tiny: Runner) -> None:
    assert not list(run_tiny("federation.rounds=3").sites.rglob("*.safetensors"))


@pytest.mark.parametrize("keys", [{"privacy": {"epsilon": 4, "public_size": 50}}, {"federation": {"aggregation": "secure"}}])
def test_what_is_charged_or_masked_is_written_before_it_is_answered(keys: dict[str, dict[str, object]]) -> None:
    federation = {"federation": TINY["federation"] | keys.get("federation", {})}
    assert held.can_be_held(from_mapping(TINY))
    assert not held.can_be_held(from_mapping(TINY | keys | federation))


@pytest.mark.parametrize("words", [(), ("optim.name=sgd", "optim.momentum=0.9"), ("data.labels_per_class=3", "method.batch=7")])
def test_learners_that_stay_change_no_bit(
    run_tiny: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """A learner of labelled images alone stays from round to round, with its batches drawn anew; made anew, it ends the same."""
    made: list[object] = []

    def counted(*args: object) -> object:
        made.append(build(*args))  # type: ignore[arg-type]
        return made[-1]

    build = site.build_site_learner
    monkeypatch.setattr(site, "build_site_learner", counted)
    words = ("method.name=base", "federation.rounds=3", *words)
    kept = load_file(run_tiny(*words, folder=tmp_path / "kept").folder / "model.safetensors")
    once = len(made)
    monkeypatch.setattr(held, "MOST_READY_BYTES", 0)
    anew = load_file(run_tiny(*words, folder=tmp_path / "anew").folder / "model.safetensors")
    assert len(made) - once == 3 * once
    assert all(value.equal(anew[key]) for key, value in kept.items())


def test_the_collector_leaves_what_was_there_alone_while_sites_train(run_tiny: Runner) -> None:
    frozen = []

    def seen(message: Message, context: Context) -> Message:
        frozen.append(gc.get_freeze_count())
        return app(message, context)

    run_tiny(client=seen)
    assert min(frozen) > 100_000
    assert gc.get_freeze_count() == 0
