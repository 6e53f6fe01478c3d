"""What is given and what is to be made: the lattice (cells of F, H, W) as data, into it and out of it. verbs.py has its rules.

A result is a *timeline* of pixel frames, each either a frame of something given or a new one. New frames come out of a *lattice*, the
cells of one window `[A | new | B]`; A and B are given frames, encoded, that the new ones must fit. Cell 0 of a lattice holds one frame,
every later one s; a lattice that begins inside a video begins with A, whose first frame is a cell 0 of its own.

Words: s stride in time, known = given and clean, source = index of a given video or picture, frame = of the lattice unless said otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import LATENT_MEAN
from .shapes import PATCH, Strides, VideoShape

NEW = -1
"""In place of a source: these frames are to be made."""

SEAM = 16
"""Frames over which what the codec lost of a given frame fades out of the made ones beside it."""

MOVED = 0.1
"""Mean difference of decoded frames, of 1, from which on a place counts as changed and carries nothing; half of it may be noise."""

CONTENT = 0.2
"""Mean residual of a place, of 1, that is not detail but a body that the codec shows elsewhere; half of it may be colour."""

REACH = 3
"""Radius of those means in pixels: a codec blurs an edge over about half a latent cell to either side."""

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

    @property
    def runs(self) -> Iterator[tuple[int, Piece]]:
        """Each piece, after the frame of the result that it begins with."""
        at = 0
        for piece in self.pieces:
            yield at, piece
            at += piece.count

    def source_at(self, frame: int) -> int:
        """The source of a frame of the result, or NEW. Raises StopIteration behind the end."""
        return next(piece.source for at, piece in self.runs if frame < at + piece.count)

    def frame_of(self, source: int, frame: int) -> int | None:
        """Where a frame of a source stands in the result; None if it is not there."""
        places = (at + frame - piece.start for at, piece in self.runs if piece.source == source and 0 <= frame - piece.start < piece.count)
        return next(places, None)


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
        loops: whether the result is played over and over, so that its first frame follows its last one.
        context: how many of its first cells only show what goes before: what a storyboard tells begins behind them.
    """

    shape: VideoShape
    timeline: Timeline
    origin: int = 0
    spans: tuple[Span, ...] = ()
    guides: tuple[Guide, ...] = ()
    loops: bool = False
    context: int = 0

    @property
    def told(self) -> tuple[float, float]:
        """Begin and end, in seconds from the lattice's frame 0, of what a storyboard tells: all, or what is made behind the context."""
        last = self.shape.frames
        if self.context:
            last = max((piece.start + piece.count for piece in self.timeline.pieces if piece.source == NEW), default=last)
        return max(0, self.shape.strides.time * (self.context - 1)) / self.shape.fps, (last - 1) / self.shape.fps

    @property
    def known(self) -> list[int]:
        """Numbers of the known cells."""
        return [k for span in self.spans for k in range(span.cell, span.cell + span.cells)]

    @property
    def offset(self) -> int:
        """The frame of the result at which the lattice's frame 0 stands."""
        for at, piece in self.timeline.runs:
            if piece.source == NEW:
                return at - piece.start
        # Placed pictures and clips have taken the place of all that was to be made: what is known tells.
        known = [(self.shape.strides.first_frame(span.cell), span) for span in self.spans] + [(guide.frame, guide) for guide in self.guides]
        for frame, given in known:
            if (at := self.timeline.frame_of(given.source, given.start)) is not None:
                return at - frame
        return 0

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


def blank(shape: VideoShape) -> Canvas:
    """Everything is to be made."""
    return Canvas(shape, Timeline((Piece(NEW, 0, shape.frames),)))


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

Latents = Callable[[int, int, int, bool], Tensor | None]
"""(source, frame, count, alone) -> `count` raw cells [B, C, count, h, w] of a source that still holds latents, the first of them ending
with `frame`; None where it holds none, so that its frames are encoded. `alone`: the first one holds that frame only, as cell 0 of a lattice
does; otherwise all hold s frames. A cell of one kind in the place of the other is another picture to the model and to the decoder."""


