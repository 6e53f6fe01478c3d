"""The statistics of the verbs: every measure says what is known on renders, bad where they were spoiled; given frames come back."""

from dataclasses import replace

import pytest
import torch

from sora_pack.sora_core import verbs as choices
from sora_pack.sora_core.canvas import NEW, Piece
from sora_pack.sora_core.evaluation import verbs
from sora_pack.sora_core.evaluation.ball_tracking import BallTracker, change_of_speed, speed
from sora_pack.sora_core.evaluation.metrics import jump, seam_steps
from sora_pack.sora_core.evaluation.report import met
from sora_pack.sora_core.pipeline import SHIPPED, Pipeline
from sora_pack.sora_core.shapes import VideoShape
from sora_pack.tests.tiny_model import write_tiny_model

SIDE = 64
STILL = VideoShape(SIDE, SIDE, 1, 8.0)


@pytest.fixture(scope="module", params=["shipped", "random"])
def pipeline(request, tmp_path_factory):
    return Pipeline.load(SHIPPED if request.param == "shipped" else write_tiny_model(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def scene():
    return verbs.trial(0)


# -- measures ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 5])  # a room by day, snow at sunset, a meadow at night
def test_the_tracker_finds_the_ball_of_renders(number):
    scene = verbs.trial(number)
    path = BallTracker(scene.frames[0], scene.path[0], scene.radius).path(scene.frames)
    away = (path - scene.path).abs().max().item()
    assert away < 1, f"{away:.2f} pixels away"
    true = scene.path[:, 0].diff()
    assert true.std() < 0.01 * true.abs().mean(), "the speed is not constant"
    assert speed(path) == pytest.approx(true.mean().item(), rel=0.02)


def test_change_of_speed_of_renders_and_of_spoiled_ones(scene):
    given = scene.frames[:17].flip(0)
    faster = scene.frames[17:41:2]  # twice as fast, as if every second frame were missing
    standing = scene.frames[16:17].expand(8, -1, -1, -1)
    back = scene.frames[8:16].flip(0)
    gone = torch.zeros(8, *scene.frames.shape[1:])
    for made, change in ((scene.frames[17:25], 0), (faster[:8], 1), (standing, 1), (back, 2), (gone, 1)):
        assert change_of_speed(given, made, scene.path[16], scene.radius) == pytest.approx(change, abs=0.12)


def test_seam_steps_see_a_jump_and_no_more(scene):
    spoiled = scene.frames.clone()
    spoiled[17:] = (spoiled[17:] + 0.05).clamp(0, 1)
    (plain,), (bad,) = seam_steps(scene.frames, [17]), seam_steps(spoiled, [17])
    assert jump(*plain) < 1.1 and jump(*bad) > 3
    assert jump(*bad, allowed=bad[0] - bad[1]) == pytest.approx(1)


def test_a_rhythm_of_cells_is_no_seam():
    """Every fourth step is larger: among all steps that is a jump, among those of cells it is none."""
    levels = torch.tensor([0.0, *([0.02, 0.01, 0.01, 0.01] * 6)]).cumsum(0)
    frames = levels.view(-1, 1, 1, 1).expand(-1, 4, 4, 3)
    assert jump(*seam_steps(frames, [13])[0]) > 1.5 and jump(*seam_steps(frames, [13], 4)[0]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "canvas, lattice, result",
    [
        (choices.extend(STILL, 41, 8), [17], [41]),
        (choices.extend_backward(STILL, 41, 8), [9], [9]),
        (choices.fill(STILL, 41, 13, 29), [13, 29], [13, 29]),
        (choices.join(STILL, 17, 16, 8), [17, 25], [17, 25]),
        (choices.loop(STILL, 17, 8), [17, 25], [17, 25]),
    ],
)
def test_borders(canvas, lattice, result):
    assert verbs.borders(canvas) == (lattice, result)


def test_codec_error_is_that_of_given_frames_alone():
    canvas = choices.extend(STILL, 41, 8)
    given = torch.rand(41, 8, 8, 3)
    decoded = torch.cat([given[24:] + 0.25, torch.zeros(8, 8, 8, 3)])
    assert verbs.codec_error(canvas, decoded, [given]) == pytest.approx(0.25, abs=1e-6)


# -- scenes --------------------------------------------------------------------------------------------------------------------------


def test_two_scenes(pipeline, tmp_path, monkeypatch):
    """With any weights given frames come back and the seams of renders are none; what was measured is not measured again."""
    first = verbs.measure_all(pipeline, 1, tmp_path, side=SIDE, steps=1, guidance=1.0)
    both = verbs.measure_all(pipeline, 2, tmp_path, side=SIDE, steps=1, guidance=1.0)
    assert both[0] == first[0] and both[1] != both[0]
    rows = {row.name: row for row in verbs.rows_of(both)}
    kept = [row for name, row in rows.items() if "came back" in name]
    assert len(kept) == 7 and all(met(row) for row in kept)
    speeds = [row for name, row in rows.items() if "speed" in name]
    assert len(speeds) == 4 and all(row.n == 2 for row in speeds)
    assert all(0.8 < row.reference < 1.2 for name, row in rows.items() if name.endswith("hard") and row.reference is not None)
    monkeypatch.setattr(verbs, "measure", None)
    assert verbs.measure_all(pipeline, 2, tmp_path, side=SIDE) == both


def test_a_lost_frame_is_seen(pipeline, monkeypatch):
    """A result that changes what was given by a hair does not pass."""
    inner = verbs.result_frames
    monkeypatch.setattr(verbs, "result_frames", lambda *args, **more: (chunk + 1e-6 for chunk in inner(*args, **more)))
    found = verbs._Test(pipeline, 0, SIDE, {"steps": 1, "guidance": 1.0})
    found.judge("loop", choices.loop(found.still, 5, 4), [found.scene.frames[:5]], None)
    assert found.found.kept == {"loop": False}


def test_a_masked_remix_keeps_what_is_not_under_the_mask(pipeline):
    film = verbs.trial(1, SIDE).frames[:9]
    canvas, start, mask = choices.remix(STILL, [False] * 9), pipeline.encode(film), torch.ones(1, 1, 3, 8, 8)
    mask[..., :4] = 0
    made = pipeline.complete(canvas, [film], "a red ball", start=start, denoise=0.7, mask=mask, steps=1, guidance=1.0)
    assert torch.equal(made[..., :4], start[..., :4]) and not torch.equal(made[..., 4:], start[..., 4:])
    mask[..., 4:5] = 0
    with pytest.raises(ValueError, match="a part of a token"):
        pipeline.complete(canvas, [film], "a red ball", start=start, denoise=0.7, mask=mask, steps=1)


def test_completing_a_canvas_keeps_what_it_knows(pipeline):
    """Known cells and guides, in one lattice: raw latents of known cells are those that were encoded, all else follows the seed."""
    film, picture = verbs.trial(1, SIDE).frames[:9], verbs.trial(2, SIDE).frames[:1]
    canvas = choices.place(choices.extend(STILL, 9, 8), 16, 1)
    options = {"steps": 1, "guidance": 1.0}
    one, same, other = (pipeline.complete(canvas, [film, picture], "a red ball", seed=seed, **options) for seed in (3, 3, 4))
    assert len(canvas.guides) == 1 and one.shape == (1, *canvas.shape.latent)
    assert torch.equal(one[:, :, canvas.known], pipeline.encode(film))
    assert torch.equal(one, same) and not torch.equal(one[:, :, -1], other[:, :, -1])
    plain = pipeline.complete(replace(canvas, guides=()), [film], "a red ball", seed=3, **options)
    assert not torch.equal(one[:, :, -1], plain[:, :, -1]), "the guide is not seen"
    assert canvas.timeline.pieces[-2:] == (Piece(NEW, 9, 7), Piece(1, 0, 1))
