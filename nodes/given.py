"""What a LATENT of this pack carries, and whether it still holds.

One extra entry, `Given`. Many host nodes copy it while they change the samples, so whoever reads it asks `given_of`, which looks whether
it still speaks of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..sora_core.canvas import Canvas
from ..sora_core.plan import PlanSettings

KEY = "sora"
"""Of the extra entries of a LATENT and of a CONDITIONING, of our wrappers and of our transformer option."""

MOVED = 0.05
"""Of raw latents, whose deviation is about 2: what a host's solver may leave of noise in known cells. uni_pc ends at a noise level of 0.001
and leaves 0.011."""

GAIN = 5e-3
"""Share of itself that what is known may have gained or lost as a whole: noise takes 1e-3, the least step of Latent Multiply 1e-2."""

SAMPLERS = {
    **dict.fromkeys(("SoraSampler", "SoraPlan"), "latent"),
    **dict.fromkeys(("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced"), "latent_image"),
}
"""Nodes that hand a LATENT on as what was made of it, by the input that they take it from."""


class Media(ABC):
    """Something given: frames of one size and rate, read when they are needed. nodes/media.py has the kinds.

    Attributes:
        frames: how many.
        fps: frames a second.
        size: (width, height) in pixels.
        batch: how many different videos it holds.
        sound: a host AUDIO, or None.
        moments: when each frame is shown, in seconds, where that is uneven, as telephones and screen recorders write it; else None.
        end: when the last one of those has been shown.
        note: for the node.
    """

    frames: int
    fps: float
    size: tuple[int, int]
    batch: int = 1
    sound: dict | None = None
    moments: list[float] | None = None
    end: float = 0.0
    note: str = ""

    @abstractmethod
    def read(self, batch_index: int, start: int, count: int) -> Iterator[Tensor]:
        """Chunks [n, H, W, 3] in 0..1, the same at every reading. A video beyond the batch is the last one."""

    def cells(self, frame: int, count: int, alone: bool) -> Tensor | None:
        """`count` raw latent cells [B, C, count, h, w], the first of them ending with `frame`, if it still holds those; canvas.Latents."""
        return None

    def grid(self, frame: int) -> int | None:
        """If it still holds latents around `frame`: the frames that are equal to this modulo s end a cell."""
        return None


class Picked(Media):
    """Some videos of media, in the order of a batch that a host's node has changed."""

    def __init__(self, media: Media, videos: list[int]):
        self.media, self.videos, self.batch = media, videos, len(videos)
        self.frames, self.fps, self.size, self.sound = media.frames, media.fps, media.size, media.sound

    def read(self, batch_index: int, start: int, count: int) -> Iterator[Tensor]:
        return self.media.read(self.videos[min(batch_index, self.batch - 1)], start, count)

    def cells(self, frame: int, count: int, alone: bool) -> Tensor | None:
        cells = self.media.cells(frame, count, alone)
        return None if cells is None else cells[self.videos]

    def grid(self, frame: int) -> int | None:
        return self.media.grid(frame)


@dataclass(frozen=True)
class Given:
    """The extra entry of a LATENT.

    Args:
        canvas: shape, fps, what is known, and what becomes of it.
        sources: what the canvas' source numbers stand for.
        samples, mask: those that it was made with, or that Sora Sampler made, and the noise mask [1 or B, 1, F, h or 1, w or 1] (0 =
            known), to see whether the samples are still about them; None where nothing is pasted.
        guides: a latent [B, C, 1, h, w] for each guide of the canvas; `held` the same as a cell for models that know no guides.
        sound: a host AUDIO as long as the result.
        strength: share of the noise to begin from, when the samples are to be changed and not made.
        own_mask: somebody's own noise mask beside that of the canvas, in the form of `mask`.
        region: [T, H, W] in 0..1 for every frame of the result, if what is kept differs in space: 1 = made.
        plan: what Sora Plan says of the passes; None leaves it to the sampler.
        vae: the host VAE of the canvas, for models and passes that want what is given encoded in another way.
    """

    canvas: Canvas
    sources: tuple[Media, ...] = ()
    samples: Tensor | None = None
    mask: Tensor | None = None
    guides: tuple[Tensor, ...] = ()
    held: tuple[Tensor, ...] = ()
    sound: dict | None = None
    strength: float = 1.0
    own_mask: Tensor | None = None
    region: Tensor | None = None
    plan: PlanSettings | None = None
    vae: object = None

    def of(self, videos: list[int]) -> Given:
        """The same for some of its videos, in this order."""
        if videos == list(range(len(self.samples))):
            return self
        return replace(
            self,
            sources=tuple(Picked(media, videos) if media.batch > 1 else media for media in self.sources),
            samples=self.samples[videos],
            mask=_of_videos(self.mask, videos),
            own_mask=None if self.own_mask is None else _of_videos(self.own_mask, videos),
            guides=tuple(guide[videos] for guide in self.guides),
            held=tuple(held[videos] for held in self.held),
        )


def _of_videos(mask: Tensor, videos: list[int]) -> Tensor:
    return mask[videos] if len(mask) > 1 else mask


