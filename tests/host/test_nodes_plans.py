"""Long videos through the host's real executor: plans, storyboards, jobs."""

import json
import re
from pathlib import Path

import pytest
import torch

from sora_pack.tests.host.executor import Failed, Refused, refusal
from sora_pack.tests.host.prompts import canvas, clip, extend, fill, frames, load, node, picture, place, plan, sample, verb, words

SECONDS = 9.5  # 77 frames, 20 cells; the tiny model's window is 11
BEGIN = {**load(), **words(), **canvas(SECONDS, width=32), **picture(width=32)}
SCRIPT = "a red ball.\n[0-3 s] rolls\n[3-6 s] cut. bounces\n[6-9.5 s] cut. stops"


SWITCHES = (0.4, 0.9)  # with 6 steps: after the fourth and in the beginning


def storyboard(script=SCRIPT) -> dict:
    return {"words": node("SoraStoryboard", clip=["load", 1], vae=["load", 2], script=script, fps=8.0)}


def shown(graph, text_of="sample") -> str:
    """What a node showed last."""
    return "\n".join(graph.history["outputs"].get(text_of, {}).get("text", ()))


def passes_kept() -> set[Path]:
    from sora_pack.nodes.passes import jobs_folder

    return set(jobs_folder().glob("passes/*.safetensors"))


@pytest.fixture
def steps(graph, monkeypatch):
    """A list that gets the number of cells of every forward."""
    calls, network = [], type(graph.run(load(), ["load", 0]).model.diffusion_model)
    inner = network._forward
    monkeypatch.setattr(network, "_forward", lambda self, x, *a, **k: calls.append(x.shape[2]) or inner(self, x, *a, **k))
    return calls


def test_a_long_video_rolls_out_by_itself(graph, steps):
    made = graph.run({**BEGIN, **sample(seed=100)}, ["sample", 0])["samples"]
    assert made.shape[2] == 20 and made.isfinite().all() and made.flatten(2).std(2).min() > 0
    assert set(steps) == {11, 4} and "rollout: 3 passes, at most 11 of 20 cells" in shown(graph)


@pytest.mark.parametrize("kind, cells", [("single", {20}), ("rollout", {11, 4}), ("foresight", {6, 5, 7})])
def test_a_plan_is_followed(graph, steps, kind, cells):
    made, again = (graph.run({**BEGIN, **place(), **plan(kind, "placed"), **sample("plan", seed=101)}, ["sample", 0]) for _ in range(2))
    placed = graph.run({**BEGIN, **place()}, ["placed", 0])["samples"]
    assert torch.equal(made["samples"][:, :, 0], placed[:, :, 0]) and torch.equal(made["samples"], again["samples"])
    assert set(steps) <= cells, steps
    graph.run({**BEGIN, **plan(kind)}, ["plan", 0])
    text = shown(graph, "plan")
    assert text.startswith(f"{kind}: ") and "tokens at once, 77 frames" in text and "#" in text
    assert re.search(r"about .* GB: program .*, weights .*, activations .*, decode .*\n", text)
    assert re.search(r"\nabout .* s for each step of the sampler, .* for 20 with guidance\n", text)


LONG = {
    "both": extend("both", 4.0),
    "backward": extend("backward", 9.0),
    "fill": fill(1.0, 8.0),
    "loop": verb("SoraLoop", seconds=9.0),
}


@pytest.mark.usefixtures("clip_node")
@pytest.mark.parametrize("kind", ["rollout", "foresight"])
@pytest.mark.parametrize("name", LONG)
def test_a_long_video_is_given_and_comes_back(graph, steps, name, kind):
    given = {**clip(count=77, width=32), **LONG[name], **plan(kind), **sample("plan", seed=116, steps=1, guidance=1.0)}
    source, made, images = graph.run({**load(), **words(), **given, **frames()}, ["clip", 0], ["sample", 0], ["frames", 0])
    canvas_made = made["sora"].canvas
    assert images.isfinite().all() and len(images) == canvas_made.timeline.frames
    for at, piece in canvas_made.timeline.runs:
        if piece.source == 0:
            assert torch.equal(images[at : at + piece.count], source[piece.start : piece.start + piece.count])
    assert len(steps) > 1 and max(steps) < canvas_made.shape.cells, "in passes, none of which is the whole"


