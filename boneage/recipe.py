"""Read a recipe: the settings of one experiment, from TOML, with every key and value checked."""

from __future__ import annotations

import contextlib
import difflib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field, field_validator, model_validator

from boneage.errors import Fault, InputError
from boneage.runtime.files import read_text

_RECIPE = "recipe.toml"
LARGEST_RECIPE = 1 << 20  # bytes

Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Section(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Phantom(_Section):
    """The phantom dataset that a recipe trains on if no manifest is given."""

    count: int = Field(default=1500, ge=10)
    seed: int = Field(default=0, ge=0)
    size: int = Field(default=256, ge=64, le=2048)


class Framing(_Section):
    """How a decoded radiograph becomes one square uint8 image of `size` pixels.

    `crop` is `hand`, which finds the hand and cuts it out with a margin, or `none`. `fit` is `pad`,
    which keeps the aspect and makes the rest black, or `stretch`, which fills the square. The grey
    levels at the two `contrast_percentiles` become 0 and 255. The first is a percentile of the
    crop, the second one of the hand where a hand was found.
    """

    size: int = Field(default=299, ge=32, le=2048)
    crop: Literal["hand", "none"] = "hand"
    fit: Literal["pad", "stretch"] = "pad"
    contrast_percentiles: tuple[float, float] = (2.0, 99.5)

    @field_validator("crop", mode="before")
    @classmethod
    def _accept_the_former_name(cls, crop: object) -> object:
        return "none" if crop == "film" else crop  # as older recipes have it

    @model_validator(mode="after")
    def _percentiles_in_order(self) -> Framing:
        low, high = self.contrast_percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"contrast_percentiles {low}, {high} are not 0 <= low < high <= 100")
        return self


class Augmentation(_Section):
    """Augmentation of training images. The defaults are those of IvanKosik/bone-age-models.

    Probabilities and ranges at zero mean no augmentation.

    Attributes:
        affine: Share of the images that are shifted, scaled and rotated. This interpolates their
            pixels. A network that sees no sharp image in training confuses sharpness with age.
        shift: Largest shift, as a fraction of the side.
        scale: Smallest and largest scale factor.
        rotate_degrees: Largest rotation in either direction.
        horizontal_flip: Probability, like all values below.
        erase: Probability of a black rectangle (Zhong et al., Random Erasing Data Augmentation,
            AAAI 2020).
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
    """The network: backbone and head. The default head is that of IvanKosik/bone-age-models."""

    backbone: str = "xception"
    weights: str = "none"  # "none", "imagenet" or the path of a weights file
    weights_sha256: str | None = None  # of that file; None: it must be the ImageNet file
    head: Literal["number", "distribution"] = "number"  # see `build_model`
    gender: bool = True
    gender_units: int = Field(default=32, ge=1)
    dense_units: tuple[Annotated[int, Field(ge=1)], ...] = (1000, 1000)
    dropout: Fraction = 0.0
    pooling: Literal["average", "flatten"] = "average"  # of the feature map; 16Bit flattened it
    age_centre_months: float = 120.0
    age_scale_months: float = Field(default=120.0, gt=0)


class Training(_Section):
    """Optimizer, learning rate schedule and length of one training."""

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=9, ge=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    spread_months: float = Field(default=6.0, gt=0)  # of the label, for a distribution head
    schedule: Literal["constant", "plateau", "cosine"] = "plateau"
    warmup_epochs: float = Field(default=0.0, ge=0)
    plateau_factor: float = Field(default=0.75, gt=0, lt=1)
    plateau_patience: int = Field(default=4, ge=1)
    minimum_learning_rate: float = Field(default=1e-6, ge=0)
    early_stop_patience: int = Field(default=25, ge=0)  # epochs without improvement; 0: never stop
    ema: Fraction = 0.0  # momentum of the averaged weights, which are validated; 0: no average
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    workers: int | None = Field(default=None, ge=1)  # that make batches; None: one per core
    use_multiprocessing: bool = True  # processes make batches; else threads
    tensorboard: bool = False

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Training:
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"weight_decay {self.weight_decay:g} needs optimizer = 'adamw'")
        if self.warmup_epochs and self.schedule != "cosine":
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} needs schedule = 'cosine'")
        return self


Views = Literal[1, 2, 6]


class Prediction(_Section):
    """Test-time augmentation, in evaluation and for single radiographs.

    Attributes:
        views: Number of views whose predictions are averaged. 1 is the image itself. 2 adds its
            mirror image. 6 adds both, rotated by ten degrees in either direction. Training and
            validation use one view.
    """

    views: Views = 1


class Published(_Section):
    """The published result that a recipe reproduces, in months, with its source.

    Attributes:
        test_images: Number of images, like `val_images`.
        test_labels: Who read the images, like `val_labels`. A result on the mean of six readings
            can't be compared with one on a single reading.
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
    def _has_a_result(self) -> Published:
        if self.test_mae_months is None and self.val_mae_months is None:
            raise ValueError("it has neither test_mae_months nor val_mae_months")
        return self


