"""Pixels <-> latent cells <-> tokens, seconds <-> frames.

Legend of the whole core: B batch, C latent channels, F latent cells in time, H W latent grid, N tokens, D width, L text rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .config import UserError

PATCH = 2
"""Latent cells on one side of a token of Wan and of our models: sizes in pixels are therefore multiples of `space * PATCH`."""

MAX_SECONDS = 600.0

ASPECT_RATIOS = {"1:1": (1, 1), "16:9": (16, 9), "9:16": (9, 16), "4:3": (4, 3), "3:4": (3, 4), "21:9": (21, 9)}


@dataclass(frozen=True)
class Strides:
    """How many pixels (frames) one latent cell covers. Read from the VAE, never assumed; these are Wan 2.1's numbers.

    `patch` is how many cells on one side are a token of the models that use the VAE.
    """

    time: int = 4
    space: int = 8
    channels: int = 16
    patch: int = PATCH

    @property
    def size_multiple(self) -> int:
        return self.space * self.patch

    def cells(self, frames: int) -> int:
        """Latent cells that hold `frames` pixel frames: the first cell holds one, each later one `time`. Rounds up."""
        return 1 + math.ceil((frames - 1) / self.time)

    def whole_cells(self, frames: int) -> int:
        """Latent cells that `frames` pixel frames fill. Rounds down: a VAE leaves out the frames beyond."""
        return 1 + (frames - 1) // self.time

    def frames(self, cells: int) -> int:
        """Pixel frames of `cells` latent cells that begin with the one-frame cell 0."""
        return 1 + self.time * (cells - 1)

    def first_frame(self, cell: int) -> int:
        """The first pixel frame that latent cell `cell` holds (0 -> 0, 1 -> 1, 2 -> 1 + time, ...)."""
        return max(0, 1 + self.time * (cell - 1))

    def cell_of_frame(self, frame: float) -> int:
        """The latent cell that holds pixel frame `frame` (frame 0 -> 0, frames 1..time -> 1, ...), or a moment between two of its."""
        return math.ceil(frame / self.time)


@dataclass(frozen=True)
class VideoShape:
    """Size of one lattice. `width` and `height` in pixels, `cells` in latent time, `fps` in frames a second."""

    width: int
    height: int
    cells: int
    fps: float = 8.0
    strides: Strides = Strides()

    @property
    def frames(self) -> int:
        return self.strides.frames(self.cells)

    @property
    def seconds(self) -> float:
        """Length on screen: a still has none."""
        return (self.frames - 1) / self.fps

    @property
    def seconds_of_cells(self) -> list[float]:
        """When each cell ends."""
        return [self.strides.time * k / self.fps for k in range(self.cells)]

    @property
    def latent(self) -> tuple[int, int, int, int]:
        """(C, F, H, W)."""
        return self.strides.channels, self.cells, self.height // self.strides.space, self.width // self.strides.space

    @property
    def tokens_per_cell(self) -> int:
        _, _, h, w = self.latent
        return (h // self.strides.patch) * (w // self.strides.patch)

    @property
    def tokens(self) -> int:
        return self.cells * self.tokens_per_cell

    def positions(self, native_fps: float) -> list[float]:
        """Position of every cell: seconds * native_fps / s, so 4 fps on a native 8 gives 0, 2, 4, ..."""
        return [k * native_fps / self.fps for k in range(self.cells)]


def frames_for_seconds(seconds: float, fps: float, strides: Strides = Strides()) -> int:
    """The shortest legal number of frames (1 + s n) that lasts at least `seconds` at `fps`; 0 seconds is a still.

    Raises:
        ValueError: seconds outside 0..600, or fps outside 1..120.
    """
    if not math.isfinite(seconds) or seconds < 0 or seconds > MAX_SECONDS:
        raise UserError(f"seconds={seconds:g}: must be from 0 (a still picture) to {MAX_SECONDS:g}")
    if not math.isfinite(fps) or fps < 1 or fps > 120:
        raise UserError(f"fps={fps:g}: must be from 1 to 120 frames a second")
    # 1e-6 keeps 5 s at 8 fps at 41 frames in spite of binary fractions such as 0.7 * 10
    return strides.frames(strides.cells(1 + math.ceil(seconds * fps - 1e-6)))


def retimed(frames: int, fps: float, to_fps: float) -> list[int]:
    """A video of `frames` frames at another rate: for each frame of the result the one that is nearest in time, the earlier of two.

    The result ends where the video does, or less than a frame before.
    """
    count = 1 + math.floor((frames - 1) * to_fps / fps + 1e-6) if frames else 0
    return [min(frames - 1, math.ceil(p * fps / to_fps - 0.5 - 1e-6)) for p in range(count)]


def check_size(width: int, height: int, strides: Strides = Strides()) -> None:
    """Raises ValueError naming the nearest legal values unless both sides are positive multiples of the token size."""
    m = strides.size_multiple
    for name, value in (("width", width), ("height", height)):
        if value < m:
            raise UserError(f"{name} {value} is too small: use {m} or more, in steps of {m}")
        if value % m:
            low = value // m * m
            raise UserError(f"{name} {value} is not a multiple of {m}: use {low} or {low + m}")


def size_for_aspect(aspect: str, area: int, strides: Strides = Strides()) -> tuple[int, int]:
    """(width, height) in pixels with the given aspect ratio and about `area` pixels, both legal; 3:4 is 4:3 turned.

    Raises:
        ValueError: an unknown aspect ratio; the known ones are listed.
    """
    if aspect not in ASPECT_RATIOS:
        raise ValueError(f"aspect ratio {aspect!r} is not known: use one of {', '.join(ASPECT_RATIOS)}")
    across, down = ASPECT_RATIOS[aspect]
    m, ratio = strides.size_multiple, max(across, down) / min(across, down)
    ideal_long, ideal_short = math.sqrt(area * ratio), math.sqrt(area / ratio)
    # Of the four roundings, the one whose area and shape together are nearest: rounding each side alone drifts up to 20 %.
    sides = [
        (max(m, long), max(m, short))
        for long in (math.floor(ideal_long / m) * m, math.ceil(ideal_long / m) * m)
        for short in (math.floor(ideal_short / m) * m, math.ceil(ideal_short / m) * m)
    ]
    long, short = min(sides, key=lambda s: abs(math.log(s[0] * s[1] / area)) + abs(math.log(s[0] / s[1] / ratio)))
    return (long, short) if across >= down else (short, long)
