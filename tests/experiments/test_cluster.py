"""The examples for Slurm, Kubernetes and Ray run, with commands that the command line knows."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from boneage.cli.app import app
from boneage.recipe import find_recipe, read_recipe

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "experiments" / "cluster"

# In place of boneage, srun and scontrol: each writes a line of its arguments.
STAND_IN = """#!/bin/bash
printf '%s\\t' "${0##*/}" "$@" >>"$CALLS"
echo >>"$CALLS"
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
# In place of Ray, where it is not installed: every task runs in this process.
RAY = """
class Task:
    def __init__(self, function):
        self.remote = function
def remote(**resources):
    return Task
def init():
    pass
def get(tasks):
    return tasks
"""
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


class Cluster:
    """A folder with programs in place of those of a cluster, which record their calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls.txt"
        programs = folder / "bin"
        programs.mkdir()
        for name in ("boneage", "scontrol", "srun"):
            (programs / name).write_text(SRUN if name == "srun" else STAND_IN)
            (programs / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "CALLS": str(self.calls),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, *command: str | Path, **variables: str) -> tuple[int, list[list[str]]]:
        """Run a command. Returns its exit code and the calls that it made."""
        self.calls.write_text("")
        done = subprocess.run(command, env=self.environment | variables, check=False, timeout=400)
        calls = [line.split("\t")[:-1] for line in self.calls.read_text().splitlines()]
        for name, *arguments in calls:
            if name == "boneage":
                parse(arguments)
        return done.returncode, calls


def parse(arguments: list[str]) -> None:
    """Let the real command line read arguments; it exits if an option does not exist."""
    group: Any = typer.main.get_command(app)
    with group.make_context("boneage", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, list(arguments))
        values = command.make_context(name, rest, parent=context).params
    if name != "predict":
        assert find_recipe(values["recipe"]) if values["recipe"] else values["resume"]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def read_yaml(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


@needs_bash
def test_each_task_of_an_array_predicts_its_part(cluster):
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    code, (call,) = cluster.run("bash", CLUSTER / "predict.slurm", **task)
    assert (code, call[1:3], call[-2:]) == (0, ["predict", "rsna-best"], ["--shard", "3/8"])
    code, _ = cluster.run("bash", "-c", merge_command())
    assert code == 0


def merge_command() -> str:
    """The command in predict.slurm that puts the parts together; as many as the array has."""
    text = (CLUSTER / "predict.slurm").read_text()
    (line,) = (line for line in text.splitlines() if "--merge" in line and "boneage" in line)
    assert f"#SBATCH --array=1-{line.split()[-1]}\n" in text
    return line.removeprefix("#")


@needs_bash
def test_each_task_of_an_array_trains_its_run(cluster):
    code, (call,) = cluster.run("bash", CLUSTER / "sweep.slurm", SLURM_ARRAY_TASK_ID="4")
    assert (code, call[:2], call[-2:]) == (0, ["boneage", "sweep"], ["--only", "4"])
    other = [line for line in (CLUSTER / "sweep.slurm").read_text().splitlines() if "folds" in line]
    code, (call,) = cluster.run("bash", "-c", other[0].split("(")[1].rstrip(")"))
    assert call[1] == "cross-validate"


@needs_bash
def test_a_job_on_several_nodes_is_queued_again_until_it_has_a_report(cluster):
    run = cluster.folder / "run"
    variables = {"RECIPE": "rsna-xception", "DATA": "m.csv", "RUN": str(run), "SLURM_JOB_ID": "7"}
    code, calls = cluster.run("bash", CLUSTER / "train.slurm", **variables)
    assert (code, calls[0][1:3]) == (0, ["train", "rsna-xception"])
    assert calls[1:] == [["scontrol", "requeue", "7"]]
    run.mkdir()
    (run / "run.json").touch()
    (run / "report.html").touch()
    code, calls = cluster.run("bash", CLUSTER / "train.slurm", **variables)
    assert [call[1:3] for call in calls] == [["train", "--resume"]]


@needs_bash
@pytest.mark.parametrize("name", ["job.yaml", "trainjob.yaml"])
def test_a_pod_begins_a_run_or_continues_it(cluster, name):
    *_, job = read_yaml(name)
    if name == "job.yaml":
        (container,) = job["spec"]["template"]["spec"]["containers"]
        unfinished = 75  # so the pod starts again
    else:
        container, unfinished = job["spec"]["trainer"], 0
    variables = {each["name"]: each["value"] for each in container["env"]}
    variables |= {"RUN": str(cluster.folder / "rsna-xception"), "JOB_COMPLETION_INDEX": "0"}
    script = container["args"][0].replace("/runs/", f"{cluster.folder}/")
    command = [*container["command"], script]
    code, (call,) = cluster.run(*command, **variables)
    assert (code, call[1:3]) == (unfinished, ["train", "rsna-xception"])
    run = Path(variables["RUN"])
    run.mkdir()
    (run / "run.json").touch()
    (run / "report.html").touch()
    code, (call,) = cluster.run(*command, **variables)
    assert (code, call[1:4]) == (0, ["train", "--resume", str(run)])


def test_the_pods_of_a_job_know_each_other():
    service, job = read_yaml("job.yaml")
    spec, name = job["spec"], job["metadata"]["name"]
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert spec["completions"] == spec["parallelism"]
    (container,) = spec["template"]["spec"]["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    hosts = [f"{name}-{i}.{service['metadata']['name']}:29500" for i in range(spec["completions"])]
    assert variables["BONEAGE_HOSTS"].split(",") == hosts


def test_the_pods_divide_a_batch_and_mount_their_volumes():
    _, job = read_yaml("job.yaml")
    (train,) = read_yaml("trainjob.yaml")
    (patch,) = train["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    batch_size = read_recipe(find_recipe("rsna-xception"), ()).training.batch_size
    for pods, pod in (
        (job["spec"]["completions"], job["spec"]["template"]["spec"]),
        (train["spec"]["trainer"]["numNodes"], node["template"]["spec"]["template"]["spec"]),
    ):
        assert batch_size % pods == 0
        (container,) = pod["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.fixture(params=["a stand-in", pytest.param("ray", marks=pytest.mark.slow)])
def ray(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Variables with which a script imports a stand-in for Ray, or Ray where it is installed."""
    if request.param == "ray":
        if importlib.util.find_spec("ray") is None:
            pytest.skip("ray is not installed")
        return {"RAY_USAGE_STATS_ENABLED": "0"}
    (tmp_path / "ray.py").write_text(RAY)
    return {"PYTHONPATH": str(tmp_path)}


