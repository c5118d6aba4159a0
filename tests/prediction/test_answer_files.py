from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from boneage.errors import Fault, InputError
from boneage.prediction.answer_files import (
    COLUMNS,
    AnswerFile,
    job_path,
    merge_shards,
    shard_path,
)
from boneage.prediction.answers import Answer, Estimate, Interval, ModelIdentity
from boneage.prediction.predict import Request
from boneage.prediction.requests import take_shard
from boneage.radiographs.image_quality import ImageFinding

MODELS = (ModelIdentity("a", "1", "f00"), ModelIdentity("b", "", "ba5"))
REQUESTS = [Request(f"{number}.png", "F") for number in range(150)]
JOB = {"models": ["f00"], "level": 0.9, "shard": None}


def answer(request: Request) -> Answer:
    months = 100.0 + len(str(request.image)) / 3
    return Answer(str(request.image), "answered", (Estimate("F", months),), models=MODELS)


def write(path: Path, requests=REQUESTS, job=JOB, stop: int | None = None) -> Path:
    with AnswerFile(path, job) as file:
        rest, repeated = file.resume(iter(requests))
        for request in list(rest)[repeated:stop]:
            file.write(answer(request))
        if stop is None:
            file.finish()
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_every_kind_of_answer_is_one_line(tmp_path, suffix):
    interval = Interval(0.9, 90.0, float("nan"))
    doubt = ImageFinding("turned-hand", "it is turned", "Turn it.")
    answers = [
        Answer("a\nb,\"c\".png", "answered", (Estimate("M", 99.125, interval),), findings=(doubt,)),
        Answer("both.png", "answered", (Estimate("F", 90.0), Estimate("M", 95.5))),
        Answer("bad\udcff.png", "refused", fault=Fault("x", "it is blank", "Export it.")),
        Answer("age.png", "failed", chronological_age_months=0.0, models=MODELS),
    ]  # fmt: skip
    path = tmp_path / f"out{suffix}"
    with AnswerFile(path, JOB) as file:
        for each in answers:
            file.write(each)
        assert file.statuses == {"answered": 2, "refused": 1, "failed": 1}
    lines = path.read_text().splitlines()
    if suffix == ".jsonl":
        found = [json.loads(line) for line in lines]
        assert [each["status"] for each in found] == [each.status for each in answers]
        assert found[0]["image"] == 'a\nb,"c".png'
        assert found[0]["interval"]["high_months"] is None
        assert found[1]["by_sex"]["M"]["predicted_age_months"] == 95.5
        return
    assert tuple(next(csv.reader(lines[:1]))) == COLUMNS
    one, both, refused, failed = csv.DictReader(lines)
    assert (one["image"], one["sex"], one["findings"]) == ('a\\nb,"c".png', "M", "turned-hand")
    assert (one["predicted_age_months"], one["age"]) == ("99.12", "8 years 3 months")
    assert (one["interval_low_months"], one["interval_high_months"]) == ("90.0", "")
    assert (both["predicted_age_months"], both["girl_months"], both["boy_months"]) == (
        "", "90.0", "95.5",
    )  # fmt: skip
    assert (refused["image"], refused["reason"]) == ("bad\\xff.png", "it is blank. Export it.")
    assert (failed["model"], failed["digest"]) == ("a; b", "f00; ba5")
    assert failed["chronological_age_months"] == "0.0"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("cut", [0, 3, 1000, 10_000])
def test_a_file_that_was_cut_anywhere_is_continued(tmp_path, suffix, cut):
    whole = write(tmp_path / f"whole{suffix}").read_bytes()
    path = write(tmp_path / f"out{suffix}", stop=100)
    kept = path.read_bytes()[: -cut or None]
    path.write_bytes(kept)
    assert write(path).read_bytes() == whole
    assert json.loads(job_path(path).read_text())["finished"]
    assert write(path).read_bytes() == whole


def test_the_rest_begins_with_a_whole_batch(tmp_path):
    path = write(tmp_path / "out.csv", stop=100)
    with AnswerFile(path, JOB) as file:
        rest, repeated = file.resume(iter(REQUESTS))
        assert (next(rest).image, repeated) == ("64.png", 36)


def test_another_job_or_another_list_is_refused_and_nothing_is_lost(tmp_path):
    path = write(tmp_path / "out.csv", stop=100)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"another command .* level was 0.9.*Repeat that command"):
        write(path, job={**JOB, "level": 0.8})
    with pytest.raises(InputError, match=r"answer 51 is for 50.png, which has another place"):
        write(path, requests=[*REQUESTS[:50], *REQUESTS[51:]])
    with pytest.raises(InputError, match=r"answer 11 is for 10.png, which has another place"):
        write(path, requests=REQUESTS[:10])
    assert path.read_bytes() == before
    job_path(path).unlink()
    with pytest.raises(InputError, match="nothing says which command has made it"):
        write(path)
    assert path.read_bytes() == before


def test_a_file_is_written_by_one_process(tmp_path):
    pytest.importorskip("fcntl")
    with AnswerFile(tmp_path / "out.csv", JOB), pytest.raises(InputError, match="another process"):
        AnswerFile(tmp_path / "out.csv", JOB)


def test_a_line_that_is_no_answer_is_refused(tmp_path):
    path = write(tmp_path / "out.csv", stop=3)
    path.write_bytes(path.read_bytes() + b"x,y\n")
    with pytest.raises(InputError, match="line 5: it is no answer"):
        write(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_are_merged_to_the_same_bytes(tmp_path, suffix, count):
    whole = write(tmp_path / f"whole{suffix}")
    out = tmp_path / f"out{suffix}"
    for number in range(1, count + 1):
        part = list(take_shard(REQUESTS, number, count))
        job = {**JOB, "shard": f"{number}/{count}"}
        write(shard_path(out, number, count), part, job)
    assert merge_shards(out, count, JOB, REQUESTS) == {"answered": 150}
    assert out.read_bytes() == whole.read_bytes()
    assert job_path(out).read_bytes() == job_path(whole).read_bytes()


def test_parts_that_are_missing_or_not_whole_are_not_merged(tmp_path):
    out = tmp_path / "out.csv"
    parts = [list(take_shard(REQUESTS, number, 3)) for number in (1, 2, 3)]
    write(shard_path(out, 1, 3), parts[0], {**JOB, "shard": "1/3"}, stop=20)
    write(shard_path(out, 2, 3), parts[1], {**JOB, "shard": "2/3"})
    with pytest.raises(InputError) as raised:
        merge_shards(out, 3, JOB, REQUESTS)
    assert [fault.what for fault in raised.value.faults] == [
        "the job of this file is not finished",
        "there is no such file",
    ]
    write(shard_path(out, 1, 3), parts[0], {**JOB, "shard": "1/3"})
    write(shard_path(out, 3, 3), parts[2], {**JOB, "shard": "3/3"})
    with pytest.raises(InputError, match="another place among the radiographs now"):
        merge_shards(out, 3, JOB, [Request("0a.png", "F"), *REQUESTS])
    with pytest.raises(InputError, match="no radiograph"):
        merge_shards(out, 3, JOB, [*REQUESTS, Request("new.png", "F")])
    assert not out.exists()
