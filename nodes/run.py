"""One run of the host's sampler: a LATENT in the form that its MODEL was trained for."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_base
import comfy.utils
import torch
from torch import Tensor

from ..sora_core.passes import known_cells
from . import host
from .given import KEY, Given, given_of
from .host_models import beside_known, takes_guides, takes_pictures


@dataclass
class Run:
    """What the host's sampler gets. `cells` is the number of cells that come back; guides stand behind them."""

    model: object
    samples: Tensor
    noise: Tensor
    mask: Tensor | None
    cells: int

    @property
    def known(self) -> frozenset[int]:
        """Numbers of the cells that are kept whole."""
        return known_cells(None if self.mask is None else self.mask[:, :, : self.cells])


def prepare(model, latent: dict, noise, motion: float = 1.0) -> Run:
    """Brings a LATENT into the form that the MODEL was trained for: guides behind the lattice, or held cells in it; positions; fps. The
    MODEL is guided by `motion` times what suits it."""
    given, header, ours = given_of(latent), host.header_of(model), isinstance(model.model, host.SoraModel)
    model = host.guide_motion(host.keep_known_cells(model.clone()), header.motion * motion)
    samples, mask = latent["samples"], latent.get("noise_mask")
    run = Run(model, samples, noise.generate_noise(latent), None if mask is None else full_mask(mask, samples), samples.shape[2])
    if header.noise == "frame" and not ours:
        host.show_known_cells(model)
    if given is None:
        return run
    if given.guides and takes_guides(model):
        append_guides(run, given)
    elif given.guides and not takes_pictures(model):
        hold_cells(run, given)
    options = model.model_options["transformer_options"] = dict(model.model_options["transformer_options"])
    if ours:
        positions = given.canvas.positions(header.native_fps)[: run.samples.shape[2]]
        options[KEY] = {"positions": torch.tensor(positions, dtype=torch.float32)}
    elif isinstance(model.model, comfy.model_base.WAN21) and given.canvas.shape.fps != header.native_fps:
        rope = dict(options.get("rope_options") or {})
        options["rope_options"] = {**rope, "scale_t": rope.get("scale_t", 1.0) * header.native_fps / given.canvas.shape.fps}
    return run


def full_mask(mask: Tensor, samples: Tensor) -> Tensor:
    """A LATENT's noise_mask as [1 or B, 1, F, h, w], resized as the host does it."""
    return comfy.utils.reshape_mask(mask, samples[:, :1].shape)


def append_guides(run: Run, given: Given) -> None:
    """Guides as known cells behind the lattice. The noise there is never seen."""
    guides = torch.cat(given.guides, 2).to(run.samples).expand(len(run.samples), -1, -1, -1, -1)
    mask = torch.ones_like(run.samples[:, :1]) if run.mask is None else run.mask.expand(len(run.samples), -1, -1, -1, -1)
    run.samples = torch.cat([run.samples, guides], 2)
    run.noise = torch.cat([run.noise, torch.zeros_like(guides).to(run.noise)], 2)
    run.mask = torch.cat([mask, torch.zeros_like(guides[:, :1]).to(mask)], 2)


def hold_cells(run: Run, given: Given) -> None:
    """For models without guides: each picture becomes the known cell that holds its frame; beside a known cell none is needed."""
    run.samples = run.samples.clone()
    run.mask = torch.ones_like(run.samples[:, :1]) if run.mask is None else run.mask.expand(len(run.samples), -1, -1, -1, -1).clone()
    for guide, held in zip(given.canvas.guides, given.held):
        if beside_known(given.canvas, guide):
            continue
        cell = given.canvas.shape.strides.cell_of_frame(guide.frame)
        run.samples[:, :, cell] = held[:, :, 0].to(run.samples)
        run.mask[:, :, cell] = 0
