"""Batches as a pure function of (seed, step): each training example has an index.

A run has exactly N examples. Position g = step * B + b of the training stream lies in
epoch g div N, whose keyed bijection maps g mod N to example j. Example j has rule
j mod I (or the rule of an explicit count table) and an input drawn from
key(order seed, TRAIN_INPUT, j). Nothing is stored or iterated: resuming needs the
step only, and the data do not depend on devices, hosts or the stacking of members.
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
  """The traced settings of one run; changing them needs no compile."""

  rules_seed: Any  # int32: which rules
  init_seed: Any  # int32: which initial parameters
  order_seed: Any  # int32: inputs, their order, no-ops, dropout
  instructions: Any  # int32: I
  learning_rate: Any  # float32: peak rate
  mix_K: Any  # int32: cumulative examples per kind of the task's mix; [] if one kind
  fresh_rules: Any  # bool: a new rule for each example (I = infinity)
  fresh_inputs: Any  # bool: new inputs in each epoch (S = infinity)
  mask_instruction: Any  # bool: x and y are hidden from the model
  permute_y: Any  # bool: the prompt states another example's y
  balance: Any  # bool: weight examples so that every rule counts equally
  counts_R: Any  # int32: cumulative examples per rule; [] if rules have equal counts
  setting: Any = dataclasses.field(default_factory=dict)  # the task's: name -> array


@dataclasses.dataclass(frozen=True)
class Plan:
  """The static sizes of a run's training data."""

  examples: int  # N
  epochs: float
  batch_size: int

  @property
  def steps(self) -> int:
    """Training steps: whole batches in `epochs` passes over N examples."""
    return int(self.epochs * self.examples) // self.batch_size


