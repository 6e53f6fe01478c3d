"""Numbers read from frames alone, [T, H, W, 3] uint8 or float in 0..1: drift over a length, jumps at borders, what the codec loses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .intervals import geometric_mean

LUMA = (0.299, 0.587, 0.114)
NEIGHBOURS = 2  # frame differences on each side of a border that it is compared with
DRIFT_SECONDS = 5.0  # at the beginning and at the end, which drift compares
FLOOR = 1e-3 / 255  # a picture that stands still has no differences to divide by


def _unit(frames: Tensor) -> Tensor:
    return frames if frames.is_floating_point() else frames.float() / 255


def _luma(frames: Tensor) -> Tensor:
    return _unit(frames) @ torch.tensor(LUMA)


def sharpness(frames: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels' luma."""
    y = _luma(frames)
    return float(y.diff(dim=1).abs().mean() + y.diff(dim=2).abs().mean())


def saturation(frames: Tensor) -> float:
    """Mean distance of the strongest from the weakest colour channel."""
    return float((_unit(frames).amax(-1) - _unit(frames).amin(-1)).mean())


def contrast(frames: Tensor) -> float:
    """Deviation of luma inside a frame, mean over frames."""
    return float(_luma(frames).flatten(1).std(1).mean())


DRIFTS = {"sharpness": sharpness, "saturation": saturation, "contrast": contrast}


def drift(frames: Tensor, fps: float, seconds: float = DRIFT_SECONDS) -> dict[str, float]:
    """Last `seconds` over first `seconds` of a video, for every measure of DRIFTS; 1 is none.

    Raises:
        ValueError: a video shorter than both parts.
    """
    part = round(seconds * fps)
    if len(frames) < 2 * part:
        raise ValueError(f"{len(frames)} frames: drift compares {part} first with {part} last ones, so it needs {2 * part} or more")
    return {name: (measure(frames[-part:]) + 1e-6) / (measure(frames[:part]) + 1e-6) for name, measure in DRIFTS.items()}


def relative_drift(frames: Tensor, renders: Tensor, fps: float, seconds: float = DRIFT_SECONDS) -> dict[str, float]:
    """The drift of a video over that of renders of its scene: what the scene itself changes does not count."""
    true = drift(renders, fps, seconds)
    return {name: value / true[name] for name, value in drift(frames, fps, seconds).items()}


def frame_differences(frames: Tensor) -> Tensor:
    """Mean absolute difference of every frame to the one before, [T - 1], in 0..1."""
    return _unit(frames).diff(dim=0).abs().mean((1, 2, 3))


def seam_steps(frames: Tensor, borders: Sequence[int], every: int = 1) -> list[tuple[float, float]]:
    """(the step onto each of the frames `borders`, the mean step around it), as frame differences.

    `every`: steps around it that are so many frames away, and twice as many. With a codec's stride in time, borders of cells are compared
    with borders of cells.

    Raises:
        ValueError: a border outside the video, or none.
    """
    steps = frame_differences(frames)
    if not borders or not all(1 <= b < len(frames) for b in borders):
        raise ValueError(f"borders {list(borders)}: must be frames 1 to {len(frames) - 1}, where a new part begins")
    at = {b - 1 for b in borders}
    found = []
    for b in sorted(at):
        near = range(b - every * NEIGHBOURS, b + every * NEIGHBOURS + 1, every)
        near = [steps[i] for i in near if 0 <= i < len(steps) and i not in at]
        found.append((float(steps[b]), float(torch.stack(near).mean()) if near else 0.0))
    return found


def seam_jump(frames: Tensor, borders: Sequence[int]) -> float:
    """How much larger the step onto the frames `borders` is than the steps around them, geometric mean; 1 means that no seam is seen.

    Raises ValueError as `seam_steps`.
    """
    return geometric_mean([jump(*steps) for steps in seam_steps(frames, borders)])


def jump(step: float, around: float, allowed: float = 0.0) -> float:
    """How much larger a step is, less what is `allowed`, than those around it."""
    return (max(step - allowed, 0.0) + FLOOR) / (around + FLOOR)


def psnr(true: Tensor, made: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of uint8 frames; 100 for equal ones."""
    error = float((_unit(true) - _unit(made)).square().mean())
    return -10 * math.log10(max(error, 1e-10))
