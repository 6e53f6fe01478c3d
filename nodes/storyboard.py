"""Shots, from a script or from fields -> CONDITIONING with shots: SoraStoryboard."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_api.latest import io, ui
from torch import Tensor

from ..sora_core.shapes import MAX_SECONDS
from ..sora_core.storyboard import ScriptError, Storyboard, check_length, describe, listed, parse, snap
from .canvas import KEY
from .encode_prompt import note_on_words
from .show import show_on_node

EXAMPLE = """a red ball and a blue cube on the beach at sunset.
[0-3 s] the red ball slides to the right past the blue cube.
[3-6 s] cut. the red ball bounces up and down.
"""

IN_THE_SCRIPT = "in the script"
MOST_SHOTS = 8
CUT, CONTINUOUS = "cut", "continuous"


@dataclass(frozen=True)
class Shots:
    """The extra entry of a CONDITIONING whose words change with time.

    Args:
        rows: the words of each shot with those for all, [1, L, D].
        facts: what belongs to the rows of each shot: tensors that its text encoder gives beside them, such as an attention mask.
        starts: the second at which each begins; a cell that ends later than that belongs to it.
        cuts: whether it begins with a cut.
        pictures: an IMAGE or None for each shot, to be put on the canvas at its first frame; empty when there are none, or no more.
    """

    rows: tuple[Tensor, ...]
    facts: tuple[dict[str, Tensor], ...]
    starts: tuple[float, ...]
    cuts: tuple[bool, ...]
    pictures: tuple[Tensor | None, ...] = ()


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
        from .host_vae import strides_of

        board, pictures = read(script, shots or {})
        if hasattr(clip, "header"):
            check_length(board)
        board = snap(board, fps, strides_of(vae))
        words = note_on_words(clip, " ".join(board.texts))
        note = "\n".join(line for line in (describe(board, fps), words) if line)
        show_on_node(cls, note)
        return io.NodeOutput(conditioning_of(clip, board, pictures), board.seconds, fps, ui=ui.PreviewText(note))


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


def conditioning_of(clip, board: Storyboard, pictures: tuple[Tensor | None, ...] = ()) -> list:
    """CONDITIONING of the first shot's words, for whoever knows no shots, with those of all in its extra entry."""
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in board.texts]
    shots = Shots(
        tuple(parts[0][0] for parts in encoded),
        tuple({name: fact for name, fact in parts[0][1].items() if isinstance(fact, Tensor)} for parts in encoded),
        tuple(shot.start for shot in board.shots),
        tuple(shot.cut for shot in board.shots),
        pictures if any(picture is not None for picture in pictures) else (),
    )
    if len(encoded) == 1 and not shots.pictures:
        return encoded[0]
    return [[rows, {**extra, KEY: shots}] for rows, extra in encoded[0]]


def shots_of(conditioning) -> Shots | None:
    """The Shots that a CONDITIONING carries; None if it is of plain words."""
    return next((extra[KEY] for _, extra in conditioning or () if KEY in extra), None)


def shots_in(rows: Tensor, extra: dict) -> Shots | None:
    """The Shots of an entry of CONDITIONING; None for one of plain words, or one whose rows the host's ConditioningZeroOut made zero."""
    shots = extra.get(KEY)
    zeroed = shots is not None and not rows.any() and shots.rows[0].any()  # a first shot without words is zero by itself
    return None if zeroed else shots


def heard_in(rows: Tensor, extra: dict, shot: int) -> tuple[Tensor, dict]:
    """What a shot hears of an entry of CONDITIONING: rows, and what belongs to them. Plain words are the same for all shots, and a
    storyboard of fewer shots, such as another negative, ends with its last one."""
    shots, extra = shots_in(rows, extra), {name: value for name, value in extra.items() if name != KEY}
    if shots is None:
        return rows, extra
    others = {name: value for name, value in extra.items() if name not in shots.facts[0]}
    shot = min(shot, len(shots.rows) - 1)
    return shots.rows[shot], others | shots.facts[shot]


def has_pictures(conditioning) -> bool:
    """Whether a storyboard has pictures that are not yet on the canvas."""
    shots = shots_of(conditioning)
    return bool(shots and shots.pictures)
