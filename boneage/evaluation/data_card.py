"""A cohort told on one page, for whoever has two minutes: the data card. No picture is in it."""

from __future__ import annotations

import datetime
import importlib.resources
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from boneage import __version__
from boneage.datasets.audit.audit import AuditFault, AuditReport, audit
from boneage.datasets.tables import read_bytes
from boneage.datasets.validation import SPLITS, Examination, examine
from boneage.errors import InputError
from boneage.evaluation import figures
from boneage.evaluation import html as page
from boneage.runtime.files import write_text
from boneage.runtime.provenance import provenance

SPLIT_WORDS = {"train": "Training", "val": "Validation", "test": "Test", "unknown": "No split"}
_MOST_KINDS_NAMED = 3
_FAULT_WORDS = {
    "age-imbalance": "Ages differ between splits",
    "bad-age": "Age missing or no number",
    "bad-region": "Region that is none",
    "blank-image": "Blank films",
    "digit-preference": "Ages rounded to whole years",
    "duplicate-id": "Ids that stand twice",
    "empty-file": "Empty files",
    "empty-split": "Splits without an image",
    "flat-image": "Films with next to nothing on them",
    "image-in-two-splits": "The same file in two splits",
    "impossible-age": "Impossible ages",
    "inverted": "Films that look inverted",
    "missing-file": "Missing files",
    "near-duplicate": "Films that look the same, in one split",
    "near-duplicate-in-two-splits": "Films that look the same, in two splits",
    "nearly-empty-image": "Films that are nearly empty",
    "patient-in-two-splits": "Patients in two splits",
    "region-outside": "Regions that reach out of their picture",
    "region-too-small": "Regions too small to be used",
    "saturated-image": "Films that are burnt out",
    "sex-imbalance": "Shares of boys differ between splits",
    "shared-image": "Files that stand twice in one split",
    "turned-hand": "Hands that look upside down or sideways",
    "two-hands": "Films that look like two hands",
    "unknown-sex": "Unknown sex",
    "unknown-split": "Unknown split",
    "unreadable-image": "Unreadable files",
    "years-as-months": "Ages in years, not months",
}
_ABSOLUTE = re.compile(r"""(?<![\w.:/~])(?:/|[A-Za-z]:[\\/])(?:[^\s/\\"']+[/\\])+""")
_TERMS = {
    "rsna": (
        "RSNA Pediatric Bone Age Challenge 2017.",
        "Non-commercial research use; no redistribution; cite Halabi et al., Radiology "
        "2019;290:498-503.",
    ),
    "rhpe": (
        "RHPE.",
        "Research use on the terms of its authors; cite Escobar et al., MICCAI 2019.",
    ),
    "dha": (
        "Digital Hand Atlas.",
        "Research use on the terms of its request form; cite Gertych et al., Computerized Medical "
        "Imaging and Graphics 2007;31:322-331.",
    ),
    "phantom": ("Phantoms.", "Drawn by this software; no patient is in them."),
}
_UNKNOWN_TERMS = (
    "Terms of use.",
    "The manifest names no public source. Whoever gave you the radiographs says what they may be used "
    "for, and whether this card may be passed on.",
)


def write_card(manifest_path: Path, out: Path | None = None, *, progress: bool = True) -> Path:
    """Audits a manifest and writes what it found as one HTML page without any radiograph in it.

    Args:
        manifest_path: The manifest; it may be faulty.
        out: The page; `<manifest>-card.html` beside the manifest if not given.
        progress: Show a bar on standard error.

    Returns:
        The page's path. It needs no network and no other file.

    Raises:
        InputError: The page can't be written.
    """
    manifest_path = Path(manifest_path)
    page_path = out or manifest_path.with_name(f"{manifest_path.stem}-card.html")
    report = audit(manifest_path, progress=progress)
    try:
        examination: Examination | None = examine(read_bytes(manifest_path), manifest_path)
    except InputError:  # the report has it among its faults
        examination = None
    write_text(page_path, card(report, examination))
    return page_path


def card(report: AuditReport, examination: Examination | None) -> str:
    """Returns the page for a report and the table that it is about, where it is one."""
    sections = [
        _ages_section(examination),
        _splits_section(report),
        _faults_section(report, examination),
        _pixels_section(report),
        page.facts_section_of(
            "Provenance", "What this card was made from.", _facts(report, examination)
        ),
    ]
    template = importlib.resources.files("boneage.evaluation") / "report_template.html"
    return Template(template.read_text(encoding="utf-8")).substitute(
        kind="Bone age data card",
        title=escape(report.manifest.name),
        subtitle=escape(", ".join(_sources(examination)) or "source not named"),
        verdict=escape(_verdict(report)),
        hero="",
        tiles=page.tiles(_tiles(report, examination)),
        notes=page.notes(_terms(examination)),
        sections="\n".join(section for section in sections if section),
        footer=escape(
            f"Made by boneage {__version__} (boneage data card). No image is in this page."
        ),
    )


