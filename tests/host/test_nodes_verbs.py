"""Every verb through the host's real executor: what is given comes back bit for bit, whoever samples; what is wrong is one sentence."""

import pytest
import torch

from sora_pack.sora_core.canvas import NEW
from sora_pack.tests.host.executor import note, refusal
from sora_pack.tests.host.prompts import (
    LENGTH,
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
    place,
    plan,
    remix,
    sample,
    vae_first,
    verb,
    words,
)

pytestmark = pytest.mark.usefixtures("clip_node")

SIZE = {"width": 32, "height": 32}
BEGIN = {**load(), **words()}


# -- what is given comes back --------------------------------------------------------------------------------------------------------

NEXT = clip("next", count=9, seed=1)
MASK = {"mask": node("SolidMask", value=0.0, width=32, height=32)}
VERBS = {  # prompt, and where runs of given frames stand in the result: (start, source node, its frames)
    "forward": (extend(), [(0, "clip", slice(0, 14))]),
    "backward": (extend("backward"), [(9, "clip", slice(0, 14))]),
    "both": (extend("both"), [(9, "clip", slice(0, 14))]),
    "fill": (fill(), [(0, "clip", slice(0, 4)), (8, "clip", slice(8, 14))]),
    "fill the begin": (fill(0.0, 0.5), [(5, "clip", slice(5, 14))]),
    "fill the end": (fill(1.0, 0.0), [(0, "clip", slice(0, 6))]),
    "longer": (fill(0.5, 1.0, 2.0), [(0, "clip", slice(0, 4)), (20, "clip", slice(8, 14))]),
    "shorter": (fill(0.25, 1.25, 0.5), [(0, "clip", slice(0, 2)), (6, "clip", slice(10, 14))]),
    "join": ({**NEXT, **verb("SoraJoin", next_video=["next", 0], seconds=1.0)}, [(0, "clip", slice(0, 14)), (22, "next", slice(0, 9))]),
    "loop": (verb("SoraLoop", seconds=1.0), [(0, "clip", slice(0, 14))]),
    "place": (
        {**canvas(3.0, **SIZE, name="empty"), **verb("SoraPlaceVideo", latent=["empty", 0], second=0.75)},
        [(6, "clip", slice(0, 14))],
    ),
    "remix, all kept": ({**MASK, **remix(mask=["mask", 0])}, [(0, "clip", slice(0, 14))]),
}
for entry, _ in VERBS.values():
    if entry["canvas"]["class_type"] == "SoraPlaceVideo":
        for field in ("size", "fps"):
            del entry["canvas"]["inputs"][field]


SOLVERS = ("sora_ancestral", "euler", "dpmpp_2m", "uni_pc", "lcm", "er_sde", "ddim")
GUIDANCE = (1.0, 3.0, 6.5)


def solvers_of(number: int) -> dict:
    """Our sampler and two of the host's, for each verb with other solvers, another seed and another guidance."""
    ours, *theirs = (SOLVERS[(number + i) % len(SOLVERS)] for i in range(3))
    theirs = [solver if solver != "sora_ancestral" else "euler" for solver in theirs]
    seed, guidance = 7 + 1000 * number, GUIDANCE[number % len(GUIDANCE)]
    custom = custom_sample(steps=2, sampler_name=theirs[1], guidance=guidance)
    custom["noise"]["inputs"]["seed"] = seed
    return {
        "sora": sample(steps=2, sampler_name=ours, seed=seed, guidance=guidance),
        "host": ksample(steps=2, sampler_name=theirs[0], seed=seed, cfg=guidance),
        "custom": custom,
    }


