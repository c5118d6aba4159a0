"""Write experiments/recipes.md: every key of a recipe, from the schema in boneage/recipe.py.

python experiments/recipes.py            # write the page
python experiments/recipes.py --check    # exit code 1 if the page is not up to date
"""

from __future__ import annotations

import sys
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from boneage.recipe import WITHOUT_EFFECT, Recipe

PAGE = Path(__file__).parent / "recipes.md"
TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false"}
LIMITS = (("ge", "from {}"), ("gt", "above {}"), ("le", "to {}"), ("lt", "to below {}"))

HEAD = """# The keys of a recipe

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

`python experiments/recipes.py` makes this page from the schema.
"""


def describe_type(annotation: Any, metadata: tuple[Any, ...]) -> str:
    """Return the type of a key in words, with its range."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        first, *rest = arguments
        inner = [part for each in rest for part in getattr(each, "metadata", [each])]
        return describe_type(first, (*inner, *metadata))
    if origin in (typing.Union, types.UnionType):
        inner = [each for each in arguments if each is not type(None)]
        return describe_type(inner[0], metadata)
    if origin is typing.Literal:
        return ", ".join(f"`{toml(value)}`" for value in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            most = find_limit(metadata, "max_length")
            return f"list of at most {most}: {describe_type(arguments[0], ())}"
        return f"list of {len(arguments)}: {describe_type(arguments[0], ())}"
    words = []
    for name, text in LIMITS:
        limit = find_limit(metadata, name)
        if limit is not None:
            words.append(text.format(f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"))
    return " ".join([TYPES[annotation], *words])


def find_limit(metadata: tuple[Any, ...], name: str) -> Any:
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


def table(section: type[BaseModel], prefix: str) -> list[str]:
    """Return the rows of a section as a Markdown table."""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        if section_of(field) is None:
            key = f"`{name}`" + ("\\*" if f"{prefix}{name}" in WITHOUT_EFFECT else "")
            kind = describe_type(field.annotation, tuple(field.metadata))
            lines.append(f"| {key} | {kind} | {default_of(field)} | {field.description} |")
    return lines


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a key of the recipe opens, or None for a value."""
    for kind in (field.annotation, *typing.get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def page() -> str:
    """Return the page."""
    lines = [HEAD, "## Top of the file", "", *table(Recipe, "")]
    for name, field in Recipe.model_fields.items():
        section = section_of(field)
        if section is not None:
            mark = "\\*" if name in WITHOUT_EFFECT else ""
            first = (section.__doc__ or "").strip()
            lines += ["", f"## `[{name}]`{mark}", "", first, "", *table(section, f"{name}.")]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page, or check it."""
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") != page():
            sys.exit("experiments/recipes.md is old. Run: python experiments/recipes.py")
        return
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