def _verdict(report: AuditReport) -> str:
    counted = Counter(fault.severity for fault in report.faults)
    if not report.images:
        return "This is no table of images that could be read."
    if report.decoded == report.images:
        read = f"All {report.images:,} images were read"
    else:
        read = f"{report.decoded:,} of {report.images:,} images were read"
    if not report.faults:
        return f"{read} and nothing is wrong with them or their labels."
    if not counted["error"]:
        named = _kinds_named(report, "warning")
        return f"{read} and nothing keeps them from being used." + (
            f" A person should look at: {named}." if named else ""
        )
    return f"{read}. Not to be used before this is mended: {_kinds_named(report, 'error')}."


def _kinds_named(report: AuditReport, severity: str) -> str:
    kinds = [
        f"{_words(code)[0].lower()}{_words(code)[1:]}" + (f" ({len(ids):,})" if ids else "")
        for code, (level, ids, _) in _by_kind(report.faults).items()
        if level == severity
    ]
    more = len(kinds) - _MOST_KINDS_NAMED
    return "; ".join(kinds[:_MOST_KINDS_NAMED]) + (f"; and {more} more kinds" if more > 0 else "")


def _tiles(report: AuditReport, examination: Examination | None) -> list[tuple[str, str, str]]:
    girls = sum(counts["F"] for counts in report.counts.values())
    boys = sum(counts["M"] for counts in report.counts.values())
    known = _known_ages(examination)
    tiles = [
        ("Images", f"{report.images:,}", f"{report.decoded:,} read"),
        ("Girls and boys", f"{girls:,} and {boys:,}", _share(boys, girls + boys, "boys")),
    ]
    if len(known):
        span = f"{known.min() / 12:.1f} to {known.max() / 12:.1f} years"
        tiles.append(("Bone age, median", f"{np.median(known) / 12:.1f} years", span))
    counted = Counter(level for level, _, _ in _by_kind(report.faults).values())
    hit = {i for fault in report.faults if fault.severity == "error" for i in fault.image_ids}
    remark = (
        f"images affected: {len(hit):,}; kinds of warnings: {counted['warning']}, "
        f"notes: {counted['note']}"
    )
    tiles.append(("Kinds of errors", str(counted["error"]), remark))
    return tiles


def _share(part: int, whole: int, words: str) -> str:
    return f"{100 * part / whole:.0f} % {words}" if whole else ""


def _known_ages(examination: Examination | None) -> NDArray[np.float64]:
    if examination is None:
        return np.empty(0)
    return examination.ages[examination.possible]


def _sources(examination: Examination | None) -> list[str]:
    if examination is None or "source" not in examination.cells.table:
        return []
    counted = Counter(str(source) for source in examination.cells.table["source"] if source)
    return [f"{source} ({count:,})" for source, count in counted.most_common()]


def _terms(examination: Examination | None) -> list[tuple[str, str]]:
    named = " ".join(_sources(examination)).lower()
    return [terms for source, terms in _TERMS.items() if source in named] or [_UNKNOWN_TERMS]


def _ages_section(examination: Examination | None) -> str:
    if examination is None or "sex" not in examination.cells.table:
        return ""
    sexes = np.array(examination.cells.table["sex"], dtype=str)
    drawn = figures.age_histogram(examination.ages, sexes)
    label = "Number of images by year of bone age, girls and boys"
    return page.section(
        "Age and sex",
        "Images by labelled bone age, in years. Where there are few, a model can't be trusted.",
        f"<figure>{figures.as_svg(drawn, label, 'age-histogram')}</figure>",
    )


def _splits_section(report: AuditReport) -> str:
    rows = []
    for split in (*SPLITS, "unknown"):
        counts, age = report.counts.get(split), report.ages.get(split)
        if counts is None:
            continue
        ages = ["", "", ""]
        if age is not None:
            ages = [
                f"{age['mean']:.1f} ± {age['sd']:.1f}",
                f"{age['median']:g}",
                f"{age['minimum']:g} to {age['maximum']:g}",
            ]
        boys = _share(counts["M"], counts["F"] + counts["M"], "")
        rows.append(
            [
                SPLIT_WORDS[split],
                f"{counts['n']:,}",
                f"{counts['F']:,}",
                f"{counts['M']:,}",
                boys,
                *ages,
            ]
        )
    head = ["Split", "Images", "Girls", "Boys", "Boys, share", "Age, mean ± SD", "Median", "Range"]
    return page.section("Splits", "Ages in months.", _table(head, rows)) if rows else ""


