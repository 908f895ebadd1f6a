"""How the N examples are shared among the rules: equal counts or a power law.

The power law of Only-IF (Fig. 3 and 7) is f(x) = alpha x^(alpha-1) on [0, 1]:
rule i of I has the share (i+1)^alpha/I^alpha - i^alpha/I^alpha, so a small alpha
is a peaked distribution and alpha = 1 is uniform. Counts are integers that sum to
N; they are made on the host in float64, because float32 puts examples on wrong
rules.
"""

import numpy as np


def power_law(instructions: int, alpha: float) -> np.ndarray:
  """The shares of rules 0..I-1, summing to one.

  >>> power_law(4, 0.5).round(3).tolist()
  [0.5, 0.207, 0.159, 0.134]
  """
  edges = (np.arange(instructions + 1) / instructions) ** alpha
  return np.diff(edges)


def integer_counts(shares: np.ndarray, total: int) -> np.ndarray:
  """Counts that sum to `total`, by largest remainder (ties to the lower index).

  >>> integer_counts(np.array([0.5, 0.3, 0.2]), 7).tolist()
  [4, 2, 1]
  """
  exact = shares * total
  counts = np.floor(exact).astype(np.int64)
  order = np.argsort(-(exact - counts), kind='stable')
  counts[order[: total - counts.sum()]] += 1
  return counts


def effective(shares: np.ndarray) -> dict[str, float]:
  """Effective numbers of rules: exp(entropy) and 1 / sum of squares.

  >>> effective(np.array([0.5, 0.5, 0.0]))
  {'perplexity': 2.0, 'inverse_simpson': 2.0}
  """
  p = shares[shares > 0]
  return {
    'perplexity': float(np.exp(-(p * np.log(p)).sum())),
    'inverse_simpson': float(1 / (p**2).sum()),
  }
