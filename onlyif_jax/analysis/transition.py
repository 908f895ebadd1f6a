"""Where accuracy rises as the number of instructions grows: fit and intervals.

Each seed's curve gets a four-parameter logistic in log10 I,

  p(I) = floor + (ceiling - floor) / (1 + exp(-slope * (log10 I - log10 I_50))),

by quasi-binomial likelihood: the estimate maximises the binomial likelihood and
the overdispersion is Pearson's chi-square over its degrees of freedom. The
interval is Student's t over the seeds' log10 I_50, because seeds differ by far
more than examples do. Beside it, without a model, stands the bracket that the
papers quote as I_min and I_max. No jax here; scipy loads with the first fit.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

FAILS, HOLDS = 0.05, 0.9  # the bracket: all seeds <= FAILS, all >= HOLDS x ceiling
CEILING = 0.5  # below this nothing holds
MIN_RISE = 0.3  # less is no step
MIN_COUNTS = 4  # the logistic has four parameters
NEAR = 0.1  # decades: an end of the rise without a count this near is extrapolated
_SLOPES = np.log([0.5, 300.0])  # per decade; 10-90 % of the rise in 8.8 to 0.015
_TINY = 1e-9


class Point(NamedTuple):
  """k of n examples were right at count x; rule_se: k/n's, clustered by rule."""

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
  """One seed's logistic; `reason` says why it has no step, else None."""

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
    """log10 of the count at which `share` of the rise is reached."""
    return self.log_i50 + np.log(share / (1 - share)) / self.slope


@dataclasses.dataclass(frozen=True)
class Transition:
  """A fitted step; every estimate is None where no seed has one (see `reason`)."""

  i_50: Estimate | None
  bracket: tuple[float | None, float | None]
  i_min: Estimate | None  # 1 % of the rise
  i_max: Estimate | None  # 99 % of the rise
  width: float | None  # decades from 10 % to 90 % of the rise, mean over seeds
  floor: float | None
  ceiling: float | None
  fits: Mapping[str, SeedFit]  # the seeds that have a step
  reason: str | None  # why seeds have none
  deviance: float | None  # residual, summed over fitted seeds
  rule_se: float | None  # of log10 i_50, from the sample of test rules
  seeds: tuple[str, ...]

  def curve(self, x) -> np.ndarray:
    """The mean over seeds of their fitted curves at counts x."""
    return np.mean([f.curve(x) for f in self.fits.values()], axis=0)

  def to_json(self) -> dict[str, Any]:
    """Plain values, as in transition.json."""
    out = dataclasses.asdict(self)
    fits = out.pop('fits')
    out['fit'] = {'per_seed': fits} if fits else None
    return out


def fit_transition(points: Iterable[tuple[Any, ...]]) -> Transition:
  """Fits the rise of k/n over x: one logistic per seed, one interval over seeds.

  points: (x, k, n, seed, rule_se) with 0 <= k <= n, n > 0 and x > 0; the last
  two may be left out. Raises ValueError for points that are none. A seed gets no
  fit if the rise is below 0.3 or lies wholly between two neighbouring counts;
  then `reason` says so and the bracket alone locates its step.
  """
  by_seed: dict[str, list[Point]] = {}
  for values in points:
    point = checked(Point(*values))
    by_seed.setdefault(str(point.seed), []).append(point)
  every = {seed: fit_seed(group) for seed, group in by_seed.items()}
  fits = {s: f for s, f in every.items() if isinstance(f, SeedFit) and not f.reason}
  reasons = {s: f if isinstance(f, str) else f.reason or '' for s, f in every.items()}
  grid = np.log10(sorted({p.x for group in by_seed.values() for p in group}))

  def mean(name):
    return float(np.mean([getattr(f, name) for f in fits.values()])) if fits else None

  def over_seeds(share):
    return _interval({s: f.end(share) for s, f in fits.items()}, grid)

  errors = [f.rule_se for f in fits.values()]
  known = [e for e in errors if e is not None]
  return Transition(
    i_50=over_seeds(0.5),
    bracket=bracket(by_seed),
    i_min=over_seeds(0.01),
    i_max=over_seeds(0.99),
    width=float(np.mean([f.end(0.9) - f.end(0.1) for f in fits.values()]))
    if fits
    else None,
    floor=mean('floor'),
    ceiling=mean('ceiling'),
    fits=fits,
    reason=_join(reasons, len(by_seed)),
    deviance=float(sum(f.deviance for f in fits.values())) if fits else None,
    rule_se=float(np.sqrt(np.sum(np.square(known))) / len(known))
    if known and len(known) == len(errors)
    else None,
    seeds=tuple(by_seed),
  )


