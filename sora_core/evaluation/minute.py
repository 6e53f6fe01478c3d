"""Rows of a minute: long videos by foresight, and by rollout with the same model and seeds beside it, against renders of what was told.

    python -m sora_core.evaluation --full --out docs --rows exact takes returns casts "minute cost"   # 20 videos: hours; goes on
    python -m sora_core.evaluation --rows takes --videos 1 --seconds 12 --steps 4                     # a first look: some minutes

Of all that is measured there is a pure function of frames (`border_jump`, `joins`, `shots.cuts_in`,
`tracking.seen_shape`), so each can be tried on renders and on renders that were spoiled.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ..checkpoint import save_model
from ..generate import beginning
from ..jobs import FORMAT, content_hash
from ..pictures import evenly
from ..pipeline import Pipeline
from ..plan import Lattice, Plan, make_plan, window_of
from ..shapes import Strides, VideoShape, frames_for_seconds
from ..storyboard import Storyboard, first_frame, lattice_of, listed, snap
from ..world import Object, Scene, caption, events, introduce, render, sample_shots, sample_story
from ..world.motion import position
from ..world.parts import COVER_SECONDS
from .adherence import long_caption, scored_scenes
from .bench import Bench
from .intervals import geometric_mean, mean, means
from .metrics import DRIFTS, frame_differences, jump, relative_drift, seam_jump
from .report import Row, mean_row, share_row
from .shots import cuts_in, render_shots, same_characters
from .studio import SOLVER, Studio
from .tracking import seen_shape

KINDS = ("foresight", "rollout")
TAKES, STORIES, CASTS = 5_800_000, 5_900_000, 6_100_000  # first seeds, of scenes that no training has

HIDDEN = {1.0: 0.9, 5.0: 0.9, 15.0: 0.8}  # seconds out of sight -> share that must come back as itself
LOOK = 2.0  # seconds before and after what hides, at least
SHOTS = 4
BEGINNING = 5.0  # seconds
MOMENTS = 25  # of a take on the page
EXACT_SECONDS = 20.0  # of a video that has two gaps which look alike

NOT_LESS, NOT_MORE, MORE = "0 inside, or >= 0", "0 inside, or <= 0", "> 0"  # of foresight - rollout
FAR = 15.0  # seconds out of sight after which foresight has to be better than rollout


# -- making them ---------------------------------------------------------------------------------------------------------------------


def make_film(studio: Studio, board: Storyboard, shape: VideoShape, seed: int, kind: str,
              known: Tensor | None = None) -> tuple[Tensor, Plan]:  # fmt: skip
    """(frames uint8 [T, H, W, 3], the plan by which they were made) of a storyboard that is snapped to the shape's cells.

    Every pass is kept as it is made, and the latents of the whole at the end: a run that was killed goes on.

    Args:
        kind: of the plan.
        known: normalised latents [1, C, k, h, w] of the first k cells.
    """
    pipeline, count = studio.pipeline, 0 if known is None else known.shape[2]
    starts, cuts = [shot.start for shot in board.shots], [shot.cut for shot in board.shots]
    lattice = lattice_of(shape.seconds_of_cells, frozenset(range(count)), starts, cuts)
    plan = make_plan(kind, lattice, window=window_of(pipeline.header, shape.strides))
    facts = [FORMAT, studio.model, studio.steps, studio.guidance, SOLVER, board.texts, starts, cuts]
    facts += [list(shape.latent), shape.fps, seed, repr(plan.passes), known]
    path = studio.folder / f"film-{content_hash(facts)[:24]}.safetensors"
    if not path.is_file():
        save_model(path, {"latents": _make(studio, board, shape, seed, plan, known)})
    return studio.decode(load_file(path)["latents"]), plan


def _make(studio: Studio, board: Storyboard, shape: VideoShape, seed: int, plan: Plan, known: Tensor | None, **more) -> Tensor:
    """more: for `generate`."""
    # As in the host: a shot's words hold those for all, which are left empty.
    prompt, shots = (board.texts[0], ()) if len(board.texts) == 1 else ("", board.texts)
    options = {"steps": studio.steps, "guidance": studio.guidance, "seed": seed, "solver": SOLVER, "plan": plan}
    options |= {"jobs": studio.folder / "jobs", **({} if known is None else beginning(known, shape)), **more}
    return studio.pipeline.cells(prompt, shape, shots, **options)


def _shape(bench: Bench, seconds: float) -> VideoShape:
    fps, side = bench.studio.pipeline.header.native_fps, bench.budget.minute_side
    return bench.studio.shape(side, side, frames_for_seconds(seconds, fps, bench.studio.pipeline.vae.strides), fps)


# -- what is measured ----------------------------------------------------------------------------------------------------------------


def joins(plan: Plan) -> int:
    """How often a video goes on from what another pass has made: between the gaps of a sketch, between the windows of a rollout."""
    return max(1, sum(p.name != "sketch" for p in plan.passes) - 1)


def cell_borders(plan: Plan, strides: Strides) -> tuple[list[int], list[int]]:
    """The frames with which a cell begins that another pass made than the one before it, and those of all other cells. Cuts are neither."""
    maker = {k: number for number, p in enumerate(plan.passes) for k in p.make}
    between: list[int] = []
    inside: list[int] = []
    for k in range(1, plan.lattice.cells):
        if plan.lattice.take_of(k) == plan.lattice.take_of(k - 1):
            same = maker.get(k) == maker.get(k - 1)
            (inside if same else between).append(strides.frames(k))
    return between, inside


def border_jump(frames: Tensor, plan: Plan, strides: Strides) -> float | None:
    """The jump at borders between passes over that at all other borders of cells; 1 is none. None where a plan has only one kind."""
    between, inside = cell_borders(plan, strides)
    return seam_jump(frames, between) / seam_jump(frames, inside) if between and inside else None


def beginning_jump(frames: Tensor, fps: float) -> float:
    """The step onto frame 1 over the median one of the first BEGINNING seconds; cell 0 holds frame 0 alone, and may be of another light."""
    steps = frame_differences(frames[: 1 + round(BEGINNING * fps)])
    return jump(float(steps[0]), float(steps.median()))


def half_size(frames: Tensor) -> Tensor:
    """uint8 [T, H, W, 3] -> [T, H / 2, W / 2, 3]."""
    return F.avg_pool2d(frames.movedim(-1, 1).float(), 2).movedim(1, -1).round().byte()


# -- what is told --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Absence:
    """A story in which body `body` is out of sight, in the middle of it at frame `middle`; `last`: the last frame in which it is seen
    whole before, `back`: the first after."""

    scene: Scene
    body: int
    last: int
    middle: int
    back: int
    frames: int


def covered(seed: int, hidden: float, fps: float) -> Absence:
    """A body is seen, is covered for `hidden` seconds, and is seen again for LOOK seconds."""
    scene = sample_story(seed, ("cover",), held_out=True)
    body = next(i for i, other in enumerate(scene.objects) if other.change == "cover")
    down = scene.objects[body].at
    until = round(down + COVER_SECONDS + hidden, 3)
    objects = tuple(replace(other, until=until) if i == body else other for i, other in enumerate(scene.objects))
    back = math.ceil((until + COVER_SECONDS) * fps)
    middle = round((down + COVER_SECONDS + hidden / 2) * fps)
    return Absence(replace(scene, objects=objects), body, math.floor(down * fps), middle, back, back + round(LOOK * fps) + 1)


def departed(seed: int, hidden: float, fps: float) -> Absence:
    """A body leaves the picture, is beyond its edge for `hidden` seconds, and is seen again for most of LOOK seconds."""
    drawn = (sample_story(seed + 100_000 * k, ("leave",), held_out=True) for k in itertools.count())
    scene = next(scene for scene in drawn if scene.camera.stands)
    body = next(i for i, other in enumerate(scene.objects) if other.motion.startswith("leave"))
    for _ in range(5):  # how long it is gone follows from its way only nearly
        going, coming = [event for event in events(scene, 0.0, hidden + 20.0) if event.body == body][:2]
        further = 1 + (hidden - (coming.at - going.end)) / (2 * scene.objects[body].period)
        objects = tuple(_going(other, further) if i == body else other for i, other in enumerate(scene.objects))
        scene = replace(scene, objects=objects)
    back, middle = math.ceil(coming.end * fps), round((going.end + coming.at) / 2 * fps)
    return Absence(scene, body, math.floor(going.at * fps), middle, back, back + round(LOOK * fps) + 1)


def _going(body: Object, further: float) -> Object:
    """A body that goes so many times as far, as fast as before and from where it was."""
    other = replace(body, reach=body.reach * further, period=body.period * further)
    start, moved = (position(each, torch.zeros(1, dtype=torch.float64))[0, 0].item() for each in (body, other))
    return replace(other, x=body.x + start - moved)


def shot_board(scenes: Sequence[Scene], seconds: float) -> Storyboard:
    """The storyboard of some scenes, each of so many seconds, with a cut before each: who the characters are counts for all."""
    who = introduce(list(scenes), "en")
    texts = [caption(scene, "long", "en", scene.seed, seconds=seconds, introduced=bool(who)) for scene in scenes]
    return listed(who, [(seconds, text, True) for text in texts])


def shot_frames(board: Storyboard, shape: VideoShape) -> list[tuple[int, int]]:
    """Of every shot: its first frame, and the frame behind its last."""
    starts = [first_frame(shot.start, shape.fps) for shot in board.shots]
    return list(zip(starts, [*starts[1:], shape.frames], strict=True))


# -- rows ----------------------------------------------------------------------------------------------------------------------------


def _shares(name: str, hits: dict[str, list[bool]], bar: float | None = None, paired: str = NOT_LESS,
            films: list[int] | None = None) -> Iterator[Row]:  # fmt: skip
    """The row of foresight, which has the bar, and below it that of rollout; the reference is renders. Then how much more often it is so
    with foresight, with the bar `paired`. None where nothing counts. films: of each the film, where some are of the same."""
    for kind in KINDS if hits["renders"] else ():
        reference = sum(hits["renders"]) / len(hits["renders"])
        yield share_row(f"{name}, {kind}", hits[kind], bar if kind == KINDS[0] else None, reference, films)
    yield from _difference(name, {kind: means(hits[kind], films) if films else hits[kind] for kind in KINDS}, paired)


def _means(name: str, made: dict[str, list[float]], bar: str | None, reference: float | None, statistic: Callable = mean,
           bad: Callable[[float], float] = float) -> Iterator[Row]:  # fmt: skip
    """The same of values and a statistic of them, and how much worse foresight is; none where there are no values.

    bad: how bad a value is.
    """
    for kind in KINDS:
        if made[kind]:
            yield mean_row(f"{name}, {kind}", made[kind], bar if kind == KINDS[0] else None, reference, statistic)
    yield from _difference(name, {kind: list(map(bad, made[kind])) for kind in KINDS}, NOT_MORE)


def _difference(name: str, values: dict[str, list], bar: str) -> Iterator[Row]:
    """The mean of what foresight has more than rollout has from the same words and noise; none where one of them has no values."""
    foresight, rollout = (values[kind] for kind in KINDS)
    if foresight and rollout:
        yield mean_row(f"foresight - rollout: {name}", [float(a) - float(b) for a, b in zip(foresight, rollout, strict=True)], bar, 0)


def _excess(values: np.ndarray) -> float:
    return geometric_mean(values) - 1


def _off(ratio: float) -> float:
    """How far a ratio is from 1, whichever way it goes."""
    return abs(math.log(ratio))


def _a_join(values: np.ndarray) -> float:
    """Of ratios: how far they are from 1, whichever way each goes, as a ratio."""
    return float(np.exp(np.mean(np.abs(np.log(values)))))


class _Killed(Exception):
    pass


def exact_rows(bench: Bench) -> Iterator[Row]:
    """The same words and seed twice, and once stopped in the middle of a pass and begun again: the latents are equal bit for bit. Gaps
    that share forwards: they are equal but for rounding. All in float32."""
    studio = replace(bench.studio, pipeline=Pipeline.load(**bench.source, dtype=torch.float32))
    shape = _shape(bench, EXACT_SECONDS)
    [scene] = scored_scenes(1, TAKES)
    board = listed("", [(shape.seconds, long_caption(scene, "en", shape.seconds), False)])
    plan = make_plan(KINDS[0], Lattice(shape.cells), window=window_of(studio.pipeline.header, shape.strides))
    steps = itertools.count(1)

    def kill(done: dict) -> None:
        if next(steps) == (len(plan.passes) * studio.steps + 1) // 2:
            raise _Killed

    def made(at_once: int = 0, **more) -> Tensor:
        return _make(studio, board, shape, scene.seed, plan, None, at_once=at_once, **more)

    first = made(jobs=None)
    with tempfile.TemporaryDirectory() as folder:
        jobs = {"jobs": Path(folder), "save_seconds": 0.0}
        with contextlib.suppress(_Killed):
            made(**jobs, callback=kill)
        others = {
            "same seed twice": (made(jobs=None), 0),
            "killed against not": (made(**jobs), 0),
            "gaps batched against one by one": (made(shape.cells, jobs=None), 1e-4),
        }
    for name, (other, most) in others.items():
        apart = float((other - first).abs().max())
        yield Row(f"exact: largest difference of latents, {name}", apart, apart, apart, 1, f"<= {most:g}", 0)


def take_rows(bench: Bench) -> Iterator[Row]:
    """One take as long as the budget says: drift, and jumps where passes meet and behind the first frame."""
    shape = _shape(bench, bench.budget.film_seconds)
    drifts = {name: {kind: [] for kind in KINDS} for name in DRIFTS}
    per_join = {name: {kind: [] for kind in KINDS} for name in DRIFTS}
    jumps: dict[str, list[float]] = {kind: [] for kind in KINDS}
    begun: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "renders")}
    true_jumps = []
    for number, scene in enumerate(scored_scenes(bench.budget.films, TAKES), 1):
        board = listed("", [(shape.seconds, long_caption(scene, "en", shape.seconds), False)])
        renders = render(scene, [k / shape.fps for k in range(shape.frames)], shape.width, shape.height)
        begun["renders"].append(beginning_jump(renders, shape.fps))
        for kind in KINDS:
            frames, plan = make_film(bench.studio, board, shape, scene.seed, kind)
            begun[kind].append(beginning_jump(frames, shape.fps))
            if kind == KINDS[0]:
                bench.takes.append(half_size(frames[evenly(len(frames), MOMENTS)]))
            for name, value in relative_drift(frames, renders, shape.fps).items():
                drifts[name][kind].append(value)
                per_join[name][kind].append(value ** (1 / joins(plan)))
            if (jump := border_jump(frames, plan, shape.strides)) is not None:
                jumps[kind].append(jump)
                true_jumps.append(border_jump(renders, plan, shape.strides))
            bench.say(f"take {number}/{bench.budget.films}, {kind}")
    length = f"{shape.seconds:g} s"
    for name in DRIFTS:
        yield from _means(f"drift of {name}, {length}", drifts[name], "within 0.02", 0, _excess, _off)
        yield from _means(f"drift of {name} at each join", per_join[name], "<= 1.005", 1, _a_join, _off)
    true = geometric_mean(np.array(true_jumps)) if true_jumps else None
    yield from _means("jump at borders of passes", jumps, "<= 1.1", true, geometric_mean)
    yield from _means("jump behind the first frame", begun, None, geometric_mean(np.array(begun["renders"])), geometric_mean)


def return_rows(bench: Bench) -> Iterator[Row]:
    """A body is seen, is covered or leaves the picture, in turn, and comes back: is it gone meanwhile, and itself again? Given is what
    comes before. Who was never gone has not returned."""
    fps = bench.studio.pipeline.header.native_fps
    for hidden, bar in HIDDEN.items():
        if hidden + 2 * COVER_SECONDS + 2 * LOOK > bench.budget.film_seconds:
            continue
        back, gone = ({kind: [] for kind in (*KINDS, "renders")} for _ in range(2))
        for number in range(bench.budget.films):
            case = (covered, departed)[number % 2](STORIES + number, hidden, fps)
            shape = _shape(bench, (case.frames - 1) / fps)
            renders = render(case.scene, [k / fps for k in range(shape.frames)], shape.width, shape.height)
            cells = 1 + case.last // shape.strides.time
            known = bench.studio.encode(renders[: shape.strides.frames(cells)])
            text = caption(case.scene, "long", "en", case.scene.seed, seconds=shape.seconds)
            clips = {"renders": renders}
            for kind in KINDS:
                board = listed("", [(shape.seconds, text, False)])
                clips[kind], _ = make_film(bench.studio, board, shape, case.scene.seed, kind, known)
            body, half = case.scene.objects[case.body], round(min(LOOK, hidden) * fps / 2)
            for kind, frames in clips.items():
                under, after = frames[case.middle - half : case.middle + half + 1], frames[case.back :]
                gone[kind].append(seen_shape(under, case.scene, body.colour) is None)
                back[kind].append(gone[kind][-1] and seen_shape(after, case.scene, body.colour) == body.shape)
            bench.say(f"out of sight for {hidden:g} s {number + 1}/{bench.budget.films}")
        yield from _shares(f"returns after {hidden:g} s out of sight", back, bar, MORE if hidden >= FAR else NOT_LESS)
        yield from _shares(f"is not seen in the middle of {hidden:g} s out of sight", gone)


def cast_rows(bench: Bench) -> Iterator[Row]:
    """Four shots of the same characters: are they the same, and are the cuts where they were asked for?"""
    shape, strides = _shape(bench, bench.budget.film_seconds), bench.studio.pipeline.vae.strides
    same, cut, more = ({kind: [] for kind in (*KINDS, "renders")} for _ in range(3))
    film_of_same, film_of_cut = [], []
    for number in range(bench.budget.films):
        scenes = sample_shots(CASTS + number, SHOTS, held_out=True)
        board = snap(shot_board(scenes, shape.seconds / SHOTS), shape.fps, strides)
        where = shot_frames(board, shape)
        clips = {"renders": render_shots(scenes, [b - a for a, b in where], shape.fps, shape.width, shape.height)}
        for kind in KINDS:
            clips[kind], _ = make_film(bench.studio, board, shape, scenes[0].seed, kind)
        asked = {first for first, _ in where[1:]}
        for kind, frames in clips.items():
            same[kind] += same_characters(scenes, [frames[a:b] for a, b in where])
            found = set(cuts_in(frames))
            cut[kind] += [frame in found for frame in sorted(asked)]
            more[kind].append(float(len(found - asked)))
        for counted, films in ((same, film_of_same), (cut, film_of_cut)):
            films += [number] * (len(counted["renders"]) - len(films))
        bench.say(f"shots {number + 1}/{bench.budget.films}")
    yield from _shares(f"character the same over {SHOTS} shots", same, 0.95, films=film_of_same)
    yield from _shares("cuts at the frames asked for", cut, 1.0, films=film_of_cut)
    yield from _means("cuts that nobody asked for, a video", more, "<= 0", mean(more["renders"]))


# -- cost ----------------------------------------------------------------------------------------------------------------------------

COST = """
import json, sys, tempfile, time
sys.path.insert(0, sys.argv[1])
import torch
from sora_core.autoencoder import denormalise, frames_of
from sora_core.generate import generate
from sora_core.pipeline import Pipeline
from sora_core.plan import Lattice, make_plan, window_of
from sora_core.shapes import VideoShape, frames_for_seconds
from sora_core.speed import peak_memory
from sora_core.video_file import write_video
pipeline, seconds, side = Pipeline.load(**json.loads(sys.argv[2])), float(sys.argv[3]), int(sys.argv[4])
strides, fps, dtype = pipeline.vae.strides, pipeline.header.native_fps, pipeline.vae.conv2.weight.dtype
shape = VideoShape(side, side, strides.cells(frames_for_seconds(seconds, fps, strides)), fps, strides)
plan = make_plan(sys.argv[7], Lattice(shape.cells), window=window_of(pipeline.header, strides))
wall, work = time.monotonic(), time.process_time()
with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
    words = pipeline.text.encode(["a red ball"]).to(dtype)
    latents = generate(pipeline.transformer, pipeline.header, words, shape, plan=plan, steps=int(sys.argv[5]), guidance=float(sys.argv[6]))
    chunks = (frames_of(part[0]) for part in pipeline.vae.decode_chunks(denormalise(latents).to(dtype)))
    write_video(folder + "/film.mp4", chunks, fps)
