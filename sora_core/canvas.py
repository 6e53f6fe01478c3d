"""What is given and what is to be made: the rules of the lattice (cells of F, H, W) as data and pure functions.

A result is a *timeline* of pixel frames, each either a frame of something given or a new one. New frames come out of a *lattice*, the
cells of one window `[A | new | B]`; A and B are given frames, encoded, that the new ones must fit. Cell 0 of a lattice holds one frame,
every later one s; a lattice that begins inside a video begins with A, whose first frame is a cell 0 of its own.

Words: s stride in time, known = given and clean, source = index of a given video or picture, frame = of the lattice unless said otherwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .config import LATENT_MEAN
from .shapes import PATCH, Strides, VideoShape
from .video_file import carry_seam

NEW = -1
"""In place of a source: these frames are to be made."""

CONTEXT_CELLS = 4
"""Cells of A and of B that a window sees: two seconds at 8 frames a second."""

HISTORY_CELLS = 2
"""Cells of false history shown to a causal encoder before a span from the middle of a video. Nothing true can stand there: what the
span follows is to be made. 1 frame / 2 / 4 cells leave 1.25 / 1.04 / 0.64 of the latents' deviation."""


# -- data ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """A run of frames of a result: `count` frames from `start` on, of a source, or (source = NEW) of the lattice."""

    source: int
    start: int
    count: int


@dataclass(frozen=True)
class Timeline:
    """The frames of a result, in order."""

    pieces: tuple[Piece, ...]

    @property
    def frames(self) -> int:
        return sum(piece.count for piece in self.pieces)


@dataclass(frozen=True)
class Span:
    """Known cells `cell`..`cell + cells - 1`: the frames of a source from `start` on."""

    cell: int
    cells: int
    source: int
    start: int

    def frames(self, strides: Strides) -> int:
        return strides.frames(self.cells) if self.cell == 0 else strides.time * self.cells


@dataclass(frozen=True)
class Guide:
    """A picture that steers frame `frame`: encoded alone, shown to the model beside the lattice. The cell there is still made."""

    frame: int
    source: int
    start: int = 0


@dataclass(frozen=True)
class Canvas:
    """One window.

    Args:
        shape: of the lattice.
        timeline: what becomes of it.
        origin: the time of the lattice's frame 0, in frames of the first source (below 0 before its start).
        spans, guides: what is given.
    """

    shape: VideoShape
    timeline: Timeline
    origin: int = 0
    spans: tuple[Span, ...] = ()
    guides: tuple[Guide, ...] = ()

    @property
    def known(self) -> list[int]:
        """Numbers of the known cells."""
        return [k for span in self.spans for k in range(span.cell, span.cell + span.cells)]

    @property
    def seconds_of_cells(self) -> list[float]:
        """When each cell ends. Noise is drawn by it, so the same moment gets the same noise in a longer video."""
        return [(self.origin + self.shape.strides.time * k) / self.shape.fps for k in range(self.shape.cells)]

    def mask(self) -> Tensor:
        """[F], 1 where cells are to be made, 0 where they are known."""
        mask = torch.ones(self.shape.cells)
        mask[self.known] = 0
        return mask

    def positions(self, native_fps: float) -> list[float]:
        """Of the cells, then of the guides: frame p stands at p / s, cell k where its last frame does, in steps of the native rate."""
        step = native_fps / self.shape.fps
        return self.shape.positions(native_fps) + [guide.frame / self.shape.strides.time * step for guide in self.guides]


# -- rules: which cells stand for what -----------------------------------------------------------------------------------------------


def blank(shape: VideoShape) -> Canvas:
    """Everything is to be made."""
    return Canvas(shape, Timeline((Piece(NEW, 0, shape.frames),)))


def place_still(canvas: Canvas, frame: int, source: int) -> Canvas:
    """The picture `source` at a frame of a blank canvas: cell 0 becomes known and passes through; a later one becomes a guide.

    A second picture at the same place takes the first one's.

    Raises:
        ValueError: a frame outside the lattice.
    """
    last = canvas.shape.frames - 1
    if not 0 <= frame <= last:
        raise ValueError(f"frame {frame} is not on the canvas: use 0 to {last}")
    if frame:
        others = tuple(g for g in canvas.guides if g.frame != frame)
        return replace(canvas, guides=tuple(sorted((*others, Guide(frame, source)), key=lambda g: g.frame)))
    rest = (Piece(NEW, 1, last),) if last else ()
    return replace(canvas, spans=(Span(0, 1, source, 0),), timeline=Timeline((Piece(source, 0, 1), *rest)))


def extend(still: VideoShape, source_frames: int, new: int, context: int = CONTEXT_CELLS) -> Canvas:
    """`new` frames, rounded up to s n, behind a video.

    For this and the four below: `still` gives size, fps and strides (its number of cells is not used); `context` is the most cells of
    A and B that the window sees. Raises ValueError when there is nothing to fit to, or nothing to make.
    """
    return _window(still, Piece(0, 0, source_frames), new, None, context)


