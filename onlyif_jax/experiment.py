"""Stored config -> Experiment: the one assembly of task, data, model and training.

Every entry point, test and notebook builds its parts here, so that training and
evaluation cannot drift apart.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax import config as config_lib
from onlyif_jax import tasks
from onlyif_jax.config import ConfigError, RunConfig
from onlyif_jax.data import Data, Member, Plan
from onlyif_jax.evals.exact_match import Evaluator
from onlyif_jax.models.gpt2 import GPT2Config
from onlyif_jax.tasks import distribution
from onlyif_jax.tasks.rules import Part
from onlyif_jax.training import ensemble, parallel
from onlyif_jax.training.step import Trainer


@dataclasses.dataclass(frozen=True)
class Row:
  """One member of a sweep, in words: the columns of every table."""

  member: str
  reference: str  # '' for a member of the sweep, else which reference it is
  instructions: int
  noop_share: float
  learning_rate: float
  seed: str  # '0', or 'rules.rest'
  rules_seed: int
  init_seed: int
  order_seed: int


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that a run's config decides, before any device is touched."""

  config: RunConfig
  data: Data
  model: GPT2Config

  @property
  def trainer(self) -> Trainer:
    """The training step."""
    return Trainer(self.data, self.model, self.config.optim)

  def program(self, mesh, mode: str) -> parallel.StackProgram:
    """The stack's compiled functions on a mesh."""
    return parallel.StackProgram(self.trainer, mesh, mode)

  def evaluator(self, mesh) -> Evaluator:
    """The evaluation of a stack on a mesh."""
    return Evaluator(self.data, self.model, self.config.eval.batch_size, mesh)

  def member(self, row: Row) -> Member:
    """The traced settings of a row."""
    n = self.config.data.examples
    kinds = {'infinite_rules', 'infinite_inputs', 'masked', 'permuted'}
    is_ = {kind: row.reference == kind for kind in kinds}
    return Member(
      rules_seed=jnp.int32(row.rules_seed),
      init_seed=jnp.int32(row.init_seed),
      order_seed=jnp.int32(row.order_seed),
      instructions=jnp.int32(row.instructions),
      learning_rate=jnp.float32(row.learning_rate),
      noops=jnp.int32(round(row.noop_share * n)),
      fresh_rules=jnp.bool_(is_['infinite_rules']),
      fresh_inputs=jnp.bool_(is_['infinite_inputs']),
      mask_instruction=jnp.bool_(is_['masked']),
      permute_y=jnp.bool_(is_['permuted']),
      counts_R=jnp.asarray(self._counts(row), jnp.int32),
    )

  def members(self, rows: Sequence[Row]) -> Member:
    """The stacked members of several rows."""
    return ensemble.stack([self.member(row) for row in rows])

  def rules_met(self, row: Row) -> int:
    """The number of rules with at least one training example."""
    positions = self.data.plan.steps * self.data.plan.batch_size
    if row.reference == 'infinite_rules':
      return positions
    if self.config.data.alpha:
      return int((np.diff(self._counts(row), prepend=0) > 0).sum())
    return min(row.instructions, self.config.data.examples)

  @functools.cached_property
  def parameters(self) -> int:
    """The number of trained parameters."""
    first = rows(self.config)[0]
    state = jax.eval_shape(self.trainer.init, self.member(first))
    return sum(leaf.size for leaf in jax.tree.leaves(state['params']))

  @property
  def tokens(self) -> int:
    """Token positions in a member's training."""
    plan = self.data.plan
    return plan.steps * plan.batch_size * self.data.task.sequence_length

  @property
  def flops(self) -> float:
    """Floating-point operations of a member's training, as really done.

    Matmuls only, backward twice the forward: the last layer's queries, output
    and MLP and the head run at answer positions alone.
    """
    m, task = self.model, self.data.task
    d, length, answer = m.width, task.sequence_length, task.answer_length

    def layer(queries):
      kv, rest = 2 * length * 2 * d * d, 2 * queries * 10 * d * d
      return kv + rest + 4 * queries * length * d

    forward = (m.layers - 1) * layer(length) + layer(answer)
    forward += 2 * answer * d * m.vocab_size
    plan = self.data.plan
    return 3.0 * forward * plan.steps * plan.batch_size

  def _counts(self, row: Row) -> np.ndarray:
    """Cumulated examples per rule, padded to the sweep's largest I."""
    alpha = self.config.data.alpha
    if not alpha:
      return np.zeros(0, np.int64)
    shares = distribution.power_law(row.instructions, alpha)
    n = self.config.data.examples
    counts = distribution.integer_counts(shares, n)
    size = max(other.instructions for other in rows(self.config))
    return np.pad(np.cumsum(counts), (0, size - row.instructions), constant_values=n)


def build(config: RunConfig) -> Experiment:
  """The experiment of a checked config; ConfigError where it cannot exist."""
  task = tasks.make_task(config.task)
  rules = tasks.make_rules(config.task, config.rules)
  data = config.data
  plan = Plan(data.examples, data.epochs, data.batch_size)
  model = GPT2Config(
    vocab_size=task.vocab_size,
    max_length=task.sequence_length,
    **dataclasses.asdict(config.model),
  )
  _check_capacity(config, rules, plan)
  return Experiment(config, Data(task, rules, plan), model)


def rows(config: RunConfig) -> list[Row]:
  """The members of a sweep: references last, in a fixed order."""
  s = config.sweep
  shares = list(s.noop_shares)
  rates = list(s.learning_rates) or [config.optim.learning_rate]
  out = []
  for pair in config_lib.parse_seeds(s.seeds):
    seed = str(pair[0]) if 'x' not in s.seeds else f'{pair[0]}.{pair[1]}'
    seeds = (seed, config.seed + pair[0], config.seed + pair[1], config.seed + pair[1])
    for share in shares:
      for rate in rates:
        extra = (f'-q{share:g}' if len(shares) > 1 else '') + (
          f'-lr{rate:g}' if len(rates) > 1 else ''
        )
        out += [
          Row(f'I{i}{extra}-s{seed}', '', i, share, rate, *seeds) for i in s.counts
        ]
  first = config.seed
  for name in s.references:
    count = 1 if name == 'one' else s.reference_count
    seeds = ('0', first, first, first)
    out.append(Row(f'{name}-s0', name, count, shares[0], rates[0], *seeds))
  return out


def _check_capacity(config, rules, plan):
  capacity, largest = rules.capacity(), max(config.sweep.counts)
  t = config.task
  what = f'|x|={t.x_min}-{t.x_max}, |y|={t.y_min}-{t.y_max} over {t.alphabet} letters'
  if largest > capacity:
    raise ConfigError(
      f'sweep.counts has {largest} instructions; {what} with '
      f'rules.distinct={config.rules.distinct} has {capacity} training rules. '
      'Lower the count, lengthen the patterns, or set rules.distinct=pairs'
    )
  for part in (Part.DEV, Part.TEST):
    if rules.capacity(part) < 2:
      raise ConfigError(
        f'{what} leaves {rules.capacity(part)} {part.name.lower()} rules; raise '
        f'rules.{part.name.lower()}_fraction or lengthen the patterns'
      )
  positions = plan.steps * plan.batch_size
  endless = 'infinite_rules' in config.sweep.references
  if endless and rules.pair_capacity() < positions:
    raise ConfigError(
      f"sweep.references has 'infinite_rules', which needs {positions} rules; "
      f'{what} has {rules.pair_capacity()}. Leave it out'
    )
