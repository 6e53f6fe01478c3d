"""The host's VAE around ours, and a way to read any video VAE of the host some frames at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import comfy.ldm.wan.vae
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.taesd.taehv
import comfy.utils
import torch
from torch import Tensor

from ..sora_core.autoencoder import DEFAULT_CHUNK, VideoVAE
from ..sora_core.checkpoint import read_vae
from ..sora_core.config import VAEConfig
from ..sora_core.shapes import PATCH, Strides
from .host import compute_dtype

ACTIVATIONS = 12
"""Largest layers that are alive at once while a chunk is walked. At 256 x 256 the estimate is 480 MiB in bfloat16; a walk takes 450."""

TILE = 256
"""Side in pixels, where decoding has to be done in tiles."""


class HostVAE(VideoVAE):
    """VideoVAE as the host calls it. In and out are float32; the walk between runs in `dtype`.

    The two convolutions at the latents stay in float32: in bfloat16 they cost 0.01 in normalised latents.
    """

    comfy_has_chunked_io = True  # the host keeps the frames, and gives and takes them as they are walked

    def __init__(self, config: VAEConfig, dtype: torch.dtype):
        super().__init__(config, operations=comfy.ops.manual_cast)
        self.dtype = dtype

    def moments(self, x, cache=None):
        return self.conv1(self.encoder(x.to(self.dtype), cache).float()).chunk(2, dim=1)

    def decode_chunks(self, z, chunk=DEFAULT_CHUNK):
        cache = {} if z.shape[2] > 1 + chunk else None  # one piece needs no memory
        start, end = 0, 1 + chunk
        while start < z.shape[2]:
            part = self.conv2(z[:, :, start:end].float()).to(self.dtype)
            yield self.decoder(part.contiguous(memory_format=torch.channels_last_3d), cache).float()
            start, end = end, end + chunk

    def decode(self, z, chunk=DEFAULT_CHUNK, output_buffer=None):
        if output_buffer is None:
            output_buffer = z.new_empty(self.decode_output_shape(z.shape), dtype=torch.float32)
        at = 0
        for part in self.decode_chunks(z, chunk):
            output_buffer[:, :, at : at + part.shape[2]] = part.to(output_buffer)
            at += part.shape[2]
        return output_buffer

    def decode_output_shape(self, shape):
        s = self.strides
        return shape[0], 3, s.frames(shape[2]), shape[3] * s.space, shape[4] * s.space

    def decode_tiled(self, z, tile_x=32, tile_y=32, overlap=8, tile_t=None, overlap_t=None):
        """Tiles in space only: time is walked in chunks anyway, and a causal walk cut in time would show it."""
        scale = (self.strides.frames, self.strides.space, self.strides.space)
        return comfy.utils.tiled_scale_multidim(
            z,
            self.decode,
            (z.shape[2], tile_y, tile_x),
            (0, overlap, overlap),
            scale,
            3,
            z.device,
            index_formulas=(self.strides.time, *scale[1:]),
        )

    def encode_tiled(self, x, tile_x=256, tile_y=256, overlap=64, tile_t=None, overlap_t=None):
        s, space = self.strides, self.strides.space
        frames = s.frames(s.whole_cells(x.shape[2]))
        scale = (s.whole_cells, space, space)
        return comfy.utils.tiled_scale_multidim(
            x[:, :, :frames],
            self.encode,
            (frames, tile_y, tile_x),
            (0, overlap, overlap),
            scale,
            s.channels,
            x.device,
            downscale=True,
            index_formulas=(s.time, space, space),
        )


class SoraVAE(comfy.sd.VAE):
    """The host's VAE object with our network in it: VAEDecode, VAEEncode, tiled ones and all that build on them work with it."""

    def __init__(self, tensors: dict[str, Tensor], config: VAEConfig, precision: str = "auto", device=None):
        # The smallest VAE the host knows gives every attribute, also of later hosts, a value; then all that matters is replaced.
        super().__init__(sd={"pixel_space_vae": torch.tensor(1.0)}, device=device)
        dtype = compute_dtype(precision, self.device)
        model = HostVAE(config, dtype)
        s = model.strides
        self.latent_channels, self.latent_dim, self.output_channels = s.channels, 3, 3
        self.upscale_ratio = (lambda cells: max(0, s.frames(cells)), s.space, s.space)
        self.downscale_ratio = (lambda frames: max(0, s.whole_cells(frames)), s.space, s.space)
        self.upscale_index_formula = self.downscale_index_formula = (s.time, s.space, s.space)
        self.handles_tiling, self.disable_offload, self.size = True, False, None
        self.pad_channel_value = 1.0
        self.working_dtypes = [torch.float32]
        self.vae_dtype = torch.float32  # at the border; HostVAE casts inside
        self.first_stage_model = model.eval().requires_grad_(False)
        offload = comfy.model_management.vae_offload_device()
        self.patcher = comfy.model_patcher.CoreModelPatcher(model, load_device=self.device, offload_device=offload)
        tensors = {name: t if _at_latents(name) else t.to(dtype) for name, t in tensors.items()}
        model.load_state_dict(tensors, strict=False, assign=True)
        comfy.model_management.archive_model_dtypes(model)
        if not self.patcher.is_dynamic():
            model.channels_last()
        frames = s.time * (DEFAULT_CHUNK + 1)
        per_pixel = frames * config.dim * ACTIVATIONS * dtype.itemsize
        self.memory_used_encode = lambda shape, _: per_pixel * shape[3] * shape[4]
        self.memory_used_decode = lambda shape, _: per_pixel * shape[3] * shape[4] * s.space**2


