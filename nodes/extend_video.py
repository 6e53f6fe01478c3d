"""A given video and frames to be made around or in it -> LATENT: SoraExtend, SoraFill, SoraJoin, SoraLoop."""

from __future__ import annotations

import math

from comfy_api.latest import io, ui

from ..sora_core import verbs
from ..sora_core.canvas import NEW, Canvas
from ..sora_core.shapes import MAX_SECONDS, VideoShape
from .canvas import made_and_kept, moment_input, no_moment
from .given import Given, Media
from .host_vae import strides_of
from .known import latent_of
from .media import USUAL_FPS, changes, conformed, counted, fit_for, form_inputs, media_input, media_of, shape_for
from .show import show_on_node

FORWARD, BACKWARD, BOTH = "forward", "backward", "both"


# -- fields --------------------------------------------------------------------------------------------------------------------------


ROUNDED = "Rounded up to whole latent cells."


def seconds_input(tooltip: str, name: str = "seconds", default: float = 2.0, least: float = 0.001):
    return io.Float.Input(name, default=default, min=least, max=MAX_SECONDS, step=0.001, tooltip=tooltip)


def context_input(more: str = ""):
    return io.Float.Input(
        "context",
        default=2.0,
        min=0.0,
        max=60.0,
        step=0.1,
        optional=True,
        advanced=True,
        tooltip=f"How much of the given video the model sees on each side, in seconds. More keeps motion better and takes longer.{more}",
    )


def schema(
    node_id: str,
    display_name: str,
    description: str,
    aliases: list[str],
    fields: list,
    on_context: str = "",
    image_fps: str = USUAL_FPS,
) -> io.Schema:
    """What the four nodes have in common; `on_context` is said of that field beside what all say, `image_fps` as in `form_inputs`."""
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category="Sora/canvas",
        description=description,
        search_aliases=aliases,
        inputs=[io.Vae.Input("vae", tooltip="The VAE of the model."), *fields, *form_inputs(image_fps), context_input(on_context)],
        outputs=[io.Latent.Output(tooltip="The canvas, for a sampler. Decoded, it is the whole video with the given frames untouched.")],
        hidden=[io.Hidden.prompt, io.Hidden.unique_id],
    )


# -- nodes ---------------------------------------------------------------------------------------------------------------------------


