"""Sound under a result: each run of frames has its own, a remade one that of what it replaces, the rest is silent."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from sora_pack.sora_core.canvas import NEW, Piece, Timeline
from sora_pack.sora_core.shapes import retimed
from sora_pack.sora_core.sound import cut_sound, read_sound, soundtrack
from sora_pack.sora_core.video_file import frame_times, write_video

RATE = 800  # 100 samples for each frame of 8 a second


def ramp(frames, channels=1, rate=RATE):
    """Every sample is the number of its frame."""
    wave = torch.arange(frames, dtype=torch.float32).repeat_interleave(rate // 8) / 100
    return {"waveform": wave.expand(1, channels, -1).clone(), "sample_rate": rate}


def frames_heard(sound):
    """The number of the source's frame that is heard at each frame; -1 for silence."""
    wave = sound["waveform"][0, 0].view(-1, RATE // 8)
    return [round(float(w[50]) * 100) if w.any() else -1 for w in wave]


@pytest.mark.parametrize(
    "pieces, heard",
    [
        ([Piece(0, 0, 4), Piece(NEW, 1, 2), Piece(0, 6, 2)], [-1, 1, 2, 3, 4, 5, 6, 7]),  # as long as before
        ([Piece(0, 0, 4), Piece(NEW, 1, 4), Piece(0, 6, 2)], [-1, 1, 2, 3, 4, 5, -1, -1, 6, 7]),  # longer
        ([Piece(0, 0, 4), Piece(NEW, 1, 1), Piece(0, 6, 2)], [-1, 1, 2, 3, 4, 6, 7]),  # shorter
        ([Piece(NEW, 0, 2), Piece(0, 0, 8)], [-1, -1, -1, 1, 2, 3, 4, 5, 6, 7]),  # backward
        ([Piece(0, 0, 8), Piece(NEW, 1, 2)], [-1, 1, 2, 3, 4, 5, 6, 7, -1, -1]),  # forward
        ([Piece(0, 4, 4), Piece(NEW, 1, 2), Piece(1, 1, 2)], [4, 5, 6, 7, -1, -1, 1, 2]),  # joined
        ([Piece(NEW, 0, 8)], [-1, 1, 2, 3, 4, 5, 6, 7]),  # changed as a whole
        ([Piece(0, 0, 2), Piece(NEW, 1, 2), Piece(1, 1, 1), Piece(NEW, 1, 1), Piece(0, 6, 2)], [-1, 1, 2, 3, 1, 5, 6, 7]),  # placed inside
    ],
)
def test_what_is_heard(pieces, heard):
    sound = soundtrack(Timeline(tuple(pieces)), 8.0, [ramp(8), ramp(3)])
    assert frames_heard(sound) == heard  # frame 0 of a ramp is silent itself


def test_no_source_has_sound():
    assert soundtrack(Timeline((Piece(0, 0, 4), Piece(NEW, 1, 2))), 8.0, [None]) is None
    only_second = soundtrack(Timeline((Piece(0, 0, 2), Piece(NEW, 1, 2), Piece(1, 1, 2))), 8.0, [None, ramp(3)])
    assert frames_heard(only_second) == [-1, -1, -1, -1, 1, 2]


def test_other_rates_and_channels_are_brought_to_the_first_ones():
    pieces = (Piece(0, 0, 4), Piece(NEW, 1, 1), Piece(1, 1, 6))
    sound = soundtrack(Timeline(pieces), 8.0, [ramp(4, 2), ramp(7, 5, 2 * RATE)])
    assert sound["sample_rate"] == RATE and sound["waveform"].shape == (1, 2, 1100)
    assert frames_heard(sound)[5:] == [1, 2, 3, 4, 5, 6]


def test_a_track_without_a_sample_is_silence():
    empty = {"waveform": torch.zeros(1, 2, 0), "sample_rate": 2 * RATE}
    joined = soundtrack(Timeline((Piece(0, 0, 4), Piece(1, 0, 4))), 8.0, [ramp(4), empty])
    assert frames_heard(joined) == [-1, 1, 2, 3, -1, -1, -1, -1]


def test_cut_is_padded_with_silence():
    part = cut_sound(ramp(4), 0.25, 1.0)
    assert frames_heard(part) == [2, 3, -1, -1, -1, -1]
    assert cut_sound(None, 0, 1) is None


def test_file_without_and_with_sound(tmp_path):
    pictures = [torch.zeros(8, 32, 32, 3)]
    write_video(tmp_path / "mute.mp4", pictures, 8)
    assert read_sound(str(tmp_path / "mute.mp4")) is None
    tone = {"waveform": torch.sin(torch.arange(8000) / 20)[None, None], "sample_rate": 8000}
    write_video(tmp_path / "tone.mp4", pictures, 8, audio=tone)
    whole = read_sound(str(tmp_path / "tone.mp4"))
    part = read_sound(str(tmp_path / "tone.mp4"), 0.25, 0.5)
    assert abs(whole["waveform"].shape[-1] - 8000) < 2100 and part["waveform"].shape[-1] == 4000
    assert torch.equal(part["waveform"], whole["waveform"][..., 2000:6000])


def test_a_track_that_begins_late_is_silent_before(tmp_path):
    """As a screen recording whose microphone was switched on a second later."""
    with av.open(str(tmp_path / "late.mp4"), "w") as file:
        film, sound = file.add_stream("h264", rate=8), file.add_stream("aac", rate=8000, layout="mono")
        film.width = film.height = 32
        film.pix_fmt = "yuv420p"
        for _ in range(16):
            file.mux(film.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        for i in range(8):
            tone = np.sin(np.arange(1000) / 3)[None].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 8000 + 1000 * i, Fraction(1, 8000)
            file.mux(sound.encode(frame))
        for stream in (film, sound):
            file.mux(stream.encode())
    for start, heard in ((0.0, 1.0), (0.5, 0.5), (1.25, 0.0)):
        wave = read_sound(str(tmp_path / "late.mp4"), start)["waveform"][0, 0]
        assert (wave.abs() > 0.1).nonzero()[0].item() / 8000 == pytest.approx(heard, abs=0.13), f"from {start}"


def test_a_track_that_begins_early_is_cut(tmp_path):
    """As a stream that was recorded from the middle of a group of pictures."""
    with av.open(str(tmp_path / "early.mkv"), "w") as file:
        film, sound = file.add_stream("h264", rate=8), file.add_stream("pcm_s16le", rate=8000, layout="mono")
        film.width, film.height, film.pix_fmt = 32, 32, "yuv420p"
        for i in range(16):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            picture.pts, picture.time_base = 4 + i, Fraction(1, 8)
            file.mux(film.encode(picture))
        beep = np.zeros((1, 16000), np.int16)
        beep[:, 8000:] = 9000
        for i in range(16):
            frame = av.AudioFrame.from_ndarray(beep[:, 1000 * i : 1000 * (i + 1)], "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 1000 * i, Fraction(1, 8000)
            file.mux(sound.encode(frame))
        for stream in (film, sound):
            file.mux(stream.encode())
    wave = read_sound(str(tmp_path / "early.mkv"))["waveform"][0, 0]
    assert (wave.abs() > 0.1).nonzero()[0].item() / 8000 == pytest.approx(0.5, abs=0.01), "a second into the file, which begins at 0.5"


@pytest.mark.parametrize("channels, read", [(1, 1), (6, 6), (8, 8), (16, 2)])
def test_channels_come_in_their_order(tmp_path, channels, read):
    """As samples in a WAV file: of eight planes PyAV reads one too many, and more than eight are never written."""
    wave = (torch.arange(1, channels + 1)[None, :] * torch.linspace(0.1, 1, 800)[:, None] * 1000).short()  # samples, channels
    data = wave.numpy().tobytes()
    form = struct.pack("<HHIIHH", 1, channels, 8000, 16000 * channels, 2 * channels, 16)
    path = tmp_path / "a.wav"
    path.write_bytes(
        struct.pack("<4sI4s4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    )
    found = read_sound(str(path))["waveform"][0]
    assert found.shape == (read, 800) and torch.allclose(found, wave.T[:read].float() / 2**15, atol=1e-6)


def test_a_track_may_change_its_channels(tmp_path):
    """As broadcasts do: what was two channels stays two."""
    for name, channels in (("a", 2), ("b", 1)):
        tone = {"waveform": torch.sin(torch.arange(48000) / 3).expand(1, channels, -1), "sample_rate": 48000}
        with av.open(str(tmp_path / f"{name}.ts"), "w") as file:
            sound = file.add_stream("aac", rate=48000, layout="stereo" if channels == 2 else "mono")
            for k in range(0, 48000, 1024):
                frame = av.AudioFrame.from_ndarray(tone["waveform"][0, :, k : k + 1024].numpy(), "fltp", sound.layout.name)
                frame.sample_rate, frame.pts, frame.time_base = 48000, k + (name == "b") * 48000, Fraction(1, 48000)
                file.mux(sound.encode(frame))
            file.mux(sound.encode())
    (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    sound = read_sound(str(tmp_path / "both.ts"))
    assert sound["waveform"].shape[1] == 2 and sound["waveform"].shape[-1] > 80_000


def test_damaged_sound_is_silent_where_it_is_damaged(tmp_path):
    tone = {"waveform": torch.sin(torch.arange(32000) / 3)[None, None], "sample_rate": 8000}
    write_video(tmp_path / "tone.mp4", [torch.zeros(32, 32, 32, 3)], 8, audio=tone)
    whole = read_sound(str(tmp_path / "tone.mp4"))["waveform"]
    with av.open(str(tmp_path / "tone.mp4")) as file:
        packets = [packet for packet in file.demux(file.streams.audio[0]) if packet.size]
        spans = [(packet.pos, packet.size) for packet in packets[len(packets) // 2 :][:4]]
    data = bytearray((tmp_path / "tone.mp4").read_bytes())
    for at, size in spans:
        data[at : at + size] = b"\xff" * size
    (tmp_path / "damaged.mp4").write_bytes(data)
    heard = read_sound(str(tmp_path / "damaged.mp4"))["waveform"]
    assert abs(heard.shape[-1] - whole.shape[-1]) <= 1024
    assert torch.equal(heard[..., -4000:], whole[..., -4000:]), "what follows stays in step"
    assert (heard - whole).abs().max() > 0.5


def test_times_of_frames(tmp_path):
    write_video(tmp_path / "clip.mp4", [torch.zeros(9, 32, 32, 3)], 8)
    times, unit = frame_times(tmp_path / "clip.mp4")
    assert [float(t * unit) for t in times] == pytest.approx([i / 8 for i in range(9)])
    times, unit = frame_times(str(tmp_path / "clip.mp4"), 0.25, 0.5)
    assert [float(t * unit) for t in times] == pytest.approx([0.25, 0.375, 0.5, 0.625])


@pytest.mark.parametrize(
    "frames, fps, to, shown",
    [
        (7, 8, 8, [0, 1, 2, 3, 4, 5, 6]),
        (7, 24, 8, [0, 3, 6]),
        (3, 8, 24, [0, 0, 1, 1, 1, 2, 2]),
        (6, 10, 8, [0, 1, 2, 4, 5]),
        (1, 30, 8, [0]),
        (31, 30000 / 1001, 30, list(range(31))),
    ],
)
def test_retimed_shows_the_nearest_frame(frames, fps, to, shown):
    assert retimed(frames, fps, to) == shown
