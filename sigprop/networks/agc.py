"""Adaptive gradient clipping: a unit's gradient is held below a share of its weight's norm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from sigprop.errors import BadInput
from sigprop.networks.arguments import check_number

_LEAST_GRADIENT = 1e-6  # DeepMind's floor of ‖G_i‖ in the denominator


def unit_norms(x: Tensor) -> Tensor:
    """Return the norm of each output unit of a parameter, of a shape that broadcasts with it.

    A unit is one output of a matrix (out, in) or a kernel (out, in, kH, kW). A scalar, a vector
    (bias, gain) and what is a vector but for axes of size 1, such as a gain (C, 1, 1, 1), is one
    unit altogether, as in DeepMind's code; timm clips the elements of such a gain one by one.

    Example:
        >>> unit_norms(torch.tensor([[3.0, 4.0], [0.0, 2.0]])).tolist()
        [[5.0], [2.0]]
        >>> unit_norms(torch.ones(4, 1, 1, 1)).item()
        2.0
    """
    if x.squeeze().dim() <= 1:
        return x.norm()
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))


def clip_adaptively(
    parameters: Iterable[Tensor], clipping: float = 0.01, eps: float = 1e-3
) -> None:
    """Clip gradients in place: G_i <- λ max(‖W_i‖, ε)/‖G_i‖ G_i where ‖G_i‖ is above that.

    Parameters without a gradient are passed over; ones with a sparse gradient are refused. Leave
    the classifier's out, as the paper does: see `AGC`.

    Source: Brock et al. 2021b, eq. 3; deepmind-research, nfnets/agc_optax.py.

    Args:
        parameters: with gradients.
        clipping: λ; 0.01 at batch size 4096, more (up to 0.16) at smaller ones.
        eps: ε, so that weights at 0 can move.

    Raises:
        BadInput: λ or ε is not above 0, or a gradient is sparse.

    Example:
        >>> w = nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> w.grad = torch.tensor([[0.0, 2.0]])
        >>> clip_adaptively([w])
        >>> round(w.grad.norm().item(), 6)  # 0.01 * 5
        0.05
    """
    _check(clipping, eps)
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.layout != torch.strided:
            raise BadInput("adaptive clipping needs dense gradients; leave sparse embeddings out")
        most = clipping * unit_norms(parameter.detach()).clamp(min=eps)
        norms = unit_norms(gradient)
        # no branch on a value: nothing waits for the device
        factor = torch.where(norms > most, most / norms.clamp(min=_LEAST_GRADIENT), 1.0)
        gradient.mul_(factor.to(gradient.dtype))


class AGC(torch.optim.Optimizer):
    """An optimizer that clips adaptively before another one steps.

    It shares the other's parameter groups and state, so that learning-rate schedules, state dicts
    and hooks on ``step`` work on either. Clipping comes before momentum and weight decay.

    Source: Brock et al. 2021b, sec. 4.1; the last layer is left out as in their experiments.

    Args:
        optimizer: does the step.
        clipping: λ.
        eps: ε.
        exclude: the classifier, as a module or its parameters; none by default, although a port
            that clipped the head trained worse.

    Raises:
        BadInput: λ or ε is not above 0, or ``exclude`` has a parameter that is not optimized.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> optimizer = AGC(torch.optim.SGD(net.parameters(), lr=0.1), exclude=net[1])
        >>> net(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        clipping: float = 0.01,
        eps: float = 1e-3,
        exclude: nn.Module | Iterable[Tensor] = (),
    ) -> None:
        _check(clipping, eps)
        self.optimizer, self.clipping, self.eps = optimizer, clipping, eps
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self._share()
        excluded = exclude.parameters() if isinstance(exclude, nn.Module) else exclude
        self._excluded = {id(parameter) for parameter in excluded}
        known = {id(p) for group in self.param_groups for p in group["params"]}
        if not self._excluded <= known:
            raise BadInput("exclude has a parameter that the optimizer does not have")

    def _share(self) -> None:
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Clip every gradient that is not excluded, then step.

        Args:
            closure: computes the loss and its gradients again; called once, before clipping.

        Returns:
            The closure's loss; None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = (p for group in self.param_groups for p in group["params"])
        clip_adaptively(
            (p for p in parameters if id(p) not in self._excluded), self.clipping, self.eps
        )
        self.optimizer.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the optimizer that steps."""
        if "param_groups" in self.__dict__ and self.param_groups is self.optimizer.param_groups:
            self.optimizer.add_param_group(param_group)
        else:  # called by the constructor, for groups that the optimizer has already
            self.param_groups.append(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer that steps."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the optimizer that steps."""
        self.optimizer.load_state_dict(state_dict)
        self._share()


def _check(clipping: float, eps: float) -> None:
    for name, value in (("clipping", clipping), ("eps", eps)):
        if check_number(name, value) == 0:
            raise BadInput(f"{name} must be above 0, got {value!r}")
