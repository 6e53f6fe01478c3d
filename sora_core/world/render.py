"""Frames of a scene by ray casting, in batched torch: any second, any size, any aspect, CPU or GPU.

Every object is traced only inside its own rectangle of the picture, its shadow inside the shadow's; frames of a chunk go together, so
nothing loops over pixels or frames. Two rays across and two down for each pixel. A frame does not depend on what it is rendered with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from . import backdrop, camera
from .layout import corners
from .parts import BITE, BOX, ROUND, SURFACE, TIPPED, Part, parts
from .scene import Scene
from .solids import MISS, Solids, bitten

RAYS = 2  # along each side of a pixel
# Rays in flight. On a CPU the background goes in smaller groups, whose planes stay in its cache: 1.4 times as fast with a moving camera.
CHUNK_RAYS = {"cpu": 1 << 19, "cuda": 1 << 25}
BACKGROUND_RAYS = {"cpu": 1 << 16, "cuda": 1 << 25}
POOL, WARM = 2.6, (1.0, 0.82, 0.42)  # radius and colour of a lamp's light on the ground


@torch.inference_mode()
def render(scene: Scene, times: Sequence[float], width: int, height: int, device: str = "cpu") -> torch.Tensor:
    """Frames at `times` seconds -> uint8 [T, height, width, 3] on `device`."""
    return render_batch([scene], [times], width, height, device)[0]


@torch.inference_mode()
def render_batch(
    scenes: Sequence[Scene], times: Sequence[Sequence[float]], width: int, height: int, device: str = "cpu"
) -> list[torch.Tensor]:
    """Frames of several scenes at their own times -> a list of uint8 [T_i, height, width, 3]; on a GPU they share every kernel."""
    if len(scenes) != len(times):
        raise ValueError(f"{len(scenes)} scenes but {len(times)} lists of times: give one list of seconds for each scene.")
    if width < 1 or height < 1:
        raise ValueError(f"{width}x{height}: width and height must be at least 1 pixel.")
    counts = [len(t) for t in times]
    stage = _Stage.build(scenes, times, torch.device(device))
    size = max(1, CHUNK_RAYS.get(torch.device(device).type, 1 << 22) // (width * height * RAYS**2))
    out = torch.empty(sum(counts), height, width, 3, dtype=torch.uint8, device=device)
    for first in range(0, sum(counts), size):
        rows = torch.arange(first, min(first + size, sum(counts)), device=device)
        out[first : first + len(rows)] = _Picture(stage, rows, width, height).frames()
    return list(out.split(counts))


@dataclass
class _Stage:
    """All frames of all scenes, flat: N frames, up to K parts each."""

    scenes: Sequence[Scene]
    owner: list[int]  # N: which scene
    view: camera.Pose  # N
    base: torch.Tensor  # N, K, 3
    state: torch.Tensor  # N, K, 4: tip, spin, glow, bite
    body: torch.Tensor  # S, K, 8: half width, half depth, height, a, b, c, cos, sin
    paint: torch.Tensor  # S, K, 4: linear colour, gloss
    kind: list[list[int]]  # S x K: ROUND, BOX, TIPPED, or -1 for nothing
    has: list[list[frozenset]]  # S x K: which of spin, glow and bite a part ever has
    light: torch.Tensor  # S, 9: direction, direct, ambient
    shaded: torch.Tensor  # S, 3: share of the ground's light that a shadow takes

    @staticmethod
    def build(scenes: Sequence[Scene], times: Sequence[Sequence[float]], device: torch.device) -> "_Stage":
        seconds = [torch.as_tensor(list(when), dtype=torch.float64) for when in times]
        solids = [parts(scene, when) for scene, when in zip(scenes, seconds, strict=True)]
        slots = max(map(len, solids))
        views = [camera.pose(scene.camera, when, scene) for scene, when in zip(scenes, seconds, strict=True)]
        bases, states, body, paint, kind, has, light, shaded = [], [], [], [], [], [], [], []
        for scene, made in zip(scenes, solids, strict=True):
            empty = slots - len(made)
            bases.append(torch.nn.functional.pad(torch.stack([p.base for p in made], 1), (0, 0, 0, empty)))
            states.append(torch.nn.functional.pad(torch.stack([_state(p) for p in made], 1), (0, 0, 0, empty)))
            turns = torch.tensor([p.turn for p in made], dtype=torch.float64)
            cos, sin = torch.cos(turns).tolist(), torch.sin(turns).tolist()
            body.append([[*p.half, p.height, *p.outline, c, s] for p, c, s in zip(made, cos, sin, strict=True)] + [[0.0] * 8] * empty)
            paint.append([[*backdrop.linear(*SURFACE[p.surface]), p.gloss] for p in made] + [[0.0] * 4] * empty)
            kind.append([p.kind for p in made] + [-1] * empty)
            has.append([frozenset(n for n in ("spin", "glow", "bite") if getattr(p, n) is not None) for p in made] + [frozenset()] * empty)
            hour = backdrop.LIGHTS[scene.time_of_day]
            light.append([*backdrop.light_direction(scene), *hour.direct, *hour.ambient])
            shaded.append(backdrop.ground_light(hour)[1])
        to = {"dtype": torch.float32, "device": device}
        view = camera.Pose(*(torch.cat([getattr(v, name) for v in views]).to(**to) for name in ("eye", "right", "up", "forward")))
        owner = [i for i, when in enumerate(times) for _ in when]
        tensors = (torch.tensor(item, dtype=torch.float64).to(**to) for item in (body, paint))
        tail = (torch.tensor(item, dtype=torch.float64).to(**to) for item in (light, shaded))
        return _Stage(scenes, owner, view, torch.cat(bases).to(**to), torch.cat(states).to(**to), *tensors, kind, has, *tail)


def _state(part: Part) -> torch.Tensor:
    """[T, 4]: tip, spin, glow and bite, 0 for what it has not."""
    still = torch.zeros(len(part.base), dtype=part.base.dtype)
    return torch.stack([still if value is None else value for value in (part.tip, part.spin, part.glow, part.bite)], -1)


@dataclass
class _Window:
    """A rectangle of rays in each of n frames: all of one size, each at its own place."""

    index: torch.Tensor  # n, h, w: position in the chunk's flat planes
    rays: list[torch.Tensor]  # 3 planes n, h, w
    eye: list[torch.Tensor]  # 3 planes n, 1, 1


class _Picture:
    """A chunk of frames while it is being painted."""

    def __init__(self, stage: _Stage, rows: torch.Tensor, width: int, height: int):
        self.stage, self.device = stage, rows.device
        self.width, self.height = width * RAYS, height * RAYS
        self.owner = [stage.owner[i] for i in rows.tolist()]
        self.scene = torch.tensor(self.owner, device=self.device)
        self.view = stage.view.rows(rows)
        self.base, self.state = stage.base[rows], stage.state[rows]
        self.tangents = camera.tangents(width, height)
        light = stage.light[self.scene][:, :, None, None]  # n, 9, 1, 1
        self.sun, self.direct, self.ambient = light[:, 0:3], light[:, 3:6], light[:, 6:9]

    def frames(self) -> torch.Tensor:
        """uint8 [n, height, width, 3]."""
        self.flat = list(self._background())
        self._cast_shadows()
        self._light_ground()
        self.depth = torch.full_like(self.flat[0], 1e9)
        for slot in range(self.base.shape[1]):
            for kind in (ROUND, BOX, TIPPED):
                rows = self._rows(slot, kind)
                if rows is not None:
                    self._draw(slot, kind, rows)
        picture = torch.nn.functional.avg_pool2d(torch.stack(self.flat, 1), RAYS)
        picture = picture.clamp_(0.0, 1.0).sqrt_().mul_(255.0).add_(0.5)
        return picture.to(torch.uint8).permute(0, 2, 3, 1)

    def _rows(self, slot: int, kind: int) -> torch.Tensor | None:
        """Frames of the chunk in which this slot is such a part."""
        rows = [i for i, scene in enumerate(self.owner) if self.stage.kind[scene][slot] == kind]
        return torch.tensor(rows, device=self.device) if rows else None

    def _background(self) -> torch.Tensor:
        """[3, n, H, W], each plane flat in memory; painted once for all frames of a scene whose camera stands still."""
        out = torch.empty(3, len(self.owner), self.height, self.width, device=self.device)
        for scene in sorted(set(self.owner)):
            rows = torch.tensor([i for i, s in enumerate(self.owner) if s == scene], device=self.device)
            seen = rows[:1] if self.stage.scenes[scene].camera.stands else rows
            size = max(1, BACKGROUND_RAYS.get(self.device.type, 1 << 22) // (self.width * self.height))
            for part in seen.split(size):
                planes = backdrop.paint(self.stage.scenes[scene], self.view.eye[part], self._window(part, None).rays)
                out[:, rows if len(seen) < len(rows) else part] = torch.stack(planes)
        return out

    def _window(self, rows: torch.Tensor, points: torch.Tensor | None) -> _Window | None:
        """The rectangle that holds points [n, P, 3] in frames `rows` (None: the whole picture); None when nothing is in view."""
        n, view = len(rows), self.view.rows(rows)
        tan_x, tan_y = self.tangents
        if points is None:
            left = top = torch.zeros(n, device=self.device)
            width, height = self.width, self.height
        else:
            across, up, _ = camera.project(view, points)
            column = (across / tan_x + 1) * (self.width / 2)
            row = (1 - up / tan_y) * (self.height / 2)
            left, right = column.amin(1).floor() - 1, column.amax(1).ceil() + 1
            top, bottom = row.amin(1).floor() - 1, row.amax(1).ceil() + 1
            left, right = left.clamp(0, self.width), right.clamp(0, self.width)
            top, bottom = top.clamp(0, self.height), bottom.clamp(0, self.height)
            width, height = int((right - left).max().item()), int((bottom - top).max().item())
            if width == 0 or height == 0:
                return None
            left, top = left.clamp_max(self.width - width), top.clamp_max(self.height - height)
        columns = left[:, None] + torch.arange(width, device=self.device)  # n, w
        lines = top[:, None] + torch.arange(height, device=self.device)  # n, h
        u = ((columns + 0.5) * (2 / self.width) - 1)[:, None, :] * tan_x
        v = (1 - (lines + 0.5) * (2 / self.height))[:, :, None] * tan_y
        pick = [[getattr(view, name)[:, i, None, None] for i in range(3)] for name in ("forward", "right", "up", "eye")]
        rays = [f + v * up + u * r for f, r, up in zip(*pick[:3], strict=True)]
        index = (rows[:, None, None] * self.height + lines.long()[:, :, None]) * self.width + columns.long()[:, None, :]
        return _Window(index, rays, pick[3])

    def _solids(self, slot: int, kind: int, rows: torch.Tensor) -> Solids:
        values = self.stage.body[self.scene[rows], slot][:, :, None, None].unbind(1)  # 8 x (n, 1, 1)
        cos, sin = values[6], values[7]
        if kind == TIPPED:
            tip = self.state[rows, slot, 0][:, None, None]
            cos, sin = tip.cos(), tip.sin()
        return Solids(kind == BOX, kind == TIPPED, self.base[rows, slot], *values[:3], values[3:6], cos, sin)

    def _corners(self, slot: int, kind: int, rows: torch.Tensor, grow: float = 0.0) -> torch.Tensor:
        """[n, 8, 3] corners of the box round a part."""
        body = self.stage.body[self.scene[rows], slot]
        unit = corners(torch.zeros(3, device=self.device), 1.0, 1.0)
        wide, deep = body[:, 0], body[:, 1]
        if kind == BOX:
            cos, sin = body[:, 6].abs(), body[:, 7].abs()
            wide, deep = cos * wide + sin * deep, sin * wide + cos * deep
        box = unit * torch.stack((wide + grow, body[:, 2], deep + grow), -1)[:, None]
        if kind == TIPPED:
            cos, sin = (f(self.state[rows, slot, 0])[:, None] for f in (torch.cos, torch.sin))
            box = torch.stack((cos * box[..., 0] + sin * box[..., 1], cos * box[..., 1] - sin * box[..., 0], box[..., 2]), -1)
        return self.base[rows, slot][:, None] + box

    def _cast_shadows(self) -> None:
        """Darken the ground where bodies stand in the light; what two bodies shade is not darkened twice."""
        lit = torch.ones_like(self.flat[0])
        boxes = []
        for slot in range(self.base.shape[1]):
            for kind in (ROUND, BOX, TIPPED):
                rows = self._rows(slot, kind)
                window = None if rows is None else self._shadow_window(slot, kind, rows)
                if window is None:
                    continue
                boxes.append(window.index)
                distance = window.eye[1] / (-window.rays[1]).clamp_min(1e-4)
                x, z = (window.eye[i] + distance * window.rays[i] for i in (0, 2))
                shade = self._solids(slot, kind, rows).shade_on((x, torch.zeros_like(x), z), self._towards_sun(rows))
                shade = torch.where((window.rays[1] < -1e-4) & (z > backdrop.WALL_Z), shade, 0.0)
                lit.view(-1)[window.index] = lit.view(-1)[window.index] * (1.0 - shade)
        if boxes:
            share = self.stage.shaded[self.scene][:, :, None, None]
            dark = 1.0 - lit
            self.flat = [plane * (1.0 - dark * share[:, i]) for i, plane in enumerate(self.flat)]

    def _towards_sun(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.sun[rows].unbind(1)  # 3 x (n, 1, 1)

    def _shadow_window(self, slot: int, kind: int, rows: torch.Tensor) -> _Window | None:
        points = self._corners(slot, kind, rows, grow=0.05)
        sun = self.sun[rows][:, :, 0, 0]
        fallen = points - sun[:, None] * (points[..., 1:2] / sun[:, None, 1:2])
        return self._window(rows, fallen)

    def _light_ground(self) -> None:
        """A warm pool of light on the ground under every bulb that glows."""
        for slot in range(self.base.shape[1]):
            if not any("glow" in self.stage.has[scene][slot] for scene in set(self.owner)):
                continue
            rows = (self.state[:, slot, 2] > 0.0).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            foot = self.base[rows, slot] * torch.tensor([1.0, 0.0, 1.0], device=self.device)
            flat = corners(torch.zeros(3, device=self.device), POOL, 0.0)
            window = self._window(rows, foot[:, None] + flat)
            if window is None:
                continue
            distance = window.eye[1] / (-window.rays[1]).clamp_min(1e-4)
            x, z = (window.eye[i] + distance * window.rays[i] - foot[:, i, None, None] for i in (0, 2))
            near = (1.0 - (x * x + z * z) / POOL**2).clamp_min(0.0) ** 2 * (window.rays[1] < -1e-4)
            gain = near * self.state[rows, slot, 2][:, None, None]
            for plane, warm in zip(self.flat, WARM, strict=True):
                flat_plane = plane.view(-1)
                flat_plane[window.index] = flat_plane[window.index] * (1.0 + 0.8 * gain) + 0.22 * warm * gain

    def _draw(self, slot: int, kind: int, rows: torch.Tensor) -> None:
        window = self._window(rows, self._corners(slot, kind, rows))
        if window is None:
            return
        solids = self._solids(slot, kind, rows)
        start, rays = solids.local(window.eye, window.rays)
        enter, leave, entries = solids.span(start, rays)
        has = frozenset().union(*(self.stage.has[self.owner[i]][slot] for i in rows.tolist()))
        seen, cut = enter, None  # where a ray meets the body, and where that is the inside of a bite
        if "bite" in has:
            middle = tuple(solids.radius * at for at in (BITE[0], 1 + BITE[1], BITE[2]))
            missing = solids.radius * BITE[3] * self.state[rows, slot, 3][:, None, None]
            seen, cut, inside = bitten(start, rays, (enter, leave), middle, missing)
        depth = self.depth.view(-1)[window.index]
        hit = (leave > enter) & (seen > 0.0) & (seen < depth) & (seen < MISS)
        enter = torch.where(hit, enter, 1.0)
        normal = solids.normal(start, rays, enter, entries)
        if cut is not None:
            enter = torch.where(hit, seen, 1.0)
            normal = tuple(torch.where(cut, i, n) for i, n in zip(inside, normal, strict=True))
        points = [e + enter * r for e, r in zip(window.eye, window.rays, strict=True)]
        paint = self._paint(slot, rows, start, rays, enter, cut, has)
        colour = self._shade(slot, rows, points, normal, window.rays, paint, "glow" in has)
        self.depth.view(-1)[window.index] = torch.where(hit, enter, depth)
        for plane, value in zip(self.flat, colour, strict=True):
            flat = plane.view(-1)
            flat[window.index] = torch.where(hit, value, flat[window.index])

    def _paint(self, slot: int, rows: torch.Tensor, start, rays, enter, cut, has) -> list[torch.Tensor]:
        """Three planes of the surface's own colour: plain, with a band that shows a ball's rolling, or with the flesh inside a bite."""
        colour = list(self.stage.paint[self.scene[rows], slot, :3][:, :, None, None].unbind(1))
        if "spin" in has:
            marked = torch.tensor(["spin" in self.stage.has[self.owner[i]][slot] for i in rows.tolist()], device=self.device)
            radius = self.stage.body[self.scene[rows], slot, 0][:, None, None]
            angle = self.state[rows, slot, 1][:, None, None]
            across = (start[0] + enter * rays[0]) * angle.cos() + (start[1] + enter * rays[1] - radius) * angle.sin()
            band = ((0.3 * radius - across.abs()) * (12.0 / radius)).clamp_(0.0, 1.0) * marked[:, None, None]
            light = (sum(colour) < 1.8).float()  # a white band on colours, a dark one on what is nearly white
            colour = [c + (0.9 * light + 0.05 * (1.0 - light) - c) * 0.85 * band for c in colour]
        if cut is not None:
            colour = [torch.where(cut, flesh, c) for flesh, c in zip(backdrop.linear(*SURFACE["cream"]), colour, strict=True)]
        return colour

    def _shade(self, slot: int, rows: torch.Tensor, points, normal, rays, paint, glows: bool) -> list[torch.Tensor]:
        """Direct light by Lambert's law with shadows of the others, light from the sky, a highlight: three planes."""
        gloss = self.stage.paint[self.scene[rows], slot, 3][:, None, None]
        sun = self._towards_sun(rows)
        facing = sum(n * s for n, s in zip(normal, sun, strict=True))
        lit = facing.clamp_min(0.0)
        shade = self._shade_by_others(slot, rows, points, sun)
        if shade is not None:
            lit = lit * (1.0 - shade)
        length = torch.rsqrt(sum(r * r for r in rays))
        mirrored = sum((2.0 * facing * n - s) * -r for n, s, r in zip(normal, sun, rays, strict=True)) * length
        glint = mirrored.clamp_(0.0, 1.0) ** 24 * gloss * (lit > 0)
        sky = 0.72 + 0.28 * normal[1]
        planes = [paint[i] * (self.ambient[rows, i] * sky + self.direct[rows, i] * lit) + glint * self.direct[rows, i] for i in range(3)]
        if glows:
            glow = self.state[rows, slot, 2][:, None, None]
            planes = [p + (0.65 * c + 0.35 * w - p) * glow for p, c, w in zip(planes, paint, WARM, strict=True)]
        return planes

    def _shade_by_others(self, slot: int, rows: torch.Tensor, points, sun) -> torch.Tensor | None:
        shade = None
        for other in range(self.base.shape[1]):
            for kind in (ROUND, BOX, TIPPED):
                there = None if other == slot else self._rows(other, kind)
                both = None if there is None else torch.isin(rows, there).nonzero()[:, 0]
                if both is None or len(both) == 0:
                    continue
                if shade is None:
                    shade = torch.zeros_like(points[0])
                solids = self._solids(other, kind, rows[both])
                part = solids.shade_on(tuple(p[both] for p in points), tuple(s[both] for s in sun))
                shade[both] = torch.maximum(shade[both], part)
        return shade
