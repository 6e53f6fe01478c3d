"""Plans: every cell once, nothing unseen is seen, gaps apart, and one changed shot touches no other take."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sora_pack.sora_core.config import ModelHeader
from sora_pack.sora_core.plan import (
    BESIDE,
    KINDS,
    Lattice,
    Pass,
    Plan,
    check,
    foresight,
    kind_for,
    make_plan,
    picture,
    rollout,
    single,
    sketched,
    spans,
    window_of,
)
from sora_pack.sora_core.shapes import Strides

settings.register_profile("plans", max_examples=40, deadline=None)
settings.load_profile("plans")


@st.composite
def lattices(draw):
    cells = draw(st.integers(1, 130))
    known = draw(st.frozensets(st.integers(0, cells - 1), max_size=12))
    cuts = sorted(draw(st.frozensets(st.integers(1, max(1, cells - 1)), max_size=6)))
    hard = [draw(st.booleans()) for _ in cuts]
    shots = tuple(sum(k >= cut for cut in cuts) for k in range(cells))
    takes = tuple(sum(k >= cut for cut, is_hard in zip(cuts, hard) if is_hard) for k in range(cells))
    return Lattice(cells, known, shots, takes)


@st.composite
def plans(draw, kinds=KINDS):
    window = draw(st.integers(2, 24))
    return make_plan(
        draw(st.sampled_from(kinds)),
        draw(lattices()),
        window=window,
        overlap=draw(st.integers(1, window - 1)),
        distance=draw(st.integers(1, 12)),
    )


@given(plans())
def test_every_cell_is_given_or_made_once(plan):
    made = [k for p in plan.passes for k in p.make]
    assert sorted([*made, *plan.lattice.known]) == list(range(plan.lattice.cells))


@given(plans())
def test_a_pass_sees_only_what_is_there(plan):
    there = set(plan.lattice.known)
    for p in plan.passes:
        assert set(p.see) <= there and p.make and list(p.make) == sorted(p.make) and list(p.see) == sorted(set(p.see))
        there |= set(p.make)


@given(plans())
def test_the_leftmost_cell_is_cell_0_or_known(plan):
    for p in plan.passes:
        assert min(p.cells) == 0 or min(p.cells) in p.see


@given(plans())
def test_check_agrees(plan):
    check(plan)


@given(plans(["foresight"]))
def test_a_gap_sees_no_other_gap(plan):
    in_gaps = {k for p in plan.passes if p.name == "gap" for k in p.make}
    for p in plan.passes:
        assert not in_gaps & set(p.see)
        if p.name == "gap":
            left, right = [k for k in p.see if k < p.make[0]], [k for k in p.see if k > p.make[-1]]
            assert 1 <= len(left) <= BESIDE and 1 <= len(right) <= BESIDE
            assert left[-1] == p.make[0] - 1 and right[0] == p.make[-1] + 1
            assert len({plan.lattice.take_of(k) for k in p.cells}) == 1


@given(lattices(), st.integers(1, 12))
def test_the_sketch_reaches_everywhere(lattice, distance):
    cells = sketched(lattice, distance)
    assert cells == sorted(set(cells)) and all(b - a <= distance for a, b in zip(cells, cells[1:]))
    assert lattice.known <= set(cells) and all(run[0] in cells and run[-1] in cells for run in lattice.runs)


@given(lattices(), st.integers(1, 12))
def test_sketches_see_the_ends_of_all_that_is_given_and_what_is_between_from_afar(lattice, distance):
    known = sorted(lattice.known)
    for p in foresight(lattice, distance).passes:
        if p.name == "sketch":
            ends = {k for k in known if not {k - 1, k + 1} <= lattice.known}
            seen = [k for k in p.see if k in lattice.known]
            assert ends <= set(seen)
            assert all(b - a <= distance for a, b in zip(seen, seen[1:]) if set(range(a, b)) <= lattice.known)


def test_a_long_given_video_is_seen_in_outline():
    plan = foresight(Lattice(150, frozenset(range(120))), 8)
    assert plan.passes[0].see == (0, 1, *range(9, 118, 8), 118, 119) and plan.largest < 24


@given(plans(["rollout"]))
def test_windows_stay_in_their_shot_and_go_on_from_the_one_before(plan):
    for p in plan.passes:
        assert len({plan.lattice.shots[k] for k in p.make}) == 1
        assert p.make[0] == 0 or p.make[0] - 1 in p.see


@given(plans(["rollout", "foresight"]), st.data())
def test_a_redone_pass_has_its_own_seed(plan, data):
    if plan.passes:
        number = data.draw(st.integers(0, len(plan.passes) - 1))
        assert [p.seed for p in plan.redo({number: 9}).passes] == [9 if i == number else None for i in range(len(plan.passes))]
    with pytest.raises(ValueError, match="there is no pass"):
        plan.redo({len(plan.passes): 1})


@given(plans())
def test_a_pass_knows_where_its_cells_stand(plan):
    for p in plan.passes:
        assert [p.cells[i] for i in p.made_at] == sorted(p.make) and [p.cells[i] for i in p.seen_at] == sorted(p.see)


@given(plans(), st.integers(0, 100))
def test_passes_of_a_group_need_not_one_another(plan, cells):
    groups, there = plan.groups(cells), set(plan.lattice.known)
    assert sorted(n for group in groups for n in group) == list(range(len(plan.passes)))
    for group in groups:
        passes = [plan.passes[n] for n in group]
        assert all(set(p.see) <= there for p in passes), "what a pass sees is made by a group before"
        assert len({(len(p.make), tuple(p.made_at), tuple(k - p.cells[0] for k in p.cells)) for p in passes}) == 1
        assert len(group) == 1 or sum(len(p.cells) for p in passes) <= cells
        there.update(*(p.make for p in passes))


def test_gaps_of_a_minute_are_made_together():
    assert [len(group) for group in foresight(Lattice(121)).groups(1000)] == [1, 1, 1, 12, 1]
    assert [len(group) for group in rollout(Lattice(121), 11).groups(1000)] == [1] * len(rollout(Lattice(121), 11).passes)


def test_a_minute_by_foresight():
    """The opening, which is whole, in place of the first gap."""
    opening, sketch, *gaps = foresight(Lattice(121)).passes
    assert opening == Pass("opening", tuple(range(9))) and sketch == Pass("sketch", tuple(range(16, 121, 8)), (0, 1, 7, 8))
    assert [len(p.make) for p in gaps] == [7] * 14
    assert gaps[0].see == (7, 8, 16, 24) and gaps[2].see == (16, 24, 32, 40) and foresight(Lattice(121)).largest == 18


def test_no_opening_where_something_is_given():
    assert [p.name for p in foresight(Lattice(20, frozenset({19}))).passes] == ["sketch", "gap", "gap", "gap"]


def test_an_opening_ends_with_its_take_and_is_no_larger_than_a_gap():
    takes = (0,) * 5 + (1,) * 10
    assert foresight(Lattice(15, frozenset(), takes, takes)).passes[0].make == tuple(range(5))
    assert foresight(Lattice(15), 3).passes[0].make == tuple(range(4))


def test_takes_after_the_first_see_its_characters_and_nothing_of_each_other():
    shots = tuple(k // 20 for k in range(140))
    plan = foresight(Lattice(140, frozenset(), shots, shots))
    for p in plan.passes:
        assert {shots[k] for k in p.see} <= {0, shots[p.make[0]]}
    seers = [p for p in plan.passes if any(shots[k] == 3 for k in p.cells)]
    assert len(seers) < len(plan.passes) / 6


@given(lattices(), st.integers(3, 24), st.data())
def test_no_window_is_larger_than_it_may_be(lattice, window, data):
    """What it sees counts, on both sides: a model knows no longer clips."""
    plan = rollout(lattice, window, data.draw(st.integers(1, window - 1)))
    assert plan.largest <= window


def test_a_given_end_is_seen_by_the_window_before_it():
    plan = rollout(Lattice(30, frozenset({*range(5), *range(26, 30)})), window=11, overlap=3)
    assert plan.passes[0].see == (2, 3, 4) and {26, 27, 28} <= set(plan.passes[-1].see)


def test_nothing_to_make_needs_no_pass():
    everything = Lattice(3, frozenset({0, 1, 2}))
    assert [len(make_plan(kind, everything, window=3, overlap=1).passes) for kind in KINDS] == [0, 0, 0]


@pytest.mark.parametrize("cells, foresighted, kind", [(11, True, "single"), (12, True, "foresight"), (12, False, "rollout")])
def test_the_rule(cells, foresighted, kind):
    header = ModelHeader(native_fps=8.0, max_seconds=5.0)
    assert kind_for(cells, window_of(header, Strides()), foresighted) == kind


@pytest.mark.parametrize(
    "passes, says",
    [
        ([Pass("a", (0, 1)), Pass("b", (1, 2), (0,))], "makes cell 1, which is there already"),
        ([Pass("a", (0, 1), (2,))], "sees cell 2, which nothing before it has made"),
        ([Pass("a", (1, 2))], "must be cell 0 or known"),
        ([Pass("a", (0, 1))], "no pass makes cell 2"),
    ],
)
def test_what_is_no_plan(passes, says):
    with pytest.raises(ValueError, match=says):
        check(Plan("mine", Lattice(3), tuple(passes)))


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: make_plan("dream", Lattice(3), window=3), "use one of single, rollout, foresight"),
        (lambda: rollout(Lattice(30), 3, 3), "use 1 to 2"),
        (lambda: foresight(Lattice(30), 0), "use 1 or more"),
    ],
)
def test_errors_name_the_right_value(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_the_picture():
    assert picture(foresight(Lattice(13), 4).redo({2: 5})).splitlines() == [
        "0 opening #####........",
        "1 sketch  oo.oo...#...#",
        "2 gap     ...oo###o...o  seed 5",
        "3 gap     ....o...o###o",
    ]
    assert picture(single(Lattice(3, frozenset({0})))) == "0 whole o##"
    assert picture(foresight(Lattice(121)), rows=2).splitlines()[-1] == "... and 14 more passes"


@given(st.frozensets(st.integers(0, 40)))
def test_spans_name_every_cell(cells):
    parts = [part.split("-") for part in spans(sorted(cells)).split(", ")] if cells else []
    assert {k for part in parts for k in range(int(part[0]), int(part[-1]) + 1)} == set(cells)
