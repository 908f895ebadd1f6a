"""Stored config -> Experiment: the one assembly of task, data, model and training.

Every entry point, test and notebook builds its parts here, so training and evaluation
cannot drift apart.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax import config as config_lib
from onlyif_jax import tasks
from onlyif_jax.config import ConfigError, RunConfig
from onlyif_jax.data import Data, Member, Plan
from onlyif_jax.evals.exact_match import IN_LOOP, Evaluator, eval_sets, plain_set
from onlyif_jax.models.gpt2 import GPT2Config
from onlyif_jax.tasks import distribution
from onlyif_jax.tasks.contract import Task
from onlyif_jax.tasks.rules import Part
from onlyif_jax.training import ensemble, parallel
from onlyif_jax.training.step import Trainer

EXPLORE = 'explore'  # the `reference` of members that search for the transition
EXPLORE_SEED = 1_000  # offset of their seeds, which no reported member uses


@dataclasses.dataclass(frozen=True)
class Row:
  """One member of a sweep, as the columns that identify it in every table."""

  member: str
  reference: str  # '' for a member of the sweep, else the name of the reference
  instructions: int
  noop_share: float
  learning_rate: float
  seed: str  # '0', or 'rules.rest'
  rules_seed: int
  init_seed: int
  order_seed: int
  variant: str = ''  # one of sweep.variants
  swept: tuple[tuple[str, Any], ...] = ()  # (field, value) where variants differ

  def columns(self) -> dict[str, Any]:
    """The identifying columns; those of variants only in a sweep with variants."""
    columns = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    swept = dict(columns.pop('swept'))
    if not swept:
      del columns['variant']
    return columns | swept


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that a run's config determines, before any device is touched.

  There is one per variant of a sweep; those with equal `trainer` share compiled
  programs.
  """

  run: RunConfig  # of the whole sweep
  variant: str
  config: RunConfig  # with the variant's settings applied
  task: Task  # including its traced settings
  data: Data
  model: GPT2Config

  def sibling(self, row: Row) -> 'Experiment':
    """The experiment of another row of the same sweep."""
    return self if row.variant == self.variant else build(self.run, row.variant)

  @property
  def trainer(self) -> Trainer:
    """The training step."""
    micro = self.run.stack.micro_batches
    return Trainer(self.data, self.model, self.config.optim, micro)

  def program(self, mesh, mode: str) -> parallel.StackProgram:
    """The compiled functions of a stack on a mesh; mode: map, vmap or serial."""
    return parallel.StackProgram(self.trainer, mesh, mode)

  def evaluator(self, mesh) -> Evaluator:
    """The evaluation of a stack on a mesh, final and in-loop sets alike."""
    config, task = self.config.eval, self.data.task
    in_loop = [plain_set(task, split, config.loop_examples) for split in IN_LOOP]
    sets = (*eval_sets(config, task), *in_loop)
    return Evaluator(self.data, self.model, config.batch_size, mesh, sets)

  def member(self, row: Row) -> Member:
    """The traced settings of a row of this variant."""
    return Member(
      rules_seed=jnp.int32(row.rules_seed),
      init_seed=jnp.int32(row.init_seed),
      order_seed=jnp.int32(row.order_seed),
      instructions=jnp.int32(row.instructions),
      learning_rate=jnp.float32(row.learning_rate),
      mix_K=jnp.asarray(self._mix(row), jnp.int32),
      fresh_rules=jnp.bool_(row.reference == 'infinite_rules'),
      fresh_inputs=jnp.bool_(row.reference == 'infinite_inputs'),
      mask_instruction=jnp.bool_(row.reference == 'masked'),
      permute_y=jnp.bool_(row.reference == 'permuted'),
      balance=jnp.bool_(self.config.data.balance),
      counts_R=jnp.asarray(self._counts(row), jnp.int32),
      setting={
        name: jnp.asarray(value)
        for name, value in self.setting(row.instructions).items()
      },
    )

  def setting(self, instructions: int) -> dict[str, np.ndarray]:
    """The task's traced settings for I instructions; raises ConfigError."""
    return _call_task(self.task.setting, instructions)

  def first_members(self, count: int) -> Member:
    """`count` stacked members of this variant, repeated as needed: for timing."""
    own = [row for row in rows(self.run) if row.variant == self.variant]
    return self.members([own[n % len(own)] for n in range(count)])

  def members(self, rows: Sequence[Row]) -> Member:
    """The stacked members of rows that share a program."""
    return ensemble.stack([self.sibling(row).member(row) for row in rows])

  def rules_met(self, row: Row) -> int:
    """The number of rules with at least one training example."""
    if row.reference == 'infinite_rules':
      return self.data.plan.steps * self.data.plan.batch_size
    counts = self._counts(row)
    if counts.size:
      return int((np.diff(counts, prepend=0) > 0).sum())
    return min(row.instructions, self.config.data.examples)

  @functools.cached_property
  def parameters(self) -> int:
    """The number of trained parameters."""
    first = next(row for row in rows(self.run) if row.variant == self.variant)
    state = jax.eval_shape(self.trainer.init, self.member(first))
    return sum(leaf.size for leaf in jax.tree.leaves(state['params']))

  @property
  def tokens(self) -> int:
    """Token positions, padding included, in the training of one member."""
    plan = self.data.plan
    return plan.steps * plan.batch_size * self.data.task.sequence_length

  @property
  def flops(self) -> float:
    """Floating-point operations that the training of one member executes.

    Counts matmuls, with the backward pass as twice the forward pass. Queries, output
    projection and MLP of the last layer, and the head, run at answer positions only.
    """
    model, task, plan = self.model, self.data.task, self.data.plan
    d, length, answer = model.width, task.sequence_length, task.answer_length

    def layer(queries):
      kv, rest = 2 * length * 2 * d * d, 2 * queries * 10 * d * d
      return kv + rest + 4 * queries * length * d

    forward = (model.layers - 1) * layer(length) + layer(answer)
    forward += 2 * answer * d * model.vocab_size
    return 3.0 * forward * plan.steps * plan.batch_size

  def _mix(self, row: Row) -> np.ndarray:
    """Cumulative number of examples by kind of the task's mix, [K]."""
    n, mix = self.config.data.examples, self.task.mix(row.noop_share)
    if self.task.noops and len(mix) == 2:
      return np.array([round(mix[0][1] * n), n])
    shares = np.array([share for _, share in mix])
    return np.cumsum(distribution.integer_counts(shares, n)) if mix else shares

  def _counts(self, row: Row) -> np.ndarray:
    """Cumulative number of examples by rule, [R], padded to the sweep's largest I.

    Empty where every rule of the sweep has the same number.
    """
    if not _skewed(self.run):
      return np.zeros(0, np.int64)
    rules, n = row.instructions, self.config.data.examples
    shares = _rule_shares(self.config, self.task, rules)
    if shares is None:
      shares = np.full(rules, 1 / rules)
    counts = distribution.integer_counts(shares, n)
    size = max(other.instructions for other in rows(self.run))
    return np.pad(np.cumsum(counts), (0, size - rules), constant_values=n)


