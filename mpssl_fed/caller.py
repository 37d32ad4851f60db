"""What a caller of the Python API has set in torch and in logging: nothing here works by it, and all of it is there afterwards."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

DEVICES = ("cpu", "cuda", "mps")


class Shared:
    """A setting of the whole process that several threads need at once: the first sets it, the last puts back what was there.

    Were each thread to put back what it found, the last one would leave what the first had set.
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[Any]]) -> None:
        self._setting, self._lock, self._users = setting, threading.Lock(), 0
        self._held = ExitStack()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the setting."""
        with self._lock:
            if self._users == 0:
                self._held.enter_context(self._setting())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._held.close()


@contextmanager
def _of_process() -> Iterator[None]:
    import torch  # here: the API is imported without it

    root = logging.getLogger()
    dtype, threads, handlers, level = torch.get_default_dtype(), torch.get_num_threads(), list(root.handlers), root.level
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        for handler in [one for one in root.handlers if one not in handlers]:  # Opacus sets up logging as it is imported
            root.removeHandler(handler)
        root.setLevel(level)


_PROCESS = Shared(_of_process)


@contextmanager
def apart_from_caller() -> Iterator[None]:
    """Work in float32 on the CPU unless told otherwise, with gradients and without autocast, whatever the caller's torch is set to.

    Its default dtype and device, ``no_grad``, ``inference_mode`` and ``autocast`` around the call do not reach in; they, its
    number of threads and the handlers of its root logger are afterwards what they were. Works as a decorator, too.
    """
    import torch

    with ExitStack() as own:
        own.enter_context(_PROCESS.held())
        own.enter_context(torch.inference_mode(False))
        own.enter_context(torch.enable_grad())
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                own.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device() != torch.device("cpu"):
            own.enter_context(torch.device("cpu"))
        yield
