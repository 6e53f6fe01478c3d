"""Every verb on the host's own video models, by random weights in the public key format, opened by the host's loaders."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sora_pack.tests.host.executor import refusal
from sora_pack.tests.host.prompts import (
    begin,
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
    picture,
    place,
    remix,
    sample,
    vae_first,
    verb,
    words,
)
from sora_pack.tests.host.tiny_host_models import STRIDES, host_vae_state, write_host_model

pytestmark = pytest.mark.usefixtures("clip_node", "host_sources")

SOLVERS = {"sora": sample, "ksampler": ksample, "custom": custom_sample}


VERBS = {
    "forward": (extend(seconds=1.0), [(0, slice(0, 26))]),
    "backward": (extend("backward", 1.0), [(-26, slice(0, 26))]),
    "fill": (fill(1.0, 2.0), [(0, slice(0, 7)), (-9, slice(17, 26))]),
    "loop": (verb("SoraLoop", seconds=1.0), [(0, slice(0, 26))]),
}


@pytest.mark.parametrize("name, how", [(name, how) for name in STRIDES for how in SOLVERS if name != "hunyuan15" or how == "sora"])
def test_given_frames_and_known_cells_come_back(graph, host_files, name, how):
    """The host's own samplers hand HunyuanVideo 1.5 a noise mask of as many channels as the latents have, and it takes one."""
    side = 64 if STRIDES[name].space == 32 else 32
    for verbs, kept in VERBS.values():
        run = SOLVERS[how](steps=2, model=("unet", 0))
        run.pop("sigmas", None)
        prompt = vae_first({**clip(count=26, width=side, height=side), **verbs, **run, **frames()}) | begin(host_files, name)
        given, latent, made, images = graph.run(prompt, ["clip", 0], ["canvas", 0], ["sample", 0], ["frames", 0])
        known = (latent["noise_mask"] == 0).expand_as(made["samples"])
        assert made["samples"].isfinite().all() and images.isfinite().all()
        if how == "sora":
            assert torch.equal(made["samples"][known], latent["samples"][known])
        for start, part in kept:
            start += len(images) if start < 0 else 0
            expected = given[part]
            assert torch.equal(images[start : start + len(expected)], expected)


def size_for(name: str) -> dict:
    """Two tokens a side at least."""
    side = 64 if STRIDES[name].space == 32 else 32
    return {"width": side, "height": side}


