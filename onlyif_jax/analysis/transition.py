"""Where accuracy rises as the number of instructions grows: fit and intervals.

Each seed's curve gets a four-parameter logistic in log10 I,

  p(I) = floor + (ceiling - floor) / (1 + exp(-slope * (log10 I - log10 I_50))),

by quasi-binomial likelihood: the estimate maximises the binomial likelihood, and
the overdispersion is Pearson's chi-square over its degrees of freedom. The
interval is Student's t over the seeds' log10 I_50, because seeds differ by far
more than examples do. The bracket, which the papers quote as I_min and I_max, needs
no model. This module does not import jax; scipy loads with the first fit.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FAILS, HOLDS = 0.05, 0.9  # the bracket: all seeds <= FAILS, all >= HOLDS x ceiling
CEILING = 0.5  # with a lower ceiling nothing holds
MIN_RISE = 0.3  # a smaller rise is no step
MIN_COUNTS = 4  # the logistic has four parameters
NEAR = 0.1  # decades; an estimate farther from every count is extrapolated
_SLOPES = np.log([0.5, 300.0])  # per decade: 10-90 % of the rise in 8.8 to 0.015
_TINY = 1e-9


class Point(NamedTuple):
  """k of n examples were right at count x.

  rule_se: standard error of k / n, clustered by rule.
  """

  x: float
  k: float
  n: float
  seed: str = '0'
  rule_se: float = float('nan')


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A value with its 95 % interval over seeds (None for fewer than three)."""

  value: float
  low: float | None
  high: float | None
  per_seed: Mapping[str, float]
  extrapolated: bool | None = None


@dataclasses.dataclass(frozen=True)
class SeedFit:
  """One seed's logistic; `reason` says why it shows no step, None if it does."""

  log_i50: float
  slope: float
  floor: float
  ceiling: float
  deviance: float
  freedom: int
  dispersion: float | None  # Pearson's chi-square / freedom
  rule_se: float | None  # standard error of log_i50 from the sample of rules
  reason: str | None

  def curve(self, x) -> np.ndarray:
    """The fitted accuracy at counts x."""
    share = _logistic(self.slope * (np.log10(x) - self.log_i50))
    return self.floor + (self.ceiling - self.floor) * share

  def end(self, share: float) -> float:
    """log10 of the count at which a `share` of the rise is reached."""
    return self.log_i50 + np.log(share / (1 - share)) / self.slope


@dataclasses.dataclass(frozen=True)
class Transition:
  """The fitted step of all seeds; estimates are None if no seed has a step."""

  i_50: Estimate | None
  bracket: tuple[float | None, float | None]
  i_min: Estimate | None  # 1 % of the rise
  i_max: Estimate | None  # 99 % of the rise
  width: float | None  # decades from 10 % to 90 % of the rise, mean over seeds
  floor: float | None
  ceiling: float | None
  fits: Mapping[str, SeedFit]  # of the seeds that have a step
  reason: str | None  # why the other seeds have none
  deviance: float | None  # residual, summed over fitted seeds
  rule_se: float | None  # of log10 i_50, from the sample of test rules
  seeds: tuple[str, ...]

  def curve(self, x) -> np.ndarray:
    """The mean over seeds of their fitted curves at counts x."""
    return np.mean([f.curve(x) for f in self.fits.values()], axis=0)

  def to_json(self) -> dict[str, Any]:
    """The content of transition.json for one curve."""
    out = dataclasses.asdict(self)
    fits = out.pop('fits')
    out['fit'] = {'per_seed': fits} if fits else None
    return out


def fit_transition(points: Iterable[tuple[Any, ...]]) -> Transition:
  """Fits the rise of k/n over x: one logistic per seed, one interval over seeds.

  points: (x, k, n, seed, rule_se) with 0 <= k <= n, n > 0 and x > 0; the last
  two may be left out. Raises ValueError for an invalid point. A seed gets no fit
  if its rise is below 0.3 or lies wholly between two neighbouring counts; then
  `reason` says so and only the bracket locates its step.
  """
  by_seed: dict[str, list[Point]] = {}
  for values in points:
    point = checked(Point(*values))
    by_seed.setdefault(str(point.seed), []).append(point)
  fits: dict[str, SeedFit] = {}
  reasons: dict[str, list[str]] = {}  # reason -> seeds
  for seed, group in by_seed.items():
    fit = fit_seed(group)
    reason = fit if isinstance(fit, str) else fit.reason
    if reason:
      reasons.setdefault(reason, []).append(seed)
    elif isinstance(fit, SeedFit):
      fits[seed] = fit
  log_counts = np.log10(sorted({p.x for group in by_seed.values() for p in group}))

  def mean(quantity: Callable[[SeedFit], float]) -> float | None:
    return float(np.mean([quantity(f) for f in fits.values()])) if fits else None

  def estimate(share: float) -> Estimate | None:
    return _interval({s: f.end(share) for s, f in fits.items()}, log_counts)

  return Transition(
    i_50=estimate(0.5),
    bracket=bracket(by_seed),
    i_min=estimate(0.01),
    i_max=estimate(0.99),
    width=mean(lambda f: f.end(0.9) - f.end(0.1)),
    floor=mean(lambda f: f.floor),
    ceiling=mean(lambda f: f.ceiling),
    fits=fits,
    reason=_join_reasons(reasons) if by_seed else 'no points',
    deviance=float(sum(f.deviance for f in fits.values())) if fits else None,
    rule_se=_mean_rule_se(fits.values()),
    seeds=tuple(by_seed),
  )


