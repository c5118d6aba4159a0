"""Which processes train together, from the command line or from a launcher's variables."""

import sys
from types import SimpleNamespace

import pytest

from boneage.errors import InputError
from boneage.training.hosts import Hosts, find_hosts

TWO = "a:29500,b:29500"
SLURM = {
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
}
JAX = {
    "JAX_COORDINATOR_ADDRESS": "first:1234",
    "JAX_NUM_PROCESSES": "3",
    "JAX_PROCESS_ID": "2",
}
KERAS = {
    "KERAS_DISTRIBUTION_JOB_ADDRESSES": "first:1234,second:2345",
    "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    "KERAS_DISTRIBUTION_PROCESS_ID": "1",
}
TORCHRUN = {"MASTER_ADDR": "first", "MASTER_PORT": "1234", "WORLD_SIZE": "3", "RANK": "2"}


def test_hosts_and_rank_decide_whatever_the_launcher_says():
    hosts = find_hosts(TWO, 1, SLURM)
    assert (hosts, hosts.is_first) == (Hosts("a:29500", 2, 1), False)
    assert find_hosts(" a:1 , [::1]:2 ", 0, {}).is_first
    for variable in ("JAX_PROCESS_ID", "SLURM_PROCID", "JOB_COMPLETION_INDEX", "RANK"):
        assert find_hosts(TWO, None, {variable: "1"}).rank == 1


@pytest.mark.parametrize(
    ("environment", "hosts"),
    [
        (JAX, Hosts("first:1234", 3, 2)),
        (JAX | {"JAX_COORDINATOR_ADDRESS": "first"}, Hosts("first:29500", 3, 2)),
        (KERAS, Hosts("first:1234", 2, 1)),
        (KERAS | {"KERAS_DISTRIBUTION_JOB_ADDRESSES": "first:1"}, Hosts("first:1", 2, 1)),
        (TORCHRUN, Hosts("first:1234", 3, 2)),
        (
            {"MASTER_ADDR": "job-0.job", "WORLD_SIZE": "3", "JOB_COMPLETION_INDEX": "1"},
            Hosts("job-0.job:29500", 3, 1),
        ),
        (SLURM, Hosts("gpu07:62344", 2, 1)),
        (SLURM | {"SLURM_STEP_NODELIST": "n1,n2"}, Hosts("n1:62344", 2, 1)),
        (SLURM | {"SLURM_STEP_NODELIST": "n[1-2].cluster"}, Hosts("n1.cluster:62344", 2, 1)),
        (SLURM | {"SLURM_STEP_NODELIST": "gpu[08,12],login1"}, Hosts("gpu08:62344", 2, 1)),
    ],
)
def test_the_variables_of_a_launcher_are_enough(environment, hosts):
    assert find_hosts(None, None, environment) == hosts


@pytest.mark.parametrize(
    ("addresses", "environment"),
    [
        (None, {}),
        (None, {"RANK": "3"}),
        (None, {"JOB_COMPLETION_INDEX": "3"}),
        (None, {"MASTER_ADDR": "a", "WORLD_SIZE": "1", "RANK": "0"}),
        (None, SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}),
        (None, {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}),  # a batch script
        ("none", SLURM),
        ("a:1", {"RANK": "0"}),
    ],
)
def test_a_single_process_trains_alone(addresses, environment):
    assert find_hosts(addresses, None, environment) is None


@pytest.mark.parametrize(
    ("addresses", "rank", "environment", "message"),
    [
        ("a,b:2", 0, {}, r"--hosts: 'a' has no port"),
        ("a:x,b:2", 0, {}, r"--hosts: 'x' is not a port"),
        ("a:1,b:1,a:1", 0, {}, r"--hosts: a:1 occurs twice"),
        (TWO, 2, {}, r"--rank 2: there are 2 hosts. Number the hosts from 0 to 1"),
        (TWO, None, {"RANK": "5"}, r"RANK 5: there are 2 hosts"),
        (TWO, None, {}, r"--hosts: --rank is missing"),
        (None, 1, {}, r"--rank 1: --hosts is missing"),
        (None, None, SLURM | {"SLURM_PROCID": "2"}, r"SLURM_PROCID 2: there are 2 processes"),
        (None, None, JAX | {"JAX_PROCESS_ID": "3"}, r"JAX_PROCESS_ID 3: there are 3 processes"),
        (None, None, {"MASTER_ADDR": "a", "WORLD_SIZE": "2"}, r"RANK: it is not set"),
        (None, None, {"MASTER_ADDR": "a", "WORLD_SIZE": "two"}, r"WORLD_SIZE: 'two' is not"),
    ],
)
def test_a_wrong_host_or_rank_is_refused(addresses, rank, environment, message):
    with pytest.raises(InputError, match=message):
        find_hosts(addresses, rank, environment)


def test_all_faults_are_reported_at_once():
    with pytest.raises(InputError) as refused:
        find_hosts("a,b:1,b:70000,b:1", -1, {})
    assert len(refused.value.faults) == 4


@pytest.mark.parametrize("is_initialized", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_processes_that_jax_has_connected_are_used(monkeypatch, is_initialized, count):
    jax = SimpleNamespace(
        distributed=SimpleNamespace(is_initialized=lambda: is_initialized),
        process_count=lambda: count,
        process_index=lambda: 2,
    )
    monkeypatch.setitem(sys.modules, "jax", jax)
    connected = Hosts("", 3, 2) if is_initialized and count == 3 else None
    assert find_hosts(None, None, {}) == connected
    assert find_hosts(None, None, KERAS) == (connected or Hosts("first:1234", 2, 1))
    assert find_hosts("none", None, KERAS) is None
