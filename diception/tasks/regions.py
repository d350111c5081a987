"""Reading instances: regions of one colour in a noisy, blurred picture, each a label."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from diception.colors import GRID_PALETTE, OWN_COLORS, label_components, median3
from diception.tasks.decoding import DECODING

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
"""(H, W), 0 is background, k is instance k - 1; -1 is undecided."""


def read_colors(rgb: Array) -> tuple[Labels, Array]:
    """Labels and scores of objects in any colours on black, (3, H, W): neighbours merge while that costs little.

    A colour alone does not tell which object a pixel shows: errors of a model drift within an object by as much as
    two objects may differ. Whole regions do: their means are certain. Pixels across a border show mixtures, which may
    look like a third object, so they take part only at the end.
    """
    picture = median3(np.clip(rgb, 0, 1).astype(np.float32))
    height, width = picture.shape[1:]
    step = -(-min(height, width) // DECODING.working_side)
    small = _shrink(picture, step)
    spread, lit = _local_range(small), small.mean(axis=0) > DECODING.dark
    noise = float(np.median(spread[lit])) if lit.any() else 0.0
    inner = spread < np.clip(DECODING.mixed[1] * noise, DECODING.mixed[0], DECODING.mixed[2])
    regions, colors, counts = merge_regions(small, inner & lit, DECODING.worth / step**2, DECODING.alike)
    names, table = _name(colors, counts * step**2, _smallest(height, width))
    labels = np.where(inner & ~lit, 0, np.append(names, -1)[regions])
    if step > 1:
        labels = labels[np.minimum(np.arange(height) // step, len(labels) - 1)]
        labels = labels[:, np.minimum(np.arange(width) // step, labels.shape[1] - 1)]
        # Blocks have jagged borders: they are drawn again pixel by pixel.
        planes, around = labels.astype(np.float32), np.ones((3, 3), np.uint8)
        whole = cv2.dilate(planes, around) == cv2.erode(planes, around)
        labels = np.where(whole, labels, -1)
    return _numbered(_fill(labels, picture, table, max(2, 3 * step // 2)), picture, table)


def read_palette(rgb: Array) -> tuple[Labels, Array]:
    """Labels and scores of objects in colours of the grid palette, (3, H, W), after rounding to the grid.

    A colour is one object, in however many pieces. Where all colours behind the first OWN_COLORS are there, they may
    serve several, and each piece of theirs is an object; the first may be too small to be read.
    """
    picture = median3(np.clip(rgb, 0, 1).astype(np.float32))
    height, width = picture.shape[1:]
    levels = np.rint(picture * 2).astype(np.uint8)
    codes = (levels[0] * 3 + levels[1]) * 3 + levels[2]
    around = np.ones((3, 3), np.uint8)
    pure = cv2.dilate(codes, around) == cv2.erode(codes, around)
    labels = np.where((codes == 0) & pure, 0, -1)
    colors = [np.zeros(3, np.float32)]
    places = ndimage.find_objects(codes)
    found = {code: _pieces(codes, pure, code, place) for code, place in enumerate(places, 1) if place is not None}
    repeats = sum(pieces.any() for code, pieces in found.items() if code > OWN_COLORS) == len(GRID_PALETTE) - OWN_COLORS
    for code, pieces in found.items():
        numbered = pieces if repeats and code > OWN_COLORS else np.minimum(pieces, 1)
        labels[places[code - 1]] += np.where(numbered > 0, numbered + len(colors), 0)
        colors += [GRID_PALETTE[code - 1]] * int(numbered.max(initial=0))
    reach = max(2, round(4 * min(height, width) / 768))
    return _numbered(_fill(labels, picture, np.array(colors), reach), picture, np.array(colors))


def _pieces(codes: NDArray[np.uint8], pure: NDArray[np.bool_], code: int, place: tuple[slice, ...]) -> Labels:
    """Numbers from 1 of the connected pieces of one code in a window, 0 elsewhere and where they are noise."""
    pieces, number = label_components(codes[place] == code)
    areas = np.bincount(pieces.ravel(), minlength=number + 1)
    # A piece without a 3 x 3 core of one colour is the blurred border of other objects.
    cored = np.bincount(pieces.ravel(), pure[place].ravel(), number + 1) > 0
    kept = cored & (areas >= _smallest(*codes.shape))
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0)[pieces]


def merge_regions(rgb: Array, part: NDArray[np.bool_], worth: float, alike: float) -> tuple[Labels, Array, Array]:
    """Ward's clustering of connected pixels, in rounds: regions that are each other's cheapest neighbour merge.

    So does a region with its cheapest neighbour where that is far larger and hardly changed by it.

    Args:
        rgb: (3, H, W).
        part: (H, W), the pixels to cluster.
        worth: the squared error that one region more must save.
        alike: difference of colours that no size makes into two regions.

    Returns:
        (H, W) regions from 0, -1 outside `part`; (K, 3) mean colours; (K,) pixel counts.
    """
    start = np.where(part, np.cumsum(part).reshape(part.shape) - 1, -1)
    sums, counts = rgb[:, part].astype(np.float64), np.ones(np.count_nonzero(part))
    owner, edges = np.arange(len(counts)), _touching(start)
    shuffle = np.random.Generator(np.random.Philox(key=0))  # ties break at random, or equal costs merge one by one
    while edges.shape[1]:
        a, b = edges
        means = (sums / counts).T
        gap = means[a] - means[b]
        weight = np.minimum(counts[a] * counts[b] / (counts[a] + counts[b]), worth / alike**2)
        cost = np.einsum("ec,ec->e", gap, gap) * weight
        order = np.argsort(-cost - 1e-9 * shuffle.random(len(cost)))
        best = np.zeros(len(counts), np.int64)
        # The last write wins: the cheapest edge at each end.
        best[edges[:, order].T.ravel()] = np.repeat(order, 2)
        number = np.arange(len(cost))
        first, second, ratio = best[a] == number, best[b] == number, counts[a] / counts[b]
        chosen = (cost < worth) & (first & (second | (ratio < 1 / DECODING.much)) | second & (ratio > DECODING.much))
        if not chosen.any():
            break
        graph = coo_array((np.ones(np.count_nonzero(chosen), bool), edges[:, chosen]), (len(counts),) * 2)
        total, renamed = connected_components(graph, directed=False)
        sums = np.stack([np.bincount(renamed, channel, total) for channel in sums])
        counts, owner = np.bincount(renamed, counts, total), renamed[owner]
        edges = _unique(renamed[edges], total)
    regions = np.full(part.shape, -1)
    regions[part] = owner
    return regions, (sums / counts).T.astype(np.float32), counts.astype(np.float32)


def _touching(labels: Labels) -> Labels:
    """(2, E) pairs of labels of neighbouring pixels."""
    pairs = [(labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])]
    edges = np.concatenate([np.stack([one.ravel(), other.ravel()]) for one, other in pairs], axis=1)
    return edges[:, (edges >= 0).all(axis=0)]


def _unique(edges: Labels, count: int) -> Labels:
    low, high = edges.min(axis=0), edges.max(axis=0)
    keys = np.sort((low * count + high)[low != high])
    return np.stack(np.divmod(keys[np.diff(keys, prepend=-1) > 0], count))


def _name(colors: Array, counts: Array, least: int) -> tuple[Labels, Array]:
    """Label of each region, -1 for the tiny; and the colours (1 + K, 3) of the labels, the background's first."""
    names = np.full(len(colors), -1)
    table = [np.zeros(3, np.float32)]
    for index in np.argsort(-counts, kind="stable"):
        if counts[index] < least / 3:
            break
        gaps = np.linalg.norm(np.array(table) - colors[index], axis=1)
        names[index] = gaps[1:].argmin() + 1 if gaps[1:].min(initial=np.inf) < DECODING.same else len(table)
        if names[index] == len(table):
            table.append(colors[index])
    return names, np.array(table)