@pytest.mark.parametrize("name", VERBS)
def test_given_frames_and_known_cells_come_back(graph, name):
    verbs, kept = VERBS[name]
    runs = solvers_of(list(VERBS).index(name))
    prompt = {**BEGIN, **clip(), **verbs}
    links = [["canvas", 0]]
    for how, run in runs.items():
        run = {part if part != "sample" else how: value for part, value in run.items()}
        shown = {f"{how} frames": frames(how)["frames"], f"{how} video": decode(how, seam="hard")["video"]}
        shown[f"{how} parts"] = node("GetVideoComponents", video=[f"{how} video", 0])
        prompt |= {**run, **shown}
        links += [[how, 0], [f"{how} frames", 0], [f"{how} parts", 0]]
    given, *made = graph.run(prompt, *links, ["clip", 0], *([["next", 0]] if "next" in verbs else []))
    total, there = given["sora"].canvas.timeline.frames, sum(part.stop - part.start for _, _, part in kept)
    assert f"{total - there} are made ({(total - there) / 8:g} s), {there} kept as they are" in note(graph)
    sources = dict(zip(("clip", "next"), made[9:]))
    for latent, images, parts in (made[i : i + 3] for i in (0, 3, 6)):
        known = (given["noise_mask"] == 0).expand_as(given["samples"]) if "noise_mask" in given else torch.zeros(0, dtype=torch.bool)
        if len(known):
            assert torch.equal(latent["samples"][known], given["samples"][known])
        assert len(images) == len(parts) == given["sora"].canvas.timeline.frames and images.isfinite().all()
        for start, source, part in kept:
            expected = sources[source][part]
            assert torch.equal(images[start : start + len(expected)], expected), f"{name}: frames of {source} from {start} on"
            assert torch.equal(parts[start : start + len(expected)], expected)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sora", "host", "custom"])
def test_given_frames_come_back_from_the_shipped_model(graph, how):
    """As it is installed: its precision, its steps and guidance by the nodes' own defaults where they have some, at its own size."""
    verbs = {**clip(count=18, width=128, height=128), **fill(0.75, 1.5)}
    run = {"sora": sample(steps=4, sampler_name="sora_ancestral"), "host": ksample(steps=4), "custom": custom_sample(steps=4)}[how]
    prompt = {**load("sora_mini.safetensors", "auto"), **words("a red ball on the beach"), **verbs, **run, **frames(), **decode()}
    prompt["parts"] = node("GetVideoComponents", video=["video", 0])
    links = [["clip", 0], ["canvas", 0], ["sample", 0], ["frames", 0], ["parts", 0]]
    given, latent, made, images, parts = graph.run(prompt, *links)
    known = (latent["noise_mask"] == 0).expand_as(latent["samples"])
    assert torch.equal(made["samples"][known], latent["samples"][known]) and made["samples"].isfinite().all()
    kept = [piece for piece in latent["sora"].canvas.timeline.runs if piece[1].source == 0]
    assert len(kept) == 2
    for at, piece in kept:
        for shown in (images, parts):
            assert torch.equal(shown[at : at + piece.count], given[piece.start : piece.start + piece.count])


def test_placed_picture_is_its_frame(graph):
    """At any moment, beside a clip, over what stood there before; the last frame too."""
    chain = {**canvas(2.0, **SIZE, name="empty"), **clip(count=6), **clip("one", 1, seed=2), **clip("two", 1, seed=3)}
    chain |= verb("SoraPlaceVideo", latent=["empty", 0], second=0.0, name="first")
    for field in ("size", "fps"):
        del chain["first"]["inputs"][field]
    chain |= {**place(0.25, "one", "first", name="second"), **place(2.0, "two", "second", name="canvas")}
    given, one, two, images = graph.run(
        {**BEGIN, **chain, **sample(steps=1), **frames()}, *([n, 0] for n in ("clip", "one", "two", "frames"))
    )
    expected = torch.cat([given[:2], one, given[3:6]])
    assert torch.equal(images[:6], expected) and torch.equal(images[16:], two) and len(images) == 17
    assert note(graph, "canvas") == "frame 16 of 17, at 2 s, is exactly this picture\n10 are made (1.25 s), 7 kept as they are"


SHAPES = {"1:1": (64, 64), "16:9": (80, 48), "9:16": (48, 80), "4:3": (64, 48), "3:4": (48, 64), "21:9": (112, 48)}
"""Width and height of about as many pixels as a square of 64 has: of the multiples of 16 the nearest in area and shape."""


@pytest.mark.parametrize("aspect", SHAPES)
def test_shapes(graph, aspect):
    """A clip of an odd size at every aspect ratio; as given goes to the nearest legal size."""
    prompt = {
        **BEGIN,
        **clip(count=5, width=50, height=37),
        **extend(size=aspect, **{"size.resolution": 64}),
        **sample(steps=1),
        **frames(),
    }
    latent, images = graph.run(prompt, ["canvas", 0], ["frames", 0])
    assert (images.shape[2], images.shape[1]) == SHAPES[aspect]
    assert torch.equal(images[:5], torch.cat(list(latent["sora"].sources[0].read(0, 0, 5)))) and "fitted to" in note(graph)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 41])
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_every_length(graph, count, direction):
    """One frame, shorter than a cell, a frame more than a cell; what is asked for is made, and not a cell more."""
    prompt = {**BEGIN, **clip(count=count), **extend(direction, 0.5), **sample(steps=1, guidance=1.0), **frames()}
    given, images = graph.run(prompt, ["clip", 0], ["frames", 0])
    start = 0 if direction == "forward" else 5
    assert torch.equal(images[start : start + count], given)
    sides = 2 if direction == "both" else 1
    assert 4 * sides <= len(images) - count < 4 * sides + 4 * sides


