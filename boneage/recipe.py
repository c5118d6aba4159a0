"""What one experiment is: a recipe, read from TOML, every value checked and every key known."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field, model_validator

from boneage.errors import Fault, InputError

Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Section(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Phantom(_Section):
    """The embedded cohort a recipe trains on when no manifest is given."""

    count: int = Field(default=1500, ge=10)
    seed: int = Field(default=0, ge=0)
    size: int = Field(default=256, ge=64, le=2048)


class Framing(_Section):
    """How a decoded radiograph becomes one square uint8 picture of `size` pixels.

    `crop` is what of it: the hand, found and cut out with a margin, or all of the radiograph. `fit`
    is how that comes into the square: `pad` keeps its aspect, the rest is black; `stretch` fills
    the square, so that radiographs whose aspect was lost on their way look like those that kept it.
    The grey levels at the two `contrast_percentiles` become 0 and 255: the first of what is framed,
    the second of the hand where one was found.
    """

    size: int = Field(default=299, ge=32, le=2048)
    crop: Literal["hand", "film"] = "hand"
    fit: Literal["pad", "stretch"] = "pad"
    contrast_percentiles: tuple[float, float] = (2.0, 99.5)

    @model_validator(mode="after")
    def _percentiles_in_order(self) -> Framing:
        low, high = self.contrast_percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"contrast_percentiles {low}, {high} are not 0 <= low < high <= 100")
        return self


class Augmentation(_Section):
    """Training-time augmentation; every default is the lineage's. All zero means none.

    `affine` is the share of images that are shifted, scaled and rotated at all: their pixels are
    interpolated, and a network that never sees a radiograph as sharp as those it is asked about
    later takes sharpness for age. `shift` is a fraction of the side, `scale` the factors drawn
    between, `rotate_degrees` the largest angle either way. The others are probabilities; `erase` is
    that of a rectangle made black (Zhong et al., Random Erasing Data Augmentation, AAAI 2020).
    """

    affine: Probability = 1.0
    shift: Fraction = 0.2
    scale: tuple[float, float] = (0.8, 1.2)
    rotate_degrees: float = Field(default=20.0, ge=0, le=180)
    horizontal_flip: Probability = 0.5
    vertical_flip: Probability = 0.0
    gamma: Probability = 0.5
    brightness_contrast: Probability = 0.2
    sharpen: Probability = 0.5
    optical_distortion: Probability = 0.5
    erase: Probability = 0.0

    @model_validator(mode="after")
    def _scale_in_order(self) -> Augmentation:
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale {low}, {high} is not 0 < low <= high")
        return self


class Model(_Section):
    """Backbone and head. The head's defaults are the lineage's: 32, then 1000, 1000, 1."""

    backbone: str = "xception"
    weights: str = "none"  # "none", "imagenet" or the path of a weights file
    weights_sha256: str | None = None  # of that file; without it, it must be the ImageNet one
    head: Literal["number", "distribution"] = "number"  # see `build_model`
    gender: bool = True
    gender_units: int = Field(default=32, ge=1)
    dense_units: tuple[Annotated[int, Field(ge=1)], ...] = (1000, 1000)
    dropout: Fraction = 0.0
    pooling: Literal["average", "flatten"] = "average"  # of the feature map; flatten: 16Bit's
    age_centre_months: float = 120.0
    age_scale_months: float = Field(default=120.0, gt=0)


class Training(_Section):
    """Optimiser, schedule and length of one training."""

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=9, ge=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    spread_months: float = Field(default=6.0, gt=0)  # of the label, for a head of distributions
    schedule: Literal["constant", "plateau", "cosine"] = "plateau"
    warmup_epochs: float = Field(default=0.0, ge=0)
    plateau_factor: float = Field(default=0.75, gt=0, lt=1)
    plateau_patience: int = Field(default=4, ge=1)
    minimum_learning_rate: float = Field(default=1e-6, ge=0)
    early_stop_patience: int = Field(default=25, ge=0)  # epochs without a better one; 0: never
    ema: Fraction = 0.0  # momentum of the weights' average, which is what is validated; 0: none
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    workers: int | None = Field(default=None, ge=1)  # that make batches; None: one for each core
    use_multiprocessing: bool = True  # whether they are processes; else threads
    tensorboard: bool = False

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Training:
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"weight_decay {self.weight_decay:g} takes optimizer = 'adamw'")
        if self.warmup_epochs and self.schedule != "cosine":
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} takes schedule = 'cosine'")
        return self


Views = Literal[1, 2, 6]


class Prediction(_Section):
    """How a finished run answers, in evaluation and for single radiographs.

    An answer is the mean of those for so many `views` of the radiograph: 1, as it is; 2, its mirror
    image too; 6, both turned by ten degrees either way too. Training and validation look once.
    """

    views: Views = 1


class Published(_Section):
    """The number a recipe is to reproduce, in months, and where it stands.

    `test_images` and `val_images` say how many images it was measured on, `test_labels` and
    `val_labels` who read those: `mean of six readings` is no label to compare with `one reading`.
    """

    source: str
    test_mae_months: float | None = None
    test_interval_months: tuple[float, float] | None = None
    test_images: int | None = Field(default=None, ge=1)
    test_labels: str | None = None
    val_mae_months: float | None = None
    val_interval_months: tuple[float, float] | None = None
    val_images: int | None = Field(default=None, ge=1)
    val_labels: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Published:
        if self.test_mae_months is None and self.val_mae_months is None:
            raise ValueError("there is neither test_mae_months nor val_mae_months in it")
        return self


WITHOUT_EFFECT = ("training.workers", "training.use_multiprocessing", "training.tensorboard")
"""Keys that change no result: they say how batches are made, and what is logged."""

_NOT_COMPARED = {"name", "seed", "phantom", "published", "model.weights_sha256", *WITHOUT_EFFECT}


class Recipe(_Section):
    """One experiment, whole: with a manifest and this, a run can be made again."""

    name: str
    seed: int = Field(default=0, ge=0, lt=2**32)
    phantom: Phantom | None = None
    framing: Framing = Framing()
    augmentation: Augmentation = Augmentation()
    model: Model = Model()
    training: Training = Training()
    prediction: Prediction = Prediction()
    published: Published | None = None


def read_recipe(path: Path, overrides: Sequence[str] = (), *, seed: int | None = None) -> Recipe:
    """Reads a recipe from TOML and applies `section.key=value` overrides.

    Args:
        path: A `.toml` file, or the `recipe.json` of a finished run.
        overrides: As given to `--set`; the value is read as TOML, else as plain text.
        seed: Replaces the recipe's own seed.

    Raises:
        InputError: The file can't be read, or keys or values in it are wrong (all at once).
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(
            Fault(str(path), "there is no such file", _recipes_here(path), expected="a recipe")
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            Fault(str(path), str(error), "Check the path.", expected="a readable TOML file")
        ) from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            Fault(str(path), f"not valid TOML: {error}", "Mend that line.", expected="a recipe")
        ) from None
    for override in overrides:
        _apply(values, override)
    if seed is not None:
        values["seed"] = seed
    return recipe_from_values(values, where=str(path))


