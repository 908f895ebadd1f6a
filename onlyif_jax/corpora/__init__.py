"""Prepared sets of examples, and the pipeline that reads them without JAX.

TFDS and Grain are imported only when a set is opened.
"""

from pathlib import Path

import numpy as np

from onlyif_jax.config import ConfigError

NAME, VERSION = 'rewriting', '1.0.0'


def open_set(directory):
  """The read-only TFDS builder of a directory that `export --to=tfds` wrote.

  `.info.metadata` has the config, the certificate and the hashes; `.info.splits`
  the sizes; `.as_data_source(split)` the examples, text as bytes. Raises
  ConfigError if the directory holds no such set.
  """
  import tensorflow_datasets as tfds

  path = Path(directory) / NAME / VERSION
  if not (path / 'dataset_info.json').exists():
    raise ConfigError(
      f'{directory} holds no prepared set (no {NAME}/{VERSION} in it); '
      'write one with export --to=tfds'
    )
  return tfds.builder_from_directory(path)


def pipeline(directory, split: str, batch_size: int, seed: int, epochs: int | None = 1):
  """A Grain dataset of batches over a prepared set, shuffled anew in each epoch.

  split: 'train', 'dev', 'unseen' or a part such as 'train[:10%]'; epochs: None for
  no end. A batch has tokens (int32 [B, L]), answer_start, answer_length (int32 [B])
  and slices (name -> int32 [B]); only the last one may be smaller than batch_size.
  Iterators over the result have get_state and set_state: one that is set to a stored
  state goes on with the next batch.
  """
  import grain

  builder = open_set(directory)
  name = split.split('[')[0]
  if name not in builder.info.splits:
    known = ', '.join(builder.info.splits)
    raise ConfigError(f'{directory} has no split {name!r}; splits: {known}')
  source = builder.as_data_source(split)  # pyright: ignore[reportCallIssue]
  dataset = grain.MapDataset.source(source).shuffle(seed=seed).repeat(epochs)
  # By default Grain reads 500 elements ahead, and here an element is a batch.
  ahead = grain.ReadOptions(num_threads=4, prefetch_buffer_size=16)
  return dataset.map(_arrays).batch(batch_size).to_iter_dataset(ahead)


def _arrays(row: dict) -> dict:
  """A row as int32 arrays (TFDS widens scalars), without its texts."""
  names = ('tokens', 'answer_start', 'answer_length')
  arrays: dict = {name: np.asarray(row[name], np.int32) for name in names}
  arrays['slices'] = {k: np.asarray(v, np.int32) for k, v in row['slices'].items()}
  return arrays
