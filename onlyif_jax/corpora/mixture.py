"""From sources and counts to the exact rows of a mixture, without files.

A source's rows are drawn in an order that depends on its name, its size and the seed
alone, and a mixture takes the first ones. So the 10,000 rows of a source are among its
20,000, whatever else is in the mixture, and removing a row moves no other.
"""

import dataclasses
import hashlib
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.rows import Row

ROUNDS = 6  # of the bijection, as in keys.py


class RowId(NamedTuple):
  """Where a row is: a source's name and the row's number in its file."""

  source: str
  index: int


@dataclasses.dataclass(frozen=True)
class Source:
  """The rows of a source that may be drawn, in the order of drawing or of the file.

  size: rows of the file. hashes: one per row; rows with equal ones are duplicates.
  read: rows before any were removed. duplicates, contaminated: rows removed as such,
  duplicates by the source that keeps the row.
  """

  name: str
  size: int
  indices: tuple[int, ...]
  hashes: tuple[str, ...]
  read: int
  duplicates: Mapping[str, int] = dataclasses.field(default_factory=dict)
  contaminated: int = 0

  def text(self) -> str:
    """'oss has 70 rows, 64 of them after 5 duplicates and 1 contaminated'."""
    copies = sum(self.duplicates.values())
    return (
      f'{self.name} has {self.read:,} rows, {len(self.indices):,} of them after '
      f'{copies:,} duplicates and {self.contaminated:,} contaminated'
    )


@dataclasses.dataclass(frozen=True)
class Plan:
  """A mixture: rows per source in the config's order, and the rows in their order."""

  counts: Mapping[str, int]
  rows: tuple[RowId, ...]

  @property
  def sha256(self) -> str:
    """Hash of the row list, a line 'source<tab>index' for each row in order."""
    lines = ''.join(f'{source}\t{index}\n' for source, index in self.rows)
    return hashlib.sha256(lines.encode()).hexdigest()


def instruction(row: Row) -> str:
  """A row's turns before the first response, a line each."""
  texts = []
  for turn in row.turns:
    if turn.role == 'assistant':
      break
    texts.append(turn.text)
  return '\n'.join(texts)


def whole(row: Row) -> str:
  """All turns of a row, a line each."""
  return '\n'.join(turn.text for turn in row.turns)


def text_hash(text: str) -> str:
  """Hash of a text, alike up to letter case, width of characters and white space.

  >>> text_hash('Add  two\\nnumbers.') == text_hash('add two numbers. ')
  True
  """
  plain = ' '.join(unicodedata.normalize('NFKC', text).casefold().split())
  return hashlib.sha256(plain.encode()).hexdigest()


def source_of(name: str, rows: Sequence[Row], dedup: str = 'instruction') -> Source:
  """The source of a file's rows; dedup: see `MixtureSettings`."""
  if dedup == 'none':
    hashes = tuple(f'{name}\t{row.index}' for row in rows)
  else:
    text = instruction if dedup == 'instruction' else whole
    hashes = tuple(text_hash(text(row)) for row in rows)
  indices = tuple(row.index for row in rows)
  size = max(indices, default=-1) + 1
  return Source(name, size, indices, hashes, len(rows))


def without(source: Source, indices: Iterable[int]) -> Source:
  """A source without its contaminated rows."""
  contaminated = set(indices)
  keep = [n for n, index in enumerate(source.indices) if index not in contaminated]
  removed = len(source.indices) - len(keep)
  kept = _at(source, keep)
  return dataclasses.replace(kept, contaminated=source.contaminated + removed)


def deduplicate(sources: Sequence[Source]) -> list[Source]:
  """The sources with every row once: the first row of the first source that has it."""
  owner: dict[str, str] = {}  # hash -> the source that keeps the row
  unique = []
  for source in sources:
    keep, copies = [], dict[str, int]()
    for n, key in enumerate(source.hashes):
      if key in owner:
        copies[owner[key]] = copies.get(owner[key], 0) + 1
      else:
        owner[key] = source.name
        keep.append(n)
    unique.append(dataclasses.replace(_at(source, keep), duplicates=copies))
  return unique


