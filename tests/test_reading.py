"""Reading for training: smaller images, the same annotations; what is stored is painted only as far as needed."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diception.annotations import InstanceMasks, Keypoints, NormalMap, RGBImage, encode_rle, nearest
from diception.annotations.runs import read_runs
from diception.datasets.images import image_size, read_file, read_image, read_reduced, resample
from diception.datasets.sample import (
    CorruptSample,
    Example,
    MemoryReader,
    Sample,
    collate,
    collate_training,
)
from diception.datasets.sample import read_reduced as read_sample
from diception.datasets.shards import ShardReader
from diception.datasets.transforms import Augment, crop, hflip, square
from diception.datasets.writer import ShardWriter, write_samples
from diception.tasks import known_tasks

SIZE = (201, 263)
"""Odd, so that no scale divides it."""


def smooth_image(size: tuple[int, int] = SIZE) -> np.ndarray:
    """Waves of a few tens of pixels, different in every corner."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    waves = [np.sin(x / 23 + 1), np.sin(y / 17), np.sin((x + 2 * y) / 31)]
    return np.rint(np.stack(waves, -1) * 100 + 128).astype(np.uint8)


def instances(size: tuple[int, int] = SIZE, count: int = 6, seed: int = 0) -> InstanceMasks:
    """Blobs of all sizes, one empty, one everywhere."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), bool)
    for mask in masks[2:]:
        top, left = rng.integers(size[0]), rng.integers(size[1])
        mask[top : top + rng.integers(1, size[0]), left : left + rng.integers(1, size[1])] = True
        mask &= rng.random(size) < 0.9
    masks[1:2] = True
    return InstanceMasks(masks, tuple("abcdef"[:count]), (np.arange(count) / 8).astype(np.float32))


def full_sample() -> Sample:
    rng = np.random.default_rng(5)
    normals = rng.normal(size=(3, *SIZE)).astype(np.float32)
    pose = Keypoints(
        np.concatenate([rng.uniform(9, 190, (2, 17, 2)), np.full((2, 17, 1), 2)], -1), SIZE, np.ones(2, np.float32)
    )
    annotations = {
        "normal": NormalMap(normals / np.linalg.norm(normals, axis=0)),
        "instances": instances(),
        "pose": pose,
        "image": RGBImage(rng.random((3, *SIZE), np.float32)),
    }
    return Sample("a", smooth_image(), annotations)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    folder = tmp_path_factory.mktemp("reading")
    write_samples([full_sample()], ShardWriter(folder))
    return ShardReader(str(folder / "*.tar"))


def same(a: Sample, b: Sample) -> bool:
    pairs = [(a.annotations[kind], b.annotations[kind]) for kind in a.annotations]
    return all(x.size == y.size and np.array_equal(x.to_array(), y.to_array()) for x, y in pairs)


def test_nearest_takes_the_pixel_under_each_centre_at_all_sizes() -> None:
    for source in range(1, 41):
        array = np.arange(source, dtype=np.float32)[None].repeat(2, 0)
        for target in range(1, 41):
            wanted = [int((2 * i + 1) * source / (2 * target)) for i in range(target)]
            assert nearest(array, 2, target)[1].tolist() == wanted == nearest(array.T, target, 2)[:, 1].tolist()


@pytest.mark.parametrize("seed", range(12))
def test_run_lengths_are_read_as_the_coco_library_reads_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(map(int, rng.integers(1, 50, 2)))
    mask = rng.random(size) < rng.choice([0, 0.05, 0.5, 0.95, 1])
    if seed % 3 == 0:  # long runs: several characters a number
        mask = np.kron(mask, np.ones((40, 3))).astype(bool)
    runs = read_runs(encode_rle(mask[None])[0]["counts"].decode(), mask.shape)
    rows, columns = np.arange(mask.shape[0]), np.sort(rng.integers(0, mask.shape[1], 9))[::-1]
    for down, across in ((rows, np.arange(mask.shape[1])), (rows[::3], columns)):
        canvas = np.zeros((len(down), len(across)), bool)
        runs.paint(down, across, canvas)
        assert np.array_equal(canvas, mask[np.ix_(down, across)])
    assert runs.area == mask.sum()


@pytest.mark.parametrize("text", ["", "04", "4", "P", "0P", "~~", "\x1f", "é", "oooooooooooooooo0", "5K:"])
def test_broken_run_lengths_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="run length|ascii"):
        read_runs(text, (3, 2))


def coded(number: int) -> str:
    """One number of COCO's compressed run lengths."""
    digits = []
    while True:
        digit, number = number & 31, number >> 5
        if number == (-1 if digit & 16 else 0):
            return "".join(chr(48 + d) for d in [*digits, digit])
        digits.append(digit | 32)


