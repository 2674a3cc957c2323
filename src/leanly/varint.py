"""Whole numbers in as few bytes as they need: seven bits in each, the lowest first, and whether another follows."""

from __future__ import annotations


def write(value: int) -> bytes:
    """Return the bytes of a number from 0 on."""
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


class Reader:
    """Reads numbers, and the bytes between them, one after the other.

    Args:
        content: what is read.
        position: of the first byte.
    """

    def __init__(self, content: bytes, position: int = 0) -> None:
        self._content, self.position = content, position

    def number(self) -> int:
        """Return the next number.

        Raises:
            ValueError: the content ends before it.
        """
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def take(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            ValueError: there are fewer.
        """
        taken = self._content[self.position : self.position + size]
        if len(taken) < size:
            raise ValueError("it ends too early")
        self.position += size
        return taken

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self._content) - self.position)