def parts_masked(side: int) -> dict:
    """A MASK that is white in its left half."""
    solid = {"height": side, "value": 0.0}
    half = node("SolidMask", **{**solid, "width": side // 2, "value": 1.0})
    whole = node("SolidMask", **solid, width=side)
    both = node("MaskComposite", destination=["whole", 0], source=["half", 0], x=0, y=0, operation="add")
    return {"whole": whole, "half": half, "mask": both}


def more_verbs(verb_name: str, size: dict) -> tuple[dict, int]:
    """The canvas of a verb, and how many frames of its result are given."""
    if verb_name == "join":
        return {**clip("next", 9, seed=1, **size), **verb("SoraJoin", next_video=["next", 0], seconds=1.0)}, 26 + 9
    if verb_name == "both":
        return extend("both", 1.0), 26
    if verb_name == "place image":
        return {**canvas(1.0, name="empty", **size), **clip("next", 1, **size), **place(0.625, "next", "empty", name="canvas")}, 1
    if verb_name == "place clip":
        placed = node("SoraPlaceVideo", vae=["load", 2], latent=["empty", 0], video=["clip", 0], second=0.75, fit="cover", image_fps=8.0)
        return {**canvas(4.0, name="empty", **size), "canvas": placed}, 26
    if verb_name == "remix":
        return {**parts_masked(size["width"]), **remix("strong", mask=["mask", 0])}, 0
    return canvas(0.0, **size), 0


@pytest.mark.parametrize(
    "verb_name, name",
    [
        ("join", "wan_i2v"),
        ("both", "ltxv"),
        ("place image", "wan22_i2v"),
        ("place clip", "hunyuan"),
        ("remix", "wan22_5b"),
        ("still", "wan_t2v"),
    ],
)
def test_other_verbs_by_our_own_solver(graph, host_files, verb_name, name):
    size = size_for("ltxv" if verb_name == "remix" else name)
    verbs, count = more_verbs(verb_name, size)
    prompt = {**clip(count=26, **size), **verbs, **frames(), **sample(steps=2, model=("unet", 0), sampler_name="sora_ancestral")}
    ends = ["clip", 0], ["next" if "next" in prompt else "clip", 0], ["canvas", 0], ["sample", 0], ["frames", 0]
    given, other, latent, made, images = graph.run(vae_first(prompt) | begin(host_files, name), *ends)
    sources = (given, other) if verb_name == "join" else (other,)
    runs = [(at, piece) for at, piece in latent["sora"].canvas.timeline.runs if piece.source >= 0]
    assert sum(piece.count for _, piece in runs) == count and images.isfinite().all()
    for at, piece in runs:
        assert torch.equal(images[at : at + piece.count], sources[piece.source][piece.start : piece.start + piece.count])
    if "noise_mask" in latent:
        known = (latent["noise_mask"] == 0).expand_as(made["samples"])
        assert torch.equal(made["samples"][known], latent["samples"][known])
    if verb_name == "remix":
        half = size["width"] // 2
        assert torch.equal(images[:, :, half:], given[:, :, half:]) and not torch.equal(images[:, :, :half], given[:, :, :half])
    if verb_name == "still":
        assert len(images) == 1 and images.std() > 0


@pytest.mark.parametrize("name", ["wan22_5b", "ltxv", "wan_t2v", "hunyuan"])
def test_levels_of_noise_that_a_host_model_is_given(graph, host_files, monkeypatch, name):
    """One of each cell, 0 for the known, where the model was trained for it; else one of all."""
    prompt = {**clip(count=26, **size_for(name)), **extend(), **sample(steps=2, guidance=1.0, model=("unet", 0))}
    prompt, levels = vae_first(prompt) | begin(host_files, name), []
    model = graph.run(prompt, ["unet", 0])
    kind = type(model.model.diffusion_model)
    inner = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x, t, *a, **k: levels.append(t.reshape(len(x), -1)) or inner(self, x, t, *a, **k))
    latent = graph.run(prompt, ["canvas", 0])
    graph.run(prompt, ["sample", 0])
    known = latent["noise_mask"].amax((0, 1, 3, 4)) == 0
    assert len(levels) == 2 and known.any() and not known.all()
    for level in levels:
        if name in ("wan22_5b", "ltxv"):
            level = level.unflatten(1, (len(known), -1))  # B F n
            assert (level[:, known] == 0).all() and (level[:, ~known] > 0).all()
        else:
            assert level.shape == (1, 1) and level > 0


def test_what_a_host_model_cannot_do_is_said(graph, host_files):
    """By the sampler, a sentence each that names the model; and nothing where there is nothing to say."""

    def said(name, verbs, latent="canvas", **more) -> str:
        run = sample(latent, steps=1, guidance=1.0, model=("unet", 0), **more)
        graph.run(vae_first({**verbs, **run}) | begin(host_files, name), ["sample", 0])
        return "\n".join(graph.history["outputs"].get("sample", {}).get("text", ()))

    size = {"width": 32, "height": 32}
    assert "HunyuanVideo is told no frame rate: " in said("hunyuan", canvas(0.5, **size))
    assert "frame rate" not in said("hunyuan", canvas(0.0, **size)) + said("hunyuan", canvas(0.2, fps=24.0, **size))
    assert said("wan_t2v", canvas(0.5, **size)) == ""
    pictures = {**picture(**size), **place(), **place(0.25, latent="placed", name="two"), **place(1.0, latent="two", name="three")}
    text = said("wan_t2v", {**canvas(1.0, **size), **pictures}, "three")
    assert text == "Wan is not shown the given frame 2: it takes whole latent cells, and the one beside is given"
    assert said("wan_i2v", {**canvas(1.0, **size), **pictures}, "three") == ""
    assert "LTX-Video made all in one pass, for how long it can be is not known" in said("ltxv", canvas(11.0, **size_for("ltxv")))


def test_what_is_said_does_not_hang_on_the_order_of_the_families(graph, host_files, monkeypatch):
    from sora_pack.nodes import host_models
    from sora_pack.sora_core.plan import Lattice, single

    monkeypatch.setattr(host_models, "FAMILIES", host_models.FAMILIES[::-1])
    for name, told in (("wan_t2v", True), ("ltxv", True), ("ltx2", True), ("hunyuan", False), ("hunyuan15", False)):
        prompt = vae_first(canvas(0.5, **size_for(name))) | begin(host_files, name)
        model, latent = graph.run(prompt, ["unet", 0], ["canvas", 0])
        said = "".join(host_models.limits(model, latent["sora"], single(Lattice(5))))
        assert ("is told no frame rate" not in said) is told, f"{name}: {said}"


@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "hunyuan"])
def test_each_shot_is_heard(graph, host_files, monkeypatch, name):
    """On auto a storyboard is made shot by shot, each by its own words; the negative is zero, be it left open or zeroed by the host."""
    script = "[0-2 s] four\n[2-4 s] cut. three"
    words = node("SoraStoryboard", clip=["clip", 0], vae=["load", 0], script=script, fps=8.0)
    board = {"clip": node("TinyCLIP", name=name), "words": words, "zero": node("ConditioningZeroOut", conditioning=["words", 0])}
    begun = begin(host_files, name) | board | vae_first(canvas(4.0, **size_for(name)))
    model, words = graph.run(begun, ["unet", 0], ["words", 0])
    heard, kind = [], type(model.model.diffusion_model)
    inner = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x, t, context, **more: heard.extend(context) or inner(self, x, t, context, **more))
    for negative in ({"seed": 8}, {"seed": 9, "negative": ["zero", 0]}):
        heard.clear()
        made = graph.run({**begun, **sample(steps=1, model=("unet", 0), **negative)}, ["sample", 0])
        text = "\n".join(graph.history["outputs"]["sample"]["text"])
        assert made["samples"].isfinite().all() and "rollout: 2 passes" in text and "hears one shot" not in text, text
        spoken = [rows for rows in heard if rows.any()]
        assert len(heard) == 4 and len(spoken) == 2
        assert all(torch.equal(rows, shot[0]) for rows, shot in zip(spoken, words[0][1]["sora"].rows, strict=True))
    settings = {"plan": "single", "window": 0, "overlap": 3, "distance": 4}
    single = {"plan": node("SoraPlan", model=["unet", 0], latent=["canvas", 0], **settings)}
    graph.run({**begun, **single, **sample("plan", steps=1, model=("unet", 0))}, ["sample", 0])
    assert "hears one shot in a pass, here the first" in "\n".join(graph.history["outputs"]["sample"]["text"])


