"""The device mesh (member, data), and the compiled programs of a stack on it.

Members are split along 'member' and never communicate; a batch is split along
'data', over which gradients are summed. Axes are of type Auto.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from onlyif_jax.config import ConfigError
from onlyif_jax.training import ensemble
from onlyif_jax.training.step import Trainer


def make_mesh(member: int, data: int = 1, devices=None) -> jax.sharding.Mesh:
  """A mesh of member x data devices, the same number from each process."""
  devices = jax.devices() if devices is None else devices
  if member * data > len(devices):
    raise ConfigError(
      f'stack.member_devices={member} x stack.data_devices={data} needs '
      f'{member * data} devices; there are {len(devices)}. Lower one of them'
    )
  per_process, remainder = divmod(member * data, jax.process_count())
  if remainder:
    raise ConfigError(
      f'stack.member_devices={member} x stack.data_devices={data} cannot be divided '
      f'among {jax.process_count()} processes, which all must have a part'
    )
  by_process: dict = {}
  for device in devices:
    by_process.setdefault(device.process_index, []).append(device)
  return jax.make_mesh(
    (member, data),
    ('member', 'data'),
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=[d for local in by_process.values() for d in local[:per_process]],
  )


@dataclasses.dataclass(frozen=True)
class StackProgram:
  """The compiled functions of a stack: one compile serves every stack of a run."""

  trainer: Trainer
  mesh: jax.sharding.Mesh
  mode: str

  @property
  def sharding(self):
    """The sharding of a stacked tree: members along 'member', the rest replicated."""
    return NamedSharding(self.mesh, P('member'))

  @functools.cached_property
  def init(self):
    """The compiled function members -> state."""
    lifted = ensemble.lift(self.trainer.init, 'map')
    return jax.jit(lifted, out_shardings=self.sharding)

  @functools.cached_property
  def train(self):
    """(members, state, n) -> (state, (loss sum, answer tokens, failed), each [M]).

    Runs n steps; n is traced, so that one program serves every chunk length. The
    state is donated. failed: the step at which a member became non-finite, or -1.
    """
    if self.mode == 'serial':
      return self._train_serially
    return self._train_program(self.mode)

  def _train_program(self, mode):
    chunk = ensemble.lift(lambda pair, n: self._chunk(pair[0], pair[1], n), mode)
    sharded = jax.shard_map(
      lambda members, state, n: chunk((members, state), n),
      mesh=self.mesh,
      in_specs=(P('member'), P('member'), P()),
      out_specs=P('member'),
    )
    return jax.jit(sharded, donate_argnums=1)

  @functools.cached_property
  def _train_one(self):
    return jax.jit(self._chunk, donate_argnums=1)

  def _train_serially(self, members, state, n):
    results = []
    for m in range(ensemble.size(members)):
      member, member_state = ensemble.unstack(members, m), ensemble.unstack(state, m)
      results.append(self._train_one(member, member_state, n))
    return jax.device_put(ensemble.stack(results), self.sharding)

  def _chunk(self, member, state, n):
    """n steps of one member on this device's part of the batch."""
    shards = self.mesh.shape['data']
    shard, collectives = (0, 1), {}
    if shards > 1:
      shard = (lax.axis_index('data'), shards)
      collectives = {'reduce': _sum_over_data, 'vary': _vary_over_data}

    def body(_, carry):
      state, (loss, count) = carry
      state, (step_loss, step_count) = self.trainer.step(
        member, state, shard, **collectives
      )
      return state, (loss + step_loss, count + step_count)

    # Sums start from the state, so that they vary over the mesh as it does.
    zero = 0.0 * state['step'].astype(jnp.float32)
    state, (loss, count) = lax.fori_loop(0, n, body, (state, (zero, zero)))
    # `+ 0` is for a buffer of its own: the state is donated to the next call.
    return state, (loss, count, state['failed'] + 0)


def _sum_over_data(tree):
  return lax.psum(tree, 'data')


def _vary_over_data(tree):
  # The gradient of replicated values is summed over the axis implicitly; with the
  # psum of `_sum_over_data` it would be summed twice.
  return jax.tree.map(lambda v: lax.pcast(v, 'data', to='varying'), tree)
