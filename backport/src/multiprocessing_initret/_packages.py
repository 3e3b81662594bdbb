"""multiprocessing or a fork of it, such as multiprocess: native or not, its modules."""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def module(package: str, name: str) -> "Any":
    """Return a module of a package: ``module("multiprocess", "pool")``."""
    return import_module(package + "." + name)


def is_native(package: str) -> bool:
    """Tell whether a package, multiprocessing or a fork of it, has the feature itself.

    :raises ValueError: for any other package
    """
    try:
        # worker() is never patched, so its parameter tells a package that has the
        # feature from one where this package, or a copy of it, is installed.
        code = module(package, "pool").worker.__code__
    except (AttributeError, ImportError, TypeError) as error:
        message = "package must be the name of multiprocessing or of a fork of it, not {!r}"
        raise ValueError(message.format(package)) from error
    return "expect_initret" in code.co_varnames[: code.co_argcount]
