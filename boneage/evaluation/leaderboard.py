"""The leaderboard of `experiments/README.md`, made from the results that are committed.

Only what was scored on the same images stands in one table, below the median by sex of the images
that it was trained on, which needs no radiograph.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boneage.errors import Fault, InputError
from boneage.recipe import changed_settings, read_recipe, recipe_from_values
from boneage.runtime.files import read_json, write_text

BEGIN = "<!-- leaderboard: made by `boneage leaderboard`, not by hand -->"
END = "<!-- end of the leaderboard -->"

_SPLITS = ("val", "test")
_OF_A_RUN = {"seed", "seconds", "model", "provenance", "manifest", "recipe", "metrics"}
_COLUMNS = (
    *("experiment", "result", "differs from the recipe by", "validation MAE", "test MAE"),
    *("parameters", "fit", "device", "commit"),
)


@dataclass(frozen=True)
class Result:
    """One committed result of a run.

    Attributes:
        path: The file.
        values: What it holds.
        changed: Settings that are not those of the experiment's recipe, as `--set` takes them, and
            what it was begun with.
    """

    path: Path
    values: dict[str, Any]
    changed: tuple[str, ...]

    @property
    def experiment(self) -> str:
        """The name of the experiment's folder."""
        return self.path.parent.parent.name

    @property
    def images(self) -> tuple[Any, ...]:
        """The same for results on the same images: counts, and what guessing is off by on them."""
        manifest = self.values["manifest"]
        counts = tuple(sorted(manifest["counts"].items()))
        guesses = tuple(_value(_guess(self.values, split)) for split in _SPLITS)
        return manifest["source"], counts, guesses


def leaderboard(experiments: Path) -> str:
    """Makes the tables: Markdown, without the marks around them.

    Rows are in the order of their validation MAE: validation selects, test reports.

    Args:
        experiments: The folder of the experiments.

    Raises:
        InputError: A result or a recipe can't be read.
    """
    results = read_results(experiments)
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(result.images, []).append(result)
    ordered = sorted(groups.values(), key=_group_order)
    parts = [_group(group, experiments) for group in ordered]
    return "\n\n".join([*parts, *_not_run(experiments, {each.experiment for each in results})])


def write_leaderboard(experiments: Path) -> Path:
    """Puts the tables between the marks in the experiments' README.md.

    Returns:
        The page.

    Raises:
        InputError: There is no such page, no such marks in it, or a result can't be read.
    """
    page = experiments / "README.md"
    before, _, after = _parts(page)
    write_text(page, f"{before}{BEGIN}\n\n{leaderboard(experiments)}\n\n{END}{after}")
    return page


def written_leaderboard(page: Path) -> str:
    """The tables as they stand in a page.

    Raises:
        InputError: There is no such page, or no such marks in it.
    """
    return _parts(page)[1].strip()


def read_results(experiments: Path) -> list[Result]:
    """Every committed result of a run; the other files beside them are left alone.

    Raises:
        InputError: One can't be read, or its recipe or the experiment's can't.
    """
    found = []
    for path in sorted(experiments.glob("*/results/*.json")):
        values = read_json(path)
        if not values.keys() >= _OF_A_RUN or not set(_SPLITS) & values["metrics"].keys():
            continue  # a benchmark, a series, crops: not the result of one run
        found.append(Result(path, values, (*_changed(path, values), *_init(values))))
    return found


def _changed(path: Path, values: dict[str, Any]) -> list[str]:
    recipe = path.parent.parent / "recipe.toml"
    if not recipe.is_file():
        return []
    # Results from before there was a choice framed the whole radiograph; the default is the hand
    # now.
    framing = {"crop": "film", **(values["recipe"].get("framing") or {})}
    used = recipe_from_values({**values["recipe"], "framing": framing}, where=str(path))
    return changed_settings(read_recipe(recipe), used)


def _init(values: dict[str, Any]) -> list[str]:
    init = values.get("init")
    if not init:
        return []
    known = init.get("known_ids")
    if known is None:
        return [f"--init {init['name']} (whether that knew any of these images is not recorded)"]
    knew = f"{known['val']:,} of the ids validated on and {known['test']:,} of those tested on"
    return [f"--init {init['name']} (that knew {knew})"]


def _parts(page: Path) -> tuple[str, str, str]:
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        fix = "Name the folder of the experiments."
        raise InputError(
            Fault(str(page), str(error), fix, expected="the experiments' page")
        ) from None
    before, begin, rest = text.partition(BEGIN)
    tables, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(
            Fault(
                str(page),
                "the marks around the leaderboard are gone",
                "Put both back, each on a line of its own.",
                expected=f"{BEGIN} and {END}",
            )
        )
    return before, tables, after


def _group_order(group: Sequence[Result]) -> tuple[int, str]:
    values = group[0].values
    return -sum(values["manifest"]["counts"].values()), str(values["manifest"]["source"])


