"""The anatomy of outputs: what does a model do before it generalises?

Some examples of each split are decoded freely, and each output falls into one class of
`mistakes.Mistake`. The splits are the four cells of seen or unseen rule and input; an
unseen rule on a seen input exists only where a training input happens to hold a
held-out x (or, with no-ops, happens not to).
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from onlyif_jax import distributed
from onlyif_jax.data import Member
from onlyif_jax.evals import mistakes, symbolic
from onlyif_jax.evals.crossed import Examples, answers_of, cross, head
from onlyif_jax.evals.exact_match import Evaluator, as_uint64
from onlyif_jax.evals.mistakes import Mistake
from onlyif_jax.evals.patterns import example_with_x, replaces_strings, rule_as_shown
from onlyif_jax.keys import Purpose
from onlyif_jax.models import decode
from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.contract import EvalSet
from onlyif_jax.tasks.rules import Part
from onlyif_jax.training import ensemble
from onlyif_jax.training.metrics import Tally
from onlyif_jax.training.step import graphdef

MEASURES = {'algebra': symbolic.tally}  # task.name -> counts of (expected, got) pairs
BATCH = 256  # prompts decoded at once
RULES = 1024  # training rules made at once
INPUTS = 4096  # training inputs that are searched for a held-out x
NOTHING = -9  # a letter that stands for no token
WRONG = 20  # wrong outputs kept for each member
COLUMNS = ('split', 'class', 'count', 'examples')
CROSSED = 'crossed'  # the split of unseen rules on seen inputs
CELLS = {  # (rule, input) -> split
  ('seen', 'seen'): 'train',
  ('seen', 'unseen'): 'seen',
  ('unseen', 'seen'): CROSSED,
  ('unseen', 'unseen'): 'unseen',
}
_ABSENT = {
  'train': 'no training example was looked at',
  'seen': 'every input that was drawn had been trained on',
  CROSSED: 'no training input that was looked at holds a held-out x',
  'unseen': 'no example of a held-out rule was looked at',
}


class Anatomy(NamedTuple):
  """What one member's outputs look like.

  rows: one dict per split and class (COLUMNS). cells: one dict per cell of the 2 x 2:
  rule, input, split, examples, right, and `why_not` where something is missing. wrong:
  wrong outputs, spread over splits and classes: split, class, prompt, expected, output.
  tallies: the task's own measures (`MEASURES`), by split.
  """

  rows: list[dict]
  cells: list[dict]
  wrong: list[dict]
  tallies: list[Tally]


@dataclasses.dataclass(frozen=True)
class Anatomist:
  """Examines up to `examples` outputs of each split; keep one for a run's stacks."""

  evaluator: Evaluator
  examples: int

  def examine(self, params, members: Member, sets, trained_on) -> list[Anatomy]:
    """Each member's anatomy; the arguments are those of `Evaluator.tallies`.

    Only sets without a label are examined, and not 'dev'.
    """
    sets = [
      eval_set for eval_set in sets if not eval_set.label and eval_set.split != 'dev'
    ]
    patterned = replaces_strings(self.evaluator.data, members)
    examples_M: list[dict[str, Examples]] = [{} for _ in trained_on]
    for eval_set in sets:
      drawn_M = self._examples(members, eval_set, trained_on, patterned)
      for splits, drawn in zip(examples_M, drawn_M, strict=True):
        splits[eval_set.split] = drawn
    for splits in examples_M:
      if {'train', 'unseen'} <= splits.keys():
        splits[CROSSED] = cross(splits['unseen'], splits['train'])
      for split in splits:
        splits[split] = head(splits[split], self.examples)
    outputs_M = self._outputs(params, examples_M)
    trained_M = self._trained(members) if patterned else [None] * len(examples_M)
    per_member = zip(examples_M, outputs_M, trained_M, strict=True)
    return [self._report(*member) for member in per_member]

  def _report(self, examples_of, outputs, trained) -> Anatomy:
    task = self.evaluator.data.task
    rows, wrong, right_of, tallies = [], [], {}, []
    for split, examples in examples_of.items():
      letters, ended_N = mistakes.read(outputs[split])
      classes_N = mistakes.classify(
        examples.asked, letters, ended_N, noops=task.noops, trained=trained
      )
      right_of[split] = int((classes_N == Mistake.RIGHT).sum())
      for mistake in Mistake:
        count = int((classes_N == mistake).sum())
        values = (split, mistake.name.lower(), count, len(classes_N))
        rows.append(dict(zip(COLUMNS, values, strict=True)))
      wrong += _wrong(split, examples, outputs[split], classes_N, task.symbols)
      tallies += _measured(task, split, examples, outputs[split])
    wrong.sort(key=lambda pair: pair[0])
    kept = [row for _, row in wrong[:WRONG]]
    return Anatomy(rows, cells(examples_of, right_of), kept, tallies)

  def _examples(self, members, eval_set: EvalSet, trained_on, patterned):
    """Each member's examples of a set, without those seen in training."""
    batch_size, unmasked = self.evaluator.batch_size, _unmasked(members)
    count = min(eval_set.examples, self.examples)
    if eval_set.split == 'train':
      count = min(eval_set.examples, max(self.examples, INPUTS))
    make = self.evaluator.make(eval_set)
    chunks = []
    for start in range(0, count, batch_size):
      batch, exists = make(members, jnp.int32(start))
      stated = batch
      if unmasked is not members:
        stated, _ = make(unmasked, jnp.int32(start))
      chunks.append(
        {
          'hash': batch.prompt_hash_B2,
          'exists': exists,
          'tokens': batch.tokens_BL,
          'start': batch.answer_BA[..., 0],
          'stated_tokens': stated.tokens_BL,
          'stated_start': stated.answer_BA[..., 0],
        }
      )
    chunks = distributed.fetch(chunks)
    stacked = jax.tree.map(lambda *v: np.concatenate(v, 1)[:, :count], *chunks)
    examples_M = []
    for m, prompts in enumerate(trained_on):
      keep_N = stacked['exists'][m]
      if eval_set.split != 'train':
        keep_N = keep_N & ~np.isin(as_uint64(stacked['hash'][m]), prompts)
      arrays = {name: values[m][keep_N] for name, values in stacked.items()}
      start_N = arrays['start'] + 1
      expected, _ = mistakes.read(answers_of(arrays['tokens'], start_N))
      stated = zip(
        arrays['stated_tokens'].tolist(), arrays['stated_start'], strict=True
      )
      asked = self._asked([row[: n + 1] for row, n in stated], expected, patterned)
      examples_M.append(Examples(arrays['tokens'], start_N, asked))
    return examples_M

  def _asked(self, prompts, expected, patterned) -> mistakes.Asked:
    """What prompts that state the rule itself ask for."""
    fields = [self.evaluator.data.task.fields(prompt) for prompt in prompts]
    # Without an input there is nothing to copy: NOTHING equals no output.
    z = mistakes.strings(f.get('input', [NOTHING]) for f in fields)
    if not patterned:
      return mistakes.Asked(z, expected)
    x = mistakes.strings(f['lhs'] for f in fields)
    y = mistakes.strings(f['rhs'] for f in fields)
    return mistakes.Asked(z, expected, x, y)

  def _outputs(self, params, examples_M) -> list[dict[str, np.ndarray]]:
    """What each member generates, by split: the ids after the prompt."""
    tokens_M = [np.concatenate([e.tokens_NL for e in s.values()]) for s in examples_M]
    starts_M = [np.concatenate([e.start_N for e in s.values()]) for s in examples_M]
    size = max(1, -(-max(map(len, starts_M)) // BATCH)) * BATCH
    tokens_MRL = np.stack([np.pad(t, ((0, size - len(t)), (0, 0))) for t in tokens_M])
    starts_MR = np.stack(
      [np.pad(s, (0, size - len(s)), constant_values=1) for s in starts_M]
    )
    chunks = [
      self._decode(
        (params, tokens_MRL[:, at : at + BATCH], starts_MR[:, at : at + BATCH])
      )
      for at in range(0, size, BATCH)
    ]
    decoded_MRL = np.concatenate(distributed.fetch(chunks), axis=1)
    outputs = []
    for splits, decoded_RL, start_R in zip(
      examples_M, decoded_MRL, starts_MR, strict=True
    ):
      ends = np.cumsum([len(examples.start_N) for examples in splits.values()])
      *by_split, _ = np.split(answers_of(decoded_RL, start_R), ends)
      outputs.append(dict(zip(splits, by_split, strict=True)))
    return outputs

  @functools.cached_property
  def _decode(self):
    """Greedy decoding of a batch for every member: one program for all splits."""
    evaluator = self.evaluator
    graph = graphdef(dataclasses.replace(evaluator.model, compute_dtype='float32'))
    length = evaluator.data.task.sequence_length

    def decode_member(args):
      params, tokens_BL, start_B = args
      return decode.greedy(graph, params, tokens_BL, start_B, length)

    # The cache starts from constants, which the check of varying axes refuses; members
    # do not communicate, so there is nothing to check.
    lifted = jax.shard_map(
      ensemble.lift(decode_member, 'map'),
      mesh=evaluator.mesh,
      in_specs=(P('member'),),
      out_specs=P('member'),
      check_vma=False,
    )
    return jax.jit(lifted)

  def _trained(self, members: Member) -> list[mistakes.Trained | None]:
    """Each member's training rules; None where every example has a fresh one."""
    host = distributed.fetch(
      {k: getattr(members, k) for k in ('instructions', 'fresh_rules', 'counts_R')}
    )
    skewed = host['counts_R'].shape[1] > 0
    count_M = host['instructions']
    if not skewed:
      count_M = np.minimum(count_M, self.evaluator.data.plan.examples)
    count_M = np.where(host['fresh_rules'], 0, count_M)
    chunks = [
      self._rules(members, jnp.int32(start))
      for start in range(0, max(1, *count_M.tolist()), RULES)
    ]
    chunks = distributed.fetch(chunks)
    rules = jax.tree.map(lambda *v: np.concatenate(v, 1), *chunks)
    trained_M: list[mistakes.Trained | None] = []
    for m, count in enumerate(count_M):
      seen_R = np.arange(rules.x_len.shape[1]) < count
      if skewed:  # a rule may have no example
        examples_R = np.diff(host['counts_R'][m], prepend=0)
        seen_R[: len(examples_R)] &= examples_R[: len(seen_R)] > 0
      trained = mistakes.Trained(
        mistakes.from_padded(rules.x_P[m][seen_R], rules.x_len[m][seen_R]),
        mistakes.from_padded(rules.y_Q[m][seen_R], rules.y_len[m][seen_R]),
      )
      trained_M.append(trained if count else None)
    return trained_M

  @functools.cached_property
  def _rules(self):
    """(members, start) -> RULES training rules each, with what they insert."""
    data = self.evaluator.data

    def rule_at(member: Member, i):
      i = jnp.minimum(i, member.instructions - 1)
      rule = data.rules.rule(member.rules_seed, Part.TRAIN, i, member.setting)
      # A task may make what is inserted from y, so it is read from an example.
      example = example_with_x(data, member, rule, Purpose.TRAIN_INPUT, i)
      return rule_as_shown(example, rule)

    def chunk(member: Member, start):
      i_R = start + jnp.arange(RULES, dtype=jnp.int32)
      return jax.vmap(lambda i: rule_at(member, i))(i_R)

    return self.evaluator.lift(chunk, 1)


def cells(examples_of: dict[str, Examples], right_of: dict[str, int]) -> list[dict]:
  """The 2 x 2 of seen or unseen rule and input, as rows; arguments by split."""
  patterned = all(e.asked.x is not None for e in examples_of.values())
  rows = []
  for (rule, input_), split in CELLS.items():
    examples = examples_of.get(split)
    rows.append(
      {
        'rule': rule,
        'input': input_,
        'split': split,
        'examples': len(examples.start_N) if examples else 0,
        'right': right_of.get(split, 0),
        'why_not': _why_not(split, examples, patterned),
      }
    )
  return rows


def _why_not(split: str, examples: Examples | None, patterned: bool) -> str:
  """Why a cell has no examples, or only no-ops; '' where it has them."""
  count = len(examples.start_N) if examples else 0
  if split != CROSSED:
    return '' if count else _ABSENT[split]
  if not patterned:
    return 'cannot exist: an input is made for its rule'
  if examples is None or not count:
    return 'cannot exist: ' + _ABSENT[split]
  x_occurs = mistakes.locate(examples.asked).found_N.any()
  return '' if x_occurs else 'no-ops alone: ' + _ABSENT[split]


def _wrong(split, examples: Examples, output_NA, classes_N, symbols: str):
  """Wrong outputs as (rank within split and class, row), the first WRONG of each."""
  ranked = []
  expected_NA = answers_of(examples.tokens_NL, examples.start_N)
  for mistake in np.unique(classes_N[classes_N != Mistake.RIGHT]):
    for rank, n in enumerate(np.flatnonzero(classes_N == mistake)[:WRONG]):
      prompt = examples.tokens_NL[n, : examples.start_N[n]]
      row = {
        'split': split,
        'class': Mistake(mistake).name.lower(),
        'prompt': tokens.show(prompt, symbols),
        'expected': tokens.show(expected_NA[n], symbols),
        'output': tokens.show(output_NA[n], symbols),
      }
      ranked.append((rank, row))
  return ranked


def _measured(task: Any, split: str, examples: Examples, output_NA) -> list[Tally]:
  """The task's own measures of its outputs, as shares of the decoded ones."""
  if getattr(task, 'name', '') not in MEASURES:
    return []

  def texts(ids_NA):
    return [tokens.show(ids_A, task.symbols).partition('$')[0] for ids_A in ids_NA]

  expected = texts(answers_of(examples.tokens_NL, examples.start_N))
  counts = MEASURES[task.name](zip(expected, texts(output_NA), strict=True))
  pairs = counts.pop('pairs')
  return [
    Tally(split, 'all', f'symbolic_{name}', count, pairs, None)
    for name, count in counts.items()
  ]


def _unmasked(members: Member) -> Member:
  """The members with prompts that state the rule; the same object if they all do."""
  masked, permuted = members.mask_instruction, members.permute_y
  if not np.any(distributed.fetch((masked, permuted))):
    return members
  return dataclasses.replace(
    members,
    mask_instruction=jnp.zeros_like(masked),
    permute_y=jnp.zeros_like(permuted),
  )
