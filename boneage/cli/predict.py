"""`boneage predict`: the bone ages of radiographs.

An output per answer (a picture, a DICOM report) is an `AnswerWriter`: add it in `_make_writers`,
with its option. What changes the answers belongs to `_job`, too, so that a file of answers is
never continued with other settings.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boneage.cli.output import (
    JsonOption,
    OthersOption,
    PhasesOption,
    RunArgument,
    ViewsOption,
    echo,
    log,
    print_json_list,
    refuse,
)
from boneage.errors import utf8

if TYPE_CHECKING:
    from boneage.datasets.radiograph_table import RadiographTable
    from boneage.prediction.answer_files import AnswerWriter
    from boneage.prediction.answers import Answer
    from boneage.prediction.predict import Estimator, Request

EXIT_CODES = {"answered": 0, "refused": 3, "unreadable": 2, "failed": 2}
_OUT_SUFFIXES = (".csv", ".jsonl", ".parquet")
_SHOW_PROGRESS = 64  # images, above which a progress bar is shown if nothing else is on the screen


def _column(text: str) -> Any:
    return typer.Option(help=text, metavar="COLUMN")


PathsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="PATH", help="Radiographs (PNG, JPEG, TIFF, BMP, DICOM), or folders."),
]
SexOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SEX",
        help="Sex of the child, or of all children: F or M. Default: that of the DICOM header; "
        "without one, there is an answer for girls and one for boys.",
    ),
]
ChronologicalAgeOption = Annotated[
    float | None,
    typer.Option(
        metavar="MONTHS", help="Chronological age of the child. Default: that of the DICOM header."
    ),
]
TableOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Table with a row for each radiograph: CSV, Excel, Parquet."),
]
ImageOption = Annotated[str | None, _column("Column of the table with the radiograph's path.")]
SexColumnOption = Annotated[str | None, _column("Column with the sex.")]
FemaleOption = Annotated[
    list[str] | None, typer.Option(help="Code of a girl in that column; may be repeated.")
]
MaleOption = Annotated[
    list[str] | None, typer.Option(help="Code of a boy in that column; may be repeated.")
]
ChronologicalOption = Annotated[
    str | None, _column("Column with the chronological age (time since birth).")
]
ChronologicalUnitOption = Annotated[
    str, typer.Option(help="Its unit: months, years or days.", metavar="UNIT")
]
BirthDateOption = Annotated[str | None, _column("Column with the date of birth.")]
StudyDateOption = Annotated[str | None, _column("Column with the date of the radiograph.")]
ImageRootOption = Annotated[
    Path | None, typer.Option(help="Folder of relative paths. Default: that of the table.")
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File of answers: .csv, .jsonl or .parquet. The same command continues it.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        metavar="I/N", help="Answer part I of N, into a file of its own. See also --merge."
    ),
]
MergeOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Write --out from the files of N finished parts."),
]
LevelOption = Annotated[
    float | None,
    typer.Option(help="Share of radiographs whose age the interval holds. Default: 0.9."),
]
AnywayOption = Annotated[
    bool, typer.Option("--anyway", help="Answer for images that would be refused, too.")
]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Mean and SD of bone ages, CSV: sex, chronological_age_months, mean_months, "
        "sd_months. Default: Brush Foundation.",
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Local calibration, as boneage calibrate writes it."),
]
ExplainOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of pictures that show which places of each radiograph move its answer.",
        metavar="FOLDER",
    ),
]
DicomOutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Folder of DICOM answers: a Structured Report and an image for each."
    ),
]
FhirOutOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Folder of FHIR Observations, JSON.")
]
WatchOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Answer each file that comes into this folder, until Ctrl-C."
    ),
]


def predict(
    run: RunArgument,
    paths: PathsArgument = None,
    sex: SexOption = None,
    chronological_age: ChronologicalAgeOption = None,
    table: TableOption = None,
    image: ImageOption = None,
    sex_column: SexColumnOption = None,
    female: FemaleOption = None,
    male: MaleOption = None,
    chronological: ChronologicalOption = None,
    chronological_unit: ChronologicalUnitOption = "months",
    birth_date: BirthDateOption = None,
    study_date: StudyDateOption = None,
    image_root: ImageRootOption = None,
    out: OutOption = None,
    shard: ShardOption = None,
    merge: MergeOption = None,
    level: LevelOption = None,
    anyway: AnywayOption = False,
    others: OthersOption = None,
    views: ViewsOption = None,
    phases: PhasesOption = None,
    reference: ReferenceOption = None,
    calibration: CalibrationOption = None,
    explain: ExplainOption = None,
    dicom_out: DicomOutOption = None,
    fhir_out: FhirOutOption = None,
    watch: WatchOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate the bone age of radiographs in months.

    Research use only. Do not use the answer for diagnosis.

    Images without a hand are refused. Turned or inverted hands are put right, with a note. A
    warning says what to check. Below a folder, files that are no radiographs are left out and
    counted. A table row that is wrong costs only its own answer.

    With --out, a job that was interrupted continues where it was. --watch answers each file that
    comes into a folder once, also after a restart, when the file has stopped growing. Sex and age
    are those of the DICOM header. No file is moved or deleted.

    Exit code 0: every image has an answer. 3: an image is refused. 2: an image can't be read or
    gets no DICOM answer, a row of the table is wrong, an answer is no bone age, or an option is
    wrong. Of 2 and 3, 2 wins. 130 and 143: interrupted.
    """
    letter = _read_sex(sex)
    if watch is not None:
        from boneage.cli.watch import check_watch

        check_watch({"PATH": paths, "--table": table, "--shard": shard, "--merge": merge})
        check_watch({"--json": as_json, "--chronological-age": chronological_age is not None})
        check_watch({"a Parquet file": out is not None and out.suffix == ".parquet"})
        paths = [str(watch)]
    _check_options(paths, table, chronological_age, out, shard, merge, level, as_json)
    columns = {"image": image, "sex": sex_column, "chronological": chronological}
    columns |= {"birth": birth_date, "study": study_date}
    form = {"unit": chronological_unit, "female": female or (), "male": male or ()}
    children = None if table is None else _open_table(table, columns, form, image_root, letter)
    from boneage.prediction.answers import RESEARCH_ONLY
    from boneage.prediction.predict import Estimator
    from boneage.prediction.shipped import open_run

    runs = [open_run(each) for each in (run, *(others or ()))]
    estimator = Estimator(
        runs,
        views=views,
        phases=phases,
        level=level,
        anyway=anyway,
        calibration=calibration,
        reference=reference,
    )
    for note in estimator.notes:
        log(f"note: {note}")
    if not as_json:
        log(RESEARCH_ONLY)
    asked = _Asked(paths or (), children, letter, chronological_age)
    settings: dict[str, Any] = {"sex": letter, "chronological_age_months": chronological_age}
    settings |= {"paths": [utf8(path) for path in paths or ()]}
    settings |= {"image_root": None if image_root is None else str(image_root)}
    settings |= {} if watch is None else {"watch": True}
    writers = _make_writers(estimator, explain, dicom_out, fhir_out)
    if merge is not None and writers:
        refuse("--merge", "it answers no radiograph", "Name folders of answers with --shard.")
    job: dict[str, Any] = {}
    if out is not None:
        files = {"table": table, "reference": reference, "calibration": calibration}
        job = _job(estimator, settings | {"columns": columns, **form}, files)
    if watch is not None:
        from boneage.cli.watch import answer_folder

        places = (out, dicom_out, fhir_out)
        answer_folder(estimator, watch, places, letter, writers, _Screen().print, job)
    if out is None:
        statuses = _print_answers(estimator, asked, writers, _head(run, others), as_json)
    else:
        statuses = _write_answers(estimator, asked, writers, out, job, shard, merge)
    lacks_documents = any(getattr(writer, "missing", 0) for writer in writers)
    raise typer.Exit(2 if lacks_documents else _exit_code(statuses))


