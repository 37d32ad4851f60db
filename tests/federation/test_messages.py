"""Messages survive the wire; a broken one is refused with a code that says nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from clients.app import app
from mpssl_fed.codes import Code
from mpssl_fed.config import Config
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import SentConfig, SiteCard, TrainRequest, query
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.weights import to_record


@pytest.fixture
def request_record(tiny: Callable[..., Config]) -> RecordDict:
    config = tiny()
    return TrainRequest(SentConfig.of("run1", config), 3, to_record(parts.initial_classifier(config).shared_state())).to_record()


def test_request_round_trip(tiny: Callable[..., Config], request_record: RecordDict) -> None:
    request = TrainRequest.from_record(request_record)
    assert (request.sent.run_id, request.round) == ("run1", 3)
    assert request.config() == tiny()


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("protocol", 99, "protocol"),
        ("sha256", "0" * 64, "config"),
        ("config", "{}", "config"),
        ("round", "3", "malformed"),
        ("round", True, "malformed"),
        ("run-id", 3, "malformed"),
    ],
)
def test_broken_requests(request_record: RecordDict, key: str, value: Any, code: str) -> None:
    request_record["config"][key] = value  # type: ignore[index]
    with pytest.raises(Refusal, match=code):
        TrainRequest.from_record(request_record)


def test_a_config_that_this_version_does_not_know_is_refused(tiny: Callable[..., Config]) -> None:
    plan = SentConfig("run1", '{"colour":"red"}', "")
    with pytest.raises(Refusal, match="config"):
        TrainRequest(plan, 1, to_record({})).config()


def _call(kind: str, record: RecordDict, **node_config: Any) -> Message:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    context = Context(run_id=1, node_id=2, node_config=node_config, state=RecordDict(), run_config={"config": "never read"})
    return app(Message(record, 2, kind), context)


def test_a_node_without_a_site_says_so_and_no_more() -> None:
    error = _call("query", query()).error
    assert (error.code, error.reason) == (Code.NO_SITE.number, "no-site")


def test_a_failing_site_leaks_nothing(request_record: RecordDict, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("a file where the site wants a folder")
    error = _call("train", request_record, **{"partition-id": 0, "state-dir": str(tmp_path / "state")}).error
    assert (error.code, error.reason) == (Code.SITE_FAILED.number, "site-failed")
    assert "state" in caplog.text  # the owner's own log says what happened


def test_query_tells_the_partition(tmp_path: Path) -> None:
    record = _call("query", query(), **{"partition-id": 4, "num-partitions": 9}).content
    assert SiteCard.from_record(record) == SiteCard(4, 9)
    with pytest.raises(Refusal, match="malformed"):
        SiteCard.from_record(RecordDict({"site": ConfigRecord({"partition-id": "4", "num-partitions": 9})}))
