"""The rows of a minute: every measure is met by renders and told apart from spoiled renders; a film is made once."""

import pytest
import torch

from sora_pack.sora_core.evaluation import minute
from sora_pack.sora_core.evaluation.shots import cuts_in, render_shots
from sora_pack.sora_core.evaluation.studio import Studio
from sora_pack.sora_core.pipeline import Pipeline
from sora_pack.sora_core.plan import Lattice, foresight, rollout, single
from sora_pack.sora_core.shapes import Strides, VideoShape
from sora_pack.sora_core.storyboard import listed, snap
from sora_pack.sora_core.world import render, sample_scene, sample_shots
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
    plan = foresight(lattice, 8)  # sketched: 0, 8, 16, 24
    assert minute.joins(plan) == 2 and minute.joins(rollout(lattice, 11, 3)) == 2 and minute.joins(single(lattice)) == 1
    between, inside = minute.cell_borders(plan, S)
    assert between == [1, 29, 33, 61, 65, 93] and len(between) + len(inside) == 24 and not set(between) & set(inside)
    cut = minute.cell_borders(rollout(Lattice(25, takes=(0,) * 9 + (1,) * 16, shots=(0,) * 9 + (1,) * 16), 11, 3), S)
    assert 33 not in cut[0] + cut[1], "a cut is no border"


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
    assert (
        minute._a_join(torch.tensor([0.9, 0.9]).numpy())
        == pytest.approx(1 / 0.9)
        == pytest.approx(minute._a_join(torch.tensor([1 / 0.9]).numpy()))
    )
    assert minute._excess(torch.tensor([0.5, 2.0]).numpy()) == pytest.approx(0, abs=1e-6)


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
