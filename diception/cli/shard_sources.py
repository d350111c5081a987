"""Kinds of data that `diception shards` converts: the arguments of each and what they make."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from diception.datasets.convert import RawData

PATTERN = "a folder, or a path with stars: DIR/*/rgb/*.jpg"
TARGET_KINDS = ("mask", "instances", "labels", "depth", "normal", "pose", "image")


class Source(NamedTuple):
    """One kind of data."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    make: Callable[[argparse.Namespace], RawData | None]
    """None: there is nothing to convert, all is done."""


def _synthetic_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, required=True, help="number of scenes")
    parser.add_argument("--size", type=int, default=128, help="side in pixels (default 128)")
    parser.add_argument("--domain", type=int, default=1, help="1: plain; 2: textures, other light; 3: flat; 4: thermal")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes")


def _synthetic(arguments: argparse.Namespace) -> RawData:
    from diception.datasets.synthetic import HELD_OUT_SEED, SyntheticScenes

    if arguments.seed == HELD_OUT_SEED:
        raise ValueError(
            f"--seed {HELD_OUT_SEED} makes the scenes that `diception evaluate` measures on; choose another"
        )
    if arguments.count < 1:
        raise ValueError(f"--count is {arguments.count}; it must be at least 1")
    scenes = SyntheticScenes(arguments.count, arguments.size, arguments.domain, arguments.seed)
    scenes[0]  # refuses a wrong size or domain before there is a folder
    return scenes


def _coco_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--instances", type=Path, required=True, help="instances JSON")
    parser.add_argument("--keypoints", type=Path, help="person keypoints JSON")


def _coco(arguments: argparse.Namespace) -> RawData:
    from diception.datasets.sources.coco import CocoData

    return CocoData(arguments.images, arguments.instances, arguments.keypoints)


def _panoptic_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--annotations", type=Path, required=True, help="panoptic JSON")
    parser.add_argument("--panoptic", type=Path, help="folder of the PNG files (default: beside the JSON, of its name)")


def _panoptic(arguments: argparse.Namespace) -> RawData:
    from diception.datasets.sources.panoptic import PanopticData

    return PanopticData(arguments.images, arguments.annotations, arguments.panoptic)


def _sa1b_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="folder of sa_*.jpg and sa_*.json")
    parser.add_argument("--min-area", type=float, default=0.0, help="leave out masks below this share of the image")


def _sa1b(arguments: argparse.Namespace) -> RawData:
    from diception.datasets.sources.sa1b import Sa1bData

    data = Sa1bData(arguments.images, arguments.min_area)
    _tell_left_out(data.alone)
    return data


def _depth_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, metavar="PATTERN", help=PATTERN)
    parser.add_argument("--targets", required=True, metavar="PATTERN", help="16-bit png or tif, npy, pfm or exr")
    parser.add_argument(
        "--depth-scale",
        type=float,
        help="metres of 1 (default: 0.001 in pictures, 1 for floats; npy of whole numbers must say)",
    )
    parser.add_argument("--min-depth", type=float, default=0.0, help="metres; nearer is invalid")
    parser.add_argument("--max-depth", type=float, default=float("inf"), help="metres; farther is invalid")
    parser.add_argument("--resize", action="store_true", help="stretch depth of another size to its image (nearest)")


def _depth(arguments: argparse.Namespace) -> RawData:
    from diception.datasets.sources.depth import DepthData, DepthOptions

    options = DepthOptions(arguments.depth_scale, arguments.min_depth, arguments.max_depth, arguments.resize)
    data = DepthData(arguments.images, arguments.targets, options)
    _tell_left_out(data.alone)
    return data


def _normal_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, metavar="PATTERN", help=PATTERN)
    parser.add_argument(
        "--targets", required=True, metavar="PATTERN", help="8- or 16-bit png or tif of (n + 1) / 2, npy"
    )
    parser.add_argument("--valid", metavar="PATTERN", help="masks, nonzero where the normal means something")
    parser.add_argument(
        "--axes", default="right,up,back", help="where the stored x, y, z point (default right,up,back; back: to us)"
    )
    parser.add_argument(
        "--show", type=Path, metavar="FILE", help="only draw the first one beside a ball, to see if the axes are right"
    )


def _normal(arguments: argparse.Namespace) -> RawData | None:
    from diception.datasets.sources.normal import NormalData, show

    data = NormalData(arguments.images, arguments.targets, arguments.axes, arguments.valid)
    if arguments.show is not None:
        show(data[0], arguments.show)
        print(f"{arguments.show}: {data.key(0)} with axes {arguments.axes}; surfaces must have the ball's colours")
        return None
    _tell_left_out(data.alone)
    return data


def _matting_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--foregrounds", type=Path, required=True, help="folder of foregrounds")
    parser.add_argument("--alphas", type=Path, help="folder of alphas (default: the foregrounds' own fourth channel)")
    parser.add_argument("--backgrounds", type=Path, required=True, help="folder of backgrounds")
    parser.add_argument("--count", type=int, required=True, help="number of composites")
    parser.add_argument("--size", type=int, default=1024, help="side in pixels (default 1024)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other composites")


def _matting(arguments: argparse.Namespace) -> RawData:
    from diception.datasets.sources.matting import MattingData

    a = arguments
    data = MattingData(a.foregrounds, a.alphas, a.backgrounds, a.count, a.size, a.seed)
    _tell_left_out(data.alone)
    return data


def _folder_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--targets", type=Path, required=True, help="folder of targets, with the names of their images")
    parser.add_argument("--kind", choices=TARGET_KINDS, required=True, help="what the targets are")
    parser.add_argument("--target-suffix", default="", help="what a target's name has more than its image's: _mask")
    parser.add_argument("--invert", action="store_true", help="masks mark what is 0")
    parser.add_argument("--category", help="what a mask, or every instance, marks")
    parser.add_argument("--names", type=Path, help="names of the labels, one a line, the background first")


def _folder(arguments: argparse.Namespace) -> RawData:
    from diception.datasets.sources.folder import FolderData
    from diception.datasets.targets import TargetOptions, read_names

    a = arguments
    names = read_names(a.names) if a.names else ()
    options = TargetOptions(category=a.category, labels=names, invert=a.invert)
    data = FolderData(a.images, a.targets, a.kind, options, a.target_suffix)
    _tell_left_out(data.alone)
    return data


def _tell_left_out(names: list[str]) -> None:
    if names:
        print(f"left out, since a partner is missing: {len(names)} files, the first is {names[0]}")


SOURCES = {
    "synthetic": Source(
        "rendered scenes with depth, normals, instances and keypoints", _synthetic_arguments, _synthetic
    ),
    "coco": Source("COCO-format instances and person keypoints", _coco_arguments, _coco),
    "panoptic": Source("COCO panoptic segments", _panoptic_arguments, _panoptic),
    "sa1b": Source("SA-1B: images with a JSON of masks beside them", _sa1b_arguments, _sa1b),
    "depth": Source("images and depth maps", _depth_arguments, _depth),
    "normal": Source("images and maps of surface normals, in any axes", _normal_arguments, _normal),
    "matting": Source("foregrounds pasted on backgrounds by their alpha", _matting_arguments, _matting),
    "folder": Source("images and targets of one kind, paired by name", _folder_arguments, _folder),
}
