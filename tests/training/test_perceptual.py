"""LPIPS is the reference's, and its file is read without running anything."""

import io
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from featurestore.errors import VoxportraitError
from training.latent.perceptual import BLOCKS, Perceptual, read_weights


@pytest.fixture(scope="module")
def file() -> Path:
    from pipelines import weights

    return weights.ensure("lpips") / "vgg16.ckpt"


@pytest.fixture(scope="module")
def distance(file) -> Perceptual:
    return Perceptual.load(file)


def pictures(number: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth pictures in -1..1 with some noise."""
    noise = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, 3, 4, 4, generator=noise) * 2 - 1
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth + 0.1 * torch.randn(number, 3, height, width, generator=noise)).clamp(-1, 1)


@pytest.fixture(scope="module")
def reference(file):
    """torchmetrics' LPIPS with its own linear layers, on torchvision's VGG16 with the convolutions of the file."""
    import torchmetrics.functional.image.lpips as lpips

    linear = torch.load(
        Path(lpips.__file__).with_name("lpips_models") / "vgg.pth", map_location="cpu", weights_only=True
    )
    with torch.device("meta"):  # no time for weights that are replaced
        network = lpips._LPIPS(pretrained=False, net="vgg", pnet_rand=True)
    network.load_state_dict(linear, strict=False, assign=True)
    arrays = read_weights(file)
    convolutions = [layer for layer in network.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == sum(map(len, BLOCKS))
    for n, layer in enumerate(convolutions):
        own = {"weight": torch.tensor(arrays[f"kernel{n}"]), "bias": torch.tensor(arrays[f"bias{n}"])}
        layer.load_state_dict(own, assign=True)
    return network


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 72)])
def test_the_distance_is_that_of_the_reference(distance, reference, height, width):
    ones, others = pictures(3, height, width), pictures(3, height, width, seed=1)
    others[1] = ones[1] + 0.02 * others[1]
    wanted = reference(ones, others).flatten()
    assert wanted.min() < 0.1 < wanted.max()
    torch.testing.assert_close(distance(ones, others), wanted, rtol=1e-4, atol=0)


def test_the_gradient_is_that_of_the_reference(distance, reference):
    drawn, truth = pictures(2, 64, 64).requires_grad_(), pictures(2, 64, 64, seed=1)
    wanted = torch.autograd.grad(reference(drawn, truth).sum(), drawn)[0]
    found = torch.autograd.grad(distance(drawn, truth).sum(), drawn)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_one_picture_may_be_compared_with_many(distance):
    ones, other = pictures(3, 32, 32), pictures(1, 32, 32, seed=1)
    torch.testing.assert_close(distance(ones, other), distance(ones, other.expand_as(ones)))


def test_equal_pictures_have_no_distance_and_a_finite_gradient(distance):
    drawn = torch.zeros(1, 3, 32, 32, requires_grad=True)
    found = distance(drawn, torch.zeros(1, 3, 32, 32))
    found.sum().backward()
    assert found.tolist() == [0]
    assert drawn.grad is not None
    assert drawn.grad.isfinite().all()


def test_the_distance_has_nothing_to_train_and_nothing_to_save(distance):
    assert list(distance.parameters()) == []
    assert distance.state_dict() == {}
    assert not distance(pictures(1, 32, 32), pictures(1, 32, 32, seed=1)).requires_grad


def test_half_precision_gives_nearly_the_same(distance):
    ones, others = pictures(2, 64, 64), pictures(2, 64, 64, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = distance(ones, others)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, distance(ones, others), rtol=0.02, atol=0)


def test_pictures_that_are_too_small_are_refused(distance):
    with pytest.raises(ValueError, match="16 px"):
        distance(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def test_without_the_file_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path))
    with pytest.raises(VoxportraitError, match=r"models fetch lpips, or train with --set perceptual=0") as caught:
        Perceptual.load()
    assert str(tmp_path / "lpips" / "vgg16.ckpt") in str(caught.value)


class Runs:
    """Something that runs a program where it is unpickled freely."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return subprocess.check_call, (["touch", str(self.marker)],)


def test_a_file_that_would_run_something_is_refused(tmp_path):
    (tmp_path / "vgg16.ckpt").write_bytes(pickle.dumps({"VGG16_0": Runs(tmp_path / "ran")}))
    with pytest.raises(VoxportraitError, match=r"names subprocess\.check_call.*models fetch lpips"):
        read_weights(tmp_path / "vgg16.ckpt")
    assert not (tmp_path / "ran").exists()


def written(tree: object) -> bytes:
    """A pickle as NumPy 1 wrote it."""
    file = io.BytesIO()
    pickle.dump(tree, file, protocol=2)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


OTHER_SHAPES = {f"Conv_{n}": {"kernel": np.zeros((3, 3, 3, 64)), "bias": np.zeros(64)} for n in range(13)}


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", written({}), written(np.zeros(3)), written({"VGG16_0": OTHER_SHAPES})]
)
def test_a_file_of_something_else_is_one_clear_line(content, tmp_path):
    (tmp_path / "vgg16.ckpt").write_bytes(content)
    with pytest.raises(VoxportraitError, match="does not hold the weights of LPIPS") as caught:
        read_weights(tmp_path / "vgg16.ckpt")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(file, tmp_path):
    (tmp_path / "vgg16.ckpt").write_bytes(file.read_bytes()[:1_000_000])
    with pytest.raises(VoxportraitError, match="does not hold the weights of LPIPS"):
        read_weights(tmp_path / "vgg16.ckpt")
