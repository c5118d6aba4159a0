"""The command line: verbs to functions, errors to exit codes. A verb imports what it needs."""

from __future__ import annotations

import os
import sys

import typer

from boneage.cli.data import data_app
from boneage.cli.evaluate import evaluate, release, report
from boneage.cli.output import verb_group
from boneage.cli.predict import predict
from boneage.cli.series import cross_validate, sweep
from boneage.cli.train import reproduce, train
from boneage.errors import InputError

# In the order of `boneage --help`: the most used first.
VERBS = (
    "train",
    "evaluate",
    "predict",
    "report",
    "data",
    "reproduce",
    "cross-validate",
    "sweep",
    "release",
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
)
app.command()(train)
app.command()(evaluate)
app.command()(predict)
app.command()(report)
app.add_typer(data_app, name="data")
app.command()(reproduce)
app.command("cross-validate")(cross_validate)
app.command()(sweep)
app.command()(release)


def main() -> None:
    """Run the command line. Exit code 0: done, 2: invalid input, 130: interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no information from TensorFlow
    # By default TensorFlow uses oneDNN only on processors with AVX-512, but others gain too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # our own messages name damaged files
    try:
        app()
    except InputError as error:
        for fault in error.faults:
            typer.echo(f"error: {fault}", err=True)
        sys.exit(2)
    except OSError as error:  # the system refused something, such as a write
        typer.echo(f"error: {error.filename or 'boneage'}: {error.strerror or error}", err=True)
        sys.exit(2)
