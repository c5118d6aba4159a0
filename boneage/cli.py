"""Verbs to functions, errors to exit codes. Nothing slow is imported before a verb needs it."""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from boneage.errors import Fault, InputError

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
data_app = typer.Typer(help="Make, check and prepare cohorts.", no_args_is_help=True)
import_app = typer.Typer(help="Turn a dataset as it comes into a manifest.", no_args_is_help=True)
app.add_typer(data_app, name="data")
data_app.add_typer(import_app, name="import")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
OutOption = Annotated[Path, typer.Option("--out", help="The manifest to write.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the split.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
ManifestArgument = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest CSV.")]


@data_app.command("phantom")
def data_phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    count: Annotated[int, typer.Option(min=10, help="Films to draw.")] = 1500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the cohort.")] = 0,
    size: Annotated[int, typer.Option(min=64, max=2048, help="Side of a film, pixels.")] = 256,
) -> None:
    """Draw a cohort of procedural hand radiographs: no download, no patients."""
    from boneage.datasets.phantom import make_phantom_cohort

    _say_manifest(make_phantom_cohort(out, count=count, seed=seed, size=size))


@import_app.command("rsna")
def import_rsna(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the dataset was unpacked.")],
    out: OutOption = Path("manifest.csv"),
    seed: SeedOption = 0,
) -> None:
    """Import the RSNA 2017 challenge set in the layout that Kaggle ships it in."""
    from boneage.datasets.rsna import import_rsna as run_import

    _say_manifest(run_import(folder, out, seed=seed))


@import_app.command("table")
def import_table(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or TSV, one row an image.")],
    image: Annotated[str, typer.Option(help="Column with the image's path.")],
    age: Annotated[str, typer.Option(help="Column with the bone age.")],
    age_unit: Annotated[str, typer.Option(help="months or years.")],
    sex: Annotated[str, typer.Option(help="Column with the sex.")],
    female: Annotated[str, typer.Option(help="What that column says for a girl.")],
    male: Annotated[str, typer.Option(help="What that column says for a boy.")],
    out: OutOption = Path("manifest.csv"),
    image_root: Annotated[
        Path | None, typer.Option(help="Folder the paths start from; default the file's own.")
    ] = None,
    patient: Annotated[str | None, typer.Option(help="Column with the patient's id.")] = None,
    split: Annotated[str | None, typer.Option(help="Column with train, val or test.")] = None,
    seed: SeedOption = 0,
) -> None:
    """Import any table of ages, whatever its columns, units and codes are called."""
    from boneage.datasets.table import import_table as run_import

    _say_manifest(
        run_import(
            file,
            out,
            image=image,
            age=age,
            age_unit=age_unit,
            sex=sex,
            female=female,
            male=male,
            image_root=image_root,
            patient=patient,
            split=split,
            seed=seed,
        )
    )


@data_app.command("check")
def data_check(manifest: ManifestArgument, as_json: JsonOption = False) -> None:
    """Read every row and image of a manifest and name every fault; exit 2 if there are any."""
    from boneage.datasets.audit import audit

    report = audit(manifest)
    if as_json:
        _print_json(report.as_dict())
    else:
        typer.echo(report.render())
    raise typer.Exit(2 if report.has_errors else 0)


@data_app.command("prepare")
def data_prepare(
    manifest: ManifestArgument,
    size: Annotated[
        int | None,
        typer.Option(min=32, max=2048, help="Side of the store, pixels; 299 if not said."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Take all framing settings of this recipe instead.")
    ] = None,
) -> None:
    """Decode and frame every image once, into a memory-mapped store (train does this too)."""
    from boneage.datasets.manifest import read_manifest
    from boneage.pipeline.store import prepare
    from boneage.recipe import Framing, read_recipe

    if recipe and size:
        _refuse("--size", "either a size or --recipe, which has its own")
    framing = read_recipe(recipe).framing if recipe else Framing(size=size or 299)
    store = prepare(read_manifest(manifest), framing)
    typer.echo(f"{store.folder}: {len(store):,} images of {framing.size} x {framing.size} pixels")


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
        _refuse("--predictions", "no --data and no --split beside it: the table says it all")
    if (run is None) == (predictions is None):
        _refuse("boneage evaluate", "a run folder or --predictions FILE, one of the two")
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
        _print_json(metrics)
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
        _refuse(f"--sex {sex}", "F or M")
    from boneage.run import open_run

    opened = open_run(run)
    from boneage.inference import predict_radiographs

    answers = predict_radiographs(opened, images, sex)
    if as_json:
        _print_json({"run": str(run), "predictions": answers.to_dict("records")})
        return
    for image, months in zip(answers["image"], answers["predicted_age_months"], strict=True):
        typer.echo(f"{image}: {months:.1f} months ({months / 12:.1f} years)")


def _phantom_manifest(path: Path, recipe: Recipe) -> Manifest:
    if recipe.phantom is None:
        _refuse(
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


def _say_manifest(manifest: Manifest) -> None:
    counts = manifest.table["split"].value_counts()
    split = ", ".join(f"{counts.get(name, 0):,} {name}" for name in ("train", "val", "test"))
    typer.echo(f"{manifest.path}: {len(manifest):,} images ({split})")
    for note in manifest.notes:
        typer.echo(f"note: {note}")


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


def _print_json(values: dict[str, Any]) -> None:
    typer.echo(json.dumps(values, indent=2, ensure_ascii=False))


def _refuse(where: str, expected: str, fix: str = "See --help.") -> NoReturn:
    raise InputError(Fault(where, "that can't be done", expected, fix))


def main() -> None:
    """Runs the command line: 0 when done, 2 for faulty input, 130 when interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's greeting is no news
    try:
        app()
    except InputError as error:
        for fault in error.faults:
            typer.echo(f"error: {fault}", err=True)
        sys.exit(2)
    except OSError as error:  # what the system refused, and no room could tell better
        typer.echo(f"error: {error.filename or 'boneage'}: {error.strerror or error}", err=True)
        sys.exit(2)
