"""Fine-portraitist: a codec of faces and speech, and latent diffusion on it."""
