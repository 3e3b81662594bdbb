"""Which classes are plain data: unpickling their instances runs no code of the user's.

A template (see ``_parent.template``) unpickles plain data only, and imports nothing for
that.  Otherwise its workers would share whatever the code that unpickling runs has opened,
connected or seeded.  The rule is about classes, so it costs one look-up for each class and
not for each object.  The parent applies it when it pickles, and the template once more.
"""

import copyreg
import pickle
import sys
import types
from abc import ABCMeta

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Set

#: Modules that every process has imported.
ALWAYS_IMPORTED = frozenset({"builtins", "collections"})

# Unpickling an instance of these runs the interpreter's own code only, although most of
# these classes have a reduction of their own.
_CLASSES = {
    "array": {"array"},
    "builtins": {
        "bool",
        "bytearray",
        "bytes",
        "complex",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "range",
        "set",
        "slice",
        "str",
        "tuple",
    },
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "numpy": {"ndarray"},
    "pathlib": {"PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "uuid": {"UUID"},
}

# Functions that the pickles of these classes call.
_FUNCTIONS = {
    "array": {"_array_reconstructor"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
}
for _name in "multiarray", "numeric":  # before NumPy 2
    _FUNCTIONS["numpy.core." + _name] = _FUNCTIONS["numpy._core." + _name]

# Bases whose own methods do not count as hooks.
_BASES = frozenset({bytes, complex, dict, float, int, list, object, str, tuple})

# A class with one of these has no default reduction, or runs it while an instance is
# pickled, unpickled or released.
_HOOKS = frozenset(
    {
        "__class__",
        "__del__",
        "__getattr__",
        "__getattribute__",
        "__getnewargs__",
        "__getnewargs_ex__",
        "__getstate__",
        "__new__",
        "__reduce__",
        "__reduce_ex__",
        "__setattr__",
        "__setstate__",
    }
)


def is_plain_class(cls: type) -> bool:
    """Return whether unpickling an instance of a class runs no code of the user's.

    What the instance contains is not considered.
    """
    reducer = copyreg.dispatch_table.get(cls)
    if reducer is not None and reducer is not getattr(copyreg, "pickle_complex", None):
        return False
    if cls is type(None):
        return True
    return _is_listed(cls, _CLASSES) or _is_of_numpy(cls) or _has_default_reduction(cls)


def is_plain_global(obj: "Any") -> bool:
    """Return whether a pickle of plain data may refer to a class or function by its name."""
    return is_plain_class(obj) if issubclass(type(obj), type) else _is_listed(obj, _FUNCTIONS)


def find_plain_global(module: str, name: str) -> "Any":
    """Return a class or function that a pickle of plain data may refer to.

    It is found without importing a module, and without calling a module's or metaclass's
    ``__getattr__``.

    :raises pickle.UnpicklingError: if this process has not imported it, or it is not plain
    """
    found: "Any" = sys.modules.get(module)
    for part in name.split("."):
        is_namespace = type(found) is types.ModuleType or issubclass(type(found), type)
        found = vars(found).get(part) if is_namespace else None
    if found is None or not is_plain_global(found):
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data here")
    return found


def _namespace(module: str) -> "Dict[str, Any]":
    """Return the names of an imported module; a lazy one would import on an attribute."""
    found = sys.modules.get(module)
    return vars(found) if type(found) is types.ModuleType else {}


def _is_listed(obj: "Any", table: "Dict[str, Any]") -> bool:
    # By identity: a class of the user's may have the same name.
    return any(
        _namespace(module).get(name) is obj for module, names in table.items() for name in names
    )


def _is_of_numpy(cls: type) -> bool:
    """Return whether a class is one of NumPy's own scalars or dtypes."""
    numpy = _namespace("numpy")
    bases = tuple(numpy[name] for name in ("dtype", "generic") if name in numpy)
    return issubclass(cls, bases) and cls.__module__.partition(".")[0] == "numpy"


def _has_default_reduction(cls: type) -> bool:
    if type(cls) not in (type, ABCMeta):
        return False  # creating an instance may run code of the metaclass
    hooks = set(_HOOKS)
    if issubclass(cls, dict):
        hooks.add("__setitem__")
    if issubclass(cls, list):
        hooks.update(("append", "extend"))
    if cls.__hash__ is not None:
        # Unpickling a dict or set calls these methods of its keys.
        hooks.update(("__eq__", "__hash__"))
    slots: "Set[str]" = set()
    for base in reversed(cls.__mro__):
        names = vars(base)
        if base not in _BASES:
            own = names.keys() & hooks
            if own and not (own == {"__getnewargs__", "__new__"} and _is_namedtuple(base)):
                return False
            if not isinstance(names.get("__dict__", vars(type)["__dict__"]), _Descriptor):
                return False
            # Unpickling sets slots as attributes: none may be hidden by a property.
            if any(name in slots and not isinstance(names[name], _Member) for name in names):
                return False
            slots.update(name for name in names if isinstance(names[name], _Member))
    return True


_Descriptor, _Member = types.GetSetDescriptorType, types.MemberDescriptorType


def _is_namedtuple(cls: type) -> bool:
    """Return whether a class is one that ``collections.namedtuple()`` has made."""
    namespace = getattr(cls.__new__, "__globals__", {})
    return cls.__bases__ == (tuple,) and namespace.get("_tuple_new") is tuple.__new__
