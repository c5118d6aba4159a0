import pytest

from boneage.errors import InputError
from boneage.runtime.names import check_name, is_name


@pytest.mark.parametrize("name", ["a", "rsna-best", "lr-3e-3_seed.0", "_x", "9", "x" * 100])
def test_a_name_is_one_component_of_a_path(name):
    assert check_name(name, "recipe.toml: name") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a\0b", "a\n", "a b", "-x", ".hidden", "x" * 101,
     "\u202ea", "nœud", "~", "C:", 7, None, ["a"]],
)  # fmt: skip
def test_text_that_leads_elsewhere_is_no_name(name):
    assert not is_name(name)
    with pytest.raises(InputError, match=r"^release\.json: name: the name is .{2,90}; expected"):
        check_name(name, "release.json: name")