def _read_sex(sex: Sequence[str] | None) -> str | None:
    """Return F, M, or None if the option is not given."""
    if not sex:
        return None
    from boneage.datasets.label_rules import parse_sex

    letters = {parse_sex(word) for word in sex}
    if "" in letters:
        fix = "Write F for girls and M for boys."
        refuse(f"--sex {' '.join(sex)}", "it is no sex that boneage knows", fix)
    if len(letters) > 1:
        fix = "Run the command once for girls and once for boys, or give the sexes in a --table."
        refuse(f"--sex {' '.join(sex)}", "one sex holds for all images of a command", fix)
    return letters.pop()


def _check_options(
    paths: Sequence[str] | None,
    table: Path | None,
    age: float | None,
    out: Path | None,
    shard: str | None,
    merge: int | None,
    level: float | None,
    as_json: bool,
) -> None:
    if not paths and table is None:
        refuse("PATH", "no radiograph is named", "Name files or folders, or a --table.")
    if age is not None:
        if table is not None or len(paths or ()) > 1 or Path((paths or ("",))[0]).is_dir():
            fix = "Name one radiograph, or give the ages in a --table."
            refuse("--chronological-age", "it holds for one radiograph only", fix)
        if not 0 <= age <= 480:
            fix = "Is it in years or days? Give months."
            refuse(f"--chronological-age {age:g}", "months from 0 to 480 are possible", fix)
    if level is not None and not 0 < level < 1:
        fix = "Write 0.9 for 90 %."
        refuse(f"--level {level:g}", "it is no share between 0 and 1", fix)
    if out is None and (shard or merge):
        refuse("--shard and --merge", "they need a file of answers", "Name one with --out.")
    if out is not None and as_json:
        fix = "Leave one of them out. A .jsonl file holds the same answers."
        refuse("--json", "it can't be combined with --out", fix)
    if shard and merge:
        refuse("--merge", "it can't be combined with --shard", "Use --merge when all parts exist.")
    if out is not None and out.suffix not in _OUT_SUFFIXES:
        refuse(f"--out {out}", "this form is not known", f"Use {', '.join(_OUT_SUFFIXES)}.")
    if out is not None and out.suffix == ".parquet":
        if shard or merge:
            fix = "Use .csv or .jsonl."
            refuse(f"--out {out}", "a Parquet file can't be written in parts", fix)
        from importlib.util import find_spec

        if find_spec("pyarrow") is None:
            from boneage.runtime.extras import install_command

            fix = f"Run {install_command('pyarrow')}, or use .csv or .jsonl."
            refuse(f"--out {out}", "pyarrow is not installed", fix)