def _fill(labels: Labels, picture: Array, colors: Array, reach: int) -> Labels:
    """Undecided pixels take the colour-nearest of the labels around them, those without any the nearest label."""
    undecided = np.flatnonzero(labels < 0)
    own, padded = picture.reshape(3, -1)[:, undecided].T.copy(), np.pad(labels, 2 * reach, mode="edge")
    places = np.ravel_multi_index(np.divmod(undecided, labels.shape[1]) + np.array([[2 * reach]] * 2), padded.shape)
    best, chosen = np.full(len(undecided), np.inf, np.float32), np.full(len(undecided), -1)
    for distance in (reach, 2 * reach):
        for down, across in np.argwhere(np.ones((3, 3), bool)) - 1:
            found = padded.ravel()[places + (down * padded.shape[1] + across) * distance]
            new = np.flatnonzero((found >= 0) & (found != chosen))
            gap = own[new] - colors[found[new]]
            cost = np.einsum("nc,nc->n", gap, gap)
            better = cost < best[new]
            best[new[better]], chosen[new[better]] = cost[better], found[new[better]]
    result = labels.copy()
    result.ravel()[undecided] = chosen
    if (result >= 0).any() and (result < 0).any():
        free = (result < 0).astype(np.uint8)
        _, nearest = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        sources = np.zeros(nearest.max() + 1, np.int64)  # cv2 numbers the pixels that have a label
        sources[nearest[result >= 0]] = result[result >= 0]
        result = sources[nearest]
    return np.maximum(result, 0)


def _numbered(labels: Labels, picture: Array, colors: Array) -> tuple[Labels, Array]:
    """Labels without those too small, numbered from 1, and scores in (0, 1]: large, and its pixels of one colour."""
    flat, count = labels.ravel(), len(colors)
    areas = np.bincount(flat, minlength=count)
    misses = np.sqrt(
        sum(np.square(plane.ravel() - shade[flat]) for plane, shade in zip(picture, colors.T.copy(), strict=True))
    )
    agreement = 1 / (1 + 10 * np.bincount(flat, misses, count) / np.maximum(areas, 1))
    scores = agreement * (areas / labels.size) ** 0.25
    kept = np.flatnonzero(areas[1:] >= _smallest(*labels.shape)) + 1
    numbers = np.zeros(count, np.int64)
    numbers[kept] = np.arange(1, len(kept) + 1)
    return numbers[labels], scores[kept].astype(np.float32)


def _smallest(height: int, width: int) -> int:
    share, pixels = DECODING.smallest
    return max(int(share * height * width), int(pixels))


def _shrink(picture: Array, step: int) -> Array:
    """(3, H, W) to (3, H // step, W // step) by the mean of blocks."""
    rows, columns = picture.shape[1] // step, picture.shape[2] // step
    window = picture[:, : rows * step, : columns * step]
    return window.reshape(3, rows, step, columns, step).mean(axis=(2, 4))


def _local_range(picture: Array) -> Array:
    """(H, W), the largest difference of any channel of (3, H, W) within 3 x 3 pixels."""
    around = np.ones((3, 3), np.uint8)
    return np.max([cv2.dilate(plane, around) - cv2.erode(plane, around) for plane in picture], axis=0)