def checked(point: Point) -> Point:
  """Returns the point itself; raises ValueError if it is invalid."""
  x, k, n = point[:3]
  if not (0 < x < float('inf') and 0 < n < float('inf') and 0 <= k <= n):
    raise ValueError(f'x={x:g}, k={k:g}, n={n:g} are not x > 0, n > 0, 0 <= k <= n')
  return point


def bracket(
  by_seed: Mapping[str, Iterable[Point]],
) -> tuple[float | None, float | None]:
  """(largest x with all seeds <= 0.05, smallest x from which all >= 0.9 ceiling).

  The ceiling is the highest mean over seeds at any x, so no model is involved. An
  end that the points do not show is None. The second one is also None if the ceiling
  is below 0.5 or the means rise by less than 0.3.
  """
  accuracies: dict[float, list[float]] = {}  # x -> one per seed
  for p in itertools.chain(*by_seed.values()):
    accuracies.setdefault(p.x, []).append(p.k / p.n)
  if not accuracies:
    return None, None
  means = [float(np.mean(values)) for values in accuracies.values()]
  low = max((x for x, v in accuracies.items() if max(v) <= FAILS), default=None)
  high = None
  if max(means) >= CEILING and max(means) - min(means) >= MIN_RISE:
    for x in sorted(accuracies, reverse=True):
      if min(accuracies[x]) < HOLDS * max(means):
        break
      high = x
  return low, high


def fit_seed(points: Iterable[Point]) -> SeedFit | str:
  """Fits one seed's logistic; returns the reason if there are too few counts."""
  points = sorted(points)
  t, k, n, se = np.array([(np.log10(p.x), p.k, p.n, p.rule_se) for p in points]).T
  counts = len(np.unique(t))
  if counts < MIN_COUNTS:
    return f'{counts} counts, a fit needs {MIN_COUNTS}'
  theta, deviance = _maximise(t, k, n)
  middle, slope, floor = theta[0], np.exp(theta[1]), theta[2]
  ceiling = floor + (1 - floor) * theta[3]
  p, jacobian = _model(theta, t)
  p = np.clip(p, _TINY, 1 - _TINY)
  # Where the model says 0 or 1, one example more or less is no overdispersion.
  variance = np.maximum(n * p * (1 - p), 1.0)
  freedom = counts - MIN_COUNTS
  pearson = float(np.sum((k - n * p) ** 2 / variance))
  return SeedFit(
    log_i50=float(middle),
    slope=float(slope),
    floor=float(floor),
    ceiling=float(ceiling),
    deviance=deviance,
    freedom=freedom,
    dispersion=pearson / freedom if freedom else None,
    rule_se=_rule_se(jacobian, n / (p * (1 - p)), se),
    reason=_no_step(t, k / n, middle, slope, floor, ceiling),
  )


def _no_step(t, accuracy, middle, slope, floor, ceiling) -> str | None:
  """Returns why the fitted curve locates no step, None if it does."""
  share = _logistic(slope * (t - middle))
  rise = (ceiling - floor) * (share[-1] - share[0])
  if rise < MIN_RISE:
    return f'rises by {max(rise, 0):.2f} over its counts, a step needs {MIN_RISE}'
  if not t[0] + 1e-6 < middle < t[-1] - 1e-6:
    return 'half of the rise lies outside the counts'
  # Data and curve must both be within the rise: a low plateau is not, and a curve
  # may bend between neighbouring counts where nothing was measured.
  observed = (accuracy - floor) / (ceiling - floor)
  if not np.any((abs(share - 0.5) <= 0.4) & (abs(observed - 0.5) <= 0.4)):
    below, above = t[t <= middle][-1], t[t > middle][0]
    return (
      'no count within 10-90 % of the rise, which lies between '
      f'{10**below:,.0f} and {10**above:,.0f}'
    )
  return None


def _model(theta, t):
  """Accuracy [K] and its Jacobian [K, 4] by (log10 I_50, log slope, floor, r).

  ceiling = floor + (1 - floor) * r, so 0 <= r <= 1 keeps it in [floor, 1].
  """
  middle, log_slope, floor, r = theta
  slope = np.exp(log_slope)
  share = _logistic(slope * (t - middle))
  bend = (1 - floor) * r * slope * share * (1 - share)
  columns = (-bend, bend * (t - middle), 1 - r * share, (1 - floor) * share)
  return floor + (1 - floor) * r * share, np.stack(columns, axis=1)


