"""Write the table of README.md from the results.

Command: python -m experiments.serving.table   (in a clone)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boneage.runtime.files import read_json

FOLDER = Path(__file__).parent
_BEGIN, _END = "<!-- The table is written by table.py. -->\n", "<!-- End of the table. -->\n"
_HEAD = "| question | target | result | file |\n|---|---|---|---|\n"


def _load_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    clients = f"{result['clients']} clients for {result['seconds']:.0f} s"
    ratios = result["p99_to_single_median_of_each_round"]
    rounds = (
        f"{result['p99_to_single_median_of_the_median_round']:g} in the median of "
        f"{result['rounds']} rounds ({min(ratios):g} to {max(ratios):g})"
    )
    p99 = (
        f"{rounds}; over all {result['p99_to_single_median']:g} ({result['p99_ms']:,.0f} against "
        f"{result['single_median_ms']:,.0f} ms)"
    )
    growth = (
        f"{result['memory_growth_mb']:g} MB (from {result['memory_before_mb']:,.0f} MB; "
        f"{result['processes']} processes)"
    )
    return [
        (f"{clients}: errors", "0", f"{result['errors']} of {result['requests']:,} requests"),
        ("the same: 99th percentile ÷ median of a single request", "≤ 20", p99),
        ("the same: growth of memory", "≤ 50 MB", growth),
        (
            "the same: requests per second; median",
            "–",
            f"{result['requests_per_second']:g}; {result['p50_ms']:,.0f} ms",
        ),
    ]


def _single_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    targets = {"512 px, one view": "≤ 150 ms"}
    rows = [
        (
            f"single request: {name}",
            targets.get(name, "–"),
            f"{row['median_ms']:,.0f} ms (80 % between {row['p10_ms']:,.0f} and "
            f"{row['p90_ms']:,.0f})",
        )
        for name, row in result["requests"].items()
    ]
    ready = f"{result['median_seconds_to_ready']:g} s"
    return [*rows, ("start until ready", "≤ 3 s", ready)]


def _hostile_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    written = f"{result['bytes_written']} bytes, {len(result['files_changed'])} files changed"
    log = f"{len(result['words_in_the_log'])} words in {result['log_lines']:,} lines"
    growth = f"{result['memory_growth_mb']:g} MB (from {result['memory_before_mb']:,.0f} MB)"
    count = result["hostile"]
    return [
        (
            f"{count:,} hostile requests: good ones among them that are right",
            "all",
            f"{result['good_right']} of {result['good']}",
        ),
        ("the same: status 500; hangs", "0; 0", f"{result['status_500']}; {len(result['hangs'])}"),
        (
            "the same: other statuses than the kind should have",
            "0",
            f"{len(result['unexpected'])}",
        ),
        ("the same: growth of memory", "≤ 50 MB", growth),
        ("the same: written to a disk", "nothing", written),
        ("the same: identities in the log", "0", log),
        (
            "the same: median of a good request meanwhile",
            "–",
            f"{result['good_median_ms']:,} ms (longest {result['good_longest_ms']:,})",
        ),
    ]


def _paint_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    paint = f"{result['median_first_contentful_paint_ms']:,.0f} ms"
    weight = f"{result['page_kb']:g} kB in {len(result['requests'])} requests"
    return [
        ("first contentful paint, empty cache", "≤ 1,000 ms", paint),
        ("weight of the page, with its samples", "≤ 300 kB", weight),
    ]


_FILES = {
    "load": _load_rows,
    "single": _single_rows,
    "hostile": _hostile_rows,
    "first-paint": _paint_rows,
}


def make_table(folder: Path) -> str:
    """Return the table of the results in a folder."""
    lines, machines = [_HEAD], {}
    for name, rows in _FILES.items():
        path = folder / f"{name}.json"
        if not path.exists():
            lines.append(f"| `{name}` | – | not measured yet | – |\n")
            continue
        result = read_json(path)
        machine = result["machine"]
        load = machine["load_average_before"]
        commit = str(machine["commit"])[:9]
        machines[name] = f"{machine['device']}, {machine['cores']} cores, load {load:g} before"
        machines[name] += f", commit {commit}"
        lines += [f"| {' | '.join(row)} | `{name}.json` |\n" for row in rows(result)]
    found = [f"- `{name}.json`: {text}.\n" for name, text in machines.items()]
    return "".join([*lines, "\n" if found else "", *found])


def main() -> None:
    """Put the table into README.md."""
    path = FOLDER / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    table = make_table(FOLDER / "results")
    path.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
