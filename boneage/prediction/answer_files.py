"""Files of answers: CSV or JSON lines, one line per radiograph, that outlive a kill.

The file `OUT.job.json` says what the answers were made with. The same command continues a file;
another command is refused.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Protocol

from boneage.errors import Fault, InputError, printable, utf8
from boneage.prediction.answers import Answer
from boneage.prediction.predict import Request
from boneage.prediction.test_time_views import BATCH_SIZE
from boneage.runtime.files import check_file_writable, read_json, replacing, write_json

FORMATS = (".csv", ".jsonl")
"""Suffixes of the files that are written here."""
KEYS = {
    "image": "image",
    "status": "status",
    "sex": "sex",
    "predicted_age_months": "predicted_age_months",
    "age": "age",
    "interval_level": "interval level",
    "interval_low_months": "interval low_months",
    "interval_high_months": "interval high_months",
    "girl_months": "by_sex F predicted_age_months",
    "girl_low_months": "by_sex F interval low_months",
    "girl_high_months": "by_sex F interval high_months",
    "boy_months": "by_sex M predicted_age_months",
    "boy_low_months": "by_sex M interval low_months",
    "boy_high_months": "by_sex M interval high_months",
    "chronological_age_months": "chronological_age_months",
    "difference_months": "comparison difference_months",
    "sd_score": "comparison sd_score",
    "sd_score_low": "comparison sd_interval low",
    "sd_score_high": "comparison sd_interval high",
    "assessment": "comparison assessment",
    "reference": "comparison reference",
    "calibration_offset_months": "calibration offset_months",
    "calibration_digest": "calibration digest",
    "reason": "reason",
    "findings": "findings",
    "model": "models name",
    "version": "models version",
    "digest": "models digest",
    "notice": "notice",
}
"""Columns of a table of answers, each with the keys of `Answer.as_dict` that lead to its value."""
COLUMNS = tuple(KEYS)
"""Columns of a CSV or Parquet file of answers."""
NUMBERS = frozenset(
    name for name in COLUMNS if name.endswith(("_months", "_level", "_score", "_low", "_high"))
)
"""Those that hold numbers."""

_SECONDS_UNSYNCED = 5.0


class AnswerWriter(Protocol):
    """What an answer is given to, besides the file of answers."""

    def write(self, request: Request, answer: Answer) -> None:
        """Write what belongs to one answer; the file of answers gets its row after that."""
        ...


def table_row(answer: Mapping[str, Any]) -> list[Any]:
    """Return the values of `COLUMNS` for an answer in its JSON form; None where there is none."""
    return [_value(answer, keys.split()) for keys in KEYS.values()]


def _value(inner: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if isinstance(inner, list):
            inner = "; ".join(str(each[key]) for each in inner)
        else:
            inner = None if inner is None else inner.get(key)
    if keys == ["findings"]:
        return "; ".join(each["code"] for each in inner)
    return inner if not isinstance(inner, float) or math.isfinite(inner) else None


def _csv_line(cells: Iterable[Any]) -> bytes:
    """Return one line of CSV: numbers of two decimals, and no cell that breaks the line."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(
        [
            printable(cell) if isinstance(cell, str) else round(cell, 2) if cell else cell
            for cell in cells
        ]
    )
    return text.getvalue().encode()


def _finite(value: Any) -> Any:
    """Return JSON values without NaN and infinity, which JSON has no form for."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class AnswerFile:
    """A file that gets a line for each answer, in the order of the requests.

    Attributes:
        path: The file.
        statuses: How many answers of each status it holds.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        """Begin a file, or open one that the same job has started.

        Args:
            path: The file; its suffix is one of `FORMATS`.
            job: What the answers depend on, as JSON values.

        Raises:
            InputError: It can't be written, or another process or another job has started it.
        """
        self.path = path
        self.statuses: Counter[str] = Counter()
        self._job = dict(job)
        check_file_writable(path)
        if path.exists() and path.stat().st_size:
            check_job(path, job)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        try:
            _lock(self._file.fileno(), path)
            self._kept = _whole_bytes(path)
            self._file.truncate(self._kept)
            write_json(job_path(path), {**self._job, "finished": False})
            if not self._kept and path.suffix == ".csv":
                self._write(_csv_line(COLUMNS))
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def resume(self, requests: Iterator[Request]) -> tuple[Iterator[Request], int]:
        """Leave out the requests whose answers the file holds.

        The rest begins with a whole batch, so that a network computes the same batches as without
        the interruption.

        Args:
            requests: All requests.

        Returns:
            The rest, and of how many of its first answers the file holds the lines.

        Raises:
            InputError: The file holds the answers of other radiographs.
        """
        batch: list[Request] = []
        for row, (_, image, status) in enumerate(read_lines(self.path)):
            if row % BATCH_SIZE == 0:
                batch.clear()
            batch += islice(requests, 1)
            if len(batch) != row % BATCH_SIZE + 1 or shown(batch[-1]) != image:
                raise InputError(_other_list(self.path, row, image))
            self.statuses[status] += 1
        if len(batch) == BATCH_SIZE:
            batch = []
        return chain(batch, requests), len(batch)

    def write(self, answer: Answer) -> None:
        """Write one answer. The line outlives the process at once, and after seconds the system."""
        self._write(_line(self.path, answer))
        self.statuses[answer.status] += 1
        if time.monotonic() - self._synced > _SECONDS_UNSYNCED:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def finish(self) -> None:
        """Record that every request has its line."""
        os.fsync(self._file.fileno())
        write_json(job_path(self.path), {**self._job, "finished": True})

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]


def _line(path: Path, answer: Answer) -> bytes:
    values = answer.as_dict()
    if path.suffix == ".csv":
        return _csv_line(table_row(values))
    return (json.dumps(_finite(values)) + "\n").encode()


