"""Voices: from a person's latents to an espeak-ng voice, and what a video's microphone hears of it.

The shared latents set pitch, length of the vocal tract and formants. Residuals that no face shows make the voice the
person's own: without them speakers of similar faces could not be told apart.
"""

import importlib.util
import json
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve, resample_poly

from featurestore.errors import UsageError, VoxportraitError
from pipelines.population.people import Person, stream
from pipelines.population.sentences import SENTENCES

SAMPLING_RATE = 16000
SECONDS = 6
ACCENTS = ("en-us", "en-us-nyc", "en", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp", "en-029")
ACCENT_WEIGHTS = (0.2, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1)
HIGH_FORMANTS = range(3, 9)


@dataclass(frozen=True)
class Voice:
    """What espeak-ng is told of a person, and how far it differs from other people's of the same face.

    is_man: which of espeak-ng's two kinds; f0: Hz; span: range of F0 relative to it; tract: length of the vocal tract
    (a man's is 1); rate: words a minute; mouth, nose, chin: the person's latents; breath, roughness, flutter, accent:
    as espeak-ng has them; the rest are residuals (standard normal, clipped to 2): high_formants and high_heights (6,),
    width, consonants (2,), tone (3,).
    """

    is_man: bool
    f0: float
    span: float
    tract: float
    rate: float
    mouth: float
    nose: float
    chin: float
    breath: float
    roughness: int
    flutter: float
    accent: str
    high_formants: np.ndarray
    high_heights: np.ndarray
    width: float
    consonants: np.ndarray
    tone: np.ndarray


def draw_voice(person: Person) -> Voice:
    """The person's voice: a function of the person alone."""
    random = stream(person.seed, "voice", person.index)
    man, older, jaw = person.gender, person.age - 0.4, person.jaw
    log_f0 = man * np.log(112) + (1 - man) * np.log(200) + 0.10 * random.normal() - 0.05 * jaw
    log_f0 += 0.06 * older * man - 0.10 * older * (1 - man)
    residuals = np.clip(random.normal(size=18), -2, 2)
    return Voice(
        is_man=person.is_man,
        f0=float(np.exp(log_f0)),
        span=float(np.clip(0.38 + 0.10 * random.normal(), 0.15, 0.7)),
        tract=float((man + 0.87 * (1 - man)) * np.exp(0.055 * jaw)),
        rate=168 - 38 * older + 10 * random.normal(),
        mouth=person.mouth,
        nose=person.nose,
        chin=person.chin,
        breath=float(np.clip(2 + 6 * (person.age - 0.3) + random.normal(), 0, 9)),
        roughness=round(1 + 4 * person.age),
        flutter=float(np.clip(2 + 2 * random.normal(), 0, 10)),
        accent=str(random.choice(ACCENTS, p=ACCENT_WEIGHTS)),
        high_formants=residuals[:6],
        high_heights=residuals[6:12],
        width=float(residuals[12]),
        consonants=residuals[13:15],
        tone=residuals[15:18],
    )


def variant(voice: Voice) -> str:
    """The voice as the lines of an espeak-ng voice variant.

    `formant` lines give frequency, height and width in percent, `tone` pairs of a frequency and an amplitude.
    """
    scale, mouth, nose, chin = 100 / voice.tract, voice.mouth, voice.nose, voice.chin
    formants = [
        (0, scale, max(40, 100 + 25 * nose), 100),
        (1, scale * (1 + 0.06 * mouth), 100 - 8 * nose, max(50, 100 + 22 * max(nose, -2))),
        (2, scale * (1 - 0.05 * mouth), 100 + 10 * mouth - 6 * nose, 100),
    ]
    for number, shift, height in zip(HIGH_FORMANTS, voice.high_formants, voice.high_heights, strict=True):
        heights = max(20, 100 - 6 * chin * (number - 2) + 12 * height)
        formants.append((number, scale * (1 + 0.045 * shift), heights, np.clip(100 + 20 * voice.width, 60, 150)))
    tone = (
        (250, 150 + 30 * nose + 14 * voice.tone[0]),
        (900, 150 - 28 * nose),
        (1800, 135 - 12 * chin + 16 * voice.tone[1]),
        (3000, 120 - 16 * chin + 16 * voice.tone[2]),
    )
    lines = [
        f"gender {'male' if voice.is_man else 'female'}",
        f"pitch {voice.f0 * (1 - voice.span / 2):.0f} {voice.f0 * (1 + voice.span / 2):.0f}",
        *(
            f"formant {number} {frequency:.0f} {height:.0f} {width:.0f}"
            for number, frequency, height, width in formants
        ),
        "tone " + " ".join(f"{frequency} {np.clip(amplitude, 20, 255):.0f}" for frequency, amplitude in tone),
        f"roughness {voice.roughness}",
        f"flutter {voice.flutter:.0f}",
        "consonants " + " ".join(f"{np.clip(100 + 15 * z, 50, 150):.0f}" for z in voice.consonants),
        "breath 0 " + " ".join(f"{voice.breath * share:.0f}" for share in (2, 3, 3, 3, 3, 3, 2)),
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Utterance:
    """text: what is said (speech may end before it does); samples: (96000,) float32 in -1..1, 6 s at 16 kHz."""

    text: str
    samples: np.ndarray


def say(person: Person, video: int) -> Utterance:
    """What the person says in the video with this number, as the room's microphone hears it."""
    voice, random = draw_voice(person), stream(person.seed, "speech", person.index, video)
    text = " ".join(random.choice(SENTENCES, size=3, replace=False))
    request = {
        "voice": variant(voice),
        "language": voice.accent,
        "rate": round(voice.rate + 5 * random.normal()),
        "pitch": round(float(np.clip(50 + 4 * random.normal(), 30, 70))),
        "range": 50,
        "text": text,
        "seed": int(random.integers(1 << 31)),
    }
    count = SAMPLING_RATE * SECONDS
    dry = _synthesise(request)[:count]
    heard = _in_room(np.pad(dry, (0, count - len(dry))), random)
    return Utterance(text, (heard / np.abs(heard).max() * 0.8).astype(np.float32))


def require_espeak() -> None:
    """Raise a UsageError where espeak-ng is not installed."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise UsageError("voices need espeak-ng: install the extra with `pip install 'voxportrait[synth]'`")


def _synthesise(request: dict) -> np.ndarray:
    """(n,) samples at 16 kHz of what espeak-ng answers to the request (see `espeak.py`)."""
    require_espeak()
    command = [sys.executable, "-P", str(Path(__file__).with_name("espeak.py"))]
    answer = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, check=False)
    if answer.returncode:
        raise VoxportraitError(f"espeak-ng failed: {answer.stderr.decode(errors='replace').strip()[-300:]}")
    (rate,) = struct.unpack_from("<I", answer.stdout)
    samples = np.frombuffer(answer.stdout, "<i2", offset=4).astype(np.float64) / 32768
    common = np.gcd(rate, SAMPLING_RATE)
    return resample_poly(samples, SAMPLING_RATE // common, rate // common)


def _in_room(dry: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Speech with the video's own microphone (a one-tap filter), room (a short echo) and noise (18 to 35 dB below)."""
    filtered = dry + random.uniform(-0.35, 0.35) * np.concatenate([[0], dry[:-1]])
    length = int(0.12 * SAMPLING_RATE * random.uniform(0.3, 1))
    echo = random.normal(size=length) * np.exp(-5 * np.arange(length) / length)
    echo *= random.uniform(0.05, 0.25) / np.linalg.norm(echo)
    echo[0] = 1
    wet = fftconvolve(filtered, echo)[: len(dry)]
    noise = np.sqrt((wet**2).mean() / 10 ** (random.uniform(18, 35) / 10))
    return wet + noise * random.normal(size=len(wet))
