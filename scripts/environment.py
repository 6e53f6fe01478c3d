"""One shared environment for every program of this repository, in the user's cache folder."""

import os
import sys
from pathlib import Path

HOST_VERSION = "0.30.0"


def cache_folder() -> Path:
    """The per-user folder that holds the environments and the host: shared by every clone of this user."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "sora-comfyui"


def host_folder() -> Path:
    """ComfyUI's folder: COMFYUI_DIR when set, else the one this module brought. Raises FileNotFoundError with what to do."""
    given = os.environ.get("COMFYUI_DIR")
    folder = Path(given).expanduser() if given else cache_folder() / f"ComfyUI-{HOST_VERSION}"
    if not (folder / "main.py").is_file():
        fix = "set it to the folder that holds ComfyUI's main.py" if given else "run `python scripts/test.py` once, or set COMFYUI_DIR"
        raise FileNotFoundError(f"COMFYUI_DIR={given or 'not set'}: no ComfyUI at {folder}; {fix}.")
    return folder.resolve()