@needs_bash
@pytest.mark.parametrize(
    ("command", "tasks", "last"),
    [
        ("predict rsna-best archive --out a.csv", ["--shard 1/2", "--shard 2/2"], "--merge 2"),
        ("sweep phantom --data m.csv --seeds 0,1 --out s", ["--only 1", "--only 2"], "--table"),
    ],
)
def test_ray_runs_each_task_and_then_collects(cluster, ray, command, tasks, last):
    script = [sys.executable, CLUSTER / "tasks_ray.py", "--cpus", "1", "2"]
    code, calls = cluster.run(*script, "boneage", *command.split(), **ray)
    options = [" ".join(["", *call]).removeprefix(f" boneage {command} ") for call in calls]
    assert (code, sorted(options[:-1]), options[-1]) == (0, tasks, last)


@needs_bash
def test_ray_reports_that_a_run_has_failed(cluster, ray):
    (cluster.folder / "bin" / "boneage").write_text(
        "#!/bin/bash\n[[ $* != *'--only 2' ]] || exit 7\n"
    )
    script = [sys.executable, CLUSTER / "tasks_ray.py", "--cpus", "1", "2"]
    assert cluster.run(*script, "boneage", "sweep", **ray)[0] == 7


def test_the_page_s_commands_for_ray_are_known():
    page = (ROOT / "docs" / "how-to" / "several-machines.md").read_text().replace("\\\n", " ")
    commands = [line.split() for line in page.splitlines() if line.startswith("python ")]
    assert len(commands) == 2
    for command in commands:
        parse(command[command.index("boneage") + 1 :])
