import math

import pytest
import torch

from sora_pack.sora_core.denoise import FAST, MOTION_ABOVE, SOLVERS, ancestral, euler, guided, more_motion, renoise, second_order
from sora_pack.sora_core.flow import schedule

SHAPE = (2, 4, 3, 4, 6)


def gaussian(std=0.5):
    """The exact velocity where all data are one normal distribution: every solver has the same right answer, noise * std."""

    def velocity(x, sigma):
        sigma = sigma.view(-1, 1, 1, 1, 1).to(x)
        variance = (1 - sigma) ** 2 * std**2 + sigma**2
        return x * (sigma - (1 - sigma) * std**2) / variance

    return velocity


def noise():
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def fresh(level):
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(round(level * 10**5)))


@pytest.mark.parametrize("solver, order", [(euler, 1), (second_order, 2)])
def test_order_of_the_solvers(solver, order):
    x = noise()
    errors = [(solver(gaussian(), x, schedule(n, 1.0)) - 0.5 * x).norm().item() for n in (40, 80, 160)]
    measured = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert all(abs(m - order) < 0.25 for m in measured), (errors, measured)


def test_second_order_is_better_at_every_length():
    x = noise()
    for n in (6, 10, 20, 40):
        euler_error, error = ((s(gaussian(), x, schedule(n, 3.0)) - 0.5 * x).norm().item() for s in (euler, second_order))
        assert error < euler_error, (n, error, euler_error)


def test_ancestral_sampling_keeps_the_spread_of_the_data_and_forgets_its_start():
    x = noise()
    straight, out = (s(gaussian(), x, schedule(80, 1.0), noise=fresh) for s in (euler, ancestral))
    assert 0.47 < out.std() < 0.53
    alike = [torch.corrcoef(torch.stack([x.flatten(), made.flatten()]))[0, 1] for made in (straight, out)]
    assert alike[0] > 0.99 and abs(alike[1]) < 0.15, alike


