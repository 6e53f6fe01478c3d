"""The verbs: each is a choice of which cells are known. Place, extend, fill, join, loop, remix.

`still` gives size, fps and strides of a window; its number of cells is not used. `context` is the most cells of A and of B that a window
sees. A *grid* belongs to a source that still holds latents: its frames = grid (modulo s) end a latent cell. Gaps are laid so that those
cells stand in the lattice as they are; None means that the source is encoded, and any frame may begin a cell.
"""

from __future__ import annotations

from dataclasses import replace

from .canvas import NEW, Canvas, Guide, Piece, Span, Timeline
from .shapes import Strides, VideoShape

CONTEXT_CELLS = 4
"""Cells of A and of B that a window sees: two seconds at 8 frames a second."""


# -- on a canvas ---------------------------------------------------------------------------------------------------------------------


def place(canvas: Canvas, frame: int, source: int, count: int = 1) -> Canvas:
    """`count` frames of a source, a picture or a clip, from frame `frame` of the result on.

    They pass through, and take the place of what was given there before. Cells that they fill are known; frames that fill none are
    guides, and the cell around them is still made.

    Raises:
        ValueError: frames outside the result.
    """
    last = canvas.timeline.frames - count
    if not 0 <= frame <= last:
        raise ValueError(f"frame {frame} is not on the canvas: use 0 to {last}" if last >= 0 else f"{count} frames are too many")
    spans, guides = list(canvas.spans), list(canvas.guides)
    firsts = [frame - canvas.offset]  # in the lattice, which may be a part of the result only
    if canvas.loops:  # it ends with frames with which the result begins
        firsts.append(firsts[0] + canvas.timeline.frames)
    for first in firsts:
        start, end = max(first, 0), min(first + count, canvas.shape.frames)
        if start < end:
            guides = [guide for guide in guides if not start <= guide.frame < end]
            guides += [guide for span in spans for guide in _left(span, start, end, canvas.shape.strides)]
            spans = [part for span in spans for part in _cut(span, start, end, canvas.shape.strides)]
            more = _cells(canvas.shape.strides, start, end - start, source, start - first)
            spans, guides = spans + more[0], guides + more[1]
    before, behind = _part(canvas.timeline, 0, frame), _part(canvas.timeline, frame + count, canvas.timeline.frames)
    pieces = (*before, Piece(source, 0, count), *behind)
    return replace(
        canvas,
        timeline=Timeline(pieces),
        spans=tuple(sorted(spans, key=lambda span: span.cell)),
        guides=tuple(sorted(guides, key=lambda guide: guide.frame)),
    )


def _part(timeline: Timeline, start: int, end: int):
    """The frames start..end-1 of a timeline."""
    for at, piece in timeline.runs:
        first, last = max(start, at), min(end, at + piece.count)
        if first < last:
            yield Piece(piece.source, piece.start + first - at, last - first)


def _cut(span: Span, start: int, end: int, strides: Strides):
    """What is left of a span where the lattice frames start..end-1 are given anew: whole cells before and behind."""
    first, last = strides.cell_of_frame(start), strides.cell_of_frame(end - 1)
    if span.cell < first:
        yield replace(span, cells=min(span.cells, first - span.cell))
    if (left := span.cell + span.cells - 1 - last) > 0:
        gone = max(0, last + 1 - span.cell)
        skipped = strides.first_frame(span.cell + gone) - strides.first_frame(span.cell)
        yield Span(span.cell + gone, min(span.cells, left), span.source, span.start + skipped)


def _left(span: Span, start: int, end: int, strides: Strides):
    """The frames of a span that are left beside start..end-1 in cells which are cut: the model sees them as guides."""
    first, last = strides.cell_of_frame(start), strides.cell_of_frame(end - 1)
    for cell in range(max(first, span.cell), min(last + 1, span.cell + span.cells)):
        for frame in range(strides.first_frame(cell), strides.first_frame(cell + 1)):
            if not start <= frame < end:
                yield Guide(frame, span.source, span.start + frame - strides.first_frame(span.cell))