def checked(point: Point) -> Point:
  """The point itself, or ValueError if it cannot be one."""
  x, k, n = point[:3]
  if not (0 < x < float('inf') and 0 < n < float('inf') and 0 <= k <= n):
    raise ValueError(f'x={x:g}, k={k:g}, n={n:g} are not x > 0, n > 0, 0 <= k <= n')
  return point


def bracket(by_seed: Mapping[str, Iterable[Point]]):
  """(largest x with all seeds <= 0.05, smallest x from which all >= 0.9 ceiling).

  The ceiling is the highest mean over seeds at any x, so that no model enters.
  An end that the points do not show is None, and so is the second one where the
  ceiling is below 0.5.
  """
  at: dict[float, list[float]] = {}
  for p in itertools.chain(*by_seed.values()):
    at.setdefault(p.x, []).append(p.k / p.n)
  if not at:
    return None, None
  means = [float(np.mean(v)) for v in at.values()]
  low = max((x for x, v in at.items() if max(v) <= FAILS), default=None)
  high = None
  if max(means) >= CEILING and max(means) - min(means) >= MIN_RISE:
    for x in sorted(at, reverse=True):
      if min(at[x]) < HOLDS * max(means):
        break
      high = x
  return low, high


def fit_seed(points: Iterable[Point]) -> SeedFit | str:
  """One seed's logistic, or, where there are too few counts, the reason."""
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


def _no_step(t, seen, middle, slope, floor, ceiling) -> str | None:
  """Why the fitted curve locates no step, or None if it does."""
  share = _logistic(slope * (t - middle))
  rise = (ceiling - floor) * (share[-1] - share[0])
  if rise < MIN_RISE:
    return f'rises by {max(rise, 0):.2f} over its counts, a step needs {MIN_RISE}'
  if not t[0] + 1e-6 < middle < t[-1] - 1e-6:
    return 'half of the rise lies outside the counts'
  # Asked of the data and of the curve: a low plateau is not within the rise, and
  # a curve may be bent through neighbours although nothing was measured there.
  observed = (seen - floor) / (ceiling - floor)
  if not np.any((abs(share - 0.5) <= 0.4) & (abs(observed - 0.5) <= 0.4)):
    below, above = t[t <= middle][-1], t[t > middle][0]
    return (
      'no count within 10-90 % of the rise, which lies between '
      f'{10**below:,.0f} and {10**above:,.0f}'
    )
  return None


def _model(theta, t):
  """Accuracy [K] and its derivatives [K, 4] by (log10 I_50, log slope, floor, r).

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
  """Best parameters and their deviance, from several starts."""
  from scipy import optimize  # not needed to read or draw, and slow to load

  hit, miss = k / n.sum(), (n - k) / n.sum()

  def loss(theta):
    p, jacobian = _model(theta, t)
    p = np.minimum(np.maximum(p, _TINY), 1 - _TINY)
    value = -(hit @ np.log(p) + miss @ np.log1p(-p))
    return value, (miss / (1 - p) - hit / p) @ jacobian

  bounds = [(t.min(), t.max()), tuple(_SLOPES), (0, 1), (0, 1)]
  best = None
  for start in _starts(t, k, n):
    found = optimize.minimize(
      loss,
      start,
      jac=True,
      method='L-BFGS-B',
      bounds=bounds,
      options={'ftol': 1e-11, 'gtol': 1e-8, 'maxiter': 200},
    )
    if best is None or found.fun < best.fun:
      best = found
  assert best is not None
  return best.x, float(_deviance(_model(best.x, t)[0], k, n))


def _starts(t, k, n, keep: int = 3):
  """The best of a grid of middles and slopes, the ends by least squares."""
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
  """Standard error of log10 I_50 that the points' errors `se` carry into it."""
  if not np.all(np.isfinite(se)):
    return None
  weighted = jacobian * weight[:, None]
  spread = np.linalg.pinv(jacobian.T @ weighted) @ weighted.T
  return float(np.sqrt(np.sum((spread[0] * se) ** 2)))


def _interval(logs: Mapping[str, float], grid) -> Estimate | None:
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
    extrapolated=bool(np.min(abs(grid - middle)) > NEAR),
  )


def _join(reasons: Mapping[str, str], seeds: int) -> str | None:
  if not seeds:
    return 'no points'
  texts: dict[str, list[str]] = {}
  for seed, text in reasons.items():
    if text:
      texts.setdefault(text, []).append(seed)
  return (
    '; '.join(
      f'{"seed " if len(who) == 1 else "seeds "}{", ".join(who)}: {text}'
      for text, who in texts.items()
    )
    or None
  )
