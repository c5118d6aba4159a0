"""The files of the page, read once: nothing else of the disk can be reached."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response

from boneage.serving.problems import ProblemError

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    tag: str


class PageFiles:
    """The files of the folder `page`."""

    def __init__(self) -> None:
        folder = files("boneage.serving") / "page"
        self._files = dict(_read(folder, "")) if folder.is_dir() else {}

    def respond(self, name: str, request: Request) -> Response:
        """Return a file.

        Raises:
            ProblemError: There is none of this name.
        """
        found = self._files.get(name)
        if found is None:
            raise ProblemError(404, "There is no such page.")
        headers = {"Cache-Control": "no-cache", "ETag": found.tag}
        if found.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(found.content, media_type=found.media_type, headers=headers)


def _read(folder: Traversable, before: str) -> Iterator[tuple[str, _File]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _read(entry, f"{before}{entry.name}/")
        elif kind := _MEDIA_TYPES.get(entry.name.rpartition(".")[2]):
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            yield before + entry.name, _File(content, kind, tag)