@pytest.mark.parametrize(
    "name, kind, width, height",
    [
        ("ltxv", "EmptyLTXVLatentVideo", 96, 64),
        ("ltx2", "EmptyLTXVLatentVideo", 96, 64),
        ("hunyuan15", "EmptyHunyuanVideo15Latent", 48, 32),
        ("wan_t2v", "EmptyHunyuanLatentVideo", 40, 24),
        ("hunyuan", "EmptyHunyuanLatentVideo", 40, 24),
        (None, "EmptyHunyuanLatentVideo", 40, 24),
    ],
)
def test_sides_of_an_odd_number_of_cells(graph, host_files, name, kind, width, height):
    """704x480, a size of LTX-Video, is 22 by 15 cells, 1280x720 of HunyuanVideo 1.5 80 by 45. HunyuanVideo and our models (None) have
    tokens of 2 by 2."""
    latent = {"canvas": node(kind, width=width, height=height, length=9, batch_size=1)}
    begun = {**load(), **words()} if name is None else begin(host_files, name)
    prompt = {**begun, **latent, **sample(steps=1, model=("load" if name is None else "unet", 0))}
    if name not in ("hunyuan", None):
        empty, made = (latent["samples"] for latent in graph.run(prompt, ["canvas", 0], ["sample", 0]))
        assert made.shape == empty.shape and made.isfinite().all() and made.any()
    else:
        assert "cells, they must be even" in refusal(graph, prompt, ["sample", 0])


@pytest.mark.parametrize("name", ["ltxv", "ltx2", "hunyuan15"])
def test_a_canvas_of_an_odd_number_of_cells(graph, host_files, name):
    """Where a token is one cell."""
    space = STRIDES[name].space
    begun = {**begin(host_files, name), **vae_first(canvas(width=3 * space, height=2 * space))}
    assert graph.run({**begun, **sample(steps=1, model=("unet", 0))}, ["sample", 0])["samples"].shape[-2:] == (2, 3)
    cells = STRIDES[name].cells(9)
    assert f"{cells} latent cells, {6 * cells} tokens" in graph.history["outputs"]["canvas"]["text"][0]


def test_a_canvas_is_not_measured_by_a_model_of_another_vae(graph, host_files, monkeypatch):
    """The shipped model in 8 GB says nothing of LTX-Video, of which the host takes care; its latents must fit all the same."""
    import comfy.model_management

    from sora_pack.sora_core import speed

    monkeypatch.setattr(speed, "machine_memory", lambda device="cpu": 8 * 10**9)
    large = {"seconds": 5.0, "fps": 24.0, "width": 1920, "height": 1088}
    assert "need about" in refusal(graph, {**load(), **canvas(**large)}, ["canvas", 0])
    ltx = begin(host_files, "ltxv")
    assert graph.run(vae_first(canvas(**large)) | ltx, ["canvas", 0])["samples"].shape[2:] == (16, 34, 60)
    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda device=None: 10**6)
    sentence = refusal(graph, vae_first(canvas(**{**large, "seconds": 4.0})) | ltx, ["canvas", 0])
    assert "1920x1088 and 4 s are latents of 0.0 GB, this machine has 0.0 GB: choose a smaller size, or fewer seconds" in sentence


