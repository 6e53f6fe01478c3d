"""Words -> CONDITIONING: SoraPrompt."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..sora_core.config import MAX_PROMPT_BYTES
from ..sora_core.text import PromptError, unseen_words
from .show import show_on_node


class SoraPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraPrompt",
            display_name="Sora Prompt",
            category="Sora/prompt",
            description="Turns a description into what the sampler follows, and names the words that the model has never seen.",
            search_aliases=["sora prompt", "text", "caption", "CLIP text encode", "positive"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder from Sora Load Model."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip=f"What the video shows, in English or Chinese, at most {MAX_PROMPT_BYTES} bytes. Empty means: anything.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="The description as the sampler reads it. CLIP Text Encode gives the same.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, clip, text) -> io.NodeOutput:
        check_clip(clip)
        try:
            tokens = clip.tokenize(text)
        except PromptError as error:
            raise ValueError(f"text: {error}") from error
        conditioning = clip.encode_from_tokens_scheduled(tokens)
        note = note_on_words(clip, text)
        show_on_node(cls, note)
        return io.NodeOutput(conditioning, ui=ui.PreviewText(note) if note else None)


def check_clip(clip) -> None:
    """Raises ValueError for None: so the host's loaders hand on that a checkpoint holds no text encoder."""
    if clip is None:
        raise ValueError("clip: the checkpoint holds no text encoder: connect 'Load CLIP', or the CLIP of 'Sora Load Model'")


def note_on_words(clip, text: str) -> str:
    """Names the words of a prompt that no training caption had; nothing for a CLIP that is not ours."""
    header = getattr(clip, "header", None)
    if header is None or not header.words:
        return ""
    words = unseen_words(text, header.words)
    return f"The model has never seen: {', '.join(words)}" if words else "The model knows all words."
