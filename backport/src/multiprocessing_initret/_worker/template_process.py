"""Main function of a template, the fork server of one pool (see ``_parent.template``)."""

import gc
import os
import socket
import threading

from .._shared.initargs import preload
from .._shared.packages import module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def serve(
    package: str,
    directory: str,
    listener: socket.socket,
    alive_r: "Any",
    ready_w: "Any",
    key: bytes,
    contents: "Any",
) -> None:
    """Load plain data, report whether that succeeded, and then start workers."""
    try:
        try:
            # A lock that another thread holds during a fork is never released in the child.
            is_ready = preload(package, *contents) and _is_single_threaded()
        except BaseException:
            is_ready = False  # each worker unpickles everything, and reports the error
        contents[0].close()
        ready_w.send(is_ready)
        ready_w.close()
        if is_ready:
            if hasattr(gc, "freeze"):
                gc.freeze()  # a collection would write to, and so copy, all objects
            alive = os.dup(alive_r.fileno())
            alive_r.close()
            options = {}
            if key:
                options["authkey_r"], key_w = os.pipe()
                os.write(key_w, key)
                os.close(key_w)
            main = module(package, "forkserver").main
            main(listener_fd=listener.detach(), alive_r=alive, preload=[], **options)
    finally:
        import shutil

        shutil.rmtree(directory, ignore_errors=True)
        os._exit(0)


def _is_single_threaded() -> bool:
    """Return whether this process has one thread, if possible also counting native threads."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:  # macOS
        return threading.active_count() == 1
