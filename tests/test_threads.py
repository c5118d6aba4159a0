import time

import pytest

from boneage.threads import threads


def test_they_do_all_in_order():
    with threads(3) as pool:
        assert list(pool.map(str, range(50))) == [str(number) for number in range(50)]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_an_exception_while_work_is_handed_out_leaves_undone_what_is_not_begun(kind):
    begun, done, handed_out = [], [], []
    deadline = time.monotonic() + 5

    def work(number):
        begun.append(number)
        while not (len(handed_out) == 100 and handed_out[-1].cancelled()):
            if time.monotonic() > deadline:
                return
            time.sleep(0.005)
        done.append(number)

    def hand_out():
        with threads(2) as pool:
            handed_out.extend(pool.submit(work, number) for number in range(100))
            raise kind

    with pytest.raises(kind):
        hand_out()
    assert set(begun) <= {0, 1}
    assert sorted(done) == sorted(begun), "what was in hand is done before the block is left"
