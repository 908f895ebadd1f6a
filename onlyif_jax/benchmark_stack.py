"""Times a stack of members: the training loop, its parts, evaluation, compiling."""

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator
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

TURNS = 5  # timed dispatches to aim at
HASHED = 2**14  # training prompts whose hashing is timed
MATMUL = 2048  # rows of the square matmul that gives a CPU's peak


@dataclasses.dataclass(frozen=True)
class Timed:
  """Timed dispatches: the units of work in each, and its seconds."""

  units: tuple[float, ...]
  seconds: tuple[float, ...]

  @property
  def rate(self) -> float:
    """Units per second: the median over the dispatches."""
    pairs = zip(self.units, self.seconds, strict=True)
    return statistics.median(units / seconds for units, seconds in pairs)

  def columns(self) -> dict[str, Any]:
    """Rate and raw timings, for JSON."""
    return {
      'per_s': self.rate,
      'units': list(self.units),
      'seconds': [round(s, 6) for s in self.seconds],
    }


def clock(call: Callable[[int], Any], unit: float, seconds: float, most: int) -> Timed:
  """Times call(n), which does n times `unit` of work, again and again for `seconds`.

  Two calls come first, one that may compile and one whose speed decides n <= most.
  """
  call(1)
  first = wall(call, 1)
  n = max(1, min(most, int(seconds / TURNS / first)))
  times = [first] if n == 1 else []
  while not times or sum(times) < seconds:
    times.append(wall(call, n))
  return Timed((n * unit,) * len(times), tuple(times))


def wall(call: Callable[..., Any], *args: Any) -> float:
  """Seconds until the arrays that a call returns are ready."""
  began = time.perf_counter()
  jax.block_until_ready(call(*args))
  return time.perf_counter() - began


@contextlib.contextmanager
def compiling_anew() -> Iterator[None]:
  """Makes everything compile anew: no cache in memory or on disk is used inside."""
  name = 'jax_enable_compilation_cache'
  before = getattr(jax.config, name)
  jax.clear_caches()
  jax.config.update(name, False)
  compilation_cache.reset_cache()  # it reads the setting only once
  try:
    yield
  finally:
    jax.config.update(name, before)
    compilation_cache.reset_cache()


