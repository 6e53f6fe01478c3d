"""Sampling through the host's real executor: known cells stay exactly, ours and the host's samplers agree, cancelling is clean."""

import gc
import itertools
import re
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from sora_pack.sora_core.autoencoder import normalise, pixels_of
from sora_pack.sora_core.checkpoint import load_vae, model_header, read_transformer
from sora_pack.sora_core.pipeline import SHIPPED
from sora_pack.sora_core.video_file import video_facts
from sora_pack.sora_core.world import render, sample_scene
from sora_pack.tests.host.executor import Failed, refusal
from sora_pack.tests.host.prompts import canvas, custom_sample, decode, frames, ksample, load, node, picture, place, sample, save, words

SOLVERS = ["euler", "uni_pc", "dpmpp_2m_sde", "euler_ancestral", "lcm", "er_sde", "heun", "res_multistep"]
BEGIN = {**load(), **words(), **canvas(), **picture()}


@pytest.fixture
def model(graph):
    """The MODEL of the tiny file, as the prompts get it."""
    return graph.run(load(), ["load", 0])


@pytest.fixture
def forwards(model, monkeypatch):
    """A list that gets (batch, timestep) of every forward of the model."""
    calls, network = [], model.model.diffusion_model
    inner = type(network)._forward

    def counted(self, x, timestep, *args, **kwargs):
        calls.append((x.shape, timestep))
        return inner(self, x, timestep, *args, **kwargs)

    monkeypatch.setattr(type(network), "_forward", counted)
    return calls


# -- known cells ---------------------------------------------------------------------------------------------------------------------


OURS = [("sora", "sora_ancestral")]


@pytest.mark.parametrize("how, solver", OURS + list(itertools.product(["sora", "ksampler", "custom"], SOLVERS)))
def test_known_cells_come_back_exactly(graph, how, solver):
    run = {
        "sora": lambda: sample("placed", sampler_name=solver),
        "ksampler": lambda: ksample("placed", sampler_name=solver),
        "custom": lambda: custom_sample("placed", sampler_name=solver),
    }[how]()
    placed, made = graph.run({**BEGIN, **place(), **run}, ["placed", 0], ["sample", 0])
    assert torch.equal(made["samples"][:, :, 0], placed["samples"][:, :, 0])
    assert made["samples"].isfinite().all()
    assert (made["samples"][:, :, 1:] - placed["samples"][:, :, 1:]).abs().max() > 0.1


def test_known_cells_have_level_zero(graph, forwards):
    graph.run({**BEGIN, **place(), **ksample("placed", seed=99)}, ["sample", 0])
    for _, timestep in forwards:
        assert timestep.shape[1] == 3 and not timestep[:, 0].any() and (timestep[:, 1:] > 0).all()


class Regions:
    """Noise masks [1, 1, F, h, w], 1 where it is made."""

    def aligned():
        mask = torch.zeros(1, 1, 3, 4, 8)
        mask[..., 2:, 2:6] = 1
        return mask

    def across_tokens():
        mask = torch.ones(1, 1, 3, 4, 8)
        mask[:, :, 1:, 1:2, 3:7] = 0
        return mask


@pytest.mark.parametrize("region", [Regions.aligned, Regions.across_tokens])
@pytest.mark.parametrize("how", ["sora", "ksampler"])
def test_masks_in_space(graph, forwards, region, how):
    mask = region()
    graph.nodes.NODE_CLASS_MAPPINGS["Masked"] = masked_latent(mask)
    latent = {"masked": node("Masked", latent=["canvas", 0])}
    run = sample("masked", seed=3) if how == "sora" else ksample("masked", seed=3)
    before, made = graph.run({**BEGIN, **latent, **run}, ["masked", 0], ["sample", 0])
    kept = (mask == 0).expand_as(made["samples"])
    assert torch.equal(made["samples"][kept], before["samples"][kept])
    assert (made["samples"][~kept] != before["samples"][~kept]).float().mean() > 0.99
    shape, timestep = forwards[0]
    assert timestep.shape[1] == 3 * 2 * 4  # a level for every token
    if region is Regions.aligned:
        assert (timestep.view(-1, 3, 2, 4) > 0)[:, :, 1, 1:3].all() and not timestep.view(-1, 3, 2, 4)[:, :, 0].any()
    else:
        assert (timestep > 0).all(), "no token is known whole"


def masked_latent(mask):
    from comfy_api.latest import io

    class Masked(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Masked", category="test", inputs=[io.Latent.Input("latent")], outputs=[io.Latent.Output()])

        @classmethod
        def fingerprint_inputs(cls, **inputs):
            return float("nan")

        @classmethod
        def execute(cls, latent):
            samples = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(5))
            return io.NodeOutput({"samples": samples, "noise_mask": mask})

    return Masked


