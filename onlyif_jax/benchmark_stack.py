"""Times a stack of members as it trains: the whole loop, its parts, and compiling."""

import contextlib
import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import PartitionSpec as P

from onlyif_jax import experiment as experiment_lib
from onlyif_jax.config import RunConfig, StackConfig
from onlyif_jax.data import Batch, Member
from onlyif_jax.evals.exact_match import plain_set
from onlyif_jax.experiment import Experiment
from onlyif_jax.training import ensemble, parallel

TURNS = 5  # at least so many timed dispatches, where they are short
HASHED = 2**14  # training prompts whose hashing is timed
MATMUL = 2048  # rows of the square matmul that is a CPU's yardstick


@dataclasses.dataclass(frozen=True)
class Timed:
  """Dispatches that were timed: the units of work in each, and its seconds."""

  units: tuple[float, ...]
  seconds: tuple[float, ...]

  @property
  def rate(self) -> float:
    """Units per second, the median over the dispatches."""
    return statistics.median(
      u / s for u, s in zip(self.units, self.seconds, strict=True)
    )

  def columns(self) -> dict[str, Any]:
    """Rate and raw timings, for JSON."""
    return {
      'per_s': self.rate,
      'units': list(self.units),
      'seconds': [round(s, 6) for s in self.seconds],
    }


def clock(call: Callable[[int], Any], unit: float, seconds: float, most: int) -> Timed:
  """Times call(n) for so many seconds, n times `unit` of work each, n <= most.

  Before that, call is run twice: it may compile, and its speed decides n.
  """
  call(1)
  one = wall(call, 1)
  n = max(1, min(most, int(seconds / TURNS / one)))
  taken = [one] if n == 1 else []
  while not taken or sum(taken) < seconds:
    taken.append(wall(call, n))
  return Timed((n * unit,) * len(taken), tuple(taken))


def wall(call, *args) -> float:
  """Seconds until what a call returns is there."""
  began = time.perf_counter()
  jax.block_until_ready(call(*args))
  return time.perf_counter() - began


@contextlib.contextmanager
def compiling_anew():
  """Inside, nothing that was compiled before is found again, in memory or on disk."""
  name = 'jax_enable_compilation_cache'
  before = getattr(jax.config, name)
  jax.clear_caches()
  jax.config.update(name, False)
  compilation_cache.reset_cache()  # it looks at the setting once
  try:
    yield
  finally:
    jax.config.update(name, before)
    compilation_cache.reset_cache()


