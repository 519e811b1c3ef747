"""What holds for every kind of network: a probe changes nothing, and its numbers are the loops'."""

import copy
from typing import Any

import oracles
import pytest
import torch
from cases import CASES, Case
from torch import Tensor, nn

import sigprop
from sigprop.networks import center_, lsuv_

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def trained_once(case: Case, probed: bool) -> tuple[Any, nn.Module, Tensor]:
    """Return the output, the network and a random number after one step of SGD."""
    model, inputs = case.network(), case.inputs(1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    torch.manual_seed(2)
    probe = sigprop.attach(model, optimizer) if probed else None
    out = model(*inputs)
    case.loss(out).backward()
    optimizer.step()
    if probe is not None:
        assert len(probe.records.signals)
        probe.detach()
    return out, model, torch.rand(3)


def tensors(output: object) -> list[Tensor]:
    values = output.values() if isinstance(output, dict) else [output]
    return [value for value in values if isinstance(value, Tensor)]


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@every_case
def test_a_probed_step_is_the_bare_step_bit_by_bit(case: Case) -> None:
    bare, probed = trained_once(case, probed=False), trained_once(case, probed=True)
    for one, two in zip(tensors(bare[0]), tensors(probed[0]), strict=True):
        assert torch.equal(one, two)
    theirs, ours = bare[1].state_dict(), probed[1].state_dict()
    assert list(theirs) == list(ours)
    for name, value in theirs.items():
        assert torch.equal(value, ours[name]), name
    for p, q in zip(bare[1].parameters(), probed[1].parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        assert p.grad is None or torch.equal(p.grad, q.grad)  # type: ignore[arg-type]
    assert torch.equal(bare[2], probed[2])
    assert hooks(probed[1]) == 0


def calls(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return the first tensor of the output of each call of a leaf, copied by plain hooks."""
    found: dict[str, Tensor] = {}

    def keep(name: str, out: object) -> None:
        first = out[0] if isinstance(out, tuple) else out
        if isinstance(first, Tensor):
            count = sum(key.split("#")[0] == name for key in found)
            found[f"{name}#{count}" if count else name] = first.detach().clone()

    leaves = [(n, m) for n, m in model.named_modules() if n and not list(m.children())]
    handles = [
        module.register_forward_hook(lambda m, args, out, name=name: keep(name, out))
        for name, module in leaves
    ]
    model(*inputs)
    for handle in handles:
        handle.remove()
    return found


@every_case
def test_the_output_of_every_leaf_has_the_moments_of_plain_loops(case: Case) -> None:
    model, inputs = case.network(), case.inputs(1)
    torch.manual_seed(2)
    expected = calls(copy.deepcopy(model), inputs)
    torch.manual_seed(2)
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        model(*inputs)
    signals = probe.records.signals
    chosen = signals.query("kind == 'leaf' and port == 'out' and direction == 'forward'")
    rows = chosen.set_index(chosen["name"].str.removesuffix("[0]"))
    assert set(rows.index) >= set(expected)
    for name, value in expected.items():
        row: Any = rows.loc[name]
        axis = int(row["channel_dim"])
        assert row["second_moment"] == pytest.approx(oracles.second_moment(value), rel=1e-5), name
        for number in ("channel_variance", "mean_shift"):
            slow = getattr(oracles, number)(value, axis)
            assert row[number] == pytest.approx(slow, rel=1e-4, abs=1e-9), (name, number)


@every_case
def test_the_identity_of_the_second_moment_holds_in_every_row(case: Case) -> None:
    model = case.network()
    records = sigprop.measure(
        model, case.inputs(1) if len(case.inputs(1)) > 1 else case.inputs(1)[0]
    )
    rows = records.signals
    both = rows["channel_variance"] + rows["mean_shift"]
    assert both.to_numpy() == pytest.approx(rows["second_moment"].to_numpy(), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("name", ["mlp", "convolutions", "resnet", "functional residual"])
@pytest.mark.parametrize("change", [lsuv_, center_])
def test_surgery_leaves_no_hook_and_every_mode_as_it_was(name: str, change: Any) -> None:
    case = CASES[name]
    model = case.network().train()
    frozen = next(m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    frozen.eval()
    before = {id(m): m.training for m in model.modules()}
    change(model, *case.inputs(1))
    assert hooks(model) == 0
    assert {id(m): m.training for m in model.modules() if id(m) in before} == before
