from __future__ import annotations

import itertools

import pytest

from boneage.datasets.phantom.ossification import (
    CENTRES,
    EPIPHYSES,
    ROUND_BONES,
    Sex,
    age_at_maturity,
    fused_epiphyses,
    maturity_months,
    sex_lead_months,
    visible_centres,
)

SEXES: tuple[Sex, ...] = ("F", "M")
CARPALS = (
    "capitate", "hamate", "triquetral", "lunate", "scaphoid", "trapezium", "trapezoid", "pisiform",
)  # fmt: skip


@pytest.mark.parametrize("sex", SEXES)
def test_carpals_appear_in_the_order_of_the_literature(sex: Sex) -> None:
    shown = visible_centres(228, sex)
    assert tuple(name for name in shown if name in CARPALS) == CARPALS


@pytest.mark.parametrize("sex", SEXES)
def test_capitate_and_hamate_appear_first_and_in_the_first_year(sex: Sex) -> None:
    assert visible_centres(0, sex) == ()
    assert visible_centres(9, sex)[:2] == ("capitate", "hamate")


def test_landmarks_of_boys() -> None:
    assert "radius" in visible_centres(14, "M")
    assert "ulna" not in visible_centres(72, "M")
    assert "ulna" in visible_centres(90, "M")
    assert "sesamoid" not in visible_centres(140, "M")
    assert "sesamoid" in visible_centres(160, "M")


def test_landmarks_of_girls() -> None:
    assert "ulna" in visible_centres(66, "F")
    assert "sesamoid" not in visible_centres(120, "F")
    assert "sesamoid" in visible_centres(132, "F")


@pytest.mark.parametrize("sex", SEXES)
def test_fusion_starts_in_the_distal_phalanges_and_ends_in_the_radius(sex: Sex) -> None:
    order = fused_epiphyses(240, sex)
    assert len(order) == len(EPIPHYSES) == 21
    assert {name.split("-")[0] for name in order[:5]} == {"distal"}
    assert order[-2:] == ("ulna", "radius")
    rows = [name.split("-")[0] for name in order[:-2]]
    assert [row for row, _ in itertools.groupby(rows)] == [
        "distal", "metacarpal", "proximal", "middle",
    ]  # fmt: skip


def test_nothing_that_appeared_disappears() -> None:
    for sex in SEXES:
        shown = [visible_centres(age, sex) for age in range(0, 229, 3)]
        for younger, older in itertools.pairwise(shown):
            assert older[: len(younger)] == younger


def test_girls_lead_grows_to_two_years() -> None:
    leads = [sex_lead_months(age) for age in range(241)]
    assert leads == sorted(leads)
    assert leads[0] == 0
    assert leads[10] < 8
    assert 20 < leads[60] < 22
    assert 23.5 < leads[150] < 24


def test_the_same_maturity_is_another_age_for_a_girl() -> None:
    boy = maturity_months(150, "M")
    girl = age_at_maturity(boy, "F")
    assert maturity_months(girl, "F") == pytest.approx(boy)
    assert 22 < 150 - girl < 24
    assert age_at_maturity(boy, "M") == 150


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


def test_something_happens_in_every_half_year_of_childhood() -> None:
    """The cohort must be learnable at every age, so the model may not stand still anywhere."""

    def state(clock: float) -> list[float]:
        grown = [bone.growth(clock) for bone in ROUND_BONES.values()]
        for e in EPIPHYSES.values():
            grown += [e.width(clock), e.plate(clock), e.bridged(clock), e.scar(clock)]
        return grown

    for clock in range(3, 246, 6):
        before, after = state(clock), state(clock + 6)
        assert sum(abs(b - a) for a, b in zip(before, after, strict=True)) > 0.1, clock


def test_the_names_are_unique() -> None:
    assert len({centre.name for centre in CENTRES}) == len(CENTRES) == 30
