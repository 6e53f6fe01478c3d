"""Training of the VAE, and of the text encoder and transformer, on videos of the procedural world."""