@pytest.mark.parametrize("count", [1, 2, 121])
def test_every_length_of_a_loop_and_of_a_join(graph, count):
    verbs = {
        **verb("SoraLoop", name="loop", seconds=0.5),
        **clip("next", 2, seed=1),
        **verb("SoraJoin", name="join", next_video=["next", 0], seconds=0.5),
    }
    for name in ("loop", "join"):
        verbs[f"{name} made"] = sample(name, steps=1, guidance=1.0)["sample"]
        verbs[f"{name} frames"] = frames(f"{name} made")["frames"]
    links = [[name, 0] for name in ("clip", "next", "loop frames", "join frames")]
    given, behind, loop, joined = graph.run({**BEGIN, **clip(count=count), **verbs}, *links)
    assert torch.equal(loop[:count], given) and 4 <= len(loop) - count < 8
    assert torch.equal(joined[:count], given) and torch.equal(joined[-2:], behind) and 4 <= len(joined) - count - 2 < 8


@pytest.mark.parametrize("context, cells", [(0.0, 1), (0.5, 2), (1.0, 3), (60.0, 4)])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_context_is_what_the_model_sees(graph, direction, context, cells):
    """Of 14 frames: a cell of one frame and so many of four; backward there is none of one, and one of four is always seen."""
    latent = graph.run({**load(), **clip(), **extend(direction, context=context)}, ["canvas", 0])
    assert len(latent["sora"].canvas.known) == (cells if direction == "forward" else max(cells - 1, 1))


def test_both_sides_see_the_whole_video_and_say_so(graph):
    latent = graph.run({**load(), **clip(), **extend("both", context=0.5)}, ["canvas", 0])
    given = latent["sora"].canvas
    assert sum(span.frames(given.shape.strides) for span in given.spans) + len(given.guides) == LENGTH
    assert f"sees all that is given, {LENGTH} frames, whatever the context" in note(graph)
    graph.run({**load(), **clip(), **extend(context=0.5)}, ["canvas", 0])
    assert "sees all" not in note(graph)


@pytest.mark.parametrize("seconds, count", [(0.0, 1), (0.125, 5), (15.0, 121)])
def test_lengths_of_a_canvas(graph, seconds, count):
    prompt = {**BEGIN, **canvas(seconds, **SIZE), **clip("picture", 1), **place(name="placed"), **sample("placed", steps=1), **frames()}
    given, images = graph.run(prompt, ["picture", 0], ["frames", 0])
    assert len(images) == count and torch.equal(images[:1], given)


def test_other_rates_by_the_nearest_frame(graph):
    """24 to 8 frames a second takes every third; 8 to 24 shows each three times; both are said."""
    for given_fps, fps, shown in ((24.0, 8.0, [0, 3, 6, 9, 12]), (8.0, 24.0, [0, 0, 1, 1, 1, 2, 2, 2]), (10.0, 8.0, [0, 1, 2, 4, 5])):
        prompt = {**load(), **clip(), **extend(fps=fps, image_fps=given_fps)}
        given, latent = graph.run(prompt, ["clip", 0], ["canvas", 0])
        frames_seen = torch.cat(list(latent["sora"].sources[0].read(0, 0, len(shown))))
        assert torch.equal(frames_seen, given[shown])
        assert f"given {given_fps:g} frames a second: each frame of {fps:g} is the nearest in time" in note(graph)


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_alpha(graph, channels):
    given, latent = graph.run({**load(), **clip(channels=channels), **extend()}, ["clip", 0], ["canvas", 0])
    seen = torch.cat(list(latent["sora"].sources[0].read(0, 0, LENGTH)))
    assert torch.equal(seen, given[..., :3].expand(-1, -1, -1, 3))
    placed = graph.run({**load(), **canvas(**SIZE), **clip("picture", 1, channels=channels), **place()}, ["placed", 0])
    assert next(placed["sora"].sources[0].read(0, 0, 1)).shape == (1, 32, 32, 3)


