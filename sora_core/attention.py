"""Three-dimensional rotary embedding, and scaled dot-product attention behind one function.

Rotary embedding: Su et al., arXiv 2104.09864. A head is split into three axes (time, height, width) as in Wan 2.1, and neighbouring
pairs of channels turn by `position * 10000 ** (-2 i / axis width)`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ROTARY_BASE = 10000.0

HAVE_FLOAT64 = ("cpu", "cuda", "meta")
"""Kinds of devices. Apple's have none, DirectML's and Intel's not all."""

PIECE = 2**21
"""Scores computed at once by `by_products`: 4 MB in bfloat16, about what a cache holds."""


def rotary_axes(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that turn with time, height and width; height and width get a third each, rounded down to pairs."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def turns(positions: Tensor, width: int) -> Tensor:
    """Cosine and sine of every position [...] for `width` channels: float32 [..., width / 2, 2].

    The angles are float64 where every device of the kind has it: at position 480, four minutes of the shipped model, float32 angles are
    off by 3e-5.
    """
    exact = torch.float64 if positions.device.type in HAVE_FLOAT64 else torch.float32
    steps = torch.arange(0, width, 2, dtype=exact, device=positions.device) / width
    angles = positions.to(exact).unsqueeze(-1) * ROTARY_BASE**-steps
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def rotary_table(time: Tensor, height: Tensor, width: Tensor, head_dim: int) -> Tensor:
    """The table for a grid of tokens, made once per forward.

    Args:
        time: positions of the cells, [F] or [B, F]; any floats.
        height, width: positions of the token rows [h] and columns [w].

    Returns:
        float32 [1 or B, N, 1, head_dim / 2, 2] with N = F h w.
    """
    axes = rotary_axes(head_dim)
    time = time.reshape(-1, time.shape[-1])
    grid = *time.shape, height.shape[0], width.shape[0]
    t = turns(time, axes[0])[:, :, None, None].expand(*grid, -1, -1)
    y = turns(height, axes[1])[None, None, :, None].expand(*grid, -1, -1)
    x = turns(width, axes[2])[None, None, None, :].expand(*grid, -1, -1)
    return torch.cat([t, y, x], dim=-2).flatten(1, 3).unsqueeze(2)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turns x [B, N, h, d] by a table [1 or B, N, 1, d / 2, 2], in float32; returns the dtype of x."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        # One pass instead of four; measured 3 times as fast as real arithmetic on interleaved pairs.
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table)).flatten(-2).to(x.dtype)
    a, b = pairs.unbind(-1)
    cos, sin = table.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)


def cpu_bfloat16() -> tuple[bool, bool]:
    """How this CPU multiplies bfloat16 in hardware: by dot products (AVX512-BF16), by tiles (AMX). No, where torch cannot tell."""
    dot, tiles = (getattr(torch.cpu, name, bool) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return dot(), tiles()


def _products_are_faster() -> bool:
    """Whether this CPU multiplies bfloat16 matrices fast (AVX512-BF16) but has no tiles (AMX), which torch's CPU kernel needs to do so.

    Measured with AVX512-BF16 (320 tokens, head dim 128): forward and backward 37 ms by the kernel, 18 ms by products; 2048 tokens,
    forward: 171 and 95 ms. With AMX the kernel reaches 400 GFLOP/s and is left alone.
    """
    dot, tiles = cpu_bfloat16()
    return dot and not tiles


PRODUCTS_ARE_FASTER = _products_are_faster()


def by_products(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """softmax(q k^T) v for q [B, h, N, d] and k, v [B, h, L, d] by plain matrix products, some heads or queries at a time."""
    shape, length = q.shape, k.shape[2]
    q, k, v = (t.flatten(0, 1).contiguous() for t in (q, k, v))  # once, or every product would copy them
    q, k = q * (scale or shape[-1] ** -0.5), k.transpose(1, 2)
    heads, queries = max(1, PIECE // (shape[2] * length)), max(1, PIECE // length)
    # Fresh memory for the scores of every piece costs almost as much as the products. Gradients need it, nothing else does.
    scores = None if torch.is_grad_enabled() else q.new_empty(min(heads, len(q)) * min(queries, shape[2]) * length)
    pieces = []
    for q1, k1, v1 in zip(q.split(heads), k.split(heads), v.split(heads)):
        pieces.append(torch.cat([_attend_piece(part, k1, v1, scores) for part in q1.split(queries, dim=1)], 1))
    return torch.cat(pieces).view(shape)


def _attend_piece(q: Tensor, k: Tensor, v: Tensor, scores: Tensor | None) -> Tensor:
    """softmax(q k) v for q [h, n, d], k [h, d, L] and v [h, L, d]; in the memory of `scores` if there is one."""
    if scores is None:
        return (q @ k).softmax(-1) @ v
    size = *q.shape[:2], k.shape[2]
    scores = torch.bmm(q, k, out=scores[: math.prod(size)].view(size))
    return torch.bmm(torch.softmax(scores, -1, out=scores), v)


def scaled_dot_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **host_arguments,
) -> Tensor:
    """Attention with the arguments of the host's attention functions, so that an override may call it back.

    Args:
        q, k, v: [B, N, heads d], or [B, heads, N, d] with `skip_reshape`.
        mask: broadcastable to [B, heads, N, L]; None leaves the fast kernels available.

    Returns:
        [B, N, heads d], or [B, heads, N, d] with `skip_output_reshape`.
    """
    if not skip_reshape:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # B h N d
    if mask is not None and mask.ndim in (2, 3):
        mask = mask[None, None] if mask.ndim == 2 else mask[:, None]
    if PRODUCTS_ARE_FASTER and mask is None and q.dtype == torch.bfloat16 and q.device.type == "cpu":
        x = by_products(q, k, v, host_arguments.get("scale"))
    else:
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=host_arguments.get("scale"))
    return x if skip_output_reshape else x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, options: dict) -> Tensor:
    """Attention of [B, N, heads d] over k, v [B, L, heads d], by the host's override where `options` carry one."""
    override = options.get("optimized_attention_override")
    if override is None:
        return scaled_dot_product(q, k, v, heads)
    return override(scaled_dot_product, q, k, v, heads=heads, transformer_options=options, _inside_attn_wrapper=True)
