"""What people give: IMAGE, VIDEO and LATENT as `Media`, brought to the size and rate of a canvas."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import Input, InputImpl, io
from torch import Tensor

from ..sora_core.shapes import Strides, VideoShape, retimed
from ..sora_core.sound import read_sound
from ..sora_core.video_file import frames_from, shown_times
from .canvas import check_rate, pixels, rate_input, size_options
from .decode_video import Clip, LatentVideo, clips, guessed_fps
from .given import KEY, Given, Media, restored
from .host_vae import same_vae, strides_of

CUT = 1 / 16
"""Of a side: so much may be cut away in place of scaling, as 8 rows of 1080."""

FITS = ("cover", "contain", "stretch")
CUT_ONLY = "cut"
"""What "cover" is where the size is as given: what does not fit the step of the VAE is cut, however much that is."""
FIT_TOOLTIP = (
    "How another size is met. cover: fills the frame, cuts what stands over. contain: the whole picture between black bars. stretch: "
    "bends it."
)
AS_GIVEN = "as given"
IMAGE_FPS = 8.0
"""Frames a second of an IMAGE that nothing else is said of: what the shipped model makes."""

USUAL_FPS = f"{IMAGE_FPS:g}, of a LATENT what Sora Decode takes"
"""What an image_fps of 0 stands for."""

WINDOW = 2**28
"""Bytes of frames that are read from a file at once."""

UNEVEN = 0.75
"""Of a frame: so far from even times the rate of a film changes. Times that are merely rounded are half a frame off at most."""


# -- kinds ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Still(Media):
    """A picture as a source, one for the whole batch or one for each video: [1 or B, H, W, 3] in 0..1. It is a frame at any rate."""

    pictures: Tensor
    frames = 1
    fps = 1.0

    @property
    def size(self) -> tuple[int, int]:
        return self.pictures.shape[2], self.pictures.shape[1]

    @property
    def batch(self) -> int:
        return len(self.pictures)

    def read(self, batch_index: int, start: int, count: int) -> Iterator[Tensor]:
        yield self.pictures[min(batch_index, len(self.pictures) - 1)][None]


@dataclass(frozen=True)
class Pictures(Media):
    """Frames [T, H, W, 3] that are in memory anyway."""

    images: Tensor
    fps: float
    sound: dict | None = None
    note: str = ""  # for the node

    @property
    def frames(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        return self.images.shape[2], self.images.shape[1]

    def read(self, batch_index: int, start: int, count: int) -> Iterator[Tensor]:
        yield self.images[start : start + count]


class Film(Media):
    """A video file. What is read of it is turned into pictures by the host, so each frame is the one that Get Video Components gives."""

    def __init__(self, video):
        self.source = video.get_stream_source()
        window = video.get_active_trim_window()
        self.times, end, unit = shown_times(self._file(), *window)
        if not self.times:
            raise ValueError("video: there is no frame in it: give a longer part of the file")
        self.frames, self.sound = len(self.times), read_sound(self._file(), *window)
        self.fps, self.moments = _rate([float((time - self.times[0]) * unit) for time in self.times], float(video.get_frame_rate()))
        if self.moments:
            before = float(self.times[0] * unit) - window[0] if window[0] else 0.0  # where its sound begins
            self.moments = [before + moment for moment in self.moments]
            self.end = before + float((end - self.times[0]) * unit)
        first = next(self._windows(0, 1, 1))
        self.size = first.shape[2], first.shape[1]

    def read(self, batch_index: int, start: int, count: int) -> Iterator[Tensor]:
        return self._windows(start, start + count, max(1, WINDOW // (self.size[0] * self.size[1] * 12)))

    def _windows(self, start: int, end: int, step: int) -> Iterator[Tensor]:
        """Frames start..end-1 in one walk, `step` of them at a time: who opens the file anew decodes from a key frame on."""
        reader = InputImpl.VideoFromFile(self._file())
        with frames_from(self._file(), self.times, start) as (file, frames):
            for at in range(start, end, step):
                comfy.model_management.throw_exception_if_processing_interrupted()
                count = min(step, end - at)
                images = reader.get_components_internal(_Walked(file, itertools.islice(frames, count))).images
                if len(images) < count:
                    there = f"of the frames {at} to {at + count - 1} the file gives {len(images)}"
                    raise ValueError(f"video: {there}: save it anew with 'Save Video'")
                yield images

    def _file(self):
        """The source, to be read beside other readers of it."""
        return BytesIO(self.source.getvalue()) if isinstance(self.source, BytesIO) else self.source


class _Walked:
    """Decoded frames as an open file for the host's own reader, which takes them for the frames of one packet."""

    def __init__(self, file, frames: Iterator):
        self.file, self.frames, self.stream = file, frames, file.streams.video[0]

    def __getattr__(self, name):
        return getattr(self.file, name)

    def demux(self, *streams):
        yield self

    def decode(self) -> Iterator:
        return self.frames


