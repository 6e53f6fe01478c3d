"""A picture or a clip at a moment of the canvas -> LATENT: SoraPlaceImage, SoraPlaceVideo."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io, ui

from ..sora_core.canvas import NEW
from ..sora_core.storyboard import ROUNDING, first_frame
from ..sora_core.verbs import place
from .canvas import made_and_kept, moment_input
from .given import KEY, Given, given_of, restored
from .host_vae import same_vae, strides_of
from .known import latent_of
from .media import FIT_TOOLTIP, FITS, Still, changes, conformed, counted, image_fps_input, media_input, media_of, one_or, rgb
from .shots import has_pictures, shots_of
from .show import show_on_node


class SoraPlaceImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraPlaceImage",
            display_name="Sora Place Image",
            category="Sora/canvas",
            description="Puts a picture on the canvas: that frame is exactly the picture, and the frames before it lead there.",
            search_aliases=["sora image", "image to video", "first frame", "last frame", "animate", "key frame", "start image"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Latent.Input("latent", tooltip="The canvas, from Sora Canvas or another node of this pack."),
                io.Image.Input("image", tooltip="The picture; or as many as the batch has videos, one for each."),
                moment_input("second", "When the picture stands in the video, in seconds from its start. 0 is the first frame."),
                io.Combo.Input("fit", options=list(FITS), default="cover", tooltip=FIT_TOOLTIP),
            ],
            outputs=[io.Latent.Output(tooltip="The canvas with the picture on it.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, vae, latent, image, second, fit) -> io.NodeOutput:
        latent = restored(latent, cls.hidden)
        given, shape = canvas_of(latent, vae)
        frame = frame_at(second, given)
        given = with_picture(given, image, frame, fit, len(latent["samples"]))
        which = f"frame {frame} of {given.canvas.timeline.frames}, at {frame / shape.fps:g} s, is exactly this picture"
        note = f"{which}\n{made_and_kept(given.canvas)}"
        show_on_node(cls, note)
        return io.NodeOutput(latent_of(vae, given, latent), ui=ui.PreviewText(note))


class SoraPlaceVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraPlaceVideo",
            display_name="Sora Place Video",
            category="Sora/canvas",
            description="Puts a clip on the canvas: those frames of the video are exactly the clip's, and the others lead there and on.",
            search_aliases=["sora video", "video to video", "clip", "insert video", "keep frames"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Latent.Input("latent", tooltip="The canvas, from Sora Canvas or another node of this pack."),
                media_input(tooltip="The clip: a VIDEO, the frames of one as IMAGE, or a LATENT."),
                moment_input(
                    "second", "When the clip begins, in seconds from the start of the canvas. What stands over its end is left out."
                ),
                io.Combo.Input("fit", options=list(FITS), default="cover", tooltip=FIT_TOOLTIP),
                image_fps_input("the canvas'"),
            ],
            outputs=[io.Latent.Output(tooltip="The canvas with the clip on it.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, vae, latent, video, second, fit, image_fps=0.0) -> io.NodeOutput:
        latent = restored(latent, cls.hidden)
        given, shape = canvas_of(latent, vae)
        media = media_of(video, vae, image_fps, hidden=cls.hidden, otherwise=shape.fps)
        clip, batch = conformed(media, shape, fit), len(latent["samples"])
        if clip.batch not in (1, batch):
            raise ValueError(f"video: {clip.batch} clips for {counted(batch, 'video')}: give {one_or(batch)}")
        frame = frame_at(second, given)
        grid = clip.grid(0)
        if grid is not None:
            s = shape.strides.time
            frame = at_cells(frame, (grid - given.canvas.offset) % s, s, given.canvas.timeline.frames)
        count = min(clip.frames, given.canvas.timeline.frames - frame)
        canvas = place(given.canvas, frame, len(given.sources), count)
        span = f"frames {frame} to {frame + count - 1} of {canvas.timeline.frames}, from {frame / shape.fps:g} s on"
        lines = [f"{span}, are exactly this clip", made_and_kept(canvas)]
        if count < clip.frames:
            lines.append(f"over the end, and left out: its last {counted(clip.frames - count, 'frame')}")
        note = "\n".join([*lines, *changes(media, shape)])
        show_on_node(cls, note)
        sound = None if clip.sound else given.sound  # its own is laid under its frames, and silence under all others
        given = replace(given, canvas=canvas, sources=(*given.sources, clip), sound=sound)
        return io.NodeOutput(latent_of(vae, given, latent), ui=ui.PreviewText(note))


def canvas_of(latent: dict, vae) -> tuple:
    """What a LATENT says is given, and its shape. Raises ValueError for a LATENT that is no canvas, or one of another VAE."""
    given = given_of(latent)
    if given is None:
        raise ValueError(
            "latent: this is no canvas any more: connect 'Sora Canvas' or 'Sora Place Image' without a node between that changes it"
        )
    if given.region is not None:
        raise ValueError("latent: nothing can be placed on the masked video of 'Sora Remix': place it before, and remix the result")
    if strides_of(vae) != given.canvas.shape.strides or not same_vae(vae, given.vae):
        raise ValueError("vae: this is not the VAE that the canvas was made with: connect the same one to both nodes")
    return given, given.canvas.shape


def with_picture(given: Given, image, frame: int, fit: str, batch: int, name: str = "image") -> Given:
    """What is given, and an IMAGE at a frame of the result, not yet encoded; `name` is what it is called in errors. Raises ValueError."""
    image = rgb(image, name)
    if len(image) not in (1, batch):
        clip = "for a clip use 'Sora Place Video'"
        raise ValueError(f"{name}: {len(image)} pictures for {counted(batch, 'video')}: give {one_or(batch)}; {clip}")
    still = conformed(Still(image), given.canvas.shape, fit)
    return replace(given, canvas=place(given.canvas, frame, len(given.sources)), sources=(*given.sources, still))


def with_shots(latent: dict, positive: list | None) -> tuple[dict, list | None]:
    """A canvas with the pictures of a storyboard at the beginnings of their shots, and the CONDITIONING without them, its shots where they
    are on the canvas. Raises ValueError."""
    positive = shots_on(latent, positive)
    if not has_pictures(positive):
        return latent, positive
    shots, given = shots_of(positive), given_of(latent)
    given, shape = canvas_of(latent, given and given.vae)
    begin, end = given.canvas.told
    for number, (picture, start) in enumerate(zip(shots.pictures, (begin, *shots.starts[1:])), start=1):
        if picture is None:
            continue
        says = f"shot {number} begins with a picture at {start - begin:g} s, "
        if start and start > end - ROUNDING:
            raise ValueError(f"latent: {says}the canvas ends at {end - begin:g}: make it longer")
        first = shape.strides.first_frame(given.canvas.context) if number == 1 else first_frame(start, shape.fps)
        frame = given.canvas.offset + first
        if given.canvas.timeline.source_at(frame) != NEW:
            raise ValueError(f"picture_{number}: {says}where another given frame stands: leave one of the two out")
        given = with_picture(given, picture, frame, "cover", len(latent["samples"]), f"picture_{number}")
    bare = replace(shots, pictures=())
    return latent_of(given.vae, given, latent), [[rows, {**extra, KEY: bare}] for rows, extra in positive]


def shots_on(latent: dict, conditioning: list | None) -> list | None:
    """A CONDITIONING whose shots count their seconds from where the canvas begins to be told: behind the video that it goes on from."""
    shots = shots_of(conditioning)
    given = shots and given_of(latent)
    if given is None or not (begin := given.canvas.told[0]):
        return conditioning
    later = replace(shots, starts=(shots.starts[0], *(start + begin for start in shots.starts[1:])))
    return [[rows, {**extra, KEY: later} if KEY in extra else extra] for rows, extra in conditioning]


def frame_at(second: float, given: Given) -> int:
    """The frame of the result nearest to a moment. Raises ValueError naming the last moment."""
    frames, fps = given.canvas.timeline.frames, given.canvas.shape.fps
    frame = round(second * fps)
    if frame >= frames:
        raise ValueError(f"second {second:g} is behind the end of the video: use 0 to {(frames - 1) / fps:g}")
    return frame


def at_cells(frame: int, grid: int, s: int, frames: int) -> int:
    """The frame nearest to `frame` from which on the latent cells of a clip end where those of the canvas do; `frame` itself on a canvas
    that is too short for any."""
    near = s * round((frame + grid) / s) - grid
    return next((at for at in (near, near + s, near - s) if 0 <= at < frames), frame)
