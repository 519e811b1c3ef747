"""Where numbers are computed: the device, what is moved to it, and what is drawn at random.

Everything that names a device, seeds a generator or draws for an experiment does so here. Random
numbers are drawn on the CPU and then moved, so that results do not depend on the device.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sigprop.errors import BadInput, suggestion

Device = str | torch.device
M = TypeVar("M", bound=nn.Module)

AUTO = "auto"

#: What ``"auto"`` takes, the first that is there; "cpu" always is.
_PREFERRED = ("cuda", "mps")


def available() -> list[str]:
    """Return the devices of this machine, the one that ``"auto"`` takes first.

    Returns:
        ``["cuda:0", "cuda:1", "cpu"]``, ``["mps", "cpu"]`` or ``["cpu"]``.
    """
    found = []
    if torch.cuda.is_available():
        found += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def resolve_device(device: Device = AUTO, model: nn.Module | None = None) -> torch.device:
    """Return the device to compute on.

    Args:
        device: ``"auto"`` for CUDA, else MPS, else the CPU; or a name such as ``"cuda"``,
            ``"cuda:1"``, ``"mps"`` or ``"cpu"``; or a ``torch.device``.
        model: a model that is placed already: ``"auto"`` leaves it where it is when that is not
            the CPU, and keeps float64 off MPS, which has none.

    Returns:
        A device that is there, with an index where several of its kind may be.

    Raises:
        BadInput: no device has that name, this machine has none of its kind, or it holds no
            numbers (``"meta"``).

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if device == AUTO:
        return _automatic(model)
    try:
        asked = torch.device(device)
    except (RuntimeError, TypeError):
        names = [AUTO, "cpu", *_PREFERRED]
        raise BadInput(
            f"no device is called {device!r}; {suggestion(str(device), names)}"
        ) from None
    if asked.type == "cpu":
        return torch.device("cpu")
    there = available()
    if str(asked) == "cuda" and "cuda:0" in there:
        return torch.device("cuda", torch.cuda.current_device())
    if str(asked) not in there and not (asked.type == "mps" and "mps" in there):
        known = ", ".join(repr(name) for name in there)
        raise BadInput(f"device {str(asked)!r} is not there; this machine has {known}")
    return asked


def _automatic(model: nn.Module | None) -> torch.device:
    here = device_of(model) if model is not None else None
    if here is not None and here.type != "cpu":
        return here
    best = resolve_device(available()[0])
    if best.type == "mps" and model is not None and _has_float64(model):
        return torch.device("cpu")
    return best


def _has_float64(model: nn.Module) -> bool:
    return any(x.dtype == torch.float64 for x in (*model.parameters(), *model.buffers()))


def device_of(model: nn.Module) -> torch.device | None:
    """Return where the first parameter or buffer of a model is; None when it has neither."""
    first = next(iter((*model.parameters(), *model.buffers())), None)
    return None if first is None else first.device


def placed(model: M, device: torch.device) -> M:
    """Move a model to a device, unless it is there already or spread over several.

    Args:
        model: is changed; copy it first where it is not yours.
        device: where it is to be.

    Returns:
        The same model.

    Raises:
        BadInput: its type of numbers does not exist there.
    """
    devices = {x.device for x in (*model.parameters(), *model.buffers())}
    if len(devices - {torch.device("cpu")}) > 1 or devices <= {device}:
        return model  # sharded by its owner, or there already
    try:
        return model.to(device)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"this model cannot be moved to {device}: {reason}") from error