def samples_of(latent: dict, field: str = "latent") -> Tensor:
    """The samples [B, C, F, h, w] of a LATENT at the input `field`. Raises ValueError for one that is torn or no video's."""
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if getattr(samples, "is_nested", False):
        apart = "put 'Separate AV Latent' (LTXVSeparateAVLatent) between, and connect its video_latent"
        raise ValueError(f"{field}: it holds video and sound together: {apart}")
    if not isinstance(samples, Tensor):
        raise ValueError(f"{field}: it holds no samples: connect 'Sora Canvas' or another node that gives a LATENT")
    if samples.ndim != 5:
        raise ValueError(f"{field}: this is a picture's latent of {samples.ndim} axes, a video's has 5: connect 'Sora Canvas'")
    return samples


def given_of(latent: dict) -> Given | None:
    """The entry of a LATENT if its samples are still those it was made for, for its batch as it is now.

    They are where the known cells still stand in them; where none is known, if nothing has changed since the canvas or Sora Sampler.

    Raises:
        ValueError: a batch that was changed so that its videos, which have pictures of their own, cannot be told apart.
    """
    given, samples = latent.get(KEY), samples_of(latent)
    if not isinstance(given, Given) or samples.shape[1:] != given.canvas.shape.latent:
        return None
    if given.samples is None:
        return given
    videos = _videos(given, samples, latent.get("batch_index"))
    return None if videos is None else given.of(videos)


def _videos(given: Given, samples: Tensor, numbers: list[int] | None) -> list[int] | None:
    """Which video of the canvas each one is: that of its number in the batch, or another that it looks like. None if one is none."""
    batch, videos = len(given.samples), []
    if numbers is None or len(numbers) != len(samples) or (len(samples) == batch and not any(numbers)):
        numbers = [i % batch for i in range(len(samples))]  # as they are, or repeated; with "fixed" seeds all have the number 0
    for found, number in zip(samples, numbers):
        fitting = [number] if number < batch and _stands(given, number, found) else [k for k in range(batch) if _stands(given, k, found)]
        if not fitting:
            return None
        if len(fitting) > 1 and any(media.batch > 1 for media in given.sources):
            raise ValueError("latent: the videos of its batch cannot be told apart any more: change the batch before pictures are placed")
        videos.append(fitting[0])
    return videos


def _stands(given: Given, number: int, found: Tensor) -> bool:
    """Whether the known cells of a video stand in samples [C, F, h, w]; all cells, where none is known."""
    known = given.samples[number].to(found)
    kept = given.mask[min(number, len(given.mask) - 1)].to(found.device) == 0
    return alike(found * kept, known * kept) if kept.any() else alike(found, known)


def alike(found: Tensor, known: Tensor) -> bool:
    """Whether latents are the known ones, but for the noise that solvers leave in them."""
    known = known.float()
    moved = found.float() - known
    return bool(moved.abs().max() <= MOVED and (moved * known).sum().abs() <= GAIN * known.square().sum())


def sampled(latent: dict, made: Tensor) -> dict:
    """A LATENT with what Sora Sampler made of it; its entry is told, to know it again."""
    given = given_of(latent)
    if given is None or given.samples is None:
        return {**latent, "samples": made}
    return {**latent, "samples": made, KEY: replace(given, samples=made)}


def restored(latent: dict, hidden, field: str = "latent") -> dict:
    """A LATENT of an input as Sora Sampler would have given it, if the graph says that nothing but samplers stands between it
    and its canvas: with the known cells as they were, which solvers of the host may leave full of noise.

    Args:
        hidden: of the node that takes it: the prompt and its own number in it; None without a graph.
        field: name of the input.
    """
    given, samples = latent.get(KEY), samples_of(latent, field)
    if not isinstance(given, Given) or given.samples is None or given.samples.shape != samples.shape or not _straight(hidden, field):
        return latent
    samples = torch.where(given.mask.to(samples.device) == 0, given.samples.to(samples), samples)
    return {**latent, "samples": samples, KEY: replace(given, samples=samples)}


def without_stale_mask(latent: dict) -> tuple[dict, list[str]]:
    """A LATENT without the noise mask of its canvas where a node has changed the number of its cells, and a sentence for the node.

    The host would stretch the mask over the other cells, and keep some of them at random.
    """
    given, mask, samples = latent.get(KEY), latent.get("noise_mask"), latent["samples"]
    if mask is None or not isinstance(given, Given) or not same_mask(mask, given.mask) or given.samples.shape[2] == samples.shape[2]:
        return latent, []
    cells = f"{given.samples.shape[2]} cells, and there are {samples.shape[2]} now"
    return {k: v for k, v in latent.items() if k != "noise_mask"}, [f"all of it is made: what the canvas keeps was for {cells}"]


def same_mask(mask: Tensor, other: Tensor | None) -> bool:
    """Whether a noise mask is another one; some of the host's nodes copy it."""
    return mask is other or (other is not None and mask.shape == other.shape and torch.equal(mask.to(other), other))


def _straight(hidden, field: str) -> bool:
    """Whether the LATENT of a node comes from a canvas by way of samplers alone."""
    prompt = hidden and hidden.prompt or {}
    node = hidden and prompt.get(hidden.unique_id)
    while node and field:
        link = node["inputs"].get(field)
        node = prompt.get(link[0]) if isinstance(link, list) else None
        kind = node["class_type"] if node else ""
        field = SAMPLERS.get(kind)
    return bool(node) and kind.startswith("Sora")


def fps_of(latent: dict, otherwise: float) -> float:
    """Frames a second of a LATENT, even where the rest of the entry no longer holds."""
    given = latent.get(KEY)
    return given.canvas.shape.fps if isinstance(given, Given) else otherwise
