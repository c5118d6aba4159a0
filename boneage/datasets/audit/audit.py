"""Check a manifest and all of its images, and summarize the dataset."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from boneage.datasets.audit.images import (
    ImageInspection,
    Judge,
    duplicate_findings,
    image_parts,
    inspect_images,
    inspection_findings,
)
from boneage.datasets.audit.split_balance import balance_findings, digit_findings
from boneage.datasets.cells import Cells, Finding
from boneage.datasets.label_rules import (
    SEXES,
    SPLITS,
    Region,
    doubtful_ages,
    parse_region,
    years_and_months,
)
from boneage.datasets.manifest import build_manifest, describe_split_digest
from boneage.datasets.validation import ManifestValidation, rows_by_image, validate_manifest
from boneage.errors import Fault, InputError
from boneage.runtime.files import read_bytes

Severity = Literal["error", "warning", "note"]

_WARNINGS = frozenset(
    {
        "age-imbalance",
        "empty-split",
        "inverted",
        "near-duplicate",
        "no-hand",
        "other-body-part",
        "other-modality",
        "other-sex",
        "saturated-image",
        "sex-imbalance",
        "shared-image",
        "turned-hand",
        "two-hands",
        "unfamiliar",
    }
)
_NOTES = frozenset({"digit-preference", "doubtful-age"})
_NO_SPLIT = "unknown"


@dataclass(frozen=True, slots=True)
class AuditFault:
    """One thing found.

    Attributes:
        severity: `error` for what training refuses or must not use, `warning` for what a person
            should check, `note` for what a person should know.
        code: Kind of fault, such as `unreadable-image`.
        image_ids: The images concerned; empty when it is the whole table.
        message: For people.
    """

    severity: Severity
    code: str
    image_ids: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class AuditReport:
    """The findings of one pass over a manifest, and a summary of the dataset.

    Attributes:
        manifest: The file.
        digest: sha256 of its bytes; None when the file could not be read.
        faults: In the order of the table, then of its images.
        images: Number of rows of the table.
        decoded: Number of images that were decoded.
        counts: For each split, `n`, `F` and `M`.
        ages: For each split, n, mean, sd, minimum, median and maximum of the possible ages.
        sizes: minimum, median and maximum of width and height in pixels, and a count of images
            for each depth in bits.
        seconds: Duration of the pass.
        split_digest: `Manifest.split_digest`; None when the table is faulty.
    """

    manifest: Path
    digest: str | None
    faults: tuple[AuditFault, ...]
    images: int
    decoded: int
    counts: Mapping[str, Mapping[str, int]]
    ages: Mapping[str, Mapping[str, float]]
    sizes: Mapping[str, Mapping[str, float]]
    seconds: float
    split_digest: str | None = None

    @property
    def has_errors(self) -> bool:
        """Return whether there is any error; warnings and notes do not count."""
        return any(fault.severity == "error" for fault in self.faults)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can hold."""
        values = asdict(self)
        values["manifest"] = str(self.manifest)
        values["faults"] = [
            {**asdict(fault), "image_ids": list(fault.image_ids)} for fault in self.faults
        ]
        severities = Counter(fault.severity for fault in self.faults)
        return {
            **values,
            "errors": severities["error"],
            "warnings": severities["warning"],
            "notes": severities["note"],
            "has_errors": self.has_errors,
        }

    def render(self) -> str:
        """Return the report as plain text: every fault, then the summary."""
        faults = [f"{fault.severity} [{fault.code}] {fault.message}" for fault in self.faults]
        return "\n".join([*faults, *([""] if faults else []), *self._summary_lines()])

    def _summary_lines(self) -> Iterator[str]:
        severities = Counter(fault.severity for fault in self.faults)
        yield (
            f"{self.manifest}: {self.images:,} images, {self.decoded:,} read in "
            f"{self.seconds:.1f} s, {severities['error']} errors, "
            f"{severities['warning']} warnings, {severities['note']} notes"
        )
        for split, counts in self.counts.items():
            age = self.ages.get(split)
            months = (
                f"  age {age['mean']:.1f} ± {age['sd']:.1f} months, "
                f"{age['minimum']:g} to {age['maximum']:g} "
                f"({years_and_months(age['minimum'])} to {years_and_months(age['maximum'])})"
                if age
                else ""
            )
            yield (f"  {split:<8}{counts['n']:>7,}  {counts['F']:,} F, {counts['M']:,} M{months}")
        if self.decoded:
            spans = [
                f"{side} {span['minimum']:g} to {span['maximum']:g} (median {span['median']:g})"
                for side in ("width", "height")
                for span in [self.sizes[side]]
            ]
            depths = ", ".join(f"{n:,} of {bits} bits" for bits, n in self.sizes["bits"].items())
            yield f"  pixels: {', '.join(spans)}; {depths}"
        if self.split_digest:
            yield describe_split_digest(self.split_digest)


