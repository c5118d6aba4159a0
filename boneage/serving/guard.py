"""What holds for every request: who may ask, headers, one line in the log, no stack trace."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from boneage.serving.metrics import Metrics
from boneage.serving.problems import MEDIA_TYPE, ProblemError, is_busy, problem_body

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MOST_HEAD_BYTES = 32 * 2**10
"""Bytes of the head of a request."""
_MOST_REQUESTS = 256
_OTHER_SITES = ("cross-site", "same-site")
_DRAIN_SECONDS = 2.0  # for the rest of a body, so that the client reads why it is refused


@dataclass(frozen=True)
class Settings:
    """What an operator chooses.

    Attributes:
        log: Writes a line of the log.
        token: What requests for answers must bring; None if they need nothing.
        hosts: Names that a request may give the server; None for any. Another name is that of a
            page that has made its own name point here.
        largest_upload: Bytes of a file.
        body_bytes: Bytes of all bodies in memory.
        body_pause: Seconds until the next bytes of a body.
        body_seconds: Seconds until the end of a body.
    """

    log: Callable[[str], None]
    token: str | None = None
    hosts: frozenset[str] | None = None
    largest_upload: int = 64 * 2**20
    body_bytes: int = 512 * 2**20
    body_pause: float = 30.0
    body_seconds: float = 90.0


def is_protected(path: str) -> bool:
    """Return whether a path needs the token."""
    return path.startswith("/v1") or path in ("/metrics", "/docs", "/openapi.json")


def problem_response(error: ProblemError) -> Response:
    """Return the response for a problem."""
    body = problem_body(error.status, error.detail)
    return Response(body, error.status, error.headers, MEDIA_TYPE)


class Guard:
    """The outermost part of the application."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, exchange = time.perf_counter(), _Exchange(scope, receive, send)
        self._open += 1
        try:
            try:
                self._check(scope)
                await self._app(scope, exchange.receive, exchange.send)
            except ProblemError as error:
                await problem_response(error)(scope, exchange.receive, exchange.send)
            except Exception as error:
                if exchange.status:  # too late for another response
                    raise
                self._settings.log(f"error: {type(error).__name__}")
                problem = ProblemError(500, "The server has failed at this request.")
                await problem_response(problem)(scope, exchange.receive, exchange.send)
        finally:
            self._open -= 1
            self._record(scope, exchange.status, time.perf_counter() - start)

    def _check(self, scope: Scope) -> None:
        """Refuse who may not ask.

        Raises:
            ProblemError: The token, the name of the server or the origin is wrong, or the headers
                are too long.
        """
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in headers.raw) > MOST_HEAD_BYTES:
            raise ProblemError(431, "The headers are too long.")
        hosts = self._settings.hosts
        if hosts is not None and _host_name(headers.get("host", "")) not in hosts:
            raise ProblemError(421, "This server does not have that name.")
        if not is_protected(scope["path"]):
            return
        if scope["method"] == "POST" and headers.get("sec-fetch-site") in _OTHER_SITES:
            raise ProblemError(403, "Pages of other sites may not ask.")
        if self._open > _MOST_REQUESTS:
            raise is_busy("Too many requests are open.")
        token = self._settings.token
        if token is None:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("latin-1"), token.encode())
        if scheme.lower() != "bearer" or not is_right:
            detail = "The token is missing or wrong. Send it as `Authorization: Bearer TOKEN`."
            raise ProblemError(401, detail, {"WWW-Authenticate": "Bearer"})

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.count_request(method, route, status, seconds)
        self._settings.log(f"{method} {route} {status or 'no response'} {1000 * seconds:.0f} ms")


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        headers = Headers(scope=scope)
        self._is_api = is_protected(scope["path"])
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self._is_read = not has_body
        self.status = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            self._is_read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._add_headers(message)
        elif not (self._is_read or self.status == 408 or message.get("more_body")):
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    def _add_headers(self, message: MutableMapping[str, Any]) -> None:
        message.setdefault("headers", [])
        headers = MutableHeaders(scope=message)
        for name, value in _HEADERS.items():
            headers[name] = value
        headers.setdefault("Cache-Control", "no-store")
        if self._is_api:
            headers["Cache-Control"] = "no-store"
        if not self._is_read:
            headers["Connection"] = "close"

    async def _drain(self) -> None:
        """Let the client send for a moment: else it may never read the response."""
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._is_read:
                    await self.receive()
        except TimeoutError:
            self._is_read = True


def _host_name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    name, _, port = host.rpartition(":")
    return (name if port.isdecimal() else host).strip("[]").lower()
