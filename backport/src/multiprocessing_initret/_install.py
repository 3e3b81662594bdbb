"""Teach ``multiprocessing`` or a fork of it the keyword, in place, and take it back."""

import threading

from . import _pool
from ._shared import packages as _packages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

_lock = threading.Lock()
_replaced: "Dict[str, List[Tuple[Any, str, Any]]]" = {}

# A process hands a copy of its configuration to each child it starts. What
# stands there under this key is unpickled where a child is spawned, and so a
# child has the feature when its parent has, as it has by memory when forked.
_IN_CHILDREN = "multiprocessing_initret"


class _InstalledInChildren:
    def __init__(self, package: str) -> None:
        self._package = package

    def __reduce__(self) -> "Tuple[Callable[[str], object], Tuple[str]]":
        return _install_in_child, (self._package,)


def _install_in_child(package: str) -> _InstalledInChildren:
    _replace(package)
    return _InstalledInChildren(package)


# What a worker imports, which a fork server does for all that it starts.
_PRELOADED = ["multiprocessing_initret._shared.initargs", "multiprocessing_initret._worker.process"]


def _set_preloaded(package: str, there: bool) -> None:
    """Change what the fork server of a package will import when it starts, if there is one."""
    context = _packages.module(package, "context")._default_context
    if "forkserver" in context.get_all_start_methods():
        server = _packages.module(package, "forkserver")._forkserver
        others = [name for name in server._preload_modules if name not in _PRELOADED]
        server._preload_modules = others + _PRELOADED if there else others


# Whoever imported these two functions before install() keeps them, bound to the
# default context or not: what must change is the function, not where it stands.
# So their code is replaced, and runs with the globals of the module it lands in.


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
    config: "Dict[str, Any]" = _packages.module(package, "process").current_process()._config
    return config


def _replacements(package: str) -> "Iterable[Tuple[Any, str, Any]]":
    pool, context, dummy = (
        _packages.module(package, name) for name in ("pool", "context", "dummy")
    )
    for stock in (pool.Pool, pool.ThreadPool):
        yield stock, "__init__", _pool.constructor(stock)
    for function, ours in ((context.BaseContext.Pool, _context_pool), (dummy.Pool, _dummy_pool)):
        # The default first: a call from another thread may come in between.
        yield function, "__kwdefaults__", ours.__kwdefaults__
        yield function, "__code__", ours.__code__


def is_installed(package: str = "multiprocessing") -> bool:
    """Tell whether a package's pools take ``expect_initret``.

    :param package: as for :func:`install`
    :returns: true after :func:`install`, and always where the package itself
        has the feature
    :raises ValueError: as :func:`install` does
    """
    return _packages.is_native(package) or package in _replaced


def install(package: str = "multiprocessing") -> None:
    """Let every pool of ``multiprocessing``, or of a fork of it, take ``expect_initret``.

    This changes the package for the whole process and the processes that the
    package starts, so it is for applications to call, once, as early as they
    like: what was imported before, ``from multiprocessing import Pool``
    included, has the keyword too.  A second call does nothing, nor does any call
    where the package itself has the feature.

    :param package: the name of the package to change, and of no other:
        ``multiprocessing``, or a fork of it such as ``multiprocess``
    :raises ValueError: if there is no such package, or it is no such fork

    Source: gh-79018, and https://github.com/uqfoundation/multiprocess
    """
    if _replace(package):
        _set_preloaded(package, True)


def _replace(package: str) -> bool:
    with _lock:
        if is_installed(package):
            return False
        replaced = []
        for owner, name, value in _replacements(package):
            replaced.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)
        _replaced[package] = replaced
        _config(package)[_IN_CHILDREN] = _InstalledInChildren(package)
        return True


def uninstall(package: str = "multiprocessing") -> None:
    """Give ``multiprocessing``, or a fork of it, its own functions and classes back.

    Pools made before go on as they were made.  Does nothing without an
    :func:`install` before.

    :param package: as for :func:`install`
    :raises ValueError: as :func:`install` does
    """
    with _lock:
        if is_installed(package):
            for replaced in reversed(_replaced.pop(package, [])):
                setattr(*replaced)
            if _config(package).pop(_IN_CHILDREN, None):
                _set_preloaded(package, False)