def test_latents_of_video_and_sound_together_are_refused(graph, host_files):
    """With the name of the host's node that takes them apart."""
    ltx = begin(host_files, "ltx2")
    sound = {"sound": node("NoisySound"), "both": node("LTXVConcatAVLatent", video_latent=["canvas", 0], audio_latent=["sound", 0])}
    graph.nodes.NODE_CLASS_MAPPINGS["NoisySound"] = noisy_sound()
    prompt = {**ltx, **vae_first(canvas(width=64, height=64)), **sound, **sample("both", steps=1, model=("unet", 0))}
    apart = graph.nodes.NODE_CLASS_MAPPINGS["LTXVSeparateAVLatent"].GET_SCHEMA().display_name
    sentence = refusal(graph, prompt, ["sample", 0])
    assert f"latent: it holds video and sound together: put '{apart}' (LTXVSeparateAVLatent) between" in sentence
    prompt |= {"apart": node("LTXVSeparateAVLatent", av_latent=["both", 0]), **sample("apart", steps=1, model=("unet", 0))}
    assert graph.run(prompt, ["sample", 0])["samples"].isfinite().all()


def noisy_sound():
    """A node that gives a latent of sound as LTX-2 has it."""
    from comfy_api.latest import io

    class NoisySound(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="NoisySound", category="test", inputs=[], outputs=[io.Latent.Output()])

        @classmethod
        def execute(cls):
            return io.NodeOutput({"samples": torch.zeros(1, 8, 4, 16), "type": "audio"})

    return NoisySound


def test_strides_of_the_hosts_vaes():
    from sora_pack.nodes.host_vae import strides_of
    from sora_pack.tests.host.tiny_host_models import tiny_vae

    for name, strides in STRIDES.items():
        assert strides_of(tiny_vae(strides)) == strides, name


def test_a_vae_of_other_latents_is_refused(graph, host_files):
    """VAEs with 16 channels and these strides are many; a canvas knows its own."""
    from types import SimpleNamespace

    from sora_pack.nodes.host_models import fits_vae
    from sora_pack.nodes.host_vae import HostVAE, same_vae
    from sora_pack.sora_core.config import VAEConfig

    begun = vae_first({**canvas(width=32), **picture(width=32)}) | begin(host_files, "wan_t2v") | {"other": load()["load"]}
    placed = place()
    placed["placed"]["inputs"]["vae"] = ["other", 2]
    for verbs in (placed, decode("canvas", vae=("other", 2)), frames("canvas", vae=("other", 2))):
        (name,) = verbs
        assert "this is not the VAE that the canvas was made with: connect the same one" in refusal(graph, begun | verbs, [name, 0])
    wide, narrow, none = (SimpleNamespace(first_stage_model=HostVAE(VAEConfig(dim=dim), torch.float32)) for dim in (16, 8, 16))
    assert same_vae(wide, none) and same_vae(wide, None) and not same_vae(wide, narrow)
    model = graph.run(load(), ["load", 0])  # its file names a VAE of 16
    assert fits_vae(model, wide) and not fits_vae(model, narrow) and fits_vae(model, None)


