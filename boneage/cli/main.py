"""Verbs to functions, errors to exit codes. Nothing slow is imported before a verb needs it."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boneage.cli.data import data_app
from boneage.cli.output import JsonOption, print_json, refuse
from boneage.cli.release import release
from boneage.cli.reproduce import reproduce
from boneage.cli.series import cross_validate, sweep
from boneage.errors import InputError

if TYPE_CHECKING:
    from boneage.datasets.manifest import Manifest
    from boneage.recipe import Recipe
    from boneage.training.distributed.hosts import Hosts

app = typer.Typer(
    name="boneage",
    help="Bone age from a hand radiograph and the child's sex, in months.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.command("cross-validate")(cross_validate)
app.command()(sweep)
app.command()(release)
app.command()(reproduce)

NOT_WITH_RESUME = "it can't be combined with --out or --init: the run already has them"
RUN_HELP = "A run folder, or the name of a model that ships with boneage."
ViewsOption = Annotated[
    int | None,
    typer.Option(help="Of each radiograph, answers averaged: 1, 2 or 6; else as the recipe says."),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP)]


@app.command()
def train(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A recipe, TOML.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The manifest; without one, the recipe's phantom cohort is drawn."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Replaces the recipe's seed.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As in --set training.epochs=3."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder to make.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run that was cut off.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Begin with the network of another run: fine-tuning."),
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT,…",
            envvar="BONEAGE_HOSTS",
            help="Train on all of these together (Keras on JAX); none: alone, whatever Slurm says.",
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Which of --hosts this one is, from 0; 0 writes the run.")
    ] = None,
    require_gpu: Annotated[
        bool, typer.Option("--require-gpu", help="Fail where there is no GPU to train on.")
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Only operations that repeat to the bit, on a GPU."),
    ] = False,
) -> None:
    """Train a recipe, then evaluate it on validation and test and write its report.

    Ctrl-C and SIGTERM end it after a batch; --resume goes on to the very same result.
    """
    if deterministic:
        _be_deterministic()  # read by TensorFlow and XLA when they are imported
    from boneage.runtime.cpu_settings import keep_freed_memory
    from boneage.training.distributed.hosts import find_hosts
    from boneage.training.stop_signals import Stop, Terminated

    keep_freed_memory()
    together = find_hosts(hosts, rank, os.environ)
    if together and not (resume or out):
        refuse("--hosts", "--out is missing", "Name a folder that all hosts see: --out RUN.")
    stop = Stop()
    folder = resume or out
    with stop.listening():
        try:
            if resume is not None:
                if out is not None or init is not None:
                    refuse("--resume", NOT_WITH_RESUME)
                resolved, manifest = _of_the_run(resume, recipe, data, seed, overrides or ())
            elif recipe is None:
                refuse("boneage train", "the recipe is missing", "Name a RECIPE, or --resume RUN.")
            else:
                resolved, manifest = _resolved(recipe, data, seed, overrides or ())
            folder = folder or _new_run_folder(resolved)
            how = {"resume": resume is not None, "require_gpu": require_gpu, "stop": stop}
            _train_and_evaluate(resolved, manifest, folder, init, together, how)
        except KeyboardInterrupt:
            _tell_how_to_go_on("interrupted", folder, deterministic)
            raise  # Typer exits with 130
        except Terminated:
            _tell_how_to_go_on("terminated", folder, deterministic)


def _resolved(
    recipe: Path, data: Path | None, seed: int | None, overrides: Sequence[str]
) -> tuple[Recipe, Manifest]:
    from boneage.datasets.manifest import read_manifest
    from boneage.recipe import read_recipe

    resolved = read_recipe(recipe, overrides, seed=seed)
    if data:  # the phantom is not what was trained on
        return resolved.model_copy(update={"phantom": None}), read_manifest(data)
    return resolved, _phantom_manifest(recipe, resolved)


def _of_the_run(
    folder: Path, recipe: Path | None, data: Path | None, seed: int | None, overrides: Sequence[str]
) -> tuple[Recipe, Manifest]:
    """Recipe and manifest of a run; what is given beside it is taken, to be held against it."""
    from boneage.datasets.manifest import read_manifest
    from boneage.evaluation.scoring import run_manifest
    from boneage.recipe import read_recipe
    from boneage.run import Run

    run = Run(folder)
    if not run.is_begun:
        refuse(
            f"--resume {folder}",
            "it holds no run.json, so it is no run folder",
            "Check the path, or start a new run with --out.",
        )
    asked = recipe is not None or seed is not None or bool(overrides)
    given = recipe or run.recipe_path
    resolved = read_recipe(given, overrides, seed=seed) if asked else run.read_recipe()
    return resolved, run_manifest(run) if data is None else read_manifest(data)


def _train_and_evaluate(
    recipe: Recipe,
    manifest: Manifest,
    folder: Path,
    init: Path | None,
    hosts: Hosts | None,
    how: dict[str, Any],
) -> None:
    from boneage.runtime.cpu_settings import import_keras

    import_keras()
    from boneage.evaluation.report import write_report
    from boneage.evaluation.result import write_result
    from boneage.evaluation.scoring import evaluate_run
    from boneage.run import open_run
    from boneage.runtime.provenance import lacks_bfloat16
    from boneage.training.distributed.device_group import accelerator
    from boneage.training.trainer import train as run_training

    bfloat16 = recipe.training.precision == "mixed_bfloat16" and lacks_bfloat16()
    if bfloat16 and hosts is None and accelerator() is None:  # hosts meet before any looks for GPUs
        typer.echo(SLOW_BFLOAT16, err=True)
    begin = None if init is None else open_run(init)
    run = run_training(recipe, manifest, folder, init=begin, hosts=hosts, **how)
    if hosts is not None and not hosts.first:
        return
    metrics: dict[str, Any] | None = None
    for name in ("val", "test"):
        if (manifest.table["split"] == name).any():
            metrics = evaluate_run(run, split=name)
    assert metrics is not None  # a val split there is
    write_result(run)
    report = write_report(run)
    typer.echo(_verdict(metrics))
    typer.echo(f"report: {report}")


def _be_deterministic() -> None:
    os.environ["TF_DETERMINISTIC_OPS"] = "1"
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def _tell_how_to_go_on(how: str, folder: Path | None, deterministic: bool) -> None:
    if folder is None or not folder.exists():  # it goes when nothing was learned
        typer.echo(f"{how} before anything was learned", err=True)
        return
    options = " --deterministic" if deterministic else ""
    typer.echo(f"{how}; to go on: boneage train --resume {folder}{options}", err=True)


@app.command()
def evaluate(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help=RUN_HELP)] = None,
    data: Annotated[
        Path | None, typer.Option(help="Another manifest than the run's own: an external test.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test (the default).")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Score this table: image_id,age_months,sex,predicted_age_months."),
    ] = None,
    views: ViewsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a run on a split of its manifest, or anybody's predictions."""
    if predictions is not None and (data or split or views):
        refuse("--predictions", "it can't be combined with --data, --split or --views")
    if (run is None) == (predictions is None):
        refuse("boneage evaluate", "it needs either RUN or --predictions FILE")
    from boneage.evaluation.scoring import evaluate_predictions, evaluate_run

    if predictions is not None:
        metrics = evaluate_predictions(predictions)
    else:
        from boneage.evaluation.result import write_result
        from boneage.run import open_run
        from boneage.runtime.cpu_settings import import_keras

        assert run is not None  # one of the two was given
        opened = open_run(run)
        import_keras()
        asked = split or "test"
        metrics = evaluate_run(opened, data=data, split=asked, views=views, progress=not as_json)
        written = write_result(opened).parent
        if written != opened.folder:  # a released model stays as it is
            typer.echo(f"written to {written}", err=True)
        if metrics["manifest"].get("overlap", {}) is None:
            typer.echo(UNKNOWN_OVERLAP, err=True)
    if as_json:
        print_json(metrics)
    else:
        typer.echo(_table(metrics))