def test_mixed_tokens_see_the_noise_of_their_level(pack):
    from sora_pack.nodes.host import KEY, renoise_mixed_tokens

    mask = Regions.across_tokens()
    noise, latent, x = torch.randn(3, 1, 16, 3, 4, 8).unbind(0)
    x = torch.where(mask == 0, latent, x)
    sigma = torch.tensor([0.7, 0.7])
    both = torch.cat([x, x])
    out = renoise_mixed_tokens(both, sigma, {KEY: {"mask": mask, "noise": noise, "latent": latent}})
    known = (mask == 0).expand_as(x)
    assert torch.allclose(out[1:][known], (0.7 * noise + 0.3 * latent)[known])
    assert torch.equal(out[:1][~known], x[~known])
    assert renoise_mixed_tokens(both, sigma, {}) is both


# -- positions, guides, rates --------------------------------------------------------------------------------------------------------


def test_guides_stand_behind_the_lattice_and_are_clean(graph, forwards, model):
    seen = []
    network = model.model.diffusion_model
    handle = network.blocks[0].register_forward_pre_hook(lambda *args: seen.append(1))
    made = graph.run(
        {**BEGIN, **place(second=0.5, name="one"), **place(second=1.0, latent="one", name="two"), **sample("two")}, ["sample", 0]
    )
    handle.remove()
    shape, timestep = forwards[0]
    assert shape[2] == 5 and not timestep[:, 3:].any() and (timestep[:, :3] > 0).all()
    assert made["samples"].shape[2] == 3 and seen


def test_positions_follow_the_rate(graph, model, monkeypatch):
    seen = []
    network = type(model.model.diffusion_model)
    inner = network._rotary
    monkeypatch.setattr(network, "_rotary", lambda self, positions, *rest: (seen.append(positions), inner(self, positions, *rest))[1])
    slow = {**BEGIN, **canvas(seconds=2.0, fps=4.0), **place(second=0.5), **sample("placed", seed=12)}
    graph.run(slow, ["sample", 0])
    assert seen[0].tolist() == [0, 2, 4, 1]  # cells twice as far apart as at 8 frames a second; the guide is frame 2
    seen.clear()
    graph.run({**BEGIN, **ksample(seed=12)}, ["sample", 0])
    assert seen[0] is None  # 0, 1, 2, ...


# -- noise ---------------------------------------------------------------------------------------------------------------------------


def test_noise_of_a_moment_does_not_depend_on_the_length(graph):
    def noise(seconds, batch=1):
        prompt = {**load(), **canvas(seconds=seconds, batch=batch), "noise": node("SoraNoise", latent=["canvas", 0], seed=4)}
        latent, made = graph.run(prompt, ["canvas", 0], ["noise", 0])
        return made.generate_noise(latent)

    short, long, two = noise(1.0), noise(3.0), noise(1.0, batch=2)
    assert torch.equal(long[:, :, :3], short) and torch.equal(two[:1], short) and not torch.equal(two[1], two[0])
    assert abs(long.std().item() - 1) < 0.1


def test_noise_for_a_latent_of_the_host(graph):
    latent = {"canvas": node("EmptyHunyuanLatentVideo", width=64, height=32, length=9, batch_size=1)}
    made = graph.run({**load(), **words(), **latent, **sample()}, ["sample", 0])
    assert made["samples"].shape == (1, 16, 3, 4, 8)


# -- ours and the host's -------------------------------------------------------------------------------------------------------------


def test_sora_sampler_is_the_hosts_sampler(graph):
    prompt = {**BEGIN, **place()}
    ours = graph.run({**prompt, **sample("placed", negative=["words", 0])}, ["sample", 0])
    theirs = graph.run({**prompt, **custom_sample("placed")}, ["sample", 0])
    assert torch.equal(ours["samples"], theirs["samples"])


def test_optional_inputs_take_the_place_of_fields(graph):
    fields = graph.run({**BEGIN, **sample(seed=7, sampler_name="heun")}, ["sample", 0])
    parts = custom_sample(sampler_name="heun")
    del parts["guider"], parts["sample"]
    links = {"sigmas": ["sigmas", 0], "sampler": ["solver", 0], "noise": ["noise", 0]}
    linked = graph.run({**BEGIN, **parts, **sample(seed=123, steps=9, **links)}, ["sample", 0])
    assert torch.equal(fields["samples"], linked["samples"])


@pytest.mark.parametrize("how, name, height, steps", [("custom", "tiny", 32, 3), ("sora", "tiny", 32, 3), ("custom", "sora_mini", 64, 2)])
def test_host_opens_our_files_and_makes_the_same_video(graph, how, name, height, steps):
    """The tiny files, and those that ship."""
    hosts = {
        "unet": node("UNETLoader", unet_name=f"{name}.safetensors", weight_dtype="default"),
        "vae": node("VAELoader", vae_name=f"{name}_vae.safetensors"),
    }
    levels = sigmas() if how == "sora" else {}
    run = partial(custom_sample, steps=steps) if how == "custom" else partial(sample, sigmas=["sigmas", 0])
    prompt = {**load(f"{name}.safetensors"), **words(), **canvas(seconds=2.0, height=height), **levels}
    ours = graph.run({**prompt, **run(), **frames()}, ["frames", 0])
    theirs = {"frames": node("VAEDecode", samples=["sample", 0], vae=["vae", 0])}
    theirs = graph.run({**prompt, **hosts, **run(model=("unet", 0)), **theirs}, ["frames", 0])
    model, vae = graph.run(hosts, ["unet", 0], ["vae", 0])
    assert type(model.model.diffusion_model).__module__ == "comfy.ldm.wan.model"
    assert type(vae.first_stage_model).__module__ == "comfy.ldm.wan.vae"
    difference = (ours - theirs).abs().max() * 255
    assert difference < 2, f"largest pixel difference {difference:.3f} / 255"
    assert ours.std() > 0.01


