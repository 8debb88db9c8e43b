"""Protobuf's wire format, as far as ONNX files need it: no ONNX library has to be installed to read or write one."""

from collections.abc import Iterator

Span = tuple[int, int]
"""[start, end) in bytes."""


class NotProtobuf(Exception):
    """The bytes are no protobuf message. One line with the place."""


def members(message: bytes, span: Span) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of every member of a serialised message. Raises NotProtobuf."""
    position, stop = span
    while position < stop:
        key, position = varint(message, position)
        match key & 7:
            case 0:
                end = varint(message, position)[1]
            case 1:
                end = position + 8
            case 2:
                length, position = varint(message, position)
                end = position + length
            case 5:
                end = position + 4
            case kind:
                raise NotProtobuf(f"wire type {kind} at byte {position}")
        if end > stop:
            raise NotProtobuf(f"it ends inside a field at byte {position}")
        yield key >> 3, position, end
        position = end


def varint(message: bytes, position: int) -> tuple[int, int]:
    """The unsigned number at a place, and the place behind it. Raises NotProtobuf."""
    value = shift = 0
    while True:
        if position >= len(message):
            raise NotProtobuf("it ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def signed(value: int) -> int:
    """An int64 that was written as an unsigned number of 64 bits."""
    return value - 2**64 if value >= 2**63 else value


def number(field: int, value: int) -> bytes:
    """A member that is an integer."""
    return _varint(field << 3) + _varint(value % 2**64)


def content(field: int, value: bytes) -> bytes:
    """A member that is a string, bytes, a message or packed numbers."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def packed(values: tuple[int, ...]) -> bytes:
    """Integers one behind the other."""
    return b"".join(_varint(value % 2**64) for value in values)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
