"""Raw data sets: what files say arrives in samples, whatever their format, and what is broken is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_data
from PIL import Image

from diception.annotations import BinaryMask, DepthMap, InstanceMasks, NormalMap
from diception.cli import main
from diception.datasets.check import check_shards
from diception.datasets.convert import Conversion, RawData, convert
from diception.datasets.sources.arrays import read_array
from diception.datasets.sources.depth import DepthData, DepthOptions
from diception.datasets.sources.folder import FolderData
from diception.datasets.sources.matting import MattingData, composite
from diception.datasets.sources.normal import DIRECTIONS, NormalData, ball, parse_axes
from diception.datasets.sources.panoptic import PanopticData
from diception.datasets.sources.sa1b import Sa1bData
from diception.datasets.targets import TargetOptions

SIZE = (20, 30)


def save_image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (90, 60, 30)).save(path)
    return path


def save_pfm(path: Path, values: np.ndarray, order: str = "<") -> None:
    head = f"Pf\n{values.shape[1]} {values.shape[0]}\n{-1.0 if order == '<' else 1.0}\n"
    path.write_bytes(head.encode() + values[::-1].astype(f"{order}f4").tobytes())


@pytest.fixture
def metres() -> np.ndarray:
    values = np.random.default_rng(0).uniform(0.5, 60, SIZE)
    values[3, 4] = 0
    return values


@pytest.mark.parametrize("ending", ["png", "tif", "npy", "pfm", "big.pfm"])
def test_depth_arrives_in_metres_whatever_the_file(tmp_path: Path, metres: np.ndarray, ending: str) -> None:
    save_image(tmp_path / "a.jpg")
    file = tmp_path / f"a.{ending}"
    if ending in ("png", "tif"):
        Image.fromarray(np.rint(metres * 1000).astype(np.uint16)).save(file)
    elif ending == "npy":
        np.save(file, metres.astype(np.float64))
    else:
        file = tmp_path / "a.pfm"
        save_pfm(file, metres, ">" if "big" in ending else "<")
    data = DepthData(str(tmp_path / "*.jpg"), str(tmp_path / f"*{file.suffix}"), DepthOptions(farthest=50))
    depth = data[0].annotations["depth"]
    assert isinstance(depth, DepthMap) and data.key(0) == "a"
    assert np.array_equal(depth.valid, (metres > 0) & (metres <= 50))
    assert np.allclose(depth.values[depth.valid], metres[depth.valid], atol=6e-4)


def test_depth_of_another_size_is_refused_or_stretched(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    np.save(tmp_path / "a.npy", np.full((10, 15), 2.0, np.float32))
    patterns = str(tmp_path / "*.jpg"), str(tmp_path / "*.npy")
    with pytest.raises(ValueError, match=r"a\.npy: size \(10, 15\), its image"):
        DepthData(*patterns)[0]
    assert DepthData(*patterns, DepthOptions(resize=True))[0].annotations["depth"].size == SIZE


def test_exr_arrives_in_metres_and_what_is_none_is_refused(tmp_path: Path, metres: np.ndarray) -> None:
    exr = pytest.importorskip("OpenEXR")
    save_image(tmp_path / "a.jpg")
    file = tmp_path / "a.exr"
    exr.File({"type": exr.scanlineimage}, {"Z": metres.astype(np.float32)}).write(str(file))
    depth = DepthData(str(tmp_path / "*.jpg"), str(tmp_path / "*.exr"))[0].annotations["depth"]
    assert np.allclose(depth.to_array(), metres, atol=1e-5)
    exr.File({"type": exr.scanlineimage}, {"RGB": np.dstack([metres] * 3).astype(np.float32)}).write(str(file))
    assert read_array(file).shape == (*SIZE, 3)
    for broken in (b"no exr", file.read_bytes()[:90]):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"a\.exr: "):
            read_array(file)


def test_stars_say_what_belongs_together(tmp_path: Path) -> None:
    for room, name in (("kitchen", "1"), ("kitchen", "2"), ("hall", "1")):
        save_image(tmp_path / room / "rgb" / f"{name}.png")
        np.save(tmp_path / room / f"d{name}.npy", np.full(SIZE, 1.0 + len(room), np.float32))
    save_image(tmp_path / "hall" / "rgb" / "9.png")
    data = DepthData(str(tmp_path / "*" / "rgb" / "*.png"), str(tmp_path / "*" / "d*.npy"))
    assert data.keys == ["hall/1", "kitchen/1", "kitchen/2"]
    assert [Path(file).name for file in data.alone] == ["9.png"]
    assert [float(data[i].annotations["depth"].to_array()[0, 0]) for i in range(3)] == [5.0, 8.0, 8.0]
    with pytest.raises(ValueError, match="same number of stars"):
        DepthData(str(tmp_path / "*" / "rgb" / "*.png"), str(tmp_path / "kitchen" / "d*.npy"))
    with pytest.raises(ValueError, match="no such f"):
        DepthData(str(tmp_path / "*" / "rgb" / "*.png"), str(tmp_path / "*" / "x*.npy"))


@pytest.mark.parametrize("axes", ["right,up,back", "left,up,back", "right,down,forward", "forward,left,up"])
@pytest.mark.parametrize("bits", [8, 16, 0])
def test_a_ball_is_a_ball_in_any_axes(tmp_path: Path, axes: str, bits: int) -> None:
    ours = ball(32)
    save_image(tmp_path / "a.jpg", (32, 32))
    stored = np.stack([np.einsum("c,chw->hw", DIRECTIONS[name], ours) for name in axes.split(",")]).transpose(1, 2, 0)
    if bits:
        import cv2

        whole = np.rint((stored + 1) / 2 * (2**bits - 1)).astype(np.uint16 if bits == 16 else np.uint8)
        cv2.imwrite(str(tmp_path / "a.png"), whole[..., ::-1])
    else:
        np.save(tmp_path / "a.npy", stored)
    targets = str(tmp_path / ("*.png" if bits else "*.npy"))
    normal = NormalData(str(tmp_path / "*.jpg"), targets, axes)[0].annotations["normal"]
    assert isinstance(normal, NormalMap) and np.array_equal(normal.valid, ours.any(axis=0))
    assert (normal.normals * ours).sum(axis=0)[normal.valid].min() > 0.9999
    other = NormalData(str(tmp_path / "*.jpg"), targets, "left,down,back")[0].annotations["normal"].to_array()
    assert not np.allclose(other, normal.normals, atol=0.1)


@pytest.mark.parametrize("axes", ["right,up", "right,up,up", "north,up,back", "right,left,back"])
def test_axes_that_are_none_are_refused(axes: str) -> None:
    with pytest.raises(ValueError, match="axes are"):
        parse_axes(axes)


def make_panoptic(folder: Path) -> tuple[Path, Path]:
    """Three segments with large numbers, one of them a crowd."""
    save_image(folder / "images" / "a.jpg")
    ids = np.zeros(SIZE, np.int64)
    ids[:5], ids[5:9], ids[9:12] = 70_000, 300, 9
    picture = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    (folder / "panoptic").mkdir()
    Image.fromarray(picture).save(folder / "panoptic" / "a.png")
    segments = [
        {"id": number, "category_id": category, "iscrowd": crowd}
        for number, category, crowd in ((70_000, 1, 0), (300, 2, 0), (9, 1, 1))
    ]
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "sky"}],
    }
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder / "images", folder / "panoptic.json"


def test_panoptic_numbers_become_masks(tmp_path: Path) -> None:
    found = PanopticData(*make_panoptic(tmp_path))[0].annotations["instances"]
    assert isinstance(found, InstanceMasks) and found.categories == ("cat", "sky")
    assert found.masks[0, :5].all() and found.masks[1, 5:9].all() and found.areas.tolist() == [150, 120]
    Image.new("RGB", SIZE[::-1], (1, 0, 0)).save(tmp_path / "panoptic" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png .* not in the picture"):
        PanopticData(tmp_path / "images", tmp_path / "panoptic.json")[0]
    with pytest.raises(ValueError, match="not a panoptic file"):
        content = json.loads((tmp_path / "panoptic.json").read_text())
        del content["annotations"][0]["segments_info"]
        (tmp_path / "panoptic.json").write_text(json.dumps(content))
        PanopticData(tmp_path / "images", tmp_path / "panoptic.json")


def test_folders_of_masks_and_instances(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "a.png")
    values = np.zeros(SIZE, np.uint16)
    values[2:6, 2:6], values[8:12, 3:9] = 7, 40_000
    (tmp_path / "targets").mkdir()
    Image.fromarray(values).save(tmp_path / "targets" / "a.png")
    folders = tmp_path / "images", tmp_path / "targets"
    found = FolderData(*folders, "instances", TargetOptions(category="cell"))[0].annotations["instances"]
    assert isinstance(found, InstanceMasks) and found.areas.tolist() == [16, 24] and set(found.categories) == {"cell"}
    for invert in (False, True):
        mask = FolderData(*folders, "mask", TargetOptions(invert=invert))[0].annotations["mask"]
        assert isinstance(mask, BinaryMask) and np.array_equal(mask.mask, (values > 0) ^ invert)
    with pytest.raises(ValueError, match="--invert is for --kind mask"):
        FolderData(*folders, "instances", TargetOptions(invert=True))


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A foreground with a hard disc, one with soft hair, and two backgrounds."""
    rng = np.random.default_rng(0)
    for folder in ("fg", "alpha", "bg"):
        (tmp_path / folder).mkdir()
    y, x = np.mgrid[:60, :50]
    soft = np.clip(1.4 - np.hypot(y - 30, x - 25) / 20, 0, 1)
    for name, alpha in (("disc", (soft > 0.4).astype(float)), ("hair", soft)):
        Image.fromarray(rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(tmp_path / "fg" / f"{name}.png")
        Image.fromarray((alpha * 255).astype(np.uint8)).save(tmp_path / "alpha" / f"{name}.png")
        Image.fromarray(rng.integers(0, 256, (90, 80, 3), dtype=np.uint8)).save(tmp_path / "bg" / f"{name}.jpg")
    return tmp_path / "fg", tmp_path / "alpha", tmp_path / "bg"


def test_composites_are_a_function_of_seed_and_number(layers: tuple[Path, Path, Path]) -> None:
    data, longer, other = MattingData(*layers, 6, 64), MattingData(*layers, 99, 64), MattingData(*layers, 6, 64, seed=1)
    for i in range(6):
        sample = data[i]
        assert np.array_equal(sample.image, data[i].image) and np.array_equal(sample.image, longer[i].image)
        assert not np.array_equal(sample.image, other[i].image)
        ground, color, alpha = data.layers(i)
        masks = sample.annotations["instances"]
        assert isinstance(masks, InstanceMasks) and np.array_equal(masks.masks[0], alpha > 0.5)
        behind, before = alpha == 0, alpha == 1
        assert np.array_equal(sample.image[behind], np.rint(ground[behind]).astype(np.uint8))
        assert np.allclose(composite(ground, color, alpha)[before], color[before])
        assert sample.size == (64, 64) and masks.areas[0] > 20
    assert len({data[i].image.tobytes() for i in range(6)}) == 6


@pytest.mark.parametrize("kind", ["panoptic", "sa1b", "depth", "normal", "matting", "folder"])
def test_what_is_not_there_is_one_line_and_status_2(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "nowhere")
    arguments = {
        "panoptic": ["--images", nowhere, "--annotations", f"{nowhere}.json"],
        "sa1b": ["--images", nowhere],
        "depth": ["--images", nowhere, "--targets", nowhere],
        "normal": ["--images", nowhere, "--targets", nowhere],
        "matting": ["--foregrounds", nowhere, "--backgrounds", nowhere, "--count", "3"],
        "folder": ["--images", nowhere, "--targets", nowhere, "--kind", "mask"],
    }[kind]
    assert main(["shards", kind, *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("diception shards: ") and error.count("\n") == 1 and "nowhere" in error
    assert not (tmp_path / "out").exists()


def test_a_broken_pair_is_refused_by_name_and_the_rest_is_there(tmp_path: Path) -> None:
    for i in range(4):
        save_image(tmp_path / "rgb" / f"{i}.jpg")
        np.save(tmp_path / "rgb" / f"{i}.npy", np.full(SIZE, 3.0, np.float32))
    (tmp_path / "rgb" / "1.jpg").write_bytes(b"")
    (tmp_path / "rgb" / "2.npy").write_bytes((tmp_path / "rgb" / "2.npy").read_bytes()[:-9])
    np.save(tmp_path / "rgb" / "3.npy", np.full(SIZE, np.nan, np.float32))
    data = DepthData(str(tmp_path / "rgb" / "*.jpg"), str(tmp_path / "rgb" / "*.npy"))
    manifest = convert(data, tmp_path / "out", Conversion(workers=0))
    assert manifest["samples"] == 1 and [one["key"] for one in manifest["refused"]] == ["1", "2", "3"]
    for one, name in zip(manifest["refused"], ("1.jpg", "2.npy", "3.npy"), strict=True):
        assert name in one["reason"]
    assert check_shards(str(tmp_path / "out" / "*.tar")).ok


def real(name: str) -> RawData:
    root = shared_data(name)
    return {
        "coco-panoptic": lambda: PanopticData(root / "train2017", root / "annotations" / "panoptic_train2017.json"),
        "sa1b": lambda: Sa1bData(root),
        "seven-scenes": lambda: DepthData(
            str(root / "*.color.jpg"), str(root / "*.depth.png"), DepthOptions(farthest=10)
        ),
        "membrane": lambda: FolderData(root / "images", root / "masks", "mask", TargetOptions(invert=True)),
        "nuclei": lambda: FolderData(root / "images", root / "instances", "instances"),
        "normals": lambda: NormalData(
            str(root / "derived_from_depth" / "*_rgb.jpg"),
            str(root / "derived_from_depth" / "*_normal.png"),
            "right,down,forward",
            str(root / "derived_from_depth" / "*_valid.png"),
        ),
    }[name]()


@pytest.mark.parametrize(
    ("name", "count"),
    [("coco-panoptic", 16), ("sa1b", 2), ("seven-scenes", 25), ("membrane", 30), ("nuclei", 75), ("normals", 8)],
)
def test_real_data_becomes_shards_without_a_fault(tmp_path: Path, name: str, count: int) -> None:
    manifest = convert(real(name), tmp_path, Conversion(workers=0))
    report = check_shards(str(tmp_path / "*.tar"))
    assert report.ok, report.table()
    assert report.samples == manifest["samples"] == count and not manifest["refused"]
