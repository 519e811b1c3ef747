"""A named collection: name -> thing, with suggestions for a name it does not hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from sigprop.errors import BadInput, UnknownName, suggestion

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Things of one kind by name, in the order of registration.

    Args:
        kind: the word for one thing, used in messages (``"metric"``, ``"network"``).

    Example:
        >>> numbers = Registry[int]("number")
        >>> numbers.register("one")(1)
        1
        >>> numbers["on"]
        Traceback (most recent call last):
        sigprop.errors.UnknownName: no number is called 'on'; did you mean 'one'?
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers a thing under ``name``.

        Raises:
            BadInput: the name is taken.
        """

        def enter(thing: T) -> T:
            """Return the thing, which is entered under the name.

            Raises:
                BadInput: the name is taken.
            """
            if name in self._entries:
                raise BadInput(f"a {self.kind} called {name!r} exists already; choose another name")
            self._entries[name] = thing
            return thing

        return enter

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownName(
                f"no {self.kind} is called {name!r}; {suggestion(name, self._entries)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
