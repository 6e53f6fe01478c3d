"""The real ComfyUI server as an object: start it with this pack, queue prompts, close it. Used by the demo and by the tests.

The server works in a base folder of its own (models, input, output, temp, user, custom_nodes), keeps its database in memory, and writes
nothing into the host's folder. It answers 6 to 10 seconds after its start on two cores.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK_NAME = "sora"
FOLDERS = ("models", "input", "output", "temp", "user", "custom_nodes")
COLOURS = re.compile(r"\x1b\[\d*m")
NOT_COPIED = (".git", ".cache", "runs", "checkpoints", "__pycache__")

Event = Callable[[str, dict], None]


class ServerError(RuntimeError):
    """The server did not start, or died; the message ends with the last lines of its log."""


class PromptError(RuntimeError):
    """The server refused a prompt, or a node failed. `details` is what the server said."""

    def __init__(self, sentence: str, details: dict):
        super().__init__(sentence)
        self.details = details


class ComfyServer:
    """One server process.

    host: ComfyUI's folder; base: an existing folder that it may write to; python: the interpreter that has the host's packages;
    arguments: further ones for main.py. A context manager: `with ComfyServer(host, base) as server: server.queue(prompt)`.
    """

    def __init__(self, host: Path, base: Path, *, python: str = sys.executable, cpu: bool = True, arguments=(), variables=None):
        self.host, self.base = Path(host), Path(base)
        self.log = self.base / "server.log"
        self.port = _free_port()
        self.client = uuid.uuid4().hex
        device = ["--cpu"] if cpu else []
        self.command = [
            *(str(python), str(self.host / "main.py"), *device, "--port", str(self.port), "--base-directory", str(self.base)),
            *("--disable-api-nodes", "--disable-auto-launch", "--database-url", "sqlite:///:memory:", *arguments),
        ]
        self.variables = variables
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, timeout: float = 600) -> ComfyServer:
        """Start and wait until it answers. timeout in seconds. Raises ServerError."""
        for name in FOLDERS:
            (self.base / name).mkdir(parents=True, exist_ok=True)
        install_pack(self.base / "custom_nodes" / PACK_NAME)
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(self.command, cwd=self.base, env=self.variables, stdout=sink, stderr=subprocess.STDOUT)
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise ServerError(f"ComfyUI stopped while it started (exit status {self.process.returncode}).\n{self.log_tail()}")
            try:
                self.get("/system_stats")
                return self
            except OSError:
                time.sleep(0.1)
        self.close()
        raise ServerError(f"ComfyUI did not answer within {timeout:.0f} seconds.\n{self.log_tail()}")

    def close(self) -> None:
        """Stop the process; harmless when it is not running."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> ComfyServer:
        return self.start()

    def __exit__(self, *_) -> None:
        self.close()

    def log_text(self) -> str:
        return COLOURS.sub("", self.log.read_text(encoding="utf-8", errors="replace"))

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def get(self, path: str):
        """GET as JSON. Raises OSError (urllib's errors are among them)."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, data: dict):
        """POST JSON; the answer as JSON, or None when it is empty. Raises PromptError with the server's own answer on status 4xx."""
        request = urllib.request.Request(self.url + path, json.dumps(data).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            details = json.loads(error.read() or "{}")
            raise PromptError(_validation_sentence(details), details) from error

    def upload(self, path: Path) -> str:
        """Copy a picture or video to the server's input folder. Returns the name for LoadImage."""
        shutil.copyfile(path, self.base / "input" / Path(path).name)
        return Path(path).name

    def interrupt(self) -> None:
        """Cancel what runs now."""
        self.post("/interrupt", {})

    def queue(self, prompt: dict, on_event: Event | None = None, timeout: float = 1800) -> dict:
        """Queue an API-format prompt, wait for its end. Returns its history entry ("outputs", "status").

        on_event(type, data) sees each of the websocket's messages ("progress", "executing", ...). timeout: seconds without any message.
        Raises PromptError (refused; a node failed; interrupted), ServerError (it died). Not to be called where an event loop runs.
        """
        number = asyncio.run(self._queue(prompt, on_event or (lambda kind, data: None), timeout))
        history = self.get(f"/history/{number}")[number]
        for kind, data in history["status"]["messages"]:
            if kind == "execution_error":
                raise PromptError(f"{data['node_type']} failed: {data['exception_message'].strip()}", data)
            if kind == "execution_interrupted":
                raise PromptError("The prompt was interrupted.", data)
        return history

    async def _queue(self, prompt: dict, on_event: Event, timeout: float) -> str:
        import aiohttp

        address = f"{self.url}/ws?clientId={self.client}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as channel:
            answer = await asyncio.to_thread(self.post, "/prompt", {"prompt": prompt, "client_id": self.client})
            if answer.get("node_errors"):  # status 200 when at least one output is fine
                raise PromptError(_validation_sentence(answer), answer)
            while True:
                message = await channel.receive(timeout)
                if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.ERROR):
                    raise ServerError(f"ComfyUI closed the connection.\n{self.log_tail()}")
                if message.type != aiohttp.WSMsgType.TEXT:
                    continue  # previews
                event = json.loads(message.data)
                on_event(event["type"], event["data"])
                mine = event["data"].get("prompt_id") == answer["prompt_id"]
                if mine and event["type"] == "executing" and event["data"]["node"] is None:
                    return answer["prompt_id"]

    def files(self, history: dict) -> list[Path]:
        """The files that a finished prompt saved or previewed."""
        found = []
        for output in history["outputs"].values():
            for items in output.values():
                for item in items if isinstance(items, list) else []:
                    if isinstance(item, dict) and "filename" in item:
                        found.append(self.base / item["type"] / item["subfolder"] / item["filename"])
        return found


def install_pack(target: Path) -> None:
    """This repository at `target`: a link, or a copy where the system refuses links (Windows without developer mode)."""
    if target.is_symlink() or target.exists():
        return
    try:
        target.symlink_to(ROOT, target_is_directory=True)
    except OSError:
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_COPIED))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _validation_sentence(details: dict) -> str:
    """The first complaint of a refused prompt."""
    for node in (details.get("node_errors") or {}).values():
        for error in node["errors"]:
            return f"{node['class_type']}: {error['message']}: {error['details']}"
    error = details.get("error") or {}
    return f"{error.get('message', 'The server refused the prompt')} {error.get('details', '')}".strip()
