"""The page's own small web server: loopback alone, a token in the address, nothing that changes anything."""

from __future__ import annotations

import hmac
import json
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mpssl_fed.errors import UserError
from mpssl_fed.page import render, style_sheet

HOST = "127.0.0.1"
SCRIPT = Path(__file__).with_name("live.js")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
Pieces = Callable[[], dict[str, str]]


def application(pieces: Pieces, token: str, port: int) -> Starlette:
    """Return the server of one page: four files below /TOKEN/, for requests that name this machine as their host, no other.

    A page elsewhere whose name was made to lead here (DNS rebinding) names another host.
    """
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")} | ({HOST, "localhost"} if port == 80 else set())
    files: dict[str, tuple[str, Callable[[], str]]] = {
        "": ("text/html", lambda: render("live.html")),
        "live.js": ("text/javascript", lambda: SCRIPT.read_text(encoding="utf-8")),
        "style.css": ("text/css", style_sheet),
        "state": ("application/json", lambda: json.dumps(pieces())),
    }

    async def answer(request: Request) -> Response:
        if request.headers.get("host", "").lower() not in hosts:
            return Response("wrong host", 403, HEADERS)
        given, slash, name = request.path_params["path"].partition("/")
        if not (hmac.compare_digest(given.encode(), token.encode()) and slash and name in files):
            return Response("not found", 404, HEADERS)
        kind, make = files[name]
        return Response(await run_in_threadpool(make), 200, HEADERS, kind)

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET"])])


def serve(pieces: Pieces, port: int, tell: Callable[[str], None]) -> None:
    """Tell the page's address and serve it until Ctrl-C or SIGTERM. port: 0 for a free one; UserError for one that is taken."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise UserError(f"--port {port}: nobody can listen there ({error.strerror}); leave it out for a free one") from error
        found, token = int(listener.getsockname()[1]), secrets.token_urlsafe(32)
        settings = uvicorn.Config(
            application(pieces, token, found), http="h11", ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, limit_concurrency=32, timeout_graceful_shutdown=1,
        )  # fmt: skip
        _Telling(settings, lambda: tell(f"http://{HOST}:{found}/{token}/")).run(sockets=[listener])


class _Telling(uvicorn.Server):
    """Tells that it answers, and minds signals, once it does."""

    def __init__(self, config: uvicorn.Config, tell: Callable[[], None]) -> None:
        super().__init__(config)
        self.tell = tell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        self.tell()
