"""Optimisers whose peak learning rate may be traced, built from optax."""

import jax
import optax

from onlyif_jax.config import OptimConfig


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
  """step -> fraction of the peak rate: linear warm-up, then linear to 0 or constant."""
  warmup = max(1, round(config.warmup * steps)) if config.warmup else 0
  decay = optax.schedules.linear_schedule(1.0, 0.0, max(1, steps - warmup))
  if config.schedule == 'constant':
    decay = optax.schedules.constant_schedule(1.0)
  if not warmup:
    return decay
  rise = optax.schedules.linear_schedule(1 / (warmup + 1), 1.0, warmup)
  return optax.schedules.join_schedules([rise, decay], [warmup])


def optimizer(config: OptimConfig, steps: int, peak) -> optax.GradientTransformation:
  """The optimiser for a peak learning rate that may be traced."""
  fraction = schedule(config, steps)
  return transform(config, lambda count: peak * fraction(count))


def transform(config: OptimConfig, rate) -> optax.GradientTransformation:
  """The optimiser for a schedule `rate`: number of updates -> learning rate."""
  if config.name == 'adamw':
    main = optax.adamw(
      rate,
      b1=config.b1,
      b2=config.b2,
      eps=config.eps,
      weight_decay=config.weight_decay,
      mask=is_matrix,
    )
  else:
    main = optax.contrib.muon(
      lambda count: config.muon_scale * rate(count),
      weight_decay=config.weight_decay,
      adam_b1=config.b1,
      adam_b2=config.b2,
      adam_learning_rate=rate,
      muon_weight_dimension_numbers=muon_matrices,
    )
  if config.clip:
    return optax.chain(optax.clip_by_global_norm(config.clip), main)
  return main


def is_matrix(params):
  """Mask of the leaves that weight decay touches: matrices and embeddings."""
  return jax.tree.map(lambda p: p.ndim >= 2, params)


def muon_matrices(params):
  """Which leaves Muon updates: the kernels inside the layers; Adam has the rest."""

  def choose(path, leaf):
    names = [str(getattr(k, 'key', k)) for k in path]
    in_layer = 'blocks' in names or 'layers' in names
    is_kernel = in_layer and names[-1] == 'kernel' and leaf.ndim == 2
    return optax.contrib.MuonDimensionNumbers() if is_kernel else None

  return jax.tree_util.tree_map_with_path(choose, params)
