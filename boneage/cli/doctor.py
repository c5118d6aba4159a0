"""`boneage doctor`: check that this machine can train and answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boneage.cli.output import JsonOption, print_json
from boneage.errors import InputError, printable

if TYPE_CHECKING:
    from boneage.runtime.doctor import Finding, Machine

CHECK_SECONDS = 20.0
TRIAL_SECONDS = 180.0  # TensorFlow may compile its kernels for a new card first
_COLOURS = {"ok": "green", "warning": "yellow", "fault": "red"}
_NAME_WIDTH = 21
_INDENT = " " * (9 + _NAME_WIDTH)

GpuOption = Annotated[
    bool, typer.Option("--require-gpu", help="Make it a fault if Keras does not use the GPU.")
]


def doctor(as_json: JsonOption = False, require_gpu: GpuOption = False) -> None:
    """Check that this machine can train and answer; name a remedy for what is wrong.

    It takes some seconds, because Keras starts and computes. No network is used. The JSON holds no
    paths, and no names of hosts or users. Paste it into a bug report.

    Exit code 0: no fault, perhaps warnings. 2: a fault.
    """
    from boneage.runtime.doctor import FAULT, WARNING
    from boneage.runtime.extras import has_package

    findings = []
    for name, finding in _findings(require_gpu=require_gpu):
        findings.append((name, finding))
        if not as_json:
            _show(name, finding)
    states = [finding.state for _, finding in findings]
    faults, warnings = states.count(FAULT), states.count(WARNING)
    if as_json:
        keys = ("state", "found", "remedy")
        rows = [{"name": n, **{key: getattr(f, key) for key in keys}} for n, f in findings]
        print_json({"ok": not faults, "checks": rows})
    else:
        counts = f"{_count(faults, 'fault')}, {_count(warnings, 'warning').lower()}"
        able = f"This machine can {'train' if has_package('keras') else 'answer'}."
        end = "Start with the first fault: it may explain others." if faults else able
        typer.echo(f"\n{counts} in {len(findings)} checks. {end}")
    if faults:
        raise typer.Exit(2)


def _count(number: int, word: str) -> str:
    return f"{number or 'No'} {word}{'' if number == 1 else 's'}"


def _findings(*, require_gpu: bool) -> Iterator[tuple[str, Finding]]:
    """Make every check; leave out those that don't apply here."""
    from boneage.runtime import doctor as checks
    from boneage.runtime.files import cache_folder

    runs = Path(os.environ.get("BONEAGE_RUNS") or "runs")
    machine = checks.Machine(require_gpu, runs, cache_folder())
    every: dict[str, Callable[[Machine], Finding | None]] = {
        "python": checks.check_python,
        "backend": checks.check_backend,
        "device": _try_device,
        "driver": checks.check_driver,
        "compute capability": checks.check_compute,
        "LD_LIBRARY_PATH": checks.check_library_path,
        "ptxas and libdevice": checks.check_compiler,
        "cuDNN": checks.check_cudnn,
        "GPU memory": checks.check_gpu_memory,
        "other copies": checks.check_copies,
        "bfloat16": checks.check_bfloat16,
        "decoders": _try_decoders,
        "cores": checks.check_cores,
        "memory": checks.check_memory,
        "shared memory": checks.check_shared_memory,
        "disk": checks.check_disk,
        "write rights": checks.check_rights,
        "ImageNet weights": _check_imagenet,
        "shipped models": _check_shipped,
        "clock": checks.check_clock,
        "network": checks.check_network,
    }
    for name, check in every.items():
        seconds = TRIAL_SECONDS + CHECK_SECONDS if name == "device" else CHECK_SECONDS
        if (finding := checks.isolated(partial(check, machine), seconds)) is not None:
            yield name, finding


def _show(name: str, finding: Finding) -> None:
    """Print a row of the table, and below it the names and the remedy."""
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    colour = None if "NO_COLOR" not in os.environ else False
    state = typer.style(f"{finding.state:<7}", fg=_COLOURS[finding.state], bold=True)
    texts = [finding.found]
    if finding.private:
        texts.append(f"({finding.private})")
    if finding.remedy:
        texts.append(f"-> {finding.remedy}")
    lines = [
        line
        for text in texts
        for line in textwrap.wrap(printable(text), max(40, width - len(_INDENT)))
    ]
    first, *rest = lines or [""]
    typer.echo(f"{state}  {name:<{_NAME_WIDTH}}{first}", color=colour)
    for line in rest:
        typer.echo(_INDENT + line)


