"""Values as plain data: what may pass between a program under test and its checker.

A value is sent as JSON of exact builtin types, so nothing that the program defines (an
`__eq__` that always agrees, a subclass) takes part in a comparison. This runs inside the
sandbox and imports only the standard library.
"""

import decimal
import fractions
import json
import os
import struct
from typing import Any

DEPTH = 200  # nesting of a value
NODES = 2_000_000  # parts of a value
ITEMS = 100_000  # of an iterator; one with more is opaque
_SAFE = 2**53  # integers below are sent as JSON numbers, others in hexadecimal
_SEQUENCES = {'l': list, 't': tuple, 's': set, 'z': frozenset}
_ITERATORS = frozenset(
  ('generator', 'map', 'filter', 'zip', 'enumerate', 'reversed', 'list_iterator')
  + ('list_reverseiterator', 'tuple_iterator', 'set_iterator', 'dict_keyiterator')
  + ('dict_values', 'dict_items', 'range_iterator', 'str_iterator')
)


class Opaque:
  """A value that is no plain data: equal to nothing, not None, and true."""

  def __init__(self, name: str):
    self.name = name

  def __eq__(self, other: object) -> bool:
    return False

  __hash__ = None  # type: ignore[assignment]

  def __repr__(self) -> str:
    return f'<{self.name}>'


def encode(value: Any) -> Any:
  """A value as JSON data; subclasses become their builtin type.

  Raises ValueError if it is nested deeper than DEPTH or has more than NODES parts.
  """
  return _Encoder().encode(value, DEPTH)


class _Encoder:
  """Encodes one value, counting its nodes."""

  def __init__(self):
    self.remaining = NODES

  def encode(self, value: Any, depth: int) -> Any:
    self.remaining -= 1
    if depth < 0 or self.remaining < 0:
      raise ValueError('the value is nested too deeply or too large')
    if value is None or value is True or value is False:
      return value
    if isinstance(value, str):
      return str.__str__(value)
    if isinstance(value, int):
      value = int.__int__(value)
      return value if -_SAFE < value < _SAFE else ['i', hex(value)]
    if isinstance(value, float):
      return float.__float__(value)
    if isinstance(value, complex):
      return ['c', value.real, value.imag]
    if isinstance(value, bytes | bytearray):
      return ['b', bytes(value).hex()]
    if isinstance(value, fractions.Fraction):
      return ['q', hex(value.numerator), hex(value.denominator)]
    if isinstance(value, decimal.Decimal):
      return ['m', str(value)]
    return self._collection(value, depth - 1)

  def _collection(self, value: Any, depth: int) -> Any:
    for tag, sequence_type in _SEQUENCES.items():
      if isinstance(value, sequence_type):
        return [tag, *(self.encode(v, depth) for v in sequence_type.__iter__(value))]
    if isinstance(value, dict):
      pairs = dict.items(value)
      return [
        'd',
        *([self.encode(k, depth), self.encode(v, depth)] for k, v in pairs),
      ]
    if isinstance(value, range):
      ends = (value.start, value.stop, value.step)
      return ['r', *(self.encode(v, depth) for v in ends)]
    name = type(value).__name__
    if type(value).__module__ == 'numpy' and getattr(value, 'shape', None) == ():
      return self.encode(value.item(), depth)
    if name == 'dict_keys':
      return ['k', *(self.encode(v, depth) for v in value)]
    if name in _ITERATORS:
      items = []
      for item in value:
        if len(items) == ITEMS:
          return ['o', name]
        items.append(self.encode(item, depth))
      return ['n', *items]
    return ['o', name]


def decode(data: Any) -> Any:
  """The value of JSON data; raises ValueError or TypeError where it is malformed."""
  if not isinstance(data, list):
    if isinstance(data, dict):
      raise ValueError('malformed value')
    return data
  if not data or not isinstance(data[0], str):
    raise ValueError('malformed value')
  tag, *parts = data
  if tag in _SEQUENCES:
    return _SEQUENCES[tag](decode(part) for part in parts)
  if tag == 'd':
    return {decode(k): decode(v) for k, v in parts}
  if tag == 'n':
    return iter([decode(part) for part in parts])
  if tag == 'k':
    return dict.fromkeys(decode(part) for part in parts).keys()
  if tag == 'r':
    return range(*(decode(part) for part in parts))
  return _scalar(tag, parts)


def _scalar(tag: str, parts: list) -> Any:
  if tag == 'i':
    return int(parts[0], 16)
  if tag == 'c':
    return complex(float(parts[0]), float(parts[1]))
  if tag == 'b':
    return bytes.fromhex(parts[0])
  if tag == 'q':
    return fractions.Fraction(int(parts[0], 16), int(parts[1], 16))
  if tag == 'm':
    return decimal.Decimal(str(parts[0]))
  if tag == 'o':
    return Opaque(str(parts[0]))
  raise ValueError('malformed value')


def has_opaque(data: Any) -> bool:
  """Whether encoded data has a value that is no plain data, or an iterator or view."""
  if not isinstance(data, list) or not data:
    return False
  if data[0] == 'd':
    return any(has_opaque(part) for pair in data[1:] for part in pair)
  return data[0] in ('o', 'n', 'k') or any(has_opaque(part) for part in data[1:])


def send(fd: int, message: Any) -> None:
  """Writes one message: eight bytes of length, then JSON."""
  data = json.dumps(message).encode()
  data = struct.pack('>Q', len(data)) + data
  while data:
    data = data[os.write(fd, data[: 1 << 20]) :]


def receive(fd: int, limit: int) -> Any:
  """Reads one message; EOFError at the end, ValueError if too large or no JSON."""
  (size,) = struct.unpack('>Q', _exactly(fd, 8))
  if size > limit:
    raise ValueError(f'a message of {size:,} bytes; at most {limit:,} are read')
  try:
    return json.loads(_exactly(fd, size))
  except RecursionError:
    raise ValueError('the message is nested too deeply') from None


def _exactly(fd: int, size: int) -> bytes:
  parts = []
  while size:
    part = os.read(fd, min(size, 1 << 20))
    if not part:
      raise EOFError
    parts.append(part)
    size -= len(part)
  return b''.join(parts)
