"""What is given and what is to be made -> LATENT: SoraCanvas, SoraPlaceImage.

A LATENT of ours carries one extra entry, `Given`. Many host nodes copy it while they change the samples, so whoever reads it asks
`given_of`, which looks whether it still speaks of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..sora_core.canvas import Canvas, blank, encode_given, encode_held, place_still
from ..sora_core.shapes import ASPECT_RATIOS, MAX_SECONDS, Strides, VideoShape, check_size, frames_for_seconds, size_for_aspect
from .show import show_on_node

KEY = "sora"
CUSTOM = "custom"
RESOLUTION = 128
FITS = ("crop", "pad", "stretch")

ROUNDING = 1e-3
"""Of raw latents, whose deviation is about 2: what the host's `denoised_output` differs by on known cells, and no edit does."""


# -- what a LATENT carries -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Still:
    """A picture as a source, one for the whole batch or one for each video: [1 or B, H, W, 3] in 0..1."""

    pictures: Tensor

    def read(self, batch_index: int, start: int, count: int) -> Iterator[Tensor]:
        """Frames [n, H, W, 3], bit for bit."""
        yield self.pictures[min(batch_index, len(self.pictures) - 1)][None]


@dataclass(frozen=True)
class Given:
    """The extra entry of a LATENT.

    Args:
        canvas: shape, fps, what is known, and what becomes of it.
        sources: what the canvas' source numbers stand for.
        known: latents of the known cells, [B, C, k, h, w], to see whether the samples are still about them.
        guides: a latent [B, C, 1, h, w] for each guide of the canvas; `held` the same as a cell for models that know no guides.
    """

    canvas: Canvas
    sources: tuple[Still, ...] = ()
    known: Tensor | None = None
    guides: tuple[Tensor, ...] = ()
    held: tuple[Tensor, ...] = ()


def given_of(latent: dict) -> Given | None:
    """The entry of a LATENT if its samples are still those it was made for."""
    given, samples = latent.get(KEY), latent["samples"]
    if not isinstance(given, Given) or samples.shape[1:] != given.canvas.shape.latent:
        return None
    if given.known is None:
        return given
    known = samples[:, :, given.canvas.known].float()
    same = known.shape == given.known.shape and torch.allclose(known, given.known.to(known), rtol=0, atol=ROUNDING)
    return given if same else None


def fps_of(latent: dict, otherwise: float) -> float:
    """Frames a second of a LATENT, even where the rest of the entry no longer holds."""
    given = latent.get(KEY)
    return given.canvas.shape.fps if isinstance(given, Given) else otherwise


# -- nodes ---------------------------------------------------------------------------------------------------------------------------


