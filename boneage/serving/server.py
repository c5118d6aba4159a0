"""Listen, answer until a signal comes, then finish what is in progress."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from types import FrameType

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from boneage.serving.guard import MOST_HEAD_BYTES
from boneage.serving.problems import MEDIA_TYPE, problem_body

_DRAIN_SECONDS = 30
_HEAD_SECONDS = 20.0  # for the head of the first request
_NEXT_SECONDS = 60.0  # for the rest of a response, and the head of the next request
_MOST_CONNECTIONS = 900  # below the usual limit of open files


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 in which the head of a request has to come within some seconds."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._arm(_HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(exc)
        self._disarm()

    def handle_events(self) -> None:
        """Stop waiting once a request has come, and the client has read the response before."""
        super().handle_events()
        self._disarm_if_busy()

    def resume_writing(self) -> None:
        """Stop waiting for a client that reads again."""
        super().resume_writing()
        self._disarm_if_busy()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._arm(_NEXT_SECONDS)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is no HTTP, with the status that h11 has for it."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        body = problem_body(status, "The head of the request is too large or is no HTTP/1.1.")
        headers = [("content-type", MEDIA_TYPE), ("content-length", str(len(body)))]
        response = h11.Response(status_code=status, headers=[*headers, ("connection", "close")])
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else a response has begun
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        if self.transport is not None:
            self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _disarm_if_busy(self) -> None:
        is_busy = self.cycle is not None and not self.cycle.response_complete
        if is_busy and not self.flow.write_paused:
            self._disarm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    """A server that ends with the exit code 0 on a signal."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish what is in progress; a second signal ends that."""
        self.force_exit = self.should_exit
        self.should_exit = True


async def serve(app: ASGIApp, listener: socket.socket, when_ready: Callable[[], None]) -> None:
    """Answer until SIGTERM or Ctrl-C, then finish what is in progress.

    Args:
        app: The application.
        listener: Where to listen.
        when_ready: Called when the server listens.
    """
    for name in ("uvicorn.error", "python_multipart"):  # what they say may quote a request
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
    )
    server = _Server(config)
    listening = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not listening.done():
        await asyncio.sleep(0.01)
    if not listening.done():
        when_ready()
    await listening
