"""Physics in fixed steps: bodies that are sent off, fall, bounce, collide, push and are knocked over, and come to rest.

Bodies are upright discs on the ground that meet along the line of their middles. A blow exchanges momentum exactly; without friction
and with restitution 1 it conserves energy too, as does a fall. Balls bounce off each other, a cube or a cone is pushed along, a cylinder
tips over the edge of its foot when the blow carries it across, and stays down.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .scene import Object

STEP = 1 / 120
SECONDS = 12.0  # everything rests long before
GRAVITY = 6.0  # units a second squared: a normal ball falls its own height in 0.7 s
LAUNCHES = ("launch left", "launch right")
DYNAMIC = (*LAUNCHES, "fall")
ROLLING, SLIDING = 0.1, 0.35  # friction, as shares of the weight
BALLS, OTHERS, GROUND = 0.9, 0.05, 0.45  # restitution
REST_SPEED = 0.35  # a bounce slower than this ends
LYING = math.pi / 2  # angle of what has tipped over


class Touch(NamedTuple):
    """Body `actor` meets body `target` at second `at`; kind: collide, push or knock over."""

    at: float
    kind: str
    actor: int
    target: int


@dataclass(frozen=True)
class Trace:
    """What happened, in steps of STEP seconds. place [S, K, 3], tip [S, K]: angle from upright, positive towards +x."""

    place: torch.Tensor
    tip: torch.Tensor
    speed: torch.Tensor
    touches: tuple[Touch, ...]

    def at(self, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[T] seconds -> ([T, K, 3], [T, K]); after the last step everything stays as it is."""
        steps = (times / STEP).clamp(0.0, len(self.place) - 1.0)
        low = steps.long().clamp_max(len(self.place) - 2)
        share = (steps - low)[:, None]
        tip = torch.lerp(self.tip[low], self.tip[low + 1], share)
        return torch.lerp(self.place[low], self.place[low + 1], share[..., None]), tip


def takes_part(body: Object) -> bool:
    """True when physics may move the body: all others follow their own formula or stand fast."""
    return body.motion in DYNAMIC or (body.motion == "still" and not body.change and body.shape != "lamp")


@functools.lru_cache(maxsize=256)  # pure: frames, facts and captions of a scene ask for the same trace
def simulate(bodies: tuple[Object, ...], seconds: float = SECONDS, ideal: bool = False) -> Trace:
    """The Trace of some bodies. ideal: no friction and restitution 1, so that momentum and energy stay what they are."""
    world = _World(bodies, ideal)
    places, tips, speeds = [], [], []
    for step in range(round(seconds / STEP) + 1):
        places.append([list(p) for p in world.place])
        tips.append(list(world.tip))
        speeds.append([list(v) for v in world.speed])
        if world.rests():
            break
        world.advance(step * STEP)
    make = functools.partial(torch.tensor, dtype=torch.float64)
    return Trace(make(places), make(tips), make(speeds), tuple(world.touches))


