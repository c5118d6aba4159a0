import json
from pathlib import Path

import pytest

from boneage import recipe as recipe_module
from boneage.errors import InputError
from boneage.recipe import Augmentation, Framing, Recipe, find_recipe, read_recipe

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_defaults_are_the_lineage(tmp_path):
    recipe = read_recipe(written(tmp_path, 'name = "lineage"'))
    assert recipe.model.gender_units == 32
    assert recipe.model.dense_units == (1000, 1000)
    assert (recipe.training.learning_rate, recipe.training.batch_size) == (1e-4, 9)
    assert recipe.augmentation.vertical_flip == 0.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nepoch = 3", "unknown key 'training.epoch'"),
        ("[training]\nepoch = 3", "Did you mean 'epochs'?"),
        ("[trainin]\nepochs = 3", "Did you mean 'training'?"),
        ("[augmentation]\nhorizontal_flop = 0.5", "Did you mean 'horizontal_flip'?"),
        ("[training]\nepochs = 0", "training.epochs is 0; expected greater than or equal to 1"),
        ("[training]\noptimizer = 'sgd'", "training.optimizer is 'sgd'; expected 'adam' or"),
        ("[framing]\ncontrast_percentiles = [99, 2]", "contrast_percentiles 99.0, 2.0"),
        ("[augmentation]\nscale = [1.2, 0.8]", "scale 1.2, 0.8"),
        ("[augmentation]\nsharpen = 1.5", "less than or equal to 1"),
        ("[training]\nweight_decay = 0.1", "weight_decay 0.1 needs optimizer = 'adamw'"),
        ("[prediction]\nphases = 4", "prediction.phases 4 needs framing.sampling = 'nearest'"),
        ("[training]\nema_statistics = true", "ema_statistics = true needs ema above 0"),
        ("[training]\ndecay_norms_and_biases = false", "needs weight_decay above 0"),
        ("[training]\nwarmup_epochs = 2", "warmup_epochs 2 needs schedule = 'cosine'"),
    ],
)
def test_a_wrong_key_or_value_is_refused_with_what_was_meant(tmp_path, text, message):
    with pytest.raises(InputError) as refused:
        read_recipe(written(tmp_path, f'name = "x"\n{text}'))
    assert message in str(refused.value)


def test_all_faults_of_a_recipe_come_at_once(tmp_path):
    text = 'name = "x"\n[training]\nepoch = 3\nbatch_size = 0\n[model]\nbackbones = "xception"'
    with pytest.raises(InputError) as refused:
        read_recipe(written(tmp_path, text))
    assert len(refused.value.faults) == 3


def test_a_recipe_without_a_name_is_refused(tmp_path):
    with pytest.raises(InputError, match="'name' is missing"):
        read_recipe(written(tmp_path, "seed = 1"))


def test_text_that_is_no_toml_is_refused_with_its_line(tmp_path):
    with pytest.raises(InputError, match="not valid TOML.*line 2"):
        read_recipe(written(tmp_path, 'name = "x"\nseed = = 1'))


def test_a_missing_recipe_says_where_recipes_are(tmp_path):
    with pytest.raises(InputError, match=r"experiments/NAME/recipe.toml"):
        read_recipe(tmp_path / "absent.toml")


def test_overrides_are_read_as_toml_and_checked_like_the_file(tmp_path):
    path = written(tmp_path, 'name = "x"')
    overrides = ["training.epochs=3", "model.gender=false", "model.backbone=mini_xception"]
    recipe = read_recipe(path, overrides, seed=7)
    assert (recipe.training.epochs, recipe.model.gender, recipe.seed) == (3, False, 7)
    assert recipe.model.backbone == "mini_xception"
    with pytest.raises(InputError, match=r"unknown key 'training\.epoch'"):
        read_recipe(path, ["training.epoch=3"])
    with pytest.raises(InputError, match="the '=' is missing"):
        read_recipe(path, ["training.epochs"])
    with pytest.raises(InputError, match="'name' is a value, not a section"):
        read_recipe(path, ["name.first=3"])


def test_a_resolved_recipe_reads_back_from_json_unchanged(tmp_path):
    recipe = read_recipe(written(tmp_path, 'name = "x"\n[training]\nepochs = 3'))
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.model_dump(mode="json")))
    assert read_recipe(path) == recipe


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*/recipe.toml")), ids=str)
def test_every_committed_recipe_is_valid_and_bears_its_folder_s_name(path):
    recipe = read_recipe(path)
    assert isinstance(recipe, Recipe)
    assert recipe.name == path.parent.name


def test_recipes_are_found_by_name_by_folder_and_by_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name = find_recipe("rsna-xception")
    assert by_name.name == "recipe.toml"
    assert find_recipe(by_name) == by_name
    assert find_recipe(by_name.parent) == by_name
    mine = Path("experiments/mine/recipe.toml")  # as in the Docker image's folder
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert find_recipe("mine") == mine
    Path("rsna-best").mkdir()  # such as a run: it holds no recipe, so the name counts
    assert find_recipe("rsna-best").parent.name == "rsna-best"
    assert find_recipe("rsna-best").is_absolute()
    Path("rsna-best/recipe.toml").touch()
    assert find_recipe("rsna-best") == Path("rsna-best/recipe.toml")
    Path("phantom").touch()
    assert find_recipe("phantom") == Path("phantom")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rsna-bst", r"Did you mean 'rsna-best'\? Known names: .*rsna-16bit"),
        ("nothing of the kind", "no recipe of that name. Name the path of a recipe. Known names"),
        ("rsna-best/recipe.toml", "there is no such file. "),
        ("../rsna-best", "there is no such file. "),
        ("x" * 5000, "there is no such file"),
        ("nul\0", "there is no such file"),
        (".", "the folder holds no recipe.toml"),
    ],
)
def test_an_unknown_recipe_is_refused_with_the_known_names(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        find_recipe(name)


def test_without_a_clone_the_message_says_where_the_recipes_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        recipe_module, "__file__", str(tmp_path / "site-packages/boneage/recipe.py")
    )
    with pytest.raises(InputError, match="in the folder experiments of a clone"):
        find_recipe("rsna-best")


