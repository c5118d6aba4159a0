"""What is asked of a process that answers, and what it returns: both can be sent as bytes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

Kind = Literal["predict", "explain", "report", "image"]


@dataclass(frozen=True)
class Asked:
    """One request for an uploaded radiograph.

    Attributes:
        kind: `predict` for an answer, `explain` for a heat map, `report` for a DICOM Structured
            Report, `image` for a DICOM Secondary Capture.
        name: The name of the uploaded file, without folders.
        sex: `F` or `M`; None if it is not known.
        chronological_age_months: The age of the child on the day of the radiograph, if known.
        has_pictures: Whether an answer comes with what the page shows.
    """

    kind: Kind
    name: str
    sex: str | None = None
    chronological_age_months: float | None = None
    has_pictures: bool = False

    def to_json(self) -> bytes:
        """Return the request as JSON."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True)
class Reply:
    """What a request is answered with.

    Attributes:
        status: The HTTP status.
        media_type: The media type of the body.
        body: The body: JSON, or a DICOM file.
        outcome: In one word, for counting: `answered`, `refused`, `unreadable` or `failed`.
    """

    status: int
    media_type: str
    body: bytes
    outcome: str
