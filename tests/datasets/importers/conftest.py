"""What the tests of downloads share: a web server that misbehaves."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote_plus

import pytest


@dataclass
class Page:
    """What stands at an address, and how the next requests for it go wrong."""

    content: bytes
    etag: str = '"one"'
    faults: list[str] = field(default_factory=list)
    head_status: int = 200


@dataclass
class Web:
    """The server: pages by name, and what was asked of it."""

    address: str
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def page(self, name: str, content: bytes, faults: list[str] | None = None) -> Page:
        """Put a page at a name."""
        self.pages[name] = Page(content, faults=faults or [])
        return self.pages[name]

    def gets(self) -> list[tuple[str, str | None]]:
        """Names and ranges of what was fetched, in order."""
        return [(name, part) for verb, name, part in self.asked if verb == "GET"]


@pytest.fixture
def web() -> Iterator[Web]:
    """A server on this machine, for one test.

    A page's next fault is one of: `drop N` (the connection ends after N bytes), `ignore range`,
    `status N`, `change` (another file from now on).
    """
    served: list[Web] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            page = self._page("HEAD")
            if page is None or page.head_status != 200:
                self._refuse(page.head_status if page else 404)
                return
            self._headers(200, page, len(page.content))

        def do_GET(self) -> None:
            page = self._page("GET")
            if page is None:
                self._refuse(404)
                return
            fault, _, number = (page.faults.pop(0) if page.faults else "").partition(" ")
            if fault == "change":
                page.content, page.etag = page.content[::-1] + b"!", '"two"'
            if fault == "status":
                self._refuse(int(number))
                return
            start, status = 0, 200
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if asked and fault != "ignore" and self.headers.get("If-Range") == page.etag:
                start, status = int(asked[1]), 206
            body = page.content[start:]
            self._headers(status, page, len(body), start)
            if fault == "drop":
                self.wfile.write(body[: int(number)])
                self.close_connection = True
                return
            self.wfile.write(body)

        def _page(self, verb: str) -> Page | None:
            name = unquote_plus(self.path.lstrip("/"))
            served[0].asked.append((verb, name, self.headers.get("Range")))
            return served[0].pages.get(name)

        def _headers(self, status: int, page: Page, length: int, start: int = 0) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.send_header("ETag", page.etag)
            if status == 206:
                last = len(page.content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(page.content)}")
            self.end_headers()

        def _refuse(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            pass  # the other side hung up, as it may

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.append(Web(f"http://127.0.0.1:{server.server_port}/"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served[0]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
