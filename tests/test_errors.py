import pickle

from boneage.errors import Fault, InputError, printable, utf8

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


def test_a_message_holds_no_commands_to_the_terminal():
    where = "red\x1b[31m\n\x9b2J\u202e\udcff\ud800.png"
    assert str(Fault(where, "it is 7", "Check it.")) == (
        r"red\x1b[31m\n\x9b2J\u202e\xff\ud800.png: it is 7. Check it."
    )
    assert utf8(where) == "red\x1b[31m\n\x9b2J\u202e\\xff\\ud800.png"
    for name in ("plain.png", "Ä ö日本\u202f.png", "ñ"):
        assert printable(name) == utf8(name) == name
