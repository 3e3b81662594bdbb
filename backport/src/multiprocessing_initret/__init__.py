"""``multiprocessing.Pool(..., expect_initret=True)`` for every Python since 3.6.

What the pool's initializer returns in a worker reaches every function that
worker runs, as the keyword argument ``initret``.  An application calls
:func:`install` once, and all of ``multiprocessing`` takes the keyword.  A
library must not patch its users' interpreter: it uses :class:`Pool` and
:class:`ThreadPool` of this package, which leave ``multiprocessing`` alone.
:func:`broadcast` brings a large object to the workers without a copy for each;
the modules ``futures`` and ``ray`` have the executors of ``concurrent.futures``
and the pool of Ray with the keyword.

Source: CPython issue gh-79018, https://github.com/python/cpython/issues/79018
"""

from ._broadcast import Broadcast, broadcast
from ._install import install, is_installed, uninstall
from ._pool import Pool, ThreadPool

__version__ = "1.0.0"
__all__ = [
    "Broadcast",
    "Pool",
    "ThreadPool",
    "broadcast",
    "install",
    "is_installed",
    "uninstall",
]
