"""The settings of a mixture of instruction rows: every field, default and meaning.

The dataclass is used alone or as the section `mixture` of a larger config; errors name
its fields as there. No jax here.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import ml_collections

from onlyif_jax import config as config_lib
from onlyif_jax.config import ConfigError

SECTION = 'mixture'
_CHOICES = {
  'selection': ('random', 'kcenter'),
  'dedup': ('instruction', 'row', 'none'),
  'bad': ('error', 'drop'),
  'projection': ('pca', 'umap'),
}
_AT_LEAST = {
  'budget': 0,
  'seed': 0,
  'ngram': 0,
  'substring': 1,
  'dimensions': 2,
  'sample': 2,
  'clusters': 1,
  'neighbour': 1,
  'radius': 0,
}


class SourceFile(NamedTuple):
  """A file of rows."""

  name: str
  path: str
  format: str  # a name of readers.FORMATS, or 'auto'


class TestFile(NamedTuple):
  """A file of test prompts."""

  __test__ = False  # its name is no test's

  name: str
  path: str
  field: str  # '' to look for a usual name


@dataclasses.dataclass(frozen=True)
class MixtureSettings:
  """Which rows are drawn from which files, and how their diversity is measured."""

  # 'name=path' or 'name=path:format' each, with a format of readers.FORMATS, by default
  # recognised by the columns. A row that two sources share belongs to the first.
  sources: tuple[str, ...] = ()
  # The mixtures, 'oss=19000,alpaca=1000' each.
  rows: tuple[str, ...] = ()
  budget: int = 0  # rows of every mixture; `rows` then holds shares. 0: counts
  seed: int = 0  # of the draw and of the order
  selection: str = 'random'  # 'random', or 'kcenter' for a core set on embeddings
  # Two rows are duplicates by 'instruction' (everything before the first response), by
  # 'row' (response included), or never ('none').
  dedup: str = 'instruction'
  bad: str = 'error'  # rows without a response: 'error', or 'drop' to leave them out
  # Directory where TFDS keeps the rows of each file, prepared once; '': the files are
  # read each time and their rows kept in memory.
  prepared: str = ''
  # 'name=path' or 'name=path:field' each: prompts, in JSON (lines) or Parquet, that no
  # row may give away, and that a mixture should cover.
  tests: tuple[str, ...] = ()
  ngram: int = 10  # consecutive words that give a test away; 0 keeps such rows
  substring: int = 20  # shortest whole test prompt to search for, in characters
  tokenizer: str = ''  # directory of a tokenizer to count tokens by; '': no count
  # Directory of a static encoder (model2vec or Sentence-Transformers); '': dense TF-IDF
  # of words and characters, which needs none.
  encoder: str = ''
  dimensions: int = 128  # of the TF-IDF embedding
  sample: int = 2_000  # rows of a mixture, or set on the map, that are embedded
  clusters: int = 50  # groups of rows whose entropy is measured
  # A test prompt is covered by a row within this cosine distance; 0: within that of its
  # n-th nearest other test prompt, n the next field.
  radius: float = 0.0
  neighbour: int = 5
  projection: str = 'pca'  # of the map: 'pca', or 'umap' (extra viz)

  def __post_init__(self):
    for field, options in _CHOICES.items():
      value = getattr(self, field)
      if value not in options:
        raise ValueError(
          f'{SECTION}.{field}={value!r} is not one of {", ".join(options)}'
          + hint(value, options)
        )
    for field, low in _AT_LEAST.items():
      value = getattr(self, field)
      if not low <= value < math.inf:
        raise ValueError(
          f'{SECTION}.{field}={value} is below {low}; give {low} or more'
        )
    if not self.sources:
      raise ValueError(f"{SECTION}.sources is empty; give 'name=path' each")
    if not self.rows:
      raise ValueError(f"{SECTION}.rows is empty; give 'source=count,...' each")
    names = [f.name for f in (*self.source_files, *self.test_files)]
    for name in names:
      if names.count(name) > 1:
        raise ValueError(f'{SECTION}.sources and tests name {name!r} twice')
    if len(set(map(str, map(self.counts, self.rows)))) < len(self.rows):
      raise ValueError(f'{SECTION}.rows={list(self.rows)} names a mixture twice')

  @property
  def source_files(self) -> tuple[SourceFile, ...]:
    """The sources; the first one that has a shared row keeps it."""
    return tuple(map(_source_file, self.sources))

  @property
  def test_files(self) -> tuple[TestFile, ...]:
    """The sets of test prompts."""
    return tuple(map(_test_file, self.tests))

  def counts(self, row: str) -> dict[str, int]:
    """Source -> number of rows in one of `rows`, in the order of the sources."""
    numbers = _numbers(row, [f.name for f in self.source_files])
    if self.budget:
      return largest_remainder(self.budget, numbers)
    for name, number in numbers.items():
      if number.denominator != 1:
        raise ValueError(
          f'{SECTION}.rows, {row!r}: {name} is not a whole number; set '
          f'{SECTION}.budget to give shares'
        )
    return {name: int(number) for name, number in numbers.items()}


def base_config() -> Any:
  """The defaults as a locked ConfigDict with the one section `mixture`."""
  fields = dataclasses.fields(MixtureSettings)
  values = {f.name: f.default for f in fields}  # without sources it cannot be frozen
  return ml_collections.ConfigDict({SECTION: values}).lock()


def freeze(config: Any) -> MixtureSettings:
  """A ConfigDict or dict with the section `mixture` -> settings; raises ConfigError."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  if not isinstance(config.get(SECTION), dict):
    raise ConfigError(
      f'the config has no section {SECTION}; start from mixture_settings.base_config()'
    )
  return config_lib.build(MixtureSettings, config[SECTION], f'{SECTION}.')


