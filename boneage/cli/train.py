"""`boneage train` and `reproduce`: train and evaluate a recipe, or repeat a published number."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boneage.cli.output import (
    RECIPE_HELP,
    DeterministicOption,
    GpuOption,
    JsonOption,
    RecipeSeedOption,
    SetOption,
    echo,
    format_table,
    log,
    print_json,
    refuse,
    verdict,
    warn_if_lost,
)

if TYPE_CHECKING:
    from boneage.datasets.manifest import Manifest
    from boneage.recipe import Recipe
    from boneage.run import Run
    from boneage.training.hosts import Hosts
    from boneage.training.stop_signals import Stop

SLOW_BFLOAT16 = (
    "note: the recipe computes in bfloat16. This processor only emulates bfloat16, ten times "
    "slower. To train the same network faster, add --set training.precision=float32."
)
NOT_WITH_RESUME = "it can't be combined with --out or --init: the run already has them"
HostsOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT,…",
        envvar="BONEAGE_HOSTS",
        help="Hosts that train together (JAX backend), or none to ignore the launcher's variables.",
    ),
]
RankOption = Annotated[
    int | None, typer.Option(help="Position of this host in --hosts, from 0. Host 0 writes.")
]


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help=f"{RECIPE_HELP} Not with --resume.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Manifest, CSV. Default: the recipe's phantom cohort.")
    ] = None,
    seed: RecipeSeedOption = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make. Default: a new folder below runs/.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Interrupted run to continue.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run or shipped model to fine-tune.")
    ] = None,
    test: Annotated[
        bool,
        typer.Option(
            "--test/--no-test",
            help="Score the test split too. --no-test is for trainings that are compared: the "
            "validation chooses, and `boneage evaluate RUN` scores the chosen one.",
        ),
    ] = True,
    hosts: HostsOption = None,
    rank: RankOption = None,
    require_gpu: GpuOption = False,
    deterministic: DeterministicOption = False,
) -> None:
    """Train a recipe, evaluate the model and write the report.

    Ctrl-C and SIGTERM stop the training after a batch. --resume then gives the same result as an
    uninterrupted run.
    """
    if deterministic:
        _make_deterministic()  # before TensorFlow and XLA are imported
    from boneage.prediction.shipped import open_run
    from boneage.runtime.cpu_settings import keep_freed_memory
    from boneage.training.hosts import find_hosts
    from boneage.training.input_checks import check_inputs
    from boneage.training.stop_signals import Stop, Terminated

    if resume is not None and (out is not None or init is not None):
        refuse("--resume", NOT_WITH_RESUME)
    keep_freed_memory()
    together = find_hosts(hosts, rank, os.environ)
    if together and not (resume or out):
        refuse("--hosts", "--out is missing", "Name a folder that all hosts see: --out RUN.")
    stop = Stop()
    folder = resume or out
    with stop.listening():
        try:
            begin = None if init is None else open_run(init)
            resolved, manifest = _read_inputs(resume, recipe, data, seed, overrides or ())
            folder = folder or _new_run_folder(resolved)
            if together is None:  # several hosts check after they have connected
                check_inputs(resolved, manifest, folder, init=begin, resume=resume is not None)
            warn_if_lost(folder)
            _train_and_evaluate(
                resolved,
                _phantom_manifest(resolved) if manifest is None else manifest,
                folder,
                init=begin,
                resume=resume is not None,
                stop=stop,
                hosts=together,
                require_gpu=require_gpu,
                splits=("val", "test") if test else ("val",),
            )
        except (KeyboardInterrupt, Terminated) as ended:
            what = "terminated" if isinstance(ended, Terminated) else "interrupted"
            _log_how_to_continue(what, folder, deterministic)
            raise  # Typer exits with 130, `main` with 143


def reproduce(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)],
    data: Annotated[
        Path, typer.Option(help="Unpacked RSNA set (official or Kaggle's), or a manifest.")
    ],
    out: Annotated[Path | None, typer.Option(help="Run folder. Name it again to continue.")] = None,
    published_answers: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Table with the published answer for each image, for the paired comparison. Its "
            "address is in the recipe. May be repeated.",
        ),
    ] = None,
    seed: RecipeSeedOption = None,
    overrides: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the data and the estimated cost, then stop.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Reproduce a published number and compare the errors.

    With the published answers, the verdict is that of paired differences: our MAE is not inferior
    if it is less than 0.5 months above the published one, with 95 % confidence (one-sided). Without
    them, two intervals are compared, which is the weaker way.

    The steps are import, check, train, evaluate and compare. Hours and disk space are estimated
    first. To continue after an interruption, repeat the command.
    """
    from boneage.evaluation.published import TITLES, explain_rows, table_cells
    from boneage.recipe import find_recipe
    from boneage.runtime.cpu_settings import keep_freed_memory
    from boneage.training.series import reproduction
    from boneage.training.stop_signals import Stop, Terminated

    keep_freed_memory()
    path = find_recipe(recipe)
    resolved = reproduction.read_published_recipe(path, overrides or (), seed=seed)
    folder = out or _runs_folder() / f"{resolved.name}-seed{resolved.seed}"
    stop = Stop()
    options = {"progress": not as_json, "dry_run": dry_run}
    answers = published_answers or ()
    if not dry_run:
        warn_if_lost(folder)
    with stop.listening():
        try:
            document = reproduction.reproduce(
                resolved, path, data, folder, log=log, answers=answers, stop=stop, **options
            )
        except KeyboardInterrupt:
            log("interrupted. Repeat the command to continue.")
            raise  # Typer exits with 130
        except Terminated:
            log("terminated. Repeat the command to continue.")
            raise  # `main` exits with 143
    if as_json:
        print_json(document)
        return
    rows = document["rows"]
    typer.echo("\n".join([format_table(TITLES, table_cells(rows)), *explain_rows(rows)]))
    for name, file in document.get("files", {}).items():
        echo(f"{name}: {file}")


