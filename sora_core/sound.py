"""Sound along with frames: read from a file, laid under a result. A sound is {"waveform": [1, channels, samples], "sample_rate": int}."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence

import av
import numpy as np
import torch
from torch import Tensor

from .canvas import NEW, Piece, Timeline
from .video_file import LAYOUTS

CODEC_DELAY = 0.05  # seconds by which codecs let a track begin late, though it belongs to the first frame


def read_sound(source, start: float = 0.0, duration: float = 0.0) -> dict | None:
    """The last sound track of a file (a path or an open binary file) from `start` seconds on; duration 0 is to the end. None without.

    It begins with the picture: a track that begins earlier is cut, one that begins later is silent before; and silent where packets are
    damaged or missing.
    """
    with av.open(source) as file:
        stream = next((s for s in reversed(file.streams.audio) if s.codec_context is not None), None)
        if stream is None:
            return None
        if start:
            file.seek(int(start / stream.time_base), stream=stream)
        film = next(iter(file.streams.video), None)
        origin = start or (float(film.start_time * film.time_base) if film and film.start_time else 0.0)
        parts, rate, heard = [], stream.sample_rate, 0
        for frame in _as_floats(_undamaged(file, stream), rate):
            if duration and frame.time >= start + duration:
                break
            wave = _channels(frame)[:, max(0, round((origin - frame.time) * rate)) :]
            if parts and len(wave) != len(parts[0]):  # mixed to one and spread
                wave = np.broadcast_to(wave.mean(0), (len(parts[0]), wave.shape[1]))
            missing = frame.time - origin - heard / rate
            silence = round(missing * rate) if missing > CODEC_DELAY else 0
            parts.append(np.pad(wave, ((0, 0), (silence, 0))))
            heard += parts[-1].shape[1]
    if not parts:
        return None
    wave = np.concatenate(parts, axis=1)
    wave = wave[:, : round(duration * rate)] if duration else wave
    return {"waveform": torch.from_numpy(wave)[None], "sample_rate": rate}


def _undamaged(file: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """The frames of a track that can be decoded."""
    for packet in file.demux(stream):
        with contextlib.suppress(av.error.FFmpegError):
            yield from packet.decode()


def _as_floats(frames: Iterable[av.AudioFrame], rate: int) -> Iterator[av.AudioFrame]:
    """Frames of interleaved floats at a rate: of eight planes PyAV reads one too many, and crashes. A resampler takes frames of one form,
    and that of a broadcast may change."""
    form = resampler = None
    for frame in frames:
        if form != (form := (frame.format.name, frame.layout.name, frame.sample_rate)):
            resampler = av.AudioResampler(format="flt", rate=rate)
        yield from resampler.resample(frame)


def _channels(frame: av.AudioFrame) -> np.ndarray:
    """[channels, samples] of interleaved floats; of more channels than are ever written the first two, which cameras mix the others to."""
    wave = frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T
    return wave if len(wave) in LAYOUTS else wave[:2]


def cut_sound(sound: dict | None, start: float, end: float) -> dict | None:
    """The part between two moments in seconds, filled up with silence."""
    if sound is None:
        return None
    wave, rate = sound["waveform"], sound["sample_rate"]
    first, last = round(start * rate), round(end * rate)
    part = wave[..., first:last]
    return {"waveform": torch.nn.functional.pad(part, (0, last - first - part.shape[-1])), "sample_rate": rate}


def soundtrack(timeline: Timeline, fps: float, sounds: Sequence[dict | None]) -> dict | None:
    """The sound of a result, at the rate and with the channels of the first one.

    A given run of frames keeps its own; a made run has that of the frames which it replaces, as far as they last; else silence.

    Args:
        sounds: for each source, or None where it has none.
    """
    first = next((sound for sound in sounds if sound is not None), None)
    if first is None:
        return None
    rate, channels = first["sample_rate"], first["waveform"].shape[1]
    waves = [None if sound is None else _conform(sound, rate, channels) for sound in sounds]
    out = torch.zeros(1, channels, round(timeline.frames / fps * rate))
    for number, (at, _) in enumerate(timeline.runs):
        heard = _heard(timeline.pieces, number)
        if heard.count > 0 and waves[heard.source] is not None:
            begin = round(heard.start / fps * rate)
            wave = waves[heard.source][..., begin : begin + round(heard.count / fps * rate)]
            to = round(at / fps * rate)
            length = min(wave.shape[-1], out.shape[-1] - to)
            out[..., to : to + length] = wave[..., :length]
    return {"waveform": out, "sample_rate": rate}


def _heard(pieces: tuple[Piece, ...], number: int) -> Piece:
    """The source frames whose sound belongs to a piece of a timeline: of a made one those that it replaces, between the nearest frames of
    one source on both sides, whatever was placed beside it; at an end of the timeline those beyond its neighbour."""
    piece = pieces[number]
    if piece.source != NEW:
        return piece
    for i in reversed(range(number)):
        left, right = pieces[i], next((p for p in pieces[number + 1 :] if p.source == pieces[i].source), None)
        if left.source != NEW and right is not None:
            start = left.start + left.count + sum(p.count for p in pieces[i + 1 : number])
            return Piece(left.source, start, min(piece.count, right.start - start))
    before, after = (pieces[number - 1] if number else None), (pieces[number + 1] if number + 1 < len(pieces) else None)
    if before and after:
        return Piece(NEW, 0, 0)
    start = before.start + before.count if before else 0
    replaced = after.start if after else math.inf
    return Piece((before or after or Piece(0, 0, 0)).source, start, min(piece.count, replaced))


def _conform(sound: dict, rate: int, channels: int) -> Tensor:
    """[1, channels, samples] at `rate`; other channels are mixed to one and spread."""
    wave = sound["waveform"][0].float().cpu()
    if wave.shape[0] != channels:
        wave = wave.mean(0, keepdim=True)
    if sound["sample_rate"] != rate:
        wave = torch.stack([_resample(channel, sound["sample_rate"], rate) for channel in wave])
    return wave.expand(channels, -1)[None]


def _resample(channel: Tensor, rate: int, to_rate: int) -> Tensor:
    if not len(channel):
        return channel
    frame = av.AudioFrame.from_ndarray(channel[None].numpy(), "fltp", "mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=to_rate)
    parts = [out.to_ndarray()[0] for given in (frame, None) for out in resampler.resample(given)]
    return torch.from_numpy(np.concatenate(parts))
