"""Makes the sheets of docs/gallery.md with the shipped model: 24 held-out prompts and 6 animated pictures, the prompts under them.

    python scripts/gallery.py            # about ten minutes on two cores; run it with the Python of the environment

Every prompt has a combination of colour, shape, motion and place that no training clip had.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import imageio.v3
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from sora_core.evaluation.bench import SIZES  # noqa: E402
from sora_core.pictures import contact_sheet, evenly  # noqa: E402
from sora_core.pipeline import Pipeline  # noqa: E402
from sora_core.world import caption, is_held_out, render, scene_for  # noqa: E402

SHOWN = 6  # moments of a video on its sheet
EVERY_VERB = "## Every verb"
LONG = ("one_minute", "storyboard")
MOVING = (0, 1, 6, 7, 12, 13, 18, 19)  # prompts of the README's moving picture, all square

# objects (colour, shape, motion), place, time of day, camera
SCENES = (
    ([("purple", "cube", "still")], "meadow", "day", "orbit"),
    ([("purple", "cube", "slide right")], "snow", "day", "static"),
    ([("purple", "cube", "bounce")], "beach", "sunset", "static"),
    ([("yellow", "cone", "still")], "room", "day", "zoom in"),
    ([("yellow", "cone", "slide left")], "meadow", "day", "static"),
    ([("green", "cylinder", "come closer")], "beach", "day", "static"),
    ([("green", "cylinder", "still")], "snow", "sunset", "orbit"),
    ([("orange", "ball", "bounce")], "snow", "day", "static"),
    ([("orange", "cube", "circle")], "snow", "night", "static"),
    ([("blue", "ball", "bounce")], "beach", "day", "static"),
    ([("blue", "cone", "still")], "beach", "sunset", "zoom out"),
    ([("blue", "cylinder", "slide right")], "beach", "night", "static"),
    ([("red", "ball", "slide left")], "room", "day", "static"),
    ([("red", "cone", "still")], "room", "sunset", "orbit"),
    ([("red", "cube", "come closer")], "room", "day", "static"),
    ([("red", "ball", "bounce"), ("green", "cube", "still")], "room", "day", "static"),
    ([("purple", "cube", "still"), ("white", "ball", "bounce")], "meadow", "day", "static"),
    ([("yellow", "ball", "still"), ("green", "cylinder", "still")], "meadow", "sunset", "orbit"),
    ([("orange", "cone", "still"), ("black", "ball", "still")], "snow", "day", "static"),
    ([("blue", "cube", "still"), ("red", "ball", "bounce")], "beach", "day", "static"),
    ([("white", "cone", "circle")], "meadow", "day", "static"),
    ([("red", "cylinder", "bounce")], "meadow", "day", "static"),
    ([("black", "cone", "circle")], "beach", "sunset", "static"),
    ([("purple", "cylinder", "bounce")], "room", "day", "static"),
)


def prompts() -> list[tuple[str, str]]:
    """(prompt, aspect ratio): every second one Chinese, a third short, the three aspect ratios in turn."""
    made = []
    for i, (objects, place, time_of_day, camera) in enumerate(SCENES):
        scene = scene_for(objects, place, time_of_day, camera, seed=i)
        assert is_held_out(scene), SCENES[i]
        text = caption(scene, "short" if i % 3 == 2 else "long", "zh" if i % 2 else "en", seed=i)
        made.append((text, tuple(SIZES)[i // 2 % 3]))
    return made


def told(name: str) -> str:
    """What the model is told in a workflow of the shipped model, in one line."""
    nodes = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))["nodes"]
    words = (value for node in nodes if node["type"] in ("SoraPrompt", "SoraStoryboard") for value in node["widgets_values"])
    return " / ".join(next(filter(None, words)).split("\n"))


def moving_picture(videos: list[torch.Tensor], path: Path, fps: float) -> None:
    """Videos [T, H, W, 3] of one size, side by side in two rows, as a GIF that loops."""
    half = len(videos) // 2
    rows = [torch.cat(videos[:half], 2), torch.cat(videos[half:], 2)]
    imageio.v3.imwrite(path, torch.cat(rows, 1).numpy(), duration=1000 / fps, loop=0)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    folder = ROOT / "docs" / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    pipeline, started = Pipeline.load(), time.monotonic()
    how = "Made by `python scripts/gallery.py`, the first result of each (seed = number). No training clip had these combinations."
    lines, shown = ["# What the shipped model makes", "", how, ""], []
    for i, (prompt, aspect) in enumerate(prompts()):
        width, height = SIZES[aspect]
        frames = pipeline.video(prompt, seconds=2.0, width=width, height=height, seed=i)
        contact_sheet(frames[evenly(len(frames), SHOWN)], folder / f"{i:02d}.png")
        if i in MOVING:
            shown.append(frames)
        lines += [f"![{i}](gallery/{i:02d}.png)", "", f"**{i}.** {prompt} ({aspect}, 2 s)", ""]
        print(f"{i + 1}/{len(SCENES)}  {time.monotonic() - started:.0f} s", flush=True)
    moving_picture(shown, folder / "moving.gif", pipeline.header.native_fps)
    lines += ["## Animated pictures", "", "The first frame is given, a rendered picture that no training clip had; the rest is made.", ""]
    for i, (objects, place, time_of_day, camera) in enumerate(SCENES[1::4]):
        scene = scene_for(objects, place, time_of_day, camera, seed=100 + i)
        prompt, picture = caption(scene, "long", "en", seed=i), render(scene, [0.0], 128, 128)[0]
        frames = pipeline.video(prompt, seconds=2.0, width=128, height=128, seed=100 + i, picture=picture)
        contact_sheet(frames[evenly(len(frames), SHOWN)], folder / f"picture{i}.png")
        lines += [f"![{i}](gallery/picture{i}.png)", "", f"**{i}.** {prompt}", ""]
    lines += ["## Long videos", "", "A frame each second, by the workflows of these names (`python scripts/thumbnails.py`).", ""]
    for name in LONG:
        lines += [f"![{name}](gallery/{name}.png)", "", f"**{name}.** {told(name)}", ""]
    takes = "**Takes of a minute** of the scorecard, none chosen, a row each: `--rows takes`."
    lines += [takes, "", "![takes](scorecard/takes.png)", ""]
    page = ROOT / "docs" / "gallery.md"
    _, title, strips = page.read_text(encoding="utf-8").partition(EVERY_VERB)  # scripts/strips.py writes that section
    page.write_text("\n".join(lines) + (f"\n{title}{strips}" if title else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
