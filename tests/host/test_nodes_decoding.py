"""Decoding through the host's real executor: given frames come back, the VIDEO is lazy, the host's nodes take it, memory is flat."""

import io
import json
import weakref
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from sora_pack.sora_core.video_file import read_frames, video_facts
from sora_pack.tests.host.executor import note, refusal
from sora_pack.tests.host.prompts import canvas, custom_sample, decode, frames, ksample, load, node, picture, place, sample, save, words

BEGIN = {**load(), **words(), **canvas(), **picture()}


def output_files(graph, name="save"):
    """Paths of what an output node saved."""
    import folder_paths

    (items,) = [value for key, value in graph.history["outputs"][name].items() if key == "images"]
    return [Path(folder_paths.get_output_directory()) / item["subfolder"] / item["filename"] for item in items]


@pytest.fixture
def decoded(monkeypatch):
    """A list that gets the cells of every chunk our VAE decodes."""
    from sora_pack.nodes.host_vae import HostVAE

    seen, inner = [], HostVAE.decode_chunks

    def counted(self, z, *args):
        for part in inner(self, z, *args):
            seen.append(part.shape[2])
            yield part

    monkeypatch.setattr(HostVAE, "decode_chunks", counted)
    return seen


# -- the host's nodes on our latents, and ours on its ----------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [sample, ksample, custom_sample])
def test_text_to_video(graph, run):
    graph.run({**BEGIN, **run(), **decode(), **save()}, ["video", 0])
    (path,) = output_files(graph)
    facts = video_facts(path)
    assert (facts.width, facts.height, facts.fps, facts.frames) == (64, 32, 8, 9)


def test_file_carries_the_workflow(graph):
    graph.run({**BEGIN, **sample(), **decode(), **save()}, ["video", 0])
    with av.open(str(output_files(graph)[0])) as file:
        assert json.loads(file.metadata["prompt"])["canvas"]["class_type"] == "SoraCanvas"


def test_host_decodes_to_the_same_frames(graph):
    prompt = {**BEGIN, **canvas(seconds=2.5), **sample(), **frames(), "whole": node("VAEDecode", samples=["sample", 0], vae=["load", 2])}
    prompt["tiled"] = node(
        "VAEDecodeTiled", samples=["sample", 0], vae=["load", 2], tile_size=512, overlap=64, temporal_size=16, temporal_overlap=4
    )
    ours, whole, tiled = graph.run(prompt, ["frames", 0], ["whole", 0], ["tiled", 0])
    assert ours.shape == whole.shape == tiled.shape == (21, 32, 64, 3)
    assert torch.allclose(ours, whole, atol=1e-6) and torch.allclose(ours, tiled, atol=1e-5)


def test_tiles_in_space(graph):
    prompt = {**BEGIN, **canvas(width=128, height=96), **sample()}
    prompt["whole"] = node("VAEDecode", samples=["sample", 0], vae=["load", 2])
    prompt["tiled"] = node(
        "VAEDecodeTiled", samples=["sample", 0], vae=["load", 2], tile_size=64, overlap=16, temporal_size=8, temporal_overlap=4
    )
    whole, tiled = graph.run(prompt, ["whole", 0], ["tiled", 0])
    assert tiled.shape == whole.shape and (tiled - whole).abs().mean() < 0.15  # attention sees its tile only


def test_encode_and_decode_by_the_host(graph):
    clip = {**picture(), "clip": node("RepeatImageBatch", image=["picture", 0], amount=9)}
    prompt = {**load(), **clip, "latent": node("VAEEncode", pixels=["clip", 0], vae=["load", 2])}
    prompt["tiled"] = node(
        "VAEEncodeTiled", pixels=["clip", 0], vae=["load", 2], tile_size=512, overlap=64, temporal_size=64, temporal_overlap=8
    )
    latent, tiled = graph.run({**prompt, **decode("latent"), **save()}, ["latent", 0], ["tiled", 0])
    assert latent["samples"].shape == (1, 16, 3, 4, 8) and torch.allclose(latent["samples"], tiled["samples"], atol=1e-5)
    assert "no Sora canvas" in graph.history["outputs"]["video"]["text"][0]
    assert video_facts(output_files(graph)[0]).fps == 16


