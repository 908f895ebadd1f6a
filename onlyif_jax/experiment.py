"""Stored config -> Experiment: the one assembly of task, data, model and training.

Every entry point, test and notebook builds its parts here, so that training and
evaluation cannot drift apart.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
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

EXPLORE = 'explore'  # the reference of members that look for the step
EXPLORE_SEED = 1_000  # added to their seeds, so that no reported member has one


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
  variant: str = ''  # one of sweep.variants
  swept: tuple[tuple[str, Any], ...] = ()  # field -> value, where variants differ

  def columns(self) -> dict[str, Any]:
    """The columns that name the row in every table."""
    own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    fields = dict(own.pop('swept'))
    if not fields:
      del own['variant']
    return own | fields


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that a run's config decides, before any device is touched.

  One per variant of a sweep; those with equal `trainer` share compiled programs.
  """

  run: RunConfig  # the whole sweep's config
  variant: str
  config: RunConfig  # with the variant's settings
  task: Task  # with the settings that are traced
  data: Data
  model: GPT2Config

  def sibling(self, row: Row) -> 'Experiment':
    """The experiment of a row of the same sweep."""
    return self if row.variant == self.variant else build(self.run, row.variant)

  @property
  def trainer(self) -> Trainer:
    """The training step."""
    micro = self.run.stack.micro_batches
    return Trainer(self.data, self.model, self.config.optim, micro)

  def program(self, mesh, mode: str) -> parallel.StackProgram:
    """The stack's compiled functions on a mesh."""
    return parallel.StackProgram(self.trainer, mesh, mode)

  def evaluator(self, mesh) -> Evaluator:
    """The evaluation of a stack on a mesh."""
    e, task = self.config.eval, self.data.task
    loop = [plain_set(task, split, e.loop_examples) for split in IN_LOOP]
    sets = (*eval_sets(e, task), *loop)
    return Evaluator(self.data, self.model, e.batch_size, mesh, sets)

  def member(self, row: Row) -> Member:
    """The traced settings of a row of this variant."""
    kinds = {'infinite_rules', 'infinite_inputs', 'masked', 'permuted'}
    is_ = {kind: row.reference == kind for kind in kinds}
    return Member(
      rules_seed=jnp.int32(row.rules_seed),
      init_seed=jnp.int32(row.init_seed),
      order_seed=jnp.int32(row.order_seed),
      instructions=jnp.int32(row.instructions),
      learning_rate=jnp.float32(row.learning_rate),
      mix_K=jnp.asarray(self._mix(row), jnp.int32),
      fresh_rules=jnp.bool_(is_['infinite_rules']),
      fresh_inputs=jnp.bool_(is_['infinite_inputs']),
      mask_instruction=jnp.bool_(is_['masked']),
      permute_y=jnp.bool_(is_['permuted']),
      balance=jnp.bool_(self.config.data.balance),
      counts_R=jnp.asarray(self._counts(row), jnp.int32),
      setting={
        name: jnp.asarray(value)
        for name, value in self.setting(row.instructions).items()
      },
    )

  def setting(self, instructions: int) -> dict[str, np.ndarray]:
    """The task's traced settings of a member; ConfigError where it cannot be."""
    return _asked(self.task.setting, instructions)

  def members(self, rows: Sequence[Row]) -> Member:
    """The stacked members of several rows, which share a program."""
    return ensemble.stack([self.sibling(row).member(row) for row in rows])

  def rules_met(self, row: Row) -> int:
    """The number of rules with at least one training example."""
    positions = self.data.plan.steps * self.data.plan.batch_size
    if row.reference == 'infinite_rules':
      return positions
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

  def _mix(self, row: Row) -> np.ndarray:
    """Cumulated examples per kind of the task's mix."""
    n, mix = self.config.data.examples, self.task.mix(row.noop_share)
    if self.task.noops and len(mix) == 2:
      return np.array([round(mix[0][1] * n), n])
    shares = np.array([share for _, share in mix])
    return np.cumsum(distribution.integer_counts(shares, n)) if mix else shares

  def _counts(self, row: Row) -> np.ndarray:
    """Cumulated examples per rule, padded to the sweep's largest I; [] for equal."""
    if not _skewed(self.run):
      return np.zeros(0, np.int64)
    count, n = row.instructions, self.config.data.examples
    shares = _shares(self.config, self.task, count)
    if shares is None:
      shares = np.full(count, 1 / count)
    counts = distribution.integer_counts(shares, n)
    size = max(other.instructions for other in rows(self.run))
    return np.pad(np.cumsum(counts), (0, size - count), constant_values=n)


def _shares(config: RunConfig, task: Task, count: int) -> np.ndarray | None:
  """Shares of the rules 0..count-1 among the examples; None: all equal."""
  if config.data.alpha:
    return distribution.power_law(count, config.data.alpha)
  own = getattr(task, 'shares', None)  # a task may mix groups of rules
  return None if own is None else _asked(own, count)


