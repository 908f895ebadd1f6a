"""Does one curve over effective diversity explain the skewed rule sets?

A rule distribution has an effective number of rules: exp(entropy), 1 / sum of squares
or the number of rules with n examples or more. For uniform sets each of these is I (if
every rule has n examples), so the curve over I that is fitted to them predicts the
skewed sets without a free parameter. The prediction's error tells whether that number
is what matters.
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
  """Measure -> effective number of rules, for N examples of a power law.

  >>> {k: round(v) for k, v in measure(1000, 0.2, 1_000_000).items()}
  {'perplexity': 167, 'inverse_simpson': 15, 'rules_1': 1000, 'rules_3': 1000, \
'rules_10': 1000, 'rules_30': 1000, 'rules_100': 1000}
  """
  from onlyif_jax.tasks import distribution  # its package loads jax

  shares = np.full(instructions, 1 / instructions)
  if alpha:
    shares = distribution.power_law(instructions, alpha)
  counts = distribution.integer_counts(shares, examples)
  rules = {f'rules_{n}': float((counts >= n).sum()) for n in LEAST}
  return distribution.effective(counts / examples) | rules


def effective(run: Analysis) -> list[RuleSet]:
  """The run's rule sets with their effective numbers of rules."""
  selector, part = Selector(run), run.curves[0].slice
  groups: dict[tuple[int, float, bool, int], list[Row]] = {}
  for row in run.values('unseen', part).values():
    if not row.reference:
      key = (
        row.instructions,
        float(selector.value(row, 'data.alpha')),
        str(selector.value(row, 'data.balance')) == 'True',
        int(selector.value(row, 'data.examples')),
      )
      groups.setdefault(key, []).append(row)
  return [
    RuleSet(
      instructions,
      alpha,
      balanced,
      examples,
      tuple(rows),
      measure(instructions, alpha, examples),
    )
    for (instructions, alpha, balanced, examples), rows in sorted(groups.items())
  ]


@dataclasses.dataclass(frozen=True)
class Diversity:
  """A run's rule sets and the curve of the uniform ones, each computed once."""

  run: Analysis

  @functools.cached_property
  def sets(self) -> list[RuleSet]:
    """Every rule set of the run."""
    return effective(self.run)

  @property
  def uniform(self) -> list[RuleSet]:
    """The uniform sets at the run's own N, to which the curve is fitted."""
    return [s for s in self._full_size if not s.alpha and not s.balanced]

  @property
  def skewed(self) -> list[RuleSet]:
    """The power laws at the run's own N, which the curve has to predict."""
    return [s for s in self._full_size if s.alpha and not s.balanced]

  @property
  def controls(self) -> list[RuleSet]:
    """Power laws with gradients re-weighted to uniform."""
    return [s for s in self._full_size if s.alpha and s.balanced]

  @property
  def halves(self) -> list[RuleSet]:
    """The sets with another N, after the uniform sets of the same counts."""
    n = self.run.config.data.examples
    others = [s for s in self.sets if s.examples != n]
    counts = {s.instructions for s in others}
    return [s for s in self.uniform if s.instructions in counts] + others

  @functools.cached_property
  def curve(self) -> Transition:
    """The curve over I of the uniform sets."""
    rows = [r for s in self.uniform for r in s.rows]
    return fit_transition(
      Point(r.instructions, r.sum, r.count, r.seed, r.rule_se) for r in rows
    )

  @functools.cached_property
  def one_curve(self) -> dict[str, dict[str, Any]]:
    """See the function `one_curve`."""
    return {name: self._prediction(name) for name in MEASURES} if self.skewed else {}

  @property
  def _full_size(self) -> list[RuleSet]:
    return [s for s in self.sets if s.examples == self.run.config.data.examples]

  def _prediction(self, name: str) -> dict[str, Any]:
    """How well the curve over one measure predicts the skewed sets."""
    sets, t = self.skewed, self.curve
    if not t.fits:
      reason = f'no curve of uniform sets: {t.reason}'
      out = dict.fromkeys(('rmse', 'bias', 'beyond'))
      return out | {'n': len(sets), 'sets': [], 'reason': reason}
    uniform = self.uniform
    counts = [s.instructions for s in uniform]
    x = np.array([s.measures[name] for s in sets])
    predicted = predict(t, x)
    gap = np.array([s.value for s in sets]) - predicted
    set_values = [
      {
        'instructions': s.instructions,
        'alpha': s.alpha,
        'effective': float(number),
        'exact_match': s.value,
        'predicted': float(p),
      }
      for s, number, p in zip(sets, x, predicted, strict=True)
    ]
    return {
      'rmse': float(np.sqrt(np.mean(gap**2))),
      'bias': float(np.mean(gap)),
      'beyond': int(np.sum((x < min(counts)) | (x > max(counts)))),
      'n': len(sets),
      'not_i': sum(abs(s.measures[name] / s.instructions - 1) > 0.01 for s in uniform),
      'sets': set_values,
      'reason': None,
    }


def one_curve(run: Analysis) -> dict[str, dict[str, Any]]:
  """Measure -> how well the uniform sets' curve over it predicts the skewed sets.

  rmse, bias: of observed less predicted exact match over the n skewed sets, means over
  seeds; beyond: sets whose effective number lies outside the uniform counts, where the
  curve is extrapolated; not_i: uniform sets whose effective number is not I (too few
  examples of each rule); sets: each with its prediction. These are None, with a reason,
  if the uniform sets give no curve. {} for a run without skewed sets.
  """
  return Diversity(run).one_curve


def predict(t: Transition, x) -> np.ndarray:
  """The curve's accuracy at effective numbers x, which may be 0."""
  return t.curve(np.maximum(x, 1e-3))


def best_count(predictions: Mapping[str, Mapping[str, Any]]) -> str:
  """The measure 'rules with n examples or more' with the smallest error."""

  def error(name: str) -> float:
    rmse = predictions.get(name, {}).get('rmse')
    return math.inf if rmse is None else rmse

  return min((f'rules_{n}' for n in LEAST), key=error)
