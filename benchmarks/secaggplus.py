"""Rounds of Flower's own SecAgg+, of its legacy workflow, to measure beside ours: its modifier at the sites, its workflow above."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
from flwr.common import FitRes, Parameters, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.typing import Code, Status
from flwr.compat.common import recorddict_compat as compat
from flwr.server.client_manager import SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation import SecAggPlusWorkflow
from flwr.serverapp import Grid

RANGE = 8.0
"""Its default clipping range."""


class Handed(FedAvg):
    """Takes the opened sum as it comes: FedAvg would average n copies of it, which is no part of the protocol."""

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Return what every result holds by then."""
        return results[0][1].parameters, {}


def site(message: Message, context: Context, arrays: list[np.ndarray], size: int) -> Message:
    """Answer one message of the protocol at a site that trained to ``arrays``."""

    def trained(asked: Message, _: Context) -> Message:
        result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), size, {})
        return Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=asked)

    parts = {key: ConfigRecord(dict(one)) if isinstance(one, ConfigRecord) else one for key, one in message.content.items()}
    message.content = RecordDict(parts)  # the modifier takes its own out, and one content goes to all
    return secaggplus_mod(message, context, trained)


def after_keys(message: Message) -> bool:
    """Whether ``message`` comes after the exchange of keys."""
    return message.content.config_records[RECORD_KEY_CONFIGS].get(Key.STAGE) not in (Stage.SETUP, Stage.SHARE_KEYS)


def round_of(grid: Grid, start: list[np.ndarray], shares: int, threshold: int) -> list[np.ndarray]:
    """Run one round and return the mean of the sites that stayed. shares: of each secret; one a site: the graph is complete."""
    manager = SimpleClientManager()
    nodes = list(grid.get_node_ids())
    for node in nodes:
        manager.register(GridClientProxy(node, grid, 1))
    strategy = Handed(fraction_fit=1.0, min_fit_clients=len(nodes), min_available_clients=len(nodes))
    context = LegacyContext(Context(1, 0, {}, RecordDict(), {}), strategy=strategy, client_manager=manager)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    parameters: Parameters = ndarrays_to_parameters(start)
    context.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(parameters, keep_input=True)
    SecAggPlusWorkflow(1.0 if shares == len(nodes) else shares, threshold, clipping_range=RANGE)(grid, context)
    record = context.state.array_records[MAIN_PARAMS_RECORD]
    return parameters_to_ndarrays(compat.arrayrecord_to_parameters(record, keep_input=True))
