"""Latents <-> spacetime patch tokens."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def pad_to_patch(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Pads height and width of [B, C, F, H, W] up to whole patches, wrapping around as the host does; crop the output again."""
    down, right = -x.shape[-2] % patch[1], -x.shape[-1] % patch[2]
    return F.pad(x, (0, right, 0, down, 0, 0), mode="circular") if down or right else x


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Tokens [B, N, pt ph pw C] of a grid (F, h, w) to latents [B, C, F, H, W]."""
    (f, h, w), (pt, ph, pw) = grid, patch
    return rearrange(tokens, "b (f h w) (pt ph pw c) -> b c (f pt) (h ph) (w pw)", f=f, h=h, w=w, pt=pt, ph=ph, pw=pw)