def test_memory_of_a_plan_counts_the_whole_server(graph, monkeypatch):
    from types import SimpleNamespace

    from sora_pack.nodes import costs

    server = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=40 * 2**30))
    monkeypatch.setattr(costs.psutil, "Process", lambda: server)
    graph.run({**BEGIN, **plan("rollout")}, ["plan", 0])
    assert re.search(r"about 40\.\d GB: program 40, weights", shown(graph, "plan")), shown(graph, "plan")


def test_a_model_trained_for_foresight_foresees_by_itself(graph, steps):
    import folder_paths

    from sora_pack.tests.tiny_model import write_tiny_model

    folder = next(path for path in map(Path, folder_paths.get_folder_paths("diffusion_models")) if (path / "tiny.safetensors").exists())
    write_tiny_model(folder.parent, "seer", foresight=True, vae="seer_vae.safetensors", text="seer_text.safetensors")
    for kind in ("diffusion_models", "vae", "text_encoders"):
        folder_paths.filename_list_cache.pop(kind, None)
    begin = {**BEGIN, **load("seer.safetensors")}
    graph.run({**begin, **plan()}, ["plan", 0])
    assert shown(graph, "plan").startswith("foresight: ")
    graph.run({**begin, **sample(seed=113, steps=1, guidance=1.0)}, ["sample", 0])
    assert "foresight: 4 passes, at most 9 of 20 cells" in shown(graph) and max(steps) == 9, steps


