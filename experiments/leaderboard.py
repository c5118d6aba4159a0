"""Write or check the tables of `experiments/README.md`, from the committed results.

    python experiments/leaderboard.py           writes the tables
    python experiments/leaderboard.py --check   exits with 1 if the page is out of date

One table holds only results on the same images. Its first row is the baseline without images: the
median age by sex of the training split.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boneage.errors import Fault, InputError
from boneage.recipe import changed_settings, read_recipe
from boneage.run import recipe_from_run
from boneage.runtime.files import read_json, write_text

BEGIN = "<!-- leaderboard: made by experiments/leaderboard.py, not by hand -->"
END = "<!-- end of the leaderboard -->"

_SPLITS = ("val", "test")
_KEYS_OF_A_RUN = {"seed", "seconds", "model", "provenance", "manifest", "recipe", "metrics"}
_COLUMNS = (
    *("experiment", "result", "differs from the recipe by", "validation MAE", "test MAE"),
    *("parameters", "fit", "device", "commit"),
)


@dataclass(frozen=True)
class Result:
    """The committed result of a run.

    Attributes:
        path: The JSON file.
        values: What the file holds.
        changed: Settings that differ from the experiment's recipe, as `--set` takes them, and the
            run that initialised the weights.
    """

    path: Path
    values: dict[str, Any]
    changed: tuple[str, ...]

    @property
    def experiment(self) -> str:
        """The name of the experiment's folder."""
        return self.path.parent.parent.name

    def mae(self, split: str) -> dict[str, Any] | None:
        """Return the MAE on a split, or None if the split was not scored."""
        return (self.values["metrics"].get(split) or {}).get("mae_months")

    def baseline(self, split: str) -> dict[str, Any] | None:
        """Return the MAE of the median by sex on a split, or None if it is not recorded."""
        baseline = (self.values["metrics"].get(split) or {}).get("baseline") or {}
        return (baseline.get("median_by_sex") or {}).get("mae_months")

    @property
    def test_scorings(self) -> int:
        """How often the test split was scored. Earlier results don't say, and count once."""
        return int(self.values.get("test_scorings", self.mae("test") is not None))

    def images(self) -> tuple[Any, ...]:
        """Return a key that is equal for results on the same images."""
        manifest = self.values["manifest"]
        baselines = (self.baseline(split) for split in _SPLITS)
        errors = tuple(round(mae["value"], 6) if mae else None for mae in baselines)
        return manifest["source"], tuple(sorted(manifest["counts"].items())), errors


def make_leaderboard(experiments: Path) -> str:
    """Return the tables as Markdown, rows ordered by validation MAE.

    Raises:
        InputError: A result or a recipe can't be read.
    """
    results = read_results(experiments)
    groups: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.images()].append(result)
    tables = [_table(group, experiments) for group in sorted(groups.values(), key=_group_order)]
    not_run = _not_run_table(experiments, {result.experiment for result in results})
    return "\n\n".join([*tables, *not_run])


def write_leaderboard(experiments: Path) -> Path:
    """Replace the tables between the marks in the experiments' README.md and return its path.

    Raises:
        InputError: The page or its marks are missing, or a result can't be read.
    """
    page = experiments / "README.md"
    before, _, after = _split_page(page)
    write_text(page, f"{before}{BEGIN}\n\n{make_leaderboard(experiments)}\n\n{END}{after}")
    return page


def read_leaderboard(page: Path) -> str:
    """Return the tables that a page holds now.

    Raises:
        InputError: The page or its marks are missing.
    """
    return _split_page(page)[1].strip()


def read_results(experiments: Path) -> list[Result]:
    """Read every committed result of a run. Results of benchmarks and series are skipped.

    Raises:
        InputError: A result or a recipe can't be read.
    """
    found = []
    for path in sorted(experiments.glob("*/results/*.json")):
        values = read_json(path)
        if values.keys() >= _KEYS_OF_A_RUN and set(_SPLITS) & values["metrics"].keys():
            found.append(Result(path, values, (*_changes(path, values), *_initial_run(values))))
    return found


def _changes(path: Path, values: dict[str, Any]) -> list[str]:
    recipe = path.parent.parent / "recipe.toml"
    if not recipe.is_file():
        return []
    return changed_settings(read_recipe(recipe), recipe_from_run(values["recipe"], where=str(path)))


def _initial_run(values: dict[str, Any]) -> list[str]:
    init = values.get("init")
    if not init:
        return []
    known = init.get("known_ids")
    if known is None:
        return [f"--init {init['name']} (whether it had seen these images is not recorded)"]
    seen = f"{known['val']:,} of the validation ids and {known['test']:,} of the test ids"
    at_most = "at most " if init.get("known_ids_by_chance") else ""  # a filter of the ids says so
    return [f"--init {init['name']} (had seen {at_most}{seen})"]


def _split_page(page: Path) -> tuple[str, str, str]:
    """Return what stands before, between and after the marks."""
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        fix = "Name the folder of the experiments."
        raise InputError(Fault(str(page), f"the page can't be read ({error})", fix)) from None
    before, begin, rest = text.partition(BEGIN)
    tables, end, after = rest.partition(END)
    if not begin or not end:
        fix = f"Put these two lines back: {BEGIN} and {END}."
        raise InputError(Fault(str(page), "the marks around the leaderboard are missing", fix))
    return before, tables, after


