"""The private names of the fork server that this package relies on, and a check that they exist.

A template is a fork server of one pool (see ``template``).  It runs the standard main function of
fork servers, and workers are started from it by the standard ``Popen``:

    name                                        since           used to
    ------------------------------------------  --------------  -----------------------------------
    forkserver.main                                             run a template
      parameter authkey_r                       3.14            pass it an authentication key
      parameter sys_argv                        3.13.12, 3.14.3 see what a fork server may preload
    forkserver._AUTHKEY_LEN                     3.14            create that key
    forkserver._forkserver                                      create another ``ForkServer``
    ForkServer.connect_to_new_process                           send a request to a template
      .ensure_running                                           start no other fork server
      ._forkserver_address                                      set where the template listens
      ._forkserver_alive_fd                                     pass a pipe that keeps it running
      ._forkserver_authkey                      3.14            set the authentication key
      ._preload_modules                                         preload modules
    forkserver.read_signed                                      read the pid of a worker
    popen_forkserver.Popen._launch                              start a worker from a template
    process.BaseProcess.__init__                                hide a template from the program
      ._process_counter, ._children                             the same
      ._Popen                                                   start a worker from a template
    context._concrete_contexts                                  see whether there is a fork server
    context.ForkServerProcess._start_method                     see how a worker is started
    util.get_temp_dir                                           create the socket of a template

Names without a version are the same since Python 3.8, which templates require.  :func:`check` tests
that they exist, except for *sys_argv*, *_preload_modules* and *_concrete_contexts*, which are used
only if they exist.
"""

import functools
import itertools
import os
import sys
import types

from .._shared.initargs import PICKLES_ONCE
from .._shared.packages import module, unwrapped
from .private_names import missing_names, raise_if_missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence, Tuple

    from .private_names import Requirements

# What check() looks for; see missing_names().
_REQUIRED_OF_FORKSERVER: "Requirements" = {
    "_forkserver": (),
    "read_signed": (),
    "main": ("listener_fd", "alive_r", "preload"),
    "ForkServer.__init__": ("_forkserver_address", "_forkserver_alive_fd"),
    "ForkServer.ensure_running": (),
    "ForkServer.connect_to_new_process": (),
}
# Also required if fork servers have authentication keys, as since Python 3.14.
_REQUIRED_WITH_KEY: "Requirements" = {
    "main": ("authkey_r",),
    "ForkServer.__init__": ("_forkserver_authkey",),
}
_REQUIRED_OF_POPEN: "Requirements" = {
    "Popen._launch": (
        *("spawn", "get_preparation_data"),
        *("forkserver", "connect_to_new_process", "read_signed"),
    ),
}
_REQUIRED_OF_PROCESS: "Requirements" = {
    "_children": (),
    "BaseProcess.__init__": ("_process_counter",),
    "BaseProcess.start": ("_Popen",),
}
_REQUIRED_OF_CONTEXTS: "Requirements" = {"ForkServerProcess._start_method": ()}


def check(package: str) -> None:
    """Check that this interpreter has the private names that templates rely on.

    This imports the modules of the fork server: call it only for a pool that uses them.

    :raises RuntimeError: if a name is missing; the message contains all missing names
    """
    if not PICKLES_ONCE:  # there are no templates
        return
    try:
        forkserver = module(package, "forkserver")
        popen = module(package, "popen_forkserver")
    except ImportError:  # this system has no fork server
        return
    missing = [
        *missing_names(forkserver, _REQUIRED_OF_FORKSERVER),
        *missing_names(popen, _REQUIRED_OF_POPEN),
        *missing_names(module(package, "process"), _REQUIRED_OF_PROCESS),
        *missing_names(module(package, "context"), _REQUIRED_OF_CONTEXTS),
        *missing_names(module(package, "util"), {"get_temp_dir": ()}),
    ]
    if _key_length(forkserver):
        missing += missing_names(forkserver, _REQUIRED_WITH_KEY)
    if not missing:
        # Copies of these functions run with other globals, and would have no closure cells.
        for cls, name in (
            (popen.Popen, "_launch"),
            (module(package, "process").BaseProcess, "__init__"),
        ):
            if unwrapped(getattr(cls, name)).__code__.co_freevars:
                missing.append(f"{cls.__module__}.{cls.__name__}.{name} without free variables")
    raise_if_missing(package, missing)


def _names(function: "Any", attribute: str) -> "Tuple[str, ...]":
    names: "Tuple[str, ...]" = getattr(
        getattr(unwrapped(function), "__code__", None), attribute, ()
    )
    return names


def _key_length(forkserver: "Any") -> int:
    """Return the length of the fork server's authentication key; 0 before Python 3.14."""
    length: int = getattr(forkserver, "_AUTHKEY_LEN", 0)
    return length


def set_preloaded(package: str, names: "Sequence[str]", is_preloaded: bool) -> None:
    """Change which modules the fork server of a package imports when it starts.

    This does nothing if there is no fork server, or if a private name is missing.  It adds nothing
    if the fork server may find other modules of the same names.  The public function
    ``set_forkserver_preload()`` would replace what the program has set.

    :param names: names of modules
    :param is_preloaded: whether they are added or removed
    """
    # get_all_start_methods() tests whether each start method works since Python 3.14.10 and 3.15.2,
    # which takes 33 imports and a temporary file.
    if "forkserver" in getattr(module(package, "context"), "_concrete_contexts", ()):
        forkserver = module(package, "forkserver")
        server: "Any" = getattr(forkserver, "_forkserver", None)
        preloaded = getattr(server, "_preload_modules", None)
        if preloaded is not None:
            others = [name for name in preloaded if name not in names]
            is_preloaded = is_preloaded and not _may_find_other_modules(forkserver)
            server._preload_modules = others + [*names] if is_preloaded else others