def test_a_guide_is_seen_by_the_passes_around_it(graph, steps):
    guided = {**BEGIN, **place(second=5.0), **plan("foresight", "placed"), **sample("plan", seed=102, guidance=1.0, steps=1)}
    graph.run(guided, ["sample", 0])
    plain = graph.run({**BEGIN, **plan("foresight"), **sample("plan", seed=103, guidance=1.0, steps=1)}, ["sample", 0])
    assert plain["samples"].shape[2] == 20
    with_guide, without = steps[: len(steps) // 2], steps[len(steps) // 2 :]
    more = [a - b for a, b in zip(with_guide, without)]
    assert more[:2] == [0, 1] and sum(more) < len(more) - 1, f"{more}: the opening ends before it, the sketch sees it"


def test_what_is_kept_is_not_made_again(graph, steps):
    before = passes_kept()
    prompt = {**BEGIN, **plan("foresight"), **sample("plan", seed=104)}
    first = graph.run(prompt, ["sample", 0])["samples"]
    count, kept = len(steps), passes_kept() - before
    assert count and len(kept) == len({p.name for p in kept}) >= 5
    # Another title leaves the value as it is, but not the host's own cache of it.
    again = graph.run({**BEGIN, **plan("foresight", redo=" "), **sample("plan", seed=104)}, ["sample", 0])["samples"]
    assert len(steps) == count and torch.equal(first, again) and f"reused {len(kept)} of {len(kept)} passes" in shown(graph)
    gap = graph.run({**BEGIN, **plan("foresight", redo="2=9"), **sample("plan", seed=104)}, ["sample", 0])["samples"]
    assert f"reused {len(kept) - 1} of {len(kept)} passes" in shown(graph) and len(steps) > count
    changed = [k for k in range(20) if not torch.equal(gap[:, :, k], first[:, :, k])]
    assert changed and changed[-1] - changed[0] < 4
    other = {**load(precision="bfloat16"), **words(), **canvas(SECONDS, width=32), **plan("foresight"), **sample("plan", seed=104)}
    graph.run(other, ["sample", 0])
    assert "reused" not in shown(graph), "another model is another pass"


def test_gaps_that_share_a_forward_are_those_made_alone(graph, steps, monkeypatch):
    from sora_pack.nodes import sample_video

    longer = canvas(10.0, width=32)  # 21 cells: two gaps look alike
    alone = graph.run({**BEGIN, **longer, **plan("foresight", redo="2=9"), **sample("plan", seed=115)}, ["sample", 0])["samples"]
    count = len(steps)
    monkeypatch.setattr(sample_video, "at_once_on", lambda device, tokens, batch: 1000)
    monkeypatch.setattr(sample_video, "job_for", lambda *a: (None, ""))
    together = graph.run({**BEGIN, **longer, **plan("foresight", redo="2=9 "), **sample("plan", seed=115)}, ["sample", 0])["samples"]
    assert (together - alone).abs().max() < 1e-4
    assert len(steps) - count < count, "fewer forwards"


def test_another_file_of_the_model_is_another_pass(graph, steps):
    import os

    from sora_pack.nodes.load_model import find

    def run():  # the host writes what it knows of a file into the node itself: each run has its own
        graph.run({**BEGIN, **load(), **plan("rollout"), **sample("plan", seed=114, steps=1, guidance=1.0)}, ["sample", 0])

    run()
    file, count = find("tiny.safetensors"), len(steps)
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    run()
    assert "reused" not in shown(graph) and len(steps) == 2 * count
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    run()
    assert "reused 3 of 3 passes" in shown(graph) and len(steps) == 2 * count


def test_another_rate_is_another_pass(graph):
    """The host's Wan is told by its positions alone: here the noise is that of ComfyUI, which is the same at every rate."""
    wan = {"wan": node("UNETLoader", unet_name="tiny.safetensors", weight_dtype="default"), "noise": node("RandomNoise", noise_seed=1)}
    run = sample(model=("wan", 0), noise=["noise", 0], seed=115, steps=1, guidance=1.0)
    slow, fast = {**canvas(SECONDS, 8.0, width=32)}, {**canvas(SECONDS / 2, 16.0, width=32)}
    one, other = (graph.run({**load(), **words(), **wan, **rate, **run}, ["sample", 0])["samples"] for rate in (slow, fast))
    assert "rollout: 3 passes" in shown(graph) and "reused" not in shown(graph)
    assert one.shape == other.shape and not torch.equal(one, other)


def test_a_model_is_what_it_was_loaded_from(graph, tmp_path):
    """A file that is overwritten while the host runs: the old MODEL has the old weights."""
    from sora_pack.nodes.graph_facts import facts_of

    class Model:
        pass

    file, old, new = tmp_path / "lora.safetensors", Model(), Model()
    file.write_bytes(b"1")
    before = facts_of(old, {}, str(file))
    file.write_bytes(b"12")
    assert facts_of(old, {}, str(file)) == before != facts_of(new, {}, str(file))
    assert facts_of(None, {}, 3) == 3


def test_a_string_in_the_graph_may_be_any_path(graph, tmp_path, monkeypatch):
    """Of a file its facts count, also outside the host's folders; what leaves these is no error."""
    import folder_paths

    from sora_pack.nodes.graph_facts import facts_above

    file = tmp_path / "lora.safetensors"
    for text in (str(file), "../lora.safetensors", "/no/such/lora.safetensors", "的" * 100):
        assert facts_above({}, text) == [text]
    file.write_bytes(b"1")
    before = facts_above({}, str(file))
    file.write_bytes(b"12")
    assert before[0] == str(file) and before != facts_above({}, str(file))

    pictures = Path(folder_paths.get_input_directory()) / "lora_pictures"
    pictures.mkdir()
    before = facts_above({}, "lora_pictures")
    (pictures / "1.png").write_bytes(b"1")
    assert before == ["lora_pictures"] and len(facts_above({}, "lora_pictures")) == 2, "pictures of a folder count"

    def of_another_drive(kind, name):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(folder_paths, "get_full_path", of_another_drive)
    assert facts_above({}, "4:3") == ["4:3"]


def test_a_short_video_is_not_kept(graph):
    before = passes_kept()
    graph.run({**load(), **words(), **canvas(), **sample(seed=105)}, ["sample", 0])
    assert passes_kept() == before


def test_one_changed_shot(graph):
    def run(script):
        return graph.run(
            {**load(), **storyboard(script), **canvas(SECONDS, width=32), **plan("foresight"), **sample("plan", seed=106)}, ["sample", 0]
        )["samples"]

    before = run(SCRIPT)
    after = run(SCRIPT.replace("bounces", "jumps"))
    note = shown(graph)
    reused, passes = (int(word) for word in note.split("reused ")[1].replace(" passes", "").split(" of "))
    assert 0 < reused < passes
    changed = [k for k in range(20) if not torch.equal(before[:, :, k], after[:, :, k])]
    assert changed == list(range(7, 13)), "the cells of the second shot, and no others"


def test_a_storyboard_works_in_one_pass_and_with_the_hosts_sampler(graph):
    from sora_pack.tests.host.prompts import ksample

    script = "[0-0.5 s] a red ball\n[0.5-1 s] cut. rolls"
    begin = {**load(), **canvas(width=32)}
    for run in (sample(seed=107), ksample(seed=107)):
        first = graph.run({**begin, **storyboard(script), **run}, ["sample", 0])["samples"]
        other = graph.run({**begin, **storyboard(script.replace("rolls", "a")), **run}, ["sample", 0])["samples"]
        assert first.isfinite().all() and not torch.equal(first, other)


def test_shots_in_one_pass_are_guided_as_the_core_guides_them(graph):
    """What differs between two shots is no motion, by Sora Sampler, by the host's sampler, and in the core's own loop."""
    import folder_paths

    from sora_pack.sora_core.autoencoder import denormalise
    from sora_pack.sora_core.checkpoint import load_transformer
    from sora_pack.sora_core.generate import generate
    from sora_pack.sora_core.plan import Lattice, single
    from sora_pack.tests.host.prompts import custom_sample

    core, header = load_transformer(folder_paths.get_full_path("diffusion_models", "tiny.safetensors"))
    begin = {**load(), **canvas(width=32), **storyboard("[0-0.5 s] a red ball\n[0.5-1 s] cut. rolls")}
    run = {**begin, **sample("plan", steps=4), **plan("single")}
    ours, words, latent = graph.run(run, ["sample", 0], ["words", 0], ["plan", 0])
    hosts = {**begin, **custom_sample("canvas", steps=4), "no": node("SoraPrompt", clip=["load", 1], text="")}
    hosts["guider"]["inputs"]["negative"] = ["no", 0]
    theirs = graph.run(hosts, ["sample", 0])
    assert torch.allclose(ours["samples"], theirs["samples"], atol=1e-5)
    [[rows, extra]], shape = words, latent["sora"].canvas.shape
    at = Lattice(shape.cells, frozenset(), (0, 0, 1))
    options = {"shot_words": list(extra["sora"].rows), "plan": single(at), "steps": 4, "guidance": 3.0, "seed": 7, "solver": "euler"}
    made = denormalise(generate(core, header, torch.zeros_like(rows), shape, **options))
    assert (ours["samples"] - made).abs().max() < 1e-3


@pytest.mark.parametrize("behind", ["ConditioningConcat", "ConditioningAverage"])
def test_words_that_are_changed_behind_a_storyboard_are_refused(graph, behind):
    begin = {**load(), **canvas(width=32), **storyboard("[0-0.5 s] a red ball\n[0.5-1 s] cut. rolls")}
    other = {"other": node("SoraPrompt", clip=["load", 1], text="at night")}
    strength = {} if behind == "ConditioningConcat" else {"conditioning_to_strength": 0.5}
    changed = {"changed": node(behind, conditioning_to=["words", 0], conditioning_from=["other", 0], **strength)}
    run = sample(seed=119)
    run["sample"]["inputs"]["positive"] = ["changed", 0]
    with pytest.raises(Failed, match="a node behind 'Sora Storyboard'.* has changed its words"):
        graph.run({**begin, **other, **changed, **run}, ["sample", 0])


def test_a_storyboard_made_zero_is_no_words(graph, monkeypatch):
    """ConditioningZeroOut leaves the shots where they are, and their pictures."""
    heard, network = [], type(graph.run(load(), ["load", 0]).model.diffusion_model)
    inner = network._forward

    def forward(self, x, timestep, context, *args, **more):
        heard.append(more.get("shot_context") or [context])
        return inner(self, x, timestep, context, *args, **more)

    monkeypatch.setattr(network, "_forward", forward)
    from sora_pack.tests.host.prompts import ksample

    pictured = {**picture("first", width=32), **fields((0.5, "a red ball", "", "first"), (0.5, "rolls", "cut"))}
    for board, run in ((pictured, sample(seed=117, steps=2)), (storyboard("[0-0.5 s] a red ball\n[0.5-1 s] rolls"), ksample(steps=2))):
        heard.clear()
        run["sample"]["inputs"]["negative"] = ["zero", 0]
        zero = {"zero": node("ConditioningZeroOut", conditioning=["words", 0])}
        graph.run({**load(), **canvas(width=32), **board, **zero, **run}, ["sample", 0])
        assert {any(rows.any() for rows in said) for said in heard} == {False, True}


def test_storyboard_shows_and_gives_what_it_read(graph):
    seconds, fps = graph.run({**load(), **storyboard("[0-1.1 s] a ball\n[1.1-2 s] cut. a red ball")}, ["words", 1], ["words", 2])
    assert (seconds, fps) == (2.0, 8.0)
    assert shown(graph, "words").startswith("0-1 s, frames 0-8: a ball\n1-2 s, cut, frames 9-16: a red ball")


def test_the_hosts_own_model_rolls_out_shot_by_shot(graph):
    """Load Diffusion Model opens the same file as the host's Wan: each window hears the words of its shot."""
    begin = {
        **load(),
        **storyboard(),
        **canvas(SECONDS, width=32),
        "wan": node("UNETLoader", unet_name="tiny.safetensors", weight_dtype="default"),
    }
    run = sample("canvas", model=("wan", 0), seed=111)
    before = graph.run({**begin, **run}, ["sample", 0])["samples"]
    assert "rollout: 3 passes, at most 10 of 20 cells" in shown(graph)
    after = graph.run({**begin, **storyboard(SCRIPT.replace("stops", "a")), **run}, ["sample", 0])["samples"]
    assert before.isfinite().all() and torch.equal(before[:, :, :13], after[:, :, :13]) and not torch.equal(before, after)
    assert "reused 2 of 3 passes" in shown(graph)
    with pytest.raises(Failed, match="this MODEL was not made for: use rollout"):
        graph.run({**begin, **plan("foresight", model=["wan", 0])}, ["plan", 0])


def test_a_long_canvas_is_measured_by_its_passes(graph, monkeypatch):
    from sora_pack.sora_core import speed

    monkeypatch.setattr(speed, "machine_memory", lambda device="cpu": 14 * 10**8)
    begin = {**load(), **canvas(600.0, width=128, height=128)}
    with pytest.raises(Failed, match=r"600 s need about .* GB, there are 1.3 GB: use at most .* s of this size"):
        graph.run({**begin, **plan("single")}, ["plan", 0])
    graph.run({**begin, **plan("rollout")}, ["plan", 0])


def test_what_is_refused(graph):
    with pytest.raises(Refused, match="script: line 2, column 4: the shot begins at 4 s: use 3"):
        graph.run({**load(), **storyboard("[0-3] a\n [ 4-6] b"), **canvas(), **sample()}, ["sample", 0])
    with pytest.raises(Refused, match="redo: 'x' names no pass"):
        graph.run({**BEGIN, **plan(redo="x")}, ["plan", 0])
    with pytest.raises(Failed, match="redo: there is no pass 99: use 0 to"):
        graph.run({**BEGIN, **plan("rollout", redo="99=1")}, ["plan", 0])
    with pytest.raises(Failed, match="overlap 9 does not fit a window of 5 cells: use 1 to 4"):
        graph.run({**BEGIN, **plan("rollout", window=5, overlap=9)}, ["plan", 0])


def test_jobs_are_listed_and_deleted_by_name(graph):
    graph.run({**BEGIN, **plan("rollout"), **sample("plan", seed=108)}, ["sample", 0])
    listed = graph.run({"jobs": node("SoraJobs", delete="")}, ["jobs", 0])
    line = next(line for line in listed.splitlines() if "seed 108" in line)
    assert "3 of 3 passes" in line and "MB, just now, 32x32, 9.5 s" in line
    name = line.split(":")[0]
    left = graph.run({"jobs": node("SoraJobs", delete=name)}, ["jobs", 0])
    assert f"deleted {name}" in left and not any(line.startswith(name) for line in left.splitlines())
    assert f"no job {name}" in graph.run({"jobs": node("SoraJobs", delete=name)}, ["jobs", 0])


@pytest.mark.parametrize(
    "solver, pair", [("sora_ancestral", {}), ("euler", {}), ("heun", {}), *(("euler", {"switch_sigma": s}) for s in SWITCHES)]
)
def test_a_killed_pass_goes_on_where_it_was(graph, steps, monkeypatch, solver, pair):
    """A failure in the middle of a pass, as a kill would be: the steps that were saved are not made again, the bits are the same. Of a
    pair the first or the second MODEL is killed."""
    from sora_pack.nodes.passes import RESUMABLE
    from sora_pack.sora_core import jobs

    assert solver in RESUMABLE and len(RESUMABLE) == 3, "every solver that can go on is one of these"
    pair = pair and {**pair, "low_noise_model": ["load", 0]}
    prompt = {**load(), **words(), **canvas(), **sample(seed=109, steps=6, guidance=1.0, sampler_name=solver, **pair)}
    whole = graph.run(prompt, ["sample", 0])["samples"]
    forwards = len(steps)
    monkeypatch.setattr(jobs.Job.__init__, "__kwdefaults__", {"every": 0.0, "least": 0.0})
    import comfy.model_management

    def interrupt():
        if len(steps) == forwards + 4:
            raise RuntimeError("killed")

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupt)
    fresh = {**prompt, **canvas(1.0, fps=8.0)}
    fresh["canvas"]["inputs"]["seconds"] = 0.999  # the same canvas, not from the host's cache
    with pytest.raises(Failed, match="killed"):
        graph.run(fresh, ["sample", 0])
    steps.append(0)
    made = graph.run(fresh, ["sample", 0])["samples"]
    # The fourth forward was lost as it began; a step, which is one or two, is saved before it is taken.
    again, most = len(steps) - forwards - 5, forwards - 3 + (2 if solver == "heun" else 1)
    assert torch.equal(made, whole) and again <= most, f"{again} forwards of {forwards}, at most {most}"


