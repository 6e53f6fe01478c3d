"""The rules of the lattice: what is given comes back, what is made fills its cells, and nothing replaced leaks in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sora_pack.sora_core.autoencoder import VideoVAE
from sora_pack.sora_core.canvas import (
    NEW,
    SEAM,
    Canvas,
    Guide,
    Piece,
    Span,
    Timeline,
    blank,
    composed,
    encode_given,
    encode_held,
    encode_span,
    result_frames,
    take,
    token_mask,
    unknown_cells,
)
from sora_pack.sora_core.config import LATENT_MEAN, VAEConfig
from sora_pack.sora_core.shapes import Strides, VideoShape, size_for_aspect
from sora_pack.sora_core.storyboard import first_frame
from sora_pack.sora_core.verbs import extend, extend_backward, extend_both, fill, join, loop, place, remix

STILL = VideoShape(32, 32, 1, 8.0)
STRIDES = [Strides(4, 8, 16), Strides(8, 16, 48), Strides(1, 8, 4)]


def stills():
    return st.sampled_from([VideoShape(32, 32, 1, 8.0, s) for s in STRIDES])


def check_window(canvas):
    """What every window must obey."""
    s, frames = canvas.shape.strides.time, canvas.shape.frames
    known = canvas.known
    assert known == sorted(set(known)) and all(0 <= k < canvas.shape.cells for k in known)
    for span in canvas.spans:
        last = span.cell + span.cells - 1
        assert s * last < frames
    made = [p for p in canvas.timeline.pieces if p.source == NEW]
    cell = canvas.shape.strides.cell_of_frame
    cells = {k for p in made for k in range(cell(p.start), cell(p.start + p.count - 1) + 1)}
    cells |= {k for guide in canvas.guides for k in [cell(guide.frame)]}
    assert cells.isdisjoint(known) and cells | set(known) == set(range(canvas.shape.cells))
    # the leftmost cell is known, or it is cell 0 and made as such
    assert 0 in known or made[0].start == 0
    assert canvas.mask().tolist() == [0.0 if k in known else 1.0 for k in range(canvas.shape.cells)]


# -- timelines of the verbs ----------------------------------------------------------------------------------------------------------


def test_blank_is_all_new():
    canvas = blank(VideoShape(32, 32, 6, 8.0))
    assert canvas.timeline.pieces == (Piece(NEW, 0, 21),)
    assert canvas.known == [] and canvas.seconds_of_cells == [0, 0.5, 1, 1.5, 2, 2.5]


def test_tokens_are_counted_in_the_patch_of_the_vae():
    """1920x1088 of LTX-Video is 60 by 34 cells, a token each; 1280x720 of Wan 2.1 160 by 90, four a token."""
    assert VideoShape(1920, 1088, 16, 24.0, Strides(8, 32, 128, patch=1)).tokens == 16 * 60 * 34
    assert VideoShape(1280, 720, 21, 16.0).tokens == 21 * 80 * 45


def test_still_at_the_begin_passes_and_later_guides():
    canvas = place(place(blank(VideoShape(32, 32, 6, 8.0)), 0, 0), 11, 1)
    assert canvas.timeline.pieces == (Piece(0, 0, 1), Piece(NEW, 1, 10), Piece(1, 0, 1), Piece(NEW, 12, 9))
    assert canvas.known == [0] and canvas.guides == (Guide(11, 1),)
    assert canvas.positions(16.0) == [0, 2, 4, 6, 8, 10, 5.5]  # twice the native rate's cells apart; frame 11 at 11 / 4
    again = place(canvas, 11, 2)
    assert again.guides == (Guide(11, 2),)


def test_still_of_one_cell():
    canvas = place(blank(STILL), 0, 0)
    assert canvas.timeline.pieces == (Piece(0, 0, 1),)


def test_still_behind_the_end_is_refused():
    with pytest.raises(ValueError, match="use 0 to 20"):
        place(blank(VideoShape(32, 32, 6, 8.0)), 21, 0)


@settings(deadline=None)
@given(stills(), st.integers(1, 80), st.integers(1, 60), st.integers(0, 6))
def test_extend(still, source, new, context):
    canvas = extend(still, source, new, context)
    s = still.strides.time
    check_window(canvas)
    first, made = canvas.timeline.pieces
    assert first == Piece(0, 0, source)
    assert made.count % s == 0 and new <= made.count < new + s
    a = canvas.spans[0]
    assert a.start + a.frames(still.strides) == source and a.cells - 1 <= context
    assert canvas.origin + made.start == source
    assert a.cells - 1 == min(context, (source - 1) // s)


@settings(deadline=None)
@given(stills(), st.integers(1, 80), st.integers(1, 60))
def test_extend_backward(still, source, new):
    canvas = extend_backward(still, source, new)
    s = still.strides.time
    check_window(canvas)
    made, rest = canvas.timeline.pieces
    assert rest == Piece(0, 0, source)
    assert made.start == 0 and (made.count - 1) % s == 0 and new <= made.count < new + s
    assert canvas.origin + made.count == 0
    if source < s:  # too short for a cell
        assert not canvas.spans and [g.start for g in canvas.guides] == list(range(source))
        assert canvas.guides[0].frame == made.count
    else:
        assert canvas.spans[0].start == 0 and not canvas.guides


@settings(deadline=None)
@given(stills(), st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_join_and_loop(still, first, second, new):
    canvas = join(still, first, second, new)
    check_window(canvas)
    assert [p.source for p in canvas.timeline.pieces] == [0, NEW, 1]
    assert canvas.timeline.frames == first + second + canvas.timeline.pieces[1].count
    round_trip = loop(still, first, new)
    check_window(round_trip)
    assert [p.source for p in round_trip.timeline.pieces] == [0, NEW]
    assert all(span.source == 0 for span in round_trip.spans)


@settings(deadline=None)
@given(stills(), st.data())
def test_fill(still, data):
    length = data.draw(st.integers(2, 80))
    start = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(start + 1, length))
    if (start, end) == (0, length):
        return
    try:
        canvas = fill(still, length, start, end)
    except ValueError as error:
        assert "leaves nothing" in str(error) and start == 0
        return
    check_window(canvas)
    kept = [p for p in canvas.timeline.pieces if p.source == 0]
    (made,) = [p for p in canvas.timeline.pieces if p.source == NEW]
    gap_end = kept[-1].start if kept[-1].start else length
    gap_start = kept[0].count if kept[0].start == 0 else 0
    assert gap_start <= start and gap_end >= end, "the gap that was asked for is made"
    assert sum(p.count for p in kept) + gap_end - gap_start == length
    s = still.strides.time
    assert (made.count - (gap_start == 0)) % s == 0
    if gap_end < length:
        assert canvas.timeline.frames == length, "a gap that fits changes no length"
        assert made.count < (end - start) + s


def test_fill_snaps_to_both_sides_and_takes_another_length():
    canvas = fill(STILL, 41, 16, 25)
    assert canvas.timeline.pieces == (Piece(0, 0, 15), Piece(NEW, 13, 12), Piece(0, 27, 14))
    longer = fill(STILL, 41, 16, 25, new=18)
    assert longer.timeline.pieces == (Piece(0, 0, 16), Piece(NEW, 13, 20), Piece(0, 25, 16))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: fill(STILL, 20, 5, 5), "use 0 <= from < to <= 20"),
        (lambda: fill(STILL, 20, 0, 20), "leave more of it"),
        (lambda: extend(STILL, 0, 8), "no frames"),
        (lambda: extend(STILL, 8, 0), "ask for 1 or more"),
    ],
)
def test_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_noise_times_do_not_depend_on_the_length_of_what_is_made():
    short, long = extend(STILL, 33, 8), extend(STILL, 33, 40)
    assert long.seconds_of_cells[: short.shape.cells] == short.seconds_of_cells
    short, long = extend_backward(STILL, 33, 9), extend_backward(STILL, 33, 41)
    assert long.seconds_of_cells[-short.shape.cells + 1 :] == short.seconds_of_cells[1:]


# -- encoding ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return VideoVAE(VAEConfig(dim=8, num_res_blocks=1)).eval()


@pytest.fixture(scope="module")
def video():
    return torch.rand(1, 3, 33, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.inference_mode()
def test_span_from_the_begin_is_a_plain_encoding(vae, video):
    assert torch.equal(encode_span(vae, video, True), vae.encode(video))


@torch.inference_mode()
@pytest.mark.parametrize("frames", [4, 8, 12, 32])
def test_span_knows_nothing_of_what_it_follows(vae, video, frames):
    span = video[:, :, -frames:]
    z = encode_span(vae, span, False)
    assert z.shape[2] == frames // 4
    if frames > 9:  # the history is the span itself, reversed: frames 9, 8, ... 1
        by_hand = vae.encode(torch.cat([span[:, :, 1:10].flip(2), span], 2))[:, :, 3:]
        assert (z - by_hand).abs().max() < 1e-5


@pytest.mark.parametrize("frames, begin, words", [(6, False, "4 or 8"), (4, True, "1 or 5"), (0, False, "4"), (3, False, "4")])
def test_span_that_does_not_fill_its_cells(vae, frames, begin, words):
    with pytest.raises(ValueError, match=words):
        encode_span(vae, torch.zeros(1, 3, frames, 32, 32), begin)


@torch.inference_mode()
def test_given_cells_and_guides(vae, video):
    canvas = fill(STILL, 33, 13, 21)

    def read(source, start, count):
        return video[:, :, start : start + count]

    latents, guides = encode_given(vae, canvas, read, batch=2)
    assert latents.shape == (2, *canvas.shape.latent) and guides == []
    a, b = canvas.spans
    assert (a, b) == (Span(0, 4, 0, 0), Span(6, 3, 0, 21))
    assert torch.allclose(latents[1, :, :4], vae.encode(video[:, :, :13])[0], atol=1e-6)
    assert torch.allclose(latents[:1, :, 6:], encode_span(vae, video[:, :, 21:33], False), atol=1e-6)
    assert torch.equal(latents[0, :, 4, 0, 0], torch.tensor(LATENT_MEAN))
    steered = place(blank(VideoShape(32, 32, 5, 8.0)), 7, 0)
    latents, guides = encode_given(vae, steered, read, batch=2)
    assert len(guides) == 1 and guides[0].shape == (2, 16, 1, 4, 4)
    assert torch.equal(guides[0][0], vae.encode(video[:, :, :1])[0])
    assert encode_held(vae, video[:, :, :1]).shape == (1, 16, 1, 4, 4)


def test_unknown_cells_of_another_format_are_zero():
    assert not unknown_cells((1, 48, 2, 4, 4)).any()


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**30))
def test_token_is_known_only_if_all_its_cells_are(h, w, seed):
    mask = (torch.rand(2, 1, 3, h, w, generator=torch.Generator().manual_seed(seed)) < 0.3).float()
    tokens = token_mask(mask)
    assert tokens.shape == (2, 3, -(-h // 2), -(-w // 2))
    for y in range(tokens.shape[2]):
        for x in range(tokens.shape[3]):
            assert torch.equal(tokens[:, :, y, x], mask[:, 0, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].amax((-1, -2)))


# -- placing, on both sides, over a video ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(stills(), st.data())
def test_placed_clips_stand_where_they_were_put(still, data):
    """Two clips over one another: the timeline has the frames of the last one, and every known cell holds frames of one clip alone."""
    canvas = blank(VideoShape(32, 32, data.draw(st.integers(2, 12)), 8.0, still.strides))
    total, s = canvas.shape.frames, still.strides.time
    expected = [(NEW, f) for f in range(total)]
    for source in range(data.draw(st.integers(1, 3))):
        count = data.draw(st.integers(1, total))
        frame = data.draw(st.integers(0, total - count))
        canvas = place(canvas, frame, source, count)
        expected[frame : frame + count] = [(source, i) for i in range(count)]
    frames = [(p.source, p.start + i) for p in canvas.timeline.pieces for i in range(p.count)]
    assert frames == expected
    assert len(set(canvas.known)) == len(canvas.known)
    for span in canvas.spans:
        first = 0 if span.cell == 0 else s * (span.cell - 1) + 1
        count = span.frames(still.strides)
        assert expected[first : first + count] == [(span.source, span.start + i) for i in range(count)]
    for guide in canvas.guides:
        assert expected[guide.frame] == (guide.source, guide.start)
        assert still.strides.cell_of_frame(guide.frame) not in canvas.known


def test_place_on_an_extended_video():
    canvas = place(extend(STILL, 41, 16), 45, 1)
    assert canvas.offset == 24 and canvas.guides == (Guide(21, 1),)
    assert canvas.timeline.pieces == (Piece(0, 0, 41), Piece(NEW, 17, 4), Piece(1, 0, 1), Piece(NEW, 22, 11))
    outside = place(extend(STILL, 41, 16), 2, 1)
    assert outside.guides == () and outside.timeline.pieces[:3] == (Piece(0, 0, 2), Piece(1, 0, 1), Piece(0, 3, 38))


@settings(deadline=None)
@given(stills(), st.integers(1, 60), st.integers(1, 40), st.sampled_from([extend, extend_backward]))
def test_a_lattice_stays_where_it_is_when_nothing_is_to_be_made(still, source, new, verb):
    """A clip takes the place of all new frames: what is known still stands where it did, and so do cells that are read from it."""
    canvas = verb(still, source, new)
    at, made = next((at, piece) for at, piece in canvas.timeline.runs if piece.source == NEW)
    full = place(canvas, at, 1, made.count)
    assert all(piece.source != NEW for piece in full.timeline.pieces) and full.offset == canvas.offset


@given(st.sampled_from(STRIDES), st.integers(1, 50))
def test_cells_begin_behind_the_one_before(strides, cell):
    first = strides.first_frame(cell)
    assert strides.cell_of_frame(first) == cell and strides.cell_of_frame(first - 1) == cell - 1 and strides.first_frame(0) == 0


@pytest.mark.parametrize("landscape, portrait", [("16:9", "9:16"), ("4:3", "3:4")])
@pytest.mark.parametrize("strides", STRIDES)
def test_a_portrait_is_the_landscape_turned(strides, landscape, portrait):
    for resolution in range(32, 2049):
        width, height = size_for_aspect(landscape, resolution**2, strides)
        assert size_for_aspect(portrait, resolution**2, strides) == (height, width), f"resolution {resolution}"


@settings(deadline=None)
@given(stills(), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40))
def test_both_sides(still, source, before, behind):
    canvas = extend_both(still, source, before, behind)
    s = still.strides.time
    check_window(canvas)
    first, given_piece, last = canvas.timeline.pieces
    assert given_piece == Piece(0, 0, source) and first.start == 0 and last.start == first.count + source
    assert before <= first.count < before + s and behind <= last.count < behind + s
    assert canvas.shape.frames == canvas.timeline.frames and canvas.offset == 0


@settings(deadline=None)
@given(stills(), st.integers(0, 7), st.integers(1, 40), st.integers(9, 60))
def test_gaps_before_latents_end_on_their_cells(still, grid, new, source):
    """Cells of a source that holds latents stand in the lattice as they are: a frame that ends one of its cells ends one there."""
    s, grid = still.strides.time, grid % still.strides.time
    for canvas in (
        extend_backward(still, source, new, 2, grid),
        join(still, 9, source, new, 2, grid),
        extend_both(still, source, new, 3, grid),
    ):
        check_window(canvas)
        assert new <= next(p.count for p in canvas.timeline.pieces if p.source == NEW) < new + s
        for span in canvas.spans[-1:]:
            assert span.cell == 0 or (span.start + s - 1 - grid) % s == 0


@pytest.mark.parametrize(
    "start, end, grid, kept",
    [(16, 25, 0, (13, 25)), (17, 25, 0, (17, 25)), (0, 6, 0, (0, 9)), (1, 2, 0, (1, 5)), (10, 12, 2, (7, 15)), (0, 6, 2, (0, 9))],
)
def test_fill_snaps_to_the_cells_of_latents(start, end, grid, kept):
    canvas = fill(STILL, 41, start, end, grid=grid)
    check_window(canvas)
    made = next(p for p in canvas.timeline.pieces if p.source == NEW)
    assert canvas.timeline.frames == 41 and (made.start + canvas.offset, made.start + canvas.offset + made.count) == kept


def test_remix_keeps_what_it_is_told_to():
    canvas = remix(STILL, [True, True, False, False, True])
    assert canvas.timeline.pieces == (Piece(0, 0, 2), Piece(NEW, 2, 2), Piece(0, 4, 1))
    assert canvas.shape.cells == 2 and canvas.offset == 0
    assert remix(STILL, [False] * 7).timeline.frames == 7 and remix(STILL, [False] * 7).shape.frames == 9


# -- decoding ------------------------------------------------------------------------------------------------------------------------


def numbered(count, offset=0.0, chunk=5):
    """Frames [n, 1, 1, 3] whose value is their number / 1000 + offset, in chunks."""
    frames = torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 1, 3) / 1000 + offset
    return iter(frames.split(chunk))


def reader(source, start, count):
    yield torch.stack([torch.full((1, 1, 3), 0.5 + source / 10 + (start + i) / 1000) for i in range(count)])


@given(st.integers(0, 20), st.integers(1, 20), st.integers(1, 9))
def test_take(start, count, chunk):
    got = torch.cat(list(take(numbered(40, chunk=chunk), start, count)))[:, 0, 0, 0]
    assert torch.equal(got, torch.arange(start, start + count) / 1000)


def test_take_more_than_there_is():
    with pytest.raises(ValueError, match="there are 10"):
        list(take(numbered(10), 5, 6))


CANVAS = Canvas(
    VideoShape(32, 32, 10, 8.0),
    Timeline((Piece(0, 0, 15), Piece(NEW, 13, 12), Piece(0, 27, 14))),
    spans=(Span(0, 4, 0, 2), Span(7, 3, 0, 27)),
)


def test_given_frames_pass_and_made_ones_are_decoded():
    frames = torch.cat(list(result_frames(CANVAS, lambda: numbered(40), reader, carry=False)))[:, 0, 0, 0]
    assert torch.equal(frames[:15], 0.5 + torch.arange(15) / 1000)
    assert torch.equal(frames[15:27], torch.arange(13, 25) / 1000)
    assert torch.equal(frames[27:], 0.5 + torch.arange(27, 41) / 1000)


def result(canvas, carry=True, lost=0.05, **part):
    """Values of the frames of a result; the decoding of every given frame is about `lost` darker than it."""
    decoded = 0.5 - lost
    return torch.cat(list(result_frames(canvas, lambda: numbered(canvas.shape.frames, decoded), reader, carry, **part)))[:, 0, 0, 0]


def test_seam_carries_what_was_lost_on_both_sides_and_fades():
    added = result(CANVAS) - result(CANVAS, carry=False)
    before, behind = 0.514 - 0.462, 0.527 - 0.475  # given frames 14 and 27, and their decodings, frames 12 and 25 of the lattice
    assert not added[:15].any() and not added[27:].any()
    fading = 1 - torch.arange(12) / 11  # a run of 12 frames is shorter than both seams: they cross over
    assert torch.allclose(added[15:27], before * fading + behind * fading.flip(0), atol=1e-5)


@given(st.integers(1, 30))
def test_seam_never_carries_more_than_was_lost(count):
    pieces = (Piece(0, 0, 5), Piece(NEW, 5, count), Piece(0, 5 + count, 60))
    canvas = Canvas(VideoShape(32, 32, 30, 8.0), Timeline(pieces), spans=(Span(0, 30, 0, 0),))
    added = result(canvas) - result(canvas, carry=False)
    assert added[5 : 5 + count].max() <= 0.05 + 1e-4
    if count <= SEAM:
        assert torch.allclose(added[5 : 5 + count], torch.tensor(0.05), atol=1e-4), "a short run is carried whole"


def test_seam_carries_nothing_to_what_has_moved_on():
    """A bright body in the left third that the codec shows darker leaves, and comes back: what was lost of it does not."""
    canvas = Canvas(VideoShape(32, 32, 4, 8.0), Timeline((Piece(0, 0, 5), Piece(NEW, 5, 8))), spans=(Span(0, 2, 0, 0),))
    decoded = torch.full((13, 3, 20, 3), 0.3)
    decoded[:6, :, :4] = decoded[8:, :, :4] = 0.8
    given = decoded[:5].clone()
    given[:, :, :4] += 0.1
    given[:, :, 10:] += 0.02
    made = torch.cat(
        list(result_frames(canvas, lambda: iter([decoded]), lambda source, start, count: iter([given[start : start + count]])))
    )
    added = made - decoded
    assert torch.allclose(added[5], given[4] - decoded[4], atol=1e-6), "nothing has moved yet"
    assert not added[6:, :, :4].any(), "it would be a ghost"
    assert (added[6:12, :, 10:] > 0).all(), "what stays goes on carrying"


def test_seam_of_a_loop_leads_back_to_its_first_frame():
    canvas = loop(STILL, 41, 16)
    added = result(canvas) - result(canvas, carry=False)
    frame = next(p for p in canvas.timeline.pieces if p.source == NEW)
    lost = 0.5 - 0.45 - (frame.start + frame.count) / 1000  # given frame 0, and its decoding in the lattice behind the made ones
    assert torch.allclose(added[-1], torch.tensor(lost), atol=1e-5) and (added[-8:].diff() < 0).all(), "the other end has lost more"


def test_seam_only_where_the_lattice_knows_the_neighbour():
    begin = Canvas(VideoShape(32, 32, 3, 8.0), Timeline((Piece(NEW, 0, 9), Piece(0, 0, 2))))  # the lattice ends with the made frames
    assert torch.equal(result(begin), result(begin, carry=False))


def test_no_seam_beside_a_picture_whose_cell_is_made():
    pieces = Timeline((Piece(NEW, 0, 16), Piece(0, 0, 1), Piece(NEW, 17, 8)))
    picture = Canvas(VideoShape(32, 32, 7, 8.0), pieces, guides=(Guide(16, 0),))
    assert torch.equal(result(picture), result(picture, carry=False)), "the picture would shine through the frames beside it"


@given(st.integers(0, 40), st.integers(1, 41), st.booleans())
def test_a_part_of_a_result_is_that_part_of_the_whole(start, length, carry):
    end = min(start + length, 41)
    whole = torch.cat(list(result_frames(CANVAS, lambda: numbered(40), reader, carry)))
    part = torch.cat(list(result_frames(CANVAS, lambda: numbered(40), reader, carry, start, end)))
    assert torch.equal(part, whole[start:end])


def test_the_lattice_is_decoded_once_however_many_pieces_there_are():
    canvas = blank(VideoShape(32, 32, 11, 8.0))
    for frame in (0, 10, 11, 20, 40):
        canvas = place(canvas, frame, frame)
    walks = []
    frames = torch.cat(list(result_frames(canvas, lambda: walks.append(1) or numbered(41, chunk=4), reader)))
    assert len(frames) == 41 and len(walks) == 1


def test_composed_keeps_what_the_mask_keeps():
    made, kept = torch.rand(2, 7, 4, 4, 3, generator=torch.Generator().manual_seed(3)).unbind(0)
    mask = torch.zeros(7, 4, 4)
    mask[2:, 1:3, 1:3], mask[3, 1, 1] = 1, 0.5
    out = torch.cat(list(composed(iter(made.split(3)), iter(kept.split(2)), mask)))
    assert torch.equal(out[mask == 0], kept[mask == 0]) and torch.equal(out[mask == 1], made[mask == 1])
    assert torch.allclose(out[3, 1, 1], (made + kept)[3, 1, 1] / 2)


@pytest.mark.parametrize(
    "canvas, told",
    [
        (blank(VideoShape(32, 32, 6, 8.0)), (0.0, 2.5)),
        (extend(STILL, 41, 16), (2.0, 4.0)),  # behind 17 frames of context
        (extend(STILL, 6, 16), (0.5, 2.5)),
        (extend_backward(STILL, 41, 16), (0.0, None)),
        (fill(STILL, 41, 13, 29), (1.5, 3.5)),
        (loop(STILL, 41, 16), (2.0, 4.0)),
    ],
)
def test_a_storyboard_begins_behind_the_context(canvas, told):
    begin, end = canvas.told
    assert begin == told[0] and end == (told[1] or (canvas.shape.frames - 1) / 8)
    if begin:
        made = next(piece for piece in canvas.timeline.pieces if piece.source == NEW)
        assert first_frame(begin, 8.0) == made.start, "the first shot begins with the first made frame"


def test_what_a_codec_shows_elsewhere_is_not_carried():
    """A frame stands still; its given one has fine detail on the left, which is carried, and on the right a body that the codec moved."""
    canvas = Canvas(VideoShape(32, 32, 4, 8.0), Timeline((Piece(0, 0, 5), Piece(NEW, 5, 8))), spans=(Span(0, 2, 0, 0),))
    decoded = torch.full((13, 12, 40, 3), 0.5)
    given = decoded[:5].clone()
    given[:, :, :12:2] += 0.1
    given[:, :, 1:12:2] -= 0.1
    given[:, :, 28:] += 0.3
    read = lambda source, start, count: iter([given[start : start + count]])  # noqa: E731
    added = torch.cat(list(result_frames(canvas, lambda: iter([decoded]), read)))[5] - 0.5
    assert torch.allclose(added[:, :8], given[4, :, :8] - 0.5, atol=1e-6)
    assert not added[:, 32:].any(), "a body would stand there as a ghost"


def test_a_picture_on_a_known_cell_leaves_its_other_frames_as_guides():
    canvas = place(extend(STILL, 17, 16), 16, 1)
    assert canvas.known == [0, 1, 2, 3]
    assert [(guide.frame, guide.source, guide.start) for guide in canvas.guides] == [(13, 0, 13), (14, 0, 14), (15, 0, 15), (16, 1, 0)]


def test_a_picture_at_the_beginning_of_a_loop_is_where_it_ends_too():
    canvas = place(loop(STILL, 41, 16), 0, 1)
    again = canvas.timeline.frames - canvas.offset  # in the lattice
    assert [guide.frame for guide in canvas.guides if guide.source == 1] == [again]
    assert all(span.source != 0 or canvas.shape.strides.first_frame(span.cell) != again for span in canvas.spans)
    assert [guide.start for guide in canvas.guides if guide.source == 0] == [1, 2, 3], "the rest of that cell is seen"


def test_a_remix_carries_beside_cells_that_its_mask_keeps():
    canvas = remix(STILL, [True] * 5 + [False] * 12)
    plain, carried = (result(canvas, known=known) for known in (None, [0, 1]))
    assert torch.equal(plain, result(canvas, carry=False))
    assert carried[5] > plain[5] and torch.equal(carried[:5], plain[:5])
