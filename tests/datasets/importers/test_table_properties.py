"""Generated tables: whatever comes out is what each row says, and whatever is wrong is named.

The generator knows what each cell means when it writes it, so nothing of the importer is needed to
tell what must come out.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from boneage.datasets.importers.table import TableColumns, import_table
from boneage.datasets.manifest import Manifest
from boneage.errors import InputError

RADIOGRAPHS = ("a0.png", "b 1.tif", "ü2.JPG", "sub/a0.png", "sub/4.dcm", "5.bmp", "6.tiff", "7.png")
SPELLINGS = (
    lambda name: name,
    lambda name: name.rpartition(".")[0],
    lambda name: f"./{name}",
    lambda name: name.replace("/", "\\"),
    lambda name: f"sub/../{name.rpartition('.')[0]}",
    lambda name: name.replace("ü", "u\u0308"),
)
NAMES = ("film", "bone age", "Geschlecht", "pid", "fold", "Alter, Jahre", 'say "x"', "größe", "x;y")
ODD = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WRONG_AGES = (
    "", "nan", "inf", "-inf", "1e400", "-1", "-0.5", "1,250", "10.5.2", "ten", "0x10",
    "\uff11\uff12",
)  # fmt: skip
SEXES = {"f": "F", "girl": "F", "2": "F", "m": "M", "1": "M"}
WRONG_SEXES = ("", "F", "M", "male", "0", "f m", "None")
SPLITS = {"train": "train", "Training": "train", "val": "val", "validation": "val", "TEST": "test"}
NUMBERS = ("age", "chronological")
MONTHS = {"months": 1.0, "years": 12.0, "days": 12 / 365.25}


@dataclass
class Row:
    """One row as written, and what it says; None for what says nothing clear."""

    cells: dict[str, Any]
    radiograph: str | None
    months: float | None
    sex: str | None
    patient: str = ""
    split: str | None = ""
    birth: float | None = math.nan
    ragged: bool = False

    def is_wrong(self) -> bool:
        known = (self.radiograph, self.months, self.sex, self.split, self.birth)
        return self.ragged or None in known


@dataclass
class Table:
    rows: list[Row]
    columns: dict[str, str]  # role to header
    unit: str
    kind: str
    delimiter: str = ","
    encoding: str = "utf-8"
    quote_all: bool = False
    blank_after: set[int] = field(default_factory=set)

    def numbers(self) -> list[int]:
        """The number of each row as a spreadsheet shows it."""
        return [2 + i + sum(b < i for b in self.blank_after) for i in range(len(self.rows))]


def slip(odds: int) -> st.SearchStrategy[bool]:
    """Once in so many; never when 0."""
    return st.integers(1, odds).map(lambda lot: lot == odds) if odds else st.just(False)


@st.composite
def ages(
    draw: st.DrawFn, unit: str, comma: bool, odds: int, *, born: bool = False
) -> tuple[str, float | None]:
    """A cell and the months it says: None for none, NaN for empty where that is allowed."""
    if draw(slip(odds)):
        wrong = draw(st.sampled_from(WRONG_AGES) | ODD)
        if re.search(r"[0-9]", wrong) and wrong not in WRONG_AGES:
            wrong = "x" + wrong
        if comma and re.search(r"[.,]", wrong):
            wrong = "ten"
        return wrong, math.nan if born and not wrong.strip() else None
    if unit == "years-months":
        years, months = draw(st.integers(0, 19)), draw(st.integers(0, 11))
        form = draw(
            st.sampled_from(["{}y{}m", "{} y {} m", "{}-{:02}", "{};{}", "{} Jahre {} Monate"])
        )
        return form.format(years, months), 12.0 * years + months
    most = 240 / MONTHS[unit]
    value = draw(st.integers(0, int(most * 11)) | st.just(int(most * 10))) / 10
    text = draw(st.sampled_from(["{:.1f}", "{:g}", "+{:.2f}", "0{:g}"])).format(value)
    if not comma:
        text = draw(st.sampled_from([text, f"{value:e}"]))
    months = float(text) * MONTHS[unit]
    return text.replace(".", ",") if comma else text, months if months <= 240 * (1 + born) else None


@st.composite
def rows(
    draw: st.DrawFn, name: str, columns: dict[str, str], unit: str, comma: bool, odds: int
) -> Row:
    radiograph: str | None = name
    path = draw(st.sampled_from(SPELLINGS))(name)
    if draw(slip(odds)):
        radiograph, path = (
            None,
            draw(st.sampled_from(["", "none.png", "sub", "..", "a0.tif", "x" * 300]) | ODD),
        )
        radiograph = path.strip() if path.strip() in RADIOGRAPHS else None
    sex, said = draw(st.sampled_from(list(SEXES.items())))
    row = Row({}, radiograph, None, said)
    if draw(slip(odds)):
        sex = draw(st.sampled_from(WRONG_SEXES) | ODD)
        row.sex = SEXES.get(sex.strip())
    age, row.months = draw(ages(unit, comma, odds))
    written = {"image": path, "age": age, "sex": sex}
    if "patient" in columns:
        row.patient = draw(st.sampled_from(["", "p1", "p2", "007", "NA", "1.0", "p,;3"]))
        written["patient"] = row.patient
    if "split" in columns:
        word, row.split = draw(st.sampled_from(list(SPLITS.items())))
        if row.patient:  # mostly in one split
            word, row.split = draw(st.sampled_from([("train", "train")] * 9 + [(word, row.split)]))
        if draw(slip(odds)):
            word, row.split = "fold 3", None
        written["split"] = word
    if "chronological" in columns:
        written["chronological"], row.birth = draw(ages(unit, comma, odds, born=True))
    if "other" in columns:
        written["other"] = draw(ODD)
    blank = draw(st.sampled_from(["", "", " ", "\t", "\u00a0"]))
    row.cells = {role: blank + text + blank for role, text in written.items()}
    return row


@st.composite
def tables(draw: st.DrawFn) -> Table:
    roles = ["image", "age", "sex"]
    optional = ("patient", "split", "chronological", "other")
    roles += [role for role in optional if draw(st.booleans())]
    headers = draw(st.permutations(NAMES))[: len(roles)]
    columns = dict(zip(draw(st.permutations(roles)), headers, strict=True))
    unit = draw(st.sampled_from(["months", "years", "days", "years-months"]))
    comma = unit != "years-months" and draw(st.booleans())
    odds = draw(st.sampled_from([0, 0, 25]))
    radiographs = draw(st.permutations(RADIOGRAPHS))[: draw(st.integers(0, 7))]
    if odds and draw(slip(4)):
        radiographs.append(radiographs[0] if radiographs else RADIOGRAPHS[0])
    table = Table(
        [draw(rows(name, columns, unit, comma, odds)) for name in radiographs],
        columns,
        unit,
        draw(st.sampled_from(["csv", "csv", "csv", "xlsx", "parquet"])),
        draw(st.sampled_from([",", ";", "\t"])),
        draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])),
        draw(st.booleans()),
    )
    if table.kind == "csv" and table.rows:
        table.blank_after = draw(st.sets(st.integers(0, len(table.rows) - 1), max_size=2))
        for row in table.rows:
            row.ragged = draw(slip(odds))
    return table


def write(table: Table, path: Path) -> None:
    cells = [[row.cells[role] for role in table.columns] for row in table.rows]
    header = list(table.columns.values())
    if table.kind == "parquet":
        pd.DataFrame(cells, columns=header, dtype=str).to_parquet(path)
    elif table.kind == "xlsx":
        book = openpyxl.Workbook()
        for i, record in enumerate([header, *cells], start=1):
            for j, (role, text) in enumerate(zip(table.columns, record, strict=True), start=1):
                cell = book.active.cell(i, j)
                cell.value = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "", text)
                cell.data_type = "s"  # a text, even if it starts with =
                if role in NUMBERS and re.fullmatch(r"[1-9][0-9]*\.[0-9]+", text):
                    cell.value = float(text)
        book.save(path)
    else:
        buffer = io.StringIO(newline="")
        quoting = csv.QUOTE_ALL if table.quote_all else csv.QUOTE_MINIMAL
        writer = csv.writer(buffer, delimiter=table.delimiter, quoting=quoting)
        writer.writerow(header)
        for i, (row, record) in enumerate(zip(table.rows, cells, strict=True)):
            writer.writerow([*record, "more"] if row.ragged else record)
            if i in table.blank_after:
                writer.writerow([])
        path.write_bytes(buffer.getvalue().encode(table.encoding))


def wrong_as_a_whole(table: Table) -> bool:
    """Whether rows that are each in order can't stand together."""
    largest = max((row.months or 0 for row in table.rows), default=0)
    births = [row.birth for row in table.rows if row.birth is not None and row.birth > 0]
    splits: dict[str, set[str | None]] = {}
    for row in table.rows:
        splits.setdefault(row.patient, set()).add(row.split)
    splits.pop("", None)
    return (
        not table.rows
        or any(len(several) > 1 for several in splits.values())
        or (table.unit == "months" and 0 < largest <= 25)
        or (table.unit == "months" and bool(births) and max(births) <= 25)
        or (table.unit == "days" and 0 < largest <= 240 * MONTHS["days"])
        or (table.unit == "days" and bool(births) and max(births) <= 240 * MONTHS["days"])
    )