def _open_table(
    table: Path,
    columns: Mapping[str, str | None],
    form: Mapping[str, Any],
    image_root: Path | None,
    letter: str | None,
) -> RadiographTable:
    from boneage.datasets.radiograph_table import RadiographColumns, RadiographTable

    opened = RadiographTable(table, RadiographColumns(**columns), image_root=image_root, **form)
    if letter is not None and opened.has_sex:
        refuse("--sex", f"{table} has a column with the sex", "Leave --sex out.")
    return opened


class _Asked:
    """All requests of a command: those of the paths, then those of the table.

    Each iteration begins again.
    """

    def __init__(
        self,
        paths: Sequence[str],
        table: RadiographTable | None,
        sex: str | None,
        age: float | None,
    ) -> None:
        from boneage.prediction.requests import RadiographFiles

        self._files = RadiographFiles(paths)
        self._table = table
        self._sex, self._age = sex, age

    def __iter__(self) -> Iterator[Request]:
        from boneage.errors import Fault
        from boneage.prediction.predict import Request

        for found in self._files:
            if isinstance(found, Fault):
                yield Request(found.where, self._sex, fault=found)
            else:
                yield Request(found, self._sex, self._age)
        for row in self._table or ():
            age = row.chronological_age_months
            yield Request(row.image, row.sex or self._sex, age, fault=row.fault)

    def print_skipped(self) -> None:
        """Say what the last iteration left out."""
        if text := self._files.describe_skipped():
            log(f"note: {text}.")


def _make_writers(
    estimator: Estimator, explain: Path | None, dicom_out: Path | None, fhir_out: Path | None
) -> list[AnswerWriter]:
    """Return what every answer is written to, besides the screen or the file of answers."""
    from boneage.cli.documents import DicomWriter, FhirWriter
    from boneage.runtime.files import check_folder_writable

    writers: list[AnswerWriter] = []
    if explain is not None:
        check_folder_writable(explain)  # before a radiograph is read
        writers.append(_Explainer(estimator, explain))
    if dicom_out is not None:
        writers.append(DicomWriter(dicom_out))
    if fhir_out is not None:
        writers.append(FhirWriter(fhir_out))
    return writers


