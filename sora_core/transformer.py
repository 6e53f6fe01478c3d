"""SpacetimeTransformer: denoises any subset of a lattice of latent cells (public Wan 2.1 text-to-video format).

Legend: B batch, C latent channels, F latent cells in time, H W latent grid, N = F (H / 2) (W / 2) tokens, D width, L text rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import rotary_table
from .blocks import BLOCK_MODULATIONS, Block, Head, Levels, Route
from .config import TransformerConfig
from .layers import GELU
from .patches import pad_to_patch, unpatchify

INIT_STD = 0.02  # of the text and time embeddings, as in the public model


def sinusoidal(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines of t [U] at `width` / 2 frequencies from 1 down to 1 / 10000: float32 [U, width]."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000) / half))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Rows(NamedTuple):
    """Embedded words [B, L, D]: the global ones first, then those of each shot. Shot i has the rows `bounds[i]` to `bounds[i + 1]`,
    the global words end at `bounds[0]`."""

    embedded: Tensor
    bounds: list[int]


@dataclass(frozen=True)
class PreparedText:
    """Keys and values of the words for every block, computed once for all steps of a generation."""

    keys_values: list[tuple[Tensor, Tensor]]
    bounds: list[int]


class SpacetimeTransformer(nn.Module):
    """Predicts the velocity n - x0 of every cell.

    Args:
        config: sizes.
        operations: where Linear, Conv3d, LayerNorm and RMSNorm come from: torch.nn, or a namespace of the host's that loads and
            casts weights when a layer is called.
        dtype, device: of the parameters. The patch embedding is float32 whatever `dtype` is.
    """

    def __init__(self, config: TransformerConfig, *, operations=nn, dtype: torch.dtype | None = None, device=None):
        super().__init__()
        if config.patch_size[0] != 1:
            raise ValueError(f"patch_size={config.patch_size}: a token must be one cell long in time, (1, height, width)")
        self.config = config
        # The host's layers cast their weights to their input; torch's need an input of their own dtype.
        self.casts_weights = operations is not nn
        dim, factory = config.dim, {"dtype": dtype, "device": device}
        self.patch_embedding = operations.Conv3d(
            config.in_dim, dim, kernel_size=config.patch_size, stride=config.patch_size, dtype=torch.float32, device=device
        )
        self.text_embedding = nn.Sequential(
            operations.Linear(config.text_dim, dim, **factory), GELU(), operations.Linear(dim, dim, **factory)
        )
        self.time_embedding = nn.Sequential(
            operations.Linear(config.freq_dim, dim, **factory), nn.SiLU(), operations.Linear(dim, dim, **factory)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), operations.Linear(dim, BLOCK_MODULATIONS * dim, **factory))
        self.blocks = nn.ModuleList(
            Block(dim, config.ffn_dim, config.num_heads, config.eps, operations, **factory) for _ in range(config.num_layers)
        )
        self.head = Head(dim, math.prod(config.patch_size) * config.out_dim, config.eps, operations, **factory)
        if operations is nn and not self.head.modulation.is_meta:
            self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Starting values for training. The zero head makes the first prediction 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        nn.init.zeros_(self.patch_embedding.bias)
        for embedding in (self.text_embedding, self.time_embedding):
            for layer in (embedding[0], embedding[2]):
                nn.init.normal_(layer.weight, std=INIT_STD)
        for module in (*self.blocks, self.head):
            nn.init.normal_(module.modulation, std=self.config.dim**-0.5)
        nn.init.zeros_(self.head.head.weight)

    # -- words ---------------------------------------------------------------------------------------------------------------

    def embed_text(self, context: Tensor, shot_context: list[Tensor] | None = None) -> Rows:
        """Global words [B, L, 4096] and the words of each shot [B, L_i, 4096], embedded side by side."""
        parts = [context, *(shot_context or ())]
        bounds = torch.tensor([part.shape[1] for part in parts]).cumsum(0).tolist()
        return Rows(self.text_embedding(torch.cat(parts, 1) if shot_context else context), bounds)

    def prepare_text(self, context: Tensor, shot_context: list[Tensor] | None = None) -> PreparedText:
        """Does once what each forward would do again with the words; give the result to forward as `text`.

        Stale as soon as a weight changes: inside the host, where hooks and schedules change weights between steps, do not use it.
        """
        rows = self.embed_text(self._cast(context), [self._cast(c) for c in shot_context or ()])
        return PreparedText([block.cross_attn.keys_values(rows.embedded) for block in self.blocks], rows.bounds)

    def _cast(self, x: Tensor) -> Tensor:
        return x if self.casts_weights else x.to(self.head.modulation.dtype)

    # -- forward -------------------------------------------------------------------------------------------------------------

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor | None = None, transformer_options: dict | None = None, **keywords
    ) -> Tensor:
        """The velocity of every cell. A subclass for the host wraps `_forward`, which has the same arguments.

        Args:
            x: latents [B, C, F, H, W]; odd H or W are padded and cropped.
            timestep: 1000 sigma, [B] for a whole video, [B, F] for every cell or [B, N] for every token.
            context: global words [B, L, 4096]; None when `text` is given.
            transformer_options: the host's hooks; None outside of it.
            positions: keyword, [F] or [B, F] floats, where the cells stand in time; default 0, 1, 2, ...
            shots: keyword, [F] integers, the shot of each cell; needs `shot_context`.
            shot_context: keyword, the words of each shot, a list of [B, L_i, 4096].
            text: keyword, the result of `prepare_text` in place of context and shot_context.

        Other keywords, such as the host gives to every model, are ignored.

        Returns:
            [B, C, F, H, W] in the dtype of x.

        Raises:
            ValueError: a timestep, positions or shots of another length than F.
        """
        return self._forward(x, timestep, context, transformer_options, **keywords)

    def _forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        transformer_options: dict | None = None,
        *,
        positions: Tensor | None = None,
        shots: Tensor | list[int] | None = None,
        shot_context: list[Tensor] | None = None,
        text: PreparedText | None = None,
        **ignored,
    ) -> Tensor:
        options = {} if transformer_options is None else transformer_options
        height, width = x.shape[-2:]
        latents = pad_to_patch(x, self.config.patch_size)
        dtype = self._compute_dtype(x)
        tokens = self.patch_embedding(latents.to(self._patch_dtype())).to(dtype)  # B D F h w
        grid = options["grid_sizes"] = tokens.shape[2:]
        tokens = tokens.flatten(2).transpose(1, 2).contiguous()  # B N D
        rotary = self._rotary(positions, grid, x.device, options)
        time, levels = self._levels(timestep, tokens, grid)
        if text is None:
            rows = self.embed_text(context.to(dtype), [c.to(dtype) for c in shot_context or ()])
        routes = self._routes(shots, rows.bounds if text is None else text.bounds, grid)
        tokens = self._run_blocks(tokens, levels, rotary, rows.embedded if text is None else text, routes, (latents, time), options)
        tokens = self.head(tokens, time)
        return unpatchify(tokens, tuple(grid), self.config.patch_size)[..., :height, :width].to(x.dtype)

    def _compute_dtype(self, x: Tensor) -> torch.dtype:
        if torch.is_autocast_enabled(x.device.type):
            return torch.get_autocast_dtype(x.device.type)
        return x.dtype if self.casts_weights else self.head.modulation.dtype

    def _patch_dtype(self) -> torch.dtype:
        return torch.float32 if self.casts_weights else self.patch_embedding.weight.dtype

    def _rotary(self, positions: Tensor | None, grid: torch.Size, device: torch.device, options: dict) -> Tensor:
        if positions is None:
            positions = torch.arange(grid[0], dtype=torch.float32)
        if positions.shape[-1] != grid[0]:
            raise ValueError(f"{positions.shape[-1]} positions for {grid[0]} cells: give one for every cell")
        wish = options.get("rope_options") or {}
        axes = (positions, torch.arange(grid[1], dtype=torch.float32), torch.arange(grid[2], dtype=torch.float32))
        axes = [a * wish.get(f"scale_{n}", 1.0) + wish.get(f"shift_{n}", 0.0) for a, n in zip(axes, "tyx")]
        return rotary_table(*(a.to(device) for a in axes), self.config.dim // self.config.num_heads)

    def _levels(self, timestep: Tensor, tokens: Tensor, grid: torch.Size) -> tuple[Levels, Levels]:
        """Embedded noise levels for the head (k = 1) and for the blocks (k = 6)."""
        t = timestep.reshape(timestep.shape[0], -1)
        if t.shape[1] not in (1, grid[0], tokens.shape[1]):
            raise ValueError(f"{t.shape[1]} noise levels: give 1 for all, {grid[0]} for the cells or {tokens.shape[1]} for the tokens")
        if t.shape[1] > grid[0]:
            distinct, index = torch.unique(t, return_inverse=True)
        else:
            # Few enough to embed each, without waiting for the device to count them.
            distinct, index = t.flatten(), torch.arange(t.numel(), device=t.device).view(t.shape)
        time = self.time_embedding(sinusoidal(distinct, self.config.freq_dim).to(tokens.dtype))  # U D
        projected = self.time_projection(time).unflatten(1, (BLOCK_MODULATIONS, -1))  # U 6 D
        index = index.expand(tokens.shape[0], -1)
        return Levels(time.unsqueeze(1).to(tokens.dtype), index), Levels(projected.to(tokens.dtype), index)

    def _routes(self, shots: Tensor | list[int] | None, bounds: list[int], grid: torch.Size) -> list[Route] | None:
        """Which words each run of cells of one shot listens to."""
        if shots is None:
            return None
        shots = shots.flatten().tolist() if isinstance(shots, Tensor) else list(shots)
        known = len(bounds) - 1
        if len(shots) != grid[0] or not all(0 <= s < known for s in shots):
            raise ValueError(f"shots={shots}: give {grid[0]} numbers, one for every cell, from 0 to {known - 1} ({known} shots have words)")
        per_cell = grid[1] * grid[2]
        borders = [0, *(f for f in range(1, len(shots)) if shots[f] != shots[f - 1]), len(shots)]
        return [Route(a * per_cell, b * per_cell, bounds[0], bounds[shots[a]], bounds[shots[a] + 1]) for a, b in zip(borders, borders[1:])]

    def _run_blocks(self, x, levels, rotary, words, routes, inputs, options) -> Tensor:
        """All blocks, with the host's replacements and patches where `options` carry them. `words` are embedded rows or PreparedText."""
        replacements = options.get("patches_replace", {}).get("dit", {})
        patches = options.get("patches", {}).get("double_block", ())
        options["total_blocks"], options["block_type"] = len(self.blocks), "double"
        latents, time = inputs
        for i, block in enumerate(self.blocks):
            options["block_index"] = i
            prepared = words.keys_values[i] if isinstance(words, PreparedText) else None

            def run(args, block=block, prepared=prepared):
                keys_values = block.cross_attn.keys_values(args["txt"]) if prepared is None else prepared
                vec = args["vec"] if isinstance(args["vec"], Levels) else Levels.from_host_layout(args["vec"])
                return {"img": block(args["img"], vec, args["pe"], keys_values, routes, args["transformer_options"])}

            args = {"img": x, "txt": words, "vec": levels, "pe": rotary, "transformer_options": options}
            if ("double_block", i) in replacements:
                args["vec"] = levels.host_layout()
                x = replacements[("double_block", i)](args, {"original_block": run})["img"]
            else:
                x = run(args)["img"]
            for patch in patches:
                vec = time.host_layout().squeeze(2)
                x = patch({"img": x, "x": latents, "vec": vec, "block_index": i, "img_offset": 0, "transformer_options": options})["img"]
        return x
