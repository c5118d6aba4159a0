"""Write the data card of a manifest: one page with counts, ages and problems, and no images."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from boneage import __version__
from boneage.datasets.audit.audit import AuditFault, AuditReport, audit
from boneage.datasets.label_rules import SPLITS
from boneage.datasets.validation import ManifestValidation, validate_manifest
from boneage.errors import Fault, InputError
from boneage.evaluation import figures
from boneage.evaluation.html import duration, fact_blocks, render
from boneage.evaluation.result import file_name, is_absolute, name_sources, without_folders
from boneage.runtime.files import check_file_writable, read_bytes, write_text
from boneage.runtime.provenance import provenance

SPLIT_WORDS = {"train": "Training", "val": "Validation", "test": "Test", "unknown": "No split"}
FAULT_WORDS = {
    "age-imbalance": "Ages differ between splits",
    "bad-age": "Age missing or not a number",
    "bad-region": "Invalid regions",
    "blank-image": "Blank images",
    "digit-preference": "Ages rounded to whole years",
    "doubtful-age": "Ages that may be missing values or years",
    "duplicate-id": "Duplicate ids",
    "empty-file": "Empty files",
    "empty-split": "Splits without images",
    "flat-image": "Images with hardly any contrast",
    "image-in-two-splits": "The same file in two splits",
    "impossible-age": "Impossible ages",
    "inverted": "Images that seem inverted",
    "missing-file": "Missing files",
    "near-duplicate": "Near-duplicate images in one split",
    "near-duplicate-in-two-splits": "Near-duplicate images in two splits",
    "nearly-empty-image": "Nearly empty images",
    "no-hand": "Images without a hand",
    "other-body-part": "Other parts of the body, by their headers",
    "other-modality": "No radiographs, by their headers",
    "other-sex": "Another sex in the header",
    "patient-in-two-splits": "Patients in two splits",
    "patient-with-two-sexes": "Patients with two sexes",
    "region-outside": "Regions outside the image",
    "region-too-small": "Regions that are too small",
    "saturated-image": "Overexposed images",
    "sex-imbalance": "Share of boys differs between splits",
    "shared-image": "Files listed twice in one split",
    "turned-hand": "Hands that seem rotated",
    "two-hands": "Images that seem to show two hands",
    "unfamiliar": "Images that a model does not know",
    "unknown-sex": "Unknown sex",
    "unknown-split": "Unknown split",
    "unreadable-image": "Unreadable files",
    "years-as-months": "Ages in years, not months",
}
_SEVERITIES = ("error", "warning", "note")
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
    "phantom": ("Phantoms.", "Drawn by this software. They show no patients."),
}
_UNKNOWN_TERMS = (
    "Terms of use.",
    "The manifest names no public source. Ask the owner of the radiographs what they may be used "
    "for, and whether you may pass this card on.",
)


@dataclass(frozen=True)
class _Kind:
    """All faults of one kind: severity, kind in words, ids of the images, and one message."""

    severity: str
    words: str
    image_ids: list[str]
    message: str


def write_card(manifest_path: Path, out: Path | None = None, *, progress: bool = True) -> Path:
    """Audit a manifest and write what was found as one HTML page without images.

    Args:
        manifest_path: The manifest; it may be faulty.
        out: The page. Default: `<manifest>-card.html` in the folder of the manifest.
        progress: Show a bar on standard error.

    Returns:
        The path of the page. The page needs no network and no other file.

    Raises:
        InputError: The manifest is no table, or the page can't be written or is another file.
    """
    manifest_path = Path(manifest_path)
    page_path = out or manifest_path.with_name(f"{manifest_path.stem}-card.html")
    check_file_writable(page_path)  # before every image is checked
    if page_path.exists() and read_bytes(page_path)[:14] not in (b"<!doctype html", b""):
        what = "this file exists and is no page, so it is not replaced"
        raise InputError(Fault(str(page_path), what, "Choose another --out, or remove the file."))
    validation = validate_manifest(read_bytes(manifest_path), manifest_path)
    report = audit(manifest_path, progress=progress)
    write_text(page_path, card(report, validation))
    return page_path


def card(report: AuditReport, validation: ManifestValidation) -> str:
    """Return the page for an audit and its table."""
    kinds = _kinds(report, validation)
    sources = _sources(validation)
    splits = [
        (SPLIT_WORDS[split], report.counts[split], report.ages.get(split))
        for split in (*SPLITS, "unknown")
        if split in report.counts
    ]
    affected = {i for fault in report.faults if fault.severity == "error" for i in fault.image_ids}
    return render(
        "data_card.html",
        kind="Bone age data card",
        title=report.manifest.name,
        images=report.images,
        decoded=report.decoded,
        girls=sum(counts["F"] for _, counts, _ in splits),
        boys=sum(counts["M"] for _, counts, _ in splits),
        ages=_summarize_ages(validation),
        age_figure=_draw_ages(validation),
        sources=sources,
        terms=_terms(sources),
        splits=splits,
        kinds=kinds,
        errors=[kind for kind in kinds if kind.severity == "error"],
        warnings=[kind for kind in kinds if kind.severity == "warning"],
        affected=len(affected),
        sizes=report.sizes,
        blocks=fact_blocks("", _facts(report, sources)),
        version=__version__,
    )


def _kinds(report: AuditReport, validation: ManifestValidation) -> list[_Kind]:
    """Group the faults by kind: errors first, then warnings, then notes."""
    groups: dict[str, list[AuditFault]] = {}
    for fault in report.faults:
        groups.setdefault(fault.code, []).append(fault)
    paths = _outside_paths(validation)
    kinds = [
        _Kind(
            faults[0].severity,
            FAULT_WORDS.get(code, code.replace("-", " ").capitalize()),
            [file_name(name) if is_absolute(name) else name for name in _ids(faults)],
            _without_folders(faults[0].message, report.manifest, paths),
        )
        for code, faults in groups.items()
    ]
    return sorted(kinds, key=lambda kind: _SEVERITIES.index(kind.severity))


def _ids(faults: Sequence[AuditFault]) -> list[str]:
    return list(dict.fromkeys(image_id for fault in faults for image_id in fault.image_ids))


def _summarize_ages(validation: ManifestValidation) -> dict[str, float]:
    """Return median, minimum and maximum of the possible ages, in months; {} without any."""
    if not validation.has_possible_age.any():
        return {}
    ages = validation.ages[validation.has_possible_age]
    return {
        "median": float(np.median(ages)),
        "minimum": float(ages.min()),
        "maximum": float(ages.max()),
    }


def _sources(validation: ManifestValidation) -> list[str]:
    if "source" not in validation.cells.table:
        return []
    named = (name_sources(str(source)) for source in validation.cells.table["source"] if source)
    counted = Counter(named)
    return [f"{source} ({count:,})" for source, count in counted.most_common()]


def _terms(sources: Sequence[str]) -> list[tuple[str, str]]:
    named = " ".join(sources).lower()
    return [terms for source, terms in _TERMS.items() if source in named] or [_UNKNOWN_TERMS]


def _draw_ages(validation: ManifestValidation) -> Markup:
    if "sex" not in validation.cells.table:
        return Markup()
    sexes: NDArray[np.str_] = np.array(validation.cells.table["sex"], dtype=str)
    drawn = figures.age_histogram(validation.ages, sexes)
    label = "Number of images by year of bone age, girls and boys"
    return figures.as_svg(drawn, label, "age-histogram")


def _outside_paths(validation: ManifestValidation) -> list[str]:
    """Return the images and ids that are paths out of the manifest's folder, longest first."""
    table = validation.cells.table
    names = {str(name) for key in ("image", "image_id") if key in table for name in table[key]}
    return sorted((n for n in names if n.startswith("..") or is_absolute(n)), key=len, reverse=True)


def _without_folders(message: str, manifest: Path, paths: Sequence[str]) -> str:
    """Return a message that names files, but no folder of this machine: a card is passed on."""
    text = message.replace(f"{manifest}: ", "")
    for folder in (manifest.parent.resolve(), manifest.parent):
        if folder not in (Path(), Path("/")):
            start = rf"(?<![\w./-]){re.escape(str(folder))}"
            text = re.sub(rf"{start}/", "", text)
            if folder.is_absolute():  # a relative `data` is also a word
                text = re.sub(rf"{start}(?![\w-])", "the manifest's folder", text)
    for path in paths:  # the whole path, because it may contain blanks
        text = text.replace(path, file_name(path))
    return without_folders(text)


def _facts(report: AuditReport, sources: Sequence[str]) -> Mapping[str, str | None]:
    made_by = provenance()
    changed = " and uncommitted changes" if made_by["uncommitted_changes"] else ""
    return {
        "manifest": report.manifest.name,
        "sha256": report.digest or None,
        "sources": ", ".join(sources) or "not named",
        "duration of the check": duration(report.seconds),
        "date of the check": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "boneage": made_by["boneage"],
        "commit": f"{made_by['commit']}{changed}" if made_by["commit"] else None,
    }
