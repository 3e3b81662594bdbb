"""MessageBuffer finds the messages in a stream, into whatever parts the stream is split."""

import multiprocessing
import os
import struct
import sys

import pytest
from conftest import posix
from multiprocessing_initret._shared import messages
from multiprocessing_initret._shared.messages import (
    LONG_HEADER,
    RESULT_HEADER,
    MessageBuffer,
    TruncatedMessage,
    header,
)

SIZES = [0, 1, 5, 20, 300, 2, 0]


def stream(sizes=SIZES):
    return b"".join(header(size) + bytes([size % 251]) * size for size in sizes)


def check(found, sizes=SIZES):
    assert [bytes(message) for message in found] == [bytes([size % 251]) * size for size in sizes]


@pytest.mark.parametrize("part_size", [1, 2, 3, 5, 7, 100, 1000])
def test_parts_of_one_size(part_size):
    buffer, data, found = MessageBuffer(), stream(), []
    for start in range(0, len(data), part_size):
        found += buffer.feed(data[start : start + part_size])
    check(found)


def test_two_parts():
    data = stream()
    for middle in range(len(data) + 1):
        buffer = MessageBuffer()
        check(buffer.feed(data[:middle]) + buffer.feed(data[middle:]))


def test_one_message():
    buffer = MessageBuffer()
    for size in 0, 1, 1000:
        check(buffer.feed(stream([size])), [size])


@pytest.mark.parametrize("part_size", [3, 20, 27, 28, 29, 53, 54, 55, 1000])
def test_large_messages(monkeypatch, part_size):
    """Memory for them is not allocated before the second part."""
    monkeypatch.setattr(messages, "LARGE", 20)
    sizes = [50, 5, 0, 50, 50, 20, 21, 5]
    buffer, data, found = MessageBuffer(), stream(sizes), []
    for start in range(0, len(data), part_size):
        found += buffer.feed(data[start : start + part_size])
    check(found, sizes)
    assert buffer.incomplete_size == 0


LONG = LONG_HEADER.pack(-1, 50)


@pytest.mark.parametrize(
    "parts",
    [
        [stream([50])[:30]],
        [stream([5, 50])[:30]],
        [stream([50])[:30], stream([50])[30:] + stream([50])[:30]],
        [stream([50])[:20], stream([50])[20:40], stream([50])[40:] + stream([50])[:30]],
        [LONG[:4], LONG[4:] + bytes(20)],  # sent like this by a connection
    ],
    ids=["alone", "after a small one", "after a large one", "after three parts", "long header"],
)
def test_first_part_of_a_large_message(monkeypatch, parts):
    monkeypatch.setattr(messages, "LARGE", 20)
    buffer = MessageBuffer()
    for part in parts:
        buffer.feed(part)
    assert buffer.incomplete_size == 50 and buffer._message is None


def test_header_of_a_long_message():
    assert header(2**31 - 1) == b"\x7f\xff\xff\xff"
    if sys.version_info < (3, 8):  # connections cannot receive it
        with pytest.raises(struct.error):
            header(2**31)
    else:
        assert header(2**31) == b"\xff\xff\xff\xff" + (2**31).to_bytes(8, "big")
    data = LONG_HEADER.pack(-1, 5) + b"12345" + stream([1])
    for middle in range(len(data) + 1):
        buffer = MessageBuffer()
        found = buffer.feed(data[:middle]) + buffer.feed(data[middle:])
        assert [bytes(message) for message in found] == [b"12345", b"\1"]


@posix
@pytest.mark.parametrize("size", [10, 20000])
def test_messages_of_a_connection(size):
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        writer.send_bytes(bytes(size))
        buffer, found = MessageBuffer(), []
        while not found:
            found = buffer.feed(os.read(reader.fileno(), 7000))
    assert [bytes(message) for message in found] == [bytes(size)]


@pytest.mark.parametrize("part_size", [1, 6, 50, 200])
def test_no_memory(monkeypatch, part_size):
    """Only the beginning of a message too large for memory is kept; later ones are complete."""

    def allocate(size):
        if size > 100:
            raise MemoryError
        return bytearray(size)

    monkeypatch.setattr(messages, "bytearray", allocate, raising=False)
    buffer, data, found = MessageBuffer(), stream([3, 250, 4, 249]), []
    for start in range(0, len(data), part_size):
        found += buffer.feed(data[start : start + part_size])
    assert [type(message) for message in found] == [
        memoryview,
        TruncatedMessage,
        memoryview,
        TruncatedMessage,
    ]
    assert [bytes(message) for message in found] == [
        b"\3" * 3,
        bytes([250]) * RESULT_HEADER.size,
        b"\4" * 4,
        bytes([249]) * RESULT_HEADER.size,
    ]
