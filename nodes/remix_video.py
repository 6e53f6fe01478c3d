"""A given video, to be changed -> LATENT: SoraRemix."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..sora_core.shapes import VideoShape
from ..sora_core.verbs import remix
from .canvas import made_and_kept
from .extend_video import take_in
from .given import Given, Media
from .known import remix_latent
from .media import changes, counted, fit_for, fitted, form_inputs, media_input, one_or
from .show import show_on_node

STRENGTHS = {"subtle": 0.3, "mild": 0.5, "strong": 0.7}
NUMBER = "a number"


class SoraRemix(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        amount = io.Float.Input(
            "amount",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="Share of the noise that is put on the video, 0 (nothing changes) to 1 (nothing is left of it).",
        )
        options = [io.DynamicCombo.Option(name, []) for name in STRENGTHS]
        return io.Schema(
            node_id="SoraRemix",
            display_name="Sora Remix",
            category="Sora/canvas",
            description="Changes a video by words: begins from it in place of pure noise. With a mask, only there.",
            search_aliases=["sora remix", "video to video", "vid2vid", "restyle", "inpaint video", "denoise"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                media_input(),
                io.DynamicCombo.Input(
                    "strength",
                    options=[*options, io.DynamicCombo.Option(NUMBER, [amount])],
                    tooltip=(
                        "How much is changed. Share of the noise: subtle 0.3, mild 0.5, strong 0.7. Sora Sampler follows it; in other "
                        "samplers set denoise to it."
                    ),
                ),
                *form_inputs(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the video is changed (white); black stays exactly. One for all frames, or one for each given frame.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The video as latents, for a sampler.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, vae, video, strength=None, size=None, fit="cover", fps=0.0, image_fps=0.0, mask=None) -> io.NodeOutput:
        share = share_of(strength)
        media, clip, still = take_in(cls, video, vae, size, fit, fps, image_fps)
        region = None if mask is None else region_of(mask, media, clip, still, fit_for(size, fit))
        kept = [False] * clip.frames if region is None else (region.amax((1, 2)) == 0).tolist()
        canvas = remix(still, kept)
        latent = remix_latent(Given(canvas, (clip,), sound=clip.sound, strength=share, region=region, vae=vae))
        lines = [
            f"{clip.frames} frames of {still.width}x{still.height}, {still.fps:g} a second, {clip.frames / still.fps:g} s",
            made_and_kept(canvas),
            f"begins from {share:g} of the noise",
        ]
        if region is not None:
            lines.append(how_much(region))
        note = "\n".join([*lines, *changes(media, still)])
        show_on_node(cls, note)
        return io.NodeOutput(latent, ui=ui.PreviewText(note))


def share_of(strength: dict | None) -> float:
    """The share of the noise that the field asks for. Raises ValueError."""
    name = (strength or {}).get("strength")  # of an unknown one the host hands on nothing
    if name == NUMBER:
        return strength.get("amount", STRENGTHS["mild"])
    if name not in STRENGTHS:
        raise ValueError(f"strength is not known: use {', '.join(STRENGTHS)} or {NUMBER}")
    return STRENGTHS[name]


def how_much(region: Tensor) -> str:
    """A line for the node: how much of a video a region is."""
    share = region.mean().item()
    if not share:
        return "NOTHING IS CHANGED: the mask is all black (so is that of Load Image without transparency); white is where it is changed"
    return f"{share:.0%} is changed" if share >= 0.01 else "less than 1% is changed"


def region_of(mask: Tensor, media: Media, clip: Media, still: VideoShape, fit: str) -> Tensor:
    """A MASK as [T, H, W] in 0..1 for every frame of the canvas, fitted as the video is. Raises ValueError."""
    mask = mask.reshape(-1, *mask.shape[-2:]).float().clamp(0, 1)
    if len(mask) not in (1, media.frames):
        raise ValueError(f"mask: {len(mask)} masks for {counted(media.frames, 'frame')}: give {one_or(media.frames)}")
    if len(mask) > 1 and clip is not media:
        mask = mask[torch.tensor(clip.shown)]
    # A mask of any size lies over the whole picture. By area, for lanczos would change a little of what is black beside an edge.
    mask = fitted(mask.unsqueeze(-1), *media.size, "stretch", "area")
    mask = fitted(mask, still.width, still.height, fit, "area")[..., 0]
    return mask.expand(clip.frames, -1, -1)
