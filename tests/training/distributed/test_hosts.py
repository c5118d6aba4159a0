"""Who trains together, as it is said on the command line or by a launcher's variables."""

import pytest

from boneage.errors import InputError
from boneage.training.distributed.hosts import Hosts, find_hosts, node_names

TWO = "a:29500,b:29500"
SLURM = {
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
}


def test_hosts_and_rank_say_it_all():
    hosts = find_hosts(TWO, 1, SLURM)
    assert hosts == Hosts("a:29500", 2, 1, ("a:29500", "b:29500"))
    assert not hosts.first
    assert hosts.name(1) == "process 1 (b:29500)"
    assert find_hosts(" a:1 , [::1]:2 ", 0, {}).names == ("a:1", "[::1]:2")


@pytest.mark.parametrize("variable", ["SLURM_PROCID", "JOB_COMPLETION_INDEX", "RANK"])
def test_the_rank_may_come_from_the_launcher(variable):
    assert find_hosts(TWO, None, {variable: "1"}).rank == 1


def test_slurm_s_step_is_enough():
    hosts = find_hosts(None, None, SLURM)
    assert hosts == Hosts(f"gpu07:{61440 + 5000 - 4096}", 2, 1, ("gpu07", "gpu08"))


def test_a_batch_script_of_slurm_is_one_process():
    job = {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
    assert find_hosts(None, None, job) is None


def test_several_tasks_on_a_node_are_told_apart_by_number_alone():
    hosts = find_hosts(None, None, SLURM | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"})
    assert (hosts.count, hosts.rank, hosts.name(3)) == (4, 3, "process 3")
    assert hosts.name(0) == "process 0 (gpu07:62344)"


def test_the_variables_of_torchrun_and_of_its_operators():
    told = {"MASTER_ADDR": "first", "MASTER_PORT": "1234", "WORLD_SIZE": "3", "RANK": "2"}
    assert find_hosts(None, None, told) == Hosts("first:1234", 3, 2)
    index = {"MASTER_ADDR": "job-0.job", "WORLD_SIZE": "3", "JOB_COMPLETION_INDEX": "1"}
    assert find_hosts(None, None, index) == Hosts("job-0.job:29500", 3, 1)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "3"},
        {"JOB_COMPLETION_INDEX": "3"},
        {"MASTER_ADDR": "a", "WORLD_SIZE": "1", "RANK": "0"},
        SLURM | {"SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_whoever_is_alone_trains_alone(environment):
    assert find_hosts(None, None, environment) is None


def test_none_and_a_single_host_train_alone():
    assert find_hosts("none", None, SLURM) is None
    assert find_hosts("a:1", 0, SLURM) is None


@pytest.mark.parametrize(
    ("addresses", "rank", "environment", "message"),
    [
        ("a,b:2", 0, {}, r"--hosts: 'a' has no port; expected host:port,host:port"),
        ("a:x,b:2", 0, {}, r"--hosts: 'x' is no port"),
        ("a:70000,b:2", 0, {}, r"--hosts: '70000' is no port"),
        ("a:1,b:1,a:1", 0, {}, r"--hosts: a:1 stands in it twice"),
        (TWO, 2, {}, r"--rank 2: there are 2 hosts; expected 0 to 1"),
        (TWO, -1, {}, r"--rank -1: there are 2 hosts"),
        (TWO, None, {"RANK": "5"}, r"RANK 5: there are 2 hosts"),
        (TWO, None, {}, r"--hosts: there is no --rank beside it"),
        (None, 1, {}, r"--rank 1: there are no --hosts beside it"),
        (None, None, SLURM | {"SLURM_PROCID": "2"}, r"SLURM_PROCID 2: there are 2 processes"),
        (None, None, {"MASTER_ADDR": "a", "WORLD_SIZE": "2"}, r"RANK: it is not set"),
        (None, None, {"MASTER_ADDR": "a", "WORLD_SIZE": "two"}, r"WORLD_SIZE: it is 'two'"),
    ],
)
def test_what_is_wrong_is_told(addresses, rank, environment, message):
    with pytest.raises(InputError, match=message):
        find_hosts(addresses, rank, environment)


def test_every_fault_at_once():
    with pytest.raises(InputError) as refused:
        find_hosts("a,b:1,b:1", 7, {})
    assert len(refused.value.faults) == 3


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("login", ["login"]),
        ("n1,n2", ["n1", "n2"]),
        ("gpu[08-10,12],login1", ["gpu08", "gpu09", "gpu10", "gpu12", "login1"]),
        ("n[1-2].cluster", ["n1.cluster", "n2.cluster"]),
    ],
)
def test_slurm_s_lists_of_nodes(nodes, names):
    assert node_names(nodes) == names
