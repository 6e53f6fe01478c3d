"""A sentence becomes a video, in the real ComfyUI, with the model that ships in this repository.

    python scripts/demo.py
    python scripts/demo.py "a red ball bounces on the beach at noon"

Sets up what is missing (see environment.py: two minutes and 6 GB, once), starts ComfyUI with this pack, queues
workflows/text_to_video.json over HTTP and prints the paths of an MP4 and of a contact sheet, both in runs/demo/.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import environment

ROOT = environment.ROOT
WORKFLOW = ROOT / "workflows" / "text_to_video.json"
RESULTS = ROOT / "runs" / "demo"
SHEET_PICTURES, SHEET_COLUMNS = 12, 6


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("prompt", nargs="?", help="what the video shows, in English or Chinese (default: the workflow's own)")
    prompt = options.parse_args().prompt
    sys.stdout.reconfigure(errors="replace")  # a Chinese prompt names the file, and not every terminal can show that
    environment.start()
    from server import PromptError, ServerError

    try:
        video, sheet = generate(prompt)
    except (PromptError, ServerError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"video: {video}\ncontact sheet: {sheet}")
    return 0


def generate(text: str | None) -> tuple[Path, Path]:
    """Run the workflow with `text` in a server of its own. Returns the paths of the MP4 and of the contact sheet."""
    import torch
    from server import ComfyServer
    from workflow_api import set_input, to_api

    with tempfile.TemporaryDirectory(prefix="sora-demo-", ignore_cleanup_errors=True) as base:
        print("Starting ComfyUI.", flush=True)
        cpu, variables = not torch.cuda.is_available(), environment.child_variables()
        with ComfyServer(environment.host_folder(), Path(base), cpu=cpu, variables=variables) as server:
            prompt = to_api(json.loads(WORKFLOW.read_text(encoding="utf-8")), server.get("/object_info"))
            if text is not None:
                prompt = set_input(prompt, "SoraPrompt", "text", text)
            started = time.monotonic()
            history = server.queue(prompt, Progress(prompt))
            print(f"Done in {time.monotonic() - started:.1f} s.", flush=True)
            made = next(path for path in server.files(history) if path.suffix == ".mp4")
            RESULTS.mkdir(parents=True, exist_ok=True)
            video = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}-{_slug(text or 'text to video')}.mp4"
            shutil.copyfile(made, video)
    return video, _contact_sheet(video)


class Progress:
    """Prints what the server says: the node that runs, and its steps on one line."""

    def __init__(self, prompt: dict):
        self.names = {number: node["class_type"] for number, node in prompt.items()}
        self.live = sys.stdout.isatty()

    def __call__(self, kind: str, data: dict) -> None:
        if kind == "executing" and data["node"] is not None:
            print(self.names.get(data["node"], data["node"]), flush=True)
        if kind == "progress" and (self.live or data["value"] == data["max"]):
            print(f"  {data['value']}/{data['max']}", end="\r" if self.live and data["value"] < data["max"] else "\n", flush=True)


def _contact_sheet(video: Path) -> Path:
    sys.path.insert(0, str(ROOT))  # the host is another process, so nothing here can be hidden by the pack's nodes/
    from sora_core.pictures import contact_sheet, evenly
    from sora_core.video_file import read_frames, video_facts

    facts = video_facts(video)
    frames = [frame for chunk in read_frames(video) for frame in chunk]
    shown = evenly(len(frames), min(SHEET_PICTURES, len(frames)))
    labels = [f"{float(index / facts.fps):.1f} s" for index in shown]
    sheet = video.with_suffix(".png")
    contact_sheet([frames[index] for index in shown], sheet, columns=SHEET_COLUMNS, labels=labels)
    return sheet


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:40] or "video"


if __name__ == "__main__":
    sys.exit(main())
