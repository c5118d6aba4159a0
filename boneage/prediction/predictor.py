"""Answer for radiographs with one finished run, or with the mean of several."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.prediction.engines import Engine, Outputs, load_engine
from boneage.prediction.familiarity import CLEAR, Familiarity, read_familiarity
from boneage.prediction.familiarity import NAME as FAMILIARITY_NAME
from boneage.prediction.possible_ages import limit_answers
from boneage.prediction.test_time_views import BATCH_SIZE, mean_of_views, test_time_views
from boneage.radiographs.framing import (
    CENTRE,
    PHASES,
    Framed,
    cut_region,
    frame,
    framing_findings,
)
from boneage.radiographs.hand_detection import Box
from boneage.radiographs.image_quality import (
    ImageFinding,
    assess_quality,
    find_blank,
    invert_levels,
    quality_findings,
    refuse_blank,
)
from boneage.radiographs.reader import Radiograph, read_radiograph
from boneage.recipe import Framing, Phases, Recipe
from boneage.run import Run

Inputs: TypeAlias = Sequence[Sequence[npt.NDArray[np.uint8]]]
"""One radiograph, ready for the networks: for each group of runs, the framed image of each phase.
uint8 (size, size)."""


UNFAMILIAR = "unfamiliar"
"""Code of the finding of an image that is not like the hands of the training."""
_DRAWING = ImageFinding(
    "drawing", "it seems to be a drawn hand, so the answer means little", "Use a radiograph."
)


@dataclass(frozen=True, eq=False)
class Assessed:
    """What the pixels of one radiograph show, before a network has seen it.

    Attributes:
        framed: For each group of runs, the framed image of each phase; empty for a blank image.
        findings: What a person should check.
        refusal: Why it should get no answer; None for a usable image.
        confidence: Confidence of the hand's orientation.
        box: The part of the radiograph that is framed: all of it, or a half.
        is_inverted: Whether its grey levels are inverted first.
    """

    framed: Sequence[Sequence[Framed]]
    findings: tuple[ImageFinding, ...]
    refusal: ImageFinding | None = None
    confidence: float = 0.0
    box: Box = (0, 0, 0, 0)
    is_inverted: bool = False

    @property
    def inputs(self) -> Inputs | None:
        """The framed images, ready for the networks; None for a blank image."""
        return [[each.pixels for each in group] for group in self.framed] or None

    @property
    def outline(self) -> npt.NDArray[np.float64]:
        """Corners (x, y) of the first framed image on `levels`, `(4, 2)`."""
        first = self.framed[0][0]
        size = len(first.pixels)
        corners = np.array([(0, 0, 1), (size, 0, 1), (size, size, 1), (0, size, 1)])
        return np.asarray(corners @ first.to_radiograph.T)

    def levels(self, radiograph: Radiograph) -> Radiograph:
        """Return the part of the radiograph that is framed, with bright bone.

        Args:
            radiograph: The array `(h, w)` that was assessed.
        """
        left, top, right, bottom = self.box
        part = radiograph[top:bottom, left:right]
        return invert_levels(part) if self.is_inverted else part


@dataclass(frozen=True)
class Group:
    """Runs that frame a radiograph alike and average the same views, so they share its images.

    Attributes:
        framing: How they frame a radiograph.
        views: Test-time views averaged per framed image.
        phases: Framed images averaged per radiograph, where it is larger than `source_pixels`.
        runs: The runs.
    """

    framing: Framing
    views: int
    phases: int
    runs: tuple[Run, ...]


class Predictor:
    """The mean answer of one or several finished runs, over test-time views and phases.

    Every run counts the same. Each frames a radiograph as its own recipe says, so that runs of
    different sizes can be combined. The networks are loaded when the first answer is asked for.

    Attributes:
        runs: The runs.
        groups: The same runs, by framing, views and phases.
    """

    def __init__(
        self, runs: Run | Sequence[Run], *, views: int | None = None, phases: int | None = None
    ) -> None:
        """Read the recipes of the runs.

        Args:
            runs: Finished runs, at least one.
            views: Test-time views averaged per framed image. Default: each recipe's value.
            phases: Phases averaged per radiograph. Default: each recipe's value.

        Raises:
            InputError: There is no such number of views or phases, or not for these runs; a run is
                named twice; or a recipe can't be read.
        """
        self.runs = (runs,) if isinstance(runs, Run) else tuple(runs)
        _check_different(self.runs)
        groups: dict[tuple[Framing, int, int], list[Run]] = {}
        for run in self.runs:
            recipe = run.read_recipe()
            chosen = recipe.prediction.views if views is None else views
            test_time_views(chosen)  # refuses a wrong number
            key = (recipe.framing, chosen, _find_phases(run, recipe, phases))
            groups.setdefault(key, []).append(run)
        self.groups = [Group(*key, tuple(members)) for key, members in groups.items()]
        self._lock = threading.Lock()

    @property
    def has_phases(self) -> bool:
        """Whether a radiograph may have several framed images, which no store has."""
        return any(group.phases > 1 for group in self.groups)

    def run_views(self) -> list[tuple[Run, int, int]]:
        """Return each run with its numbers of views and phases, in the order of `runs`."""
        found = {run: group for group in self.groups for run in group.runs}
        return [(run, found[run].views, found[run].phases) for run in self.runs]

    def frame(self, radiograph: Radiograph) -> tuple[Inputs, list[ImageFinding]]:
        """Frame a decoded radiograph for every group of runs, at each of its phases.

        Args:
            radiograph: Array `(h, w)`, uint8 or uint16: the part of it that is used.

        Returns:
            The framed images, and what is doubtful about the part that they show.
        """
        framed, findings = self._frame(radiograph)
        return [[each.pixels for each in group] for group in framed], findings

    def _frame(self, radiograph: Radiograph) -> tuple[list[list[Framed]], list[ImageFinding]]:
        """Frame a decoded radiograph; see `frame`."""
        found: list[list[Framed]] = []
        findings: dict[str, ImageFinding] = {}
        for group in self.groups:
            phases = _different_phases(radiograph, group)
            found.append([frame(radiograph, group.framing, phase=phase) for phase in phases])
            findings |= {finding.code: finding for finding in framing_findings(found[-1][0])}
        return found, list(findings.values())

    def assess(self, radiograph: Radiograph) -> Assessed:
        """Frame a decoded radiograph as `frame` does, and say what its pixels show.

        Where the radiograph seems inverted, or shows no hand, its levels are inverted. That image
        is used if it shows a hand and doesn't seem inverted. Otherwise the radiograph is refused,
        but for a clear orientation of a hand that only does not stand out.

        Args:
            radiograph: Array `(h, w)`, uint8 or uint16.
        """
        blank = find_blank(radiograph)
        if blank is not None:
            return Assessed((), (), blank, box=_whole(radiograph))
        seen = self._assess(radiograph)
        if seen.refusal is not None:
            half = self._assess_half(radiograph, seen.refusal)
            if half is not None:
                return half
        found = {finding.code: finding for finding in seen.findings}
        doubt = found.get("inverted") or found.get("no-hand")
        if doubt is None:
            return seen
        other = self._assess(invert_levels(radiograph))
        if not {"inverted", "no-hand"} & {finding.code for finding in other.findings}:
            why = "bone was dark" if doubt.code == "inverted" else "only so a hand stands out"
            what = f"the grey levels were inverted, because {why}"
            put_right = replace(doubt, what=what, is_corrected=True)
            findings = (put_right, *other.findings)
            return replace(other, findings=findings, is_inverted=True)
        if doubt.code == "inverted":
            refusal = replace(doubt, what=f"{doubt.what}, and no hand stands out")
        elif seen.confidence > CLEAR:
            return seen
        else:
            refusal = replace(doubt, what="no hand stands out from its background")
        findings = tuple(each for each in seen.findings if each is not doubt)
        return replace(seen, findings=findings, refusal=refusal)

    def _assess_half(self, radiograph: Radiograph, two: ImageFinding) -> Assessed | None:
        """Assess the first half of a radiograph of two hands that shows one of them alone."""
        for name, (left, top, right, bottom) in _halves(radiograph).items():
            half = radiograph[top:bottom, left:right]
            if find_blank(half) is None and not assess_quality(half).has_two_hands:
                seen = self.assess(half)
                if seen.refusal is None:
                    what = f"it shows two hands, and the answer is for the {name} half of the image"
                    findings = (replace(two, what=what), *seen.findings)
                    return replace(seen, findings=findings, box=(left, top, right, bottom))
        return None

    def _assess(self, radiograph: Radiograph) -> Assessed:
        """Frame a radiograph, and return all that a person should check."""
        framed, doubts = self._frame(radiograph)
        quality = assess_quality(radiograph)
        findings = {finding.code: finding for finding in (*quality_findings(quality), *doubts)}
        if "rotated" in findings:  # put right
            findings.pop("turned-hand", None)
        refusal = findings.pop("two-hands", None)
        if refusal is not None:
            refusal = replace(refusal, what="it shows two hands, and neither half shows one alone")
        confidence, whole = quality.orientation.confidence, _whole(radiograph)
        return Assessed(framed, tuple(findings.values()), refusal, confidence, whole)

    def judge(
        self, outputs: Sequence[Outputs], confidence: Sequence[float]
    ) -> list[ImageFinding | None]:
        """Return of some radiographs whether the networks know such images.

        Args:
            outputs: For each run, its outputs for the radiographs, as `estimate` returns them.
            confidence: `Assessed.confidence` of each.

        Returns:
            For each radiograph None, or a finding: `UNFAMILIAR` for an image that is refused, or
            `drawing`. Always None if no run has a `familiarity.npz`.

        Raises:
            InputError: A `familiarity.npz` is damaged, or that of another network.
        """
        ratios, drawn = [], []
        for run, each in zip(self.runs, outputs, strict=True):
            known = self._familiarity[run]
            if known is None or each.pooled is None:
                continue
            if each.pooled.shape[1] != known.hands.shape[1]:
                what = f"it is for {known.hands.shape[1]} features, not {each.pooled.shape[1]}"
                fix = "Remove the file, or use a copy of the run."
                raise InputError(Fault(str(run.folder / FAMILIARITY_NAME), what, fix))
            ratios.append(known.distances(each.pooled, np.array(confidence)) / known.limit)
            drawn.append(known.are_drawings(each.pooled, np.array(confidence)))
        if not ratios:
            return [None] * len(confidence)
        far, drawing = np.mean(ratios, axis=0), np.all(drawn, axis=0)
        return [
            _DRAWING if drawing[row] else _unfamiliar(far[row]) if far[row] > 1 else None
            for row in range(len(confidence))
        ]

    def refuse(self, radiograph: Radiograph) -> ImageFinding | None:
        """Return why a decoded radiograph gets no answer, or None; safe to call in threads."""
        seen = self.assess(radiograph)
        if seen.refusal is not None or seen.inputs is None:
            return seen.refusal
        with self._lock:
            outputs = self.estimate([seen.inputs], np.zeros((1, 1), np.float32))
        (found,) = self.judge(outputs, [seen.confidence])
        return found if found is not None and found.code == UNFAMILIAR else None

    def read(self, path: Path, region: Box | None = None) -> Inputs:
        """Decode and frame a file.

        Args:
            path: The file.
            region: The part of the image to use; by default all of it.

        Raises:
            InputError: The file can't be read, it is blank, or the region is not inside the image.
        """
        radiograph = read_radiograph(path)
        if region is not None:
            try:
                radiograph = cut_region(radiograph, region)
            except InputError as error:
                raise InputError(replace(error.faults[0], where=f"{path}: region")) from None
        refuse_blank(radiograph, path)
        return self.frame(radiograph)[0]

    def estimate(
        self, inputs: Sequence[Inputs], gender: npt.NDArray[np.float32]
    ) -> tuple[Outputs, ...]:
        """Compute some radiographs with every run, averaged over phases and views.

        Args:
            inputs: Radiographs as `frame` returns them.
            gender: float32 (n, 1), 1.0 = male.

        Returns:
            For each run, in the order of `runs`, the outputs for the `n` radiographs. The pooled
            features are those of the first phase, without test-time views.

        Raises:
            InputError: A model can't be read.
        """
        if not inputs:  # then no model is read
            return tuple(Outputs(np.empty(0)) for _ in self.runs)
        found: dict[Run, Outputs] = {}
        for index, (group, engines) in enumerate(zip(self.groups, self.engines, strict=True)):
            counts = [len(radiograph[index]) for radiograph in inputs]
            images = [image for radiograph in inputs for image in radiograph[index]]
            sexes = np.repeat(gender, counts, axis=0)
            starts = np.cumsum([0, *counts[:-1]])

            def mean(values: Any, starts: Any = starts, counts: Any = counts) -> Any:
                return np.add.reduceat(values, starts) / counts

            for run, engine in zip(group.runs, engines, strict=True):
                each = mean_of_views(engine, images, sexes, group.views)
                found[run] = Outputs(
                    mean(each.months),
                    None if each.variance is None else mean(each.variance),
                    None if each.pooled is None else each.pooled[starts],
                )
        return tuple(found[run] for run in self.runs)

    def estimates(
        self, inputs: Iterable[Inputs], gender: npt.NDArray[np.float32]
    ) -> Iterator[tuple[Outputs, ...]]:
        """Compute many radiographs, a batch at a time; see `estimate`.

        Args:
            inputs: Radiographs as `frame` returns them. Only one batch is held in memory.
            gender: float32 (n, 1), 1.0 = male.
        """
        remaining, first = iter(inputs), 0
        while batch := list(islice(remaining, BATCH_SIZE)):
            yield self.estimate(batch, gender[first : first + len(batch)])
            first += len(batch)

    @cached_property
    def _familiarity(self) -> dict[Run, Familiarity | None]:
        return {run: read_familiarity(run.folder) for run in self.runs}

    @cached_property
    def engines(self) -> list[list[Engine]]:
        """The networks of the runs of each group."""
        return [[load_engine(run) for run in group.runs] for group in self.groups]


def mean_answer(outputs: Sequence[Outputs]) -> npt.NDArray[np.float64]:
    """Return the mean answer of several runs.

    An answer of up to a year outside 0 to 240 months becomes the nearest of these ages. See
    `boneage.prediction.possible_ages` for what else is no bone age.

    Args:
        outputs: For each run, its outputs for the same radiographs.

    Returns:
        float64 (n,), months.
    """
    return limit_answers(np.mean([each.months for each in outputs], axis=0))


def _whole(radiograph: Radiograph) -> Box:
    height, width = radiograph.shape
    return 0, 0, width, height


def _halves(radiograph: Radiograph) -> dict[str, Box]:
    """Return the two halves of a radiograph across its longer side, by name."""
    height, width = radiograph.shape
    if width >= height:
        return {"left": (0, 0, width // 2, height), "right": (width // 2, 0, width, height)}
    return {"upper": (0, 0, width, height // 2), "lower": (0, height // 2, width, height)}


def _unfamiliar(far: float) -> ImageFinding:
    what = "it is not like the hands that the model was trained on"
    what += f" ({far:.1f} times the allowed distance)"
    return ImageFinding(UNFAMILIAR, what, "Check the image. Is it a radiograph of one whole hand?")


def _different_phases(radiograph: Radiograph, group: Group) -> list[tuple[float, float]]:
    """Return the phases at which the framed images of a radiograph differ.

    A side that is not larger than `source_pixels` keeps all of its pixels, so it has one phase.

    Args:
        radiograph: Array `(h, w)`, the part of the radiograph that is framed.
        group: The framing, and the number of phases.
    """
    pixels = group.framing.source_pixels
    if group.phases == 1 or pixels is None:
        return [CENTRE]
    down, across = (side > pixels for side in radiograph.shape)
    found = ((y if down else CENTRE[0], x if across else CENTRE[1]) for y, x in PHASES)
    return list(dict.fromkeys(found))


def _check_different(runs: Sequence[Run]) -> None:
    folders = [run.folder.resolve() for run in runs]
    faults = [
        Fault(str(run.folder), "the run is named twice", "Name every run once: all count the same.")
        for index, run in enumerate(runs)
        if folders[index] in folders[:index]
    ]
    if faults:
        raise InputError(faults)


def _find_phases(run: Run, recipe: Recipe, phases: int | None) -> int:
    """Return the number of phases of a run.

    Raises:
        InputError: There is no such number, or the run's framing has one phase.
    """
    if phases is None:
        return recipe.prediction.phases
    if phases not in get_args(Phases):
        known = " or ".join(map(str, get_args(Phases)))
        raise InputError(Fault("phases", f"it is {phases}", f"Choose {known}."))
    if phases > 1 and recipe.framing.sampling != "nearest":
        what = f"it is {phases}, but the framing of {run.folder} has one phase"
        fix = "Leave it out, or choose 1. Only framing.sampling = 'nearest' has several."
        raise InputError(Fault("phases", what, fix))
    return phases
