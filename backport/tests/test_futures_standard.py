"""The executors and the standard ones: signatures, arguments, and the names relied upon."""

import concurrent.futures
import inspect
import os
import sys
import traceback

import futures_support
import multiprocessing_initret
import pytest
from conftest import TIMEOUT
from futures_support import NAMES, add, fail, identity, make, with_initializers
from multiprocessing_initret import _standard_executor, futures

kind = futures_support.kind  # a fixture

#
# Without expect_initret
#


@pytest.mark.parametrize("name", NAMES)
def test_without_expect_initret(name):
    ours, standard = getattr(futures, name), getattr(concurrent.futures, name)
    with ours(2) as executor, standard(2) as other:
        assert type(executor) is ours and issubclass(ours, standard)
        assert sorted(vars(executor)) == sorted(vars(other))
        assert executor.submit(identity, 1).result(TIMEOUT) == 1
        assert list(executor.map(identity, range(3), timeout=TIMEOUT)) == [0, 1, 2]


@with_initializers
def test_initializer_without_expect_initret(kind):
    with make(kind, 1, identity, (40,), expect_initret=False) as executor:
        assert executor.submit(identity, 1).result(TIMEOUT) == 1
        with pytest.raises(TypeError, match="initret"):
            executor.submit(add, 1).result(TIMEOUT)
    errors = []
    for kwds in {"standard": True}, {"expect_initret": False}:
        with make(kind, 1, fail, **kwds) as executor:
            error = executor.submit(identity, 1).exception(TIMEOUT)
            errors.append((type(error), str(error)))
    assert errors[0] == errors[1]


#
# Signatures
#


@pytest.mark.parametrize("name", NAMES)
def test_signature(name):
    standard = inspect.signature(getattr(concurrent.futures, name))
    ours = inspect.signature(getattr(futures, name))
    parameters = dict(ours.parameters)
    parameter = parameters.pop("expect_initret")
    assert parameter.kind is parameter.KEYWORD_ONLY and parameter.default is False
    # An older Python's own executor has fewer.
    common = [parameter for name, parameter in parameters.items() if name in standard.parameters]
    assert common == list(standard.parameters.values())


@pytest.mark.parametrize("name", NAMES)
def test_signatures_of_methods(name):
    ours, standard = getattr(futures, name), getattr(concurrent.futures, name)
    for method in "submit", "map", "shutdown":
        signatures = [inspect.signature(getattr(cls, method)) for cls in (ours, standard)]
        assert signatures[0] == signatures[1]


def test_public_names():
    assert sorted(futures.__all__) == NAMES
    assert all(hasattr(futures, name) for name in NAMES)


@with_initializers
def test_no_class_is_created_for_an_executor(kind):
    executors = [make(kind, 1, identity, (40,)) for _ in range(3)]
    assert {type(executor) for executor in executors} <= {getattr(futures, name) for name in NAMES}


#
# Arguments
#


def check_error(error, name, **kwds):
    """Check the exception of a constructor, and that few lines of its traceback are ours."""
    with pytest.raises(type(error)) as raised:
        getattr(futures, name)(2, **kwds)
    assert str(error) in str(raised.value)
    assert "<locals>" not in str(raised.value)
    package = os.path.dirname(multiprocessing_initret.__file__)
    frames = traceback.extract_tb(raised.value.__traceback__)
    assert sum(frame.filename.startswith(package) for frame in frames) <= 3
    return str(raised.value)


@with_initializers
@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments(name):
    check_error(ValueError("expect_initret requires an initializer"), name, expect_initret=True)
    check_error(
        TypeError("initializer must be callable, not int"),
        name,
        initializer=1,
        expect_initret=True,
    )
    check_error(
        TypeError("initargs must be an iterable of arguments, not int"),
        name,
        initializer=identity,
        initargs=1,
        expect_initret=True,
    )
    with pytest.raises(ValueError, match="max_workers"):
        getattr(futures, name)(0, initializer=identity, expect_initret=True)


@with_initializers
@pytest.mark.parametrize("value", [1, None])
@pytest.mark.parametrize("expect_initret", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_wrong_keyword(name, expect_initret, value):
    text = check_error(
        TypeError("got an unexpected keyword argument 'no_such'"),
        name,
        initializer=identity,
        no_such=value,
        expect_initret=expect_initret,
    )
    if sys.version_info >= (3, 10):
        assert text.startswith(name + ".")


@with_initializers
def test_initargs_of_any_iterable(kind):
    for initargs in [40], iter([40]):
        with make(kind, 1, identity, initargs) as executor:
            assert executor.submit(add, 1).result(TIMEOUT) == 41


@pytest.mark.skipif(sys.version_info >= (3, 7), reason="executors have initializers")
@pytest.mark.parametrize("name", NAMES)
def test_python_is_too_old(name):
    with pytest.raises(NotImplementedError, match="3.7"):
        getattr(futures, name)(2, expect_initret=True)


#
# An interpreter that lacks a private name
#

CHECKS = {
    "ProcessPoolExecutor": (
        _standard_executor.check_process_pool,
        _standard_executor._process,
        _standard_executor.PROCESS_REQUIREMENTS,
    ),
    "ThreadPoolExecutor": (
        _standard_executor.check_thread_pool,
        _standard_executor._thread,
        _standard_executor.THREAD_REQUIREMENTS,
    ),
}
CHECKS["InterpreterPoolExecutor"] = CHECKS["ThreadPoolExecutor"]


ALL_NAMES = [
    pytest.param(name, path, names, missing, id=f"{name}-{path}-{missing}")
    for name in NAMES
    for path, names in CHECKS[name][2].items()
    for missing in [None, *names]
]


@pytest.fixture
def unchecked():
    """Let the next executor with expect_initret be the first one."""

    def clear():
        for check, _, _ in CHECKS.values():
            check.cache_clear()

    clear()
    yield
    clear()


@with_initializers
@pytest.mark.parametrize("name, path, names, missing", ALL_NAMES)
def test_a_name_is_missing(name, path, names, missing, unchecked, monkeypatch):
    owner = module = CHECKS[name][1]
    *parents, function_name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    if missing is None:
        monkeypatch.delattr(owner, function_name)
    else:
        namespace = {}
        others = ", ".join(other for other in names if other != missing)
        exec(f"def function({others}): pass", namespace)
        monkeypatch.setattr(owner, function_name, namespace["function"])
    with pytest.raises(RuntimeError) as raised:
        getattr(futures, name)(1, initializer=identity, expect_initret=True)
    text = str(raised.value)
    for part in sys.version.split()[0], module.__name__, path, "install a newer release":
        assert part in text
    if missing is not None:
        assert [other for other in names if other in text] == [missing]
    if function_name == "_initializer_failed":
        with getattr(futures, name)(1) as executor:
            assert executor.submit(identity, 1).result(TIMEOUT) == 1


@with_initializers
@pytest.mark.parametrize("name", NAMES)
def test_names_are_checked_once(name, unchecked):
    check = CHECKS[name][0]
    with getattr(futures, name)(1, initializer=identity):
        assert check.cache_info().misses == 0
    for _ in range(2):
        with getattr(futures, name)(1, initializer=identity, expect_initret=True):
            pass
    assert check.cache_info().misses == 1
