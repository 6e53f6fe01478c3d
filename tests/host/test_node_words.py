"""The English translation says what the schemas say."""

import asyncio
import json


def fields(inputs, prefix=""):
    """(name, input) of every input, those of dynamic combos included."""
    for field in inputs:
        yield f"{prefix}{field.id}", field
        for option in getattr(field, "options", None) or []:
            yield from fields(getattr(option, "inputs", []), f"{prefix}{field.id}_")


def test_english_is_what_the_schemas_say(pack, root):
    from sora_pack.nodes import build_extension

    words = json.loads((root / "locales/en/nodeDefs.json").read_text(encoding="utf-8"))
    for node in asyncio.run(build_extension().get_node_list()):
        schema = node.GET_SCHEMA()
        entry = words[schema.node_id]
        assert (entry["display_name"], entry["description"]) == (schema.display_name, schema.description)
        said = {name: field.tooltip for name, field in fields(schema.inputs)}
        assert {name: words["tooltip"] for name, words in entry["inputs"].items()} == said
        assert [out["tooltip"] for out in entry["outputs"].values()] == [out.tooltip for out in schema.outputs]
