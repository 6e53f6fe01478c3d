"""Every verb on the host's own video models, by random weights in the public key format, opened by the host's loaders."""

import pytest
import torch

from sora_pack.tests.host.executor import refusal
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
    picture,
    place,
    remix,
    sample,
    verb,
)
from sora_pack.tests.host.tiny_host_models import STRIDES

pytestmark = pytest.mark.usefixtures("clip_node", "host_sources")

SOLVERS = {"sora": sample, "ksampler": ksample, "custom": custom_sample}


def begin(host_files, name) -> dict:
    """MODEL, VAE and words of a host model, under the names that the other prompts use."""
    return {
        "unet": node("UNETLoader", unet_name=host_files[name], weight_dtype="default"),
        "load": node("TinyVAE", name=name),
        "words": node("Rows", name=name),
        "sigmas": node("BasicScheduler", model=["unet", 0], scheduler="simple", steps=2, denoise=1.0),
    }


def vae_first(prompt: dict) -> dict:
    """The prompts take the VAE from output 2 of the loader; here it is output 0."""
    for entry in prompt.values():
        entry["inputs"] = {name: ["load", 0] if value == ["load", 2] else value for name, value in entry["inputs"].items()}
    return prompt


VERBS = {
    "forward": (extend(seconds=1.0), [(0, slice(0, 26))]),
    "backward": (extend("backward", 1.0), [(-26, slice(0, 26))]),
    "fill": (fill(1.0, 2.0), [(0, slice(0, 7)), (-9, slice(17, 26))]),
    "loop": (verb("SoraLoop", seconds=1.0), [(0, slice(0, 26))]),
}


@pytest.mark.parametrize("how", SOLVERS)
@pytest.mark.parametrize("name", STRIDES)
def test_given_frames_and_known_cells_come_back(graph, host_files, name, how):
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


def test_a_vae_of_other_latents_is_refused(graph, host_files):
    """VAEs with 16 channels and these strides are many; a canvas knows its own."""
    from types import SimpleNamespace

    from sora_pack.nodes.host_models import same_vae
    from sora_pack.nodes.host_vae import HostVAE
    from sora_pack.sora_core.config import VAEConfig

    begun = vae_first({**canvas(width=32), **picture(width=32)}) | begin(host_files, "wan_t2v") | {"other": load()["load"]}
    placed = place()
    placed["placed"]["inputs"]["vae"] = ["other", 2]
    for verbs in (placed, decode("canvas", vae=("other", 2)), frames("canvas", vae=("other", 2))):
        (name,) = verbs
        assert "this is not the VAE that the canvas was made with: connect the same one" in refusal(graph, begun | verbs, [name, 0])
    wide, narrow, none = (SimpleNamespace(first_stage_model=HostVAE(VAEConfig(dim=dim), torch.float32)) for dim in (16, 8, 16))
    assert same_vae(wide, none) and same_vae(wide, None) and not same_vae(wide, narrow)


def test_image_to_video_sees_what_is_given(graph, host_files, monkeypatch):
    """Beside the noise it gets the given frames on grey, encoded, and a mask of frames; a picture within a cell too."""
    import comfy.model_base

    seen, inner = [], comfy.model_base.WAN21.concat_cond
    monkeypatch.setattr(comfy.model_base.WAN21, "concat_cond", lambda self, **more: (seen.append(inner(self, **more)), seen[-1])[1])
    prompt = {**clip(count=7, width=32, height=32), **fill(0.375, 0.75), **clip("picture", 1), **sample(steps=1, model=("unet", 0))}
    for name in ("wan_i2v", "wan22_i2v"):
        seen.clear()
        graph.run(vae_first(dict(prompt)) | begin(host_files, name), ["sample", 0])
        mask, cells = seen[0][:, :4], seen[0][:, 4:]
        latent = graph.run(vae_first(dict(prompt)) | begin(host_files, name), ["canvas", 0])
        spans = latent["sora"].canvas.spans
        assert spans and cells.shape[1] == 16
        expected = (latent["noise_mask"] == 0).float().expand(1, 4, -1, 4, 4)
        for guide in latent["sora"].canvas.guides:
            expected = expected.clone()
            expected[:, (guide.frame - 1) % 4, (guide.frame + 3) // 4] = 1
        assert torch.equal(mask.cpu(), expected)


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


def test_rates_of_the_host_models(graph, host_files):
    """Wan's positions follow the canvas' rate (16 and 24 are native), LTX-Video is told the rate."""
    import comfy.model_base

    from sora_pack.nodes.canvas import given_of
    from sora_pack.nodes.host_models import conditions
    from sora_pack.nodes.sample_video import CellNoise, prepare

    for name, scale in (("wan_t2v", 2.0), ("wan22_5b", 3.0), ("hunyuan", None), ("ltxv", None)):
        side = 64 if STRIDES[name].space == 32 else 32
        prompt = vae_first({**clip(width=side, height=side), **extend()}) | begin(host_files, name)
        model, latent = graph.run(prompt, ["unet", 0], ["canvas", 0])
        run = prepare(model, latent, CellNoise(0, given_of(latent)))
        options = run.model.model_options["transformer_options"]
        assert options.get("rope_options", {}).get("scale_t") == scale
        told = conditions(model, given_of(latent)).get("frame_rate")
        assert told == (8.0 if isinstance(model.model, comfy.model_base.LTXV) else None)
