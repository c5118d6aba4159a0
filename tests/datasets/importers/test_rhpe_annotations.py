from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage.datasets.importers.rhpe_annotations import (
    MOST_BYTES,
    MOST_VALUES,
    Hand,
    RegionTally,
    cut,
    read_annotations,
)
from boneage.datasets.validation import parse_region

NUMBERS = st.one_of(
    st.integers(-(10**400), 10**400), st.floats(), st.integers(-50, 400), st.booleans()
)
VALUES = st.one_of(
    st.none(), NUMBERS, st.text(max_size=3), st.lists(NUMBERS, max_size=4), st.just([1] * 51)
)
IMAGES = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(st.integers(0, 3), VALUES),
        "file_name": st.one_of(st.sampled_from(["00001.png", "a/2.png", "..", ""]), VALUES),
        "width": VALUES,
        "height": VALUES,
    },
)
ANNOTATIONS = st.fixed_dictionaries(
    {},
    optional={
        "image_id": st.one_of(st.integers(0, 3), VALUES),
        "bbox": st.one_of(st.lists(st.floats(-50, 400), min_size=4, max_size=4), VALUES),
        "keypoints": st.one_of(st.lists(st.floats(-50, 400), min_size=51, max_size=51), VALUES),
    },
)
LISTS = st.one_of(VALUES, st.lists(st.one_of(IMAGES, VALUES), max_size=4))


@settings(max_examples=80)
@given(
    images=LISTS,
    annotations=st.one_of(VALUES, st.lists(st.one_of(ANNOTATIONS, VALUES), max_size=4)),
    size=st.tuples(st.integers(16, 400), st.integers(16, 400)),
)
def test_whatever_stands_in_the_json_a_region_lies_on_the_radiograph(
    tmp_path_factory: pytest.TempPathFactory,
    images: object,
    annotations: object,
    size: tuple[int, int],
) -> None:
    path = tmp_path_factory.getbasetemp() / "rois.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    answer = read_annotations(path)
    assert answer is not None
    hands, _ = answer
    for number, of_radiograph in hands.items():
        tally = RegionTally()
        region = cut(number, of_radiograph, size, tally)
        assert parse_region(" ".join(map(str, region))) == region
        assert region[2] <= size[0]
        assert region[3] <= size[1]
        told = tally.annotated + len(tally.misfits) + sum(map(len, tally.halved.values()))
        assert told == 1


@pytest.mark.parametrize("content", ["", "[", "\x00", "[" * 100_000, '{"images": [}'])
def test_broken_json_is_a_fault(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rois.json"
    path.write_text(content)
    answer = read_annotations(path)
    assert answer is not None
    hands, faults = answer
    assert not hands
    assert "it can't be read as JSON" in str(faults[0])


@pytest.mark.parametrize("content", ["[]", "3", '{"images": []}', '{"a": {"annotations": []}}'])
def test_json_of_another_kind_is_none_of_ours(tmp_path: Path, content: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    assert read_annotations(path) is None


def test_points_beyond_the_box_widen_the_region() -> None:
    hand = Hand((100, 100, 500, 700), ((50, 400), (300, 900)))
    # 50 to 500 by 100 to 900, and a twentieth of 800 on every side
    assert cut("1", [hand], (2000, 1500), RegionTally()) == (10, 60, 540, 940)


def test_a_region_is_clipped_to_the_radiograph() -> None:
    hand = Hand((-5, 2, 400, 702), ())
    assert cut("1", [hand], (1000, 700), RegionTally()) == (0, 0, 435, 700)


def refusal(path: Path) -> str:
    answer = read_annotations(path)
    assert answer is not None
    hands, faults = answer
    assert not hands
    return "\n".join(map(str, faults))


def test_files_far_larger_than_annotations_are_refused_unparsed(tmp_path: Path) -> None:
    many, large = tmp_path / "many.json", tmp_path / "large.json"
    many.write_bytes(b"[" + b"[]," * MOST_VALUES + b"[]]")
    assert "many.json: it holds some 4,000,002 values" in refusal(many)
    with large.open("wb") as file:
        file.truncate(MOST_BYTES + 1)  # a hole, which takes no room
    assert f"large.json: it has more than {MOST_BYTES:,} bytes" in refusal(large)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_no_annotation_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    assert "it is no file" in refusal(tmp_path / "a.json")


def test_the_same_hand_many_times_is_one_hand(tmp_path: Path) -> None:
    entries = [{"image_id": 1, "bbox": [i % 2_000, 0, 9, 9]} for i in range(6_000)]
    images = [{"id": 1, "file_name": "00001.png"}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": entries}))
    answer = read_annotations(path)
    assert answer is not None
    assert len(answer[0]["1"]) == 2_000