@pytest.mark.parametrize("name, solver", [("euler", "euler"), ("sora_ancestral", "ancestral")])
@pytest.mark.parametrize("second", [None, 0.0])
def test_core_loop_makes_the_same(graph, second, name, solver):
    """The core's own loop and the node agree: words, noise, positions, schedule, known cells, guidance."""
    import folder_paths

    from sora_pack.nodes.sample_video import SoraSampler
    from sora_pack.sora_core.autoencoder import denormalise, normalise
    from sora_pack.sora_core.checkpoint import load_transformer
    from sora_pack.sora_core.flow import schedule
    from sora_pack.sora_core.generate import generate

    core, header = load_transformer(folder_paths.get_full_path("diffusion_models", "tiny.safetensors"))
    prompt = {**BEGIN, **canvas(seconds=2.0, fps=4.0), **(place(second=second) if second is not None else {})}
    model, rows, latent = graph.run(prompt, ["load", 0], ["words", 0], ["canvas" if second is None else "placed", 0])
    sigmas = torch.tensor(schedule(4, header.shift))
    ours = SoraSampler.execute(model, rows, latent, 7, 4, 3.0, name, "simple", 1.0, sigmas=sigmas).result[0]["samples"]
    mask = latent.get("noise_mask")
    known = None if mask is None else normalise(latent["samples"])
    settings = {"steps": 4, "guidance": 3.0, "seed": 7, "solver": solver}
    theirs = generate(core, header, rows[0][0], latent["sora"].canvas.shape, **settings, known=known, mask=mask)
    difference = (ours - denormalise(theirs)).abs().max()
    assert difference < 1e-3, f"largest difference of latents {difference:.2e}"


def test_motion_is_a_factor_of_what_suits_the_model(graph):
    import folder_paths

    from sora_pack.nodes.sample_video import SoraSampler
    from sora_pack.sora_core.autoencoder import denormalise
    from sora_pack.sora_core.checkpoint import load_transformer
    from sora_pack.sora_core.flow import schedule
    from sora_pack.sora_core.generate import generate

    core, header = load_transformer(folder_paths.get_full_path("diffusion_models", "tiny.safetensors"))
    model, rows, latent = graph.run({**BEGIN, **canvas(seconds=2.0, fps=4.0)}, ["load", 0], ["words", 0], ["canvas", 0])
    sigmas = torch.tensor(schedule(4, header.shift))

    def made(model, motion):
        done = SoraSampler.execute(model, rows, latent, 7, 4, 3.0, "euler", "simple", 1.0, sigmas=sigmas, motion=motion)
        return done.result[0]["samples"], str(done.ui and done.ui.as_dict())

    shape, settings = latent["sora"].canvas.shape, {"steps": 4, "guidance": 3.0, "seed": 7, "solver": "euler"}
    videos = {motion: made(model, motion)[0] for motion in (0.5, 1.0, 1.5)}
    for motion, video in videos.items():
        theirs = generate(core, replace(header, motion=header.motion * motion), rows[0][0], shape, **settings)
        assert (video - denormalise(theirs)).abs().max() < 1e-3, motion
    assert (videos[1.0] - videos[1.5]).abs().max() > 3e-3
    # A patch that guides in a way of its own stays, and the node says that motion does nothing.
    patched = model.clone()
    patched.set_model_sampler_cfg_function(lambda args: args["cond"])
    (one, note), (other, said) = made(patched, 1.0), made(patched, 2.0)
    assert torch.equal(one, other) and all("such as RescaleCFG: motion" in words for words in (note, said)), "the model's own, too"
    assert "motion" not in made(model, 1.0)[1] + made(patched, 1 / header.motion)[1]


def test_guided_motion_counts_the_same_at_the_same_noise_whatever_its_scale(graph, host):
    """A model to whose latents noise is added, up to any sigma, beside one that mixes the two."""
    import comfy.model_sampling

    from sora_pack.nodes.host import MotionGuidance

    towards = 0.3 * torch.randn(1, 4, 5, 2, 2, generator=torch.Generator().manual_seed(0))

    def gain(kind, sigma, share):
        args = {"cond": share * towards, "uncond": torch.zeros_like(towards), "cond_scale": 2.0, "sigma": torch.tensor([sigma])}
        model = SimpleNamespace(model_sampling=object.__new__(kind))
        args |= {"input": towards, "model_options": {}, "model": model, "input_cond": None}
        return MotionGuidance(2.3)(args) / share

    for share in (0.5, 0.9):
        flow = gain(comfy.model_sampling.CONST, share, share)
        assert torch.allclose(flow, gain(comfy.model_sampling.EDM, share / (1 - share), share), atol=1e-5)
        assert not torch.allclose(flow, 2 * towards, atol=1e-3)


