"""Low-rank adapters on a frozen, optionally quantised decoder, by qwix.

A model has three parts: a static graph definition, the trained weights (the adapters,
or all weights) and the frozen weights. arXiv:2402.10891 trains Llama 2 with rank 512
and alpha 1024; Only-IF's code models have an 8-bit base.

  y = x W + (x A) B alpha / rank,   A [in, rank], B [rank, out], B = 0 initially

int8 has one scale per output column, NF4 one per `tile` weights of a column.
"""

import dataclasses
import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from onlyif_jax.config import ConfigError
from onlyif_jax.models import llama
from onlyif_jax.models.llama import DecoderConfig
from onlyif_jax.tuning_settings import LINEAR, LoraConfig

A, B = 'kernel_lora_a', 'kernel_lora_b'


class Parts(NamedTuple):
  """A model in parts; `merge` puts them together inside a jitted function."""

  graphdef: Any
  noisy: Any  # the definition with dropout in the adapters, which qwix cannot switch
  trained: Any  # a pure tree of float32 arrays
  frozen: Any  # arrays and quantised arrays
  dtype: str = 'float32'  # of the adapters in use

  @property
  def definitions(self) -> 'Parts':
    """The parts without weights, which can be a static argument of a program."""
    return self._replace(trained=None, frozen=None)

  def weights(self, trained=None, frozen=None):
    """(trained, frozen) as the definition takes them, with adapters in `dtype`.

    Adapters in float32 would turn all that follows into float32.
    """
    trained = self.trained if trained is None else trained
    trained = jax.tree.map(lambda x: x.astype(self.dtype), trained)
    return trained, self.frozen if frozen is None else frozen

  def merge(self, trained=None, frozen=None, key=None):
    """The model, with other weights if given; a key turns dropout on.

    A layer that is recomputed in the backward pass draws the same numbers again.
    """
    trained, frozen = self.weights(trained, frozen)
    if key is None or self.noisy is None:
      return nnx.merge(self.graphdef, trained, frozen)
    model = nnx.merge(self.noisy, trained, frozen)
    for n, layer in enumerate(model.layers):
      layer.set_attributes(qwix_rngs=nnx.Rngs(dropout=jax.random.fold_in(key, n)))
    return model


def check(lora: LoraConfig, quantize: str, config: DecoderConfig) -> None:
  """Raise ConfigError for settings that this decoder cannot have."""
  unknown = [name for name in lora.targets if name not in LINEAR]
  if lora.rank and (unknown or not lora.targets):
    raise ConfigError(
      f'lora.targets={list(lora.targets)} must be some of {", ".join(LINEAR)}'
    )
  if lora.rank < 0 or lora.alpha <= 0 or not 0 <= lora.dropout < 1:
    raise ConfigError(
      f'lora.rank={lora.rank}, alpha={lora.alpha:g}, dropout={lora.dropout:g}: rank '
      'must be at least 0, alpha above 0 and dropout in [0, 1)'
    )
  sizes = {size for name in lora.targets for size in _sizes(config, name)}
  if lora.rank in sizes:  # qwix finds a weight by its shape
    raise ConfigError(
      f'lora.rank={lora.rank} is a size of a weight that gets an adapter; give a rank '
      f'other than {", ".join(map(str, sorted(sizes)))}'
    )
  if quantize != 'none' and not lora.rank:
    raise ConfigError(
      f'base.quantize={quantize!r} freezes the weights, and lora.rank=0 trains them; '
      "give a rank, or base.quantize='none'"
    )
  if quantize == 'nf4':
    for size in {config.width, config.hidden, config.heads * config.head_width}:
      if size % lora.tile:
        raise ConfigError(
          f'lora.tile={lora.tile} does not divide {size}, a size of this model'
        )


def _sizes(config: DecoderConfig, name: str) -> tuple[int, int]:
  """Inputs and outputs of a linear layer."""
  heads = config.heads if name in ('q_proj', 'o_proj') else config.kv_heads
  if name in ('gate_proj', 'up_proj', 'down_proj'):
    return config.width, config.hidden
  return config.width, heads * config.head_width


def adapt(config: DecoderConfig, params, lora: LoraConfig, quantize: str, key) -> Parts:
  """The parts of a decoder with fresh adapters.

  params: the decoder's weights, a pure tree as from pretrained.load. key: a typed key,
  for the adapters. Raises ConfigError for settings that cannot work.
  """
  check(lora, quantize, config)
  if not lora.rank:
    params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    return Parts(llama.graphdef(config), None, params, {})
  trained, frozen = _jitted_states(config, lora, quantize, params, key)
  without, noisy = _graphdefs(config, lora, quantize)
  return Parts(without, noisy, trained, frozen, config.compute_dtype)


