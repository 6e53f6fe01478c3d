"""The core's loop over plans: same seed same latents, known cells untouched, words of each shot, progress and cancelling."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from sora_pack.sora_core.config import ModelHeader, preset
from sora_pack.sora_core.denoise import SOLVERS
from sora_pack.sora_core.flow import schedule
from sora_pack.sora_core.generate import generate
from sora_pack.sora_core.plan import KINDS, Lattice, foresight, make_plan, rollout, single
from sora_pack.sora_core.shapes import VideoShape
from sora_pack.sora_core.transformer import SpacetimeTransformer

HEADER = ModelHeader(noise="frame", shift=3.0, native_fps=8.0)
SHAPE = VideoShape(32, 32, 14)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    transformer = SpacetimeTransformer(preset("tiny")).eval()
    torch.nn.init.normal_(transformer.head.head.weight, std=0.05)
    return transformer


def words(seed=0, rows=64):
    return torch.randn(1, rows, 4096, generator=torch.Generator().manual_seed(seed))


def run(model, plan=None, shape=SHAPE, **options):
    return generate(
        model, HEADER, options.pop("words", words()), shape, **{"steps": 3, "guidance": 2.0, "seed": 5, "plan": plan, **options}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_plan_runs_and_repeats(model, kind):
    plan = make_plan(kind, Lattice(14), window=6, overlap=2, distance=4)
    first, second = run(model, plan), run(model, plan)
    assert torch.equal(first, second) and first.isfinite().all() and first.shape == (1, 16, 14, 4, 4)
    assert first.flatten(2).std(2).min() > 0.1, "a cell was left out"


@pytest.mark.parametrize("solver", SOLVERS)
def test_gaps_batched_are_those_made_one_by_one(model, solver):
    """Of two shots, behind a given beginning, one gap with a seed of its own."""
    shape, forwards = VideoShape(32, 32, 41), []
    shots = tuple(int(k > 20) for k in range(41))
    plan = foresight(Lattice(41, frozenset({0}), shots, shots), 4).redo({4: 9})
    mask = torch.ones(1, 1, 41, 1, 1)
    mask[:, :, 0] = 0
    options = {"plan": plan, "shape": shape, "shot_words": [words(1), words(2)], "known": torch.randn(1, *shape.latent), "mask": mask}
    alone = run(model, solver=solver, at_once=0, callback=lambda _: forwards.append(0), **options)
    together = run(model, solver=solver, at_once=100, callback=lambda _: forwards.append(1), **options)
    assert (alone - together).abs().max() < 1e-4
    assert forwards.count(0) == 3 * len(plan.passes) and forwards.count(1) == 3 * len(plan.groups(100)) < forwards.count(0)


def test_a_group_goes_on_where_it_was_killed(model, tmp_path):
    shape, steps = VideoShape(32, 32, 41), []
    options = {"plan": foresight(Lattice(41), 4), "shape": shape, "at_once": 100}

    def kill(done):
        steps.append(done["step"])
        if len(steps) == 8:  # in the third group
            raise KeyboardInterrupt

    good = run(model, **options)
    with pytest.raises(KeyboardInterrupt):
        run(model, jobs=tmp_path, save_seconds=0.0, callback=kill, **options)
    assert torch.equal(run(model, jobs=tmp_path, callback=lambda done: steps.append(done["step"]), **options), good)
    assert steps[8:11] == [2, 0, 1], "the killed group goes on at its last step"


def test_one_pass_is_what_no_plan_gives(model):
    assert torch.equal(run(model), run(model, single(Lattice(14))))


@pytest.mark.gpu
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_gpu_makes_the_same_video(model, solver):
    ours = run(model, solver=solver)
    theirs = run(deepcopy(model).cuda(), words=words().cuda(), solver=solver)
    assert theirs.is_cuda
    error = ((theirs.cpu() - ours).norm() / ours.norm()).item()
    assert error < 1e-2, f"relative error {error:.1e}"  # TensorFloat-32 in convolutions


@pytest.mark.parametrize("kind", KINDS)
def test_known_cells_come_back_bit_for_bit(model, kind):
    known, mask = torch.randn(1, 16, 14, 4, 4), torch.ones(1, 1, 14, 1, 1)
    mask[:, :, [0, 1, 13]] = 0
    plan = make_plan(kind, Lattice(14, frozenset({0, 1, 13})), window=6, overlap=2, distance=4)
    made = run(model, plan, known=known, mask=mask)
    assert torch.equal(made[:, :, [0, 1, 13]], known[:, :, [0, 1, 13]])
    other = run(model, plan, known=known * torch.where(mask == 0, 1, 2), mask=mask)
    assert torch.equal(made, other), "what stands in unknown cells counts for nothing"


def test_one_gap_made_again_changes_no_other(model):
    plan = foresight(Lattice(14), 4)
    before, after = run(model, plan), run(model, plan.redo({2: 99}))
    changed = [k for k in range(14) if not torch.equal(before[:, :, k], after[:, :, k])]
    assert changed == list(plan.passes[2].make)


def test_a_shot_hears_its_own_words_only(model):
    shots = (0,) * 5 + (1,) * 5 + (2,) * 4
    plan = foresight(Lattice(14, frozenset(), shots, shots), 4)
    told = [words(1), words(2), words(3)]
    before = run(model, plan, shot_words=told)
    after = run(model, plan, shot_words=[told[0], words(9), told[2]])
    assert torch.equal(before[:, :, :5], after[:, :, :5]) and torch.equal(before[:, :, 10:], after[:, :, 10:])
    assert not any(torch.equal(before[:, :, k], after[:, :, k]) for k in range(5, 10))


def test_a_picture_is_seen_in_its_own_take(model, tmp_path):
    """A changed picture or changed words of the shot that has it make that shot anew, and what a job keeps of the others is right."""
    shots = (0,) * 5 + (1,) * 5 + (2,) * 4
    plan = foresight(Lattice(14, frozenset(), shots, shots), 4)

    def make(middle=2, picture=5, **options):
        guide = torch.randn(1, 16, 1, 4, 4, generator=torch.Generator().manual_seed(picture))
        return run(model, plan, shot_words=[words(1), words(middle), words(3)], guides=[(17, guide)], **options)  # cell 5 ends at frame 20

    before = make(jobs=tmp_path)
    for change in ({"middle": 9}, {"picture": 7}):
        after = make(jobs=tmp_path, **change)
        assert torch.equal(after, make(**change))
        assert [k for k in range(14) if not torch.equal(before[:, :, k], after[:, :, k])] == list(range(5, 10))


@pytest.mark.parametrize("lattice", [Lattice(14), Lattice(14, shots=(0,) * 7 + (2,) * 7)])
def test_shot_words_belong_to_shots_of_the_plan(model, lattice):
    with pytest.raises(ValueError, match="shot_words: 2 texts, and the plan has the shots .*: give one text for each shot"):
        run(model, single(lattice), shot_words=[words(1), words(2)])


def test_shots_in_one_pass(model):
    plan = single(Lattice(14, frozenset(), (0,) * 7 + (1,) * 7))
    made = run(model, plan, shot_words=[words(1), words(2)])
    assert not torch.allclose(made, run(model, plan, shot_words=[words(1), words(3)]))


def test_progress_and_cancelling(model):
    plan, told = rollout(Lattice(14), 6, 2), []
    run(model, plan, callback=told.append)
    assert [t["step"] for t in told] == [0, 1, 2] * len(plan.passes)

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, plan, callback=stop)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_solver_goes_on_from_any_step_bit_for_bit(solver):
    def velocity(x, sigma):
        return torch.sin(x * 3) + sigma.view(-1, 1, 1, 1, 1)

    x, sigmas, states = torch.randn(1, 4, 3, 2, 2), schedule(5, 3.0), []
    fresh = {level: torch.randn(x.shape) for level in sigmas}.get
    whole = solver(velocity, x, sigmas, callback=lambda done: states.append(done["state"]), noise=fresh)
    assert [s.done for s in states] == [1, 2, 3, 4, 5]
    for state in states:
        assert torch.equal(solver(velocity, x, sigmas, state=state, noise=fresh), whole)


def test_a_longer_video_reuses_the_first_passes_of_a_shorter_one(model, tmp_path):
    told = []
    for cells in (14, 30):
        run(model, rollout(Lattice(cells), 6, 2), replace(SHAPE, cells=cells), jobs=tmp_path, callback=told.append, steps=1)
    assert len(told) == len(rollout(Lattice(30), 6, 2).passes), "none of the shorter one is made again"


@pytest.mark.parametrize(
    "options, says",
    [
        ({"known": torch.zeros(2, 16, 14, 4, 4), "mask": torch.ones(1, 1, 14, 1, 1)}, r"known: it is \(2, 16, 14, 4, 4\), .* \(1, 16, 14"),
        ({"known": torch.zeros(1, 16, 14, 4, 4), "mask": torch.ones(1, 1, 13, 1, 1)}, r"mask: it is \(1, 1, 13, 1, 1\)"),
        ({"known": torch.zeros(1, 16, 14, 4, 4), "mask": torch.full((1, 1, 14, 4, 4), 0.5)}, "mask: it keeps a part of a token"),
        ({"known": torch.zeros(1, 16, 14, 4, 4), "mask": (torch.arange(4) > 0).float().expand(1, 1, 14, 4, 4)}, "a part of a token"),
        ({"plan": single(Lattice(13))}, "plan: it is for 13 cells, .* the shape has 14"),
        ({"plan": single(Lattice(14, frozenset({2})))}, r"\[2\] are known, the shape has 14 and the mask keeps \[\]"),
        ({"solver": "x"}, "solver 'x' is not known"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(model, monkeypatch, options, says):
    monkeypatch.setattr(SpacetimeTransformer, "forward", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(ValueError, match=says):
        run(model, **options)


def test_one_beginning_serves_all_videos(model):
    known, mask = torch.randn(1, *SHAPE.latent), torch.ones(1, 1, 14, 1, 1)
    mask[:, :, :3] = 0
    both = torch.cat([words(0), words(1)])
    made = run(model, words=both, known=known, mask=mask)
    assert len(made) == 2 and torch.equal(made[:, :, :3], known[:, :, :3].expand(2, -1, -1, -1, -1))
    assert not torch.equal(made[0], made[1])


def test_a_longer_video_begins_with_the_same_noise(model):
    longer = replace(SHAPE, cells=30)
    a = run(model, rollout(Lattice(14), 6, 2))
    b = run(model, rollout(Lattice(30), 6, 2), longer)
    assert torch.equal(a, b[:, :, :14])


def test_words_to_a_long_video_take_the_plan_that_suits_the_model(tmp_path):
    from sora_pack.sora_core.pipeline import Pipeline
    from sora_pack.tests.tiny_model import write_tiny_model

    pipeline, told = Pipeline.load(write_tiny_model(tmp_path), torch.float32), []
    frames = pipeline.video("a red ball", 6.0, 32, 32, steps=1, guidance=1.0, callback=told.append)
    assert frames.shape == (49, 32, 32, 3) and len(told) == 2, "13 cells, in windows of 11"


def test_a_first_picture_comes_back_and_what_follows_carries_what_the_codec_lost(tmp_path, monkeypatch):
    """A codec that loses all detail of a picture is made good for in the frames beside it, less and less."""
    from sora_pack.sora_core.pipeline import Pipeline
    from sora_pack.tests.tiny_model import write_tiny_model

    pipeline = Pipeline.load(write_tiny_model(tmp_path), torch.float32)
    picture = torch.zeros(32, 32, 3, dtype=torch.uint8)
    picture[:, ::2] = 30
    monkeypatch.setattr(Pipeline, "_decoded", lambda *_: iter(torch.full((1, 3, 17, 32, 32), -1.0).split(4, 2)))
    frames = pipeline.video("a red ball", 2.0, 32, 32, picture=picture, steps=1, guidance=1.0)
    assert torch.equal(frames[0], picture) and torch.equal(frames[1], picture)
    left = frames[1:].amax((1, 2, 3)).int()
    assert (left.diff() < 0).all() and left[-1] < 5


def test_a_model_without_our_header_needs_its_companions(tmp_path):
    """A public Wan file opens, but its latents are not those of the shipped VAE: neither run nor trained with it unasked."""
    from sora_pack.sora_core.checkpoint import CheckpointError, load_transformer, save_model
    from sora_pack.sora_core.pipeline import Pipeline
    from sora_pack.sora_core.training import transformer as trainer
    from sora_pack.tests.tiny_model import write_tiny_model

    public = tmp_path / "wan.safetensors"
    save_model(public, load_transformer(write_tiny_model(tmp_path))[0].state_dict())
    vae, text = tmp_path / "vae/tiny_vae.safetensors", tmp_path / "text_encoders/tiny_text.safetensors"
    with pytest.raises(CheckpointError, match="wan.safetensors does not say which vae and text file belongs to it: give vae and text"):
        Pipeline.load(public)
    with pytest.raises(CheckpointError, match="which text file belongs to it: give text"):
        Pipeline.load(public, vae=vae)
    for begun in (trainer.new_student, lambda settings: trainer.begin(None, None, settings)):
        with pytest.raises(CheckpointError, match="give vae and text"):
            begun(trainer.Settings(size="", start=str(public)))
    pipeline = Pipeline.load(public, torch.float32, vae=vae, text=text)
    assert pipeline.header.native_fps == 16 and pipeline.video("a red ball", 0.0, 32, 32, steps=1).shape == (1, 32, 32, 3)


def test_the_command_overwrites_nothing(tmp_path, monkeypatch):
    from sora_pack.sora_core import __main__ as command

    made = tmp_path / "made.mp4"
    made.write_bytes(b"hours of work")
    monkeypatch.setattr("sys.argv", ["sora_core", "a red ball", "--out", str(made)])
    with pytest.raises(SystemExit, match=r"made\.mp4 is there already"):
        command.main()
    assert made.read_bytes() == b"hours of work"
    monkeypatch.setattr("sys.argv", ["sora_core", "a red ball", "--model", "nowhere", "--out", str(tmp_path / "made.gif")])
    with pytest.raises(SystemExit, match=r"made\.gif .* end it in \.mp4 or \.webm"):
        command.main()
    monkeypatch.setattr("sys.argv", ["sora_core", "a red ball", "--model", "nowhere", "--out", str(made / "below.mp4")])
    with pytest.raises(SystemExit, match=r"--out: .*made\.mp4 cannot be made"):
        command.main()
