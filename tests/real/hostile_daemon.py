"""A site that means harm, as a process: NaN, then wrong shapes, then numbers of 1e30, then the global weights times -1."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mpssl_fed.deployment import wire
from mpssl_fed.deployment.daemon import Daemon, Door


class Hostile:
    """Stands where a Resident would."""

    hung = False

    def __init__(self, number: int) -> None:
        self.number = number

    def train(self, body: bytes) -> bytes:
        arrays, header = wire.unpack(body, "request")
        number = json.loads(header)["round"]
        key = next(iter(arrays))
        if number == 1:
            arrays[key] = np.full_like(arrays[key], np.nan)
        elif number == 2:
            arrays[key] = np.zeros((3, 3), dtype=np.float32)
        elif number == 3:
            arrays = {name: np.full_like(value, 1e30) for name, value in arrays.items()}
        else:
            arrays = {name: -value for name, value in arrays.items()}
        return wire.pack(arrays, "metrics", {"num-examples": 1.0})

    evaluate = secure = train

    def status(self) -> dict[str, Any]:
        return {}


if __name__ == "__main__":
    Daemon(Hostile(int(sys.argv[2])), Door(Path(sys.argv[1]), 0), {}).run()  # type: ignore[arg-type]
