"""The job on real media: everything filled, bad clips apart, and a kill that leaves no trace."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest

from featurestore.queries import digest
from pipelines.decoding import open_media
from pipelines.detectors import DETECTORS
from tests.conftest import CLIPS, SPEAKERS, TRAINED

NAMED = ("--constituents", ",".join(TRAINED), "--detector", "fastmtcnn")


def voxportrait(*arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "voxportrait", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_every_good_clip_gets_every_constituent(filled):
    counts = filled.coverage()["constituents"]
    sound = {"ecapa", "mel", "mel_log", "short_term", "speech"}
    picture = {"face", "face_128", "face_parts", "face_embedding_dlib"}
    for key in TRAINED:
        lost = 2 if key in sound | picture else 1 if key == "media" else 0
        assert counts[key]["filled"] == CLIPS + 3 - lost, key


def test_bad_clips_are_quarantined_with_a_reason_each(filled, spoiled):
    bad = spoiled[1]
    rows = filled.table("quarantine").to_table().to_pylist()
    assert {(r["clip_id"], r["constituent"], r["reason"]) for r in rows} == {
        (bad.truncated, "media", "truncated"),
        (bad.without_sound, "sound", "no sound"),
        (bad.without_face, "face", "no face"),
    }
    assert all(len(r["message"]) > 10 for r in rows)


def test_a_clip_without_sound_still_gives_its_face(filled, spoiled):
    row = filled.sql(f"select ecapa_maker, face_maker from clips where clip_id = '{spoiled[1].without_sound}'")
    assert row.ecapa_maker.isna().all()
    assert row.face_maker.notna().all()


def test_the_job_is_recorded(filled):
    job = filled.info()["last_job"]
    assert job["state"] == "finished"
    assert job["counts"]["clips"] == CLIPS + 3
    assert job["counts"]["quarantined"] == {"truncated": 1, "no sound": 1, "no face": 1}
    assert set(TRAINED) <= set(job["seconds"])


def test_a_second_run_fills_nothing(filled, spoiled):
    run = voxportrait("extract", "voxceleb2", spoiled[0], "--store", filled.uri, *NAMED, "--json")
    out, err = run.communicate()
    assert run.returncode == 0, err
    done = json.loads(out.splitlines()[-1])
    assert (done["registered"], done["clips"], done["filled"]) == (0, 0, {})


def test_a_killed_job_run_again_gives_the_same_store(filled, spoiled, ray_here, tmp_path):
    store, orders = tmp_path / "store", tmp_path / "orders"
    fast = [key for key in TRAINED if key != "ecapa"]
    named = ("--constituents", ",".join(fast), "--detector", "fastmtcnn")
    command = ("extract", "voxceleb2", spoiled[0], "--store", store, *named, "--journal-every", "0")
    orders.mkdir()
    (orders / "before commit").touch()  # at the latest
    killed = voxportrait(*command, start_new_session=True, env=os.environ | {"VOXPORTRAIT_FAILPOINTS": str(orders)})
    while not list((store / "_journal").glob("*.arrow")) and killed.poll() is None:
        time.sleep(0.1)
    with suppress(ProcessLookupError):
        os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    again = voxportrait(*command, "--ray-address", ray_here, "--json")
    out, err = again.communicate()
    assert again.returncode == 0, err
    done = json.loads(out.splitlines()[-1])
    assert done["resumed"] >= 1
    assert done["clips"] + done["resumed"] == CLIPS + 3
    from featurestore.store import Store

    assert digest(Store.open(str(store)), fast) == digest(filled, fast)


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """Where as many same pairs are refused as different ones are taken; similarities."""
    thresholds = np.sort(np.concatenate([same, different]))
    refused = np.searchsorted(np.sort(same), thresholds) / len(same)
    taken = 1 - np.searchsorted(np.sort(different), thresholds) / len(different)
    nearest = np.argmin(np.abs(refused - taken))
    return float((refused[nearest] + taken[nearest]) / 2)


@pytest.mark.parametrize(("key", "metric"), [("ecapa", "cosine"), ("face_embedding_dlib", "euclidean")])
def test_the_same_speaker_is_nearer_than_others(filled, spoiled, key, metric):
    table = filled.sql(f"select speaker_id, clip_id, {key} from clips where {key}_maker is not null order by clip_id")
    table = table[~table.clip_id.isin([spoiled[1].without_sound, spoiled[1].without_face])]
    vectors = np.stack(table[key]).astype(np.float64)
    if metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        likeness = vectors @ vectors.T
    else:
        likeness = -np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    speaker = table.speaker_id.to_numpy()
    same = speaker[:, None] == speaker[None]
    pairs = np.triu(np.ones_like(same), 1).astype(bool)
    assert len(table) == CLIPS
    assert equal_error_rate(likeness[same & pairs], likeness[~same & pairs]) < 0.05


def test_the_detector_finds_every_speaker_s_face_in_nearly_every_frame(corpus):
    detector = DETECTORS["fastmtcnn"]()
    detector.load("cpu")
    found = []
    for path in sorted(corpus.glob("*/mp4/*/*/*.mp4"))[:: CLIPS // SPEAKERS]:
        media = open_media(str(path))
        found += [
            bool(detector.detect(media.frame(i), None)) for i in (10, media.frame_count // 2, media.frame_count - 10)
        ]
    assert len(found) == 3 * SPEAKERS
    assert np.mean(found) >= 0.98