@pytest.mark.parametrize("kind, files", [("webm", 1), ("mp4", 1), ("png", 9)])
def test_a_video_is_saved_as(graph, monkeypatch, kind, files):
    import av
    from PIL import Image

    from sora_pack.sora_core.video_file import video_facts
    from sora_pack.tests.host.prompts import decode

    execute, page = graph.executor.execute, {"extra_pnginfo": {"workflow": {"nodes": [{"id": 1, "title": "左"}]}}}
    monkeypatch.setattr(graph.executor, "execute", lambda prompt, number, _, outputs: execute(prompt, number, page, outputs))
    saved = {"saved": node("SoraSave", video=["video", 0], filename_prefix=f"video/{kind}", format=kind)}
    path = Path(graph.run({**load(), **words(), **canvas(), **sample(seed=110), **decode(), **saved}, ["saved", 0]))
    if kind == "png":
        assert len(list(path.iterdir())) == files
        tags = Image.open(path / "00009.png").text
    else:
        facts = video_facts(path)
        assert (facts.width, facts.height, facts.frames, facts.fps) == (64, 32, 9, 8)
        with av.open(str(path)) as file:
            tags = {name.lower(): value for name, value in file.metadata.items()}  # WebM has them in capitals
    assert json.loads(tags["workflow"]) == page["extra_pnginfo"]["workflow"]
    assert json.loads(tags["prompt"])["saved"]["inputs"]["format"] == kind