def _cells(strides: Strides, frame: int, count: int, source: int, start: int) -> tuple[list[Span], list[Guide]]:
    """A run of given frames in a lattice: the cells that it fills, and the frames before and behind them as guides."""
    s = strides.time
    lead = min(count, (1 - frame) % s) if frame else 0
    cell, rest = strides.cell_of_frame(frame + lead), count - lead
    cells = rest // s if cell else 1 + (rest - 1) // s
    spans = [Span(cell, cells, source, start + lead)] if cells > 0 else []
    behind = lead + (spans[0].frames(strides) if spans else 0)
    guides = [Guide(frame + i, source, start + i) for i in (*range(lead), *range(behind, count))]
    return spans, guides


# -- around a video ------------------------------------------------------------------------------------------------------------------


def extend(still: VideoShape, source_frames: int, new: int, context: int = CONTEXT_CELLS) -> Canvas:
    """`new` frames, rounded up to s n, behind a video.

    This and those below raise ValueError when there is nothing to fit to, or nothing to make.
    """
    return _window(still, Piece(0, 0, source_frames), new, None, context)


def extend_backward(still: VideoShape, source_frames: int, new: int, context: int = CONTEXT_CELLS, grid: int | None = None) -> Canvas:
    """`new` frames, rounded up to 1 + s n (to s n before latents), before a video."""
    return _window(still, None, new, Piece(0, 0, source_frames), context, grid)


def extend_both(still: VideoShape, source_frames: int, before: int, behind: int, grid: int | None = None) -> Canvas:
    """New frames on both sides of a video, rounded up, in one lattice, so that both ends belong to one another.

    It has no `context`, but sees the whole video: a lattice has no holes, for decoders, and models that are told no positions, count
    its cells.
    """
    back = extend_backward(still, source_frames, before, 1, grid)
    made, s = back.timeline.pieces[0].count, still.strides.time
    if behind < 1:
        raise ValueError(f"{behind} new frames: ask for 1 or more")
    spans, guides = _cells(still.strides, made, source_frames, 0, 0)
    end = made + source_frames
    more = behind + (1 - end - behind) % s
    pieces = (Piece(NEW, 0, made), Piece(0, 0, source_frames), Piece(NEW, end, more))
    shape = replace(still, cells=still.strides.cells(end + more))
    return Canvas(shape, Timeline(pieces), -made, tuple(spans), tuple(guides))


def join(still: VideoShape, first: int, second: int, new: int, context: int = CONTEXT_CELLS, grid: int | None = None) -> Canvas:
    """Source 0 (of `first` frames), `new` frames (rounded up to s n, to s n - 1 before latents), source 1 (of `second`)."""
    return _window(still, Piece(0, 0, first), new, Piece(1, 0, second), context, grid)


def loop(still: VideoShape, source_frames: int, new: int, context: int = CONTEXT_CELLS, grid: int | None = None) -> Canvas:
    """A video and `new` frames that lead from its end to its start: the join of it with itself, the second copy left out."""
    canvas = _window(still, Piece(0, 0, source_frames), new, Piece(0, 0, source_frames), context, grid)
    return replace(canvas, timeline=Timeline(canvas.timeline.pieces[:-1]), loops=True)


def fill(
    still: VideoShape,
    source_frames: int,
    start: int,
    end: int,
    new: int | None = None,
    context: int = CONTEXT_CELLS,
    grid: int | None = None,
) -> Canvas:
    """Makes the frames start..end-1 of a video anew.

    The gap grows to a multiple of s (1 + s n if it begins with the video), evenly to both sides where there is room, or to the cells
    of a grid; the timeline says which frames are left. With `new`, so many frames (rounded up) come into it, more or fewer than it had;
    without a grid it then stays as it is.
    """
    if not 0 <= start < end <= source_frames:
        raise ValueError(f"the gap from frame {start} to {end} is not in the video: use 0 <= from < to <= {source_frames}")
    snapped = None if grid is None else _snap_to_grid(start, end, source_frames, still.strides.time, grid)
    if snapped is None:
        grid, snapped = None, _snap(start, end, source_frames, still.strides.time) if new is None else (start, end)
    start, end = snapped
    before = Piece(0, 0, start) if start else None
    after = Piece(0, end, source_frames - end) if end < source_frames else None
    if before is None and after is None:
        raise ValueError("the gap, grown to whole latent cells, leaves nothing of the video: leave more of it")
    return _window(still, before, end - start if new is None else new, after, context, grid)


