"""The numbers of docs/explanation are those of its blocks and of the committed results."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {path.stem: path.read_text("utf-8") for path in (ROOT / "docs/explanation").glob("*.md")}
PRINTS = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if PRINTS.search(text)])
def test_a_block_prints_what_the_page_shows(page, capsys):
    for code, shown in PRINTS.findall(PAGES[page]):
        exec(compile(code, page, "exec"), {})
        assert capsys.readouterr().out == shown


def test_the_pages_show_the_numbers_of_the_shipped_model():
    path = ROOT / "experiments" / "rsna-best" / "results" / "seed-0.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    test, both = metrics["test"], metrics["val-test"]
    guess = test["baseline"]["median_by_sex"]["mae_months"]["value"]
    mae, slope = test["mae_months"], both["calibration"]["slope"]
    for number in (
        "{value:.2f} months [{low:.2f}, {high:.2f}]".format(**mae),
        f"{guess:.1f}",
        f"{test['median_absolute_error_months']['value']:.2f} months",
        f"{test['within_12_months']['value']:.0%}".replace("%", " %"),
        f"{both['concordance']['value']:.3f}",
    ):
        assert number in PAGES["metrics"]
    bands = both["groups"]["age_band"]
    for number in (
        "{value:.3f} [{low:.3f}, {high:.3f}]".format(**slope),
        f"{bands['0-60']['bias_months']['value']:+.1f} to ",
        f"{bands['180+']['bias_months']['value']:+.1f} months",
        f"{both['n']:,}",
    ):
        assert number in PAGES["regression-dilution"].replace("\n", " ")
