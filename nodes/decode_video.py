"""LATENT -> VIDEO, IMAGE: SoraDecode, SoraDecodeFrames."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import Input, Types, io, ui
from torch import Tensor

from ..sora_core.canvas import NEW, Canvas, blank, composed, result_frames
from ..sora_core.config import ModelHeader
from ..sora_core.files import unfinished
from ..sora_core.passes import known_cells
from ..sora_core.shapes import VideoShape
from ..sora_core.sound import cut_sound
from ..sora_core.video_file import write_video
from .canvas import check_rate, moment_input, no_moment, rate_input
from .costs import check_room
from .given import KEY, Given, fps_of, given_of, restored, samples_of
from .host_vae import VideoCoder, same_vae, strides_of
from .show import show_on_node

NATIVE_FPS = {(4, 16, 48): 24.0, (4, 16, 32): 24.0, (8, 32, 128): 25.0}
"""Frames a second of the models whose VAE has these strides and channels: Wan 2.2 5B, HunyuanVideo 1.5, LTX-Video."""

SEAMS = ("carry", "hard")
SEAM_TOOLTIP = (
    "How made frames meet a given one. carry: what encoding lost of the given frame is added to the 16 beside it, fading out, so that "
    "nothing jumps. hard: they are left as decoded."
)


# -- the video -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """One video of a LATENT, not decoded yet.

    Args:
        vae: the host's.
        samples: [B, C, F, h, w].
        batch_index: which of them.
        given: what is known of it; None for a plain decoding.
        fps: frames a second.
        carry: see canvas.result_frames.
        start, end: the frames of it that count, end left out.
    """

    vae: object
    samples: Tensor
    batch_index: int
    given: Given | None
    fps: float
    carry: bool
    start: int
    end: int

    @property
    def canvas(self) -> Canvas:
        if self.given is not None:
            return self.given.canvas
        return blank(VideoShape(*self.size, self.samples.shape[2], self.fps, strides_of(self.vae)))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        scale = self.vae.spacial_compression_decode()
        return self.samples.shape[-1] * scale, self.samples.shape[-2] * scale

    @property
    def count(self) -> int:
        return self.end - self.start

    @property
    def sound(self) -> dict | None:
        return cut_sound(self.given and self.given.sound, self.start / self.fps, self.end / self.fps)

    @torch.inference_mode()
    def frames(self) -> Iterator[Tensor]:
        """Chunks [n, H, W, 3] in 0..1; nothing of them is kept."""
        coder = VideoCoder(self.vae)

        def decode() -> Iterator[Tensor]:
            return coder.decode_chunks(self.samples, self.batch_index)

        def read(source: int, start: int, count: int) -> Iterator[Tensor]:
            return self.given.sources[source].read(self.batch_index, start, count)

        remixed = self.given is not None and self.given.region is not None
        known = known_cells(self.given.mask) if remixed else None
        made = result_frames(self.canvas, decode, read, self.carry, self.start, self.end, known)
        if remixed:
            made = composed(made, read(0, self.start, self.count), self.given.region[self.start : self.end])
        yield from made

    def cells(self, frame: int, count: int, alone: bool) -> Tensor | None:
        """`count` raw latent cells [1, C, count, h, w] of this video (canvas.Latents); None where there are none."""
        canvas, s = self.canvas, self.canvas.shape.strides.time
        first, between = divmod(frame + self.start - canvas.offset, s)
        if not between and 0 <= first <= canvas.shape.cells - count:
            fits = (first == 0) == alone
            return self.samples[self.batch_index : self.batch_index + 1, :, first : first + count] if fits else None
        before = 0 if alone else s - 1
        source, at = self._source_of(frame - before, before + s * (count - 1) + 1)
        cells = None if source is None else source.cells(at + before, count, alone)
        return None if cells is None else cells[min(self.batch_index, len(cells) - 1)][None]

    def grid(self, frame: int) -> int | None:
        """The frames of this video that are equal to this modulo s end a latent cell, around `frame`; None if it holds none there."""
        canvas, s = self.canvas, self.canvas.shape.strides.time
        if 0 <= frame + self.start - canvas.offset < canvas.shape.frames:
            return (canvas.offset - self.start) % s
        source, at = self._source_of(frame, 1)
        grid = None if source is None else source.grid(at)
        return None if grid is None else (grid + frame - at) % s

    def _source_of(self, frame: int, count: int):
        """The source of the given frames frame..frame + count - 1 of this video, and its number for the first one."""
        frame += self.start
        for at, piece in self.canvas.timeline.runs:
            if piece.source != NEW and at <= frame and frame + count <= at + piece.count:
                return self.given.sources[piece.source], piece.start + frame - at
        return None, 0


def guessed_fps(vae) -> float:
    """Frames a second of latents of which only the VAE is known."""
    strides = strides_of(vae)
    return NATIVE_FPS.get((strides.time, strides.space, strides.channels), ModelHeader.native_fps)


def clips(vae, latent: dict, seam: str, field: str = "latent", fps: float = 0.0) -> tuple[list[Clip], str]:
    """All videos of a LATENT at the input `field`, and a sentence for the node.

    Args:
        fps: frames a second of a LATENT that came by no canvas; 0 for what is most likely.

    Raises:
        ValueError: a LATENT that is not for video, or for another VAE.
    """
    check_rate("fps", fps, "where it is not known")
    samples, strides = samples_of(latent, field), strides_of(vae)
    if samples.shape[1] != strides.channels:
        raise ValueError(
            f"{field}: it has {samples.shape[1]} channels, the VAE needs {strides.channels}: use the VAE that belongs to the MODEL"
        )
    told, given, fps = fps, given_of(latent), fps_of(latent, fps or guessed_fps(vae))
    if given is not None and (given.canvas.shape.strides != strides or not same_vae(vae, given.vae)):
        raise ValueError("vae: this is not the VAE that the canvas was made with: connect the same one to both nodes")
    first = Clip(vae, samples, 0, given, fps, seam == "carry", 0, 0)
    frames = first.canvas.timeline.frames
    facts = f"{frames} frames of {first.size[0]}x{first.size[1]}, {fps:g} a second"
    if given is None:
        why = "the latents were changed on the way here" if KEY in latent else "no Sora canvas"
        guess = "" if told or KEY in latent else ", so the frames a second are a guess: say them in fps"
        facts = f"{facts}\nDecoded plainly: {why}{guess}"
    if told and told != fps:
        facts = f"{facts}\nfps {told:g} is left out: the canvas was made for {fps:g}"
    return [replace(first, batch_index=i, end=frames) for i in range(len(samples))], facts


class LatentVideo(Input.Video):
    """The host's VIDEO around latents: each use decodes a chunk, hands it on, forgets it."""

    def __init__(self, clip: Clip):
        self.clip = clip
        self._file: Path | None = None

    def save_to(self, path, format=Types.VideoContainer.AUTO, codec=Types.VideoCodec.AUTO, metadata=None, bit_depth=None, crf=None):
        if format not in (Types.VideoContainer.AUTO, Types.VideoContainer.MP4) or codec not in (
            Types.VideoCodec.AUTO,
            Types.VideoCodec.H264,
        ):
            raise ValueError(f"format {format} with codec {codec} cannot be written: use mp4 with h264")
        if bit_depth not in (None, 8):
            raise ValueError(f"{bit_depth} bits cannot be written: use 8")
        bar = comfy.utils.ProgressBar(self.clip.count)

        def progress(done: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done)

        more = {"crf": crf, "metadata": metadata, "audio": self.clip.sound, "progress": progress}
        if not isinstance(path, str | Path):
            write_video(path, self.clip.frames(), self.get_frame_rate(), **more)
            return
        with unfinished(Path(path)) as made:
            write_video(made, self.clip.frames(), self.get_frame_rate(), **more)
        if made.path != Path(path):
            logging.warning("%s was there already when this video was complete: it is %s", path, made.path.name)

    def get_components(self):
        check_image("video", self.clip.count, self.clip.size)
        images = as_image(self.clip.frames(), comfy.utils.ProgressBar(self.clip.count).update)
        return Types.VideoComponents(images=images, audio=self.clip.sound, frame_rate=self.get_frame_rate())

    def as_trimmed(self, start_time=None, duration=None, strict_duration=False):
        fps, count = self.clip.fps, self.clip.count
        start = round((start_time or 0) * fps)
        start = max(0, count + start) if start < 0 else start
        length = round(duration * fps) if duration else count - start
        if start >= count or length < 1 or (strict_duration and start + length > count):
            return None
        start += self.clip.start
        return LatentVideo(replace(self.clip, start=start, end=min(start + length, self.clip.end)))

    def get_stream_source(self) -> str:
        """A file of the host's temporary folder, written once; decoding again for each use would cost more."""
        if self._file is None or not self._file.exists():
            self._file = Path(folder_paths.get_temp_directory()) / f"sora_{uuid.uuid4().hex}.mp4"
            self.save_to(str(self._file))
        return str(self._file)

    def get_dimensions(self) -> tuple[int, int]:
        return self.clip.size

    def get_duration(self) -> float:
        return self.clip.count / self.clip.fps

    def get_frame_count(self) -> int:
        return self.clip.count

    def get_frame_rate(self) -> Fraction:
        return Fraction(self.clip.fps).limit_denominator(1001)

    def get_container_format(self) -> str:
        return "mp4"