@pytest.mark.parametrize(
    "sigmas, sampler_name, says",
    [
        ([14.6, 1.0, 0.0], "euler", "sigmas: 14.6 is no noise level of this MODEL: use 'BasicScheduler'"),
        ([float("nan"), 0.0], "euler", "sigmas: nan is no noise level"),
        ([0.5, 0.8, 0.0], "sora_ancestral", "sigmas: they rise, and sora_ancestral only takes noise off"),
    ],
)
def test_levels_that_are_none_of_the_model_are_refused(graph, sigmas, sampler_name, says):
    from sora_pack.nodes.sample_video import SoraSampler

    given = graph.run({**BEGIN, **place()}, ["load", 0], ["words", 0], ["placed", 0])
    with pytest.raises(ValueError, match=says):
        SoraSampler.execute(*given, 7, 4, 3.0, sampler_name, "simple", 1.0, sigmas=torch.tensor(sigmas))


@pytest.mark.parametrize("sigmas", [[], [1.0]])
def test_no_step_makes_nothing(graph, sigmas):
    from sora_pack.nodes.sample_video import SoraSampler

    model, rows, latent = graph.run({**BEGIN, **place()}, ["load", 0], ["words", 0], ["placed", 0])
    out = SoraSampler.execute(model, rows, latent, 7, 4, 3.0, "sora_ancestral", "simple", 1.0, sigmas=torch.tensor(sigmas))
    assert torch.equal(out.result[0]["samples"], latent["samples"]) and "sigmas hold no step" in str(out.ui.as_dict())


def test_a_run_that_fails_leaves_no_model_behind(graph, monkeypatch):
    """The host forgets a loaded MODEL whose patcher is gone only where it finds the parent of it."""
    import comfy.model_management

    from sora_pack.nodes import sample_video

    given = graph.run({**BEGIN, **place()}, ["load", 0], ["words", 0], ["placed", 0])

    def fail(*_):
        raise RuntimeError("full disk")

    monkeypatch.setattr(sample_video, "progress", lambda *_: fail)
    with pytest.raises(RuntimeError, match="full disk"):
        sample_video.SoraSampler.execute(*given, 7, 2, 3.0, "sora_ancestral", "simple", 1.0)
    gc.collect()
    assert not any(loaded.is_dead() for loaded in comfy.model_management.current_loaded_models)


def test_our_decoder_streams_the_hosts_vae(graph):
    hosts = {"vae": node("VAELoader", vae_name="tiny_vae.safetensors")}
    prompt = {**load(), **words(), **canvas(seconds=1.5), **sample(), **hosts}
    streamed, whole = graph.run(
        {**prompt, **frames(vae=("vae", 0)), "whole": node("VAEDecode", samples=["sample", 0], vae=["vae", 0])}, ["frames", 0], ["whole", 0]
    )
    assert torch.allclose(streamed, whole, atol=1e-5)


@pytest.mark.parametrize("whose", ["ours", "host"])
def test_a_full_device_does_not_lose_the_video(graph, monkeypatch, caplog, whose):
    """Out of memory after some frames: they stay, the rest comes in tiles (here one, so all is as it would have been)."""
    import comfy.model_management

    from sora_pack.nodes import host_vae

    hosts = {"vae": node("VAELoader", vae_name="tiny_vae.safetensors")}
    prompt = {**load(), **words(), **canvas(seconds=3.5), **sample(), **hosts}
    vae = ("vae", 0) if whose == "host" else ("load", 2)
    whole = graph.run({**prompt, "whole": node("VAEDecode", samples=["sample", 0], vae=list(vae))}, ["whole", 0])
    owner, name = (host_vae, "_wan_chunks") if whose == "host" else (host_vae.HostVAE, "decode_chunks")
    inner, calls = getattr(owner, name), []

    def full(*args):
        calls.append(1)
        for number, part in enumerate(inner(*args)):
            if len(calls) == 1 and number == 1:
                raise comfy.model_management.OOM_EXCEPTION("no memory is left")
            yield part

    monkeypatch.setattr(owner, name, full)
    streamed = graph.run({**prompt, **frames(vae=vae)}, ["frames", 0])
    assert torch.allclose(streamed, whole, atol=1e-5) and "decoded in tiles" in caplog.text


@pytest.mark.parametrize("second", [0.0, 0.7])
def test_pictures_on_the_hosts_model_of_our_file(graph, second):
    """The host's WanModel does not know cells of other levels by itself, nor guides; our sampler teaches it what it can."""
    hosts = {"unet": node("UNETLoader", unet_name="tiny.safetensors", weight_dtype="default")}
    prompt = {**BEGIN, **hosts, **place(second=second), **sample("placed", model=("unet", 0))}
    placed, made = graph.run(prompt, ["placed", 0], ["sample", 0])
    if second == 0:
        assert torch.equal(made["samples"][:, :, 0], placed["samples"][:, :, 0])
        ours = graph.run({**BEGIN, **place(second=second), **sample("placed", sigmas=["sigmas", 0]), **sigmas()}, ["sample", 0])
        theirs = graph.run({**prompt, **sample("placed", model=("unet", 0), sigmas=["sigmas", 0]), **sigmas()}, ["sample", 0])
        assert (ours["samples"] - theirs["samples"]).abs().max() < 1e-3
    else:
        held = placed["sora"].held[0]
        assert torch.equal(made["samples"][:, :, 2], held[:, :, 0])


