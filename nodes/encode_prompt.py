"""Words -> CONDITIONING: SoraPrompt."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..sora_core.config import MAX_PROMPT_BYTES
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
        check_length(clip, text)
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        note = note_on_words(clip, text)
        show_on_node(cls, note)
        return io.NodeOutput(conditioning, ui=ui.PreviewText(note) if note else None)


def check_length(clip, text: str) -> None:
    """Raises ValueError when a prompt is longer than our encoder reads; another CLIP has a limit of its own."""
    size = len(text.encode("utf-8", "replace"))
    if hasattr(clip, "header") and size > MAX_PROMPT_BYTES:
        raise ValueError(f"text is {size:,} bytes long: use at most {MAX_PROMPT_BYTES:,} (an English letter is 1, a Chinese character 3)")


def note_on_words(clip, text: str) -> str:
    """Names the words of a prompt that no training caption had; nothing for a CLIP that is not ours."""
    header = getattr(clip, "header", None)
    if header is None or not header.words:
        return ""
    from ..sora_core.text import unseen_words

    words = unseen_words(text, header.words)
    return f"The model has never seen: {', '.join(words)}" if words else "The model knows all words."
