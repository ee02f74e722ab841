"""Attributes that are worked out when they are first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeVar, overload

__all__ = ["lazy_property"]

Value = TypeVar("Value")


class lazy_property(cached_property[Value]):  # noqa: N801 - as the one that it derives from
    """A ``cached_property`` without a lock.

    In Python 3.11 all instances of a class share the lock of each of its cached properties. A process that
    forks while a thread works one out leaves it locked for ever in the child. Without it, as from Python 3.12
    on, two threads may do the work at once; both get the value of the one that is done first.

    Examples
    --------
    >>> class Circle:
    ...     def __init__(self, radius):
    ...         self.radius = radius
    ...
    ...     @lazy_property
    ...     def area(self):
    ...         return 3 * self.radius**2
    >>> Circle(2).area
    12
    """

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> lazy_property[Value]: ...

    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> Value: ...

    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        assert self.attrname is not None
        return instance.__dict__.setdefault(self.attrname, self.func(instance))
