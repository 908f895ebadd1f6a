"""Lifts a function of one member over a stack of members.

Members never communicate. 'map' runs them in turn inside one program, and each
is bit-equal to the run alone; 'vmap' batches them, which small models need on
an accelerator, and agrees within rounding; 'serial' is a host loop over one
member's program, the yardstick for the other two.
"""

import jax
import jax.numpy as jnp

MODES = ('map', 'vmap', 'serial')


def lift(function, mode: str):
  """function(member's tree, *shared) -> the same over a leading axis M of the tree."""
  if mode == 'vmap':
    return lambda tree, *shared: jax.vmap(lambda one: function(one, *shared))(tree)
  if mode == 'map':
    return lambda tree, *shared: jax.lax.map(lambda one: function(one, *shared), tree)
  raise ValueError(f'mode {mode!r} is not lifted inside a program')


def stack(trees):
  """A list of equal trees -> one tree with a leading axis M."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree, m: int):
  """Member m of a stacked tree."""
  return jax.tree.map(lambda leaf: leaf[m], tree)


def size(tree) -> int:
  """The number of members of a stacked tree."""
  return jax.tree.leaves(tree)[0].shape[0]