@pytest.mark.parametrize(
    "lengths", [[1 << 58] * 63 + [(1 << 58) + 12], [13, 0, 1], [1 << 32, 1, 11], [6, 6, 6, 6] * 2, [12, 5, -5]]
)
def test_run_lengths_that_overflow_are_refused(lengths: list[int]) -> None:
    numbers = [n - lengths[i - 2] if i > 2 else n for i, n in enumerate(lengths)]
    with pytest.raises(ValueError, match="run length"):
        read_runs("".join(map(coded, numbers)), (3, 4))
    assert read_runs(coded(5) + coded(7), (3, 4)).area == 7


@pytest.mark.parametrize("seed", range(8))
def test_stored_masks_change_as_painted_ones_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    painted = instances((31, 40), int(rng.integers(1, 7)), seed)
    stored = InstanceMasks.from_bytes(painted.to_bytes())
    assert stored.areas.tolist() == painted.areas.tolist()
    for _ in range(5):
        height, width = (int(rng.integers(1, side + 1)) for side in painted.size)
        top, left = (int(rng.integers(s - n + 1)) for s, n in zip(painted.size, (height, width), strict=True))
        change = [
            lambda a: a.hflip(),
            lambda a, w=(top, left, height, width): a.crop(*w),
            lambda a, h=int(1.5 * height) + 1, w=width + 2: a.resize(h, w),
        ][rng.integers(3)]
        painted, stored = change(painted), change(stored)
        for found in (pickle.loads(pickle.dumps(stored)), copy.deepcopy(stored)):
            assert found.size == painted.size and np.array_equal(found.masks, painted.masks)
            assert found.categories == painted.categories and np.array_equal(found.scores, painted.scores)
    with pytest.raises(ValueError, match="leaves size"):
        stored.crop(0, 0, stored.size[0] + 1, 1)