def recipe_from_values(values: dict[str, Any], *, where: str) -> Recipe:
    """Checks plain values (as read from TOML or JSON) and makes the recipe of them.

    Raises:
        InputError: Every wrong key and value, each with what was meant if that can be told.
    """
    try:
        return Recipe.model_validate(values)
    except pydantic.ValidationError as error:
        raise InputError([_fault(where, detail) for detail in error.errors()]) from None


def changed_settings(before: Recipe, after: Recipe) -> list[str]:
    """Return every setting that may change a result and has another value now.

    The name, the seed, the phantom and the published number are not compared.

    Returns:
        `KEY=VALUE` with the value of `after`, as `--set` reads it.
    """
    old, new = (_flat(recipe.model_dump(mode="json")) for recipe in (before, after))
    return [f"{key}={_toml(value)}" for key, value in new.items() if old.get(key) != value]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in _NOT_COMPARED:
            continue
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(_toml(each) for each in value)}]"
    return str(value)


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise InputError(
            Fault(
                f"--set {override}",
                "there is no '=' in it",
                "Write it as training.epochs=3.",
                expected="section.key=value",
            )
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, name = key.strip().split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise InputError(
                Fault(
                    f"--set {override}",
                    f"{section!r} is a value, not a section",
                    "Name a section of the recipe first.",
                    expected="section.key=value",
                )
            )
    target[name] = value


def _known_keys(location: Sequence[int | str]) -> list[str]:
    section: Any = Recipe
    for part in location:
        field = section.model_fields.get(part)
        section = _SECTIONS.get(str(part)) if field else None
        if section is None:
            return []
    return list(section.model_fields)


_SECTIONS: dict[str, type[_Section]] = {
    "phantom": Phantom,
    "framing": Framing,
    "augmentation": Augmentation,
    "model": Model,
    "training": Training,
    "prediction": Prediction,
    "published": Published,
}


def _fault(where: str, detail: Any) -> Fault:
    location = detail["loc"]
    key = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        section = ".".join(str(part) for part in location[:-1])
        return Fault(
            where,
            f"unknown key {key!r}",
            f"Did you mean {close[0]!r}?" if close else "Remove it.",
            expected=f"one of {', '.join(known)}" + (f" in [{section}]" if section else ""),
        )
    if detail["type"] == "missing":
        return Fault(
            where, f"{key!r} is missing", f"Add {key} = … to it.", expected="a value for it"
        )
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return Fault(
        where, f"{key} is {detail['input']!r}", "Mend that value.", expected=_expected(message)
    )


def _expected(message: str) -> str:
    for opening in ("input should be ", "input should "):
        if message.startswith(opening):
            return message.removeprefix(opening)
    return f"a valid value ({message})"


def _recipes_here(path: Path) -> str:
    return f"Recipes stand in experiments/<name>/recipe.toml; is {path.name!r} one of those?"
