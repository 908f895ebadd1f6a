"""(seed, step) -> batch: every training example is addressed by its index.

A run has exactly N examples. Position g = step * B + b of the training stream
lies in epoch g div N; the epoch's keyed bijection turns place g mod N into
example j. Example j has rule j mod I (or the rule of an explicit count table)
and an input drawn from key(order seed, TRAIN_INPUT, j). Nothing is stored or
iterated, so resuming needs the step alone and the data do not depend on
devices, hosts or the stacking of members.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from onlyif_jax import keys
from onlyif_jax.keys import Purpose
from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.contract import Space, Task
from onlyif_jax.tasks.rules import Part


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Member:
  """The settings of one run that are traced: they change without a compile."""

  rules_seed: Any  # int32: which rules
  init_seed: Any  # int32: which initial parameters
  order_seed: Any  # int32: inputs, their order, no-ops, dropout
  instructions: Any  # int32: I
  learning_rate: Any  # float32: peak rate
  mix_K: Any  # int32: cumulated examples per kind of the task's mix; [] for one kind
  fresh_rules: Any  # bool: a new rule for each example (I = infinity)
  fresh_inputs: Any  # bool: new inputs in each pass (S = infinity)
  mask_instruction: Any  # bool: x and y are hidden from the model
  permute_y: Any  # bool: the prompt states another example's y
  balance: Any  # bool: examples weigh so that every rule counts alike
  counts_R: Any  # int32: cumulated examples per rule; length 0 = equal counts
  setting: Any = dataclasses.field(default_factory=dict)  # the task's, name -> array


@dataclasses.dataclass(frozen=True)
class Plan:
  """The static sizes of a run's data."""

  examples: int  # N
  epochs: float
  batch_size: int

  @property
  def steps(self) -> int:
    """Training steps: whole batches in `epochs` passes over N examples."""
    return int(self.epochs * self.examples) // self.batch_size


class Batch(NamedTuple):
  """Sequences and where their answers are.

  weights_BL[b, t] weighs the prediction of token t. answer_BA are the positions
  whose states predict the answer, targets_BA the answer itself, weights_BA one
  where there is an answer; inserted_BA marks letters that the rule inserted.
  rule_B and prompt_hash_B2 identify the rule's index and the prompt.
  """

  tokens_BL: jax.Array
  weights_BL: jax.Array
  answer_BA: jax.Array
  targets_BA: jax.Array
  weights_BA: jax.Array
  inserted_BA: jax.Array
  rule_B: jax.Array
  prompt_hash_B2: jax.Array
  slices: dict[str, jax.Array]


class Asked(NamedTuple):
  """What decides n examples: their rules, and the keys of their inputs.

  rules: each example's rule, and another whose answer side a prompt may show. An
  input comes from key(order seed, purpose, index).
  """

  rules: tuple[Any, Any]
  rule_B: jax.Array  # index of the rule
  purpose: Any  # one for all of them, an integer that may be traced
  index_B: jax.Array
  kind_B: jax.Array
  exists_B: jax.Array  # a further test cell may have no such rule


