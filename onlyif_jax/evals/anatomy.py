"""The anatomy of outputs: what does a model do before it generalises?

Some examples of each split are decoded freely, every output falls into one class of
`mistakes.Mistake`, and the four cells of seen or unseen rule and input are told apart.
The fourth, an unseen rule on a seen input, exists only where a training input happens
to hold a held-out x (or, with no-ops, happens not to).
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
from onlyif_jax.evals.crossed import Shown, answers, crossed, first
from onlyif_jax.evals.exact_match import Evaluator, as_uint64
from onlyif_jax.evals.mistakes import Mistake
from onlyif_jax.evals.patterns import applied, replaces_strings, shown
from onlyif_jax.keys import Purpose
from onlyif_jax.models import decode
from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.contract import EvalSet
from onlyif_jax.tasks.rules import Part
from onlyif_jax.training import ensemble
from onlyif_jax.training.metrics import Tally
from onlyif_jax.training.step import graphdef

MEASURES = {'algebra': symbolic.tally}  # task.name -> counts of (expected, got) pairs
BATCH = 256  # prompts that are decoded at once
RULES = 1024  # training rules that are made at once
INPUTS = 4096  # training inputs among which those that hold a held-out x are sought
NOTHING = -9  # a letter that stands for no token
WRONG = 20  # wrong outputs that are kept of a member
COLUMNS = ('split', 'class', 'count', 'examples')
CROSSED = 'crossed'  # the split of unseen rules on seen inputs
CELLS = {  # (rule, input) -> the split that shows it
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

  rows: one dict per split and class (COLUMNS). cells: one per cell of the 2 x 2: rule,
  input, split, examples, right, and `why_not` where something is missing. wrong: wrong
  outputs, of as many classes and splits as there are: split, class, prompt, expected,
  output. tallies: what `MEASURES` knows of the task's outputs, by split.
  """

  rows: list[dict]
  cells: list[dict]
  wrong: list[dict]
  tallies: list[Tally]


