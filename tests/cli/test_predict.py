from __future__ import annotations

import json


def test_predict_answers_in_months_and_years_and_in_json(boneage, finished_run, cohort):
    radiographs = sorted((cohort.parent / "images").iterdir())[:2]
    code, out, _ = boneage("predict", finished_run.folder, *radiographs, "--sex", "F")
    assert (code, out.count(" months (")) == (0, 2)
    _, out, _ = boneage("predict", finished_run.folder, *radiographs, "--sex", "F", "--json")
    answers = json.loads(out)["predictions"]
    assert [answer["image"] for answer in answers] == list(map(str, radiographs))


def test_an_unknown_sex_is_refused(boneage, refused):
    refused(boneage("predict", "run", "x.png", "--sex", "female"), "--sex female", "neither F nor")
