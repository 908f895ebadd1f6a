"""Rewriting of inputs with exactly m occurrences of x (arXiv:2402.10891, section 4.5).

The answer is that of rewriting: the leftmost x is replaced, whatever m is. Matches
are counted without overlap from the left, as by `str.count`. (Table 1 of the paper.)

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
  """Replace the leftmost x in a z with exactly m occurrences of x.

  The kind of an example is m, from 0 to `matches`. Training has the m of
  `train_matches` in equal shares; tests have 1..matches.
  """

  def static(self):
    """The task without `train_matches`, which is traced (in the mix)."""
    return dataclasses.replace(self, train_matches=(1,))

  def mix(self, noop_share: float) -> tuple[tuple[int, float], ...]:
    """All m, from 0 (a no-op) if there are no-ops; m not trained on have share 0."""
    noops = ((0, noop_share),) if self.noops else ()
    share = (1 - noop_share) / len(self.train_matches)
    return noops + tuple(
      (m, share if m in self.train_matches else 0.0) for m in range(1, self.matches + 1)
    )

  def kind(self, name: str, i_B):
    """'all': 1..matches; 'even': the same, with a no-op in every second input.

    Each m comes once in a block of `matches` inputs. Blocks start at varying m: else
    a rule that returns after a multiple of `matches` inputs would meet a single m.
    """
    if name == 'even':
      return jnp.where(i_B % 2 == 0, 0, self.kind('all', i_B // 2))
    if name not in ('all', 'plain'):
      raise ValueError(f'unknown kind {name!r}; one of all, even')
    start_B = keys.mix32(i_B // self.matches) % jnp.uint32(self.matches)
    return 1 + (i_B + start_B.astype(jnp.int32)) % self.matches

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """All m on unseen rules; on training rules also the m of training.

    On unseen rules, slice `mix=train` has the m of training. Compared with all m, it
    separates failing to follow a rule from failing at a number of matches.
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
    """An example of a rule, with exactly `kind` occurrences of x in its input.

    kind: 0 to `matches`, may be traced. shown: the rule that the prompt states.
    """
    del setting
    bits = jax.random.bits(key, (2, self.input_length))
    z_Z = self._input(rule, jnp.asarray(kind, jnp.int32), bits)
    return self.answered(rule, z_Z, shown)

  def _input(self, rule: Rule, m, bits):
    """Random letters with x planted m times, and no match that starts elsewhere.

    Counting from the left finds exactly the planted matches: it continues behind
    each, so a match that starts within one (x = aba in ababa) is not counted.
    """
    starts_M = self._starts(rule.x_len, m, bits[1])
    t_Z = jnp.arange(self.input_length)
    plant_Z = (starts_M[None, :] <= t_Z[:, None]).sum(-1) - 1  # last one begun, or -1
    offset_Z = t_Z - starts_M[jnp.maximum(plant_Z, 0)]
    planted_Z = (plant_Z >= 0) & (offset_Z < rule.x_len)
    x_Z = rule.x_P[jnp.clip(offset_Z, 0, rule.x_P.shape[0] - 1)]
    z_Z = jnp.where(planted_Z, x_Z, self._letters(bits[0]))
    # Replacements for letters that start a stray match: any letter but x's first.
    step_bits_Z = bits[0] // jnp.uint32(self.alphabet)
    step_Z = 1 + (step_bits_Z % jnp.uint32(self.alphabet - 1)).astype(jnp.int32)
    replacement_Z = (rule.x_P[0] + step_Z) % self.alphabet

    def stray(z_Z):
      return rewrite.matches(z_Z, rule) & ~planted_Z

    def break_last(z_Z):
      # Changes the first letter of the last stray match, which is not a planted
      # letter. Windows that start behind it stay as they are, so the last stray match
      # moves left: this ends after at most |z| changes.
      last = t_Z.shape[0] - 1 - jnp.argmax(stray(z_Z)[::-1])
      return jnp.where(t_Z == last, replacement_Z, z_Z)

    return jax.lax.while_loop(lambda z: stray(z).any(), break_last, z_Z)

  def _starts(self, x_len, m, bits_Z):
    """m starts in order, at least |x| apart, uniform among all such choices.

    Stars and bars: of the m matches and the free letters in a row, the m with the
    smallest random numbers are the matches. Starts beyond the m-th are |z|.
    """
    n, size = self.input_length, self.matches
    items = n - m * (x_len - 1)  # matches and free letters
    is_item_Z = jnp.arange(n) < items
    order_Z = jnp.argsort(jnp.where(is_item_Z, bits_Z, jnp.uint32(0xFFFFFFFF)))
    k = jnp.arange(size)
    items_M = jnp.sort(jnp.where(k < m, order_Z[:size], n))
    return jnp.where(k < m, items_M + k * (x_len - 1), n)


def trace(z: str, x: str, y: str) -> tuple[str, int]:
  """The output and the number of occurrences of x, on plain text."""
  count = rewrite.count(jnp.array(tokens.encode(z)), rewrite.text_rule(x, y))
  return rewrite.trace(z, x, y), int(count)
