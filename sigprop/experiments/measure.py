"""One forward and one backward through freshly initialized networks: a picture of the signal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from sigprop.capture import Blocks, ChannelDim
from sigprop.errors import BadInput, UnknownName, suggestion
from sigprop.inputs.calling import Loss, backward, call, send_signs, split_batch
from sigprop.inputs.devices import Device, moved, placed, resolve_device
from sigprop.inputs.factories import Factory, copied, design, factory, initialize
from sigprop.probing.learning import learned
from sigprop.probing.options import Metrics
from sigprop.probing.probe import attach
from sigprop.records import Records, concat, new_manifest


def measure(
    model: nn.Module | Factory | str,
    inputs: object,
    targets: object = None,
    loss: Loss | None = None,
    seeds: int | Sequence[int] = 1,
    *,
    network: str = "model",
    blocks: Blocks = "auto",
    metrics: Metrics = (),
    channel_dim: ChannelDim = None,
    spectra: bool = True,
    options: Mapping[str, object] | None = None,
    cotangent: str | None = None,
    device: Device = "auto",
) -> Records:
    """Record one forward and one backward pass, per seed; the model itself is not touched.

    Args:
        model: a module (a copy of it is measured, in its own train or eval mode), or a callable
            without arguments, ``"module:factory"`` or a name of the zoo, initialized anew per seed.
        inputs: a tensor, tuple, dict, or a DataLoader whose first batch is used.
        targets: what the loss compares with; a DataLoader brings its own.
        loss: ``(output, targets) -> scalar``. Without one: cross entropy for integer targets,
            squared error for float targets; without targets a standard normal gradient.
        seeds: how many initializations (0, 1, ...), or which; only a callable has more than one.
        network: the name in the records.
        blocks: what to record, as in `attach`.
        metrics: your own columns, as in `attach`.
        channel_dim: the channel axis, as in `attach`.
        spectra: record the singular values of every weight too.
        options: of a network of the zoo (depth, width, ...).
        cotangent: ``"rademacher"`` sends random signs back from the model's output h_L in place of
            a loss's gradient. The backward rows then estimate partial Jacobian norms at every depth
            at once: E[second_moment · count] = ‖∂h_L/∂h_l‖²_F, exactly, over the signs alone; see
            `sigprop.spectra.jacobian_norms`. The Jacobian is that of the whole batch: where
            BatchNorm in training mode couples the samples, it includes what a sample does to the
            others. A plain model may then have several seeds, each a draw of signs.
        device: where to compute: ``"auto"`` (CUDA, else MPS, else the CPU; a model that is on an
            accelerator stays there), or a device's name. Weights and random gradients are drawn on
            the CPU, so that the numbers differ by rounding only.

    Returns:
        The records of all seeds, at step 0.

    Raises:
        UnknownName: no network, module, block or cotangent has that name.
        BadInput: several seeds for a plain model, inputs that do not fit or hold NaN, a model
            without parameters, a device that is not there, a cotangent beside a loss.

    Example:
        >>> records = measure(lambda: nn.Linear(3, 2), torch.ones(4, 3), seeds=2)
        >>> sorted(records.signals["seed"].unique().tolist())
        [0, 1]
    """
    which = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not which:
        raise BadInput("measure needs at least one seed")
    _check_cotangent(cotangent, targets, loss)
    chosen = resolve_device(device, model if isinstance(model, nn.Module) else None)
    batch, wanted = moved(split_batch(inputs, targets), chosen)
    found, signs = [], 0
    for seed, fresh in _initialized(model, which, options or {}, chosen, cotangent is not None):
        blocks = learned(fresh, batch, blocks, chosen)  # by the first; all seeds have the same
        with attach(
            fresh,
            blocks=blocks,
            network=network,
            seed=seed,
            metrics=metrics,
            channel_dim=channel_dim,
            ranks="own",
        ) as probe:
            if spectra:
                probe.record_spectra()
            with torch.enable_grad():
                output = call(fresh, batch)
                if cotangent is None:
                    backward(output, wanted, loss, seed)
                else:
                    signs = send_signs(output, seed)
            probe.step()
        found.append(probe.records)
    records = concat(found)
    designs = {} if isinstance(model, nn.Module) else {network: design(model, **(options or {}))}
    records.manifest = new_manifest(
        networks=[network], seeds=which, designs=designs, device=str(chosen)
    )
    if cotangent is not None:
        records.manifest["cotangents"] = {network: signs}
    return records


def _check_cotangent(cotangent: str | None, targets: object, loss: Loss | None) -> None:
    if cotangent is None:
        return
    if cotangent != "rademacher":
        raise UnknownName(
            f"no cotangent is called {cotangent!r}; {suggestion(str(cotangent), ['rademacher'])}"
        )
    if targets is not None or loss is not None:
        raise BadInput(
            "a cotangent takes the place of the loss's gradient; leave out targets and loss, or "
            "the cotangent"
        )


def _initialized(
    model: nn.Module | Factory | str,
    seeds: Sequence[int],
    options: Mapping[str, object],
    device: torch.device,
    repeated: bool,
) -> Iterator[tuple[int, nn.Module]]:
    if isinstance(model, nn.Module):
        if len(seeds) > 1 and not repeated:
            raise BadInput(
                f"a model has one initialization, so {len(seeds)} seeds would repeat it; pass a "
                "callable that builds it anew"
            )
        for seed in seeds:
            yield seed, placed(copied(model), device)
        return
    build = factory(model, **options)
    for seed in seeds:
        yield seed, initialize(build, seed, device)