@dataclasses.dataclass(frozen=True)
class Data:
  """The examples of a task under a plan: hashable, static under jit."""

  task: Task
  rules: Space
  plan: Plan

  def train_batch(self, member: Member, step) -> Batch:
    """The batch of one training step."""
    b = jnp.arange(self.plan.batch_size, dtype=jnp.int32)
    return self.train_examples(member, step * self.plan.batch_size + b)

  def train_examples(self, member: Member, g_B) -> Batch:
    """The examples at positions g_B of the training stream."""
    n = self.plan.examples
    epoch_B, place_B = g_B // n, g_B % n

    def order(epoch, place):
      key = keys.key(member.order_seed, Purpose.EPOCH_ORDER, epoch)
      return keys.permute(key, place, n)

    # The next example of the stream lends its y where the prompt must lie.
    pair_2B = jnp.stack([place_B, (place_B + 1) % n])
    j_B, next_B = jax.vmap(jax.vmap(order), (None, 0))(epoch_B, pair_2B)
    return self.by_index(member, j_B, g_B, next_B)

  def by_index(self, member: Member, j_B, g_B=None, next_B=None) -> Batch:
    """Training examples j_B of [0, N), met at positions g_B, followed by next_B."""
    asked = self.ask_by_index(member, j_B, g_B, next_B)
    batch = self.examples(member, asked)
    if not member.counts_R.shape[0]:
      return batch
    scale_B = jnp.where(member.balance, self._scale(member, asked.rule_B), 1.0)
    return batch._replace(
      weights_BL=batch.weights_BL * scale_B[:, None],
      weights_BA=batch.weights_BA * scale_B[:, None],
    )

  def ask_by_index(self, member: Member, j_B, g_B=None, next_B=None) -> Asked:
    """What decides the training examples of `by_index`."""
    g_B = j_B if g_B is None else g_B
    next_B = (j_B + 1) % self.plan.examples if next_B is None else next_B
    fresh_rules = member.fresh_rules
    rule_B = jnp.where(fresh_rules, g_B, self.rule_of(member, j_B))
    other_B = jnp.where(fresh_rules, g_B + 1, self.rule_of(member, next_B))
    fresh = member.fresh_rules | member.fresh_inputs
    input_B = jnp.where(fresh, g_B, j_B)
    kind_B = jnp.zeros_like(j_B)
    if self.kinds:
      n, choice = self.plan.examples, keys.key(member.order_seed, Purpose.NOOP_CHOICE)
      place_B = jax.vmap(lambda j: keys.permute(choice, j, n))(j_B)
      kind_B = self.kind_at(member.mix_K, place_B)
    rules = self._rules(member, Part.TRAIN, rule_B, other_B)
    return _ask(rules, rule_B, Purpose.TRAIN_INPUT, input_B, kind_B)

  @property
  def kinds(self) -> tuple[int, ...]:
    """The kinds of the task's mix, in the order of `Member.mix_K`."""
    return tuple(int(kind) for kind, _ in self.task.mix(0.0))

  def kind_at(self, mix_K, place_B):
    """The kinds of examples at places of the mix."""
    return jnp.asarray(self.kinds, jnp.int32)[
      jnp.searchsorted(mix_K, place_B, side='right')
    ]

  def _scale(self, member: Member, rule_B):
    """What an example weighs when every rule that was met counts alike."""
    counts_R = jnp.diff(member.counts_R, prepend=0)
    met = (counts_R > 0).sum()
    return self.plan.examples / (met * counts_R[rule_B])

  def rule_of(self, member: Member, j_B):
    """The rule index of training examples j_B."""
    if member.counts_R.shape[0]:
      return jnp.searchsorted(member.counts_R, j_B, side='right')
    return j_B % member.instructions

  def ask_held_out(self, member: Member, part: Part, i_B, kind_B, cell='') -> Asked:
    """What decides examples of a part's rules or of a further cell."""
    capacity = self.rules.capacity(part)
    seed, setting = member.rules_seed, member.setting

    def rule(i):
      if not cell:
        return self.rules.rule(seed, part, i % capacity, setting), jnp.bool_(True)
      return self.rules.cell_rule(
        seed, part, cell, i % capacity, member.instructions, setting
      )

    both_2BP, exists_2B = jax.vmap(jax.vmap(rule))(jnp.stack([i_B, i_B + 1]))
    purpose = Purpose.DEV_INPUT if part == Part.DEV else Purpose.TEST_INPUT
    asked = _ask(_halves(both_2BP), i_B % capacity, purpose, i_B, kind_B)
    return asked._replace(exists_B=exists_2B[0])

  def ask_seen(self, member: Member, i_B, kind_B) -> Asked:
    """What decides examples of training rules that were met, with inputs drawn anew.

    An input may by chance equal a training input: `evals.exact_match` finds
    these and leaves them out.
    """
    n = self.plan.examples
    # Example i of the training set has a rule that was met: with equal counts
    # these are the rules in turn, with skewed ones they are drawn by share.
    met_B, next_B = i_B % n, (i_B + 1) % n
    if member.counts_R.shape[0]:
      key = keys.key(member.order_seed, Purpose.SEEN_RULE)
      draw = jax.vmap(lambda i: keys.permute(key, i, n))
      met_B, next_B = draw(met_B), draw(next_B)
    rule_B, other_B = self.rule_of(member, met_B), self.rule_of(member, next_B)
    rule_B = jnp.where(member.fresh_rules, met_B, rule_B)
    other_B = jnp.where(member.fresh_rules, next_B, other_B)
    rules = self._rules(member, Part.TRAIN, rule_B, other_B)
    return _ask(rules, rule_B, Purpose.SEEN_INPUT, i_B, kind_B)

  def _rules(self, member, part, rule_B, other_B):
    """The rules of two index vectors, made by one program."""

    def rule(i):
      return self.rules.rule(member.rules_seed, part, i, member.setting)

    return _halves(jax.vmap(jax.vmap(rule))(jnp.stack([rule_B, other_B])))

  def examples(self, member: Member, asked: Asked) -> Batch:
    """The examples that were asked for."""

    def make(rule, other, index, kind):
      key = keys.key(member.order_seed, asked.purpose, index)
      lent = self.rules.lend(rule, other)
      shown = jax.tree.map(lambda a, b: jnp.where(member.permute_y, a, b), lent, rule)
      setting = member.setting
      return self.task.example(rule, key, kind=kind, shown=shown, setting=setting)

    example = jax.vmap(make)(*asked.rules, asked.index_B, asked.kind_B)
    return self.collate(example, asked.rule_B, member.mask_instruction)

  def collate(self, example: tokens.Example, rule_B, mask_instruction=False) -> Batch:
    """Stacked examples -> a batch with answer positions and weights."""
    length, answer = example.tokens_L.shape[1], self.task.answer_length
    start_B, count_B = example.answer_start, example.answer_len
    a = jnp.arange(answer)[None]
    live_BA = a < count_B[:, None]
    predict_BA = jnp.minimum(start_B[:, None] - 1 + a, length - 1)
    target_at_BA = jnp.minimum(start_B[:, None] + a, length - 1)
    targets_BA = jnp.take_along_axis(example.tokens_L, target_at_BA, 1)
    t = jnp.arange(length)[None]
    in_answer_BL = (t >= start_B[:, None]) & (t < (start_B + count_B)[:, None])
    hidden_BL = mask_instruction & self.task.instruction_mask(example)
    return Batch(
      tokens_BL=jnp.where(hidden_BL, tokens.MASK, example.tokens_L),
      weights_BL=in_answer_BL.astype(jnp.float32),
      answer_BA=predict_BA,
      targets_BA=jnp.where(live_BA, targets_BA, tokens.PAD),
      weights_BA=live_BA.astype(jnp.float32),
      inserted_BA=example.inserted_A & live_BA,
      rule_B=rule_B,
      prompt_hash_B2=example.prompt_hash_2,
      slices=example.slices,
    )


def _ask(rules, rule_B, purpose: Purpose, index_B, kind_B) -> Asked:
  exists_B = jnp.ones_like(rule_B, bool)
  return Asked(rules, rule_B, purpose, index_B, kind_B, exists_B)


def _halves(tree):
  """A tree with a leading axis of two -> two trees."""
  return tuple(jax.tree.map(lambda v, n=n: v[n], tree) for n in range(2))
