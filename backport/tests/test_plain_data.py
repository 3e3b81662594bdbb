"""What a template unpickles: plain data, whose unpickling runs no user code."""

import array
import collections
import copyreg
import datetime
import decimal
import enum
import fractions
import functools
import multiprocessing
import multiprocessing.managers  # registers a reducer for arrays
import pathlib
import pickle
import random
import re
import sys
import types
import typing
import uuid
from abc import ABC

import pytest
from multiprocessing_initret._shared import argument_pickle, initargs, plain_data

pytestmark = pytest.mark.skipif(
    not initargs.PICKLES_ONCE, reason="this Python sends a copy to each worker"
)


class Default:
    """A class with the default reduction."""

    def __init__(self, *values):
        self.values = values

    def __eq__(self, other):
        return type(other) is type(self) and vars(other) == vars(self)


class Abstract(ABC, Default):
    pass


class Slots:
    __slots__ = "x", "__y"

    def __init__(self, x=1):
        self.x = x
        self.__y = 2


class SlotsAndDict(Slots):
    def __init__(self):
        super().__init__()
        self.z = 3


Point = collections.namedtuple("Point", "x y")


class Typed(typing.NamedTuple):
    x: int = 1


class PointWithMethod(Point):
    def length(self):
        return (self.x**2 + self.y**2) ** 0.5


class Text(str):
    pass


class Number(int):
    pass


class Table(dict):
    def total(self):
        return sum(self.values())


class Rows(list):
    pass


def user_function():
    return Default


RECURSIVE = Default()
RECURSIVE.values = [RECURSIVE]

BUILT_IN = [
    None,
    True,
    2**70,
    1.5,
    1j,
    "text",
    b"bytes",
    bytearray(b"bytes"),
    (1, "2"),
    [[], {}],
    {"key": {1: (2,)}},
    {1, 2},
    frozenset("ab"),
    range(3),
    slice(1, 2),
    collections.Counter("aab"),
    collections.OrderedDict(a=1),
    collections.defaultdict(list, a=[1]),
    collections.deque([1, 2], 3),
    [int, dict],
]

OTHER_PLAIN = [
    array.array("d", [1.5]),
    datetime.date(2020, 1, 2),
    datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
    datetime.timedelta(3),
    decimal.Decimal("1.5"),
    fractions.Fraction(1, 3),
    pathlib.PurePosixPath("a/b"),
    pathlib.Path("a"),
    uuid.UUID(int=5),
    Default(1, [2]),
    Abstract(),
    Point(1, 2),
    Typed(),
    PointWithMethod(3, 4),
    Text("text"),
    Number(3),
    Table(a=1),
    Rows([1]),
    {Text("key"): Number(1)},
    [Default],
    collections.UserDict(a=1),
]


def load_as_template(*objects):
    """Return the objects that a template loads, in the order in which it loads them."""
    made = initargs.InitArgs(objects).pickle(1)
    assert initargs.preload("multiprocessing", made.memory, made.index, made.plain, 0)
    (_, loaded, _), initargs._preloaded = initargs._preloaded, None
    return loaded


def is_plain(obj):
    return len(load_as_template(obj)) == 1


@pytest.mark.parametrize("obj", BUILT_IN + OTHER_PLAIN, ids=repr)
def test_plain_data_is_loaded(obj):
    assert argument_pickle  # imported above, because the first pickle would import it
    before = set(sys.modules)
    (loaded,) = load_as_template(obj)
    assert type(loaded) is type(obj) and loaded == obj
    assert set(sys.modules) == before


@pytest.mark.parametrize("obj", [Slots(), SlotsAndDict()])
def test_slots(obj):
    (loaded,) = load_as_template(obj)
    assert loaded.x == 1 and loaded._Slots__y == 2


def test_recursive_object():
    (loaded,) = load_as_template(RECURSIVE)
    assert loaded.values == [loaded]


