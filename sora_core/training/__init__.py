"""Training of the VAE, and of the text encoder and transformer, on videos of the procedural world or of a user's folder.

bank, live, clips            latents to train on: in shards on a disk, in the memory of a GPU, of a user's videos
objective                    one batch: which cells are seen, what is known of them, how noisy the rest is, in which words
vae, text, transformer       what is trained, in this order: the VAE, the reading of captions, both models together
tune, lora                   a user's videos: all weights, or an adapter
run, optim, feed, group      folder and budget of a run, optimiser and average, captions written ahead, several processes
gpu, ship                    all of it in one command; a run as files of the pack
sheet, curve, probe, studies    what a run looks like, how its loss fell, how fast this machine is, what more of it buys
"""