class Batch(NamedTuple):
  """Sequences and their answers.

  weights_BL[b, t] is the weight of the prediction of token t. answer_BA holds the
  positions whose states predict the answer, targets_BA the answer (PAD beyond its
  end), weights_BA the weights of its tokens (0 beyond its end). inserted_BA is True
  at the letters that the rule inserted. rule_B is the rule's index, prompt_hash_B2 a
  hash of the prompt.
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
  """A request for B examples: all that determines them, besides the member.

  rules: each example's rule, and another whose y the prompt may show (`permute_y`).
  The input is drawn from key(order seed, purpose, index).
  """

  rules: tuple[Any, Any]
  rule_B: jax.Array  # index of the rule
  purpose: Any  # shared by all examples; an integer that may be traced
  index_B: jax.Array
  kind_B: jax.Array
  exists_B: jax.Array  # False if a test cell has no such rule


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

    # The example that follows lends its y to the prompts of `permute_y`.
    places_2B = jnp.stack([place_B, (place_B + 1) % n])
    j_B, next_B = jax.vmap(jax.vmap(order), (None, 0))(epoch_B, places_2B)
    return self.by_index(member, j_B, g_B, next_B)

  def by_index(self, member: Member, j_B, g_B=None, next_B=None) -> Batch:
    """Training examples j_B of [0, N), at stream positions g_B, followed by next_B.

    By default the stream is in order of the index.
    """
    request = self.ask_by_index(member, j_B, g_B, next_B)
    batch = self.examples(member, request)
    if not member.counts_R.shape[0]:
      return batch
    weight_B = jnp.where(
      member.balance, self._balanced_weight(member, request.rule_B), 1.0
    )
    return batch._replace(
      weights_BL=batch.weights_BL * weight_B[:, None],
      weights_BA=batch.weights_BA * weight_B[:, None],
    )

  def ask_by_index(self, member: Member, j_B, g_B=None, next_B=None) -> Asked:
    """The request for the training examples of `by_index`."""
    g_B = j_B if g_B is None else g_B
    next_B = (j_B + 1) % self.plan.examples if next_B is None else next_B
    fresh_rules = member.fresh_rules
    rule_B = jnp.where(fresh_rules, g_B, self.rule_of(member, j_B))
    other_B = jnp.where(fresh_rules, g_B + 1, self.rule_of(member, next_B))
    input_B = jnp.where(fresh_rules | member.fresh_inputs, g_B, j_B)
    kind_B = jnp.zeros_like(j_B)
    if self.kinds:
      key, n = keys.key(member.order_seed, Purpose.NOOP_CHOICE), self.plan.examples
      place_B = jax.vmap(lambda j: keys.permute(key, j, n))(j_B)
      kind_B = self.kind_at(member.mix_K, place_B)
    rules = self._rules(member, Part.TRAIN, rule_B, other_B)
    return _request(rules, rule_B, Purpose.TRAIN_INPUT, input_B, kind_B)

  @property
  def kinds(self) -> tuple[int, ...]:
    """The kinds of the task's mix, in the order of `Member.mix_K`."""
    return tuple(int(kind) for kind, _ in self.task.mix(0.0))

  def kind_at(self, mix_K, place_B):
    """The kinds of the examples whose place in the mix, of [0, N), is place_B."""
    kinds_K = jnp.asarray(self.kinds, jnp.int32)
    return kinds_K[jnp.searchsorted(mix_K, place_B, side='right')]

  def _balanced_weight(self, member: Member, rule_B):
    """Weights of examples with which every rule that has any counts equally."""
    counts_R = jnp.diff(member.counts_R, prepend=0)
    rules = (counts_R > 0).sum()
    return self.plan.examples / (rules * counts_R[rule_B])

  def rule_of(self, member: Member, j_B):
    """The rule indices of the training examples j_B."""
    if member.counts_R.shape[0]:
      return jnp.searchsorted(member.counts_R, j_B, side='right')
    return j_B % member.instructions

  def ask_held_out(self, member: Member, part: Part, i_B, kind_B, cell='') -> Asked:
    """The request for examples of a part's rules, or of a further test cell."""
    capacity = self.rules.capacity(part)
    seed, setting = member.rules_seed, member.setting

    def rule(i):
      if not cell:
        return self.rules.rule(seed, part, i % capacity, setting), jnp.bool_(True)
      return self.rules.cell_rule(
        seed, part, cell, i % capacity, member.instructions, setting
      )

    rules_2B, exists_2B = jax.vmap(jax.vmap(rule))(jnp.stack([i_B, i_B + 1]))
    purpose = Purpose.DEV_INPUT if part == Part.DEV else Purpose.TEST_INPUT
    request = _request(_unstack_pair(rules_2B), i_B % capacity, purpose, i_B, kind_B)
    return request._replace(exists_B=exists_2B[0])

  def ask_seen(self, member: Member, i_B, kind_B) -> Asked:
    """The request for examples of training rules with newly drawn inputs.

    An input may by chance equal a training input: `evals.exact_match` finds
    these and leaves them out.
    """
    n = self.plan.examples
    # Take the rules of training examples, so that each has at least one. With equal
    # counts the rules take turns; with unequal ones they are drawn by their share.
    j_B, next_B = i_B % n, (i_B + 1) % n
    if member.counts_R.shape[0]:
      key = keys.key(member.order_seed, Purpose.SEEN_RULE)
      draw = jax.vmap(lambda i: keys.permute(key, i, n))
      j_B, next_B = draw(j_B), draw(next_B)
    rule_B, other_B = self.rule_of(member, j_B), self.rule_of(member, next_B)
    rule_B = jnp.where(member.fresh_rules, j_B, rule_B)
    other_B = jnp.where(member.fresh_rules, next_B, other_B)
    rules = self._rules(member, Part.TRAIN, rule_B, other_B)
    return _request(rules, rule_B, Purpose.SEEN_INPUT, i_B, kind_B)

  def _rules(self, member, part, rule_B, other_B):
    """The rules of two index vectors, as a pair made by one program."""

    def rule(i):
      return self.rules.rule(member.rules_seed, part, i, member.setting)

    return _unstack_pair(jax.vmap(jax.vmap(rule))(jnp.stack([rule_B, other_B])))

  def examples(self, member: Member, request: Asked) -> Batch:
    """The examples of a request."""

    def make(rule, other, index, kind):
      key = keys.key(member.order_seed, request.purpose, index)
      lent = self.rules.lend(rule, other)
      shown = jax.tree.map(lambda a, b: jnp.where(member.permute_y, a, b), lent, rule)
      setting = member.setting
      return self.task.example(rule, key, kind=kind, shown=shown, setting=setting)

    example = jax.vmap(make)(*request.rules, request.index_B, request.kind_B)
    return self.collate(example, request.rule_B, member.mask_instruction)

  def collate(self, example: tokens.Example, rule_B, mask_instruction=False) -> Batch:
    """A batch of stacked examples, with answer positions and weights."""
    length = example.tokens_L.shape[1]
    start_B, answer_len_B = example.answer_start, example.answer_len
    a = jnp.arange(self.task.answer_length)[None]
    in_answer_BA = a < answer_len_B[:, None]
    predictor_BA = jnp.minimum(start_B[:, None] - 1 + a, length - 1)
    target_BA = jnp.minimum(start_B[:, None] + a, length - 1)
    targets_BA = jnp.take_along_axis(example.tokens_L, target_BA, 1)
    t = jnp.arange(length)[None]
    in_answer_BL = (t >= start_B[:, None]) & (t < (start_B + answer_len_B)[:, None])
    hidden_BL = mask_instruction & self.task.instruction_mask(example)
    return Batch(
      tokens_BL=jnp.where(hidden_BL, tokens.MASK, example.tokens_L),
      weights_BL=in_answer_BL.astype(jnp.float32),
      answer_BA=predictor_BA,
      targets_BA=jnp.where(in_answer_BA, targets_BA, tokens.PAD),
      weights_BA=in_answer_BA.astype(jnp.float32),
      inserted_BA=example.inserted_A & in_answer_BA,
      rule_B=rule_B,
      prompt_hash_B2=example.prompt_hash_2,
      slices=example.slices,
    )


def _request(rules, rule_B, purpose: Purpose, index_B, kind_B) -> Asked:
  """A request all of whose rules exist."""
  exists_B = jnp.ones_like(rule_B, bool)
  return Asked(rules, rule_B, purpose, index_B, kind_B, exists_B)


def _unstack_pair(tree):
  """A tree with a leading axis of length 2 -> a tuple of two trees."""
  return tuple(jax.tree.map(lambda v, n=n: v[n], tree) for n in range(2))