@pytest.mark.parametrize("prefix, name", [("clips/", "clips/sora"), ("", "sora")])
def test_a_prefix_without_a_name_overwrites_nothing(graph, prefix, name):
    from sora_pack.tests.host.prompts import decode

    saved = {"saved": node("SoraSave", video=["video", 0], filename_prefix=prefix, format="webm")}
    paths = [
        Path(graph.run({**load(), **words(), **canvas(), **sample(seed=s, steps=1), **decode(), **saved}, ["saved", 0])) for s in (1, 2)
    ]
    assert all(re.search(rf"/{name}_\d{{5}}_\.webm$", path.as_posix()) and path.is_file() for path in paths) and paths[0] < paths[1], paths
    assert all(path.stat().st_size > 100 for path in paths)


def test_a_prefix_holds_the_date_and_nothing_that_the_page_does_not_fill_in(graph, pack):
    from datetime import datetime

    from sora_pack.nodes.save_video import dated
    from sora_pack.tests.host.prompts import decode

    now = datetime.now()
    assert dated("clips/%date:yyyy-MM%/%width%") == f"clips/{now:%Y-%m}/%width%"
    assert dated("%date:yy.M.d_hh%") == f"{now:%y}.{now.month}.{now.day}_{now:%H}", "one letter is a number as it is"
    saved = {"saved": node("SoraSave", video=["video", 0], filename_prefix="%KSampler.seed%", format="webm")}
    sentence = refusal(graph, {**load(), **words(), **canvas(), **sample(), **decode(), **saved}, ["saved", 0])
    assert "filename_prefix: %KSampler.seed% is filled in for ComfyUI's own nodes alone" in sentence


