"""scripts/demo.py in the real server with the shipped model: a sentence in, an MP4 and a contact sheet out."""

import re
import subprocess
import sys

import pytest

from sora_pack.sora_core.video_file import video_facts

# In a process of its own: the scripts import each other by plain names, and `server` is also the name of a module of the host.
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import demo
demo.RESULTS = Path(sys.argv[2])
demo.environment.start = lambda: None  # the tests run in the environment
sys.argv = ["demo.py", sys.argv[3]]
sys.exit(demo.main())
"""


@pytest.mark.slow
def test_demo_makes_a_video_and_a_sheet(root, tmp_path, host_listing):
    before = host_listing()
    results = tmp_path / "results"
    command = [sys.executable, "-c", PROGRAM, str(root / "scripts"), str(results), "a blue cube slides to the right"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    video, sheet = next(results.glob("*.mp4")), next(results.glob("*.png"))
    assert "a-blue-cube" in video.name and sheet.stem == video.stem
    facts = video_facts(video)
    assert facts.frames > 1 and facts.width >= 64 and facts.height >= 64
    assert sheet.stat().st_size > 1000
    lines = done.stdout.splitlines()
    assert lines[-2:] == [f"video: {video}", f"contact sheet: {sheet}"]
    assert {"SoraSampler", "SaveVideo"} <= set(lines) and re.search(r"^  (\d+)/\1$", done.stdout, re.M), "progress"
    assert host_listing() == before
