"""TF-IDF against dictionaries of strings, encoders on disk, and core sets."""

import itertools
import math
import random
import sys
import types

import numpy as np
import pytest

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import embeddings
from onlyif_jax.corpora.coreset import SCALE, k_centre

RNG = random.Random(0)
WORDS = ['sort', 'list', 'the', 'cake', 'bake', 'x_1', 'naïve', '数', '3.5', 'résumé']
TEXTS = [' '.join(RNG.choices(WORDS, k=RNG.randint(3, 11))) for _ in range(13)]


def weighted(texts):
  """A text's weights by feature string, as the docstring has them."""
  counts = []
  for text in texts:
    plain = ' '.join(text.lower().split())
    words, word = [], ''
    for c in plain + ' ':
      if c.isalnum() or c == '_':
        word += c
      elif word:
        words.append(word)
        word = ''
    pairs = [f'{a} {b}' for a, b in itertools.pairwise(words)]
    own = {}
    for feature in [('w', w) for w in words + pairs]:
      own[feature] = own.get(feature, 0) + 1
    padded = f' {plain} '
    for size in (3, 4):
      for i in range(len(padded) - size + 1):
        feature = ('c', padded[i : i + size])
        own[feature] = own.get(feature, 0) + 1
    counts.append(own)
  out = []
  for own in counts:
    weights = {}
    for feature, count in own.items():
      seen = sum(feature in other for other in counts)
      weights[feature] = (1 + math.log(count)) * (
        1 + math.log((1 + len(texts)) / (1 + seen))
      )
    for kind in 'wc':
      length = math.sqrt(sum(w * w for f, w in weights.items() if f[0] == kind))
      for f in weights:
        if f[0] == kind:
          weights[f] /= length
    length = math.sqrt(sum(w * w for w in weights.values()))
    out.append({f: w / length for f, w in weights.items()})
  return out


def gram(texts):
  own = weighted(texts)
  return np.array([[sum(a[f] * b.get(f, 0) for f in a) for b in own] for a in own])


@pytest.fixture
def no_collisions(monkeypatch):
  monkeypatch.setattr(embeddings, 'BUCKETS', 2**21)


@pytest.mark.usefixtures('no_collisions')
def test_tfidf_is_that_of_strings():
  found = embeddings.tfidf(TEXTS)
  np.testing.assert_allclose((found @ found.T).toarray(), gram(TEXTS), atol=1e-12)


@pytest.mark.usefixtures('no_collisions')
def test_dimensions_that_suffice_keep_every_cosine():
  rows_ND = embeddings.encode(TEXTS, dimensions=17)
  assert rows_ND.dtype == np.float32
  np.testing.assert_allclose(rows_ND @ rows_ND.T, gram(TEXTS), atol=1e-5)


@pytest.mark.usefixtures('no_collisions')
def test_fewer_dimensions_are_the_leading_ones():
  values, vectors = np.linalg.eigh(gram(TEXTS))
  best = vectors[:, ::-1][:, :3] * np.sqrt(values[::-1][:3])
  found = embeddings.reduce(embeddings.tfidf(TEXTS), 3)
  np.testing.assert_allclose(np.abs(found), np.abs(best), atol=1e-9)
  for d in range(3):
    assert found[np.argmax(np.abs(found[:, d])), d] > 0
  rows_ND = embeddings.encode(TEXTS, dimensions=3)
  np.testing.assert_allclose(np.linalg.norm(rows_ND, axis=1), 1, atol=1e-6)


def test_iteration_finds_the_leading_part_of_many_texts():
  """More texts than dimensions and spare ones together: not exact by construction."""
  rng = random.Random(3)
  topics = [[f'w{t}x{i}' for i in range(11)] for t in range(3)]
  texts = [' '.join(rng.choices(topics[n % 3], k=17)) for n in range(101)]
  matrix = embeddings.tfidf(texts)
  exact = np.linalg.eigvalsh((matrix @ matrix.T).toarray())[::-1]
  found = embeddings.reduce(matrix, 5)
  np.testing.assert_allclose(np.sum(found**2, axis=0)[:3], exact[:3], rtol=1e-6)
  rows_ND = embeddings.unit(found[:, :3])
  near = rows_ND @ rows_ND.T
  same = np.array([[a % 3 == b % 3 for b in range(101)] for a in range(101)])
  assert near[same].min() > near[~same].max()


def test_equal_texts_are_equal_and_empty_ones_are_zero():
  rows_ND = embeddings.encode([*TEXTS, TEXTS[2].upper(), '', ' \n '], dimensions=23)
  np.testing.assert_allclose(rows_ND[13], rows_ND[2], atol=1e-6)
  assert not rows_ND[14:].any()
  assert rows_ND[2] @ rows_ND[3] < 0.99
  assert embeddings.encode([], dimensions=5).shape == (0, 5)


