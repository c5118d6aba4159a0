from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from experiments.serving import hostile_requests, table
from experiments.serving.hostile import Counts, Replies, judge
from experiments.serving.hostile_requests import Attack, attack
from experiments.serving.load import percentile
from experiments.serving.uploads import Upload, phantom_files


@pytest.fixture(scope="module")
def uploads():
    return phantom_files(4)


@pytest.fixture(autouse=True)
def no_bombs(monkeypatch):
    monkeypatch.setattr(hostile_requests, "BOMBS", (lambda: b"bomb",))  # the real ones take seconds


def beginning(each: Attack) -> tuple[str, list[bytes]]:
    return each.kind, list(itertools.islice(each.pieces, 3))


def test_an_attack_is_the_same_for_a_seed_and_a_number(uploads):
    first = [beginning(attack(uploads, 3, number)) for number in range(50)]
    assert first == [beginning(attack(uploads, 3, number)) for number in range(50)]
    assert first != [beginning(attack(uploads, 4, number)) for number in range(50)]


def test_fifty_in_a_row_hold_every_kind(uploads):
    kinds = [attack(uploads, 0, number).kind for number in range(50, 100)]
    assert len(set(kinds)) == 23
    assert kinds.count("mutated file") == 18
    assert sum(kind.startswith("slow ") for kind in kinds) == 6


def test_answers_are_divided_wherever_they_are_cut():
    sent = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        b"HTTP/1.1 408 Timeout\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbad\r\n0\r\n\r\n"
    )
    for place in range(len(sent)):
        replies = Replies()
        replies.add(sent[:place])
        replies.add(sent[place:])
        assert replies.statuses == [200, 408]
        assert replies.bodies[0] == b"ok"


def test_a_wrong_status_a_hang_and_a_wrong_answer_are_counted():
    upload = Upload("x.png", b"", "F", (100.0,))
    right = b'{"status": "answered", "predicted_age_months": 100.004, "models": []}'
    each = Attack("name", [], frozenset({200}), upload=upload)
    counts = Counts()
    for number, (status, body) in enumerate(
        [(200, right), (200, right.replace(b"100.", b"101.")), (500, b"")]
    ):
        replies = Replies()
        replies.statuses, replies.bodies = [status], [body]
        judge(each, number, (replies, False, 0.1), counts)
    judge(replace(each, kind="slow"), 3, (Replies(), True, 180.0), counts)
    assert [text.partition(":")[0] for text in counts.wrong] == ["name 1"]
    assert counts.unexpected == ["name 2: 500"]
    assert counts.hangs == ["slow 3: 180 s"]
    assert counts.statuses == {"200": 2, "500": 1, "hang": 1}


def test_a_percentile_is_a_value_that_so_many_do_not_exceed():
    values = [float(number) for number in range(1, 201)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (100.0, 198.0)
    assert percentile([7.0], 0.99) == 7.0


def test_the_table_is_that_of_the_results():
    page = (table.FOLDER / "README.md").read_text(encoding="utf-8")
    assert table.make_table(table.FOLDER / "results") in page
