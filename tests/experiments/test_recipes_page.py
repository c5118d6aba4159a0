import subprocess
import sys
import tomllib
from pathlib import Path

from boneage.recipe import Recipe, recipe_from_values

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_the_page_of_keys_is_that_of_the_schema():
    script = EXPERIMENTS / "recipes.py"
    command = [sys.executable, str(script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_key_has_a_meaning_and_the_example_is_a_recipe():
    page = (EXPERIMENTS / "recipes.md").read_text(encoding="utf-8")
    sections = [
        Recipe,
        *(type(part) for _, part in Recipe(name="x") if hasattr(part, "model_dump")),
    ]
    for section in sections:
        for name, field in section.model_fields.items():
            assert field.description or f"## `[{name}]`" in page, name
    example = page.partition("```toml\n")[2].partition("```")[0]
    assert recipe_from_values(tomllib.loads(example), where="page").training.epochs == 20