def test_texts_count_up_to_a_length():
  long = 'word ' * (embeddings.LONGEST // 5)
  rows_ND = embeddings.encode(
    [*TEXTS, long, long + 'cake', 'cake ' + long], dimensions=17
  )
  assert rows_ND[13] @ rows_ND[14] == pytest.approx(1, abs=1e-6)
  assert rows_ND[13] @ rows_ND[15] < 0.999


# Encoders.


def test_encoder_that_cannot_be_used_is_named(tmp_path, monkeypatch):
  with pytest.raises(
    ConfigError, match=r"mixture\.encoder='nowhere' is not a directory"
  ):
    embeddings.encode(TEXTS, 'nowhere')
  monkeypatch.setitem(sys.modules, 'model2vec', None)
  with pytest.raises(ConfigError, match=r"pip install 'onlyif_jax\[viz\]'"):
    embeddings.encode(TEXTS, str(tmp_path))


def fake(monkeypatch, encode):
  class StaticModel:
    @classmethod
    def from_pretrained(cls, path):
      if not (path / 'config.json').exists():
        raise ValueError('no such files')
      return cls()

    def encode(self, texts, use_multiprocessing):
      assert use_multiprocessing is False
      return encode(texts)

  module = types.SimpleNamespace(StaticModel=StaticModel)
  monkeypatch.setitem(sys.modules, 'model2vec', module)


def test_encoder_gives_unit_vectors(tmp_path, monkeypatch):
  fake(monkeypatch, lambda texts: [[len(t), 0.0, 2.0] for t in texts])
  with pytest.raises(ConfigError, match='is not a static encoder of model2vec or'):
    embeddings.encode(TEXTS, str(tmp_path))
  (tmp_path / 'config.json').write_text('{}')
  rows_ND = embeddings.encode(TEXTS, str(tmp_path))
  length = math.hypot(len(TEXTS[0]), 2)
  wanted = [len(TEXTS[0]) / length, 0, 2 / length]
  np.testing.assert_allclose(rows_ND[0], wanted, rtol=1e-6)
  fake(monkeypatch, lambda texts: [[math.nan, 1.0] for t in texts])
  with pytest.raises(ConfigError, match='not finite'):
    embeddings.encode(TEXTS, str(tmp_path))


def test_identity_follows_the_files(tmp_path):
  (tmp_path / 'enc').mkdir()
  (tmp_path / 'enc' / 'config.json').write_text('{}')
  one = embeddings.identity(str(tmp_path / 'enc'))
  assert one['encoder'] == 'enc'
  (tmp_path / 'enc' / 'README.md').write_text('words')  # says nothing of vectors
  assert embeddings.identity(str(tmp_path / 'enc')) == one
  (tmp_path / 'enc' / 'model.safetensors').write_bytes(b'weights')
  assert embeddings.identity(str(tmp_path / 'enc')) != one
  assert embeddings.identity('', 7)['dimensions'] == 7


def test_real_encoder_directories_are_read(tmp_path):
  """Of model2vec and of Sentence-Transformers, made here."""
  model2vec = pytest.importorskip('model2vec')
  tokenizers = pytest.importorskip('tokenizers')
  from safetensors.numpy import save_file

  vocabulary = {'[UNK]': 0, '[PAD]': 1, 'sort': 2, 'list': 3, 'cake': 4}
  own = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, '[UNK]'))
  own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  table = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
  model2vec.StaticModel(table, own).save_pretrained(tmp_path / 'a')
  (tmp_path / 'b' / '0_StaticEmbedding').mkdir(parents=True)
  (tmp_path / 'b' / 'config_sentence_transformers.json').write_text('{}')
  own.save(str(tmp_path / 'b' / '0_StaticEmbedding' / 'tokenizer.json'))
  path = tmp_path / 'b' / '0_StaticEmbedding' / 'model.safetensors'
  save_file({'embedding.weight': table}, path)
  for name in 'ab':
    rows_ND = embeddings.encode(['sort list', 'cake'], str(tmp_path / name))
    wanted = np.stack([(table[2] + table[3]) / 2, table[4]])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(rows_ND, wanted, atol=1e-5)


# Core sets.


def by_hand(rows, count):
  """Farthest point first, in whole numbers."""
  grid = [[round(float(x) * SCALE) for x in row] for row in rows]
  out = [0]
  while len(out) < count:
    best, place = -1, None
    for n, row in enumerate(grid):
      if n in out:
        continue
      near = min(
        sum((a - b) ** 2 for a, b in zip(row, grid[m], strict=True)) for m in out
      )
      if near > best:
        best, place = near, n
    out.append(place)
  return out


def test_core_set_is_the_farthest_point_each_time():
  rows_ND = np.random.default_rng(4).standard_normal((53, 7))
  rows_ND = embeddings.unit(rows_ND)
  found = k_centre(rows_ND, 23)
  assert found.tolist() == by_hand(rows_ND, 23)
  assert k_centre(rows_ND, 11).tolist() == found[:11].tolist()


def test_ties_go_to_the_first_row_and_copies_come_last():
  rows_ND = np.eye(7)[[3, 3, 5, 1, 1, 5]]
  assert k_centre(rows_ND, 6).tolist() == [0, 2, 3, 1, 4, 5]


def test_core_set_covers_better_than_chance():
  rows_ND = embeddings.unit(np.random.default_rng(5).standard_normal((211, 3)))

  def radius(chosen):
    return np.max(np.min(1 - rows_ND @ rows_ND[chosen].T, axis=1))

  rng = np.random.default_rng(6)
  others = [radius(rng.choice(211, 13, replace=False)) for _ in range(53)]
  assert radius(k_centre(rows_ND, 13)) < min(others)


def test_distances_are_whole_numbers_in_float32():
  """The largest dot product of rounded vectors is one that float32 holds."""
  rows_ND = embeddings.unit(np.random.default_rng(7).standard_normal((5, 1999)))
  grid = np.rint(rows_ND.astype(np.float64) * SCALE)
  assert np.max(np.sum(grid**2, axis=1)) < 2**24
  exact = grid @ grid.T
  single = grid.astype(np.float32) @ grid.astype(np.float32).T
  np.testing.assert_array_equal(exact, single)


def test_core_set_larger_than_its_source_is_refused():
  with pytest.raises(ValueError, match='8 of 7 rows'):
    k_centre(np.eye(7), 8)
  assert k_centre(np.eye(7), 0).tolist() == []
