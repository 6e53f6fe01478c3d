"""Video files: what is written comes back, nothing is left of a failed writing, memory does not grow."""

import contextlib
import errno
import io
import json
import struct
from fractions import Fraction
from pathlib import Path
from uuid import UUID

import av
import numpy as np
import pytest
import torch
from PIL import Image

from sora_pack.sora_core import files
from sora_pack.sora_core.config import UserError
from sora_pack.sora_core.files import unfinished
from sora_pack.sora_core.pictures import contact_sheet
from sora_pack.sora_core.video_file import CODECS, read_frames, video_facts, write_pictures, write_video

FILES = {"h264": "clip.mp4", "vp9": "clip.webm"}


def moving(count, height=64, width=96):
    """A soft gradient that changes with time: frame t has blue 6 t."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.stack([x * 2, y * 3, torch.full_like(x, t * 6 % 256)], -1) for t in range(count)]).to(torch.uint8)


def psnr(a, b):
    return float(10 * torch.log10(255**2 / (a.float() - b.float()).square().mean()))


@pytest.mark.parametrize("codec", CODECS)
def test_frames_come_back(tmp_path, codec):
    frames, path, seen = moving(41), tmp_path / FILES[codec], []
    assert write_video(path, frames.split(16), 8, codec=codec, progress=seen.append) == 41
    assert seen == [16, 32, 41]
    facts = video_facts(path)
    assert (facts.width, facts.height, facts.fps, facts.frames) == (96, 64, 8, 41)
    back = torch.cat(list(read_frames(path)))
    assert back.shape == frames.shape
    assert psnr(back, frames) > 40
    bias = (back.float() - frames.float()).mean((0, 1, 2))
    assert bias.abs().max() < 1.0, f"colours drift by {bias.tolist()}"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("codec", CODECS)
def test_a_range_is_the_same_as_in_the_whole(tmp_path, codec):
    path = tmp_path / FILES[codec]
    write_video(path, [moving(60)], 24, codec=codec)
    whole = torch.cat(list(read_frames(path, chunk=7)))
    for start, end in ((0, 1), (1, 9), (37, 60), (59, None)):
        assert torch.equal(torch.cat(list(read_frames(path, start, end))), whole[start:end])
    assert list(read_frames(path, 60)) == []
    assert max(len(c) for c in read_frames(path, chunk=7)) == 7


def test_frames_of_a_changing_rate_are_counted_as_they_are_shown(tmp_path):
    """As most telephones film: 9 frames at 8 a second, then 4 that stand half a second each."""
    path, pictures = tmp_path / "phone.mp4", moving(13)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("h264", rate=8, options={"g": "5", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), "rgb24")
            frame.pts, frame.time_base = 125 * min(k, 8) + 500 * max(0, k - 8), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    whole = torch.cat(list(read_frames(path)))
    assert len(whole) == 13 and psnr(whole, pictures) > 30
    for start, end in ((0, 5), (3, 8), (7, 13), (12, None)):
        assert torch.equal(torch.cat(list(read_frames(path, start, end))), whole[start:end])


def test_floats_arrays_and_odd_sizes(tmp_path):
    frames = moving(9, 33, 47)
    write_video(tmp_path / "a.mp4", [frames.float() / 255], 8)
    write_video(tmp_path / "b.mp4", [frames.numpy()], 8)
    a, b = (torch.cat(list(read_frames(tmp_path / name))) for name in ("a.mp4", "b.mp4"))
    assert torch.equal(a, b)
    assert a.shape == (9, 34, 48, 3), "odd sizes get one more row or column"
    assert psnr(a[:, :33, :47], frames) > 35


@pytest.mark.parametrize("codec", CODECS)
def test_one_frame_and_uncommon_rates(tmp_path, codec):
    path = tmp_path / FILES[codec]
    write_video(path, [moving(1)], 23.976, codec=codec)
    assert video_facts(path).frames == 1
    write_video(path, [moving(24)], Fraction(24000, 1001), codec=codec)
    assert abs(video_facts(path).fps - Fraction(24000, 1001)) < 1e-3


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shape", [(1, 2, 44100 * 3), (1, 8000), (1, 8, 44100 * 2), (1, 4, 44100)])
def test_sound_lasts_as_long_as_the_pictures(tmp_path, codec, shape):
    rate = 44100 if shape[-1] > 8000 else 8000
    path = tmp_path / FILES[codec]
    wave = 0.3 * torch.sin(torch.arange(shape[-1]) * 0.05).expand(shape)
    write_video(path, moving(16).split(4), 8, codec=codec, audio={"waveform": wave, "sample_rate": rate})
    with av.open(str(path)) as file:
        assert file.streams.audio[0].channels == min(2, len(wave.view(-1, shape[-1])))
        heard = sum(frame.samples / frame.rate for frame in file.decode(audio=0))
    assert heard == pytest.approx(min(2.0, shape[-1] / rate), abs=0.06)
    assert video_facts(path).frames == 16


@pytest.mark.parametrize("codec", CODECS)
def test_metadata(tmp_path, codec):
    path = tmp_path / FILES[codec]
    write_video(path, [moving(2)], 8, codec=codec, metadata={"prompt": {"1": {"class_type": "X"}}, "words": "红色的球"})
    with av.open(str(path)) as file:
        found = {key.lower(): value for key, value in file.metadata.items()}
    assert json.loads(found["prompt"]) == {"1": {"class_type": "X"}}
    assert found["words"] == "红色的球"


def test_into_an_open_file():
    buffer = io.BytesIO()
    write_video(buffer, [moving(5)], 8)
    buffer.seek(0)
    with av.open(buffer) as file:
        assert sum(1 for _ in file.decode(video=0)) == 5


class Cancelled(BaseException):
    pass


def test_nothing_is_left_of_a_failed_or_cancelled_writing(tmp_path):
    path = tmp_path / "clip.mp4"

    def breaks():
        yield moving(4)
        raise RuntimeError("out of memory")

    def cancel(done):
        if done >= 8:
            raise Cancelled

    with pytest.raises(RuntimeError, match="out of memory"):
        write_video(path, breaks(), 8)
    with pytest.raises(Cancelled):
        write_video(path, moving(12).split(4), 8, progress=cancel)
    with pytest.raises(ValueError, match="frame 4 is 64x64"):
        write_video(path, [moving(4), moving(4, 64, 64)], 8)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, [moving(4)], 8)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_video(path, [moving(4), moving(4)[..., :2]], 8)
    assert path.read_bytes() == before


def test_a_folder_of_pictures(tmp_path):
    frames = torch.randint(0, 256, (5, 16, 24, 3), dtype=torch.uint8)
    told = []
    with unfinished(tmp_path / "made") as made:
        assert write_pictures(made, iter(frames.split(2)), metadata={"prompt": {"a": "左"}}, progress=told.append) == 5
    files = sorted((tmp_path / "made").iterdir())
    assert [f.name for f in files] == [f"0000{i}.png" for i in range(1, 6)] and told == [1, 2, 3, 4, 5]
    for file, frame in zip(files, frames):
        with Image.open(file) as picture:
            assert torch.equal(torch.from_numpy(np.asarray(picture).copy()), frame)
            assert json.loads(picture.text["prompt"]) == {"a": "左"}


def test_nothing_is_left_of_a_folder_that_failed(tmp_path):
    def torn():
        yield torch.zeros(2, 8, 8, 3)
        raise RuntimeError("cancelled")

    with pytest.raises(RuntimeError), unfinished(tmp_path / "made") as made:
        write_pictures(made, torn())
    with pytest.raises(ValueError, match="no frames"), unfinished(tmp_path / "made") as made:
        write_pictures(made, iter([]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_two_programs_that_count_the_same_lose_nothing(tmp_path, kind):
    """Both found number 1 free; whoever is ready later has the next."""
    path, again = tmp_path / ("sora_00001_.mp4" if kind == "file" else "sora_00001_"), moving(3)

    def save(frames):
        with unfinished(path) as made:
            yield
            write_video(made, [frames], 8) if kind == "file" else write_pictures(made, [frames])
        yield made.path

    writers = [save(moving(9)), save(again), save(again[:2])]
    for writer in writers:
        next(writer)
    first, second, third = map(next, writers)
    assert [p.name for p in (first, second, third)] == [path.name, *(path.name.replace("1", number) for number in "23")]
    counts = [video_facts(p).frames if kind == "file" else len(list(p.iterdir())) for p in (first, second, third)]
    assert counts == [9, 3, 2] and sorted(tmp_path.iterdir()) == [first, second, third]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("times, kept", [(1, False), (2, False), (100, True)])
def test_a_name_that_is_refused(tmp_path, monkeypatch, times, kept, kind):
    """Windows lets nobody rename onto a file that a scanner holds: for a moment that is waited for, else the work stays."""
    refused, replace = [], Path.replace

    def held(part, path):
        if len(refused) < times:
            refused.append(path)
            raise PermissionError(errno.EACCES, "held by another program")
        return replace(part, path)

    monkeypatch.setattr(Path, "replace", held)
    monkeypatch.setattr(files, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(Path, "rename", held)
    path = tmp_path / ("sora_00001_.mp4" if kind == "file" else "sora_00001_")
    says = rf"{path.name} could not be given its name .held by another program.; what was made is "
    with pytest.raises(UserError, match=says) if kept else contextlib.nullcontext():
        with unfinished(path) as made:
            write_video(made, [moving(3)], 8) if kind == "file" else write_pictures(made, [moving(3)])
    [left] = tmp_path.iterdir()
    assert (left == path) == (not kept) and (video_facts(left).frames if kind == "file" else len(list(left.iterdir()))) == 3


def test_a_disk_that_is_full_at_the_name_keeps_nothing(tmp_path, monkeypatch):
    def full(part, path):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(files, "_rename", full)
    with pytest.raises(OSError, match="The disk is full: a.mp4 was not written"), unfinished(tmp_path / "a.mp4") as made:
        made.part.write_bytes(b"work")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a" * 251 + ".mp4", "视频" * 41 + ".mp4"])
def test_a_name_may_be_as_long_as_the_disk_allows(tmp_path, name):
    with unfinished(tmp_path / name) as made:
        write_video(made, [moving(2)], 8)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind, codec", [("avi", "mpeg4"), ("avi", "h264"), ("ts", "h264")])
def test_a_range_of_a_file_that_seeks_badly(tmp_path, kind, codec):
    """A seek may land behind what was asked for."""
    path = tmp_path / f"clip.{kind}"
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=8, options={"g": "8", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(24):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * i, np.uint8), "rgb24")))
        file.mux(stream.encode())
    whole = torch.cat(list(read_frames(path)))
    for start in (1, 5, 9, 13):
        assert torch.equal(torch.cat(list(read_frames(path, start, start + 3))), whole[start : start + 3]), start


def test_what_a_killed_program_left_is_no_obstacle(tmp_path):
    """In a container the next one may have the same number of process."""
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), unfinished(tmp_path / "made") as made:
            made.part.mkdir()
            raise KeyboardInterrupt
    (tmp_path / ".made.7.part").mkdir()
    with unfinished(tmp_path / "made") as made:
        write_pictures(made, [moving(2)])
    assert sorted(p.name for p in tmp_path.iterdir()) == [".made.7.part", "made"]


@pytest.mark.parametrize("rate", [192000, 44056, 11025])
def test_sound_of_any_rate(tmp_path, rate):
    """What AAC does not know is resampled."""
    tone = {"waveform": torch.sin(torch.arange(rate) * 2 * torch.pi * 440 / rate)[None, None], "sample_rate": rate}
    write_video(tmp_path / "a.mp4", [moving(8)], 8, audio=tone)
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.audio[0].rate == (rate if rate == 11025 else 48000)
        assert float(file.streams.audio[0].duration * file.streams.audio[0].time_base) == pytest.approx(1, abs=0.1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    monkeypatch.setattr("sora_pack.sora_core.files.uuid4", lambda: UUID(int=7))
    (tmp_path / f".clip.mp4.{UUID(int=7).hex}.part").symlink_to("/dev/full")
    noise = torch.randint(0, 256, (40, 128, 128, 3), dtype=torch.uint8)
    with pytest.raises(OSError, match=f"The disk is full: clip.mp4 was not written; free some space for {tmp_path}"):
        write_video(path, [noise], 8)
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(OSError, match=f"The disk is full: clip.mp4 was not written; free some space for {tmp_path}"),
        unfinished(path) as made,
    ):
        made.part.symlink_to("/dev/full")
        write_video(made, [noise], 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"chunks": []}, "no frames"),
        ({"chunks": [moving(2)[0]]}, r"\(64, 96, 3\).*\[n, height, width, 3\]"),
        ({"chunks": [moving(2).long()]}, "int64.*uint8, or float"),
        ({"chunks": [moving(2)], "codec": "av1"}, "use one of h264, vp9"),
        ({"chunks": [moving(2)], "codec": "vp9"}, "vp9 is written to .webm files"),
        ({"chunks": [moving(2)], "audio": {"waveform": torch.zeros(1, 9, 100), "sample_rate": 8000}}, "9 channels.*1 to 8"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, job, words):
    with pytest.raises(ValueError, match=words):
        write_video(tmp_path / "clip.mp4", fps=8, **job)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video_is_named(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("not a video at all")
    with pytest.raises(ValueError, match=r"notes.mp4 is not a video"):
        next(read_frames(path))
    with pytest.raises(ValueError, match="start must be 0 or more"):
        next(read_frames(path, 5, 3))


def test_contact_sheet_lays_out_rows_and_labels(tmp_path):
    pictures = [np.full((20, 30, 3), 10 * i, np.uint8) for i in range(7)]
    path = tmp_path / "sheet.png"
    contact_sheet(pictures, path, columns=3, gap=2)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (3 * 22 + 2, 3 * 32 + 2, 3)
    assert (sheet[2:22, 34:64] == 10).all()
    assert (sheet[46:66, 2:32] == 60).all()
    assert (sheet[46:66, 34:] == 255).all()
    contact_sheet(pictures, path, columns=3, labels=["a red ball", "two blue cubes slide left on the sand at night", "红球"])
    assert Image.open(path).height > sheet.shape[0] + 3 * 12
    with pytest.raises(ValueError, match="2 labels fit neither 7 pictures nor 3 rows"):
        contact_sheet(pictures, path, columns=3, labels=["a", "b"])
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet([], path)


@pytest.mark.parametrize("turn, matrix", [(1, (0, -1, 1, 0)), (2, (-1, 0, 0, -1)), (3, (0, 1, -1, 0))])
def test_frames_of_a_turned_video_are_upright(tmp_path, turn, matrix):
    """The turn stands in the track's header (ISO 14496-12, 8.3.2), as telephones write it."""
    picture = np.zeros((1, 32, 64, 3), np.uint8)
    picture[:, :16, :32] = 255  # the corner at the top left
    path = tmp_path / "turned.mp4"
    write_video(path, [picture] * 3, 8)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    facts, frames = video_facts(path), torch.cat(list(read_frames(path)))
    assert (facts.height, facts.width) == frames.shape[1:3] == ((64, 32) if turn % 2 else (32, 64))
    upright = np.rot90(picture[0], turn)
    assert np.abs(frames[0].numpy().astype(int) - upright).mean() < 8
