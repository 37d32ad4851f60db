"""One lock on an open file, which ends with its process: ``flock``, or what the filelock package takes where no system has that."""

from __future__ import annotations

import errno

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
NOT_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""What a file system, or a system, answers that knows no locks."""


def take(handle: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock the open file ``handle`` until it is closed; return whether it was free, which with ``wait`` it is in the end.

    shared: beside other readers; without ``flock`` they take turns. OSError, of NOT_HERE where there are no locks to be had.
    """
    if fcntl is None:
        from filelock import lock_descriptor  # here: no Unix needs it

        return lock_descriptor(handle, blocking=wait)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in TAKEN:
            raise
        return False
    return True
