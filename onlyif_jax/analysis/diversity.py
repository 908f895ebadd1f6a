"""Does one curve over effective diversity explain the skewed rule sets?

A rule distribution has an effective number of rules: exp(entropy), 1 / sum of squares
or the number of rules with n examples or more. On the uniform sets each is I (as far
as I sets have n examples each), so the curve over I that is fitted to them predicts
the skewed ones, with no free parameter. How far it is off says whether that number is
what matters.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from onlyif_jax.analysis.results import Analysis, Row, mean
from onlyif_jax.analysis.selector import Selector
from onlyif_jax.analysis.transition import Point, Transition, fit_transition

LEAST = (1, 3, 10, 30, 100)  # n of 'rules with n examples or more'
MEASURES = {
  'perplexity': 'exp(entropy)',
  'inverse_simpson': '1 / Σp²',
  **{f'rules_{n}': f'rules with ≥ {n} examples' for n in LEAST},
}


@dataclasses.dataclass(frozen=True)
class RuleSet:
  """The members, one per seed, of one I, alpha, budget and weighting."""

  instructions: int
  alpha: float  # 0: equal counts
  balanced: bool  # gradients re-weighted to uniform
  examples: int
  rows: tuple[Row, ...]
  measures: Mapping[str, float]  # effective numbers of rules

  @property
  def value(self) -> float:
    """Unseen exact match, the mean over seeds."""
    return mean(self.rows)


@functools.cache
def measure(instructions: int, alpha: float, examples: int) -> dict[str, float]:
  """The effective numbers of rules of N examples.

  >>> {k: round(v) for k, v in measure(1000, 0.2, 1_000_000).items()}
  {'perplexity': 167, 'inverse_simpson': 15, 'rules_1': 1000, 'rules_3': 1000, \
'rules_10': 1000, 'rules_30': 1000, 'rules_100': 1000}
  """
  from onlyif_jax.tasks import distribution  # its package loads jax

  shares = np.full(instructions, 1 / instructions)
  if alpha:
    shares = distribution.power_law(instructions, alpha)
  counts = distribution.integer_counts(shares, examples)
  own = {f'rules_{n}': float((counts >= n).sum()) for n in LEAST}
  return distribution.effective(counts / examples) | own


def effective(run: Analysis) -> list[RuleSet]:
  """The run's rule sets with their effective numbers of rules."""
  select, part = Selector(run), run.curves[0].slice
  found: dict[tuple[int, float, bool, int], list[Row]] = {}
  for row in run.values('unseen', part).values():
    if not row.reference:
      key = (
        row.instructions,
        float(select.value(row, 'data.alpha')),
        str(select.value(row, 'data.balance')) == 'True',
        int(select.value(row, 'data.examples')),
      )
      found.setdefault(key, []).append(row)
  return [
    RuleSet(*key, tuple(rows), measure(key[0], key[1], key[3]))
    for key, rows in sorted(found.items())
  ]


@dataclasses.dataclass(frozen=True)
class Diversity:
  """A run's rule sets, and the curve of the uniform ones: each worked out once."""

  run: Analysis

  @functools.cached_property
  def sets(self) -> list[RuleSet]:
    """Every rule set of the run."""
    return effective(self.run)

  @property
  def uniform(self) -> list[RuleSet]:
    """The sets of equal counts at the run's own N, which the curve is fitted to."""
    return [s for s in self._own if not s.alpha and not s.balanced]

  @property
  def skewed(self) -> list[RuleSet]:
    """The sets that the curve has to predict: power laws at the run's own N."""
    return [s for s in self._own if s.alpha and not s.balanced]

  @property
  def controls(self) -> list[RuleSet]:
    """Power laws whose gradients are re-weighted to uniform."""
    return [s for s in self._own if s.alpha and s.balanced]

  @property
  def halves(self) -> list[RuleSet]:
    """The sets with another N, after those of equal counts that they compare with."""
    n = self.run.config.data.examples
    other = [s for s in self.sets if s.examples != n]
    counts = {s.instructions for s in other}
    return [s for s in self.uniform if s.instructions in counts] + other

  @functools.cached_property
  def curve(self) -> Transition:
    """The curve over I of the uniform sets."""
    rows = [r for s in self.uniform for r in s.rows]
    return fit_transition(
      Point(r.instructions, r.sum, r.count, r.seed, r.rule_se) for r in rows
    )

  @functools.cached_property
  def one_curve(self) -> dict[str, dict[str, Any]]:
    """What `one_curve` says of the run."""
    return {name: self._judged(name) for name in MEASURES} if self.skewed else {}

  @property
  def _own(self) -> list[RuleSet]:
    return [s for s in self.sets if s.examples == self.run.config.data.examples]

  def _judged(self, name: str) -> dict[str, Any]:
    sets, t = self.skewed, self.curve
    if not t.fits:
      reason = f'no curve of uniform sets: {t.reason}'
      out = dict.fromkeys(('rmse', 'bias', 'beyond'))
      return out | {'n': len(sets), 'sets': [], 'reason': reason}
    own = self.uniform
    counts = [s.instructions for s in own]
    x = np.array([s.measures[name] for s in sets])
    predicted = predict(t, x)
    gap = np.array([s.value for s in sets]) - predicted
    told = [
      {
        'instructions': s.instructions,
        'alpha': s.alpha,
        'effective': float(at),
        'exact_match': s.value,
        'predicted': float(p),
      }
      for s, at, p in zip(sets, x, predicted, strict=True)
    ]
    return {
      'rmse': float(np.sqrt(np.mean(gap**2))),
      'bias': float(np.mean(gap)),
      'beyond': int(np.sum((x < min(counts)) | (x > max(counts)))),
      'n': len(sets),
      'not_i': sum(abs(s.measures[name] / s.instructions - 1) > 0.01 for s in own),
      'sets': told,
      'reason': None,
    }


def one_curve(run: Analysis) -> dict[str, dict[str, Any]]:
  """Measure -> how well the uniform sets' curve over it predicts the skewed sets.

  rmse, bias: of observed less predicted exact match, means over seeds, over the n
  skewed sets; beyond: sets whose effective number lies outside the uniform counts,
  where the curve is extrapolated; not_i: uniform sets of which the effective number
  is not I (too few examples of each rule); sets: each with its prediction. None with a reason
  where the uniform sets give no curve. {} for a run without skewed sets.
  """
  return Diversity(run).one_curve


def predict(t: Transition, x) -> np.ndarray:
  """The curve at effective numbers x, which may be 0."""
  return t.curve(np.maximum(x, 1e-3))


def best_count(found: Mapping[str, Mapping[str, Any]]) -> str:
  """The measure 'rules with n examples or more' that is least off."""
  names = [f'rules_{n}' for n in LEAST]
  return min(names, key=lambda k: _or_inf(found.get(k, {}).get('rmse')))


def _or_inf(value: float | None) -> float:
  return math.inf if value is None else value
