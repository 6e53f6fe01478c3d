"""VIDEO -> file, in the kinds that the host does not write: SoraSave."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io, ui

from ..sora_core.files import unfinished
from ..sora_core.video_file import write_pictures, write_video
from .media import even, media_of

FORMATS = ("webm", "png", "mp4")
DATE = re.compile(r"%date:([^%]*)%")
DATE_PART = re.compile("yyyy|yy|MM?|dd?|hh?|mm?|ss?")
"""What the page fills in for ComfyUI's own savers, and only for those."""
DATE_FIELDS = {"y": "year", "M": "month", "d": "day", "h": "hour", "m": "minute", "s": "second"}


class SoraSave(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraSave",
            display_name="Sora Save",
            category="Sora/decode",
            description="Saves a video as WebM, as a folder of PNG pictures, or as MP4. It is written frame by frame, whatever its length.",
            search_aliases=["sora save", "webm", "png sequence", "image sequence", "save video", "export"],
            inputs=[
                io.Video.Input("video", tooltip="The video."),
                io.String.Input(
                    "filename_prefix",
                    default="video/sora",
                    tooltip="Folder and beginning of the name, in ComfyUI's output folder; %date:yyyy-MM-dd% is today.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="webm",
                    tooltip="webm: VP9. png: a folder of pictures, without loss and without sound. mp4: H.264, encoded anew.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Where it is: the file, or the folder of the pictures.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=""):
        if left := re.search(r"%[^%]*[.:][^%]*%", dated(filename_prefix or "")):
            return f"filename_prefix: {left[0]} is filled in for ComfyUI's own nodes alone: write it out, or use %date:yyyy-MM-dd%"
        return True

    @classmethod
    def execute(cls, video, filename_prefix, format) -> io.NodeOutput:
        media = media_of(video, None, 0.0)
        media = media if format == "png" else even(media)  # a folder has no times
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            with_name(filename_prefix), folder_paths.get_output_directory(), *media.size
        )
        bar = comfy.utils.ProgressBar(media.frames)

        def progress(done: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done)

        frames, tags = media.read(0, 0, media.frames), None if args.disable_metadata else tags_of(cls.hidden)
        with unfinished(Path(folder) / (f"{name}_{counter:05}_" + ("" if format == "png" else f".{format}"))) as made:
            if format == "png":
                write_pictures(made, frames, metadata=tags, progress=progress)
            else:
                codec = {"webm": "vp9", "mp4": "h264"}[format]
                write_video(made, frames, media.fps, codec=codec, metadata=tags, audio=media.sound, progress=progress)
        target = made.path
        if format == "png":
            shown = ui.SavedImages([ui.SavedResult("00001.png", str(Path(subfolder) / target.name), io.FolderType.output)])
        else:
            shown = ui.PreviewVideo([ui.SavedResult(target.name, subfolder, io.FolderType.output)])
        return io.NodeOutput(str(target), ui=shown)


def with_name(prefix: str) -> str:
    """A prefix that names a file: of "clips/" or nothing the host would count no numbers."""
    prefix = dated(prefix.strip())
    return os.path.normpath(f"{prefix}sora" if not prefix or prefix.endswith(("/", "\\")) else prefix)


def dated(prefix: str) -> str:
    """A prefix with %date:...% filled in."""

    now = datetime.now()

    def number(part: re.Match) -> str:
        """yyyy in full, else the last digits; one letter is a number without a zero before it."""
        found = getattr(now, DATE_FIELDS[part[0][0]])
        return f"{found % 100 if part[0] == 'yy' else found:0{len(part[0])}d}"

    return DATE.sub(lambda found: DATE_PART.sub(number, found[1]), prefix)


def tags_of(hidden) -> dict:
    """Prompt and workflow, as the host writes them into what it saves."""
    return {**(hidden.extra_pnginfo or {}), **({"prompt": hidden.prompt} if hidden.prompt else {})}
