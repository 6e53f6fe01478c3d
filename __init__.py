"""Sora for ComfyUI: the host's entry point.

Nothing of the host is imported at module scope: pytest imports this file as a package when the checkout's folder name is an
identifier, and there is no host on the path then.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import build_extension

    return build_extension()