# -- shots from fields, with pictures ------------------------------------------------------------------------------------------------


def fields(*shots, words="a red ball.") -> dict:
    """A storyboard of (seconds, words, transition) or (seconds, words, transition, node of a picture)."""
    inputs = {"shots": str(len(shots))}
    for k, (seconds, shown_words, transition, *picture_of) in enumerate(shots, start=1):
        inputs |= {f"shots.seconds_{k}": seconds, f"shots.words_{k}": shown_words}
        if k > 1:
            inputs[f"shots.transition_{k}"] = transition
        if picture_of:
            inputs[f"shots.picture_{k}"] = [picture_of[0], 0]
    return {"words": node("SoraStoryboard", clip=["load", 1], vae=["load", 2], script=words, fps=8.0, **inputs)}


def test_fields_are_the_script(graph):
    typed, filled = (
        graph.run({**load(), **board}, ["words", 0], ["words", 1])
        for board in (storyboard(), fields((3.0, "rolls", ""), (3.0, "bounces", "cut"), (3.5, "stops", "cut")))
    )
    assert typed[1] == filled[1] == 9.5
    one, other = (words[0][1]["sora"] for words, _ in (typed, filled))
    assert (one.starts, one.cuts) == (other.starts, other.cuts) == ((0.0, 3.0, 6.0), (False, True, True))
    assert all(torch.equal(a, b) for a, b in zip(one.rows, other.rows))
    going_on = graph.run({**load(), **fields((3.0, "rolls", ""), (3.0, "bounces", "continuous"))}, ["words", 0])
    assert going_on[0][1]["sora"].cuts == (False, False)


