"""Changes to a model of one's own: each says what it changed, and refuses what it cannot change."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sigprop.errors import BadInput
from sigprop.networks.first_batch import BiasBefore
from sigprop.networks.gains import centered_gain
from sigprop.networks.layers import Add
from sigprop.networks.rescale import coefficients, depth_constant
from sigprop.networks.submodules import (
    Change,
    check_batch,
    run_in_evaluation,
    submodules,
    weighted_layers,
)
from sigprop.networks.weights import standardize


class RescaledAdd(Add):
    """A residual addition with coefficients: alpha skip + m beta branch, of the operands' shape.

    Its ports see the operands before they are scaled.

    Args:
        alpha: coefficient of the skip.
        beta: coefficient of the branch.
        multiplier: whether m is learned; 1 at first.

    Example:
        >>> RescaledAdd(0.5, 0.25, multiplier=False)(torch.ones(1), torch.ones(1)).item()
        0.75
    """

    def __init__(self, alpha: float, beta: float, multiplier: bool = True) -> None:
        super().__init__()
        self.alpha, self.beta = float(alpha), float(beta)
        self.m = nn.Parameter(torch.ones(1)) if multiplier else None

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return ``alpha * skip + m * beta * branch``.

        Args:
            skip: the operand that passes the block by.
            branch: the output of the residual function.

        Returns:
            A tensor of the broadcast shape.
        """
        scaled = self.beta * branch if self.m is None else self.m * self.beta * branch
        return self.alpha * skip + scaled

    def extra_repr(self) -> str:
        """Return the coefficients, for the module's repr."""
        return f"alpha={self.alpha:.6g}, beta={self.beta:.6g}"


def rescale_(
    model: nn.Module, c: float | str | None = None, multiplier: bool = True
) -> list[Change]:
    """Give a model's residual additions RescaleNet's coefficients, first addition first.

    An addition is a module `Add`: write ``self.add = Add()`` and ``self.add(x, f(x))`` where a
    block has ``x + f(x)``. The k-th of L becomes alpha_k x + m_k beta_k f(x), in the order in which
    modules were assigned, which has to be that of execution. In a stage's first block the skip is
    a shortcut: whether alpha² + beta² = 1 keeps the variance there depends on the shortcut.

    Source: Shao et al. 2020.

    Args:
        model: changed in place.
        c: the paper's constant; L when not given, ``"official"`` for L - 1.
        multiplier: whether m_k is learned.

    Returns:
        One `Change` per addition.

    Raises:
        BadInput: the model has no such addition, one used in two layers, or was rescaled before.

    Example:
        >>> from sigprop.networks import build
        >>> print(rescale_(build("plain", depth=2, width=4))[0])
        blocks.0.add: alpha_1 = 0.816497, beta_1 = 0.57735, learned multiplier
    """
    if any(isinstance(module, RescaledAdd) for module in model.modules()):
        raise BadInput("the model's additions have coefficients already")
    found = [submodule for submodule in submodules(model) if type(submodule.module) is Add]
    if not found:
        raise BadInput(
            "no residual addition can be found: additions written x + f(x) have no module; write "
            "them as sigprop.networks.Add()(x, f(x)) in the model's blocks"
        )
    alphas, betas = coefficients(len(found), depth_constant(c, len(found)))
    changes = []
    for k, (submodule, alpha, beta) in enumerate(zip(found, alphas, betas, strict=True), start=1):
        made = RescaledAdd(alpha, beta, multiplier).train(submodule.module.training)
        reference = next(model.parameters(), None)
        submodule.replace_by(made if reference is None else made.to(reference))
        learned = ", learned multiplier" if multiplier else ""
        what = f"alpha_{k} = {alpha:.6g}, beta_{k} = {beta:.6g}{learned}"
        changes.append(Change(submodule.name, what))
    return changes


def standardize_(model: nn.Module, activation: str = "relu", linears: bool = False) -> list[Change]:
    """Give a model's convolutions scaled weight standardization with γ of an activation.

    Ŵ_i = γ g_i (W_i - mean W_i)/√(fan_in Var W_i), a parametrization of ``weight``; g is learned
    and starts at 1. The function changes: normalization layers may be taken out afterwards.

    Source: Brock et al. 2021a, eq. 1.

    Args:
        model: changed in place.
        activation: what stands in front of the convolutions; ``"identity"`` for γ = 1.
        linears: standardize linear layers too.

    Returns:
        One `Change` per layer.

    Raises:
        BadInput: no layer to standardize, an unknown activation, a layer that is parametrized
            already, lazy, or has one single input per output.

    Example:
        >>> [str(change) for change in standardize_(nn.Sequential(nn.Conv2d(2, 3, 3)))]
        ['0: weight standardized, gamma 1.71286']
    """
    gamma = centered_gain(activation)
    kinds = (nn.Conv2d, nn.Linear) if linears else (nn.Conv2d,)
    found = weighted_layers(model, kinds)
    for submodule in found:
        if submodule.layer.weight[0].numel() == 1:
            raise BadInput(f"{submodule.name!r} has one input per output: its variance is 0")
    for submodule in found:
        standardize(submodule.layer, gamma)
    return [
        Change(submodule.name, f"weight standardized, gamma {gamma:.6g}") for submodule in found
    ]


def center_(model: nn.Module, inputs: Tensor | None = None) -> list[Change]:
    """Put a bias in front of every convolution and linear layer: minus the mean of a first batch.

    The layer becomes ``Sequential(bias=BiasBefore, weight=layer)``, so its parameters' names get a
    ``weight.`` more; an optimizer made before does not have the new biases. A bias after the weight
    that is there stays. Biases are set by a forward pass on ``inputs``, in which all else is in
    evaluation mode and nothing but them changes, or by the first training batch.

    Source: Shao et al. 2020 (RescaleNet).

    Args:
        model: changed in place.
        inputs: the batch that sets the biases; None to wait for training.

    Returns:
        One `Change` per layer; ``done`` is False for a layer that the pass did not reach.

    Raises:
        BadInput: no such layer, one that is lazy, parametrized or used in two layers, or a batch
            that is empty, of one sample, or holds NaN or infinity.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3))
        >>> print(center_(model, torch.tensor([[1.0, 0.0], [3.0, 0.0]]))[0])
        0: bias of 2 in front, norm 2
    """
    if inputs is not None:
        check_batch(inputs)
    found = weighted_layers(model, (nn.Conv2d, nn.Linear))
    biases = []
    for submodule in found:
        layer = submodule.layer
        convolution = isinstance(layer, nn.Conv2d)
        channels = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
        bias = BiasBefore(channels, 2 if convolution else 0).to(layer.weight)
        both = nn.Sequential()
        both.add_module("bias", bias)
        both.add_module("weight", layer)
        submodule.replace_by(both.train(layer.training))
        biases.append(bias)
    if inputs is None:
        words = [f"bias of {bias.channels} in front, waits for a first batch" for bias in biases]
        return [Change(p.name, what) for p, what in zip(found, words, strict=True)]
    run_in_evaluation(model, inputs, training=biases)
    return [
        Change(p.name, f"bias of {bias.channels} in front, norm {bias.bias.norm().item():.6g}")
        if bias.initialized
        else Change(p.name, "bias in front is 0: the forward pass did not reach it", done=False)
        for p, bias in zip(found, biases, strict=True)
    ]
