import pickle

from boneage.errors import Fault, InputError

FAULTS = (
    Fault("manifest.csv: row 17", "age_months is 14.1", "Pass --age-unit years.", "months"),
    Fault("b", "is wrong", "Correct it."),
)


def test_a_fault_says_where_what_and_how_to_fix_it():
    assert list(map(str, FAULTS)) == [
        "manifest.csv: row 17: age_months is 14.1; expected months. Pass --age-unit years.",
        "b: is wrong. Correct it.",
    ]


def test_an_input_error_holds_every_fault_in_order_and_can_be_pickled():
    error = pickle.loads(pickle.dumps(InputError(FAULTS)))
    assert error.faults == FAULTS
    assert str(error).splitlines() == list(map(str, FAULTS))
