from __future__ import annotations

from boneage.prediction.atlas_ages import STANDARDS_MONTHS, nearest_standards


def test_the_standards_are_those_of_the_atlas() -> None:
    assert (len(STANDARDS_MONTHS["M"]), len(STANDARDS_MONTHS["F"])) == (31, 27)
    assert all(list(ages) == sorted(set(ages)) for ages in STANDARDS_MONTHS.values())


def test_the_nearest_standards_are_one_below_and_one_above() -> None:
    assert nearest_standards(100.0, "M") == [96, 108]
    assert nearest_standards(100.0, "F") == [94, 106]
    assert nearest_standards(50.3, "F") == [50]
    assert nearest_standards(239.0, "M") == [228]
    assert nearest_standards(0.6, "F") == [0, 3]
