"""A task that is not part of the package: replace, then write it all backwards.

python -m onlyif_jax.check outside_task:Reverse
"""

import dataclasses

import jax
import jax.numpy as jnp

from onlyif_jax.tasks.rewrite import Rewrite, rewrite


@dataclasses.dataclass(frozen=True)
class Reverse(Rewrite):
  """The leftmost x in z becomes y, and the result is written backwards."""

  input_length: int = 7  # letters of z, x included
  alphabet: int = 11  # letters in use

  def example(self, rule, key, *, kind=0, shown=None, setting=None):
    """An example of a rule (|x| is one number), a pure function of the key."""
    bits = jax.random.bits(key, (self.input_length + 1,))
    z_Z = (bits[1:] % self.alphabet).astype(jnp.int32)
    place = bits[0] % (self.input_length - self.x_max + 1)
    z_Z = jax.lax.dynamic_update_slice(z_Z, rule.x_P, (place,))
    out_O, length, start, _ = rewrite(z_Z, rule, self.out_length)
    back_O = out_O[(length - 1 - jnp.arange(self.out_length)) % self.out_length]
    a = jnp.arange(self.answer_length) - (length - start - rule.y_len)
    inserted_A = (a >= 0) & (a < rule.y_len)
    shown = rule if shown is None else shown
    return self.pack(
      shown, z_Z, (back_O, length), inserted_A=inserted_A, slices={'place': start}
    )

  def oracle(self, fields: dict[str, str]) -> str:
    """The answer in plain Python, for the check."""
    return fields['input'].replace(fields['lhs'], fields['rhs'], 1)[::-1]