def wrong_rows(table: Table) -> list[int]:
    """Positions of rows that must be named, those of an image met before included."""
    seen: set[str | None] = set()
    wrong = []
    for i, row in enumerate(table.rows):
        again = row.radiograph in seen and not row.ragged
        if row.is_wrong() or again:
            wrong.append(i)
        if not row.ragged:
            seen.add(row.radiograph)
    return wrong


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital")
    (folder / "sub").mkdir()
    for name in RADIOGRAPHS:
        (folder / name).touch()
    return folder


def imported(table: Table, hospital: Path) -> Manifest:
    path, out = hospital / "table", hospital / "out" / "manifest.csv"
    out.unlink(missing_ok=True)
    write(table, path)
    options = {role: table.columns.get(role) for role in ("patient", "chronological", "split")}
    columns = TableColumns(
        image=table.columns["image"],
        age=table.columns["age"],
        age_unit=table.unit,
        sex=table.columns["sex"],
        female=["f", "girl", "2"],
        male=["m", "1"],
        **options,
    )
    return import_table(path, out, columns)


@settings(max_examples=160, suppress_health_check=list(HealthCheck))
@given(table=tables())
def test_a_table_comes_out_as_its_rows_say_or_every_wrong_row_is_named(
    hospital: Path, table: Table
) -> None:
    wrong = wrong_rows(table)
    try:
        manifest = imported(table, hospital)
    except InputError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        event("refused")
        assert not (hospital / "out" / "manifest.csv").exists()
        assert wrong or wrong_as_a_whole(table), f"refused for nothing: {refusal}"
        numbers = table.numbers()
        named = {int(number) for number in re.findall(r": row ([0-9]+)", refusal)}
        assert {numbers[i] for i in wrong} <= named, refusal
        return
    assert not wrong
    assert not wrong_as_a_whole(table)
    event("imported")
    assert len(manifest) == len(table.rows)
    for row, path, (_, out) in zip(
        table.rows, manifest.image_paths(), manifest.table.iterrows(), strict=True
    ):
        assert path == (hospital / str(row.radiograph)).resolve()
        assert math.isclose(out["age_months"], row.months or 0, rel_tol=1e-9)
        assert out["sex"] == row.sex
        assert out.get("patient_id", "") == row.patient
        assert row.split in ("", out["split"])
        birth = out.get("chronological_age_months", math.nan)
        assert math.isclose(birth, row.birth or 0) or (
            math.isnan(birth) and math.isnan(row.birth or 0)
        )
    assert manifest.table["image_id"].is_unique
