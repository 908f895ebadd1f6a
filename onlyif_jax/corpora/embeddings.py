"""Texts as unit vectors: by a static encoder on disk, or by TF-IDF, which needs none.

The encoder is a directory and nothing is downloaded. TF-IDF hashes and weighs words,
pairs of words and runs of 3 and 4 characters, and keeps the leading dimensions (latent
semantic analysis). It is fitted on all texts of a call, so only vectors of one call can
be compared. Texts count up to LONGEST characters.
"""

import hashlib
import itertools
import re
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onlyif_jax.config import ConfigError

LONGEST = 2_000  # characters of a text
BUCKETS = 2**16  # of word features, and as many of characters
RUNS = (3, 4)  # lengths of runs of characters
POWER_ROUNDS = 4  # of the subspace iteration
SPARE = 16  # extra dimensions of the subspace iteration
_WORD = re.compile(r'\w+')


def encode(texts: Sequence[str], encoder: str = '', dimensions: int = 128):
  """Unit vectors of texts (float32 [N, D]), zero for a text without features.

  encoder: a directory, '' for TF-IDF of `dimensions`. Raises ConfigError if the encoder
  cannot be used.
  """
  texts = [text[:LONGEST] for text in texts]
  if encoder:
    rows_ND = np.asarray(load(encoder).encode(texts, use_multiprocessing=False))
    if rows_ND.ndim != 2 or not np.isfinite(rows_ND).all():
      raise ConfigError(
        f'mixture.encoder={encoder!r} gives vectors that are not finite'
      )
  else:
    rows_ND = reduce(tfidf(texts), dimensions)
  return unit(rows_ND)


def identity(encoder: str = '', dimensions: int = 128) -> dict[str, Any]:
  """What determines the vectors: the encoder's name and the hash of its files."""
  if not encoder:
    return {'encoder': 'tfidf', 'dimensions': dimensions, 'buckets': BUCKETS}
  folder = _folder(encoder)
  digest = hashlib.sha256()
  names = ('*.json', '*.safetensors')
  for path in sorted(p for name in names for p in folder.rglob(name)):
    digest.update(f'{path.relative_to(folder).as_posix()}\n'.encode())
    digest.update(hashlib.sha256(path.read_bytes()).digest())
  return {'encoder': folder.name, 'sha256': digest.hexdigest()}


def load(encoder: str) -> Any:
  """The static model of a directory, model2vec's or Sentence-Transformers' form."""
  folder = _folder(encoder)
  try:
    # Needed only if an encoder is named.
    from model2vec import StaticModel  # pyright: ignore[reportMissingImports]
  except ImportError:
    raise ConfigError(
      f'mixture.encoder={encoder!r} needs model2vec; '
      "pip install 'onlyif_jax[viz]', or leave the encoder empty for TF-IDF"
    ) from None
  try:
    return StaticModel.from_pretrained(folder)
  except Exception as e:  # model2vec raises all kinds for wrong files
    raise ConfigError(
      f'mixture.encoder={encoder!r} is not a static encoder of model2vec or '
      f'Sentence-Transformers: {e}'
    ) from None


def unit(rows_ND) -> np.ndarray:
  """The rows scaled to length 1 (float32); zeros stay."""
  rows_ND = np.asarray(rows_ND, np.float64)
  length_N = np.linalg.norm(rows_ND, axis=1, keepdims=True)
  return (rows_ND / np.where(length_N > 1e-9, length_N, np.inf)).astype(np.float32)