class _Explainer:
    """Write a picture of each answered radiograph; see `AnswerWriter`."""

    def __init__(self, estimator: Estimator, folder: Path) -> None:
        self._estimator, self._folder = estimator, folder

    def write(self, request: Request, answer: Answer) -> None:
        if not answer.estimates:
            return
        from boneage.prediction.explanation import explain
        from boneage.prediction.explanation_picture import picture_path, write_explanation
        from boneage.radiographs.reader import read_radiograph

        radiograph, predictor = read_radiograph(answer.image), self._estimator.predictor
        explanation = explain(predictor, radiograph, predictor.assess(radiograph), answer.sex)
        write_explanation(explanation, answer, picture_path(self._folder, answer.image))


def _head(run: Path, others: Sequence[Path] | None) -> dict[str, Any]:
    head: dict[str, Any] = {"run": utf8(str(run))}
    return head | ({"others": [utf8(str(other)) for other in others]} if others else {})


def _job(
    estimator: Estimator, settings: Mapping[str, Any], files: Mapping[str, Path | None]
) -> dict[str, Any]:
    """Return what the answers depend on, as JSON values."""
    from boneage import __version__
    from boneage.runtime.provenance import file_digest

    intervals = [run.intervals_path for run in estimator.predictor.runs]
    return {
        "boneage": __version__,
        "models": [vars(model) for model in estimator.models],
        "intervals": [file_digest(path) if path.exists() else None for path in intervals],
        "views": [group.views for group in estimator.predictor.groups],
        "phases": [group.phases for group in estimator.predictor.groups],
        "level": estimator.level,
        "anyway": estimator.anyway,
        **settings,
        **{
            key: None if file is None else {"file": str(file), "digest": file_digest(file)}
            for key, file in files.items()
        },
        "shard": None,
    }


def _print_answers(
    estimator: Estimator,
    asked: _Asked,
    writers: Sequence[AnswerWriter],
    head: Mapping[str, Any],
    as_json: bool,
) -> Counter[str]:
    """Print the answers, and return how many there are of each status."""
    statuses: Counter[str] = Counter()
    is_silent = as_json or not sys.stdout.isatty()

    def finished() -> Iterator[Answer]:
        for request, answer in _progress(_pairs(estimator, asked), asked, is_silent=is_silent):
            for writer in writers:
                writer.write(request, answer)
            statuses[answer.status] += 1
            yield answer

    if as_json:
        print_json_list(dict(head), "predictions", (answer.as_dict() for answer in finished()))
    else:
        screen = _Screen()
        for answer in finished():
            screen.print(answer)
    if not statuses:
        _refuse_nothing(asked)
    asked.print_skipped()
    return statuses


def _write_answers(
    estimator: Estimator,
    asked: _Asked,
    writers: Sequence[AnswerWriter],
    out: Path,
    job: dict[str, Any],
    shard: str | None,
    merge: int | None,
) -> Counter[str]:
    """Write the answers to a file, and return how many it has of each status."""
    from boneage.prediction.answer_files import merge_shards, shard_path

    if merge is not None:
        statuses = merge_shards(out, merge, job, asked)
    elif out.suffix == ".parquet":
        statuses = _write_parquet(estimator, asked, writers, out, job)
    elif shard is not None:
        number, count = _read_shard(shard)
        out, job = shard_path(out, number, count), {**job, "shard": shard}
        statuses = _continue_file(estimator, asked, writers, out, job, (number, count))
    else:
        statuses = _continue_file(estimator, asked, writers, out, job)
    if not statuses and shard is None:
        _refuse_nothing(asked)
    asked.print_skipped()
    counts = ", ".join(f"{statuses[name]:,} {name}" for name in EXIT_CODES if statuses[name])
    echo(f"{out}: {counts or 'no radiograph in this part'}")
    return statuses


def _refuse_nothing(asked: _Asked) -> None:
    asked.print_skipped()
    refuse("PATH", "there is no radiograph", "Name files, or folders that hold some.")


def _read_shard(shard: str) -> tuple[int, int]:
    number, _, count = shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        refuse(f"--shard {shard}", "it is no part of a whole", "Write 1/4 for the first of four.")
    return int(number), int(count)


