"""Splits of speakers where the corpus gives none. A speaker is in one split; clips are never divided."""

import hashlib

TEST_SHARE = VALIDATION_SHARE = 0.1


def split_of(dataset: str, speaker_id: str, official: str = "") -> str:
    """`train`, `val` or `test`. official: the corpus's own set, `test` or another; "" where it gives none.

    The official test set is kept whole; without one a tenth of the speakers is test. Of the rest a tenth is validation.
    """
    is_test = official == "test" if official else _hash("test", dataset, speaker_id) < TEST_SHARE
    if is_test:
        return "test"
    return "val" if is_validation(dataset, speaker_id) else "train"


def is_validation(dataset: str, speaker_id: str) -> bool:
    """Whether a hash of the speaker puts it among the tenth held out for validation; the same for ever, everywhere."""
    return _hash("validation", dataset, speaker_id) < VALIDATION_SHARE


def _hash(purpose: str, dataset: str, speaker_id: str) -> float:
    hashed = hashlib.sha256(f"voxportrait {purpose}/{dataset}/{speaker_id}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64