# -- latents are used ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def encoded(monkeypatch):
    """A list that gets the number of frames of everything that is encoded."""
    from sora_pack.nodes.host_vae import HostVAE

    seen, inner = [], HostVAE.encode
    monkeypatch.setattr(HostVAE, "encode", lambda self, x, *rest, **more: (seen.append(x.shape[2]), inner(self, x, *rest, **more))[1])
    return seen


CHAIN = {
    "forward": extend("forward", video="made"),
    "backward": extend("backward", video="made"),
    "both": extend("both", 0.5, video="made"),
    "fill": fill(video="made"),
    "loop": verb("SoraLoop", video="made", seconds=0.5),
    "join": verb("SoraJoin", video="made", next_video=["made", 0], seconds=0.5),
    "remix": remix(video="made"),
}


@pytest.mark.parametrize("as_video", [False, True])
@pytest.mark.parametrize("name", CHAIN)
def test_latents_are_not_encoded_again(graph, encoded, name, as_video):
    """From LATENT and from the VIDEO of Sora Decode: known cells are those of the video that was made."""
    made = {"first": canvas(3.0, **SIZE)["canvas"], "latent": sample("first", steps=1, guidance=1.0, seed=50)["sample"]}
    made["made"] = decode("latent")["video"] if as_video else made["latent"]
    prompt = {**BEGIN, **made, **CHAIN[name], **sample(steps=1, guidance=1.0), **frames(), "whole": frames("latent")["frames"]}
    latent, given, whole, images = graph.run(prompt, ["latent", 0], ["canvas", 0], ["whole", 0], ["frames", 0])
    of_canvas = given["sora"].canvas
    guides, begun = len(of_canvas.guides), [span for span in of_canvas.spans if span.cell == 0 and span.start > 0]
    assert all(count in (1, 1 + 4 * 3) for count in encoded) and len(encoded) == 2 * guides + len(begun), (
        "guides alone are encoded, once and held, and the first frame of what begins inside of the video"
    )
    known = given["samples"][:, :, of_canvas.known] if name != "remix" else given["samples"]
    for cell in known[:, :, len(begun) :].unbind(2):
        assert (latent["samples"] - cell.unsqueeze(2)).abs().amax((0, 1, 3, 4)).min() == 0
    at = 0
    for piece in given["sora"].canvas.timeline.pieces:
        if piece.source != NEW:
            assert torch.equal(images[at : at + piece.count], whole[piece.start : piece.start + piece.count])
        at += piece.count


def test_a_video_keeps_its_latents_for_whichever_vae_of_its_kind(graph, encoded):
    """Decoded with that of Sora Load Model, extended with what the host's loader opens from the same file, as after a restart."""
    made = {"first": canvas(1.0, **SIZE)["canvas"], "made": sample("first", steps=1, guidance=1.0, seed=52)["sample"], **decode("made")}
    again = {**extend(video="video"), "other": node("VAELoader", vae_name="tiny_vae.safetensors")}
    again["canvas"]["inputs"]["vae"] = ["other", 0]
    latent, extended = graph.run({**BEGIN, **made, **again}, ["made", 0], ["canvas", 0])
    known = extended["sora"].canvas.known
    assert torch.equal(extended["samples"][:, :, known], latent["samples"][:, :, : len(known)]) and not encoded


def test_a_placed_clip_that_holds_latents_lands_on_cells(graph, encoded):
    """On an extended video, whose lattice begins somewhere in it: the clip's own cells are known there as they are."""
    made = {"first": canvas(1.0, **SIZE)["canvas"], "made": sample("first", steps=1, guidance=1.0, seed=51)["sample"]}
    put = {"put": node("SoraPlaceVideo", vae=["load", 2], latent=["canvas", 0], video=["made", 0], second=3.0, fit="cover")}
    latent, placed = graph.run({**BEGIN, **made, **clip(), **extend(seconds=3.0), **put}, ["made", 0], ["put", 0])
    (span,) = [span for span in placed["sora"].canvas.spans if span.source == 1]
    assert torch.equal(placed["samples"][:, :, span.cell : span.cell + span.cells], latent["samples"][:, :, 1:])


