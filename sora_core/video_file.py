"""Video files in and out, some frames at a time, so that memory does not grow with the length.

A file is written under a temporary name beside its place and renamed when it is whole (files.py): a failure, a cancel or a full disk
leaves nothing under the final name. Pictures are uint8 [n, H, W, 3] in RGB.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import torch
from torch import Tensor

from .files import Unfinished, atomic_path
from .pictures import to_uint8


@dataclass(frozen=True)
class Codec:
    """One way to write a file. `crf` is the quality (lower is better); these defaults are hard to tell from the original."""

    suffixes: tuple[str, ...]
    container: str
    video: str
    audio: str
    crf: int
    options: dict[str, str]
    rates: tuple[int, ...] = ()  # of sound


AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)

CODECS = {
    "h264": Codec((".mp4", ".m4v", ".mov"), "mp4", "h264", "aac", 17, {"preset": "medium"}, AAC_RATES),
    "vp9": Codec((".webm",), "webm", "libvpx-vp9", "libopus", 24, {"b": "0", "deadline": "good", "cpu-used": "4"}),
}

LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}  # FFmpeg's, by channels
PLAYED = ("mono", "stereo", "5.1")  # those that every player knows

BT709 = 1  # FFmpeg's number of it, for matrix, primaries and transfer. Written into the file, so that players agree on colours.
BT709_TO_CODE = {"dst_colorspace": "ITU709", "dst_color_range": "MPEG"}
EXACT = 0x2 | 0x40000 | 0x2000
"""FFmpeg's BILINEAR | ACCURATE_RND | FULL_CHR_H_INT. Its default way back to RGB is 1 level too dark in every channel."""

BACK = (0, 32, 128, 512)
"""Frames by which a seek that landed behind what was asked for is tried again further back."""


@dataclass(frozen=True)
class VideoFacts:
    """What a file says of itself: size in pixels, frames a second, number of frames."""

    width: int
    height: int
    fps: Fraction
    frames: int


