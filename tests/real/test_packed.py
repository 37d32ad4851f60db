"""A real daemon behind the relays of two nodes: one is sent its weights in one array, the other, as older ones, one by one."""

from __future__ import annotations

from pathlib import Path

from flwr.app import ArrayRecord, Context, Message, MessageType

from clients.app import app
from mpssl_fed.deployment.relay import SOCKET
from mpssl_fed.federation import parts
from mpssl_fed.federation.engines.inprocess import InProcessGrid
from mpssl_fed.federation.messages import SentConfig, TrainReply, TrainRequest
from mpssl_fed.federation.packed import PACKED, is_one
from mpssl_fed.federation.server.collect import Roster, pull
from mpssl_fed.federation.server.deployed_grid import DeployedGrid
from mpssl_fed.federation.server.deployed_run import for_sites
from mpssl_fed.federation.weights import digest, to_record
from tests.patience import PATIENCE_S
from tests.real.sites import RealSite, tiny

OLDER = 2


def test_both_ways_of_sending_weights_give_the_same_bits(tmp_path: Path) -> None:
    config, passed = tiny(), list[tuple[int, bool]]()
    site = RealSite(tmp_path, config)
    site.start("--trust-bundles")

    def node(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if message.metadata.message_type == MessageType.QUERY:
            if context.node_id == OLDER:
                del reply.content["site"][PACKED]  # as the relays of 0.1.0 answer
            return reply
        passed.extend((context.node_id, is_one(one.content["arrays"])) for one in (message, reply))
        return reply

    try:
        grid = DeployedGrid(InProcessGrid(node, [{SOCKET: str(site.socket)} for _ in range(2)]), look_every_s=0)
        assert Roster(grid).sites(PATIENCE_S) == {0: 1}
        start = parts.initial_classifier(config).shared_state()
        content = TrainRequest(SentConfig.of("run1", for_sites(config)), 1, to_record(start)).to_record()
        ids = grid.push_messages([Message(content, one, MessageType.TRAIN) for one in (1, OLDER)])
        replies = [pull(grid, number) for number in list(ids)]
    finally:
        site.stop()
    assert passed == [(1, True), (1, True), (OLDER, False), (OLDER, False)]
    trained = [
        TrainReply.from_record(reply.content, start) for reply in replies if isinstance(reply, Message) and reply.has_content()
    ]
    assert len(trained) == 2
    assert digest(trained[0].weights) == digest(trained[1].weights) != digest(start)
    assert trained[0].metrics == trained[1].metrics
    assert isinstance(content["arrays"], ArrayRecord)
    assert len(content["arrays"]) == len(start)
