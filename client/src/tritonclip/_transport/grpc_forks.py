"""The use of gRPC in forked processes, where it works only under conditions.

gRPC stops its threads for a fork and works in the child, unless a thread is inside gRPC at that time or
GRPC_ENABLE_FORK_SUPPORT switches this off. Then a call in the child waits for threads that do not exist
there, or crashes the process.

Source: https://github.com/grpc/grpc/blob/master/doc/fork_support.md
"""

from __future__ import annotations

import os
import sys
import threading

FALSE_OF_GRPC = ("0", "f", "false", "n", "no")  # in its environment variables


class _GrpcUse:
    """The use of gRPC by this process and by those that it was forked from."""

    def __init__(self) -> None:
        self._channels = False  # this process or its parent opened one
        self._asyncio = False  # one of them for asyncio, which keeps a thread inside gRPC for good
        self._fork_is_safe = True
        self._usable = True
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before_fork, after_in_child=self._after_fork_in_child)

    def note_channel(self, *, asyncio: bool = False) -> None:
        """Note that a channel is about to be opened.

        Raises:
            RuntimeError: gRPC cannot work in this process.
        """
        if not self._usable:
            raise RuntimeError(
                "gRPC does not work in this process, because it was forked while its parent used gRPC in an "
                "AsyncClient, in another thread, or with GRPC_ENABLE_FORK_SUPPORT=0; start processes with "
                "multiprocessing's 'spawn' or 'forkserver', or use http://"
            )
        self._channels = True
        self._asyncio = self._asyncio or asyncio

    def _before_fork(self) -> None:
        enabled = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower() not in FALSE_OF_GRPC
        self._fork_is_safe = enabled and not self._asyncio and not other_thread_is_inside_grpc()

    def _after_fork_in_child(self) -> None:
        self._usable = self._usable and (self._fork_is_safe or not self._channels)


def other_thread_is_inside_grpc() -> bool:
    """Return True if another thread of this process waits in gRPC or runs its code."""
    frames = sys._current_frames()
    del frames[threading.get_ident()]
    return any(frame.f_globals.get("__name__", "").startswith("grpc.") for frame in frames.values())


GRPC_USE = _GrpcUse()