# -- nodes ---------------------------------------------------------------------------------------------------------------------------


def fps_input():
    otherwise = "what models of this VAE make, such as 16 for Wan 2.1. A canvas brings its own."
    return rate_input("fps", f"Frames a second of a LATENT without a Sora canvas; 0: {otherwise}", optional=True, advanced=True)


class SoraDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraDecode",
            display_name="Sora Decode",
            category="Sora/decode",
            description=(
                "Turns latents into a VIDEO for Save Video. It is decoded while it is saved, so a long one needs no more memory than a "
                "short one."
            ),
            search_aliases=["sora decode", "VAE decode", "latent to video", "create video"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Latent.Input("latent", tooltip="From Sora Sampler or another sampler."),
                io.Combo.Input("seam", options=list(SEAMS), default="carry", tooltip=SEAM_TOOLTIP),
                fps_input(),
            ],
            outputs=[
                io.Video.Output(is_output_list=True, tooltip="One video for each of the batch, for Save Video and ComfyUI's video nodes.")
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, vae, latent, seam, fps=0.0) -> io.NodeOutput:
        made, note = clips(vae, restored(latent, cls.hidden), seam, fps=fps)
        show_on_node(cls, note)
        return io.NodeOutput([LatentVideo(clip) for clip in made], ui=ui.PreviewText(note))