class SoraCanvas(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        resolution = io.Int.Input(
            "resolution",
            default=RESOLUTION,
            min=32,
            max=2048,
            step=16,
            optional=True,
            tooltip="Side in pixels of the square with as many pixels as the video. The model that comes with the pack was trained on 128.",
        )
        sides = [
            io.Int.Input(
                side,
                default=RESOLUTION,
                min=16,
                max=4096,
                step=16,
                optional=True,
                tooltip=f"{side.capitalize()} in pixels, a multiple of 16.",
            )
            for side in ("width", "height")
        ]
        sizes = [io.DynamicCombo.Option(aspect, [resolution]) for aspect in ASPECT_RATIOS]
        return io.Schema(
            node_id="SoraCanvas",
            display_name="Sora Canvas",
            category="Sora/canvas",
            description="An empty video: its length, rate and size. Shows how many frames, latent cells and tokens that is.",
            search_aliases=["sora canvas", "empty latent video", "size", "length", "aspect ratio", "resolution"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the model; the canvas takes its strides from it."),
                io.Float.Input(
                    "seconds",
                    default=5.0,
                    min=0.0,
                    max=MAX_SECONDS,
                    step=0.001,
                    tooltip="Length in seconds, above 0. Rounded up to whole latent cells; the node shows the exact length.",
                ),
                io.Float.Input(
                    "fps",
                    default=8.0,
                    min=1.0,
                    max=120.0,
                    step=0.001,
                    tooltip="Frames a second, 1 to 120. The model that comes with the pack makes 8.",
                ),
                io.DynamicCombo.Input(
                    "size",
                    options=[*sizes, io.DynamicCombo.Option(CUSTOM, sides)],
                    tooltip="Aspect ratio, width to height; or custom, to give width and height in pixels.",
                ),
                io.Int.Input("batch", default=1, min=1, max=64, tooltip="How many videos to make, each from its own noise."),
                io.Boolean.Input(
                    "still",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Makes one picture in place of a video; seconds and fps then count for nothing.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The empty canvas, for Sora Place Image or a sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, seconds=None, *, size=None):
        # The host repeats a complaint at every field that is named before the star, so this looks at one; execute looks at all.
        if seconds is not None and (seconds < 0 or seconds > MAX_SECONDS):
            return f"{seconds:g} is no length: use more than 0, at most {MAX_SECONDS:g}"
        return True

    @classmethod
    def execute(cls, vae, seconds, fps, size=None, batch=1, still=False) -> io.NodeOutput:
        from ..sora_core.speed import check_fits
        from .host_vae import strides_of

        strides = strides_of(vae)
        check_length(seconds, fps, still)
        width, height = pixels(size, strides)
        frames = 1 if still else frames_for_seconds(seconds, fps, strides)
        shape = VideoShape(width, height, strides.cells(frames), fps, strides)
        check_fits(
            shape, batch=batch, device=comfy.model_management.get_torch_device()
        )  # for the smallest model; the sampler knows its own
        samples = torch.zeros(
            (batch, *shape.latent), device=comfy.model_management.intermediate_device(), dtype=comfy.model_management.intermediate_dtype()
        )
        note = describe(shape)
        show_on_node(cls, note)
        return io.NodeOutput({"samples": samples, KEY: Given(blank(shape))}, ui=ui.PreviewText(note))


class SoraPlaceImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraPlaceImage",
            display_name="Sora Place Image",
            category="Sora/canvas",
            description=(
                "Puts a picture on the canvas. At second 0 the video begins with exactly this picture; later it steers the video there."
            ),
            search_aliases=["sora image", "image to video", "first frame", "animate", "key frame", "start image"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Latent.Input("latent", tooltip="The canvas, from Sora Canvas or another Sora Place Image."),
                io.Image.Input("image", tooltip="The picture; or as many as the batch has videos, one for each."),
                io.Float.Input(
                    "second",
                    default=0.0,
                    min=0.0,
                    max=MAX_SECONDS,
                    step=0.001,
                    tooltip=(
                        "When the picture stands in the video, in seconds from its start. 0 is the first frame, which stays exactly as "
                        "given."
                    ),
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="crop",
                    tooltip=(
                        "How another size is met. crop: fills the frame, cuts what stands over. pad: whole picture, black bars. "
                        "stretch: bends it."
                    ),
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The canvas with the picture on it.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, vae, latent, image, second, fit) -> io.NodeOutput:
        from .host_vae import VideoCoder

        given = given_of(latent)
        if given is None:
            raise ValueError(
                "latent: this is no canvas any more: connect 'Sora Canvas' or 'Sora Place Image' without a node between that changes it"
            )
        shape, coder = given.canvas.shape, VideoCoder(vae)
        if coder.strides != shape.strides:
            raise ValueError("vae: this is not the VAE that the canvas was made with: connect the same one to both nodes")
        batch = latent["samples"].shape[0]
        if len(image) not in (1, batch):
            raise ValueError(f"image: {len(image)} pictures for {batch} videos: give 1 or {batch}")
        frame = frame_at(second, shape)
        still = Still(fitted(image, shape.width, shape.height, fit))
        placed = place(latent, given, frame, still, coder)
        note = (
            "the first frame is exactly this picture"
            if frame == 0
            else f"steers frame {frame} of {shape.frames}, at {frame / shape.fps:g} s"
        )
        show_on_node(cls, note)
        return io.NodeOutput({**latent, **placed}, ui=ui.PreviewText(note))


# -- the work ------------------------------------------------------------------------------------------------------------------------


def check_length(seconds: float, fps: float, still: bool) -> None:
    """Raises ValueError naming the field. A still has no length, so it is asked for in its own field."""
    if not still and seconds <= 0:
        raise ValueError(f"seconds is {seconds:g}: use more than 0, such as 1; for one picture switch 'still' on")
    if not still:
        frames_for_seconds(seconds, fps)


def pixels(size: dict | None, strides: Strides) -> tuple[int, int]:
    """(width, height) of what the size field holds. Raises ValueError."""
    size = size or {}
    aspect = size.get("size")
    if aspect == CUSTOM:
        width, height = size.get("width") or RESOLUTION, size.get("height") or RESOLUTION
        check_size(width, height, strides)
        return width, height
    if aspect not in ASPECT_RATIOS:
        raise ValueError(f"size is not known: use one of {', '.join(ASPECT_RATIOS)} or {CUSTOM}")
    return size_for_aspect(aspect, (size.get("resolution") or RESOLUTION) ** 2, strides)


def describe(shape: VideoShape) -> str:
    """What the node shows."""
    length = f"{shape.frames} frames, {shape.seconds:g} s" if shape.cells > 1 else "1 picture"
    return f"{shape.width}x{shape.height}\n{length}\n{shape.cells} latent cells, {shape.tokens:,} tokens"


def frame_at(second: float, shape: VideoShape) -> int:
    """The frame nearest to a moment. Raises ValueError naming the last moment."""
    frame = round(second * shape.fps)
    if frame >= shape.frames:
        raise ValueError(f"second {second:g} is behind the end of the video: use 0 to {shape.seconds:g}")
    return frame


def fitted(image: Tensor, width: int, height: int, fit: str) -> Tensor:
    """Pictures [n, H, W, 3 or more] as [n, height, width, 3]; untouched where the size is right already."""
    image = image[..., :3]
    if image.shape[1:3] == (height, width):
        return image
    x = image.movedim(-1, 1)
    if fit == "pad":
        scale = min(width / x.shape[-1], height / x.shape[-2])
        inner = max(1, round(x.shape[-1] * scale)), max(1, round(x.shape[-2] * scale))
        x = comfy.utils.common_upscale(x, *inner, "lanczos", "disabled")
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        x = torch.nn.functional.pad(x, (left, width - inner[0] - left, top, height - inner[1] - top))
    else:
        x = comfy.utils.common_upscale(x, width, height, "lanczos", "center" if fit == "crop" else "disabled")
    return x.movedim(1, -1).contiguous()


def place(latent: dict, given: Given, frame: int, still: Still, coder) -> dict:
    """The entries of a LATENT after a picture was put at a frame: samples, noise_mask and Given."""
    batch, sources = len(latent["samples"]), (*given.sources, still)
    canvas = place_still(given.canvas, frame, len(sources) - 1)

    def read(source: int, start: int, count: int) -> Tensor:
        return sources[source].pictures.movedim(-1, 1).unsqueeze(2).float() * 2 - 1  # B 3 1 H W

    latents, guides = encode_given(coder, canvas, read, batch)
    held = (encode_held(coder, read(g.source, g.start, 1)).float().cpu() for g in canvas.guides)
    held = tuple(h.expand(batch, -1, -1, -1, -1) for h in held)
    placed = {KEY: replace(given, canvas=canvas, sources=sources, guides=tuple(guides), held=held)}
    if not canvas.known:
        return placed
    samples = latent["samples"]
    # An empty latent is all zero to the host, a partly filled one is not: there the unknown cells are what the model sees as zero.
    samples = samples.clone() if samples.any() else latents.to(samples)
    samples[:, :, canvas.known] = latents[:, :, canvas.known].to(samples)
    mask = canvas.mask().view(1, 1, -1, 1, 1)
    if "noise_mask" in latent:
        mask = mask * comfy.utils.reshape_mask(latent["noise_mask"], samples[:, :1].shape)
    placed[KEY] = replace(placed[KEY], known=samples[:, :, canvas.known].clone())
    return {"samples": samples, "noise_mask": mask, **placed}
