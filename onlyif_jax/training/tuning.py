"""One step of fine-tuning: a pure (state, frozen weights, batch) -> (state, loss).

A batch is a dictionary of arrays [B, L]: tokens, weights (of the prediction of each
token), segments and positions; see corpora.batching. The loss is the weighted mean
over all tokens, for any number of devices and micro-batches.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from onlyif_jax import keys
from onlyif_jax.config import OptimConfig
from onlyif_jax.keys import Purpose
from onlyif_jax.models.lora import Parts
from onlyif_jax.training import optim


def sums(model, batch):
  """Weighted sums over the tokens: (losses in nats, correct predictions, weights)."""
  logits_BLV = model(
    batch['tokens'], positions_BL=batch['positions'], segments_BL=batch['segments']
  )[:, :-1]
  targets_BL, weights_BL = batch['tokens'][:, 1:], batch['weights'][:, 1:]
  losses_BL = optax.losses.softmax_cross_entropy_with_integer_labels(
    logits_BLV, targets_BL
  )
  correct_BL = logits_BLV.argmax(-1) == targets_BL
  return [(x * weights_BL).sum() for x in (losses_BL, correct_BL, weights_BL >= 0)]


@dataclasses.dataclass(frozen=True)
class TuneStep:
  """The update of the trained weights.

  What differs between runs (rate, seed) is an argument, so that they share a program.
  """

  optim: OptimConfig
  micro_batches: int = 1

  def rates(self, steps: int) -> np.ndarray:
    """The learning rate of each of a run's steps."""
    fraction = optim.schedule(self.optim, steps)
    fractions = jax.vmap(fraction)(jnp.arange(steps, dtype=jnp.int32))
    return self.optim.learning_rate * np.asarray(fractions, np.float32)

  def init(self, trained) -> dict[str, Any]:
    """The state before the first step."""
    return {
      'trained': trained,
      'opt': self._transform(0.0).init(trained),
      'step': jnp.int32(0),
    }

  def step(self, parts: Parts, state, frozen, batch, rate, seed=0):
    """(state after the step, (loss sum, weight sum)); the state may be donated.

    parts: used for its definitions only. frozen: the weights that are not trained.
    rate: the learning rate. seed: of dropout.
    """
    step_key = keys.key(seed, Purpose.DROPOUT, state['step'])

    def accumulate(carry, micro_batch):
      index, rows = micro_batch
      key = jax.random.fold_in(step_key, index)

      def loss(trained):
        total, _, count = sums(parts.merge(trained, frozen, key=key), rows)
        return total, count

      grad = jax.value_and_grad(loss, has_aux=True)
      (total, count), gradient = grad(state['trained'])
      return jax.tree.map(jnp.add, carry, (gradient, total, count)), None

    m = self.micro_batches
    # Micro-batch i has rows i, i + m, ...: each is spread over all devices.
    split = jax.tree.map(lambda x: x.reshape(-1, m, *x.shape[1:]).swapaxes(0, 1), batch)
    zeros = jax.tree.map(jnp.zeros_like, state['trained']), 0.0, 0.0
    zeros = jax.tree.map(jnp.float32, zeros)
    (gradient, total, count), _ = jax.lax.scan(
      accumulate, zeros, (jnp.arange(m), split)
    )
    gradient = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), gradient)
    transform = self._transform(rate)
    update, opt = transform.update(gradient, state['opt'], state['trained'])
    trained = optax.apply_updates(state['trained'], update)
    new_state = {'trained': trained, 'opt': opt, 'step': state['step'] + 1}
    return new_state, (total, count)

  def _transform(self, rate):
    return optim.transform(self.optim, lambda count: rate)


@functools.partial(
  jax.jit, static_argnames=('tune', 'definitions'), donate_argnames='state'
)
def train_step(tune: TuneStep, definitions: Parts, state, frozen, batch, rate, seed):
  """`tune.step`, compiled once for all models with the same definitions."""
  return tune.step(definitions, state, frozen, batch, rate, seed)


@functools.partial(jax.jit, static_argnames='definitions')
def measure(definitions: Parts, trained, frozen, batch):
  """`sums` of a model in parts, compiled once for all with the same definitions."""
  return sums(definitions.merge(trained, frozen), batch)
