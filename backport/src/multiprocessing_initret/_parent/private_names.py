"""Check that the interpreter has the private names that this package relies on."""

import sys

from .._shared.packages import unwrapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, Mapping, Sequence

    #: Maps the path of an object in a module, such as ``Pool.__init__``, to the names that its code
    #: must contain: parameters that are passed by name, attributes that a constructor sets, others.
    Requirements = Mapping[str, Sequence[str]]


def missing_names(module: "Any", required: "Requirements") -> "Iterator[str]":
    """Yield the required names that a module lacks.

    No instance exists yet.  Therefore attributes are looked up in the code that sets them.
    """
    for path, names in required.items():
        obj = module
        for name in path.split("."):
            obj = getattr(obj, name, None)
        # install() keeps the constructor that it replaces in the attribute `standard`.
        obj = getattr(obj, "standard", obj)
        obj = unwrapped(getattr(obj, "__func__", obj))
        code: "Any" = getattr(obj, "__code__", None)
        # A class without an __init__() of its own inherits that of object, which has no code.
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
