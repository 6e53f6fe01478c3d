"""Ray against solid. Balls, cylinders and cones are one routine, cubes another.

All three round bodies stand on y = 0 of their own frame and fill x^2 + z^2 <= a + b y + c y^2 between y = 0 and their height:
a cylinder is (r^2, 0, 0), a ball (0, 2r, -1), a cone (r^2, -2 r^2 / h, r^2 / h^2). They are convex, so a ray is inside one interval.
"""

from dataclasses import dataclass

import torch

from .scene import Object

MISS = 1e6
Vector = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # x, y, z planes


def profile(body: Object) -> tuple[float, float, float]:
    """(a, b, c) of the body's outline; unused for a cube."""
    r, h = body.radius, body.height
    ball = (0.0, 2 * r, -1.0)
    return {"cylinder": (r * r, 0.0, 0.0), "ball": ball, "apple": ball, "cone": (r * r, -2 * r * r / h, (r / h) ** 2)}.get(
        body.shape, (0.0, 0.0, 0.0)
    )


@dataclass
class Solids:
    """One part in n frames; every field [n, 1, 1], base [n, 3]. `cube` and `tipped` are the same for all rows.

    cos, sin: of the turn about the vertical of a box, or of the angle by which a round body is tipped towards +x.
    """

    cube: bool
    tipped: bool
    base: torch.Tensor
    radius: torch.Tensor
    depth: torch.Tensor
    height: torch.Tensor
    outline: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    cos: torch.Tensor
    sin: torch.Tensor

    def local(self, start: Vector, ray: Vector) -> tuple[Vector, Vector]:
        """Points and directions as the body sees them: a box turned about the vertical, a tipped body upright again."""
        x, y, z = (start[i] - self.base[:, i, None, None] for i in range(3))
        if not self.cube and not self.tipped:
            return (x, y, z), ray
        dx, dy, dz = ray
        if self.tipped:
            return (self.cos * x - self.sin * y, self.sin * x + self.cos * y, z), (
                self.cos * dx - self.sin * dy,
                self.sin * dx + self.cos * dy,
                dz,
            )
        return (self.cos * x + self.sin * z, y, self.cos * z - self.sin * x), (
            self.cos * dx + self.sin * dz,
            dy,
            self.cos * dz - self.sin * dx,
        )

    def span(self, start: Vector, ray: Vector) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """(enter, leave, entries per pair of sides) of local rays; a miss has leave < enter."""
        enter_y, leave_y = _slab(start[1], ray[1], 0.0, self.height)
        if self.cube:
            enter_x, leave_x = _slab(start[0], ray[0], -self.radius, self.radius)
            enter_z, leave_z = _slab(start[2], ray[2], -self.depth, self.depth)
            enter = torch.maximum(torch.maximum(enter_x, enter_z), enter_y)
            return enter, torch.minimum(torch.minimum(leave_x, leave_z), leave_y), [enter_x, enter_y, enter_z]
        enter_r, leave_r = self._round(start, ray)
        return torch.maximum(enter_r, enter_y), torch.minimum(leave_r, leave_y), [enter_r, enter_y]

    def _round(self, start: Vector, ray: Vector) -> tuple[torch.Tensor, torch.Tensor]:
        (x, y, z), (dx, dy, dz), (a, b, c) = start, ray, self.outline
        squared = (dx * dx + dz * dz - c * dy * dy).clamp_min(1e-6)  # below 0 only along rays steeper than a cone's side
        half = x * dx + z * dz - (0.5 * b + c * y) * dy
        rest = x * x + z * z - (a + (b + c * y) * y)
        below = half * half - squared * rest
        root = below.clamp_min(0.0).sqrt()
        scale = 1.0 / squared
        missed = below <= 0.0
        return torch.where(missed, MISS, (-half - root) * scale), torch.where(missed, -MISS, (-half + root) * scale)

    def normal(self, start: Vector, ray: Vector, enter: torch.Tensor, entries: list[torch.Tensor]) -> Vector:
        """World normals where local rays enter."""
        y_sign = -torch.sign(ray[1])
        if self.cube:
            by_x = entries[0] >= enter
            by_z = (entries[2] >= enter) & ~by_x
            nx = torch.where(by_x, -torch.sign(ray[0]), 0.0)
            nz = torch.where(by_z, -torch.sign(ray[2]), 0.0)
            ny = torch.where(by_x | by_z, 0.0, y_sign)
            return self.cos * nx - self.sin * nz, ny, self.cos * nz + self.sin * nx
        _, b, c = self.outline
        x, y, z = (s + enter * d for s, d in zip(start, ray, strict=True))
        ny = -(0.5 * b + c * y)
        scale = torch.rsqrt((x * x + ny * ny + z * z).clamp_min(1e-9))
        by_y = entries[1] > entries[0]
        nx, ny, nz = torch.where(by_y, 0.0, x * scale), torch.where(by_y, y_sign, ny * scale), torch.where(by_y, 0.0, z * scale)
        return (self.cos * nx + self.sin * ny, self.cos * ny - self.sin * nx, nz) if self.tipped else (nx, ny, nz)

    def shade_on(self, points: Vector, light: Vector) -> torch.Tensor:
        """[n, h, w] in 0..1: how much of the light this body takes from world points; the edge softens with the way to the body."""
        start, ray = self.local(points, light)
        enter, leave, _ = self.span(start, ray)
        enter = enter.clamp_min(0.0)
        return ((leave - enter) / (torch.minimum(self.radius, self.depth) * 0.12 + 0.06 * enter)).clamp_(0.0, 1.0)


def bitten(start: Vector, ray: Vector, span: tuple[torch.Tensor, torch.Tensor], middle: Vector, radius: torch.Tensor):
    """A solid with a ball cut out of it: (enter [n, h, w], where a ray enters through the cut, the cut's local normals there).

    A ray that meets the cut first goes on to its far side, and misses when the solid ends before that.
    """
    enter, leave = span
    x, y, z = (s - m for s, m in zip(start, middle, strict=True))
    squared = sum(r * r for r in ray)
    half = (x * ray[0] + y * ray[1] + z * ray[2]) / squared
    root = (half * half - (x * x + y * y + z * z - radius * radius) / squared).clamp_min(0.0).sqrt()
    far = -half + root
    cut = (root > 0.0) & (enter >= -half - root) & (enter < far)
    inner = torch.where(far < leave, far, MISS)
    normal = tuple(-(s + inner * r) / radius.clamp_min(1e-3) for s, r in zip((x, y, z), ray, strict=True))
    return torch.where(cut, inner, enter), cut, normal


def _slab(start: torch.Tensor, ray: torch.Tensor, low, high) -> tuple[torch.Tensor, torch.Tensor]:
    inverse = 1.0 / torch.where(ray.abs() < 1e-7, 1e-7, ray)
    first, second = (low - start) * inverse, (high - start) * inverse
    return torch.minimum(first, second), torch.maximum(first, second)
