"""Sizes and facts of the models: frozen dataclasses, named presets, and the header that travels in a file.

The names and shapes are those of the public Wan 2.1 format, so that our files open in the host's own loaders and public
text-to-video files open here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields


class UserError(ValueError):
    """What a person can mend: a size, a name, words, a file, a folder. The message says how, in one sentence.

    A command shows the sentence of this kind alone; every other error is a mistake of ours and shows where it happened.
    """


HEAD_DIM = 128
"""Fixed by the public format: a file stores the width only, and every loader divides it by 128 to find the heads."""

TEXT_DIM = 4096
"""Width of the text rows in the public format. Narrower encoders fill the rest of each row with zeros."""

TEXT_ROW_MULTIPLE = 64
"""Text is padded with zero rows to a multiple of this. The rows are not masked, so the padding is part of the model."""

MAX_PROMPT_BYTES = 1024

# Mean and deviation of the raw latents of the public Wan 2.1 VAE. The transformer sees (raw - mean) / std. Our own VAE is
# folded to these statistics (training/vae.py), so one latent format serves both.
LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a SpacetimeTransformer.

    Args:
        dim: width D, a multiple of 128 (one head for each 128).
        ffn_dim: width of the MLP inside a block.
        num_layers: number of blocks.
        in_dim, out_dim: latent channels that enter and leave.
        text_dim: width of a text row.
        freq_dim: width of the sinusoidal embedding of t.
        patch_size: cells that make one token, as (time, height, width).
        eps: of every norm.
    """

    dim: int = 256
    ffn_dim: int = 1024
    num_layers: int = 10
    in_dim: int = 16
    out_dim: int = 16
    text_dim: int = TEXT_DIM
    freq_dim: int = 256
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6

    def __post_init__(self):
        if self.dim <= 0 or self.dim % HEAD_DIM:
            low = max(HEAD_DIM, self.dim // HEAD_DIM * HEAD_DIM)
            raise ValueError(f"dim={self.dim}: must be a positive multiple of {HEAD_DIM} ({low} or {low + HEAD_DIM})")

    @property
    def num_heads(self) -> int:
        return self.dim // HEAD_DIM


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of a VideoVAE. `dim` 96 is the public Wan 2.1 file; ours is smaller. Each step of `dim_mult` but the last halves
    height and width, and also time where `temporal_downsample` says so."""

    dim: int = 16
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a ByteTextEncoder: UTF-8 bytes, a convolution of this `stride` in front, then transformer blocks. `pieces` is the size
    of the table of hashed words (text.py)."""

    dim: int = 256
    num_layers: int = 4
    num_heads: int = 4
    stride: int = 4
    pieces: int = 4096
    max_bytes: int = MAX_PROMPT_BYTES


@dataclass(frozen=True)
class ModelHeader:
    """What tensors cannot tell, kept as JSON under the safetensors header key `sora`.

    The defaults are those of a file without it, such as a public Wan 2.1 file.

    Args:
        name: for people.
        noise: "frame" if trained with a noise level for every cell, "video" if with one for all.
        shift: of the sampling schedule (flow.shift_sigma).
        motion: how much more guidance counts where it differs between cells (denoise.more_motion); 1 is plain guidance.
        native_fps: frames a second at which one cell is one step of position.
        max_seconds: longest clip of one pass it was trained on.
        foresight: whether it was trained on strided subsets of long videos.
        vae, text: file names of its companions.
        preview_factors: 17 rows of 3: 16 rows from latent channel to RGB and one row of bias.
        words: words of the training captions, so that unknown ones can be named to the user.
    """

    name: str = ""
    noise: str = "video"
    shift: float = 8.0
    motion: float = 1.0
    native_fps: float = 16.0
    max_seconds: float = 5.0
    foresight: bool = False
    vae: str = ""
    text: str = ""
    preview_factors: tuple[tuple[float, ...], ...] = ()
    words: tuple[str, ...] = field(default=(), repr=False)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | None) -> ModelHeader:
        """Reads the value of the header key; None gives the defaults. Unknown keys are ignored, so newer files open here."""
        if not text:
            return cls()
        known = {f.name for f in fields(cls)}
        data = {key: value for key, value in json.loads(text).items() if key in known}
        data["words"] = tuple(data.get("words", ()))
        data["preview_factors"] = tuple(tuple(row) for row in data.get("preview_factors", ()))
        return cls(**data)


PRESETS = {
    "tiny": TransformerConfig(dim=128, ffn_dim=256, num_layers=2),  # tests
    "mini": TransformerConfig(dim=256, ffn_dim=1024, num_layers=8),  # the shipped first edition
    "small": TransformerConfig(dim=384, ffn_dim=1536, num_layers=12),
    "scale-1x": TransformerConfig(dim=128, ffn_dim=512, num_layers=4),  # training/studies.py
    "scale-4x": TransformerConfig(dim=256, ffn_dim=1024, num_layers=4),
    "scale-32x": TransformerConfig(dim=512, ffn_dim=2048, num_layers=8),
    "base": TransformerConfig(dim=768, ffn_dim=3072, num_layers=12),
    "wan-1.3b": TransformerConfig(dim=1536, ffn_dim=8960, num_layers=30),
    "wan-14b": TransformerConfig(dim=5120, ffn_dim=13824, num_layers=40),
}


def preset(name: str) -> TransformerConfig:
    """The named sizes; an unknown name raises UserError listing the known ones."""
    if name not in PRESETS:
        raise UserError(f"unknown model size {name!r}: known are {', '.join(PRESETS)}")
    return PRESETS[name]
