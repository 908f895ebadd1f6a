"""Rows that give a test prompt away, found and listed one by one.

Texts are compared as words: letters and digits, lower case, without punctuation. A row
gives a test away if the two share `ngram` words in a row, or if the row holds the whole
prompt, where that has `substring` characters or more. The whole row is searched, its
responses as well: that is where a solution would be.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from onlyif_jax.corpora.mixture import whole
from onlyif_jax.corpora.rows import Row

_WORD = re.compile(r'\w+')


class TestPrompt(NamedTuple):
  """A prompt of a test set; index: its place in its file, from 0."""

  __test__ = False  # its name is no test's

  test: str
  index: int
  text: str


class Hit(NamedTuple):
  """A row that shares words with a test prompt; `shared` is what first gave it away."""

  source: str
  index: int
  test: str
  item: int  # the prompt's place in its file
  kind: str  # 'substring': the whole prompt; 'ngram': a part of it
  shared: str


def words(text: str) -> list[str]:
  """The words of a text, up to case and width of characters.

  >>> words('Return x_1, NOT "y"!')
  ['return', 'x_1', 'not', 'y']
  """
  return _WORD.findall(unicodedata.normalize('NFKC', text).casefold())


@dataclasses.dataclass(frozen=True)
class Detector:
  """Looks for test prompts in rows; ngram and substring: as `MixtureSettings` says."""

  prompts: tuple[TestPrompt, ...]
  ngram: int
  substring: int
  _plain: tuple[str, ...]
  _ngrams: dict[str, list[int]]  # n words -> prompts that have them
  _starts: dict[str, list[int]]  # first characters of a short prompt -> such prompts
  unchecked: tuple[TestPrompt, ...]  # too short for either search

  @classmethod
  def of(cls, prompts: Iterable[TestPrompt], ngram: int, substring: int) -> 'Detector':
    """Indexes the prompts; ngram and substring are at least 1."""
    prompts = tuple(prompts)
    plain, unchecked = [], []
    ngrams: dict[str, list[int]] = {}
    starts: dict[str, list[int]] = {}
    for n, prompt in enumerate(prompts):
      own = words(prompt.text)
      plain.append(' '.join(own))
      for gram in dict.fromkeys(_windows(own, ngram)):
        ngrams.setdefault(gram, []).append(n)
      # A prompt found whole shares all its words but perhaps the first and the last,
      # which can be parts of a row's words. Below ngram of them the index is blind.
      if len(own) < ngram + 2 and len(plain[-1]) >= substring:
        starts.setdefault(plain[-1][:substring], []).append(n)
      elif len(own) < ngram:
        unchecked.append(prompt)
    return cls(
      prompts, ngram, substring, tuple(plain), ngrams, starts, tuple(unchecked)
    )

  def find(self, row: Row) -> list[Hit]:
    """The test prompts that a row gives away, each once, in their order."""
    own = words(whole(row))
    plain = ' '.join(own)
    found: dict[int, str] = {}
    if self._ngrams:
      for gram in _windows(own, self.ngram):
        for n in self._ngrams.get(gram, ()):
          found.setdefault(n, gram)
    if self._starts:
      size = self.substring
      for start in {plain[i : i + size] for i in range(len(plain) - size + 1)}:
        for n in self._starts.get(start, ()):
          if self._plain[n] in plain:
            found[n] = self._plain[n]
    hits = []
    for n, shared in sorted(found.items()):
      prompt, all_of_it = self.prompts[n], self._plain[n] in plain
      kind = 'substring' if all_of_it else 'ngram'
      shown = self._plain[n] if all_of_it else shared
      hits.append(Hit(row.source, row.index, prompt.test, prompt.index, kind, shown))
    return hits


def find(detector: Detector, rows: Iterable[Row]) -> list[Hit]:
  """Every hit of every row, in order."""
  return [hit for row in rows for hit in detector.find(row)]


def _windows(own: Sequence[str], size: int) -> Iterator[str]:
  for i in range(len(own) - size + 1):
    yield ' '.join(own[i : i + size])
