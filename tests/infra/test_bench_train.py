import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from infra.bench.precision import apart, group_of
from infra.bench.steps import tf32
from infra.bench.train import operations
from training.fast_unet import use_tensor_cores
from training.presets import stage_preset
from training.stages import settings_of

BARE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "lance", "lancedb", "pyarrow"):
            raise ModuleNotFoundError(f"{name} is not on this machine", name=name)
sys.meta_path.insert(0, Blocked())
import json
from infra.bench import latent, precision, train
latent.DRAWN = (2, 1)
print(json.dumps([train.run("micro", rounds=1), precision.run("micro", steps=2)]))
"""
"""The benchmarks of training on a machine that has neither Ray nor Lance nor Arrow."""


@pytest.fixture(scope="module")
def measured():
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, timeout=900, env=alone)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_training_is_measured_against_imagentrainer_on_a_bare_machine(measured):
    found, _ = measured
    assert (found["preset"], found["device"]) == ("micro", "cpu")
    assert found["torch"] == torch.__version__
    for number, name in enumerate(("unet1", "unet2"), start=1):
        stage = found["stages"][name]
        settings = stage_preset("micro", number)
        assert stage["micro_batch"] == stage["batch_size"] == settings.batch_size
        assert stage["peak_gib"] is None
        flop = operations(number, settings)
        assert stage["tflops"] == pytest.approx(stage["samples_per_second"] * flop / 1e12)
        assert stage["share_of_peak"] == pytest.approx(stage["tflops"] / stage["peak_tflops"])
        assert stage["imagentrainer"]["micro_batch"] == 2
        assert stage["imagentrainer_best"]["micro_batch"] in (2, 4)
        assert stage["imagentrainer"]["tf32"] == {"matrix_products": False, "convolutions": True}
        for other in ("imagentrainer", "imagentrainer_best"):
            ratio = stage["samples_per_second"] / stage[other]["samples_per_second"]
            assert found["ratios"][f"{name}_vs_{other}"] == pytest.approx(ratio)


def test_latent_stages_are_measured_in_training_and_in_drawing(measured):
    found, _ = measured
    for name in ("codec", "bottom", "upper"):
        stage = found["stages"][name]
        assert stage["batch_size"] == stage["micro_batch"] == settings_of(name, "micro").batch_size
        assert stage["tflops"] == pytest.approx(stage["samples_per_second"] * stage["gflop_per_sample"] / 1e3)
        assert 0 < stage["share_of_peak"] == pytest.approx(stage["tflops"] / stage["peak_tflops"])
    assert set(found["pictures_per_second"]) == {"2", "1"}
    assert all(speed > 0 for speed in found["pictures_per_second"].values())


def test_bfloat16_is_compared_with_float32_in_gradients_and_in_a_run(measured):
    _, found = measured
    for stage in found["stages"].values():
        for gradients in (stage["gradients"]["fresh"], stage["gradients"]["warm"]):
            for kind in ("bfloat16", "rounded"):
                assert gradients[kind]["distance"] > 0
                assert gradients[kind]["cosine"] > 0.5
                assert "final_conv" in gradients[kind]["groups"]
        losses = stage["losses"]
        assert losses["bfloat16"][0] == pytest.approx(losses["float32"][0], rel=0.05)
        assert losses["bfloat16"] != losses["float32"]
        assert len(losses["bfloat16"]) == found["steps"] == 2


def test_operations_are_of_the_librarys_unet_forward_and_backward():
    assert operations(1, stage_preset("paper", 1)) == pytest.approx(150.1e9, rel=0.001)
    second = stage_preset("micro", 2)
    whole, cropped = (operations(2, replace(second, crop=crop)) for crop in (0, 64))
    assert 3 < whole / cropped < 4


def test_gradients_are_told_apart_by_group():
    one = {"downs.0.x.weight": torch.tensor([3.0, 4.0]), "final_conv.bias": torch.tensor([1.0])}
    other = {"downs.0.x.weight": torch.tensor([3.0, 4.0]), "final_conv.bias": torch.tensor([-1.0])}
    found = apart(one, other)
    assert found["groups"]["downs.0"] == {"cosine": pytest.approx(1), "distance": 0}
    assert found["groups"]["final_conv"] == {"cosine": pytest.approx(-1), "distance": 2}
    assert found["distance"] == pytest.approx(2 / 26**0.5)
    assert [group_of(name) for name in ("ups.3.0.block1.norm.gamma", "mid_attn.layers.0.0.q_scale")] == [
        "ups.3",
        "mid_attn",
    ]


def test_a_cpu_is_left_as_it_is():
    before = tf32()
    use_tensor_cores(torch.device("cpu"))
    assert tf32() == before
