"""COCO to samples: masks and joints where the files say, crowds left out, shards that go on."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO as CocoFile
from pycocotools.cocoeval import COCOeval

from diception.annotations import InstanceMasks, Keypoints
from diception.datasets.check import check_shards
from diception.datasets.convert import Conversion, convert
from diception.datasets.shards import ShardReader
from diception.datasets.sources.coco import CocoData, decode_segmentation
from diception.tasks.pose import PoseEvaluator

COCO = Path(__file__).parent.parent / ".." / "shared" / "data" / "coco-mini"
real = pytest.mark.skipif(not COCO.is_dir(), reason="../shared/data/coco-mini is not there")
IMAGES = COCO / "val2017"
INSTANCES = COCO / "annotations" / "instances_val2017.json"
KEYPOINTS = COCO / "annotations" / "person_keypoints_val2017.json"
SIZE = (20, 30)


def make_set(folder: Path, **changes) -> tuple[Path, Path]:
    """One image with a square, a crowd and an empty polygon."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (SIZE[1], SIZE[0])).save(folder / "images" / "a.jpg")
    square = {"id": 1, "image_id": 7, "category_id": 3, "iscrowd": 0, "segmentation": [[5, 4, 15, 4, 15, 12, 5, 12]]}
    crowd = {**square, "id": 2, "iscrowd": 1, "segmentation": {"size": list(SIZE), "counts": [0, 100, 500]}}
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1], **changes}],
        "annotations": [square, crowd, {**square, "id": 3, "segmentation": [[1, 1, 1, 1, 1, 1]]}],
        "categories": [{"id": 3, "name": "cup"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "images", folder / "instances.json"


def test_a_polygon_lands_where_it_is_drawn(tmp_path: Path) -> None:
    (sample,) = CocoData(*make_set(tmp_path))
    masks = sample.annotations["instances"]
    wanted = np.zeros(SIZE, bool)
    wanted[4:12, 5:15] = True
    assert isinstance(masks, InstanceMasks) and masks.categories == ("cup",)
    assert np.array_equal(masks.masks[0], wanted)
    assert sample.key == "a" and sample.size == SIZE


def test_the_three_forms_of_a_mask_agree() -> None:
    wanted = np.random.default_rng(0).random(SIZE) > 0.5
    packed = coco_mask.encode(np.asfortranarray(wanted.astype(np.uint8)))
    flat = wanted.T.reshape(-1)
    runs = [len(list(group)) for _, group in itertools.groupby(flat)]
    loose = {"size": list(SIZE), "counts": [0, *runs] if flat[0] else runs}
    assert isinstance(packed["counts"], bytes)
    text = {"size": list(SIZE), "counts": packed["counts"].decode()}
    for segmentation in (packed, text, loose):
        assert np.array_equal(decode_segmentation(segmentation, SIZE), wanted)
    with pytest.raises(ValueError, match="size"):
        decode_segmentation(text, (30, 20))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_name": "../../secret.jpg"}, "leaves the folder"),
        ({"file_name": "/etc/secret.jpg"}, "leaves the folder"),
        ({"file_name": "b.jpg"}, "1 of 1 images are not there"),
        ({"height": 21}, r"size \(20, 30\)"),
    ],
)
def test_a_set_that_does_not_fit_its_images_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(CocoData(*make_set(tmp_path, **changes)))


@pytest.mark.parametrize("number", ["3", 3.0, 4, None, [3]])
def test_a_category_id_of_another_type_or_unknown_is_told(tmp_path: Path, number: object) -> None:
    images, file = make_set(tmp_path)
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = number
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"instances.json.* image 7: .*category_id {re.escape(repr(number))} is none"):
        CocoData(images, file)[0]
    for wrong in ({"id": "3", "name": "cup"}, {"id": 3.5, "name": "cup"}, {"id": 3, "name": 7}, {"id": 3}):
        file.write_text(json.dumps({**content, "categories": [wrong]}))
        with pytest.raises(ValueError, match=r"instances.json: one of 'categories' needs .* as '(id|name)'"):
            CocoData(images, file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {"id": 7}}, "'images' is a dict, it must be a list"),
        ({"images": [{"id": 7}]}, "one of 'images' needs a text as 'file_name'"),
        ({"images": [{"id": 7, "file_name": 3}]}, "needs a text as 'file_name'"),
        ({"annotations": [{"category_id": 3}]}, "one of 'annotations' needs a whole number as 'image_id'"),
        ({"annotations": [4]}, "one of 'annotations' needs"),
        ({"categories": ["cup"]}, "one of 'categories' needs"),
    ],
)
def test_records_that_lack_what_is_needed_are_shown(tmp_path: Path, changes: dict, message: str) -> None:
    images, file = make_set(tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=rf"instances\.json: .*{message}"):
        CocoData(images, file)


