"""Read dynamical isometry: the Jacobian of tanh networks, at every depth and as a density.

Orthogonal weights at the edge of chaos keep the singular values of the Jacobian near 1 at any
depth, Gaussian weights do not (Pennington, Schoenholz & Ganguli 2017).

Run: python examples/11_read_jacobians.py [--quick]
"""

import sys
from functools import partial

import torch
from torch import nn

import sigprop
from sigprop import theory

QUICK = "--quick" in sys.argv
DEPTH, WIDTH, SEEDS = (6, 48, 3) if QUICK else (16, 96, 4)
GAIN = 1.05  # just above 1, the edge of chaos of tanh without biases


def network(orthogonal: bool) -> nn.Sequential:
    """Return a tanh network with Gaussian or orthogonal weights."""
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layer = nn.Linear(WIDTH, WIDTH, bias=False)
        if orthogonal:
            nn.init.orthogonal_(layer.weight, GAIN)
        else:
            nn.init.normal_(layer.weight, std=GAIN / WIDTH**0.5)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers)


def main() -> None:
    """Print what becomes of the spectrum, and which law of depth the norms follow."""
    torch.manual_seed(0)
    x = 0.1 * torch.randn(4, WIDTH)
    for name, orthogonal in (("Gaussian", False), ("orthogonal", True)):
        net = network(orthogonal)
        whole = sigprop.spectra.summary(sigprop.spectra.jacobian(net, x)).iloc[0]
        density = sigprop.spectra.jacobian(net, x, density=True)
        near_one = density["mass"][density["singular_value"].between(0.5, 2)].sum()
        records = sigprop.measure(
            partial(network, orthogonal),
            x,
            seeds=SEEDS,
            blocks=lambda name, module: isinstance(module, nn.Tanh),
            spectra=False,
            cotangent="rademacher",
        )
        norms = sigprop.spectra.jacobian_norms(records)
        fit = theory.decay_fits(norms.index + 1, norms["norm"])[0]
        print(
            f"{name}: largest value {whole.spectral_norm:.2f}, condition "
            f"{whole.condition_number:.3g}, {near_one:.0%} of the values between 1/2 and 2; "
            f"norms over depth: {fit.name}"
        )


if __name__ == "__main__":
    main()