@pytest.mark.parametrize("at_least", [25, 26, 50, 100, 101, 202, 1000])
def test_an_image_is_decoded_as_small_as_is_enough(reader: ShardReader, at_least: int) -> None:
    full, small = reader.read(0), reader.read_reduced(0, None, at_least)
    scale = max([n for n in (1, 2, 4, 8) if SIZE[0] // n >= at_least], default=1)
    assert small.image.shape[:2] == (-(-SIZE[0] // scale), -(-SIZE[1] // scale))
    assert small.size == full.size == SIZE and same(full, small)
    if scale > 1:
        assert small.reduced is not None and small.reduced.box == (0, 0, SIZE[1] / scale, SIZE[0] / scale)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_image_is_reduced_where_it_lies(orientation: int) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth_image()).save(buffer, "JPEG", quality=95, exif=exif)
    full = read_image(buffer.getvalue())
    image, size, (left, top, right, bottom) = read_reduced(buffer.getvalue(), 50)
    assert size == full.shape[:2] and max(image.shape[:2]) == 66
    # Its centres lie where the box says.
    y, x = (np.arange(20, 30) + 0.5 - top) * 4, (np.arange(20, 30) + 0.5 - left) * 4
    wanted = full[y.astype(int)][:, x.astype(int)].astype(int)
    assert np.abs(image[20:30, 20:30] - wanted).mean() < 3
    assert (right - left) * 4 == size[1] and (bottom - top) * 4 == size[0]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [0, *range(1, 10), 65535])
def test_every_way_of_reading_agrees_on_the_size(tmp_path: Path, file_format: str, orientation: int) -> None:
    path, exif = tmp_path / "x", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth_image()).save(path, file_format, exif=exif)
    height, width = SIZE[::-1] if orientation in range(5, 9) else SIZE
    image, size, box = read_reduced(path.read_bytes(), 1000)
    assert read_file(path)[0].shape == image.shape == (height, width, 3)
    assert image_size(path) == size == (height, width) and box == (0, 0, width, height)


@pytest.mark.parametrize("scale", [None, (0.3, 1.0)])
def test_targets_are_the_same_and_the_picture_is_close(reader: ShardReader, scale: tuple[float, float] | None) -> None:
    augment = Augment(hflip=0.5, scale=scale, turns=True)
    size = 48
    for seed in range(8):
        full = augment(reader.read(0), size, np.random.default_rng(seed))
        small = augment(read_sample(reader, 0, None, 50), size, np.random.default_rng(seed))
        assert small.reduced is None and small.image.shape == (size, size, 3) and same(full, small)
        difference = np.abs(small.image.astype(int) - full.image)
        assert difference.mean() < 1.5 and difference.max() < 12
        for task in known_tasks():
            if task.kind in full.annotations and task.serves(full.annotations[task.kind]):
                a, b = (task.encode(s.annotations[task.kind], np.random.default_rng(seed)) for s in (full, small))
                assert np.array_equal(a.rgb, b.rgb) and np.array_equal(a.points, b.points)


def test_the_smallest_crop_has_pixels_enough(reader: ShardReader) -> None:
    assert Augment().at_least(64) == 64
    augment = Augment(scale=(0.25, 1.0), ratio=2)
    needed = augment.at_least(64)
    windows = [augment._window((needed, needed), (needed, needed), np.random.default_rng(seed)) for seed in range(200)]
    assert 60 <= min(min(window[2:]) for window in windows) <= 72
    with pytest.raises(CorruptSample, match="at_least is 0"):
        reader.read_reduced(0, None, 0)


def test_other_readers_and_images_come_as_stored(tmp_path: Path) -> None:
    memory = MemoryReader([full_sample()])
    assert read_sample(memory, 0, ("pose",), 20).image.shape[:2] == SIZE
    write_samples([full_sample()], ShardWriter(tmp_path, image_format="png"))
    found = ShardReader(str(tmp_path / "*.tar")).read_reduced(0, (), 20)
    assert found.reduced is None and np.array_equal(found.image, smooth_image())


def test_a_window_of_a_reduced_image_is_mirrored_with_it(reader: ShardReader) -> None:
    window = (30, 70, 101, 83)
    full = square(hflip(crop(hflip(reader.read(0)), *window)), 40)
    small = square(hflip(crop(hflip(reader.read_reduced(0, None, 100)), *window)), 40)
    assert same(full, small) and np.abs(full.image.astype(int) - small.image).mean() < 1.5


def test_a_training_batch_carries_no_truths() -> None:
    task = next(task for task in known_tasks() if task.kind == "normal")
    target = task.encode(full_sample().annotations["normal"], np.random.default_rng(0))
    example = Example(np.zeros((3, *SIZE), np.float32), target, task.name, "a", 1)
    full, training = collate([example, example]), collate_training([example, example])
    assert len(full.truths) == 2 and training.truths == []
    assert training.target is not None and full.target is not None and training.target.equal(full.target)


@pytest.mark.parametrize("size", [(17, 40), (90, 31), (20, 22), (100, 100), (41, 60)])
def test_pictures_keep_their_place_and_mean_when_resampled(size: tuple[int, int]) -> None:
    image = np.zeros((41, 60, 3), np.uint8)
    image[:, 30:], image[20:, :, 1] = 200, 90
    found = resample(image, *size).astype(float)
    assert found.shape == (*size, 3)
    assert np.abs(found.mean(axis=(0, 1)) - image.mean(axis=(0, 1))).max() < 2
    assert np.array_equal(resample(image[:, ::-1].copy(), *size)[:, ::-1], found)
