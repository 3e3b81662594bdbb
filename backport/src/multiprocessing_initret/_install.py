"""Change ``multiprocessing``, or a derivative of it, in place, and undo that."""

import threading

from . import _pool
from ._shared import packages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

# Guards _replaced, and the functions and classes that are changed.
_lock = threading.Lock()
_replaced: "Dict[str, List[Tuple[Any, str, Any]]]" = {}

# Key in the configuration of a process, of which each child receives a copy.  A non-forked
# child calls _replace() when it unpickles the object under this key; a forked child has the
# changed functions in its memory.
_CONFIG_KEY = "multiprocessing_initret"


class _InstalledInChildren:
    def __init__(self, package: str) -> None:
        self._package = package

    def __reduce__(self) -> "Tuple[Callable[[str], object], Tuple[str]]":
        return _install_in_child, (self._package,)


def _install_in_child(package: str) -> _InstalledInChildren:
    _replace(package)
    return _InstalledInChildren(package)


# Modules that a worker imports: those of this package, and those of multiprocessing.  Workers
# start faster if the fork server has imported them: on Python 3.14 the latter import 18 others.
_PRELOADED = ["multiprocessing_initret._shared.initargs", "multiprocessing_initret._worker.process"]
_PRELOADED_OF_PACKAGE = ["dummy", "popen_forkserver", "queues", "synchronize"]


def _set_preloaded(package: str, is_preloaded: bool) -> None:
    # Imported here because workers import this module.
    from ._parent.standard_forkserver import set_preloaded

    names = [*(f"{package}.{name}" for name in _PRELOADED_OF_PACKAGE), *_PRELOADED]
    set_preloaded(package, names, is_preloaded)


# The program may have imported Pool from multiprocessing, where it is a method bound to a context,
# or from multiprocessing.dummy, before it calls install().  Therefore the code of these functions
# is replaced by that of the two below, which runs with the globals of the original module.


def _context_pool(
    self: "Any",
    processes: "Optional[int]" = None,
    initializer: "Optional[Callable[..., object]]" = None,
    initargs: "Iterable[Any]" = (),
    maxtasksperchild: "Optional[int]" = None,
    *,
    expect_initret: bool = False,
) -> "Any":
    from .pool import Pool  # type: ignore[import-not-found,unused-ignore]

    return Pool(
        processes,
        initializer,
        initargs,
        maxtasksperchild,
        self.get_context(),
        expect_initret=expect_initret,
    )


def _dummy_pool(
    processes: "Optional[int]" = None,
    initializer: "Optional[Callable[..., object]]" = None,
    initargs: "Iterable[Any]" = (),
    *,
    expect_initret: bool = False,
) -> "Any":
    from ..pool import ThreadPool  # type: ignore[import-not-found,unused-ignore]

    return ThreadPool(processes, initializer, initargs, expect_initret=expect_initret)


def _config(package: str) -> "Dict[str, Any]":
    config: "Dict[str, Any]" = packages.module(package, "process").current_process()._config
    return config


def _replacements(package: str) -> "Iterable[Tuple[Any, str, Any]]":
    pool, context, dummy = (packages.module(package, name) for name in ("pool", "context", "dummy"))
    for cls in (pool.Pool, pool.ThreadPool):
        yield cls, "__init__", _pool.constructor(cls)
    for function, ours in ((context.BaseContext.Pool, _context_pool), (dummy.Pool, _dummy_pool)):
        function = packages.unwrapped(function)
        # The defaults first, because another thread may call the function in between.
        yield function, "__kwdefaults__", ours.__kwdefaults__
        yield function, "__code__", ours.__code__


def is_installed(package: str = "multiprocessing") -> bool:
    """Return whether :func:`install` has changed a package.

    :param package: as for :func:`install`
    :raises ValueError: as for :func:`install`
    """
    packages.check_package(package)
    return package in _replaced


def install(package: str = "multiprocessing") -> None:
    """Make every pool of ``multiprocessing``, or of a derivative of it, accept ``expect_initret``.

    This changes the package for the whole process and for the processes that the package
    starts.  An application calls it once, at any time: objects that were imported before,
    for example by ``from multiprocessing import Pool``, accept the keyword too.  A second
    call does nothing.  If the interpreter has ``expect_initret`` itself, this adds the
    guarantees of this package.

    :param package: the name of the package to change, which is ``multiprocessing`` or a
        derivative of it, such as ``multiprocess``
    :raises ValueError: if *package* is not the name of such a package

    Source: gh-79018, and https://github.com/uqfoundation/multiprocess
    """
    if _replace(package):
        _set_preloaded(package, True)


def _replace(package: str) -> bool:
    with _lock:
        if is_installed(package):
            return False
        replaced: "List[Tuple[Any, str, Any]]" = []
        try:
            for owner, name, value in _replacements(package):
                replaced.append((owner, name, getattr(owner, name)))
                setattr(owner, name, value)
        except BaseException:  # such as Ctrl-C
            _restore(replaced)
            raise
        _replaced[package] = replaced
        _config(package)[_CONFIG_KEY] = _InstalledInChildren(package)
        return True


def _restore(replaced: "List[Tuple[Any, str, Any]]") -> None:
    for original in reversed(replaced):
        setattr(*original)


def uninstall(package: str = "multiprocessing") -> None:
    """Undo :func:`install`.

    Pools that exist keep running as they are.  Without a previous :func:`install` this does
    nothing.

    :param package: as for :func:`install`
    :raises ValueError: as for :func:`install`
    """
    with _lock:
        if is_installed(package):
            _restore(_replaced.pop(package))
            if _config(package).pop(_CONFIG_KEY, None):
                _set_preloaded(package, False)