class SoraExtend(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        fields = [
            media_input(),
            io.Combo.Input(
                "direction",
                options=[FORWARD, BACKWARD, BOTH],
                default=FORWARD,
                tooltip="Where frames are made: behind the video, before it, or on both sides. both sees the whole video.",
            ),
            seconds_input(f"How much is made, on each side, in seconds. {ROUNDED}"),
        ]
        return schema(
            node_id="SoraExtend",
            display_name="Sora Extend",
            description="Makes a video longer: what comes after it, what came before it, or both.",
            aliases=["sora extend", "continue video", "longer video", "video extension", "backward", "outpaint time"],
            fields=fields,
            on_context=" Not for direction both, which sees the whole video.",
        )

    @classmethod
    def execute(cls, vae, video, direction, seconds, size=None, fit="cover", fps=0.0, image_fps=0.0, context=2.0) -> io.NodeOutput:
        media, clip, still = take_in(cls, video, vae, size, fit, fps, image_fps)
        new, seen, lines = frames_in(seconds, still), cells_of(context, still), changes(media, still)
        if direction == FORWARD:
            canvas = verbs.extend(still, clip.frames, new, seen)
        elif direction == BACKWARD:
            canvas = verbs.extend_backward(still, clip.frames, new, seen, clip.grid(0))
        elif direction == BOTH:
            canvas = verbs.extend_both(still, clip.frames, new, new, clip.grid(0))
            given = f"all that is given, {counted(clip.frames, 'frame')}"
            lines.append(f"sees {given}, whatever the context: both sides lie on one canvas, with it between")
        else:
            raise ValueError(f"direction {direction!r} is not known: use {FORWARD}, {BACKWARD} or {BOTH}")
        return give_out(cls, vae, canvas, (clip,), lines)


class SoraFill(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        fields = [
            media_input(),
            moment_input("from_second", "Where the part begins that is made anew, in seconds from the start.", 1.0),
            moment_input("to_second", "Where that part ends, in seconds from the start; 0 is the end of the video.", 2.0),
            seconds_input(f"How long the new part is, in seconds; 0: as long as the old one. {ROUNDED}", "length", 0.0, least=0.0),
        ]
        return schema(
            node_id="SoraFill",
            display_name="Sora Fill",
            description="Makes a part of a video anew, between what comes before and after it; longer or shorter than it was, if asked.",
            aliases=["sora fill", "re-cut", "retake", "inpaint time", "replace part", "remove frames", "interpolate"],
            fields=fields,
        )

    @classmethod
    def validate_inputs(cls, from_second=None, to_second=None, *, size=None):
        wrong = no_moment(from_second=from_second, to_second=to_second)
        return wrong or no_gap(from_second or 0.0, to_second or 0.0) or True

    @classmethod
    def execute(
        cls, vae, video, from_second, to_second, length, size=None, fit="cover", fps=0.0, image_fps=0.0, context=2.0
    ) -> io.NodeOutput:
        media, clip, still = take_in(cls, video, vae, size, fit, fps, image_fps)
        start, end = gap(from_second, to_second, clip)
        new = frames_in(length, still, "length") if length else None
        grid = clip.grid(start)
        grid = clip.grid(min(end, clip.frames - 1)) if grid is None else grid  # a part of it may hold latents, the rest none
        canvas = verbs.fill(still, clip.frames, start, end, new, cells_of(context, still), grid)
        at = next(p.start for p in canvas.timeline.pieces if p.source == NEW) + canvas.offset
        kept = sum(p.count for p in canvas.timeline.pieces if p.source != NEW)
        gone = f"made anew: {at / still.fps:g} to {(at + clip.frames - kept) / still.fps:g} s of the given video"
        return give_out(cls, vae, canvas, (clip,), [gone, *changes(media, still)])


class SoraJoin(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        fields = [
            media_input(tooltip="The first video: a VIDEO, the frames of one as IMAGE, or a LATENT."),
            media_input("next_video", "The second one; it is brought to the size and rate of the result."),
            seconds_input(f"Length of the bridge between them, in seconds. {ROUNDED}"),
        ]
        return schema(
            node_id="SoraJoin",
            display_name="Sora Join",
            description="Joins two videos by a bridge that leads from the end of the first to the start of the second.",
            aliases=["sora join", "blend", "transition", "merge videos", "stitch", "morph", "bridge"],
            fields=fields,
            image_fps=f"{USUAL_FPS}, for next_video the rate of the first",
        )

    @classmethod
    def execute(cls, vae, video, next_video, seconds, size=None, fit="cover", fps=0.0, image_fps=0.0, context=2.0) -> io.NodeOutput:
        media, clip, still = take_in(cls, video, vae, size, fit, fps, image_fps)
        second = media_of(next_video, vae, image_fps, "next_video", cls.hidden, media.fps)
        behind = conformed(second, still, fit_for(size, fit) if second.size == media.size else fit)  # cut alike, or both scaled
        if clip.batch != behind.batch and 1 not in (clip.batch, behind.batch):
            raise ValueError(f"next_video: {behind.batch} videos for {clip.batch}: give 1 or {clip.batch}")
        new, seen = frames_in(seconds, still), cells_of(context, still)
        canvas = verbs.join(still, clip.frames, behind.frames, new, seen, behind.grid(0))
        lines = [*changes(media, still), *(f"next_video: {line}" for line in changes(second, still))]
        return give_out(cls, vae, canvas, (clip, behind), lines)


class SoraLoop(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="SoraLoop",
            display_name="Sora Loop",
            description="Makes a video that can be played over and over: adds frames that lead from its end back to its start.",
            aliases=["sora loop", "seamless loop", "gif", "cinemagraph", "repeat"],
            fields=[media_input(), seconds_input(f"How much is added to lead back, in seconds. {ROUNDED}")],
        )

    @classmethod
    def execute(cls, vae, video, seconds, size=None, fit="cover", fps=0.0, image_fps=0.0, context=2.0) -> io.NodeOutput:
        media, clip, still = take_in(cls, video, vae, size, fit, fps, image_fps)
        canvas = verbs.loop(still, clip.frames, frames_in(seconds, still), cells_of(context, still), clip.grid(0))
        return give_out(cls, vae, canvas, (clip,), changes(media, still))


# -- the work ------------------------------------------------------------------------------------------------------------------------


def take_in(cls, video, vae, size: dict | None, fit: str, fps: float, image_fps: float) -> tuple[Media, Media, VideoShape]:
    """A given video as it is, as the canvas of the node `cls` has it, and the canvas' still. Raises ValueError."""
    strides = strides_of(vae)
    media = media_of(video, vae, image_fps, hidden=cls.hidden)
    still = shape_for(media, size, fps, strides)
    return media, conformed(media, still, fit_for(size, fit)), still


def frames_in(seconds: float, still: VideoShape, field: str = "seconds") -> int:
    """Frames of a length that is to be made. Raises ValueError naming the field."""
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"{field} is {seconds:g}: use more than 0, at most {MAX_SECONDS:g}")
    return math.ceil(seconds * still.fps - 1e-6)


def cells_of(context: float, still: VideoShape) -> int:
    """Latent cells that a length spans, the cell of one frame not counted."""
    return round(context * still.fps / still.strides.time)


def no_gap(from_second: float, to_second: float) -> str:
    """What is wrong with the moments of a gap whatever the video is; to 0 is the end."""
    if not to_second or to_second > from_second:
        return ""
    return f"to_second {to_second:g} is not behind from_second {from_second:g}: use more, or 0 for the end"


def gap(from_second: float, to_second: float, clip: Media) -> tuple[int, int]:
    """The frames start..end-1 between two moments; to 0 is the end. Raises ValueError naming the field."""
    length = clip.frames / clip.fps
    start, end = round(from_second * clip.fps), round(to_second * clip.fps) if to_second else clip.frames
    if start >= clip.frames:
        raise ValueError(f"from_second {from_second:g} is behind the end of the video: use less than {length:g}")
    if end > clip.frames:
        raise ValueError(f"to_second {to_second:g} is behind the end of the video: use at most {length:g}, or 0 for the end")
    if wrong := no_gap(from_second, to_second):
        raise ValueError(wrong)
    if end <= start:
        raise ValueError(f"to_second {to_second:g} is the frame of from_second {from_second:g}: leave {1 / clip.fps:g} s between them")
    if end - start == clip.frames:
        raise ValueError(f"from_second {from_second:g}, to_second {to_second:g}: this is the whole video, leave a frame of it or more")
    return start, end


def give_out(node, vae, canvas: Canvas, sources: tuple[Media, ...], lines: list[str]) -> io.NodeOutput:
    """The canvas as LATENT; on the node what is made, what is kept, and what was done to fit."""
    frames, shape = canvas.timeline.frames, canvas.shape
    note = "\n".join(
        [
            f"{frames} frames of {shape.width}x{shape.height}, {shape.fps:g} a second, {frames / shape.fps:g} s",
            made_and_kept(canvas),
            *lines,
        ]
    )
    show_on_node(node, note)
    return io.NodeOutput(latent_of(vae, Given(canvas, sources, vae=vae)), ui=ui.PreviewText(note))
