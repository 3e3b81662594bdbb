"""Check that the interpreter has the private names that this package relies on."""

import sys

from .._shared.packages import unwrapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, Mapping, Sequence

    #: Paths of objects in a module.  The values are names that the code of a function contains:
    #: parameters that are bound by name, attributes that a constructor sets, and other names.
    Requirements = Mapping[str, Sequence[str]]


def missing_names(module: "Any", required: "Requirements") -> "Iterator[str]":
    """Yield the required names that a module lacks.

    No instance exists yet.  Therefore attributes are looked up in the code that sets them.
    """
    for path, names in required.items():
        obj = module
        for name in path.split("."):
            obj = getattr(obj, name, None)
        # A constructor that install() has replaced, or a class method.
        obj = getattr(obj, "standard", obj)
        obj = unwrapped(getattr(obj, "__func__", obj))
        code: "Any" = getattr(obj, "__code__", None)
        # object.__init__() has no such code: a class that lacks its own inherits it.
        if obj is None or (names and not hasattr(code, "co_names")):
            yield f"{module.__name__}.{path}"
        elif names:
            known = {*code.co_varnames, *code.co_names}
            for name in names:
                if name not in known:
                    yield f"{name} in {module.__name__}.{path}"


def raise_if_missing(package: str, missing: "Iterable[str]") -> None:
    """Raise :exc:`RuntimeError` if an interpreter lacks names that this package relies on.

    :param package: ``multiprocessing``, a derivative of it, or ``concurrent.futures``
    :param missing: the names
    """
    text = ", no ".join(missing)
    if text:
        raise RuntimeError(
            f"expect_initret=True does not support {package} of Python {sys.version.split()[0]}, "
            f"which has no {text}: install a newer release of multiprocessing-initret, or do "
            "without expect_initret"
        )
