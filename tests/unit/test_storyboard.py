"""Storyboards: read as typed, wrong ones named by line and column, snapped to cells, every cell in its shot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora_pack.sora_core.canvas import blank
from sora_pack.sora_core.shapes import Strides, VideoShape, frames_for_seconds
from sora_pack.sora_core.storyboard import (
    ScriptError,
    Shot,
    Storyboard,
    check_length,
    describe,
    first_frame,
    lattice_of,
    listed,
    parse,
    shots_at,
    snap,
    takes_of,
)

SCRIPT = """characters: Mo, a red ball. place: beach at sunset.
[0-8 s] Mo rolls from left to right past a blue cube. camera follows.
[8-14 s] cut. close-up of Mo bouncing twice.
[14-20 s] cut. from above: Mo stops beside a white lamp;
  the lamp lights up.
"""


def test_a_script_as_people_type_it():
    board = parse(SCRIPT)
    assert board.words == "characters: Mo, a red ball. place: beach at sunset."
    assert [(s.start, s.end, s.cut, s.line) for s in board.shots] == [(0, 8, False, 2), (8, 14, True, 3), (14, 20, True, 4)]
    assert board.shots[1].words == "close-up of Mo bouncing twice."
    assert board.texts[2] == f"{board.words} from above: Mo stops beside a white lamp; the lamp lights up."


@pytest.mark.parametrize(
    "times", ["0-5 s", "0 s - 5 s", "0-5", "0.0–5.0s", " 0 to 5 ", "0-5秒", "0-5 sec", "0 to 5 seconds", "0到5秒", "0~5秒", "０－５秒"]
)
def test_ways_to_write_seconds(times):
    assert parse(f"[{times}]a ball").shots == (Shot(0.0, 5.0, "a ball", False, 1),)


@pytest.mark.parametrize(
    "begin, cut",
    [
        ("cut. ", True),
        ("Cut: ", True),
        ("CUT - ", True),
        ("- cut. ", True),
        ("hard cut, ", True),
        ("cut to ", True),
        ("cut.\n", True),
        ("cut\n", True),
        ("cut to: ", True),
        ("\nCut\n", True),
        ("切\n", True),
        ("切到", True),
        ("切换至 ", True),
        ("切、", True),
        ("切——", True),
        ("\ncut. ", True),
        ("切。", True),
        ("切 ", True),
        ("continuous. ", False),
        ("", False),
    ],
)
def test_transitions(begin, cut):
    shot = parse(f"[0-2 s] a\n[2-4 s] {begin}b").shots[1]
    assert (shot.cut, shot.words) == (cut, "b")


@pytest.mark.parametrize(
    "words", ["cutting a cake", "cut flowers stand on a table", "cut-out figures", "切菜的人", "to cut a ball", "切换器"]
)
def test_words_that_only_look_like_a_transition(words):
    shot = parse(f"[0-2 s] a\n[2-4 s] {words}").shots[1]
    assert (shot.cut, shot.words) == (False, words)


def test_the_brackets_of_a_chinese_keyboard_and_a_mark_of_the_byte_order():
    board = parse("\ufeff【0-3 秒】一个红球\n［3-6 秒］切。红球弹跳")
    assert [(shot.start, shot.end, shot.cut, shot.words) for shot in board.shots] == [(0, 3, False, "一个红球"), (3, 6, True, "红球弹跳")]


@pytest.mark.parametrize(
    "script, line, column, says",
    [
        ("", 1, 1, "there is no shot"),
        ("[0-3 s] a ball. [3-6 s] cut. a cube", 1, 17, "[3-6 s] begins a shot: begin a line of its own"),
        ("a ball\nShot 1: [0-3 s] rolls", 2, 9, "[0-3 s] begins a shot"),
        ("a ball\nrolls", 2, 1, "there is no shot"),
        ("x\n  [0-5 s a ball", 2, 3, "not closed"),
        ("[zero-5] a", 1, 2, "'zero-5' are no seconds"),
        ("[5] a", 1, 2, "are no seconds"),
        ("[1-5] a", 1, 2, "begins at 1 s: use 0, the first shot begins there"),
        ("[0-5] a\n [ 6-9 s] b", 2, 4, "begins at 6 s: use 5, the shot before it ends there"),
        ("[0-5] a\n[5-5 s] b", 2, 4, "use more than 5"),
        ("[0-700] a", 1, 4, "at most 600"),
        ("[0-5]\n[5-6] b", 1, 1, "has no words"),
        ("[0-5] cut.\n[5-6] b", 1, 1, "has no words"),
        ("[0-5] a\n[5-6] " + "é" * 600, 2, 1, "with the words for all, the prompt has 1,200 bytes"),
    ],
)
def test_errors_point_at_line_and_column(script, line, column, says):
    with pytest.raises(ScriptError, match=f"^line {line}, column {column}: .*") as caught:
        check_length(parse(script))
    assert says in str(caught.value) and (caught.value.line, caught.value.column) == (line, column)


@st.composite
def boards(draw):
    lengths = draw(st.lists(st.floats(0.6, 9), min_size=1, max_size=7))
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    shots = tuple(Shot(a, b, "x", draw(st.booleans())) for a, b in zip([0.0, *ends], ends))
    return Storyboard("", shots)


@given(boards(), st.sampled_from([8.0, 16.0, 24.0, 29.97]))
def test_cuts_fall_on_cell_borders_and_every_cell_has_its_shot(board, fps):
    strides = Strides()
    snapped = snap(board, fps, strides)
    shape = VideoShape(32, 32, strides.cells(frames_for_seconds(board.seconds, fps)), fps)
    assert shape.seconds == pytest.approx(snapped.seconds) and snapped.seconds >= board.seconds - 1e-6
    for before, after in zip(snapped.shots, snapped.shots[1:]):
        assert before.end == after.start and after.start * fps / strides.time == pytest.approx(round(after.start * fps / strides.time))
    for old, new in zip(board.shots[:-1], snapped.shots):
        assert abs(old.end - new.end) <= strides.time / fps / 2 + 1e-9
    shots = shots_at(blank(shape).seconds_of_cells, [s.start for s in snapped.shots])
    assert shots[0] == 0 and sorted(set(shots)) == list(range(len(board.shots)))
    for cell, shot in enumerate(shots):
        first = max(0, strides.time * (cell - 1) + 1)  # frames first..time * cell are in this cell
        assert snapped.shots[shot].start <= first / fps <= strides.time * cell / fps <= snapped.shots[shot].end + 1e-6


def test_takes_and_lattice():
    assert takes_of([0, 0, 1, 2, 2, 3], [False, True, False, True]) == [0, 0, 1, 1, 1, 2]
    lattice = lattice_of([0, 0.5, 1, 1.5, 2], frozenset({0}), [0, 1.0], [False, True])
    assert (lattice.shots, lattice.takes, lattice.known) == ((0, 0, 0, 1, 1), (0, 0, 0, 1, 1), {0})


def test_a_shot_without_a_cell_is_named():
    with pytest.raises(ScriptError, match="line 2, column 1: the shot from 2 to 2.1 s is shorter than one cell: use 0.5 s or more"):
        snap(parse("[0-2 s] a\n[2-2.1 s] b\n[2.1-4 s] c"), 8.0, Strides())


def test_snapped_times_are_shown():
    assert describe(snap(parse("[0-1.7 s] a\n[1.7-3 s] cut. b\n[3-3.6 s] c"), 8.0, Strides()), 8.0).splitlines() == [
        "0-1.5 s, frames 0-12: a",
        "1.5-3 s, cut, frames 13-24: b",
        "3-4 s, goes on, frames 25-32: c",
    ]


def test_shots_from_fields_are_those_of_the_script():
    board = listed(
        "characters: Mo, a red ball.\n place: beach.", [(8.0, "Mo rolls.", True), (6.0, " Mo\nbounces. ", True), (6, "Mo stops.", False)]
    )
    script = parse("characters: Mo, a red ball. place: beach.\n[0-8] Mo rolls.\n[8-14] cut. Mo bounces.\n[14-20] continuous. Mo stops.")
    assert board.texts == script.texts
    assert [(s.start, s.end, s.cut) for s in board.shots] == [(s.start, s.end, s.cut) for s in script.shots]


@pytest.mark.parametrize(
    "words, fields, says",
    [
        ("", [(2, "a", False), (2, "  ", True)], "shot 2: the shot has no words: say what it shows$"),
        ("", [(2, "a", False), (0, "b", True)], "shot 2: 0 s are no length: use more than 0"),
        ("", [(400, "a", False), (300, "b", True)], "shot 2 ends at 700 s: a video lasts at most 600"),
        ("", [(2, "é" * 600, False)], "shot 1: with the words for all, the prompt has 1,200 bytes .*: the model reads at most 1,024"),
        ("a\n [0-2 s] b", [(2, "c", False)], "line 2, column 2: here a shot begins, but the shots have fields"),
        ("【0-3秒】红球滑动", [(2, "c", False)], "line 1, column 1: here a shot begins"),
    ],
)
def test_wrong_fields_are_named(words, fields, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        check_length(listed(words, fields))


def test_a_field_without_a_cell_is_named():
    with pytest.raises(ValueError, match="^shot 2: the shot from 2 to 2.1 s is shorter than one cell: use 0.5 s or more"):
        snap(listed("", [(2, "a", False), (0.1, "b", False), (1.9, "c", False)]), 8.0, Strides())


@pytest.mark.parametrize("fps", [8.0, 24.0, 29.97])
def test_the_first_frame_of_a_shot_is_in_its_first_cell(fps):
    strides = Strides()
    shape = VideoShape(32, 32, strides.cells(frames_for_seconds(6.0, fps)), fps)
    starts = [shot.start for shot in snap(listed("", [(2, "a", False), (1.3, "b", True), (2.7, "c", True)]), fps, strides).shots]
    shots = shots_at(blank(shape).seconds_of_cells, starts)
    for shot, start in enumerate(starts):
        frame = first_frame(start, fps)
        assert shots[strides.cell_of_frame(frame)] == shot and (frame == 0 or shots[strides.cell_of_frame(frame - 1)] == shot - 1)
