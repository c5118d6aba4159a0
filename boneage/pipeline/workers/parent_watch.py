"""End this process as soon as its parent has ended, or has closed the socket between them.

It imports little, so that it watches before anything else is imported.
"""

from __future__ import annotations

import os
import select
import threading

_MILLISECONDS = 500  # between two looks at the parent


def watch(parent: int, socket: int) -> None:
    """Start a thread that ends this process with its parent.

    Linux has a signal for this (PR_SET_PDEATHSIG). It also comes when only that thread of the
    parent ends which started this process.

    Args:
        parent: Id of the parent.
        socket: Descriptor of a socket, whose other end the parent has.
    """
    threading.Thread(target=_wait, args=(parent, socket), daemon=True).start()


def _wait(parent: int, socket: int) -> None:
    hang_up = select.poll()
    hang_up.register(socket, select.POLLHUP)
    while os.getppid() == parent:
        if any(event & select.POLLHUP for _, event in hang_up.poll(_MILLISECONDS)):
            break
    os._exit(0)
