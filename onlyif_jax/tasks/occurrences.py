"""Rewriting of inputs that hold x exactly m times (2402.10891, section 4.5, Table 1).

The answer is that of rewriting: the leftmost x is replaced, whatever m is. Matches
are counted without overlap from the left, as in `str.count`.

>>> trace('isskissoiss', 'iss', 'art')
('artkissoiss', 3)
>>> trace('ababacaaba', 'aba', 'xy')
('xybacaaba', 2)
"""

import dataclasses

import jax
import jax.numpy as jnp

from onlyif_jax import keys
from onlyif_jax.settings import OccurrencesSettings
from onlyif_jax.tasks import rewrite, tokens
from onlyif_jax.tasks.contract import EvalSet
from onlyif_jax.tasks.rewrite import Rewrite
from onlyif_jax.tasks.rules import CELLS, Rule


@dataclasses.dataclass(frozen=True)
class Occurrences(OccurrencesSettings, Rewrite):
  """Replace the leftmost x in a z that holds x exactly m times.

  The kind of an example is m, 0 to `matches`. Training has the m of
  `train_matches` in equal shares, tests have 1..matches.
  """

  def static(self):
    """Which m are trained on is traced, so one program serves them all."""
    return dataclasses.replace(self, train_matches=(1,))

  def mix(self, noop_share: float) -> tuple[tuple[int, float], ...]:
    """Every m from 0 (a no-op) on; those that training leaves out have share 0."""
    none = ((0, noop_share),) if self.noops else ()
    own = (1 - noop_share) / len(self.train_matches)
    return none + tuple(
      (m, own if m in self.train_matches else 0.0) for m in range(1, self.matches + 1)
    )

  def kind(self, name: str, i_B):
    """'all': 1..matches; 'even': the same, with a no-op in every second input.

    Each m comes once in a block of `matches` inputs. The blocks start at varying m,
    or else a rule that returns after a multiple of `matches` would meet one m alone.
    """
    if name == 'even':
      return jnp.where(i_B % 2 == 0, 0, self.kind('all', i_B // 2))
    if name not in ('all', 'plain'):
      raise ValueError(f'unknown kind {name!r}; one of all, even')
    turn_B = keys.mix32(i_B // self.matches) % jnp.uint32(self.matches)
    return 1 + (i_B + turn_B.astype(jnp.int32)) % self.matches

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """Every m on unseen rules; on training rules the m of training as well.

    Slice `mix=train` has the m of training: beside the rows of all m it tells a
    rule that is not followed from a number of matches that is not coped with.
    """
    kind = 'even' if self.noops else 'all'
    sets = [EvalSet('unseen', examples, kind=kind)]
    sets += [
      EvalSet('unseen', cell_examples, f'cell={cell}', cell, kind)
      for cell in CELLS[1:]
      if cell_examples
    ]
    sets.append(EvalSet('unseen', examples, 'mix=train', kind='train'))
    sets.append(EvalSet('dev', examples, kind=kind))
    sets.append(EvalSet('seen', examples, kind='train'))
    if cell_examples:
      sets.append(EvalSet('seen', cell_examples, 'mix=all', kind=kind))
    return [*sets, EvalSet('train', examples, kind='train')]

  def example(self, rule: Rule, key, *, kind=1, shown=None, setting=None):
    """An example of a rule whose input holds x exactly `kind` times.

    kind may be traced, 0 to `matches`. `shown` is the rule that the prompt states.
    """
    del setting
    bits = jax.random.bits(key, (2, self.input_length))
    z_Z = self._input(rule, jnp.asarray(kind, jnp.int32), bits)
    return self.answered(rule, z_Z, shown)

  def _input(self, rule: Rule, m, bits):
    """Random letters with x at m places, and no match that starts elsewhere.

    Counting from the left then meets exactly the planted matches: it goes on behind
    each, so matches that start within one (x = aba in ababa) are never counted.
    """
    starts_M = self._starts(rule.x_len, m, bits[1])
    t_Z = jnp.arange(self.input_length)
    last_Z = (starts_M[None, :] <= t_Z[:, None]).sum(-1) - 1
    at_Z = t_Z - starts_M[jnp.maximum(last_Z, 0)]
    planted_Z = (last_Z >= 0) & (at_Z < rule.x_len)
    x_Z = rule.x_P[jnp.clip(at_Z, 0, rule.x_P.shape[0] - 1)]
    z_Z = jnp.where(planted_Z, x_Z, self._letters(bits[0]))
    # What stands in for a letter that starts a match: any but x's first.
    step_Z = 1 + self._letters_below(bits[0] // jnp.uint32(self.alphabet))
    spare_Z = (rule.x_P[0] + step_Z) % self.alphabet

    def wrong(z_Z):
      return rewrite.matches(z_Z, rule) & ~planted_Z

    def change(z_Z):
      # The last wrong match gets another first letter, which is no planted one.
      # Windows that start behind it stay as they are, so the last wrong match comes
      # ever earlier: it ends after at most |z| changes, for any x and any planting,
      # and any alphabet of two letters has the letter that it needs.
      last = t_Z.shape[0] - 1 - jnp.argmax(wrong(z_Z)[::-1])
      return jnp.where(t_Z == last, spare_Z, z_Z)

    return jax.lax.while_loop(lambda z: wrong(z).any(), change, z_Z)

  def _letters_below(self, bits):
    """Numbers 0..alphabet-2."""
    return (bits % jnp.uint32(self.alphabet - 1)).astype(jnp.int32)

  def _starts(self, x_len, m, bits_Z):
    """m start places in order, |x| or more apart, uniform among all such choices.

    Stars and bars: of the m matches and the free letters in a row, the m with the
    smallest random numbers are matches. Places beyond the m-th are |z|.
    """
    n, size = self.input_length, self.matches
    items = n - m * (x_len - 1)
    live = jnp.arange(n) < items
    order_Z = jnp.argsort(jnp.where(live, bits_Z, jnp.uint32(0xFFFFFFFF)))
    k = jnp.arange(size)
    slots_M = jnp.sort(jnp.where(k < m, order_Z[:size], n))
    return jnp.where(k < m, slots_M + k * (x_len - 1), n)


def trace(z: str, x: str, y: str) -> tuple[str, int]:
  """The output on plain text and how often x occurs, by the code of the data."""
  x_P = jnp.array(tokens.encode(x))
  rule = Rule(x_P, jnp.int32(len(x)), x_P, jnp.int32(len(x)))
  count = rewrite.count(jnp.array(tokens.encode(z)), rule)
  return rewrite.trace(z, x, y), int(count)
