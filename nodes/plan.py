"""In which passes a video is made, and what that costs -> LATENT: SoraPlan."""

from __future__ import annotations

import re
from dataclasses import replace

from comfy_api.latest import io, ui

from ..sora_core.plan import DISTANCE, KINDS, OVERLAP, PlanSettings, picture, summary
from .costs import check_memory, costs
from .given import KEY, given_of, restored, without_stale_mask
from .known import enlarged
from .passes import plan_for
from .place import with_shots
from .run import prepare
from .sample_video import model_input
from .shots import disagreement, shots_of
from .show import show_on_node

REDO = re.compile(r"(\d+)\s*=\s*(\d+)")


class SoraPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraPlan",
            display_name="Sora Plan",
            category="Sora/sampling",
            description=(
                "How a long video is made: in which passes, with how much memory and time. Select it and press the run button above it to "
                "know before. Without it the sampler decides itself."
            ),
            search_aliases=["sora plan", "long video", "minute", "foresight", "rollout", "context windows", "passes"],
            inputs=[
                model_input(),
                io.Latent.Input("latent", tooltip="The canvas."),
                io.Combo.Input(
                    "plan",
                    options=["auto", *KINDS],
                    default="auto",
                    tooltip=(
                        "single: all at once. rollout: window after window. foresight: an opening, then some cells of the whole length, "
                        "then the gaps between them, each of which knows what comes after it. auto: single while it fits the model, then "
                        "what it was trained for."
                    ),
                ),
                io.Int.Input(
                    "window",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Latent cells of a window of a rollout, and the longest single pass of auto. 0: what the model was trained on.",
                ),
                io.Int.Input("overlap", default=OVERLAP, min=1, max=64, tooltip="Latent cells that a window sees of the one before."),
                io.Int.Input("distance", default=DISTANCE, min=1, max=64, tooltip="Latent cells from one foreseen cell to the next."),
                io.String.Input(
                    "redo",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Passes to make anew with another seed, by their number in the picture: 3=17, 5=2. In a foresight plan a gap "
                        "changes alone; a window of a rollout, the opening or the sketch changes what is made behind it too."
                    ),
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="As at Sora Sampler: the plan and its numbers follow the shots of a storyboard.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The canvas with its plan, for Sora Sampler.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            is_output_node=True,  # can be run alone, before anything is sampled
        )

    @classmethod
    def validate_inputs(cls, redo=None):
        try:
            seeds_of(redo or "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model, latent, plan, window, overlap, distance, redo="", positive=None) -> io.NodeOutput:
        latent, remarks = without_stale_mask(restored(latent, cls.hidden))
        latent = enlarged(latent)
        given = given_of(latent)
        if given is None:
            raise ValueError("latent: this is no canvas any more: connect 'Sora Canvas' without a node between that changes it")
        # As the sampler will see it; it puts the pictures of the shots on the canvas itself.
        seen, positive = with_shots(latent, positive)
        shots, batch = shots_of(positive), len(latent["samples"])
        settings = PlanSettings(plan, window, overlap, distance, seeds_of(redo), shots.starts if shots else (0.0,))
        planned, given = {**latent, KEY: replace(given, plan=settings)}, replace(given_of(seen), plan=settings)
        made = plan_for(model, positive, given, prepare(model, seen, NoNoise).known)
        check_memory(model, given, made, batch)
        lines = [summary(made), *remarks, *disagreement(given.canvas, shots), *costs(model, made, given, batch)]
        note = "\n".join([*lines, picture(made, len(made.passes))])
        show_on_node(cls, note)
        return io.NodeOutput(planned, ui=ui.PreviewText(note))


def seeds_of(redo: str) -> tuple[tuple[int, int], ...]:
    """(pass, seed) of a text like "3=17, 5=2". Raises ValueError naming the part that is not."""
    parts = [part.strip() for part in redo.split(",") if part.strip()]
    matches = [REDO.fullmatch(part) for part in parts]
    if wrong := [part for part, match in zip(parts, matches) if match is None]:
        raise ValueError(f"redo: '{wrong[0]}' names no pass: write its number and a seed, such as 3=17")
    return tuple((int(match[1]), int(match[2])) for match in matches)


class NoNoise:
    """In place of noise, where nothing is sampled."""

    @staticmethod
    def generate_noise(latent: dict):
        return latent["samples"]