def _at_latents(name: str) -> bool:
    return name.startswith(("conv1.", "conv2."))


def load_vae(path: str, precision: str = "auto", device=None) -> SoraVAE:
    """A VAE file as the host's VAE. Raises CheckpointError."""
    tensors, config = read_vae(path)
    vae = SoraVAE(tensors, config, precision, device)
    vae.patcher.cached_patcher_init = (load_vae_patcher, (path, precision, device))
    return vae


def load_vae_patcher(path: str, precision: str = "auto", device=None, disable_dynamic: bool = False):
    return load_vae(path, precision, device).patcher


# -- any video VAE of the host -------------------------------------------------------------------------------------------------------


ONE_CELL_A_TOKEN = (8, 32, 128), (4, 16, 32)
"""Strides and channels of the VAEs of LTX-Video and of HunyuanVideo 1.5: a token of their models is one cell."""


def strides_of(vae) -> Strides:
    """Strides of a host VAE. Raises ValueError for one that makes pictures or sound, or for none."""
    if vae is None:  # so the host's loaders hand on that a checkpoint holds none
        raise ValueError("vae: the checkpoint holds none: connect 'Load VAE', or the VAE of 'Sora Load Model'")
    time, space = vae.temporal_compression_decode(), vae.spacial_compression_decode()
    if vae.latent_dim != 3 or not isinstance(time, int) or vae.not_video or vae.output_channels < 3:
        raise ValueError("vae: this VAE is not for video: connect the VAE of 'Sora Load Model', or a Wan 2.1 VAE from 'Load VAE'")
    form = time, space, vae.latent_channels
    return Strides(*form, 1 if form in ONE_CELL_A_TOKEN else PATCH)


class VideoCoder:
    """Any video VAE of the host as the core knows one: frames [B, 3, T, H, W] in -1..1, raw latents, `strides`."""

    def __init__(self, vae):
        self.vae, self.strides = vae, strides_of(vae)

    def encode(self, x: Tensor) -> Tensor:
        """[B, 3, T, H, W] in -1..1 -> [B, C, F, h, w]."""
        return torch.cat([self.vae.encode(clip.movedim(0, -1).add(1).div_(2)) for clip in x])  # t h w c in 0..1

    def decode_chunks(self, z: Tensor, batch_index: int) -> Iterator[Tensor]:
        """Frames [n, H, W, 3] in 0..1 on the host's output device, of one video of a batch; some cells at a time where it can.

        Where the device runs out of memory, the rest is decoded in tiles, as the host does it: all at once, but to an end.
        """
        vae, z = self.vae, z[batch_index : batch_index + 1]
        network = vae.first_stage_model
        if isinstance(network, HostVAE):
            walk = network.decode_chunks
        elif type(network) is comfy.ldm.wan.vae.WanVAE:
            walk = lambda part: _wan_chunks(network, part)  # noqa: E731
        else:
            frames = vae.decode(z)
            yield from frames[0].split(self.strides.time * DEFAULT_CHUNK)
            return
        done, full = 0, False
        try:
            memory = vae.memory_used_decode(z.shape, vae.vae_dtype)
            comfy.model_management.load_models_gpu([vae.patcher], memory_required=memory)
            with comfy.model_management.cuda_device_context(vae.device):
                for part in walk(z.to(vae.device, vae.vae_dtype)):
                    comfy.model_management.throw_exception_if_processing_interrupted()
                    part = vae.process_output(part.to(vae.output_device, vae.vae_output_dtype()))
                    done += part.shape[2]
                    yield part[0].movedim(0, -1)  # t h w c
        except Exception as error:
            comfy.model_management.raise_non_oom(error)
            full = True
        if full:  # out here, where the exception no longer holds what was computed
            comfy.model_management.soft_empty_cache()
            logging.warning(f"Sora: out of memory while decoding, after {done} frames: the rest is decoded in tiles")
            tile = TILE // self.strides.space
            frames = vae.decode_tiled(z, tile_x=tile, tile_y=tile, overlap=tile // 4)
            yield from frames[0, done:].split(self.strides.time * DEFAULT_CHUNK)


def _wan_chunks(network, z: Tensor) -> Iterator[Tensor]:
    """The walk of the host's WanVAE.decode, one or two cells at a time."""
    cache = [None] * comfy.ldm.wan.vae.count_cache_layers(network.decoder)
    x = network.conv2(z)
    start, end = 0, 1
    while start < x.shape[2]:
        yield torch.cat(network.decoder(x[:, :, start:end], feat_cache=cache, feat_idx=[0]), 2)
        start, end = end, end + 2


def same_vae(vae, other) -> bool:
    """Whether two VAEs have the same latents, as far as their networks tell; the host's tiny decoders are for those of others."""
    kinds = {kind_of(vae), kind_of(other)}
    return other is None or len(kinds) == 1 or comfy.taesd.taehv.TAEHV in kinds


def kind_of(vae) -> type | int:
    """What tells the latents of VAEs apart: the width of one of Wan 2.1's form, the class of another's network."""
    network = getattr(vae, "first_stage_model", None)
    ours = isinstance(network, HostVAE | comfy.ldm.wan.vae.WanVAE)  # one file opens as either
    return network.encoder.conv1.out_channels if ours else type(network)
