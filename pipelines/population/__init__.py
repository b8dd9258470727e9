"""A synthetic population: people with known latents, their faces, their voices, and mp4 clips of them talking.

The voice and the lower face (jaw, chin, mouth, nose, with gender and age) share latents; the upper face (eyes, brows,
forehead, hair, with a gender and an age of its own) is independent of the voice. `corpus.synthesize` writes it all in
VoxCeleb2's layout with the truth beside it, so whatever is learnt from a voice can be checked against what was put in.

The way through the files: people -> (anatomy, look) -> portrait -> animation, people -> voices -> espeak, both ->
recording -> corpus. Everything is a function of (seed, speaker, video).
"""