def _rate(moments: list[float], fps: float) -> tuple[float, list[float] | None]:
    """Frames a second of a film, from what its file says and the times of its frames; and those times where they are uneven."""
    last = len(moments) - 1
    if moments[-1] and abs(moments[-1] * fps - last) > UNEVEN:  # of a part of a file, or not known when its header was written
        fps = last / moments[-1]
    return fps, moments if any(abs(moment * fps - number) > UNEVEN for number, moment in enumerate(moments)) else None


@dataclass(frozen=True)
class Undecoded(Media):
    """Videos that still hold latents, one of them for each of a batch; `usable` by the VAE at hand, or frames all the same."""

    clips: tuple[Clip, ...]
    usable: bool = True
    note: str = ""  # for the node

    @property
    def frames(self) -> int:
        return self.clips[0].count

    @property
    def fps(self) -> float:
        return self.clips[0].fps

    @property
    def size(self) -> tuple[int, int]:
        return self.clips[0].size

    @property
    def batch(self) -> int:
        return len(self.clips)

    @property
    def sound(self) -> dict | None:
        return self.clips[0].sound

    def read(self, batch_index: int, start: int, count: int) -> Iterator[Tensor]:
        clip = self.clips[min(batch_index, len(self.clips) - 1)]
        yield from replace(clip, start=clip.start + start, end=clip.start + start + count).frames()

    def cells(self, frame: int, count: int, alone: bool) -> Tensor | None:
        cells = [clip.cells(frame, count, alone) if self.usable else None for clip in self.clips]
        return None if any(c is None for c in cells) else torch.cat(cells)

    def grid(self, frame: int) -> int | None:
        return self.clips[0].grid(frame) if self.usable else None


class Fitted(Media):
    """Media at another size and rate."""

    def __init__(self, media: Media, width: int, height: int, fit: str, fps: float):
        self.media, self.size, self.fit, self.fps = media, (width, height), fit, fps
        if media.moments:
            self.shown = evened(media.moments, media.end, fps)
        else:
            self.shown = list(range(media.frames)) if same_rate(media.fps, fps) else retimed(media.frames, media.fps, fps)
        self.frames, self.batch, self.sound = len(self.shown), media.batch, media.sound

    def read(self, batch_index: int, start: int, count: int) -> Iterator[Tensor]:
        shown, at = self.shown[start : start + count], self.shown[start]
        for chunk in self.media.read(batch_index, at, shown[-1] + 1 - at):
            numbers = [i - at for i in shown if at <= i < at + len(chunk)]
            at += len(chunk)
            if numbers:
                yield fitted(chunk[torch.tensor(numbers)], *self.size, self.fit)


# -- in ------------------------------------------------------------------------------------------------------------------------------


def media_input(name: str = "video", tooltip: str = "The video: a VIDEO, the frames of one as IMAGE, or a LATENT."):
    return io.MultiType.Input(name, types=[io.Video, io.Image, io.Latent], tooltip=tooltip)


