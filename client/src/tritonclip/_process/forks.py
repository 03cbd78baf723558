"""Objects that a forked process must not share with its parent: connections, and locks that may be held.

A child that reads from an inherited connection takes its parent's answer. A child that closes one sends the
server a farewell in the parent's name, or stops the parent's event loop from watching it.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

_renewed: weakref.WeakSet[Renewable] = weakref.WeakSet()
_inherited: list[object] = []


class Renewable(Protocol):
    """An object with connections or locks."""

    def renew(self) -> None:
        """Replace connections and locks by new ones, without I/O and without closing the old ones."""


def renew_in_children(owner: Renewable) -> None:
    """Call `owner.renew()` in every process that is forked from this one, before other code runs there."""
    _renewed.add(owner)


def leave_to_parent(*inherited: object) -> None:
    """Keep what the parent process uses, because freeing it in a child would act on its connections."""
    _inherited.extend(inherited)


def _renew() -> None:
    for owner in list(_renewed):
        owner.renew()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew)
