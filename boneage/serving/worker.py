"""The process that answers: it holds the model and decodes the files of strangers.

It hears and says bytes only, over a pipe, and ends when the other end of the pipe is closed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from boneage.errors import InputError
from boneage.runtime.cpu_settings import (
    give_back_freed_memory,
    keep_freed_memory,
    resident_bytes,
)
from boneage.runtime.provenance import limit_cores
from boneage.serving.asking import Asked, Reply
from boneage.serving.problems import in_words, problem_reply

SPARE_MEMORY = 3 * 2**30
"""Bytes that a worker may take for a request, above what it has after loading the model."""
SLACK = 24 * 2**20
"""Bytes of freed memory that a worker keeps: the system takes long to clear it for each answer."""
NOT_WITHIN_LIMITS = "The file can't be decoded within the limits of memory and time. " + (
    "Save it as a grey PNG."
)
_GRACE_SECONDS = 5  # after which a worker ends itself, if its server was killed

AnswerFunction: TypeAlias = Callable[[Asked, bytes], Reply]


def run_worker(connection: Connection, options: Mapping[str, Any], cores: int, limit: int) -> None:
    """Load the models and answer requests until the pipe is closed.

    Args:
        connection: The pipe to the server.
        options: The arguments of `boneage.prediction.predict.load`; the runs are in `runs`.
        cores: Cores that this process may use.
        limit: Seconds that an answer may take.
    """
    ignore_stop_signals()
    keep_freed_memory()  # two workers that clear pages slow each other down
    limit_cores(cores)
    try:
        answer, description = _load(options, cores)
    except InputError as error:
        say(connection, {"faults": [asdict(fault) for fault in error.faults]})
    except Exception as error:  # noqa: BLE001 - the server says it, and ends
        say(connection, {"error": f"{type(error).__name__}: {error}"})
    else:
        gc.freeze()  # what is loaded stays, so garbage is found sooner
        limit_resources()
        answer_requests(connection, description, answer, limit)


def ignore_stop_signals() -> None:
    """Leave it to the server when this process ends: Ctrl-C reaches all processes."""
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def answer_requests(
    connection: Connection, description: Mapping[str, Any], answer: AnswerFunction, limit: int
) -> None:
    """Say what answers, then answer requests until the pipe is closed.

    Args:
        connection: The pipe. A request is the JSON of `Asked`, then the content of the file. A
            reply is JSON, then the body.
        description: What `GET /v1/models` returns.
        answer: Answers one request.
        limit: Seconds that an answer may take, after which the server ends this process.
    """
    usual = resident_bytes()
    alarm = getattr(signal, "alarm", lambda seconds: None)
    with contextlib.suppress(EOFError, OSError):  # the server has ended
        say(connection, {"description": dict(description)})
        while True:
            asked = Asked(**json.loads(connection.recv_bytes()))
            content = connection.recv_bytes()
            alarm(limit + _GRACE_SECONDS)
            reply, error = _answer(answer, asked, content)
            alarm(0)
            del asked, content  # nothing of a request outlives it
            header = {"status": reply.status, "media_type": reply.media_type}
            say(connection, {**header, "outcome": reply.outcome, "error": error})
            connection.send_bytes(reply.body)
            if reply.status != 200:  # the error and its images may hold one another
                gc.collect()
            del reply
            if resident_bytes() > usual + SLACK:
                give_back_freed_memory()
                usual = max(usual, resident_bytes())  # with modules that were loaded meanwhile


def say(connection: Connection, values: Mapping[str, Any]) -> None:
    """Send JSON."""
    connection.send_bytes(json.dumps(values).encode())


def _answer(answer: AnswerFunction, asked: Asked, content: bytes) -> tuple[Reply, str]:
    """Return a reply, and the name of the error that was not expected."""
    try:
        return answer(asked, content), ""
    except InputError as error:
        return problem_reply(422, in_words(error.faults), "unreadable"), ""
    except MemoryError:
        return problem_reply(422, NOT_WITHIN_LIMITS, "unreadable"), "MemoryError"
    except Exception as error:  # noqa: BLE001 - one file may not end the others' answers
        return problem_reply(500, "The server has failed at this file."), type(error).__name__


def _load(options: Mapping[str, Any], cores: int) -> tuple[AnswerFunction, dict[str, Any]]:
    import cv2
    import numpy as np

    from boneage.prediction.predict import load
    from boneage.serving.answering import answer_upload, describe_models

    cv2.setNumThreads(cores)
    settings = dict(options)
    estimator = load(*settings.pop("runs"), **settings)
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    inputs, _ = estimator.predictor.frame(ramp)
    outputs = estimator.predictor.estimate([inputs], np.zeros((1, 1), np.float32))
    estimator.predictor.judge(outputs, [0.0])  # all files are now read
    return lambda asked, content: answer_upload(estimator, asked, content), describe_models(
        estimator
    )


def limit_resources() -> None:
    """Bound the memory of this process, let it write no file, and print nothing from now on."""
    sys.dont_write_bytecode = True
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # a library's messages may quote a file
        os.dup2(silence, stream)
    try:
        import resource
    except ImportError:  # Windows
        return
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    with contextlib.suppress(OSError):  # not Linux
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + SPARE_MEMORY)


def _lower(kind: int, limit: int) -> None:
    import resource

    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (limit, limit))
