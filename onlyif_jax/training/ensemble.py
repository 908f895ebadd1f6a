"""Lift a function of one member to a stack of members, which never communicate.

Modes: 'map' runs the members in turn in one program; each is bit-equal to a run on
its own. 'vmap' batches them, which small models on an accelerator need, and agrees
within rounding. 'serial' is a host loop over the program of one member, the baseline
of the other two.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

MODES = ('map', 'vmap', 'serial')


def lift(function: Callable, mode: str) -> Callable:
  """Lift function(member's tree, *shared) to trees with a leading axis M."""
  if mode not in ('map', 'vmap'):
    raise ValueError(f'mode {mode!r} is not lifted inside a program')

  def lifted(trees, *shared):
    def of_one(tree):
      return function(tree, *shared)

    return jax.vmap(of_one)(trees) if mode == 'vmap' else jax.lax.map(of_one, trees)

  return lifted


def stack(trees):
  """One tree with a leading axis M from a list of trees of equal structure."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree, m: int):
  """Member m of a stacked tree."""
  return jax.tree.map(lambda leaf: leaf[m], tree)


def size(tree) -> int:
  """The number of members of a stacked tree."""
  return jax.tree.leaves(tree)[0].shape[0]
