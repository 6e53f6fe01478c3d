"""Makes a strip of frames for every verb with the shipped model: docs/gallery/verbs/*.png, and their section in docs/gallery.md.

    python scripts/strips.py                    # all; run it with the Python of the environment
    python scripts/strips.py join loop          # some

A bar above a frame says whether it was given (orange) or made (grey). What is given are renders of scenes that no training had.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from gallery import EVERY_VERB  # noqa: E402

from sora_core import verbs  # noqa: E402
from sora_core.canvas import NEW, Canvas, blank, cell_mask, composed, result_frames  # noqa: E402
from sora_core.generate import GIVEN_GUIDANCE, GUIDANCE, STEPS  # noqa: E402
from sora_core.pictures import contact_sheet, evenly  # noqa: E402
from sora_core.pipeline import SHIPPED, Pipeline  # noqa: E402
from sora_core.shapes import Strides, VideoShape  # noqa: E402
from sora_core.world import Scene, caption, render, scene_for  # noqa: E402

PAGE, FOLDER = ROOT / "docs" / "gallery.md", ROOT / "docs" / "gallery" / "verbs"
SIDE, FPS, SHOWN = 128, 8.0, 10
GIVEN, MADE, BAR = (0.95, 0.55, 0.1), (0.8, 0.8, 0.8), 8  # colours, and the height of the bar in pixels
STILL = VideoShape(SIDE, SIDE, 1, FPS)


@dataclass
class Example:
    """What a verb is shown with: words for the page, the canvas, its sources [T, H, W, 3] in 0..1, the prompt. `options` are for
    Pipeline.complete; `remixed`: the whole source is started from, and made anew in a `region` [T, H, W], if there is one."""

    words: str
    canvas: Canvas
    sources: list[Tensor]
    prompt: str
    options: dict = field(default_factory=dict)
    remixed: bool = False
    region: Tensor | None = None


def film(scene: Scene, start: float, frames: int) -> Tensor:
    return render(scene, [start + k / FPS for k in range(frames)], SIDE, SIDE).float() / 255


def told(scene: Scene, start: float, frames: int) -> str:
    return caption(scene, "long", "en", start=start, seconds=(frames - 1) / FPS)


SLIDE = scene_for([("red", "ball", "slide right")], "meadow", "day", seed=201)
BOUNCE = replace(SLIDE, objects=(replace(SLIDE.objects[0], motion="bounce", x=1.0, reach=1.3, period=1.25),))
CIRCLE = scene_for([("blue", "cube", "circle")], "snow", "day", seed=202)
APPROACH = scene_for([("yellow", "cylinder", "come closer")], "room", "day", seed=203)


def text_to_image() -> Example:
    words = "A picture from words: a canvas of 0 seconds"
    return Example(words, blank(STILL), [], told(CIRCLE, 0, 1), {"guidance": GUIDANCE})


def animate() -> Example:
    canvas = verbs.place(blank(replace(STILL, cells=5)), 0, 0)
    return Example("A picture is animated", canvas, [film(APPROACH, 0, 1)], told(APPROACH, 0, 17), {"guidance": GUIDANCE})


def first_and_last() -> Example:
    canvas = verbs.place(verbs.place(blank(replace(STILL, cells=5)), 0, 0), 16, 1)
    return Example("First and last picture", canvas, [film(SLIDE, 1, 1), film(SLIDE, 3, 1)], told(SLIDE, 1, 17), {"guidance": GUIDANCE})


def place() -> Example:
    canvas = verbs.place(blank(replace(STILL, cells=9)), 9, 0, 16)
    return Example("A clip stands in the middle of a longer video", canvas, [film(CIRCLE, 1.125, 16)], told(CIRCLE, 0, 33))


def extend() -> Example:
    return Example("Extended: what comes after", verbs.extend(STILL, 17, 16), [film(SLIDE, 0.5, 17)], told(SLIDE, 0.5, 33))


def extend_backward() -> Example:
    return Example("Extended: what came before", verbs.extend_backward(STILL, 17, 16), [film(SLIDE, 2.5, 17)], told(SLIDE, 0.5, 33))


def extend_both() -> Example:
    canvas = verbs.extend_both(STILL, 17, 13, 11)
    return Example("Extended both ways: what came before and after", canvas, [film(SLIDE, 1.625, 17)], told(SLIDE, 0, 41))


def fill() -> Example:
    return Example("Two seconds in the middle are made anew", verbs.fill(STILL, 41, 13, 29), [film(CIRCLE, 0, 41)], told(CIRCLE, 0, 41))


def join() -> Example:
    sources = [film(SLIDE, 0.5, 17), film(BOUNCE, 0, 17)]
    return Example("Two clips are joined by a bridge", verbs.join(STILL, 17, 17, 12), sources, "A red ball on a meadow in daylight")


def loop() -> Example:
    return Example("Looped: from the end back to the start", verbs.loop(STILL, 17, 12), [film(SLIDE, 1, 17)], told(SLIDE, 0, 17))


def remix() -> Example:
    words = "A blue cube bounces on the beach at sunset"
    canvas = verbs.remix(STILL, [False] * 17)
    options = {"denoise": 0.7, "guidance": GUIDANCE}
    return Example("Remixed (strong): the given video above", canvas, [film(BOUNCE, 0, 17)], words, options, remixed=True)


def masked_remix() -> Example:
    blue = replace(BOUNCE, objects=(replace(BOUNCE.objects[0], colour="blue"),))
    source, token = film(BOUNCE, 0, 17), Strides().size_multiple
    ball = (source != film(blue, 0, 17)).any(-1).float()  # T H W
    # Whole tokens: one that is known in part is as noisy as what is made in it.
    region = max_pool2d(ball[:, None], token)[:, 0].repeat_interleave(token, 1).repeat_interleave(token, 2)
    canvas = verbs.remix(STILL, (region.amax((1, 2)) == 0).tolist())
    words = "Remixed (strong) where a mask lies on the ball: the given video above"
    return Example(words, canvas, [source], told(blue, 0, 17), {"denoise": 0.7, "guidance": GUIDANCE}, remixed=True, region=region)


EXAMPLES: dict[str, Callable[[], Example]] = {
    function.__name__: function
    for function in (
        text_to_image,
        animate,
        first_and_last,
        place,
        extend,
        extend_backward,
        extend_both,
        fill,
        join,
        loop,
        remix,
        masked_remix,
    )
}


def make(pipeline: Pipeline, example: Example, **options) -> Tensor:
    """The result, frames [T, H, W, 3] in 0..1."""

    def read(source: int, start: int, count: int):
        yield example.sources[source][start : start + count]

    options = options | example.options
    if example.remixed:
        options["start"] = pipeline.encode(example.sources[0])
    if example.region is not None:
        options["mask"] = cell_mask(example.region, example.canvas.shape)
    latents = pipeline.complete(example.canvas, example.sources, example.prompt, **options)
    frames = result_frames(example.canvas, lambda: iter([pipeline.decode(latents)]), read)
    if example.region is not None:
        frames = composed(frames, read(0, 0, len(example.region)), example.region)
    return torch.cat(list(frames))


def given(canvas: Canvas) -> list[bool]:
    """For each frame of a result, whether it was given."""
    return [piece.source != NEW for piece in canvas.timeline.pieces for _ in range(piece.count)]


def marked(frames: Tensor, given: list[bool]) -> list[Tensor]:
    """SHOWN evenly spaced frames [H, W, 3], or all of fewer, a bar above each."""
    at = evenly(len(frames), min(SHOWN, len(frames)))
    bars = [torch.tensor(GIVEN if given[t] else MADE).expand(BAR, frames.shape[2], 3) for t in at]
    return [torch.cat([bar, frames[t]]) for bar, t in zip(bars, at)]


def strip(pipeline: Pipeline, name: str, **options) -> None:
    """Makes the picture of one verb."""
    example = EXAMPLES[name]()
    shown = marked(make(pipeline, example, **options), given(example.canvas))
    if example.remixed:
        shown = marked(example.sources[0], [True] * len(example.sources[0])) + shown
    contact_sheet(shown, FOLDER / f"{name}.png", columns=SHOWN)


def write_section() -> None:
    """The section of the page with all strips, in place of the one that it may have."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    lines = [
        EVERY_VERB,
        "",
        "Orange: given, and in the result bit for bit; for a remix the source, above the result. Grey: made; under a mask, in part. By "
        "`python scripts/strips.py`, the first result (seed 0).",
        "",
    ]
    for name, example in EXAMPLES.items():
        if (FOLDER / f"{name}.png").is_file():
            lines += [f"**{example().words}.**", "", f"![{name}](gallery/verbs/{name}.png)", ""]
    PAGE.write_text(page.partition(EVERY_VERB)[0].rstrip() + "\n\n" + "\n".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Strips of frames of every verb, for docs/gallery.md.")
    parser.add_argument("names", nargs="*", choices=[[], *EXAMPLES], help=f"default all: {', '.join(EXAMPLES)}")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GIVEN_GUIDANCE)
    parser.add_argument("--model", default=str(SHIPPED))
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    pipeline, started = Pipeline.load(args.model), time.monotonic()
    for name in args.names or EXAMPLES:
        strip(pipeline, name, seed=0, steps=args.steps, guidance=args.guidance)
        print(f"{name}  {time.monotonic() - started:.0f} s", flush=True)
    write_section()


if __name__ == "__main__":
    main()
