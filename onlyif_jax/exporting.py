"""What `export` writes: Hugging Face directories; examples as JSON lines or TFDS."""

import dataclasses
import functools
import json
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
from onlyif_jax.evaluation import open_run, restore
from onlyif_jax.experiment import Row
from onlyif_jax.models import hf
from onlyif_jax.tasks import certificate
from onlyif_jax.training import parallel

_IDS = (
  'tokens',
  'answer_start',
  'answer_length',
)  # left to the tokenizer in JSON lines


def run_to_hf(workdir, out, member: str | None = None, step: int | None = None) -> Path:
  """Writes a member of a workdir as a Hugging Face directory; returns its path."""
  run = open_run(workdir)
  row = _choose([row for _, rows in run.stacks for row in rows], member)
  one = next(restore(run, (row.member,), step))
  own = run.experiment.sibling(one.row)
  params, symbols = jax.device_get(one.params), own.task.symbols
  hf.save_gpt2(params, own.model, out, symbols=symbols)
  return Path(out)


def config_to_jsonl(config: RunConfig, out, member: str | None = None) -> Path:
  """Writes a member's training, dev and unseen examples; returns the directory.

  Beside them splits.json, the certificate that they share nothing, as a run has it.
  Raises ConfigError if `out` cannot be written or the split does not hold.
  """
  evaluator, chosen, sets = _examples(config, member)
  return export_jsonl(evaluator, chosen, sets, out, lambda: _certified(config))


def export_jsonl(
  evaluator: Evaluator,
  member: Member,
  sets: Sequence[EvalSet],
  out,
  certify: Callable[[], list[dict]] | None = None,
) -> Path:
  """Writes <split>.jsonl per set: what a member trains on or is evaluated on.

  A row has split, input, lhs, rhs, output, prompt and slices. The prompt is the
  text for the exported tokenizer; lhs and rhs are what it states, so they are
  masked where the member's are. certify: makes what splits.json says, if it is wanted.
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


def config_to_tfds(config: RunConfig, out, member: str | None = None) -> Path:
  """Writes the same examples as a TFDS dataset; returns the directory.

  Its metadata has the config, the member, the certificate of the split (as in
  splits.json) and the sha256 of each split's rows, equal on every machine. Raises
  ConfigError if `out` cannot be written or the split does not hold.
  """
  from onlyif_jax.corpora import rewriting  # slow to import

  evaluator, chosen, sets = _examples(config, member)
  with hf.new_directory(Path(out)) as folder:
    metadata = {
      'config': dataclasses.asdict(config),
      'member': _choose(experiment_lib.rows(config), member).member,
      'certificate': _certified(config),
    }
    rewriting.write(make_rows(evaluator, chosen, sets), metadata, folder)
  return Path(out)


def examples(config: RunConfig, member: str | None, count: int):
  """Split -> the first `count` rows of what `config_to_jsonl` writes, in memory."""
  evaluator, chosen, sets = _examples(config, member)
  few = [dataclasses.replace(s, examples=min(count, s.examples)) for s in sets]
  made = make_rows(evaluator, chosen, few)
  return {
    split: [{k: row[k] for k in row if k not in _IDS} for row in rows]
    for split, rows in made.items()
  }


def make_rows(
  evaluator: Evaluator, member: Member, sets: Sequence[EvalSet]
) -> dict[str, Iterator[dict]]:
  """Split -> the rows of its set, made as they are taken; see `_row`."""
  make = _program(evaluator)
  size = min(evaluator.batch_size, max(one.examples for one in sets))

  def rows(one: EvalSet) -> Iterator[dict]:
    for start in range(0, one.examples, size):
      i_B = start + jnp.arange(size, dtype=jnp.int32)
      batch, exists_B = jax.device_get(make(member, one, i_B))
      for b in np.flatnonzero(exists_B & (np.asarray(i_B) < one.examples)):
        yield _row(evaluator.data.task, batch, b)

  return {one.split: rows(one) for one in sets}


@functools.lru_cache(maxsize=4)
def _program(evaluator: Evaluator):
  """(member, set, places) -> a batch; members of a sweep share its compiled form."""
  return jax.jit(evaluator.batch, static_argnums=1)


def _certified(config: RunConfig) -> list[dict]:
  """The content of splits.json; raises ConfigError where the split does not hold."""
  reports = sweep.certificates(experiment_lib.build(config))
  wrong = [line for report in reports for line in certificate.broken(report)]
  if wrong:
    raise ConfigError(f'the split does not hold ({"; ".join(wrong)})')
  return reports


def _examples(config: RunConfig, member: str | None):
  """What export's sets are made of: (evaluator, member, sets)."""
  experiment = experiment_lib.build(sweep.resolve(config))
  row = _choose(experiment_lib.rows(config), member)
  experiment = experiment.sibling(row)
  config = experiment.config
  sets = [EvalSet('train', config.data.examples)]
  held_out = [
    one
    for one in eval_sets(config.eval, experiment.data.task)
    if one.split not in ('train', 'seen') and not one.label
  ]
  sets += sorted(held_out, key=lambda one: one.split)
  return experiment.evaluator(parallel.make_mesh(1)), experiment.member(row), sets


def _row(task, batch, b) -> dict:
  """One example of a batch on the host, as text and as token ids."""
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
  names = [row.member for row in rows]
  if member is None and len(rows) == 1:
    return rows[0]
  if member not in names:
    problem = 'is missing' if member is None else f'{member} is not in the run'
    shown = ', '.join(names[:6]) + (' …' if len(names) > 6 else '')
    raise ConfigError(f'--member {problem}; members: {shown}')
  return rows[names.index(member)]
