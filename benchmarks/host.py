"""The host and the pack in one process, however the benchmark was started."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = "sora_pack"


def enter_environment(module: str) -> None:
    """Goes on in the environment of scripts/test.py if this Python has no torch."""
    if importlib.util.find_spec("torch"):
        return
    sys.path.insert(0, str(ROOT / "scripts"))
    import environment

    python = environment.ready()
    sys.exit(subprocess.run([python, "-m", module, *sys.argv[1:]], cwd=ROOT, env=environment.child_variables()).returncode)


def alias_pack():
    """The repository as the package `sora_pack`, without running its `__init__.py`."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
        sys.modules[PACK] = importlib.util.module_from_spec(spec)
    return sys.modules[PACK]


def prepare_host(cpu: bool = True) -> Path:
    """Puts the host on sys.path as `main.py --cpu` would run it (on its GPU if not `cpu`); returns its folder.

    Raises:
        FileNotFoundError: no host; the message says what to do.
    """
    alias_pack()
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT]  # its nodes/ would hide the host's nodes.py
    from sora_pack.scripts.environment import host_folder

    folder = host_folder()
    sys.path.insert(0, str(folder))
    import comfy.options

    comfy.options.args_parsing = False
    from comfy.cli_args import args

    args.cpu = cpu
    args.base_directory = tempfile.mkdtemp(prefix="sora-benchmark-")
    for name in ("models", "input", "output", "temp", "user", "custom_nodes"):
        (Path(args.base_directory) / name).mkdir()
    return folder
