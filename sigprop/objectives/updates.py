"""The step that an optimizer would take next, from copies: neither it nor the model is changed."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sigprop.errors import BadInput
from sigprop.objectives.objective import Objective


def next_update(model: nn.Module, optimizer: torch.optim.Optimizer, objective: Objective) -> Tensor:
    """Return what the optimizer's next step would add to the parameters, shape (n,).

    Args:
        model: whose parameters the optimizer updates.
        optimizer: with its state.
        objective: gives the gradient, of the same model.

    Returns:
        A vector in the order of the objective's parameters; 0 where the optimizer has none.

    Raises:
        BadInput: the optimizer has none of the model's parameters.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> objective = Objective(
        ...     layer, lambda out, _: out.sum(), (torch.ones(1, 1), None), device="cpu"
        ... )
        >>> next_update(layer, torch.optim.SGD(layer.parameters(), lr=0.5), objective)
        tensor([-0.5000])
    """
    names = {id(p): name for name, p in model.named_parameters()}
    held = {names.get(id(p)) for group in optimizer.param_groups for p in group["params"]}
    if held <= {None}:
        raise BadInput("the optimizer holds no parameter of this model")
    twin, stepper = copy.deepcopy((model, optimizer))
    gradients = objective.split(objective.start_gradient)
    starts = objective.split(objective.start)
    own = {name.removeprefix("_orig_mod."): p for name, p in twin.named_parameters()}
    with torch.no_grad():
        for name, p in own.items():
            if name in gradients:
                p.copy_(starts[name])
                p.grad = gradients[name].to(p).clone()
    before = {name: own[name].detach().clone() for name in objective.names}
    stepper.step()
    return torch.cat(
        [(own[n].detach() - before[n]).to(objective.start).reshape(-1) for n in objective.names]
    )