def encode_given(vae, canvas: Canvas, read: Reader, batch: int = 1, latents_of: Latents | None = None) -> tuple[Tensor, list[Tensor]]:
    """Latents of what a canvas knows.

    Returns:
        raw latents [batch, C, F, h, w], unknown cells filled by `unknown_cells`; and the guides, each [batch, C, 1, h, w].
    """
    shape, s = canvas.shape, canvas.shape.strides.time
    latents = unknown_cells((batch, *shape.latent))
    for span in canvas.spans:
        cells = _from_source(vae, span, s, read, latents_of) if latents_of else None
        if cells is None:
            cells = encode_span(vae, read(span.source, span.start, span.frames(shape.strides)), span.cell == 0)
        latents[:, :, span.cell : span.cell + span.cells] = cells.float().cpu()
    guides = [encode_span(vae, read(g.source, g.start, 1), True).float().cpu() for g in canvas.guides]
    return latents, [g.expand(batch, *g.shape[1:]) for g in guides]


def _from_source(vae, span: Span, s: int, read: Reader, latents_of: Latents) -> Tensor | None:
    """Cells of a span out of a source that holds some; None where it does not."""
    if span.cell:
        return latents_of(span.source, span.start + s - 1, span.cells, False)
    cells = latents_of(span.source, span.start, span.cells, True)
    if cells is not None or span.cells == 1:
        return cells
    # The source goes on from before: its first frame here is one of several in a cell, and is encoded by itself.
    rest = latents_of(span.source, span.start + s, span.cells - 1, False)
    if rest is None:
        return None
    first = encode_span(vae, read(span.source, span.start, 1), True).float().cpu()
    return torch.cat([first.expand(len(rest), *first.shape[1:]), rest.float().cpu()], 2)


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


def check_whole_tokens(mask: Tensor) -> None:
    """Raises ValueError for a mask [..., h, w] that keeps a part of a token, or is anything but 0 and 1."""
    if not ((mask == 0) | (mask == 1)).all() or not torch.equal(token_mask(mask), 1 - token_mask(1 - mask)):
        raise ValueError("mask: it keeps a part of a token: make it 0 or 1 for squares of 2 x 2 latent cells (canvas.token_mask)")


def cell_mask(region: Tensor, shape: VideoShape) -> Tensor:
    """The noise mask [1, 1, F, h, w] of a region [T, H, W], 1 = made: a cell is known only if all its pixels in all its frames are kept."""
    s = shape.strides
    region = torch.cat([region, region[-1:].expand(shape.frames - len(region), -1, -1)])
    pooled = torch.nn.functional.max_pool2d(region.unsqueeze(1), s.space)[:, 0]  # T h w
    cells = [pooled[:1].amax(0), *(part.amax(0) for part in pooled[1:].split(s.time) if len(part))]
    return (torch.stack(cells) > 0).float()[None, None]


# -- cells into pixels ---------------------------------------------------------------------------------------------------------------


Frames = Callable[[int, int, int], Iterator[Tensor]]
"""(source, start, count) -> chunks [n, H, W, 3] in 0..1."""


def result_frames(
    canvas: Canvas,
    decode: Callable[[], Iterator[Tensor]],
    read: Frames,
    carry: bool = True,
    start: int = 0,
    end: int | None = None,
    known: Iterable[int] | None = None,
) -> Iterator[Tensor]:
    """The frames start..end-1 of a result (all by default), chunk by chunk: given ones as they are, made ones decoded.

    Args:
        decode: starts decoding the lattice at cell 0; chunks [n, H, W, 3] in 0..1. A causal decoder cannot begin later.
        read: the given frames.
        carry: made frames beside given ones carry what the codec lost of those, fading out (rule 6), if the lattice knows them: the
            difference to a cell that was made is one of content. Otherwise the cut is hard.
        known: numbers of the cells that the lattice knows; default those of the canvas. A remix keeps others, by its mask.
    """
    pieces, at, lattice = canvas.timeline.pieces, 0, _LatticeFrames(decode)
    known, strides = set(canvas.known if known is None else known), canvas.shape.strides
    end = canvas.timeline.frames if end is None else end
    last = None  # the frame before this piece
    for number, piece in enumerate(pieces):
        first = max(start - at, 0)
        count = min(piece.count, end - at) - first
        at += piece.count
        if count <= 0:
            continue
        if piece.source != NEW:
            for chunk in read(piece.source, piece.start + first, count):
                last = chunk[-1]
                yield chunk
            continue
        before = pieces[number - 1] if number else None
        after = (*pieces, pieces[0] if canvas.loops else None)[number + 1]
        if not carry or strides.cell_of_frame(piece.start - 1) not in known:
            before = None
        if not carry or strides.cell_of_frame(piece.start + piece.count) not in known or first + count <= piece.count - SEAM:
            after = None
        if before and (first or last is None):
            last = next(read(before.source, before.start + before.count - 1, 1))[0]
        behind = next(read(after.source, after.start, 1))[0] if after else None
        run = lattice.frames(piece.start - bool(before), piece.count + bool(before) + bool(after))
        yield from take(_carried(run, piece.count, last if before else None, behind), first, count)


