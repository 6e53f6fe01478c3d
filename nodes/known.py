"""A canvas with what is given -> LATENT. Every verb ends here."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..sora_core.canvas import Span, blank, cell_mask, encode_given, encode_held
from ..sora_core.passes import known_cells
from ..sora_core.shapes import VideoShape
from ..sora_core.sound import soundtrack
from .costs import check_canvas, check_room
from .given import KEY, Given, Media, Picked, alike, given_of, same_mask, samples_of
from .host_vae import VideoCoder
from .media import fitted, refitted

RESIZERS = ("nearest-exact", "bilinear", "area", "bicubic", "bislerp")
"""Of the host's Latent Upscale nodes."""


COPIES = 3
"""Of one video's frames, beside the frames themselves, while the host's VAE encodes them."""


def frames_as_pixels(media: Media, start: int, count: int) -> Tensor:
    """Frames of all videos of media as the VAE takes them: [B, 3, count, H, W] in -1..1; behind its end the last one again.

    In memory once, with the few frames that are read at a time.

    Raises:
        ValueError: frames that cannot fit this machine while they are encoded.
    """
    width, height = media.size
    check_room(
        (media.batch + COPIES) * count * width * height * 12,
        f"size: {count} frames of {width}x{height} take {{needed}} while they are encoded, this machine has {{there}}: choose a smaller "
        "size, or give a shorter video",
    )
    pixels, there = torch.empty(media.batch, 3, count, height, width), min(count, media.frames - start)
    for number, video in enumerate(pixels):
        at = 0
        for chunk in media.read(number, start, there):
            video[:, at : at + len(chunk)].copy_(chunk.movedim(-1, 0)).mul_(2).sub_(1)
            at += len(chunk)
    pixels[:, :, there:] = pixels[:, :, there - 1 : there]
    return pixels


def latent_of(vae, given: Given, latent: dict | None = None) -> dict:
    """The LATENT of a canvas: known cells encoded, or taken from a source that holds them.

    Args:
        given: canvas and sources; the rest of it is found here, its sound only where it has none: what lies under a picture goes on.
        latent: one to put the known cells on, with the noise mask that it may have; by default an empty one.

    Raises:
        ValueError: a canvas that cannot fit this machine.
    """
    canvas, coder = given.canvas, VideoCoder(vae)
    batch = len(latent["samples"]) if latent else max((media.batch for media in given.sources), default=1)
    check_canvas(canvas.shape, batch, vae)

    def read(source: int, start: int, count: int) -> Tensor:
        return frames_as_pixels(given.sources[source], start, count)

    latents, guides = encode_given(coder, canvas, read, batch, lambda source, *which: given.sources[source].cells(*which))
    held = (encode_held(coder, read(g.source, g.start, 1)).float().cpu() for g in canvas.guides)
    given = replace(
        given,
        guides=tuple(guides),
        held=tuple(h.expand(batch, -1, -1, -1, -1) for h in held),
        sound=given.sound or soundtrack(canvas.timeline, canvas.shape.fps, [media.sound for media in given.sources]),
    )
    samples = latent["samples"] if latent else to_host(torch.zeros(batch, *canvas.shape.latent))
    mask = canvas.mask().view(1, 1, -1, 1, 1)
    bare = {name: value for name, value in (latent or {}).items() if name != "noise_mask"}
    other = (latent or {}).get("noise_mask")
    if other is not None and not same_mask(other, given.mask):  # somebody's own, not that of an earlier verb
        given = replace(given, own_mask=comfy.utils.reshape_mask(other, samples[:, :1].shape))
    if given.own_mask is not None:
        mask = mask * given.own_mask
    if canvas.known:
        # An empty latent is all zero to the host, a partly filled one is not: there the unknown cells are what the model sees as zero.
        samples = samples.clone() if samples.any() else latents.to(samples)
        samples[:, :, canvas.known] = latents[:, :, canvas.known].to(samples)
    elif given.own_mask is None:
        return {**bare, "samples": samples, KEY: replace(given, samples=samples, mask=mask)}
    return {**bare, "samples": samples, "noise_mask": mask, KEY: replace(given, samples=samples.clone(), mask=mask)}


