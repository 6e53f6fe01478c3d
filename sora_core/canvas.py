"""What is given and what is to be made: the rules of the lattice as data and pure functions.

Legend: s is the stride in time; a cell is known (given, sigma 0) or unknown (to be made).
"""

from __future__ import annotations

import torch
from torch import Tensor

HISTORY_CELLS = 2
"""Cells of false history shown to a causal encoder before a span from the middle of a video. Nothing true can stand there: what the
span follows is to be made. 1 frame / 2 / 4 cells leave 1.25 / 1.04 / 0.64 of the latents' deviation."""


def encode_span(vae, frames: Tensor, starts_at_zero: bool, history_cells: int = HISTORY_CELLS) -> Tensor:
    """Latents of a span of a video, the same in training and in use.

    Args:
        vae: has `encode([B, 3, T, H, W] in -1..1) -> [B, C, F, h, w]` and `strides`.
        frames: [B, 3, T, H, W] in -1..1; T is 1 + s n if the span starts at cell 0, else s n.
        starts_at_zero: whether the first frame is a cell of its own. Otherwise all cells hold s frames, and what the span follows
            is unknown: its history is the span itself reversed in time, mirrored at its first frame, encoded and dropped.
        history_cells: W, the cells of that history behind its own first one.

    Returns:
        raw latents [B, C, F, h, w], F = 1 + n or n.

    Raises:
        ValueError: a number of frames that does not fill its cells.
    """
    s, length = vae.strides.time, frames.shape[2]
    first = 1 if starts_at_zero else 0
    rest = (length - first) % s
    if length == 0 or rest:
        near = " or ".join(map(str, sorted({max(length - rest, first or s), length - rest + s})))
        raise ValueError(f"a span of {length} frames does not fill its cells: must be {first} + {s} n ({near})")
    if starts_at_zero:
        return vae.encode(frames)
    history = 1 + s * history_cells
    index = [_mirror(t, length) for t in range(-history, length)]
    return vae.encode(frames[:, :, torch.tensor(index)])[:, :, 1 + history_cells :]


def _mirror(t: int, length: int) -> int:
    """Frame of a clip at any time when it runs to and fro: -1 is frame 1, -2 is frame 2, and at the clip's end it turns again."""
    if length == 1:
        return 0
    t = abs(t) % (2 * length - 2)
    return min(t, 2 * length - 2 - t)
