"""Where things of one colour are in a video, from its pixels alone: the world's own colours in the light of the hour, nothing learned.

Every pixel belongs to the nearest of the colours that a place shows at an hour: its bodies from shade to full light, and its ground and
background. A body that differs in colour from all others is then the largest blob of its pixels. What this misses and mistakes, the same
measure of renders shows, which stands beside every row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..world import COLOURS, Scene, render
from ..world.backdrop import LIGHTS, ground_light, linear
from ..world.parts import SURFACE
from ..world.scene import away
from .metrics import LUMA

SIDE = 64  # the shorter side of the small picture, in which is looked
BITS = 5  # of each channel: a table of all colours says what a pixel is
SHADES = ((0.45, 0.0), (0.72, 0.0), (0.72, 0.3), (0.8, 0.6), (0.86, 0.85), (1.0, 1.0))  # (light of the sky, of the sun) on a surface
OTHERS = ("cover", "cream", "brass", "leaf")  # what is neither one of COLOURS nor background
LEAST = 6  # pixels: fewer are noise
BLOB = 9  # pixels, about the size of a body


def sample_background(scene: Scene) -> Tensor:
    """[n, 3] colours in 0..1 that the scene's place shows without its bodies, in the open and in shadow."""
    frame = render(replace(scene, objects=(away(scene.objects[0]),)), [0.0], 24, 24)[0].flatten(0, 1).float() / 255
    dark = 1 - torch.tensor(ground_light(LIGHTS[scene.time_of_day])[1])
    return torch.cat([frame, (frame.square() * dark).sqrt()]).unique(dim=0)


def colour_table(scene: Scene) -> Tensor:
    """[2 ** (3 * BITS)], by colour: index into COLOURS of what a pixel of it is, larger than all of them for anything else."""
    light, kinds = LIGHTS[scene.time_of_day], (*COLOURS, *OTHERS)
    ambient, direct = torch.tensor(light.ambient), torch.tensor(light.direct)
    surfaces = [torch.tensor(linear(*SURFACE[kind])) for kind in kinds]
    bodies = torch.stack([surface * (ambient * sky + direct * sun) for surface in surfaces for sky, sun in SHADES]).clamp(0, 1).sqrt()
    background = sample_background(scene)
    label = torch.cat([torch.arange(len(kinds)).repeat_interleave(len(SHADES)), torch.full((len(background),), len(kinds))])
    line = (torch.arange(2**BITS) + 0.5) / 2**BITS
    return label[torch.cdist(torch.cartesian_prod(line, line, line), torch.cat([bodies, background])).argmin(1)]


@dataclass(frozen=True)
class Track:
    """What is seen of one colour, [T] each. `area`: pixels of the small picture, 0 where it is not seen. `x`, `y`: its middle across and
    down, -1..1 along the shorter side; `wide`, `tall`: deviations of its pixels from there. A frame that does not show it repeats these
    four of the last one that did. `luma`: brightness in 0..1 of the spot where it mostly is, whatever is there."""

    area: Tensor
    x: Tensor
    y: Tensor
    wide: Tensor
    tall: Tensor
    luma: Tensor


def small(frames: Tensor, side: int = SIDE) -> Tensor:
    """uint8 [T, H, W, 3] -> uint8 [T, h, w, 3] with a shorter side of `side`."""
    h, w = frames.shape[1:3]
    size = (round(h * side / min(h, w)), round(w * side / min(h, w)))
    x = F.interpolate(frames.movedim(-1, 1).float(), size, mode="bilinear", antialias=True, align_corners=False)
    return x.round().clamp(0, 255).byte().movedim(1, -1)


def masks(frames: Tensor, scene: Scene) -> Tensor:
    """uint8 [T, h, w, 3] -> bool [COLOURS, T, h, w]; a pixel without neighbours of its kind is noise."""
    code = frames.int() >> (8 - BITS)
    label = colour_table(scene)[(code[..., 0] << 2 * BITS) + (code[..., 1] << BITS) + code[..., 2]]
    found = torch.stack([label == i for i in range(len(COLOURS))])
    return found & (F.avg_pool2d(found.float(), 3, 1, 1, count_include_pad=False) > 0.4)


def largest_blob(mask: Tensor) -> Tensor:
    """bool [T, h, w] -> of each frame what hangs together round the place where there is most: a body, and not specks of its colour."""
    there = mask.float()
    most = (F.avg_pool2d(there, BLOB, 1, BLOB // 2) * there).flatten(1)
    blob = F.one_hot(most.argmax(1), most.shape[1]).view_as(there) * there
    while True:
        grown = F.max_pool2d(blob, 5, 1, 2) * there  # across gaps of a pixel
        if torch.equal(grown, blob):
            return blob > 0
        blob = grown


def tracks(frames: Tensor, scene: Scene) -> list[Track]:
    """One for each body of the scene, by its colour; frames uint8 [T, H, W, 3]."""
    frames = small(frames)
    seen, luma = masks(frames, scene), frames.float() @ torch.tensor(LUMA) / 255
    return [_track(largest_blob(seen[COLOURS.index(body.colour)]), luma) for body in scene.objects]


def _track(mask: Tensor, luma: Tensor) -> Track:
    """Of one colour: mask and luma [T, h, w]."""
    _, h, w = mask.shape
    area = mask.sum((1, 2))
    area = torch.where(area >= LEAST, area, 0).float()
    share = mask / area.clamp_min(1)[:, None, None]
    across = ((torch.arange(w) + 0.5) * 2 - w) / min(h, w)
    down = (((torch.arange(h) + 0.5) * 2 - h) / min(h, w))[:, None]
    x, y = ((share * at).sum((1, 2)) for at in (across, down))
    wide, tall = (((share * at.square()).sum((1, 2)) - m.square()).clamp_min(0).sqrt() for at, m in ((across, x), (down, y)))
    last = torch.where(area > 0, torch.arange(len(area)), 0).cummax(0).values
    home = mask.float().mean(0)
    home = home >= 0.5 * home.max().clamp_min(1e-3)
    level = (luma * home).sum((1, 2)) / home.sum().clamp_min(1)
    return Track(area, *(value[last] for value in (x, y, wide, tall)), level)


def seen_shape(frames: Tensor, scene: Scene, colour: str) -> str | None:
    """Which of SHAPES has the outline of what is of this colour, by the half of the frames uint8 [T, H, W, 3] that show most of it; None
    where nothing is. The limits lie between the outlines of the four in renders."""
    mask = largest_blob(masks(small(frames, 2 * SIDE), scene)[COLOURS.index(colour)])
    outlines = [found for frame in mask if (found := _outline(frame))]
    if not outlines:
        return None
    values = torch.tensor(outlines)
    tall, top = values[values[:, 0] >= values[:, 0].median()][:, 1:].median(0).values.tolist()
    return "cone" if top < 0.35 else "cylinder" if tall > 1.2 else "ball" if top < 0.66 else "cube"


def _outline(mask: Tensor) -> tuple[float, float, float] | None:
    """Of one body bool [h, w]: (pixels, height to width, width of its upper fifth to its largest); None where it is too small to tell."""
    at = torch.arange(mask.shape[1])
    rows = mask[mask.any(1)]
    if len(rows) < 2 * LEAST:
        return None
    wide = (torch.where(rows, at, -1).amax(1) - torch.where(rows, at, len(at)).amin(1) + 1).float()
    return float(mask.sum()), len(rows) / float(wide.max()), float(wide[: len(rows) // 5].mean() / wide.max())
