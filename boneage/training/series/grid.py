"""What a sweep varies: the settings that `--grid` and `--seeds` ask for, checked all at once."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from boneage.errors import Fault, InputError
from boneage.recipe import Recipe, read_recipe

_OPENING, _CLOSING = "[{(", "]})"
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Axis:
    """One key of the grid.

    Attributes:
        key: As in `--set`.
        values: Its values as they were written.
    """

    key: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"--grid {self.key}={','.join(self.values)}"


@dataclass(frozen=True)
class Setting:
    """One point of the grid.

    Attributes:
        overrides: `KEY=VALUE` for each key of the grid.
        resolved: What the recipe has for each key then, JSON-ready.
        recipe: That recipe, with the seed of the recipe it was read from.
    """

    overrides: tuple[str, ...]
    resolved: dict[str, Any]
    recipe: Recipe


def read_grid(
    path: Path, overrides: Sequence[str], grid: Sequence[str], seeds: str | None
) -> tuple[Recipe, list[Setting], list[int]]:
    """Reads what a sweep is asked for.

    Args:
        path: The recipe.
        overrides: `KEY=VALUE` for all of them, as `--set` takes them.
        grid: `KEY=VALUE,VALUE,…`; a comma inside brackets or quotes belongs to the value.
        seeds: As in `0,1,2`; the recipe's own if None.

    Returns:
        The recipe without its phantom, every combination of the grid's values, the first key
        changing slowest, and the seeds.

    Raises:
        InputError: A key or value that no recipe has, a key, value or seed given twice: all at
            once.
    """
    recipe = read_recipe(path, overrides)  # what is wrong with it is not the grid's fault
    faults: list[Fault] = []
    chosen = [recipe.seed] if seeds is None else _seeds(seeds, faults)
    axes = [axis for text in grid if (axis := _axis(text, faults)) is not None]
    fixed = {override.partition("=")[0].strip() for override in overrides}
    for place, axis in enumerate(axes):
        if axis.key in {other.key for other in axes[:place]} | fixed:
            faults.append(_twice(str(axis), f"{axis.key} is given before", "Give it once."))
    settings = [] if faults and not axes else _settings(path, overrides, axes, faults)
    if faults:
        raise InputError(list(dict.fromkeys(faults)))
    return recipe.model_copy(update={"phantom": None}), settings, chosen


def _settings(
    path: Path, overrides: Sequence[str], axes: Sequence[Axis], faults: list[Fault]
) -> list[Setting]:
    settings = []
    for values in itertools.product(*(axis.values for axis in axes)):
        chosen = tuple(f"{axis.key}={value}" for axis, value in zip(axes, values, strict=True))
        try:
            recipe = read_recipe(path, (*overrides, *chosen))
        except InputError as error:
            faults += [_blamed(fault, axes, chosen) for fault in error.faults]
        else:
            dumped = recipe.model_dump(mode="json")
            settings.append(Setting(chosen, {a.key: _at(dumped, a.key) for a in axes}, recipe))
    faults += _same_values(axes, settings)
    return settings


def _seeds(text: str, faults: list[Fault]) -> list[int]:
    where = f"--seeds {text}"
    seeds: list[int] = []
    for part in text.split(","):
        written = part.strip()
        if not (written.isascii() and written.isdigit() and int(written) < 2**32):
            what, expected = f"{written!r} is no seed", "whole numbers from 0, as in 0,1,2"
            faults.append(Fault(where, what, "Separate them by commas.", expected=expected))
        elif int(written) in seeds:
            faults.append(_twice(where, f"{written} is given twice", "Leave one out."))
        else:
            seeds.append(int(written))
    return seeds


def setting_names(settings: Sequence[Setting]) -> list[str]:
    """A name of a folder for each: `learning_rate-0.003`, of several keys one after the other.

    Where they would be too long, or two of them alike, `setting-1` and so on.
    """
    names = [_name(setting) for setting in settings]
    if len({*names}) < len(names) or max(map(len, names)) > _LONGEST_NAME:
        return [f"setting-{number}" for number in range(1, len(names) + 1)]
    return names


def _name(setting: Setting) -> str:
    last = [key.rpartition(".")[2] for key in setting.resolved]
    keys = last if len({*last}) == len(last) else list(setting.resolved)
    parts = [
        f"{key}-{_text(value)}" for key, value in zip(keys, setting.resolved.values(), strict=True)
    ]
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", "-".join(parts)).strip("-.")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(_text(item) for item in value) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def _axis(text: str, faults: list[Fault]) -> Axis | None:
    key, equals, values = text.partition("=")
    key, where = key.strip(), f"--grid {text}"
    expected, fix = "section.key=value,value", "Write it as training.learning_rate=1e-3,3e-3."
    if not equals or not key:
        faults.append(Fault(where, "there is no '=' behind a key in it", fix, expected=expected))
        return None
    split = _split(values)
    if not all(split):
        faults.append(Fault(where, "a value in it is empty", fix, expected=expected))
        return None
    if key == "seed":
        faults.append(Fault(where, "seeds are no grid", "Write --seeds 0,1,2.", expected="--seeds"))
        return None
    return Axis(key, tuple(split))


def _split(text: str) -> list[str]:
    """Splits at commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        if character == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _same_values(axes: Sequence[Axis], settings: Sequence[Setting]) -> list[Fault]:
    """Values written differently, or alike, that come out the same: 1e-3 and 0.001."""
    faults = []
    for axis in axes:
        place = axes.index(axis)
        means: dict[str, str] = {}  # written -> what the recipe has
        for setting in settings:
            written = setting.overrides[place].partition("=")[2]
            means[written] = json.dumps(setting.resolved[axis.key])
        seen: dict[str, str] = {}
        for written in axis.values:
            meant = means.get(written)
            if meant is None:  # refused in every combination, and told already
                continue
            if meant in seen:
                first = seen[meant]
                what = f"{written} is given twice"
                if written != first:
                    what = f"{written} is the same value as {first}"
                faults.append(_twice(str(axis), what, "Leave one out."))
            seen.setdefault(meant, written)
    return faults


def _twice(where: str, what: str, fix: str) -> Fault:
    return Fault(where, what, fix, expected="everything once")


def _blamed(fault: Fault, axes: Sequence[Axis], chosen: Sequence[str]) -> Fault:
    """The fault at the key of the grid that it names, else at the combination."""
    for axis in axes:
        if re.search(rf"(?<![\w.]){re.escape(axis.key)}(?![\w.])", fault.what):
            return replace(fault, where=str(axis))
    return replace(fault, where=" ".join(f"--grid {part}" for part in chosen))
