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
from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from boneage.errors import Fault, InputError
from boneage.runtime.files import read_text
from boneage.runtime.names import NAME_RULE, is_name
from boneage.runtime.schemas import expected, key_of, shown

_RECIPE = "recipe.toml"
LARGEST_RECIPE = 1 << 15  # bytes; ours have three thousand
MAX_DOTS = 300  # in a line
MAX_PHANTOMS = 1_000_000
MAX_UNITS = 65_536
SPREAD_AT_BIRTH = 2.0  # months, with `training.spread_by_age`

Units = Annotated[int, Field(ge=1, le=MAX_UNITS)]
Percentile = Annotated[float, Field(ge=0, le=100)]
Scale = Annotated[float, Field(ge=0.01, le=100)]
Months = Annotated[float, Field(ge=0, le=1000)]


def _share(default: float, description: str, **limits: float) -> Any:
    settings: dict[str, Any] = {"ge": 0, **(limits or {"le": 1})}
    return Field(default=default, description=description, **settings)


class _Section(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        """Check the values that a program passes.

        Raises:
            InputError: Some names or values are wrong. It names all of them.
        """
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            kind = type(self)
            faults = [_fault(kind.__name__, detail, kind) for detail in error.errors()]
            raise InputError(faults) from None

    def __setattr__(self, name: str, value: Any) -> None:
        kind = type(self).__name__
        fix = f"Make another: {kind}({name}={shown(value)})."
        raise InputError(Fault(f"{kind}.{name}", "settings can't be changed", fix))

    # Otherwise pydantic calls this for each section of a recipe, and stops at the first error.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


class Phantom(_Section):
    """Synthetic dataset to train on if no manifest is given."""

    count: int = Field(
        default=1500, ge=10, le=MAX_PHANTOMS, description="Number of images to draw."
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the drawings.")
    size: int = Field(default=256, ge=64, le=2048, description="Side of the images, pixels.")


class Framing(_Section):
    """How a decoded radiograph becomes one square image of grey levels."""

    size: int = Field(default=299, ge=32, le=2048, description="Side of the square, pixels.")
    crop: Literal["hand", "none"] = Field(
        default="hand",
        description="`hand` finds the hand and cuts it out with a margin. `none` keeps everything.",
    )
    fit: Literal["pad", "stretch"] = Field(
        default="pad",
        description="`pad` keeps the aspect and makes the rest black. `stretch` fills the square.",
    )
    contrast_percentiles: tuple[Percentile, Percentile] = Field(
        default=(2.0, 99.5),
        description="The grey levels at these percentiles become black and white. The first is a "
        "percentile of the crop, the second one of the hand where a hand was found.",
    )
    source_pixels: int | None = Field(
        default=None,
        ge=16,
        le=4096,
        description="Sides of the square to which a larger radiograph is shrunk before the hand is "
        "looked for, pixels. A smaller side is left as it is. Default: no shrinking.",
    )
    sampling: Literal["area", "nearest"] = Field(
        default="area",
        description="How a radiograph is shrunk to `source_pixels`. `area` averages. `nearest` "
        "takes single pixels, as `PIL.Image.resize` does with `NEAREST`.",
    )

    upright: Literal["quarters", "fine"] = Field(
        default="quarters",
        description="`quarters` turns a hand by 90, 180 or 270 degrees, so that its fingers point "
        "up. `fine` also turns one that slants by more than 15 degrees.",
    )

    def recorded(self) -> dict[str, Any]:
        """Return the settings for keys and stores: those added later only where they are used.

        Stores made before there were such settings thus stay valid.
        """
        values, plain = self.model_dump(mode="json"), type(self).model_fields
        later = ("source_pixels", "sampling", "upright")
        return {k: v for k, v in values.items() if k not in later or v != plain[k].default}

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

    @model_validator(mode="after")
    def _sampling_has_a_size(self) -> Framing:
        if self.sampling != "area" and self.source_pixels is None:
            raise ValueError(f"sampling = '{self.sampling}' needs source_pixels")
        return self


class Augmentation(_Section):
    """Random changes of training images. The defaults are those of IvanKosik/bone-age-models."""

    affine: float = _share(
        1.0,
        "Share of the images that are shifted, scaled and rotated. This interpolates pixels. The "
        "other images keep the pixels that framing made.",
    )
    shift: float = _share(0.2, "Largest shift, as a fraction of the side.", lt=1)
    scale: tuple[Scale, Scale] = Field(
        default=(0.8, 1.2), description="Smallest and largest scale factor."
    )
    rotate_degrees: float = _share(20.0, "Largest rotation in either direction.", le=180)
    horizontal_flip: float = _share(0.5, "Probability of a mirror image.")
    vertical_flip: float = _share(0.0, "Probability of an upside-down image.")
    gamma: float = _share(0.5, "Probability of a gamma correction.")
    brightness_contrast: float = _share(0.2, "Probability of another brightness and contrast.")
    sharpen: float = _share(0.5, "Probability of sharpening.")
    optical_distortion: float = _share(0.5, "Probability of a barrel or pincushion distortion.")
    erase: float = _share(
        0.0,
        "Probability of a black rectangle (Zhong et al., Random Erasing Data Augmentation, AAAI "
        "2020).",
    )
    resample: float = _share(
        0.0,
        "Probability of fewer pixels. The image is shrunk by a factor from 0.5 to 1 and enlarged "
        "again. It is shrunk by nearest, bilinear without prefilter (each in 3 of 8 cases), area "
        "or Lanczos (each in 1 of 8).",
    )
    blur: float = _share(
        0.0, "Probability of a Gaussian blur. Its standard deviation is up to 0.8 pixels."
    )
    noise: float = _share(
        0.0,
        "Probability of Gaussian noise. Its standard deviation is up to 8 of the radiograph's 255 "
        "levels, before the contrast stretch.",
    )
    jpeg: float = _share(
        0.0, "Probability of a JPEG compression. Its quality is 30 to 95, and mostly below 60."
    )
    whole_image: float = _share(
        0.0,
        "Probability of the whole radiograph in place of the hand, drawn for each epoch. It "
        'needs `framing.crop = "hand"`. Validation and prediction see the hand.',
    )

    @model_validator(mode="after")
    def _scale_in_order(self) -> Augmentation:
        low, high = self.scale
        if low > high:
            raise ValueError(f"scale {low}, {high} is not 0 < low <= high")
        return self


class Model(_Section):
    """The network: backbone and head. The default head is that of IvanKosik/bone-age-models."""

    backbone: str = Field(
        default="xception",
        max_length=100,
        description="`xception`, `inception_v3`, `densenet169`, `convnext_tiny`, "
        "`efficientnet_v2_s`, `mini_xception`, `mini_resnet`, `small_resnet`, or the name of a "
        "plug-in.",
    )
    weights: str = Field(
        default="none",
        max_length=4096,
        description="Weights to start from: `none`, `imagenet` or the path of a weights file.",
    )
    weights_sha256: str | None = Field(
        default=None,
        max_length=64,
        description="SHA-256 of the weights file. Without it, the file must be the ImageNet file.",
    )
    drop_path: float = _share(
        0.0,
        "Largest probability that an image skips a residual branch in training (stochastic "
        "depth). Only for `convnext_tiny` and `efficientnet_v2_s`.",
        lt=1,
    )
    head: Literal["number", "distribution"] = Field(
        default="number",
        description="`number` answers one number. `distribution` gives a probability for each "
        "month, and answers their mean.",
    )
    gender: bool = Field(default=True, description="Whether the child's sex is used.")
    gender_units: int = Field(
        default=32, ge=1, le=MAX_UNITS, description="Width of the layer for the child's sex."
    )
    gender_by: Literal["concatenate", "film"] = Field(
        default="concatenate",
        description="How the sex enters. `concatenate` joins its layer with the pooled features. "
        "`film` scales and shifts each feature (Perez et al., AAAI 2018).",
    )
    dense_units: tuple[Units, ...] = Field(
        default=(1000, 1000), max_length=32, description="Widths of the dense layers of the head."
    )
    dropout: float = _share(0.0, "Rate of dropout before each dense layer.", lt=1)
    pooling: Literal["average", "flatten"] = Field(
        default="average",
        description="`average` takes the mean of the feature map. `flatten` keeps positions, as "
        "the winner of the RSNA challenge did.",
    )
    age_centre_months: float = Field(
        default=120.0, ge=-1000, le=1000, description="Age that the number 0 stands for, months."
    )
    age_scale_months: float = Field(
        default=120.0, ge=0.01, le=10_000, description="Months for each unit of the number."
    )


class Training(_Section):
    """Optimizer, learning rate and length of one training."""

    epochs: int = Field(default=100, ge=1, le=100_000, description="Largest number of epochs.")
    batch_size: int = Field(default=9, ge=1, le=65_536, description="Images in a batch.")
    optimizer: Literal["adam", "adamw"] = Field(
        default="adam", description="Optimizer. Only `adamw` has weight decay."
    )
    learning_rate: float = Field(
        default=1e-4, ge=1e-12, le=100, description="Highest learning rate."
    )
    backbone_rate: float = Field(
        default=1.0,
        ge=0.001,
        le=1000,
        description="Factor of the learning rate for the backbone's weights. Weight decay and the "
        "head keep the whole rate.",
    )
    weight_decay: float = Field(default=0.0, ge=0, le=100, description="Weight decay of `adamw`.")
    decay_norms_and_biases: bool = Field(
        default=True,
        description="Whether weight decay also applies to vectors: biases, and the scales and "
        "offsets of normalisation. `false` is usual. `true` is the default of earlier versions.",
    )
    spread_months: float = Field(
        default=6.0,
        ge=0.1,
        le=240,
        description="Standard deviation of the label's distribution, for a distribution head.",
    )
    spread_by_age: float = _share(
        0.0,
        "Increase of that standard deviation by month of age, from 2 months at birth to at most "
        "`spread_months`. 0 means the same at every age.",
    )
    balance_sources: float = _share(
        0.0,
        "How an epoch is shared among the sources of the manifest. 0: every image equally often. "
        "1: every source equally often. Between them, the share of a source with n images is as "
        "n to the power of 1 - `balance_sources`. An epoch keeps its number of images.",
    )
    schedule: Literal["constant", "plateau", "cosine"] = Field(
        default="plateau",
        description="Learning rate by epoch. `plateau` lowers it when the validation MAE stops "
        "improving. `cosine` lowers it to the minimum at the last epoch.",
    )
    warmup_epochs: float = Field(
        default=0.0,
        ge=0,
        le=100_000,
        description="Epochs with a rising learning rate, for `cosine`. At most `epochs`.",
    )
    plateau_factor: float = Field(
        default=0.75, gt=0, lt=1, description="Factor of the learning rate at a plateau."
    )
    plateau_patience: int = Field(
        default=4, ge=1, le=100_000, description="Epochs without improvement before a plateau."
    )
    minimum_learning_rate: float = Field(
        default=1e-6, ge=0, le=100, description="Lowest learning rate of `plateau` and `cosine`."
    )
    early_stop_patience: int = Field(
        default=25,
        ge=0,
        le=100_000,
        description="Epochs without improvement before the training ends. 0 never ends it.",
    )
    ema: float = _share(
        0.0,
        "Momentum of averaged weights, which are validated and saved. 0 means no average.",
        lt=1,
    )
    ema_statistics: bool = Field(
        default=False,
        description="Whether `ema` also averages the moving statistics of batch normalisation, "
        "so that they fit the averaged weights. `false` is the default of earlier versions.",
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        default="float32",
        description="Type of the computation. The mixed types are faster on a GPU.",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Processes or threads that make batches. Default: one for each core.",
    )
    use_multiprocessing: bool = Field(
        default=True, description="Whether processes make batches. Otherwise threads do."
    )
    tensorboard: bool = Field(default=False, description="Whether to write logs for TensorBoard.")

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Training:
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"weight_decay {self.weight_decay:g} needs optimizer = 'adamw'")
        if not self.decay_norms_and_biases and not self.weight_decay:
            raise ValueError("decay_norms_and_biases = false needs weight_decay above 0")
        if self.ema_statistics and not self.ema:
            raise ValueError("ema_statistics = true needs ema above 0")
        if self.warmup_epochs and self.schedule != "cosine":
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} needs schedule = 'cosine'")
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} exceeds epochs {self.epochs}")
        return self