def keyed(source: Source, seed: int) -> Source:
  """A source with its rows in the order of drawing."""
  rank = np.empty(source.size, np.int64)
  order = keyed_order(seed, f'source/{source.name}', source.size)
  rank[order] = np.arange(source.size)
  return reordered(source, np.argsort(rank[list(source.indices)]).tolist())


def reordered(source: Source, places: Sequence[int]) -> Source:
  """A source whose n-th row is the one that was at places[n]."""
  if sorted(places) != list(range(len(source.indices))):
    raise ValueError(f'{source.name}: places are not each of its rows once')
  return _at(source, places)


def plan(sources: Sequence[Source], counts: Mapping[str, int], seed: int) -> Plan:
  """The mixture with the first counts[name] rows of each source, in a keyed order.

  sources: in their order of drawing. Raises ConfigError if one has too few rows.
  """
  by_name = {source.name: source for source in sources}
  picked = []
  for name, count in counts.items():
    source = by_name[name]
    if count > len(source.indices):
      raise ConfigError(
        f'mixture.rows asks for {count:,} rows of {name}, but {source.text()}; ask for '
        'fewer, give more files, or loosen mixture.dedup or mixture.ngram'
      )
    picked += [RowId(name, index) for index in source.indices[:count]]
  order = keyed_order(seed, 'order', len(picked))
  return Plan(dict(counts), tuple(picked[p] for p in order))


def keyed_order(seed: int, address: str, n: int) -> np.ndarray:
  """A keyed bijection of [0, n): the item at each place (int64 [n]).

  The network of keys.permute with round keys from a hash of the address, in integers,
  so that it is equal on every machine and needs no device.
  """
  if n >= 2**31 - 2**16:
    raise ValueError(f'a keyed bijection of [0, {n}) does not fit int32')
  if n == 0:
    return np.zeros(0, np.int64)
  a = math.isqrt(n - 1) + 1
  b = -(-n // a)
  subkeys = round_keys(seed, address)
  values = _network(subkeys, np.arange(n, dtype=np.int64), a, b)
  while len(beyond := np.flatnonzero(values >= n)):
    values[beyond] = _network(subkeys, values[beyond], a, b)
  return values


def round_keys(seed: int, address: str) -> np.ndarray:
  """The round keys of a seed and an address (uint32 [ROUNDS])."""
  digest = hashlib.sha256(f'mixture/{seed}/{address}'.encode()).digest()
  return np.frombuffer(digest, '<u4', ROUNDS)


def _network(subkeys: np.ndarray, v_N: np.ndarray, a: int, b: int) -> np.ndarray:
  left, right = v_N // b, v_N % b
  for r in range(0, ROUNDS, 2):
    left = (left + _hash(subkeys[r], right) % a) % a
    right = (right + _hash(subkeys[r + 1], left) % b) % b
  return left * b + right


def _hash(subkey: np.uint32, half_N: np.ndarray) -> np.ndarray:
  """Mixes 32 bits as keys.mix32 does; int64, so that what follows cannot wrap."""
  h = half_N.astype(np.uint32) * np.uint32(0x9E3779B1) + subkey
  h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
  return (h ^ (h >> 16)).astype(np.int64)


def _at(source: Source, places: Iterable[int]) -> Source:
  places = list(places)
  return dataclasses.replace(
    source,
    indices=tuple(source.indices[n] for n in places),
    hashes=tuple(source.hashes[n] for n in places),
  )


def chosen(plans: Iterable[Plan]) -> Iterator[RowId]:
  """Every row of some mixture once, in the order of first use."""
  yield from dict.fromkeys(row_id for plan in plans for row_id in plan.rows)
