"""The fork server of one pool, in which what the pool gives its workers is loaded once.

A large object without buffers, such as a dict of a million entries, would be
unpickled in each worker that a fork server starts.  So one process that the fork
server starts, the template, unpickles it, and then is a fork server itself, from
which the workers are forked: they have the object as under fork.
"""

import gc
import os
import socket
import threading
import types

from ._packages import module
from ._shared import PICKLES_ONCE, Received

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple

    from ._shared import Shared

# Bytes of a pickle without its buffers. With less, either way takes a tenth of a second
# (four workers, two cores, CPython 3.14), and there is little memory to save.
WORTH_IT = 4 << 20

# Seconds in which a template that was killed is known to have left.
_PATIENCE = 5


class Template:
    """The template of a pool, as the pool sees it.

    :param package: the package of the pool
    :param ctx: the context of the pool
    :param shared: what the pool gives its workers
    """

    def __init__(self, package: str, ctx: "Any", shared: "Shared") -> None:
        self._package = package
        self._ctx = ctx
        self._shared = shared
        self._process: "Any" = None
        self._pays: "Optional[bool]" = None if PICKLES_ONCE else False

    def adopt(self, process: "Any") -> None:
        """Let a process that is not started yet be forked from the template, if it pays."""
        if getattr(process, "_start_method", "") == "forkserver":
            if self._pays is None:
                self._pays = self._shared.pickle().size >= WORTH_IT
            if self._pays:
                # Of the process, for its class is everybody's.
                process._Popen = self._popen

    def _popen(self, process: "Any") -> "Any":
        del process._Popen  # or it would be pickled with the process
        while self._is_running():
            try:
                return self._class(process)
            except (EOFError, OSError):
                # It was killed, which the fork server that started it will tell.
                self._process.join(_PATIENCE)
                if self._process.exitcode is None:  # it was something else
                    raise
        return process._Popen(process)

    def _is_running(self) -> bool:
        if self._process is not None and self._process.exitcode is not None:
            self.close()
        if self._process is None and self._pays:
            self._pays = self._start()
        return bool(self._pays)

    def _start(self) -> bool:
        """Start it, and tell whether it is safe to fork workers from it."""
        # Not for pools without a template: these two take seven milliseconds.
        import shutil
        import tempfile

        forkserver = module(self._package, "forkserver")
        key = os.urandom(getattr(forkserver, "_AUTHKEY_LEN", 0))  # from Python 3.14
        folder = tempfile.mkdtemp(prefix="pymp-")  # nobody else can enter
        self._remove_folder: "Callable[[], None]" = lambda: shutil.rmtree(
            folder, ignore_errors=True
        )
        alive_r, self._alive = self._ctx.Pipe(duplex=False)
        ready_r, ready_w = self._ctx.Pipe(duplex=False)
        server = type(forkserver._forkserver)()
        server.ensure_running = lambda: None
        server._forkserver_address = os.path.join(folder, "listener")
        server._forkserver_alive_fd = self._alive.fileno()
        server._forkserver_authkey = key
        self._class = _popen_class(self._package, server)
        with socket.socket(socket.AF_UNIX) as listener, alive_r, ready_r:
            with ready_w:
                listener.bind(server._forkserver_address)
                listener.listen()
                location = self._shared.pickle().location
                args = self._package, folder, listener, alive_r, ready_w, key, location
                self._process = self._ctx.Process(target=_serve, args=args, daemon=True)
                self._process.start()
            try:
                if ready_r.recv():
                    return True
            except EOFError:
                pass  # it left: so will a worker that does as it did
        self.close()
        return False

    def close(self, now: bool = False) -> None:
        """Let it leave, as soon as its workers have left or now."""
        if self._process is not None:
            if now:
                self._process.terminate()
            self._alive.close()
            self._process.join()
            self._process = None
            self._remove_folder()  # if it could not


def _popen_class(package: str, server: "Any") -> "Any":
    """Return a class that has a fork server of its own start a process.

    The class of the package takes the one fork server that there is from the globals
    of its module, in one function.  So that function runs with other globals.
    """
    stock = module(package, "popen_forkserver")
    pids: "Dict[int, int]" = {}

    def connect_to_new_process(fds: "Any") -> "Tuple[int, int]":
        # The stock function sends what the process is to do, and then reads its pid. A
        # server that is killed between forking and telling that pid would leave a worker
        # of which nobody knows, beside the one that is started in its place.
        sentinel, writer = server.connect_to_new_process(fds)
        try:
            pids[sentinel] = stock.forkserver.read_signed(sentinel)
        except BaseException:
            os.close(sentinel)
            os.close(writer)
            raise
        return sentinel, writer

    ours = types.SimpleNamespace(
        connect_to_new_process=connect_to_new_process, read_signed=pids.pop
    )
    names = dict(vars(stock), forkserver=ours)

    class Popen(stock.Popen):  # type: ignore[misc,name-defined]
        _launch = types.FunctionType(stock.Popen._launch.__code__, names)

    return Popen


#
# What runs in the template
#


def _is_alone() -> bool:
    """Tell whether this thread is the only one, also of those that Python did not start."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:  # macOS
        return threading.active_count() == 1


def _serve(
    package: str,
    folder: str,
    listener: socket.socket,
    alive_r: "Any",
    ready_w: "Any",
    key: bytes,
    location: "Any",
) -> None:
    import shutil

    try:
        Received(package, b"", *location).load_for_workers()
        # A thread that holds a lock while another forks would hold it for ever.
        is_safe = _is_alone()
    except BaseException:
        is_safe = False  # and a worker that does the same will tell of it
    ready_w.send(is_safe)
    ready_w.close()
    try:
        if is_safe:
            if hasattr(gc, "freeze"):
                gc.freeze()  # or a collection would write to, and so copy, all objects
            alive = os.dup(alive_r.fileno())
            alive_r.close()
            options = {}
            if key:  # from Python 3.14
                options["authkey_r"], key_w = os.pipe()
                os.write(key_w, key)
                os.close(key_w)
            module(package, "forkserver").main(listener.detach(), alive, [], **options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)  # without waiting for threads that unpickling has started
