"""Evaluates a run from its workdir alone: `python -m onlyif_jax.evaluate --workdir=DIR`."""

from absl import flags, logging

from onlyif_jax import bucket, cli

_WORKDIR = flags.DEFINE_string('workdir', None, 'The directory or URL of a run.')
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint step; default: the newest.')
_EXAMPLES = flags.DEFINE_integer(
  'examples', None, 'Per split; default: as in training.', lower_bound=1
)
_SPLIT = flags.DEFINE_string(
  'split',
  'all',
  'unseen, dev, seen, train, one that the task adds, counterfactual, or all.',
)
_SHOW = flags.DEFINE_integer('show', 0, 'Wrong outputs to print, decoded freely.', 0)
_MEMBER = flags.DEFINE_string('member', None, 'One member; default: all.')


def main(argv) -> int:
  """Prints the exact match of every member as a table."""
  del argv
  if not _WORKDIR.value:
    cli.fail('--workdir is missing; give the directory of a run')
  logging.set_verbosity(logging.WARNING)
  from onlyif_jax import evaluation, sweep  # loads JAX

  with bucket.local(_WORKDIR.value) as path:
    run = evaluation.open_run(path)
    sweep.claim_devices(run.config)
    splits = None if _SPLIT.value == 'all' else (_SPLIT.value,)
    evaluation.show(
      run,
      members=(_MEMBER.value,) if _MEMBER.value else None,
      step=_STEP.value,
      examples=_EXAMPLES.value,
      splits=splits,
      wrong=_SHOW.value,
    )
  return 0


if __name__ == '__main__':
  cli.run(main)
