"""A site answers the same message with the same bits, other weights from the latents before, and refuses bad weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mpssl_fed.config import Config, from_mapping, override
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import SentConfig, TrainReply, TrainRequest
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site.client import answer_request
from mpssl_fed.federation.site.site import Site
from mpssl_fed.federation.site.state import FORGOTTEN, KEPT_RUNS, SiteState
from mpssl_fed.federation.weights import to_record
from mpssl_fed.models import Weights

MP_SSL = "method={name: mp-ssl, batch: 4, lmo_batch: 4, lmo_every: 1, refresh_every: 1, buffer: 1}"


@pytest.fixture
def config(tiny: Callable[..., Config]) -> Config:
    return tiny(MP_SSL)


def _ask(config: Config, number: int, weights: Weights, run_id: str = "run1") -> TrainRequest:
    return TrainRequest(SentConfig.of(run_id, config), number, to_record(weights))


def _start(config: Config) -> Weights:
    return parts.initial_classifier(config).shared_state()


def _same(one: TrainReply, other: TrainReply) -> bool:
    return all(torch.equal(one.weights[key], other.weights[key]) for key in one.weights)


def test_the_same_message_gets_the_stored_reply(config: Config, tmp_path: Path) -> None:
    site, start = Site(0, tmp_path), _start(config)
    first = answer_request(site, _ask(config, 1, start))
    latents = SiteState(tmp_path).latest("run1")
    again = answer_request(site, _ask(config, 1, start))
    assert _same(first, again)
    assert again.metrics == first.metrics  # seconds too: nothing was trained
    after = SiteState(tmp_path).latest("run1")
    assert latents is not None
    assert after is not None
    assert all(torch.equal(latents[key], after[key]) for key in latents)


OTHER_SETTINGS = ["method.latent.hidden=3", "optim.lr=0.5", "federation.local_steps=5", "federation.rounds=9", "seed=1"]


@pytest.mark.parametrize("change", OTHER_SETTINGS)
def test_a_run_keeps_its_settings(config: Config, tmp_path: Path, change: str) -> None:
    """Neither a stored reply nor latents are of use to another config; keys that no site reads may change."""
    site, start = Site(0, tmp_path), _start(config)
    first = answer_request(site, _ask(config, 1, start))
    other = from_mapping(override(config.dump(), [change]))
    for number in (1, 2):
        with pytest.raises(Refusal, match="plan"):
            answer_request(site, _ask(other, number, start))
    answer_request(site, _ask(other, 1, start, "run2"))
    unread = from_mapping(override(config.dump(), ["federation.deadline_s=7", "output.dir=elsewhere"]))
    assert _same(first, answer_request(site, _ask(unread, 1, start)))


def test_rounds_of_an_earlier_version_say_no_settings(config: Config, tmp_path: Path) -> None:
    site, start = Site(0, tmp_path), _start(config)
    first = answer_request(site, _ask(config, 1, start))
    (file,) = tmp_path.glob("run1-*.safetensors")
    with safe_open(file, framework="pt") as entry:
        header = {key: value for key, value in entry.metadata().items() if key != "settings"}
    save_file(load_file(file), file, header)
    assert _same(first, answer_request(site, _ask(config, 1, start)))
    answer_request(site, _ask(config, 2, first.weights))


@pytest.mark.parametrize(
    "method", ["{name: vic-gssl, micro_batch: 2}", "{name: mp-ssl, bank: 8}", "{source: no-such-part, loss: scr, name: null}"]
)
def test_what_cannot_be_built_costs_nothing(tiny: Callable[..., Config], tmp_path: Path, method: str) -> None:
    """An honest slip, or a server that wastes budgets: the config is sound by itself, and its parts do not fit together."""
    config = tiny(f"method={method}", "privacy={epsilon: 8, delta: 1.0e-4, public_size: 50, sample_rate: 1.0}")
    with pytest.raises(UserError):
        answer_request(Site(0, tmp_path), _ask(config, 1, _start(config)))
    assert not (tmp_path / "ledger.sqlite").exists()


def test_other_weights_in_the_same_round_train_from_the_latents_before(config: Config, tmp_path: Path) -> None:
    start = _start(config)
    other = {key: value + 0.01 for key, value in start.items()}
    site = Site(0, tmp_path / "a")
    one = answer_request(site, _ask(config, 1, start))
    two = answer_request(site, _ask(config, 2, one.weights))
    changed = answer_request(site, _ask(config, 2, other))
    assert not _same(two, changed)

    fresh = Site(0, tmp_path / "b")
    answer_request(fresh, _ask(config, 1, start))
    assert _same(changed, answer_request(fresh, _ask(config, 2, other)))


def test_a_round_asked_again_later_forgets_what_followed(config: Config, tmp_path: Path) -> None:
    start = _start(config)
    site, state = Site(0, tmp_path), SiteState(tmp_path)
    one = answer_request(site, _ask(config, 1, start))
    answer_request(site, _ask(config, 2, one.weights))
    assert state.rounds("run1") == [1, 2]
    answer_request(site, _ask(config, 1, {key: value * 0.9 for key, value in start.items()}))
    assert state.rounds("run1") == [1]


def test_only_the_last_two_rounds_are_kept_and_older_ones_are_refused(config: Config, tmp_path: Path) -> None:
    site, weights = Site(0, tmp_path), _start(config)
    for number in (1, 2, 3):
        weights = answer_request(site, _ask(config, number, weights)).weights
    assert SiteState(tmp_path).rounds("run1") == [2, 3]
    with pytest.raises(Refusal, match="round-lost"):
        answer_request(site, _ask(config, 1, weights))
    assert SiteState(tmp_path).rounds("run1") == [2, 3]


def test_runs_do_not_share_latents(config: Config, tmp_path: Path) -> None:
    start = _start(config)
    site = Site(0, tmp_path)
    first = answer_request(site, _ask(config, 1, start, "run1"))
    answer_request(site, _ask(config, 2, first.weights, "run1"))
    assert _same(first, answer_request(site, _ask(config, 1, start, "run2")))


def test_the_last_runs_are_kept_and_an_older_one_is_lost_by_its_code(config: Config, tmp_path: Path) -> None:
    """Never unnoticed: without its latents it would train anew, and be charged anew."""
    site, start, state = Site(0, tmp_path), _start(config), SiteState(tmp_path)
    first = answer_request(site, _ask(config, 1, start, "run0"))
    for file in tmp_path.iterdir():
        for number in range(1, KEPT_RUNS):  # as if each had trained; the names alone decide
            shutil.copy2(file, tmp_path / file.name.replace("run0", f"run{number}"))
            os.utime(tmp_path / file.name.replace("run0", f"run{number}"), (number, number))
    os.utime(tmp_path / "run0-000001.safetensors", (0, 0))
    assert _same(first, answer_request(site, _ask(config, 1, start, "run0")))  # eight runs: all are kept, and replies are free
    answer_request(site, _ask(config, 1, start, "new"))
    assert state.rounds("run0") == []
    assert all(state.rounds(f"run{number}") == [1] for number in range(1, KEPT_RUNS))
    for number in (1, 2):
        with pytest.raises(Refusal, match="round-lost"):
            answer_request(site, _ask(config, number, start, "run0"))
    answer_request(site, _ask(config, 2, start, "run1"))  # of use again, it is the newest
    answer_request(site, _ask(config, 1, start, "newer"))
    assert (state.rounds("run1"), state.rounds("run2")) == ([1, 2], [])
    assert (tmp_path / FORGOTTEN).read_text() == "run0\nrun2\n"
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) <= 2 * KEPT_RUNS + 1


def test_what_a_killed_process_left_half_written_goes(config: Config, tmp_path: Path) -> None:
    answer_request(Site(0, tmp_path), _ask(config, 1, _start(config)))
    (tmp_path / ".run1-000002.safetensors.x8s7").write_bytes(b"half")
    SiteState(tmp_path).tidy()
    assert [file.name for file in tmp_path.iterdir()] == ["run1-000001.safetensors"]


def test_sites_differ_and_files_are_private(config: Config, tmp_path: Path) -> None:
    start = _start(config)
    replies = [answer_request(Site(site, tmp_path / str(site)), _ask(config, 1, start)) for site in (0, 1)]
    assert not _same(*replies)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "0").iterdir()} == {0o600}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_before_training(config: Config, tmp_path: Path, value: float) -> None:
    weights = _start(config)
    weights["head.bias"] = torch.full_like(weights["head.bias"], value)
    with pytest.raises(Refusal, match="non-finite"):
        answer_request(Site(0, tmp_path), _ask(config, 1, weights))
    assert not list(tmp_path.iterdir())


def test_weights_of_another_classifier_are_refused(config: Config, tmp_path: Path) -> None:
    weights = _start(config)
    del weights["head.bias"]
    with pytest.raises(Refusal, match="misshapen"):
        answer_request(Site(0, tmp_path), _ask(config, 1, weights))


def test_divergence_is_refused_and_not_stored(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("optim={name: sgd, lr: 1.0e30, schedule: constant, warmup_steps: 0}", "federation.local_steps=4")
    with pytest.raises(Refusal, match="non-finite"):
        answer_request(Site(0, tmp_path), _ask(config, 1, _start(config)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("run_id", ["../../etc", "", "a/b", ".hidden", "x" * 65])
def test_a_run_id_is_no_path(config: Config, tmp_path: Path, run_id: str) -> None:
    with pytest.raises(Refusal, match="malformed"):
        answer_request(Site(0, tmp_path), _ask(config, 1, _start(config), run_id))


def test_size_is_what_weighs(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("data.partition={name: quantity, skew: 1.0}")
    start = _start(config)
    sizes = [answer_request(Site(site, tmp_path / str(site)), _ask(config, 1, start)).examples for site in range(3)]
    assert sizes == [len(share) for share in parts.shares(config)]
    assert sum(sizes) == 60