def _logistic(z):
  return 0.5 * (1 + np.tanh(z / 2))


def _deviance(p, k, n):
  p = np.clip(p, _TINY, 1 - _TINY)
  y = k / n
  with np.errstate(divide='ignore', invalid='ignore'):
    hit = np.where(k > 0, k * np.log(y / p), 0)
    miss = np.where(k < n, (n - k) * np.log((1 - y) / (1 - p)), 0)
  return 2 * np.sum(hit + miss, axis=-1)


def _maximise(t, k, n):
  """Maximum-likelihood parameters and their deviance, from several starts."""
  from scipy import optimize  # slow to load; reading and drawing do without

  hit, miss = k / n.sum(), (n - k) / n.sum()

  def loss(theta):
    p, jacobian = _model(theta, t)
    p = np.minimum(np.maximum(p, _TINY), 1 - _TINY)
    value = -(hit @ np.log(p) + miss @ np.log1p(-p))
    return value, (miss / (1 - p) - hit / p) @ jacobian

  bounds = [(t.min(), t.max()), tuple(_SLOPES), (0, 1), (0, 1)]
  best = None
  for start in _starts(t, k, n):
    result = optimize.minimize(
      loss,
      start,
      jac=True,
      method='L-BFGS-B',
      bounds=bounds,
      options={'ftol': 1e-11, 'gtol': 1e-8, 'maxiter': 200},
    )
    if best is None or result.fun < best.fun:
      best = result
  assert best is not None
  return best.x, float(_deviance(_model(best.x, t)[0], k, n))


def _starts(t, k, n, keep: int = 3):
  """The `keep` best of a grid of middles and slopes, with least-squares plateaus."""
  unique = np.unique(t)
  middles = np.sort(np.concatenate([unique, (unique[1:] + unique[:-1]) / 2]))
  middle, slope = (a.ravel() for a in np.meshgrid(middles, [3.0, 8.0, 20.0, 60.0]))
  share = _logistic(slope[:, None] * (t - middle[:, None]))
  y = k / n
  centred = share - share.mean(axis=1, keepdims=True)
  rise = (centred @ y) / np.maximum(np.sum(centred**2, axis=1), _TINY)
  floor = np.clip(y.mean() - rise * share.mean(axis=1), 0.001, 0.95)
  ceiling = np.clip(floor + rise, floor + 0.01, 0.999)
  p = floor[:, None] + (ceiling - floor)[:, None] * share
  r = (ceiling - floor) / (1 - floor)
  order = np.argsort(_deviance(p, k, n))[:keep]
  return np.stack([middle, np.log(slope), floor, r], axis=1)[order]


def _rule_se(jacobian, weight, se) -> float | None:
  """Standard error of log10 I_50 by propagation of the points' errors `se`."""
  if not np.all(np.isfinite(se)):
    return None
  weighted = jacobian * weight[:, None]
  influence = np.linalg.pinv(jacobian.T @ weighted) @ weighted.T
  return float(np.sqrt(np.sum((influence[0] * se) ** 2)))


def _mean_rule_se(fits: Iterable[SeedFit]) -> float | None:
  """`rule_se` of the mean over seeds; None if a seed's is not known."""
  errors = [f.rule_se for f in fits]
  known = [e for e in errors if e is not None]
  if not known or len(known) < len(errors):
    return None
  return float(np.sqrt(np.sum(np.square(known))) / len(known))


def _interval(logs: Mapping[str, float], log_counts) -> Estimate | None:
  """Geometric mean over seeds with Student's t interval; logs: seed -> log10 I."""
  if not logs:
    return None
  values = np.array(list(logs.values()))
  half = None
  if len(values) >= 3:
    from scipy import special

    quantile = special.stdtrit(len(values) - 1, 0.975)
    half = quantile * values.std(ddof=1) / np.sqrt(len(values))
  middle = values.mean()
  return Estimate(
    value=float(10**middle),
    low=None if half is None else float(10 ** (middle - half)),
    high=None if half is None else float(10 ** (middle + half)),
    per_seed={s: float(10**v) for s, v in logs.items()},
    extrapolated=bool(np.min(abs(log_counts - middle)) > NEAR),
  )


def _join_reasons(reasons: Mapping[str, Sequence[str]]) -> str | None:
  """'seeds 0, 2: too few counts; ...' of reason -> seeds; None without any."""
  return (
    '; '.join(
      f'{"seed " if len(seeds) == 1 else "seeds "}{", ".join(seeds)}: {reason}'
      for reason, seeds in reasons.items()
    )
    or None
  )