def tfidf(texts: Sequence[str]) -> Any:
  """Hashed features with weight (1 + ln count) x (1 + ln((1 + N) / (1 + texts))).

  A scipy CSR matrix [N, 2 BUCKETS]. In every text, words and characters are scaled to
  the same length, and then the row to length 1.
  """
  from scipy import sparse  # slow to load

  known: dict[str, int] = {}
  pointers, columns, values = [0], [], []
  for text in texts:
    ids, counts = np.unique(_features(text, known), return_counts=True)
    columns.append(ids)
    values.append(1 + np.log(counts))
    pointers.append(pointers[-1] + len(ids))
  column = np.concatenate(columns or [np.zeros(0, np.int64)])
  seen = np.bincount(column, minlength=2 * BUCKETS)
  value = np.concatenate(values or [np.zeros(0)])
  value = value * (1 + np.log((1 + len(texts)) / (1 + seen[column])))
  row = np.repeat(np.arange(len(texts)), np.diff(pointers))
  block = 2 * row + (column >= BUCKETS)
  blocks = max(2 * len(texts), 1)
  value /= np.sqrt(np.bincount(block, value**2, blocks))[block]
  value /= np.sqrt(np.bincount(row, value**2, max(len(texts), 1)))[row]
  shape = (len(texts), 2 * BUCKETS)
  return sparse.csr_array((value, column, np.array(pointers)), shape=shape)


def reduce(matrix: Any, dimensions: int) -> np.ndarray:
  """The rows of X V, V the leading right singular vectors of X (float64 [N, D]).

  Subspace iteration from a fixed start; exact if D + SPARE reaches N. The sign of a
  dimension makes its largest entry, the first of equals, positive. With fewer rows than
  `dimensions` there are fewer columns.
  """
  n = matrix.shape[0]
  width = min(dimensions + SPARE, n)
  if n == 0:
    return np.zeros((0, dimensions))
  start_NK = np.random.default_rng(0).standard_normal((n, width))
  basis_NK = np.linalg.qr(start_NK)[0]
  transposed = matrix.T.tocsr()  # twice as fast in products as the view
  for _ in range(POWER_ROUNDS):
    basis_NK = np.linalg.qr(matrix @ (transposed @ basis_NK))[0]
  image_KF = (transposed @ basis_NK).T
  values_K, rotation_KK = np.linalg.eigh(image_KF @ image_KF.T)
  best = np.argsort(-values_K, kind='stable')[:dimensions]
  left_ND = basis_NK @ rotation_KK[:, best]
  out_ND = left_ND * np.sqrt(np.maximum(values_K[best], 0.0))[None, :]
  return out_ND * signs(out_ND)[None, :]


def signs(rows_ND: np.ndarray) -> np.ndarray:
  """+1 or -1 for each dimension, so that its largest entry in size is positive."""
  # Rounded, so that entries that differ in the last bits alone are a tie.
  top_D = np.argmax(np.round(np.abs(rows_ND), 9), axis=0)
  return np.where(rows_ND[top_D, np.arange(rows_ND.shape[1])] < 0, -1.0, 1.0)


def _features(text: str, known: dict[str, int]) -> np.ndarray:
  """A text's features, repeated ones included (int64); known: a cache of word hashes."""
  plain = ' '.join(unicodedata.normalize('NFKC', text).casefold().split())
  words = _WORD.findall(plain)
  words += [f'{a} {b}' for a, b in itertools.pairwise(words)]
  for word in words:
    if word not in known:
      known[word] = zlib.crc32(word.encode('utf-8', 'surrogatepass')) % BUCKETS
  parts = [np.array([known[word] for word in words], np.int64)]
  if plain:
    letters = np.array([ord(c) for c in f' {plain} '], np.uint32)
    for size in RUNS:
      count = len(letters) - size + 1
      h = np.full(max(count, 0), size, np.uint32)
      for place in range(size if count > 0 else 0):
        h = (h ^ letters[place : place + count]) * np.uint32(0x01000193)
        h ^= h >> 15
      parts.append(BUCKETS + (h % np.uint32(BUCKETS)).astype(np.int64))
  return np.concatenate(parts)


def _folder(encoder: str) -> Path:
  folder = Path(encoder)
  if not folder.is_dir():
    raise ConfigError(
      f'mixture.encoder={encoder!r} is not a directory; give that of a static encoder'
    )
  return folder