def write_video(
    target: str | Path | BinaryIO | Unfinished,
    chunks: Iterable[Tensor | np.ndarray],
    fps: float | Fraction,
    *,
    codec: str = "h264",
    crf: float | None = None,
    metadata: dict | None = None,
    audio: dict | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Writes a video chunk by chunk and returns its number of frames.

    Args:
        target: a path (.mp4 for h264, .webm for vp9), an open binary file, or what `files.unfinished` will name.
        chunks: pictures [n, H, W, 3], uint8 or float in 0..1, all of one size. Both codecs store even sizes only: to an odd one the
            last column or row is added once more.
        fps: frames a second.
        crf: quality, 0 to 51 (vp9: 63), lower is better; None for the codec's default.
        metadata: tags of the file; a value that is no string is stored as JSON.
        audio: {"waveform": [1, channels, samples] or [channels, samples] in -1..1, "sample_rate": int}, cut at the last picture.
        progress: called with the number of frames written so far; what it raises stops the writing.

    Raises:
        ValueError: no frames, frames of another size or kind, an unknown codec, a name that does not fit the codec.
        OSError: what the system says; a full disk is named with its folder.
    """
    if codec not in CODECS:
        raise ValueError(f"codec {codec!r} is not known: use one of {', '.join(CODECS)}")
    kind = CODECS[codec]
    rate = Fraction(fps).limit_denominator(1001)  # 23.976 and 30000/1001 pass unchanged
    job = {"kind": kind, "fps": rate, "crf": crf, "metadata": metadata, "audio": audio, "progress": progress}
    if not isinstance(target, str | Path | Unfinished):
        return _encode(target, chunks, **job)
    path = target.part if isinstance(target, Unfinished) else Path(target)
    if path.suffix.lower() not in kind.suffixes:
        raise ValueError(f"{path.name}: {codec} is written to {' or '.join(kind.suffixes)} files")
    with contextlib.nullcontext(path) if isinstance(target, Unfinished) else atomic_path(path) as part:
        return _encode(str(part), chunks, **job)


def write_pictures(
    folder: Unfinished,
    chunks: Iterable[Tensor | np.ndarray],
    *,
    metadata: dict | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Writes frames as 00001.png, 00002.png, ... into a folder that `files.unfinished` will name; returns their number.

    Arguments and errors as for `write_video`; the tags are in every picture.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    tags, count = PngInfo(), 0
    for key, value in (metadata or {}).items():
        tags.add_text(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    folder.part.mkdir()
    for picture in (p for chunk in chunks for p in to_uint8(chunk)):
        count += 1
        Image.fromarray(picture).save(folder.part / f"{count:05}.png", pnginfo=tags, compress_level=4)
        if progress:
            progress(count)
    if not count:
        raise ValueError("there is nothing to write: the video has no frames")
    return count


def _encode(file, chunks, *, kind: Codec, fps: Fraction, crf, metadata, audio, progress) -> int:
    chunks = (to_uint8(chunk) for chunk in chunks)
    first = next(chunks, None)
    if first is None:
        raise ValueError("there is nothing to write: the video has no frames")
    height, width = first.shape[1:3]
    # Moves the index to the front, so that a browser plays while it loads. FFmpeg reopens the file by its name for that.
    movflags = "use_metadata_tags+faststart" if isinstance(file, str) else "use_metadata_tags"
    count = 0
    with av.open(file, "w", format=kind.container, options={"movflags": movflags} if kind.container == "mp4" else {}) as out:
        for key, value in (metadata or {}).items():
            out.metadata[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        stream = _add_video(out, kind, fps, crf, width, height)
        sound = _Sound(out, kind, audio) if audio else None
        for chunk in itertools.chain([first], chunks):
            if chunk.shape[1:3] != (height, width):
                raise ValueError(f"frame {count} is {chunk.shape[2]}x{chunk.shape[1]}, the frames before it are {width}x{height}")
            for picture in np.pad(chunk, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge"):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24").reformat(format="yuv420p", **BT709_TO_CODE)
                frame.pts, frame.time_base = count, 1 / fps
                out.mux(stream.encode(frame))
                count += 1
            if sound:
                sound.write_until(count / fps)
            if progress:
                progress(count)
        out.mux(stream.encode())
        if sound:
            sound.finish()
    return count


def _add_video(out, kind: Codec, fps: Fraction, crf: float | None, width: int, height: int):
    stream = out.add_stream(kind.video, rate=fps, options={**kind.options, "crf": f"{kind.crf if crf is None else crf:g}"})
    stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / fps
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = 1  # limited, as every player expects of yuv420p
    return stream


class _Sound:
    """The audio track, written along with the pictures so that neither waits in memory for the other."""

    def __init__(self, out, kind: Codec, audio: dict):
        wave = torch.as_tensor(audio["waveform"]).detach().float().cpu()
        self.wave = (wave[0] if wave.ndim == 3 else wave).numpy()
        self.rate, self.done, self.out = int(audio["sample_rate"]), 0, out
        if len(self.wave) not in LAYOUTS:
            raise ValueError(f"audio with {len(self.wave)} channels cannot be written: use 1 to 8")
        self.layout = LAYOUTS[len(self.wave)]
        # The encoder resamples and mixes: codecs know some rates only, and players few layouts.
        layout = self.layout if self.layout in PLAYED else "stereo"
        self.stream = out.add_stream(kind.audio, rate=self.rate if self.rate in kind.rates else 48000, layout=layout)

    def write_until(self, seconds: Fraction) -> None:
        end = min(self.wave.shape[1], int(seconds * self.rate))
        if end > self.done:
            # Interleaved: PyAV fills no eight planes.
            samples = np.ascontiguousarray(self.wave[:, self.done : end].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, "flt", self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.done, Fraction(1, self.rate)
            self.out.mux(self.stream.encode(frame))
            self.done = end

    def finish(self) -> None:
        self.out.mux(self.stream.encode())


def video_facts(path: str | Path) -> VideoFacts:
    """Size as it is shown, rate and number of frames. Raises ValueError if the file is no video."""
    with _open_video(path) as (file, stream):
        frames = stream.frames
        if not frames:  # webm does not say; its packets are counted without decoding them
            frames = sum(packet.pts is not None for packet in file.demux(stream))
            file.seek(0)
        width, height = stream.width, stream.height
        if (first := next(file.decode(stream), None)) is not None and first.rotation % 180:
            width, height = height, width
        return VideoFacts(width, height, Fraction(stream.average_rate), frames)


def frame_times(source, start: float = 0.0, duration: float = 0.0) -> tuple[list[int], Fraction]:
    """When the frames of a video between `start` and `start + duration` seconds (0: to the end) are shown, without decoding them.

    Args:
        source: a path, or an open binary file.

    Returns:
        times in order, and the unit of them in seconds. Raises ValueError if the file is no video.
    """
    times, _, unit = shown_times(source, start, duration)
    return times, unit


def shown_times(source, start: float = 0.0, duration: float = 0.0) -> tuple[list[int], int, Fraction]:
    """As `frame_times`, with the time at which the last frame ends between them; 0 if there is none."""
    with _open_video(source) as (file, stream):
        unit = stream.time_base
        first, last = int(start / unit), int((start + duration) / unit)
        packets = (p for p in file.demux(stream) if p.pts is not None and not p.is_discard)
        shown = sorted((p.pts, p.duration or 0) for p in packets if p.pts >= first and (not duration or p.pts < last))
        end = sum(shown[-1]) if shown else 0
        return [time for time, _ in shown], min(end, last) if duration else end, unit


@contextlib.contextmanager
def frames_from(source, times: Sequence[int], start: int):
    """An open file (PyAV) and its frames from number `start` on, as they are decoded, one by one and none twice.

    They end before a frame that the file does not give. A seek may land behind what was asked for, as in MPEG transport streams; what it
    finds is told by its time.

    Args:
        times: those of all frames (`frame_times`).

    Raises:
        ValueError: the file is no video.
    """
    for seek in dict.fromkeys([*(times[max(0, start - back)] for back in BACK), None]):  # the last way is from the beginning
        with _open_video(source) as (file, stream):
            if file.format.name == "avi" and stream.codec_context.has_b_frames:  # whose times are those of decoding: they are counted
                yield file, itertools.islice(_decoded(file, stream), start, len(times))
                return
            if seek is not None and seek != stream.start_time:  # there it stands already
                file.seek(seek, stream=stream)
            frames = (frame for frame in _decoded(file, stream) if frame.pts >= times[start])
            first = next(frames, None)
            if seek is None or (first is not None and first.pts == times[start]):
                there = itertools.chain([first] if first else [], frames)
                yield file, (frame for frame, _ in itertools.takewhile(lambda pair: pair[0].pts == pair[1], zip(there, times[start:])))
                return


@contextlib.contextmanager
def _all_frames(path: str | Path):
    """As `frames_from` the first one, without their times; a damaged packet raises."""
    with _open_video(path) as (file, stream):
        stream.thread_type = "AUTO"
        yield file, file.decode(stream)


def _decoded(file, stream) -> Iterator[av.VideoFrame]:
    for packet in file.demux(stream):
        with contextlib.suppress(av.error.InvalidDataError):  # of a damaged packet; the next ones may be whole
            yield from packet.decode()


def read_frames(path: str | Path, start: int = 0, end: int | None = None, chunk: int = 16,
                times: Sequence[int] | None = None) -> Iterator[Tensor]:  # fmt: skip
    """Yields the frames start..end-1 (all by default) as uint8 tensors [n, H, W, 3] with n up to `chunk`.

    They are upright: a telephone films lying down and writes the turn beside. They are counted as they are shown, whatever the rate of
    the file or its changes. `times`: those of all frames (`frame_times`), if they are known. Raises ValueError if the file is no video.
    """
    if start < 0 or (end is not None and end < start):
        raise ValueError(f"frames {start} to {end} cannot be read: start must be 0 or more, end not below start")
    held: list[Tensor] = []
    if start and times is None:
        times, _ = frame_times(path)
    if start and start >= len(times):
        return
    with frames_from(path, times, start) if start else _all_frames(path) as (_, shown):
        for frame in itertools.islice(shown, None if end is None else end - start):
            picture = frame.to_ndarray(format="rgb24", interpolation=EXACT, src_color_range=frame.color_range, dst_color_range="JPEG")
            held.append(torch.from_numpy(np.ascontiguousarray(np.rot90(picture, frame.rotation // 90))))
            if len(held) == chunk:
                yield torch.stack(held)
                held = []
    if held:
        yield torch.stack(held)


@contextlib.contextmanager
def _open_video(source: str | Path | BinaryIO):
    named = isinstance(source, str | Path)
    name = Path(source).name if named else "the video"
    if not named:
        source.seek(0)
    try:
        file = av.open(str(source) if named else source)
    except av.error.InvalidDataError as error:
        raise ValueError(f"{name} is not a video that can be read") from error
    with file:
        if not file.streams.video or not file.streams.video[0].average_rate:
            raise ValueError(f"{name} has no moving pictures in it")
        yield file, file.streams.video[0]
