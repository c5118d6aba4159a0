"""The examples for Slurm, Kubernetes and Ray are valid and name files that exist."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "experiments" / "cluster"


def job() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The service, the job and the container of job.yaml."""
    service, job = yaml.safe_load_all((CLUSTER / "job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return service, job, container


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("name", ["train.slurm", "sweep.slurm", "job.yaml"])
def test_a_shell_script_is_valid_bash(name):
    script = job()[2]["args"][0] if name == "job.yaml" else (CLUSTER / name).read_text()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.py")), ids=lambda path: path.name)
def test_a_python_script_is_valid(path):
    ast.parse(path.read_text())


def test_the_pods_know_each_other_and_mount_their_volumes():
    service, job_, container = job()
    pod = job_["spec"]["template"]["spec"]
    name, subdomain = job_["metadata"]["name"], service["metadata"]["name"]
    assert pod["subdomain"] == subdomain
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    count = job_["spec"]["completions"]
    assert count == job_["spec"]["parallelism"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    hosts = [f"{name}-{index}.{subdomain}:29500" for index in range(count)]
    assert variables["BONEAGE_HOSTS"].split(",") == hosts
    assert f"batch_size = {3 * count}" in (ROOT / variables["RECIPE"]).read_text()
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
