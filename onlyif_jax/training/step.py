"""One training step of one member: a pure function that knows no files or devices.

`reduce` and `vary` default to the identity; `parallel` passes a psum and a pcast
when the batch is spread over devices.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from onlyif_jax import keys
from onlyif_jax.config import OptimConfig
from onlyif_jax.data import Batch, Data, Member
from onlyif_jax.keys import Purpose
from onlyif_jax.models.gpt2 import GPT2, GPT2Config
from onlyif_jax.training import optim

State = dict[str, Any]  # 'params', 'opt', 'step' (int32), 'failed' (step, int32, or -1)


def _identity(tree):
  return tree


@dataclasses.dataclass(frozen=True)
class Trainer:
  """The static part of training, shared by all members: data, model and optimiser."""

  data: Data
  model: GPT2Config
  optim: OptimConfig
  micro_batches: int = 1  # parts of a batch computed in turn, to save memory

  @property
  def graphdef(self):
    """The model without its parameters."""
    return graphdef(self.model)

  def init(self, member: Member) -> State:
    """The state before the first step, from the member's init seed."""
    key = keys.key(member.init_seed, Purpose.INIT)
    params = nnx.to_pure_dict(
      nnx.state(GPT2(self.model, rngs=nnx.Rngs(key)), nnx.Param)
    )
    return {
      'params': params,
      'opt': self._optimizer(member).init(params),
      'step': jnp.int32(0),
      'failed': jnp.int32(-1),
    }

  def step(
    self, member: Member, state: State, shard=(0, 1), reduce=_identity, vary=_identity
  ):
    """One update: (state, (loss sum in nats, answer tokens)).

    shard: (index, number) of the equal part of the batch that is computed here. The
    first step with a non-finite loss or gradient is recorded in 'failed'; from then
    on parameters and optimiser state stay as they are.
    """
    index, shards = shard
    shard_size = self.data.plan.batch_size // shards
    micro_size = shard_size // self.micro_batches
    params = vary(state['params'])

    def micro_batch(n):
      row_B = index * shard_size + n * micro_size
      row_B = row_B + jnp.arange(micro_size, dtype=jnp.int32)
      return self._gradients(member, params, state['step'], row_B)

    def accumulate(n, sums):
      return jax.tree.map(jnp.add, sums, micro_batch(n))

    if self.micro_batches == 1:
      sums = micro_batch(0)
    else:  # zeros made from the data, so that they vary over the mesh as it does
      zero = vary(0 * member.learning_rate)
      zeros = zero, zero, jax.tree.map(lambda p: 0 * p, params)
      sums = jax.lax.fori_loop(0, self.micro_batches, accumulate, zeros)
    # Gradients are those of the sum of losses, so each token has the same weight
    # however many tokens a shard holds.
    loss, count, grads = reduce(sums)
    grads = jax.tree.map(lambda g: g / count, grads)
    state = self._update(member, state, grads, loss)
    return state, (jnp.where(state['failed'] < 0, loss, 0.0), count)

  def _gradients(self, member: Member, params, step, row_B):
    """(loss sum, answer tokens, gradient of the sum) of rows row_B of a step's batch."""
    batch = self.data.train_examples(member, step * self.data.plan.batch_size + row_B)
    key = None
    if self.model.dropout:
      step_key = keys.key(member.order_seed, Purpose.DROPOUT, step)
      key = jax.vmap(lambda b: jax.random.fold_in(step_key, b))(row_B)
    (loss, count), grads = jax.value_and_grad(self.loss, has_aux=True)(
      params, batch, key
    )
    return loss, count, grads

  def loss(self, params, batch: Batch, key=None):
    """(sum of the losses of answer tokens in nats, their number), both weighted."""
    model = nnx.merge(self.graphdef, params)
    logits_BAV: Any = model(batch.tokens_BL, answer_BA=batch.answer_BA, key=key)
    nll_BA = optax.losses.softmax_cross_entropy_with_integer_labels(
      logits_BAV, batch.targets_BA
    )
    return (nll_BA * batch.weights_BA).sum(), batch.weights_BA.sum()

  def _update(self, member: Member, state: State, grads, loss) -> State:
    """The state after the optimiser's update, or a failed one."""
    updates, opt = self._optimizer(member).update(grads, state['opt'], state['params'])
    params = optax.apply_updates(state['params'], updates)
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
    ok = finite & (state['failed'] < 0)
    params, opt = jax.tree.map(
      lambda new, old: jnp.where(ok, new, old),
      (params, opt),
      (state['params'], state['opt']),
    )
    failed = jnp.where(ok | (state['failed'] >= 0), state['failed'], state['step'])
    return {'params': params, 'opt': opt, 'step': state['step'] + 1, 'failed': failed}

  def _optimizer(self, member):
    steps = self.data.plan.steps
    return optim.optimizer(self.optim, steps, member.learning_rate)


def graphdef(config: GPT2Config):
  """The static part of a GPT-2, made without allocating parameters."""
  model = nnx.eval_shape(lambda: GPT2(config, rngs=nnx.Rngs(0)))
  return nnx.split(model, nnx.Param)[0]