WITHOUT_EFFECT = frozenset(
    {
        *("name", "phantom", "published"),  # the manifest says what is trained on
        *("training.workers", "training.use_multiprocessing", "training.tensorboard"),
    }
)
"""Keys and sections that do not change a result. Comparisons of recipes leave them out."""


class Recipe(_Section):
    """All settings of one experiment. A recipe and a manifest reproduce a run."""

    name: str
    seed: int = Field(default=0, ge=0, lt=2**32)
    phantom: Phantom | None = None
    framing: Framing = Framing()
    augmentation: Augmentation = Augmentation()
    model: Model = Model()
    training: Training = Training()
    prediction: Prediction = Prediction()
    published: Published | None = None


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe, given as a file, a folder, or the name of an experiment.

    Names are those of the folders in `experiments`, of the clone and of the working folder. A path
    that exists wins over a name.

    Raises:
        InputError: There is no such recipe.
    """
    path = Path(name)
    clone = Path(__file__).parents[1]
    is_clone = (clone / "pyproject.toml").is_file()  # otherwise this is site-packages
    shelves = [*([clone / "experiments"] if is_clone else []), Path("experiments")]
    is_name = path.name == str(name)  # not a path of several parts
    is_folder = False
    with contextlib.suppress(OSError, ValueError):  # such as a name that is too long
        is_folder = path.is_dir()
        if path.exists() and not is_folder:
            return path
        for found in (path / _RECIPE, *(shelf / path / _RECIPE for shelf in shelves if is_name)):
            if found.is_file():
                return found
    what = f"the folder holds no {_RECIPE}" if is_folder else "there is no such file"
    if is_name:
        what += ", and there is no recipe of that name"
    names = sorted({file.parent.name for shelf in shelves for file in shelf.glob(f"*/{_RECIPE}")})
    close = difflib.get_close_matches(path.name, names, n=1)
    fix = f"Did you mean {close[0]!r}?" if close else "Name the path of a recipe."
    if names:
        fix += f" Known names: {', '.join(names)}."
    else:
        fix += (
            " The project's recipes are in the folder experiments of a clone, not in the package."
        )
    raise InputError(Fault(f"recipe {str(name)!r}", what, fix))


def read_recipe(path: Path, overrides: Sequence[str] = (), *, seed: int | None = None) -> Recipe:
    """Read a recipe from a file and apply `section.key=value` overrides.

    Args:
        path: A `.toml` file, or the `recipe.json` of a run.
        overrides: Values of `--set`. Each value is read as TOML, or else as plain text.
        seed: Replaces the seed of the recipe.

    Raises:
        InputError: The file can't be read, or it has wrong keys or values. All are reported.
    """
    try:
        text = read_text(path, LARGEST_RECIPE)
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except InputError as error:
        fix = f"{error.faults[0].fix} The project's recipes are experiments/NAME/recipe.toml."
        raise InputError(replace(error.faults[0], fix=fix)) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; deep nesting
        raise InputError(
            Fault(str(path), f"it is not valid TOML: {error}", "Correct that line.")
        ) from None
    for override in overrides:
        _apply(values, override)
    if seed is not None:
        values["seed"] = seed
    return recipe_from_values(values, where=str(path))


def recipe_from_values(values: dict[str, Any], *, where: str) -> Recipe:
    """Return the recipe with these values, as read from TOML or JSON.

    Raises:
        InputError: Some keys or values are wrong. It names all of them, with close matches.
    """
    try:
        return Recipe.model_validate(values)
    except pydantic.ValidationError as error:
        raise InputError([_fault(where, detail) for detail in error.errors()]) from None


def differing_settings(before: Recipe, after: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return both values of every setting that differs and may change a result, by its key."""
    old, new = (_flat(recipe.model_dump(mode="json")) for recipe in (before, after))
    return {key: (old[key], value) for key, value in new.items() if old[key] != value}


def changed_settings(before: Recipe, after: Recipe) -> list[str]:
    """Return what makes one recipe of another, as `--set` reads it.

    The seed and the digest of the weights file are left out: they are reported elsewhere.
    """
    return [
        f"{key}={_toml(value)}"
        for key, (_, value) in differing_settings(before, after).items()
        if key not in ("seed", "model.weights_sha256")
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in WITHOUT_EFFECT:
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
                "the '=' is missing",
                "Write it as in --set training.epochs=3.",
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
                    "Write section.key=value, as in --set training.epochs=3.",
                )
            )
    target[name] = value


def _known_keys(location: Sequence[int | str]) -> list[str]:
    section: Any = Recipe
    for part in location:
        section = _SECTIONS.get(str(part)) if part in section.model_fields else None
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
        return Fault(where, f"{key!r} is missing", f"Add a line: {key} = …")
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    what = f"{key} is {detail['input']!r}"
    return Fault(where, what, "Correct that value.", expected=_expected(message))


def _expected(message: str) -> str:
    for opening in ("input should be ", "input should "):
        if message.startswith(opening):
            return message.removeprefix(opening)
    return f"a valid value ({message})"