def _snap(start: int, end: int, length: int, s: int) -> tuple[int, int]:
    """The smallest gap around start..end that fills its cells, as far as the video reaches."""
    first = 0 if start else 1
    extra = -(end - start - first) % s
    right = min(extra if start == 0 else (extra + 1) // 2, length - end)
    left = min(extra - right, max(start - 1, 0))  # one frame stays before the gap, or there would be nothing to go on from
    right = min(extra - left, length - end)
    return start - left, end + right


def _snap_to_grid(start: int, end: int, length: int, s: int, grid: int) -> tuple[int, int] | None:
    """The cells of the grid around start..end, as a gap; None where the grid does not reach around it."""
    if start:
        start -= (start - 1 - grid) % s
    end += (grid + 1 - end) % s
    possible = end <= length and (start > 0 or (start == 0 and grid == 0))
    return (start, end) if possible else None


def _window(still: VideoShape, before: Piece | None, new: int, after: Piece | None, context: int, grid: int | None = None) -> Canvas:
    """Rules 2 to 5: A = the last 1 + s a frames of `before`, new frames, B = the first s b frames of `after`, as cells or guides."""
    if before is None and after is None:
        raise ValueError("nothing is given: a window needs frames before or after it")
    if (before and before.count < 1) or (after and after.count < 1):
        raise ValueError("a given video has no frames: give one frame or more")
    if new < 1:
        raise ValueError(f"{new} new frames: ask for 1 or more")
    strides, s = still.strides, still.strides.time
    spans, guides, first = [], [], 0
    if before:
        first = 1 + s * min(context, (before.count - 1) // s)
        spans, _ = _cells(strides, 0, first, before.source, before.start + before.count - first)
    # B begins with a cell, which ends s - 1 frames later; on a grid its own cells end on those of the lattice.
    made = new + ((1 if grid is None or after is None else after.start - grid) - first - new) % s
    end = first + made
    cells = strides.cells(end)
    if after:
        lead = (1 - end) % s
        seen = min(after.count, lead + s * max(context, 1))
        seen -= (seen - lead) % s if seen >= lead + s else 0
        more = _cells(strides, end, seen, after.source, after.start)
        spans, guides, cells = spans + more[0], more[1], strides.cells(end + seen)
    pieces = [p for p in (before, Piece(NEW, first, made), after) if p]
    origin = before.start + before.count - first if before else after.start - made
    shown = strides.cells(first) if before else 0
    return Canvas(replace(still, cells=cells), Timeline(tuple(pieces)), origin, tuple(spans), tuple(guides), context=shown)


# -- over a video --------------------------------------------------------------------------------------------------------------------


def remix(still: VideoShape, kept: list[bool]) -> Canvas:
    """A whole video as one lattice, from which a part of the noise leads on; the frames that are `kept` pass through.

    The last cell is filled up with the last frame, and what is made behind it is left out.
    """
    if not kept:
        raise ValueError("a given video has no frames: give one frame or more")
    pieces: list[Piece] = []
    for frame, keep in enumerate(kept):
        source = 0 if keep else NEW
        if pieces and pieces[-1].source == source:
            pieces[-1] = replace(pieces[-1], count=pieces[-1].count + 1)
        else:
            pieces.append(Piece(source, frame, 1))
    return Canvas(replace(still, cells=still.strides.cells(len(kept))), Timeline(tuple(pieces)))
