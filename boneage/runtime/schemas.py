"""Check what is read from JSON files against schemas: keys, types, ranges and finite numbers."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import ConfigDict, Field

from boneage.errors import Fault, InputError
from boneage.runtime.files import read_json

CHANGED = "Was the file edited or mixed up with another one? Restore the original file."

Text = Annotated[str, Field(max_length=10_000)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]


class FileSchema(pydantic.BaseModel):
    """Keys of a JSON object that the project writes.

    Types are not converted. Keys that are not named here are ignored, so files of earlier and
    later versions can be read.
    """

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),  # Pydantic 2.9 warns of a key that begins with `model_`
    )


def read_checked(
    path: Path, schema: type[pydantic.BaseModel], needs: Sequence[str] = ()
) -> dict[str, Any]:
    """Read a JSON file whose keys have the types of a schema.

    Args:
        path: The file.
        schema: The types and ranges of its keys.
        needs: Keys that the schema leaves optional, but the caller needs. An inner key is written
            as in `model.parameters`.

    Returns:
        The values as in the file, with keys that the schema does not name.

    Raises:
        InputError: The file can't be read, or some of its values are missing or wrong. All of them
            are reported.
    """
    return check_values(read_json(path), schema, str(path), needs)


def check_values(
    values: dict[str, Any],
    schema: type[pydantic.BaseModel],
    where: str,
    needs: Sequence[str] = (),
) -> dict[str, Any]:
    """Return values that have the types of a schema; see `read_checked`.

    Raises:
        InputError: Some values are missing or wrong. All of them are reported.
    """
    faults: list[Fault] = []
    try:
        schema.model_validate(values)
    except pydantic.ValidationError as error:
        faults = [_fault(where, detail) for detail in error.errors(include_url=False)]
    for key in needs:
        if _is_missing(values, key):
            faults.append(Fault(where, f"the key {key!r} is missing", CHANGED))
    if faults:
        raise InputError(list(dict.fromkeys(faults)))
    return values


def _is_missing(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, dict) or values.get(part) is None:
            return True
        values = values[part]
    return False


def _fault(where: str, detail: Any) -> Fault:
    key = key_of(detail)
    if detail["type"] == "missing":
        return Fault(where, f"the key {key!r} is missing", CHANGED)
    return Fault(where, f"{key} is {shown(detail['input'])}", CHANGED, expected(detail))


def key_of(detail: Any) -> str:
    """Return the dotted key of an error of pydantic."""
    return ".".join(str(part)[:100] for part in detail["loc"]) or "the content"


def expected(detail: Any) -> str:
    """Return what was expected, from an error of pydantic."""
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    for opening in ("input should be ", "input should "):
        if message.startswith(opening):
            return str(message.removeprefix(opening))
    return f"a valid value ({message})"


def shown(value: Any) -> str:
    """Return any value as short text, however deep, long or large it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python prints no number of more than 4,300 digits
        return "a number of thousands of digits"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