def image_fps_input(otherwise: str = USUAL_FPS):
    """`otherwise`: what 0 stands for."""
    tooltip = (
        f"Frames a second of a video that comes as IMAGE, or as a LATENT without a Sora canvas; 0: {otherwise}. Others bring their own."
    )
    return rate_input("image_fps", tooltip, optional=True, advanced=True)


def form_inputs(image_fps: str = USUAL_FPS) -> list:
    """The fields for size and rate of a canvas around a given video; `image_fps`: what 0 stands for there."""
    return [
        io.DynamicCombo.Input(
            "size",
            options=[io.DynamicCombo.Option(AS_GIVEN, []), *size_options()],
            tooltip="Size of the result. as given: that of the video, cut to the step of the VAE: 16 pixels for the shipped one.",
        ),
        io.Combo.Input("fit", options=list(FITS), default="cover", tooltip=FIT_TOOLTIP),
        rate_input(
            "fps", "Frames a second of the result; 0: as given. At another rate each frame is the given one that is nearest in time."
        ),
        image_fps_input(image_fps),
    ]


def media_of(value, vae, image_fps: float, name: str = "video", hidden=None, otherwise: float = 0.0) -> Media:
    """A VIDEO, IMAGE or LATENT as Media. Raises ValueError naming the input.

    Args:
        vae: for which it may be encoded; None for what is only saved.
        image_fps: frames a second of what brings no rate; 0 for `otherwise`, and without that for what is most likely.
        hidden: as for `restored`.
    """
    if isinstance(value, LatentVideo):
        of = value.clip.vae
        usable = vae is not None and strides_of(vae) == strides_of(of) and same_vae(vae, of)
        return Undecoded(
            (value.clip,), usable, "" if usable or vae is None else "its latents are of another VAE: its frames are encoded anew"
        )
    if isinstance(value, InputImpl.VideoFromFile):
        return Film(value)
    if isinstance(value, Input.Video):
        parts = value.get_components()
        return Pictures(rgb(parts.images, name), float(parts.frame_rate), parts.audio)
    if isinstance(value, Tensor):
        fps, note = _told_or_taken("IMAGE", image_fps, otherwise or IMAGE_FPS)
        return Pictures(rgb(value, name), fps, note=note)
    if isinstance(value, dict):
        made = clips(vae, restored(value, hidden, name), "carry", name)[0]
        if not isinstance(value.get(KEY), Given):
            fps, note = _told_or_taken("LATENT", image_fps, otherwise or guessed_fps(vae))
            return Undecoded(tuple(replace(clip, fps=fps) for clip in made), note=note)
        changed = "given frames of it are decoded like all others: its latents were changed on the way here"
        return Undecoded(tuple(made), note="" if made[0].given else changed)
    raise ValueError(f"{name}: this is no video: connect a VIDEO, an IMAGE or a LATENT")


def _told_or_taken(what: str, image_fps: float, otherwise: float) -> tuple[float, str]:
    """The rate of what brings none, and what the node says where nobody has told it. Raises ValueError."""
    check_rate("image_fps", image_fps, "where it is not known")
    return image_fps or otherwise, "" if image_fps else f"{what} taken as {otherwise:g} frames a second (image_fps)"


def rgb(image: Tensor, name: str) -> Tensor:
    """Pictures [n, H, W, 3] of an IMAGE: without its alpha channel, grey ones as colours. Raises ValueError."""
    if image.ndim != 4 or not len(image) or not image.shape[1] or not image.shape[2]:
        raise ValueError(f"{name}: an IMAGE of shape {tuple(image.shape)} has no pictures: give one or more of [height, width, 3]")
    return image[..., :3] if image.shape[-1] >= 3 else image[..., :1].expand(-1, -1, -1, 3)


# -- to the canvas -------------------------------------------------------------------------------------------------------------------


def same_rate(fps: float, other: float) -> bool:
    """Whether two rates are one: 23.976 is a file's 24000 / 1001, and 24 is another."""
    return math.isclose(fps, other, rel_tol=1e-4)


