"""Batches hold each row of the plan once per epoch, whole, and in a keyed order."""

import collections
import json
import subprocess
import sys
from pathlib import Path

import grain
import jax
import numpy as np
import pytest
from transformers import AutoTokenizer

from onlyif_jax import keys
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import batching, instructions
from onlyif_jax.corpora.batching import BatchSettings
from onlyif_jax.corpora.rows import Row, Turn
from onlyif_jax.corpora.tokenizer import load_tokenizer

DATA = Path(__file__).parent / 'data'
TOKENIZER = load_tokenizer(DATA / 'tokenizer')
HF = AutoTokenizer.from_pretrained(DATA / 'tokenizer')
PAD = TOKENIZER.pad_id

TEXT = 'the river rises in hills and flows through three lakes to a sea'
WORDS = TEXT.split()


def made(source: str, count: int, turns: int) -> list[Row]:
  """Rows of various lengths, no two alike; row 3 has a question that fills a line."""
  rows = []
  for i in range(count):
    said = []
    for n in range(turns):
      long = 97 if (i, n) == (3, 0) else 1 + (i * 7 + n * 3) % 11
      ask = ' '.join(WORDS[(i + k) % 13] for k in range(long))
      answer = ' '.join(WORDS[(i * k + n) % 13] for k in range(1 + (i * 5) % 17))
      said += [Turn('user', f'{ask} {i}?'), Turn('assistant', f'{source}{answer}')]
    rows.append(Row(source, i, tuple(said)))
  return rows


SOURCES = {'one': made('one', 23, 1), 'two': made('two', 13, 2)}
PLAN = [('one', i) for i in range(19)] + [('two', i) for i in range(0, 13, 2)]
N, LENGTH, BATCH, EPOCHS = 26, 79, 3, 2


def settings(**changes) -> BatchSettings:
  own = {'template': 'mistral', 'length': LENGTH, 'batch_size': BATCH, 'bins': 7}
  return BatchSettings(**(own | {'epochs': EPOCHS, 'seed': 5} | changes))


def oracle(row: Row) -> tuple[tuple[int, ...], tuple[float, ...]]:
  """A row's tokens and weights under the mistral template, not cut."""
  ids, weights = [0], [0.0]
  for turn in row.turns:
    asks = turn.role == 'user'
    text = f'[INST] {turn.text}[/INST]' if asks else f' {turn.text}'
    part = HF.encode(text, add_special_tokens=False) + ([] if asks else [1])
    ids, weights = ids + part, weights + [float(not asks)] * len(part)
  return tuple(ids), tuple(weights)


WHOLE = [oracle(SOURCES[source][i]) for source, i in PLAN]
CUT = [(ids[:LENGTH], weights[:LENGTH]) for ids, weights in WHOLE]
KEPT = [own for own in CUT if any(own[1])]


def rows_of(batch) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
  """The rows in a batch; checks segments, positions and padding on the way."""
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    'tokens': ((BATCH, LENGTH), np.int32),
    'weights': ((BATCH, LENGTH), np.float32),
    'segments': ((BATCH, LENGTH), np.int32),
    'positions': ((BATCH, LENGTH), np.int32),
  }
  rows = []
  for line in range(BATCH):
    tokens, weights, segments, positions = (
      batch[k][line].tolist() for k in ('tokens', 'weights', 'segments', 'positions')
    )
    at = 0
    for segment in range(1, max(segments) + 1):
      count = segments.count(segment)
      assert segments[at : at + count] == [segment] * count
      assert positions[at : at + count] == list(range(count))
      rows.append((tuple(tokens[at : at + count]), tuple(weights[at : at + count])))
      at += count
    rest = LENGTH - at
    assert tokens[at:] == [PAD] * rest
    assert not any(weights[at:] + segments[at:] + positions[at:])
  return rows


def content(own: BatchSettings, sources=SOURCES) -> list:
  found = []
  for batch in batching.batches(PLAN, sources, TOKENIZER, own):
    found += rows_of(batch)
  return found


def test_the_toy_has_every_case():
  assert len(PLAN) == N
  assert len(KEPT) == N - 1  # the long question is dropped
  assert sum(len(ids) > LENGTH for ids, _ in WHOLE) > 2
  assert sum(len(ids) == LENGTH for ids, _ in WHOLE) == 1
  assert len(set(CUT)) == N


@pytest.mark.parametrize('packing', batching.PACKINGS)
def test_each_epoch_holds_each_row_once(packing):
  own = settings(packing=packing)
  twice = collections.Counter(dict.fromkeys(KEPT, EPOCHS))
  assert collections.Counter(content(own)) == twice
  once = content(settings(packing=packing, epochs=1))
  assert collections.Counter(once) == collections.Counter(KEPT)