def sigmas():
    return {"sigmas": node("BasicScheduler", model=["load", 0], scheduler="simple", steps=3, denoise=1.0)}


def test_public_model_without_header(graph, host):
    """A Wan 2.1 file as the public ones are: no header, one level for all cells. Known cells hold, later pictures are held cells."""
    import folder_paths

    folder = Path(folder_paths.get_full_path("diffusion_models", "tiny.safetensors")).parent
    save_file(read_transformer(folder / "tiny.safetensors")[0], folder / "public.safetensors")
    folder_paths.filename_list_cache.pop("diffusion_models", None)
    unet = {"unet": node("UNETLoader", unet_name="public.safetensors", weight_dtype="default")}
    chain = {**place(), **place(second=0.7, latent="placed", name="two")}
    placed, made = graph.run(
        {**BEGIN, **unet, **chain, **sample("two", model=("unet", 0), sampler_name="uni_pc")}, ["two", 0], ["sample", 0]
    )
    (folder / "public.safetensors").unlink()
    folder_paths.filename_list_cache.pop("diffusion_models", None)
    assert torch.equal(made["samples"][:, :, 0], placed["samples"][:, :, 0])
    assert torch.equal(made["samples"][:, :, 2], placed["sora"].held[0][:, :, 0])


def test_a_picture_on_a_made_video(graph):
    """Placing a picture on what a sampler made keeps the rest of it, and a second run below full noise goes on from there."""
    prompt = {**BEGIN, **sample(), **place(latent="sample"), "again": sample("placed", denoise=0.4, seed=3)["sample"]}
    first, placed, again = graph.run(prompt, ["sample", 0], ["placed", 0], ["again", 0])
    assert torch.equal(first["samples"][:, :, 1:], placed["samples"][:, :, 1:])
    assert not torch.equal(first["samples"][:, :, 0], placed["samples"][:, :, 0])
    assert torch.equal(again["samples"][:, :, 0], placed["samples"][:, :, 0])


@pytest.fixture
def video_noise_model(graph):
    """A file of ours that says it was trained with one noise level for a whole video, as public files are."""
    import folder_paths

    from sora_pack.tests.tiny_model import write_tiny_model

    path = write_tiny_model(Path(folder_paths.models_dir), "plain", noise="video")
    folder_paths.filename_list_cache.pop("diffusion_models", None)
    yield load(path.name)
    path.unlink()
    folder_paths.filename_list_cache.pop("diffusion_models", None)


@pytest.mark.parametrize("run", [sample, ksample])
def test_model_with_one_noise_level(graph, video_noise_model, forwards, run):
    chain = {**place(), **place(second=0.7, latent="placed", name="two")}
    placed, made = graph.run({**BEGIN, **video_noise_model, **chain, **run("two", seed=41)}, ["two", 0], ["sample", 0])
    assert all(timestep.ndim == 1 for _, timestep in forwards), "one level for all cells"
    assert all(shape[2] == 3 for shape, _ in forwards), "no guides"
    assert torch.equal(made["samples"][:, :, 0], placed["samples"][:, :, 0])
    if run is sample:
        assert torch.equal(made["samples"][:, :, 2], placed["sora"].held[0][:, :, 0])


# -- guidance ------------------------------------------------------------------------------------------------------------------------


def test_guidance_one_is_one_forward_a_step(graph, forwards):
    graph.run({**BEGIN, **sample(guidance=1.0, steps=4, seed=31)}, ["sample", 0])
    assert [shape[0] for shape, _ in forwards] == [1] * 4
    forwards.clear()
    graph.run({**BEGIN, **sample(guidance=3.0, steps=4, seed=31)}, ["sample", 0])
    assert sum(shape[0] for shape, _ in forwards) == 8


def test_no_negative_is_the_empty_prompt(graph):
    empty = {"empty": node("SoraPrompt", clip=["load", 1], text="")}
    left_open = graph.run({**BEGIN, **sample()}, ["sample", 0])
    given = graph.run({**BEGIN, **empty, **sample(negative=["empty", 0])}, ["sample", 0])
    assert torch.equal(left_open["samples"], given["samples"])


def test_batch_is_made_one_by_one_the_same(graph):
    one = graph.run({**BEGIN, **sample()}, ["sample", 0])
    two = graph.run({**BEGIN, **canvas(batch=2), **sample()}, ["sample", 0])
    assert torch.allclose(two["samples"][:1], one["samples"], atol=1e-4)


def test_denoise_below_one_keeps_some(graph):
    whole = {**BEGIN, **sample()}
    whole["again"] = {**sample("sample", denoise=0.3, seed=8)["sample"]}
    first, again, far = graph.run(
        {**whole, "far": sample("sample", denoise=1.0, seed=8)["sample"]}, ["sample", 0], ["again", 0], ["far", 0]
    )
    assert (again["samples"] - first["samples"]).std() < (far["samples"] - first["samples"]).std()