Views = Literal[1, 2, 6]
Phases = Literal[1, 4]


class Prediction(_Section):
    """Test-time augmentation, in evaluation and for single radiographs."""

    views: Views = Field(
        default=1,
        description="Number of views whose answers are averaged. 1 is the image itself. 2 adds "
        "its mirror image. 6 adds both, rotated by ten degrees in either direction. Training and "
        "validation use one view.",
    )
    phases: Phases = Field(
        default=1,
        description="Number of phases whose answers are averaged, for `framing.sampling = "
        '"nearest"`. 1 takes the pixel in the middle of each area that becomes one pixel. 4 takes '
        "pixels at a quarter and three quarters of it, in both directions. A radiograph that is "
        "not larger than `framing.source_pixels` has one. Training and validation use one.",
    )


class Published(_Section):
    """The published result that a recipe reproduces, with its source."""

    source: str = Field(max_length=2000, description="Article or repository of the result.")
    test_mae_months: Months | None = Field(default=None, description="MAE on the test set.")
    test_interval_months: tuple[Months, Months] | None = Field(
        default=None, description="95 % interval of that MAE."
    )
    test_images: int | None = Field(
        default=None, ge=1, le=10**9, description="Number of test images."
    )
    test_labels: str | None = Field(
        default=None,
        max_length=2000,
        description="Who read the test images. A result on the mean of six readings can't be "
        "compared with one on a single reading.",
    )
    val_mae_months: Months | None = Field(default=None, description="MAE on the validation set.")
    val_interval_months: tuple[Months, Months] | None = Field(
        default=None, description="95 % interval of that MAE."
    )
    val_images: int | None = Field(
        default=None, ge=1, le=10**9, description="Number of validation images."
    )
    val_labels: str | None = Field(
        default=None, max_length=2000, description="Who read the validation images."
    )
    test_answers: str | None = Field(
        default=None,
        max_length=2000,
        description="Public address of a table with the published answer for each test image.",
    )
    val_answers: str | None = Field(
        default=None, max_length=2000, description="The same for the validation images."
    )
    answers_column: str = Field(
        default="predicted_age_months",
        max_length=200,
        description="Column of these tables that holds the answers, in months.",
    )

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

    name: str = Field(description="Name of the experiment, which begins the name of a run.")
    seed: int = Field(
        default=0, ge=0, lt=2**32, description="Seed of weights, order and augmentation."
    )
    phantom: Phantom | None = None
    framing: Framing = Framing()
    augmentation: Augmentation = Augmentation()
    model: Model = Model()
    training: Training = Training()
    prediction: Prediction = Prediction()
    published: Published | None = None

    @model_validator(mode="after")
    def _phases_have_an_effect(self) -> Recipe:
        if self.prediction.phases > 1 and self.framing.sampling != "nearest":
            phases = self.prediction.phases
            raise ValueError(f"prediction.phases {phases} needs framing.sampling = 'nearest'")
        return self

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not is_name(name):
            raise ValueError(f"input should be {NAME_RULE}")
        return name

    @field_validator("augmentation")
    @classmethod
    def _whole_images_are_others(cls, value: Augmentation, info: ValidationInfo) -> Augmentation:
        framing = info.data.get("framing")  # missing if it is faulty
        if value.whole_image and framing is not None and framing.crop == "none":
            raise ValueError(f"whole_image {value.whole_image:g} needs framing.crop = 'hand'")
        return value

    def framings(self) -> tuple[Framing, ...]:
        """Return the framings that a training needs a store of: the usual one is the first."""
        if not self.augmentation.whole_image:
            return (self.framing,)
        return self.framing, self.framing.model_copy(update={"crop": "none"})


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
    values = _read_values(path)
    for override in overrides:
        _apply(values, override)
    if seed is not None:
        values["seed"] = seed
    return recipe_from_values(values, where=str(path))