def _faults_section(report: AuditReport, examination: Examination | None) -> str:
    if not report.faults:
        return page.section("Faults", "None was found.", "")
    rows = []
    images = _images_elsewhere(examination)
    order = {"error": 0, "warning": 1, "note": 2}
    kinds = sorted(_by_kind(report.faults).items(), key=lambda kind: order[kind[1][0]])
    for code, (severity, ids, message) in kinds:
        text = escape(_without_folders(message, report.manifest, images))
        listed = f"<p>{escape(', '.join(ids))}</p>" if ids else ""
        fold = f"<details><summary>{escape(_words(code))}</summary><p>{text}</p>{listed}</details>"
        count = f"{len(ids):,}" if ids else "–"
        rows.append(f"<tr><td>{escape(severity)}</td><td>{fold}</td><td>{count}</td></tr>")
    head = "<tr><th>Severity</th><th>What</th><th>Images</th></tr>"
    return page.section(
        "Faults",
        "An error must be mended before training, a warning be looked at, a note be known. Open a "
        "line for what to do and for the ids.",
        f"<table>{head}{''.join(rows)}</table>",
    )


def _images_elsewhere(examination: Examination | None) -> list[str]:
    """The images that the table names by a path that leads out of its folder, longest first."""
    if examination is None or "image" not in examination.cells.table:
        return []
    named = {str(image) for image in examination.cells.table["image"]}
    return sorted((n for n in named if n.startswith(("/", ".."))), key=len, reverse=True)


def _without_folders(message: str, manifest: Path, images: Sequence[str]) -> str:
    """A message that names no folder of this machine, only files: a card is passed on."""
    told = message.replace(f"{manifest}: ", "")
    for folder in (manifest.parent.resolve(), manifest.parent):
        if folder not in (Path(), Path("/")):
            start = rf"(?<![\w./-]){re.escape(str(folder))}"
            told = re.sub(rf"{start}/", "", told)
            if folder.is_absolute():  # `data` is a word, too
                told = re.sub(rf"{start}(?![\w-])", "the manifest's folder", told)
    for image in images:  # whole, for there may be blanks in it
        told = told.replace(image, Path(image).name)
    return _ABSOLUTE.sub("", told)


def _by_kind(faults: Sequence[AuditFault]) -> dict[str, tuple[str, list[str], str]]:
    """For each kind of fault its severity, its ids and its first message."""
    kinds: dict[str, tuple[str, dict[str, None], str]] = {}
    for fault in faults:
        _, ids, _ = kinds.setdefault(fault.code, (fault.severity, {}, fault.message))
        ids.update(dict.fromkeys(fault.image_ids))
    return {code: (level, list(ids), message) for code, (level, ids, message) in kinds.items()}


def _words(code: str) -> str:
    return _FAULT_WORDS.get(code, code.replace("-", " ").capitalize())


def _pixels_section(report: AuditReport) -> str:
    if not report.sizes:
        return ""
    rows = [
        [
            side.capitalize(),
            *(f"{report.sizes[side][key]:g}" for key in ("minimum", "median", "maximum")),
        ]
        for side in ("width", "height")
    ]
    depths = ", ".join(f"{n:,} of {bits} bits" for bits, n in report.sizes["bits"].items())
    head = ["Pixels", "Smallest", "Median", "Largest"]
    return page.section("Pictures", f"Of the images that were read: {depths}.", _table(head, rows))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"


def _facts(report: AuditReport, examination: Examination | None) -> Mapping[str, str]:
    def facts() -> Iterator[tuple[str, str]]:
        yield "manifest", report.manifest.name
        if report.digest:
            yield "sha256", report.digest
        yield "sources", ", ".join(_sources(examination)) or "not named"
        yield "checked in", page.duration(report.seconds)
        yield "checked on", datetime.datetime.now(datetime.UTC).date().isoformat()
        made_by = provenance()
        yield "boneage", made_by["boneage"]
        if made_by["commit"]:
            changed = " and changes not committed" if made_by["uncommitted_changes"] else ""
            yield "commit", made_by["commit"] + changed

    return dict(facts())
