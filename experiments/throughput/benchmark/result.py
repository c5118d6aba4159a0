"""What benchmarks print: rows of rates with their spread, as JSON and as a table."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from boneage.runtime.provenance import provenance

Row = dict[str, Any]

_PEERS = ("torch", "grain", "timm")


def machine(device: str | None = None) -> dict[str, Any]:
    """What it was measured on, JSON-ready.

    Args:
        device: An accelerator's name, where one was used; else it is the processor.
    """
    facts = provenance()
    if device is not None:
        facts["processor"], facts["device"] = facts["device"], device
    for package in _PEERS:
        try:
            facts["versions"][package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    facts["load_average"] = round(os.getloadavg()[0], 2)
    return facts


def rates_row(name: str, rates: Sequence[float], **more: Any) -> Row:
    """A row of images per second: the median of the rounds, the least and the most of them."""
    return {
        "name": name,
        "images_per_second": significant(statistics.median(rates)),
        "low": significant(min(rates)),
        "high": significant(max(rates)),
        "rounds": [significant(rate) for rate in rates],
        **more,
    }


def add_ratios(rows: Sequence[Row], ours: str) -> None:
    """Adds `ratio` to every row that has rates: ours divided by it.

    It is the median over the rounds, each row's rate against ours of the same round, so that a
    machine that slows down for a while slows both.

    Args:
        rows: Changed in place.
        ours: The name of the row that is divided; if it has no rates, there are no ratios.
    """
    mine: list[float] = next((row.get("rounds", []) for row in rows if row["name"] == ours), [])
    for row in rows:
        pairs = list(zip(mine, row.get("rounds", ()), strict=False))
        if pairs:
            row["ratio"] = significant(statistics.median(top / below for top, below in pairs))


def document(settings: Mapping[str, Any], rows: Sequence[Row], **more: Any) -> dict[str, Any]:
    """The whole result, JSON-ready: machine, settings, rows and what else there is."""
    device = more.pop("device", None)
    return {"machine": machine(device), "settings": dict(settings), "rows": list(rows), **more}


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Rows as text, aligned.

    Args:
        rows: What has no rates is shown with its reason.
        columns: Titles by key.
    """
    titles = ["", *columns.values()]
    lines = []
    for row in rows:
        reason = row.get("skipped") and f"skipped: {row['skipped']}"
        reason = reason or (row.get("error") and f"failed: {row['error']}")
        cells = [] if reason else [_cell(row.get(key)) for key in columns]
        lines.append((row["name"], cells, reason))
    widths = [
        max(len(title), *(len(cells[place]) for _, cells, _ in lines if cells), 0)
        for place, title in enumerate(titles[1:])
    ]
    first = max([len(name) for name, *_ in lines], default=0)
    text = [" ".join([" " * first, *map(str.rjust, titles[1:], widths)])]
    for name, cells, reason in lines:
        rest = [reason] if reason else list(map(str.rjust, cells, widths))
        text.append(" ".join([name.ljust(first), *rest]))
    return "\n".join(line.rstrip() for line in text)


def significant(value: float, digits: int = 4) -> float:
    """A number rounded to so many digits; more would only pretend."""
    return float(f"{value:.{digits}g}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