@dataclasses.dataclass(frozen=True)
class Anatomist:
  """Looks at up to `examples` outputs of each split; keep one for a run's stacks."""

  evaluator: Evaluator
  examples: int

  def examine(self, params, members: Member, sets, trained_on) -> list[Anatomy]:
    """Each member's anatomy; the arguments are those of `Evaluator.tallies`.

    Of the sets, those without a label are looked at, except 'dev'.
    """
    sets = [one for one in sets if not one.label and one.split != 'dev']
    patterned = replaces_strings(self.evaluator.data, members)
    shown: list[dict[str, Shown]] = [{} for _ in trained_on]
    for one in sets:
      found = self._examples(members, one, trained_on, patterned)
      for own, part in zip(shown, found, strict=True):
        own[one.split] = part
    for own in shown:
      if {'train', 'unseen'} <= own.keys():
        own[CROSSED] = crossed(own['unseen'], own['train'])
      for split in own:
        own[split] = first(own[split], self.examples)
    outputs = self._outputs(params, shown)
    rules = self._trained(members) if patterned else [None] * len(shown)
    return [
      self._report(own, got, known)
      for own, got, known in zip(shown, outputs, rules, strict=True)
    ]

  def _report(self, shown, outputs, trained) -> Anatomy:
    task = self.evaluator.data.task
    noops, rows, wrong, right, tallies = task.noops, [], [], {}, []
    for split, own in shown.items():
      letters, ended_N = mistakes.read(outputs[split])
      kinds_N = mistakes.classify(
        own.asked, letters, ended_N, noops=noops, trained=trained
      )
      right[split] = int((kinds_N == Mistake.RIGHT).sum())
      for kind in Mistake:
        values = (split, kind.name.lower(), int((kinds_N == kind).sum()), len(kinds_N))
        rows.append(dict(zip(COLUMNS, values, strict=True)))
      wrong += _wrong(split, own, outputs[split], kinds_N, task.symbols)
      tallies += _measured(task, split, own, outputs[split])
    wrong.sort(key=lambda pair: pair[0])
    kept = [row for _, row in wrong[:WRONG]]
    return Anatomy(rows, cells(shown, right), kept, tallies)

  def _examples(self, members, one: EvalSet, trained_on, patterned) -> list[Shown]:
    """Each member's examples of a set, those left out that were trained on."""
    size, plain = self.evaluator.batch_size, _as_stated(members)
    count = min(one.examples, self.examples)
    if one.split == 'train':
      count = min(one.examples, max(self.examples, INPUTS))
    parts = []
    for start in range(0, count, size):
      batch, exists = self.evaluator.make(one)(members, jnp.int32(start))
      stated = batch
      if plain is not members:
        stated, _ = self.evaluator.make(one)(plain, jnp.int32(start))
      made = {'hash': batch.prompt_hash_B2, 'exists': exists}
      for name, own in (('', batch), ('stated_', stated)):
        made |= {name + 'tokens': own.tokens_BL, name + 'start': own.answer_BA[..., 0]}
      parts.append(made)
    parts = distributed.fetch(parts)
    raw = jax.tree.map(lambda *v: np.concatenate(v, 1)[:, :count], *parts)
    out = []
    for m, prompts in enumerate(trained_on):
      keep_N = raw['exists'][m]
      if one.split != 'train':
        keep_N = keep_N & ~np.isin(as_uint64(raw['hash'][m]), prompts)
      own = {name: values[m][keep_N] for name, values in raw.items()}
      start_N = own['start'] + 1
      expected, _ = mistakes.read(answers(own['tokens'], start_N))
      stated = zip(own['stated_tokens'].tolist(), own['stated_start'], strict=True)
      asked = self._asked([row[: n + 1] for row, n in stated], expected, patterned)
      out.append(Shown(own['tokens'], start_N, asked))
    return out

  def _asked(self, prompts, expected, patterned) -> mistakes.Asked:
    """Reads what was asked from prompts that state the rule itself."""
    fields = [self.evaluator.data.task.fields(prompt) for prompt in prompts]
    # Without an input there is nothing to copy: no output is this.
    z = mistakes.strings(f.get('input', [NOTHING]) for f in fields)
    if not patterned:
      return mistakes.Asked(z, expected)
    x = mistakes.strings(f['lhs'] for f in fields)
    y = mistakes.strings(f['rhs'] for f in fields)
    return mistakes.Asked(z, expected, x, y)

  def _outputs(self, params, shown) -> list[dict[str, np.ndarray]]:
    """What each member generates, split by split: ids after the prompt."""
    rows = [np.concatenate([s.tokens_NL for s in own.values()]) for own in shown]
    starts = [np.concatenate([s.start_N for s in own.values()]) for own in shown]
    size = max(1, -(-max(map(len, starts)) // BATCH)) * BATCH
    rows_MRL = np.stack([np.pad(r, ((0, size - len(r)), (0, 0))) for r in rows])
    starts_MR = np.stack(
      [np.pad(s, (0, size - len(s)), constant_values=1) for s in starts]
    )
    got = [
      self._decode(
        (params, rows_MRL[:, at : at + BATCH], starts_MR[:, at : at + BATCH])
      )
      for at in range(0, size, BATCH)
    ]
    got_MRL = np.concatenate(distributed.fetch(got), axis=1)
    out = []
    for own, got_RL, start_R in zip(shown, got_MRL, starts_MR, strict=True):
      ends = np.cumsum([len(s.start_N) for s in own.values()])
      pieces = np.split(answers(got_RL, start_R), ends)
      out.append(dict(zip(own, pieces[:-1], strict=True)))
    return out

  @functools.cached_property
  def _decode(self):
    """Greedy decoding of a batch for every member: one program for all splits."""
    evaluator = self.evaluator
    graph = graphdef(dataclasses.replace(evaluator.model, compute_dtype='float32'))
    length = evaluator.data.task.sequence_length

    def one(args):
      params, tokens_BL, start_B = args
      return decode.greedy(graph, params, tokens_BL, start_B, length)

    # Members do not communicate, and the cache begins as constants: nothing to check.
    lifted = jax.shard_map(
      ensemble.lift(one, 'map'),
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
    met_M = np.minimum(host['instructions'], self.evaluator.data.plan.examples)
    if host['counts_R'].shape[1]:
      met_M = host['instructions']
    listed_M = np.where(host['fresh_rules'], 0, met_M)
    parts = [
      self._rules(members, jnp.int32(start))
      for start in range(0, max(1, *listed_M.tolist()), RULES)
    ]
    parts = distributed.fetch(parts)
    rules = jax.tree.map(lambda *v: np.concatenate(v, 1), *parts)
    out: list[mistakes.Trained | None] = []
    for m in range(len(listed_M)):
      met_R = np.arange(rules.x_len.shape[1]) < listed_M[m]
      if host['counts_R'].shape[1]:
        counts_R = np.diff(host['counts_R'][m], prepend=0)
        met_R[: len(counts_R)] &= counts_R[: len(met_R)] > 0
      known = mistakes.Trained(
        mistakes.padded(rules.x_P[m][met_R], rules.x_len[m][met_R]),
        mistakes.padded(rules.y_Q[m][met_R], rules.y_len[m][met_R]),
      )
      out.append(known if listed_M[m] else None)
    return out

  @functools.cached_property
  def _rules(self):
    """(members, start) -> RULES training rules each, with what they insert."""
    data = self.evaluator.data

    def one(member: Member, i):
      i = jnp.minimum(i, member.instructions - 1)
      rule = data.rules.rule(member.rules_seed, Part.TRAIN, i, member.setting)
      # An example tells what is inserted, which a task may make from y.
      return applied(shown(data, member, rule, Purpose.TRAIN_INPUT, i), rule)

    def many(member: Member, start):
      i_R = start + jnp.arange(RULES, dtype=jnp.int32)
      return jax.vmap(lambda i: one(member, i))(i_R)

    return self.evaluator.lift(many, 1)


def cells(shown, right) -> list[dict]:
  """The 2 x 2 of seen or unseen rule and input: how much of each cell there is.

  shown: split -> its examples; right: split -> right outputs.
  """
  patterned = all(own.asked.x is not None for own in shown.values())
  out = []
  for (rule, input_), split in CELLS.items():
    examples = len(shown[split].start_N) if split in shown else 0
    why = '' if examples else _ABSENT[split]
    if split == CROSSED and not examples:
      why = 'cannot exist: ' + _ABSENT[split]
    if split == CROSSED and not patterned:
      why = 'cannot exist: an input is made for its rule'
    elif split == CROSSED and examples:
      held = mistakes.locate(shown[split].asked).found_N.any()
      why = '' if held else 'no-ops alone: ' + _ABSENT[split]
    row = {'rule': rule, 'input': input_, 'split': split, 'examples': examples}
    out.append(row | {'right': right.get(split, 0), 'why_not': why})
  return out


def _wrong(split, shown: Shown, output_NA, kinds_N, symbols: str):
  """Wrong outputs as (rank within split and class, row), the first WRONG of each."""
  out = []
  expected_NA = answers(shown.tokens_NL, shown.start_N)
  for kind in np.unique(kinds_N[kinds_N != Mistake.RIGHT]):
    for rank, n in enumerate(np.flatnonzero(kinds_N == kind)[:WRONG]):
      row = {
        'split': split,
        'class': Mistake(kind).name.lower(),
        'prompt': tokens.show(shown.tokens_NL[n, : shown.start_N[n]], symbols),
        'expected': tokens.show(expected_NA[n], symbols),
        'output': tokens.show(output_NA[n], symbols),
      }
      out.append((rank, row))
  return out


def _measured(task: Any, split: str, shown: Shown, output_NA) -> list[Tally]:
  """The task's own measures of its outputs, as shares of those that were decoded."""
  if getattr(task, 'name', '') not in MEASURES:
    return []

  def texts(ids_NA):
    return [tokens.show(ids_A, task.symbols).partition('$')[0] for ids_A in ids_NA]

  expected = texts(answers(shown.tokens_NL, shown.start_N))
  counts = MEASURES[task.name](zip(expected, texts(output_NA), strict=True))
  pairs = counts.pop('pairs')
  return [
    Tally(split, 'all', f'symbolic_{name}', count, pairs, None)
    for name, count in counts.items()
  ]


def _as_stated(members: Member) -> Member:
  """The members with prompts that state the rule itself; the same object if they do."""
  masked, permuted = members.mask_instruction, members.permute_y
  if not np.any(distributed.fetch((masked, permuted))):
    return members
  return dataclasses.replace(
    members,
    mask_instruction=jnp.zeros_like(masked),
    permute_y=jnp.zeros_like(permuted),
  )