print(json.dumps([time.process_time() - work, time.monotonic() - wall, peak_memory() / 2**20]))
"""


def minute_cost_rows(bench: Bench) -> Iterator[Row]:
    """From a prompt to an MP4, decoded as it is written, in a process of its own: a whole film, and one of half its length beside it.

    Processor time, so that a busy machine changes the ratio little; the time on the clock stands beside it. The bars are foresight's.
    """
    command = [sys.executable, "-c", COST, str(Path(__file__).parents[2]), json.dumps(bench.source)]
    whole = bench.budget.film_seconds
    for kind in KINDS:
        costs, memories, bar = [], [], "<= 1.1" if kind == KINDS[0] else None
        for seconds in (whole / 2, whole):
            settings = map(str, (seconds, bench.budget.minute_side, bench.studio.steps, bench.studio.guidance, kind))
            work, wall, memory = json.loads(subprocess.check_output([*command, *settings]))
            costs.append(work / seconds)
            memories.append(memory)
            clock = f"{wall / seconds:.2g} on the clock"
            yield Row(f"cost: processor seconds a second of video, {seconds:g} s by {kind}", work / seconds, None, None, 1, None, clock)
            yield Row(f"cost: peak memory in MiB, {seconds:g} s by {kind}", memory, None, None, 1)
            bench.say(f"cost {seconds:g} s, {kind}")
        yield Row(f"cost of a second, {whole:g} s over {whole / 2:g} s by {kind}", costs[1] / costs[0], None, None, 1, bar, 1.0)
        yield Row(f"memory of {whole:g} s over {whole / 2:g} s by {kind}", memories[1] / memories[0], None, None, 1, bar, 1.0)