def _rule_shares(config: RunConfig, task: Task, rules: int) -> np.ndarray | None:
  """Share of the examples by rule, [R]; None where all are equal."""
  if config.data.alpha:
    return distribution.power_law(rules, config.data.alpha)
  shares = getattr(task, 'shares', None)  # a task may mix groups of rules
  return None if shares is None else _call_task(shares, rules)


def _call_task(method, count: int):
  """Calls a task's method of a number of rules; its ValueError is a ConfigError."""
  try:
    return method(count)
  except ValueError as e:
    raise ConfigError(str(e)) from None


@functools.cache
def _skewed(config: RunConfig) -> bool:
  """Whether any member of a sweep has rules with unequal counts."""
  for variant in config.sweep.variants or ('',):
    varied = config_lib.variant(config, variant)
    task, rules = tasks.make_task(varied.task), max(varied.sweep.counts)
    if _rule_shares(varied, task, rules) is not None:
      return True
  return False


@functools.lru_cache(maxsize=256)
def build(config: RunConfig, variant: str | None = None) -> Experiment:
  """The experiment of a variant, by default the first one; raises ConfigError."""
  if variant is None:
    variant = config.sweep.variants[0] if config.sweep.variants else ''
  varied = config_lib.variant(config, variant)
  task = tasks.make_task(varied.task)
  static = task.static()
  space = tasks.make_space(static, varied.rules)
  plan = Plan(varied.data.examples, varied.data.epochs, varied.data.batch_size)
  model = GPT2Config(
    vocab_size=task.vocab_size,
    max_length=task.sequence_length,
    **dataclasses.asdict(varied.model),
  )
  data = Data(static, space, plan)
  experiment = Experiment(config, variant, varied, task, data, model)
  _check_capacity(experiment)
  return experiment


