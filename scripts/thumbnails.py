"""Make the picture that the template browser shows for each workflow, out of the workflow's own video.

    python scripts/thumbnails.py                                   # all of them
    python scripts/thumbnails.py extend_video loop_video           # some
    python scripts/thumbnails.py --times                           # and write what each took into its note; on a quiet machine

Runs workflows/*.json in the real ComfyUI with the shipped model, about ten seconds for each sampling on two quiet cores, and saves the
middle frame beside it as .jpg, which is the name that the host looks for. Of a video of more than six seconds docs/gallery gets a frame
each second. Run it again when the weights change. A workflow of a model that is not shipped gets a card with its name.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import environment

WORKFLOWS = environment.ROOT / "workflows"
FIRST_FRAME = WORKFLOWS / "first_frame.png"
GALLERY = environment.ROOT / "docs" / "gallery"
LONG, COLUMNS = 6.0, 10  # seconds of a video that gets a sheet; its pictures in a row
SIDE = 384  # pixels of the longer side; the browser shows about 250
TAKES = re.compile(r"\*\*Takes\*\* [^.]*\.")  # the first sentence of a note about time


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the workflows and make their pictures.")
    parser.add_argument("names", nargs="*", help="of workflows; default all")
    parser.add_argument("--times", action="store_true", help="write what each took into its note")
    args = parser.parse_args()
    known = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    if unknown := set(args.names) - set(known):
        parser.error(f"there is no workflow {', '.join(sorted(unknown))}: use some of {', '.join(known)}")
    environment.start()
    from server import ComfyServer

    with tempfile.TemporaryDirectory(prefix="sora-thumbnails-", ignore_cleanup_errors=True) as base:
        with ComfyServer(environment.host_folder(), Path(base), variables=environment.child_variables()) as server:
            for path in sorted(WORKFLOWS.glob("*.json")):
                if args.names and path.stem not in args.names:
                    continue
                workflow = json.loads(path.read_text(encoding="utf-8"))
                if any(node["type"] == "UNETLoader" for node in workflow["nodes"]):
                    card(path.stem).save(path.with_suffix(".jpg"), quality=88)
                    continue
                started = time.monotonic()
                made = run(server, workflow)
                seconds = time.monotonic() - started
                save_thumbnail(made, path.with_suffix(".jpg"))
                if args.times:
                    write_time(workflow, seconds, os.cpu_count())
                    path.write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")
                print(f"{path.with_suffix('.jpg')}  {seconds:.0f} s", flush=True)
    return 0


def write_time(workflow: dict, seconds: float, cores: int) -> None:
    """Put a measured time into the note of a workflow, in place of the one that is there."""
    step = 5 if seconds < 90 else 30  # as exact as another machine would be
    rounded = max(step, step * round(seconds / step))
    length = f"{rounded} seconds" if rounded < 90 else f"{rounded / 60:g} minutes"
    (note,) = (node for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    text, places = TAKES.subn(f"**Takes** about {length} on {cores} CPU cores, all steps together.", note["widgets_values"][0], count=1)
    if not places:
        raise ValueError("the note has no sentence that begins with **Takes**, where the time could stand")
    note["widgets_values"][0] = text


def card(name: str):
    """The words of a file name on a plain ground."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (SIDE, SIDE), "#353a4a")
    words = name.replace("_", " ").replace(" to ", "\nto ")
    ImageDraw.Draw(picture).multiline_text((SIDE / 2, SIDE / 2), words, "white", ImageFont.load_default(40), "mm", 12, "center")
    return picture


def run(server, workflow: dict) -> Path:
    """Run a workflow with FIRST_FRAME in place of the user's own picture. Returns the video, or the first picture."""
    from workflow_api import to_api

    prompt = to_api(workflow, server.get("/object_info"))
    for node in prompt.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = server.upload(FIRST_FRAME)
    return next(file for file in server.files(server.queue(prompt)) if file.suffix in (".mp4", ".png"))


def save_thumbnail(made: Path, target: Path) -> None:
    """The middle frame of a video, or a picture, as JPEG; of a long video also the sheet."""
    from PIL import Image

    picture = Image.open(made) if made.suffix == ".png" else middle_frame(made, GALLERY / f"{target.stem}.png")
    scale = SIDE / max(picture.size)
    size = tuple(round(side * scale) for side in picture.size)
    picture.resize(size, Image.Resampling.LANCZOS).save(target, quality=88)


def middle_frame(video: Path, sheet: Path):
    from PIL import Image

    sys.path.insert(0, str(environment.ROOT))  # the host is another process, so nothing here can be hidden by the pack's nodes/
    from sora_core.pictures import contact_sheet
    from sora_core.video_file import read_frames, video_facts

    facts, frames = video_facts(video), [frame for chunk in read_frames(video) for frame in chunk]
    if (seconds := facts.frames / float(facts.fps)) > LONG:
        moments = (min(round(k * facts.fps), len(frames) - 1) for k in range(round(seconds) + 1))
        contact_sheet([frames[k] for k in moments], sheet, columns=COLUMNS, gap=2)
    return Image.fromarray(frames[len(frames) // 2].numpy())


if __name__ == "__main__":
    sys.exit(main())
