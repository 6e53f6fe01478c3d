"""Turn a saved workflow (UI format) into what the server's /prompt takes (API format), as the page's own `graphToPrompt` does.

For flat graphs: no subgraphs, reroutes or bypassed nodes; tests/browser compares the result with the page's.
"""

from __future__ import annotations

NOT_EXECUTED = ("Note", "MarkdownNote")
MUTED, BYPASSED = 2, 4
PAGE_ONLY = "IMAGEUPLOAD"  # a button of the page that keeps a place in widgets_values


def to_api(workflow: dict, object_info: dict) -> dict:
    """workflow: UI format with "nodes" and "links"; object_info: the server's /object_info. Returns {id: {"class_type", "inputs"}}.

    Raises ValueError when a node is unknown to the server, bypassed, or has other widgets than the server describes.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOT_EXECUTED or node.get("mode") == MUTED:
            continue
        if node["type"] not in object_info:
            raise ValueError(f"node {node['id']}: the server has no node '{node['type']}'; is its pack installed?")
        if node.get("mode") == BYPASSED:
            raise ValueError(f"node {node['id']} ({node['type']}) is bypassed: enable it or mute it.")
        inputs = _widgets(node, object_info[node["type"]])
        inputs.update({slot["name"]: sources[slot["link"]] for slot in node.get("inputs", []) if slot.get("link") is not None})
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def node(class_type: str, **inputs) -> dict:
    """A node of an API prompt; a link is [number of the node, number of its output]."""
    return {"class_type": class_type, "inputs": inputs}


def set_input(prompt: dict, class_type: str, name: str, value) -> dict:
    """A copy of an API prompt with one input of every node of that type set. Raises ValueError when there is no such node."""
    copy = {number: {**node, "inputs": dict(node["inputs"])} for number, node in prompt.items()}
    chosen = [node for node in copy.values() if node["class_type"] == class_type]
    if not chosen:
        raise ValueError(f"the prompt has no node '{class_type}'; it has {sorted({node['class_type'] for node in copy.values()})}.")
    for node in chosen:
        node["inputs"][name] = value
    return copy


def _widgets(node: dict, info: dict) -> dict:
    """The widgets' values by name. widgets_values lists them in the order of the slots that have a widget."""
    values = list(node.get("widgets_values") or [])
    described = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    found = {}
    for slot in node.get("inputs", []):
        if "widget" not in slot:
            continue
        if not values:
            raise ValueError(f"{node['type']} {node['id']} has no value for '{slot['name']}': save the workflow again from the page.")
        value = values.pop(0)
        if slot["type"] != PAGE_ONLY:
            found[slot["name"]] = value
        options = (described.get(slot["name"]) or ["", {}])[1:]
        if options and options[0].get("control_after_generate"):
            values.pop(0)  # "fixed", "randomize", ...: what the page does to the seed after queueing
    if values:
        raise ValueError(f"{node['type']} {node['id']} has {len(values)} values too many: save the workflow again from the page.")
    return found