def moved(value: Any, device: torch.device) -> Any:
    """Return a nest of tuples, lists, dicts and dataclasses with its tensors on a device.

    Whatever else has a method ``to`` (a ``PackedSequence``, a tokenizer's batch) moves itself;
    what holds nothing to move is returned as it is, the same object.

    Args:
        value: a nest of tensors.
        device: where to.

    Example:
        >>> moved({"x": (torch.ones(1), "text")}, torch.device("cpu"))
        {'x': (tensor([1.]), 'text')}
    """
    if callable(getattr(value, "to", None)):
        return value.to(device)
    if isinstance(value, Mapping):
        parts = {key: moved(part, device) for key, part in value.items()}
        return value if all(parts[key] is value[key] for key in parts) else parts
    if isinstance(value, tuple | list):
        return _moved_sequence(value, device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = [f.name for f in dataclasses.fields(value) if f.init]
        parts = {name: moved(getattr(value, name), device) for name in own}
        return dataclasses.replace(value, **parts)
    return value


def _moved_sequence(value: Any, device: torch.device) -> Any:
    parts = [moved(part, device) for part in value]
    if all(new is old for new, old in zip(parts, value, strict=True)):
        return value
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


# --- random numbers ------------------------------------------------------------------------------


def generator(seed: int) -> torch.Generator:
    """Return a seeded generator on the CPU, whatever the default device is."""
    return torch.Generator(device="cpu").manual_seed(seed)


def normal(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return standard normal numbers on the CPU, the same on every machine with one torch.

    Args:
        shape: of the tensor.
        seed: of the draw.
        dtype: of the tensor; the draw itself is in float32.

    Example:
        >>> normal((2, 3), seed=0).shape
        torch.Size([2, 3])
    """
    drawn = torch.randn(tuple(shape), generator=generator(seed), dtype=torch.float32, device="cpu")
    return drawn.to(dtype)


def permutation(count: int, seed: int) -> Tensor:
    """Return the numbers 0..count-1 in a random order, on the CPU.

    Args:
        count: how many.
        seed: of the draw.
    """
    return torch.randperm(count, generator=generator(seed), device="cpu")


def derived_seed(*parts: object) -> int:
    """Return 63 bits that depend on every part, the same in every process and on every machine.

    Example:
        >>> derived_seed(0, "epoch", 1) == derived_seed(0, "epoch", 1) != derived_seed(0, 1)
        True
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators, and put them back as they were at the end.

    Args:
        seed: of the CPU's generator, and of the accelerator's.
        device: whose generator is seeded beside the CPU's; the current accelerator's when not
            given, since a factory may build there.
    """
    with kept_random_state(device):
        torch.default_generator.manual_seed(seed)
        accelerator = _accelerator(device)
        if accelerator is not None:
            with _current(accelerator):
                _module(accelerator).manual_seed(seed)
        yield


@contextmanager
def kept_random_state(device: torch.device | None = None) -> Iterator[None]:
    """Put torch's global generators back as they were at the end.

    Args:
        device: whose generator beside the CPU's; the current accelerator's when not given.
    """
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)


def random_state(device: torch.device | None = None) -> dict[str, Tensor]:
    """Return the state of torch's global generators: the CPU's, and that of the accelerator.

    Args:
        device: whose generator beside the CPU's; the current accelerator's when not given.
    """
    state = {"cpu": torch.get_rng_state()}
    accelerator = _accelerator(device)
    if accelerator is not None:
        with _current(accelerator):
            state[accelerator.type] = _module(accelerator).get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device | None = None) -> None:
    """Put back what `random_state` gave; an accelerator's part where the same kind is there.

    Args:
        state: from `random_state`.
        device: whose generator it is.
    """
    torch.set_rng_state(state["cpu"].cpu())
    accelerator = _accelerator(device)
    if accelerator is not None and accelerator.type in state:
        with _current(accelerator):
            _module(accelerator).set_rng_state(state[accelerator.type].cpu())


def _accelerator(device: torch.device | None) -> torch.device | None:
    """Return the device that has a generator of its own, or None."""
    chosen = resolve_device() if device is None else device
    return None if chosen.type in ("cpu", "meta") else chosen


def _module(device: torch.device) -> Any:
    return getattr(torch, device.type)


@contextmanager
def _current(device: torch.device) -> Iterator[None]:
    """Make a device the current one where there may be several; MPS has one."""
    if ":" not in str(device):
        yield
        return
    with _module(device).device(device):
        yield