@dataclasses.dataclass(frozen=True)
class StackBench:
  """A stack of a config whose `stack` is filled in."""

  config: RunConfig

  @functools.cached_property
  def experiment(self) -> Experiment:
    """Of the first variant."""
    return experiment_lib.build(self.config)

  @property
  def stack(self) -> StackConfig:
    """How members are stacked."""
    return self.config.stack

  @functools.cached_property
  def mesh(self):
    """The devices in use."""
    return parallel.make_mesh(self.stack.member_devices, self.stack.data_devices)

  @functools.cached_property
  def program(self) -> parallel.StackProgram:
    """What trains the stack."""
    return self.experiment.program(self.mesh, self.stack.mode)

  @functools.cached_property
  def members(self) -> Member:
    """The sweep's first members, repeated where the stack is wider."""
    return self._members(self.experiment)

  def _members(self, experiment: Experiment) -> Member:
    rows = experiment_lib.rows(experiment.run)
    rows = [row for row in rows if row.variant == experiment.variant]
    rows = rows * math.ceil(self.stack.members / len(rows))
    members = experiment.members(rows[: self.stack.members])
    return jax.device_put(members, self.program.sharding)

  @property
  def per_step(self) -> int:
    """Examples in one step of the whole stack."""
    return self.experiment.data.plan.batch_size * self.stack.members

  @functools.cached_property
  def compiled(self) -> tuple[Any, dict[str, Any]]:
    """(the training function, what compiling it took: seconds and bytes)."""
    with compiling_anew():
      if self.stack.mode == 'serial':
        state = self.program.init(self.members)
        seconds = wall(self.program.train, self.members, state, jnp.int32(0))
        return self.program.train, {'seconds': seconds}
      shapes = jax.tree.map(
        lambda v: jax.ShapeDtypeStruct(
          v.shape, v.dtype, sharding=self.program.sharding
        ),
        jax.eval_shape(self.program.init, self.members),
      )
      train: Any = self.program.train
      began = time.perf_counter()
      lowered = train.lower(self.members, shapes, jnp.int32(1))
      traced = time.perf_counter()
      compiled = lowered.compile()
      ended = time.perf_counter()
    found = {'seconds': ended - began, 'tracing_seconds': traced - began}
    if stats := compiled.memory_analysis():
      found['argument_bytes'] = stats.argument_size_in_bytes
      found['temporary_bytes'] = stats.temp_size_in_bytes
    return compiled, found

  @functools.cached_property
  def training(self) -> 'Training':
    """The state of the members, which goes on from call to call."""
    return Training(self)

  def whole_loop(self, seconds: float) -> Timed:
    """Training as it is, data included; units are examples, summed over members."""
    return clock(self.training.run, self.per_step, seconds, self.stack.chunk)

  def generation(self, seconds: float) -> tuple[Timed, list[int]]:
    """The batches alone: (examples, the checksum of each member's first batch)."""
    generate = self.generator()
    first = jax.device_get(generate(self.members, jnp.int32(0), jnp.int32(1)))
    done = 0

    def run(n):
      nonlocal done
      done += n
      return generate(self.members, jnp.int32(done - n), jnp.int32(done))

    most = 100 * self.stack.chunk
    return clock(run, self.per_step, seconds, most), [int(v) for v in first]

  def generator(self):
    """jit of (members, from, to) -> a checksum of the batches of these steps, [M]."""
    data, parts = self.experiment.data, self.mesh.shape['data']
    size = data.plan.batch_size // parts

    def generate(member, start, stop):
      shift = size * lax.axis_index('data') if parts > 1 else 0

      def add(step, total):
        first = step * data.plan.batch_size + shift
        batch = data.train_examples(member, first + jnp.arange(size, dtype=jnp.int32))
        return total + checksum(batch)

      zero = (0 * (member.order_seed + shift)).astype(jnp.uint32)
      total = lax.fori_loop(start, stop, add, zero)
      return lax.psum(total, 'data') if parts > 1 else total

    mode = 'map' if self.stack.mode == 'serial' else self.stack.mode
    specs = (P('member'), P(), P())
    lifted = ensemble.lift(generate, mode)
    return jax.jit(
      jax.shard_map(lifted, mesh=self.mesh, in_specs=specs, out_specs=P('member'))
    )

  def evaluation(self, seconds: float, rate: float) -> dict[str, Any]:
    """Verdicts on unseen rules, and hashes of training prompts; examples/s.

    rate: examples/s in training, from which follows how many fit into the seconds.
    The hashes are of a training set cut to HASHED examples: they take as long each.
    """
    config = self.config
    count = max(config.data.batch_size, min(config.data.examples, HASHED))
    data = dataclasses.replace(config.data, examples=count, epochs=1.0)
    experiment = experiment_lib.build(dataclasses.replace(config, data=data))
    members, evaluator = self._members(experiment), experiment.evaluator(self.mesh)
    size = evaluator.batch_size
    batches = int(3 * rate * seconds / TURNS / self.stack.members / size)
    examples = size * max(1, min(batches, config.eval.examples // size))
    chosen = plain_set(experiment.data.task, 'unseen', examples)
    params = self.training.state['params']
    with compiling_anew():
      began = time.perf_counter()
      prompts = evaluator.training_prompts(members)
      hashed = time.perf_counter()
      evaluator.verdicts(params, members, chosen, prompts)
      both = hashed - began, time.perf_counter() - hashed
      hashing = clock(
        lambda _: evaluator.training_prompts(members),
        *(self.stack.members * count, seconds / TURNS, 1),
      )
      timed = clock(
        lambda _: evaluator.verdicts(params, members, chosen, prompts),
        *(self.stack.members * examples, seconds, 1),
      )
    return {
      'verdicts': timed,
      'hashing': hashing,
      'examples': examples,
      'compile_seconds': max(0.0, both[1] - timed.seconds[0]),
      'hashing_compile_seconds': max(0.0, both[0] - hashing.seconds[0]),
    }


class Training:
  """Members in training."""

  def __init__(self, bench: StackBench):
    self.members = bench.members
    self.train = bench.compiled[0]
    self.state = bench.program.init(self.members)

  def run(self, steps: int) -> None:
    """Trains on, and waits for it."""
    self.state, sums = self.train(self.members, self.state, jnp.int32(steps))
    jax.block_until_ready((self.state, sums))


def checksum(batch: Batch):
  """A number that changes with whatever training reads of a batch, uint32."""
  read = (batch.tokens_BL, batch.answer_BA, batch.targets_BA, batch.weights_BA)
  total = jnp.uint32(0)
  for n, field in enumerate(read):
    weight = 2 * jnp.arange(field.shape[1], dtype=jnp.uint32)[None] + 2 * n + 1
    total += (field.astype(jnp.uint32) * weight).sum(dtype=jnp.uint32)
  return total


def matmul_rate(devices, seconds: float = 1.0, size: int = MATMUL) -> float:
  """FLOP/s of a bare float32 matmul, on one device or on all at once, the best."""
  multiply = jax.jit(jnp.matmul)
  a = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
  best = 0.0
  for chosen in ([devices[0]], list(devices)):
    factors = [jax.device_put(a, device) for device in chosen]
    run = functools.partial(_multiply, multiply, factors)
    timed = clock(lambda n, run=run: [run() for _ in range(n)], 1, seconds / 2, 1)
    best = max(best, len(chosen) * 2 * size**3 / min(timed.seconds))
  return best


def _multiply(multiply, factors):
  return [multiply(a, a) for a in factors]