def test_image_to_video_sees_what_is_given(graph, host_files, monkeypatch):
    """Beside the noise it gets the given frames on grey, encoded, and a mask of frames; a picture within a cell too."""
    import comfy.model_base

    seen, inner = [], comfy.model_base.WAN21.concat_cond
    monkeypatch.setattr(comfy.model_base.WAN21, "concat_cond", lambda self, **more: (seen.append(inner(self, **more)), seen[-1])[1])
    size = {"width": 32, "height": 32}
    verbs = {**clip(count=14, **size), **fill(0.5, 1.0), **clip("picture", 1, seed=2, **size), **place(0.75)}
    prompt = {**verbs, **sample("placed", steps=1, model=("unet", 0))}
    for name in ("wan_i2v", "wan22_i2v"):
        seen.clear()
        begun = vae_first(dict(prompt)) | begin(host_files, name)
        ends = ["clip", 0], ["picture", 0], ["placed", 0], ["unet", 0], ["sample", 0]
        given, still, latent, model, _ = graph.run(begun, *ends)
        mask, cells = seen[0][:, :4], seen[0][:, 4:]
        canvas_given = latent["sora"].canvas
        assert canvas_given.spans and 6 in [canvas_given.offset + guide.frame for guide in canvas_given.guides]
        expected = (latent["noise_mask"] == 0).float().expand(1, 4, -1, 4, 4).clone()
        for guide in canvas_given.guides:
            expected[:, (guide.frame - 1) % 4, (guide.frame + 3) // 4] = 1
        assert torch.equal(mask.cpu(), expected)
        result = given.clone()
        result[6] = still[0]
        frames_given = expected[0, :, :, 0, 0].T.flatten()[3:]  # cell 0 is one frame
        lattice = result[canvas_given.offset :][: len(frames_given)]
        shown = torch.where(frames_given.view(-1, 1, 1, 1) == 1, lattice, 0.5)
        wanted = model.model.process_latent_in(latent["sora"].vae.encode(shown))
        assert torch.allclose(cells.cpu(), wanted, atol=1e-4), f"{(cells.cpu() - wanted).abs().max():.1e}"


def test_image_to_video_sees_what_clip_vision_sees(graph, host_files, monkeypatch):
    """Wan 2.1's, by way of the host's own node between, and the canvas stays what it is given."""
    import comfy.ldm.wan.model
    import comfy.model_base
    from comfy_api.latest import io
    from comfy_extras.nodes_wan import WanImageToVideo

    class Seen(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Seen", category="test", inputs=[], outputs=[io.ClipVisionOutput.Output()])

        @classmethod
        def execute(cls):
            from comfy.clip_vision import Output

            seen = Output()
            seen.penultimate_hidden_states = torch.ones(1, 257, 1280)
            return io.NodeOutput(seen)

    graph.nodes.NODE_CLASS_MAPPINGS |= {"Seen": Seen, "WanImageToVideo": WanImageToVideo}
    features, shown = [], []
    kind, base = comfy.ldm.wan.model.WanModel, comfy.model_base.WAN21
    forward, concat = kind.forward, base.concat_cond
    monkeypatch.setattr(kind, "forward", lambda self, *a, **k: features.append(k.get("clip_fea")) or forward(self, *a, **k))
    monkeypatch.setattr(base, "concat_cond", lambda self, **more: (shown.append(concat(self, **more)), shown[-1])[1])
    size = {"width": 32, "height": 32}
    ends = {"positive": ["words", 0], "negative": ["words", 0], "vae": ["load", 0], "clip_vision_output": ["seen", 0]}
    between = {"seen": node("Seen"), "between": node("WanImageToVideo", **ends, **size, length=9, batch_size=1)}
    run = sample("placed", steps=1, model=("unet", 0))
    plain = vae_first({**canvas(**size), **picture(**size), **place(), **run}) | begin(host_files, "wan_i2v")
    graph.run(plain, ["sample", 0])
    without = shown[:]
    assert features == [None] and without
    features.clear(), shown.clear()
    run["sample"]["inputs"] |= {"positive": ["between", 0], "seed": 8}
    for negative in ({}, {"negative": ["between", 1], "seed": 9}):
        run["sample"]["inputs"] |= negative
        assert graph.run({**plain, **between, **run}, ["sample", 0])["samples"].isfinite().all()
        assert "not kept" not in "".join(graph.history["outputs"].get("sample", {}).get("text", ())), "its content can be hashed"
    assert len(features) == 2 and all(seen.shape == (2, 257, 1280) and seen.any() for seen in features)
    assert all(torch.equal(told, without[0]) for told in shown)


def test_image_to_video_is_encoded_once_for_a_pair(graph, host_files, monkeypatch):
    from sora_pack.nodes.host_vae import VideoCoder

    encoded, inner = [], VideoCoder.encode
    size = {"width": 32, "height": 32}
    run = sample("placed", steps=3, model=("unet", 0), low_noise_model=["unet", 0], switch_sigma=0.9)
    prompt = vae_first({**canvas(**size), **picture(**size), **place(), **run}) | begin(host_files, "wan22_i2v")
    graph.run(prompt, ["placed", 0])
    monkeypatch.setattr(VideoCoder, "encode", lambda self, x: encoded.append(x.shape[2]) or inner(self, x))
    graph.run(prompt, ["sample", 0])
    assert encoded == [9]


def test_image_to_video_that_does_not_fit_is_refused(graph, host_files, monkeypatch):
    """Before the whole canvas stands there in pixels."""
    import comfy.model_management

    size = {"width": 32, "height": 32}
    run = sample("placed", steps=1, model=("unet", 0))
    prompt = vae_first({**canvas(**size), **picture(**size), **place(), **run}) | begin(host_files, "wan_i2v")
    graph.run(prompt, ["placed", 0])
    one_frame = 4 * 32 * 32 * 12  # of the picture, with what the host needs to encode it
    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda device=None: 2 * one_frame)
    sentence = refusal(graph, prompt, ["sample", 0])
    assert "latent: this model is shown its canvas as a video: 9 frames of 32x32 take" in sentence, sentence
    assert "make the canvas smaller or shorter" in sentence


def test_hunyuan_video_15_is_told_what_is_given(graph, host_files, runs, monkeypatch):
    """The given cells and which they are, also of a picture at a later moment, and in each pass those that it sees."""
    import comfy.model_base

    seen, inner = [], comfy.model_base.HunyuanVideo15.concat_cond
    monkeypatch.setattr(comfy.model_base.HunyuanVideo15, "concat_cond", lambda self, **more: seen.append(inner(self, **more)) or seen[-1])
    size = {"width": 48, "height": 32}
    begun = {**canvas(6.5, **size), **picture(**size), **place(), **place(4.9, latent="placed", name="later"), **rollout(latent="later")}
    run = {"steps": 1, "guidance": 1.0, "model": ("unet", 0)}
    for latent, count in (("later", 1), ("plan", 4), ("canvas", 1)):
        seen.clear(), runs[1].clear()
        prompt = vae_first({**begun, **sample(latent, **run), **frames()}) | begin(host_files, "hunyuan15")
        still, model, made, images = graph.run(prompt, ["picture", 0], ["unet", 0], ["sample", 0], ["frames", 0])
        assert len(runs[1]) == count and made["samples"].isfinite().all()
        each = len(seen) // count  # words of both kinds
        known = {0, 10} if latent != "canvas" else set()
        for (p, _, whole), told in zip(runs[1], seen[::each], strict=True):
            image, mask = told[:, :32].cpu(), told[:, 32:].cpu()
            given = [at for at, cell in enumerate(p.cells) if cell in known or at in p.seen_at]
            expected = torch.zeros_like(mask)
            expected[:, :, given] = 1
            assert mask.shape[1] == 1 and torch.equal(mask, expected)
            wanted = model.model.process_latent_in(whole.float().clone()) * expected
            assert torch.allclose(image, wanted, atol=1e-5), f"{(image - wanted).abs().max():.1e}"
        if known:
            assert torch.equal(images[0], still[0]) and torch.equal(images[39], still[0])


@pytest.mark.parametrize("name, clean", [("hunyuan", True), ("hunyuan15", True), ("wan_t2v", False)])
def test_how_known_cells_are_shown_to_models_with_one_level_of_noise(graph, host_files, monkeypatch, name, clean):
    prompt = {**clip(count=26, **size_for(name)), **extend(), **sample(steps=1, guidance=1.0, model=("unet", 0))}
    prompt, seen = vae_first(prompt) | begin(host_files, name), []
    model, latent = graph.run(prompt, ["unet", 0], ["canvas", 0])
    kind = type(model.model.diffusion_model)
    inner = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x, *a, **k: seen.append(x.cpu()) or inner(self, x, *a, **k))
    graph.run(prompt, ["sample", 0])
    known = latent["noise_mask"].amax((0, 1, 3, 4)) == 0
    wanted = model.model.process_latent_in(latent["samples"].float().clone())[:, :, known]
    moved = (seen[0][:, : wanted.shape[1], known] - wanted).abs().max().item()  # behind them those of HunyuanVideo 1.5's picture
    assert (moved < 1e-4) is clean, f"{moved:.1e}"


