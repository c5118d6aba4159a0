"""Write docs/reference: commands, recipe keys, files and the Python API, from the code itself.

python docs/make_reference.py            # write the pages
python docs/make_reference.py --check    # exit code 1 if a page is not up to date
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from boneage.cli.app import app
from boneage.cli.main import main as command_line
from boneage.datasets.label_rules import (
    COLUMN_RULES,
    OPTIONAL_RULES,
    SEX_OF_WORD,
    SEXES,
    SPLIT_OF_WORD,
    SPLITS,
)
from boneage.evaluation.records import HISTORY, PREDICTIONS, Metrics, StressResult
from boneage.evaluation.result import write_result
from boneage.prediction.answer_files import KEYS
from boneage.prediction.intervals import IntervalsFile
from boneage.recipe import WITHOUT_EFFECT, Recipe
from boneage.run import Run, RunInfo
from boneage.serving.schemas import Form, HeatObject, ModelsObject, PredictionObject, ProblemObject

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "reference"
WIDTH = 100
TYPES = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    bytes: "file",
    Any: "any",
}
LIMITS = (("ge", "from {}"), ("gt", "above {}"), ("le", "to {}"), ("lt", "to below {}"))
MADE = "`make reference` makes this page from the code. Correct the code, not the page.\n"

# ---------------------------------------------------------------------------- Markdown


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in (columns, *cells)]
    return [lines[0], "|---" * len(columns) + "|", *lines[1:]]


def prose(text: str, first: str = "", rest: str = "") -> list[str]:
    """Return paragraphs, lists and tables with lines of at most `WIDTH` characters."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", textwrap.dedent(text).strip("\n")):
        if lines:
            lines.append("")
        if block.lstrip().startswith(("|", "- ", "    ")):
            lines += [rest + line for line in block.splitlines()]
        else:
            start = first if not lines else rest
            words = " ".join(block.split())
            lines += textwrap.wrap(
                words,
                WIDTH,
                initial_indent=start,
                subsequent_indent=rest,
                break_long_words=False,
                break_on_hyphens=False,
            )
    return lines


# ---------------------------------------------------------------------------- commands

VARIABLES = {
    "`BONEAGE_CACHE`": "Folder of the stores. Default: next to the manifest; where that can't be "
    "written, `~/.cache/boneage`.",
    "`BONEAGE_RUNS`": "Folder of new runs. Default: `runs` in the working folder.",
    "`BONEAGE_TOKEN`": "As `--token` of `boneage serve`, which other users can't see this way.",
    "`BONEAGE_HOSTS`": "As `--hosts` of `boneage train`.",
    "`BONEAGE_COMMIT`": "Commit of the code, which runs record outside a git checkout.",
    "`BONEAGE_IMAGE`": "Name of the Docker image that this is, for messages. The image sets it.",
    "`KERAS_BACKEND`": "`tensorflow` or `jax`. Several GPUs and hosts need `jax`.",
    "`KERAS_HOME`": "Folder of the ImageNet weights, in its folder `models`. Default: `~/.keras`.",
    "`JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`": "The hosts that train "
    "together; see [several machines](../how-to/several-machines.md). Slurm's and torchrun's "
    "variables and `KERAS_DISTRIBUTION_…` are read, too.",
}
"""Variables that the package reads; a test compares them with the code."""


def commands_page() -> str:
    """Return the page of the command line."""
    codes = inspect.cleandoc(command_line.__doc__ or "").split("\n\n", 1)[1]
    lines = [
        "# Commands\n",
        *prose(
            "`boneage VERB --help` prints the same. RECIPE, MANIFEST and RUN are explained in "
            "[recipe](recipe.md), [manifest](manifest.md) and [run folder](run-folder.md). Options "
            "may come before or after the arguments. An option that may be repeated is named each "
            "time: `--run A --run B`."
        ),
        "",
        MADE,
        "## Exit codes\n",
        *prose(codes),
        "",
        "## Environment variables\n",
        *table(("variable", "meaning"), list(VARIABLES.items())),
    ]
    for name, command in verbs(typer.main.get_command(app), ("boneage",)):
        lines += ["", f"## {name}", "", "```text", usage(name, command), "```", ""]
        lines += prose(inspect.cleandoc(command.help or ""))
        lines += ["", *table(("option", "value", "default", "meaning"), parameters(command))]
    return "\n".join(lines) + "\n"


