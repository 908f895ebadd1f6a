"""The checks of `check`: whether a task keeps the contract of `tasks/contract.py`.

Each check is a function of a `Subject`. It returns a line about what it saw, or raises
`ContractError` with what is wrong, or whatever the task's own code raises.
"""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax import config as config_lib
from onlyif_jax import keys
from onlyif_jax.config import ConfigError, RunConfig
from onlyif_jax.data import Data, Plan
from onlyif_jax.keys import Purpose
from onlyif_jax.subject import Subject
from onlyif_jax.tasks import certificate, tokens
from onlyif_jax.tasks.rules import Part
from onlyif_jax.tasks.tokens import Example

EAGER = 3  # examples that are also made without jit and vmap

_TASK = {
  'values': 'noops vocab_size answer_length sequence_length symbols',
  'methods': 'static setting mix kind space example eval_sets instruction_mask fields',
}
_SPACE = {
  'values': 'description',
  'methods': 'capacity pair_capacity rule cell_rule lend certify',
}
_SPLITS = ('unseen', 'dev', 'seen', 'train')


class ContractError(Exception):
  """How a task breaks the contract."""


@dataclasses.dataclass(frozen=True)
class Finding:
  """The outcome of a check."""

  name: str
  ok: bool | None  # None where there was nothing to check
  text: str


def check(name: str, settings: str = '') -> list[Finding]:
  """Runs every check on the task `name`; raises ConfigError if there is no such task.

  settings: 'field=value,...', with lists as 1|2.
  """
  run = RunConfig(task=config_lib.task_settings(name)())
  words = [f'task.{word}' for word in settings.split(',') if word]
  run = config_lib.variant(run, ','.join(words))
  try:
    subject = Subject(run)
    return [_guarded(subject, check_name) for check_name in CHECKS]
  except ConfigError as e:
    return [Finding('settings', False, str(e))]


def _guarded(subject: Subject, name: str) -> Finding:
  """Runs one check; whatever it raises becomes a finding."""
  try:
    text = CHECKS[name](subject)
  except ContractError as e:
    return Finding(name, False, str(e))
  except Exception as e:  # a task may raise anything
    lines = str(e).strip().splitlines() or ['']
    return Finding(name, False, f'{type(e).__name__}: {lines[0]}')
  return Finding(name, None if text is None else True, text or 'no oracle given')


def contract(s: Subject) -> str:
  """Checks that everything is there, hashable and of the right shape."""
  _has(s.full, 'the task', **_TASK)
  _has(s.space, 'its space', **_SPACE)
  if s.full.noops:
    _has(s.full, 'a task with noops', values='', methods='inputs force')
  for what, value in (('the task', s.full), ('its space', s.space)):
    try:
      hash(value)
    except TypeError:
      raise ContractError(
        f'{what} is not hashable: frozen dataclass of plain values'
      ) from None
  if s.task.static() != s.task or hash(s.task.static()) != hash(s.task):
    raise ContractError(
      'static() of static() is another task; it must be equal to itself'
    )
  few, many = s.full.setting(2), s.host_setting
  for setting in (few, many):
    if not all(isinstance(v, np.ndarray | np.generic) for v in setting.values()):
      raise ContractError('setting(I) must be a dict of numpy arrays')
  if _shapes(few) != _shapes(many):
    raise ContractError('the shapes of setting(I) change with I; they must not')
  splits = {eval_set.split for eval_set in s.task.eval_sets(7, 5)}
  if missing := [name for name in _SPLITS if name not in splits]:
    raise ContractError(f'eval_sets has no set of the split {", ".join(missing)}')
  _trace_sets(s)
  return f'{len(splits)} splits, {len(s.kinds)} kinds, {s.task.vocab_size} token ids'