@pytest.mark.parametrize("name", ["wan_i2v", "wan22_i2v"])
def test_image_to_video_without_pictures_is_refused(graph, host_files, name):
    for verbs, asked in ((canvas(1.0, width=32, height=32), "make a video from words alone"), ({**clip(), **remix()}, "do 'Sora Remix'")):
        prompt = vae_first({**verbs, **sample(steps=1, model=("unet", 0))}) | begin(host_files, name)
        sentence = refusal(graph, prompt, ["sample", 0])
        assert f"Wan image-to-video cannot {asked}: it goes on from pictures, and the canvas has none" in sentence


def test_a_pair_is_one_run(graph, host_files):
    """The same model twice is that model once, wherever the switch is: what passes over is the whole state of the run."""
    begun = begin(host_files, "wan_t2v")
    verbs = {**clip(count=26, width=32, height=32), **extend()}
    alone = graph.run(vae_first({**verbs, **sample(steps=4, model=("unet", 0))}) | begun, ["sample", 0])["samples"]
    for switch in (0.0, 0.5, 0.9, 1.0):
        run = sample(steps=4, model=("unet", 0), low_noise_model=["unet", 0], switch_sigma=switch)
        both = graph.run(vae_first({**verbs, **run}) | begun, ["sample", 0])["samples"]
        assert (both - alone).abs().max() < 1e-3, f"switch at {switch}: {(both - alone).abs().max():.1e}"
    other = begin(host_files, "wan22_i2v")["unet"]
    run = sample(steps=4, model=("unet", 0), low_noise_model=["low", 0], switch_sigma=0.9)
    both = graph.run(vae_first({**verbs, **run}) | begun | {"low": other}, ["sample", 0])["samples"]
    assert (both - alone).abs().max() > 1e-3