@pytest.mark.usefixtures("host_sources")
@pytest.mark.parametrize("name, guess", [("wan_t2v", 16), ("wan22_5b", 24), ("ltxv", 25)])
def test_the_rate_of_latents_without_a_canvas(graph, name, guess):
    """By what the models of the VAE make, and the node says that it is a guess; or as it is told."""
    latent = {"load": node("TinyVAE", name=name), **picture(height=64), "clip": node("RepeatImageBatch", image=["picture", 0], amount=9)}
    latent["latent"] = node("VAEEncode", pixels=["clip", 0], vae=["load", 0])
    videos = {"video": node("SoraDecode", vae=["load", 0], latent=["latent", 0], seam="carry")}
    assert graph.run({**latent, **videos}, ["video", 0]).get_frame_rate() == guess
    assert f"{guess} a second" in note(graph, "video") and "a guess: say them in fps" in note(graph, "video")
    videos["video"]["inputs"]["fps"] = 12.0
    assert graph.run({**latent, **videos}, ["video", 0]).get_frame_rate() == 12 and "guess" not in note(graph, "video")
    part = node("SoraDecodeFrames", vae=["load", 0], latent=["latent", 0], from_second=0.25, to_second=0.5, seam="carry", fps=12.0)
    images, fps = graph.run({**latent, "part": part}, ["part", 0], ["part", 1])
    assert (len(images), fps) == (4, 12)
    videos["video"]["inputs"]["fps"] = 0.5
    assert "fps is 0.5: use 1 to 120, or 0" in refusal(graph, {**latent, **videos}, ["video", 0])


def test_a_canvas_brings_its_rate(graph):
    """Its sound would be out of step at another one."""
    videos = decode()
    videos["video"]["inputs"]["fps"] = 24.0
    assert graph.run({**BEGIN, **sample(), **videos}, ["video", 0]).get_frame_rate() == 8
    assert "fps 24 is left out: the canvas was made for 8" in note(graph, "video")
    videos["video"]["inputs"]["fps"] = 8.0
    graph.run({**BEGIN, **sample(), **videos}, ["video", 0])
    assert "left out" not in note(graph, "video")


def test_odd_pictures_and_batches_by_the_host(graph):
    prompt = {**load(), **picture(width=70, height=37), "latent": node("VAEEncode", pixels=["picture", 0], vae=["load", 2])}
    assert graph.run(prompt, ["latent", 0])["samples"].shape == (1, 16, 1, 4, 8)
    prompt = {**BEGIN, **canvas(batch=2), **sample(), "whole": node("VAEDecode", samples=["sample", 0], vae=["load", 2])}
    assert graph.run(prompt, ["whole", 0]).shape == (18, 32, 64, 3)


def test_frames_go_into_the_hosts_picture_nodes(graph):
    prompt = {**BEGIN, **sample(), **frames(start=0.25, end=0.5), "save": node("SaveImage", images=["frames", 0], filename_prefix="frame")}
    image, fps = graph.run(prompt, ["frames", 0], ["frames", 1])
    assert image.shape == (3, 32, 64, 3) and fps == 8.0
    assert len(output_files(graph)) == 3
    again = {**BEGIN, **sample(), **frames(), "again": node("CreateVideo", images=["frames", 0], fps=["frames", 1])}
    assert graph.run(again, ["again", 0]).get_frame_count() == 9


def test_video_goes_into_the_hosts_video_nodes(graph):
    prompt = {**BEGIN, **canvas(seconds=2.0), **sample(), **decode(), **frames()}
    prompt["parts"] = node("GetVideoComponents", video=["video", 0])
    prompt["cut"] = node("Video Slice", video=["video", 0], start_time=0.5, duration=1.0, strict_duration=True)
    whole, images, fps, cut = graph.run({**prompt, **save("cut")}, ["frames", 0], ["parts", 0], ["parts", 2], ["cut", 0])
    assert torch.equal(images, whole) and fps == 8.0
    assert cut.get_frame_count() == 8 and torch.equal(cut.get_components().images, whole[4:12])
    assert video_facts(output_files(graph)[0]).frames == 8


