"""Problem details (RFC 9457): the form of every error that the server answers with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from boneage.errors import InputError

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = "2"


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


def is_busy(detail: str) -> ProblemError:
    """Return the problem of a server that can take no more for a moment."""
    return ProblemError(503, detail, {"Retry-After": RETRY_SECONDS})


def title_of(status: int) -> str:
    """Return the words of an HTTP status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem_body(status: int, detail: str) -> bytes:
    """Return a problem as JSON."""
    title = title_of(status)
    values = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return json.dumps(values).encode()


def in_words(error: InputError) -> str:
    """Return what is wrong with a user's input, without the name of a file."""
    return " ".join(
        f"{fault.what}{f'; expected {fault.expected}' if fault.expected else ''}. {fault.fix}"
        for fault in error.faults
    )
