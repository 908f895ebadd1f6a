"""A config whose whole sweep takes a second once it is compiled; for tests."""

from onlyif_jax.config import base_config, parse_arg


def get_config(arg=None):
  """The config of a size: 'cpu' or 'full', with counts= and seeds=."""
  given = parse_arg(arg, ('cpu', 'full'), counts=tuple[int, ...], seeds=str)
  c = base_config()
  c.name, c.size = 'toy', given.size
  c.task.alphabet, c.task.input_length = 7, 5
  c.task.x_min = c.task.x_max = c.task.y_min = c.task.y_max = 3
  c.data.examples, c.data.epochs, c.data.batch_size = 211, 1.0, 7
  c.model.layers, c.model.width, c.model.heads = 1, 13, 1
  c.eval.examples, c.eval.cell_examples, c.eval.batch_size = 41, 0, 23
  c.eval.loop_examples, c.eval.loop_points = 41, 3  # the same programs
  c.eval.outputs = 0  # one test looks at outputs; the others need not compile it
  c.sweep.counts = given.counts or (3, 17)
  c.sweep.seeds = given.seeds or '1'
  c.sweep.references, c.sweep.reference_count = ('one',), 5
  c.stack.mode, c.stack.members, c.stack.member_devices = 'map', 2, 2
  c.stack.data_devices, c.stack.chunk = 1, 5
  c.checkpoint.every = 11
  return c
