"""Whether a path gives away what a film's header says about the child."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date

_UID = re.compile(r"[0-9]+([._][0-9]+){5,}")
_DATES = ("%Y%m%d", "%d%m%Y", "%m%d%Y")
_SHORT_DATES = ("%y%m%d", "%d%m%y", "%m%d%y")
_ANYBODY = re.compile("anon.*|patient|unknown|none|deidentified|removed")
_LONG_ENOUGH = 5  # from here on found anywhere; what is shorter must stand by itself


@dataclass(frozen=True, slots=True)
class Identity:
    """What a header says about who was filmed, where and when. Never shown, never kept.

    Attributes:
        names: The patient's, as the header writes them (`Doe^John`).
        identifiers: Patient ids, accession numbers.
        uids: Of the film, its series and its study.
        dates: Of birth and of the examination.
        institutions: Where it was.
    """

    names: Sequence[str] = field(default=(), repr=False)
    identifiers: Sequence[str] = field(default=(), repr=False)
    uids: Sequence[str] = field(default=(), repr=False)
    dates: Sequence[date] = field(default=(), repr=False)
    institutions: Sequence[str] = field(default=(), repr=False)


def disclosures(text: str, identity: Identity) -> tuple[str, ...]:
    """What a path holds that tells who the child is, as a message may say it.

    In doubt it does: a path wrongly accused costs one option, one wrongly acquitted a name.

    Args:
        text: The path as it would stand in a manifest or a message.
        identity: What the film's header says.
    """
    plain = _plain(text)
    words = re.findall(r"[^\W_]+", plain)
    letters = set(re.findall(r"[^\W\d_]+", plain))
    squeezed = "".join(words)
    parts = {_squeeze(part) for piece in re.split(r"[/\\]", text) for part in (piece, _stem(piece))}

    def holds(value: str) -> bool:
        value = _squeeze(value)
        if len(value) >= _LONG_ENOUGH:
            return value in squeezed
        return value in words if len(value) > 2 else value in parts

    found = {
        "the patient's name": any(
            word in squeezed if len(word) >= _LONG_ENOUGH else word in letters
            for name in identity.names
            for word in _name_words(name)
        ),
        "a patient id or accession number": any(
            holds(value) for value in identity.identifiers if _squeeze(value)
        ),
        "a UID": _UID.search(text) is not None
        or any(holds(uid) for uid in identity.uids if _squeeze(uid)),
        "a date of birth or examination": any(
            day.strftime(style) in squeezed for day in identity.dates for style in _DATES
        )
        or any(day.strftime(style) in words for day in identity.dates for style in _SHORT_DATES),
        "the institution": any(
            _squeeze(name) in squeezed for name in identity.institutions if len(_squeeze(name)) > 3
        ),
    }
    return tuple(kind for kind, held in found.items() if held)


def _plain(text: str) -> str:
    """Small letters without accents, so that MÜLLER is found in muller and in Mu¨ller."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


def _squeeze(text: str) -> str:
    return re.sub(r"[\W_]+", "", _plain(text))


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _name_words(name: str) -> Iterator[str]:
    """The words of a name that could be told; initials and `von` could be anybody's."""
    for word in re.findall(r"[^\W\d_]+", _plain(name)):
        if (len(word) > 2 or not word.isascii()) and not _ANYBODY.fullmatch(word):
            yield word
    squeezed = _squeeze(name)
    if len(squeezed) >= _LONG_ENOUGH:
        yield squeezed
    family, _, given = name.partition("^")
    turned = _squeeze(given.replace("^", " ") + family)
    if len(turned) >= _LONG_ENOUGH:
        yield turned
