"""The physics of the world: what it conserves, and how it comes to rest."""

import math

import pytest
import torch

from sora_pack.sora_core.world.scene import Object
from sora_pack.sora_core.world.simulation import GRAVITY, STEP, simulate


def ball(x, speed=0.0, size="normal", shape="ball", **more):
    motion = "still" if speed == 0.0 else "launch right" if speed > 0 else "launch left"
    return Object(shape, "red", size, motion, x=x, speed=abs(speed), **more)


@pytest.mark.parametrize(
    "bodies",
    [
        (ball(-2.0, 2.0), ball(1.0, -1.0, "large")),
        (ball(-2.0, 3.0, "small"), ball(0.0), ball(1.6, 0.0, "large")),
        (ball(-2.0, 2.0), ball(1.0, 0.0, shape="cube")),
        (ball(-2.0, 2.0), ball(0.0, z=0.4)),  # not head-on: the second leaves at an angle
    ],
)
def test_blows_conserve_momentum_and_energy(bodies):
    trace = simulate(bodies, 4.0, True)
    mass = torch.tensor([b.radius**2 * b.height for b in bodies], dtype=torch.float64)
    momentum = (mass[:, None] * trace.speed).sum(1)[2:]
    energy = (0.5 * mass[:, None] * trace.speed**2).sum((1, 2))[2:]
    assert trace.touches
    drift = (momentum - momentum[0]).abs().max().item()
    lost = (energy / energy[0] - 1).abs().max().item()
    assert drift < 1e-9 and lost < 1e-9, f"momentum drift {drift:.1e}, energy {lost:.1e}"
    assert (trace.speed[-1] - trace.speed[2]).abs().max() > 0.1


def test_a_fall_is_a_parabola_and_an_ideal_bounce_keeps_its_energy():
    body = Object("ball", "red", motion="fall", reach=3.0, begin=0.5)
    trace = simulate((body,), 8.0, True)
    height, speed = trace.place[:, 0, 1], trace.speed[:, 0, 1]
    since = torch.arange(len(height), dtype=torch.float64) * STEP - 0.5
    falling = (since > 0) & (since < math.sqrt(2 * 3.0 / GRAVITY))
    wrong = (height - (3.0 - GRAVITY * since**2 / 2))[falling].abs().max().item()
    assert wrong < 0.02, wrong  # one step of speed at most
    energy = (GRAVITY * height + speed**2 / 2)[since > 0]
    assert (energy / (GRAVITY * 3.0) - 1).abs().max() < 1e-9
    assert (height == 0).sum() >= 3  # it came down several times in 8 s


def test_friction_and_bounces_only_lose_energy_until_all_rest():
    bodies = (ball(-2.0, 2.0), ball(1.5, -1.5, "small"), Object("cube", "blue", motion="fall", x=0.0, z=2.0, reach=4.0))
    trace = simulate(bodies)
    mass = torch.tensor([b.radius**2 * b.height for b in bodies], dtype=torch.float64)
    energy = (mass * (0.5 * (trace.speed**2).sum(-1) + GRAVITY * trace.place[..., 1])).sum(1)
    assert energy[2:].diff().max() < 1e-9
    assert trace.speed[-1].abs().max() == 0 and trace.place[-1, :, 1].abs().max() == 0
    late, _ = trace.at(torch.tensor([60.0], dtype=torch.float64))
    assert torch.equal(late[0], trace.place[-1])


def test_a_hard_blow_knocks_over_and_a_soft_one_does_not():
    standing = ball(0.2, shape="cylinder")
    hard, soft = simulate((ball(-2.0, 3.0), standing)), simulate((ball(-1.6, 1.2), standing))
    assert hard.tip[-1, 1] >= math.pi / 2 and hard.tip[:, 1].diff().min() >= 0
    assert soft.tip[-1, 1] == 0 and soft.touches
    # the ball ends before the foot over which the other fell
    assert hard.place[-1, 0, 0] + 0.7 <= 0.2 + standing.radius + 0.05


def test_nothing_runs_through_anything():
    bodies = (ball(-2.5, 3.4), ball(0.0, shape="cube"), ball(1.8, -1.5, "small"))
    trace = simulate(bodies)
    for i in range(3):
        for j in range(i):
            apart = (trace.place[:, i] - trace.place[:, j])[:, ::2].norm(dim=-1).min().item()
            assert apart > bodies[i].radius + bodies[j].radius - 3.4 * STEP, (i, j, apart)
