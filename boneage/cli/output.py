"""What the verbs share: options, printed tables, refusals."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from boneage.errors import Fault, InputError, printable
from boneage.runtime.files import LARGEST_FILE, is_lost_with_container

if TYPE_CHECKING:
    from boneage.datasets.manifest import Manifest

_LONGEST_HEADER = 10_000  # bytes of the first line of a manifest

# The same option has the same name, help and meaning in every verb.
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
OutOption = Annotated[
    Path,
    typer.Option("--out", help="Manifest to write.", callback=lambda out: check_manifest_out(out)),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of the split.")]
ManifestArgument = Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest, CSV.")]
RECIPE_HELP = "Recipe: a TOML file, or a name in experiments/."
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)]
RUN_HELP = "Run folder, or the name of a shipped model."
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Recipe value to replace; may be repeated."),
]
RecipeSeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, max=2**32 - 1, help="Seed of the training. Default: the recipe's."
    ),
]
ViewsOption = Annotated[
    int | None,
    typer.Option(
        "--views",
        help="Test-time views averaged per image: 1, 2 or 6. Default: the recipe's value.",
    ),
]
PhasesOption = Annotated[
    int | None,
    typer.Option(
        "--phases",
        help="Phases averaged per radiograph, where the framing picks pixels: 1 or 4. "
        "Default: the recipe's value.",
    ),
]
RESULTS_HELP = (
    "Folder for the results. Default: the run; for a shipped model, runs/NAME. "
    "Several runs need one."
)
ResultsOption = Annotated[Path | None, typer.Option("--out", help=RESULTS_HELP)]
OthersOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Another run whose answers are averaged with those of RUN; may be repeated.",
    ),
]
GpuOption = Annotated[bool, typer.Option("--require-gpu", help="Fail if Keras finds no GPU.")]
DeterministicOption = Annotated[
    bool,
    typer.Option("--deterministic", help="Use only operations that are bit-exact on a GPU."),
]


def make_app(name: str | None, text: str, **settings: Any) -> typer.Typer:
    """Return a group of verbs. Without a verb it prints its help as plain text."""
    return typer.Typer(
        name=name, help=text, no_args_is_help=True, rich_markup_mode=None, **settings
    )


def verb_group(order: Sequence[str], removed: Mapping[str, str]) -> type[TyperGroup]:
    """Return the class of a group of verbs that knows the verbs of earlier versions.

    Args:
        order: The verbs as `--help` lists them.
        removed: Verbs of earlier versions, each with a sentence that says what to use now.
    """

    class VerbGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(order)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name in removed:
                refuse(cmd_name, "this verb was removed", removed[cmd_name])
            return super().get_command(ctx, cmd_name)

    return VerbGroup


def renamed_option(old: str, new: str) -> Any:
    """Return a hidden option that is refused with the name of the new one."""

    def refuse_old(value: str | None) -> None:
        if value is not None:
            refuse(old, f"this option is now called {new}", f"Use {new}.")

    return typer.Option(old, hidden=True, callback=refuse_old)


def check_manifest_out(out: Path) -> Path:
    """Return the path of a manifest to write, if it can be written and replaces no other file."""
    from boneage.datasets.label_rules import COLUMNS
    from boneage.runtime.files import check_file_writable, open_regular

    check_file_writable(out)
    if out.exists():
        with open_regular(out, LARGEST_FILE) as file:
            header = file.readline(_LONGEST_HEADER).decode(errors="replace")
        if not set(COLUMNS) <= set(header.strip().split(",")):
            what = "this file exists and is no manifest, so it is not replaced"
            refuse(str(out), what, "Choose another --out, or remove the file.")
    return out


def print_manifest(manifest: Manifest) -> None:
    """Print the path of a manifest, its number of images, its split digest and its notes."""
    from boneage.datasets.label_rules import SPLITS
    from boneage.datasets.manifest import describe_split_digest

    counts = manifest.table["split"].value_counts()
    split = ", ".join(f"{counts.get(name, 0):,} {name}" for name in SPLITS)
    echo(f"{manifest.path}: {len(manifest):,} images ({split})")
    echo(describe_split_digest(manifest.split_digest))
    for note in manifest.notes:
        echo(f"note: {note}")


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object. A number that is not finite becomes null."""
    typer.echo(_dumps(values))


def print_json_list(values: dict[str, Any], key: str, items: Iterable[dict[str, Any]]) -> None:
    """Print one JSON object whose last key holds a list, item by item.

    An interrupt or an error so keeps the items that are finished. Without any, nothing is printed.

    Args:
        values: The other keys.
        key: The key of the list.
        items: The items of the list.
    """
    opening = _dumps({**values, key: []}).removesuffix("]\n}")
    before = opening
    try:
        for item in items:
            typer.echo(f"{before}\n{textwrap.indent(_dumps(item), '    ')}", nl=False)
            before = ","
    finally:
        if before != opening:
            typer.echo("\n  ]\n}")


def _dumps(values: dict[str, Any]) -> str:
    # In ASCII, which every terminal can print and in which a name holds no commands to it.
    return json.dumps(_finite(values), indent=2)