def _may_find_other_modules(forkserver: "Any") -> bool:
    """Return whether a fork server may preload other modules than those of the program.

    Before Python 3.12.8 and 3.13.1, a fork server looks for the modules in the current directory
    first (gh-117378).  If it imported a ``queue.py`` from there, its workers would have that in
    place of the standard module.
    """
    if "sys_argv" in _names(getattr(forkserver, "main", None), "co_varnames"):
        return False  # a newer version, which sets sys.path to that of the program
    try:
        directory = os.path.join(os.getcwd(), "")
        names = {name.partition(".")[0] for name in os.listdir(directory)}
    except OSError:
        return True
    files = [getattr(sys.modules[name], "__file__", None) for name in names & set(sys.modules)]
    # A built-in module has no file, and is found before any file.
    return not all(os.path.abspath(file).startswith(directory) for file in files if file)


#
# How the parent starts a template, and starts workers from it
#


def create_key(package: str) -> bytes:
    """Return a new authentication key for a template; it is empty before Python 3.14."""
    return os.urandom(_key_length(module(package, "forkserver")))


def client(package: str, address: str, alive_fd: int, key: bytes) -> "Any":
    """Return a ``ForkServer`` that sends its requests to a template.

    :param address: path of the socket that the template listens to
    :param alive_fd: writing end of a pipe; the template exits when no process has it open
    :param key: from :func:`create_key`
    """
    server = type(module(package, "forkserver")._forkserver)()
    server.ensure_running = _do_nothing
    server._forkserver_address = address
    server._forkserver_alive_fd = alive_fd
    server._forkserver_authkey = key
    return server


def _do_nothing() -> None:
    """Replaces ``ForkServer.ensure_running()``: the ``Template`` starts the server."""


def popen(package: str, process: "Any", server: "Any") -> "Any":
    """Start a worker from a template, and return its ``Popen`` object.

    :param server: from :func:`client`
    """
    return _popen_class(package)(process, forkserver=_PidReader(package, server))


class _PidReader:
    """Replaces the module ``forkserver`` in the ``Popen`` of a worker forked from a template.

    ``Popen._launch()`` sends the process object, and reads the worker's pid after that.  If the
    template were killed after forking and before it sent the pid, a worker that is not in the
    pool's list would run in addition to its replacement.  So this class reads the pid first.
    """

    def __init__(self, package: str, server: "Any") -> None:
        self._server = server
        self._read_signed = module(package, "forkserver").read_signed

    def connect_to_new_process(self, fds: "Any") -> "Tuple[int, int]":
        sentinel, writer = self._server.connect_to_new_process(fds)
        try:
            self._pid: int = self._read_signed(sentinel)
        except BaseException:
            os.close(sentinel)
            os.close(writer)
            raise
        return sentinel, writer

    def read_signed(self, _: int) -> int:
        return self._pid


class _SpawnWithoutMain:
    """Replaces the module ``spawn`` in the ``Popen`` of a template.

    In Python versions before 3.13.8, and in 3.14.0, each process that a fork server starts imports
    the main module, because the fork server does not (gh-126631).  The template must not: its
    workers would share the random generators and connections of that module.

    Nor must it log to stderr: its workers would inherit the handler, and each would add another.
    """

    def __init__(self, package: str) -> None:
        self._get_preparation_data = module(package, "spawn").get_preparation_data

    def get_preparation_data(self, name: str) -> "Any":
        data = self._get_preparation_data(name)
        for key in "init_main_from_name", "init_main_from_path", "log_to_stderr":
            data.pop(key, None)
        return data


@functools.lru_cache(maxsize=None)
def _popen_class(package: str) -> "Any":
    """Return a subclass of a package's ``Popen`` that can replace the modules it uses."""
    standard = module(package, "popen_forkserver")

    class Popen(standard.Popen):  # type: ignore[misc,name-defined]
        def __init__(self, process: "Any", **replaced: "Any") -> None:
            self._replaced = replaced
            super().__init__(process)

        def _launch(self, process: "Any") -> None:
            # The method looks up the modules in its globals, so run it with other globals.
            names = {**vars(standard), **self.__dict__.pop("_replaced")}
            code = unwrapped(standard.Popen._launch).__code__
            types.FunctionType(code, names)(self, process)

    return Popen


def start_template(
    package: str, cls: "Any", target: "Callable[..., None]", args: "Tuple[Any, ...]"
) -> "Any":
    """Start the process of a template, and return it.

    The process is hidden from the program.  It is not in ``active_children()``, and its number is
    taken from another counter, because programs derive numbers from the identities of their
    workers.

    :param cls: the class ``Process`` of the pool's context
    :param target: main function of the template
    :param args: its arguments
    """
    processes = module(package, "process")
    init = unwrapped(processes.BaseProcess.__init__)
    names = {**vars(processes), "_process_counter": itertools.count()}
    init = types.FunctionType(init.__code__, names, None, init.__defaults__)
    process = cls.__new__(cls)
    init(process, target=target, args=args, daemon=True)
    process._Popen = functools.partial(_popen_template, package)
    process.start()
    processes._children.discard(process)
    return process


def _popen_template(package: str, process: "Any") -> "Any":
    del process._Popen  # it would be pickled with the process
    return _popen_class(package)(process, spawn=_SpawnWithoutMain(package))
