"""What the verbs promise, measured with a model on rendered scenes: motion goes on, seams are not seen, nothing wears off in a chain.

    python -m sora_core.evaluation.verbs --scenes 50           # goes on where it was killed; writes docs/verbs.json

In every scene a ball slides at constant speed before a camera that stands. Measured are
    motion   the ball's speed in the first second of made frames against that of the given ones, found by its colour in the pixels
    seams    the step between frames where made ones meet given ones, against the steps around it: in the result with seam = carry and
             = hard, and in the lattice as it is decoded. There every first frame of a cell makes a larger step, in renders that went
             through the codec too, so the border is also compared with the borders of other cells
    chains   four extensions in a row: sharpness and saturation of the last second against renders of that second
    kept     whether given and earlier made frames came back bit for bit
Beside each number stands what the same measure says of renders, of renders that went through the codec, or of an ideal model, which
makes the cells of the true video: what is lost there the codec and the joining lose, the rest is the model's.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import verbs
from ..canvas import NEW, Canvas, Latents, result_frames
from ..config import UserError
from ..files import atomic_path
from ..generate import GIVEN_GUIDANCE, STEPS
from ..jobs import FORMAT
from ..pipeline import SHIPPED, Pipeline
from ..shapes import VideoShape
from ..world import PLACES, TIMES_OF_DAY, caption, is_held_out, render, scene_for
from ..world.camera import HALF_VIEW, pose, project
from ..world.motion import LEG_START, positions
from .ball_tracking import change_of_speed
from .intervals import geometric_mean
from .metrics import NEIGHBOURS, jump, saturation, seam_steps, sharpness
from .report import Row, mean_row, table, to_json
from .studio import digest

FPS = 8.0
FRAMES = 50  # of a scene: two seconds given, four made, and the frame that comes with the first cell before a video
GIVEN, SECOND = 17, 8  # frames: two seconds that are given, one that is made
MIDDLE = slice(4, 45)  # of a scene: the five seconds of fill and join
CHAIN = 4  # extensions in a row
COLOURS = ("red", "orange", "yellow", "blue", "purple")  # no place has them
DECODED = "decoded, among borders of cells"
CARRY = "carry, less a quarter of the codec's error"
LOOKS = {"sharpness": sharpness, "saturation": saturation}


# -- scenes --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A scene's words; its frames [FRAMES, side, side, 3] in 0..1; where its ball is in them, [FRAMES, 2] across and down, and the ball's
    radius, in pixels."""

    prompt: str
    frames: Tensor
    path: Tensor
    radius: float


def trial(number: int, side: int = 128) -> Trial:
    """The same for the same number. No combination was held out of training: what is measured are the verbs."""
    rng = random.Random(f"verbs-{number}")
    while True:
        motion = rng.choice(("slide left", "slide right"))
        told = scene_for([(rng.choice(COLOURS), "ball", motion)], rng.choice(PLACES), rng.choice(TIMES_OF_DAY), "static", number)
        if not is_held_out(told):
            break
    # A way of twice the length at the same speed neither turns nor slows down; seen at a right angle, the speed is constant in the
    # picture too.
    ball = replace(told.objects[0], period=2 * told.objects[0].period, reach=2 * told.objects[0].reach)
    scene = replace(told, objects=(ball,), camera=replace(told.camera, azimuth=0.0))
    middle = (0.5 - LEG_START) * ball.period
    times = torch.tensor([middle + (k - (FRAMES - 1) / 2) / FPS for k in range(FRAMES)], dtype=torch.float64)
    centre = positions(scene, times) + torch.tensor([0.0, ball.height / 2, 0.0])
    across, up, depth = project(pose(scene.camera, times), centre)
    scale = side / 2 / HALF_VIEW
    path = torch.cat([across, -up], -1) * scale + (side - 1) / 2
    frames = render(scene, times.tolist(), side, side).float() / 255
    return Trial(caption(told, "long", "en", number), frames, path, ball.radius / float(depth.mean()) * scale)


# -- one scene -----------------------------------------------------------------------------------------------------------------------


