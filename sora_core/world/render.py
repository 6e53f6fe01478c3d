"""Frames of a scene by ray casting, in batched torch: any second, any size, any aspect, CPU or GPU.

Every object is traced only inside its own rectangle of the picture, its shadow inside the shadow's; frames of a chunk go together, so
nothing loops over pixels or frames. Two rays across and two down for each pixel. A frame does not depend on what it is rendered with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from . import backdrop, camera
from .layout import corners
from .motion import positions
from .scene import Scene
from .solids import Solids, profile

RAYS = 2  # along each side of a pixel
# Rays in flight. On a CPU the background goes in smaller groups, whose planes stay in its cache: 1.4 times as fast with a moving camera.
CHUNK_RAYS = {"cpu": 1 << 19, "cuda": 1 << 25}
BACKGROUND_RAYS = {"cpu": 1 << 16, "cuda": 1 << 25}

SURFACE = {  # display colours, as far apart as eight can be in any of the three lights
    "red": (0.90, 0.05, 0.07),
    "orange": (1.00, 0.50, 0.03),
    "yellow": (1.00, 0.90, 0.08),
    "green": (0.05, 0.62, 0.16),
    "blue": (0.08, 0.22, 0.92),
    "purple": (0.58, 0.12, 0.75),
    "white": (0.97, 0.97, 0.97),
    "black": (0.13, 0.13, 0.14),
}
GLOSS = {"ball": 0.55, "cylinder": 0.06, "cone": 0.06, "cube": 0.03}


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
    """All frames of all scenes, flat: N frames, up to K objects each."""

    scenes: Sequence[Scene]
    owner: list[int]  # N: which scene
    view: camera.Pose  # N
    base: torch.Tensor  # N, K, 3
    body: torch.Tensor  # S, K, 8: cube, radius, height, a, b, c, cos, sin
    paint: torch.Tensor  # S, K, 4: linear colour, gloss
    kind: list[list[int]]  # S x K: -1 nobody, 0 round, 1 cube
    light: torch.Tensor  # S, 9: direction, direct, ambient
    shaded: torch.Tensor  # S, 3: share of the ground's light that a shadow takes

    @staticmethod
    def build(scenes: Sequence[Scene], times: Sequence[Sequence[float]], device: torch.device) -> "_Stage":
        slots = max(len(scene.objects) for scene in scenes)
        views, bases, body, paint, kind, light, shaded = [], [], [], [], [], [], []
        for scene, when in zip(scenes, times, strict=True):
            seconds = torch.as_tensor(list(when), dtype=torch.float64)
            views.append(camera.pose(scene.camera, seconds))
            bases.append(torch.nn.functional.pad(positions(scene, seconds), (0, 0, 0, slots - len(scene.objects))))
            empty = slots - len(scene.objects)
            turns = torch.tensor([o.turn for o in scene.objects], dtype=torch.float64)
            cos, sin = torch.cos(turns).tolist(), torch.sin(turns).tolist()
            body.append(
                [[o.shape == "cube", o.radius, o.height, *profile(o), c, s] for o, c, s in zip(scene.objects, cos, sin, strict=True)]
                + [[0.0] * 8] * empty
            )
            paint.append([[*backdrop.linear(*SURFACE[o.colour]), GLOSS[o.shape]] for o in scene.objects] + [[0.0] * 4] * empty)
            kind.append([int(o.shape == "cube") for o in scene.objects] + [-1] * empty)
            hour = backdrop.LIGHTS[scene.time_of_day]
            light.append([*backdrop.light_direction(scene), *hour.direct, *hour.ambient])
            shaded.append(backdrop.ground_light(hour)[1])
        to = {"dtype": torch.float32, "device": device}
        view = camera.Pose(*(torch.cat([getattr(v, name) for v in views]).to(**to) for name in ("eye", "right", "up", "forward")))
        owner = [i for i, when in enumerate(times) for _ in when]
        tensors = (torch.tensor(item, dtype=torch.float64).to(**to) for item in (body, paint))
        tail = (torch.tensor(item, dtype=torch.float64).to(**to) for item in (light, shaded))
        return _Stage(scenes, owner, view, torch.cat(bases).to(**to), *tensors, kind, *tail)


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
        self.base = stage.base[rows]
        self.tangents = camera.tangents(width, height)
        light = stage.light[self.scene][:, :, None, None]  # n, 9, 1, 1
        self.sun, self.direct, self.ambient = light[:, 0:3], light[:, 3:6], light[:, 6:9]

    def frames(self) -> torch.Tensor:
        """uint8 [n, height, width, 3]."""
        planes = self._background()  # n, 3, H, W
        self.flat = list(planes.unbind(1))
        self._cast_shadows()
        self.depth = torch.full_like(self.flat[0], 1e9)
        for slot in range(self.base.shape[1]):
            for cube in (0, 1):
                rows = self._rows(slot, cube)
                if rows is not None:
                    self._draw(slot, bool(cube), rows)
        picture = torch.nn.functional.avg_pool2d(torch.stack(self.flat, 1), RAYS)
        picture = picture.clamp_(0.0, 1.0).sqrt_().mul_(255.0).add_(0.5)
        return picture.to(torch.uint8).permute(0, 2, 3, 1)

    def _rows(self, slot: int, cube: int) -> torch.Tensor | None:
        """Frames of the chunk in which this slot is such a body."""
        rows = [i for i, scene in enumerate(self.owner) if self.stage.kind[scene][slot] == cube]
        return torch.tensor(rows, device=self.device) if rows else None

    def _background(self) -> torch.Tensor:
        """[n, 3, H, W]; painted once for all frames of a scene whose camera stands still."""
        out = torch.empty(len(self.owner), 3, self.height, self.width, device=self.device)
        for scene in sorted(set(self.owner)):
            rows = torch.tensor([i for i, s in enumerate(self.owner) if s == scene], device=self.device)
            seen = rows[:1] if self.stage.scenes[scene].camera.kind == "static" else rows
            size = max(1, BACKGROUND_RAYS.get(self.device.type, 1 << 22) // (self.width * self.height))
            for part in seen.split(size):
                planes = backdrop.paint(self.stage.scenes[scene], self.view.eye[part], self._window(part, None).rays)
                out[rows if len(seen) < len(rows) else part] = torch.stack(planes, 1)
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

    def _solids(self, slot: int, cube: bool, rows: torch.Tensor) -> Solids:
        values = self.stage.body[self.scene[rows], slot][:, :, None, None].unbind(1)  # 8 x (n, 1, 1)
        return Solids(cube, self.base[rows, slot], values[1], values[2], values[3:6], values[6], values[7])

    def _corners(self, slot: int, rows: torch.Tensor, grow: float = 0.0) -> torch.Tensor:
        """[n, 8, 3] corners of the box round a body."""
        body = self.stage.body[self.scene[rows], slot]
        wide = body[:, 1] * torch.where(body[:, 0] > 0, 2**0.5, 1.0) + grow
        unit = corners(torch.zeros(3, device=self.device), 1.0, 1.0)
        return self.base[rows, slot][:, None] + unit * torch.stack((wide, body[:, 2], wide), -1)[:, None]

    def _cast_shadows(self) -> None:
        """Darken the ground where bodies stand in the light; what two bodies shade is not darkened twice."""
        lit = torch.ones_like(self.flat[0])
        boxes = []
        for slot in range(self.base.shape[1]):
            for cube in (0, 1):
                rows = self._rows(slot, cube)
                window = None if rows is None else self._shadow_window(slot, rows)
                if window is None:
                    continue
                boxes.append(window.index)
                distance = window.eye[1] / (-window.rays[1]).clamp_min(1e-4)
                x, z = (window.eye[i] + distance * window.rays[i] for i in (0, 2))
                shade = self._solids(slot, bool(cube), rows).shade_on((x, torch.zeros_like(x), z), self._towards_sun(rows))
                shade = torch.where((window.rays[1] < -1e-4) & (z > backdrop.WALL_Z), shade, 0.0)
                lit.view(-1)[window.index] = lit.view(-1)[window.index] * (1.0 - shade)
        if boxes:
            share = self.stage.shaded[self.scene][:, :, None, None]
            dark = 1.0 - lit
            self.flat = [plane * (1.0 - dark * share[:, i]) for i, plane in enumerate(self.flat)]

    def _towards_sun(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.sun[rows].unbind(1)  # 3 x (n, 1, 1)

    def _shadow_window(self, slot: int, rows: torch.Tensor) -> _Window | None:
        points = self._corners(slot, rows, grow=0.05)
        sun = self.sun[rows][:, :, 0, 0]
        fallen = points - sun[:, None] * (points[..., 1:2] / sun[:, None, 1:2])
        return self._window(rows, fallen)

    def _draw(self, slot: int, cube: bool, rows: torch.Tensor) -> None:
        window = self._window(rows, self._corners(slot, rows))
        if window is None:
            return
        solids = self._solids(slot, cube, rows)
        start, rays = solids.local(window.eye, window.rays)
        enter, leave, entries = solids.span(start, rays)
        depth = self.depth.view(-1)[window.index]
        hit = (leave > enter) & (enter > 0.0) & (enter < depth)
        enter = torch.where(hit, enter, 1.0)
        normal = solids.normal(start, rays, enter, entries)
        points = [e + enter * r for e, r in zip(window.eye, window.rays, strict=True)]
        colour = self._shade(slot, rows, points, normal, window.rays)
        self.depth.view(-1)[window.index] = torch.where(hit, enter, depth)
        for plane, value in zip(self.flat, colour, strict=True):
            flat = plane.view(-1)
            flat[window.index] = torch.where(hit, value, flat[window.index])

    def _shade(self, slot: int, rows: torch.Tensor, points, normal, rays) -> list[torch.Tensor]:
        """Direct light by Lambert's law with shadows of the others, light from the sky, a highlight: three planes."""
        paint = self.stage.paint[self.scene[rows], slot][:, :, None, None]
        sun = self._towards_sun(rows)
        facing = sum(n * s for n, s in zip(normal, sun, strict=True))
        lit = facing.clamp_min(0.0)
        shade = self._shade_by_others(slot, rows, points, sun)
        if shade is not None:
            lit = lit * (1.0 - shade)
        length = torch.rsqrt(sum(r * r for r in rays))
        mirrored = sum((2.0 * facing * n - s) * -r for n, s, r in zip(normal, sun, rays, strict=True)) * length
        glint = mirrored.clamp_(0.0, 1.0) ** 24 * paint[:, 3] * (lit > 0)
        sky = 0.72 + 0.28 * normal[1]
        return [paint[:, i] * (self.ambient[rows, i] * sky + self.direct[rows, i] * lit) + glint * self.direct[rows, i] for i in range(3)]

    def _shade_by_others(self, slot: int, rows: torch.Tensor, points, sun) -> torch.Tensor | None:
        shade = None
        for other in range(self.base.shape[1]):
            for cube in (0, 1):
                there = None if other == slot else self._rows(other, cube)
                both = None if there is None else torch.isin(rows, there).nonzero()[:, 0]
                if both is None or len(both) == 0:
                    continue
                if shade is None:
                    shade = torch.zeros_like(points[0])
                solids = self._solids(other, bool(cube), rows[both])
                part = solids.shade_on(tuple(p[both] for p in points), tuple(s[both] for s in sun))
                shade[both] = torch.maximum(shade[both], part)
        return shade