@app.command()
def report(run: RunArgument) -> None:
    """Write the report of a run once more: report.html and its figures."""
    from boneage.evaluation.report import write_report
    from boneage.prediction.shipped import evaluated_folder
    from boneage.run import Run, open_run

    typer.echo(str(write_report(Run(evaluated_folder(open_run(run).folder)))))


@app.command()
def predict(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Radiographs.")],
    sex: Annotated[str, typer.Option(help="F or M: the sex of the child, or of all of them.")],
    views: ViewsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer for radiographs: the bone age in months (research use, not for diagnosis)."""
    if sex not in ("F", "M"):
        refuse(f"--sex {sex}", "it is neither F nor M", "Write F or M.")
    from boneage.run import open_run

    opened = open_run(run)
    from boneage.runtime.cpu_settings import import_keras

    import_keras()
    from boneage.prediction.predict import predict_radiographs

    answers = predict_radiographs(opened, images, sex, views=views)
    if as_json:
        print_json({"run": str(run), "predictions": answers.to_dict("records")})
        return
    for image, months in zip(answers["image"], answers["predicted_age_months"], strict=True):
        typer.echo(f"{image}: {months:.1f} months ({months / 12:.1f} years)")


def _phantom_manifest(path: Path, recipe: Recipe) -> Manifest:
    if recipe.phantom is None:
        refuse(
            str(path),
            "this recipe has no [phantom] cohort, and --data is missing",
            "Name a manifest: --data MANIFEST. `boneage data import` makes one.",
        )
    from boneage.datasets.phantom.cohort import DRAWING_VERSION, make_phantom_cohort

    settings = recipe.phantom
    cache = Path(os.environ.get("BONEAGE_CACHE") or Path.home() / ".cache" / "boneage")
    drawing = f"phantom{DRAWING_VERSION}-{settings.count}-{settings.seed}-{settings.size}px"
    return make_phantom_cohort(cache / drawing, **settings.model_dump())


def _new_run_folder(recipe: Recipe) -> Path:
    started = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    runs = Path(os.environ.get("BONEAGE_RUNS") or "runs")
    return runs / f"{recipe.name}-seed{recipe.seed}-{started}"


def _verdict(metrics: dict[str, Any]) -> str:
    mae = metrics["mae_months"]
    line = (
        f"{metrics['split']}: MAE {mae['value']:.2f} months "
        f"{_interval(mae)} on {metrics['n']:,} images"
    )
    baseline = metrics["baseline"]["median_by_sex"]["mae_months"]
    if baseline is None:
        return line
    return (
        f"{line}; predicting the median by sex: {baseline['value']:.2f} "
        f"({mae['value'] / baseline['value']:.2f} of it)"
    )


_ROWS = (
    ("MAE, months", "mae_months", 1.0),
    ("RMSE, months", "rmse_months", 1.0),
    ("median absolute error, months", "median_absolute_error_months", 1.0),
    ("bias (predicted - true), months", "bias_months", 1.0),
    ("within 6 months, %", "within_6_months", 100.0),
    ("within 12 months, %", "within_12_months", 100.0),
    ("within 24 months, %", "within_24_months", 100.0),
)


SLOW_BFLOAT16 = (
    "note: the recipe computes in bfloat16, which this processor can only imitate, ten times "
    "slower; --set training.precision=float32 trains the same network"
)

UNKNOWN_OVERLAP = (
    "note: which images the model was trained on is not known here; those of its training among "
    "these make it look better than it is"
)


def _table(metrics: dict[str, Any]) -> str:
    lines = [f"{metrics['n']:,} images; intervals are 95 % (bootstrap by image)"]
    for title, key, factor in _ROWS:
        part = metrics[key]
        lines.append(f"{title:<34}{factor * part['value']:8.2f}   {_interval(part, factor)}")
    limits = metrics["limits_of_agreement_months"]
    if limits["low"] is not None:
        title = "95 % limits of agreement, months"
        lines.append(f"{title:<34}{limits['low']:8.2f} to {limits['high']:.2f}")
    for group, parts in metrics["groups"].items():
        for name, part in parts.items():
            if part["n"]:
                title = f"MAE of {group.replace('_', ' ')} {name}, n {part['n']:,}"
                mae, bias = part["mae_months"], part["bias_months"]["value"]
                interval = f"{_interval(mae):<16}"
                lines.append(f"{title:<34}{mae['value']:8.2f}   {interval} bias {bias:+.2f}")
    return "\n".join(lines)


def _interval(part: dict[str, Any], factor: float = 1.0) -> str:
    if part["low"] is None:
        return "[no interval from one image]"
    return f"[{factor * part['low']:.2f}, {factor * part['high']:.2f}]"


def main() -> None:
    """Runs the command line: 0 when done, 2 for faulty input, 130 when interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's greeting is no news
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # our messages tell of a damaged file
    try:
        app()
    except InputError as error:
        for fault in error.faults:
            typer.echo(f"error: {fault}", err=True)
        sys.exit(2)
    except OSError as error:  # what the system refused, and no room could tell better
        typer.echo(f"error: {error.filename or 'boneage'}: {error.strerror or error}", err=True)
        sys.exit(2)
