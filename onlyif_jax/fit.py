"""Fits the transition in any table of counts: `python -m onlyif_jax.fit --csv=FILE`."""

from absl import flags

from onlyif_jax import cli
from onlyif_jax.analysis import results, scoreboard
from onlyif_jax.analysis.transition import fit_transition
from onlyif_jax.config import ConfigError

_CSV = flags.DEFINE_string('csv', None, 'A csv file with a header line.')
_X = flags.DEFINE_string('x', 'x', 'Column: number of instructions.')
_K = flags.DEFINE_string('k', 'k', 'Column: right answers.')
_N = flags.DEFINE_string('n', 'n', 'Column: answers.')
_SEED = flags.DEFINE_string('seed', None, 'Column: seed; without it all rows are one.')


def main(argv) -> int:
  """Prints I_50 with its interval, the bracket, and each seed's fit."""
  del argv
  if not _CSV.value:
    raise ConfigError('--csv is missing; give a file with a row per count and seed')
  points = results.read_points(_CSV.value, _X.value, _K.value, _N.value, _SEED.value)
  transition = fit_transition(points)
  print(f'I_50: {scoreboard.estimate(transition.i_50)}')
  print(f'bracket (fails up to / holds from): {scoreboard.brackets(transition)}')
  print(f'i_min (1 %): {scoreboard.flagged(transition.i_min)}')
  print(f'i_max (99 %): {scoreboard.flagged(transition.i_max)}')
  for seed, fit in transition.fits.items():
    print(
      f'seed {seed}: I_50 {scoreboard.number(10**fit.log_i50)}, slope {fit.slope:.3g} '
      f'per decade, floor {fit.floor:.3f}, ceiling {fit.ceiling:.3f}, '
      f'deviance {fit.deviance:.3g} on {fit.freedom}'
    )
  if transition.reason:
    print(f'no fit for {transition.reason}')
  return 0


if __name__ == '__main__':
  cli.run(main)
