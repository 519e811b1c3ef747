"""The hooks on modules: they hand tensors to the recorder, return None, and can all be removed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sigprop.capture.blocks import RECTIFIERS, owner
from sigprop.capture.leaves import tensors
from sigprop.capture.naming import bare, modules
from sigprop.capture.recorder import Address, Recorder
from sigprop.errors import BadInput
from sigprop.signals.reading import readable

ChannelDim = int | Mapping[str, int] | None

# Axis of the channels in what a module makes, and the attribute that tells how many there are.
_MAKERS: tuple[tuple[tuple[type[nn.Module], ...], int, str], ...] = (
    ((nn.modules.conv._ConvNd,), 1, "out_channels"),
    ((nn.modules.batchnorm._NormBase,), 1, "num_features"),
    ((nn.GroupNorm,), 1, "num_channels"),
    ((nn.Linear,), -1, "out_features"),
    ((nn.Embedding,), -1, "embedding_dim"),
    ((nn.MultiheadAttention,), -1, "embed_dim"),
    ((nn.RNNBase,), -1, "hidden_size"),
)
_RECTIFYING_NODES = ("ReluBackward", "ThresholdBackward")


def made_by(module: nn.Module) -> tuple[int, int] | None:
    """Return (channel axis, channels) of what a module makes, or None if it only passes it on."""
    if isinstance(module, nn.LayerNorm):
        return -1, int(module.normalized_shape[-1])
    for kinds, axis, attribute in _MAKERS:
        if isinstance(module, kinds):
            return axis, int(getattr(module, attribute))
    return None


def channel_axis(x: Tensor, maker: tuple[int, int] | None) -> int:
    """Return the channel axis of ``x``, given the last module that made channels.

    A tensor that no longer has the maker's channels on the maker's axis (a permutation came
    between) is searched for them on axis 1, then on the last.
    """
    if x.ndim < 2:
        return -1
    axes = (maker[0], 1, -1) if maker else ()
    for axis in axes:
        if maker and x.shape[axis] == maker[1]:
            return axis
    return -1 if x.ndim in (2, 3) else 1


def is_rectified(x: Tensor) -> bool:
    """Return whether autograd says that a rectifier made ``x`` (also a functional one)."""
    return x.grad_fn is not None and x.grad_fn.name().startswith(_RECTIFYING_NODES)


class _Hook:
    """A hook that a copy of the model carries along inert: it holds the recorder weakly."""

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = weakref.ref(recorder) if recorder is not None else _nobody

    def __deepcopy__(self, memo: object) -> _Hook:
        return _Hook(None)

    def __reduce__(self) -> tuple[type[_Hook], tuple[None]]:
        return _Hook, (None,)

    def __call__(self, *arguments: object) -> None:
        recorder = self._recorder()
        if recorder is not None and recorder.on:
            recorder.guarded(self.act, recorder, *arguments)

    def act(self, recorder: Recorder, *arguments: Any) -> None:
        """Do the hook's work on a recorded step."""


def _nobody() -> None:
    return None


class _Tap(_Hook):
    """What is known of one module: its name, whether it is recorded, and as what."""

    def __init__(
        self, recorder: Recorder, name: str, module: nn.Module, target: str | None, axis: ChannelDim
    ) -> None:
        super().__init__(recorder)
        self.name, self.target, self.axis = name, target, axis
        self.is_target = target == name
        self.rectifier = isinstance(module, RECTIFIERS)
        self.ports: tuple[str, ...] = tuple(getattr(module, "ports", ()))

    def take(
        self,
        recorder: Recorder,
        value: object,
        port: str,
        call: int,
        name: str,
        gradient: bool = True,
    ) -> Address | None:
        """Hand every tensor in ``value`` over; return the first address."""
        first = None
        for path, x in tensors(value):
            if not readable(x):
                continue
            axis = self._axis(recorder, x)
            address = Address(
                mode=recorder.mode,
                target=name,
                block=recorder.block_of(self.target) if self.target else -1,
                name=name + (f"#{call}" if call else "") + path,
                call=call,
                port=port,
                direction="forward",
                channel_dim=axis,
                channels=x.shape[axis] if x.ndim else 1,
            )
            rectified = port == "out" and (
                self.rectifier or recorder.rectified.get(x, 0) is not None or is_rectified(x)
            )
            recorder.observe(x, address, rectified, gradient)
            first = first or address
        return first

    def _axis(self, recorder: Recorder, x: Tensor) -> int:
        chosen = self.axis.get(self.name) if isinstance(self.axis, Mapping) else self.axis
        if chosen is None:
            return channel_axis(x, recorder.maker)
        if not -x.ndim <= chosen < x.ndim:
            raise BadInput(
                f"channel_dim {chosen} for {self.name!r} is outside its shape {tuple(x.shape)}"
            )
        return chosen


