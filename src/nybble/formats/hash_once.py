"""`hash_once`: frozen dataclasses that are keys of caches in every call of a layer."""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["hash_once"]

T = TypeVar("T", bound=type)


def hash_once(cls: T) -> T:
    """Class decorator: an object's hash, a walk through all that it holds, is computed once.

    It is not pickled: strings have other hashes in another process.

    >>> from dataclasses import dataclass
    >>> @hash_once
    ... @dataclass(frozen=True)
    ... class Point:
    ...     x: int
    >>> hash(Point(3)) == hash(Point(3)), Point(3) == Point(3)
    (True, True)
    """
    compute: Any = cls.__hash__

    def hashed(self: Any) -> int:
        found: int | None = self.__dict__.get("_hash")
        if found is None:
            found = self.__dict__["_hash"] = compute(self)
        return found

    def state(self: Any) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}

    for name, method in (("__hash__", hashed), ("__getstate__", state)):
        setattr(cls, name, method)
    return cls