def rows(config: RunConfig) -> list[Row]:
  """The members of a sweep in a fixed order, references last."""
  sweep = config.sweep
  variants = sweep.variants or ('',)
  out, reported = [], config
  if sweep.adaptive_width:
    out = _exploring_rows(config, variants[0])
    fixed = dataclasses.replace(sweep, counts=sweep.reported)
    reported = dataclasses.replace(config, sweep=fixed)
  for seeds in config_lib.parse_seeds(sweep.seeds):
    for variant in variants:
      out += _variant_rows(reported, variant, seeds)
  seed = config.seed
  for name in sweep.references:
    template = _variant_rows(config, variants[0], (0, 0))[0]
    out.append(
      dataclasses.replace(
        template,
        member=f'{name}-s0',
        reference=name,
        instructions=1 if name == 'one' else sweep.reference_count,
        seed='0',
        rules_seed=seed,
        init_seed=seed,
        order_seed=seed,
      )
    )
  return out


def _exploring_rows(config: RunConfig, variant: str) -> list[Row]:
  """The members of an adaptive sweep that search for the transition, by round."""
  template = _variant_rows(config, variant, (0, 0))[0]
  placed = [(0, count) for count in config.sweep.counts]
  for text in config.sweep.explored:
    number, _, count = text.partition(':')
    placed.append((int(number), int(count)))
  out = []
  for number, count in placed:
    seed = config.seed + EXPLORE_SEED + number
    out.append(
      dataclasses.replace(
        template,
        member=f'I{count}-{EXPLORE}{number}',
        reference=EXPLORE,
        instructions=count,
        seed=str(EXPLORE_SEED + number),
        rules_seed=seed,
        init_seed=seed,
        order_seed=seed,
      )
    )
  return out


def name_suffix(changes: Mapping[str, Any]) -> str:
  """Changed settings as the end of a name.

  >>> name_suffix({'task.alphabet': 13, 'optim.name': 'adamw'})
  '-alphabet13-nameadamw'
  """
  parts = [f'-{field.rpartition(".")[2]}{value}' for field, value in changes.items()]
  return re.sub(r'[^\w.+-]+', '+', ''.join(parts))


def _variant_rows(config: RunConfig, variant: str, seeds: tuple[int, int]) -> list[Row]:
  """The rows of one variant; seeds: of its rules, and of all else."""
  sweep, varied = config.sweep, config_lib.variant(config, variant)
  rates = list(sweep.learning_rates) or [varied.optim.learning_rate]
  rules_seed, other_seed = seeds
  seed = f'{rules_seed}.{other_seed}' if 'x' in sweep.seeds else str(rules_seed)
  changes = config_lib.parse_variant(config, variant)
  changes.pop('sweep.counts', None)
  suffix = name_suffix(changes)
  swept = tuple(config_lib.swept_values(config, variant).items())
  out = []
  for share, rate in itertools.product(sweep.noop_shares, rates):
    name = suffix
    name += f'-q{share:g}' if len(sweep.noop_shares) > 1 else ''
    name += f'-lr{rate:g}' if len(rates) > 1 else ''
    out += [
      Row(
        member=f'I{count}{name}-s{seed}',
        reference='',
        instructions=count,
        noop_share=share,
        learning_rate=rate,
        seed=seed,
        rules_seed=config.seed + rules_seed,
        init_seed=config.seed + other_seed,
        order_seed=config.seed + other_seed,
        variant=variant,
        swept=swept,
      )
      for count in varied.sweep.counts
    ]
  return out


def _check_capacity(experiment: Experiment) -> None:
  """Raises ConfigError where the task has too few rules for the sweep."""
  config, data = experiment.config, experiment.data
  space, plan = data.rules, data.plan
  largest, what = max(config.sweep.counts), space.description
  setting = experiment.setting(largest)
  capacity = space.capacity(Part.TRAIN, setting)
  if largest > capacity:
    more = getattr(space, 'remedy', 'or widen what the task makes its rules of')
    raise ConfigError(
      f'sweep.counts has {largest} instructions; {what} has {capacity} training '
      f'rules. Lower the count, {more}'
    )
  for part in (Part.DEV, Part.TEST):
    held_out = space.capacity(part, setting)
    if held_out < 2:
      low = part.name.lower()
      raise ConfigError(
        f'{what} leaves {held_out} {low} rules; raise '
        f'rules.{low}_fraction, or allow more rules'
      )
  positions = plan.steps * plan.batch_size
  unbounded = 'infinite_rules' in config.sweep.references
  if unbounded and space.pair_capacity() < positions:
    raise ConfigError(
      f"sweep.references has 'infinite_rules', which needs {positions} rules; "
      f'{what} has {space.pair_capacity()}. Leave it out'
    )