def test_extending_four_times_leaves_what_was_made(graph, encoded):
    """Forward and backward in turn: the frames of every step are frames of the last one, and nothing but guides is encoded."""
    prompt = {**BEGIN, "first": canvas(2.0, **SIZE)["canvas"], "step0": sample("first", steps=1, guidance=1.0)["sample"]}
    for step, direction in enumerate(("forward", "backward", "forward", "backward"), 1):
        prompt |= extend(direction, 0.5, video=f"video{step - 1}" if step > 1 else "step0", name=f"canvas{step}")
        prompt[f"step{step}"] = sample(f"canvas{step}", steps=1, guidance=1.0, seed=step)["sample"]
        prompt[f"video{step}"] = decode(f"step{step}")["video"]
    for step in range(5):
        prompt[f"frames{step}"] = frames(f"step{step}")["frames"]
    made = graph.run(prompt, *([f"frames{step}", 0] for step in range(5)))
    assert [len(images) for images in made] == [17, 21, 25, 29, 33]
    starts = [0, 0, 4, 4, 8]
    for step in range(4):
        start = starts[4] - starts[step]
        assert torch.equal(made[4][start : start + len(made[step])], made[step])
    assert set(encoded) <= {1, 13}


# -- never a wrong paste -------------------------------------------------------------------------------------------------------------


HOST_EDITS = {
    "cut": node("LatentCut", samples=["sample", 0], dim="t", index=0, amount=3),
    "flip": node("LatentFlip", samples=["sample", 0], flip_method="y-axis: horizontally"),
    "weaker": node("LatentMultiply", samples=["sample", 0], multiplier=0.99),
    "stronger": node("LatentMultiply", samples=["sample", 0], multiplier=1.01),
    "larger": node("LatentUpscaleBy", samples=["sample", 0], upscale_method="nearest-exact", scale_by=2.0),
    "mixed": node("LatentBlend", samples1=["sample", 0], samples2=["other", 0], blend_factor=0.5),
}


@pytest.mark.parametrize("edit", HOST_EDITS)
def test_host_nodes_that_change_latents_lead_to_no_wrong_paste(graph, edit):
    prompt = {**BEGIN, **clip(), **extend(), **sample(steps=1), "other": sample(steps=1, seed=9)["sample"], "edit": HOST_EDITS[edit]}
    prompt |= {**frames("edit"), "plain": node("VAEDecode", samples=["edit", 0], vae=["load", 2])}
    images, plain = graph.run(prompt, ["frames", 0], ["plain", 0])
    if edit == "mixed":  # the known cells are the same in both, so the given frames still belong there
        assert torch.equal(images[:LENGTH], graph.run(prompt, ["clip", 0]))
    else:
        assert torch.allclose(images, plain, atol=1e-6) and "latents were changed" in note(graph, "frames")


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "bicubic", "bislerp"])
def test_a_second_pass_at_twice_the_size_keeps_the_given_frames(graph, method):
    """Latents resized by the host: the given frames are fitted to the new size from what was given, not from the small ones."""
    prompt = {**BEGIN, **clip(width=64, height=64), **extend(size="custom", **{"size.width": 32, "size.height": 32}), **sample(steps=1)}
    prompt["large"] = node("LatentUpscaleBy", samples=["sample", 0], upscale_method=method, scale_by=2.0)
    prompt["again"] = sample("large", steps=2, denoise=0.4, seed=3)["sample"]
    given, large, again, images = graph.run({**prompt, **frames("again")}, ["clip", 0], ["large", 0], ["again", 0], ["frames", 0])
    assert images.shape == (22, 64, 64, 3) and torch.equal(images[:LENGTH], given)
    new = again["noise_mask"].flatten() == 1
    assert new.tolist() == [False] * 4 + [True] * 2
    assert not torch.equal(again["samples"][:, :, new], large["samples"][:, :, new])
    flipped = {**prompt, "flip": node("LatentFlip", samples=["large", 0], flip_method="y-axis: horizontally")}
    flipped["again"] = sample("flip", steps=1, denoise=0.4)["sample"]
    assert not torch.equal(graph.run({**flipped, **frames("again")}, ["frames", 0])[:LENGTH], given)


@pytest.mark.parametrize("planned", [False, True])
def test_a_second_pass_of_words_alone_keeps_its_time(graph, planned):
    """Nothing is pasted, but a canvas of 16 frames a second stays one: noise, positions, plan."""
    prompt = {**BEGIN, **canvas(1.0, fps=16.0, width=32, height=32), **sample(steps=1)}
    prompt["large"] = node("LatentUpscaleBy", samples=["sample", 0], upscale_method="bilinear", scale_by=2.0)
    prompt |= plan("rollout", window=3, overlap=1, latent="large") if planned else {}
    prompt["again"] = sample("plan" if planned else "large", steps=1, denoise=0.4, seed=3)["sample"]
    again = graph.run(prompt, ["again", 0])
    assert again["sora"].canvas.shape.fps == 16 and again["samples"].shape[-2:] == (8, 8)
    assert not planned or "rollout: 2 passes" in note(graph, "again")