class SoraDecodeFrames(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraDecodeFrames",
            display_name="Sora Decode Frames",
            category="Sora/decode",
            description=(
                "Turns latents, all or a part, into an IMAGE of all frames, for ComfyUI's picture nodes. Long videos go through Sora "
                "Decode."
            ),
            search_aliases=["sora frames", "VAE decode", "latent to image", "frames"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Latent.Input("latent", tooltip="From Sora Sampler or another sampler."),
                moment_input("from_second", "First moment, in seconds from the start."),
                moment_input("to_second", "Last moment, in seconds from the start; 0 is the end."),
                io.Combo.Input("seam", options=list(SEAMS), default="carry", tooltip=SEAM_TOOLTIP),
                fps_input(),
            ],
            outputs=[
                io.Image.Output(is_output_list=True, tooltip="The frames, one IMAGE for each video of the batch."),
                io.Float.Output(display_name="fps", tooltip="Frames a second, for Create Video."),
                io.Audio.Output(tooltip="The sound of these frames, for Create Video; nothing where no given video has any."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, from_second=None, to_second=None):
        wrong = no_moment(from_second=from_second, to_second=to_second)
        return wrong or out_of_order(from_second or 0.0, to_second or 0.0) or True

    @classmethod
    def execute(cls, vae, latent, from_second, to_second, seam, fps=0.0) -> io.NodeOutput:
        made, note = clips(vae, restored(latent, cls.hidden), seam, fps=fps)
        start, end = frame_range(from_second, to_second, made[0].count, made[0].fps)
        check_image("to_second", (end - start) * len(made), made[0].size)
        bar = comfy.utils.ProgressBar((end - start) * len(made))
        parts = [replace(clip, start=start, end=end) for clip in made]
        images = [as_image(part.frames(), bar.update) for part in parts]
        show_on_node(cls, note)
        return io.NodeOutput(images, made[0].fps, parts[0].sound, ui=ui.PreviewText(note))


def out_of_order(from_second: float, to_second: float) -> str:
    """What is wrong with two moments whatever the video is; to 0 is the end."""
    if not to_second or to_second >= from_second:
        return ""
    return f"to_second {to_second:g} is before from_second {from_second:g}: use {from_second:g} or more, or 0 for the end"


def frame_range(from_second: float, to_second: float, frames: int, fps: float) -> tuple[int, int]:
    """The frames shown between two moments, both included; to 0 is the end. Raises ValueError naming the field."""
    last = (frames - 1) / fps
    if from_second > last:
        raise ValueError(f"from_second {from_second:g} is behind the end of the video: use 0 to {last:g}")
    if wrong := out_of_order(from_second, to_second):
        raise ValueError(wrong)
    start = math.ceil(from_second * fps - 1e-6)
    end = math.floor(to_second * fps + 1e-6) + 1 if to_second else frames
    return start, max(start + 1, min(end, frames))


def as_image(frames: Iterator[Tensor], told: Callable[[int], None] = lambda count: None) -> Tensor:
    """Chunks of frames, given ones and made ones, as one IMAGE where the host keeps those; `told` how many have come."""
    device, parts = comfy.model_management.intermediate_device(), []
    for part in frames:
        comfy.model_management.throw_exception_if_processing_interrupted()
        parts.append(part.to(device))
        told(len(part))
    return torch.cat(parts)


def check_image(field: str, frames: int, size: tuple[int, int]) -> None:
    """An IMAGE holds all frames at once. Raises ValueError naming the field when they cannot fit."""
    check_room(
        frames * size[0] * size[1] * 3 * 4,
        f"{field}: {frames} frames of {size[0]}x{size[1]} are {{needed}} as an IMAGE, this machine has {{there}}: take a shorter "
        "part, or save with 'Sora Decode'",
        share=0.5,
    )