@dataclass
class Video:
    """A finished result that may be extended: `frames` [T, H, W, 3] in 0..1, and the lattice that its made part came from."""

    frames: Tensor
    canvas: Canvas | None = None
    latents: Tensor | None = None

    @property
    def grid(self) -> int | None:
        """See verbs."""
        return None if self.canvas is None else self.canvas.offset

    def cells(self, source: int, frame: int, count: int, alone: bool) -> Tensor | None:
        """See canvas.Latents."""
        if self.canvas is None:
            return None
        first, between = divmod(frame - self.canvas.offset, self.canvas.shape.strides.time)
        fits = not between and 0 <= first <= self.canvas.shape.cells - count and (first == 0) == alone
        return self.latents[:, :, first : first + count] if fits else None


@dataclass
class Measured:
    """What is written of one scene, by verb.

    Args:
        motion: change of speed with seam = hard; "made", and the same of renders that only went through the "codec".
        seams: [step, steps around it] at each border: "decoded", "carry", "hard", and of "renders" and renders through the "codec"
            where there are such; "decoded cells" and "codec cells" against borders of other cells; "ideal": carry, with the cells of an
            ideal model; "error": mean absolute error of the codec on given frames.
        looks: of the last second over renders of it: what was made, and the codec alone.
        kept: whether given and earlier frames came back bit for bit.
    """

    motion: dict[str, dict[str, float]] = field(default_factory=dict)
    seams: dict[str, dict] = field(default_factory=dict)
    looks: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    kept: dict[str, bool] = field(default_factory=dict)


def borders(canvas: Canvas) -> tuple[list[int], list[int]]:
    """Frames at which made ones meet given ones: of the lattice, and of the result, which in a loop is played on beyond its end."""
    lattice, result = [], []
    for at, piece in canvas.timeline.runs:
        if piece.source == NEW:
            lattice += [f for f in (piece.start, piece.start + piece.count) if 0 < f < canvas.shape.frames]
            result += [f for f in (at, at + piece.count) if 0 < f < canvas.timeline.frames + canvas.loops]
    return lattice, result


def codec_error(canvas: Canvas, decoded: Tensor, sources: Sequence[Tensor]) -> float:
    """Mean absolute difference of the given frames in the lattice to their decoding."""
    differences = []
    for at, piece in canvas.timeline.runs:
        first = at - canvas.offset  # of the piece, in the lattice
        start, end = max(first, 0), min(first + piece.count, canvas.shape.frames)
        if piece.source != NEW and start < end:
            given = sources[piece.source][piece.start + start - first :][: end - start]
            differences.append((decoded[start:end] - given).abs().mean((1, 2, 3)))
    return float(torch.cat(differences).mean())


def measure(pipeline: Pipeline, number: int, side: int = 128, **options) -> Measured:
    """All verbs on one scene. `options`: steps and guidance."""
    test = _Test(pipeline, number, side, options)
    test.chain("forward")
    test.chain("backward")
    film = test.scene.frames[MIDDLE]
    first, second = film[:GIVEN], film[GIVEN + SECOND :]
    test.judge("fill", verbs.fill(test.still, len(film), 13, 29), [film], MIDDLE.start)
    test.judge("join", verbs.join(test.still, len(first), len(second), SECOND), [first, second], MIDDLE.start)
    test.judge("loop", verbs.loop(test.still, len(first), SECOND), [first], None)
    return test.found


