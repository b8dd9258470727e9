"""espeak-ng in a process of its own (it is GPL): one request on standard input, one utterance on standard output.

    python espeak.py < request.json > speech.pcm

The request is JSON: `voice` (the lines of an espeak-ng voice variant), `language`, `rate` (words a minute), `pitch` and
`range` (0..100, 50 as usual), `text`, `seed`. The answer is the sampling rate as a little-endian uint32, then samples,
int16.
One process speaks one utterance: the noise in a voice goes on from what was said before, and espeak-ng starts it from
the clock unless it is given a seed.
Only the standard library and `espeakng_loader`, which carries the library and its data, are imported here.
"""

import ctypes
import json
import struct
import sys
import tempfile
from pathlib import Path

import espeakng_loader

SYNCHRONOUS, CHARACTER_POSITION, UTF8 = 2, 1, 1
RATE, PITCH, RANGE = 1, 3, 4
VARIANT = "person"

SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def data_with_variant(folder: Path, variant: str) -> None:
    """Make `folder`/espeak-ng-data: the package's data by links, and a voice variant of our own."""
    data = folder / "espeak-ng-data"
    variants = data / "voices" / "!v"
    variants.mkdir(parents=True)
    for part in Path(espeakng_loader.get_data_path()).iterdir():
        if part.name != "voices":
            (data / part.name).symlink_to(part)
    (variants / VARIANT).write_text(f"language variant\nname {VARIANT}\n{variant}")


def speak(request: dict) -> tuple[int, bytes]:
    """Sampling rate and int16 samples of the utterance. SystemExit says what espeak-ng refused."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    pieces: list[bytes] = []

    @SynthCallback
    def collect(samples, count, events):
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    with tempfile.TemporaryDirectory(prefix="espeak") as folder:
        data_with_variant(Path(folder), request["voice"])
        rate = library.espeak_Initialize(SYNCHRONOUS, 0, folder.encode(), 0)
        if rate <= 0:
            sys.exit(f"espeak-ng does not start: error {rate}")
        library.espeak_ng_SetRandSeed(ctypes.c_long(request["seed"]))
        library.espeak_SetSynthCallback(collect)
        if library.espeak_SetVoiceByName(f"{request['language']}+{VARIANT}".encode()):
            sys.exit(f"espeak-ng has no voice of language {request['language']!r}")
        for parameter, name in ((RATE, "rate"), (PITCH, "pitch"), (RANGE, "range")):
            library.espeak_SetParameter(parameter, int(request[name]), 0)
        text = request["text"].encode()
        size = ctypes.c_size_t(len(text) + 1)
        if library.espeak_Synth(text, size, 0, CHARACTER_POSITION, 0, UTF8, None, None):
            sys.exit("espeak-ng does not speak this text")
        library.espeak_Synchronize()
    return rate, b"".join(pieces)


if __name__ == "__main__":
    sampling_rate, samples = speak(json.load(sys.stdin))
    sys.stdout.buffer.write(struct.pack("<I", sampling_rate) + samples)
