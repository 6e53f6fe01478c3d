"""Shots, from a script or from fields -> CONDITIONING with shots: SoraStoryboard."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..sora_core.shapes import MAX_SECONDS
from ..sora_core.storyboard import ScriptError, Storyboard, check_length, describe, listed, parse, snap
from .encode_prompt import check_clip, note_on_words
from .given import KEY
from .host_vae import strides_of
from .shots import Shots
from .show import show_on_node

EXAMPLE = """a red ball and a blue cube on the beach at sunset.
[0-3 s] the red ball slides to the right past the blue cube.
[3-6 s] cut. the red ball bounces up and down.
"""

IN_THE_SCRIPT = "in the script"
MOST_SHOTS = 8
CUT, CONTINUOUS = "cut", "continuous"


class SoraStoryboard(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraStoryboard",
            display_name="Sora Storyboard",
            category="Sora/prompt",
            description="Several shots in one video, typed as a script or filled into fields: seconds, what the shot shows, a picture.",
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
                        "is a hard cut; without it the shot goes on in the same take. Where the shots have fields: the words for all only."
                    ),
                ),
                io.Float.Input(
                    "fps", default=8.0, min=1.0, max=120.0, step=0.001, tooltip="Frames a second, 1 to 120; the same as on the canvas."
                ),
                io.DynamicCombo.Input(
                    "shots",
                    options=[io.DynamicCombo.Option(IN_THE_SCRIPT, []), *map(shot_option, range(1, MOST_SHOTS + 1))],
                    optional=True,
                    tooltip="Where the shots stand: in the script, or in so many fields below.",
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
    def validate_inputs(cls, script=None, *, shots=None):
        try:
            # Of the fields the host looks at the ranges alone; execute looks at them with the words for all.
            if isinstance(script, str) and (shots or {}).get("shots", IN_THE_SCRIPT) == IN_THE_SCRIPT:
                parse(script)
        except ScriptError as error:
            return f"script: {error}"
        return True

    @classmethod
    def execute(cls, clip, vae, script, fps, shots=None) -> io.NodeOutput:
        check_clip(clip)
        board, pictures = read(script, shots or {})
        if hasattr(clip, "header"):
            check_length(board)
        board = snap(board, fps, strides_of(vae))
        words = note_on_words(clip, " ".join(board.texts))
        note = "\n".join(line for line in (describe(board, fps), words) if line)
        show_on_node(cls, note)
        return io.NodeOutput(conditioning_of(clip, board, fps, pictures), board.seconds, fps, ui=ui.PreviewText(note))


def shot_option(count: int):
    """The fields of so many shots."""
    fields = []
    for k in range(1, count + 1):
        fields += [
            io.Float.Input(f"seconds_{k}", default=3.0, min=0.0, max=MAX_SECONDS, step=0.001, tooltip=f"Shot {k}: its length in seconds."),
            io.String.Input(
                f"words_{k}", multiline=True, default="", placeholder=f"what shot {k} shows", tooltip=f"Shot {k}: what it shows."
            ),
        ]
        if k > 1:
            says = f"Shot {k}: {CUT} begins it with a hard cut, {CONTINUOUS} goes on in the same take."
            fields.append(io.Combo.Input(f"transition_{k}", options=[CUT, CONTINUOUS], default=CUT, tooltip=says))
        fields.append(
            io.Image.Input(f"picture_{k}", optional=True, tooltip=f"Shot {k}: its first frame. Sora Sampler puts it on the canvas.")
        )
    return io.DynamicCombo.Option(str(count), fields)


def read(script: str, shots: dict) -> tuple[Storyboard, tuple[Tensor | None, ...]]:
    """The storyboard of the node's fields, and the picture or None of each shot. Raises ValueError."""
    count = shots.get("shots", IN_THE_SCRIPT)
    if count == IN_THE_SCRIPT:
        return parse(script), ()
    numbers = range(1, MOST_SHOTS + 1)
    if count not in map(str, numbers):
        raise ValueError(f"shots: '{count}' is not known: use '{IN_THE_SCRIPT}' or 1 to {MOST_SHOTS}")
    numbers = numbers[: int(count)]
    fields = [(shots[f"seconds_{k}"], shots[f"words_{k}"], shots.get(f"transition_{k}") == CUT) for k in numbers]
    return listed(script, fields), tuple(shots.get(f"picture_{k}") for k in numbers)


def conditioning_of(clip, board: Storyboard, fps: float, pictures: tuple[Tensor | None, ...] = ()) -> list:
    """CONDITIONING of the first shot's words, for whoever knows no shots, with those of all in its extra entry."""
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in board.texts]
    pictures = pictures if any(picture is not None for picture in pictures) else ()
    if len(encoded) == 1 and not pictures:
        return encoded[0]
    starts, cuts = tuple(shot.start for shot in board.shots), tuple(shot.cut for shot in board.shots)
    conditioning = []
    for same_part in zip(*encoded):  # more than one only where hooks change the text encoder on the way
        every_rows = tuple(rows for rows, _ in same_part)
        facts = tuple({name: fact for name, fact in extra.items() if isinstance(fact, Tensor)} for _, extra in same_part)
        rows, extra = same_part[0]
        conditioning.append([rows, {**extra, KEY: Shots(every_rows, facts, starts, cuts, pictures, board.seconds, fps)}])
    return conditioning
