"""`boneage evaluate`, `report` and `release`: score a finished run, show it, publish it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boneage.cli.output import (
    RUN_HELP,
    JsonOption,
    OthersOption,
    PhasesOption,
    ResultsOption,
    RunArgument,
    ViewsOption,
    echo,
    log,
    metrics_table,
    print_json,
    refuse,
    renamed_option,
)
from boneage.errors import InputError

STORAGES = ("float16", "float32")
UNKNOWN_OVERLAP = (
    "the model's training images are unknown. If some of them are in this split, its error is "
    "underestimated."
)
UNKNOWN_PARENT = (
    "the images of a model that it started from are unknown. Images that this model knew may be "
    "among these."
)

SHAPED_WORDS = {"train": "trained the model", "val": "chose the model's epoch"}
SHAPED_BY = {
    split: f"note: the {name} images {words}, so their error is too low"
    for (split, words), name in zip(SHAPED_WORDS.items(), ("training", "validation"), strict=True)
}


def evaluate(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help=RUN_HELP)] = None,
    data: Annotated[
        Path | None, typer.Option(help="Manifest of an external test. Default: the run's own.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Split to score: train, val or test; several are also scored together. "
            "Default: test."
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Table to score instead of a run: image_id,age_months,sex,predicted_age_months."
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of the manifest or table to group by, too; may be repeated.",
        ),
    ] = None,
    others: OthersOption = None,
    views: ViewsOption = None,
    phases: PhasesOption = None,
    out: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model on a split, or score a table of predictions."""
    if predictions is not None and (data or split or others or views or phases or out):
        fix = "Only a run has --data, --split, --run, --views, --phases and --out."
        refuse("--predictions", "it can't be combined with options of a run", fix)
    if (run is None) == (predictions is None):
        refuse(
            "boneage evaluate", "it scores either RUN or --predictions FILE", "Name one of them."
        )
    from boneage.evaluation.scoring import evaluate_predictions, impossible_answers

    if predictions is not None:
        metrics, scored = evaluate_predictions(predictions, by=by or ()), predictions
    else:
        assert run is not None
        options: dict[str, Any] = {
            "data": data,
            "split": split or "test",
            "views": views,
            "phases": phases,
        }
        options |= {"by": by or (), "progress": not as_json}
        metrics, scored = _evaluate_runs([run, *(others or ())], out, options)
    if as_json:
        print_json(metrics)
    else:
        typer.echo(metrics_table(metrics))
    if (fault := impossible_answers(scored, metrics)) is not None:
        raise InputError(fault)  # the results are written and shown all the same


def _evaluate_runs(
    runs: list[Path], out: Path | None, options: dict[str, Any]
) -> tuple[dict[str, Any], Path]:
    """Score runs that answer together, write the result, and return it with the first model."""
    from boneage.evaluation.result import NEEDED_INFO, prepare_results, write_result
    from boneage.evaluation.scoring import evaluate_run
    from boneage.prediction.shipped import open_run

    opened, *rest = [open_run(each) for each in runs]
    for each in (opened, *rest):
        each.read_info(NEEDED_INFO)  # before the images are predicted
    metrics = evaluate_run(opened, others=rest, out=out, **options)
    results = prepare_results(opened, out, rest)
    write_result(results)
    if results.folder != opened.folder:
        log(f"results: {results.folder}")
    for note in _independence_notes(metrics):
        log(note)
    return metrics, opened.best_path


def _independence_notes(metrics: dict[str, Any]) -> list[str]:
    """Return what makes an error too low: images that trained the model or chose its epoch."""
    tested = metrics["manifest"]
    if not tested["external"]:
        notes = [SHAPED_BY[split] for split in metrics["split"].split("-") if split in SHAPED_BY]
        return notes + [f"note: {words}" for words in _known_by_id(tested)]
    notes = []
    for member in metrics.get("members") or [{"name": "", **tested}]:
        start = f"note: {member['name']}: " if member["name"] else "note: "
        notes += [
            f"{start}{count:,} of these {metrics['n']:,} images {SHAPED_WORDS[split]}, so the "
            "error is too low"
            for split, count in (member["overlap"] or {}).items()
            if count
        ]
        by_id = _known_by_id(member)
        if member["overlap"] is None and not by_id:
            by_id = [UNKNOWN_OVERLAP]
        notes += [start + words for words in by_id]
    return notes


def _known_by_id(tested: dict[str, Any]) -> list[str]:
    """Return what the ids say that the model and those before it knew, if they were counted."""
    ids = tested.get("known_ids")
    if not ids:
        return []
    count = f"at most {ids['at_most']:,}" if ids["at_most"] else "none"
    words = f"by their ids, {count} of these {ids['of']:,} images trained or chose the model"
    words += " or a model that it started from"
    if ids["at_most"] and ids["false_positives"]:
        words += f". About {ids['false_positives']:.0%} of the images match by chance"
    words += ". If they are the same images, the error is too low" if ids["at_most"] else ""
    return [words] if ids["complete"] else [words, UNKNOWN_PARENT]


def report(
    run: RunArgument,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Show heat maps of four images. It takes half a minute, and the model.",
        ),
    ] = False,
) -> None:
    """Write the report of an evaluated run again."""
    from boneage.evaluation.result import open_results

    results = open_results(run)
    from boneage.evaluation.report import write_report  # only now, because it takes a second

    echo(str(write_report(results, explain=explain)))


def release(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder to make; its name is the model's name.")],
    storage: Annotated[
        str, typer.Option(help="Type of the stored weights: float16 or float32.")
    ] = STORAGES[0],
    views: ViewsOption = None,
    phases: PhasesOption = None,
    note: Annotated[
        str, typer.Option(help="Text for the model card about the training radiographs.")
    ] = "",
    known_ids: Annotated[
        bool,
        typer.Option(
            "--known-ids/--no-known-ids",
            help="Add a filter that tells of an id whether the model knew it. Leave it out where "
            "ids are secret.",
        ),
    ] = True,
    max_megabytes: Annotated[
        float,
        typer.Option(
            "--max-megabytes", min=0, max=1e5, help="Largest size of best.keras and of model.onnx."
        ),
    ] = 12.0,
    most_megabytes: Annotated[
        str | None, renamed_option("--most-megabytes", "--max-megabytes")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a small model to share from a finished run.

    It comes with its model card, scores and checksums.
    """
    if storage not in STORAGES:
        refuse(f"--storage {storage}", f"it is neither {' nor '.join(STORAGES)}", "See --help.")
    from boneage.evaluation.release import release as make_release
    from boneage.prediction.shipped import RELEASE_NAME, open_run
    from boneage.runtime.files import check_folder_writable, read_json

    check_folder_writable(out.parent)  # before Keras is imported
    made = make_release(
        open_run(run),
        out,
        storage="float16" if storage == "float16" else "float32",
        views=views,
        phases=phases,
        note=note,
        known_ids=known_ids,
        max_bytes=round(1e6 * max_megabytes),
        progress=not as_json,
    )
    summary = read_json(made.folder / RELEASE_NAME)
    if as_json:
        print_json({"folder": str(made.folder), **summary})
        return
    size = sum(path.stat().st_size for path in made.folder.iterdir())
    mae = summary["val_mae_months"]
    typer.echo(
        f"{made.folder}: {size / 1e6:.2f} MB; validation MAE {mae['as_trained']:.3f} months as "
        f"trained, {mae['as_released']:.3f} as released"
    )