class _World:
    """The state between two steps."""

    def __init__(self, bodies: tuple[Object, ...], ideal: bool):
        self.bodies, self.ideal = bodies, ideal
        self.mass = [body.radius**2 * body.height for body in bodies]
        self.place = [[b.x, b.reach if b.motion == "fall" else 0.0, b.z] for b in bodies]
        self.speed = [[0.0, 0.0, 0.0] for _ in bodies]
        self.tip, self.turning = [0.0] * len(bodies), [0.0] * len(bodies)
        self.sent = [b.motion not in DYNAMIC for b in bodies]
        self.met: set[tuple[int, int]] = set()
        self.touches: list[Touch] = []

    def rests(self) -> bool:
        return all(self.sent) and not any(map(any, self.speed)) and not any(self.turning) and not any(p[1] for p in self.place)

    def advance(self, now: float) -> None:
        for i, body in enumerate(self.bodies):
            if not self.sent[i] and now >= body.begin:
                self.sent[i] = True
                if body.motion != "fall":
                    self.speed[i][0] = body.speed if body.motion == "launch right" else -body.speed
        for i in range(len(self.bodies)):
            for j in range(i):
                self._meet(i, j, now)
        for i, body in enumerate(self.bodies):
            if self.sent[i]:
                self._move(i, body)

    def _move(self, i: int, body: Object) -> None:
        place, speed = self.place[i], self.speed[i]
        if place[1] > 0.0 or speed[1] > 0.0:
            place[1] += speed[1] * STEP - GRAVITY * STEP**2 / 2
            speed[1] -= GRAVITY * STEP
            if place[1] < 0.0:  # back to the ground, with the speed that energy gives it there
                landing = math.sqrt(max(0.0, speed[1] ** 2 + 2 * GRAVITY * place[1]))
                bounce = landing * (1.0 if self.ideal else GROUND)
                place[1], speed[1] = 0.0, (bounce if self.ideal or bounce > REST_SPEED else 0.0)
        elif not self.ideal:
            fast = math.hypot(speed[0], speed[2])
            brake = GRAVITY * STEP * (ROLLING if body.shape in ("ball", "apple") else SLIDING)
            slow = max(0.0, 1.0 - brake / fast) if fast > 0.0 else 0.0
            speed[0], speed[2] = speed[0] * slow, speed[2] * slow
        place[0] += speed[0] * STEP
        place[2] += speed[2] * STEP
        self._tip_over(i, body)

    def _inertia(self, i: int) -> float:
        """About the edge of its foot."""
        r, h = self.bodies[i].radius, self.bodies[i].height
        return self.mass[i] * (h * h / 3 + 1.25 * r * r)

    def _tip_over(self, i: int, body: Object) -> None:
        if self.turning[i] == 0.0:
            return
        way, angle = math.copysign(1.0, self.turning[i] if self.tip[i] == 0.0 else self.tip[i]), abs(self.tip[i])
        weight = self.mass[i] * GRAVITY * (body.height / 2 * math.sin(angle) - body.radius * math.cos(angle))
        self.turning[i] += way * weight / self._inertia(i) * STEP
        self.tip[i] += self.turning[i] * STEP
        if self.tip[i] * way <= 0.0:  # the blow was too weak: back on its foot
            self.tip[i], self.turning[i] = 0.0, 0.0
        elif abs(self.tip[i]) >= LYING:
            self.tip[i], self.turning[i] = way * LYING, 0.0

    def _meet(self, i: int, j: int, now: float) -> None:
        a, b = self.bodies[i], self.bodies[j]
        (xa, ya, za), (xb, yb, zb) = self.place[i], self.place[j]
        if ya > yb + b.height or yb > ya + a.height:
            return
        # what lies has its foot upright at the edge over which it fell
        xa, xb = xa + self._shift(i), xb + self._shift(j)
        reach = (0.0 if self.tip[i] else a.radius) + (0.0 if self.tip[j] else b.radius)
        dx, dz = xb - xa, zb - za
        apart = math.hypot(dx, dz)
        if apart > reach or apart == 0.0:
            return
        nx, nz = dx / apart, dz / apart
        closing = (self.speed[i][0] - self.speed[j][0]) * nx + (self.speed[i][2] - self.speed[j][2]) * nz
        if closing <= 0.0:
            return
        actor, target, way = (i, j, 1.0) if self.speed[i][0] * nx >= -self.speed[j][0] * nx else (j, i, -1.0)
        if self.tip[target]:
            self.speed[actor] = [0.0, self.speed[actor][1], 0.0]
            return
        tips = self.bodies[target].shape == "cylinder" and not self.ideal
        self._blow(actor, target, closing, (way * nx, way * nz), tips)
        if (actor, target) not in self.met:
            self.met |= {(actor, target), (target, actor)}
            both_balls = a.shape == b.shape == "ball"
            self.touches.append(Touch(now, "knock over" if tips else "collide" if both_balls else "push", actor, target))

    def _shift(self, i: int) -> float:
        return math.copysign(self.bodies[i].radius, self.tip[i]) if self.tip[i] else 0.0

    def _blow(self, actor: int, target: int, closing: float, normal: tuple[float, float], tips: bool) -> None:
        a, b = self.bodies[actor], self.bodies[target]
        bounce = 1.0 if self.ideal else BALLS if a.shape == b.shape == "ball" else OTHERS
        height = min(a.height / 2, 0.8 * b.height)
        weight = self._inertia(target) / height**2 if tips else self.mass[target]
        blow = (1.0 + bounce) * closing * self.mass[actor] * weight / (self.mass[actor] + weight)
        for axis, n in ((0, normal[0]), (2, normal[1])):
            self.speed[actor][axis] -= blow * n / self.mass[actor]
            if not tips:
                self.speed[target][axis] += blow * n / self.mass[target]
        if tips:
            self.turning[target] += math.copysign(blow * height / self._inertia(target), normal[0])
