"""Exact match by teacher forcing, over every split, slice and test cell.

Greedy decoding is right if and only if the teacher-forced argmax is right at
every answer position, end token included, so an evaluation needs forward passes
only. Evaluation runs in float32 whatever the training dtype.
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

IN_LOOP = ('dev', 'seen')  # test rules are evaluated once, at the end
CLOSE = 1e-3  # top-2 margins below this are counted: rounding may decide these


def eval_sets(config: EvalConfig, task: Task, splits=None) -> list[EvalSet]:
  """The sets of a final evaluation: of the named splits, by default of all."""
  sets = task.eval_sets(config.examples, config.cell_examples)
  return [eval_set for eval_set in sets if splits is None or eval_set.split in splits]


def plain_set(task: Task, split: str, examples: int) -> EvalSet:
  """A split's unlabelled set with the given number of examples."""
  for eval_set in task.eval_sets(examples, 0):
    if eval_set.split == split and not eval_set.label:
      return eval_set
  known = sorted({eval_set.split for eval_set in task.eval_sets(1, 1)})
  raise ConfigError(f'--split={split} is not a split of the task; it has {known}')


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Evaluates the members of a stack, sharded along 'member' as in training.

  sets: the sets to expect. One compiled program makes the examples of all of them,
  and of the same sets with another number of examples.
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
    tallies_M: list[list[Tally]] = [[] for _ in trained_on]
    for eval_set in sets:
      for m, verdicts in enumerate(
        self.verdicts(params, members, eval_set, trained_on)
      ):
        if eval_set.label:
          tallies_M[m] += verdicts.tally(eval_set.split, eval_set.label)
        else:
          tallies_M[m] += verdicts.tally(eval_set.split, 'all')
          tallies_M[m] += verdicts.sliced(
            eval_set.split, tuple(sorted(verdicts.slices))
          )
    return tallies_M

  def verdicts(self, params, members, eval_set: EvalSet, trained_on) -> list[Verdicts]:
    """Each member's verdicts on one set; prompts seen in training are dropped."""
    chunks = []
    for start in range(0, eval_set.examples, self.batch_size):
      batch, exists = self.make(eval_set)(members, jnp.int32(start))
      fields = {k: getattr(batch, k) for k in ('rule_B', 'prompt_hash_B2', 'slices')}
      chunks.append(self._judge(params, batch) | fields | {'exists': exists})
    chunks = distributed.fetch(chunks)
    stacked = jax.tree.map(
      lambda *v: np.concatenate(v, 1)[:, : eval_set.examples], *chunks
    )
    verdicts_M = []
    for m, prompts in enumerate(trained_on):
      arrays = jax.tree.map(lambda v, m=m: v[m], stacked)
      keep = arrays['exists']
      if eval_set.split != 'train':
        keep = keep & ~np.isin(as_uint64(arrays['prompt_hash_B2']), prompts)
      if 'copied' in arrays:
        _add_noop_rates(arrays)
      verdicts_M.append(
        Verdicts(
          arrays['sums'], arrays['counts'], arrays['slices'], arrays['rule_B'], keep
        )
      )
    return verdicts_M

  def training_prompts(self, members) -> list[np.ndarray]:
    """The sorted 64-bit hashes of each member's training prompts."""
    plan = self.data.plan
    # The first epoch holds every prompt, unless each epoch draws new ones.
    total = plan.steps * plan.batch_size
    fresh = distributed.fetch(members.fresh_rules | members.fresh_inputs).any()
    count = total if fresh else min(plan.examples, total)
    hashes = distributed.fetch(self._training_hashes(count)(members))
    return [np.unique(as_uint64(hashes_N2)) for hashes_N2 in hashes]

  def lift(self, function, shared: int):
    """jit of function(member args, *shared args), mapped over the mesh's members."""
    lifted = ensemble.lift(function, 'map')
    specs = (P('member'),) + (P(),) * shared
    return jax.jit(
      jax.shard_map(lifted, mesh=self.mesh, in_specs=specs, out_specs=P('member'))
    )

  @functools.cached_property
  def _judge(self):
    judge = self.lift(lambda args: self.judge(*args), 0)
    return lambda params, batch: judge((params, batch))

  def make(self, eval_set: EvalSet):
    """(members, start) -> (batch, exists): a set's examples from `start` on."""
    known = tuple(dict.fromkeys(map(_recipe, self.sets)))
    recipe = _recipe(eval_set)
    recipes = known if recipe in known else (recipe,)
    branch = jnp.int32(recipes.index(recipe))
    program, count = self._maker(recipes), jnp.int32(eval_set.examples)
    return lambda members, start: program(members, start, branch, count)

  @functools.lru_cache(maxsize=64)  # noqa: B019 - an evaluator lives as long as a run
  def _maker(self, recipes: tuple[EvalSet, ...]):
    """(members, start, index of the recipe, examples) -> (batch, exists)."""

    def make(member, start, branch, count):
      i_B = start + jnp.arange(self.batch_size, dtype=jnp.int32)
      zero = 0 * member.rules_seed  # on a mesh, all branches must vary over members

      def vary(v):
        return v ^ (zero != 0) if v.dtype == bool else v + zero.astype(v.dtype)

      def ask_recipe(recipe):
        return lambda: jax.tree.map(
          lambda v: vary(jnp.asarray(v)), self._ask(member, recipe, i_B)
        )

      # Only the rules differ between sets; the branches share what is slow to compile.
      request = jax.lax.switch(branch, [ask_recipe(recipe) for recipe in recipes])
      return self.data.examples(member, request), request.exists_B & (i_B < count)

    return self.lift(make, 3)

  @functools.lru_cache(maxsize=2)  # noqa: B019 - an evaluator lives as long as a run
  def _training_hashes(self, count: int):
    """members -> hashes of the first `count` prompts of the training stream."""
    size = 4096

    def chunk(member, start):
      position_B = jnp.minimum(start + jnp.arange(size, dtype=jnp.int32), count - 1)
      return self.data.train_examples(member, position_B).prompt_hash_B2

    def hashes(member):
      starts = jnp.arange(0, count, size, dtype=jnp.int32)
      return jax.lax.map(lambda start: chunk(member, start), starts).reshape(-1, 2)

    return self.lift(hashes, 0)

  def batch(self, member: Member, eval_set: EvalSet, i_B) -> tuple[Batch, jax.Array]:
    """Examples i_B of a set, and whether each exists."""
    request = self._ask(member, eval_set, i_B)
    return self.data.examples(member, request), request.exists_B

  def _ask(self, member: Member, eval_set: EvalSet, i_B) -> Asked:
    total = self.data.plan.examples
    if eval_set.split == 'train':  # keeps the kinds that the examples had in training
      request = self.data.ask_by_index(member, i_B % total)
      return request._replace(exists_B=i_B < total)
    kind_B = self._kinds(member, eval_set, i_B)
    if eval_set.split == 'seen' and not eval_set.cell:
      return self.data.ask_seen(member, i_B, kind_B)
    part = Part.DEV if eval_set.split == 'dev' else Part.TEST
    return self.data.ask_held_out(member, part, i_B, kind_B, eval_set.cell)

  def _kinds(self, member, eval_set, i_B):
    if eval_set.kind != 'train':
      return self.data.task.kind(eval_set.kind, i_B)
    if not self.data.kinds:
      return jnp.zeros_like(i_B)
    n = eval_set.examples
    key = keys.key(member.order_seed, Purpose.MIX)
    place_B = jax.vmap(lambda i: keys.permute(key, i % n, n))(i_B)
    mix_K = jnp.round(member.mix_K * (n / self.data.plan.examples))
    return self.data.kind_at(mix_K, place_B)

  def judge(self, params, batch: Batch):
    """Per-example sums and counts of every metric, in float32."""
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
    ones_B = jnp.ones_like(batch.rule_B)
    sums = {
      'exact_match': (right_BA | ~live_BA).all(-1).astype(jnp.int32),
      'answer_nll': (nll_BA * live_BA).sum(-1),
      'y_accuracy': (right_BA & batch.inserted_BA).sum(-1),
      'copy_accuracy': (right_BA & copied_BA).sum(-1),
      'close_margin': close_BA.any(-1).astype(jnp.int32),
    }
    counts = {
      'exact_match': ones_B,
      'answer_nll': live_BA.sum(-1),
      'y_accuracy': batch.inserted_BA.sum(-1),
      'copy_accuracy': copied_BA.sum(-1),
      'close_margin': ones_B,
    }
    out = {'sums': sums, 'counts': counts}
    if self.data.task.noops:
      out['copied'] = self._copies(model, batch)
    return out

  def _copies(self, model, batch: Batch):
    """Whether the greedy output is the input unchanged, by forcing z as the answer."""
    task: Any = self.data.task  # a rewriting task: no others have no-ops
    start_B = batch.answer_BA[:, 0] + 1
    z_BZ = task.inputs(batch.tokens_BL, start_B)
    forced_BL, targets_BA = task.force(batch.tokens_BL, start_B, z_BZ)
    logits_BAV = model(forced_BL, answer_BA=batch.answer_BA)
    right_BA = logits_BAV.argmax(-1) == targets_BA
    beyond_A = jnp.arange(targets_BA.shape[1]) > z_BZ.shape[1]
    return (right_BA | beyond_A[None]).all(-1).astype(jnp.int32)


def _recipe(eval_set: EvalSet) -> EvalSet:
  """The part of a set that decides how its examples are made.

  The number of examples only matters for the training mix, which is spread over them.
  """
  examples = eval_set.examples if eval_set.kind == 'train' else 0
  return dataclasses.replace(eval_set, examples=examples, label='')


def _add_noop_rates(verdicts) -> None:
  """Adds the error rates on inputs without x (false_op) and with x (false_no_op)."""
  noop = verdicts['slices']['noop'].astype(np.int32)
  sums, counts = verdicts['sums'], verdicts['counts']
  sums['false_op'] = (1 - sums['exact_match']) * noop
  sums['false_no_op'] = verdicts['copied'] * (1 - noop)
  counts['false_op'], counts['false_no_op'] = noop, 1 - noop


def as_uint64(hash_N2) -> np.ndarray:
  """Two 32-bit halves -> 64-bit hashes."""
  words = np.asarray(hash_N2).astype(np.uint64)
  return (words[..., 0] << np.uint64(32)) | words[..., 1]
