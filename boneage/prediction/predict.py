"""Estimate the bone ages of radiograph files with one finished run or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.prediction.answers import (
    SEXES,
    Answer,
    Estimate,
    Interval,
    ModelIdentity,
    age_in_words,
    sexes_to_answer,
)
from boneage.prediction.calibration import Calibration, mean_deviations, read_calibration
from boneage.prediction.engines import Outputs
from boneage.prediction.intervals import (
    LEVEL,
    IntervalModel,
    RunIntervals,
    mean_bounds,
    new_intervals,
)
from boneage.prediction.possible_ages import answer_faults
from boneage.prediction.predictor import UNFAMILIAR, Assessed, Predictor, mean_answer
from boneage.prediction.sd_score import compare_ages, load_reference
from boneage.prediction.shipped import identify_model, open_run
from boneage.prediction.test_time_views import BATCH_SIZE
from boneage.radiographs.chronological_age import OLDEST_MONTHS
from boneage.radiographs.dicom_headers import (
    DicomHeader,
    age_findings,
    find_dicom_header,
    header_findings,
)
from boneage.radiographs.file_limits import Upload
from boneage.radiographs.image_quality import ImageFinding
from boneage.radiographs.reader import Radiograph, read_radiograph
from boneage.run import Run
from boneage.runtime.provenance import usable_cores
from boneage.runtime.threads import threads

MATURE_MONTHS = {"F": 192.0, "M": 204.0}
"""Bone ages near the end of the scale: the growth plates of the hand are closing or closed."""
_CHILDREN = {"F": "girls", "M": "boys"}


@dataclass(frozen=True)
class Request:
    """A radiograph to answer.

    Attributes:
        image: The file, or one in memory.
        sex: `F` or `M`; None if it is not known. Then it is that of a DICOM header. Without one,
            the answer has an estimate for each.
        chronological_age_months: The age of the child on the day of the radiograph, if known.
            Default: that of a DICOM header.
        fault: Why there is nothing to answer, if what is known of the child is wrong.
    """

    image: str | Path | Upload
    sex: str | None
    chronological_age_months: float | None = None
    fault: Fault | None = None

    def __post_init__(self) -> None:
        """Check what is said of the child.

        Raises:
            InputError: The sex is another word, or the age is impossible.
        """
        if self.sex not in (None, *SEXES):
            what = f"the sex is {self.sex!r:.60}"
            raise InputError(Fault(str(self.image), what, "Give 'F', 'M', or None if unknown."))
        age = self.chronological_age_months
        if age is not None and not 0 <= age <= OLDEST_MONTHS:  # also NaN
            what = f"a chronological age of {age:g} months is impossible"
            raise InputError(Fault(str(self.image), what, "Give months, from 0 to 480."))


@dataclass(frozen=True, eq=False)
class Prepared:
    """A radiograph that was read, before the networks have seen it.

    Attributes:
        request: The request, completed by the header of a DICOM file.
        answer: The answer so far. Its status is `answered` if the networks are to be asked.
        radiograph: The pixels, `(h, w)`, uint8 or uint16; None if the file can't be read.
        assessed: What they show.
        header: The header of a DICOM file.
    """

    request: Request
    answer: Answer
    radiograph: Radiograph | None = None
    assessed: Assessed | None = None
    header: DicomHeader | None = None


class Estimator:
    """One finished run or several, ready to answer for radiograph files.

    `boneage.load` makes one. The networks are loaded when the first image is ready.

    Attributes:
        predictor: The runs, with their framing and views.
        intervals: The prediction intervals of each run.
    """

    def __init__(
        self,
        runs: Run | Sequence[Run],
        *,
        views: int | None = None,
        phases: int | None = None,
        level: float | None = None,
        anyway: bool = False,
        calibration: Path | None = None,
        reference: Path | None = None,
    ) -> None:
        """Read the recipes of the runs, and the other files.

        Args:
            runs: Finished runs, at least one. Their answers are averaged.
            views: Test-time views averaged per framed image. Default: each recipe's value.
            phases: Phases averaged per radiograph. Default: each recipe's value.
            level: Share of radiographs whose label the interval holds. Default: 0.9, if there are
                enough validation images for it.
            anyway: Answer for images that would be refused, with the reason as a finding.
            calibration: The file of a local calibration, which every answer then has.
            reference: Means and SDs of bone ages, as for `load`.

        Raises:
            InputError: As `Predictor`, a file is faulty, the calibration is another model's, or
                there are no intervals of that level.
        """
        self.predictor = Predictor(runs, views=views, phases=phases)
        self.intervals = [RunIntervals(*each) for each in self.predictor.run_views()]
        for each in self.intervals:
            each.use_level(level)
        self.level = LEVEL if level is None else level
        self.anyway = anyway
        self.reference = load_reference(reference)
        self.calibration = None if calibration is None else read_calibration(calibration)
        if self.calibration is not None:
            group = self.predictor.groups[0]
            digests = [model.digest for model in self.models]
            self.calibration.check_models(str(calibration), digests, group.views, group.phases)
            self.calibration.scores.quantile(self.level)  # refuses a wrong level

    @property
    def notes(self) -> tuple[str, ...]:
        """Why answers have no interval, and what to do."""
        if self.calibration is not None:
            return ()
        return tuple(each.note for each in self.intervals if each.note)

    @cached_property
    def models(self) -> tuple[ModelIdentity, ...]:
        """The identity of each run."""
        return tuple(identify_model(run) for run in self.predictor.runs)

    @cached_property
    def _spreads(self) -> list[IntervalModel]:
        """Return how to find the standard deviations of each run's answers."""
        return [new_intervals(run) for run in self.predictor.runs]

    def predict(
        self,
        radiograph: str | Path | Upload,
        sex: str | None,
        chronological_age_months: float | None = None,
    ) -> Answer:
        """Answer for one radiograph.

        Args:
            radiograph: An image file, read and framed exactly as in training.
            sex: `F` or `M`; None if it is not known.
            chronological_age_months: The age of the child on the day of the radiograph, if known.

        Returns:
            The answer, or why there is none.

        Raises:
            InputError: A model can't be read, or the sex or the age is none. What is wrong with
                the file is in the answer.
        """
        # Without a thread: a new one begins with no memory of its own, which costs time.
        return self.answer(self.prepare(Request(radiograph, sex, chronological_age_months)))

    def answer(self, prepared: Prepared) -> Answer:
        """Return the answer for one radiograph that `prepare` has read.

        Args:
            prepared: What `prepare` returned.

        Raises:
            InputError: A model can't be read.
        """
        (answer,) = self._answer_batch([prepared])
        return answer

    def predict_many(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answer for many radiographs, a batch at a time. No file ends the job.

        Args:
            requests: The radiographs. Only a few batches of them are held in memory.

        Yields:
            One answer for each request, in their order.

        Raises:
            InputError: A model can't be read.
        """
        _ = self.models  # a damaged run is reported before a radiograph is read
        with threads(usable_cores()) as pool:
            # The next batch is prepared while the networks compute one.
            prepared = pool.map(self._prepare_small, requests, ahead=BATCH_SIZE)
            while batch := list(islice(prepared, BATCH_SIZE)):
                yield from self._answer_batch(batch)

    def _prepare_small(self, request: Request) -> Prepared:
        """Prepare a radiograph, and don't keep its pixels."""
        return replace(self.prepare(request), radiograph=None)

    def _answer_batch(self, batch: Sequence[Prepared]) -> Iterator[Answer]:
        """Yield the answers of one batch of prepared radiographs."""
        framed = [
            (each.assessed, each.assessed.inputs, sex)
            for each in batch
            if each.answer.status == "answered" and each.assessed is not None
            for sex in sexes_to_answer(each.request.sex)
        ]
        gender = np.array([[float(sex == "M")] for *_, sex in framed], np.float32)
        inputs = [inputs for _, inputs, _ in framed if inputs is not None]
        outputs = self.predictor.estimate(inputs, gender.reshape(-1, 1))
        judged = self.predictor.judge(outputs, [assessed.confidence for assessed, *_ in framed])
        first = 0
        for prepared in batch:
            answer = prepared.answer
            if answer.status != "answered":
                yield answer
                continue
            sexes = sexes_to_answer(prepared.request.sex)
            rows = slice(first, first + len(sexes))
            finding = judged[first]
            first += len(sexes)
            if finding is not None and finding.code == UNFAMILIAR and not self.anyway:
                two = (each for each in answer.findings if each.code == "two-hands")
                yield _refused(answer, next(two, finding))  # the plainer reason
                continue
            if finding is not None:
                answer = replace(answer, findings=(finding, *answer.findings))
            yield self._complete(answer, sexes, [_rows(each, rows) for each in outputs])

    def _complete(self, answer: Answer, sexes: Sequence[str], outputs: Sequence[Outputs]) -> Answer:
        """Add what the networks say of one radiograph: a row for each sex, of every run."""
        months = mean_answer(outputs)
        for fault in answer_faults([answer.image], months[:1]):
            return replace(answer, status="failed", fault=fault)
        if self.calibration is None:
            rows = zip(sexes, months.tolist(), self._intervals(outputs), strict=True)
            estimates = [Estimate(*row) for row in rows]
        else:
            estimates = self._calibrate(self.calibration, sexes, months, outputs)
        age = answer.chronological_age_months
        if age is not None:
            estimates = [self._compare(estimate, age) for estimate in estimates]
        findings = (*answer.findings, *_maturity_findings(estimates))
        return replace(answer, estimates=tuple(estimates), findings=findings)

    def _intervals(self, outputs: Sequence[Outputs]) -> Sequence[Interval | None]:
        """Return the interval of each answer."""
        bounds = mean_bounds(
            [
                each.bounds(found.months, found.variance, self.level)
                for each, found in zip(self.intervals, outputs, strict=True)
            ]
        )
        if bounds is None:
            return [None] * len(outputs[0].months)
        ends = zip(*(end.tolist() for end in bounds), strict=True)
        return [Interval(self.level, low, high) for low, high in ends]

    def _calibrate(
        self,
        calibration: Calibration,
        sexes: Sequence[str],
        months: npt.NDArray[np.float64],
        outputs: Sequence[Outputs],
    ) -> list[Estimate]:
        """Return calibrated estimates, with intervals that local errors make."""
        estimates = []
        deviations = mean_deviations(self._spreads, outputs).tolist()
        for sex, age, deviation in zip(sexes, months.tolist(), deviations, strict=True):
            corrected, applied = calibration.apply(age, sex)
            interval = calibration.interval(corrected, deviation, self.level)
            estimates.append(Estimate(sex, corrected, interval, calibration=applied))
        return estimates

    def _compare(self, estimate: Estimate, age: float) -> Estimate:
        """Add the comparison with the chronological age."""
        found = estimate.interval
        ends = None if found is None else (found.low, found.high)
        compared = compare_ages(estimate.months, estimate.sex, age, self.reference, ends)
        return replace(estimate, comparison=compared)

    def prepare(self, request: Request) -> Prepared:
        """Decode, check and frame one file.

        Args:
            request: The radiograph, and what is known of the child.

        Returns:
            What `answer` takes. If the networks are not to be asked, its answer says why.
        """
        name = str(request.image)
        answer = Answer(
            name,
            "answered",
            chronological_age_months=request.chronological_age_months,
            models=self.models,
        )
        if request.fault is not None:
            return Prepared(request, replace(answer, status="failed", fault=request.fault))
        try:
            radiograph = read_radiograph(request.image)
            found = self.predictor.assess(radiograph)
            image = request.image
            header = find_dicom_header(image if isinstance(image, Upload) else Path(image))
            findings = found.findings
            if found.refusal is not None:
                if not found.framed or not self.anyway:
                    refused = _refused(answer, found.refusal)
                    return Prepared(request, refused, radiograph, found, header)
                findings = (found.refusal, *findings)
            if header is not None:
                request, doubts = _complete_request(request, header)
                findings = (*doubts, *findings)
        except InputError as error:
            fault = replace(error.faults[0], where=name)
        except Exception as error:  # noqa: BLE001 - no file may cost the others their answers
            what = f"the file can't be decoded ({type(error).__name__})"
            fault = Fault(name, what, "Save it as a grey PNG.")
        else:
            age = request.chronological_age_months
            answer = replace(answer, findings=findings, chronological_age_months=age)
            return Prepared(request, answer, radiograph, found, header)
        return Prepared(request, replace(answer, status="unreadable", fault=fault))


def _refused(answer: Answer, why: ImageFinding) -> Answer:
    fault = Fault(answer.image, why.what, why.fix)
    return replace(answer, status="refused", fault=fault, reason_code=why.code)


def _maturity_findings(estimates: Sequence[Estimate]) -> list[ImageFinding]:
    mature = [each.sex for each in estimates if each.months >= MATURE_MONTHS[each.sex]]
    if not mature:
        return []
    ends = (f"{age_in_words(MATURE_MONTHS[sex])} for {_CHILDREN[sex]}" for sex in mature)
    what = f"near or at skeletal maturity: the scale ends soon after {' and '.join(ends)}"
    fix = "Hands of later ages hardly differ, so the child may be older than the answer."
    return [ImageFinding("near-maturity", what, fix)]


def _complete_request(request: Request, header: DicomHeader) -> tuple[Request, list[ImageFinding]]:
    """Return a request with what is known from a header alone, and what the header contradicts."""
    age = request.chronological_age_months
    if request.sex is None and header.sex in SEXES:
        request = replace(request, sex=header.sex)
    if age is None and header.age.months is not None:
        request = replace(request, chronological_age_months=float(header.age.months))
    return request, [*header_findings(header, request.sex), *age_findings(header.age, age)]


def _rows(outputs: Outputs, rows: slice) -> Outputs:
    return Outputs(
        outputs.months[rows],
        None if outputs.variance is None else outputs.variance[rows],
        None if outputs.pooled is None else outputs.pooled[rows],
    )


def load(
    run: str | Path,
    *others: str | Path,
    views: int | None = None,
    phases: int | None = None,
    level: float | None = None,
    anyway: bool = False,
    calibration: str | Path | None = None,
    reference: str | Path | None = None,
) -> Estimator:
    """Open a shipped model by its name, or a finished run by its folder.

    Args:
        run: The name or the folder.
        others: Further runs whose answers are averaged with those of the run.
        views: Test-time views averaged per framed image. Default: each recipe's value.
        phases: Phases averaged per radiograph. Default: each recipe's value.
        level: Share of radiographs whose label the interval holds. Default: 0.9, if there are
            enough validation images for it.
        anyway: Answer for images that would be refused, with the reason as a finding.
        calibration: The file of a local calibration, which every answer then has.
        reference: Means and SDs of bone ages: a CSV file with the columns `sex`,
            `chronological_age_months`, `mean_months` and `sd_months`. Default: Brush Foundation.

    Returns:
        What answers: its method `predict` takes one radiograph, `predict_many` any number.

    Raises:
        InputError: There is no such run, its files are damaged, or another file is faulty.
    """
    return Estimator(
        [open_run(Path(each)) for each in (run, *others)],
        views=views,
        phases=phases,
        level=level,
        anyway=anyway,
        calibration=None if calibration is None else Path(calibration),
        reference=None if reference is None else Path(reference),
    )