def audit(manifest_path: Path, *, progress: bool = True, judge: Judge | None = None) -> AuditReport:
    """Check a manifest's table and decode all of its images.

    Nothing wrong with the table or the images raises an exception: it is in the report.

    Args:
        manifest_path: The manifest; `read_manifest` may refuse it.
        progress: Show a progress bar on standard error.
        judge: Says why a model would refuse an image.
    """
    path = Path(manifest_path)
    started = time.monotonic()
    try:
        validation = validate_manifest(read_bytes(path), path)
    except InputError as error:
        faults = tuple(
            AuditFault("error", "unreadable-table", (), str(fault)) for fault in error.faults
        )
        return AuditReport(path, None, faults, 0, 0, {}, {}, {}, time.monotonic() - started)
    cells = validation.cells
    parts = image_parts(cells, path)
    inspections = inspect_images(parts, progress=progress, judge=judge)
    found = [
        *validation.findings,
        *inspection_findings(cells, parts, inspections),
        *duplicate_findings(cells, parts, inspections),
        *_shared_image_findings(cells, path.parent.resolve()),
        *_empty_split_findings(cells),
        *balance_findings(validation),
        *digit_findings(validation),
        *_doubtful_age_findings(validation),
    ]
    decoded = [inspection for inspection in inspections.values() if inspection.height]
    return AuditReport(
        path,
        validation.digest,
        tuple(_audit_fault(finding) for finding in found),
        images=len(cells.table),
        decoded=sum(1 for part in parts if part is not None and inspections[part].height),
        counts=_counts(cells),
        ages=_age_summaries(validation),
        sizes=_sizes(decoded),
        seconds=time.monotonic() - started,
        split_digest=None if validation.findings else build_manifest(path, validation).split_digest,
    )


def _audit_fault(finding: Finding) -> AuditFault:
    severity: Severity = "error"
    if finding.code in _WARNINGS | _NOTES:
        severity = "note" if finding.code in _NOTES else "warning"
    return AuditFault(severity, finding.code, finding.image_ids, str(finding.fault))


def _shared_image_findings(cells: Cells, folder: Path) -> list[Finding]:
    splits = cells.table["split"] if "split" in cells.table else [""] * len(cells.table)
    regions = cells.table["region"] if "region" in cells.table else [""] * len(cells.table)
    first_of: dict[int, int] = {}
    for rows in rows_by_image(cells, folder).values():
        first_with: dict[Region | None, int] = {}  # two parts of one radiograph are two images
        for row in rows:
            first = first_with.setdefault(parse_region(regions[row]), row)
            # In two splits it is a fault of the table.
            if row != first and splits[row] == splits[rows[0]]:
                first_of[row] = first
    return cells.row_findings(
        "shared-image",
        sorted(first_of),
        lambda row: f"image {cells.table['image'][row]} is also in row {cells.rows[first_of[row]]}",
        "",
        "Keep one of the rows.",
    )


def _empty_split_findings(cells: Cells) -> list[Finding]:
    fix = "Training needs train and val; evaluation needs the split that it scores."
    used = set(cells.table.get("split", SPLITS))
    return [
        Finding("empty-split", Fault(cells.where, f"no row has split {split!r}", fix))
        for split in SPLITS
        if split not in used
    ]


def _doubtful_age_findings(validation: ManifestValidation) -> list[Finding]:
    where, fix = validation.cells.where, "Compare these labels with their source."
    doubts = doubtful_ages(validation.ages[validation.has_possible_age])
    return [Finding("doubtful-age", Fault(where, doubt, fix)) for doubt in doubts]


def _split_of(cells: Cells) -> NDArray[np.str_]:
    if "split" not in cells.table:
        return np.full(len(cells.table), _NO_SPLIT)
    known = cells.table["split"].isin(SPLITS)
    return np.array(cells.table["split"].where(known, _NO_SPLIT), dtype=str)


def _counts(cells: Cells) -> dict[str, dict[str, int]]:
    splits = _split_of(cells)
    sexes = np.array(cells.table["sex"], dtype=str) if "sex" in cells.table else splits
    return {
        split: {
            "n": int((splits == split).sum()),
            **{sex: int(((splits == split) & (sexes == sex)).sum()) for sex in SEXES},
        }
        for split in (*SPLITS, _NO_SPLIT)
        if (splits == split).any()
    }


def _age_summaries(validation: ManifestValidation) -> dict[str, dict[str, float]]:
    splits = _split_of(validation.cells)
    summaries = {}
    for split in (*SPLITS, _NO_SPLIT):
        ages = validation.ages[(splits == split) & validation.has_possible_age]
        if len(ages):
            summaries[split] = {
                "n": len(ages),
                "mean": float(ages.mean()),
                "sd": float(ages.std()),
                **_span(ages),
            }
    return summaries


def _sizes(inspections: Sequence[ImageInspection]) -> dict[str, dict[str, float]]:
    if not inspections:
        return {}
    bits = Counter(inspection.bits for inspection in inspections)
    return {
        "width": _span(np.array([inspection.width for inspection in inspections])),
        "height": _span(np.array([inspection.height for inspection in inspections])),
        "bits": {str(depth): count for depth, count in sorted(bits.items())},
    }


def _span(values: NDArray[Any]) -> dict[str, float]:
    return {
        "minimum": float(values.min()),
        "median": float(np.median(values)),
        "maximum": float(values.max()),
    }