def test_a_batch_gives_a_video_each(graph):
    one, two = graph.run({**BEGIN, **canvas(batch=2), **sample(), **decode(), **frames(), **save()}, ["video", 0])
    assert one.clip.batch_index == 0 and two.clip.batch_index == 1
    assert len(output_files(graph)) == 2


# -- given frames ----------------------------------------------------------------------------------------------------------------------


def noisy(value=0):
    """A node that gives a picture no 8-bit format can hold."""
    from comfy_api.latest import io as host_io

    class Noisy(host_io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return host_io.Schema(node_id="Noisy", category="test", inputs=[], outputs=[host_io.Image.Output()])

        @classmethod
        def execute(cls):
            return host_io.NodeOutput(torch.rand(1, 32, 64, 3, generator=torch.Generator().manual_seed(value)))

    return Noisy


@pytest.mark.parametrize("run", [sample, ksample, custom_sample])
def test_given_frame_is_bit_identical(graph, run):
    graph.nodes.NODE_CLASS_MAPPINGS["Noisy"] = noisy()
    prompt = {**BEGIN, "picture": node("Noisy"), **place(), **run("placed"), **frames(), **decode()}
    image, video, lazy = graph.run(prompt, ["picture", 0], ["frames", 0], ["video", 0])
    assert torch.equal(video[:1], image)
    assert torch.equal(lazy.get_components().images, video)


def test_given_frame_in_the_hosts_denoised_output(graph):
    """It comes from the model's last prediction, where the host rounds known cells by 1e-6."""
    prompt = {**BEGIN, **place(), **custom_sample("placed")}
    prompt["frames"] = node("SoraDecodeFrames", vae=["load", 2], latent=["sample", 1], from_second=0.0, to_second=0.0, seam="carry")
    image, video = graph.run(prompt, ["picture", 0], ["frames", 0])
    assert torch.equal(video[:1], image)


@pytest.mark.parametrize("still", [True, False])
def test_seam(graph, monkeypatch, still):
    """With limits that no difference reaches, or that each goes beyond. Own seeds: the host keeps what it made."""
    for limit in ("MOVED", "CONTENT"):
        monkeypatch.setattr(f"sora_pack.sora_core.canvas.{limit}", 1e6 if still else 1e-6)
    graph.nodes.NODE_CLASS_MAPPINGS["Noisy"] = noisy()
    prompt = {**BEGIN, **canvas(seconds=3.0), "picture": node("Noisy"), **place(), **sample("placed", seed=50 + still), **frames()}
    prompt["hard"] = frames(seam="hard")["frames"]
    prompt["plain"] = node("VAEDecode", samples=["sample", 0], vae=["load", 2])
    image, soft, hard, plain = graph.run(prompt, ["picture", 0], ["frames", 0], ["hard", 0], ["plain", 0])
    assert torch.equal(hard[1:], plain[1:]) and torch.equal(soft[17:], plain[17:])
    lost = image[0] - plain[0]
    if still:
        assert torch.allclose(soft[1], (plain[1] + lost).clamp(0, 1), atol=1e-5)
    else:
        assert torch.allclose(soft[1], plain[1], atol=1e-5)


def test_a_changed_latent_is_decoded_plainly_and_says_so(graph):
    prompt = {**BEGIN, **place(), **sample("placed")}
    cut = {**prompt, "cut": node("LatentCut", samples=["sample", 0], dim="t", index=0, amount=2), **frames("cut")}
    image = graph.run(cut, ["frames", 0])
    assert image.shape[0] == 5 and "latents were changed" in graph.history["outputs"]["frames"]["text"][0]
    other = {
        **prompt,
        "other": node("LatentMultiply", samples=["sample", 0], multiplier=1.01),
        **frames("other"),
        **decode("other"),
        **save(),
    }
    given, image = graph.run(other, ["picture", 0], ["frames", 0])
    assert not torch.equal(image[:1], given) and "latents were changed" in graph.history["outputs"]["frames"]["text"][0]
    assert video_facts(output_files(graph)[0]).fps == 8, "the rate still holds"


# -- the lazy video --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def video(graph):
    """Two seconds, not decoded yet."""
    return graph.run({**BEGIN, **canvas(seconds=2.0), **place(), **sample("placed"), **decode()}, ["video", 0])


def test_facts_need_no_decoding(video, decoded):
    assert video.get_dimensions() == (64, 32) and video.get_frame_count() == 17
    assert video.get_frame_rate() == Fraction(8) and video.get_duration() == 17 / 8
    assert video.get_container_format() == "mp4" and video.get_active_trim_window() == (0.0, 0.0) and video.get_bit_depth() == 8
    assert video.as_trimmed(1.0, 0.5).get_frame_count() == 4
    assert decoded == []


def test_components_tell_how_far_they_are_and_can_be_interrupted(video, monkeypatch):
    import comfy.model_management
    import comfy.utils

    told, inner = [], comfy.utils.ProgressBar.update

    def update(self, value):
        inner(self, value)
        told.append((self.current, self.total))

    monkeypatch.setattr(comfy.utils.ProgressBar, "update", update)
    video.get_components()
    assert told[0] == (1, 17) and told[-1] == (17, 17)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        video.as_trimmed(0, 0.1).get_components()  # the given frame alone, which is not decoded
    assert len(video.get_components().images) == 17


def test_trims(video):
    whole = video.get_components().images
    for start, duration, first, last in ((0, 0, 0, 17), (1.0, 0, 8, 17), (-0.5, 0, 13, 17), (0.25, 0.5, 2, 6), (1.9, 5, 15, 17)):
        part = video.as_trimmed(start, duration)
        assert torch.equal(part.get_components().images, whole[first:last]) and part.get_frame_count() == last - first
    nested = video.as_trimmed(0.5, 1.0).as_trimmed(0.25, 0.5)
    assert torch.equal(nested.get_components().images, whole[6:10])
    assert video.as_trimmed(3.0, 1.0) is None and video.as_trimmed(1.9, 5, strict_duration=True) is None


def test_trim_decodes_no_further_than_it_must(video, decoded):
    video.as_trimmed(0, 0.5).get_components()
    assert sum(decoded) == 17  # one chunk of five cells
    long = len(decoded)
    assert long == 1


def test_saves_to_paths_and_buffers(video, tmp_path):
    video.save_to(str(tmp_path / "a.mp4"), metadata={"prompt": {"a": 1}}, crf=30)
    buffer = io.BytesIO()
    video.save_to(buffer)
    buffer.seek(0)
    with av.open(buffer) as file:
        assert sum(1 for _ in file.decode(video=0)) == 17
    source = video.get_stream_source()
    assert Path(source).is_file() and video.get_stream_source() == source
    pictures = torch.cat(list(read_frames(source)))
    assert (pictures.float() / 255 - video.get_components().images).abs().mean() < 0.05
    with pytest.raises(ValueError, match="use 8"):
        video.save_to(str(tmp_path / "b.mp4"), bit_depth=10)


def test_host_api_takes_it(video, tmp_path):
    """The host's own code on top of the abstract class, such as an upload, works from the stream source."""
    from comfy_api.latest import InputImpl

    again = InputImpl.VideoFromFile(video.get_stream_source())
    assert again.get_frame_count() == 17 and again.get_dimensions() == (64, 32)


def test_refused_range(graph):
    """What no video can mend is refused before anything is sampled; whoever takes a moment from another node hears it later."""
    from sora_pack.tests.host.executor import Failed, Refused

    moment = {"INPUT_TYPES": classmethod(lambda cls: {"required": {}}), "make": lambda self: (0.2,)}
    graph.nodes.NODE_CLASS_MAPPINGS["Moment"] = type("Moment", (), {**moment, "RETURN_TYPES": ("FLOAT",), "FUNCTION": "make"})

    def run(**part):
        graph.run({**BEGIN, **sample(), "moment": node("Moment"), **frames(**part)}, ["frames", 0])

    with pytest.raises(Failed, match="from_second 9 is behind the end"):
        run(start=9.0)
    with pytest.raises(Refused, match="to_second 0.2 is before from_second 0.5"):
        run(start=0.5, end=0.2)
    with pytest.raises(Failed, match="to_second 0.2 is before from_second 0.5"):
        run(start=0.5, end=["moment", 0])
    for name in ("start", "end"):
        with pytest.raises(Refused, match="_second 90000 is no moment of a video: use 0 to 86400"):
            run(**{name: 90000.0})


def test_frames_that_do_not_fit_are_refused_before_they_are_decoded(graph, decoded, monkeypatch):
    import comfy.model_management

    prompt = {**BEGIN, **sample(), **frames()}
    graph.run({**BEGIN, **sample()}, ["sample", 0])
    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda *_, **__: 400_000)
    sentence = refusal(graph, prompt, ["frames", 0])
    assert "to_second: 9 frames of 64x32 are" in sentence and "take a shorter part, or save with 'Sora Decode'" in sentence and not decoded
    assert graph.run({**prompt, **frames(end=0.5)}, ["frames", 0]).shape[0] == 5, "a part fits"
    monkeypatch.undo()
    assert graph.run(prompt, ["frames", 0]).shape[0] == 9


