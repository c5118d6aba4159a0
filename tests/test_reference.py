"""The pages of docs/reference are those of the code, and every public name is documented."""

import ast
import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest
import typer

from boneage.cli.app import app
from boneage.recipe import recipe_from_values

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

NAMES = reference.public_names()
VERBS = list(reference.verbs(typer.main.get_command(app), ("boneage",)))


def functions():
    """Every public function and method, with the attributes that its class describes."""
    for each in NAMES:
        if isinstance(each.node, ast.FunctionDef):
            yield each.name, (each.node, "")
        elif not reference.is_schema(each.node):
            attributes = dict(reference.sections(ast.get_docstring(each.node))).get("Attributes")
            for node in each.node.body:
                is_function = isinstance(node, ast.FunctionDef)
                if is_function and node.name == "__init__":
                    yield f"{each.name}.__init__", (node, attributes or "")
                elif is_function and not (node.name.startswith("_") or reference.is_setter(node)):
                    yield f"{each.name}.{node.name}", (node, "")


FUNCTIONS = dict(functions())


@pytest.mark.parametrize("page", reference.PAGES)
def test_a_page_is_up_to_date(page):
    text = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert text == reference.PAGES[page](), "run make reference"


@pytest.mark.parametrize("name", [name for name, _ in VERBS])
def test_every_verb_and_option_has_a_help_text(name):
    command = dict(VERBS)[name]
    assert command.help
    for option, value, default, meaning in reference.parameters(command):
        assert meaning, option
        assert value or default in ("", "`--test`", "`--known-ids`"), option


def test_every_key_of_the_recipe_has_a_meaning_and_the_example_is_a_recipe():
    page = (ROOT / "docs" / "reference" / "recipe.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 70
    assert not [row for row in rows if len(row) != 4 or not row[3].strip(" |")]
    example = page.partition("```toml\n")[2].partition("```")[0]
    assert recipe_from_values(tomllib.loads(example), where="page").training.epochs == 20


@pytest.mark.parametrize("page", reference.PAGES)
def test_every_row_of_a_table_has_a_meaning(page):
    rows = [
        line.strip("|").split(" | ")
        for line in reference.PAGES[page]().splitlines()
        if line.startswith("| `")
    ]
    assert rows
    assert not [row for row in rows if not row[-1].strip()]


@pytest.mark.slow
def test_the_page_of_the_run_folder_names_the_files_and_keys_of_a_run(finished_run):
    page, folder = reference.run_page(), finished_run.folder
    names = {path.name for path in folder.iterdir() if path.suffix != ".png"}
    assert len(names) > 5
    for split in ("val", "test"):
        names = {name.replace(f"-{split}.", "-SPLIT.") for name in names}
    assert not [name for name in names if f"`{name}" not in page]
    info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert set(info) <= set(reference.RunInfo.model_fields)
    for name, columns in (
        ("history", reference.HISTORY),
        ("predictions-test", reference.PREDICTIONS),
    ):
        header = (folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()[0]
        assert set(header.split(",")) <= set(columns), name
    metrics = json.loads((folder / "metrics-test.json").read_text(encoding="utf-8"))
    assert set(metrics) <= set(reference.Metrics.model_fields)


def test_every_variable_that_the_package_reads_is_explained():
    read = re.compile(r"environ(?:\.get\(|\[)\"((?:BONEAGE|KERAS)_\w+)|envvar=\"(\w+)")
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "boneage").rglob("*.py")]
    names = {name for source in sources for pair in read.findall(source) for name in pair if name}
    assert len(names) >= 6
    assert names == set(re.findall(r"(?:BONEAGE|KERAS)_\w+", " ".join(reference.VARIABLES)))


def test_the_names_of_the_package_and_of_the_pages_are_public():
    names = {(each.module, each.name) for each in NAMES}
    assert ("boneage", "build_model") in names
    assert ("boneage.datasets.splits", "assign_splits") in names
    others = {(module, name) for module, parts in reference.RETURNED.items() for name in parts}
    homes = {name for _, name in names}
    assert not [each for each in {*reference.names_of_pages(), *others} if each[1] not in homes]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_says_what_it_takes_returns_and_raises(name):
    node, attributes = FUNCTIONS[name]
    text = ast.get_docstring(node)
    assert text, "it has no docstring"
    given = dict(reference.sections(text))
    spec = node.args
    names = [each.arg for each in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    names = [each for each in names if each not in ("self", "cls")]
    described = given.get("Args", "") + attributes
    assert not [each for each in names if f"{each}: " not in described]
    returns = "None" if node.returns is None else ast.unparse(node.returns)
    is_plain = returns == "None" or reference.is_property(node)
    if not is_plain:
        assert text.startswith("Return ") or {"Returns", "Yields"} & set(given)
    if any(isinstance(each, ast.Raise) for each in ast.walk(node)):
        assert "Raises" in given


@pytest.mark.parametrize("each", NAMES, ids=lambda each: each.name)
def test_a_public_class_says_what_its_attributes_are(each):
    assert ast.get_docstring(each.node)
    if isinstance(each.node, ast.ClassDef) and not reference.is_schema(each.node):
        fields = [node.target.id for node in each.node.body if isinstance(node, ast.AnnAssign)]
        described = dict(reference.sections(ast.get_docstring(each.node))).get("Attributes", "")
        assert not [field for field in fields if f"{field}: " not in described]