def _read_values(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path, LARGEST_RECIPE)
    except InputError as error:
        fix = f"{error.faults[0].fix} The project's recipes are experiments/NAME/recipe.toml."
        raise InputError(replace(error.faults[0], fix=fix)) from None
    if any(line.count(".") > MAX_DOTS for line in text.splitlines()):  # slow for tomllib
        raise InputError(Fault(str(path), f"a line has over {MAX_DOTS} dots", "Shorten it."))
    language = "JSON" if path.suffix == ".json" else "TOML"
    try:
        values = json.loads(text) if language == "JSON" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        what = f"it is not valid {language}: {error}"
        raise InputError(Fault(str(path), what, "Correct that line.")) from None
    except (ValueError, RecursionError):
        what = "a number has thousands of digits, or brackets are nested too deeply"
        raise InputError(Fault(str(path), what, "Correct that value.")) from None
    if not isinstance(values, dict):
        raise InputError(Fault(str(path), "it holds no JSON object", "Name another file."))
    return values


def recipe_from_values(values: dict[str, Any], *, where: str) -> Recipe:
    """Return the recipe with these values, as read from TOML or JSON.

    Raises:
        InputError: Some keys or values are wrong. It names all of them, with close matches.
    """
    try:
        return Recipe.model_validate(values)
    except pydantic.ValidationError as error:
        raise InputError([_fault(where, detail, Recipe) for detail in error.errors()]) from None


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
    example = "Write section.key=value, as in --set training.epochs=3."
    if not equals:
        raise InputError(_override_fault(override, "the '=' is missing", example))
    *sections, name = key.strip().split(".")
    if len(sections) > 1:
        what = f"no key of a recipe has {len(sections) + 1} parts"
        raise InputError(_override_fault(override, what, example))
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            what = f"{shown(section)} is a value, not a section"
            raise InputError(_override_fault(override, what, example))
    target[name] = _value(override, text)


