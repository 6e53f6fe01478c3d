"""A script -> CONDITIONING with shots: SoraStoryboard."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_api.latest import io, ui
from torch import Tensor

from ..sora_core.storyboard import ScriptError, Storyboard, describe, parse, snap
from .canvas import KEY
from .encode_prompt import note_on_words
from .show import show_on_node

EXAMPLE = """a red ball and a blue cube on the beach at sunset.
[0-3 s] the red ball slides to the right past the blue cube.
[3-6 s] cut. the red ball bounces up and down.
"""


@dataclass(frozen=True)
class Shots:
    """The extra entry of a CONDITIONING whose words change with time.

    Args:
        rows: the words of each shot with those for all, [1, L, 4096].
        starts: the second at which each begins; a cell that ends later than that belongs to it.
        cuts: whether it begins with a cut.
    """

    rows: tuple[Tensor, ...]
    starts: tuple[float, ...]
    cuts: tuple[bool, ...]


class SoraStoryboard(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraStoryboard",
            display_name="Sora Storyboard",
            category="Sora/prompt",
            description="Several shots in one video, typed as a script: seconds in brackets, then what the shot shows.",
            search_aliases=["sora storyboard", "shots", "script", "scenes", "timeline", "multi prompt"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder from Sora Load Model."),
                io.Vae.Input("vae", tooltip="The VAE of the model; shots begin and end where its latent cells do."),
                io.String.Input(
                    "script",
                    multiline=True,
                    default=EXAMPLE,
                    tooltip=(
                        "First the words for all shots, then a line for each shot: [0-3 s] and what it shows. 'cut.' behind the bracket "
                        "is a hard cut; without it the shot goes on in the same take."
                    ),
                ),
                io.Float.Input(
                    "fps", default=8.0, min=1.0, max=120.0, step=0.001, tooltip="Frames a second, 1 to 120; the same as on the canvas."
                ),
            ],
            outputs=[
                io.Conditioning.Output(tooltip="What each shot shows, for Sora Sampler."),
                io.Float.Output(display_name="seconds", tooltip="Length of all shots in seconds, for Sora Canvas."),
                io.Float.Output(display_name="fps", tooltip="Frames a second, for Sora Canvas."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, script=None):
        try:
            if isinstance(script, str):
                parse(script)
        except ScriptError as error:
            return f"script: {error}"
        return True

    @classmethod
    def execute(cls, clip, vae, script, fps) -> io.NodeOutput:
        from .host_vae import strides_of

        board = snap(parse(script), fps, strides_of(vae))
        words = note_on_words(clip, " ".join(board.texts))
        note = "\n".join(line for line in (describe(board, fps), words) if line)
        show_on_node(cls, note)
        return io.NodeOutput(conditioning_of(clip, board), board.seconds, fps, ui=ui.PreviewText(note))


def conditioning_of(clip, board: Storyboard) -> list:
    """CONDITIONING of the first shot's words, for whoever knows no shots, with those of all in its extra entry."""
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in board.texts]
    if len(encoded) == 1:
        return encoded[0]
    shots = Shots(
        tuple(parts[0][0] for parts in encoded), tuple(shot.start for shot in board.shots), tuple(shot.cut for shot in board.shots)
    )
    return [[rows, {**extra, KEY: shots}] for rows, extra in encoded[0]]
