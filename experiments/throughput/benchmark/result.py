"""What the benchmarks share: options, rows of rates with their spread, JSON and tables."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from boneage.cli.output import print_json
from boneage.runtime.provenance import provenance

Row = dict[str, Any]

FileOption = Annotated[Path | None, typer.Option("--out", help="Also write the JSON to this file.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="Turns of each contender, interleaved.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Images per batch.")]
SizeOption = Annotated[int, typer.Option(min=32, max=2048, help="Side of the images in pixels.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Threads or processes. Default: one per core.")
]
ImagesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--images",
        metavar="PATH",
        help="A radiograph, or a folder of radiographs; may be repeated. Default: phantoms.",
    ),
]
SecondsOption = Annotated[float, typer.Option(min=0.01, help="Shortest time of a turn.")]

_PEERS = ("torch", "grain", "timm")


def rates_row(name: str, rates: Sequence[float], **more: Any) -> Row:
    """Return a row of images per second: the median, the least and the most of the rounds."""
    return {
        "name": name,
        "images_per_second": significant(statistics.median(rates)),
        "low": significant(min(rates)),
        "high": significant(max(rates)),
        "rounds": [significant(rate) for rate in rates],
        **more,
    }


def add_ratios(rows: Sequence[Row], ours: str) -> None:
    """Add `ratio` to every row with rates: the rate of the row `ours` divided by its rate.

    The ratio is the median of the ratios of each round, so a machine that slows down for a while
    slows both rows. Without the row `ours`, there are no ratios.
    """
    mine: list[float] = next((row.get("rounds", []) for row in rows if row["name"] == ours), [])
    for row in rows:
        pairs = list(zip(mine, row.get("rounds", ()), strict=False))
        if pairs:
            row["ratio"] = significant(statistics.median(top / below for top, below in pairs))


def document(
    settings: Mapping[str, Any], rows: Sequence[Row], *, device: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return the whole result, ready for JSON: machine, settings, rows and what else there is."""
    machine = provenance()
    if device is not None:
        machine["processor"], machine["device"] = machine["device"], device
    for package in _PEERS:
        try:
            machine["versions"][package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    machine["load_average"] = round(os.getloadavg()[0], 2)
    return {"machine": machine, "settings": dict(settings), "rows": list(rows), **more}


def show(
    result: dict[str, Any], columns: Mapping[str, str], as_json: bool, out: Path | None
) -> dict[str, Any]:
    """Print a result as a table or as JSON, write it to a file if asked to, and return it."""
    if out is not None:
        out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(result)
    else:
        machine = result["machine"]
        typer.echo(f"{machine['device']}, {machine['cores']} cores\n")
        typer.echo(table(result["rows"], columns))
    return result


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Return rows as aligned text. A row without rates gets its reason.

    Args:
        rows: The rows.
        columns: Titles of the columns by key.
    """
    lines: list[tuple[str, list[str]]] = [("", list(columns.values()))]
    reasons = {}
    for row in rows:
        for key, word in (("skipped", "skipped"), ("error", "failed")):
            if key in row:
                reasons[row["name"]] = f"{word}: {row[key]}"
        if row["name"] not in reasons:
            lines.append((row["name"], [_cell(row.get(key)) for key in columns]))
        else:
            lines.append((row["name"], []))
    widths = [max(map(len, column)) for column in zip(*(c for _, c in lines if c), strict=True)]
    first = max(len(name) for name, _ in lines)
    return "\n".join(
        " ".join(
            [name.ljust(first), *(map(str.rjust, cells, widths) if cells else [reasons[name]])]
        )
        for name, cells in lines
    )


def significant(value: float, digits: int = 4) -> float:
    """Return a number rounded to significant digits."""
    return float(f"{value:.{digits}g}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