class _Before(_Tap):
    """Pre-hook of a target or of a residual addition: its inputs."""

    def act(
        self,
        recorder: Recorder,
        module: nn.Module,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> None:
        if self.is_target:
            given = _first((*args, *kwargs.values()))
            self.take(recorder, given, "in", recorder.calls[self.name], self.name)
        if self.ports and self.target:
            self._operands(recorder, args, self.target)

    def _operands(self, recorder: Recorder, args: tuple[object, ...], block: str) -> None:
        addition = f"{block} +"  # a block may add more than once: count its additions as calls
        call = recorder.calls[addition]
        recorder.calls[addition] += 1
        named = dict(zip(self.ports, args, strict=False))
        addresses = {
            port: self.take(recorder, operand, port, call, block) for port, operand in named.items()
        }
        skip, branch, at = named.get("skip"), named.get("branch"), addresses.get("branch")
        if at is not None and isinstance(skip, Tensor) and isinstance(branch, Tensor):
            recorder.observe_pair(skip, branch, at)


class _After(_Tap):
    """Hook of every module: counts calls, keeps track of the channel axis, takes outputs."""

    def __init__(
        self, recorder: Recorder, name: str, module: nn.Module, target: str | None, axis: ChannelDim
    ) -> None:
        super().__init__(recorder, name, module, target, axis)
        self.inner_rectifier = self.rectifier and not self.is_target and target is not None

    def act(self, recorder: Recorder, module: nn.Module, args: object, output: object) -> None:
        call = recorder.calls[self.name]
        recorder.calls[self.name] += 1
        recorder.total_calls[self.name] += 1
        recorder.maker = made_by(module) or recorder.maker
        if self.rectifier and isinstance(output, Tensor):
            recorder.rectified.put(output, 0, True)
        if self.is_target or self.inner_rectifier:
            # A rectifier inside a block is there for its dead units; the block has the gradients.
            self.take(recorder, output, "out", call, self.name, gradient=self.is_target)


class _Start(_Hook):
    """Pre-hook of the whole model: a forward pass begins."""

    def __init__(self, recorder: Recorder, announce: Callable[[bool], None]) -> None:
        super().__init__(recorder)
        self._announce = weakref.WeakMethod(announce)

    def __call__(self, *arguments: Any) -> None:
        """Tell the probe, also on steps that are not recorded: a step may end here."""
        recorder, announce = self._recorder(), self._announce()
        if recorder is not None and announce is not None:
            training = bool(arguments[0].training)
            announce(training)
            if recorder.on:
                recorder.begin_forward(training)


def install(
    model: nn.Module,
    targets: dict[str, nn.Module],
    recorder: Recorder,
    announce: Callable[[bool], None],
    channel_dim: ChannelDim,
) -> list[RemovableHandle]:
    """Put every hook on a model and return the handles that take them off.

    Args:
        model: the model.
        targets: what to record, from `select`.
        recorder: where readings go.
        announce: a bound method, called with the training flag when a forward pass begins.
        channel_dim: the channel axis everywhere, or by module name; None to infer it.

    Raises:
        BadInput: a module cannot be hooked (a ScriptModule).
    """
    handles: list[RemovableHandle] = []
    try:
        handles.append(bare(model).register_forward_pre_hook(_Start(recorder, announce)))
        for name, module in modules(model):
            target = owner(name, targets)
            if name in targets or (hasattr(module, "ports") and target):
                before = _Before(recorder, name, module, target, channel_dim)
                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            after = _After(recorder, name, module, target, channel_dim)
            handles.append(module.register_forward_hook(after))
    except RuntimeError as error:
        for handle in handles:
            handle.remove()
        raise BadInput(
            f"{type(module).__name__} {name!r} cannot be hooked ({error}); probe the Python model "
            "it was scripted from"
        ) from None
    return handles


def _first(values: tuple[object, ...]) -> object:
    """Return the first value that holds a readable tensor: a block's input."""
    for value in values:
        if any(readable(x) for _, x in tensors(value)):
            return value
    return None
