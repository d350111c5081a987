"""Every number that the decoders of masks and joints depend on, with its reason; none is tuned per image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decoding:
    """Defaults were chosen on the tuning half of the sets in docs/codec.md, and on rendered scenes for training."""

    worth: float = 2.0
    """Pixels times squared colour difference below which two neighbours are one object. Errors of .06 that are alike
    over 8 x 8 pixels, as a decoder of latents makes them, reach .7."""
    alike: float = 0.13
    """Neighbours nearer in colour than this are one object however large they are."""
    same: float = 0.1
    """Pieces apart in the picture and nearer in colour than this are one object, cut by another in front of it."""
    mixed: tuple[float, ...] = (0.1, 1.5, 0.35)
    """A pixel may show two objects where its 3 x 3 range exceeds 1.5 times the usual range inside objects (the noise),
    taken to be within .1 and .35."""
    dark: float = 0.15
    """Mean of the channels below which a region is background."""
    smallest: tuple[float, ...] = (8e-5, 10)
    """Objects below this share of the picture or this many pixels are noise: 47 pixels at 768, less than a latent cell.
    From 30 to 94 nothing changes on the tuning half."""
    much: int = 8
    """A region this many times larger takes in any number of others in one round."""
    working_side: int = 192
    """Regions of larger pictures are found at about this size, their borders at the full one."""
    cells: int = 192
    """Joints are looked for at about this many cells a side, and at twice as many where a cell has pixels for it: on
    COCO's full pictures at 768 pixels average precision is .66 at the one scale, .88 at both."""
    one_joint: int = 5
    """A fine peak within so many coarse cells of a coarse one of its kind is the same joint."""
    softness: float = 0.2
    """Deviation of a painted colour around the one that was meant."""
    blur: float = 1.4
    """Deviation in cells of the smoothing before peaks are sought; a joint is twice as wide at least."""
    window: int = 7
    """One joint of a kind in so many cells."""
    candidates: int = 200
    """Peaks of one kind that are looked at; a flat picture has a peak at every cell."""
    least_peak: float = 0.2
    """Smoothed belief in a joint, of 1, below which there is none."""
    painted: float = 0.2
    """A pixel is painted if a channel reaches this."""
    bright: float = 0.7
    """A pixel shows a joint, not a limb, if a channel reaches this."""
    crossing: float = 0.3
    """What a pixel of another limb counts for the limb that it may hide."""
    least_support: float = 0.6
    """Share of a limb that must be painted for it to join two joints."""
    least_tie: float = 0.1
    """Share of a tie that must show its own colour."""
    steps: int = 64
    """Places at which the way between two joints is looked at."""
    least_joints: int = 1
    """A person with fewer joints is not reported; one joint scores a seventeenth, so that it comes last."""
    fitted_joints: int = 3
    """A person with fewer joints is not completed."""
    stray: float = 0.1
    """Deviation, in body heights, of a joint from where the fitted figure has it."""
    faint: float = 0.02
    """Belief in a missing joint, near its place in the figure, that is worth following."""
    stiffness: float = 0.3
    """How much the fitted figure prefers an even scale over the shear that a few joints suggest."""
    fine: float = 1.5
    """Deviation in pixels of the means that noise of single pixels is taken off by."""
    fine_window: float = 2.0
    """Deviation in pixels of the window in which their variance is measured."""
    fine_noise: float = 2.0
    """Times the noise's variance that a window must have to be left as it is in part; 1 leaves much noise."""
    coarse: int = 4
    """Noise of latent cells (8 pixels) is looked at with cells of so many pixels: two a cell."""
    coarse_space: float = 4.0
    """Deviation, in such cells, of the bilateral filter; beyond, curved surfaces suffer more than noise does."""
    coarse_range: float = 2.5
    """Deviation of its range, in deviations of the noise."""
    coarse_most: float = 0.05
    """No more noise of latent cells than this deviation, of depth in [0, 1] or normals in [-1, 1], is believed: what
    looks like more is where a model paints the mean of answers. One step of the embedded model errs by 12.9 degrees in
    place of 13.4 on validation scenes of domain two."""
    length_noise: float = 0.037
    """Deviation from 1 of the lengths of clean normals behind an autoencoder; only what is above it is noise."""


DECODING = Decoding()
