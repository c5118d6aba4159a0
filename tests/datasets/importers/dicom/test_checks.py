from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"PatientSex": "O"}, "row 7: the PatientSex of its radiograph is O; expected F or M"),
        ({"PatientSex": "WEIBLICH"}, "the PatientSex of its radiograph is another value"),
        ({"NumberOfFrames": "many"}, "the NumberOfFrames of its radiograph is not a number"),
        ({"Modality": "CT"}, "the Modality of its radiograph is CT; expected CR"),
    ],
)
def test_a_radiograph_that_can_not_be_used(pacs, values: dict[str, str], message: str) -> None:
    pacs.write(5, **values)
    (found,) = pacs.faults()
    assert message in found
    assert len(pacs.import_(*pacs.rows[:5], *pacs.rows[6:])) == 19  # only if a row names it


def test_everything_wrong_comes_at_once(pacs) -> None:
    pacs.write(5, PatientSex="O", NumberOfFrames="2", Modality="MR")
    found = pacs.faults(*pacs.rows, "1.2.99,50", "1.2.826.0.1.3680043.10.999.6,x")
    assert len(found) == 6


def test_what_should_be_checked_is_noted(pacs, note) -> None:
    pacs.write(0, Modality="OT", BodyPartExamined="CHEST", BurnedInAnnotation="YES")
    pacs.write(1, Modality="", BodyPartExamined="Ottos Hand", ImageLaterality="R")
    pacs.write(2, BodyPartExamined="Ottos Fuss", PatientBirthDate="", PatientAge="011Y")
    pacs.write(3, PatientAge="003Y")
    manifest = pacs.import_()
    assert note(manifest, "Modality is OT (1), empty (1). Are these plain radiographs?")
    assert note(manifest, "BodyPartExamined is CHEST (1), another value (1)")
    assert note(manifest, "BurnedInAnnotation is YES in 1 radiograph.")
    assert note(manifest, "right side: 1.")
    assert note(manifest, "in completed years only (PatientAge): 1.")
    assert note(manifest, "contradict each other: 1.")
    assert note(manifest, "19 of 20, in whole months")
