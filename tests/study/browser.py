"""A headless Chromium driven through its DevTools pipe: what a page logged, fetched and shows."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


def find_browser() -> str | None:
    """Return Chromium's path, or None where there is none."""
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def browser_here() -> Iterator[Browser]:
    """Yield a page of Chromium, for a fixture; the test is skipped where there is none."""
    found = find_browser()
    if found is None:
        pytest.skip("no chromium here: pages are not opened in a browser (apt-get install chromium)")
    with Browser(found) as browser:
        yield browser


class Browser:
    """One page. Messages are JSON ended by a zero byte, on the pipes 3 (to the browser) and 4 (from it)."""

    def __init__(self, executable: str, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self.profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        to_read, self.to_write = os.pipe()
        self.from_read, from_write = os.pipe()
        command = [executable, *FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"]
        renumber = f'exec 3<&{to_read} 4>&{from_write} && exec "$@"'
        self.process = subprocess.Popen(
            ["bash", "-c", renumber, "browser", *command],
            pass_fds=(to_read, from_write), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(from_write)
        self.buffer, self.number, self.events = b"", 0, []  # type: bytes, int, list[dict[str, Any]]
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.to_write)
        os.close(self.from_read)
        self.profile.cleanup()

    def open(self, page: Path, dark: bool = False) -> None:
        """Load a file and wait until it has loaded."""
        self.visit(page.absolute().as_uri(), dark)

    def visit(self, address: str, dark: bool = False) -> None:
        """Load what is at an address and wait until it has loaded."""
        self.events.clear()
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._read(time.monotonic() + self.timeout)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def complaints(self) -> list[str]:
        """Return console errors and warnings, exceptions and failed loads since the page was opened."""
        found = [e["params"]["entry"]["text"] for e in self.events if e["method"] == "Log.entryAdded"]
        found += [str(e["params"]) for e in self.events if e["method"] in ("Runtime.exceptionThrown", "Network.loadingFailed")]
        return found + [str(e["params"]["args"]) for e in self.events if e["method"] == "Runtime.consoleAPICalled"]

    def requests(self) -> list[str]:
        """Return the addresses that were fetched since the page was opened, without those inside the page itself."""
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def screenshot(self, file: Path, width: int = 1100) -> None:
        """Write the whole page as a PNG."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        os.write(self.to_write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self.timeout
        while True:
            answer = self._read(end)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _read(self, end: float) -> dict[str, Any]:
        """Return the next message; events are kept."""
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.from_read], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self.from_read, 1 << 20) if ready else b""
            if not chunk:
                raise TimeoutError("the browser did not answer in time" if not ready else "the browser has gone")
            self.buffer += chunk
        raw, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        if "method" in message:
            self.events.append(message)
        return message
