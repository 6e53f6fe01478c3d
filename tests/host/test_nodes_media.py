"""What people give, through the host's real executor: files, sound, masks; and all that is refused, in one sentence."""

import math
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import pytest
import torch

from sora_pack.sora_core.video_file import write_video
from sora_pack.tests.host.executor import note, refusal
from sora_pack.tests.host.prompts import (
    canvas,
    clip,
    custom_sample,
    decode,
    extend,
    fill,
    frames,
    ksample,
    load,
    node,
    place,
    remix,
    sample,
    save,
    verb,
    words,
)

pytestmark = pytest.mark.usefixtures("clip_node")

BEGIN = {**load(), **words()}
SIZE = {"width": 32, "height": 32}


def tone(seconds, rate=8000, channels=1):
    """A host AUDIO: a ramp, so that every moment is known by its value."""
    wave = torch.arange(round(seconds * rate), dtype=torch.float32) / (10 * rate)
    return {"waveform": wave.expand(1, channels, -1).clone(), "sample_rate": rate}


@pytest.fixture(autouse=True)
def sound_node(graph):
    from comfy_api.latest import io

    class Tone(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            inputs = [io.Float.Input("seconds", step=0.001), io.Int.Input("rate"), io.Int.Input("channels")]
            return io.Schema(node_id="Tone", category="test", inputs=inputs, outputs=[io.Audio.Output()])

        @classmethod
        def execute(cls, seconds, rate, channels):
            return io.NodeOutput(tone(seconds, rate, channels))

    graph.nodes.NODE_CLASS_MAPPINGS["Tone"] = Tone


def film(name="film", image="clip", fps=8.0, seconds=1.75, rate=8000, channels=1) -> dict:
    """A VIDEO with sound, of the host's Create Video."""
    sound = {f"{name} sound": node("Tone", seconds=seconds, rate=rate, channels=channels)}
    return {**sound, name: node("CreateVideo", images=[image, 0], fps=fps, audio=[f"{name} sound", 0])}


# -- files ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def movie(graph):
    """A function that puts a file into the host's input folder: moving noise of 8 x 8 squares, a key frame now and then."""
    import folder_paths

    written = []

    def write(name, count, fps=8, width=64, height=48, audio=None):
        squares = torch.rand(count, height // 8, width // 8, 3, generator=torch.Generator().manual_seed(4))
        pictures = squares.repeat_interleave(8, 1).repeat_interleave(8, 2)
        path = Path(folder_paths.get_input_directory()) / name
        write_video(path, [pictures], fps, codec="vp9" if name.endswith("webm") else "h264", audio=audio)
        written.append(path)
        return name

    yield write
    for path in written:
        path.unlink()


@pytest.mark.parametrize("name, fps", [("long.mp4", 8), ("clip.webm", 8), ("ntsc.mp4", "30000/1001")])
def test_frames_of_a_file_are_those_of_the_host(graph, movie, monkeypatch, name, fps):
    """Read in windows from any frame on, they are bit for bit what Get Video Components gives; and so in the result."""
    from sora_pack.nodes import media

    name = movie(name, 60, Fraction(fps))
    files = {"file": node("LoadVideo", file=name), "parts": node("GetVideoComponents", video=["file", 0])}
    prompt = {**BEGIN, **files, **extend(video="file", seconds=0.2), **sample(steps=1, guidance=1.0), **frames()}
    monkeypatch.setattr(media, "WINDOW", 64 * 48 * 12 * 7)  # seven frames
    whole, images, latent = graph.run(prompt, ["parts", 0], ["frames", 0], ["canvas", 0])
    assert len(whole) == 60 and torch.equal(images[:60], whole)
    source = latent["sora"].sources[0]
    assert torch.equal(torch.cat(list(source.read(0, 23, 20))), whole[23:43])


def test_frames_of_a_transport_stream(graph, monkeypatch):
    """A seek in it lands behind what was asked for; frames are those of the host all the same."""
    import folder_paths
    import numpy as np

    from sora_pack.nodes import media

    path = Path(folder_paths.get_input_directory()) / "camera.ts"
    squares = torch.rand(60, 6, 8, 3, generator=torch.Generator().manual_seed(4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    with av.open(str(path), "w", format="mpegts") as file:
        stream = file.add_stream("h264", rate=8, options={"bf": "2", "g": "15"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in squares:
            file.mux(stream.encode(av.VideoFrame.from_ndarray((picture * 255).byte().numpy().astype(np.uint8), "rgb24")))
        file.mux(stream.encode())
    try:
        monkeypatch.setattr(media, "WINDOW", 64 * 48 * 12 * 7)
        files = {"file": node("LoadVideo", file="camera.ts"), "parts": node("GetVideoComponents", video=["file", 0])}
        whole, latent = graph.run({**load(), **files, **extend(video="file", seconds=0.2)}, ["parts", 0], ["canvas", 0])
        source = latent["sora"].sources[0]
        assert len(whole) == 60 and torch.equal(torch.cat(list(source.read(0, 0, 60))), whole)
        assert torch.equal(torch.cat(list(source.read(0, 23, 20))), whole[23:43])
    finally:
        path.unlink()


TELEPHONE = [k / 30 for k in range(30)] + [1 + k / 15 for k in range(30)]
"""When the frames of a film are shown, in seconds: the light grows dim after one."""
SCREEN = [k / 10 for k in range(10)] + [4 + k / 10 for k in range(5)]
"""Nothing moves on it for three seconds."""


def uneven(folder, moments, name="uneven.mp4", size=(64, 48), pix_fmt="yuv420p", codec="h264", **options) -> str:
    """A file of moving squares with a frame at each of these moments. Every 15th frame is a key frame."""
    path, unit = str(folder / name), Fraction(1, 1000)
    width, height = size
    draw = torch.Generator().manual_seed(4)
    with av.open(path, "w") as file:
        stream = file.add_stream(codec, rate=30, options={"g": "15"} | options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if codec == "h264":
            stream.time_base = stream.codec_context.time_base = unit
        for moment in moments:
            squares = torch.randint(0, 256, (-(-height // 8), -(-width // 8), 3), generator=draw, dtype=torch.uint8)
            picture = squares.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width]
            frame = av.VideoFrame.from_ndarray(picture.numpy(), "rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = round(moment / unit), unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def taken(path, fps=0.0, **window):
    """A film as it is, all its frames as the host gives them, and the film as a verb has it at its own size."""
    from comfy_api.latest import InputImpl

    from sora_pack.nodes.media import conformed, media_of, shape_for
    from sora_pack.sora_core.shapes import Strides

    video = InputImpl.VideoFromFile(path, **window)
    film = media_of(video, None, 0.0)
    still = shape_for(film, {"size": "as given"}, fps, Strides())
    return film, video.get_components().images, conformed(film, still, "cover"), still


@pytest.mark.parametrize("moments", [TELEPHONE, SCREEN])
@pytest.mark.parametrize("fps", [0.0, 24.0])
def test_a_film_whose_rate_changes_keeps_its_times(graph, tmp_path, moments, fps):
    """Each frame is, bit for bit, the one that is shown at that moment, to half a frame of the result; the node says so."""
    from sora_pack.nodes.media import changes

    film, given, clip, still = taken(uneven(tmp_path, moments), fps)
    assert len(given) == film.frames == len(moments)
    images = torch.cat(list(clip.read(0, 0, clip.frames)))
    assert len(images) == clip.frames and 0 <= clip.frames / clip.fps - moments[-1] <= 0.1 + 1 / clip.fps
    for p, image in enumerate(images):
        (number,) = (n for n, frame in enumerate(given) if torch.equal(image, frame))
        early, late = moments[number] - p / clip.fps, p / clip.fps - (*moments, 9.0)[number + 1]
        assert max(early, late) <= 0.5 / clip.fps + 1e-3, f"frame {p} shows number {number}, {max(early, late):.3f} s off"
    rate = fps or (len(moments) - 1) / moments[-1]
    assert still.fps == pytest.approx(rate, rel=1e-3) and any("its rate changes" in line for line in changes(film, still))
    part = torch.cat(list(clip.read(0, 3, 5)))
    assert torch.equal(part, images[3:8]), "from any frame on"


def test_a_part_of_a_film_has_the_rate_that_it_has_there(graph, tmp_path):
    """That of the whole file is another; where nothing moves at first, the frame before the cut is missing and the next one stands."""
    path = uneven(tmp_path, TELEPHONE)
    film, given, clip, _ = taken(path, start_time=1.0, duration=1.5)
    assert clip is film and film.fps == pytest.approx(15, rel=1e-2) and len(given) == film.frames == 23
    assert torch.equal(torch.cat(list(film.read(0, 0, 23))), given)
    film, given, clip, _ = taken(uneven(tmp_path, SCREEN, "screen.mp4"), 10.0, start_time=0.6, duration=3.7)
    images, shown = torch.cat(list(clip.read(0, 0, clip.frames))), [0, 1, 2, 3, *[3] * 30, 4, 5, 6]
    assert len(given) == 7 and torch.equal(images, given[shown]), "0.6 to 0.9 s, nothing new till 4.0, then 4.0 to 4.2"


def test_the_last_frame_of_a_film_stands_as_long_as_the_file_says(graph, tmp_path):
    """A screen on which nothing moves any more is recorded all the same, and so is its sound."""
    from sora_pack.nodes.media import evened

    assert evened([0.0, 0.1, 0.2], 0.3, 10.0) == [0, 1, 2]
    assert evened([0.0, 0.1, 0.2], 1.0, 10.0) == [0, 1, *[2] * 8]
    assert evened([0.0, 0.1, 0.2, 1.0], 1.0, 10.0) == [0, 1, *[2] * 8, 3], "a length that is not known"


def test_a_verb_finds_its_place_in_a_film_whose_rate_changes(graph, tmp_path):
    """2.0 s is where it is in the file, in pictures and in sound; at an even count of frames it would be 0.5 s off."""
    import folder_paths

    path = uneven(Path(folder_paths.get_input_directory()), TELEPHONE)
    try:
        files = {"file": node("LoadVideo", file="uneven.mp4"), "parts": node("GetVideoComponents", video=["file", 0])}
        whole, latent = graph.run({**load(), **files, **fill(2.0, 2.5, video="file", fps=30.0)}, ["parts", 0], ["canvas", 0])
        before, _, behind = latent["sora"].canvas.timeline.pieces
        assert before.count in range(57, 61) and behind.start in range(75, 79)
        shown = next(latent["sora"].sources[0].read(0, behind.start, 1))
    finally:
        Path(path).unlink()
    assert torch.equal(shown[0], whole[30 + math.ceil((behind.start / 30 - 1) * 15 - 0.51)])


@pytest.mark.parametrize("format", ["mp4", "png"])
def test_a_film_whose_rate_changes_is_saved_at_its_times(graph, tmp_path, format):
    """A video has one rate, and the times of its frames stay; a folder of pictures has each frame once."""
    from sora_pack.sora_core.video_file import read_frames, video_facts

    made = node("SoraSave", video=["film", 0], filename_prefix="video/uneven", format=format)
    graph.nodes.NODE_CLASS_MAPPINGS["Film"] = film_node(uneven(tmp_path, SCREEN))
    path = Path(graph.run({"film": node("Film"), "saved": made}, ["saved", 0]))
    if format == "png":
        assert len(list(path.iterdir())) == len(SCREEN)
        return
    fps = float(video_facts(path).fps)
    given, images = (torch.cat(list(read_frames(file))).float() for file in (tmp_path / "uneven.mp4", path))
    for p, image in enumerate(images):
        number = int((given - image).abs().mean((1, 2, 3)).argmin())
        assert SCREEN[number] - p / fps <= 0.5 / fps + 0.02, f"frame {p} shows number {number} at {p / fps:.2f} s"
    assert len(images) / fps > 4


def film_node(path):
    from comfy_api.latest import InputImpl, io

    class Film(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Film", category="test", inputs=[], outputs=[io.Video.Output()])

        @classmethod
        def execute(cls):
            return io.NodeOutput(InputImpl.VideoFromFile(path))

    return Film


@pytest.mark.parametrize(
    "kind",
    [
        {"size": (70, 44)},  # not a multiple of 32 wide: the host widens such frames to convert them
        {"pix_fmt": "yuvj420p"},
        {"pix_fmt": "yuv420p10le", "codec": "libx265", "x265-params": "log-level=none"},
        {"name": "alpha.mov", "codec": "qtrle", "pix_fmt": "argb"},
        {"name": "short.gif", "codec": "gif", "pix_fmt": "rgb8"},
    ],
)
def test_frames_of_every_kind_of_file_are_those_of_the_host(graph, tmp_path, monkeypatch, kind):
    from sora_pack.nodes import media

    path = uneven(tmp_path, [k / 10 for k in range(20)], **{"name": "kind.mp4", **kind})
    monkeypatch.setattr(media, "WINDOW", 64 * 48 * 12 * 7)
    film, given, _, _ = taken(path)
    assert torch.equal(torch.cat(list(film.read(0, 0, 20))), given) and torch.equal(torch.cat(list(film.read(0, 6, 9))), given[6:15])


class Counted:
    """An open file whose decoded frames are counted in `frames`."""

    def __init__(self, file, frames):
        self.file, self.frames = file, frames

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def demux(self, *streams):
        return (CountedPacket(packet, self.frames) for packet in self.file.demux(*streams))

    def decode(self, stream):
        return (frame for packet in self.demux(stream) for frame in packet.decode())


class CountedPacket(Counted):
    def decode(self):
        made = self.file.decode()
        self.frames += made
        return made


def test_a_file_is_decoded_once_however_many_windows_it_is_read_in(graph, tmp_path, monkeypatch):
    """One key frame in 250, as x264 writes them: a window that is opened by itself decodes from there anew."""
    from sora_pack.nodes import media

    path = uneven(tmp_path, [k / 30 for k in range(240)], g="250", bf="2")
    film, given, _, _ = taken(path)
    monkeypatch.setattr(media, "WINDOW", 64 * 48 * 12 * 10)
    decoded, inner = [], av.open
    monkeypatch.setattr(av, "open", lambda *args, **more: Counted(inner(*args, **more), decoded))
    for start, count in ((0, 240), (200, 40), (100, 20)):
        decoded.clear()
        chunks = list(film.read(0, start, count))
        assert torch.equal(torch.cat(chunks), given[start : start + count]) and max(map(len, chunks)) == 10
        assert len(decoded) <= start + count + 20, f"{len(decoded)} frames were decoded for {start} to {start + count - 1}"
    cut, given, _, _ = taken(uneven(tmp_path, [k / 30 for k in range(240)], "cut.mp4"), start_time=7.0)
    decoded.clear()
    assert torch.equal(next(cut.read(0, 0, 2)), given[:2]) and len(decoded) < 40, f"{len(decoded)} frames were decoded for two"


def test_a_file_in_memory_is_read_by_two_at_once(graph, tmp_path, monkeypatch):
    from sora_pack.nodes import media

    monkeypatch.setattr(media, "WINDOW", 64 * 48 * 12 * 4)
    film, given, _, _ = taken(BytesIO(Path(uneven(tmp_path, [k / 30 for k in range(40)])).read_bytes()))
    one, other = zip(*zip(film.read(0, 0, 40), film.read(0, 20, 20)))
    assert torch.equal(torch.cat(one), given[:20]) and torch.equal(torch.cat(other), given[20:])


def test_reading_a_file_can_be_interrupted(graph, tmp_path):
    import comfy.model_management

    film, _, _, _ = taken(uneven(tmp_path, SCREEN))
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        list(film.read(0, 0, 15))
    assert len(torch.cat(list(film.read(0, 0, 15)))) == 15


def test_a_rate_as_people_write_it_is_that_of_the_file(graph, movie):
    """23.976 for 24000 / 1001: not a frame is lost, nothing is converted; 24 is another rate."""
    name = movie("film.mp4", 30, Fraction(24000, 1001))
    files = {"file": node("LoadVideo", file=name), "parts": node("GetVideoComponents", video=["file", 0])}
    whole, latent = graph.run({**load(), **files, **extend(video="file", fps=23.976)}, ["parts", 0], ["canvas", 0])
    assert torch.equal(torch.cat(list(latent["sora"].sources[0].read(0, 0, 30))), whole) and "nearest in time" not in note(graph)
    bridge = {**clip("next", 9), **verb("SoraJoin", video="file", next_video=["next", 0], seconds=0.5, image_fps=23.976)}
    latent = graph.run({**load(), **files, **bridge}, ["canvas", 0])
    assert latent["sora"].canvas.timeline.pieces[-1].count == 9 and "nearest in time" not in note(graph)
    graph.run({**load(), **files, **extend(video="file", fps=24.0)}, ["canvas", 0])
    assert "given 23.976 frames a second: each frame of 24 is the nearest in time" in note(graph)


def test_a_join_of_two_sizes_and_rates(graph):
    """The second is brought to the size and rate of the first, in one bridge; both are in the result as they were fitted."""
    second = {**clip("other", 9, width=50, height=37), **film("second", "other", fps=4.0, seconds=2.25)}
    join = verb("SoraJoin", next_video=["second", 0], seconds=0.5)
    prompt = {**BEGIN, **clip(), **second, **join, **sample(steps=1, guidance=1.0), **frames()}
    given, latent, images = graph.run(prompt, ["clip", 0], ["canvas", 0], ["frames", 0])
    behind = torch.cat(list(latent["sora"].sources[1].read(0, 0, 17)))
    assert behind.shape == (17, 32, 32, 3) and torch.equal(behind[:16:2], behind[1::2]), "each is shown twice"
    assert torch.equal(images[:14], given) and torch.equal(images[-17:], behind)
    assert "next_video: given 50x37, fitted to 32x32" in note(graph) and "next_video: given 4 frames a second" in note(graph)


def test_a_join_of_two_of_one_size_cuts_both_alike(graph):
    """What does not fit the VAE's step is cut from either, and no pixel of what is left changes."""
    join = verb("SoraJoin", next_video=["other", 0], seconds=0.5, size="as given")
    prompt = {**BEGIN, **clip(width=40, height=40), **clip("other", 9, width=40, height=40, seed=3), **join, **sample(steps=1), **frames()}
    first, second, images = graph.run(prompt, ["clip", 0], ["other", 0], ["frames", 0])
    assert images.shape[1:] == (32, 32, 3)
    assert torch.equal(images[:14], first[:, 4:36, 4:36]) and torch.equal(images[-9:], second[:, 4:36, 4:36])


def test_a_trimmed_file(graph, movie):
    name = movie("trim.mp4", 40, audio=tone(5.0))
    cut = node("Video Slice", video=["file", 0], start_time=1.5, duration=1.0, strict_duration=False)
    files = {"file": node("LoadVideo", file=name), "cut": cut, "parts": node("GetVideoComponents", video=["cut", 0])}
    prompt = {**BEGIN, **files, **extend(video="cut"), **sample(steps=1, guidance=1.0), **decode(seam="hard")}
    prompt["back"] = node("GetVideoComponents", video=["video", 0])
    whole, sound, images, heard = graph.run(prompt, ["parts", 0], ["parts", 1], ["back", 0], ["back", 1])
    assert len(whole) == 8 and torch.equal(images[:8], whole)
    length = min(sound["waveform"].shape[-1], 8000)
    assert torch.allclose(heard["waveform"][..., 500 : length - 500], sound["waveform"][..., 500 : length - 500], atol=1e-3)


def test_frames_around_a_videos_cut_of_ours(graph):
    """Trimmed by the host's node where no cell ends: frames are right, and the latents are left alone."""
    made = {"first": canvas(3.0, **SIZE)["canvas"], "latent": sample("first", steps=1, guidance=1.0)["sample"]}
    made |= {"film": decode("latent")["video"], "whole": frames("latent")["frames"]}
    cut = node("Video Slice", video=["film", 0], start_time=0.25, duration=1.25, strict_duration=False)
    prompt = {**BEGIN, **made, "cut": cut, **extend(video="cut"), **sample(steps=1, guidance=1.0), **frames()}
    whole, images = graph.run(prompt, ["whole", 0], ["frames", 0])
    assert torch.equal(images[:10], whole[2:12])


@pytest.mark.parametrize("run", ["remix", "backward", "loop"])
def test_a_cell_of_one_frame_stands_for_no_other(graph, run):
    """A video of ours that is cut where a cell ends begins with one of four frames; extended ones may have cell 0 in their middle."""
    made = {"first": canvas(3.0, **SIZE)["canvas"], "latent": sample("first", steps=1, guidance=1.0)["sample"]}
    if run == "remix":
        cut = node("Video Slice", video=["film", 0], start_time=0.5, duration=1.625, strict_duration=False)
        made |= {"film": decode("latent")["video"], "cut": cut, **remix(video="cut")}
    else:
        made |= {**clip("source", 16), **extend(seconds=0.5, video="source", name="longer"), "film": sample("longer", steps=1)["sample"]}
        made |= extend("backward", 0.5, video="film") if run == "backward" else verb("SoraLoop", video="film", seconds=0.5)
    latent, given = graph.run({**BEGIN, **made}, ["latent" if run == "remix" else "film", 0], ["canvas", 0])
    source, samples = latent["samples"], given["samples"]
    if run == "remix":  # frames 4 to 16: the first alone, then cells 2, 3 and 4
        assert samples.shape[2] == 4 and torch.equal(samples[:, :, 1:], source[:, :, 2:5])
        assert not torch.equal(samples[:, :, 0], source[:, :, 1])
    else:
        known = [cell for cell in given["sora"].canvas.known if cell]
        assert all((samples[:, :, cell] != source[:, :, 0]).any() for cell in known)


def test_what_is_as_given_is_cut_and_never_scaled(graph):
    """However much the step of the VAE leaves over."""
    given, latent = graph.run({**load(), **clip(width=56, height=40), **extend()}, ["clip", 0], ["canvas", 0])
    assert torch.equal(torch.cat(list(latent["sora"].sources[0].read(0, 0, 14))), given[:, 4:36, 4:52])


def test_a_verb_takes_what_a_sampler_of_the_host_made_of_a_canvas(graph):
    """A picture that stands in no known cell: it is given all the same, as for Sora Decode."""
    begin = {**BEGIN, **canvas(2.0, **SIZE), **clip("picture", 1), **place(1.0)}
    begin |= {"made": ksample("placed", steps=1)["sample"], **extend(seconds=0.5, video="made", name="longer")}
    picture, longer = graph.run(begin, ["picture", 0], ["longer", 0])
    assert torch.equal(next(longer["sora"].sources[0].read(0, 8, 1))[0], picture[0])
    changed = {**begin, "made": node("LatentMultiply", samples=["placed", 0], multiplier=0.5)}
    changed["drawn"] = sample("placed", steps=1)["sample"]
    changed["made"] = node("LatentMultiply", samples=["drawn", 0], multiplier=0.5)
    graph.run(changed, ["longer", 0])
    assert "its latents were changed on the way here" in str(graph.history["outputs"])


def test_a_rate_that_nobody_has_told_is_said(graph):
    """An IMAGE is taken as the canvas that it is placed on, as the video that it is joined to, and else as 8 frames a second."""
    told, untold = "image_fps", {"image_fps": 0.0}
    latent = graph.run({**load(), **clip(), **extend(**untold)}, ["canvas", 0])
    assert latent["sora"].canvas.shape.fps == 8 and "IMAGE taken as 8 frames a second (image_fps)" in note(graph)
    graph.run({**load(), **clip(), **extend()}, ["canvas", 0])
    assert told not in note(graph)
    on = {**load(), **clip(), **canvas(2.0, 16.0, **SIZE, name="empty")}
    on["canvas"] = node("SoraPlaceVideo", vae=["load", 2], latent=["empty", 0], video=["clip", 0], second=0.5, fit="cover")
    latent = graph.run(on, ["canvas", 0])
    assert latent["sora"].canvas.timeline.pieces[1].count == 14, "each frame is shown once"
    assert "IMAGE taken as 16 frames a second (image_fps)" in note(graph) and "nearest in time" not in note(graph)
    bridge = verb("SoraJoin", video="film", next_video=["clip", 0], seconds=0.5, **untold)
    latent = graph.run({**load(), **clip(), **film(fps=12.0), **bridge}, ["canvas", 0])
    assert latent["sora"].canvas.timeline.pieces[-1].count == 14
    assert "next_video: IMAGE taken as 12 frames a second (image_fps)" in note(graph)
    latents = {"plain": node("EmptyHunyuanLatentVideo", width=32, height=32, length=9, batch_size=1)}
    latent = graph.run({**load(), **latents, **extend(video="plain", **untold)}, ["canvas", 0])
    assert latent["sora"].canvas.shape.fps == 16 and "LATENT taken as 16 frames a second (image_fps)" in note(graph)
    assert "image_fps is 0.5: use 1 to 120, or 0" in refusal(graph, {**load(), **clip(), **extend(image_fps=0.5)}, ["canvas", 0])


def test_what_lies_beyond_ten_minutes_can_be_changed(graph):
    """Of a long video that is given; what is made at once is shorter."""
    prompt = {**load(), **clip(count=700), **fill(650.0, 652.0, image_fps=1.0), **clip("picture", 1), **place(690.0)}
    latent = graph.run(prompt, ["placed", 0])
    timeline = latent["sora"].canvas.timeline
    assert timeline.source_at(650) == -1 and timeline.source_at(690) == 1 and timeline.frames == 700


def test_latents_of_the_host_and_batches(graph):
    """A LATENT without a canvas has the rate that is told; of a batch each video goes on from its own frames."""
    plain = {"plain": node("EmptyHunyuanLatentVideo", width=32, height=32, length=9, batch_size=1)}
    latent = graph.run({**BEGIN, **plain, **extend(video="plain", image_fps=12.0)}, ["canvas", 0])
    assert latent["sora"].canvas.shape.fps == 12
    two = {"first": canvas(1.0, **SIZE, batch=2)["canvas"], "made": sample("first", steps=1)["sample"], "old": frames("made")["frames"]}
    prompt = {**BEGIN, **two, **extend("backward", video="made"), **sample(steps=1), **frames()}
    old, new = graph.run(prompt, ["old", 0], ["frames", 0])
    assert all(torch.equal(after[-9:], before) for before, after in zip(old, new)) and not torch.equal(new[0], new[1])


# -- sound ---------------------------------------------------------------------------------------------------------------------------


def heard(graph, verbs, **more):
    """The sound of the finished video of a verb, mono, and the count of frames."""
    parts = {"parts": node("GetVideoComponents", video=["video", 0])}
    prompt = {**BEGIN, **clip(), **film(**more), **verbs, **sample(steps=1, guidance=1.0), **decode(), **parts}
    images, sound = graph.run(prompt, ["parts", 0], ["parts", 1])
    assert sound["waveform"].shape[-1] == round(len(images) * sound["sample_rate"] / 8)
    return sound["waveform"][0], len(images)


def test_sound_passes_through(graph):
    wave, given = heard(graph, extend(video="film"))[0], tone(1.75)["waveform"][0]
    assert torch.equal(wave[:, :14000], given) and not wave[:, 14000:].any()
    wave = heard(graph, extend("backward", video="film"))[0]
    assert not wave[:, :9000].any() and torch.equal(wave[:, 9000:], given)
    assert torch.equal(heard(graph, fill(video="film"))[0], given), "a part of the same length keeps its sound"
    wave, count = heard(graph, fill(0.5, 1.0, 2.0, video="film"))
    assert count == 26 and torch.equal(wave[:, :8000], given[:, :8000]) and not wave[:, 8000:20000].any()
    assert torch.equal(wave[:, 20000:], given[:, 8000:])
    assert torch.equal(heard(graph, remix(video="film"))[0], given)


@pytest.mark.parametrize("verbs, silent", [(remix(video="film"), 14000), (fill(video="film"), 14000), (extend(video="film"), 14000)])
def test_sound_goes_on_under_a_picture(graph, verbs, silent):
    """A picture has none of its own."""
    put = {**clip("picture", 1), **place(0.75)}
    prompt = {**BEGIN, **clip(), **film(), **verbs, **put}
    latent = graph.run(prompt, ["placed", 0])
    assert torch.equal(latent["sora"].sound["waveform"][0, :, :silent], tone(1.75)["waveform"][0])


def test_sound_is_trimmed_padded_and_joined(graph):
    wave = heard(graph, extend(video="film"), seconds=1.0)[0]
    assert torch.equal(wave[:, :8000], tone(1.0)["waveform"][0]) and not wave[:, 8000:].any()
    wave = heard(graph, verb("SoraLoop", video="film", seconds=0.5), seconds=9.0)[0]
    assert wave.shape[1] == 18000
    assert heard(graph, remix(video="film"), seconds=9.0)[0].shape[1] == 14000
    second = film("second", "other", seconds=1.125, rate=16000, channels=2)
    join = {**clip("other", 9), **second, **verb("SoraJoin", video="film", next_video=["second", 0], seconds=1.0)}
    wave, count = heard(graph, join)
    assert count == 31 and torch.equal(wave[:, :14000], tone(1.75)["waveform"][0]) and not wave[:, 14000:22000].any()
    assert (wave[:, 22500:30500] - tone(1.125)["waveform"][0][:, 500:8500]).abs().max() < 1e-3


def test_sound_comes_with_decoded_frames(graph):
    """Of the part that is decoded, for Create Video, which takes nothing as well; one for all videos of a batch."""
    begin = {**BEGIN, **clip(), **film(), **extend(video="film"), **sample(steps=1, guidance=1.0), **frames(start=0.5, end=1.0)}
    begin["again"] = node("CreateVideo", images=["frames", 0], fps=["frames", 1], audio=["frames", 2])
    images, sound, video = graph.run(begin, ["frames", 0], ["frames", 2], ["again", 0])
    assert len(images) == 5 and torch.equal(sound["waveform"][0], tone(1.75)["waveform"][0][:, 4000:9000])
    assert torch.equal(video.get_components().audio["waveform"], sound["waveform"])
    silent = {**BEGIN, **canvas(1.0, **SIZE, batch=2), **sample(steps=1), **frames(), "again": begin["again"]}
    videos = graph.run({**silent, **save("again")}, ["again", 0])
    assert [video.get_components().audio for video in videos] == [None, None]


def test_sound_is_saved_and_cut(graph):
    import folder_paths

    from sora_pack.sora_core.sound import read_sound

    prompt = {**BEGIN, **clip(), **film(rate=44100), **extend(video="film"), **sample(steps=1, guidance=1.0), **decode(), **save()}
    video = graph.run(prompt, ["video", 0])
    (item,) = graph.history["outputs"]["save"]["images"]
    sound = read_sound(str(Path(folder_paths.get_output_directory()) / item["subfolder"] / item["filename"]))
    assert sound["sample_rate"] == 44100 and abs(sound["waveform"].shape[-1] - 44100 * 22 / 8) < 3000
    part = video.as_trimmed(0.5, 0.5).get_components()
    assert part.audio["waveform"].shape[-1] == 22050 and torch.equal(part.audio["waveform"][0], tone(1.0, 44100)["waveform"][0][:, 22050:])


# -- remix ---------------------------------------------------------------------------------------------------------------------------


def test_remix_strength_is_how_far_it_goes(graph):
    """Each step is farther from the given video; the sampler's own denoise is a limit, not a factor."""
    moved = []
    for strength in ("subtle", "mild", "strong"):
        latent, made = graph.run({**BEGIN, **clip(), **remix(strength), **sample(steps=4)}, ["canvas", 0], ["sample", 0])
        assert "14 are made (1.75 s), 0 kept as they are" in note(graph)
        moved.append((made["samples"] - latent["samples"]).abs().mean())
    assert 0 < moved[0] < moved[1] < moved[2]
    number = remix("a number", **{"strength.amount": 0.3})
    limited = {**remix("strong"), **sample(steps=4, denoise=0.3)}
    subtle, *same = (
        graph.run({**BEGIN, **clip(), **run}, ["sample", 0])["samples"]
        for run in ({**remix("subtle"), **sample(steps=4)}, {**number, **sample(steps=4)}, limited)
    )
    assert all(torch.equal(subtle, other) for other in same)
    nothing = {**BEGIN, **clip(), **remix("a number", **{"strength.amount": 0.0}), **sample(steps=4)}
    latent, made = graph.run(nothing, ["canvas", 0], ["sample", 0])
    assert torch.equal(latent["samples"], made["samples"])


@pytest.fixture
def masks(graph):
    """A node "Masks": white in a box of 10 x 10 pixels from frame 5 on; the first frames are all black."""
    from comfy_api.latest import io

    class Masks(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Masks", category="test", inputs=[io.Int.Input("count")], outputs=[io.Mask.Output()])

        @classmethod
        def execute(cls, count):
            mask = torch.zeros(count, 32, 32)
            mask[5:, 4:14, 6:16] = 1
            return io.NodeOutput(mask if count > 1 else torch.ones(1, 32, 32) * (torch.arange(32) < 16))

    graph.nodes.NODE_CLASS_MAPPINGS["Masks"] = Masks


def test_a_picture_is_changed_under_a_mask(graph, masks):
    still = {**BEGIN, **clip(count=1), "masks": node("Masks", count=1), **remix("strong", mask=["masks", 0]), **sample(steps=2), **frames()}
    latent, made, [image] = graph.run(still, ["canvas", 0], ["sample", 0], ["frames", 0])
    assert latent["noise_mask"].shape[2] == 1 and 0 < latent["noise_mask"].mean() < 1 and image.shape == (32, 32, 3)
    kept = latent["noise_mask"].expand_as(made["samples"]) == 0
    assert torch.equal(made["samples"][kept], latent["samples"][kept]) and not torch.equal(made["samples"], latent["samples"])


@pytest.mark.parametrize("run, count", [(sample, 1), (sample, 14), (ksample, 1), (custom_sample, 14)])
def test_remix_with_a_mask_keeps_the_rest_exactly(graph, masks, run, count):
    prompt = {**BEGIN, **clip(), "masks": node("Masks", count=count), **remix("strong", mask=["masks", 0]), **run(steps=2), **frames()}
    given, mask, latent, made, images = graph.run(prompt, ["clip", 0], ["masks", 0], ["canvas", 0], ["sample", 0], ["frames", 0])
    kept = (mask == 0).expand(len(given), -1, -1)
    assert torch.equal(images[kept], given[kept]) and (images[~kept] != given[~kept]).float().mean() > 0.9
    known = (latent["noise_mask"] == 0).expand_as(made["samples"])
    assert torch.equal(made["samples"][known], latent["samples"][known]) and known.any() and not known.all()
    if count > 1:
        assert latent["noise_mask"][0, 0].amax((1, 2)).tolist() == [0, 0, 1, 1, 1]
        assert latent["sora"].canvas.timeline.pieces[0].count == 5, "black frames are kept whole"
        assert "9 are made (1.125 s), 5 kept as they are" in note(graph)


def test_a_mask_that_changes_nothing_is_said(graph):
    """Load Image gives a black one for a picture without transparency."""
    black = {"mask": node("SolidMask", value=0.0, width=32, height=32)}
    graph.run({**BEGIN, **clip(), **black, **remix(mask=["mask", 0])}, ["canvas", 0])
    assert "NOTHING IS CHANGED: the mask is all black" in note(graph) and "white is where it is changed" in note(graph)
    dot = {"dot": node("MaskComposite", destination=["mask", 0], source=["one", 0], x=3, y=3, operation="add")}
    dot |= {**black, "one": node("SolidMask", value=1.0, width=2, height=2)}
    graph.run({**BEGIN, **clip(), **dot, **remix(mask=["dot", 0])}, ["canvas", 0])
    assert "less than 1% is changed" in note(graph)


# -- what is refused -----------------------------------------------------------------------------------------------------------------


def test_a_mask_of_another_shape_lies_over_the_whole_picture(graph, masks):
    """32 x 32 over 64 x 32: its left half, white, is the left half of the picture."""
    prompt = {
        **BEGIN,
        **clip(width=64),
        "masks": node("Masks", count=1),
        **remix("strong", mask=["masks", 0]),
        **sample(steps=1),
        **frames(),
    }
    given, images = graph.run(prompt, ["clip", 0], ["frames", 0])
    assert torch.equal(images[:, :, 32:], given[:, :, 32:]) and (images[:, :, :32] != given[:, :, :32]).float().mean() > 0.9


@pytest.mark.parametrize("frames_of_canvas", [1, 2, 5, 17])
@pytest.mark.parametrize("grid", [0, 1, 2, 3])
def test_where_a_clip_that_holds_latents_lands(graph, frames_of_canvas, grid):
    """On the canvas, as near as its cells allow; where they allow no place, at the frame that was asked for."""
    from sora_pack.nodes.place import at_cells

    places = [at for at in range(frames_of_canvas) if (at + grid) % 4 == 0]
    for frame in range(frames_of_canvas):
        at = at_cells(frame, grid, 4, frames_of_canvas)
        assert at == frame if not places else abs(at - frame) == min(abs(p - frame) for p in places) and at in places


@pytest.fixture
def odd_nodes(graph):
    """ "Torn" gives a LATENT without samples, "Masks3" three masks."""
    from comfy_api.latest import io

    def source(name, output, value):
        class Source(io.ComfyNode):
            @classmethod
            def define_schema(cls):
                return io.Schema(node_id=name, category="test", inputs=[], outputs=[output.Output()])

            @classmethod
            def execute(cls):
                return io.NodeOutput(value)

        graph.nodes.NODE_CLASS_MAPPINGS[name] = Source

    source("Torn", io.Latent, {"sora": 5})
    source("Masks3", io.Mask, torch.zeros(3, 32, 32))


@pytest.mark.parametrize(
    "verbs, words_of_it",
    [
        (extend(seconds=0.0), "min of 0.001"),
        (extend(seconds=-1.0), "min of 0.001"),
        (extend(seconds=601.0), "max of 600"),
        (extend(seconds=600.0, size="custom", **{"size.width": 4096, "size.height": 4096}), "use at most"),
        (extend(size="custom", **{"size.width": 40, "size.height": 32}), "width 40 is not a multiple of 16: use 32 or 48"),
        (extend("sideways"), "sideways"),
        (extend(fps=0.5), "fps is 0.5: use 1 to 120, or 0 for the rate of the video"),
        (fill(3.0, 4.0), "from_second 3 is behind the end of the video: use less than 1.75"),
        (fill(0.5, 4.0), "to_second 4 is behind the end of the video: use at most 1.75"),
        (fill(1.0, 0.5), "to_second 0.5 is not behind from_second 1"),
        (fill(0.0, 0.0), "this is the whole video, leave a frame of it or more"),
        (fill(1.0, 1.03), "is the frame of from_second 1: leave 0.125 s between them"),
        (fill(-1.0, 2.0), "from_second -1 is no moment of a video: use 0 to"),
        (remix("wild"), "strength"),
        (remix(mask=["three", 0]), "3 masks for 14 frames: give 1 or 14"),
        (verb("SoraLoop", video="words", seconds=1.0), "mismatch"),
        (verb("SoraLoop", video="torn", seconds=1.0), "holds no samples"),
        (verb("SoraLoop", video="still", seconds=1.0), "picture's latent of 4 axes"),
        (verb("SoraLoop", video="mochi", seconds=1.0), "12 channels"),
        (verb("SoraLoop", video="empty", seconds=1.0), "has no pictures"),
    ],
)
def test_refused(graph, odd_nodes, verbs, words_of_it):
    others = {
        "torn": node("Torn"),
        "still": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "mochi": node("EmptyMochiLatentVideo", width=64, height=32, length=7, batch_size=1),
        "three": node("Masks3"),
        **clip("empty", 0),
    }
    links = [value for entry in verbs.values() for value in entry["inputs"].values()]
    used = {name: other for name, other in others.items() if [name, 0] in links}
    sentence = refusal(graph, {**BEGIN, **clip(), **used, **verbs}, ["canvas", 0])
    assert words_of_it in sentence, sentence


def test_placed_clips_that_do_not_fit(graph):
    def placed(**fields):
        entry = {"canvas": node("SoraPlaceVideo", vae=["load", 2], latent=["first", 0], video=["clip", 0], fit="cover", **fields)}
        return {**BEGIN, **clip(), **canvas(1.0, **SIZE, name="first"), **entry}

    assert "second 2 is behind the end of the video: use 0 to 1" in refusal(graph, placed(second=2.0), ["canvas", 0])
    latent = graph.run(placed(second=0.5), ["canvas", 0])
    assert "over the end, and left out: its last 9 frames" in note(graph) and latent["sora"].canvas.timeline.frames == 9
    two = {**placed(second=0.0), **canvas(1.0, **SIZE, batch=3, name="first"), **canvas(1.0, **SIZE, batch=2, name="clip")}
    assert "2 clips for 3 videos" in refusal(graph, two, ["canvas", 0])


def test_more_pictures_than_videos(graph, odd_nodes):
    """The sentence says what to give, and where a clip belongs."""
    many = {**load(), **canvas(1.0, **SIZE), **clip("picture", 81)}
    assert "image: 81 pictures for 1 video: give 1; for a clip use 'Sora Place Video'" in refusal(graph, {**many, **place()}, ["placed", 0])
    two = {**many, **canvas(1.0, **SIZE, batch=2)}
    assert "image: 81 pictures for 2 videos: give 1 or 2; for a clip" in refusal(graph, {**two, **place()}, ["placed", 0])
    entry = node("SoraPlaceVideo", vae=["load", 2], latent=["canvas", 0], video=["clip", 0], second=0.0, fit="cover")
    clips = {**load(), **canvas(1.0, **SIZE), **canvas(1.0, **SIZE, batch=2, name="clip"), "placed": entry}
    assert "video: 2 clips for 1 video: give 1" in refusal(graph, clips, ["placed", 0])
    still = {**BEGIN, **clip(count=1), "three": node("Masks3"), **remix(mask=["three", 0])}
    assert "mask: 3 masks for 1 frame: give 1" in refusal(graph, still, ["canvas", 0])


def test_somebodys_own_mask_outlives_a_second_picture(graph, masks):
    """It says where a video is made, whatever is placed on it."""
    region = {"masks": node("Masks", count=1), "region": node("SetLatentNoiseMask", samples=["canvas", 0], mask=["masks", 0])}
    prompt = {**BEGIN, **canvas(1.0, **SIZE), **region, **clip("picture", 1), **place(latent="region", name="first")}
    prompt |= place(1.0, latent="first")
    once, twice = graph.run(prompt, ["first", 0], ["placed", 0])
    own = once["noise_mask"][:, :, 1]
    assert 0 < own.mean() < 1 and not once["noise_mask"][:, :, 0].any()
    assert torch.equal(twice["noise_mask"][:, :, 1], own) and not twice["noise_mask"][:, :, 0].any()


@pytest.mark.parametrize("of", ["canvas", "pick"])  # the latter copies the mask
def test_a_mask_of_other_cells_is_left_out(graph, of):
    """Cut to the part that is to be made, none of it is kept at random."""
    cut = {"cut": node("LatentCut", samples=[of, 0], dim="t", index=-2, amount=2)}
    pick = {"pick": node("LatentFromBatch", samples=["canvas", 0], batch_index=0, length=1)}
    prompt = {**BEGIN, **clip(), **extend(seconds=1.0), **pick, **cut, **sample("cut", steps=1, guidance=1.0)}
    whole, part, made = graph.run(prompt, ["canvas", 0], ["cut", 0], ["sample", 0])
    assert (part["noise_mask"] is whole["noise_mask"]) == (of == "canvas") and part["samples"].shape[2] == 2
    assert (made["samples"] != part["samples"]).float().mean() > 0.9
    assert f"what the canvas keeps was for {whole['samples'].shape[2]} cells, and there are 2 now" in note(graph, "sample")


def test_given_sigmas_stand_above_the_strength_of_a_remix(graph):
    levels = {"sigmas": node("BasicScheduler", model=["load", 0], scheduler="simple", steps=1, denoise=1.0)}
    prompt = {**BEGIN, **clip(), **remix("subtle"), **levels, **sample(steps=1, guidance=1.0, sigmas=["sigmas", 0])}
    graph.run(prompt, ["sample", 0])
    assert "begins where the given sigmas do, not at" in note(graph, "sample")


def test_an_error_names_the_input_that_it_is_about(graph):
    """In a node of two videos, that of the second."""
    joined = verb("SoraJoin", seconds=0.5, next_video=["mochi", 0])
    others = {**clip(), "mochi": node("EmptyMochiLatentVideo", width=64, height=32, length=7, batch_size=1)}
    assert "next_video: it has 12 channels" in refusal(graph, {**BEGIN, **others, **joined}, ["canvas", 0])


def test_frames_that_cannot_fit_while_they_are_encoded(graph, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda *_: 100_000)
    sentence = refusal(graph, {**BEGIN, **clip(), **extend(seconds=1.0)}, ["canvas", 0])
    assert "frames of 32x32 take" in sentence and "choose a smaller size, or give a shorter video" in sentence


def test_nothing_is_placed_on_a_masked_video(graph, masks):
    prompt = {**BEGIN, **clip(), "masks": node("Masks", count=14), **remix(mask=["masks", 0]), **clip("picture", 1), **place()}
    assert "place it before, and remix the result" in refusal(graph, prompt, ["placed", 0])


def test_a_file_that_is_no_video(graph, movie):
    import folder_paths

    path = Path(folder_paths.get_input_directory()) / "notes.mp4"
    path.write_text("not a video at all")
    try:
        assert "not a video" in refusal(
            graph, {**BEGIN, "file": node("LoadVideo", file="notes.mp4"), **extend(video="file")}, ["canvas", 0]
        )
    finally:
        path.unlink()


def test_placing_needs_a_canvas(graph):
    prompt = {**BEGIN, **clip("picture", 1), **canvas(**SIZE), "cut": node("LatentCut", samples=["canvas", 0], dim="t", index=0, amount=1)}
    assert "no canvas any more" in refusal(graph, {**prompt, **place(latent="cut")}, ["placed", 0])