# -- the host's other nodes ----------------------------------------------------------------------------------------------------------


def lora_file(graph, names):
    """A LoRA of rank 1 for some weights, under models/loras; returns its name."""
    import folder_paths

    torch.manual_seed(1)
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(exist_ok=True, parents=True)
    tensors = {}
    for name, (out, into) in names.items():
        tensors |= {f"{name}.lora_A.weight": torch.randn(1, into) * 0.3, f"{name}.lora_B.weight": torch.randn(out, 1) * 0.3}
    save_file(tensors, folder / "tiny_lora.safetensors")
    folder_paths.filename_list_cache.pop("loras", None)
    return "tiny_lora.safetensors"


def lora_loader(graph):
    """The host's LoRA loader behind the model, with a LoRA for MODEL and CLIP."""
    name = lora_file(graph, {"diffusion_model.blocks.0.ffn.0": (256, 128), "text_encoders.sora.transformer.blocks.0.out": (64, 64)})
    return {"lora": node("LoraLoader", model=["load", 0], clip=["load", 1], lora_name=name, strength_model=1.0, strength_clip=1.0)}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("run", [sample, ksample, custom_sample])
def test_every_sampler_with_and_without_lora_into_every_decoder(graph, run, lora):
    import folder_paths

    plain = graph.run({**BEGIN, **run(steps=2)}, ["sample", 0])
    source, latent = "lora" if lora else "load", {"samples": ["sample", 0], "vae": ["load", 2]}
    tiles = {"tile_size": 512, "overlap": 64, "temporal_size": 16, "temporal_overlap": 4}
    prompt = {
        **BEGIN,
        **(lora_loader(graph) if lora else {}),
        "words": node("SoraPrompt", clip=[source, 1], text="a red ball"),
        **run(model=(source, 0), steps=2),
        **frames(),
        **decode(),
        **save(),
        "pictures": node("SaveImage", images=["frames", 0], filename_prefix="frame"),
        "whole": node("VAEDecode", **latent),
        "tiled": node("VAEDecodeTiled", **latent, **tiles),
    }
    made, ours, whole, tiled = graph.run(prompt, *([name, 0] for name in ("sample", "frames", "whole", "tiled")))
    assert torch.equal(made["samples"], plain["samples"]) is not lora
    assert ours.shape == (9, 32, 64, 3) and ours.std() > 0.01
    assert torch.allclose(ours, whole, atol=1e-6) and torch.allclose(ours, tiled, atol=1e-5)
    outputs, folder = graph.history["outputs"], Path(folder_paths.get_output_directory())
    assert all((folder / item["filename"]).is_file() for item in outputs["pictures"]["images"])
    (file,) = outputs["save"]["images"]
    assert len(outputs["pictures"]["images"]) == video_facts(folder / file["subfolder"] / file["filename"]).frames == 9


def test_lora_loader_reaches_model_and_words(graph):
    lora = lora_loader(graph)
    plain, rows = graph.run({**BEGIN, **sample()}, ["sample", 0], ["words", 0])
    patched = {**BEGIN, **lora, "words": node("SoraPrompt", clip=["lora", 1], text="a red ball"), **sample(model=("lora", 0))}
    made, patched_rows = graph.run(patched, ["sample", 0], ["words", 0])
    assert (made["samples"] - plain["samples"]).abs().max() > 1e-3
    assert (patched_rows[0][0] - rows[0][0]).abs().max() > 1e-3
    again = graph.run({**BEGIN, **sample(seed=7)}, ["sample", 0])
    assert torch.equal(again["samples"], plain["samples"]), "the LoRA left nothing behind"


def test_lora_of_our_trainer_loads_whole(graph, caplog):
    """Every adapter of training/lora.py finds its layer in the host, in MODEL and CLIP."""
    import folder_paths

    from sora_pack.sora_core.config import TextConfig, preset
    from sora_pack.sora_core.training.lora import Adapter
    from sora_pack.sora_core.training.transformer import Student

    adapter = Adapter(Student(preset("tiny"), TextConfig(dim=64, num_layers=1, num_heads=1)), 2)
    adapter.save(Path(folder_paths.get_folder_paths("loras")[0]) / "trained_lora.safetensors")
    folder_paths.filename_list_cache.pop("loras", None)
    strengths = {"strength_model": 1.0, "strength_clip": 1.0}
    loader = node("LoraLoader", model=["load", 0], clip=["load", 1], lora_name="trained_lora.safetensors", **strengths)
    model, clip = graph.run({**BEGIN, "lora": loader}, ["lora", 0], ["lora", 1])
    assert len(model.patches) + len(clip.patcher.patches) == len(adapter.names) == 24
    assert "lora key not loaded" not in caplog.text


