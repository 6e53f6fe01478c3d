"""How long and how large -> LATENT."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io, ui

from ..sora_core.canvas import NEW, Canvas, blank
from ..sora_core.shapes import ASPECT_RATIOS, MAX_SECONDS, Strides, VideoShape, check_size, frames_for_seconds, size_for_aspect
from .costs import check_canvas
from .given import KEY, Given
from .host_vae import strides_of
from .show import show_on_node

LAST_SECOND = 86_400.0
"""24 hours: a moment of a given video may lie far behind what is made at once."""

CUSTOM = "custom"
RESOLUTION = 128


def moment_input(name: str, tooltip: str, default: float = 0.0):
    """A moment of a video, in seconds from its start."""
    return io.Float.Input(name, default=default, min=0.0, max=LAST_SECOND, step=0.001, tooltip=tooltip)


def no_moment(**moments: float | None) -> str:
    """What is wrong with fields of `moment_input`, None where another node gives it; for `validate_inputs`, to which the host leaves the
    limits of the fields that it names."""
    wrong = [(name, moment) for name, moment in moments.items() if moment is not None and not 0 <= moment <= LAST_SECOND]
    return next((f"{name} {moment:g} is no moment of a video: use 0 to {LAST_SECOND:g}" for name, moment in wrong), "")


def rate_input(name: str, tooltip: str, **more):
    """Frames a second, where 0 stands for what the tooltip says."""
    return io.Float.Input(name, default=0.0, min=0.0, max=120.0, step=0.001, tooltip=tooltip, **more)


def check_rate(name: str, fps: float, zero: str) -> None:
    """Raises ValueError for a rate of a `rate_input` that no video has; `zero`: what 0 stands for."""
    if fps and not 1 <= fps <= 120:
        raise ValueError(f"{name} is {fps:g}: use 1 to 120, or 0 {zero}")


class SoraCanvas(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraCanvas",
            display_name="Sora Canvas",
            category="Sora/canvas",
            description="An empty video, or picture: its length, rate and size. Shows how many frames, latent cells and tokens that is.",
            search_aliases=["sora canvas", "empty latent video", "text to image", "size", "length", "aspect ratio", "resolution"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the model; the canvas takes its strides from it."),
                io.Float.Input(
                    "seconds",
                    default=5.0,
                    min=0.0,
                    max=MAX_SECONDS,
                    step=0.001,
                    tooltip="Length in seconds, rounded up to whole latent cells; the node shows the exact length. 0 makes one picture.",
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
                    options=size_options(),
                    tooltip="Aspect ratio, width to height; or custom, to give width and height in pixels.",
                ),
                io.Int.Input("batch", default=1, min=1, max=64, tooltip="How many videos to make, each from its own noise."),
            ],
            outputs=[io.Latent.Output(tooltip="The empty canvas, for Sora Place Image, Sora Place Video or a sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, seconds=None, *, size=None):
        # The host repeats a complaint at every field that is named before the star, so this looks at one; execute looks at all.
        if seconds is not None and (seconds < 0 or seconds > MAX_SECONDS):
            return f"{seconds:g} is no length: use 0 (one picture) to {MAX_SECONDS:g}"
        return True

    @classmethod
    def execute(cls, vae, seconds, fps, size=None, batch=1) -> io.NodeOutput:
        strides = strides_of(vae)
        cells = strides.cells(frames_for_seconds(seconds, fps, strides))
        width, height = pixels(size, strides)
        shape = VideoShape(width, height, cells, fps, strides)
        check_canvas(shape, batch, vae)
        samples = torch.zeros(
            (batch, *shape.latent), device=comfy.model_management.intermediate_device(), dtype=comfy.model_management.intermediate_dtype()
        )
        note = describe(shape)
        show_on_node(cls, note)
        return io.NodeOutput({"samples": samples, KEY: Given(blank(shape), vae=vae)}, ui=ui.PreviewText(note))


# -- the work ------------------------------------------------------------------------------------------------------------------------


def size_options() -> list:
    """The options of a size field: every aspect ratio with a resolution, and custom with both sides."""
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
            tooltip=f"{side.capitalize()} in pixels, a multiple of the VAE's step: 16 for the shipped one.",
        )
        for side in ("width", "height")
    ]
    return [*(io.DynamicCombo.Option(aspect, [resolution]) for aspect in ASPECT_RATIOS), io.DynamicCombo.Option(CUSTOM, sides)]


def pixels(size: dict | None, strides: Strides) -> tuple[int, int]:
    """(width, height) of what the size field holds. Raises ValueError."""
    size = size or {}
    aspect = size.get("size")
    if aspect == CUSTOM:
        width, height = size.get("width") or RESOLUTION, size.get("height") or RESOLUTION
        check_size(width, height, strides)
        return width, height
    if aspect not in ASPECT_RATIOS:
        raise ValueError(f"size is not known: use one of {', '.join(ASPECT_RATIOS)} or {CUSTOM}; around a given video also 'as given'")
    return size_for_aspect(aspect, (size.get("resolution") or RESOLUTION) ** 2, strides)


def describe(shape: VideoShape) -> str:
    """What the node shows."""
    length = f"{shape.frames} frames, {shape.seconds:g} s" if shape.cells > 1 else "1 picture"
    return f"{shape.width}x{shape.height}\n{length}\n{shape.cells} latent cells, {shape.tokens:,} tokens"


def made_and_kept(canvas: Canvas) -> str:
    """How many frames of a result are made, and how many are given: a line for the node."""
    frames = canvas.timeline.frames
    made = sum(piece.count for piece in canvas.timeline.pieces if piece.source == NEW)
    return f"{made} are made ({made / canvas.shape.fps:g} s), {frames - made} kept as they are"