def _group(group: Sequence[Result], experiments: Path) -> str:
    manifest = group[0].values["manifest"]
    counts = ", ".join(
        f"{manifest['counts'][split]:,} {split}"
        for split in ("train", *_SPLITS)
        if split in manifest["counts"]
    )
    digests = sorted({each.values["manifest"]["digest"][:8] for each in group})
    of = "manifest" if len(digests) == 1 else "manifests"
    lines = [f"**{manifest['source']}**: {counts} ({of} {', '.join(digests)})", "", _row(_COLUMNS)]
    lines += [_row(["---"] * len(_COLUMNS)), _row(_baseline(group))]
    lines += [_row(_cells(each, experiments)) for each in sorted(group, key=_by_validation)]
    lines += [_row(cells) for cells in _means(group)]
    return "\n".join(lines)


def _baseline(group: Sequence[Result]) -> list[str]:
    cells = ["median by sex, no image", "", ""]
    for split in _SPLITS:
        scored = next((each for each in group if _guess(each.values, split)), None)
        if scored is None:
            cells.append("")
            continue
        cells.append(_mae(_guess(scored.values, split), scored.values["metrics"][split]["n"]))
    return [*cells, "", "", "", ""]


def _cells(result: Result, experiments: Path) -> list[str]:
    values = result.values
    made_by = values["provenance"]
    commit = (made_by.get("commit") or "unknown")[:7]
    if made_by.get("uncommitted_changes"):
        commit += ", changed"
    scores = [values["metrics"].get(split) or {} for split in _SPLITS]
    return [
        f"`{result.experiment}`",
        f"[{result.path.stem}]({result.path.relative_to(experiments).as_posix()})",
        ", ".join(f"`{setting}`" for setting in result.changed),
        *(_mae(each.get("mae_months"), each.get("n")) for each in scores),
        f"{values['model']['parameters']:,}",
        _span(values["seconds"]["fit"]),
        f"{made_by['device']}, {made_by['cores']} cores",
        commit,
    ]


def _means(group: Sequence[Result]) -> list[list[str]]:
    """A row for every recipe that several seeds were trained by: their mean, lowest, highest."""
    alike: dict[tuple[str, tuple[str, ...]], list[Result]] = {}
    for result in group:
        alike.setdefault((result.experiment, result.changed), []).append(result)
    rows = []
    for (experiment, changed), results in alike.items():
        seeds = {each.values["seed"] for each in results}
        if len(seeds) < 2 or len(seeds) != len(results):
            continue
        cells = [f"`{experiment}`", f"mean of {len(seeds)} seeds"]
        cells.append(", ".join(f"`{setting}`" for setting in changed))
        for split in _SPLITS:
            scores = [each.values["metrics"].get(split, {}).get("mae_months") for each in results]
            found = [score["value"] for score in scores if score]
            whole = len(found) == len(results)
            cells.append(
                f"{statistics.mean(found):.2f}, seeds {min(found):.2f} to {max(found):.2f}"
                if whole
                else ""
            )
        rows.append([*cells, "", "", "", ""])
    return rows


def _not_run(experiments: Path, run: set[str]) -> Iterable[str]:
    """The experiments that are there to reproduce a published number, and have not been run."""
    lines = []
    for path in sorted(experiments.glob("*/recipe.toml")):
        published = None if path.parent.name in run else read_recipe(path).published
        if published is None:
            continue
        numbers = [
            f"{split} {_months(value)}{_interval(low_high)}"
            for split, value, low_high in (
                ("validation", published.val_mae_months, published.val_interval_months),
                ("test", published.test_mae_months, published.test_interval_months),
            )
            if value is not None
        ]
        name = path.parent.name
        command = f"`boneage reproduce {name} --data DIR`"
        lines.append(_row([f"`{name}`", "; ".join(numbers), published.source, command]))
    if lines:
        title = "**Not run yet**: what was published, to be reproduced"
        header = _row(["experiment", "published MAE, months", "by", "command"])
        yield "\n".join([title, "", header, _row(["---"] * 4), *lines])


def _by_validation(result: Result) -> tuple[float, str]:
    value = _value((result.values["metrics"].get("val") or {}).get("mae_months"))
    return (float("inf") if value is None else value), str(result.path)


def _guess(values: dict[str, Any], split: str) -> dict[str, Any] | None:
    baseline = (values["metrics"].get(split) or {}).get("baseline") or {}
    guess: dict[str, Any] | None = (baseline.get("median_by_sex") or {}).get("mae_months")
    return guess


def _value(part: dict[str, Any] | None) -> float | None:
    return None if part is None else round(float(part["value"]), 6)


def _mae(part: dict[str, Any] | None, count: int | None) -> str:
    if part is None:
        return ""
    return f"{part['value']:.2f}{_interval((part['low'], part['high']))} ({count:,})"


def _interval(low_high: tuple[float | None, float | None] | None) -> str:
    if low_high is None or low_high[0] is None:
        return ""
    return f" [{low_high[0]:.2f}, {low_high[1]:.2f}]"


def _span(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return str(datetime.timedelta(minutes=round(seconds / 60)))[:-3] + " h"


def _months(value: float) -> str:
    return f"{value:.3f}".removesuffix("0")  # two decimals, or three where so many are published


def _row(cells: Iterable[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