@pytest.mark.parametrize("start, end, count", [(0, 0, 9), (0, 1, 9), (0.5, 0.5, 1), (0.3, 0.31, 1), (0, 0.99, 8), (1, 0, 1)])
def test_range_is_what_is_shown_between_two_moments(graph, start, end, count):
    assert graph.run({**BEGIN, **sample(), **frames(start=float(start), end=float(end))}, ["frames", 0]).shape[0] == count


def test_decoding_keeps_nothing(video, decoded):
    """Chunks are handed on one by one: when the first frames are out, the later cells are not decoded yet."""
    stream = video.clip.frames()
    next(stream), next(stream)
    assert len(decoded) == 1


def test_saving_forgets_each_chunk(graph, monkeypatch, tmp_path):
    """While a video is saved, at most the chunk before the present one is still alive. (benchmarks/ measures the process.)"""
    from sora_pack.nodes.host_vae import HostVAE

    inner, chunks, alive = HostVAE.decode_chunks, [], []

    def watched(self, z, *args):
        for part in inner(self, z, *args):
            alive.append(sum(chunk() is not None for chunk in chunks))
            chunks.append(weakref.ref(part))
            yield part
            del part

    monkeypatch.setattr(HostVAE, "decode_chunks", watched)
    prompt = {**BEGIN, **canvas(seconds=20.0, width=32), **place(), **sample("placed", steps=1, guidance=1.0), **decode()}
    graph.run(prompt, ["video", 0]).save_to(str(tmp_path / "long.mp4"))
    assert len(chunks) > 9 and max(alive) <= 1


# -- precision -------------------------------------------------------------------------------------------------------------------------


def test_bfloat16_walk_keeps_the_latents_exact(graph):
    """bfloat16 runs between float32 convolutions at the latents; what it costs is far below the codec's own loss."""
    clip = {**picture(), "clip": node("RepeatImageBatch", image=["picture", 0], amount=9)}
    made = {}
    for precision in ("float32", "bfloat16"):
        prompt = {**load(precision=precision), **clip, "latent": node("VAEEncode", pixels=["clip", 0], vae=["load", 2])}
        prompt["back"] = node("VAEDecode", samples=["latent", 0], vae=["load", 2])
        made[precision] = graph.run(prompt, ["latent", 0], ["back", 0])
    (exact, exact_frames), (half, half_frames) = made.values()
    assert half["samples"].dtype == torch.float32
    assert (half["samples"] - exact["samples"]).abs().mean() < 0.02 * exact["samples"].std()
    assert (half_frames - exact_frames).abs().mean() < 2 / 255  # of random weights