def test_a_second_pass_of_given_frames_can_be_planned(graph):
    prompt = {**BEGIN, **clip(width=64, height=64), **extend(size="custom", **{"size.width": 32, "size.height": 32}), **sample(steps=1)}
    prompt["large"] = node("LatentUpscaleBy", samples=["sample", 0], upscale_method="bilinear", scale_by=2.0)
    prompt |= {**plan("single", latent="large"), "again": sample("plan", steps=1, denoise=0.4)["sample"]}
    given, images = graph.run({**prompt, **frames("again")}, ["clip", 0], ["frames", 0])
    assert images.shape == (22, 64, 64, 3) and torch.equal(images[:LENGTH], given)


def test_a_second_pass_keeps_somebodys_own_mask(graph):
    """Their mask lay on the canvas before the picture did, and grows with it."""
    left = {"half": node("SolidMask", value=0.0, width=32, height=32)}
    prompt = {**BEGIN, **canvas(1.0, **SIZE, name="empty"), **clip("picture", 1), **left}
    prompt["masked"] = node("SetLatentNoiseMask", samples=["empty", 0], mask=["half", 0])
    prompt |= {**place(0.0, latent="masked", name="canvas"), **sample(steps=1)}
    prompt["large"] = node("LatentUpscaleBy", samples=["sample", 0], upscale_method="bilinear", scale_by=2.0)
    prompt["again"] = sample("large", steps=1, denoise=0.4, seed=3)["sample"]
    large, again = graph.run(prompt, ["large", 0], ["again", 0])
    assert not again["noise_mask"].any() and again["samples"].shape == large["samples"].shape


@pytest.mark.usefixtures("host_sources")
@pytest.mark.parametrize("name", ["wan_t2v", "ltxv"])
def test_a_second_pass_of_a_model_of_the_host(graph, host_files, name):
    size = {"size": "custom", "size.width": 64, "size.height": 64}
    run = sample(steps=1, model=("unet", 0))
    prompt = vae_first({**clip(width=128, height=128), **extend(**size), **run, **frames("again")})
    prompt["large"] = node("LatentUpscaleBy", samples=["sample", 0], upscale_method="bilinear", scale_by=2.0)
    prompt["again"] = sample("large", steps=2, denoise=0.4, seed=3, model=("unet", 0))["sample"]
    given, images = graph.run(prompt | begin(host_files, name), ["clip", 0], ["frames", 0])
    assert images.shape[1:] == (128, 128, 3) and torch.equal(images[:LENGTH], given)


def test_a_picture_over_all_that_was_known(graph):
    """Nothing of the mask of the verb before is left, which held a cell that is to be made now."""
    prompt = {**BEGIN, **clip(count=4), **extend("backward", seconds=1.0), **clip("picture", 1, seed=9)}
    prompt |= {**place(10 / 8, latent="canvas", name="placed"), **sample("placed", steps=1), **frames()}
    placed, images, picture, given = graph.run(prompt, ["placed", 0], ["frames", 0], ["picture", 0], ["clip", 0])
    assert "noise_mask" not in placed and torch.equal(images[10], picture[0]) and torch.equal(images[9], given[0])


def test_a_remix_masked_over_time_goes_on_from_what_is_kept(graph, clip_node):
    """The made frames beside kept ones carry what the codec lost of those."""
    graph.nodes.NODE_CLASS_MAPPINGS["Times"] = type(
        "Times", (), {"INPUT_TYPES": classmethod(lambda cls: {"required": {}}), "RETURN_TYPES": ("MASK",), "FUNCTION": "make",
                      "make": lambda self: (torch.cat([torch.zeros(5, 32, 32), torch.ones(9, 32, 32)]),)},
    )  # fmt: skip
    prompt = {**BEGIN, **clip(), "times": node("Times"), **remix("subtle", mask=["times", 0]), **sample(steps=1), **frames()}
    prompt["hard"] = frames(seam="hard")["frames"]
    given, soft, hard = graph.run(prompt, ["clip", 0], ["frames", 0], ["hard", 0])
    assert torch.equal(soft[:5], given[:5]) and torch.equal(hard[:5], given[:5])


