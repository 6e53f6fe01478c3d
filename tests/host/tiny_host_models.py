"""Public video models with random weights, small enough for a test: files in the public key format, for the host's own loaders."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from sora_pack.sora_core.shapes import Strides

WAN_STRIDES, WAN_5B_STRIDES, LTX_STRIDES = Strides(), Strides(4, 16, 48), Strides(8, 32, 128, patch=1)
STRIDES = {  # of the VAE that belongs to each
    **dict.fromkeys(("wan_t2v", "wan_i2v", "wan22_i2v", "hunyuan"), WAN_STRIDES),
    "wan22_5b": WAN_5B_STRIDES,
    **dict.fromkeys(("ltxv", "ltx2"), LTX_STRIDES),
    "hunyuan15": Strides(4, 16, 32, patch=1),
}
WAN = {"dim": 128, "ffn_dim": 128, "num_heads": 1, "num_layers": 1}
HUNYUAN = {
    **{"in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 128, "mlp_ratio": 4.0},
    **{"num_heads": 1, "depth": 1, "depth_single_blocks": 1, "axes_dim": [16, 56, 56], "theta": 256, "patch_size": [1, 2, 2]},
    **{"qkv_bias": True, "guidance_embed": True, "byt5": False, "meanflow": False, "use_cond_type_embedding": False},
    **{"vision_in_dim": None, "meanflow_sum": False},
}
HUNYUAN_15 = {
    **{**HUNYUAN, "in_channels": 65, "out_channels": 32, "vec_in_dim": None, "patch_size": [1, 1, 1], "guidance_embed": False},
    **{"use_cond_type_embedding": True, "vision_in_dim": 1152, "meanflow_sum": True},
}
LTX = {"cross_attention_dim": 128, "attention_head_dim": 4, "num_layers": 1}
LTX_2 = {  # as its files say in their metadata; of video and sound alike
    **{**LTX, "audio_cross_attention_dim": 128, "audio_attention_head_dim": 4, "caption_channels": 2048},
    **{"connector_attention_head_dim": 4, "connector_num_attention_heads": 1, "connector_num_layers": 1},
    **{"audio_connector_attention_head_dim": 4, "audio_connector_num_attention_heads": 1},
}


def write_host_model(folder: Path, name: str, seed: int = 0) -> str:
    """Writes one of STRIDES to a folder; returns the file's name."""
    import comfy.ldm.hunyuan_video.model
    import comfy.ldm.lightricks.av_model
    import comfy.ldm.lightricks.model
    import comfy.ldm.wan.model
    import comfy.ops

    wan, hunyuan = comfy.ldm.wan.model.WanModel, comfy.ldm.hunyuan_video.model.HunyuanVideo
    kinds = {
        "wan_t2v": (wan, WAN),
        "wan_i2v": (wan, {**WAN, "model_type": "i2v", "in_dim": 36}),
        "wan22_i2v": (wan, {**WAN, "in_dim": 36}),
        "wan22_5b": (wan, {**WAN, "in_dim": 48, "out_dim": 48}),
        "ltxv": (comfy.ldm.lightricks.model.LTXVModel, LTX),
        "ltx2": (comfy.ldm.lightricks.av_model.LTXAVModel, LTX_2),
        "hunyuan": (hunyuan, HUNYUAN),
        "hunyuan15": (hunyuan, HUNYUAN_15),
    }
    kind, sizes = kinds[name]
    torch.manual_seed(seed)
    model = kind(**sizes, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    file = f"host_{name}_{seed}.safetensors" if seed else f"host_{name}.safetensors"
    tensors = {key: torch.randn(t.shape) * 0.05 for key, t in model.state_dict().items()}
    save_file(tensors, folder / file, {"config": json.dumps({"transformer": LTX_2})} if name == "ltx2" else None)
    return file


def host_vae_state(name: str) -> dict[str, torch.Tensor]:
    """Random weights of a VAE of the host as its published file has them: these come in one size."""
    import comfy.ldm.lightricks.vae.causal_video_autoencoder
    import comfy.ldm.models.autoencoder
    import comfy.ldm.wan.vae2_2

    wan = {"dim": 160, "z_dim": 48, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": [False, True, True]}
    hunyuan = {"double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4]}
    hunyuan |= {"num_res_blocks": 2, "attn_resolutions": [], "conv3d": True, "time_compress": 4}
    with torch.device("meta"):
        if name == "wan22_5b":
            model = comfy.ldm.wan.vae2_2.WanVAE(**wan)
        elif name == "ltxv":
            model = comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE(version=0)
        else:
            model = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=hunyuan, embed_dim=16)
    made = {}
    for key, tensor in model.state_dict().items():
        made[key] = torch.randn(tensor.shape) * 0.02 if tensor.is_floating_point() else torch.zeros(tensor.shape, dtype=tensor.dtype)
    return made


def tiny_vae(strides: Strides):
    """A host VAE object of any strides: cells are means of pixels, spread over the channels by a fixed random map."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sd

    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    s, space = strides.time, strides.space
    network = Mean(strides)
    vae.latent_channels, vae.latent_dim, vae.output_channels = strides.channels, 3, 3
    vae.upscale_ratio = (lambda cells: max(0, strides.frames(cells)), space, space)
    vae.downscale_ratio = (lambda frames: max(0, 1 + (frames - 1) // s), space, space)
    vae.upscale_index_formula = vae.downscale_index_formula = (s, space, space)
    vae.first_stage_model, vae.vae_dtype = network, torch.float32
    vae.patcher = comfy.model_patcher.ModelPatcher(network, load_device=vae.device, offload_device=vae.device)
    vae.memory_used_encode = vae.memory_used_decode = lambda shape, dtype: 1
    vae.process_input, vae.process_output = (lambda x: x * 2 - 1), (lambda x: x.add_(1).div_(2).clamp_(0, 1))
    return vae


class Mean(torch.nn.Module):
    def __init__(self, strides: Strides):
        super().__init__()
        self.strides = strides
        weight = torch.randn(strides.channels, 3, generator=torch.Generator().manual_seed(0))
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def encode(self, x):
        s, space = self.strides.time, self.strides.space
        x = torch.cat([x[:, :, :1].repeat_interleave(s, 2), x[:, :, 1:]], 2)
        return torch.einsum("oc,bcfhw->bofhw", self.weight, torch.nn.functional.avg_pool3d(x, (s, space, space)))

    def decode(self, z):
        s, space = self.strides.time, self.strides.space
        x = torch.einsum("oc,bofhw->bcfhw", self.weight, z) / self.strides.channels
        return x.repeat_interleave(s, 2)[:, :, s - 1 :].repeat_interleave(space, -1).repeat_interleave(space, -2)
