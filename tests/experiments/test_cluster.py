"""The examples for Slurm and Kubernetes: what they start, and what they do when it is cut off."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from boneage.training.distributed.hosts import find_hosts

CLUSTER = Path(__file__).parents[2] / "experiments" / "cluster"
SERVICE, JOB = yaml.safe_load_all((CLUSTER / "job.yaml").read_text())
POD = JOB["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
VARIABLES = {one["name"]: one["value"] for one in CONTAINER["env"]}

# Stands in for boneage: notes how it was called, and writes a run that ends as it is told to.
BONEAGE = """#!/bin/bash
echo "$*" >> "$CALLS"
mkdir -p "$RUN"
trap 'echo told >> "$CALLS"; exit 0' TERM
echo "{\\"stopped\\": \\"$STOPPED\\"}" > "$RUN/run.json"
if [[ $STOPPED =~ finished|early ]] && [ -z "${CUT:-}" ]; then touch "$RUN/report.html"; fi
if [ -n "${SLEEP:-}" ]; then for _ in {1..600}; do sleep 0.05; done; fi
exit "${CODE:-0}"
"""
SRUN = """#!/bin/bash
echo "srun $1 $2" >> "$CALLS"
shift 2
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$CALLS"
"""
# What bash reads first, as BASH_ENV; it has no effect on boneage, which is bash here too.
SLOW = "[[ $0 == */boneage ]] || trap 'sleep 0.1' DEBUG"
TOLD_AT_ONCE = "[[ $0 == */boneage ]] || trap '[[ $BASH_COMMAND != set* ]] || kill $$' DEBUG"


@pytest.fixture
def bench(tmp_path):
    """Commands that stand in for the real ones, and what was called."""
    (tmp_path / "bin").mkdir()
    for name, text in {"boneage": BONEAGE, "srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {
        **os.environ,
        **VARIABLES,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "RUN": str(tmp_path / "run"),
        "SLURM_JOB_ID": "7",
        "JOB_COMPLETION_INDEX": "0",
    }

    def begin(command, **variables):
        return subprocess.Popen(command, env=environment | variables)

    def calls():
        return (tmp_path / "calls").read_text().splitlines()

    return begin, calls, tmp_path / "run"


POD_COMMAND = [*CONTAINER["command"], *CONTAINER["args"]]
SLURM_COMMAND = ["bash", str(CLUSTER / "train.slurm"), "--set", "training.epochs=1"]


def test_the_pods_find_one_another_by_their_names():
    name, service = JOB["metadata"]["name"], SERVICE["metadata"]["name"]
    assert POD["subdomain"] == service
    assert SERVICE["spec"]["clusterIP"] == "None"
    assert SERVICE["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert JOB["spec"]["completionMode"] == "Indexed"
    count = JOB["spec"]["completions"]
    assert count == JOB["spec"]["parallelism"]
    for index in range(count):
        told = {"JOB_COMPLETION_INDEX": str(index)}
        hosts = find_hosts(VARIABLES["BONEAGE_HOSTS"], None, told)
        assert (hosts.rank, hosts.count) == (index, count)
        assert hosts.names[index] == f"{name}-{index}.{service}:29500"


def test_what_the_pods_name_is_there():
    recipe = CLUSTER.parent.parent / VARIABLES["RECIPE"]
    assert recipe.exists()
    assert f"batch_size = {3 * JOB['spec']['completions']}" in recipe.read_text()
    mounts = {mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert mounts == {volume["name"] for volume in POD["volumes"]}
    assert POD["restartPolicy"] == "OnFailure"
    assert VARIABLES["KERAS_BACKEND"] == "jax"


@pytest.mark.parametrize(
    ("stopped", "code", "expected"),
    [
        ("finished", "0", 0),
        ("early", "0", 0),
        ("terminated", "0", 75),
        ("running", "143", 75),  # told before it listened
        ("running", "2", 2),
    ],
)
def test_a_pod_is_done_when_the_training_is(bench, stopped, code, expected):
    begin, calls, run = bench
    assert begin(POD_COMMAND, STOPPED=stopped, CODE=code).wait(20) == expected
    assert begin(POD_COMMAND, STOPPED="finished").wait(20) == 0
    first = f"train {VARIABLES['RECIPE']} --data /data/manifest.csv --out {run} --require-gpu"
    assert calls() == [first, f"train --resume {run} --require-gpu"]


def test_only_the_first_pod_waits_for_the_report(bench):
    begin, _, _ = bench
    cut_off_in_the_evaluation = {"STOPPED": "finished", "CUT": "yes"}
    for index, expected in (("0", 75), ("1", 0)):
        variables = cut_off_in_the_evaluation | {"JOB_COMPLETION_INDEX": index}
        assert begin(POD_COMMAND, **variables).wait(20) == expected


@pytest.mark.parametrize("shell", ["", SLOW], ids=["quick", "slow"])
def test_a_pod_hands_sigterm_on_once_and_waits(bench, shell):
    begin, calls, run = bench
    (run.parent / "first.sh").write_text(shell)
    process = begin(
        POD_COMMAND, STOPPED="terminated", SLEEP="yes", BASH_ENV=str(run.parent / "first.sh")
    )
    deadline = time.monotonic() + 20
    while not (run / "run.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert calls()[1:] == ["told"]


def test_a_pod_that_is_told_before_the_training_has_begun_comes_again(bench):
    begin, _, run = bench
    (run.parent / "first.sh").write_text(TOLD_AT_ONCE)
    process = begin(POD_COMMAND, STOPPED="finished", BASH_ENV=str(run.parent / "first.sh"))
    assert process.wait(20) == 75
    assert not (run.parent / "calls").exists()


def test_slurm_s_job_begins_goes_on_and_comes_again(bench):
    begin, calls, run = bench
    given = {"RECIPE": "recipe.toml", "DATA": "manifest.csv"}
    assert begin(SLURM_COMMAND, STOPPED="terminated", **given).wait(20) == 0
    assert begin(SLURM_COMMAND, STOPPED="finished", CUT="yes", **given).wait(20) == 0
    assert begin(SLURM_COMMAND, STOPPED="finished", **given).wait(20) == 0
    step = "srun --label --kill-on-bad-exit=1"
    first = f"train recipe.toml --data manifest.csv --out {run} --set training.epochs=1"
    assert calls() == [
        *(step, f"{first} --require-gpu", "scontrol requeue 7"),
        *(step, f"train --resume {run} --require-gpu", "scontrol requeue 7"),
        *(step, f"train --resume {run} --require-gpu"),
    ]
    assert begin(SLURM_COMMAND, STOPPED="running", CODE="2", **given).wait(20) == 2
    assert json.loads((run / "run.json").read_text()) == {"stopped": "running"}


def test_slurm_s_job_says_what_it_lacks(bench, capfd):
    begin, _, _ = bench
    assert begin(SLURM_COMMAND, RECIPE="").wait(20) == 1
    assert "the recipe, TOML" in capfd.readouterr().err
