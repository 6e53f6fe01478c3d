"""Words of a node for the person in front of it."""

from __future__ import annotations


def show_on_node(node, text: str) -> None:
    """Shows `text` on the node that runs, in a page that listens. The node's schema must name the hidden unique_id."""
    from server import PromptServer

    instance = getattr(PromptServer, "instance", None)
    if text and instance is not None and node.hidden and node.hidden.unique_id:
        instance.send_progress_text(text, node.hidden.unique_id)