def test_ancestral_sampling_needs_noise():
    with pytest.raises(ValueError, match="noise"):
        ancestral(gaussian(), noise(), schedule(4, 1.0))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_right_velocity_gives_x0_in_one_step(solver):
    x0, n = torch.randn(SHAPE), torch.randn(SHAPE)
    assert torch.allclose(solver(lambda x, s: n - x0, n, [1.0, 0.0], noise=fresh), x0, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("shape", [(1, 1, 3, 1, 1), (2, 1, 3, 1, 1), (2, 1, 3, 4, 6)])
def test_known_cells_come_back_bit_for_bit_and_are_seen_clean(solver, shape):
    mask = torch.ones(shape)
    mask[:, :, 1] = 0
    x, seen = torch.randn(SHAPE), []

    def velocity(x, sigma):
        seen.append((x.clone(), sigma))
        return torch.randn_like(x)

    out = solver(velocity, x, schedule(5, 3.0), mask, noise=fresh)
    assert torch.equal(out[:, :, 1], x[:, :, 1]) and not torch.equal(out[:, :, 0], x[:, :, 0])
    for step, (at, sigma) in enumerate(seen):
        assert torch.equal(at[:, :, 1], x[:, :, 1])
        level = schedule(5, 3.0)[step]
        assert torch.allclose(sigma, torch.tensor([[level, 0, level]] * 2))


def test_a_box_in_space_gives_levels_for_tokens():
    mask = torch.ones(1, 1, 3, 4, 6)
    mask[:, :, 0, :, 3:] = 0  # cuts the middle column of tokens in two: partly known is not known
    seen = []
    x = torch.randn(SHAPE)
    out = euler(lambda x, s: seen.append(s) or torch.ones_like(x), x, [0.8, 0.0], mask)
    levels = seen[0].view(2, 3, 2, 3)
    assert torch.allclose(levels[:, 0], torch.tensor([0.8, 0.8, 0.0]).expand(2, 2, 3)) and torch.allclose(levels[:, 1:], torch.tensor(0.8))
    assert torch.equal(out[:, :, 0, :, 3:], x[:, :, 0, :, 3:]) and torch.allclose(out[:, :, 0, :, :3], x[:, :, 0, :, :3] - 0.8)


def test_without_a_mask_one_level_a_video():
    euler(lambda x, s: (x, _check_shape(s))[0], torch.randn(SHAPE), [1.0, 0.5, 0.0])


def _check_shape(sigma):
    assert sigma.shape == (2,)


def test_callback_tells_and_cancels():
    class Cancelled(Exception):
        pass

    told = []

    def callback(state):
        told.append(state)
        if state["step"] == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        euler(gaussian(), noise(), schedule(6, 1.0), callback=callback)
    assert [t["step"] for t in told] == [0, 1, 2] and told[0]["steps"] == 6
    assert told[0]["sigma"] == 1 and told[0]["x"].shape == told[0]["x0"].shape == SHAPE


def test_the_callback_sees_the_foreseen_latents():
    x0, n, told = torch.randn(SHAPE), torch.randn(SHAPE), []
    euler(lambda x, s: n - x0, n, schedule(4, 3.0), callback=told.append)
    assert all(torch.allclose(t["x0"], x0, atol=1e-5) for t in told)


def test_half_precision_velocities_leave_the_state_alone():
    out = second_order(lambda x, s: x.bfloat16(), torch.randn(SHAPE), schedule(4, 1.0))
    assert out.dtype == torch.float32


def test_guidance():
    calls = []

    def model(x, timestep, text, positions):
        calls.append((text, timestep.tolist(), positions))
        return x * text

    x, sigma = torch.ones(SHAPE), torch.tensor([0.5, 0.25])
    for scale, expected, forwards in ((1.0, 3.0, 1), (4.0, 9.0, 2), (0.0, 1.0, 2)):
        calls.clear()
        out = guided(model, 3.0, 1.0, scale, positions="p")(x, sigma)
        assert torch.allclose(out, torch.full(SHAPE, expected)) and len(calls) == forwards
        assert all(c[1] == [500, 250] and c[2] == "p" for c in calls)
    calls.clear()
    guided(model, 3.0, None, 5.0, positions="p")(x, sigma)
    assert len(calls) == 1


def test_guidance_counts_more_where_cells_differ():
    torch.manual_seed(0)
    common, differ = torch.randn(2, 3, 1, 4, 4), 1e-3 * torch.randn(2, 3, 5, 4, 4)
    differ -= differ.mean(2, keepdim=True)
    high = torch.tensor([0.9, 0.0])
    assert torch.allclose(more_motion(common + differ, 2.5, high), common + 2.5 * differ, atol=1e-5)
    assert torch.allclose(more_motion(common + differ, 0.5, high), common + 0.5 * differ, atol=1e-5)
    assert more_motion(common, 1.0, high) is common
    assert torch.allclose(more_motion(common, 2.5, high), common, atol=1e-6), "a still is guided as ever"
    assert more_motion(common + differ, 2.5, torch.tensor([MOTION_ABOVE])).equal(common + differ), "later it would fray outlines"
    # What is given says nothing of what is made.
    given = torch.full((2, 3, 1, 4, 4), 1e3)
    made = torch.tensor([[True] * 5 + [False]] * 2)
    out = more_motion(torch.cat([common + differ, given], 2), 2.5, high, made)
    assert torch.allclose(out[:, :, :5], common + 2.5 * differ, atol=1e-5)
    assert torch.isfinite(more_motion(given, 2.5, high, torch.tensor([[False], [False]]))).all()


def test_what_differs_between_shots_is_no_motion():
    torch.manual_seed(0)
    two, differ = torch.randn(2, 3, 2, 4, 4), 1e-3 * torch.randn(2, 3, 6, 4, 4)
    shots, high = [0, 0, 0, 0, 1, 1], torch.tensor([0.9])
    who = two[:, :, shots]
    assert torch.allclose(more_motion(who, 2.5, high, shots=shots), who, atol=1e-6), "two stills"
    assert not torch.allclose(more_motion(who, 2.5, high), who, atol=1e-2)
    out = more_motion(who + differ, 2.5, high, shots=shots)
    for cells in (slice(0, 4), slice(4, 6)):
        assert torch.allclose(out[:, :, cells], more_motion((who + differ)[:, :, cells], 2.5, high))
    x, asked = torch.randn(2, 3, 6, 4, 4), []
    made = guided(lambda x, timestep, text, **more: asked.append(more) or x * text, who, 0 * who, 2.0, 2.5, shots=shots)(x, high.expand(2))
    assert torch.equal(made, 2.0 * more_motion(x * who, 2.5, high, shots=shots)) and asked == [{}, {"shots": shots}]


def test_what_moves_fast_is_guided_less():
    slow = torch.ones(1, 1, 2, 1, 1) * torch.tensor([-1.0, 1.0]).view(1, 1, 2, 1, 1)
    gains = [(more_motion(size * slow, 3.0, torch.tensor([0.9])) / (size * slow)).mean().item() for size in (0.01 * FAST, FAST, 100 * FAST)]
    assert gains == pytest.approx([3.0, 2.0, 1.0], abs=1e-3)


@pytest.mark.parametrize("tokens", [1, 4])
def test_guided_motion_leaves_out_the_cells_that_are_given(tokens):
    """Noise levels are those of cells or of tokens; a cell is given where none of its tokens has noise."""
    x, text = torch.randn(SHAPE), torch.randn(SHAPE)
    sigma = torch.full((SHAPE[0], SHAPE[2], tokens), 0.9)
    sigma[:, -1] = 0
    sigma[:, 0, 1:] = 0
    out = guided(lambda x, timestep, text: x * text, text, 0 * text, 2.0, 3.0)(x, sigma.flatten(1))
    made = torch.tensor([[True] * (SHAPE[2] - 1) + [False]]).expand(SHAPE[0], -1)
    assert torch.equal(out, 2.0 * more_motion(x * text, 3.0, sigma, made))


def test_renoise_leaves_known_cells():
    x, n = torch.randn(SHAPE), torch.randn(SHAPE)
    mask = torch.ones(1, 1, 3, 1, 1)
    mask[:, :, 2] = 0
    out = renoise(x, n, 0.6, mask)
    assert torch.equal(out[:, :, 2], x[:, :, 2]) and torch.allclose(out[:, :, :2], (0.4 * x + 0.6 * n)[:, :, :2], atol=1e-6)
    assert torch.equal(renoise(x, n, 1.0, None), n)
