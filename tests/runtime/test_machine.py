import pytest

from boneage.errors import InputError
from boneage.runtime import machine
from boneage.runtime.machine import check_disk, check_memory, check_workers, usable_memory


@pytest.fixture
def four_cores(monkeypatch):
    """A machine of four cores and eight gigabytes."""
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    monkeypatch.setattr(machine, "usable_memory", lambda: 8 * 10**9)


def test_memory_is_known_and_no_more_than_that_of_the_machine():
    memory = usable_memory()
    assert memory is None or 10**8 < memory < 10**15


@pytest.mark.usefixtures("four_cores")
def test_any_sensible_number_of_workers_is_allowed_and_no_other():
    for workers in (1, 4, 16):
        check_workers(workers, "training.workers")
    with pytest.raises(InputError, match="workers: it is 100,000, and this machine has 4"):
        check_workers(100_000, "training.workers")
    with pytest.raises(InputError, match="Set at most 16. The best number is 4"):
        check_workers(17, "training.workers")


@pytest.mark.usefixtures("four_cores")
def test_workers_need_memory_too(monkeypatch):
    monkeypatch.setattr(machine, "usable_memory", lambda: 2 * 10**9)
    with pytest.raises(InputError, match=r"has 2\.0 GB of memory\. Set at most 9"):
        check_workers(10, "training.workers")
    monkeypatch.setattr(machine, "usable_memory", lambda: None)
    check_workers(16, "training.workers")


@pytest.mark.usefixtures("four_cores")
def test_what_needs_more_memory_or_disk_than_there_is_is_refused(tmp_path):
    check_memory(8 * 10**9, "model", "a network", "Shrink it.")
    with pytest.raises(InputError, match=r"model: a network needs 9\.0 GB .* has 8\.0 GB\. Shrink"):
        check_memory(9 * 10**9, "model", "a network", "Shrink it.")
    check_disk(tmp_path / "new" / "folder", 1, "Free some space.")
    with pytest.raises(InputError, match=r"but 1\.0 EB are needed\. Free some space"):
        check_disk(tmp_path / "new" / "folder", 10**18, "Free some space.")
