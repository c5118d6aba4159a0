import pickle

from boneage.errors import Fault, InputError


def test_a_fault_says_where_what_expected_and_how_to_fix():
    fault = Fault(
        "manifest.csv: row 17", "age_months is 14.1", "Pass --age-unit years.", expected="months"
    )
    assert str(fault) == (
        "manifest.csv: row 17: age_months is 14.1; expected months. Pass --age-unit years."
    )


def test_an_input_error_holds_every_fault_in_order():
    faults = [
        Fault("a", "is wrong", "Mend it.", expected="right"),
        Fault("b", "too", "Mend it.", expected="right"),
    ]
    error = InputError(faults)
    assert error.faults == tuple(faults)
    assert str(error).splitlines() == [str(fault) for fault in faults]


def test_an_input_error_survives_the_way_from_a_worker_process():
    error = InputError(Fault("a", "is wrong", "Mend it.", expected="right"))
    assert pickle.loads(pickle.dumps(error)).faults == error.faults
