"""Check whether classes are plain data: unpickling their instances runs no user code.

A template (see ``_parent.template``) unpickles only plain data, and without imports.  Otherwise
user code could create files, connections and random generators in the template, and its workers
would share them.  Classes are checked rather than objects, as there are fewer of them.  The
parent checks the classes when it pickles, and the template checks them again when it unpickles.
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

# Classes whose instances are unpickled only by code of the interpreter or of NumPy, although most
# of the classes have a reduction of their own.
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

# Functions that unpickling instances of these classes calls.
_FUNCTIONS = {
    "array": {"_array_reconstructor"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
}
for _name in "multiarray", "numeric":  # before NumPy 2
    _FUNCTIONS["numpy.core." + _name] = _FUNCTIONS["numpy._core." + _name]

# Base classes whose methods run no user code, even if they have the name of a hook.
_BASES = frozenset({bytes, complex, dict, float, int, list, object, str, tuple})

# A class that defines one of these attributes does not have the default reduction, or runs user
# code while an instance is pickled, unpickled or released.
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
    """Return whether unpickling an instance of a class runs no user code.

    Objects that the instance contains are not considered.
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

    This imports nothing, and does not call ``__getattr__`` of a module or metaclass.

    :raises pickle.UnpicklingError: if this process has not imported the class or function, or if
        it is not plain data
    """
    found: "Any" = sys.modules.get(module)
    for part in name.split("."):
        is_namespace = type(found) is types.ModuleType or issubclass(type(found), type)
        found = vars(found).get(part) if is_namespace else None
    if found is None or not is_plain_global(found):
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data here")
    return found


def _namespace(module: str) -> "Dict[str, Any]":
    """Return the namespace of an imported module; empty for a lazy one, whose use may import."""
    found = sys.modules.get(module)
    return vars(found) if type(found) is types.ModuleType else {}


def _is_listed(obj: "Any", table: "Dict[str, Any]") -> bool:
    # Compare identities: a class in user code may have the same name.
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
        return False  # creating an instance may call a method of the metaclass
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
            # Unpickling sets slots as attributes, which would call a property of that name.
            if any(name in slots and not isinstance(names[name], _Member) for name in names):
                return False
            slots.update(name for name in names if isinstance(names[name], _Member))
    return True


_Descriptor, _Member = types.GetSetDescriptorType, types.MemberDescriptorType


def _is_namedtuple(cls: type) -> bool:
    """Return whether a class was created by ``collections.namedtuple()``."""
    namespace = getattr(cls.__new__, "__globals__", {})
    return cls.__bases__ == (tuple,) and namespace.get("_tuple_new") is tuple.__new__
