"""How the N examples are distributed over the rules: equally or by a power law.

The power law of Only-IF (Fig. 3 and 7) is f(x) = alpha x^(alpha-1) on [0, 1]:
rule i of I has the share (i+1)^alpha/I^alpha - i^alpha/I^alpha. A small alpha is a
peaked distribution, alpha = 1 is uniform. Counts are integers that sum to N; they
are computed on the host in float64, as float32 assigns examples to wrong rules.
"""

import numpy as np


def power_law(instructions: int, alpha: float) -> np.ndarray:
  """The shares of rules 0..I-1; they sum to 1.

  >>> power_law(4, 0.5).round(3).tolist()
  [0.5, 0.207, 0.159, 0.134]
  """
  edges = (np.arange(instructions + 1) / instructions) ** alpha
  return np.diff(edges)


def integer_counts(shares: np.ndarray, total: int) -> np.ndarray:
  """Counts that sum to `total`, by the largest-remainder method (ties: lower index).

  >>> integer_counts(np.array([0.5, 0.3, 0.2]), 7).tolist()
  [4, 2, 1]
  """
  exact = shares * total
  counts = np.floor(exact).astype(np.int64)
  order = np.argsort(-(exact - counts), kind='stable')
  counts[order[: total - counts.sum()]] += 1
  return counts


def effective(shares: np.ndarray) -> dict[str, float]:
  """The effective number of rules, as exp(entropy) and as 1 / sum of squares.

  >>> effective(np.array([0.5, 0.5, 0.0]))
  {'perplexity': 2.0, 'inverse_simpson': 2.0}
  """
  p = shares[shares > 0]
  return {
    'perplexity': float(np.exp(-(p * np.log(p)).sum())),
    'inverse_simpson': float(1 / (p**2).sum()),
  }