@dataclasses.dataclass(frozen=True)
class StackBench:
  """A stack under measurement; the config's stack settings must be resolved."""

  config: RunConfig

  @functools.cached_property
  def experiment(self) -> Experiment:
    """The experiment of the first variant."""
    return experiment_lib.build(self.config)

  @property
  def stack(self) -> StackConfig:
    """The stack settings."""
    return self.config.stack

  @functools.cached_property
  def mesh(self) -> jax.sharding.Mesh:
    """The devices in use."""
    return parallel.make_mesh(self.stack.member_devices, self.stack.data_devices)

  @functools.cached_property
  def program(self) -> parallel.StackProgram:
    """The training functions of the stack."""
    return self.experiment.program(self.mesh, self.stack.mode)

  @functools.cached_property
  def members(self) -> Member:
    """The sweep's first members, repeated where the stack is wider."""
    return self._place_members(self.experiment)

  def _place_members(self, experiment: Experiment) -> Member:
    members = experiment.first_members(self.stack.members)
    return jax.device_put(members, self.program.sharding)

  @property
  def per_step(self) -> int:
    """Examples in one step of the whole stack."""
    return self.experiment.data.plan.batch_size * self.stack.members

  @functools.cached_property
  def compiled(self) -> tuple[Any, dict[str, Any]]:
    """(compiled training function, seconds and bytes that compiling it took)."""
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
    stats = {'seconds': ended - began, 'tracing_seconds': traced - began}
    if memory := compiled.memory_analysis():
      stats['argument_bytes'] = memory.argument_size_in_bytes
      stats['temporary_bytes'] = memory.temp_size_in_bytes
    return compiled, stats

  @functools.cached_property
  def training(self) -> 'Training':
    """The members in training; their state carries over from call to call."""
    return Training(self)

  def whole_loop(self, seconds: float) -> Timed:
    """Times training, data included; units: examples, summed over members."""
    return clock(self.training.run, self.per_step, seconds, self.stack.chunk)

  def generation(self, seconds: float) -> tuple[Timed, list[int]]:
    """Times the making of batches alone; also the checksum of each first batch."""
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
    """jit of (members, start, stop) -> checksums_M of the batches of these steps."""
    data, parts = self.experiment.data, self.mesh.shape['data']
    size = data.plan.batch_size // parts  # on one device

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
    """Times verdicts on unseen rules, and hashes of training prompts, in examples/s.

    rate: of training, in examples/s, to choose how many examples fit into `seconds`.
    The training set is cut to HASHED examples, as hashing takes as long for each.
    """
    config = self.config
    count = max(config.data.batch_size, min(config.data.examples, HASHED))
    data = dataclasses.replace(config.data, examples=count, epochs=1.0)
    experiment = experiment_lib.build(dataclasses.replace(config, data=data))
    members = self._place_members(experiment)
    evaluator = experiment.evaluator(self.mesh)
    size = evaluator.batch_size
    batches = int(3 * rate * seconds / TURNS / self.stack.members / size)
    examples = size * max(1, min(batches, config.eval.examples // size))
    unseen = plain_set(experiment.data.task, 'unseen', examples)
    params = self.training.state['params']
    with compiling_anew():
      began = time.perf_counter()
      prompts = evaluator.training_prompts(members)
      hashed = time.perf_counter()
      evaluator.verdicts(params, members, unseen, prompts)
      first_hashing, first_verdicts = hashed - began, time.perf_counter() - hashed
      hashing = clock(
        lambda _: evaluator.training_prompts(members),
        self.stack.members * count,
        seconds / TURNS,
        most=1,
      )
      verdicts = clock(
        lambda _: evaluator.verdicts(params, members, unseen, prompts),
        self.stack.members * examples,
        seconds,
        most=1,
      )
    return {
      'verdicts': verdicts,
      'hashing': hashing,
      'examples': examples,
      'compile_seconds': max(0.0, first_verdicts - verdicts.seconds[0]),
      'hashing_compile_seconds': max(0.0, first_hashing - hashing.seconds[0]),
    }


class Training:
  """The members of a stack in training."""

  def __init__(self, bench: StackBench):
    self.members = bench.members
    self.train = bench.compiled[0]
    self.state = bench.program.init(self.members)

  def run(self, steps: int) -> None:
    """Trains for further steps, and waits for them."""
    self.state, sums = self.train(self.members, self.state, jnp.int32(steps))
    jax.block_until_ready((self.state, sums))


def checksum(batch: Batch) -> jax.Array:
  """A uint32 of everything that training reads of a batch, so that nothing is elided."""
  fields = (batch.tokens_BL, batch.answer_BA, batch.targets_BA, batch.weights_BA)
  total = jnp.uint32(0)
  for n, field in enumerate(fields):
    weight = 2 * jnp.arange(field.shape[1], dtype=jnp.uint32)[None] + 2 * n + 1
    total += (field.astype(jnp.uint32) * weight).sum(dtype=jnp.uint32)
  return total


def matmul_rate(devices, seconds: float = 1.0, size: int = MATMUL) -> float:
  """FLOP/s of a bare float32 matmul, on one device or on all at once, if faster."""
  multiply = jax.jit(jnp.matmul)
  matrix = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
  best = 0.0
  for used in ([devices[0]], list(devices)):
    copies = [jax.device_put(matrix, device) for device in used]

    def square_all(_, copies=copies):
      return [multiply(copy, copy) for copy in copies]

    timed = clock(square_all, 1, seconds / 2, most=1)
    best = max(best, len(used) * 2 * size**3 / min(timed.seconds))
  return best