class _LatticeFrames:
    """One pass over the frames of a lattice; a run may begin with the last frame of the one before it."""

    def __init__(self, decode: Callable[[], Iterator[Tensor]]):
        self.rest = (frame for chunk in decode() for frame in chunk)
        self.at, self.last = 0, None

    def frames(self, start: int, count: int) -> Iterator[Tensor]:
        """Frames [H, W, 3]. Raises ValueError when the lattice has fewer."""
        for wanted in range(start, start + count):
            while self.at <= wanted:
                self.last = next(self.rest, None)
                if self.last is None:
                    raise ValueError(f"frames up to {start + count} were asked for, there are {self.at}")
                self.at += 1
            yield self.last


def _carried(frames: Iterator[Tensor], count: int, before: Tensor | None, behind: Tensor | None) -> Iterator[Tensor]:
    """A run of `count` made frames, in chunks, out of frames that begin with the decoding of the given frame `before` it and end with
    that of the one `behind` it: those beside a given one carry what it lost, fading out over SEAM frames. In a run that is shorter the
    two losses cross over."""
    share = _fading(count, before is not None and behind is not None)
    loss = None if before is None else _Loss(before, next(frames))
    held = 0 if behind is None else min(SEAM, count)
    waiting = []
    for i in range(count):
        frame = next(frames)
        made = frame if loss is None or not share[i] else frame + share[i] * loss.in_frame(frame)
        if i < count - held:
            yield made.clamp(0, 1)[None]
        else:
            waiting.append((frame, made))
    if behind is None:
        return
    loss, done = _Loss(behind, next(frames)), []
    for i, (frame, made) in enumerate(reversed(waiting)):
        done.append(made + share[i] * loss.in_frame(frame))
    for made in reversed(done):
        yield made.clamp(0, 1)[None]


def _fading(count: int, both: bool) -> list[float]:
    """Shares of a loss in a run of frames, from the given one on. If `both` ends have one, those of a frame are 1 together at most."""
    span = min(SEAM, count - 1) if both else SEAM
    return [max(0.0, 1 - i / span) for i in range(count)] if span else [0.5]


class _Loss:
    """The codec's residual of a given frame, for the frames beside it, which are asked for from the nearest on: only where it is detail,
    and where the picture has not changed since. Anything else would stay behind as a ghost."""

    def __init__(self, given: Tensor, decoded: Tensor):
        self.decoded, self.lost = decoded, given.to(decoded) - decoded
        shifted = torch.nn.functional.max_pool2d(_around(self.lost, 2).abs().amax(0)[None], 2 * REACH + 1, 1, REACH)[0]
        self.share = _below(shifted, CONTENT)

    def in_frame(self, frame: Tensor) -> Tensor:
        moved = _around((frame - self.decoded).abs().amax(-1, keepdim=True), REACH)[0]
        self.share = _below(moved, MOVED).minimum(self.share)
        return self.share * self.lost


def _around(frame: Tensor, reach: int) -> Tensor:
    """Of [H, W, C], means [C, H, W] over what is so many pixels around."""
    return torch.nn.functional.avg_pool2d(frame.movedim(-1, 0), 2 * reach + 1, 1, reach, count_include_pad=False)


def _below(value: Tensor, limit: float) -> Tensor:
    """[H, W] -> [H, W, 1]: 1 up to half of a limit, 0 from it on."""
    return (2 - 2 * value / limit).clamp(0, 1)[..., None]


def composed(chunks: Iterator[Tensor], given: Iterator[Tensor], mask: Tensor) -> Iterator[Tensor]:
    """Frames of `chunks` where `mask` [T, H, W] in 0..1 says so, elsewhere the same frames of another stream of chunks."""
    at, kept_frames = 0, (frame for chunk in given for frame in chunk)
    for chunk in chunks:
        kept = torch.stack(list(itertools.islice(kept_frames, len(chunk)))).to(chunk)
        share = mask[at : at + len(chunk), :, :, None].to(chunk)
        # Not kept + share * (made - kept): rounding would move what is kept.
        yield torch.where(share > 0, share * chunk + (1 - share) * kept, kept)
        at += len(chunk)


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