def _group_order(group: Sequence[Result]) -> tuple[int, str]:
    manifest = group[0].values["manifest"]
    return -sum(manifest["counts"].values()), str(manifest["source"])


def _table(group: Sequence[Result], experiments: Path) -> str:
    manifest = group[0].values["manifest"]
    counts = ", ".join(
        f"{manifest['counts'][split]:,} {split}"
        for split in ("train", *_SPLITS)
        if split in manifest["counts"]
    )
    digests = sorted({result.values["manifest"]["digest"][:8] for result in group})
    name = "manifest" if len(digests) == 1 else "manifests"
    splits = {result.values["manifest"].get("split_digest", "")[:8] for result in group} - {""}
    named = [f"{name} {', '.join(digests)}", *(f"splits {each}" for each in sorted(splits))]
    scorings = sum(result.test_scorings for result in group)
    times = "once" if scorings == 1 else f"{scorings} times"
    scored = f".\nIts test split was scored at least {times}." if scorings else ""
    return "\n".join(
        [
            f"**{manifest['source']}**: {counts}\n({'; '.join(named)}){scored}",
            "",
            _row(_COLUMNS),
            _row(["---"] * len(_COLUMNS)),
            _row(_baseline_cells(group)),
            *(_row(_cells(result, experiments)) for result in sorted(group, key=_validation_mae)),
            *(_row(cells) for cells in _mean_cells(group)),
        ]
    )


def _baseline_cells(group: Sequence[Result]) -> list[str]:
    cells = ["median by sex, no image", "", ""]
    for split in _SPLITS:
        scored = next((result for result in group if result.baseline(split)), None)
        cells.append(_score(scored.baseline(split), scored, split) if scored else "")
    return [*cells, "", "", "", ""]


def _cells(result: Result, experiments: Path) -> list[str]:
    values, provenance = result.values, result.values["provenance"]
    commit = (provenance.get("commit") or "unknown")[:7]
    if provenance.get("uncommitted_changes"):
        commit += ", changed"
    return [
        f"`{result.experiment}`",
        f"[{result.path.stem}]({result.path.relative_to(experiments).as_posix()})",
        ", ".join(f"`{setting}`" for setting in result.changed),
        *(_score(result.mae(split), result, split) for split in _SPLITS),
        f"{values['model']['parameters']:,}",
        _duration(values["seconds"]["fit"]),
        f"{provenance['device']}, {provenance['cores']} cores",
        commit,
    ]


def _mean_cells(group: Sequence[Result]) -> Iterable[list[str]]:
    """Yield a row for every setting that was trained with several seeds."""
    settings: dict[tuple[str, tuple[str, ...]], list[Result]] = defaultdict(list)
    for result in group:
        settings[result.experiment, result.changed].append(result)
    for (experiment, changed), results in settings.items():
        seeds = {result.values["seed"] for result in results}
        if len(seeds) < 2 or len(seeds) != len(results):
            continue
        cells = [f"`{experiment}`", f"mean of {len(seeds)} seeds"]
        cells.append(", ".join(f"`{setting}`" for setting in changed))
        for split in _SPLITS:
            values = [mae["value"] for result in results if (mae := result.mae(split))]
            spread = "" if len(values) < len(results) else _spread(values)
            cells.append(spread)
        yield [*cells, "", "", "", ""]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f}, seeds {min(values):.2f} to {max(values):.2f}"


def _not_run_table(experiments: Path, run: set[str]) -> Iterable[str]:
    """Yield a table of the published numbers that no committed result reproduces yet."""
    rows = []
    for path in sorted(experiments.glob("*/recipe.toml")):
        name = path.parent.name
        published = None if name in run else read_recipe(path).published
        if published is None:
            continue
        numbers = [
            f"{split} {f'{value:.3f}'.removesuffix('0')}{_interval(low_high)}"
            for split, value, low_high in (
                ("validation", published.val_mae_months, published.val_interval_months),
                ("test", published.test_mae_months, published.test_interval_months),
            )
            if value is not None
        ]
        command = f"`boneage reproduce {name} --data DIR`"
        rows.append(_row([f"`{name}`", "; ".join(numbers), published.source, command]))
    if rows:
        title = "**Not run yet**: published numbers to reproduce"
        header = _row(["experiment", "published MAE, months", "by", "command"])
        yield "\n".join([title, "", header, _row(["---"] * 4), *rows])


def _validation_mae(result: Result) -> tuple[float, str]:
    mae = result.mae("val")
    return (round(mae["value"], 6) if mae else float("inf")), str(result.path)


def _score(mae: dict[str, Any] | None, result: Result, split: str) -> str:
    if mae is None:
        return ""
    count = result.values["metrics"][split]["n"]
    return f"{mae['value']:.2f}{_interval((mae['low'], mae['high']))} ({count:,})"


def _interval(low_high: tuple[float | None, float | None] | None) -> str:
    if low_high is None or low_high[0] is None:
        return ""
    return f" [{low_high[0]:.2f}, {low_high[1]:.2f}]"


def _duration(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return str(datetime.timedelta(minutes=round(seconds / 60)))[:-3] + " h"


def _row(cells: Iterable[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("experiments", type=Path, nargs="?", default=Path(__file__).parent)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    try:
        if not options.check:
            print(write_leaderboard(options.experiments))
            return
        page = options.experiments / "README.md"
        if read_leaderboard(page) != make_leaderboard(options.experiments):
            sys.exit(f"{page}: the tables are out of date. Run experiments/leaderboard.py.")
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
