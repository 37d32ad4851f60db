"""What travels: every record of every message of real runs is enumerated; nothing but classifier weights and listed scalars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from clients.app import app
from mpssl_fed.config import from_json
from mpssl_fed.federation import parts
from mpssl_fed.federation.site.state import SiteState
from mpssl_fed.runs.reader import read_history
from mpssl_fed.runs.run_directory import RunDirectory

MP_SSL = (
    "method={name: mp-ssl, batch: 4, lmo_batch: 4, lmo_every: 1, refresh_every: 1, buffer: 1}",
    "federation.sites=2",
    "federation.anchor={weight: 1.0, images: 8, batch: 4}",
)
SCALARS = {"num-examples", "loss", "unsupervised", "gap", "generated", "train_s", "generate_s", "serialise_s"}


class Wire:
    """The real ClientApp with a tap on the line."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, RecordDict]] = []
        self.received: list[tuple[str, RecordDict]] = []

    def __call__(self, message: Message, context: Context) -> Message:
        self.sent.append((message.metadata.message_type, message.content))
        reply = app(message, context)
        self.received.append((message.metadata.message_type, reply.content))
        assert not dict(context.state)  # nothing is left in Flower's hands either
        return reply


@pytest.fixture(scope="module")
def wire(tmp_path_factory: Any) -> tuple[Wire, RunDirectory, str, str]:
    """Return the tapped line of one mp-ssl run, the run, and the generator's hash before and after it."""
    from mpssl_fed.federation.engines.simulation import preflight, simulate
    from mpssl_fed.runs.progress import Progress
    from mpssl_fed.runs.run_directory import open_run
    from tests.federation.conftest import tiny_config

    config = tiny_config(*MP_SSL)
    generator = parts.generator(config)
    assert generator is not None
    before = generator.state_hash()
    tap = Wire()
    preflight(config)
    run = open_run(config, tmp_path_factory.mktemp("egress") / "run")
    simulate(run, lambda: tap, Progress())  # type: ignore[arg-type,return-value]
    return tap, run, before, generator.state_hash()


def test_generator_is_the_same_after_a_run(wire: tuple[Wire, RunDirectory, str, str]) -> None:
    assert wire[2] == wire[3]


def test_only_weights_and_listed_scalars_come_back(wire: tuple[Wire, RunDirectory, str, str]) -> None:
    tap, run, _, _ = wire
    shapes = {key: tuple(value.shape) for key, value in parts.initial_classifier(run.config).shared_state().items()}
    trained = [content for kind, content in tap.received if kind == "train"]
    assert len(trained) == 4
    for content in trained:
        assert set(content) == {"arrays", "metrics"}
        assert _shapes(content["arrays"]) == shapes
        assert isinstance(content["metrics"], MetricRecord)
        assert set(content["metrics"]) == SCALARS
        assert all(isinstance(value, float) for value in content["metrics"].values())
    for content in (content for kind, content in tap.received if kind == "query"):
        assert {key: set(record) for key, record in content.items()} == {"site": {"partition-id", "num-partitions"}}


def test_only_weights_and_the_config_go_out(wire: tuple[Wire, RunDirectory, str, str]) -> None:
    tap, run, _, _ = wire
    shapes = {key: tuple(value.shape) for key, value in parts.initial_classifier(run.config).shared_state().items()}
    asked = [content for kind, content in tap.sent if kind == "train"]
    assert len(asked) == 4
    for content in asked:
        assert set(content) == {"arrays", "config"}
        assert _shapes(content["arrays"]) == shapes
        header = content["config"]
        assert isinstance(header, ConfigRecord)
        assert set(header) == {"protocol", "run-id", "round", "config", "sha256"}
        assert from_json(str(header["config"])) == run.config.model_copy(update={"output": from_json("{}").output})
    for content in (content for kind, content in tap.sent if kind == "query"):
        assert {key: dict(record) for key, record in content.items()} == {"config": {"protocol": 1}}


def test_latents_stay_at_the_site_and_move(wire: tuple[Wire, RunDirectory, str, str]) -> None:
    _, run, _, _ = wire
    state = SiteState(run.sites / "0")
    assert state.rounds(run.run_id) == [1, 2]
    first, second = state.before(run.run_id, 2), state.latest(run.run_id)
    assert first is not None
    assert second is not None
    latents = [key for key in first if "latents" in key]
    assert latents
    assert any(not first[key].equal(second[key]) for key in latents)
    weights = set(parts.initial_classifier(run.config).shared_state())
    assert not weights & set(first)


def test_synthetic_images_and_labels_are_shown_in_simulations(wire: tuple[Wire, RunDirectory, str, str]) -> None:
    from PIL import Image

    _, run, _, _ = wire
    for path in (run.folder / "generator.png", run.sites / "0" / "samples.png", run.sites / "1" / "samples.png"):
        with Image.open(path) as image:
            assert image.convert("L").getextrema()[1] > 0
    assert read_history(run.folder)[2].timings["generate"] > 0


def test_base_reads_no_generator(run_tiny: Callable[..., RunDirectory]) -> None:
    run = run_tiny("federation.rounds=1", "generator.name=biggan", "generator.path=/nowhere")
    assert not (run.folder / "generator.png").exists()


def _shapes(record: Any) -> dict[str, tuple[int, ...]]:
    assert isinstance(record, ArrayRecord)
    assert {array.dtype for array in record.values()} == {"float32"}
    return {key: tuple(array.shape) for key, array in record.items()}
