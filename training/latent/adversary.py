"""An adversary of the face decoder: is each patch of a picture real? (Isola et al. 2017, arXiv 1611.07004.)"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from training.latent.speech import norm

LEVELS = 3


class Discriminator(nn.Module):
    """Pictures (B, 3, S, S) in -1..1 -> (B, S/8, S/8), positive where a patch looks real."""

    def __init__(self, width: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(LEVELS - 1):
            layers += [nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), norm(2 * width), nn.LeakyReLU(0.2)]
            width *= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures).squeeze(1)


def fooling(discriminator: Discriminator, drawn: Tensor) -> Tensor:
    """(B,): what the decoder is to bring down, -D(drawn). No gradient goes to the discriminator."""
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    return -functional_call(discriminator, frozen, (drawn,)).float().mean((1, 2))


def telling_apart(discriminator: Discriminator, real: Tensor, drawn: Tensor) -> Tensor:
    """(B,): what the discriminator is to bring down, the hinge loss. No gradient goes to what is drawn."""
    real_score, drawn_score = discriminator(real).float(), discriminator(drawn.detach()).float()
    return (F.relu(1 - real_score) + F.relu(1 + drawn_score)).mean((1, 2))
