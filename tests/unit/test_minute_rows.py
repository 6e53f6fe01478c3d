"""The rows of a minute: every measure is met by renders and told apart from spoiled renders; a film is made once."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from sora_pack.sora_core import jobs
from sora_pack.sora_core.evaluation import minute
from sora_pack.sora_core.evaluation.bench import Bench, Budget
from sora_pack.sora_core.evaluation.report import met
from sora_pack.sora_core.evaluation.shots import cuts_in, render_shots
from sora_pack.sora_core.evaluation.studio import Studio
from sora_pack.sora_core.pipeline import Pipeline
from sora_pack.sora_core.plan import Lattice, foresight, rollout, single
from sora_pack.sora_core.shapes import Strides, VideoShape
from sora_pack.sora_core.storyboard import listed, snap
from sora_pack.sora_core.world import is_held_out, render, sample_scene, sample_shots
from sora_pack.sora_core.world.sight import sight
from sora_pack.tests.tiny_model import write_tiny_model

FPS, S = 8.0, Strides()


@pytest.fixture(scope="module")
def shots():
    """Two casts of four shots of 2.5 s: (storyboard, starts, frames)."""
    made = []
    for seed in (minute.CASTS, minute.CASTS + 1):
        scenes = sample_shots(seed, minute.SHOTS)
        board = snap(minute.shot_board(scenes, 2.5), FPS, S)
        shape = VideoShape(48, 48, S.cells(81), FPS)
        where = minute.shot_frames(board, shape)
        frames = render_shots(scenes, [b - a for a, b in where], FPS, shape.width, shape.height)
        made.append((board, [first for first, _ in where], frames))
    return made


# -- borders of passes ---------------------------------------------------------------------------------------------------------------


def test_joins_and_borders_are_those_of_the_plan():
    lattice = Lattice(25)
    plan = foresight(lattice, 8)  # the opening, 0 to 8; sketched: 16, 24
    assert minute.joins(plan) == 2 and minute.joins(rollout(lattice, 11, 3)) == 2 and minute.joins(single(lattice)) == 1
    between, inside = minute.cell_borders(plan, S)
    assert between == [33, 61, 65, 93] and len(between) + len(inside) == 24 and not set(between) & set(inside)
    cut = minute.cell_borders(rollout(Lattice(25, takes=(0,) * 9 + (1,) * 16, shots=(0,) * 9 + (1,) * 16), 11, 3), S)
    assert 33 not in cut[0] + cut[1], "a cut is no border"


def test_a_first_frame_of_another_light_is_seen():
    scene = sample_scene(3, cameras=("orbit",))
    frames = render(scene, [k / FPS for k in range(97)], 48, 48)
    assert minute.beginning_jump(frames, FPS) == pytest.approx(1.0, abs=0.2)
    spoiled = torch.cat([frames[:1] // 2, frames[1:]])
    assert minute.beginning_jump(spoiled, FPS) > 5


def test_a_jump_between_passes_is_seen_and_renders_have_none():
    plan = foresight(Lattice(25), 8)
    scene = sample_scene(3, cameras=("orbit",))
    frames = render(scene, [k / FPS for k in range(97)], 48, 48)
    assert minute.border_jump(frames, plan, S) == pytest.approx(1.0, abs=0.1)
    spoiled = frames.int()
    for number, p in enumerate(plan.passes):
        for k in p.make:
            spoiled[S.frames(k) if k else 0 : S.frames(k + 1)] += 6 * (number % 2)
    assert minute.border_jump(spoiled.clamp(0, 255).byte(), plan, S) > 1.2
    assert minute.border_jump(frames, single(Lattice(25)), S) is None


def test_drift_at_each_join_counts_both_ways():
    for ratios in ([0.9, 0.9], [1 / 0.9], [0.9, 1 / 0.9]):
        assert minute._a_join(np.array(ratios)) == pytest.approx(1 / 0.9), ratios
    assert minute._excess(np.array([0.5, 2.0])) == pytest.approx(0, abs=1e-6)


# -- shots ---------------------------------------------------------------------------------------------------------------------------


def test_cuts_of_renders_are_where_they_were_asked_for(shots):
    for _, starts, frames in shots:
        assert starts == [0, 21, 41, 61] and cuts_in(frames) == starts[1:]


def test_a_cut_that_is_late_or_soft_is_missed(shots):
    _, starts, frames = shots[0]
    late = torch.cat([frames[:21], frames[20:21], frames[21:-1]])
    assert 21 not in cuts_in(late)
    soft = frames.float()
    for i in range(4):
        soft[19 + i] = (1 - (i + 1) / 5) * frames[18].float() + (i + 1) / 5 * frames[23].float()
    assert 21 not in cuts_in(soft.byte()) and 41 in cuts_in(soft.byte())
    flash = frames.clone()
    flash[30:32] = 255
    assert set(cuts_in(flash)) - set(starts), "a flash is a cut that nobody asked for"


def test_the_words_of_shots_fit_and_name_the_characters(shots):
    for board, *_ in shots:
        assert board.words and [shot.cut for shot in board.shots] == [False, True, True, True]


# -- hiding --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [1.0, 5.0, 15.0])
def test_a_covered_body_is_hidden_so_long_and_seen_before_and_after(hidden):
    for seed in range(minute.STORIES, minute.STORIES + 3):
        case = minute.covered(seed, hidden, FPS)
        seen = sight(case.scene, torch.arange(case.frames, dtype=torch.float64) / FPS)
        under = seen.under[:, case.body]
        assert abs(int(under.sum()) / FPS - hidden) <= 1 / FPS and under[case.middle]
        assert not under[: case.last + 1].any() and not under[case.back :].any() and case.frames - case.back == 17
        frames = render(case.scene, [case.last / FPS, case.middle / FPS, case.back / FPS, (case.back + 8) / FPS], 48, 48).float()
        changed = [float((frame - frames[0]).abs().mean()) for frame in frames[1:]]
        assert changed[0] > 0.5, "a cover is in the picture"
        assert is_held_out(case.scene)


@pytest.mark.parametrize("away", [1.0, 5.0, 15.0])
def test_a_body_that_leaves_is_gone_so_long_and_seen_before_and_after(away):
    for seed in range(minute.STORIES, minute.STORIES + 3):
        case = minute.departed(seed, away, FPS)
        seen = sight(case.scene, torch.arange(case.frames, dtype=torch.float64) / FPS)
        gone, inside = (seen.out_left | seen.out_right)[:, case.body], seen.inside[:, case.body]
        assert abs(int(gone.sum()) / FPS - away) <= 2 / FPS and gone[case.middle]
        assert inside[: case.last + 1].all() and case.frames - case.back == 17
        assert inside[case.back : case.back + 12].all(), "it is back for most of what is looked at"
        assert case.last >= 2 and is_held_out(case.scene)


# -- one plan beside the other -------------------------------------------------------------------------------------------------------


def test_foresight_is_compared_with_rollout_film_by_film():
    hits = {"foresight": [True] * 9 + [False], "rollout": [True, True] + [False] * 8, "renders": [True] * 10}
    more = list(minute._shares("returns", hits, 0.9, minute.MORE))[-1]
    assert (more.name, more.value, more.n) == ("foresight - rollout: returns", pytest.approx(0.7), 10) and met(more)
    assert not met(list(minute._shares("returns", {**hits, "foresight": hits["rollout"]}, 0.9, minute.MORE))[-1])
    assert met(list(minute._shares("returns", {**hits, "foresight": hits["rollout"]}, 0.9))[-1]), "equal is not worse"
    ratios = {"foresight": [0.98, 1.01], "rollout": [1.3, 0.8]}
    swapped = {"foresight": ratios["rollout"], "rollout": ratios["foresight"]}
    less, worse = (list(minute._means("drift", made, None, 1, bad=minute._off))[-1] for made in (ratios, swapped))
    assert met(less) and not met(worse) and less.value == -worse.value < 0
    assert not list(minute._means("jump", {"foresight": [1.0], "rollout": []}, None, None))[1:], "nothing to compare with"


# -- exactness, cost -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    model = write_tiny_model(folder)
    studio = Studio(Pipeline.load(model, torch.float32), folder / "films", steps=2)
    return Bench(studio, None, Budget(prompts=1, paired=1, first_stage=1, minute_side=32, films=1), {"path": str(model)})


def test_a_killed_run_is_compared_with_one_that_nobody_disturbed(bench, monkeypatch):
    kills, inner = [], minute._Killed.__init__
    monkeypatch.setattr(minute._Killed, "__init__", lambda self: kills.append(1) or inner(self))
    twice, killed, batched = minute.exact_rows(bench)
    assert (twice.value, killed.value, len(kills)) == (0, 0, 1) and met(twice) and met(killed)
    assert 0 < batched.value and met(batched), "gaps in one forward round otherwise"
    read = jobs.read_kept
    spoil = lambda kept: kept and {name: t + 1 if t.is_floating_point() else t for name, t in kept.items()}  # noqa: E731
    monkeypatch.setattr(jobs, "read_kept", lambda *a: spoil(read(*a)))
    twice, killed, _ = minute.exact_rows(bench)
    assert twice.value == 0 and killed.value > 0.1 and not met(killed)


def test_cost_of_both_plans_and_of_twice_the_length(bench, monkeypatch):
    def child(command):
        seconds, kind = float(command[5]), command[-1]
        return json.dumps([(2 if kind == "foresight" else 3) * seconds, seconds, 100 + seconds])

    monkeypatch.setattr(subprocess, "check_output", child)
    rows = {row.name: row for row in minute.minute_cost_rows(bench)}
    assert rows["cost: processor seconds a second of video, 30 s by rollout"].value == 3
    memory = {kind: rows[f"memory of 60 s over 30 s by {kind}"] for kind in minute.KINDS}
    assert memory["foresight"].value == pytest.approx(160 / 130) and not met(memory["foresight"]) and memory["rollout"].bar is None
    assert met(rows["cost of a second, 60 s over 30 s by foresight"])


SPY = """
import sys
sys.path.insert(0, sys.argv[1])
import sora_core.video_file as files
write = files.write_video
files.write_video = lambda target, chunks, fps: write(target, (print(len(chunk)) or chunk for chunk in chunks), fps)
"""


def test_what_is_timed_decodes_as_it_writes(bench, root):
    settings = ("4", "32", "1", "2.0", "rollout")
    command = [sys.executable, "-c", SPY + minute.COST, str(root), json.dumps(bench.source), *settings]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lengths, last = done.stdout.splitlines()
    assert sum(map(int, lengths)) == 33 and len(lengths) > 1 and all(number > 0 for number in json.loads(last))


# -- films ---------------------------------------------------------------------------------------------------------------------------


def test_a_film_is_made_once_and_keeps_what_is_given(tmp_path, monkeypatch):
    studio = Studio(Pipeline.load(write_tiny_model(tmp_path), torch.float32), tmp_path / "films", steps=1)
    board = snap(listed("a red ball.", [(3.0, "rolls.", False), (4.5, "stops.", True)]), FPS, S)
    shape = VideoShape(32, 32, 16, FPS)
    known = torch.randn(1, *shape.latent)[:, :, :2]
    made = {kind: minute.make_film(studio, board, shape, 5, kind, known) for kind in minute.KINDS}
    for kind, (frames, plan) in made.items():
        assert plan.kind == kind and frames.shape == (61, 32, 32, 3) and plan.lattice.known == {0, 1}
        assert torch.equal(frames[:5], studio.decode(known))
    assert not torch.equal(made["foresight"][0], made["rollout"][0])
    monkeypatch.setattr(minute, "_make", lambda *_: pytest.fail("made again"))
    assert torch.equal(minute.make_film(studio, board, shape, 5, "rollout", known)[0], made["rollout"][0])
    for other in ((board, shape, 6, "rollout", known), (board, shape, 5, "rollout", known + 1), (board, shape, 5, "rollout")):
        with pytest.raises(pytest.fail.Exception):
            minute.make_film(studio, *other)