def verbs(command: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the command of every verb, in the order of `--help`."""
    if not hasattr(command, "list_commands"):
        yield " ".join(names), command
        return
    context = command.make_context(names[-1], [], resilient_parsing=True)
    for name in command.list_commands(context):
        if name in command.commands:  # a plug-in of this machine has no place in the page
            yield from verbs(command.commands[name], (*names, name))


def usage(name: str, command: Any) -> str:
    """Return the line `boneage VERB [OPTIONS] ARGUMENT`."""
    arguments = [each for each in command.params if is_argument(each)]
    words = [
        argument_name(each) if each.required else f"[{argument_name(each)}]" for each in arguments
    ]
    return " ".join([name, "[OPTIONS]", *words])


def is_argument(parameter: Any) -> bool:
    """Return whether a parameter is given by its place."""
    return bool(parameter.param_type_name == "argument")


def argument_name(parameter: Any) -> str:
    """Return the name of an argument as `--help` shows it."""
    name = re.sub(r"[\[\].]", "", parameter.metavar or parameter.name.upper())
    return name if parameter.nargs == 1 else f"{name}..."


def parameters(command: Any) -> list[list[str]]:
    """Return a row for each option and argument of a verb: name, value, default, meaning."""
    hints = typing.get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    rows = []
    for each in command.params:
        if getattr(each, "hidden", False):
            continue
        if is_argument(each):
            names = [argument_name(each)]
        else:
            after = f" {each.metavar}" if each.metavar else ""
            names = [f"{name}{after}" for name in (*each.opts, *each.secondary_opts)]
        value, meaning = value_of(hints[each.name]), typing.get_args(hints[each.name])[1].help
        default = "required" if each.required else default_text(each)
        rows.append([", ".join(f"`{name}`" for name in names), value, default, meaning or ""])
    return rows


def value_of(hint: Any) -> str:
    """Return what an option takes, in words; nothing for one that is on or off."""
    kinds, limits = value_types(hint), typing.get_args(hint)[1]
    if kinds == [bool]:
        return ""
    words = ", ".join(
        ", ".join(f"`{choice.value}`" for choice in kind)
        if issubclass(kind, enum.Enum)
        else VALUES[kind]
        for kind in kinds
    )
    for limit, text in ((limits.min, " from {:,}"), (limits.max, " to {:,}")):
        words += "" if limit is None else text.format(limit)
    return words


def value_types(hint: Any) -> list[type]:
    """Return the types inside an annotation such as `list[str] | None`."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return [] if hint is type(None) else [hint]
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Annotated:
        inner = inner[:1]
    return list(dict.fromkeys(kind for each in inner for kind in value_types(each)))


VALUES = {int: "whole number", float: "number", str: "text", Path: "path"}


def default_text(parameter: Any) -> str:
    """Return the default of an option, or nothing where its help says it."""
    value = parameter.default
    if isinstance(value, bool):
        return f"`{parameter.opts[0]}`" if value else ""
    if isinstance(value, list | tuple):
        return ", ".join(f"`{each}`" for each in value)
    value = getattr(value, "value", value)
    return (
        f"`{value}`"
        if isinstance(value, int | float | Path) or (value and str(value) == value)
        else ""
    )


# ---------------------------------------------------------------------------- schemas


def describe_type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return the type of a key in words, with its range."""
    arguments, origin = typing.get_args(annotation), typing.get_origin(annotation)
    if origin is typing.Annotated:
        first, *rest = arguments
        inner = [part for each in rest for part in getattr(each, "metadata", [each])]
        return describe_type(first, (*inner, *metadata))
    if origin in (typing.Union, types.UnionType):
        inner = [each for each in arguments if each is not type(None)]
        return " or ".join(dict.fromkeys(describe_type(each, metadata) for each in inner))
    if origin is typing.Literal:
        return ", ".join(f"`{toml(value)}`" for value in arguments)
    if origin is dict:
        return f"object of {describe_type(arguments[1])}"
    if origin in (tuple, list):
        most = find_limit(metadata, "max_length")
        if origin is tuple and arguments[-1] is not Ellipsis:
            most, words = None, f"list of {len(arguments)}"
        else:
            words = "list" if most is None else f"list of at most {most:,}"
        return f"{words}: {describe_type(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{spaced(annotation)}](#{slug(annotation)})"
    words = [TYPES[annotation]]
    for name, text in LIMITS:
        limit = find_limit(metadata, name)
        if limit is not None and abs(limit) < LARGEST_SHOWN:
            words.append(text.format(f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"))
    return " ".join(words)


LARGEST_SHOWN = 1e12  # a larger limit only keeps damaged files out


def find_limit(metadata: Sequence[Any], name: str) -> Any:
    """Return a limit among the metadata of a field, or None."""
    return next((getattr(each, name) for each in metadata if hasattr(each, name)), None)


def toml(value: Any) -> str:
    """Return a value as it is written in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else f"{value}"


def default_of(field: FieldInfo) -> str:
    """Return the default of a key in words."""
    if field.default is PydanticUndefined:
        return "required"
    return "" if field.default is None else f"`{toml(field.default)}`"


def spaced(schema: type[BaseModel]) -> str:
    """Return the name of a schema in words: `TestedOn` is `tested on`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", schema.__name__.strip("_")).lower()


def slug(schema: type[BaseModel]) -> str:
    """Return the anchor of the heading of a schema."""
    return spaced(schema).replace(" ", "-")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a key of the recipe opens, or None for a value."""
    for kind in (field.annotation, *typing.get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def first_line(documented: Any) -> str:
    """Return the first paragraph of a docstring in one line."""
    return " ".join((documented.__doc__ or "").strip().split("\n\n")[0].split())


# ---------------------------------------------------------------------------- recipe

RECIPE_HEAD = """# Recipe

A recipe is a TOML file with the settings of one experiment. Only `name` is required. Every other
key has a default, so a recipe lists only what differs. For example:

```toml
name = "my-first"

[framing]
size = 128

[model]
backbone = "mini_xception"

[training]
epochs = 20
learning_rate = 1e-3
```

Train it with `boneage train RECIPE.toml --data MANIFEST`. Replace single values on the command
line with `--set section.key=value`, for example `--set training.epochs=3`. Unknown keys and values
out of range are refused, with the closest known key.

The recipe of a finished run, with all defaults, is `recipe.json` in the run folder. Keys marked
with an asterisk do not change a result. A run may be resumed with other values of them.
"""


def recipe_page() -> str:
    """Return the page of the keys of a recipe."""
    lines = [RECIPE_HEAD, MADE, "## Top of the file", "", *recipe_table(Recipe, "")]
    for name, field in Recipe.model_fields.items():
        section = section_of(field)
        if section is not None:
            mark = "\\*" if name in WITHOUT_EFFECT else ""
            lines += ["", f"## `[{name}]`{mark}", "", first_line(section), ""]
            lines += recipe_table(section, f"{name}.")
    return "\n".join(lines) + "\n"


def recipe_table(section: type[BaseModel], prefix: str) -> list[str]:
    """Return the keys of a section as a Markdown table."""
    rows = [
        [
            f"`{name}`" + ("\\*" if f"{prefix}{name}" in WITHOUT_EFFECT else ""),
            describe_type(field.annotation, field.metadata),
            default_of(field),
            field.description or "",
        ]
        for name, field in section.model_fields.items()
        if section_of(field) is None
    ]
    return table(("key", "value", "default", "meaning"), rows)


# ---------------------------------------------------------------------------- manifest

MANIFEST_HEAD = """# Manifest

A manifest is a CSV file in UTF-8 with one row for each image. Every other command reads it. Imports
write it, and `boneage data check` checks it. The file may have further columns, which are kept.

A column named `patient` or `subject_id` is refused if there is no `patient_id`. The splits would
not be checked by patient. Every run records the SHA-256 of its manifest.
"""


def manifest_page() -> str:
    """Return the page of the columns of a manifest."""
    columns = ("column", "content")
    needed = [[f"`{name}`", rule] for name, rule in COLUMN_RULES.items()]
    optional = [[f"`{name}`", rule] for name, rule in OPTIONAL_RULES.items()]
    words: dict[str, list[str]] = {sex: [] for sex in SEXES}
    for word, sex in SEX_OF_WORD.items():
        words[sex].append(word)
    lines = [
        MANIFEST_HEAD,
        MADE,
        "## Columns that it must have\n",
        *table(columns, needed),
        "\n## Optional columns\n",
        *table(columns, optional),
        "\n## Words for a sex and a split\n",
        *prose(
            "A manifest has exactly the values above. An import also takes these words, in upper "
            "or lower case. Other codes are named with `--female` and `--male`."
        ),
        "",
        *table(("sex", "words"), [[f"`{sex}`", ", ".join(all_)] for sex, all_ in words.items()]),
        "",
        *table(
            ("split", "words"),
            [
                [f"`{split}`", ", ".join(word for word, of in SPLIT_OF_WORD.items() if of == split)]
                for split in SPLITS
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------- run folder

RUN_HEAD = """# Run folder

`boneage train` makes a run folder. Other commands read it and add to it.
"""


def run_page() -> str:
    """Return the page of the files of a run folder."""
    about = inspect.cleandoc(Run.__doc__ or "").partition("\n\n")[2].partition("Attributes:")[0]
    lines = [RUN_HEAD, MADE, *prose(about), ""]
    lines += ["## recipe.json\n", "The keys are those of a [recipe](recipe.md), all of them."]
    seen: set[type[BaseModel]] = set()
    lines += file_tables("run.json", RunInfo, seen)
    lines += ["\n## history.csv\n", *named("column", HISTORY)]
    lines += ["\n## predictions-NAME.csv\n", *named("column", PREDICTIONS)]
    lines += file_tables("metrics-NAME.json", Metrics, seen)
    lines += file_tables("intervals.json", IntervalsFile, seen)
    lines += file_tables("stress-NAME.json", StressResult, seen)
    about = inspect.cleandoc(write_result.__doc__ or "").split("\n\n")[1]
    lines += ["\n## result.json\n", *prose(about)]
    return "\n".join(lines) + "\n"


def named(column: str, meanings: dict[str, str]) -> list[str]:
    """Return a table of names and their meanings."""
    rows = [[f"`{name}`", meaning] for name, meaning in meanings.items()]
    return table((column, "meaning"), rows)


def file_tables(name: str, schema: type[BaseModel], seen: set[type[BaseModel]]) -> list[str]:
    """Return the section of a JSON file: its keys, and those of the objects in it."""
    lines = [f"\n## {name}\n"]
    remaining = [schema]
    while remaining:
        each = remaining.pop(0)
        if each not in seen:
            seen.add(each)
            if each is not schema:
                lines += [f"\n### {spaced(each).capitalize()}\n"]
            lines += schema_table(each)
            remaining += [inner for inner in objects_of(each) if inner not in seen]
    return lines


def schema_table(schema: type[BaseModel]) -> list[str]:
    """Return what a schema says of itself, and its own keys as a table."""
    meanings: dict[str, str] = {}
    for each in reversed(schema.__mro__):
        text = dict(sections(inspect.cleandoc(each.__doc__ or ""))).get("Attributes", "")
        meanings |= dict(entries(text))
    about = sections(inspect.cleandoc(schema.__doc__ or ""))[0][1]
    parents = [f"[{spaced(each)}](#{slug(each)})" for each in parents_of(schema)]
    also = [f"It also has the keys of {' and '.join(parents)}.\n"] if parents else []
    inherited = {name for each in parents_of(schema) for name in each.model_fields}
    rows = [
        [
            f"`{name}`",
            describe_type(field.annotation, field.metadata),
            field.description or meanings.get(name, ""),
        ]
        for name, field in schema.model_fields.items()
        if name not in inherited
    ]
    return [*prose(about), "", *also, *table(("key", "value", "meaning"), rows)]


def parents_of(schema: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the schemas whose keys a schema has, too."""
    return [each for each in schema.__bases__ if getattr(each, "model_fields", None)]


def objects_of(schema: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the schemas of the objects in a schema, and those whose keys it has, too."""
    found = [field.annotation for field in schema.model_fields.values()]
    inner: list[Any] = list(parents_of(schema))
    while found:
        each = found.pop(0)
        if isinstance(each, type) and issubclass(each, BaseModel):
            inner.append(each)
        found = [*typing.get_args(each), *found]
    return list(dict.fromkeys(inner))


# ---------------------------------------------------------------------------- answers

ANSWERS_HEAD = """# Answers

`boneage predict` writes answers as CSV, Parquet or JSON lines, or prints them with `--json`. The
server of `boneage serve` returns the same JSON. Ages are in months.

The status of an answer is `answered`, `refused`, `unreadable` or `failed`. The server answers an
unreadable file and a wrong request with a problem instead. [Serve](../how-to/serve.md) lists the
addresses of the server.
"""


def answers_page() -> str:
    """Return the page of the columns and keys of answers."""
    lines = [ANSWERS_HEAD, MADE, "## Columns of CSV and Parquet\n"]
    lines += prose(
        "Each column holds a key of the JSON answer. Cells without a value are empty. Several "
        "values are joined by `; `, and findings by their codes. Numbers have two decimals."
    )
    rows = [
        [f"`{name}`", f"`{keys.replace(' ', '.')}`", meaning_of(keys.split())]
        for name, keys in KEYS.items()
    ]
    lines += ["", *table(("column", "key of the JSON", "meaning"), rows)]
    seen: set[type[BaseModel]] = set()
    lines += file_tables("JSON", PredictionObject, seen)
    lines += file_tables("Request to the server", Form, seen)
    lines += file_tables("Heat map", HeatObject, seen)
    lines += file_tables("Models", ModelsObject, seen)
    lines += file_tables("Problem", ProblemObject, seen)
    return "\n".join(lines) + "\n"


def meaning_of(keys: Sequence[str]) -> str:
    """Return the meaning of a key of the JSON answer, found in its schema."""
    schema: type[BaseModel] = PredictionObject
    for key in (each for each in keys if each not in SEXES):
        field = schema.model_fields[key]
        inner = objects_in(field.annotation)
        schema = inner[0] if inner else schema
    meaning = field.description or ""
    for sex, child in (("F", "girl"), ("M", "boy")):
        if sex in keys:
            meaning = (
                f"{meaning.split('. ')[0].rstrip('.')}, for a {child}, if the sex is not known."
            )
    return meaning


def objects_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the schemas inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for each in typing.get_args(annotation) for found in objects_in(each)]


# ---------------------------------------------------------------------------- Python

USED_BY = ("*.md", "data/README.md", "experiments/**/README.md", "docs/**/*.md", "boneage/**/*.md")
"""Pages whose Python blocks show the public names, besides those of `boneage.__all__`."""

RETURNED = {
    "boneage.prediction.predict": ("Estimator", "Request", "Prepared"),
    "boneage.prediction.answers": (
        *("Answer", "Estimate", "Interval", "AppliedCalibration", "ModelIdentity"),
    ),
    "boneage.prediction.sd_score": ("AgeComparison",),
    "boneage.radiographs.image_quality": ("ImageFinding",),
    "boneage.errors": ("Fault",),
    "boneage.recipe": ("Framing",),
    "boneage.datasets.manifest": ("read_manifest",),
    "boneage.radiographs.framing": ("frame", "Framed", "Crop"),
    "boneage.pipeline.store": ("prepare", "open_store", "Store", "StoreView"),
}
"""What the public names take and return, and what pages name without importing it."""

PYTHON_HEAD = """# Python

Public are the names that `boneage` exports, those that the Python blocks of these pages import, and
the classes that they take and return. All other names may change at any
time.

Errors in what you pass are a `boneage.InputError` that lists all of them. Months are always months,
never years. Images are grey.
"""


class Name(NamedTuple):
    """A public name: where it is imported from, where it is defined, and its source."""

    module: str
    name: str
    node: ast.ClassDef | ast.FunctionDef


def parse(module: str) -> ast.Module:
    """Return the source of a module of the package. It is not imported: that may start Keras."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def public_names() -> list[Name]:
    """Return every public name, those of `boneage` first."""
    import boneage

    wanted = [("boneage", name) for name in boneage.__all__]
    others = {(module, name) for module, names in RETURNED.items() for name in names}
    wanted += sorted({*names_of_pages(), *others} - set(wanted))
    found: dict[tuple[str, str], Name] = {}
    for module, name in wanted:
        home = boneage._HOMES[name] if module == "boneage" else module
        for node in parse(home).body:
            is_definition = isinstance(node, ast.ClassDef | ast.FunctionDef)
            if is_definition and node.name == name and (home, name) not in found:
                found[home, name] = Name(module, name, node)
    return list(found.values())


def names_of_pages() -> Iterator[tuple[str, str]]:
    """Yield module and name of all that the Python blocks of the pages import from the package."""
    pages = {path for pattern in USED_BY for path in ROOT.glob(pattern)}
    for path in sorted(pages):
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("boneage"):
                    for each in node.names:
                        yield str(node.module), each.name


def python_page() -> str:
    """Return the page of the Python API."""
    lines = [PYTHON_HEAD, MADE]
    names = public_names()
    rows = [
        [f"[`{each.name}`](#{each.name.lower()})", f"`{each.module}`", first_line_of(each.node)]
        for each in names
    ]
    lines += table(("name", "module", "purpose"), rows)
    for each in names:
        lines += ["", f"## {each.name}", "", "```text"]
        lines += [f"from {each.module} import {each.name}", "", *signature(each.node), "```", ""]
        lines += docstring(each.node)
        if isinstance(each.node, ast.ClassDef) and not is_schema(each.node):
            lines += members(each.node)
    return "\n".join(lines) + "\n"


def first_line_of(node: ast.ClassDef | ast.FunctionDef) -> str:
    """Return the first paragraph of a docstring in the source."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def signature(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    """Return the call of a function or class, with types and defaults."""
    if isinstance(node, ast.FunctionDef):
        return call(node.name, node)
    inner = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    if "__init__" in inner and not is_schema(node):
        return call(node.name, inner["__init__"])
    if is_schema(node):  # the keys have a page of their own
        return [f"{node.name}(KEY=VALUE, ...)"]
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    return wrapped(node.name, [field_text(each) for each in fields], "")


def field_text(node: ast.AnnAssign) -> str:
    """Return an attribute of a dataclass with its type and default."""
    text = f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}"
    default = node.value
    if isinstance(default, ast.Call):  # field(default=...)
        given = {each.arg: each.value for each in default.keywords}
        default = given.get("default")
    return text if default is None else f"{text} = {ast.unparse(default)}"


def is_schema(node: ast.ClassDef) -> bool:
    """Return whether a class is a section of a recipe."""
    return any(isinstance(base, ast.Name) and base.id == "_Section" for base in node.bases)


def call(name: str, node: ast.FunctionDef) -> list[str]:
    """Return the call of a function: on one line if it fits, else a line for each parameter."""
    spec, parts = node.args, []
    positional = [*spec.posonlyargs, *spec.args]
    defaults = [None] * (len(positional) - len(spec.defaults)) + list(spec.defaults)
    for each, default in zip(positional, defaults, strict=True):
        if each.arg not in ("self", "cls"):
            parts.append(parameter(each, default))
    if spec.vararg:
        parts.append("*" + ast.unparse(spec.vararg))
    elif spec.kwonlyargs:
        parts.append("*")
    parts += [parameter(*pair) for pair in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]
    returns = "" if node.returns is None else ast.unparse(node.returns)
    return wrapped(name, parts, "" if returns in ("", "None") else f" -> {returns}")


def parameter(each: ast.arg, default: ast.expr | None) -> str:
    """Return a parameter with its type and default."""
    text = ast.unparse(each)
    if default is None:
        return text
    return f"{text} = {ast.unparse(default)}" if each.annotation else f"{text}={default}"


def wrapped(name: str, parts: Sequence[str], end: str) -> list[str]:
    """Return a call on one line if it fits, else with a line for each part."""
    line = f"{name}({', '.join(parts)}){end}"
    if len(line) <= WIDTH:
        return [line]
    return [f"{name}(", *(f"    {part}," for part in parts), f"){end}"]


SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")


def docstring(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    """Return the docstring of a class or function, and that of `__init__`, as Markdown."""
    texts = [ast.get_docstring(node) or ""]
    if isinstance(node, ast.ClassDef):
        for each in node.body:
            if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                own = ast.get_docstring(each) or ""
                texts.append(own.partition("\n\n")[2])  # the first line says what it checks
    parts: dict[str, str] = {}
    for text in filter(None, texts):
        for title, body in sections(text):
            if body.strip():
                parts.setdefault(title, body)
    if isinstance(node, ast.ClassDef) and is_schema(node):
        page = "The keys are those of the section of the same name in a [recipe](recipe.md)."
        parts[""] = f"{parts[''].strip()}\n\n{page}"
        parts.pop("Raises", None)
    lines: list[str] = []
    for title in ("", *SECTIONS):
        if title in parts:
            lines += ["", f"**{title}**", ""] if title else []
            lines += items(parts[title]) if title else prose(parts[title])
    return lines


def sections(text: str) -> list[tuple[str, str]]:
    """Return the parts of a docstring in Google's style: title and indented text."""
    pieces = re.split(rf"^({'|'.join(SECTIONS)}):\n", text, flags=re.MULTILINE)
    return [("", pieces[0]), *zip(pieces[1::2], pieces[2::2], strict=True)]


def items(text: str) -> list[str]:
    """Return the entries of a section as a list; a section that is one text as a paragraph."""
    text = textwrap.dedent(text).strip("\n")
    if not re.match(r"\w+: ", text):
        return prose(text)
    lines = []
    for name, meaning in entries(text):
        lines += prose(meaning, f"- `{name}`: ", "  ")
    return lines


def entries(text: str) -> list[tuple[str, str]]:
    """Return the names of a section of a docstring, each with its meaning."""
    found = re.split(r"^(\w+): ", textwrap.dedent(text), flags=re.MULTILINE)
    meanings = (" ".join(each.split()) for each in found[2::2])
    return list(zip(found[1::2], meanings, strict=True))


def members(node: ast.ClassDef) -> list[str]:
    """Return the public methods and properties of a class."""
    lines: list[str] = []
    for each in node.body:
        if not isinstance(each, ast.FunctionDef) or not is_documented(each):
            continue
        name = f"{node.name}.{each.name}"
        if is_property(each):
            lines += ["", f"### `{name}`", "", *prose(ast.get_docstring(each) or "")]
        else:
            lines += ["", f"### `{name}`", "", "```text", *call(each.name, each), "```", ""]
            lines += docstring(each)
    return lines


def is_documented(method: ast.FunctionDef) -> bool:
    """Return whether a method has a place in the page: its name is public, and it is no setter."""
    is_public = method.name in SPECIAL or not method.name.startswith("_")
    return is_public and not is_setter(method) and ast.get_docstring(method) is not None


def is_setter(method: ast.FunctionDef) -> bool:
    """Return whether a method is what sets a property."""
    return any(isinstance(each, ast.Attribute) for each in method.decorator_list)


SPECIAL = ("__len__", "__getitem__", "__next__")


def is_property(method: ast.FunctionDef) -> bool:
    """Return whether a method is a property."""
    names = {each.id for each in method.decorator_list if isinstance(each, ast.Name)}
    return bool(names & {"property", "cached_property"})


# ---------------------------------------------------------------------------- all pages

PAGES = {
    "commands.md": commands_page,
    "recipe.md": recipe_page,
    "manifest.md": manifest_page,
    "run-folder.md": run_page,
    "answers.md": answers_page,
    "python.md": python_page,
}


def main() -> None:
    """Write the pages, or check them."""
    pages = {FOLDER / name: make() for name, make in PAGES.items()}
    old = [path for path, text in pages.items() if not is_same(path, text)]
    if "--check" in sys.argv[1:]:
        if old:
            names = ", ".join(path.name for path in old)
            sys.exit(f"docs/reference is not up to date ({names}). Run: make reference")
        return
    for path in old:
        path.write_text(pages[path], encoding="utf-8")


def is_same(path: Path, text: str) -> bool:
    """Return whether a file has this text."""
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