@pytest.fixture
def runs(monkeypatch):
    """What each forward of the host's Wan was made by, and (pass, cells, made cells) of each pass."""
    import comfy.ldm.wan.model

    from sora_pack.nodes.passes import PassSampler

    forwards, passes = [], []
    forward, make = comfy.ldm.wan.model.WanModel.forward, PassSampler.make
    monkeypatch.setattr(comfy.ldm.wan.model.WanModel, "forward", lambda self, *a, **k: forwards.append(id(self)) or forward(self, *a, **k))

    def made(self, group, cells, progress):
        (p,), (seen,), (latents,) = group, cells, make(self, group, cells, progress)
        passes.append((p, seen, latents))
        return [latents]

    monkeypatch.setattr(PassSampler, "make", made)
    return forwards, passes


def rollout(model=("unet", 0), latent="canvas") -> dict:
    """14 cells in windows of 6."""
    settings = {"window": 6, "overlap": 2, "distance": 4}
    return {"plan": node("SoraPlan", model=list(model), latent=[latent, 0], plan="rollout", **settings)}


@pytest.mark.parametrize("long", [False, True])
def test_a_pair_of_two_files(graph, host_files, runs, long):
    """Each makes the steps of its levels, in every pass; what is given stays."""
    import folder_paths

    forwards, passes = runs
    folder = Path(folder_paths.get_full_path("diffusion_models", host_files["wan22_i2v"])).parent
    low = write_host_model(folder, "wan22_i2v", seed=1)
    folder_paths.filename_list_cache.pop("diffusion_models", None)
    size = {"width": 32, "height": 32}
    pair = {"low_noise_model": ["low", 0], "switch_sigma": 0.9}
    run = sample("plan" if long else "canvas", model=("unet", 0), steps=5, guidance=1.0, **pair)
    verbs = {**clip(count=9, **size), **extend(seconds=5.0 if long else 1.0), **(rollout() if long else {})}
    prompt = vae_first({**verbs, **run, **frames()}) | begin(host_files, "wan22_i2v")
    prompt["low"] = node("UNETLoader", unet_name=low, weight_dtype="default")
    prompt["sigmas"]["inputs"]["steps"] = 5
    given, sigmas, made, images = graph.run(prompt, ["clip", 0], ["sigmas", 0], ["sample", 0], ["frames", 0])
    (folder / low).unlink()
    folder_paths.filename_list_cache.pop("diffusion_models", None)
    first, second = forwards[0], forwards[-1]
    share = int((sigmas >= 0.9).sum())
    assert first != second and 0 < share < 5 and len(passes) == (3 if long else 1)
    assert forwards == ([first] * share + [second] * (5 - share)) * len(passes)
    assert made["samples"].isfinite().all() and torch.equal(images[:9], given)
    for p, cells, whole in passes:
        assert torch.equal(whole[:, :, p.seen_at], cells[:, :, p.seen_at].to(whole))


def test_passes_of_an_image_to_video_model(graph, host_files, runs, monkeypatch):
    """Each is given the cells that it sees in the way of its training, made ones too."""
    import comfy.model_base

    seen, inner = [], comfy.model_base.WAN21.concat_cond
    monkeypatch.setattr(comfy.model_base.WAN21, "concat_cond", lambda self, **more: (seen.append(inner(self, **more)), seen[-1])[1])
    size = {"width": 32, "height": 32}
    verbs = {**canvas(6.5, **size), **picture(**size), **place(), **rollout(latent="placed")}
    run = sample("plan", steps=1, guidance=1.0, model=("unet", 0))
    prompt = vae_first({**verbs, **run, **frames()}) | begin(host_files, "wan_i2v")
    still, model, made, images = graph.run(prompt, ["picture", 0], ["unet", 0], ["sample", 0], ["frames", 0])
    passes = runs[1]
    assert len(passes) == 3 and made["samples"].isfinite().all() and torch.equal(images[0], still[0])
    each = len(seen) // len(passes)  # words of both kinds
    for (p, cells, _), told in zip(passes, seen[::each], strict=True):
        mask, image = told[:, :4].cpu(), told[:, 4:].cpu()
        assert (mask[:, :, p.seen_at] == 1).all() and (mask[:, :, p.made_at] == 0).all()
        wanted = model.model.process_latent_in(cells[:, :, p.seen_at].float().clone())
        assert torch.allclose(image[:, :, p.seen_at], wanted, atol=1e-4)