def test_packing_fills_lines_and_the_rest_is_padding():
  counts = {}
  for packing in batching.PACKINGS:
    made = list(batching.batches(PLAN, SOURCES, TOKENIZER, settings(packing=packing)))
    lines = sum(int(batch['segments'].any(axis=1).sum()) for batch in made)
    full = [batch['segments'].any(axis=1).all() for batch in made]
    assert all(full[:-1])
    assert len(made) == -(-lines // BATCH)
    counts[packing] = lines
    if packing == 'none':
      assert not full[-1]
      assert max(batch['segments'].max() for batch in made) == 1
  assert counts['none'] == EPOCHS * (N - 1)
  assert counts['first_fit'] < 0.8 * counts['none']


def test_order_is_the_keyed_bijection_of_the_epoch():
  orders = batching.epoch_orders(N, EPOCHS, 5)
  for epoch in range(EPOCHS):
    key = keys.key(5, keys.Purpose.EPOCH_ORDER, epoch)
    assert sorted(orders[epoch]) == list(range(N))
    for i in (0, 7, N - 1):
      assert orders[epoch, i] == int(keys.permute(key, i, N))
  assert not np.array_equal(*orders)
  wanted = [CUT[i] for i in orders.ravel() if any(CUT[i][1])]
  assert content(settings(packing='none')) == wanted


@pytest.mark.parametrize('packing', batching.PACKINGS)
def test_batches_depend_on_the_seed_alone(packing):
  own = settings(packing=packing)
  assert content(own) == content(own)
  assert content(own) != content(settings(packing=packing, seed=6))


@pytest.mark.parametrize('packing', batching.PACKINGS)
def test_a_stored_state_goes_on_with_the_next_batch(packing):
  dataset = batching.batches(PLAN, SOURCES, TOKENIZER, settings(packing=packing))
  whole = list(dataset)
  for stop in range(len(whole) + 1):
    one = iter(dataset)
    for _ in range(stop):
      next(one)
    other = iter(dataset)
    next(other)  # a used iterator goes there as well
    other.set_state(json.loads(json.dumps(one.get_state())))
    rest = list(other)
    assert len(rest) == len(whole) - stop
    for a, b in zip(rest, whole[stop:], strict=True):
      jax.tree.map(np.testing.assert_array_equal, a, b)
  grain.experimental.assert_equal_output_after_checkpoint(dataset)


def test_orbax_stores_the_iterator(tmp_path):
  from orbax.checkpoint import v1 as ocp

  dataset = batching.batches(PLAN, SOURCES, TOKENIZER, settings())
  one, other = iter(dataset), iter(dataset)
  for _ in range(2):
    next(one)
  with ocp.training.Checkpointer(tmp_path / 'c') as keeper:
    keeper.save_checkpointables(2, {'data': one})
    keeper.load_checkpointables(2, {'data': other})
  for a, b in zip(one, other, strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('packing', batching.PACKINGS)
def test_the_survey_counts_what_the_batches_hold(packing):
  own = settings(packing=packing)
  found = batching.survey(PLAN, SOURCES, TOKENIZER, own)
  made = list(batching.batches(PLAN, SOURCES, TOKENIZER, own))
  tokens = sum(len(ids) for ids, _ in KEPT)
  assert found == batching.Survey(
    rows=N - 1,
    truncated=sum(len(ids) > LENGTH and any(w[:LENGTH]) for ids, w in WHOLE),
    dropped=1,
    tokens=tokens,
    response_tokens=int(sum(sum(weights) for _, weights in KEPT)),
    batches=len(made),
    fill=EPOCHS * tokens / (len(made) * BATCH * LENGTH),
  )
  assert sum(int((batch['segments'] > 0).sum()) for batch in made) == EPOCHS * tokens


def test_prepared_rows_give_the_same_batches(tmp_path):
  lines = [
    {'messages': [{'role': t.role, 'content': t.text} for t in row.turns]}
    for row in SOURCES['two']
  ]
  path = tmp_path / 'two.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  prepared = {'two': instructions.open_rows(path, tmp_path / 'out')}
  assert content(settings(), SOURCES | prepared) == content(settings())


class Talker:
  """A tokenizer whose every conversation is a response of three tokens."""

  pad_id = 2

  def chat(self, turns):
    return [5, 6, len(turns)], [True] * 3


def test_the_first_token_is_not_predicted():
  own = settings(template='chat')
  example = batching.encode(SOURCES['one'][0], Talker(), own)  # pyright: ignore
  assert example is not None
  assert example['tokens'].tolist() == [5, 6, 2]
  assert example['weights'].tolist() == [0, 1, 1]


def test_plans_that_do_not_fit_are_refused():
  for plan, reason in {
    (): 'the plan has no rows',
    (('three', 0),): "names the source 'three'; sources: one, two",
    (('one', 0), ('two', 13)): 'names row 13 of two, which has 13 rows',
    (('one', -1),): 'names row -1 of one',
  }.items():
    with pytest.raises(ConfigError, match=reason):
      batching.batches(plan, SOURCES, TOKENIZER, settings())
    with pytest.raises(ConfigError, match=reason):
      batching.survey(plan, SOURCES, TOKENIZER, settings())
  for change, reason in {
    ('length', 1): 'length=1 is below 2',
    ('epochs', 0): 'epochs=0 is below 1',
    ('packing', 'best'): "packing='best' is not one of first_fit, none",
  }.items():
    with pytest.raises(ConfigError, match=reason):
      settings(**dict([change]))


def test_problems_name_the_row():
  class Silent(Talker):
    def chat(self, turns):
      raise ConfigError('no chat template')

  with pytest.raises(ConfigError, match='two, row 6: no chat template'):
    batching.encode(SOURCES['two'][6], Silent(), settings(template='chat'))  # pyright: ignore


def test_nothing_heavy_is_imported_before_it_is_needed():
  heavy = ('jax', 'transformers', 'tensorflow_datasets', 'pyarrow', 'tokenizers')
  code = f"""
import sys
for name in {heavy}:
  sys.modules[name] = None
from onlyif_jax.corpora import batching, preview, prompts, readers
assert readers.read({str(DATA / 'rows' / 'chat.jsonl')!r})
"""
  subprocess.run([sys.executable, '-c', code], check=True, timeout=300)