def _trace_sets(s: Subject) -> None:
  """Checks the shapes of the examples of every evaluation set, without making any."""
  data = Data(s.task, s.space, Plan(7, 1.0, 7))
  expected = {
    'tokens_L': ((s.task.sequence_length,), jnp.int32),
    'answer_start': ((), jnp.int32),
    'answer_len': ((), jnp.int32),
    'inserted_A': ((s.task.answer_length,), jnp.bool_),
    'prompt_hash_2': ((2,), jnp.uint32),
  }
  for eval_set in s.task.eval_sets(7, 5):
    part = Part.DEV if eval_set.split == 'dev' else Part.TEST

    def make(i, eval_set=eval_set, part=part):
      rule = s.space.rule(0, part, i, s.setting)
      if eval_set.cell:
        args = (0, part, eval_set.cell, i, s.instructions, s.setting)
        rule, _ = s.space.cell_rule(*args)
      shown, key = s.space.lend(rule, rule), keys.key(0, Purpose.TEST_INPUT, i)
      if eval_set.kind == 'train':
        kind = data.kinds[0] if data.kinds else 0
      else:
        kind = s.task.kind(eval_set.kind, i[None])[0]
      return s.task.example(rule, key, kind=kind, shown=shown, setting=s.setting)

    example = jax.eval_shape(make, jax.ShapeDtypeStruct((), jnp.int32))
    if not isinstance(example, Example):
      raise ContractError(
        f'example gives a {type(example).__name__}, not a tokens.Example'
      )
    for name, (shape, dtype) in expected.items():
      value = getattr(example, name)
      if value.shape != shape or value.dtype != dtype:
        raise ContractError(
          f'{name} of {eval_set.split} is {value.dtype}{list(value.shape)}, '
          f'not {jnp.dtype(dtype)}{list(shape)}'
        )
    for name, value in example.slices.items():
      if value.shape or not jnp.issubdtype(value.dtype, jnp.integer):
        raise ContractError(
          f'slice {name!r} is {value.dtype}{list(value.shape)}, not one int'
        )


def _has(value, what: str, values: str, methods: str) -> None:
  missing = [name for name in values.split() if not hasattr(value, name)]
  missing += [
    f'{name}()' for name in methods.split() if not callable(getattr(value, name, None))
  ]
  if missing:
    raise ContractError(f'{what} has no {", ".join(missing)}; see tasks/contract.py')


def _shapes(setting) -> dict:
  return {name: (v.shape, v.dtype) for name, v in setting.items()}


def layout(s: Subject) -> str:
  """Checks for prompt, answer, EOS, then PAD, with ids within the vocabulary."""
  examples, task = s.examples, s.task
  t = np.arange(task.sequence_length)[None, :]
  start_B, length_B = examples.answer_start, examples.answer_len
  stop_B, tokens_BL = start_B + length_B, examples.tokens_L
  if tokens_BL.min() < 0 or tokens_BL.max() >= task.vocab_size:
    raise ContractError(
      f'token ids reach from {tokens_BL.min()} to {tokens_BL.max()}, '
      f'vocab_size is {task.vocab_size}'
    )
  in_answer_BL = (t >= start_B[:, None]) & (t < stop_B[:, None])
  last_BL = t == stop_B[:, None] - 1
  beyond_BL = t >= stop_B[:, None]
  wrong = {
    'the prompt is empty': start_B < 1,
    'the answer is empty (it has at least its end token)': length_B < 1,
    'the answer is longer than answer_length': length_B > task.answer_length,
    'the answer ends beyond sequence_length': stop_B > task.sequence_length,
    'the answer does not end with EOS': ((tokens_BL != tokens.EOS) & last_BL).any(1),
    'EOS stands before the end': ((tokens_BL == tokens.EOS) & ~last_BL).any(1),
    'there is no PAD behind the answer': ((tokens_BL != tokens.PAD) & beyond_BL).any(1),
    'PAD stands inside': ((tokens_BL == tokens.PAD) & ~beyond_BL).any(1),
    'inserted_A marks what is no answer': (
      examples.inserted_A & ~(np.arange(task.answer_length) < length_B[:, None])
    ).any(1),
  }
  _refuse(s, wrong)
  longest = int(stop_B.max())
  answers = int(in_answer_BL.sum(1).max())
  return (
    f'{len(start_B):,} examples, longest {longest} of {task.sequence_length} tokens, '
    f'answers up to {answers} of {task.answer_length}'
  )


def _refuse(s: Subject, wrong: dict[str, np.ndarray]) -> None:
  """Raises ContractError for the first problem that any example has, [B] of each."""
  for text, wrong_B in wrong.items():
    if wrong_B.any():
      b = int(np.argmax(wrong_B))
      shown = _text(s.task, s.examples.tokens_L[b])
      raise ContractError(f'{text}: {int(wrong_B.sum())} examples, the first {shown!r}')


def oracle(s: Subject) -> str | None:
  """Checks the examples' answers against the task's own plain-Python oracle, if any."""
  answer = getattr(s.full, 'oracle', None)
  if answer is None:
    return None
  examples = s.examples
  for b, tokens_L in enumerate(examples.tokens_L):
    start, count = int(examples.answer_start[b]), int(examples.answer_len[b])
    parts = s.task.fields(tokens_L[:start].tolist())
    fields = {name: _letters(s.task, letters) for name, letters in parts.items()}
    got = _text(s.task, tokens_L[start : start + count - 1])
    if (want := answer(fields)) != got:
      raise ContractError(f'{fields} gives {got!r}, the oracle says {want!r}')
  return f'{len(examples.tokens_L):,} answers as the oracle gives them'


