"""The thumbnails of the RSNA rows: the rule of the ids, the pixels, and what goes wrong."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from boneage.datasets.importers.rsna import import_rsna

SCRIPT = Path(__file__).parents[2] / "experiments" / "rsna-best" / "thumbnails.py"
IDS = [str(name) for name in range(1377, 1407)]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("thumbnails", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    """Thirty images of different sizes and modes, as Kaggle packs them."""
    folder = tmp_path / "originals"
    images = folder / "boneage-training-dataset" / "boneage-training-dataset"
    images.mkdir(parents=True)
    generator = np.random.default_rng(0)
    with (folder / "boneage-training-dataset.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "boneage", "male"])
        for row, name in enumerate(IDS):
            shape = (
                150 + 8 * row,
                130 + 8 * row,  # no multiple of 8, so no ties
                *((3,) if row % 5 == 0 else ()),
            )
            pixels = generator.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{name}.png")
            writer.writerow([name, 20 + 6 * row, row % 2 == 0])
    return folder


def make(script: ModuleType, *arguments: object) -> int:
    """Run the script in this process, and its processes one after the other."""
    return script.main([*map(str, arguments), "--workers", "1"])


def test_a_tenth_of_the_ids_is_held_out(script):
    held_out = [name for name in IDS if script.is_held_out(name)]
    assert held_out == ["1382"]  # of the public data set that the recipes were trained on
    share = np.mean([script.is_held_out(str(name)) for name in range(10_000)])
    assert share == pytest.approx(0.1, abs=0.01)


def test_thumbnails_are_picked_pixels_in_kaggle_s_layout(script, originals, tmp_path, capsys):
    out = tmp_path / "out"
    assert make(script, originals, out) == 0
    assert "29 of 11,320 images" in capsys.readouterr().out
    made = sorted(out.rglob("*.png"))
    assert [path.stem for path in made] == [name for name in IDS if name != "1382"]
    for path in made:
        with Image.open(next(originals.rglob(path.name))) as image:
            grey = np.asarray(image.convert("L"))
        rows, columns = (((np.arange(100) + 0.5) * side / 100).astype(int) for side in grey.shape)
        with Image.open(path) as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), grey[rows][:, columns])
    manifest = import_rsna(out, tmp_path / "manifest.csv", progress=False)
    assert len(manifest) == 29
    assert set(manifest.table["source"]) == {"rsna-kaggle"}
    row = manifest.table.set_index("image_id").loc["1378"]
    assert (row["age_months"], row["sex"]) == (26, "F")


def test_the_other_ids_are_made_on_request(script, originals, tmp_path):
    out = tmp_path / "held-out"
    assert make(script, originals, out, "--held-out") == 0
    assert [path.stem for path in out.rglob("*.png")] == ["1382"]
    labels = {"test": out / "boneage-training-dataset.csv"}
    manifest = import_rsna(out, tmp_path / "held-out.csv", labels=labels, progress=False)
    assert manifest.table[["image_id", "split"]].to_numpy().tolist() == [["1382", "test"]]


def test_larger_images_of_listed_ids_are_averaged(script, originals, tmp_path, capsys):
    ids = tmp_path / "ids.txt"
    ids.write_text("1382\n1378\n9999\n")
    out = tmp_path / "half"
    assert make(script, originals, out, "--ids", ids, "--longer-side", "79") == 0
    assert "2 of 3 images" in capsys.readouterr().out
    assert sorted(path.stem for path in out.rglob("*.png")) == ["1378", "1382"]
    with Image.open(next(originals.rglob("1378.png"))) as image:
        grey = np.asarray(image, dtype=float)
    means = grey.reshape(79, 2, 69, 2).mean(axis=(1, 3))  # half of 158 x 138 pixels
    with Image.open(next(out.rglob("1378.png"))) as image:
        assert np.abs(np.asarray(image) - means).max() <= 0.75


def test_damaged_originals_are_named_at_once_and_the_rest_is_kept(
    script, originals, tmp_path, capsys
):
    out = tmp_path / "out"
    spoilt = [next(originals.rglob(f"{name}.png")) for name in ("1379", "1391")]
    whole = [path.read_bytes() for path in spoilt]
    spoilt[0].write_bytes(whole[0][:300])
    spoilt[1].write_text("no image")
    assert make(script, originals, out) == 2
    err = capsys.readouterr().err
    assert err.count("can't be decoded") == 2
    assert all(str(path) in err for path in spoilt)
    assert not list(out.glob("*.csv"))
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert len(kept) == 27
    for path, content in zip(spoilt, whole, strict=True):
        path.write_bytes(content)
    assert make(script, originals, out) == 0
    assert len(list(out.rglob("*.png"))) == 29
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # not made again


def test_missing_originals_are_named_at_once(script, originals, tmp_path, capsys):
    for name in ("1379", "1391"):
        next(originals.rglob(f"{name}.png")).unlink()
    assert make(script, originals, tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "no image 1379.png" in err
    assert "no image 1391.png" in err
    assert not (tmp_path / "out").exists()


def test_official_validation_and_test_images_are_left_out(script, official_tree, tmp_path):
    out = tmp_path / "out"
    assert make(script, official_tree, out) == 0
    made = {path.stem for path in out.rglob("*.png")}
    assert made == {str(n) for n in range(1400, 1430) if not script.is_held_out(str(n))}


def test_verify_finds_a_changed_pixel(script, originals, tmp_path, capsys):
    out, others = tmp_path / "out", tmp_path / "others"
    assert make(script, originals, others) == 0
    assert make(script, originals, out, "--verify", others) == 0
    assert "29 of 29 identical to the pixel" in capsys.readouterr().out
    path = next(others.rglob("1400.png"))
    with Image.open(path) as image:
        pixels = np.array(image)
    pixels[5, 5] ^= 1
    Image.fromarray(pixels).save(path)
    assert make(script, originals, out, "--verify", others) == 1
    out_text = capsys.readouterr().out
    assert "28 of 29 identical to the pixel" in out_text
    assert "different: 1400" in out_text
    assert make(script, originals, out, "--verify", tmp_path / "originals" / "nothing") == 2
