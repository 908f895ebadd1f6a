"""What `export` writes: Hugging Face directories, and examples as JSON lines."""

import json
from collections.abc import Sequence
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
from onlyif_jax.training import parallel

SPLITS = ('train', 'dev', 'unseen')
_SIDES = {'x': 'lhs', 'y': 'rhs', 'z': 'input'}


def run_to_hf(workdir, out, member: str | None = None, step: int | None = None) -> Path:
  """Writes a member of a workdir as a Hugging Face directory; returns its path."""
  run = open_run(workdir)
  row = _choose([row for _, rows in run.stacks for row in rows], member)
  one = next(restore(run, (row.member,), step))
  hf.save_gpt2(jax.device_get(one.params), run.experiment.model, out)
  return Path(out)


def config_to_jsonl(config: RunConfig, out, member: str | None = None) -> Path:
  """Writes a member's training, dev and unseen examples; returns the directory."""
  experiment = experiment_lib.build(sweep.resolve(config))
  row = _choose(experiment_lib.rows(config), member)
  evaluator = experiment.evaluator(parallel.make_mesh(1))
  sets = [EvalSet('train', config.data.examples)]
  noops = experiment.data.task.noops
  sets += [s for s in eval_sets(config.eval, noops, SPLITS[1:]) if not s.label]
  return export_jsonl(evaluator, experiment.member(row), sets, out)


def export_jsonl(
  evaluator: Evaluator, member: Member, sets: Sequence[EvalSet], out
) -> Path:
  """Writes <split>.jsonl per set: what a member trains on or is evaluated on.

  A row has split, input, lhs, rhs, output, prompt and slices. The prompt is the
  text for the exported tokenizer; lhs and rhs are what it states, so they are
  masked where the member's are. Raises ConfigError if `out` cannot be written.
  """
  make = jax.jit(evaluator.batch, static_argnums=1)
  size = min(evaluator.batch_size, max(one.examples for one in sets))
  with hf.new_directory(Path(out)) as folder:
    for one in sets:
      with (folder / f'{one.split}.jsonl').open('w', encoding='utf-8') as file:
        for start in range(0, one.examples, size):
          i_B = start + jnp.arange(size, dtype=jnp.int32)
          batch, exists_B = jax.device_get(make(member, one, i_B))
          for b in np.flatnonzero(exists_B & (np.asarray(i_B) < one.examples)):
            row = {'split': one.split} | _row(evaluator.data.task, batch, b)
            file.write(json.dumps(row, ensure_ascii=False) + '\n')
  return Path(out)


def _row(task, batch, b) -> dict:
  """One example of a batch on the host, as plain values."""
  start, count = int(batch.answer_BA[b, 0]) + 1, int(batch.weights_BA[b].sum())
  prompt = hf.to_text(batch.tokens_BL[b, :start])
  parts = zip(task.order, prompt.split('<sep>'), strict=False)
  sides = {_SIDES[name]: text for name, text in parts}
  return {
    'input': sides['input'],
    'lhs': sides['lhs'],
    'rhs': sides['rhs'],
    'output': hf.to_text(batch.tokens_BL[b, start : start + count - 1]),
    'prompt': prompt,
    'slices': {name: int(v[b]) for name, v in batch.slices.items()},
  }


def _choose(rows: Sequence[Row], member: str | None) -> Row:
  names = [row.member for row in rows]
  if member is None and len(rows) == 1:
    return rows[0]
  if member not in names:
    problem = 'is missing' if member is None else f'{member} is not in the run'
    shown = ', '.join(names[:6]) + (' …' if len(names) > 6 else '')
    raise ConfigError(f'--member {problem}; members: {shown}')
  return rows[names.index(member)]
