"""The system without the host: model, lattice, sampling, world, training. Never imports comfy or nodes."""