def _finite(value: Any) -> Any:
    """Return JSON values without NaN and infinity, which JSON has no form for."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text: columns as wide as their longest cell, two spaces between them."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (titles, *rows)
    )


def format_mae(mae: dict[str, Any] | None) -> str:
    """Return an MAE with its 95 % interval, such as `7.41 [7.03, 7.80]`."""
    if mae is None:
        return "- (fewer than 5 images)"
    return f"{mae['value']:.2f} {_interval(mae)}"


def log(text: str) -> None:
    """Print a line on standard error, where progress goes."""
    # `typer.echo` would write into the line of a progress bar.
    with contextlib.suppress(OSError):  # nobody may read it, but the exit code still counts
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()


def warn_if_lost(folder: Path) -> None:
    """Say that the results in a folder will be lost, if it goes with the container."""
    if is_lost_with_container(folder):
        log(
            f"warning: {folder} is on no volume. The results are lost when the container is "
            'removed (--rm). To keep them, mount a folder: -v "$PWD/runs:/runs".'
        )


def echo(text: str) -> None:
    """Print a line. Control characters in it are escaped."""
    typer.echo(printable(text))


def refuse(where: str, what: str, fix: str = "See --help.") -> NoReturn:
    """Raise the error of options that cannot be combined.

    Raises:
        InputError: Always.
    """
    raise InputError(Fault(where, what, fix))


def verdict(metrics: dict[str, Any]) -> str:
    """Return one line for the scores of a split: MAE, interval, number of images, baseline."""
    mae = metrics["mae_months"]
    line = (
        f"{metrics['split']}: MAE {mae['value']:.2f} months "
        f"{_interval(mae)} on {metrics['n']:,} images"
    )
    baseline = metrics["baseline"]["median_by_sex"]["mae_months"]
    if baseline is None:
        return line
    return (
        f"{line}; predicting the median by sex: {baseline['value']:.2f} "
        f"({mae['value'] / baseline['value']:.2f} of it)"
    )


_ROWS = (
    ("MAE, months", "mae_months", 1, 2),
    ("RMSE, months", "rmse_months", 1, 2),
    ("median absolute error, months", "median_absolute_error_months", 1, 2),
    ("bias (predicted - true), months", "bias_months", 1, 2),
    ("within 6 months, %", "within_6_months", 100, 2),
    ("within 12 months, %", "within_12_months", 100, 2),
    ("within 24 months, %", "within_24_months", 100, 2),
    ("concordance (Lin)", "concordance", 1, 3),
    ("slope of label on answer", "slope", 1, 3),
    ("intercept of that line, months", "intercept_months", 1, 2),
    ("lower limit of agreement, months", "low", 1, 2),
    ("upper limit of agreement, months", "high", 1, 2),
)
_GROUP_TITLES = ("group", "n", "MAE, months", "bias, months", "")


def metrics_table(metrics: dict[str, Any]) -> str:
    """Return the scores of a split as lines of text, groups included."""
    from boneage.evaluation.metrics import group_words, is_few

    patients = metrics.get("patients")
    counted = f"{metrics['n']:,} images" + (f" of {patients:,} patients" if patients else "")
    unit = "patient" if patients else "image"
    lines = [f"{counted}; intervals are 95 % (bootstrap by {unit})"]
    limits = metrics["limits_of_agreement_months"]
    ends = {
        end: {"value": limits[end], **(limits.get(f"{end}_interval") or {})}
        for end in ("low", "high")
    }
    parts = {**metrics, **metrics["calibration"], **ends}
    for title, key, factor, digits in _ROWS:
        if (value := parts[key]["value"]) is not None:
            interval = _interval(parts[key], factor, f".{digits}f")
            lines.append(f"{title:<34}{factor * value:8.{digits}f}   {interval}")
    for percent in (80, 90, 95):
        if (held := metrics.get(f"coverage_{percent}")) is not None:
            title = f"labels in the {percent} % interval, %"
            width = metrics[f"median_width_{percent}_months"]
            lines.append(
                f"{title:<34}{100 * held['value']:8.2f}   {_interval(held, 100)}; half of the "
                f"intervals are wider than {width:.1f} months"
            )
    rows = []
    for kind, members in {**metrics["groups"], **metrics.get("by", {})}.items():
        for name, part in members.items():
            if not part["n"]:
                continue
            mae, bias = part["mae_months"], part["bias_months"]
            expected = part.get("dilution_bias_months")
            notes = [f"few {unit}s"] if is_few(part) else []
            notes += [] if expected is None else [f"{expected:+.2f} by dilution alone"]
            cells = [group_words(kind, name), f"{part['n']:,}"]
            cells.append(f"{mae['value']:.2f} {_interval(mae)}")
            cells.append(f"{bias['value']:+.2f} {_interval(bias, spec='+.2f')}")
            rows.append([*cells, ", ".join(notes)])
    return "\n".join([*lines, "", format_table(_GROUP_TITLES, rows)])


def _interval(part: dict[str, Any], factor: float = 1.0, spec: str = ".2f") -> str:
    from boneage.evaluation.metrics import format_interval

    return format_interval(part, spec, factor=factor) or "[no interval]"
