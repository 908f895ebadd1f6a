"""Exact match by teacher forcing, over every split, slice and test cell.

Greedy decoding is right if and only if the teacher-forced argmax is right at
every answer position, end token included; so an evaluation is forward passes
only. Sums run in float32 whatever the training dtype.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import PartitionSpec as P

from onlyif_jax import distributed, keys
from onlyif_jax.config import ConfigError, EvalConfig
from onlyif_jax.data import Asked, Batch, Data, Member
from onlyif_jax.keys import Purpose
from onlyif_jax.models.gpt2 import GPT2Config
from onlyif_jax.tasks.contract import EvalSet, Task
from onlyif_jax.tasks.rules import Part
from onlyif_jax.training import ensemble
from onlyif_jax.training.metrics import Tally, Verdicts
from onlyif_jax.training.step import graphdef

IN_LOOP = ('dev', 'seen')  # the test rules are read once, at the end
CLOSE = 1e-3  # top-2 margins below this are counted: there rounding may decide


def eval_sets(config: EvalConfig, task: Task, splits=None) -> list[EvalSet]:
  """The sets of a final evaluation, of every split unless some are named."""
  sets = task.eval_sets(config.examples, config.cell_examples)
  return [one for one in sets if splits is None or one.split in splits]


def plain_set(task: Task, split: str, examples: int) -> EvalSet:
  """A split's own set with another number of examples."""
  for one in task.eval_sets(examples, 0):
    if one.split == split and not one.label:
      return one
  known = sorted({one.split for one in task.eval_sets(1, 1)})
  raise ConfigError(f'--split={split} is not a split of the task; it has {known}')


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Evaluates the members of a stack; the split along 'member' as in training.

  sets: what will be evaluated: one compiled program makes the examples of all of
  them, and of their like with another number of examples.
  """

  data: Data
  model: GPT2Config
  batch_size: int
  mesh: jax.sharding.Mesh
  sets: tuple[EvalSet, ...] = ()

  def tallies(self, params, members, sets, trained_on) -> list[list[Tally]]:
    """Each member's tallies of the given sets.

    params, members: stacked; trained_on: `training_prompts(members)`.
    """
    out: list[list[Tally]] = [[] for _ in trained_on]
    for one in sets:
      for m, verdicts in enumerate(self.verdicts(params, members, one, trained_on)):
        if one.label:
          out[m] += verdicts.tally(one.split, one.label)
        else:
          out[m] += verdicts.tally(one.split, 'all')
          out[m] += verdicts.sliced(one.split, tuple(sorted(verdicts.slices)))
    return out

  def verdicts(self, params, members, one: EvalSet, trained_on) -> list[Verdicts]:
    """Each member's verdicts on one set; prompts that were trained on are dropped."""
    parts = []
    for start in range(0, one.examples, self.batch_size):
      batch, exists = self.make(one)(members, jnp.int32(start))
      made = {k: getattr(batch, k) for k in ('rule_B', 'prompt_hash_B2', 'slices')}
      parts.append(self._judge(params, batch) | made | {'exists': exists})
    parts = distributed.fetch(parts)
    raw = jax.tree.map(lambda *v: np.concatenate(v, 1)[:, : one.examples], *parts)
    out = []
    for m, prompts in enumerate(trained_on):
      own = jax.tree.map(lambda v, m=m: v[m], raw)
      keep = own['exists']
      if one.split != 'train':
        keep = keep & ~np.isin(as_uint64(own['prompt_hash_B2']), prompts)
      if 'copied' in own:
        _add_noop_rates(own)
      out.append(
        Verdicts(own['sums'], own['counts'], own['slices'], own['rule_B'], keep)
      )
    return out

  def training_prompts(self, members) -> list[np.ndarray]:
    """Each member's 64-bit hashes of every prompt that it trains on."""
    plan = self.data.plan
    # The first pass has every prompt, unless each pass has new ones.
    total = plan.steps * plan.batch_size
    fresh = distributed.fetch(members.fresh_rules | members.fresh_inputs).any()
    count = total if fresh else min(plan.examples, total)
    hashes = distributed.fetch(self._training_hashes(count)(members))
    return [np.unique(as_uint64(own)) for own in hashes]

  def lift(self, function, shared: int):
    """jit of function(member args, shared args) over the mesh's members."""
    lifted = ensemble.lift(function, 'map')
    specs = (P('member'),) + (P(),) * shared
    return jax.jit(
      jax.shard_map(lifted, mesh=self.mesh, in_specs=specs, out_specs=P('member'))
    )

  @functools.cached_property
  def _judge(self):
    judge = self.lift(lambda args: self.judge(*args), 0)
    return lambda params, batch: judge((params, batch))

  def make(self, one: EvalSet):
    """(members, start) -> (batch, exists) of a set's examples from `start` on."""
    known = tuple(dict.fromkeys(map(_recipe, self.sets)))
    recipe = _recipe(one)
    recipes = known if recipe in known else (recipe,)
    which = jnp.int32(recipes.index(recipe))
    program, count = self._maker(recipes), jnp.int32(one.examples)
    return lambda members, start: program(members, start, which, count)

  @functools.lru_cache(maxsize=64)  # noqa: B019 - an evaluator lives as long as a run
  def _maker(self, recipes: tuple[EvalSet, ...]):
    """(members, start, which recipe, examples) -> (batch, exists)."""

    def make(member, start, which, count):
      i_B = start + jnp.arange(self.batch_size, dtype=jnp.int32)
      zero = 0 * member.rules_seed  # on a mesh all branches must vary alike

      def vary(v):
        return v ^ (zero != 0) if v.dtype == bool else v + zero.astype(v.dtype)

      def ask(one):
        return lambda: jax.tree.map(
          lambda v: vary(jnp.asarray(v)), self._ask(member, one, i_B)
        )

      # Only the rules differ between sets; what is slow to compile is shared.
      asked = jax.lax.switch(which, [ask(one) for one in recipes])
      return self.data.examples(member, asked), asked.exists_B & (i_B < count)

    return self.lift(make, 3)

  @functools.lru_cache(maxsize=2)  # noqa: B019 - an evaluator lives as long as a run
  def _training_hashes(self, count: int):
    """members -> the hashes of the first `count` prompts of the training stream."""
    size = 4096

    def part(member, start):
      at = jnp.minimum(start + jnp.arange(size, dtype=jnp.int32), count - 1)
      return self.data.train_examples(member, at).prompt_hash_B2

    def hashes(member):
      starts = jnp.arange(0, count, size, dtype=jnp.int32)
      return jax.lax.map(lambda n: part(member, n), starts).reshape(-1, 2)

    return self.lift(hashes, 0)

  def batch(self, member: Member, one: EvalSet, i_B) -> tuple[Batch, jax.Array]:
    """Examples i_B of a set, and whether each exists."""
    asked = self._ask(member, one, i_B)
    return self.data.examples(member, asked), asked.exists_B

  def _ask(self, member: Member, one: EvalSet, i_B) -> Asked:
    n = self.data.plan.examples
    if one.split == 'train':  # these have the kinds that they were trained with
      asked = self.data.ask_by_index(member, i_B % n)
      return asked._replace(exists_B=i_B < n)
    kind_B = self._kinds(member, one, i_B)
    if one.split == 'seen' and not one.cell:
      return self.data.ask_seen(member, i_B, kind_B)
    part = Part.DEV if one.split == 'dev' else Part.TEST
    return self.data.ask_held_out(member, part, i_B, kind_B, one.cell)

  def _kinds(self, member, one, i_B):
    if one.kind != 'train':
      return self.data.task.kind(one.kind, i_B)
    if not self.data.kinds:
      return jnp.zeros_like(i_B)
    n = one.examples
    key = keys.key(member.order_seed, Purpose.MIX)
    place_B = jax.vmap(lambda i: keys.permute(key, i % n, n))(i_B)
    mix_K = jnp.round(member.mix_K * (n / self.data.plan.examples))
    return self.data.kind_at(mix_K, place_B)

  def judge(self, params, batch: Batch):
    """Per-example sums and counts of every metric, under the params."""
    model = nnx.merge(
      graphdef(dataclasses.replace(self.model, compute_dtype='float32')), params
    )
    logits_BAV: Any = model(batch.tokens_BL, answer_BA=batch.answer_BA)
    live_BA = batch.weights_BA > 0
    right_BA = logits_BAV.argmax(-1) == batch.targets_BA
    nll_BA = optax.losses.softmax_cross_entropy_with_integer_labels(
      logits_BAV, batch.targets_BA
    )
    top_BA2 = jax.lax.top_k(logits_BAV, 2)[0]
    close_BA = (top_BA2[..., 0] - top_BA2[..., 1] < CLOSE) & live_BA
    copied_BA = live_BA & ~batch.inserted_BA
    one_B = jnp.ones_like(batch.rule_B)
    sums = {
      'exact_match': (right_BA | ~live_BA).all(-1).astype(jnp.int32),
      'answer_nll': (nll_BA * live_BA).sum(-1),
      'y_accuracy': (right_BA & batch.inserted_BA).sum(-1),
      'copy_accuracy': (right_BA & copied_BA).sum(-1),
      'close_margin': close_BA.any(-1).astype(jnp.int32),
    }
    counts = {
      'exact_match': one_B,
      'answer_nll': live_BA.sum(-1),
      'y_accuracy': batch.inserted_BA.sum(-1),
      'copy_accuracy': copied_BA.sum(-1),
      'close_margin': one_B,
    }
    out = {'sums': sums, 'counts': counts}
    if self.data.task.noops:
      out['copied'] = self._copies(model, batch)
    return out

  def _copies(self, model, batch: Batch):
    """Whether the greedy output is the input unchanged: the answer forced is z."""
    task: Any = self.data.task  # of the rewriting family, which alone has no-ops
    start_B = batch.answer_BA[:, 0] + 1
    z_BZ = task.inputs(batch.tokens_BL, start_B)
    forced_BL, targets_BA = task.force(batch.tokens_BL, start_B, z_BZ)
    logits_BAV = model(forced_BL, answer_BA=batch.answer_BA)
    right_BA = logits_BAV.argmax(-1) == targets_BA
    beyond_A = jnp.arange(targets_BA.shape[1]) > z_BZ.shape[1]
    return (right_BA | beyond_A[None]).all(-1).astype(jnp.int32)


def _recipe(one: EvalSet) -> EvalSet:
  """What decides how a set's examples are made; of the training mix their number too."""
  examples = one.examples if one.kind == 'train' else 0
  return dataclasses.replace(one, examples=examples, label='')


def _add_noop_rates(own) -> None:
  """Adds the rates of the two opposite mistakes about whether x occurs."""
  noop = own['slices']['noop'].astype(np.int32)
  sums, counts = own['sums'], own['counts']
  sums['false_op'] = (1 - sums['exact_match']) * noop
  sums['false_no_op'] = own['copied'] * (1 - noop)
  counts['false_op'], counts['false_no_op'] = noop, 1 - noop


def as_uint64(hash_N2) -> np.ndarray:
  """Two 32-bit halves -> 64-bit hashes."""
  words = np.asarray(hash_N2).astype(np.uint64)
  return (words[..., 0] << np.uint64(32)) | words[..., 1]