def split(s: Subject) -> str:
  """Checks that parts are disjoint, training rules distinct, and rules enough."""
  for part in (Part.DEV, Part.TEST):
    if s.space.capacity(part) < 2:
      raise ContractError(
        f'{s.space.capacity(part)} {part.name.lower()} rules; 2 are needed'
      )
  report = s.space.certify(0, s.instructions, s.most_rules, s.host_setting)
  if missing := {'rules_seed', 'relation', 'parts', 'collisions'} - set(report):
    raise ContractError(f'certify() has no {", ".join(sorted(missing))}')
  if wrong := certificate.broken(report):
    raise ContractError('; '.join(wrong))
  seen = {}
  for part in Part:
    count = s.instructions
    if part != Part.TRAIN:
      count = min(s.most_rules, s.space.capacity(part))
    leaves = jax.tree.leaves(s.rules(part, count))
    rules = [b'|'.join(leaf[i].tobytes() for leaf in leaves) for i in range(count)]
    repeated = [rule for rule, n in collections.Counter(rules).items() if n > 1]
    if part == Part.TRAIN and repeated:
      raise ContractError(f'{len(repeated)} of {count} training rules come twice')
    seen[part] = set(rules)
  for part in (Part.DEV, Part.TEST):
    if shared := seen[Part.TRAIN] & seen[part]:
      raise ContractError(
        f'{len(shared)} training rules are {part.name.lower()} rules too'
      )
  return (
    f'0 collisions; {len(seen[Part.TRAIN]):,} training rules looked at, all distinct, '
    f'capacity {s.space.capacity(Part.TRAIN, s.full.setting(2)):,}'
  )


def determinism(s: Subject) -> str:
  """Checks that an example depends on its index alone, not on batch, vmap or jit."""
  index_B, kind_B = s.indices
  again = jax.device_get(s.many(index_B, kind_B))
  _check_same(s.examples, again, 'made twice')
  reversed_ = jax.device_get(s.many(index_B[::-1], kind_B[::-1]))
  restored = jax.tree.map(lambda v: v[::-1], reversed_)
  _check_same(s.examples, restored, 'made in another order')
  for b in np.linspace(0, len(index_B) - 1, EAGER).astype(int):
    eager = jax.device_get(s.make(index_B[b], kind_B[b]))
    compiled = jax.tree.map(lambda v, b=b: v[b], s.examples)
    _check_same(compiled, eager, 'made without jit and vmap')
  prompts = len(np.unique(s.examples.prompt_hash_2, axis=0))
  if prompts < 2:
    raise ContractError('every prompt is the same: the key is not used')
  return f'twice, turned round, and without jit and vmap; {prompts:,} prompts'


def _check_same(a, b, how: str) -> None:
  if jax.tree.structure(a) != jax.tree.structure(b):
    raise ContractError(f'an example has other parts when it is {how}')
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    if not np.array_equal(x, y):
      raise ContractError(f'an example differs when it is {how}')


def mask(s: Subject) -> str:
  """Checks that the instruction mask hides something, and only in the prompt."""
  examples = jax.tree.map(jnp.asarray, s.examples)
  hidden_BL = np.asarray(s.task.instruction_mask(examples))
  if hidden_BL.shape != examples.tokens_L.shape or hidden_BL.dtype != bool:
    raise ContractError(
      f'instruction_mask gives {hidden_BL.dtype}{list(hidden_BL.shape)}, '
      f'not bool{list(examples.tokens_L.shape)}'
    )
  t = np.arange(hidden_BL.shape[1])[None, :]
  start_B = s.examples.answer_start
  in_answer_BL = t >= start_B[:, None]
  wrong = {
    'the mask covers a part of the answer': (hidden_BL & in_answer_BL).any(1),
    'the mask covers nothing': ~hidden_BL.any(1),
  }
  _refuse(s, wrong)
  shares = hidden_BL.sum(1) / start_B
  return f'{shares.min():.0%} to {shares.max():.0%} of the prompt'


def _letters(task, letters) -> str:
  return ''.join(task.symbols[n] for n in letters)


def _text(task, ids) -> str:
  """Token ids as text, in the task's own symbols."""
  first = tokens.FIRST_LETTER
  return ''.join(
    task.symbols[n - first] if n >= first else tokens.show([n]) for n in map(int, ids)
  )


CHECKS = {
  'contract': contract,
  'layout': layout,
  'oracle': oracle,
  'split': split,
  'determinism': determinism,
  'mask': mask,
}