@real
def test_poses_are_scored_as_the_coco_library_scores_the_file() -> None:
    """With crowds and people without joints, on which predictions count neither for nor against."""
    content = json.loads(KEYPOINTS.read_text())
    samples = [s for s in CocoData(IMAGES, INSTANCES, KEYPOINTS) if "pose" in s.annotations]
    people = [one for one in content["annotations"] if one["image_id"] in {int(s.key) for s in samples}]
    assert sum(not one["num_keypoints"] for one in people) > 10 and any(one["iscrowd"] for one in people)
    generator, evaluator, results = np.random.default_rng(0), PoseEvaluator(), []
    for sample in samples:
        truth, found = sample.annotations["pose"], []
        for one in (one for one in people if one["image_id"] == int(sample.key)):
            left, top, width, height = one["bbox"]
            joints = np.array(one["keypoints"], float).reshape(17, 3)
            if not one["num_keypoints"]:
                joints = np.stack(
                    [generator.uniform(left, left + width, 17), generator.uniform(top, top + height, 17)], 1
                )
            found.append(joints[:, :2] + generator.normal(size=(17, 2)) * 0.02 * one["area"] ** 0.5)
        array = np.concatenate([np.array(found) + 0.5, np.full((len(found), 17, 1), 2)], axis=2)
        scores = generator.random(len(found))
        evaluator.update(Keypoints(array, truth.size, np.ones(len(found)), scores), truth)
        for joints, score in zip(array - [0.5, 0.5, 0], scores, strict=True):
            one = {"image_id": int(sample.key), "category_id": 1, "keypoints": joints.ravel().tolist()}
            results.append(one | {"score": float(score)})
    content["images"] = [one for one in content["images"] if one["id"] in {int(s.key) for s in samples}]
    reference = CocoFile()
    reference.dataset = content | {"annotations": people}
    reference.createIndex()
    evaluation = COCOeval(reference, reference.loadRes(results), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    wanted = dict(zip(("ap", "ap50", "ap75", "ar"), evaluation.stats[[0, 1, 2, 5]], strict=True))
    assert evaluator.compute() == pytest.approx(wanted, abs=1e-6) and 0.3 < wanted["ap"] < 0.99


def test_wrong_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("no json")
    (tmp_path / "y.json").write_text("[]")
    for name, message in [("x.json", "not a JSON"), ("y.json", "not a COCO"), ("z.json", "cannot be read")]:
        with pytest.raises(ValueError, match=rf"{name}: {message}"):
            list(CocoData(tmp_path, tmp_path / name))


@real
def test_real_samples_agree_with_the_annotation_files() -> None:
    content, people = json.loads(INSTANCES.read_text()), json.loads(KEYPOINTS.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    samples = list(CocoData(IMAGES, INSTANCES, KEYPOINTS))
    assert [int(s.key) for s in samples] == sorted(image["id"] for image in content["images"])
    for sample in samples:
        marked = [a for a in content["annotations"] if a["image_id"] == int(sample.key) and not a["iscrowd"]]
        masks = sample.annotations["instances"]
        assert isinstance(masks, InstanceMasks) and masks.size == sample.size
        assert masks.categories == tuple(names[a["category_id"]] for a in marked)
        # COCO's area is that of the polygon before it is rasterised; a thin outline differs by its border.
        areas = np.array([a["area"] for a in marked])
        assert np.median(np.abs(masks.masks.sum((1, 2)) - areas) / areas) < 0.1
        joints = sum(a["num_keypoints"] for a in people["annotations"] if a["image_id"] == int(sample.key))
        pose = sample.annotations.get("pose")
        assert joints == (int((pose.people[..., 2] > 0).sum()) if isinstance(pose, Keypoints) else 0)


@real
def test_real_shards_are_faultless(tmp_path: Path) -> None:
    manifest = convert(CocoData(IMAGES, INSTANCES, KEYPOINTS), tmp_path, Conversion(samples_per_shard=8))
    assert manifest["samples"] == 20 and [one["samples"] for one in manifest["shards"]] == [8, 8, 4]
    reader = ShardReader(str(tmp_path / "*.tar"))
    for i, sample in enumerate(CocoData(IMAGES, INSTANCES, KEYPOINTS)):
        found = reader.read(i)
        assert np.array_equal(found.image, sample.image)  # the file's own bytes are stored
        assert found.key == sample.key and found.annotations.keys() == sample.annotations.keys()
        for kind, annotation in sample.annotations.items():
            assert found.annotations[kind].to_bytes() == annotation.to_bytes()
    report = check_shards(str(tmp_path / "*.tar"))
    assert report.ok, report.table()
    assert report.samples == 20


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [64, 64], "counts": [0, 10]}, "run lengths sum to 10, the image has 4096"),
        ({"size": [64, 64], "counts": [-5, 4101]}, "whole numbers from 0 on"),
        ({"size": [64, 64], "counts": [0.5, 4095.5]}, "whole numbers from 0 on"),
        ({"size": [50000, 50000], "counts": "0"}, "a mask has size"),
        ({"size": [64, 64], "counts": "0:"}, "run length"),
        ([[0, 0, float("nan"), 0, 10, 10]], "finite numbers"),
        ([[0, 0, 10, 0, 10]], "finite numbers"),
        ([[0, 0, 1e10, 0, 10, 10]], "a polygon reaches from 0 to 1e"),
    ],
)
def test_segmentations_that_the_library_would_not_survive_are_refused(segmentation: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_segmentation(segmentation, (64, 64))


def test_json_of_many_brackets_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="deep.json: not a JSON file"):
        CocoData(tmp_path, tmp_path / "deep.json")


@pytest.mark.parametrize("segmentation", [{"counts": None}, {"counts": 5}, {}, 7])
def test_what_is_no_segmentation_is_refused(segmentation: object) -> None:
    with pytest.raises(ValueError, match="must be polygons, or a dictionary with counts"):
        decode_segmentation(segmentation, SIZE)
