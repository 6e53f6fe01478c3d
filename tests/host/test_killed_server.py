"""The real server, killed in the middle of a long video (scripts/kill_trials.py does it as often as you like)."""

import subprocess
import sys

import pytest

from sora_pack.tests.tiny_model import write_tiny_model

# In a process of its own, as in test_demo.
PROGRAM = """
import shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import kill_trials
folder = Path(sys.argv[2])
prepare = lambda base: shutil.copytree(folder / "models", base / "models", copy_function=shutil.copy2)
video = kill_trials.long_video("tiny.safetensors")
ends = list(kill_trials.trials(folder / "work", video, 1, print, prepare, kills=4))
sys.exit(0 if [equal for equal, _ in ends] == [True] else 1)
"""


@pytest.mark.slow
def test_a_killed_server_goes_on(root, tmp_path):
    """Killed four times, once at each kind of moment; in the end it has made what a server has that nobody disturbed."""
    write_tiny_model(tmp_path / "models")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root / "scripts"), str(tmp_path)], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for moment in ("in a step", "between passes", "while writing", "while decoding"):
        assert moment in done.stdout, done.stdout
    for moment in ("in a step", "between passes"):  # those of milliseconds may be missed on a busy machine
        assert f"killed {moment}, after" in done.stdout, done.stdout