@pytest.mark.parametrize("size", [0, 10])
def test_numpy(size):
    numpy = pytest.importorskip("numpy")
    values = numpy.arange(size * 2.0).reshape(2, size)
    fields = numpy.zeros(3, [("x", "i4"), ("y", "M8[s]")])
    for array_ in values, values[:, ::2], numpy.asfortranarray(values), fields, values > 3:
        (loaded,) = load_as_template(array_)
        assert loaded.dtype == array_.dtype and (loaded == array_).all()
    others = [fields.dtype, numpy.dtype("f8"), numpy.float64(1.5), numpy.datetime64("2020-01-02")]
    for obj in [*others, [numpy.float32]]:
        assert load_as_template(obj) == [obj]
    assert is_plain(numpy.array([1, "two", [Default()]], dtype=object))
    assert not is_plain(numpy.array([1, WithSetState()], dtype=object))
    assert not is_plain(numpy.matrix([1]))
    assert not is_plain(numpy.random.default_rng(1))
    assert not is_plain(numpy.ma.array([1]))


def make_class(name, base=Default, value=None):
    """Make a class that can be pickled, with one attribute of its own."""
    value = value or getattr(base, name, None) or (lambda self, *args: None)
    namespace = {name: value, "__module__": __name__, "__qualname__": "Made"}
    globals()["Made"] = cls = type(base)("Made", (base,), namespace)
    return cls


class WithSetState(Default):
    def __setstate__(self, state):
        raise AssertionError("not called in a template")


HOOKS = [
    ("__setstate__", object, None),
    ("__getstate__", object, lambda self: {"x": 1}),
    ("__reduce__", object, lambda self: (Default, ())),
    ("__reduce_ex__", object, lambda self, protocol: (Default, ())),
    ("__new__", object, staticmethod(lambda cls, *args: object.__new__(cls))),
    ("__getnewargs__", str, lambda self: ("a",)),
    ("__getnewargs_ex__", int, lambda self: ((1,), {})),
    ("__getattr__", object, lambda self, name: getattr(object(), name)),
    ("__getattribute__", object, object.__getattribute__),
    ("__setattr__", object, object.__setattr__),
    ("__hash__", object, lambda self: 1),
    ("__hash__", str, lambda self: 1),
    ("__del__", object, None),
    ("__setitem__", dict, dict.__setitem__),
    ("append", list, list.append),
    ("extend", list, list.extend),
    ("__class__", object, property(lambda self: Default)),
    ("__dict__", object, property(lambda self: {})),
    ("x", Slots, property(lambda self: 1, lambda self, value: None)),
]


@pytest.mark.parametrize("name, base, value", HOOKS)
def test_class_with_a_hook_is_not_plain(name, base, value):
    cls = make_class(name, base, value)
    assert not plain_data.is_plain_class(cls)
    # nor is a class derived from it
    assert not plain_data.is_plain_class(make_class("other", cls, 1))
    assert plain_data.is_plain_class(make_class("other", base, 1))


def test_class_with_eq_is_plain_if_it_cannot_be_a_key():
    assert plain_data.is_plain_class(Default) and Default.__hash__ is None
    hashable = make_class("__hash__", Default, object.__hash__)
    assert not plain_data.is_plain_class(hashable)


def test_metaclass_is_not_plain():
    meta = type("Meta", (type,), {"__call__": lambda cls: None})
    assert not plain_data.is_plain_class(meta("Class", (), {}))


@pytest.mark.parametrize("cls", [Default, decimal.Decimal, complex, range])
def test_copyreg_entry_is_not_plain(monkeypatch, cls):
    assert plain_data.is_plain_class(cls)
    monkeypatch.setitem(copyreg.dispatch_table, cls, lambda obj: (cls, ()))
    assert not plain_data.is_plain_class(cls)


class Color(enum.Enum):
    RED = 1


OTHERS = [
    WithSetState(),
    Color.RED,
    ValueError("text"),
    user_function,
    len,
    functools.partial(int, "1"),
    re.compile("a"),
    random.Random(1),
    collections.defaultdict(user_function),
    "text".upper,
    [typing.List[int]],
    WithSetState,
]


@pytest.mark.parametrize("obj", OTHERS, ids=repr)
def test_other_objects_are_not_plain(obj):
    for container in obj, [obj], {"key": (obj,)}, Default(obj):
        assert not is_plain(container)


