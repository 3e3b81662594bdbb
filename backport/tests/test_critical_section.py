"""Critical sections, in which a thread must not terminate the pool, and call_in_thread()."""

import _thread
import threading

import pytest
from conftest import TIMEOUT, call_with_timeout
from multiprocessing_initret._parent.critical_section import CriticalSection, call_in_thread


@pytest.fixture
def section():
    return CriticalSection()


def test_outside_and_inside(section):
    assert not section.is_entered()
    with section:
        assert section.is_entered()
    assert not section.is_entered()


def test_called_function(section):
    with section:
        assert (lambda: section.is_entered())()


def test_nested(section):
    with section:
        with section:
            assert section.is_entered()
        assert section.is_entered()
    assert not section.is_entered()


def test_exception(section):
    with pytest.raises(LookupError), section:
        raise LookupError
    assert not section.is_entered()


def test_interrupted(section):
    """A function that has returned is not in the section, even if it did not call __exit__()."""

    def enter():
        section.__enter__()

    enter()
    assert not section.is_entered()


def test_other_thread(section):
    with section:
        assert not call_with_timeout(section.is_entered)


def test_sender(section):
    section.sender = threading.get_ident()
    assert section.is_entered()
    assert not call_with_timeout(section.is_entered)


def test_sections_of_other_pools(section):
    """A thread that starts a worker of one pool must not terminate another pool."""
    with CriticalSection():
        assert section.is_entered()


@pytest.mark.parametrize("timeout", [0, TIMEOUT])
def test_call(timeout):
    """The function runs in another thread, and is waited for if there is a timeout."""
    threads, may_return = [], threading.Event()

    def function(number, other):
        assert may_return.wait(TIMEOUT)
        threads.append((threading.current_thread(), number, other))

    if timeout:
        may_return.set()
    call_in_thread(function, 1, 2, timeout=timeout)
    assert len(threads) == (1 if timeout else 0)
    if timeout:
        assert threads[0][0] is not threading.current_thread() and threads[0][1:] == (1, 2)
    may_return.set()


def test_call_in_a_thread_that_holds_the_lock_of_the_module_threading():
    """threading.enumerate() holds this lock, and the garbage collector may run in it."""
    is_called = threading.Event()

    def call():
        with threading._active_limbo_lock:
            call_in_thread(is_called.set, timeout=0.01)

    call_with_timeout(call)
    assert is_called.wait(TIMEOUT)


def test_function_raises_an_exception(monkeypatch):
    """It is not raised in the caller, which has nothing to do with the pool that is garbage."""
    monkeypatch.setattr(threading, "excepthook", print, raising=False)  # since Python 3.8
    call_in_thread(int, "no number", timeout=TIMEOUT)


def refuse(*args, **kwargs):
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    "owner, name", [(_thread, "start_new_thread"), (threading.Thread, "start")]
)
def test_no_more_threads(monkeypatch, owner, name):
    calls = []
    monkeypatch.setattr(owner, name, refuse)
    call_in_thread(calls.append, 1, timeout=TIMEOUT)
    assert calls == [1]
