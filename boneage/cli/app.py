"""The command line: verbs to functions, errors to exit codes. A verb imports what it needs."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from typing import Annotated, NoReturn

import typer

from boneage import __version__
from boneage.cli.calibrate import calibrate
from boneage.cli.compare import compare
from boneage.cli.data import data_app
from boneage.cli.doctor import doctor
from boneage.cli.evaluate import evaluate, release, report
from boneage.cli.export import export
from boneage.cli.output import log, verb_group
from boneage.cli.predict import predict
from boneage.cli.series import cross_validate, sweep
from boneage.cli.serve import serve
from boneage.cli.site import site
from boneage.cli.stress import stress
from boneage.cli.train import reproduce, train
from boneage.errors import InputError
from boneage.runtime.extras import describe_missing

# In the order of `boneage --help`: the most used first.
VERBS = (
    "train",
    "evaluate",
    "predict",
    "serve",
    "report",
    "data",
    "doctor",
    "site",
    "compare",
    "stress",
    "calibrate",
    "reproduce",
    "cross-validate",
    "sweep",
    "release",
    "export",
)
REMOVED_VERBS = {
    "bench": "Run the benchmarks in a clone: python -m experiments.throughput.benchmark --help.",
    "leaderboard": "Run the script in a clone: python experiments/leaderboard.py.",
}


app = typer.Typer(
    cls=verb_group(VERBS, REMOVED_VERBS),
    name="boneage",
    help="Estimate bone age in months from a hand radiograph and the child's sex.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every verb below, too
)
app.command()(train)
app.command()(evaluate)
app.command()(predict)
app.command()(serve)
app.command()(site)
app.command()(report)
app.command()(compare)
app.command()(stress)
app.command()(calibrate)
app.add_typer(data_app, name="data")
app.command()(doctor)
app.command()(reproduce)
app.command("cross-validate")(cross_validate)
app.command()(sweep)
app.command()(release)
app.command()(export)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"boneage {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Take the options that come before a verb."""


def run() -> None:
    """Run the verb that the command line names, and end with its exit code."""
    _prepare_process()
    output = sys.stdout
    try:
        app(prog_name="boneage")
    except InputError as error:
        for fault in error.faults:
            log(f"error: {fault}")
        sys.exit(2)
    except OSError as error:  # the system refused something, such as a write
        log(f"error: {error.filename or 'boneage'}: {error.strerror or error}")
        sys.exit(2)
    except UnicodeEncodeError:  # manifests, run.json and pages hold UTF-8 only
        what = "the name of a file or a folder has bytes that are no UTF-8, so it can't be recorded"
        log(f"error: {what}. Rename it.")
        sys.exit(2)
    except ModuleNotFoundError as error:
        missing = describe_missing(error)
        if missing is None:
            raise
        log(f"error: {missing}")
        sys.exit(2)
    except Exception as error:
        if not _has_failed_to_import_keras():
            raise
        reason = str(error).partition("\n")[0]
        fix = "Set KERAS_BACKEND to tensorflow or jax, or correct the file keras.json."
        log(f"error: Keras can't be imported: {type(error).__name__}: {reason}. {fix}")
        sys.exit(2)
    finally:
        try:
            output.flush()
        except BrokenPipeError:
            _end_quietly()
        if sys.stdout is not output:  # Typer found that nobody reads the output
            _end_quietly()


def _prepare_process() -> None:
    """Set what holds for the whole process: libraries' settings, and how text is printed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no information from TensorFlow
    # By default TensorFlow uses oneDNN only on processors with AVX-512, but others gain too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # our own messages name damaged files
    os.environ["MPLBACKEND"] = "agg"  # that of a notebook may not be installed here
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a missing home folder
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before the start
            setattr(sys, name, io.TextIOWrapper(io.FileIO(os.devnull, "w")))
        elif isinstance(stream, io.TextIOWrapper):  # a terminal may know ASCII alone
            stream.reconfigure(errors="backslashreplace")


def _has_failed_to_import_keras() -> bool:
    """Return whether modules of Keras are imported, but not Keras: its backend is missing."""
    return "keras" not in sys.modules and any(name.startswith("keras.") for name in sys.modules)


def _end_quietly() -> NoReturn:
    """End as if by SIGPIPE: the reader of the output, such as `head`, has closed it."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python still writes at its end
    sys.exit(141)
