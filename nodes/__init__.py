"""The nodes: host types in, calls of the core, host types out. Listed in the order of the flow.

The only place that imports the host. Node files are imported when the host asks for the list.
"""

from __future__ import annotations

import folder_paths
from comfy_api.latest import ComfyExtension, io

from ..sora_core.pipeline import WEIGHTS


class SoraExtension(ComfyExtension):
    async def on_load(self) -> None:
        # The host's own loaders list and open the files that come with this pack.
        for kind in ("diffusion_models", "vae", "text_encoders"):
            folder_paths.add_model_folder_path(kind, str(WEIGHTS / kind))

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .canvas import SoraCanvas
        from .decode_video import SoraDecode, SoraDecodeFrames
        from .encode_prompt import SoraPrompt
        from .extend_video import SoraExtend, SoraFill, SoraJoin, SoraLoop
        from .jobs import SoraJobs
        from .load_model import SoraLoadModel
        from .place import SoraPlaceImage, SoraPlaceVideo
        from .plan import SoraPlan
        from .remix_video import SoraRemix
        from .sample_video import SoraNoise, SoraSampler
        from .save_video import SoraSave
        from .storyboard import SoraStoryboard

        canvases = [SoraCanvas, SoraPlaceImage, SoraPlaceVideo, SoraExtend, SoraFill, SoraJoin, SoraLoop, SoraRemix]
        sampling = [SoraPlan, SoraSampler, SoraNoise, SoraJobs]
        return [SoraLoadModel, SoraPrompt, SoraStoryboard, *canvases, *sampling, SoraDecode, SoraDecodeFrames, SoraSave]


def build_extension() -> ComfyExtension:
    return SoraExtension()
