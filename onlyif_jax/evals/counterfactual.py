"""Does the output follow the instruction where something else would be easier?

Two tests, both with forward passes only (an answer is the greedy output if and only if
its teacher-forced argmax is right everywhere, end token included):

- two_patterns: an input that holds the x of two held-out rules, with either instruction.
- seen_x_new_y: an x of training with a y that it never had: is the new y inserted
  (obeyed) or the y of training (memorised)?
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from onlyif_jax import keys
from onlyif_jax.data import Member
from onlyif_jax.evals.exact_match import Evaluator
from onlyif_jax.evals.patterns import example_with_x, replaces_strings, rule_as_shown
from onlyif_jax.keys import Purpose
from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.rewrite import matches, rewrite
from onlyif_jax.tasks.rules import Part, Rule
from onlyif_jax.training import ensemble
from onlyif_jax.training.metrics import Tally, clustered_se
from onlyif_jax.training.step import graphdef

SPLIT = 'counterfactual'
TWO_PATTERNS = ('both', 'one', 'other', 'neither')
SEEN_X_NEW_Y = ('obeyed', 'memorised', 'neither')
MEANING = {
  'two_patterns=both': 'either instruction is followed',
  'two_patterns=one': 'one instruction is followed, the other is not',
  'two_patterns=other': 'none is followed, and the pattern not asked for is edited',
  'two_patterns=neither': 'none is followed, and no such edit is made',
  'seen_x_new_y=obeyed': 'the new y is inserted',
  'seen_x_new_y=memorised': 'the y of training is inserted',
  'seen_x_new_y=neither': 'something else comes out',
}


class Forced(NamedTuple):
  """A prompt followed by an answer, and the answer: ids with the end token."""

  tokens_L: jax.Array
  start: jax.Array
  answer_A: jax.Array
  length: jax.Array


@dataclasses.dataclass(frozen=True)
class Counterfactual:
  """Evaluates stacked members; keep one, since it holds the compiled program."""

  evaluator: Evaluator

  def tallies(self, params, members: Member, examples: int) -> list[list[Tally]]:
    """Each member's shares, as metric 'share' of split 'counterfactual'.

    examples: the number of pairs of held-out rules, and of seen rules with a new y.
    The outcomes of a test exclude each other and sum to its count. Empty where the
    task's rules have no x and y of letters; a pair counts only where its input holds
    both patterns.
    """
    if not replaces_strings(self.evaluator.data, members):
      return [[] for _ in range(ensemble.size(members))]
    size = self.evaluator.batch_size
    chunks = [
      self._judge((params, members), jnp.int32(start))
      for start in range(0, examples, size)
    ]
    chunks = jax.device_get(chunks)
    stacked = jax.tree.map(lambda *v: np.concatenate(v, 1)[:, :examples], *chunks)
    count = ensemble.size(stacked)
    return [_tallies(jax.tree.map(lambda v, m=m: v[m], stacked)) for m in range(count)]

  @functools.cached_property
  def _judge(self):
    def judge(args, start):
      params, member = args
      i_B = start + jnp.arange(self.evaluator.batch_size, dtype=jnp.int32)
      two = jax.vmap(lambda i: self.two_patterns(member, i))(i_B)
      new = jax.vmap(lambda i: self.seen_x_new_y(member, i))(i_B)
      (two_6B, two_exists_B, pair_B), (new_2B, new_exists_B, rule_B) = two, new
      forced_8B = jax.tree.map(lambda *v: jnp.stack(v), *two_6B, *new_2B)
      right_8B = self.right(params, forced_8B)
      return {
        'two_patterns': (outcome_of_two(right_8B[:6]), two_exists_B, pair_B),
        'seen_x_new_y': (outcome_of_new(right_8B[6:]), new_exists_B, rule_B),
      }

    return self.evaluator.lift(judge, 1)

  def right(self, params, forced_KB: Forced):
    """Whether each forced answer is the greedy output: [K, B]."""
    config = dataclasses.replace(self.evaluator.model, compute_dtype='float32')
    model = nnx.merge(graphdef(config), params)
    a = jnp.arange(forced_KB.answer_A.shape[-1])

    def is_right(forced: Forced):
      at_BA = jnp.minimum(
        forced.start[:, None] - 1 + a[None], forced.tokens_L.shape[1] - 1
      )
      logits_BAV: Any = model(forced.tokens_L, answer_BA=at_BA)
      right_BA = logits_BAV.argmax(-1) == forced.answer_A
      return (right_BA | (a[None] >= forced.length[:, None])).all(-1)

    return jax.lax.map(is_right, forced_KB)

  def two_patterns(self, member: Member, i):
    """Pair i of held-out rules: (six Forced, whether z holds both x, pair).

    For each of the two instructions: the right answer; its y in place of the other x;
    the other rule applied.
    """
    data = self.evaluator.data
    pair = i % (data.rules.capacity(Part.TEST) // 2)
    examples, rules = [], []
    for index in (2 * pair, 2 * pair + 1):
      rule = data.rules.rule(member.rules_seed, Part.TEST, index, member.setting)
      example = example_with_x(data, member, rule, Purpose.TEST_INPUT, i)
      examples.append(self._hidden(member, example))
      rules.append(rule_as_shown(example, rule))
    key = jax.random.fold_in(keys.key(member.order_seed, Purpose.TEST_INPUT, i), 1)
    task: Any = data.task  # of the rewriting family
    letters, size = len(task.symbols), task.input_length
    z_Z = two_in_one(rules[0], rules[1], jax.random.bits(key, (size + 3,)), letters)
    exists = matches(z_Z, rules[0]).any() & matches(z_Z, rules[1]).any()
    exists &= rules[0].x_len + rules[1].x_len <= size
    forced = []
    for asked, other in ((0, 1), (1, 0)):
      swapped = rules[other]._replace(y_Q=rules[asked].y_Q, y_len=rules[asked].y_len)
      prompt_L = self._with_input(examples[asked], z_Z)
      for rule in (rules[asked], swapped, rules[other]):
        out_O, length, _, _ = rewrite(z_Z, rule, task.answer_length - 1)
        start = examples[asked].answer_start
        forced.append(self._forced(prompt_L, start, out_O, length))
    return forced, exists, pair

  def seen_x_new_y(self, member: Member, i):
    """Training rule i with a new y: ((new answer, training's), exists, rule index)."""
    data = self.evaluator.data
    seed, setting = member.rules_seed, member.setting
    index = i % member.instructions
    seen_rule = data.rules.rule(seed, Part.TRAIN, index, setting)
    capacity = data.rules.capacity(Part.TEST)
    new_rule = data.rules.lend(
      seen_rule, data.rules.rule(seed, Part.TEST, i % capacity, setting)
    )
    # The same key and x give the same input.
    new_example = example_with_x(data, member, new_rule, Purpose.TEST_INPUT, i)
    seen_example = example_with_x(data, member, seen_rule, Purpose.TEST_INPUT, i)
    exists = index < data.plan.examples
    if member.counts_R.shape[0]:  # a rule without an example is not seen
      previous = jnp.where(index > 0, member.counts_R[index - 1], 0)
      exists = member.counts_R[index] > previous
    prompt = self._hidden(member, new_example)
    forced = []
    for example in (new_example, seen_example):
      a = jnp.arange(data.task.answer_length - 1) + example.answer_start
      out_O = example.tokens_L[jnp.minimum(a, example.tokens_L.shape[0] - 1)]
      out_O, length = out_O - tokens.FIRST_LETTER, example.answer_len - 1
      forced.append(
        self._forced(prompt.tokens_L, new_example.answer_start, out_O, length)
      )
    return forced, exists, index

  def _hidden(self, member: Member, example: tokens.Example) -> tokens.Example:
    """The example as the member sees it."""
    mask_L = self.evaluator.data.task.instruction_mask(example)
    mask_L = member.mask_instruction & mask_L
    return example._replace(tokens_L=jnp.where(mask_L, tokens.MASK, example.tokens_L))

  def _with_input(self, example: tokens.Example, z_Z):
    """The example's tokens with another input of the same length."""
    t_L = jnp.arange(example.tokens_L.shape[0])
    in_z_L = ~self.evaluator.data.task.instruction_mask(example)
    in_z_L &= (t_L < example.answer_start) & (example.tokens_L != tokens.SEP)
    at_L = jnp.clip(t_L - jnp.argmax(in_z_L), 0, z_Z.shape[0] - 1)
    return jnp.where(in_z_L, tokens.letters_to_ids(z_Z)[at_L], example.tokens_L)

  def _forced(self, prompt_L, start, out_O, length) -> Forced:
    """The prompt with the answer out_O; length: of the answer without its end."""
    size = self.evaluator.data.task.answer_length
    end = (jnp.array([tokens.EOS]), 1)
    answer_A, total = tokens.join([(tokens.letters_to_ids(out_O), length), end], size)
    tokens_L, _ = tokens.join([(prompt_L, start), (answer_A, total)], len(prompt_L))
    return Forced(tokens_L, start, answer_A, total)


def two_in_one(first: Rule, second: Rule, bits, letters: int):
  """Random letters with both x in them, not overlapping, in random order; bits: [Z + 3]."""
  size = bits.shape[0] - 3
  room = jnp.maximum(size - first.x_len - second.x_len, 0)
  cuts = (bits[size : size + 2] % (room + 1).astype(jnp.uint32)).astype(jnp.int32)
  low, high = jnp.min(cuts), jnp.max(cuts)
  swap = bits[size + 2] % 2 == 1
  z_Z = (bits[:size] % jnp.uint32(letters)).astype(jnp.int32)
  at_first = jnp.where(swap, high + second.x_len, low)
  at_second = jnp.where(swap, low, high + first.x_len)
  for x_P, x_len, place in (
    (first.x_P, first.x_len, at_first),
    (second.x_P, second.x_len, at_second),
  ):
    at_Z = jnp.arange(size) - place
    inside_Z = (at_Z >= 0) & (at_Z < x_len)
    z_Z = jnp.where(inside_Z, x_P[jnp.clip(at_Z, 0, x_P.shape[0] - 1)], z_Z)
  return z_Z


def outcome_of_two(right_6B):
  """Index into TWO_PATTERNS, from the correctness of a pair's six forced answers."""
  followed_B = right_6B[0].astype(jnp.int32) + right_6B[3]
  other_edit_B = right_6B[1] | right_6B[2] | right_6B[4] | right_6B[5]
  return jnp.where(followed_B > 0, 2 - followed_B, jnp.where(other_edit_B, 2, 3))


def outcome_of_new(right_2B):
  """Index into SEEN_X_NEW_Y, from the correctness of the new and training's answer."""
  return jnp.where(right_2B[0], 0, jnp.where(right_2B[1], 1, 2))


def _tallies(outcomes) -> list[Tally]:
  """One member's outcomes as shares."""
  out = []
  for name, values in (('two_patterns', TWO_PATTERNS), ('seen_x_new_y', SEEN_X_NEW_Y)):
    outcome_B, exists_B, cluster_B = outcomes[name]
    for n, value in enumerate(values):
      hits = (outcome_B == n)[exists_B].astype(np.int32)
      se = clustered_se(hits, np.ones_like(hits), cluster_B[exists_B])
      total, count = int(hits.sum()), int(exists_B.sum())
      out.append(Tally(SPLIT, f'{name}={value}', 'share', total, count, se))
  return out
