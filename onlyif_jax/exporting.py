"""Exports members as Hugging Face directories, and examples as JSON lines or TFDS."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax import experiment as experiment_lib
from onlyif_jax import sweep
from onlyif_jax.config import ConfigError, RunConfig
from onlyif_jax.data import Member
from onlyif_jax.evals.exact_match import EvalSet, Evaluator, eval_sets
from onlyif_jax.evaluation import first_names, open_run, restore
from onlyif_jax.experiment import Row
from onlyif_jax.models import hf
from onlyif_jax.tasks import certificate
from onlyif_jax.training import parallel

# Columns of token ids; JSON lines have the text instead.
_IDS = ('tokens', 'answer_start', 'answer_length')


def run_to_hf(
  workdir: str | os.PathLike,
  out: str | os.PathLike,
  member: str | None = None,
  step: int | None = None,
) -> Path:
  """Writes a member of a workdir as a Hugging Face directory; returns its path."""
  run = open_run(workdir)
  row = _choose([row for _, rows in run.stacks for row in rows], member)
  restored = next(restore(run, (row.member,), step))
  experiment = run.experiment.sibling(row)
  params, symbols = jax.device_get(restored.params), experiment.task.symbols
  hf.save_gpt2(params, experiment.model, out, symbols=symbols)
  return Path(out)


def config_to_jsonl(
  config: RunConfig, out: str | os.PathLike, member: str | None = None
) -> Path:
  """Writes a member's training, dev and unseen examples; returns the directory.

  Beside them splits.json, the certificate that they are disjoint, as in a workdir.
  Raises ConfigError if `out` cannot be written or the split does not hold.
  """
  evaluator, traced_member, sets = _examples(config, member)
  return export_jsonl(evaluator, traced_member, sets, out, lambda: _certified(config))


def export_jsonl(
  evaluator: Evaluator,
  member: Member,
  sets: Sequence[EvalSet],
  out: str | os.PathLike,
  certify: Callable[[], list[dict]] | None = None,
) -> Path:
  """Writes <split>.jsonl per set: what a member is trained or evaluated on.

  A row has split, input, lhs, rhs, output, prompt and slices. The prompt is the text
  for the exported tokenizer; lhs and rhs are taken from it, so they are masked where
  the member's are. certify: makes the content of splits.json; None: no such file.
  Raises ConfigError if `out` cannot be written.
  """
  with hf.new_directory(Path(out)) as folder:
    if certify:
      text = json.dumps(certify(), indent=1)
      (folder / 'splits.json').write_text(text + '\n', encoding='utf-8')
    for split, rows in make_rows(evaluator, member, sets).items():
      with (folder / f'{split}.jsonl').open('w', encoding='utf-8') as file:
        for row in rows:
          text = {'split': split} | {k: row[k] for k in row if k not in _IDS}
          file.write(json.dumps(text, ensure_ascii=False) + '\n')
  return Path(out)


def config_to_tfds(
  config: RunConfig, out: str | os.PathLike, member: str | None = None
) -> Path:
  """Writes the same examples as a TFDS dataset; returns the directory.

  Its metadata has the config, the member, the certificate of the split (as in
  splits.json) and the sha256 of each split's rows, which is equal on every machine.
  Raises ConfigError if `out` cannot be written or the split does not hold.
  """
  from onlyif_jax.corpora import rewriting  # slow to import

  evaluator, traced_member, sets = _examples(config, member)
  with hf.new_directory(Path(out)) as folder:
    metadata = {
      'config': dataclasses.asdict(config),
      'member': _choose(experiment_lib.rows(config), member).member,
      'certificate': _certified(config),
    }
    rewriting.write(make_rows(evaluator, traced_member, sets), metadata, folder)
  return Path(out)


def examples(
  config: RunConfig, member: str | None, count: int
) -> dict[str, list[dict]]:
  """Split -> the first `count` rows that `config_to_jsonl` writes."""
  evaluator, traced_member, sets = _examples(config, member)
  few = [dataclasses.replace(s, examples=min(count, s.examples)) for s in sets]
  return {
    split: [{k: row[k] for k in row if k not in _IDS} for row in rows]
    for split, rows in make_rows(evaluator, traced_member, few).items()
  }


def make_rows(
  evaluator: Evaluator, member: Member, sets: Sequence[EvalSet]
) -> dict[str, Iterator[dict]]:
  """Split -> the rows of its set, generated lazily; see `_row`."""
  make_batch = _program(evaluator)
  size = min(evaluator.batch_size, max(eval_set.examples for eval_set in sets))

  def rows(eval_set: EvalSet) -> Iterator[dict]:
    for start in range(0, eval_set.examples, size):
      i_B = start + jnp.arange(size, dtype=jnp.int32)
      batch, exists_B = jax.device_get(make_batch(member, eval_set, i_B))
      exists_B = exists_B & (np.asarray(i_B) < eval_set.examples)
      for b in np.flatnonzero(exists_B).tolist():
        yield _row(evaluator.data.task, batch, b)

  return {eval_set.split: rows(eval_set) for eval_set in sets}


@functools.lru_cache(maxsize=4)
def _program(evaluator: Evaluator):
  """(member, set, i_B) -> a batch, in a compiled form that members share."""
  return jax.jit(evaluator.batch, static_argnums=1)


def _certified(config: RunConfig) -> list[dict]:
  """The content of splits.json; raises ConfigError where the split does not hold."""
  reports = sweep.certificates(experiment_lib.build(config))
  violations = [line for report in reports for line in certificate.broken(report)]
  if violations:
    raise ConfigError(f'the split does not hold ({"; ".join(violations)})')
  return reports


def _examples(
  config: RunConfig, member: str | None
) -> tuple[Evaluator, Member, list[EvalSet]]:
  """(evaluator, member, sets) from which the examples of an export are made."""
  experiment = experiment_lib.build(sweep.resolve(config))
  row = _choose(experiment_lib.rows(config), member)
  experiment = experiment.sibling(row)
  config = experiment.config
  held_out = [
    eval_set
    for eval_set in eval_sets(config.eval, experiment.data.task)
    if eval_set.split not in ('train', 'seen') and not eval_set.label
  ]
  held_out.sort(key=lambda eval_set: eval_set.split)
  sets = [EvalSet('train', config.data.examples), *held_out]
  return experiment.evaluator(parallel.make_mesh(1)), experiment.member(row), sets


def _row(task, batch, b: int) -> dict:
  """Example b of a batch on the host, as text and as token ids."""
  start, count = int(batch.answer_BA[b, 0]) + 1, int(batch.weights_BA[b].sum())
  ids_L, symbols = batch.tokens_BL[b], task.symbols
  fields = task.fields(ids_L[:start])
  return {name: _letters(symbols, letters) for name, letters in fields.items()} | {
    'output': hf.to_text(ids_L[start : start + count - 1], symbols),
    'prompt': hf.to_text(ids_L[:start], symbols),
    'slices': {name: int(v[b]) for name, v in batch.slices.items()},
    'tokens': ids_L.tolist(),
    'answer_start': start,
    'answer_length': count,
  }


def _letters(symbols, letters) -> str:
  return ''.join(symbols[n] if n >= 0 else '<mask>' for n in letters)


def _choose(rows: Sequence[Row], member: str | None) -> Row:
  """The row of a member; None: the only one. Raises ConfigError."""
  names = [row.member for row in rows]
  if member is None and len(rows) == 1:
    return rows[0]
  if member not in names:
    problem = 'is missing' if member is None else f'{member} is not in the run'
    raise ConfigError(f'--member {problem}; members: {first_names(names)}')
  return rows[names.index(member)]