class _Test:
    """A model before one scene."""

    def __init__(self, pipeline: Pipeline, number: int, side: int, options: dict):
        self.pipeline, self.options, self.seed = pipeline, options, number
        self.still = VideoShape(side, side, 1, FPS, pipeline.vae.strides)
        self.scene, self.found = trial(number, side), Measured()
        self.codec = pipeline.decode(pipeline.encode(self.scene.frames))[:FRAMES]

    def chain(self, direction: str) -> None:
        """CHAIN extensions in a row."""
        forward, true = direction == "forward", self.scene.frames
        video, kept = Video(true[:GIVEN] if forward else true[-GIVEN:]), True
        for step in range(CHAIN):
            before = len(video.frames)
            if forward:
                canvas = verbs.extend(self.still, before, SECOND)
            else:
                canvas = verbs.extend_backward(self.still, before, SECOND, grid=video.grid)
            if step == 0:
                longer = self.judge(direction, canvas, [video.frames], 0 if forward else FRAMES - canvas.timeline.frames)
            else:
                longer, _ = self._make(canvas, [video.frames], video.cells, step)
            kept &= torch.equal(longer.frames[:before] if forward else longer.frames[-before:], video.frames)
            video = longer
        last = slice(len(video.frames) - SECOND, len(video.frames)) if forward else slice(0, SECOND)
        seen = {"made": video.frames[last], "codec": self.codec[last]}
        self.found.looks[direction] = {
            name: {who: look(frames) / look(true[last]) for who, frames in seen.items()} for name, look in LOOKS.items()
        }
        self.found.kept[f"{direction}, {CHAIN} times"] = kept

    def _make(self, canvas: Canvas, sources: list[Tensor], latents_of: Latents | None = None, step: int = 0) -> tuple[Video, Tensor]:
        """The result with seam = carry, and the lattice as it is decoded."""
        seed = self.seed + 10_000 * step  # before the start of a video the moments are the same at every step, and so would be the noise
        latents = self.pipeline.complete(canvas, sources, self.scene.prompt, seed=seed, latents_of=latents_of, **self.options)
        decoded = self.pipeline.decode(latents)
        return Video(_result(canvas, decoded, sources, carry=True), canvas, latents), decoded

    def judge(self, name: str, canvas: Canvas, sources: list[Tensor], start: int | None) -> Video:
        """Makes the result of a verb and measures it. `start`: the scene's frame that it begins with; None if it goes its own way."""
        video, decoded = self._make(canvas, sources)
        self.found.kept[name] = all(torch.equal(part, given) for part, given in _given_runs(canvas, video.frames, sources))
        in_lattice, in_result = borders(canvas)
        hard = _result(canvas, decoded, sources, carry=False)
        s, seams = canvas.shape.strides.time, {"error": codec_error(canvas, decoded, sources)}
        seams |= {"decoded": seam_steps(decoded, in_lattice), "decoded cells": seam_steps(decoded, in_lattice, s)}
        for how, frames in (("carry", video.frames), ("hard", hard)):
            played = torch.cat([frames, frames[: NEIGHBOURS + 1]]) if canvas.loops else frames
            seams[how] = seam_steps(played, in_result)
        self.found.seams[name] = seams
        if start is not None:
            true, coded = (frames[start : start + len(video.frames)] for frames in (self.scene.frames, self.codec))
            seams |= {"renders": seam_steps(true, in_result), "ideal": seam_steps(self._ideal(canvas, sources, start), in_result)}
            seams |= {"codec": seam_steps(coded, in_result), "codec cells": seam_steps(coded, in_result, s)}
            is_new = torch.tensor([piece.source == NEW for piece in canvas.timeline.pieces for _ in range(piece.count)])
            both = {"made": hard, "codec": torch.where(is_new.view(-1, 1, 1, 1), coded, true)}
            self.found.motion[name] = {
                who: _motion(frames, in_result[0], name == "backward", self.scene, start) for who, frames in both.items()
            }
        return video

    def _ideal(self, canvas: Canvas, sources: list[Tensor], start: int) -> Tensor:
        """The result with seam = carry, if the made cells were those of the scene's own frames."""
        first = start + canvas.offset  # of the lattice
        true = self.pipeline.encode(self.scene.frames[first : first + canvas.shape.frames])
        given, _ = self.pipeline.encode_given(canvas, sources)
        cells = torch.where(canvas.mask().view(1, 1, -1, 1, 1) == 0, given, true)
        return _result(canvas, self.pipeline.decode(cells), sources, carry=True)


def _result(canvas: Canvas, decoded: Tensor, sources: Sequence[Tensor], carry: bool) -> Tensor:
    def read(source: int, start: int, count: int):
        yield sources[source][start : start + count]

    return torch.cat(list(result_frames(canvas, lambda: iter([decoded]), read, carry)))


def _given_runs(canvas: Canvas, frames: Tensor, sources: Sequence[Tensor]):
    """(frames of the result, frames of the source) of every given run."""
    for at, piece in canvas.timeline.runs:
        if piece.source != NEW:
            yield frames[at : at + piece.count], sources[piece.source][piece.start : piece.start + piece.count]


def _motion(frames: Tensor, border: int, backward: bool, scene: Trial, start: int) -> float:
    """Change of speed where made frames begin at `border`, or (backward) given ones do, in frames from the scene's frame `start` on."""
    before, after = frames[:border].flip(0), frames[border:]
    given, made, beside = (after, before, border) if backward else (before, after, border - 1)
    return change_of_speed(given[:GIVEN], made[:SECOND], scene.path[start + beside], scene.radius)


# -- many scenes ---------------------------------------------------------------------------------------------------------------------


