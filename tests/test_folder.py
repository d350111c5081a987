"""Paired folders: what users bring, read right or refused by name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diception.annotations import BinaryMask, DepthMap, Keypoints, LabelMap, NormalMap, RGBImage
from diception.datasets.folder import PairedFolder
from diception.datasets.images import read_image
from diception.datasets.sample import CorruptSample
from diception.datasets.targets import TARGETS, TargetOptions

NUCLEI = Path(__file__).parent.parent / ".." / "shared" / "data" / "nuclei"
SIZE = (12, 16)


def save_images(folder: Path, count: int = 3, size: tuple[int, int] = SIZE, ending: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        values = np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"im{i}.{ending}")
    return folder


def targets(folder: Path, values: np.ndarray, ending: str = "png", name: str = "im0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if ending == "npy":
        np.save(folder / f"{name}.npy", values)
    else:
        Image.fromarray(values).save(folder / f"{name}.{ending}")
    return folder


def first(folder: PairedFolder):
    return folder.read(0).annotations[folder.kind]


def test_masks_are_nonzero_whatever_the_file(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images")
    wanted = np.random.default_rng(0).random(SIZE) > 0.6
    rgba = np.dstack([np.where(wanted, 255, 0)] * 3 + [np.full(SIZE, 255)]).astype(np.uint8)
    indexed = Image.fromarray(wanted.astype(np.uint8))
    indexed.putpalette([0, 0, 0, 0, 0, 0])
    (tmp_path / "palette").mkdir()
    indexed.save(tmp_path / "palette" / "im0.png")
    turned = Image.fromarray((~wanted).astype(np.uint8))
    turned.putpalette([255, 255, 255, 0, 0, 0])
    (tmp_path / "white first").mkdir()
    turned.save(tmp_path / "white first" / "im0.png")
    folders = [
        targets(tmp_path / "one", wanted.astype(np.uint8)),
        targets(tmp_path / "full", np.where(wanted, 255, 0).astype(np.uint8)),
        targets(tmp_path / "sixteen", np.where(wanted, 3, 0).astype(np.uint16)),
        targets(tmp_path / "rgba", rgba),
        targets(tmp_path / "bit", wanted),
        targets(tmp_path / "npy", wanted, "npy"),
        tmp_path / "palette",
        tmp_path / "white first",
    ]
    for folder in folders:
        mask = first(PairedFolder(images, folder, "mask", TargetOptions(category="crack")))
        assert isinstance(mask, BinaryMask) and np.array_equal(mask.mask, wanted), folder.name
        assert mask.category == "crack"


def test_noise_of_a_lossy_mask_is_not_foreground(tmp_path: Path) -> None:
    block = np.zeros((64, 64), np.uint8)
    block[20:41, 21:47] = 255
    images = save_images(tmp_path / "images", 1, (64, 64))
    mask = first(PairedFolder(images, targets(tmp_path / "t", block, "jpg"), "mask"))
    assert isinstance(mask, BinaryMask) and np.array_equal(mask.mask, block > 0)


def test_labels_keep_their_numbers(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images")
    values = np.random.default_rng(0).integers(0, 3, SIZE)
    folder = targets(tmp_path / "t", values.astype(np.uint8))
    labels = first(PairedFolder(images, folder, "labels", TargetOptions(labels=("none", "a", "b"))))
    assert isinstance(labels, LabelMap) and np.array_equal(labels.labels, values)
    with pytest.raises(CorruptSample, match=r"im0\.png.*label 2 has no name"):
        first(PairedFolder(images, folder, "labels", TargetOptions(labels=("none", "a"))))


def test_depth_in_metres(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images")
    metres = np.random.default_rng(0).uniform(0.5, 9, SIZE).astype(np.float32)
    stored = (metres * 1000).round().astype(np.uint16)
    written = [targets(tmp_path / "npy", metres, "npy"), targets(tmp_path / "png", stored)]
    for folder in (*written, targets(tmp_path / "whole", stored, "npy")):
        depth = first(PairedFolder(images, folder, "depth"))
        assert isinstance(depth, DepthMap) and np.abs(depth.values - metres).max() < 6e-4
    double = first(PairedFolder(images, tmp_path / "png", "depth", TargetOptions(depth_scale=0.002)))
    assert isinstance(double, DepthMap) and np.abs(double.values - 2 * metres).max() < 2e-3
    with pytest.raises(CorruptSample, match="16-bit"):
        first(PairedFolder(images, targets(tmp_path / "byte", stored.astype(np.uint8)), "depth"))


def test_normals_are_unit_or_invalid(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images")
    normals = np.random.default_rng(0).normal(size=(*SIZE, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[0, :5], normals[1, 0] = 0, 3
    stored = np.where(normals.any(-1, keepdims=True), np.rint((normals.clip(-1, 1) + 1) * 127.5), 0).astype(np.uint8)
    for folder in (targets(tmp_path / "npy", normals, "npy"), targets(tmp_path / "png", stored)):
        found = first(PairedFolder(images, folder, "normal"))
        assert isinstance(found, NormalMap)
        far = np.zeros(SIZE, bool)
        far[0, :5] = far[1, 0] = True
        assert not found.normals[:, far].any()
        assert np.abs(found.normals - normals.transpose(2, 0, 1))[:, ~far].max() < 0.02
        length = np.linalg.norm(found.normals, axis=0)
        assert np.allclose(length[length > 0], 1, atol=1e-3)


def test_poses_in_coco_form_and_our_own(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 2)
    points = [[3, 4, 2] if joint == 0 else [0, 0, 0] for joint in range(17)]
    (tmp_path / "t").mkdir()
    coco = {"annotations": [{"keypoints": sum(points, []), "area": 20.0}]}
    (tmp_path / "t" / "im0.json").write_text(json.dumps(coco))
    folder = PairedFolder(images, tmp_path / "t", "pose")
    pose = first(folder)
    assert isinstance(pose, Keypoints) and pose.people.shape == (1, 17, 3)
    assert pose.people[0, 0].tolist() == [3.5, 4.5, 2]
    (tmp_path / "t" / "im1.json").write_bytes(pose.to_bytes())
    again = PairedFolder(images, tmp_path / "t", "pose").read(1).annotations["pose"]
    assert isinstance(again, Keypoints) and np.array_equal(again.people, pose.people)


def test_images_as_targets(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images")
    sample = PairedFolder(images, images, "image").read(1)
    answer = sample.annotations["image"]
    assert isinstance(answer, RGBImage)
    assert np.array_equal(np.rint(answer.rgb * 255).astype(np.uint8).transpose(1, 2, 0), sample.image)


def test_what_is_left_out_is_listed_with_the_reason(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 6)
    folder = targets(tmp_path / "t", np.ones(SIZE, np.uint8), name="im1_mask")
    (images / "film.mp4").write_bytes(b"")
    (folder / "notes").mkdir()
    targets(folder, np.ones(SIZE, np.uint8), name="im2")
    lines = PairedFolder(images, folder, "mask", target_suffix="_mask").table().splitlines()
    assert lines[0] == "1 pairs of an image and a mask" and len(lines) == 5
    for part in (
        f"left out 1 in {images}: film.mp4 (is read as no image: jpg, ",
        f"left out 5 in {images}: im0.png, im2.png, im3.png, ... (has no target of its name)",
        f"left out 1 in {folder}: notes (is no file)",
        f"left out 1 in {folder}: im2.png (has no name that ends in _mask)",
    ):
        assert any(line.strip().startswith(part) for line in lines), part


def test_pairs_are_found_by_name(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 5)
    folder = targets(tmp_path / "t", np.ones(SIZE, np.uint8), name="im1_mask")
    targets(folder, np.ones(SIZE, np.uint8), name="other_mask")
    paired = PairedFolder(images, folder, "mask", target_suffix="_mask")
    assert "1 pairs of an image and a mask" in paired.table() and "has no target of its name" in paired.table()
    assert paired.keys == ["im1"] and paired.unpaired == ["im0", "im2", "im3", "im4", "other"]
    with pytest.raises(ValueError, match=r"no image in .*5: im0, im1, im2.*has a target.*im1_mask"):
        PairedFolder(images, folder, "mask")
    with pytest.raises(ValueError, match="no such folder"):
        PairedFolder(tmp_path / "nowhere", folder, "mask")
    with pytest.raises(ValueError, match="allowed are mask, instances, labels, depth"):
        PairedFolder(images, folder, "masks")
    save_images(images, 1, ending="jpg")
    with pytest.raises(ValueError, match="two files of one name"):
        PairedFolder(images, folder, "mask", target_suffix="_mask")


def test_faults_name_the_file(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 2, (64, 64))
    folder = targets(tmp_path / "t", np.ones((64, 60), np.uint8))
    with pytest.raises(CorruptSample, match=r"t/im0\.png.*size \(64, 60\).*\(64, 64\)"):
        PairedFolder(images, folder, "mask").read(0)
    whole = (images / "im0.png").read_bytes()
    (images / "im0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptSample, match=r"images/im0\.png.*does not decode"):
        PairedFolder(images, folder, "mask").read(0)


def test_the_split_is_a_partition_that_a_new_image_hardly_moves(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 20)
    paired = PairedFolder(images, images, "image")
    rest, held = paired.split(6, seed=1)
    assert len(rest) == 14 and len(held) == 6
    assert sorted(rest.keys + held.keys) == sorted(paired.keys)
    assert paired.split(6, seed=1)[1].keys == held.keys != paired.split(6, seed=2)[1].keys
    save_images(images, 21)
    more = PairedFolder(images, images, "image").split(6, seed=1)[1]
    assert len(set(more.keys) & set(held.keys)) >= 5
    for wrong in (0, 20):
        with pytest.raises(ValueError, match="held_out"):
            paired.split(wrong, seed=1)


@pytest.mark.skipif(not NUCLEI.is_dir(), reason="../shared/data/nuclei is not there")
def test_real_nuclei_with_alpha_and_16_bit_maps() -> None:
    paired = PairedFolder(NUCLEI / "images", NUCLEI / "instances", "mask")
    assert len(paired) == 75 and not paired.unpaired
    for i in (0, 40, 74):
        sample = paired.read(i)
        mask = sample.annotations["mask"]
        stored = np.asarray(Image.open(paired.pairs[i][1]))
        assert isinstance(mask, BinaryMask) and np.array_equal(mask.mask, stored > 0)
        assert sample.image.shape == (*stored.shape, 3) and 0 < mask.mask.mean() < 1


def test_copies_of_an_image_are_left_out_and_told(tmp_path: Path) -> None:
    for name in ("images", "targets"):
        (tmp_path / name).mkdir()
    for index, name in enumerate(("a", "b", "b copy", "c")):
        Image.fromarray(np.full((8, 8, 3), 40 * min(index, 2) if name != "b copy" else 40, np.uint8)).save(
            tmp_path / "images" / f"{name}.png"
        )
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "targets" / f"{name}.png")
    folder = PairedFolder(tmp_path / "images", tmp_path / "targets", "mask").without_copies()
    assert [image.stem for image, _ in folder.pairs] == ["a", "b", "c"]
    assert "3 pairs" in folder.table() and "b copy.png (has the bytes of another, b.png)" in folder.table()


def test_void_needs_no_name(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1], [255, 0]], np.uint8)).save(tmp_path / "a.png")
    options = TargetOptions(labels=("background", "crack"))
    found = TARGETS["labels"].load(tmp_path / "a.png", (2, 2), options)
    assert np.array_equal(found.to_array(), [[0, 1], [255, 0]])
    Image.fromarray(np.array([[0, 2], [255, 0]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="label 2 has no name"):
        TARGETS["labels"].load(tmp_path / "a.png", (2, 2), options)


def test_a_16_bit_picture_that_nobody_scaled_is_warned_of(tmp_path: Path) -> None:
    dark = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(dark).save(tmp_path / "dark.tif")
    with pytest.warns(UserWarning, match="nearly black"):
        found = read_image(tmp_path / "dark.tif")
    assert found.max() == 16
    Image.fromarray(dark * 16).save(tmp_path / "scaled.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "scaled.tif").max() == 255