PICTURED = fields((3.0, "rolls", "", "first"), (3.0, "bounces", "cut"), (3.5, "stops", "cut", "third"))
TWO = {**picture("first", width=32, color=0x3366CC), **picture("third", width=32, color=0xCC3300)}


def pictures_of(graph, made) -> list[tuple[int, int]]:
    """(frame, source) of the frames of a result that are given."""
    at, given = 0, []
    for piece in made["sora"].canvas.timeline.pieces:
        if piece.source >= 0:
            given.append((at, piece.source))
        at += piece.count
    return given


def test_a_picture_begins_its_shot(graph, steps):
    """Each is exactly its frame: the first is a known cell, the third a guide that the passes around it see. They can be placed by hand."""
    begin = {**load(), **TWO, **canvas(SECONDS, width=32)}
    by_field = graph.run({**begin, **PICTURED, **plan("foresight", positive=["words", 0]), **sample("plan", seed=112)}, ["sample", 0])
    assert pictures_of(graph, by_field) == [(0, 0), (49, 1)]
    assert [guide.frame for guide in by_field["sora"].canvas.guides] == [49] and by_field["sora"].canvas.known == [0]
    bare = fields((3.0, "rolls", ""), (3.0, "bounces", "cut"), (3.5, "stops", "cut"))
    by_hand = {**place(image="first", name="one"), **place(49 / 8, image="third", latent="one", name="two")}
    by_hand = graph.run({**begin, **bare, **by_hand, **plan("foresight", "two"), **sample("plan", seed=112)}, ["sample", 0])
    assert torch.equal(by_field["samples"], by_hand["samples"])

    decoded = graph.run({**begin, **PICTURED, **plan("foresight"), **sample("plan", seed=112), **frames()}, ["frames", 0])
    for frame, color in ((0, (0x33, 0x66, 0xCC)), (49, (0xCC, 0x33, 0x00))):
        assert torch.equal(decoded[frame], torch.tensor(color).expand(32, 32, 3) / 255), f"frame {frame} is not the picture"


def test_the_plan_knows_the_pictures(graph):
    begin = {**load(), **TWO, **canvas(SECONDS, width=32), **PICTURED}
    planned = graph.run({**begin, **plan("foresight", positive=["words", 0])}, ["plan", 0])
    assert shown(graph, "plan").split("\n", 1)[1].count("o") and not planned["sora"].canvas.spans
    assert any(line.startswith("0 sketch o") for line in shown(graph, "plan").splitlines()), "cell 0 is the first picture, so it is seen"