def _continue_file(
    estimator: Estimator,
    asked: _Asked,
    writers: Sequence[AnswerWriter],
    out: Path,
    job: Mapping[str, Any],
    shard: tuple[int, int] = (1, 1),
) -> Counter[str]:
    """Answer all requests whose lines a file does not have yet."""
    from boneage.prediction.answer_files import AnswerFile
    from boneage.prediction.requests import take_shard

    with AnswerFile(out, job) as file:
        requests, repeated = file.resume(take_shard(asked, *shard))
        done = file.statuses.total()
        if done:
            log(f"note: {out} already has {done:,} answers.")
        pairs = _progress(_pairs(estimator, requests), asked, done=done - repeated, shard=shard)
        try:
            for index, (request, answer) in enumerate(pairs):
                if index < repeated:
                    continue
                for writer in writers:
                    writer.write(request, answer)
                file.write(answer)
        except BaseException:
            count = file.statuses.total()
            log(f"note: {out} has {count:,} answers. Repeat the command to continue.")
            raise
        file.finish()
        return file.statuses


def _write_parquet(
    estimator: Estimator,
    asked: _Asked,
    writers: Sequence[AnswerWriter],
    out: Path,
    job: Mapping[str, Any],
) -> Counter[str]:
    """Answer into JSON lines, which a kill leaves whole, and make a Parquet file of them."""
    import json

    from boneage.datasets.parquet import write_parquet
    from boneage.prediction.answer_files import COLUMNS, NUMBERS, job_path, read_lines, table_row

    if out.exists():
        refuse(f"--out {out}", "the file exists", "Choose another --out, or remove the file.")
    lines = out.with_name(f"{out.name}.jsonl")
    statuses = _continue_file(estimator, asked, writers, lines, job)
    rows = (table_row(json.loads(line)) for line, _, _ in read_lines(lines))
    write_parquet(out, COLUMNS, NUMBERS, rows)
    lines.unlink()
    job_path(lines).unlink()
    return statuses


def _pairs(estimator: Estimator, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer]]:
    pending: deque[Request] = deque()

    def remembered() -> Iterator[Request]:
        for request in requests:
            pending.append(request)
            yield request

    for answer in estimator.predict_many(remembered()):
        yield pending.popleft(), answer


def _progress(
    pairs: Iterable[tuple[Request, Answer]],
    asked: _Asked,
    *,
    done: int = 0,
    shard: tuple[int, int] = (1, 1),
    is_silent: bool = True,
) -> Iterator[tuple[Request, Answer]]:
    """Show on a terminal how many images are answered, how many a second, and the time left."""
    if not is_silent or not sys.stderr.isatty():
        yield from pairs
        return
    from boneage.prediction.requests import take_shard

    total = sum(1 for _ in take_shard(asked, *shard))
    if total - done <= _SHOW_PROGRESS:
        yield from pairs
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bar = (BarColumn(), MofNCompleteColumn(), "{task.fields[rate]}", TimeRemainingColumn())
    start = time.monotonic()
    with Progress(*bar, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, completed=done, rate="")
        for count, pair in enumerate(pairs, start=1):
            rate = f"{count / (time.monotonic() - start):.0f} images/s"
            progress.update(task, completed=done + count, rate=rate)
            yield pair


def _exit_code(statuses: Mapping[str, int]) -> int:
    codes = {0, *(EXIT_CODES[status] for status, count in statuses.items() if count)}
    return 2 if 2 in codes else max(codes)


class _Screen:
    """Prints answers. What holds for several of them is printed once."""

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def print(self, answer: Answer) -> None:
        """Print an answer on standard output, and what a person should know on standard error."""
        from boneage.prediction.answers import age_in_words

        if answer.fault is not None:
            log(f"{'refused' if answer.status == 'refused' else 'error'}: {answer.fault}")
            return
        for finding in answer.findings:
            text = f"{answer.image}: {finding.what}."
            log(f"note: {text}" if finding.is_corrected else f"warning: {text} {finding.fix}")
        if is_both := len(answer.estimates) > 1:
            self._print_once("Where the sex is not known, there are two answers. Give it by --sex.")
        for estimate in answer.estimates:
            words, found = age_in_words(estimate.months), estimate.interval
            interval = "" if found is None else f", {found}"
            who = {"F": "if a girl, ", "M": "if a boy, "}[estimate.sex] if is_both else ""
            echo(f"{answer.image}: {who}{estimate.months:.1f} months ({words}){interval}")
            if estimate.calibration is not None:
                echo(f"  {estimate.calibration}")
            if estimate.comparison is not None:
                echo(f"  {estimate.comparison}")
                if estimate.comparison.sd_score is not None:
                    self._print_once(estimate.comparison.note)

    def _print_once(self, note: str) -> None:
        if note not in self._printed:
            self._printed.add(note)
            log(f"note: {note}")