def evened(moments: list[float], end: float, fps: float) -> list[int]:
    """A film of uneven times at an even rate: for each frame of the result the number of the one that is nearest in time; one that stands
    longer stays until half a frame before the next."""
    begins = [max((a + b) / 2, b - 0.5 / fps) for a, b in itertools.pairwise(moments)]
    count = 1 + math.floor(max(moments[-1], end - 1 / fps) * fps + 1e-6)
    return [bisect_left(begins, p / fps - 1e-6) for p in range(count)]


def even(media: Media) -> Media:
    """Media to be shown at its one rate: frames of a film of uneven times stand for as long as they did, others as they are."""
    return Fitted(media, *media.size, "cover", media.fps) if media.moments else media


def counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def one_or(count: int) -> str:
    """How many to give where one stands for all `count`."""
    return "1" if count == 1 else f"1 or {count}"


def shape_for(media: Media, size: dict | None, fps: float, strides: Strides) -> VideoShape:
    """The still of a canvas around media. Raises ValueError."""
    check_rate("fps", fps, "for the rate of the video")
    if size and size["size"] == AS_GIVEN:
        m = strides.size_multiple
        width, height = (max(m, side // m * m) for side in media.size)  # cut, not scaled: what is left is what was given
    else:
        width, height = pixels(size, strides)
    return VideoShape(width, height, 1, media.fps if not fps or same_rate(fps, media.fps) else fps, strides)


def fit_for(size: dict | None, fit: str) -> str:
    """How a video meets the canvas that `shape_for` made for it."""
    return CUT_ONLY if fit == "cover" and size and size["size"] == AS_GIVEN else fit


def conformed(media: Media, shape: VideoShape, fit: str) -> Media:
    """Media at the size and rate of a canvas; the same object where nothing is to be done, so that latents stay in reach."""
    if media.size == (shape.width, shape.height) and same_rate(media.fps, shape.fps) and not media.moments:
        return media
    return Fitted(media, shape.width, shape.height, fit, shape.fps)


def refitted(media: Media, shape: VideoShape) -> Media:
    """A source of one canvas, for another one of the same rate and of another size."""
    whole = isinstance(media, Fitted) and media.fit != CUT_ONLY
    return conformed(media.media, shape, media.fit) if whole else conformed(media, shape, "stretch")


def changes(media: Media, shape: VideoShape) -> list[str]:
    """Lines for the node: what was done to media to bring it to a canvas."""
    lines = [media.note] if media.note else []
    if media.size != (shape.width, shape.height):
        lines.append(f"given {media.size[0]}x{media.size[1]}, fitted to {shape.width}x{shape.height}")
    if media.moments:
        lines.append(f"its rate changes, {media.fps:g} frames a second on average: each frame of {shape.fps:g} is the one shown then")
    elif not same_rate(media.fps, shape.fps):
        lines.append(f"given {media.fps:g} frames a second: each frame of {shape.fps:g} is the nearest in time")
    return lines


def fitted(image: Tensor, width: int, height: int, fit: str, method: str = "lanczos") -> Tensor:
    """Pictures [n, H, W, 3] as [n, height, width, 3]. `method`: one of the host's.

    Untouched where the size is right already; to cover one that is a little smaller they are cut, and no pixel changes.
    """
    over = image.shape[1] - height, image.shape[2] - width
    if over == (0, 0):
        return image
    share = {"cover": CUT, CUT_ONLY: 1}.get(fit, -1)
    if all(0 <= more <= share * side for more, side in zip(over, image.shape[1:3])):
        top, left = (more // 2 for more in over)
        return image[:, top : top + height, left : left + width]
    x = image.movedim(-1, 1)
    if fit == "contain":
        scale = min(width / x.shape[-1], height / x.shape[-2])
        inner = max(1, round(x.shape[-1] * scale)), max(1, round(x.shape[-2] * scale))
        x = comfy.utils.common_upscale(x, *inner, method, "disabled")
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        x = torch.nn.functional.pad(x, (left, width - inner[0] - left, top, height - inner[1] - top))
    else:
        x = comfy.utils.common_upscale(x, width, height, method, "disabled" if fit == "stretch" else "center")
    return x.movedim(1, -1).contiguous()