@pytest.mark.usefixtures("host_sources")
def test_solvers_of_the_host_that_leave_noise_in_known_cells(graph, host_files):
    """On a MODEL of the host nothing restores them: uni_pc ends at a noise level of 0.001, dpm_fast at that of its last step but one."""
    for run, solver, least in ((ksample, "uni_pc", 1e-3), (custom_sample, "uni_pc", 1e-3), (ksample, "dpm_fast", 0.5)):
        run = run(steps=2, sampler_name=solver, model=("unet", 0))
        run.pop("sigmas", None)
        longer = verb("SoraExtend", "sample", "longer", direction="forward", seconds=0.5)
        prompt = vae_first({**clip(), **extend(), **run, **frames(), **longer, "more": frames("longer")["frames"]})
        links = [[name, 0] for name in ("clip", "canvas", "sample", "frames", "more")]
        given, latent, made, images, more = graph.run(prompt | begin(host_files, "wan_t2v"), *links)
        moved = ((made["samples"] - latent["samples"]).abs() * (latent["noise_mask"] == 0)).max()
        assert moved > least and torch.equal(images[:LENGTH], given), f"{solver}: {moved:.3f}"
        assert solver == "dpm_fast" or torch.equal(more[:LENGTH], given), "the next verb takes the LATENT itself"


PICTURE = {**canvas(1.0, **SIZE, name="empty"), **clip("picture", 1), **place(0.5, latent="empty", name="canvas")}


def test_a_picture_is_placed_on_what_a_sampler_of_the_host_made(graph):
    """Its canvas has no known cell to be told by; the graph says that only a sampler stands between."""
    prompt = {**BEGIN, **PICTURE, **ksample(steps=1), **clip("more", 1, seed=8), **place(0.25, image="more", latent="sample", name="again")}
    first, second, images = graph.run({**prompt, **frames("again")}, ["picture", 0], ["more", 0], ["frames", 0])
    assert torch.equal(images[4], first[0]) and torch.equal(images[2], second[0])


"""One picture at frame 4, so that no cell is known."""

EDITS = {
    "across": ("LatentFlip", {"flip_method": "y-axis: horizontally"}),
    "in time": ("LatentFlip", {"flip_method": "x-axis: vertically"}),
    "around": ("LatentRotate", {"rotation": "180 degrees"}),
    "weaker": ("LatentMultiply", {"multiplier": 0.99}),
}


