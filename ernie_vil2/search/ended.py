"""Whether another process that wrote its number down is gone."""

from __future__ import annotations

import os
import socket


def ended(host: str | None, pid: int) -> bool:
    """Whether a process is known to have ended; of other machines' nothing is known."""
    if host != socket.gethostname() or pid <= 0:  # such numbers name groups of processes
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False
