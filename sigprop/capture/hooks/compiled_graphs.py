"""Graphs that a compiler made before a probe was there: found, and made anew with the hooks.

PyTorch compiles by default as if no module had a hook that it did not have when its graph was made.
While a probe is attached, new graphs depend on hooks, and those that could run in place of the
probed model are forgotten. Graphs of other models stay, unless they hold it, or what has its very
classes.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping

from torch import nn

from sigprop.capture.model.naming import bare
from sigprop.capture.torch_internals import (
    TRACEABLE,
    compiled_graphs,
    discard,
    forget_skipped,
    hook_guards_skipped,
    skip_hook_guards,
)

#: What a graph depends on: the class, or the identity, of what an expression gives.
_GUARD = re.compile(r"___check_(type|obj)_id\(([^,\s]+), (\d+)\)")
_CHILD = re.compile(r"\._modules\['([^']*)'\]")


#: The file in which a module's call, and its hooks', are.
_CALLS = nn.modules.module.__file__


class HookGuards:
    """Makes compiled graphs depend on hooks; process-wide, while any of its owners is there.

    The one thing that is changed for others: graphs that are made meanwhile depend on their
    modules' hooks too, which costs them a little time at every call.
    """

    def __init__(self) -> None:
        self._owners: dict[int, weakref.finalize[..., object]] = {}
        self._skipped: bool | None = None

    def on(self, owner: object, model: nn.Module) -> None:
        """Have every graph made from now on depend on hooks, and forget those of a model.

        Args:
            owner: for whom, until `off` or the end of its life.
            model: whose graphs were made without its hooks.
        """
        if not TRACEABLE:
            return
        forget_graphs(model)
        end = weakref.finalize(owner, self._release, id(owner))
        end.atexit = False
        self._owners[id(owner)] = end
        self.refresh()

    def refresh(self) -> None:
        """Do the same when a compiler was imported after the probe was attached."""
        if self._owners and self._skipped is None:
            self._skipped = hook_guards_skipped()
            if self._skipped is not None:
                skip_hook_guards(False)

    def off(self, owner: object) -> None:
        """Restore what was set, when the last owner goes."""
        self._release(id(owner))

    def _release(self, key: int) -> None:
        end = self._owners.pop(key, None)
        if end is not None:
            end.detach()
        if not self._owners and self._skipped is not None:
            skip_hook_guards(self._skipped)
            self._skipped = None


HOOK_GUARDS = HookGuards()


def forget_graphs(model: nn.Module) -> None:
    """Have a compiler make anew every graph that could run in place of a model or a part of it.

    A module without hooks may have been left to Python; its hooks would be compiled one by one.
    """
    root = bare(model)
    discard([graph for graph in compiled_graphs() if concerns(graph.guards, root)])
    kinds = {type(module) for module in root.modules()}
    forwards = {getattr(getattr(kind, "forward", None), "__code__", None) for kind in kinds}
    forget_skipped(lambda code: code in forwards or code.co_filename == _CALLS)


def concerns(guards: str, model: nn.Module) -> bool:
    """Return whether a graph could run for a model or a part of it, as far as classes say.

    Args:
        guards: what the graph depends on, as the compiler prints it.
        model: the model.

    Returns:
        True where some expression is of the model's class, or one that is no child of another
        module is of the class of a part; and all of its children are of the classes of theirs.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> guards = f"___check_type_id(L['self'], {id(nn.Sequential)})"
        >>> concerns(guards, model), concerns(guards, nn.Linear(2, 2))
        (True, False)
        >>> concerns(f"{guards} ___check_type_id(L['self']._modules['0'], {id(nn.ReLU)})", model)
        False
    """
    found = [(kind, source, int(key)) for kind, source, key in _GUARD.findall(guards)]
    classes = {source: key for kind, source, key in found if kind == "type"}
    parts = {id(module) for module in model.modules()}
    if any(kind == "obj" and key in parts for kind, _, key in found):
        return True
    for source, key in classes.items():
        modules = [model] if _CHILD.search(source) else model.modules()
        if any(id(type(m)) == key and _children_fit(m, source, classes) for m in modules):
            return True
    return False


def _children_fit(module: nn.Module, source: str, classes: Mapping[str, int]) -> bool:
    """Return whether what a graph expects below an expression is what lies below a module."""
    for other, key in classes.items():
        path = other.removeprefix(source)
        if path == other or not path or _CHILD.sub("", path):
            continue
        try:
            child = module.get_submodule(".".join(_CHILD.findall(path)))
        except AttributeError:
            return False
        if id(type(child)) != key:
            return False
    return True