@pytest.fixture
def dots(graph):
    """A node "Dots": a mask with a white pixel in every latent cell."""
    from comfy_api.latest import io

    class Dots(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Dots", category="test", inputs=[], outputs=[io.Mask.Output()])

        @classmethod
        def execute(cls):
            mask = torch.zeros(1, 32, 32)
            mask[:, 3::8, 5::8] = 1
            return io.NodeOutput(mask)

    graph.nodes.NODE_CLASS_MAPPINGS["Dots"] = Dots
    mask = torch.zeros(32, 32)
    mask[3::8, 5::8] = 1
    return mask


@pytest.mark.parametrize("what", ["picture", "mask"])
def test_where_no_cell_is_known_nothing_is_pasted_on_edited_latents(graph, dots, what):
    """A picture within a cell, or a mask with a part of every cell: what Sora Sampler made is known by itself, what other samplers made
    by the graph."""
    verbs = PICTURE if what == "picture" else {**clip(), "dots": node("Dots"), **remix(mask=["dots", 0])}
    prompt = {**BEGIN, **verbs, **sample(steps=1, guidance=1.0), "theirs": ksample(steps=1, cfg=1.0)["sample"]}
    prompt |= {"both": ksample("sample", steps=1, cfg=1.0, denoise=0.5)["sample"]}
    kind, fields = EDITS["across"]
    prompt |= {"turned": node(kind, samples=["canvas", 0], **fields), "late": sample("turned", steps=1, guidance=1.0)["sample"]}
    straight, edited = ["sample", "theirs", "both"], [] if what == "picture" else ["late"]  # an empty canvas looks the same when turned
    for made in ("sample", "theirs"):
        for edit, (kind, fields) in EDITS.items():
            edited.append(f"{made} {edit}")
            prompt[edited[-1]] = node(kind, samples=[made, 0], **fields)
    for name in (*straight, *edited):
        prompt[f"{name} frames"] = frames(name)["frames"]
    given, *made = graph.run(prompt, ["clip" if what == "mask" else "picture", 0], *([f"{n} frames", 0] for n in (*straight, *edited)))
    for name, images in zip((*straight, *edited), made):
        there = torch.equal(images[4:5], given) if what == "picture" else torch.equal(images[:, dots == 0], given[:, dots == 0])
        plain = "latents were changed" in note(graph, f"{name} frames")
        assert (there, plain) == (name in straight, name not in straight), name


@pytest.mark.parametrize("second, frame", [(0.0, 0), (0.5, 4)])
def test_a_batch_of_pictures_is_taken_apart(graph, second, frame):
    """Before the sampler and behind it, each video keeps its own picture; where that cannot be told, it is refused."""
    both = {**clip("one", 1), **clip("two", 1, seed=1), "both": node("ImageBatch", image1=["one", 0], image2=["two", 0])}
    prompt = {**BEGIN, **both, **canvas(1.0, **SIZE, batch=2, name="empty"), **place(second, "both", "empty", name="canvas")}

    def pick(latent):
        return node("LatentFromBatch", samples=[latent, 0], batch_index=1, length=1)

    runs = {"whole": "canvas", "early": "picked", "more": "four"}
    prompt |= {name: sample(latent, steps=1, guidance=1.0)["sample"] for name, latent in runs.items()}
    prompt |= {"picked": pick("canvas"), "four": node("RepeatLatentBatch", samples=["canvas", 0], amount=2), "late": pick("whole")}
    prompt |= {f"{name} frames": frames(name)["frames"] for name in (*runs, "late")}
    links = [[name, 0] for name in ("one", "two", "whole", "early", "whole frames", "early frames", "more frames", "late frames")]
    one, two, whole, early, *shown = graph.run(prompt, *links)
    seen = [[bool(torch.equal(images[frame], two[0])) for images in made] for made in (shown[0], [shown[1]], shown[2], [shown[3]])]
    assert seen == [[False, True], [True], [False, True, False, True], [True]] and torch.equal(shown[0][0][frame], one[0])
    assert (early["samples"] - whole["samples"][1:]).abs().max() < 1e-3, "it is shown its own picture, and has its own noise"
    if frame:
        unclear = {**prompt, "again": node("RepeatLatentBatch", samples=["picked", 0], amount=2), **sample("again", steps=1)}
        assert "cannot be told apart" in refusal(graph, unclear, ["sample", 0])


@pytest.mark.parametrize("what", ["picture", "mask"])
def test_a_second_pass_where_no_cell_is_known_keeps_what_was_given(graph, dots, what):
    size = {"size": "custom", "size.width": 32, "size.height": 32}
    if what == "picture":
        verbs = {**canvas(1.0, **SIZE, name="empty"), **clip("picture", 1, 64, 64), **place(0.5, latent="empty", name="canvas")}
    else:
        verbs = {**clip(width=64, height=64), "dots": node("Dots"), **remix("subtle", mask=["dots", 0], **size)}
    prompt = {**BEGIN, **verbs, **sample(steps=1, guidance=1.0)}
    prompt["large"] = node("LatentUpscaleBy", samples=["sample", 0], upscale_method="bilinear", scale_by=2.0)
    prompt["again"] = sample("large", steps=2, guidance=1.0, denoise=0.4)["sample"]
    links = [["picture" if what == "picture" else "clip", 0], ["large", 0], ["again", 0], ["frames", 0]]
    given, large, again, images = graph.run({**prompt, **frames("again")}, *links)
    assert images.shape[1:] == (64, 64, 3) and not torch.equal(again["samples"], large["samples"])
    if what == "picture":
        assert torch.equal(images[4:5], given)
    else:
        kept = dots.repeat_interleave(2, 0).repeat_interleave(2, 1) == 0
        assert torch.equal(images[:, kept], given[:, kept]) and again["sora"].strength == 0.3
    prompt |= {"turned": node("LatentFlip", samples=["large", 0], flip_method="y-axis: horizontally")}
    prompt["again"] = sample("turned", steps=1, guidance=1.0, denoise=0.4)["sample"]
    graph.run({**prompt, **frames("again")}, ["frames", 0])
    assert "latents were changed" in note(graph, "frames")


def test_a_batch_made_of_one_canvas(graph):
    """The host repeats a canvas: each video has noise of its own, the given frames are in all of them."""
    prompt = {**BEGIN, **clip(), **extend("backward"), "many": node("RepeatLatentBatch", samples=["canvas", 0], amount=2)}
    given, images = graph.run({**prompt, **sample("many", steps=1), **frames()}, ["clip", 0], ["frames", 0])
    one, two = images
    assert torch.equal(one[9:], given) and torch.equal(two[9:], given) and not torch.equal(one[:9], two[:9])
    cut = {**prompt, **sample("many", steps=1), "single": node("LatentFromBatch", samples=["sample", 0], batch_index=1, length=1)}
    assert torch.equal(graph.run({**cut, **frames("single")}, ["frames", 0]), two)
