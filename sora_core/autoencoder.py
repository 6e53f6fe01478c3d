"""Video VAE: frames <-> latent cells, causal in time, whole or in chunks with the same result.

The architecture and the parameter names are those of the public Wan 2.1 VAE, so its files open here and ours open in the host.
Causal means that a cell depends on its own and earlier frames only. Every convolution in time keeps the last inputs it saw in a
`cache` that lives for one call; a clip may therefore be walked in chunks of any size, in memory that does not grow with its length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import LATENT_MEAN, LATENT_STD, VAEConfig
from .shapes import Strides

DEFAULT_CHUNK = 4
"""Cells walked at once: large enough to keep the processor busy, small enough to keep memory flat."""

Cache = dict[nn.Module, Tensor]


def _statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1) + (1,) * (z.ndim - 2)
    return z.new_tensor(LATENT_MEAN).view(shape), z.new_tensor(LATENT_STD).view(shape)


def normalise(z: Tensor) -> Tensor:
    """Raw VAE latents [B, 16, ...] -> what the transformer sees, about zero mean and unit deviation."""
    mean, std = _statistics(z)
    return (z - mean) / std


def denormalise(z: Tensor) -> Tensor:
    """The inverse of `normalise`."""
    mean, std = _statistics(z)
    return z * std + mean


def pixels_of(frames: Tensor) -> Tensor:
    """uint8 frames [..., T, H, W, 3] -> what the VAE takes, float32 [..., 3, T, H, W] in -1..1."""
    return frames.movedim(-1, -4).float() / 127.5 - 1


def frames_of(pixels: Tensor) -> Tensor:
    """What the VAE gives, [..., 3, T, H, W] -> uint8 frames [..., T, H, W, 3] on the CPU."""
    return pixels.float().clamp(-1, 1).add(1).mul(127.5).round().byte().movedim(-4, -1).cpu()


class RMSNorm(nn.Module):
    """Norm over channels at every place (Wan's `RMS_norm`: x / |x| * sqrt(C) * gamma). `dims` counts the axes behind C."""

    def __init__(self, channels: int, dims: int, *, dtype=None, device=None):
        super().__init__()
        self.scale = channels**0.5
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * dims, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        inverse = self.scale / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12)
        # An outer product as a matrix product: multiplying by `inverse` itself is 5 times slower on CPUs with 16 channels innermost.
        factor = inverse.movedim(1, -1) @ self.gamma.to(x).view(1, -1)
        return x * factor.movedim(-1, 1)


class _CausalMixin:
    """Turns a Conv3d class (torch's or the host's) into one that pads time at the front only, from the cache if there is one."""

    def _remember(self, x: Tensor, cache: Cache | None) -> Tensor:
        history = self.kernel_size[0] - self.stride[0]
        if history == 0:
            return x
        past = None if cache is None else cache.get(self)
        if past is None:
            # Laid out as x is, or the concatenation and everything behind it would leave channels_last_3d.
            past = x.new_zeros(x.shape[0], history, *x.shape[3:], x.shape[1]).movedim(-1, 1)
        x = torch.cat([past, x], 2)
        if cache is not None:
            cache[self] = x[:, :, -history:].clone()
        return x


def _causal_conv(in_channels: int, out_channels: int, kernel, *, operations, stride=1, padding=0, dtype=None, device=None) -> nn.Module:
    """A Conv3d of `operations` whose forward is `(x, cache)`. `padding` is spatial; time is padded by history."""

    class CausalConv3d(_CausalMixin, operations.Conv3d):
        def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
            if cache is None and x.shape[2] == 1 and self.stride[0] == 1:
                return self._still(x)
            return super().forward(self._remember(x, cache))

        def _still(self, x: Tensor) -> Tensor:
            """A still meets only the last slice of the kernel, the rest would see padding."""
            if operations is not nn:  # the host's layers have no weight to slice until they are called; they know how
                return super().forward(x, autopad="causal_zero")
            return F.conv3d(x, self.weight[:, :, -1:], self.bias, self.stride, self.padding)

    return CausalConv3d(in_channels, out_channels, kernel, stride=stride, padding=(0, padding, padding), dtype=dtype, device=device)


class ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, **kw):
        super().__init__()
        norm_kw = {k: kw[k] for k in ("dtype", "device")}
        # Positions 1, 4 and 5 are activation and dropout in the public file, so the parameters keep the names 0, 2, 3 and 6.
        self.residual = nn.Sequential(
            RMSNorm(in_channels, 3, **norm_kw), nn.SiLU(), _causal_conv(in_channels, out_channels, 3, padding=1, **kw),
            RMSNorm(out_channels, 3, **norm_kw), nn.SiLU(), nn.Identity(), _causal_conv(out_channels, out_channels, 3, padding=1, **kw),
        )  # fmt: skip
        self.shortcut = nn.Identity() if in_channels == out_channels else _causal_conv(in_channels, out_channels, 1, **kw)

    def forward(self, x: Tensor, cache: Cache | None) -> Tensor:
        norm1, act1, conv1, norm2, act2, _, conv2 = self.residual
        h = conv1(act1(norm1(x)), cache)
        h = conv2(act2(norm2(h)), cache)
        return h + self.shortcut(x)


class AttentionBlock(nn.Module):
    """One head of attention over the places of each frame."""

    def __init__(self, channels: int, *, operations, **factory):
        super().__init__()
        self.norm = RMSNorm(channels, 2, **factory)
        self.to_qkv = operations.Conv2d(channels, channels * 3, 1, **factory)
        self.proj = operations.Conv2d(channels, channels, 1, **factory)

    def forward(self, x: Tensor, cache: Cache | None) -> Tensor:
        b, c, t, h, w = x.shape
        y = x.movedim(2, 1).flatten(0, 1)  # (b t) c h w
        qkv = self.to_qkv(self.norm(y)).flatten(2).transpose(1, 2).unsqueeze(1)  # (b t) 1 hw 3c
        y = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))  # (b t) 1 hw c
        y = self.proj(y.squeeze(1).transpose(1, 2).reshape(b * t, c, h, w))
        return x + y.unflatten(0, (b, t)).movedim(1, 2)


class Downsample(nn.Module):
    """Halves height and width; with `time` also halves all frames behind the first, which passes alone."""

    def __init__(self, channels: int, time: bool, *, operations, **factory):
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), operations.Conv2d(channels, channels, 3, stride=2, **factory))
        kernel = {"kernel": (3, 1, 1), "stride": (2, 1, 1)}
        self.time_conv = _causal_conv(channels, channels, **kernel, operations=operations, **factory) if time else None

    def forward(self, x: Tensor, cache: Cache | None) -> Tensor:
        x = _per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        if cache is None or self.time_conv not in cache:  # the clip's first frame: kept as it is, and remembered as the past
            first, x = x[:, :, :1], x[:, :, 1:]
            local: Cache = {} if cache is None else cache
            local[self.time_conv] = first.clone()
            return first if x.shape[2] == 0 else torch.cat([first, self.time_conv(x, local)], 2)
        return self.time_conv(x, cache)


