from __future__ import annotations

import itertools

from boneage.datasets.phantom.ossification import (
    CENTRES,
    EPIPHYSES,
    ROUND_BONES,
    maturity_months,
    sex_lead_months,
)

CARPALS = (
    "capitate", "hamate", "triquetral", "lunate", "scaphoid", "trapezium", "trapezoid", "pisiform",
)  # fmt: skip


def test_the_order_of_the_literature() -> None:
    assert len({centre.name for centre in CENTRES}) == len(CENTRES) == 30
    shown = [centre.name for centre in sorted(CENTRES, key=lambda centre: centre.appears)]
    assert shown[:2] == ["capitate", "hamate"]
    assert tuple(name for name in shown if name in CARPALS) == CARPALS
    fused = [bone.name for bone in sorted(EPIPHYSES.values(), key=lambda bone: bone.fused)]
    rows = [name.split("-")[0] for name in fused]
    assert [row for row, _ in itertools.groupby(rows)] == [
        "distal", "metacarpal", "proximal", "middle", "ulna", "radius",
    ]  # fmt: skip


def test_girls_lead_grows_to_two_years() -> None:
    leads = [sex_lead_months(age) for age in range(241)]
    assert leads == sorted(leads)
    assert leads[0] == 0
    assert leads[10] < 8
    assert 20 < leads[60] < 22
    assert 23.5 < leads[150] < 24
    assert maturity_months(150, "M") == 150
    assert maturity_months(150, "F") == 150 + leads[150]


def test_every_centre_grows_with_maturity() -> None:
    clocks = range(253)
    for bone in ROUND_BONES.values():
        sizes = [bone.growth(clock) for clock in clocks]
        assert sizes == sorted(sizes)
        assert sizes[-1] == 1
    for epiphysis in EPIPHYSES.values():
        assert epiphysis.appears < epiphysis.wide < epiphysis.caps
        assert epiphysis.caps < epiphysis.fusing < epiphysis.fused
        thickness = [epiphysis.thickness(clock) for clock in clocks]
        plates = [epiphysis.plate(clock) for clock in clocks]
        bridges = [epiphysis.bridged(clock) for clock in clocks]
        assert thickness == sorted(thickness)
        assert plates == sorted(plates, reverse=True)
        assert bridges == sorted(bridges)
        assert (plates[0], plates[-1], bridges[0], bridges[-1]) == (1, 0, 0, 1)
