"""Finds rows that give a test prompt away, and lists them one by one.

Texts are compared as words: letters and digits, lower case, without punctuation. A row
gives a test away if both share `ngram` consecutive words, or if the row contains the
whole prompt and that has at least `substring` characters. Responses are searched too,
since a solution would be there.
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
  """Searches rows for test prompts; ngram and substring: see `MixtureSettings`."""

  prompts: tuple[TestPrompt, ...]
  ngram: int
  substring: int
  _plain: tuple[str, ...]
  _ngrams: dict[str, list[int]]  # n words -> prompts that contain them
  _starts: dict[str, list[int]]  # first characters of short prompts -> these prompts
  unchecked: tuple[TestPrompt, ...]  # too short for both searches

  @classmethod
  def of(cls, prompts: Iterable[TestPrompt], ngram: int, substring: int) -> 'Detector':
    """Indexes the prompts; ngram and substring are at least 1."""
    prompts = tuple(prompts)
    plain, unchecked = [], []
    ngrams: dict[str, list[int]] = {}
    starts: dict[str, list[int]] = {}
    for n, prompt in enumerate(prompts):
      prompt_words = words(prompt.text)
      plain.append(' '.join(prompt_words))
      for gram in dict.fromkeys(_windows(prompt_words, ngram)):
        ngrams.setdefault(gram, []).append(n)
      # A row that contains a whole prompt shares all its words but perhaps the first
      # and the last, which may be parts of longer words. With fewer than ngram words
      # left, the n-grams miss it.
      if len(prompt_words) < ngram + 2 and len(plain[-1]) >= substring:
        starts.setdefault(plain[-1][:substring], []).append(n)
      elif len(prompt_words) < ngram:
        unchecked.append(prompt)
    return cls(
      prompts, ngram, substring, tuple(plain), ngrams, starts, tuple(unchecked)
    )

  def find(self, row: Row) -> list[Hit]:
    """The test prompts that a row gives away, each once, in their order."""
    row_words = words(whole(row))
    plain = ' '.join(row_words)
    shared: dict[int, str] = {}  # number of a prompt -> the words that it shares
    if self._ngrams:
      for gram in _windows(row_words, self.ngram):
        for n in self._ngrams.get(gram, ()):
          shared.setdefault(n, gram)
    if self._starts:
      size = self.substring
      for start in {plain[i : i + size] for i in range(len(plain) - size + 1)}:
        for n in self._starts.get(start, ()):
          if self._plain[n] in plain:
            shared[n] = self._plain[n]
    hits = []
    for n, gram in sorted(shared.items()):
      prompt, is_whole = self.prompts[n], self._plain[n] in plain
      kind, text = ('substring', self._plain[n]) if is_whole else ('ngram', gram)
      hits.append(Hit(row.source, row.index, prompt.test, prompt.index, kind, text))
    return hits


def find(detector: Detector, rows: Iterable[Row]) -> list[Hit]:
  """Every hit of every row, in order."""
  return [hit for row in rows for hit in detector.find(row)]


def _windows(texts: Sequence[str], size: int) -> Iterator[str]:
  for i in range(len(texts) - size + 1):
    yield ' '.join(texts[i : i + size])