def shapes(config: DecoderConfig, lora: LoraConfig, quantize: str, dtype) -> Parts:
  """The parts as jax.ShapeDtypeStruct, without allocation; dtype: of the base."""
  check(lora, quantize, config)
  params = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s.shape, dtype), llama.shapes(config)
  )
  if not lora.rank:
    params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, 'float32'), params)
    return Parts(llama.graphdef(config), None, params, {})
  key = jax.eval_shape(lambda: jax.random.key(0))
  make = functools.partial(_states, config, lora, quantize)
  trained, frozen = jax.eval_shape(make, params, key)
  without, noisy = _graphdefs(config, lora, quantize)
  return Parts(without, noisy, trained, frozen, config.compute_dtype)


def merged(config: DecoderConfig, params, trained, lora: LoraConfig) -> dict:
  """The base weights plus the adapters: a pure tree in the base's dtypes.

  params: the weights as they were loaded, not quantised.
  """
  if not lora.rank:
    return trained
  merged_params = jax.tree.map(lambda x: x, params)  # new dictionaries, same arrays
  for path, a, b in pairs(trained):
    layer = merged_params
    for name in path:
      layer = layer[name]
    delta = (a.astype(jnp.float32) @ b.astype(jnp.float32)) * (lora.alpha / lora.rank)
    kernel = layer['kernel']
    layer['kernel'] = (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)
  return merged_params


def pairs(trained) -> list[tuple[tuple, Any, Any]]:
  """(path of the linear layer, A, B) of every adapter, in order of the path."""
  adapters: dict[tuple, dict[str, Any]] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(trained):
    *layer, name = (k.key for k in path)
    adapters.setdefault(tuple(layer), {})[name] = leaf
  return [(layer, adapter[A], adapter[B]) for layer, adapter in adapters.items()]


def _states(config, lora, quantize, params, key):
  """(trained, frozen) of a decoder with fresh adapters."""
  without_dropout = dataclasses.replace(lora, dropout=0.0)
  model = _adapted(config, params, without_dropout, quantize, key)
  _, trained, frozen = nnx.split(model, nnx.LoRAParam, ...)
  # Adapters are small and trained, so they stay in float32 whatever the base's dtype.
  trained = jax.tree.map(lambda x: x.astype(jnp.float32), nnx.to_pure_dict(trained))
  return trained, frozen


_jitted_states = jax.jit(_states, static_argnums=(0, 1, 2))


@functools.cache
def _graphdefs(config, lora, quantize):
  """The definitions without and with dropout (None if the rate is 0)."""

  def define(lora):
    make = functools.partial(_adapted, config, lora=lora, quantize=quantize, key=None)
    model = nnx.eval_shape(make, llama.shapes(config))
    return nnx.split(model, nnx.LoRAParam, ...)[0]

  without = define(dataclasses.replace(lora, dropout=0.0))
  return without, define(lora) if lora.dropout else None


def _adapted(config, params, lora, quantize, key):
  """The decoder with adapters."""
  qwix = _qwix()
  without_remat = dataclasses.replace(config, remat=False)
  # A frozen weight is used in one dtype only, from which adapters take theirs.
  params = jax.tree.map(lambda p: p.astype(config.compute_dtype), params)
  model = llama.merge(llama.graphdef(without_remat), params)
  quantization: dict[str, Any] = (
    {} if quantize == 'none' else {'weight_qtype': quantize}
  )
  if quantize == 'nf4':
    quantization['tile_size'] = lora.tile
  # As PEFT initialises: uniform within 1 / sqrt(inputs).
  init_a = jax.nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
  rules: list[Any] = [
    qwix.LoraRule(
      module_path=f'layers/.*/({"|".join(map(re.escape, lora.targets))})',
      rank=lora.rank,
      alpha=lora.alpha,
      dropout=lora.dropout,
      lora_a_initializer=init_a,
      **quantization,
    )
  ]
  if quantization:
    rules.append(qwix.QuantizationRule(module_path='layers/.*', **quantization))
  rngs = nnx.Rngs(jax.random.key(0) if key is None else key)
  dummy = jnp.zeros((1, 2), jnp.int32)
  provider = qwix.LoraProvider(rules)
  model = qwix.apply_lora_to_model(model, provider, dummy, rngs=rngs)
  # qwix creates its parameters while tracing the layers, which a recomputed layer
  # could not keep; from here on layers may be recomputed.
  model.config = config  # pyright: ignore[reportAttributeAccessIssue]
  return model


def _qwix():
  try:
    import qwix
  except ImportError:
    raise ConfigError(
      'lora.rank above 0 needs qwix; pip install "onlyif_jax[llm]"'
    ) from None
  return qwix