def _read_inputs(
    resume: Path | None,
    name: str | None,
    data: Path | None,
    seed: int | None,
    overrides: Sequence[str],
) -> tuple[Recipe, Manifest | None]:
    """Return the recipe and the manifest; None for phantoms, which are drawn later.

    Those of a run to resume are replaced by what is given, to be compared.
    """
    from boneage.datasets.manifest import read_manifest
    from boneage.evaluation.scoring import run_manifest
    from boneage.recipe import find_recipe, read_recipe
    from boneage.run import Run

    if resume is not None:
        run = Run(resume)
        if not run.is_started:
            refuse(
                f"--resume {resume}",
                "it holds no run.json, so it is no run folder",
                "Check the path, or start a new run with --out.",
            )
        asked = name is not None or seed is not None or bool(overrides)
        given = run.recipe_path if name is None else find_recipe(name)
        recipe = read_recipe(given, overrides, seed=seed) if asked else run.read_recipe()
        return recipe, run_manifest(run) if data is None else read_manifest(data)
    if name is None:
        refuse("boneage train", "the recipe is missing", "Name a RECIPE, or --resume RUN.")
    path = find_recipe(name)
    recipe = read_recipe(path, overrides, seed=seed)
    if data is not None:  # then the phantom cohort is not used
        return recipe.model_copy(update={"phantom": None}), read_manifest(data)
    if recipe.phantom is None:
        refuse(
            str(path),
            "this recipe has no [phantom] cohort, and --data is missing",
            "Name a manifest: --data MANIFEST. `boneage data import` makes one.",
        )
    return recipe, None


def _train_and_evaluate(
    recipe: Recipe,
    manifest: Manifest,
    folder: Path,
    *,
    init: Run | None,
    resume: bool,
    stop: Stop,
    hosts: Hosts | None,
    require_gpu: bool,
    splits: Sequence[str],
) -> None:
    from boneage.evaluation.familiarity import fit_familiarity
    from boneage.evaluation.report import write_report
    from boneage.evaluation.result import write_result
    from boneage.evaluation.scoring import evaluate_run, impossible_answers
    from boneage.models.backbones import backbone_notes
    from boneage.runtime.provenance import lacks_bfloat16
    from boneage.training.distributed import accelerator
    from boneage.training.trainer import train as run_training

    for note in backbone_notes(recipe.model.backbone):
        log(note)
    bfloat16 = recipe.training.precision == "mixed_bfloat16" and lacks_bfloat16()
    if bfloat16 and hosts is None and accelerator() is None:  # several hosts connect first
        log(SLOW_BFLOAT16)
    run = run_training(
        recipe,
        manifest,
        folder,
        init=init,
        resume=resume,
        stop=stop,
        hosts=hosts,
        require_gpu=require_gpu,
    )
    if hosts is not None and not hosts.is_first:
        return
    metrics: dict[str, Any] | None = None
    for name in splits:
        if (manifest.table["split"] == name).any():
            metrics = evaluate_run(run, split=name)
            if (fault := impossible_answers(run.best_path, metrics)) is not None:
                log(f"warning: {fault}")
    assert metrics is not None  # every manifest has a val split
    fit_familiarity(run, manifest)
    write_result(run)
    report = write_report(run)
    typer.echo(verdict(metrics))
    echo(f"report: {report}")


def _make_deterministic() -> None:
    os.environ["TF_DETERMINISTIC_OPS"] = "1"
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def _log_how_to_continue(event: str, folder: Path | None, deterministic: bool) -> None:
    if folder is None or not folder.exists():  # a run without one finished batch is removed
        log(f"{event} before the first checkpoint")
        return
    options = " --deterministic" if deterministic else ""
    log(f"{event}; to continue: boneage train --resume {folder}{options}")


def _phantom_manifest(recipe: Recipe) -> Manifest:
    from boneage.datasets.phantom.cohort import DRAWING_VERSION, make_phantom_cohort
    from boneage.runtime.files import cache_folder

    settings = recipe.phantom
    assert settings is not None  # `_read_inputs` refuses a recipe without phantoms
    cache = cache_folder()
    nearest = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        what = f"the phantoms can't be kept there: {nearest} is not writable"
        refuse(str(cache), what, "Set BONEAGE_CACHE to a folder that you may write to.")
    drawing = f"phantom{DRAWING_VERSION}-{settings.count}-{settings.seed}-{settings.size}px"
    return make_phantom_cohort(cache / drawing, **settings.model_dump())


def _new_run_folder(recipe: Recipe) -> Path:
    started = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return _runs_folder() / f"{recipe.name}-seed{recipe.seed}-{started}"


def _runs_folder() -> Path:
    return Path(os.environ.get("BONEAGE_RUNS") or "runs")