def test_namesake_is_not_plain():
    namesake = type("Decimal", (decimal.Decimal,), {"__module__": "decimal"})
    assert plain_data.is_plain_class(decimal.Decimal)
    assert not plain_data.is_plain_class(namesake)


#
# Several arguments
#


def test_plain_arguments_come_first():
    lock, table, rows = multiprocessing.get_context("spawn").Lock(), {"a": 1}, [Default(1)]
    objects = user_function, {"lock": lock}, rows, [WithSetState()], table
    assert load_as_template(*objects) == [table, rows]
    assert initargs.InitArgs(objects).pickle(1).order == [4, 2, 0, 1, 3]


@pytest.mark.parametrize("minimum", [0, 2**20])
def test_order_without_a_template(minimum):
    """Unpickling an argument may prepare the process for the next, as in the standard pool."""
    counted = CountedReduction()
    for objects in (user_function, counted, {"a": 1}, [Default(1)]), ([Default(1)], 1):
        made = initargs.InitArgs(objects).pickle(minimum)
        assert made.order == list(range(len(objects))) and not made.plain
    assert counted.count == 1


def test_plain_object_in_several_arguments():
    obj = Default(1)
    other = WithSetState(obj)
    for objects in ([obj, other], [obj]), ([[obj], other], [other, obj]), (other, [other], obj):
        loaded = load_as_template(*objects)
        assert len(loaded) == sum(map(contains_no_hook, objects))
        assert all(map(contains_no_hook, loaded))


def contains_no_hook(obj):
    return b"WithSetState" not in pickle.dumps(obj)


class CountedReduction:
    def __init__(self):
        self.count = 0

    def __reduce__(self):
        self.count += 1
        return CountedReduction, ()


@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="calls reducer_override() for each reference"
)
def test_other_objects_are_pickled_once_although_the_order_changes():
    counted = CountedReduction()
    assert load_as_template([1, counted], [2, counted], [3]) == [[3]]
    # The attempts with another order stopped before they called __reduce__().
    assert counted.count == 1


def test_class_that_the_main_module_replaces(monkeypatch):
    """The main module is imported in a worker, after the template has loaded the objects."""
    module = types.ModuleType("changing")
    exec("class Row:\n    pass", vars(module))
    monkeypatch.setitem(sys.modules, "changing", module)
    made = initargs.InitArgs(([module.Row()],)).pickle(1)
    assert initargs.preload("multiprocessing", made.memory, made.index, made.plain, 0)
    exec("class Row:\n    pass", vars(module))
    received = initargs.ReceivedInitArgs(
        "multiprocessing", pickle.dumps([]), made.memory, made.index, made.order
    )
    (rows,) = received.load()
    assert type(rows[0]) is module.Row


@pytest.mark.parametrize("is_lazy", [False, True])
def test_class_that_is_not_imported(monkeypatch, is_lazy):
    module = types.ModuleType("absent")
    exec("class Row:\n    pass", vars(module))
    monkeypatch.setitem(sys.modules, "absent", module)
    made = initargs.InitArgs(([module.Row()], [1], [module.Row])).pickle(1)
    if is_lazy:
        lazy = type("LazyModule", (types.ModuleType,), {"__getattribute__": None})("absent")
        monkeypatch.setitem(sys.modules, "absent", lazy)
    else:
        monkeypatch.delitem(sys.modules, "absent")
    assert initargs.preload("multiprocessing", made.memory, made.index, made.plain, 0)
    (_, loaded, _), initargs._preloaded = initargs._preloaded, None
    assert loaded == [[1]]
    # The rest of the plain data is too small to be worth a template.
    size = made.plain_size
    assert not initargs.preload("multiprocessing", made.memory, made.index, made.plain, size)


@pytest.mark.parametrize("name", ["os.getpid", "builtins.eval", "absent.Name", "builtins.type"])
def test_template_refuses_other_names(name):
    with pytest.raises(pickle.UnpicklingError, match=name):
        plain_data.find_plain_global(*name.split("."))
