from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time

import pytest

from boneage.errors import InputError
from boneage.runtime.provenance import usable_cores
from boneage.serving.asking import Asked
from boneage.serving.problems import ProblemError
from boneage.serving.workers import Workers

pytestmark = pytest.mark.slow

ASKED = Asked("predict", "hand.png")
FAKE = """
import json, os, pickle, time
from boneage.serving.asking import Reply
from boneage.serving.worker import answer_requests, ignore_stop_signals, limit_resources

class Trap:
    def __init__(self, path):
        self.path = path
    def __reduce__(self):
        return open, (self.path, "w")

def work(connection, options, cores, limit):
    ignore_stop_signals()
    first = os.path.join(options["folder"], "started")
    if options.get("once") and os.path.exists(first):
        os._exit(3)
    open(first, "a").close()
    if options.get("fails"):
        os._exit(3)
    limit_resources()

    def answer(asked, content):
        word = content.decode()
        if word.startswith("sleep"):
            time.sleep(float(word[5:]))
        elif word == "die":
            os._exit(3)
        elif word == "swell":
            bytearray(8 * 2**30)
        elif word == "write":
            with open(os.path.join(options["folder"], "stolen"), "wb") as file:
                file.write(b"a secret")
        elif word == "lie":
            connection.send_bytes(pickle.dumps(Trap(os.path.join(options["folder"], "trapped"))))
        elif word == "deep":
            connection.send_bytes(b"[" * 60_000)
        elif word == "bug":
            raise ZeroDivisionError("a secret")
        elif word == "strange":
            return Reply(200, "text/html", b"<script>", "answered")
        body = json.dumps({"process": os.getpid(), "asked": vars(asked), "word": word})
        return Reply(200, "application/json", body.encode(), "answered")

    answer_requests(connection, {"models": [], "cores": cores}, answer, limit)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a coroutine with workers that need no model."""
    (tmp_path / "fake_answers.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path))  # that of a started process, too
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    sys.modules.pop("fake_answers", None)
    import fake_answers

    lines: list[str] = []

    def run(act, count=1, queue=8, seconds=20.0, **options):
        workers = Workers(
            {"folder": str(tmp_path), **options},
            count=count,
            queue=queue,
            seconds=seconds,
            log=lines.append,
            target=fake_answers.work,
        )

        async def all_of_it():
            try:
                await workers.start()
                return await act(workers)
            finally:
                await workers.stop()

        return asyncio.run(all_of_it())

    run.lines = lines
    return run


def word(reply):
    return json.loads(reply.body).get("word")


def test_requests_are_answered_in_their_order_and_nothing_is_left(run):
    async def act(workers):
        assert workers.is_ready
        assert workers.description["cores"] == usable_cores()
        done: list[str] = []

        async def ask(content):
            done.append(word(await workers.answer(ASKED, content)))

        await asyncio.gather(*(ask(str(n).encode()) for n in range(6)))
        processes = workers.process_ids
        return done, processes, (workers.waiting, workers.in_progress, workers.restarts)

    done, processes, counts = run(act, count=1)
    assert done == [str(n) for n in range(6)]
    assert counts == (0, 0, 0)
    for number in processes:  # stopping leaves none
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_what_is_asked_arrives_whole(run):
    asked = Asked("explain", "hände.png", "F", 118.5, has_pictures=True)

    async def act(workers):
        return await workers.answer(asked, b"x")

    assert json.loads(run(act).body)["asked"] == vars(asked)


def test_beyond_the_queue_requests_are_refused_and_a_client_that_goes_makes_room(run):
    async def act(workers):
        def ask(content):
            return asyncio.ensure_future(workers.answer(ASKED, content))

        first = ask(b"sleep0.5")
        await asyncio.sleep(0.1)
        second, third = ask(b"b"), ask(b"c")
        await asyncio.sleep(0)
        with pytest.raises(ProblemError) as refused:
            await workers.answer(ASKED, b"d")
        assert (workers.waiting, workers.in_progress) == (2, 1)
        second.cancel()
        await asyncio.sleep(0)
        assert workers.waiting == 1
        fourth = ask(b"d")
        words = [word(each) for each in await asyncio.gather(first, third, fourth)]
        return refused.value, words, workers.waiting

    refused, words, waiting = run(act, queue=2)
    assert refused.status == 503
    assert refused.headers["Retry-After"]
    assert (words, waiting) == (["sleep0.5", "c", "d"], 0)


def test_a_worker_that_takes_too_long_is_replaced_and_the_others_go_on(run):
    async def act(workers):
        while len([each for each in workers._processes if each.is_ready]) < 2:
            await asyncio.sleep(0.05)
        slow = asyncio.ensure_future(workers.answer(ASKED, b"sleep60"))
        await asyncio.sleep(0.05)
        start = time.monotonic()
        others = [word(await workers.answer(ASKED, b"a")) for _ in range(3)]
        quick = time.monotonic() - start
        late = await slow
        return others, quick, late, workers.restarts

    others, quick, late, restarts = run(act, count=2, seconds=5.0)
    assert others == ["a"] * 3
    assert quick < 4.5
    assert (late.status, late.outcome, restarts) == (504, "failed", 1)
    assert json.loads(late.body)["status"] == 504


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"die", 422),
        (b"swell", 422),
        (b"lie", 422),
        (b"deep", 422),
        (b"strange", 422),
        (b"bug", 500),
    ],
)
def test_a_worker_that_fails_is_replaced_and_nothing_of_it_is_unpickled(
    run, tmp_path, content, status
):
    async def act(workers):
        failed = await workers.answer(ASKED, content)
        after = [word(await workers.answer(ASKED, b"a")) for _ in range(2)]
        return failed, after, workers.restarts

    failed, after, restarts = run(act)
    assert (failed.status, after, restarts) == (status, ["a", "a"], 1)
    assert json.loads(failed.body)["status"] == status
    assert b"secret" not in failed.body
    assert not (tmp_path / "trapped").exists()
    assert len(run.lines) == 1
    assert "secret" not in run.lines[0]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_worker_can_write_no_file(run, tmp_path):
    async def act(workers):
        return await workers.answer(ASKED, b"write")

    run(act)
    assert not (tmp_path / "stolen").exists() or not (tmp_path / "stolen").stat().st_size


