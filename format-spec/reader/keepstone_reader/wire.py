"""Integers, varints and the canonical CBOR subset (conventions.md)."""


class FormatError(Exception):
    """Bytes that break a rule of the specification."""

    def __init__(self, rule, detail):
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


class Reader:
    """Reads little-endian integers, varints and byte runs; running short breaks `rule`."""

    def __init__(self, data, rule, at=0):
        self.data, self.rule, self.at = data, rule, at

    @property
    def left(self):
        return len(self.data) - self.at

    def take(self, length):
        if length > self.left:
            raise FormatError(self.rule, f"{length} bytes expected at offset {self.at}, {self.left} left")
        taken = self.data[self.at : self.at + length]
        self.at += length
        return bytes(taken)

    def integer(self, size):
        return int.from_bytes(self.take(size), "little")

    def varint(self):
        value = 0
        for place in range(10):
            byte = self.take(1)[0]
            if place == 9 and byte & 0x7F > 1:
                raise FormatError("WIRE-1", "varint larger than 64 bits")
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                if byte == 0 and place > 0:
                    raise FormatError("WIRE-1", "varint not in its shortest form")
                return value
        raise FormatError("WIRE-1", "varint larger than 64 bits")

    def count(self, most, what):
        value = self.varint()
        if value > most:
            raise FormatError(self.rule, f"{what} is {value}, at most {most} allowed")
        return value

    def end(self):
        if self.left:
            raise FormatError(self.rule, f"{self.left} bytes after the end")


def varint(value):
    """The shortest form of `value`."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


UINT, NEGATIVE, BYTES, TEXT, ARRAY, MAP, _TAG, SIMPLE = range(8)
_NAMES = ["unsigned integer", "negative integer", "byte string", "text", "array", "map", "tag", "simple value"]


class Cbor:
    """Reads one CBOR document front to back and refuses every form but the canonical one."""

    def __init__(self, data, at=0):
        self.data, self.at = data, at
        self.maps = []

    def _take(self, length):
        if length > len(self.data) - self.at:
            raise FormatError("CBOR-1", f"cut short at byte {self.at}")
        taken = bytes(self.data[self.at : self.at + length])
        self.at += length
        return taken

    def _head(self):
        first = self._take(1)[0]
        major, low = first >> 5, first & 31
        if low < 24:
            return major, low
        if low > 27:
            raise FormatError("CBOR-1", f"indefinite or reserved length in byte {self.at - 1}")
        size = 1 << (low - 24)
        value = int.from_bytes(self._take(size), "big")
        if major == SIMPLE or value < (24 if size == 1 else 1 << (4 * size)):
            raise FormatError("CBOR-4", f"not in its shortest form at byte {self.at}")
        return major, value

    def _expect(self, major):
        found, value = self._head()
        if found != major:
            raise FormatError("CBOR-1", f"{_NAMES[found]} where {_NAMES[major]} belongs, before byte {self.at}")
        return value

    def uint(self, bits=64):
        value = self._expect(UINT)
        if value >> bits:
            raise FormatError("CBOR-1", f"{value} doesn't fit {bits} bits")
        return value

    def int(self):
        major, value = self._head()
        if major not in (UINT, NEGATIVE) or value >> 63:
            raise FormatError("CBOR-1", f"no signed 64-bit integer before byte {self.at}")
        return value if major == UINT else -1 - value

    def bool(self):
        value = self._expect(SIMPLE)
        if value not in (20, 21):
            raise FormatError("CBOR-1", f"no truth value before byte {self.at}")
        return value == 21

    def bytes(self, most):
        length = self._expect(BYTES)
        if length > most:
            raise FormatError("CBOR-2", f"byte string of {length}, at most {most} allowed")
        return self._take(length)

    def fixed(self, size):
        value = self.bytes(size)
        if len(value) != size:
            raise FormatError("CBOR-2", f"byte string of {len(value)}, exactly {size} expected")
        return value

    def text(self, most):
        length = self._expect(TEXT)
        if length > most:
            raise FormatError("CBOR-2", f"text of {length} bytes, at most {most} allowed")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError("CBOR-1", f"text that is not UTF-8: {error}") from None

    def array(self, most):
        items = self._expect(ARRAY)
        if items > most:
            raise FormatError("CBOR-2", f"array of {items} items, at most {most} allowed")
        return items

    def tuple(self, items):
        if self.array(items) != items:
            raise FormatError("CBOR-2", f"array of fewer than {items} items")

    def map(self):
        self.maps.append(self._expect(MAP))

    def optional(self, key):
        """Consumes the next key when it is `key`."""
        if self.maps[-1] == 0:
            return False
        before = self.at
        if self.uint() != key:
            self.at = before
            return False
        self.maps[-1] -= 1
        return True

    def field(self, key):
        if not self.optional(key):
            raise FormatError("CBOR-3", f"field {key} is absent")
        return self

    def end_map(self):
        left = self.maps.pop()
        if left:
            raise FormatError("CBOR-3", f"{left} unknown fields")

    def end(self):
        if self.at != len(self.data):
            raise FormatError("CBOR-4", f"{len(self.data) - self.at} bytes after the document")


def ascending(items, rule, what):
    """Refuses a list that is not strictly ascending."""
    if any(low >= high for low, high in zip(items, items[1:], strict=False)):
        raise FormatError(rule, f"{what} not in ascending order")
    return items
