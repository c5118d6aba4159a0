import json

import pytest

from boneage.errors import Fault
from boneage.prediction.answers import Answer, Estimate, Interval, ModelIdentity, age_in_words
from boneage.radiographs.image_quality import ImageFinding

MODEL = ModelIdentity("m", "2026-11-30", "ab")


@pytest.mark.parametrize(
    ("months", "words"),
    [
        (118.8, "9 years 11 months"),
        (0.2, "0 months"),
        (12.0, "1 year"),
        (13.4, "1 year 1 month"),
        (11.6, "1 year"),
        (7.0, "7 months"),
        (-14.0, "-1 year 2 months"),
    ],
)
def test_an_age_is_written_in_whole_months(months, words):
    assert age_in_words(months) == words


def test_an_answer_has_one_form_in_json():
    finding = ImageFinding("two-hands", "it probably shows two hands", "Cut out the left hand.")
    estimate = Estimate("F", 118.8, Interval(0.9, 102.0, 135.5))
    answer = Answer("a.png", "answered", (estimate,), findings=(finding,), models=(MODEL,))
    values = json.loads(json.dumps(answer.as_dict()))
    assert values["predicted_age_months"] == answer.months == 118.8
    assert (values["sex"], values["age"]) == ("F", "9 years 11 months")
    assert values["interval"] == {"level": 0.9, "low_months": 102.0, "high_months": 135.5}
    assert values["models"] == [{"name": "m", "version": "2026-11-30", "digest": "ab"}]
    assert values["findings"] == [
        {
            "code": "two-hands",
            "message": "it probably shows two hands. Cut out the left hand.",
            "is_corrected": False,
        }
    ]
    assert "not a medical device" in values["notice"]


def test_without_a_sex_both_estimates_are_there_and_none_is_the_answer():
    answer = Answer("a.png", "answered", (Estimate("F", 100.0), Estimate("M", 110.0)))
    assert answer.months is answer.sex is answer.interval is None
    values = answer.as_dict()
    assert values["predicted_age_months"] is None
    assert values["by_sex"]["M"]["predicted_age_months"] == 110.0
    refused = Answer("a.png", "refused", fault=Fault("a.png", "every pixel is 0", "Check it."))
    assert set(refused.as_dict()) == set(values) - {"by_sex"}
    assert refused.as_dict()["reason"] == "every pixel is 0. Check it."
