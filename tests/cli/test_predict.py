from __future__ import annotations

import json


def test_predict_answers_in_months_and_years_and_in_json(boneage, finished_run, cohort):
    radiographs = sorted((cohort.parent / "images").iterdir())[:2]
    code, out, _ = boneage("predict", finished_run.folder, *radiographs, "--sex", "F")
    assert code == 0
    assert out.count(" months (") == 2
    code, out, _ = boneage("predict", finished_run.folder, *radiographs, "--sex", "F", "--json")
    answers = json.loads(out)["predictions"]
    assert [answer["image"] for answer in answers] == [
        str(radiograph) for radiograph in radiographs
    ]


def test_an_unknown_sex_to_predict_for_is_refused(boneage, refused, finished_run):
    result = boneage("predict", finished_run.folder, "x.png", "--sex", "female")
    refused(result, "--sex female", "neither F nor M")