def test_passes_of_ltx_video(graph, host_files, runs):
    size = size_for("ltxv")
    verbs = {**canvas(13.0, **size), **picture(**size), **place(), **rollout(latent="placed")}
    prompt = vae_first({**verbs, **sample("plan", steps=1, model=("unet", 0)), **frames()}) | begin(host_files, "ltxv")
    still, made, images = graph.run(prompt, ["picture", 0], ["sample", 0], ["frames", 0])
    assert len(runs[1]) == 3 and made["samples"].isfinite().all() and torch.equal(images[0], still[0])
    text = "\n".join(graph.history["outputs"]["sample"]["text"])
    assert "rollout: 3 passes, at most 6 of 14 cells" in text and "one pass" not in text
    for p, cells, whole in runs[1]:
        assert torch.equal(whole[:, :, p.seen_at], cells[:, :, p.seen_at].to(whole))


def test_a_step_distilled_lora(graph, host_files, runs):
    """Without guidance a step is one forward."""
    import folder_paths

    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(exist_ok=True, parents=True)
    name, draw = "diffusion_model.blocks.0.ffn.0", torch.Generator().manual_seed(1)
    ends = {f"{name}.lora_A.weight": torch.randn(1, 128, generator=draw), f"{name}.lora_B.weight": torch.randn(128, 1, generator=draw)}
    save_file(ends, folder / "distilled.safetensors")
    folder_paths.filename_list_cache.pop("loras", None)
    lora = {"lora": node("LoraLoaderModelOnly", model=["unet", 0], lora_name="distilled.safetensors", strength_model=1.0)}
    verbs = {**clip(count=9, width=32, height=32), **extend(), **frames()}
    made = []
    for model in ("lora", "unet"):
        runs[0].clear()
        prompt = vae_first({**verbs, **lora, **sample(steps=4, guidance=1.0, model=(model, 0))}) | begin(host_files, "wan_t2v")
        given, latent, images = graph.run(prompt, ["clip", 0], ["sample", 0], ["frames", 0])
        assert len(runs[0]) == 4 and torch.equal(images[:9], given)
        made.append(latent["samples"])
    assert (made[0] - made[1]).abs().max() > 1e-3


def test_rates_of_the_host_models(graph, host_files):
    """Wan's positions follow the canvas' rate (16 and 24 are native), LTX-Video is told the rate."""
    import comfy.model_base

    from sora_pack.nodes.given import given_of
    from sora_pack.nodes.host_models import conditions
    from sora_pack.nodes.run import prepare
    from sora_pack.nodes.sample_video import CellNoise

    ltx = comfy.model_base.LTXV | comfy.model_base.LTXAV
    for name, scale in (("wan_t2v", 2.0), ("wan22_5b", 3.0), ("hunyuan", None), ("ltxv", None), ("ltx2", None)):
        side = 64 if STRIDES[name].space == 32 else 32
        prompt = vae_first({**clip(width=side, height=side), **extend()}) | begin(host_files, name)
        model, latent = graph.run(prompt, ["unet", 0], ["canvas", 0])
        run = prepare(model, latent, CellNoise(0, given_of(latent)))
        options = run.model.model_options["transformer_options"]
        assert options.get("rope_options", {}).get("scale_t") == scale
        told = conditions(model, given_of(latent), run, dict).get("frame_rate")
        assert told == (8.0 if isinstance(model.model, ltx) else None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wan22_5b", "ltxv", "hunyuan"])
def test_the_hosts_own_vaes(graph, name):
    """Of full size, because they come in no other: opened by the host, encoded and decoded as the nodes do it."""
    import comfy.sd

    from sora_pack.nodes.host_vae import VideoCoder

    torch.manual_seed(0)
    with torch.inference_mode():
        coder, strides = VideoCoder(comfy.sd.VAE(sd=host_vae_state(name))), STRIDES[name]
        assert coder.strides == strides
        frames, side = strides.frames(3), 2 * strides.space
        latents = coder.encode(torch.rand(1, 3, frames, side, side) * 2 - 1)
        assert latents.shape == (1, strides.channels, 3, 2, 2)
        decoded = torch.cat(list(coder.decode_chunks(latents, 0)))
    assert decoded.shape == (frames, side, side, 3) and 0 <= decoded.min() < decoded.max() <= 1