def _lock(descriptor: int, path: Path) -> None:
    """Lock a file until it is closed, where the system has such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        fix = "Wait for it, or choose another --out."
        raise InputError(Fault(str(path), "another process is writing this file", fix)) from None


def _whole_bytes(path: Path) -> int:
    """Return the length of a file's whole lines: a kill may have cut the last one."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            first = max(0, end - 2**16)
            file.seek(first)
            found = file.read(end - first).rfind(b"\n")
            if found >= 0:
                return first + found + 1
            end = first
    return 0


def job_path(path: Path) -> Path:
    """Return the path of the file that says what a file of answers was made with."""
    return path.with_name(f"{path.name}.job.json")


def shard_path(path: Path, number: int, count: int) -> Path:
    """Return the file of one of several jobs: `answers.2-of-8.csv` for `answers.csv`."""
    return path.with_name(f"{path.stem}.{number}-of-{count}{path.suffix}")


def check_job(path: Path, job: Mapping[str, Any], *, is_finished: bool = False) -> None:
    """Check that a file of answers belongs to this job.

    Args:
        path: The file.
        job: What the answers depend on.
        is_finished: Whether the file has to be complete.

    Raises:
        InputError: Another job has made it, or it is not complete.
    """
    other = f"hoose another --out, or remove it and {job_path(path).name}."
    if not job_path(path).exists():
        what = "the file exists, and nothing says which command has made it"
        raise InputError(Fault(str(path), what, f"C{other}"))
    known = read_json(job_path(path))
    wanted = json.loads(json.dumps(job))
    changed = [key for key in (*wanted, *known) if known.get(key) != wanted.get(key)]
    changed = [key for key in dict.fromkeys(changed) if key != "finished"]
    if changed:
        parts = [f"{key} was {known.get(key)!r:.100}" for key in changed]
        what = f"another command has made this file: {', '.join(parts)}"
        fix = f"Repeat that command to continue it, or c{other}"
        raise InputError(Fault(str(path), what, fix))
    if is_finished and not known.get("finished"):
        what = "the job of this file is not finished"
        raise InputError(Fault(str(path), what, "Repeat its command to continue it."))


def shown(request: Request) -> str:
    """Return the name of a request's radiograph as `read_lines` gives it."""
    return printable(utf8(str(request.image)))


def read_lines(path: Path) -> Iterator[tuple[bytes, str, str]]:
    """Yield each line of a file of answers, with the name and the status of its radiograph.

    Raises:
        InputError: A line is no answer.
    """
    with path.open("rb") as file:
        is_csv = path.suffix == ".csv"
        if is_csv and next(file, b"") not in (b"", _csv_line(COLUMNS)):
            raise InputError(_damaged(path, 1))
        for number, line in enumerate(file, start=1 + is_csv):
            try:
                if is_csv:
                    values = dict(zip(COLUMNS, next(csv.reader([line.decode()])), strict=True))
                else:
                    values = json.loads(line)
                yield line, printable(values["image"]), str(values["status"])
            except (ValueError, LookupError, TypeError, csv.Error, StopIteration):
                raise InputError(_damaged(path, number)) from None


def _damaged(path: Path, number: int) -> Fault:
    fix = "Choose another --out, or remove the file to begin again."
    return Fault(f"{path}: line {number:,}", "it is no answer of this version of boneage", fix)


def _other_list(path: Path, row: int, image: str) -> Fault:
    what = f"answer {row + 1:,} is for {image}, which has another place among the radiographs now"
    fix = "Restore the list of radiographs, or choose another --out."
    return Fault(str(path), what, fix)


def merge_shards(
    path: Path, count: int, job: Mapping[str, Any], requests: Iterable[Request]
) -> Counter[str]:
    """Write the file that a single job would have written, from the files of several.

    Args:
        path: The file to write. Those of the jobs have the names of `shard_path`.
        count: Number of jobs.
        job: What the answers depend on; see `AnswerFile`.
        requests: All requests, in order.

    Returns:
        How many answers there are of each status.

    Raises:
        InputError: A file is missing, not finished, or of another job or other radiographs.
    """
    shards = [shard_path(path, number, count) for number in range(1, count + 1)]
    faults: list[Fault] = []
    for number, shard in enumerate(shards, start=1):
        if not shard.exists():
            fix = f"Run this job with --shard {number}/{count} first."
            faults.append(Fault(str(shard), "there is no such file", fix))
            continue
        try:
            check_job(shard, {**job, "shard": f"{number}/{count}"}, is_finished=True)
        except InputError as error:
            faults += error.faults
    if path.exists() and not faults:
        check_job(path, job)
    if faults:
        raise InputError(faults)
    statuses: Counter[str] = Counter()
    with replacing(path) as part, part.open("wb") as file:
        if path.suffix == ".csv":
            file.write(_csv_line(COLUMNS))
        lines = _in_turn([read_lines(shard) for shard in shards])
        for row, (request, found) in enumerate(zip_longest(requests, lines)):
            line, image, status = found or (b"", "", "")
            if request is None or shown(request) != image:
                fault = _other_list(path, row, image or "no radiograph")
                raise InputError(fault)
            file.write(line)
            statuses[status] += 1
    write_json(job_path(path), {**job, "finished": True})
    return statuses


def _in_turn(
    shards: Sequence[Iterator[tuple[bytes, str, str]]],
) -> Iterator[tuple[bytes, str, str]]:
    """Yield a batch of lines of each file in turn, as `take_shard` has divided the requests."""
    while True:
        has_lines = False
        for shard in shards:
            for line in islice(shard, BATCH_SIZE):
                has_lines = True
                yield line
        if not has_lines:
            return
