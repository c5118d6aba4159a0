"""Whether a path gives away what a radiograph's header says about the child."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import permutations

_UID = re.compile(r"[0-9]+([._][0-9]+){5,}")
_DATES = ("%Y%m%d", "%d%m%Y", "%m%d%Y", "%Y%d%m")
_SHORT_DATES = ("%y%m%d", "%d%m%y", "%m%d%y")
_ORDERS = ("ymd", "dmy", "mdy", "ydm")
_GAP = r"[\W_]{1,3}"
# Looked for ahead, so that one begins where another has not ended yet.
_DATE = re.compile(rf"(?<!\d)(?=(\d{{1,4}}){_GAP}(\d{{1,2}}){_GAP}(\d{{1,4}})(?!\d))")
_SPELT_DATE = re.compile(r"(?<!\d)(?=(\d{1,4})[\W_]{0,3}([^\W\d_]{3,10})[\W_]{0,3}(\d{1,4})(?!\d))")
_MONTH_FIRST = re.compile(
    rf"(?<![^\W\d_])(?=([^\W\d_]{{3,10}})[\W_]{{0,3}}(\d{{1,2}}){_GAP}(\d{{2,4}})(?!\d))"
)
# How the months begin in English, German, French, Spanish, Italian and Portuguese, unaccented.
_MONTHS = (
    "jan|ene|gen",
    "feb|fev",
    "mar|mrz|maer",
    "apr|avr|abr",
    "mai|may|mag",
    "jun|juin|giu",
    "jul|juil|lug",
    "aug|aou|ago",
    "sep|set",
    "oct|okt|ott|out",
    "nov",
    "dec|dez|dic",
)
_ANYBODY = re.compile("anon.*|patient|unknown|none|deidentified|removed")
_LONG_ENOUGH = 5  # from here on found anywhere; what is shorter must stand by itself
_MOST_WORDS = 8  # of a name that are paired with one another

# Letters that no accent can be taken from, and how letters are spelt where a keyboard lacks them.
_BARE = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "\u0131": "i"})
_BARE |= str.maketrans({"æ": "ae", "œ": "oe", "ß": "ss", "þ": "th"})
_SPELT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})


@dataclass(frozen=True, slots=True)
class Identity:
    """What a header says about who was filmed, where and when. Never shown, never kept.

    Attributes:
        names: The patient's, as the header writes them (`Doe^John`).
        identifiers: Patient ids, accession numbers.
        uids: Of the radiograph, its series and its study.
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
        identity: What the radiograph's header says.
    """
    apart = re.sub(r"([a-zß-öø-ÿ])([A-ZÀ-ÖØ-Þ])", r"\1 \2", text)  # WuYi is Wu and Yi
    views = [_View.of(folded) for folded in dict.fromkeys((*_foldings(text), *_foldings(apart)))]

    def shown(values: Sequence[str], shows: str) -> bool:
        spellings = 3 if shows == "names" else 1  # numbers are not spelt
        folded = {folding for value in values for folding in _foldings(value)[:spellings]}
        return any(getattr(view, shows)(value) for view in views for value in folded)

    found = {
        "the patient's name": shown(identity.names, "names"),
        "a patient id or accession number": shown(identity.identifiers, "numbers"),
        "a UID": _UID.search(text) is not None or shown(identity.uids, "holds"),
        "a date of birth or examination": any(
            view.dates(day) for view in views for day in set(identity.dates)
        ),
        "the institution": any(
            _squeeze(name) in view.squeezed
            for view in views
            for value in identity.institutions
            for name in _foldings(value)
            if len(_squeeze(name)) > 3
        ),
    }
    return tuple(kind for kind, held in found.items() if held)


def _foldings(text: str) -> tuple[str, ...]:
    """Small letters without accents: of MÜLLER muller and mueller; of MUELLER, too.

    In the last one nobody can tell anymore whether an e, or a second a, once stood for an accent.
    """
    bare = _unaccented(text)
    spelt = _unaccented(unicodedata.normalize("NFKC", text).casefold().translate(_SPELT))
    return bare, spelt, re.sub("(?<=[aou])e|(?<=a)a", "", spelt)


def _unaccented(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()
    return plain.translate(_BARE)


def _squeeze(text: str) -> str:
    return re.sub(r"[\W_]+", "", text)


def _without_zeros(text: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


@dataclass(frozen=True, slots=True)
class _View:
    """A folded path, in its pieces.

    Attributes:
        text: All of it.
        words: Letters and digits that stand together.
        squeezed: All the words in one.
        letters: Letters that stand together.
        digits: Digits that stand together, without leading zeros.
        parts: Names of folders and the file, with and without suffix, each in one word.
    """

    text: str
    words: tuple[str, ...]
    squeezed: str
    letters: tuple[str, ...]
    digits: frozenset[str]
    parts: frozenset[str]

    @classmethod
    def of(cls, text: str) -> _View:
        pieces = re.split(r"[/\\]", text)
        words = tuple(re.findall(r"[^\W_]+", text))
        return cls(
            text=text,
            words=words,
            squeezed="".join(words),
            letters=tuple(re.findall(r"[^\W\d_]+", text)),
            digits=frozenset(_without_zeros(run) for run in re.findall(r"\d+", text)),
            parts=frozenset(_squeeze(part) for p in pieces for part in (p, _stem(p))),
        )

    def holds(self, value: str) -> bool:
        value = _squeeze(value)
        if len(value) >= _LONG_ENOUGH:
            return value in self.squeezed
        return value in self.words if len(value) > 2 else bool(value) and value in self.parts

    def numbers(self, identifier: str) -> bool:
        """Whether it holds an identifier, with or without its leading zeros."""
        if self.holds(identifier):
            return True
        bare = _without_zeros(_squeeze(identifier))
        if bare == "0":  # a stand-in
            return False
        if len(bare) < 3:
            return bool(bare) and bare in {_without_zeros(part) for part in self.parts}
        if bare in self.digits or bare in map(_without_zeros, self.words):
            return True
        return len(bare) >= _LONG_ENOUGH and (
            bare in self.squeezed or bare in _squeeze(_without_zeros(self.text))
        )

    def names(self, name: str) -> bool:
        """Whether it holds a name, whole or one of its words that could be told."""
        return any(self._names(group) for group in name.split("="))  # in Latin and other letters

    def _names(self, name: str) -> bool:
        words = [w for w in re.findall(r"[^\W\d_]+", name) if not _ANYBODY.fullmatch(w)]
        for word in words:
            # Initials and `von` could be anybody's.
            place = self.squeezed if len(word) >= _LONG_ENOUGH else self.letters
            if word in place and (len(word) > 2 or not word.isascii()):
                return True
        family, _, given = name.partition("^")
        if len(_squeeze(family)) == 2 and _squeeze(family) in self.parts:
            return True
        return any(
            whole in self.squeezed
            if len(whole) >= _LONG_ENOUGH or (len(whole) > 2 and not whole.isascii())
            else self._stands(whole)
            for whole in (_squeeze(name), _squeeze(given + family), *_wholes(words))
            if len(whole) > 2
        )

    def _stands(self, whole: str) -> bool:
        """Whether a short name stands there, in one word or in several that follow each other."""
        for start, first in enumerate(self.letters):
            if len(whole) > 3 and (first.startswith(whole) or first.endswith(whole)):
                return True
            joined = ""
            for word in self.letters[start:]:
                joined += word
                if joined == whole:
                    return True
                if not whole.startswith(joined):
                    break
        return False

    def dates(self, day: date) -> bool:
        """Whether it holds a day, however it is written."""
        if any(day.strftime(style) in self.squeezed for style in _DATES):
            return True
        runs = re.findall(r"\d+", self.text)
        if any(day.strftime(style) in runs for style in _SHORT_DATES):
            return True
        for found in _DATE.findall(self.text):
            if any(_is_day(dict(zip(order, found, strict=True)), day) for order in _ORDERS):
                return True
        spelt = [(a, c, month) for a, month, c in _SPELT_DATE.findall(self.text)]
        spelt += [(a, c, month) for month, a, c in _MONTH_FIRST.findall(self.text)]
        return any(
            re.match(_MONTHS[day.month - 1], month)
            and any(
                _is_day({"y": y, "m": str(day.month), "d": d}, day) for y, d in ((a, c), (c, a))
            )
            for a, c, month in spelt
        )


def _is_day(parts: dict[str, str], day: date) -> bool:
    year = parts["y"]
    full = {2: day.year % 100, 4: day.year}.get(len(year))
    return int(year) == full and (int(parts["m"]), int(parts["d"])) == (day.month, day.day)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _wholes(words: Sequence[str]) -> Iterator[str]:
    """Any two words of a name, in either order: family and given name may be several."""
    yield "".join(words)
    yield from ("".join(pair) for pair in permutations(words[:_MOST_WORDS], 2))
