"""Splits of speakers where the corpus gives none. A speaker is in one split; clips are never divided."""

import hashlib

VALIDATION_SHARE = 0.1


def is_validation(dataset: str, speaker_id: str) -> bool:
    """Whether a hash of the speaker puts it among the tenth held out for validation; the same for ever, everywhere."""
    hashed = hashlib.sha256(f"voxportrait validation/{dataset}/{speaker_id}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") < VALIDATION_SHARE * 2**64
