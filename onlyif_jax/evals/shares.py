"""Shares of right answers, with 95 % intervals."""

import math

import numpy as np

Z = 1.96  # standard errors on either side of a 95 % interval


def interval(right_N: np.ndarray, count_N: np.ndarray) -> dict[str, float]:
  """The share of right answers, with Wilson's 95 % interval over problems.

  Problem n has right_N[n] of count_N[n] answers (or instructions) right and counts as
  one observation: the interval is never too narrow, and not empty at 0 or 1.
  """
  value = float(right_N.sum() / count_N.sum())
  return {'value': value, **wilson(value, len(right_N))}


def wilson(value: float, n: int) -> dict[str, float]:
  """Wilson's 95 % interval of a share of n observations."""
  shrink = 1 + Z**2 / n
  middle = (value + Z**2 / (2 * n)) / shrink
  half = Z * math.sqrt(value * (1 - value) / n + (Z / (2 * n)) ** 2) / shrink
  return {'low': max(0.0, middle - half), 'high': min(1.0, middle + half)}