def _try_device(machine: Machine) -> Finding | None:
    """Let Keras compute in a process of its own, which may crash or hang."""
    from boneage.runtime import doctor as checks
    from boneage.runtime.extras import has_package
    from boneage.runtime.nvidia import kernel_fault

    if not has_package("keras"):
        return None
    if kernel_fault(machine.cards) is not None:
        return checks.Finding(
            checks.WARNING, "not tried on this GPU", "See compute capability below."
        )
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "1",  # the names of libraries that can't be loaded
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-P", "-m", "boneage.training.device_trial"]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace",
            timeout=TRIAL_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return checks.check_device(machine, f"no result within {TRIAL_SECONDS:g} seconds", "")
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        reason = without_paths(said[-1]) if said else f"it ended with code {done.returncode}"
        return checks.check_device(machine, f"{reason:.200}", " ".join(said[-3:])[:1000])
    machine.trial = json.loads(done.stdout.splitlines()[-1])
    libraries = re.findall(r"\blib\w+\.so[.\d]*", done.stderr)
    return checks.check_device(machine, "", ", ".join(dict.fromkeys(libraries)))


def without_paths(text: str) -> str:
    """Return a text in which only the last part of each path is left."""
    return re.sub(r"(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'\",:;()]+)+[/\\]", ".../", text)


def _try_decoders(_: Machine) -> Finding:
    """Decode a tiny file of each kind."""
    from boneage.radiographs.decoders import NEED_GDCM, try_decoders
    from boneage.runtime.doctor import FAULT, OK, Finding
    from boneage.runtime.extras import install_command

    found = try_decoders()
    if faulty := {name: what for name, what in found.items() if what}:
        what = "; ".join(f"{name}: {what}" for name, what in faulty.items())
        fix = "Install simplejpeg, pillow, pydicom and python-gdcm again, each from its wheel."
        return Finding(FAULT, what, fix)
    text = f"{', '.join(found)}"
    if absent := [name for name in NEED_GDCM if name not in found]:
        text += f"; {' and '.join(absent)} in DICOM need {install_command('gdcm')}"
    return Finding(OK, text)


def _check_imagenet(_: Machine) -> Finding:
    """Compare the files of ImageNet weights with their digests; none is needed."""
    from boneage.models.pretrained import IMAGENET, find_weights, imagenet_path
    from boneage.runtime.doctor import FAULT, OK, Finding

    right, wrong = [], []
    for backbone in IMAGENET:
        if imagenet_path(backbone).is_file():
            try:
                find_weights(backbone, "imagenet", None)
                right.append(backbone)
            except InputError:
                wrong.append(backbone)
    if wrong:
        names = ", ".join(IMAGENET[each].name for each in wrong)
        paths = ", ".join(str(imagenet_path(each)) for each in wrong)
        fix = "Remove these files, or download them again."
        return Finding(FAULT, f"{names}: damaged, or another file (its digest differs)", fix, paths)
    if not right:
        return Finding(OK, "none (only recipes with model.weights = imagenet need them)")
    return Finding(OK, f"{', '.join(right)}: right digest")


def _check_shipped(_: Machine) -> Finding:
    """Compare the shipped models with their checksums."""
    from boneage.prediction.shipped import check_release, shipped_models
    from boneage.runtime.doctor import FAULT, OK, Finding

    models, broken = shipped_models(), {}
    for name, folder in models.items():
        try:
            check_release(folder)
        except InputError as error:
            broken[name] = ", ".join(Path(fault.where).name for fault in error.faults)
    fix = "Install boneage again."
    if broken:
        found = "; ".join(
            f"{name}: {files} is missing or changed" for name, files in broken.items()
        )
        return Finding(FAULT, found, fix)
    if not models:
        return Finding(FAULT, "none", fix)
    return Finding(OK, f"{', '.join(models)}: whole")