def test_pictures_that_cannot_be_placed_are_refused(graph):
    from sora_pack.tests.host.prompts import ksample

    begin = {**load(), **TWO, **PICTURED}
    with pytest.raises(Failed, match="only 'Sora Sampler' puts the pictures of shots on the canvas"):
        graph.run({**begin, **canvas(SECONDS, width=32), **ksample()}, ["sample", 0])
    with pytest.raises(Failed, match="negative: its storyboard has pictures"):
        graph.run({**begin, **canvas(SECONDS, width=32), **sample(negative=["words", 0])}, ["sample", 0])
    with pytest.raises(Failed, match="shot 3 begins with a picture at 6 s, the canvas ends at 5: make it longer"):
        graph.run({**begin, **canvas(5.0, width=32), **sample()}, ["sample", 0])
    with pytest.raises(Failed, match="no canvas any more"):
        graph.run(
            {**begin, "canvas": node("EmptyHunyuanLatentVideo", width=32, height=32, length=17, batch_size=1), **sample()}, ["sample", 0]
        )
    three = {"third": node("EmptyImage", width=32, height=32, batch_size=3, color=0)}
    with pytest.raises(Failed, match="picture_3: 3 pictures for 1 video: give 1"):
        graph.run({**begin, **three, **canvas(SECONDS, width=32), **sample()}, ["sample", 0])


@pytest.mark.usefixtures("clip_node")
@pytest.mark.parametrize("name, first", [("forward", 14), ("fill", 4), ("loop", 14)])
def test_a_storyboard_tells_what_is_made_behind_a_given_video(graph, name, first):
    """Second 0 is the first made frame: shots are as long as they were told, and no picture of a shot takes the place of a given frame."""
    verbs = {"forward": extend(seconds=1.0), "fill": fill(0.5, 1.5), "loop": verb("SoraLoop", seconds=1.0)}
    two = fields((0.5, "a red ball", "", "red"), (0.5, "rolls", "cut", "blue"))
    prompt = {**load(), **clip(width=32), **verbs[name], **two, **sample(seed=130), **frames()}
    for color, number in (("red", 0xFF0000), ("blue", 0x0000FF)):
        prompt |= picture(color, width=32, color=number)
    result, given, red, blue = graph.run(prompt, ["frames", 0], ["clip", 0], ["red", 0], ["blue", 0])
    assert torch.equal(result[:first], given[:first])
    assert torch.equal(result[first], red[0]) and torch.equal(result[first + 4], blue[0])
    assert "storyboard" not in shown(graph)


def test_a_storyboard_of_another_length_or_rate_is_told(graph):
    begin = {**load(), **storyboard(), **canvas(1.0, width=32)}  # the script lasts longer
    graph.run({**begin, **plan("single", positive=["words", 0]), **sample("plan", seed=131)}, ["sample", 0])
    for text_of in ("sample", "plan"):
        assert "what is made 1 s: its end is not made; connect its seconds" in shown(graph, text_of)
    graph.run({**begin, **canvas(SECONDS, fps=4.0, width=32), **sample(seed=131)}, ["sample", 0])
    assert "the storyboard is for 8 frames a second, the canvas has 4" in shown(graph)


def test_redo_counts_the_passes_of_the_same_shots(graph):
    begin = {**load(), **storyboard(), **canvas(SECONDS, width=32)}
    with pytest.raises(Failed, match="numbers the passes of other shots: connect the same CONDITIONING"):
        graph.run({**begin, **plan("foresight", redo="1=5"), **sample("plan", seed=132)}, ["sample", 0])
    graph.run({**begin, **plan("foresight", redo="1=5", positive=["words", 0]), **sample("plan", seed=132)}, ["sample", 0])


@pytest.mark.parametrize(
    "board, says",
    [
        (fields((2.0, "a", ""), (2.0, " ", "cut")), "shot 2: the shot has no words"),
        (fields((2.0, "a", ""), words="[0-2 s] b"), "line 1, column 1: here a shot begins, but the shots have fields"),
        (fields((2.0, "a", ""), (0.0, "b", "cut")), "shot 2: 0 s are no length"),
        (fields((2.0, "a", ""), (2.0, "b", "melt")), "'melt' not in"),
    ],
)
def test_wrong_fields_are_refused(graph, board, says):
    assert says in refusal(graph, {**load(), **board}, ["words", 0])
