"""What the API takes and returns, for its OpenAPI description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class IntervalObject(BaseModel):
    """A range of months that holds the reading of a share of radiographs."""

    level: float = Field(description="Share of radiographs whose reading it holds, such as 0.9.")
    low_months: float = Field(description="Lower end of the prediction interval, months.")
    high_months: float = Field(description="Upper end of the prediction interval, months.")


class SdInterval(BaseModel):
    """The interval as SD scores."""

    low: float = Field(description="Lower end of the interval of the SD score.")
    high: float = Field(description="Upper end of the interval of the SD score.")


class ComparisonObject(BaseModel):
    """A bone age compared with the chronological age."""

    chronological_age_months: float = Field(description="Age since birth, months.")
    difference_months: float = Field(description="Bone age minus chronological age, months.")
    sd_score: float | None = Field(description="The difference in SDs; null without a score.")
    sd_interval: SdInterval | None = Field(description="The interval of the score.")
    assessment: Literal["delayed", "normal", "advanced", "indeterminate"] | None = Field(
        description="Beyond 2 SD it is delayed or advanced. It is indeterminate if the interval "
        "crosses that limit."
    )
    sd_score_from_mean: float | None = Field(
        description="The score from the mean of the reference at this age."
    )
    reference: str = Field(description="The source of means and SDs.")
    method: str = Field(description="How the score is made.")
    note: str = Field(description="What to know about the child's ethnic group.")
    reason: str | None = Field(description="Why there is no score; null if there is one.")


class CalibrationObject(BaseModel):
    """The local calibration that is part of an answer."""

    n: int = Field(description="Radiographs that it is fitted to.")
    date: str = Field(description="The day of the fit.")
    digest: str = Field(description="SHA-256 of the file of the calibration.")
    correction: str = Field(description="The correction for this sex, in words.")
    offset_months: float = Field(
        description="By how much the calibration changed the answer, months."
    )


class EstimateObject(BaseModel):
    """The bone age for one sex."""

    predicted_age_months: float | None = Field(
        description="The bone age, months. Null if there is none, or if the sex is not known."
    )
    age: str | None = Field(description="The bone age in years and months, in words.")
    interval: IntervalObject | None = Field(description="Its prediction interval.")
    comparison: ComparisonObject | None = Field(
        description="Its comparison with the chronological age, if that is known."
    )
    calibration: CalibrationObject | None = Field(description="The local calibration, if any.")


class FindingObject(BaseModel):
    """What a person should check."""

    code: str = Field(description="A word for programs.")
    message: str = Field(description="Sentences for people.")
    is_corrected: bool = Field(description="It was put right for the answer.")


class ModelObject(BaseModel):
    """A model that answers."""

    name: str = Field(description="The name of the run or of the shipped model.")
    version: str = Field(description="The day of the release; empty for a run.")
    digest: str = Field(description="SHA-256 of the file of the network.")


class PredictionObject(EstimateObject):
    """The answer for one radiograph: that of `boneage predict --json`."""

    image: str = Field(description="The name of the file.")
    status: Literal["answered", "refused"] = Field(
        description="An image that the model can't judge is refused. That is a result, too."
    )
    sex: Literal["F", "M"] | None = Field(
        description="The sex that the answer is for: as sent, or that of the DICOM header. Null if "
        "it is not known. Then by_sex has both answers."
    )
    reason: str | None = Field(description="Why the image is refused, and what to do.")
    reason_code: str | None = Field(description="A word for that reason, for programs.")
    findings: list[FindingObject] = Field(description="What a person should check.")
    chronological_age_months: float | None = Field(
        description="As sent, or that of the DICOM header."
    )
    models: list[ModelObject] = Field(description="The models whose answers are averaged.")
    notice: str = Field(description="Research use only.")
    by_sex: dict[str, EstimateObject] | None = Field(
        default=None, description="The answers by sex, F and M, only if the sex is not known."
    )
    page: dict[str, Any] | None = Field(
        default=None, description="Pictures and what else the page shows, only with pictures=true."
    )


class HeatObject(BaseModel):
    """A heat map: which places move the answer."""

    heat: str = Field(
        description="Grey PNG in base64, as large as the framed image. 128 is no effect; 0 and "
        "255 are the limits."
    )
    limit_months: float = Field(description="The effect at the limits, months.")
    notice: str = Field(description="Research use only.")


class ModelsObject(BaseModel):
    """What answers here."""

    models: list[ModelObject] = Field(description="The models whose answers are averaged.")
    views: list[int] = Field(description="Test-time views averaged, for each group of models.")
    phases: list[int] = Field(description="Phases averaged, for each group of models.")
    level: float = Field(description="Share of radiographs whose reading the interval holds.")
    has_intervals: bool = Field(description="Whether answers have an interval.")
    notes: list[str] = Field(description="Why they have none.")
    can_write_dicom: bool = Field(description="Whether DICOM documents can be made.")
    software: str = Field(description="The program and its version.")
    notice: str = Field(description="Research use only.")


class ProblemObject(BaseModel):
    """A problem (RFC 9457)."""

    type: str = Field(description="Always about:blank.")
    title: str = Field(description="The words of the status.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong, and what to do.")


class Form(BaseModel):
    """The fields of a request. Only the image is needed."""

    image: bytes = Field(
        description="The radiograph: PNG, JPEG, TIFF, BMP or DICOM.",
        json_schema_extra={"format": "binary"},
    )
    sex: Literal["F", "M", ""] = Field(
        default="",
        description="Sex of the child. Empty: that of the DICOM header; without one, there is an "
        "answer for each.",
    )
    chronological_age_months: float | None = Field(
        default=None,
        ge=0,
        le=480,
        description="Chronological age in months. Default: that of the DICOM header.",
    )
    birth_date: str | None = Field(
        default=None,
        json_schema_extra={"format": "date"},
        description="Date of birth, YYYY-MM-DD, in place of the age. It needs study_date.",
    )
    study_date: str | None = Field(
        default=None,
        json_schema_extra={"format": "date"},
        description="Date of the radiograph, YYYY-MM-DD.",
    )
    pictures: bool = Field(
        default=False, description="Whether the answer comes with pictures for a page."
    )
