"""Teach ``multiprocessing`` itself the keyword, in place, and take it back."""

import threading
from multiprocessing import context, dummy, pool, process
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from . import _pool

_lock = threading.Lock()
_replaced: List[Tuple[Any, str, Any]] = []

# A process hands a copy of its configuration to each child it starts. What
# stands there under this key is unpickled where a child is spawned, and so a
# child has the feature when its parent has, as it has by memory when forked.
_IN_CHILDREN = "multiprocessing_initret"


def _config() -> Dict[str, Any]:
    return process.current_process()._config  # type: ignore[attr-defined, no-any-return]


class _InstalledInChildren:
    def __reduce__(self) -> Tuple[Callable[[], object], Tuple[()]]:
        return _install_in_child, ()


def _install_in_child() -> _InstalledInChildren:
    install()
    return _InstalledInChildren()


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


def _replacements() -> Iterable[Tuple[Any, str, Any]]:
    yield pool.Pool, "__init__", _pool.Pool.__init__
    yield pool.ThreadPool, "__init__", _pool.ThreadPool.__init__
    for function, ours in ((context.BaseContext.Pool, _context_pool), (dummy.Pool, _dummy_pool)):
        # The default first: a call from another thread may come in between.
        yield function, "__kwdefaults__", ours.__kwdefaults__
        yield function, "__code__", ours.__code__


def is_installed() -> bool:
    """Tell whether ``multiprocessing`` takes ``expect_initret``.

    :returns: true after :func:`install`, and always where the interpreter
        itself has the feature
    """
    return _pool.NATIVE or bool(_replaced)


def install() -> None:
    """Let every pool of ``multiprocessing`` take ``expect_initret``.

    This changes ``multiprocessing`` for the whole process and the processes it
    starts, so it is for applications to call, once, as early as they like: what
    was imported before, ``from multiprocessing import Pool`` included, has the
    keyword too.  Only what has wrapped the constructor of a pool, a tracer say,
    must come after it.  A second call does nothing, nor does any call where the
    interpreter itself has the feature.
    """
    with _lock:
        if is_installed():
            return
        replaced = []
        for owner, name, value in _replacements():
            replaced.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)
        _replaced.extend(replaced)
        _config()[_IN_CHILDREN] = _InstalledInChildren()


def uninstall() -> None:
    """Give ``multiprocessing`` its own functions and classes back.

    Pools made before go on as they were made.  Does nothing without an
    :func:`install` before.
    """
    with _lock:
        while _replaced:
            setattr(*_replaced.pop())
        _config().pop(_IN_CHILDREN, None)
