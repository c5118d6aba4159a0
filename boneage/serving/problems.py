"""Problem details (RFC 9457): the form of every error that the server answers with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from http.client import responses

from boneage.errors import Fault
from boneage.serving.asking import Reply

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """A request that can't be answered.

    Attributes:
        status: The HTTP status.
        detail: What is wrong and what to do, in whole sentences.
        headers: Headers of the response.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def is_busy(reason: str) -> ProblemError:
    """Return the problem of a server that can take no more for a moment."""
    return ProblemError(503, f"{reason} Try again in some seconds.", {"Retry-After": "2"})


def problem_body(status: int, detail: str) -> bytes:
    """Return a problem as JSON."""
    title = responses.get(status, "Error")
    values = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return json.dumps(values).encode()


def problem_reply(status: int, detail: str, outcome: str = "failed") -> Reply:
    """Return the reply of a worker for a problem."""
    return Reply(status, MEDIA_TYPE, problem_body(status, detail), outcome)


def in_words(faults: Iterable[Fault]) -> str:
    """Return what is wrong with a user's input, without the name of a file."""
    return " ".join(
        f"{fault.what}{f', but {fault.expected} is expected' if fault.expected else ''}. "
        f"{fault.fix}"
        for fault in faults
    )
