import json

import pytest

from boneage.errors import InputError
from boneage.runtime.schemas import Count, FileSchema, Number, Text, read_checked, shown


class Inner(FileSchema):
    parameters: Count | None = None


class Outer(FileSchema):
    name: Text
    months: Number = 0.0
    model: Inner | None = None


def read(path, text, needs=()):
    path.write_text(text)
    return read_checked(path, Outer, needs)


def test_values_are_returned_as_in_the_file_with_unknown_keys(tmp_path):
    text = '{"name": "x", "months": 3, "later": [1]}'
    assert read(tmp_path / "f.json", text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "the key 'name' is missing"),
        ('{"name": 3}', "name is 3; expected a valid string"),
        ('{"name": "x", "months": "3"}', "months is '3'; expected a valid number"),
        ('{"name": "x", "months": NaN}', "months is nan; expected a finite number"),
        ('{"name": "x", "months": true}', "months is True"),
        ('{"name": "x", "model": []}', r"model is \[\]"),
        ('{"name": "x", "model": {"parameters": -1}}', "model.parameters is -1; expected"),
        ('{"name": "x", "model": {"parameters": 1e3}}', "model.parameters is 1000.0"),
        ('{"name": "%s"}' % ("x" * 20_000), "name is 'x+[.]{3}x+'; expected"),
        ('{"name": %s}' % ("9" * 5000), "the file is not JSON that"),
        (
            '{"name": %s}' % ("[" * 300 + "]" * 300),
            "the file .* 20 levels of nesting",
        ),
        ('{"name": %s}' % ("[" * 9000 + "]" * 9000), "the file is not JSON that"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_file(tmp_path, text, message):
    with pytest.raises(InputError, match=rf"f\.json: {message}"):
        read(tmp_path / "f.json", text)


def test_keys_that_the_caller_needs_must_be_there_and_all_faults_come_at_once(tmp_path):
    text = '{"name": "x", "model": {"parameters": null}, "months": "y"}'
    with pytest.raises(InputError) as refused:
        read(tmp_path / "f.json", text, ("model.parameters", "name", "model.layers.count"))
    assert [fault.what for fault in refused.value.faults] == [
        "months is 'y'",
        "the key 'model.parameters' is missing",
        "the key 'model.layers.count' is missing",
    ]


def test_any_value_is_shown_in_short():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    assert len(shown(deep)) < 100
    assert shown(10**5000) == "a number of thousands of digits"
    assert len(shown({str(key): "x" * 10_000 for key in range(1000)})) < 500