def _asked(method, count: int):
  """What a task says of a number of rules; its ValueError is the config's fault."""
  try:
    return method(count)
  except ValueError as e:
    raise ConfigError(str(e)) from None


@functools.cache
def _skewed(config: RunConfig) -> bool:
  """Whether some member of a sweep has rules with unequal counts."""
  for text in config.sweep.variants or ('',):
    own = config_lib.variant(config, text)
    if _shares(own, tasks.make_task(own.task), max(own.sweep.counts)) is not None:
      return True
  return False


@functools.lru_cache(maxsize=256)
def build(config: RunConfig, variant: str | None = None) -> Experiment:
  """The experiment of a variant, the first one unless named; or ConfigError."""
  if variant is None:
    variant = config.sweep.variants[0] if config.sweep.variants else ''
  own = config_lib.variant(config, variant)
  task = tasks.make_task(own.task)
  static = task.static()
  space = tasks.make_space(static, own.rules)
  plan = Plan(own.data.examples, own.data.epochs, own.data.batch_size)
  model = GPT2Config(
    vocab_size=task.vocab_size,
    max_length=task.sequence_length,
    **dataclasses.asdict(own.model),
  )
  data = Data(static, space, plan)
  made = Experiment(config, variant, own, task, data, model)
  _check_capacity(made)
  return made


def rows(config: RunConfig) -> list[Row]:
  """The members of a sweep: references last, in a fixed order."""
  s = config.sweep
  out, variants = [], s.variants or ('',)
  swept = config
  if s.adaptive_width:
    out = _exploring(config, variants[0])
    own = dataclasses.replace(s, counts=s.reported)
    swept = dataclasses.replace(config, sweep=own)
  for pair in config_lib.parse_seeds(s.seeds):
    for variant in variants:
      out += _rows_of(swept, variant, pair)
  first = config.seed
  for name in s.references:
    count = 1 if name == 'one' else s.reference_count
    out.append(
      dataclasses.replace(
        _rows_of(config, variants[0], (0, 0))[0],
        **{'member': f'{name}-s0', 'reference': name, 'instructions': count},
        **{'seed': '0', 'rules_seed': first, 'init_seed': first, 'order_seed': first},
      )
    )
  return out


def _exploring(config: RunConfig, variant: str) -> list[Row]:
  """The members of an adaptive sweep that look for the step, round by round."""
  pattern = _rows_of(config, variant, (0, 0))[0]
  rounds = [(0, count) for count in config.sweep.counts]
  for text in config.sweep.explored:
    number, _, count = text.partition(':')
    rounds.append((int(number), int(count)))
  out = []
  for number, count in rounds:
    seed = config.seed + EXPLORE_SEED + number
    out.append(
      dataclasses.replace(
        pattern,
        **{'member': f'I{count}-{EXPLORE}{number}', 'reference': EXPLORE},
        **{'instructions': count, 'seed': str(EXPLORE_SEED + number)},
        **{'rules_seed': seed, 'init_seed': seed, 'order_seed': seed},
      )
    )
  return out


def _rows_of(config, variant, pair) -> list[Row]:
  """The rows of one variant and pair of seeds."""
  s, own = config.sweep, config_lib.variant(config, variant)
  rates = list(s.learning_rates) or [own.optim.learning_rate]
  seed = str(pair[0]) if 'x' not in s.seeds else f'{pair[0]}.{pair[1]}'
  seeds = (seed, config.seed + pair[0], config.seed + pair[1], config.seed + pair[1])
  swept = config_lib.swept_values(config, variant)
  named = ''.join(
    f'-{field.rpartition(".")[2]}{value}'
    for field, value in config_lib.parse_variant(config, variant).items()
    if field != 'sweep.counts'
  )
  named = re.sub(r'[^\w.+-]+', '+', named)
  out = []
  for share in s.noop_shares:
    for rate in rates:
      extra = named
      extra += f'-q{share:g}' if len(s.noop_shares) > 1 else ''
      extra += f'-lr{rate:g}' if len(rates) > 1 else ''
      out += [
        Row(
          f'I{i}{extra}-s{seed}',
          '',
          i,
          share,
          rate,
          *seeds,
          variant,
          tuple(swept.items()),
        )
        for i in own.sweep.counts
      ]
  return out


def _check_capacity(made: Experiment):
  config, space, plan = made.config, made.data.rules, made.data.plan
  largest, what = max(config.sweep.counts), space.description
  setting = made.setting(largest)
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
  endless = 'infinite_rules' in config.sweep.references
  if endless and space.pair_capacity() < positions:
    raise ConfigError(
      f"sweep.references has 'infinite_rules', which needs {positions} rules; "
      f'{what} has {space.pair_capacity()}. Leave it out'
    )
