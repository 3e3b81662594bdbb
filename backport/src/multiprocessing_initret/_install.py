"""Teach ``multiprocessing`` or a fork of it the keyword, in place, and take it back."""

import threading
from importlib import import_module
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from . import _pool

_lock = threading.Lock()
_replaced: Dict[str, List[Tuple[Any, str, Any]]] = {}

# A process hands a copy of its configuration to each child it starts. What
# stands there under this key is unpickled where a child is spawned, and so a
# child has the feature when its parent has, as it has by memory when forked.
_IN_CHILDREN = "multiprocessing_initret"


class _InstalledInChildren:
    def __init__(self, package: str) -> None:
        self._package = package

    def __reduce__(self) -> Tuple[Callable[[str], object], Tuple[str]]:
        return _install_in_child, (self._package,)


def _install_in_child(package: str) -> _InstalledInChildren:
    install(package)
    return _InstalledInChildren(package)


# Whoever imported these two functions before install() keeps them, bound to the
# default context or not: what must change is the function, not where it stands.
# So their code is replaced, and runs with the globals of the module it lands in.


def _context_pool(
    self: Any,
    processes: Optional[int] = None,
    initializer: Optional[Callable[..., object]] = None,
    initargs: Iterable[Any] = (),
    maxtasksperchild: Optional[int] = None,
    *,
    expect_initret: bool = False,
) -> Any:
    from importlib import import_module

    return import_module(".pool", __package__).Pool(
        processes,
        initializer,
        initargs,
        maxtasksperchild,
        self.get_context(),
        expect_initret=expect_initret,
    )


def _dummy_pool(
    processes: Optional[int] = None,
    initializer: Optional[Callable[..., object]] = None,
    initargs: Iterable[Any] = (),
    *,
    expect_initret: bool = False,
) -> Any:
    from importlib import import_module

    return import_module("..pool", __package__).ThreadPool(
        processes, initializer, initargs, expect_initret=expect_initret
    )


def _config(package: str) -> Dict[str, Any]:
    config: Dict[str, Any] = import_module(package + ".process").current_process()._config
    return config


def _replacements(package: str) -> Iterable[Tuple[Any, str, Any]]:
    pool, context, dummy = (
        import_module(package + part) for part in (".pool", ".context", ".dummy")
    )
    for stock in (pool.Pool, pool.ThreadPool):
        yield stock, "__init__", _pool.expecting(stock)
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
    return _pool.is_native(package) or package in _replaced


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
    with _lock:
        if is_installed(package):
            return
        replaced = []
        for owner, name, value in _replacements(package):
            replaced.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)
        _replaced[package] = replaced
        _config(package)[_IN_CHILDREN] = _InstalledInChildren(package)


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
            _config(package).pop(_IN_CHILDREN, None)