def test_a_worker_that_ends_while_it_waits_costs_no_request(run):
    async def act(workers):
        (number,) = workers.process_ids
        os.kill(number, getattr(signal, "SIGKILL", signal.SIGTERM))
        await asyncio.sleep(0.2)
        assert not workers.is_ready
        return await workers.answer(ASKED, b"a"), workers.restarts

    reply, restarts = run(act)
    assert (word(reply), restarts) == ("a", 1)


def test_signals_for_the_server_do_not_end_a_worker(run):
    async def act(workers):
        (number,) = workers.process_ids
        for each in (signal.SIGINT, signal.SIGTERM):
            os.kill(number, each)
        return await workers.answer(ASKED, b"a"), workers.restarts

    reply, restarts = run(act)
    assert (word(reply), restarts) == ("a", 0)


def test_if_no_worker_starts_the_reason_is_raised(run):
    async def act(workers):
        raise AssertionError

    with pytest.raises(InputError, match="a worker process did not start"):
        run(act, count=2, fails=True)


def test_a_worker_that_can_no_longer_start_is_tried_again_and_requests_wait_for_a_time(run):
    async def act(workers):
        with contextlib.suppress(ProblemError):
            await workers.answer(ASKED, b"die")
        with pytest.raises(ProblemError) as refused:
            await workers.answer(ASKED, b"a")
        return refused.value.status, workers.is_ready, workers.waiting

    assert run(act, seconds=1.5, once=True) == (503, False, 0)


def test_what_is_wrong_with_the_options_is_said_as_by_predict():
    async def act():
        workers = Workers(
            {"runs": ["rsna-bst"]}, count=1, queue=1, seconds=5.0, log=lambda line: None
        )
        try:
            await workers.start()
        finally:
            await workers.stop()

    with pytest.raises(InputError, match="Did you mean 'rsna-best'"):
        asyncio.run(act())
