"""Read the form of a request in memory: one file, and what is known of the child."""

from __future__ import annotations

import asyncio
import math
import re
import unicodedata
from collections.abc import AsyncIterator, Mapping
from datetime import date

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from boneage.radiographs.chronological_age import OLDEST_MONTHS, months_between
from boneage.serving.asking import Asked, Kind
from boneage.serving.guard import Settings
from boneage.serving.problems import ProblemError, is_busy

FIELDS = ("sex", "chronological_age_months", "birth_date", "study_date", "pictures")
_LONGEST_NAME = 200
_LONGEST_VALUE = 2**10  # bytes of a field
_FORM_BYTES = 16 * 2**10  # what the form may have besides the file
_DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SEXES = {"": None, "F": "F", "M": "M"}


class BodyBudget:
    """Counts the bytes of the bodies that are held in memory."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.left = settings.body_bytes


class Held:
    """The bytes that one request holds; leaving the block gives them back."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget, self._size = budget, 0

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *error: object) -> None:
        self._budget.left += self._size

    def take(self, size: int) -> None:
        """Count bytes.

        Raises:
            ProblemError: The body is too large, or all of them are.
        """
        if self._size + size > self._budget.settings.largest_upload + _FORM_BYTES:
            raise _too_large(self._budget.settings.largest_upload)
        if size > self._budget.left:
            raise is_busy("Too many files are being uploaded.")
        self._budget.left -= size
        self._size += size


class _MemoryParser(MultiPartParser):
    spool_max_size = 2**40  # nothing is written to a disk


async def read_upload(
    request: Request, kind: Kind, budget: BodyBudget, held: Held
) -> tuple[Asked, bytes]:
    """Return what is asked, and the content of the file.

    Raises:
        ProblemError: The form is none, too large or too slow, or a field of it is wrong.
    """
    media_type = request.headers.get("content-type", "")
    if media_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise ProblemError(415, "Send a form as multipart/form-data, with the file in `image`.")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > budget.settings.largest_upload + _FORM_BYTES:
        raise _too_large(budget.settings.largest_upload)
    parser = _MemoryParser(
        request.headers,
        _chunks(request, budget, held),  # type: ignore[arg-type]  # any iterator is enough
        max_files=1,
        max_fields=len(FIELDS),
        max_part_size=_LONGEST_VALUE,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ProblemError(400, f"The form can't be read. {error.message}") from None
    except ValueError:  # of an odd charset, or of a form that Starlette before 1.10 can't refuse
        raise ProblemError(400, "The form can't be read. Send it in UTF-8.") from None
    try:
        content, name, fields = await _read_form(form)
    finally:
        await form.close()
    if not content:
        raise ProblemError(422, "There is no radiograph. Send a file in the field `image`.")
    return _asked(kind, name, fields), content


async def _read_form(form: FormData) -> tuple[bytes, str, dict[str, str]]:
    """Return the content of the file, its name, and the fields."""
    fields: dict[str, str] = {}
    content, name = b"", ""
    for key, value in form.multi_items():
        if isinstance(value, UploadFile) and key == "image":
            content, name = await value.read(), safe_name(value.filename or "")
        elif isinstance(value, str) and key in FIELDS and key not in fields:
            fields[key] = value.strip()
        elif key != "image" or value:  # a browser sends an empty image if no file is chosen
            known = ", ".join(("image", *FIELDS))
            raise ProblemError(422, f"A field is unknown, or there twice. Known are {known}.")
    return content, name, fields


def _asked(kind: Kind, name: str, fields: Mapping[str, str]) -> Asked:
    sex = fields.get("sex", "")
    if sex not in _SEXES:
        raise ProblemError(422, "The sex is unknown. Write F, M, or nothing if it is not known.")
    pictures = fields.get("pictures", "")
    if pictures not in ("", "true", "false"):
        raise ProblemError(422, "The field pictures is wrong. Write true or false.")
    return Asked(kind, name, _SEXES[sex], _age(fields), pictures == "true")


def _age(fields: Mapping[str, str]) -> float | None:
    """Return the chronological age in months, from the age itself or from dates."""
    words = [
        fields.get(key, "") for key in ("chronological_age_months", "birth_date", "study_date")
    ]
    age, born, examined = words
    if not any(words):
        return None
    if age and (born or examined):
        raise ProblemError(422, "Give the chronological age in months or two dates, not both.")
    months = _number(age) if age else _months(born, examined)
    if not 0 <= months <= OLDEST_MONTHS:
        detail = f"A chronological age of {months:g} months is impossible. "
        raise ProblemError(422, detail + f"Give months, from 0 to {OLDEST_MONTHS}.")
    return months


def _number(text: str) -> float:
    try:
        number = float(text) if text.isascii() else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ProblemError(422, "The chronological age is no number. Give months, such as 118.5.")
    return number


def _months(born: str, examined: str) -> float:
    if not (born and examined):
        raise ProblemError(422, "One date is missing. Give both birth_date and study_date.")
    days = []
    for text in (born, examined):
        try:  # Python knows more forms of a date than this one
            days.append(date.fromisoformat(text if _DATE.fullmatch(text) else ""))
        except ValueError:
            raise ProblemError(422, "A date is wrong. Write it as 2014-08-26.") from None
    months = months_between(*days)
    if months < 0:
        raise ProblemError(422, "The birth is after the radiograph. Check the two dates.")
    return float(round(months))


def safe_name(name: str) -> str:
    """Return the last part of the name of a file, without control characters."""
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(char for char in last if unicodedata.category(char)[0] != "C").strip()
    return shown[-_LONGEST_NAME:] if shown.strip(".") else "radiograph"


async def _chunks(request: Request, budget: BodyBudget, held: Held) -> AsyncIterator[bytes]:
    """Yield the body, which must not come too slowly."""
    stream = request.stream()
    loop = asyncio.get_running_loop()
    end = loop.time() + budget.settings.body_seconds
    while True:
        seconds = min(budget.settings.body_pause, end - loop.time())
        try:
            chunk = await asyncio.wait_for(anext(stream), max(0.0, seconds))
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ProblemError(408, "The file came too slowly. Send it once more.") from None
        except ClientDisconnect:
            raise ProblemError(499, "The connection ended before the form did.") from None
        held.take(len(chunk))
        yield chunk


def _too_large(largest: int) -> ProblemError:
    return ProblemError(413, f"The file is too large. At most {largest // 2**20} MiB are allowed.")
