"""The answer for one radiograph: the form that every command, file and page shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from boneage.errors import Fault, utf8
from boneage.prediction.sd_score import AgeComparison
from boneage.radiographs.image_quality import ImageFinding

RESEARCH_ONLY = "Research use only. This is not a medical device. Do not use it for diagnosis."
SEXES = ("F", "M")

Status = Literal["answered", "refused", "unreadable", "failed"]


@dataclass(frozen=True)
class Interval:
    """A range of months that holds the label of a share of radiographs.

    Attributes:
        level: That share, such as 0.9.
        low: Months.
        high: Months.
    """

    level: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the interval in words: `90 % interval 102 to 135`, in months."""
        return f"{100 * self.level:g} % interval {self.low:.0f} to {self.high:.0f}"

    def as_dict(self) -> dict[str, float]:
        """Return the interval as JSON values."""
        return {"level": self.level, "low_months": self.low, "high_months": self.high}


@dataclass(frozen=True)
class AppliedCalibration:
    """What an answer says of the calibration that it has.

    Attributes:
        n: Radiographs that the calibration is fitted to.
        date: The day it was fitted.
        digest: sha256 of the file of the calibration.
        correction: That of the child's sex, in words.
        offset_months: By how much this answer was changed.
    """

    n: int
    date: str
    digest: str
    correction: str
    offset_months: float

    def __str__(self) -> str:
        """Return a line for people."""
        return (
            f"calibrated {self.offset_months:+.1f} months ({self.correction}; "
            f"{self.n:,} local radiographs, {self.date}, {self.digest[:12]})"
        )


@dataclass(frozen=True)
class Estimate:
    """The bone age of a radiograph for one sex of the child.

    Attributes:
        sex: `F` or `M`.
        months: The bone age.
        interval: Its prediction interval; None if the model has none.
        comparison: Its comparison with the chronological age; None if that is not known.
        calibration: The local calibration that is part of `months`; None without one.
    """

    sex: str
    months: float
    interval: Interval | None = None
    comparison: AgeComparison | None = None
    calibration: AppliedCalibration | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        return {
            "predicted_age_months": self.months,
            "age": age_in_words(self.months),
            "interval": None if self.interval is None else self.interval.as_dict(),
            "comparison": None if self.comparison is None else self.comparison.as_dict(),
            "calibration": None if self.calibration is None else vars(self.calibration),
        }


@dataclass(frozen=True)
class ModelIdentity:
    """The model that answers.

    Attributes:
        name: The name of the run or of the shipped model.
        version: The day of the release, or "" for a run.
        digest: SHA-256 of the file of the network.
    """

    name: str
    version: str
    digest: str


@dataclass(frozen=True)
class Answer:
    """The answer for one radiograph, or why there is none.

    Attributes:
        image: The path of the radiograph, as given.
        status: `answered`. `refused` for an image that the model can't judge. `unreadable` for a
            file that can't be decoded. `failed` if what is known of the child is wrong, or the
            model's answer is no bone age.
        estimates: The bone age. If the sex is not known, one for girls and one for boys. Empty
            unless answered.
        fault: Why it is not answered, and what to do; None if answered.
        reason_code: The code of the finding that it is refused for; "" if it is not refused.
        findings: What a person should check. `data check` has the same findings.
        chronological_age_months: The age of the child on the day of the radiograph, if known.
        models: The models whose answers are averaged.
    """

    image: str
    status: Status
    estimates: tuple[Estimate, ...] = ()
    fault: Fault | None = None
    reason_code: str = ""
    findings: tuple[ImageFinding, ...] = ()
    chronological_age_months: float | None = None
    models: tuple[ModelIdentity, ...] = field(default=(), repr=False)

    @property
    def estimate(self) -> Estimate | None:
        """The one estimate; None if there is none, or if the sex is not known."""
        return self.estimates[0] if len(self.estimates) == 1 else None

    @property
    def sex(self) -> str | None:
        """The sex that the answer is for; None if it is not known."""
        return None if self.estimate is None else self.estimate.sex

    @property
    def months(self) -> float | None:
        """The bone age in months; see `estimate` for when it is None."""
        return None if self.estimate is None else self.estimate.months

    @property
    def interval(self) -> Interval | None:
        """The prediction interval; see `estimate` for when it is None."""
        return None if self.estimate is None else self.estimate.interval

    @property
    def comparison(self) -> AgeComparison | None:
        """The comparison with the chronological age; see `estimate` for when it is None."""
        return None if self.estimate is None else self.estimate.comparison

    @property
    def calibration(self) -> AppliedCalibration | None:
        """The local calibration that is part of the answer; see `estimate` for when it is None."""
        return None if self.estimate is None else self.estimate.calibration

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as JSON values: the form of `--json`, of files and of the server.

        If the sex is not known, the keys of an estimate are null, and `by_sex` has both estimates.
        """
        one = self.estimate
        keys = dict.fromkeys(Estimate("F", 0.0).as_dict())
        values: dict[str, Any] = {
            "image": utf8(self.image),
            "status": self.status,
            "sex": self.sex,
            **(keys if one is None else one.as_dict()),
            "reason": None if self.fault is None else f"{self.fault.what}. {self.fault.fix}",
            "reason_code": self.reason_code or None,
            "findings": [
                {
                    "code": finding.code,
                    "message": f"{finding.what}. {finding.fix}",
                    "is_corrected": finding.is_corrected,
                }
                for finding in self.findings
            ],
            "chronological_age_months": self.chronological_age_months,
            "models": [vars(model) for model in self.models],
            "notice": RESEARCH_ONLY,
        }
        if len(self.estimates) > 1:
            values["by_sex"] = {each.sex: each.as_dict() for each in self.estimates}
        return values


def age_in_words(months: float) -> str:
    """Return an age as people write it: `9 years 11 months` for 118.8, in whole months."""
    total = round(abs(months))
    sign = "-" if months < 0 < total else ""
    parts = [
        f"{count} {unit}" + ("" if count == 1 else "s")
        for count, unit in ((total // 12, "year"), (total % 12, "month"))
        if count
    ]
    return sign + (" ".join(parts) or "0 months")


def sexes_to_answer(sex: str | None) -> Sequence[str]:
    """Return the sexes that a radiograph is answered for: both if the sex is not known."""
    return SEXES if sex is None else (sex,)
