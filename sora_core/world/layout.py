"""Whether a scene's objects keep apart and in view at any second, and who is always left of whom."""

import torch

from . import camera as cameras
from .motion import cycle, position
from .scene import Object, Scene

GAP = 0.12  # smallest distance kept between two bodies
IN_VIEW = 0.97 * cameras.HALF_VIEW
PATH_POINTS, CAMERA_POINTS = 25, 9
MIN_SLIDE = 0.3 * cameras.HALF_VIEW  # seen in five seconds: 15 % of the picture
MIN_APPROACH = 2.0  # units in five seconds


def corners(base: torch.Tensor, radius: float, height: float) -> torch.Tensor:
    """[..., 3] undersides -> [..., 8, 3] corners of the upright box round the body."""
    signs = torch.tensor([[i, j, k] for i in (-1, 1) for j in (0, 1) for k in (-1, 1)], dtype=base.dtype, device=base.device)
    return base[..., None, :] + signs * torch.tensor([radius, height, radius], dtype=base.dtype, device=base.device)


def fits(scene: Scene) -> bool:
    """True when no two paths come near each other, everything stays in a square picture and is seen at the start, and what moves is
    seen to move as told although the camera moves too."""
    paths = [cycle(body, PATH_POINTS) for body in scene.objects]
    return _apart(scene.objects, paths) and _in_view(scene, paths) and _seen_at_start(scene, paths) and _moves_as_told(scene)


def _apart(bodies: tuple[Object, ...], paths: list[torch.Tensor]) -> bool:
    # paths are compared whole, not second by second: periods that drift against each other for a minute cannot bring a collision
    for i in range(len(bodies)):
        for j in range(i):
            nearest = torch.cdist(paths[i][:, ::2], paths[j][:, ::2]).min().item()
            if nearest < bodies[i].clearance + bodies[j].clearance + GAP:
                return False
    return True


def _in_view(scene: Scene, paths: list[torch.Tensor]) -> bool:
    view = cameras.cycle(scene.camera, CAMERA_POINTS)
    for body, path in zip(scene.objects, paths, strict=True):
        points = corners(path, body.clearance, body.height).reshape(1, -1, 3).expand(view.eye.shape[0], -1, -1)
        across, up, _ = cameras.project(view, points)
        if across.abs().max().item() > IN_VIEW or up.abs().max().item() > IN_VIEW:
            return False
    return True


def _seen_at_start(scene: Scene, paths: list[torch.Tensor]) -> bool:
    if len(paths) < 2:
        return True
    view = cameras.pose(scene.camera, torch.zeros(1, dtype=torch.float64))
    across, _, depth = cameras.project(view, torch.stack([path[:1] for path in paths], dim=1).reshape(1, -1, 3))
    half = torch.tensor([body.clearance for body in scene.objects], dtype=torch.float64) / depth[0]
    for i in range(len(paths)):
        for j in range(i):
            if abs(across[0, i] - across[0, j]).item() < 0.8 * (half[i] + half[j]).item():
                return False
    return True


def _moves_as_told(scene: Scene) -> bool:
    """In the first five seconds a slide goes its way in the picture too, and what comes closer gets nearer to the camera."""
    if scene.camera.kind == "static":
        return True
    times = torch.linspace(0.0, 5.0, 11, dtype=torch.float64)
    view = cameras.pose(scene.camera, times)
    for body in scene.objects:
        if body.motion not in ("slide left", "slide right", "come closer"):
            continue
        across, _, depth = cameras.project(view, position(body, times)[:, None])
        path = -depth[:, 0] if body.motion == "come closer" else across[:, 0] * (1 if body.motion == "slide right" else -1)
        least = MIN_APPROACH if body.motion == "come closer" else MIN_SLIDE
        if path.diff().min().item() < 0.0 or (path[-1] - path[0]).item() < least:
            return False
    return True


def always_left_of(scene: Scene, first: int, second: int) -> bool:
    """True when object `first` is seen left of object `second` at every second of any clip."""
    view = cameras.cycle(scene.camera, CAMERA_POINTS)
    spans = []
    for index in (first, second):
        path = cycle(scene.objects[index], PATH_POINTS)
        spans.append(cameras.project(view, path[None].expand(view.eye.shape[0], -1, -1)))
    a, b = spans
    margin = 0.25 / cameras.DISTANCE
    return bool((a[0].amax(1) + margin < b[0].amin(1)).all())