def test_easy_cache(graph, caplog):
    """The host reuses what the model said where it changes little: steps are left out, as many and at the same cost as by KSampler."""
    caplog.set_level("INFO")
    settings = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    cached, skipped, away = {"cached": node("EasyCache", model=["load", 0], **settings)}, [], []
    for run in (sample, ksample):
        plain = graph.run({**BEGIN, **run(steps=8)}, ["sample", 0])["samples"]
        made = graph.run({**BEGIN, **cached, **run(model=("cached", 0), steps=8)}, ["sample", 0])["samples"]
        skipped.append(int(re.findall(r"skipped (\d+)/8 steps", caplog.text)[-1]))
        away.append(((made - plain).norm() / plain.norm()).item())
    assert skipped[0] == skipped[1] > 0 and away[0] == pytest.approx(away[1], rel=0.05), (skipped, away)


@pytest.mark.parametrize("run", [sample, ksample])
def test_context_windows(graph, run):
    """The host shows the model a window of cells at a time; positions and noise levels follow."""
    settings = {
        **{"context_length": 3, "context_overlap": 1, "context_schedule": "standard_static", "context_stride": 1, "closed_loop": False},
        **{"fuse_method": "pyramid", "dim": 2, "freenoise": False, "cond_retain_index_list": "", "split_conds_to_windows": False},
        **{"latent_retain_index_list": "", "causal_window_fix": True},
    }
    windows = {"windows": node("ContextWindowsManual", model=["load", 0], **settings)}
    prompt = {**BEGIN, **canvas(seconds=3.5), **windows, **place(), **run("placed", model=("windows", 0))}
    placed, made = graph.run(prompt, ["placed", 0], ["sample", 0])
    assert torch.equal(made["samples"][:, :, 0], placed["samples"][:, :, 0]) and made["samples"].isfinite().all()


def test_hooks_reload_nothing_wrong(graph):
    """A LoRA on one part of the schedule, by hooks on the words."""
    name = lora_file(graph, {"diffusion_model.blocks.0.ffn.0": (256, 128)})
    hook = {
        "hook": node("CreateHookLoraModelOnly", lora_name=name, strength_model=1.0),
        "hooked": node("SetClipHooks", clip=["load", 1], hooks=["hook", 0], apply_to_conds=True, schedule_clip=False),
    }
    plain = graph.run({**BEGIN, **sample()}, ["sample", 0])
    patched = {**BEGIN, **hook, "words": node("SoraPrompt", clip=["hooked", 0], text="a red ball"), **sample()}
    made = graph.run(patched, ["sample", 0])
    assert (made["samples"] - plain["samples"]).abs().max() > 1e-3
    assert "this run is not kept for a restart: HookGroup" in "".join(graph.history["outputs"]["sample"]["text"])


def test_shift_by_the_hosts_node(graph):
    shifted = {"shifted": node("ModelSamplingSD3", model=["load", 0], shift=8.0)}
    plain = graph.run({**BEGIN, **sample()}, ["sample", 0])
    made = graph.run({**BEGIN, **shifted, **sample(model=("shifted", 0))}, ["sample", 0])
    assert not torch.equal(made["samples"], plain["samples"])


def test_second_copy_of_the_model_for_another_device(graph, model):
    """What the host does for multi-GPU and for hooks under dynamic loading: a fresh MODEL, CLIP and VAE from `cached_patcher_init`."""
    import comfy.model_management

    clip, vae = graph.run(load(), ["load", 1], ["load", 2])
    comfy.model_management.unload_all_models()  # takes off what the LoRAs of other tests left on, as the host does before the next run
    for patcher in (model, clip.patcher, vae.patcher):
        function, arguments, *_ = patcher.cached_patcher_init
        again = function(*arguments, disable_dynamic=True)
        ours, theirs = patcher.model.state_dict(), again.model.state_dict()
        assert again.model is not patcher.model and ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_bfloat16(graph):
    exact = graph.run({**BEGIN, **sample()}, ["sample", 0])
    half = graph.run({**load(precision="bfloat16"), **words(), **canvas(), **sample()}, ["sample", 0])
    error = (half["samples"] - exact["samples"]).std() / exact["samples"].std()
    assert half["samples"].dtype == torch.float32 and 0 < error < 0.05


# -- cancelling and previews ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("run", [partial(sample, guidance=1.0), partial(ksample, cfg=1.0), partial(custom_sample, guidance=1.0)])
def test_cancel_at_every_step(graph, model, monkeypatch, run, at):
    """The run stops there, and the next one makes what it would have made."""
    import comfy.model_management
    import comfy.utils

    prompt, done, network = {**BEGIN, **run()}, [], type(model.model.diffusion_model)
    whole, inner = graph.run(prompt, ["sample", 0]), network._forward
    graph.run(load(), ["load", 0])  # so that the host forgets what the sampler made

    def cancel(self, *args, **kwargs):
        out = inner(self, *args, **kwargs)
        done.append(1)
        if len(done) == at:
            comfy.model_management.interrupt_current_processing()
        return out

    def hook(*args, **kwargs):
        """What the server does at every progress."""
        comfy.model_management.throw_exception_if_processing_interrupted()

    monkeypatch.setattr(network, "_forward", cancel)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    with pytest.raises(Failed) as failed:
        graph.run(prompt, ["sample", 0])
    assert failed.value.kind == "execution_interrupted" and len(done) == at
    monkeypatch.undo()
    assert torch.equal(graph.run(prompt, ["sample", 0])["samples"], whole["samples"])