class Upsample(nn.Module):
    """Doubles height and width and halves the channels; with `time` also doubles all frames behind the first."""

    def __init__(self, channels: int, time: bool, *, operations, **factory):
        super().__init__()
        up = nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest-exact")
        self.resample = nn.Sequential(up, operations.Conv2d(channels, channels // 2, 3, padding=1, **factory))
        self.time_conv = _causal_conv(channels, channels * 2, (3, 1, 1), operations=operations, **factory) if time else None

    def forward(self, x: Tensor, cache: Cache | None) -> Tensor:
        if self.time_conv is not None:
            if cache is None or self not in cache:
                # The public model never shows the first frame to this convolution: its history starts with zeros behind it.
                first, x = x[:, :, :1], x[:, :, 1:]
                if cache is not None:
                    cache[self] = first[:0]
                x = first if x.shape[2] == 0 else torch.cat([first, self._double(x, cache)], 2)
            else:
                x = self._double(x, cache)
        return _per_frame(self.resample, x)

    def _double(self, x: Tensor, cache: Cache | None) -> Tensor:
        y = self.time_conv(x, cache).movedim(1, -1).unflatten(-1, (2, -1))  # b t h w 2 c
        return y.movedim(4, 2).flatten(1, 2).movedim(-1, 1)  # b c 2t h w, channels still innermost


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    b, t = x.shape[0], x.shape[2]
    return layer(x.movedim(2, 1).flatten(0, 1)).unflatten(0, (b, t)).movedim(1, 2)


class _Walk(nn.Module):
    """What encoder and decoder share: run a list of blocks, then norm, activation and the last convolution."""

    def _run(self, blocks: Iterable[nn.Module], x: Tensor, cache: Cache | None) -> Tensor:
        x = self.conv1(x, cache)
        for block in blocks:
            x = block(x, cache)
        norm, act, conv = self.head
        return conv(act(norm(x)), cache)

    def _middle(self, channels: int, kw: dict) -> nn.Sequential:
        first, last = (ResidualBlock(channels, channels, **kw) for _ in range(2))
        return nn.Sequential(first, AttentionBlock(channels, **kw), last)

    def _head(self, channels: int, out: int, kw: dict) -> nn.Sequential:
        norm = RMSNorm(channels, 3, dtype=kw["dtype"], device=kw["device"])
        return nn.Sequential(norm, nn.SiLU(), _causal_conv(channels, out, 3, padding=1, **kw))


class Encoder(_Walk):
    def __init__(self, config: VAEConfig, **kw):
        super().__init__()
        widths = [config.dim * m for m in (1, *config.dim_mult)]
        self.conv1 = _causal_conv(3, widths[0], 3, padding=1, **kw)
        blocks: list[nn.Module] = []
        for level, (width_in, width) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            blocks += [ResidualBlock(width_in if i == 0 else width, width, **kw) for i in range(config.num_res_blocks)]
            if level < len(config.temporal_downsample):
                blocks.append(Downsample(width, config.temporal_downsample[level], **kw))
        self.downsamples = nn.Sequential(*blocks)
        self.middle = self._middle(widths[-1], kw)
        self.head = self._head(widths[-1], config.z_dim * 2, kw)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        return self._run([*self.downsamples, *self.middle], x, cache)


class Decoder(_Walk):
    def __init__(self, config: VAEConfig, **kw):
        super().__init__()
        widths = [config.dim * m for m in (config.dim_mult[-1], *reversed(config.dim_mult))]
        upsample_time = tuple(reversed(config.temporal_downsample))
        self.conv1 = _causal_conv(config.z_dim, widths[0], 3, padding=1, **kw)
        self.middle = self._middle(widths[0], kw)
        blocks: list[nn.Module] = []
        for level, (width_in, width) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            first = width_in if level == 0 else width_in // 2  # an Upsample has halved it
            blocks += [ResidualBlock(first if i == 0 else width, width, **kw) for i in range(config.num_res_blocks + 1)]
            if level < len(upsample_time):
                blocks.append(Upsample(width, upsample_time[level], **kw))
        self.upsamples = nn.Sequential(*blocks)
        self.head = self._head(widths[-1], 3, kw)

    def forward(self, z: Tensor, cache: Cache | None = None) -> Tensor:
        return self._run([*self.middle, *self.upsamples], z, cache)


class VideoVAE(nn.Module):
    """Encoder, decoder and the two 1x1x1 convolutions between them and the latents.

    Args:
        config: sizes.
        operations: namespace of layer classes (torch.nn, or the host's).
        dtype, device: of the parameters.
    """

    def __init__(self, config: VAEConfig | None = None, *, operations=nn, dtype=None, device=None):
        super().__init__()
        config = config or VAEConfig()
        self.config = config
        self.strides = Strides(2 ** sum(config.temporal_downsample), 2 ** len(config.temporal_downsample), config.z_dim)
        kw = {"operations": operations, "dtype": dtype, "device": device}
        self.encoder = Encoder(config, **kw)
        self.conv1 = _causal_conv(config.z_dim * 2, config.z_dim * 2, 1, **kw)
        self.conv2 = _causal_conv(config.z_dim, config.z_dim, 1, **kw)
        self.decoder = Decoder(config, **kw)

    @torch.no_grad()
    def init_weights(self) -> VideoVAE:
        """For training from nothing, in place; returns self.

        Every layer starts as an orthogonal map of the present frame, and every residual branch as nothing, so the whole starts as a
        linear codec of single frames. On stills that is 24.7 dB after 120 steps, against 19.0 dB from torch's own initialisation.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d | nn.Conv2d):
                now = torch.empty(*layer.weight.shape[:2], *layer.weight.shape[-2:])
                nn.init.orthogonal_(now)
                if isinstance(layer, nn.Conv3d):
                    layer.weight.zero_()
                    layer.weight[:, :, -1] = now
                else:
                    layer.weight.copy_(now)
                nn.init.zeros_(layer.bias)
        for layer in self.modules():
            if isinstance(layer, ResidualBlock):
                nn.init.zeros_(layer.residual[-1].weight)
            elif isinstance(layer, AttentionBlock):
                nn.init.zeros_(layer.proj.weight)
        return self

    def channels_last(self) -> VideoVAE:
        """Lays the convolution weights out for `_channels_last` inputs, in place; returns self. Results stay the same."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d | nn.Conv2d):
                layout = torch.channels_last_3d if isinstance(layer, nn.Conv3d) else torch.channels_last
                layer.weight.data = layer.weight.data.contiguous(memory_format=layout)
        return self

    def moments(self, x: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents of frames [B, 3, T, H, W]; training samples from them, everyone else takes the mean."""
        return self.conv1(self.encoder(x, cache)).chunk(2, dim=1)

    def encode(self, x: Tensor, chunk: int | None = DEFAULT_CHUNK, device=None) -> Tensor:
        """Frames [B, 3, T, H, W] in -1..1 -> raw latents [B, 16, F, H/8, W/8], F = 1 + (T - 1) // 4; frames beyond that are left out.

        `chunk` is the number of cells walked at once, None for all; the result is the same. `device` is where to work, when the frames
        are kept elsewhere: they go there as they are walked.
        """
        s, device = self.strides, device or x.device
        frames = s.frames(s.whole_cells(x.shape[2]))
        if not chunk or frames <= s.frames(1 + chunk):
            return self.moments(_channels_last(x[:, :, :frames].to(device)))[0]  # one piece needs no cache
        return torch.cat(list(self.encode_chunks(part.to(device) for part in _slices(x, frames, 1, s.time * chunk))), 2)

    def encode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Latents of a stream of frames: the first chunk holds 1 + 4 k frames of [B, 3, T, H, W], every later one 4 k."""
        cache: Cache = {}
        for x in chunks:
            yield self.moments(_channels_last(x), cache)[0]

    def decode(self, z: Tensor, chunk: int | None = DEFAULT_CHUNK) -> Tensor:
        """Raw latents [B, 16, F, H, W] -> frames [B, 3, 1 + 4 (F - 1), 8 H, 8 W], about -1..1 and not clamped."""
        return torch.cat(list(self.decode_chunks(z, chunk)), 2)

    def decode_chunks(self, z: Tensor, chunk: int | None = DEFAULT_CHUNK) -> Iterator[Tensor]:
        """Yields the frames of `decode` some cells at a time, so that a caller can save and forget them."""
        if not chunk or z.shape[2] <= 1 + chunk:
            yield self.decoder(_channels_last(self.conv2(z)))
            return
        cache: Cache = {}
        for part in _slices(z, z.shape[2], 1, chunk):
            yield self.decoder(_channels_last(self.conv2(part)), cache)


def _slices(x: Tensor, length: int, first: int, step: int) -> Iterator[Tensor]:
    """Cuts axis 2 at `first`, then every `step`; the first two pieces go together, as one frame alone would idle the processor."""
    start, end = 0, min(length, first + step)
    while start < length:
        yield x[:, :, start:end]
        start, end = end, min(length, end + step)


def _channels_last(x: Tensor) -> Tensor:
    # 8 times faster convolutions in bf16 on CPUs, and no slower anywhere (conv3d: 769 GFLOP/s contiguous, 1768 so).
    return x.contiguous(memory_format=torch.channels_last_3d)