def extend_backward(still: VideoShape, source_frames: int, new: int, context: int = CONTEXT_CELLS) -> Canvas:
    """`new` frames, rounded up to 1 + s n, before a video."""
    return _window(still, None, new, Piece(0, 0, source_frames), context)


def join(still: VideoShape, first_frames: int, second_frames: int, new: int, context: int = CONTEXT_CELLS) -> Canvas:
    """Source 0, `new` frames (rounded up to s n), source 1."""
    return _window(still, Piece(0, 0, first_frames), new, Piece(1, 0, second_frames), context)


def loop(still: VideoShape, source_frames: int, new: int, context: int = CONTEXT_CELLS) -> Canvas:
    """A video and `new` frames that lead from its end to its start: the join of it with itself, the second copy left out."""
    canvas = _window(still, Piece(0, 0, source_frames), new, Piece(0, 0, source_frames), context)
    return replace(canvas, timeline=Timeline(canvas.timeline.pieces[:-1]))


def fill(still: VideoShape, source_frames: int, start: int, end: int, new: int | None = None, context: int = CONTEXT_CELLS) -> Canvas:
    """Makes the frames start..end-1 of a video anew.

    The gap grows to a multiple of s (1 + s n if it begins with the video), evenly to both sides where there is room; the timeline says
    which frames are left. With `new` the gap stays as it is and `new` frames (rounded up) come into it, more or fewer than it had.
    """
    if not 0 <= start < end <= source_frames:
        raise ValueError(f"the gap from frame {start} to {end} is not in the video: use 0 <= from < to <= {source_frames}")
    if new is None:
        start, end = _snap(start, end, source_frames, still.strides.time)
        new = end - start
    before = Piece(0, 0, start) if start else None
    after = Piece(0, end, source_frames - end) if end < source_frames else None
    if before is None and after is None:
        raise ValueError(f"the gap from frame {start} to {end} leaves nothing of the video: leave one frame or more")
    return _window(still, before, new, after, context)