def measure_all(pipeline: Pipeline, scenes: int, folder: Path, **options) -> list[dict]:
    """What `measure` found on the first `scenes` scenes, as dicts; a file each in `folder`, so that it goes on after a stop."""
    from tqdm import tqdm

    made = []
    for number in tqdm(range(scenes), unit="scene"):
        path = folder / f"{number:04d}.json"
        if not path.is_file():
            with atomic_path(path) as part:
                part.write_text(json.dumps(asdict(measure(pipeline, number, **options))), encoding="utf-8")
        made.append(json.loads(path.read_text(encoding="utf-8")))
    return made


def _row(name: str, values: list[float], bar: str | None = None, reference: list[float] | None = None) -> Row:
    """The median over scenes, beside that of the reference."""
    return mean_row(name, values, bar, None if reference is None else _median(reference), _median)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def rows_of(scenes: list[dict]) -> list[Row]:
    """Medians over scenes, with 95 % intervals."""
    rows = []
    for verb in scenes[0]["motion"]:
        made, codec = ([scene["motion"][verb][who] for scene in scenes] for who in ("made", "codec"))
        rows.append(_row(f"{verb}: change of speed", made, "<= 0.1", codec))
    for verb in scenes[0]["seams"]:
        seams = [scene["seams"][verb] for scene in scenes]

        def jumps(how: str, allowed: float = 0.0, which=slice(None), seams=seams) -> list[float] | None:
            if how not in seams[0]:
                return None
            return [geometric_mean([jump(*steps, allowed * seam["error"]) for steps in seam[how][which]]) for seam in seams]

        rows.append(_row(f"{verb}: seam, {DECODED}", jumps("decoded cells"), "<= 1.2", jumps("codec cells")))
        rows.append(_row(f"{verb}: seam, decoded, among all steps", jumps("decoded"), None, jumps("codec")))
        rows.append(_row(f"{verb}: seam, {CARRY}", jumps("carry", 0.25), "<= 1.2", jumps("ideal", 0.25)))
        rows.append(_row(f"{verb}: seam, carry", jumps("carry"), None, jumps("renders")))
        rows.append(_row(f"{verb}: seam, hard", jumps("hard"), None, jumps("renders")))
        if verb == "loop":  # its last border by itself: where it begins again
            for how, allowed, name in (("decoded cells", 0.0, DECODED), ("carry", 0.25, CARRY)):
                rows.append(_row(f"loop: seam where it begins again, {name}", jumps(how, allowed, slice(-1, None)), "<= 1.2"))
    for direction, looks in scenes[0]["looks"].items():
        for look in looks:
            made, codec = ([scene["looks"][direction][look][who] - 1 for scene in scenes] for who in ("made", "codec"))
            rows.append(_row(f"{direction}, {CHAIN} times: {look} - 1", made, "within 0.05", codec))
    for verb in scenes[0]["kept"]:
        kept = [scene["kept"][verb] for scene in scenes]
        rows.append(Row(f"{verb}: share of scenes whose given frames came back", sum(kept) / len(kept), None, None, len(kept), ">= 1"))
    return rows


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m sora_core.evaluation.verbs", description=__doc__, formatter_class=plain)
    parser.add_argument("--scenes", type=int, default=50, help="how many, default %(default)s")
    parser.add_argument("--steps", type=int, default=STEPS, help="of sampling, default %(default)s")
    parser.add_argument("--guidance", type=float, default=GIVEN_GUIDANCE, help="default %(default)s")
    parser.add_argument("--model", default=str(SHIPPED), help="transformer file; its companions are found as the pack finds them")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", default="runs/verbs", help="keeps what was measured of each scene")
    parser.add_argument("--out", default="docs/verbs.json", help="file for the rows, default %(default)s")
    args = parser.parse_args()
    torch.set_flush_denormal(True)  # denormal numbers slow AVX code tenfold
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)  # measuring takes hours
    try:
        pipeline = Pipeline.load(args.model, device=args.device)
    except (UserError, FileNotFoundError) as error:  # what a user can mend, in one sentence
        raise SystemExit(str(error)) from error
    options = {"steps": args.steps, "guidance": args.guidance}
    model = {"hash": digest(pipeline), **options}
    name = "-".join(map(str, [*model.values(), FORMAT]))
    rows = rows_of(measure_all(pipeline, args.scenes, Path(args.folder) / name, **options))
    Path(args.out).write_text(to_json(rows, {"file": Path(args.model).name, **model}), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
