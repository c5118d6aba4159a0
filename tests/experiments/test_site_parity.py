from __future__ import annotations

import pytest

from experiments.serving.site_parity import compare


def answer(months: float | None, **others) -> dict:
    status = "refused" if months is None else "answered"
    values = {"status": status, "reason": None, "reason_code": None, "findings": []}
    return {**values, "predicted_age_months": months, "ms": 100.0, **others}


def test_differences_are_counted():
    expected = [answer(100.0), answer(50.0), answer(None), answer(80.0), answer(20.0)]
    found = [answer(100.05), answer(50.3), answer(None), answer(None), answer(20.0, findings=[1])]
    result = compare(expected, found)
    assert (result["radiographs"], result["answered_by_both"]) == (5, 3)
    assert (result["other_refusals"], result["other_findings"]) == (1, 1)
    assert result["above_a_tenth"] == 1
    assert result["largest_months"] == pytest.approx(0.3)
