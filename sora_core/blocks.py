"""One transformer block in the public Wan 2.1 format, smallest parts first.

A diffusion transformer block (Peebles & Xie, arXiv 2212.09748) with RMS-normed queries and keys, rotary self-attention, and
cross-attention to words. Layers come from `operations`, so that inside the host they are the host's. Their weights are never read
directly: the host loads them when a layer is called.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import attend, rotate
from .layers import GELU, RMSNorm

BLOCK_MODULATIONS = 6
"""shift, scale and gate of self-attention, then of the MLP."""

HEAD_MODULATIONS = 2
"""shift and scale."""


class Levels(NamedTuple):
    """Embedded noise levels: a table with one entry for each distinct level, and which entry a group of tokens uses.

    A group is the whole video (G = 1), a cell (G = F) or a token (G = N): tokens [B, N, D] viewed as [B, G, N / G, D] broadcast
    against [B, G, 1, D], so nothing is ever repeated for each token of a cell.
    """

    table: Tensor  # U k D
    index: Tensor  # B G, rows of the table

    def parts(self, modulation: Tensor) -> list[Tensor]:
        """The k modulations [B, G, 1, D] of a layer whose learned table is `modulation` [1, k, D]."""
        table = modulation.to(self.table) + self.table  # U k D
        return [part[self.index].unsqueeze(2) for part in table.unbind(1)]

    def host_layout(self) -> Tensor:
        """[B, G, k, D], as the host's hooks know it."""
        return self.table[self.index]

    @classmethod
    def from_host_layout(cls, levels: Tensor) -> Levels:
        return cls(levels.flatten(0, 1), torch.arange(levels.shape[0] * levels.shape[1], device=levels.device).view(levels.shape[:2]))


class Route(NamedTuple):
    """Tokens `first` to `last` listen to the global words (text rows 0 to `common`) and to text rows `start` to `stop`."""

    first: int
    last: int
    common: int
    start: int
    stop: int


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift for x [B, N, D] and modulations [B, G, 1, D]."""
    grouped = x.unflatten(1, (shift.shape[1], -1))
    return torch.addcmul(shift, grouped, 1 + scale).flatten(1, 2)


def gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + gate y for x, y [B, N, D] and gate [B, G, 1, D]."""
    groups = gate.shape[1]
    return torch.addcmul(x.unflatten(1, (groups, -1)), y.unflatten(1, (groups, -1)), gate).flatten(1, 2)


class Attention(nn.Module):
    """What self- and cross-attention share: q, k, v, o with biases, and RMS norms over the full width before the heads split."""

    def __init__(self, dim: int, heads: int, eps: float, operations, **factory):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (operations.Linear(dim, dim, **factory) for _ in range(4))
        norm = RMSNorm if operations is nn else operations.RMSNorm
        self.norm_q, self.norm_k = (norm(dim, eps=eps, elementwise_affine=True, **factory) for _ in range(2))


class SelfAttention(Attention):
    def forward(self, x: Tensor, rotary: Tensor, options: dict) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        q = rotate(self.norm_q(self.q(x)).unflatten(-1, (self.heads, -1)), rotary)  # B N h d
        k = rotate(self.norm_k(self.k(x)).unflatten(-1, (self.heads, -1)), rotary)
        y = attend(q.flatten(2), k.flatten(2), self.v(x), self.heads, options)
        for patch in options.get("patches", {}).get("attn1_patch", ()):
            y = patch({"x": y, "q": q, "k": k, "transformer_options": options})
        return self.o(y)


class CrossAttention(Attention):
    def keys_values(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, L, D] of embedded text rows [B, L, D]."""
        return self.norm_k(self.k(rows)), self.v(rows)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], routes: list[Route] | None, options: dict) -> Tensor:
        """x [B, N, D] -> [B, N, D]. Without routes every token listens to every row.

        Keys and values of b prompts serve B = r b videos, each prompt r in a row: tokens do not meet here, so their videos are laid end
        to end. Slices instead of a mask: a mask would rule out the fast kernels and compute what it hides.
        """
        q = self.norm_q(self.q(x))
        k, v = keys_values
        if routes is None:
            return self.o(self._listen(q, k, v, options))
        heard = [
            self._listen(q[:, r.first : r.last], *(torch.cat([t[:, : r.common], t[:, r.start : r.stop]], 1) for t in (k, v)), options)
            for r in routes
        ]
        return self.o(torch.cat(heard, 1))

    def _listen(self, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        """q [B, N, D] over the rows of prompts [b, L, D] -> [B, N, D]."""
        return attend(q.reshape(k.shape[0], -1, q.shape[-1]), k, v, self.heads, options).view(q.shape)


class Block(nn.Module):
    def __init__(self, dim: int, ffn_dim: int, heads: int, eps: float, operations, **factory):
        super().__init__()
        self.norm1 = operations.LayerNorm(dim, eps=eps, elementwise_affine=False, **factory)
        self.self_attn = SelfAttention(dim, heads, eps, operations, **factory)
        self.norm3 = operations.LayerNorm(dim, eps=eps, elementwise_affine=True, **factory)
        self.cross_attn = CrossAttention(dim, heads, eps, operations, **factory)
        self.norm2 = operations.LayerNorm(dim, eps=eps, elementwise_affine=False, **factory)
        self.ffn = nn.Sequential(operations.Linear(dim, ffn_dim, **factory), GELU(), operations.Linear(ffn_dim, dim, **factory))
        self.modulation = nn.Parameter(torch.empty(1, BLOCK_MODULATIONS, dim, **factory))

    def forward(
        self, x: Tensor, levels: Levels, rotary: Tensor, keys_values: tuple[Tensor, Tensor], routes: list[Route] | None, options: dict
    ) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = levels.parts(self.modulation)
        x = gated(x, self.self_attn(modulate(self.norm1(x), shift1, scale1), rotary, options), gate1)
        x = x + self.cross_attn(self.norm3(x), keys_values, routes, options)
        for patch in options.get("patches", {}).get("attn2_patch", ()):
            x = patch({"x": x, "transformer_options": options})
        return gated(x, self.ffn(modulate(self.norm2(x), shift2, scale2)), gate2)


class Head(nn.Module):
    """Tokens [B, N, D] to patches [B, N, out]."""

    def __init__(self, dim: int, out: int, eps: float, operations, **factory):
        super().__init__()
        self.norm = operations.LayerNorm(dim, eps=eps, elementwise_affine=False, **factory)
        self.head = operations.Linear(dim, out, **factory)
        self.modulation = nn.Parameter(torch.empty(1, HEAD_MODULATIONS, dim, **factory))

    def forward(self, x: Tensor, levels: Levels) -> Tensor:
        shift, scale = levels.parts(self.modulation)
        return self.head(modulate(self.norm(x), shift, scale))