def test_cancel_while_saving(graph, monkeypatch):
    import comfy.model_management
    import folder_paths

    from sora_pack.nodes.host_vae import HostVAE

    inner, name = HostVAE.decode_chunks, uuid.uuid4().hex

    def cancel(self, z, *args):
        for i, part in enumerate(inner(self, z, *args)):
            if i == 1:
                comfy.model_management.interrupt_current_processing()
            yield part

    monkeypatch.setattr(HostVAE, "decode_chunks", cancel)
    prompt = {**BEGIN, **canvas(seconds=6.0), **sample(steps=1, guidance=1.0), **decode(), **save(prefix=name)}
    with pytest.raises(Failed) as failed:
        graph.queue(prompt)
    assert failed.value.kind == "execution_interrupted"
    assert not list(Path(folder_paths.get_output_directory()).glob(f"*{name}*")), "no torn file is left"
    monkeypatch.undo()
    graph.queue(prompt)
    assert list(Path(folder_paths.get_output_directory()).glob(f"{name}*.mp4"))


@pytest.mark.parametrize("run, size", [(sample, (512, 256)), (ksample, (8, 4)), (custom_sample, (8, 4))])
def test_every_step_has_a_preview(graph, monkeypatch, run, size):
    """Where they are switched on; the host's samplers show what the host makes of the factors in the header."""
    import comfy.utils
    import latent_preview

    seen = []
    monkeypatch.setattr(latent_preview, "default_preview_method", latent_preview.LatentPreviewMethod.Auto)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, picture, node_id=None: seen.append((value, total, picture)))
    graph.run({**BEGIN, **canvas(seconds=2.0), **run(steps=4)}, ["sample", 0])
    shown = {value: picture for value, total, picture in seen if total == 4 and picture}
    assert list(shown) == [1, 2, 3, 4]
    assert {(kind, image.size, limit) for kind, image, limit in shown.values()} == {("JPEG", size, 512)}


def test_previews_are_as_the_user_wants_them(graph, monkeypatch):
    """None at all, or of another size: what ComfyUI is told counts for Sora Sampler too."""
    import comfy.utils
    import latent_preview
    from comfy.cli_args import args

    seen, settings = [], latent_preview.LatentPreviewMethod
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, picture, node_id=None: seen.append(picture))
    monkeypatch.setattr(args, "preview_size", 64)
    for seed, method in enumerate((settings.NoPreviews, settings.Latent2RGB)):
        seen.clear()
        monkeypatch.setattr(latent_preview, "default_preview_method", method)
        graph.run({**BEGIN, **canvas(seconds=2.0), **sample(seed=seed, steps=2)}, ["sample", 0])
        sizes = [(image.size, limit) for _, image, limit in filter(None, seen)]
        assert sizes == ([((64, 32), 64)] * 2 if method == settings.Latent2RGB else [])


def test_preview_shows_the_colours_of_the_header(pack):
    from sora_pack.nodes.host import SoraLatentFormat
    from sora_pack.nodes.sample_video import preview
    from sora_pack.tests.tiny_model import HEADER

    picture = preview(torch.zeros(16, 5, 4, 8), SoraLatentFormat(HEADER.preview_factors), 512)
    assert picture.size == (512, 256) and picture.getpixel((9, 9)) == (127, 140, 153)


def test_preview_shows_what_is_encoded(pack):
    """The shipped VAE and header: the preview of a render, and the render with a pixel for each cell."""
    from sora_pack.nodes.host import SoraLatentFormat
    from sora_pack.nodes.sample_video import preview

    header = model_header(SHIPPED)
    vae, form = load_vae(SHIPPED.parent.parent / "vae" / header.vae), SoraLatentFormat(header.preview_factors)
    cells, pixels = [], []
    for seed in range(100, 104):
        clip = pixels_of(render(sample_scene(seed), [0.0], 128, 128)[None])
        shown = preview(normalise(vae.encode(clip))[0], form, 512).resize((16, 16), Image.Resampling.BOX)
        cells.append(torch.from_numpy(np.array(shown)).float().movedim(-1, 0))
        pixels.append(F.avg_pool2d(clip[0, :, 0], 8))
    found = torch.corrcoef(torch.stack([torch.stack(both).flatten() for both in (cells, pixels)]))[0, 1]
    assert found > 0.9, f"correlation {found:.3f}"


# -- memory --------------------------------------------------------------------------------------------------------------------------


def test_a_video_that_does_not_fit_is_refused_before_it_is_sampled(graph, forwards, monkeypatch):
    from sora_pack.sora_core import speed

    prompt = {**BEGIN, **canvas(batch=2), **sample(seed=300, steps=1)}
    graph.run(prompt, ["canvas", 0], ["words", 0])  # the canvas itself fits
    monkeypatch.setattr(speed, "machine_memory", lambda device="cpu": 10**6)
    sentence = refusal(graph, prompt, ["sample", 0])
    assert "64x32 and 1 s, 2 at once, need about" in sentence and "GB: use" in sentence and not forwards
    monkeypatch.undo()
    assert graph.run(prompt, ["sample", 0])["samples"].isfinite().all()
