"""Rectified flow (Liu et al., arXiv 2209.03003): schedules, noise of every cell, the straight path between noise and latent.

x_sigma = (1 - sigma) x0 + sigma n, and the network predicts the velocity n - x0. sigma is 0 for a clean cell and 1 for pure noise.
"""

from __future__ import annotations

import hashlib
import struct

import torch
from torch import Tensor

from .config import UserError

TICKS_PER_SECOND = 50400
"""Times are rounded to this grid before they seed noise. It divides evenly by every usual frame rate (8, 16, 24, 25, 30, 48, 50, 60,
100, 120), so a frame's time never falls between two ticks, where a rounding error would decide."""


def shift_sigma(sigma, shift: float):
    """Moves levels in 0..1 (float or tensor) towards noise for `shift` > 1, as larger videos need (arXiv 2403.03206, section 5.3.2)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def schedule(steps: int, shift: float, denoise: float = 1.0) -> list[float]:
    """Noise levels from `denoise`, shifted, down to 0: a list of `steps` + 1.

    Raises:
        ValueError: steps below 1, denoise outside 0..1, or shift not above 0.
    """
    if steps < 1:
        raise UserError(f"steps={steps}: must be 1 or more")
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise={denoise:g}: must be above 0 and at most 1")
    if shift <= 0:
        raise ValueError(f"shift={shift:g}: must be above 0 (1 = unshifted)")
    return [shift_sigma(denoise * (steps - k) / steps, shift) for k in range(steps + 1)]


def cell_seed(seed: int, batch_index: int, seconds: float, level: float = 1.0) -> int:
    """A stable 63-bit seed for one cell of one video; noise that is put on at a `level` below 1, on the way, is another."""
    key = struct.pack("<Qqq", seed % 2**64, batch_index, round(seconds * TICKS_PER_SECOND))
    if level != 1:
        key += struct.pack("<q", round(level * 10**5))
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def cell_noise(seed: int, batch_index: int, pixel_times: list[float], shape: tuple[int, int, int], level: float = 1.0) -> Tensor:
    """Noise of some cells of one video, float32 on the CPU.

    Each cell has a generator of its own, so its noise depends on neither the length of the video nor on which cells are drawn with
    it, in which pass, or on which machine.

    Args:
        seed: the user's.
        batch_index: which video of the batch.
        pixel_times: seconds at which the cells end, on the timeline of the result.
        shape: (C, H, W) of a cell.
        level: noise level at which it is put on; solvers that renew noise on the way ask for those below 1.

    Returns:
        [C, F, H, W] with F = len(pixel_times).
    """
    seeds = (cell_seed(seed, batch_index, float(t), level) for t in pixel_times)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds], dim=1)


def over_latents(sigma, latents: Tensor) -> Tensor:
    """Levels as float, [B], [B, F] or anything that broadcasts already, in a shape that broadcasts against [B, C, F, H, W]."""
    sigma = torch.as_tensor(sigma, dtype=latents.dtype, device=latents.device)
    if sigma.ndim == 1:
        return sigma[:, None, None, None, None]
    return sigma[:, None, :, None, None] if sigma.ndim == 2 else sigma


def mix(x0: Tensor, noise: Tensor, sigma) -> Tensor:
    """The point of the path at `sigma` (see over_latents) for x0 and noise [B, C, F, H, W]; exactly x0 where sigma is 0."""
    sigma = over_latents(sigma, x0)
    return (1 - sigma) * x0 + sigma * noise


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """What the network learns to predict."""
    return noise - x0


def x0_from_velocity(x: Tensor, velocity: Tensor, sigma) -> Tensor:
    """The clean latent that a point x at `sigma` and its velocity speak of."""
    return x - over_latents(sigma, x) * velocity


def logit_normal_sigma(n: int, mean: float = 0.0, std: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """n training levels, sigmoid of a normal variable (arXiv 2403.03206, section 3.1): float32 [n], never exactly 0 or 1."""
    sigma = torch.sigmoid(mean + std * torch.randn(n, generator=generator))
    return sigma.clamp(1e-5, 1 - 1e-5)


def flow_loss(prediction: Tensor, x0: Tensor, noise: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of the velocity, in float32.

    Args:
        prediction, x0, noise: [B, C, F, H, W].
        weight: broadcastable against them, 0 where a cell was known; None for everywhere.
    """
    error = (prediction.float() - velocity(x0, noise).float()).square()
    if weight is None:
        return error.mean()
    weight = weight.to(error).expand_as(error)
    return (error * weight).sum() / weight.sum().clamp_min(1)
