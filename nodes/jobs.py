"""What is kept for a restart: SoraJobs."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..sora_core.jobs import Kept, delete, kept_jobs
from .passes import jobs_folder
from .show import show_on_node

UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


class SoraJobs(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraJobs",
            display_name="Sora Jobs",
            category="Sora/sampling",
            description=(
                "Lists what Sora Sampler keeps in output/sora_jobs to go on after a crash, with size and age. Deletes only what you name."
            ),
            search_aliases=["sora jobs", "resume", "crash", "clean up", "disk space", "delete"],
            inputs=[
                io.String.Input(
                    "delete",
                    default="",
                    optional=True,
                    tooltip="Names of jobs to delete, with commas between. Empty: nothing is deleted.",
                ),
            ],
            outputs=[io.String.Output(display_name="list", tooltip="One line for each job: name, passes, size, age, what it is.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def fingerprint_inputs(cls, delete=""):
        return float("nan")  # the folder changes without the graph

    @classmethod
    def execute(cls, delete="") -> io.NodeOutput:
        text = "\n".join([*removed(delete), *(line(job) for job in kept_jobs(jobs_folder()))]) or "Nothing is kept."
        show_on_node(cls, text)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def removed(names: str) -> list[str]:
    """Deletes the named jobs; a line for each. A name that stayed in the field from the last time is no mistake, and deletes nothing: the
    same run, made again, has another."""
    folder, lines = jobs_folder(), []
    for name in filter(None, (part.strip() for part in names.split(","))):
        try:
            lines.append(f"deleted {name}, {delete(folder, name) / 2**20:.1f} MB")
        except ValueError:
            lines.append(f"no job {name}")
    return lines


def line(job: Kept) -> str:
    return f"{job.name}: {job.done} of {job.passes} passes, {job.bytes / 2**20:.1f} MB, {ago(job.age)}, {job.about}"


def ago(seconds: float) -> str:
    """An age in its largest unit."""
    for size, name in UNITS:
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {name}{'s' * (count > 1)} ago"
    return "just now"