def _snap(start: int, end: int, length: int, s: int) -> tuple[int, int]:
    """The smallest gap around start..end that fills its cells, as far as the video reaches."""
    first = 0 if start else 1
    extra = -(end - start - first) % s
    right = min(extra if start == 0 else (extra + 1) // 2, length - end)
    left = min(extra - right, max(start - 1, 0))  # one frame stays before the gap, or there would be nothing to go on from
    right = min(extra - left, length - end)
    return start - left, end + right


def _window(still: VideoShape, before: Piece | None, new: int, after: Piece | None, context: int) -> Canvas:
    """Rules 2 to 5: A = the last 1 + s a frames of `before`, new frames, B = the first s b frames of `after`."""
    if before is None and after is None:
        raise ValueError("nothing is given: a window needs frames before or after it")
    if (before and before.count < 1) or (after and after.count < 1):
        raise ValueError("a given video has no frames: give one frame or more")
    if new < 1:
        raise ValueError(f"{new} new frames: ask for 1 or more")
    s = still.strides.time
    spans, guides, cells, frame = [], [], 0, 0
    if before:
        a = min(context, (before.count - 1) // s)
        frame, cells = 1 + s * a, 1 + a
        spans.append(Span(0, cells, before.source, before.start + before.count - frame))
    made = still.strides.frames(still.strides.cells(new)) if before is None else s * math.ceil(new / s)
    first_new, cells, frame = frame, cells + math.ceil(made / s), frame + made
    if after:
        b = min(context, after.count // s)
        if b:
            spans.append(Span(cells, b, after.source, after.start))
        else:  # too short for a cell
            guides = [Guide(frame + i, after.source, after.start + i) for i in range(after.count)]
        cells += b
    pieces = [p for p in (before, Piece(NEW, first_new, made), after) if p]
    origin = before.start + before.count - first_new if before else after.start - made
    return Canvas(replace(still, cells=cells), Timeline(tuple(pieces)), origin, tuple(spans), tuple(guides))


# -- pixels into cells ---------------------------------------------------------------------------------------------------------------


def encode_span(vae, frames: Tensor, starts_at_zero: bool, history_cells: int = HISTORY_CELLS) -> Tensor:
    """Latents of a span of a video, the same in training and in use.

    Args:
        vae: has `encode([B, 3, T, H, W] in -1..1) -> [B, C, F, h, w]` and `strides`.
        frames: [B, 3, T, H, W] in -1..1; T is 1 + s n if the span starts at cell 0, else s n.
        starts_at_zero: whether the first frame is a cell of its own. Otherwise all cells hold s frames, and what the span follows
            is unknown: its history is the span itself reversed in time, mirrored at its first frame, encoded and dropped.
        history_cells: W, the cells of that history behind its own first one.

    Returns:
        raw latents [B, C, F, h, w], F = 1 + n or n.

    Raises:
        ValueError: a number of frames that does not fill its cells.
    """
    s, length = vae.strides.time, frames.shape[2]
    first = 1 if starts_at_zero else 0
    rest = (length - first) % s
    if length == 0 or rest:
        near = " or ".join(map(str, sorted({max(length - rest, first or s), length - rest + s})))
        raise ValueError(f"a span of {length} frames does not fill its cells: must be {first} + {s} n ({near})")
    if starts_at_zero:
        return vae.encode(frames)
    history = 1 + s * history_cells
    index = [_mirror(t, length) for t in range(-history, length)]
    return vae.encode(frames[:, :, torch.tensor(index)])[:, :, 1 + history_cells :]


def _mirror(t: int, length: int) -> int:
    """Frame of a clip at any time when it runs to and fro: -1 is frame 1, -2 is frame 2, and at the clip's end it turns again."""
    if length == 1:
        return 0
    t = abs(t) % (2 * length - 2)
    return min(t, 2 * length - 2 - t)


def encode_held(vae, frame: Tensor) -> Tensor:
    """A picture [B, 3, 1, H, W] as one later cell, repeated s times: for models that know no guides. Raw latents [B, C, 1, h, w]."""
    return encode_span(vae, frame.repeat_interleave(vae.strides.time, 2), starts_at_zero=False)


Reader = Callable[[int, int, int], Tensor]
"""(source, start, count) -> frames [B, 3, count, H, W] in -1..1."""


def encode_given(vae, canvas: Canvas, read: Reader, batch: int = 1) -> tuple[Tensor, list[Tensor]]:
    """Latents of what a canvas knows.

    Returns:
        raw latents [batch, C, F, h, w], unknown cells filled by `unknown_cells`; and the guides, each [batch, C, 1, h, w].
    """
    shape = canvas.shape
    latents = unknown_cells((batch, *shape.latent))
    for span in canvas.spans:
        frames = read(span.source, span.start, span.frames(shape.strides))
        latents[:, :, span.cell : span.cell + span.cells] = encode_span(vae, frames, span.cell == 0).float().cpu()
    guides = [encode_span(vae, read(g.source, g.start, 1), True).float().cpu() for g in canvas.guides]
    return latents, [g.expand(batch, *g.shape[1:]) for g in guides]


def unknown_cells(shape: tuple[int, ...]) -> Tensor:
    """What stands in cells that nothing is known of: the mean of the latents, which the model sees as 0."""
    if shape[1] != len(LATENT_MEAN):
        return torch.zeros(shape)
    return torch.tensor(LATENT_MEAN).view(1, -1, 1, 1, 1).expand(shape).clone()


def token_mask(mask: Tensor) -> Tensor:
    """[B, 1, F, H, W] (1 = to be made) -> [B, F, h, w] tokens: a token is known only if all its cells are. Odd H, W are padded."""
    b, _, f, h, w = mask.shape
    pad = (0, -w % PATCH, 0, -h % PATCH)
    mask = torch.nn.functional.pad(mask[:, 0], pad)  # padding is nothing that is to be made
    return mask.unflatten(-1, (-1, PATCH)).unflatten(-3, (-1, PATCH)).amax(dim=(-1, -3))


# -- cells into pixels ---------------------------------------------------------------------------------------------------------------


Frames = Callable[[int, int, int], Iterator[Tensor]]
"""(source, start, count) -> chunks [n, H, W, 3] in 0..1."""


def result_frames(
    timeline: Timeline, decode: Callable[[], Iterator[Tensor]], read: Frames, carry: bool = True, start: int = 0, end: int | None = None
) -> Iterator[Tensor]:
    """The frames start..end-1 of a result (all by default), chunk by chunk: given ones as they are, made ones decoded.

    Args:
        decode: starts decoding the lattice at cell 0; chunks [n, H, W, 3] in 0..1. A causal decoder cannot begin later.
        read: the given frames.
        carry: made frames behind a given one carry what the codec lost of it, fading out (rule 6). Otherwise the cut is hard.
    """
    at, before = 0, None
    for piece in timeline.pieces:
        first = max(start - at, 0)
        count = min(piece.count, (timeline.frames if end is None else end) - at) - first
        if count > 0 and piece.source != NEW:
            yield from read(piece.source, piece.start + first, count)
        elif count > 0 and carry and before and piece.start:
            given = next(read(before.source, before.start + before.count - 1, 1))[0]
            made = _carried(take(decode(), piece.start - 1, 1 + first + count), given)
            yield from take(made, first, count)
        elif count > 0:
            yield from take(decode(), piece.start + first, count)
        at, before = at + piece.count, piece if piece.source != NEW else None


def _carried(chunks: Iterator[Tensor], given: Tensor) -> Iterator[Tensor]:
    """A stream that begins with the decoding of the `given` frame: the frames behind it, carrying what it lost."""
    first = next(chunks)
    rest = itertools.chain([first[1:]] if len(first) > 1 else [], chunks)
    yield from carry_seam(rest, given.to(first) - first[0])


def take(chunks: Iterator[Tensor], start: int, count: int) -> Iterator[Tensor]:
    """The frames start..start+count-1 of a stream of chunks [n, ...]; the stream is not asked for more than that."""
    at = 0
    while at < start + count:
        chunk = next(chunks, None)
        if chunk is None:
            raise ValueError(f"frames up to {start + count} were asked for, there are {at}")
        kept = chunk[max(start - at, 0) : start + count - at]
        at += len(chunk)
        if len(kept):
            yield kept
