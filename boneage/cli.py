"""Verbs to functions, errors to exit codes. Nothing slow is imported before a verb needs it."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boneage.cli_bench import bench_app
from boneage.cli_data import data_app
from boneage.console import JsonOption, print_json, refuse
from boneage.errors import InputError

if TYPE_CHECKING:
    from boneage.datasets.manifest import Manifest
    from boneage.recipe import Recipe

app = typer.Typer(
    name="boneage",
    help="Bone age from a hand radiograph and the child's sex, in months.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, TOML.")],
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
) -> None:
    """Train a recipe, then evaluate it on validation and test and write its report."""
    from boneage.datasets.manifest import read_manifest
    from boneage.recipe import read_recipe

    resolved = read_recipe(recipe, overrides or (), seed=seed)
    if data:
        manifest = read_manifest(data)
        resolved = resolved.model_copy(update={"phantom": None})  # it is not what was trained on
    else:
        manifest = _phantom_manifest(recipe, resolved)
    folder = out or _new_run_folder(resolved)

    from boneage.evaluation.report import write_report
    from boneage.evaluation.result import write_result
    from boneage.evaluation.scoring import evaluate_run
    from boneage.training import train as run_training

    try:
        run = run_training(resolved, manifest, folder)
    except KeyboardInterrupt:
        if folder.exists():  # it goes when no epoch was finished
            typer.echo(f"interrupted: what the finished epochs left is in {folder}", err=True)
        raise  # Typer exits with 130
    splits = [name for name in ("val", "test") if (manifest.table["split"] == name).any()]
    for name in splits:
        metrics = evaluate_run(run, split=name)
    write_result(run)
    report = write_report(run)
    typer.echo(_verdict(metrics))
    typer.echo(f"report: {report}")


@app.command()
def evaluate(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run folder.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Another manifest than the run's own: an external test.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test (the default).")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Score this table: image_id,age_months,sex,predicted_age_months."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a run on a split of its manifest, or anybody's predictions."""
    if predictions is not None and (data is not None or split is not None):
        refuse("--predictions", "no --data and no --split beside it: the table says it all")
    if (run is None) == (predictions is None):
        refuse("boneage evaluate", "a run folder or --predictions FILE, one of the two")
    from boneage.evaluation.scoring import evaluate_predictions, evaluate_run

    if predictions is not None:
        metrics = evaluate_predictions(predictions)
    else:
        from boneage.evaluation.result import write_result
        from boneage.run import open_run

        assert run is not None  # one of the two was given
        opened = open_run(run)
        metrics = evaluate_run(opened, data=data, split=split or "test", progress=not as_json)
        write_result(opened)
    if as_json:
        print_json(metrics)
    else:
        typer.echo(_table(metrics))


@app.command()
def report(run: RunArgument) -> None:
    """Write the report of a run once more: report.html and its figures."""
    from boneage.evaluation.report import write_report
    from boneage.run import open_run

    typer.echo(str(write_report(open_run(run))))


@app.command()
def predict(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Radiographs.")],
    sex: Annotated[str, typer.Option(help="F or M: the sex of the child, or of all of them.")],
    as_json: JsonOption = False,
) -> None:
    """Answer for radiographs: the bone age in months (research use, not for diagnosis)."""
    if sex not in ("F", "M"):
        refuse(f"--sex {sex}", "F or M")
    from boneage.run import open_run

    opened = open_run(run)
    from boneage.inference import predict_radiographs

    answers = predict_radiographs(opened, images, sex)
    if as_json:
        print_json({"run": str(run), "predictions": answers.to_dict("records")})
        return
    for image, months in zip(answers["image"], answers["predicted_age_months"], strict=True):
        typer.echo(f"{image}: {months:.1f} months ({months / 12:.1f} years)")


def _phantom_manifest(path: Path, recipe: Recipe) -> Manifest:
    if recipe.phantom is None:
        refuse(
            str(path),
            "--data MANIFEST, because this recipe has no [phantom] cohort of its own",
            "Make a manifest with boneage data import.",
        )
    from boneage.datasets.phantom import DRAWING_VERSION, make_phantom_cohort

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