def _value(override: str, text: str) -> Any:
    """Return the value of an override: as TOML, or else as plain text."""
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except (ValueError, RecursionError):  # a number of 5,000 digits; deep nesting
        what = "the value is too long or too deep"
        raise InputError(_override_fault(override, what, "Correct that value.")) from None
    return read["value"] if len(read) == 1 else text  # a second line is no second override


def _override_fault(override: str, what: str, fix: str) -> Fault:
    return Fault(f"--set {override:.200}", what, fix)


def _known_keys(root: type[_Section], location: Sequence[int | str]) -> list[str]:
    section: Any = root
    for part in location:
        section = _SECTIONS.get(str(part)) if part in section.model_fields else None
        if section is None:
            return []
    return list(section.model_fields)


def _close_matches(name: str, known: Sequence[str]) -> list[str]:
    """Return the known names that may be meant: misspelt, or with the same beginning."""
    misspelt = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    related = [each for each in known if len(name) > 3 and (each[:4] == name[:4] or name in each)]
    return misspelt or related or difflib.get_close_matches(name, known, n=1, cutoff=0.5)


_SECTIONS: dict[str, type[_Section]] = {
    "phantom": Phantom,
    "framing": Framing,
    "augmentation": Augmentation,
    "model": Model,
    "training": Training,
    "prediction": Prediction,
    "published": Published,
}


def _fault(where: str, detail: Any, root: type[_Section]) -> Fault:
    location = detail["loc"]
    key = key_of(detail)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(root, location[:-1])
        close = _close_matches(str(location[-1])[:100], known)
        section = ".".join(str(part) for part in location[:-1])
        return Fault(
            where,
            f"unknown key {key!r}",
            f"Did you mean {close[0]!r}?" if close else "Remove it.",
            expected=f"one of {', '.join(known)}" + (f" in [{section}]" if section else ""),
        )
    if detail["type"] == "missing":
        return Fault(where, f"{key!r} is missing", f"Add a line: {key} = …")
    return Fault(
        where, f"{key} is {shown(detail['input'])}", "Correct that value.", expected(detail)
    )
