"""Toy settings that tests share: prime, pairwise different sizes."""

import functools

import jax.numpy as jnp
import numpy as np

from onlyif_jax.config import OptimConfig
from onlyif_jax.data import Data, Member, Plan
from onlyif_jax.models.gpt2 import GPT2Config
from onlyif_jax.tasks.rewrite import Rewrite
from onlyif_jax.tasks.rules import RuleSpace
from onlyif_jax.training.step import Trainer

_SIZES = {'alphabet': 17, 'x_min': 2, 'x_max': 3, 'y_min': 1, 'y_max': 5}
PLAN = Plan(examples=59, epochs=3, batch_size=7)
DATA = Data(Rewrite(**_SIZES, input_length=11), RuleSpace(**_SIZES), PLAN)
NOOP_DATA = Data(
  Rewrite(**_SIZES, input_length=11, noops=True), RuleSpace(**_SIZES), PLAN
)

_FIXED = {'alphabet': 13, 'x_min': 2, 'x_max': 2, 'y_min': 3, 'y_max': 3}
FIXED_DATA = Data(Rewrite(**_FIXED, input_length=7), RuleSpace(**_FIXED), PLAN)


def member(instructions=11, **changes) -> Member:
  """A member with int32 and bool leaves."""
  fields = {
    'rules_seed': 0,
    'init_seed': 0,
    'order_seed': 0,
    'instructions': instructions,
  }
  flags = dict.fromkeys(
    ('fresh_rules', 'fresh_inputs', 'mask_instruction', 'permute_y', 'balance'), False
  )
  rate = changes.pop('learning_rate', 1e-2)
  counts = changes.pop('counts_R', np.zeros(0, np.int32))
  mix = jnp.array([changes.pop('noops', 0), PLAN.examples], jnp.int32)
  values = {**fields, **flags, **changes}
  made = {k: jnp.int32(values[k]) for k in fields}
  made |= {k: jnp.bool_(values[k]) for k in flags}
  rate, counts = jnp.float32(rate), jnp.asarray(counts)
  return Member(**made, learning_rate=rate, counts_R=counts, mix_K=mix)


def seen(data, member, i_B, kind_B):
  """Examples of training rules with new inputs."""
  return data.examples(member, data.ask_seen(member, i_B, kind_B))


def held_out(data, member, part, i_B, kind_B):
  """Examples of a part's rules."""
  return data.examples(member, data.ask_held_out(member, part, i_B, kind_B))


@functools.cache
def trainer(data=FIXED_DATA, name='adamw', positions='learned', **model) -> Trainer:
  """A trainer of a tiny model: 2 layers of width 10 with 1 head unless changed."""
  task = data.task
  sizes = {'layers': 2, 'width': 10, 'heads': 1} | model
  config = GPT2Config(
    task.vocab_size, task.sequence_length, positions=positions, **sizes
  )
  optim = OptimConfig(name=name, clip=1.0, warmup=0.2)
  return Trainer(data, config, optim)
