from __future__ import annotations

import numpy as np
import pytest

from boneage.errors import InputError
from boneage.prediction.calibration import Calibration, Correction, mean_deviations
from boneage.prediction.engines import Outputs
from boneage.prediction.intervals import IntervalModel, Spread, fit_scores

OFFSET = Correction("offset", 60, 5.0, 1.0, 20.0, 200.0)
LINE = Correction("linear", 60, 10.0, 0.9, 50.0, 150.0)
SCORES = fit_scores(np.arange(1.0, 100.0), 1, 1)  # its 90th of 99 is that of 90 %


def calibration(**corrections: Correction) -> Calibration:
    return Calibration(("a" * 64,), 1, 1, 120, "2026-11-30", "b" * 64, corrections, SCORES)


def test_an_offset_is_added_and_no_answer_leaves_the_possible_ages() -> None:
    assert OFFSET.apply(np.array([-3.0, 100.0, 238.0])).tolist() == [2.0, 105.0, 240.0]
    assert str(OFFSET) == "+5.00 months"


def test_a_line_is_not_extended_beyond_the_answers_that_it_was_fitted_to() -> None:
    corrected = LINE.apply(np.array([10.0, 50.0, 100.0, 150.0, 200.0]))
    assert corrected == pytest.approx([15.0, 55.0, 100.0, 145.0, 195.0])
    assert str(LINE) == "10.00 months + 0.900 x answer"


def test_every_answer_says_what_was_changed_and_an_uncorrected_sex_too() -> None:
    found = calibration(M=OFFSET)
    months, applied = found.apply(100.0, "M")
    assert (months, applied.offset_months, applied.n) == (105.0, 5.0, 120)
    assert str(applied) == (
        "calibrated +5.0 months (+5.00 months; 120 local radiographs, 2026-11-30, bbbbbbbbbbbb)"
    )
    months, applied = found.apply(100.0, "F")
    assert (months, applied.correction, applied.offset_months) == (100.0, "none", 0.0)


def test_the_interval_is_made_of_the_local_errors() -> None:
    found = calibration(M=OFFSET).interval(105.0, 0.5, 0.9)
    assert (found.level, found.low, found.high) == (0.9, 60.0, 150.0)
    assert calibration().interval(20.0, 1.0, 0.9).low == 0.0
    with pytest.raises(InputError, match="--level"):
        calibration().interval(105.0, 1.0, 0.999)


def test_the_deviation_of_several_runs_is_the_mean_of_theirs() -> None:
    narrow = IntervalModel("a", Spread(months=6, at_birth_months=2, by_age=0))
    wide = IntervalModel("b", Spread(months=0, at_birth_months=0, by_age=0))
    outputs = [Outputs(np.array([90.0]), np.array([100.0])) for _ in range(2)]
    found = mean_deviations([narrow, wide], outputs)
    assert found == pytest.approx([(8.0 + 10.0) / 2])
    number = Outputs(np.array([90.0]))
    assert mean_deviations([narrow, wide], [outputs[0], number]).tolist() == [1.0]


def test_a_calibration_is_that_of_its_models_at_their_views() -> None:
    found = calibration()
    found.check_models("c.json", ["a" * 64], 1, 1)
    with pytest.raises(InputError, match="another model: the digest here is cccccccccccc…"):
        found.check_models("c.json", ["c" * 64], 1, 1)
    with pytest.raises(InputError, match="another model"):
        found.check_models("c.json", ["a" * 64, "a" * 64], 1, 1)
    with pytest.raises(InputError, match="for 1 views and 1 phases"):
        found.check_models("c.json", ["a" * 64], 6, 1)