def remix_latent(given: Given, samples: Tensor | None = None) -> dict:
    """The LATENT of Sora Remix: a video to be changed, as a whole or in a region.

    Args:
        given: canvas, the video as its one source, and the region.
        samples: what there is in the region; by default the video as well.

    Raises:
        ValueError: a canvas that cannot fit this machine.
    """
    shape = given.canvas.shape
    check_canvas(shape, given.sources[0].batch, given.vae)
    video = to_host(_encoded(given.vae, given.sources[0], shape))
    if given.region is None:
        return {"samples": video, KEY: given}
    mask = cell_mask(given.region, shape)
    samples = video if samples is None else torch.where(mask.to(samples.device) == 0, video.to(samples), samples)
    return {"samples": samples, "noise_mask": mask, KEY: replace(given, samples=samples, mask=mask)}


def _encoded(vae, clip: Media, shape: VideoShape) -> Tensor:
    """[B, C, F, h, w] of a whole video: the cells it holds, or encoded; the last one filled up with the last frame."""
    canvas = replace(blank(shape), spans=(Span(0, shape.cells, 0, 0),))
    latents_of = (lambda _, *which: clip.cells(*which)) if shape.frames == clip.frames else None
    return encode_given(VideoCoder(vae), canvas, lambda _, *which: frames_as_pixels(clip, *which), clip.batch, latents_of)[0]


def enlarged(latent: dict) -> dict:
    """A LATENT that the host's Latent Upscale has resized, with a canvas of its new size: what is given is fitted and encoded anew, from
    the media. Any other LATENT as it is."""
    given, samples = latent.get(KEY), samples_of(latent)
    if not isinstance(given, Given) or given_of(latent) is not None:
        return latent
    shape, (height, width) = given.canvas.shape, samples.shape[-2:]
    canvas = replace(given.canvas, shape=replace(shape, width=width * shape.strides.space, height=height * shape.strides.space))
    if given.samples is None and samples.shape[1:3] == shape.latent[:2]:  # nothing to be pasted: its time is all there is
        return {**latent, KEY: replace(given, canvas=canvas)}
    if given.samples is None or given.vae is None or samples.shape[:3] != given.samples.shape[:3]:
        return latent
    # Cells that are known in part only are mixed with their neighbours; where there are no others, all must be those of Sora Sampler.
    cells = sorted(known_cells(given.mask)) or list(range(shape.cells))
    known, found = given.samples[:, :, cells].float(), samples[:, :, cells].float()
    resized = (comfy.utils.common_upscale(known, width, height, method, "disabled").to(found) for method in RESIZERS)
    if not any(alike(found, known) for known in resized):
        return latent
    given = replace(given, canvas=canvas, sources=tuple(_at_size(media, canvas.shape) for media in given.sources))
    if given.own_mask is not None:
        given = replace(given, own_mask=comfy.utils.reshape_mask(given.own_mask, samples[:, :1].shape))
    if given.region is None:
        bare = {name: value for name, value in latent.items() if name != "noise_mask"}  # that of the smaller size
        return latent_of(given.vae, given, bare)
    region = fitted(given.region.unsqueeze(-1), canvas.shape.width, canvas.shape.height, "stretch", "area")[..., 0]
    return remix_latent(replace(given, region=region), samples)


def _at_size(media: Media, shape: VideoShape) -> Media:
    return Picked(_at_size(media.media, shape), media.videos) if isinstance(media, Picked) else refitted(media, shape)


def to_host(samples: Tensor) -> Tensor:
    """On the device and in the dtype that the host hands latents on in."""
    return samples.to(comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype())