@pytest.mark.parametrize(
    "setting",
    [
        *("training.learning_rate=inf", "training.minimum_learning_rate=nan"),
        *("training.spread_months=inf", "training.spread_months=1e-320", "training.epochs=1e12"),
        *("training.workers=100000", "model.age_scale_months=1e-320"),
        *("training.batch_size=1000000", "training.warmup_epochs=1e308", "seed=4294967296"),
        *("model.age_centre_months=nan", "model.age_scale_months=inf", "phantom.count=1e12"),
        *("model.dense_units=[1000000000]", "model.gender_units=10000000000"),
        *("augmentation.scale=[1, inf]", "augmentation.rotate_degrees=nan", "framing.size=1e9"),
        *("framing.contrast_percentiles=[nan, 99]", "name=../x", "name=/x", 'name="a\\u0000b"'),
        *("name=..", "name=''", "model.backbone=" + "x" * 5000, "training.epochs=" + "9" * 5000),
        *("training.epochs=" + "[" * 5000, "training.epochs=0x" + "f" * 5000),
        *("a" + ".a" * 100_000 + "=1", "x" * 100_000, "=", ".=1", "training.epochs=1\nseed=2"),
    ],
    ids=lambda setting: setting[:30],
)  # fmt: skip
def test_a_value_without_bounds_is_refused_at_once_and_in_few_words(tmp_path, setting):
    path = written(tmp_path, 'name = "x"')
    with pytest.raises(InputError) as refused:
        read_recipe(path, [setting])
    assert len(str(refused.value)) < 800


@pytest.mark.parametrize(
    "text",
    [
        *("a" + ".a" * 16_000 + " = 1", "[" + "a." * 400 + "a]", "x = " + "[" * 900 + "]" * 900),
        *("seed = " + "9" * 5000, "seed = 0x" + "f" * 9000, "x = " + "{a=" * 500 + "1" + "}" * 500),
        "# " + "x" * 40_000,
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_recipe_that_is_slow_or_deep_is_refused(tmp_path, text):
    with pytest.raises(InputError) as refused:
        read_recipe(written(tmp_path, f'name = "x"\n{text}\n'))
    assert len(str(refused.value)) < 800


@pytest.mark.parametrize("text", ["[]", "3", '{"name": ' + "[" * 900 + "]" * 900 + "}"])
def test_a_json_recipe_that_is_no_section_of_keys_is_refused(tmp_path, text):
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(InputError):
        read_recipe(path, ["training.epochs=3"], seed=1)


def test_a_warmup_is_no_longer_than_the_training(tmp_path):
    schedule = '[training]\nschedule = "cosine"\nepochs = 3\nwarmup_epochs = '
    assert read_recipe(written(tmp_path, f'name = "x"\n{schedule}3')).training.warmup_epochs == 3
    with pytest.raises(InputError, match="warmup_epochs 3.5 exceeds epochs 3"):
        read_recipe(written(tmp_path, f'name = "x"\n{schedule}3.5'))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rotation": 20}, "unknown key 'rotation'.*Did you mean 'rotate_degrees'"),
        ({"rotate_degree": 20}, "unknown key 'rotate_degree'.*Did you mean 'rotate_degrees'"),
        ({"flip": 0.5}, "unknown key 'flip'.*Did you mean 'horizontal_flip'"),
        ({"contrast": 0.5}, "unknown key 'contrast'.*Did you mean 'brightness_contrast'"),
        ({"shift": "a lot"}, "shift is 'a lot'; expected a valid number"),
        ({"gamma": 3}, "gamma is 3; expected less than or equal to 1"),
        ({"affine": float("nan")}, "affine is nan; expected a finite number"),
        ({"scale": (2, 1)}, "scale 2.0, 1.0 is not 0 < low <= high"),
        ({"scale": (1, "x")}, "scale.1 is 'x'"),
    ],
)
def test_values_of_a_program_are_checked_like_those_of_a_file(values, message):
    with pytest.raises(InputError, match=message) as caught:
        Augmentation(**values)
    assert str(caught.value).startswith("Augmentation: ")


def test_all_wrong_values_of_a_program_are_named_at_once():
    with pytest.raises(InputError) as caught:
        Framing(size=5, crop="x")
    assert [str(fault).split(" is")[0] for fault in caught.value.faults] == [
        "Framing: size",
        "Framing: crop",
    ]
    with pytest.raises(InputError) as caught:
        Recipe(name="a", framing={"size": 3}, augmentation={"rotation": 2})
    assert len(caught.value.faults) == 2


def test_settings_that_are_set_afterwards_are_refused_with_what_to_write():
    with pytest.raises(
        InputError, match=r"can't be changed. Make another: Augmentation\(shift=0.1"
    ):
        Augmentation().shift = 0.1


def test_whole_images_need_crops_to_differ_from(tmp_path):
    path = written(tmp_path, 'name = "x"\n[augmentation]\nwhole_image = 0.4')
    usual, other = read_recipe(path).framings()
    assert (usual.crop, other.crop) == ("hand", "none")
    assert usual.model_copy(update={"crop": "none"}) == other
    assert read_recipe(path, ["augmentation.whole_image=0"]).framings() == (usual,)
    with pytest.raises(InputError, match=r"whole_image 0.4 needs framing\.crop = 'hand'"):
        read_recipe(path, ["framing.crop=none"])