def largest_remainder(
  total: int, weights: Mapping[str, Fraction | int]
) -> dict[str, int]:
  """Whole numbers in proportion to weights, with the sum `total`.

  What rounding down leaves goes to the largest remainders, the first of equals.

  >>> largest_remainder(10, {'a': 1, 'b': 1, 'c': 1})
  {'a': 4, 'b': 3, 'c': 3}
  """
  whole = sum(map(Fraction, weights.values()), Fraction())
  if total < 0 or whole <= 0 or min(weights.values()) < 0:
    raise ValueError('shares are numbers from 0 on, not all of them 0')
  exact = {name: total * Fraction(w) / whole for name, w in weights.items()}
  counts = {name: math.floor(e) for name, e in exact.items()}
  by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
  for name in by_remainder[: total - sum(counts.values())]:
    counts[name] += 1
  return counts


def of_thousands(names: Iterable[str], thousands: str, thousand: int = 1000) -> str:
  """A row of a paper's table as one of `rows`; thousands: of each source, in order.

  thousand: rows that stand for a thousand; fractions are rounded by largest remainder.

  >>> of_thousands(('oss', 'alpaca', 'cot'), '67.5/3.25/3.25')
  'oss=67500,alpaca=3250,cot=3250'
  >>> of_thousands(('oss', 'alpaca', 'cot'), '67.5/3.25/3.25', 2)
  'oss=135,alpaca=7,cot=6'
  """
  names = tuple(names)
  try:
    parts = dict(zip(names, map(Fraction, thousands.split('/')), strict=True))
  except (ValueError, ZeroDivisionError):
    raise ConfigError(
      f'rows has {thousands!r}; give thousands of {", ".join(names)} as 18/2/0'
    ) from None
  counts = largest_remainder(int(thousand * sum(parts.values())), parts)
  return ','.join(f'{name}={count}' for name, count in counts.items() if count)


def hint(word: str, options: Iterable[str]) -> str:
  """'. Did you mean X?' if an option is close to a word."""
  close = difflib.get_close_matches(word, list(options), n=1)
  return f'. Did you mean {close[0]}?' if close else ''


def _source_file(text: str) -> SourceFile:
  return SourceFile(*_file('sources', text, 'format', 'auto'))


def _test_file(text: str) -> TestFile:
  return TestFile(*_file('tests', text, 'field', ''))


def _file(field: str, text: str, last: str, default: str) -> tuple[str, str, str]:
  """The parts of 'name=path:last'; field: of the settings, for the error."""
  name, _, rest = text.partition('=')
  path, colon, end = rest.rpartition(':')
  if not colon or '/' in end:  # no last part, or the colon of gs://
    path, end = rest, default
  elif not end:
    path = ''
  if not path or not name or name != name.strip() or ',' in name:
    raise ValueError(
      f'{SECTION}.{field} has {text!r}, which is not like name=path or name=path:{last}'
    )
  return name, path, end


def _numbers(row: str, known: list[str]) -> dict[str, Fraction]:
  """The numbers in a mixture's text, in the order of the sources."""
  numbers: dict[str, Fraction] = {}
  for word in row.split(','):
    name, _, number = (part.strip() for part in word.partition('='))
    try:
      value = Fraction(number)
    except (ValueError, ZeroDivisionError):
      value = Fraction(-1)
    if value < 0 or name in numbers:
      raise ValueError(
        f'{SECTION}.rows has {row!r}, which is not like source=number,... with each '
        'source once'
      )
    if name not in known:
      raise ValueError(
        f'{SECTION}.rows, {row!r}: {name!r} is not one of the sources '
        f'{", ".join(known)}' + hint(name, known)
      )
    numbers[name] = value
  if not any(numbers.values()):
    raise ValueError(f'{SECTION}.rows, {row!r}: no row at all; give a number above 0')
  return {name: numbers[name] for name in known if name in numbers}
