"""A whole fine-tuning run: base, rows, answers, and the files it leaves.

<workdir>/config.json, provenance.json, splits.json, ledger.jsonl, metrics.jsonl,
results.csv, anatomy.csv, wrong.jsonl, checkpoints/<row>/<step>, and base/ if the model
was made on the spot. The same command resumes; more counts, variants, seeds or mixtures
extend the run.
"""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from onlyif_jax import benchmarking
from onlyif_jax.analysis import reporting, tuned
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import preview
from onlyif_jax.corpora.rows import Row
from onlyif_jax.corpora.tokenizer import load_tokenizer
from onlyif_jax.evals import answering
from onlyif_jax.evals.answering import Answerer
from onlyif_jax.evals.jobs import Job
from onlyif_jax.finetune import answers, loop, mixed, symbolic, tuning_config
from onlyif_jax.finetune import base as base_lib
from onlyif_jax.finetune import rows as rows_lib
from onlyif_jax.finetune.base import Base
from onlyif_jax.finetune.rows import TuningRow
from onlyif_jax.finetune.symbolic_task import SymbolicTask
from onlyif_jax.finetune.tuning_config import Tuning
from onlyif_jax.loop import StopSignal
from onlyif_jax.models import lora
from onlyif_jax.models.lora import Parts
from onlyif_jax.progress import Progress
from onlyif_jax.provenance import provenance
from onlyif_jax.training import placement
from onlyif_jax.tuning_settings import MixtureTuning, SymbolicTuning
from onlyif_jax.workdir import Workdir

BASE = 'base'
_TABLES = {
  'results.csv': (*rows_lib.COLUMNS, *answers.RESULT_COLUMNS),
  'anatomy.csv': (*rows_lib.COLUMNS, *answers.ANATOMY_COLUMNS),
}


def main(tuning: Tuning, path: str | Path) -> int:
  """Runs or resumes and prints the results; the exit code.

  0: done; 1: a row stopped being finite and the others went on; 143: stopped.
  """
  began, stop = time.perf_counter(), StopSignal()
  run = TuningRun(tuning, Path(path), stop)
  try:
    finished = run.train()
  except base_lib.StoppedError:
    print(f'stopped before the base was made; the same command starts again ({path})')
    return 128 + stop.number
  if not finished:
    print(f'stopped after a save; the same command goes on from there ({path})')
    return 128 + stop.number
  if run.workdir.file('results.csv').exists():  # not if no row was finite
    reporting.finish(Path(path))
  print(f'took {(time.perf_counter() - began) / 60:.1f} min; files: {path}')
  for name, step in run.failed.items():
    print(
      f'{name} stopped being finite by step {step}: lower optim.learning_rate, or clip '
      'its gradient (optim.clip)',
      file=sys.stderr,
    )
  return 1 if run.failed else 0


def show_rows(tuning: Tuning, path: str | Path, count: int) -> None:
  """Prints the first rows as the model reads them, with what the loss counts.

  Of the first mixture or number of rules; of several kinds of question, of each.
  """
  run = TuningRun(tuning, Path(path))
  with contextlib.ExitStack() as stack:
    directory = Path(tuning.base.directory or run.workdir.file(BASE))
    if not tuning.base.directory and not directory.exists():
      # Its tokenizer is what is needed of a base that is still to be made.
      directory = Path(stack.enter_context(tempfile.TemporaryDirectory())) / BASE
      scratch = dataclasses.replace(tuning.scratch, steps=0)
      bare = dataclasses.replace(tuning, scratch=scratch)
      base_lib.make(bare, run.base_rows(), directory)
    tokenizer = load_tokenizer(directory)
  for kind, row in run.kinds():
    if kind:
      print(f'{row.name}:')
    sources, plan = run.task(row).training()
    preview.preview(plan, sources, tokenizer, loop.batch_settings(tuning, row), count)


class Asking(NamedTuple):
  """One way of asking the untuned base."""

  name: str  # of its row in the tables
  row: TuningRow  # whose questions are asked
  shots: int  # solved examples before each question


class TuningRun:
  """The rows of a config in a workdir.

  Raises ConfigError for a workdir of another config.
  """

  def __init__(self, tuning: Tuning, path: Path, stop: StopSignal | None = None):
    self.workdir, self.stop = Workdir(path), stop
    stored = stored_config(path)
    changed = tuning_config.differences(stored, tuning) if stored else {}
    if changed:
      fields = '; '.join(
        f'{k}: {a!r} there, {b!r} now' for k, (a, b) in changed.items()
      )
      raise ConfigError(
        f'--workdir={path} holds a run of another config ({fields}); give another '
        '--workdir'
      )
    self.tuning = extended(stored, tuning) if stored else tuning
    if isinstance(tuning, SymbolicTuning):
      symbolic.check_prompt(tuning)
    self.mesh = placement.make_mesh(tuning.devices)
    self.rows = rows_lib.rows(self.tuning)

  @property
  def done(self) -> set[str]:
    """The names of the rows whose results are complete."""
    return {e['row'] for e in self.workdir.ledger() if e['event'] == 'done'}

  @property
  def failed(self) -> dict[str, int]:
    """Row -> the step at which its loss stopped being finite; it is not tried again."""
    events = [e for e in self.workdir.ledger() if e['event'] == 'failed']
    return {e['row']: e['step'] for e in events}

  def base(self) -> Base:
    """The pretrained model; a small one is made if the config names none.

    Raises base.StoppedError and leaves nothing if a signal stops its making.
    """
    directory = Path(self.tuning.base.directory or self.workdir.file(BASE))
    if not self.tuning.base.directory and not directory.exists():
      steps = self.tuning.scratch.steps
      print(f'making a small base on the spot, {steps:,} steps', file=sys.stderr)
      base_lib.make(self.tuning, self.base_rows(), directory, self.stop)
    return base_lib.load(self.tuning, directory, self.mesh)

  def train(self) -> bool:
    """Trains and judges every row that is not done; False if a signal stopped it.

    Raises base.StoppedError if a signal came before there was a base.
    """
    finished = self.done | set(self.failed)
    remaining = [row for row in self.rows if row.name not in finished]
    if not remaining:
      print(f'already done: the results of all {len(self.rows)} rows')
      return True
    self.workdir.create()
    _ = self._jobs  # refuses benchmarks that cannot be run before anything else
    base = self.base()
    lora.check(self.tuning.lora, self.tuning.base.quantize, base.config)
    self._certify(base)
    # Everything that may be wrong was read: from here on the workdir is this config's.
    self.workdir.write_json('config.json', dataclasses.asdict(self.tuning))
    self._cut_back()
    self._write_provenance(base)
    for asking in self._askings():
      self._ask_untuned(asking, base)
    progress = Progress(len(self.rows), [self._work(row) for row in remaining])
    with progress:
      progress.rows_done = len(self.rows) - len(remaining)
      for row in remaining:
        if not self._row(row, base, progress):
          return False
    return True

  def _write_provenance(self, base: Base) -> None:
    call = provenance() | base_lib.describe(base)
    call['devices'] = [str(d) for d in self.mesh.devices.flat]
    if self.workdir.file('provenance.json').exists():
      self.workdir.append_json('resumes.jsonl', call)
    else:
      self.workdir.write_json('provenance.json', call)

  def _work(self, row: TuningRow) -> float:
    """The row's number of examples, up to a factor that all rows share."""
    if isinstance(self.tuning, SymbolicTuning):
      return tuning_config.parse_subset(row.subset)[0]
    return sum(self.tuning.mixture.counts(row.mixture).values())

  def _row(self, row: TuningRow, base: Base, progress: Progress) -> bool:
    """Trains and judges a row; False if a signal stopped it."""
    task = self.task(row)
    plan = loop.make_plan(self.tuning, row, base, *task.training())
    row_progress = progress.stack(
      1,
      plan.survey.batches,
      self.tuning.tune.batch_size,
      compiles=not progress.trained,
    )
    row_run = loop.RowRun(
      self.tuning, row, base, plan, self.workdir, self.mesh, row_progress, self.stop
    )
    try:
      parts = row_run.run()
    except loop.NotFiniteError as e:
      event = {'event': 'failed', 'row': row.name, 'step': e.step}
      self.workdir.append_json('ledger.jsonl', event)
      row_progress.done()
      return True
    if parts is None:
      return False
    self._judge(row, task, base, parts)
    self._benchmark(row, base, parts)
    event = {'event': 'done', 'row': row.name, 'steps': plan.survey.batches}
    facts = dataclasses.asdict(plan.survey) | task.facts()
    self.workdir.append_json('ledger.jsonl', event | facts)
    row_progress.done()
    return True

  def _askings(self) -> list[Asking]:
    """How the untuned base is still to be asked."""
    a = self.tuning.answers
    counts = [*([0] if a.zero_shot else []), *([a.shots] if a.shots else [])]
    askings = [
      Asking(tuned.shots_row(shots) + kind, row, shots)
      for shots in counts
      for kind, row in self.kinds()
    ]
    return [asking for asking in askings if asking.name not in self.done]

  def kinds(self) -> list[tuple[str, TuningRow]]:
    """(part of a name, the first row) of every kind of question."""
    if isinstance(self.tuning, SymbolicTuning):
      return symbolic.kinds(self.tuning, self.rows)
    return [('', self.rows[0])]

  def _ask_untuned(self, asking: Asking, base: Base) -> None:
    """Judges the base before any fine-tuning, on the questions of a row."""
    row = dataclasses.replace(asking.row, name=asking.name, instructions=0, mixture='')
    parts = loop.adapt(self.tuning, asking.row, base)
    self._judge(row, self.task(asking.row, asking.shots), base, parts)
    self._benchmark(row, base, parts)
    self.workdir.append_json('ledger.jsonl', {'event': 'done', 'row': row.name})

  def _judge(self, row: TuningRow, task: Any, base: Base, parts: Parts) -> None:
    evaluation = task.judge(self.tuning, base, parts)
    tables = {'results.csv': evaluation.results, 'anatomy.csv': evaluation.anatomy}
    for name, lines in tables.items():
      rows = [row.columns() | line for line in lines]
      self.workdir.append_csv(name, _TABLES[name], rows)
    wrong = [{'row': row.name} | line for line in evaluation.wrong]
    self.workdir.append_json('wrong.jsonl', *wrong)

  def task(self, row: TuningRow, shots: int = 0) -> Any:
    """The row's examples, and how a model is judged on them.

    shots: solved examples before each question of a symbolic task.
    """
    if isinstance(self.tuning, SymbolicTuning):
      return SymbolicTask(self.tuning, row, shots)
    return mixed.MixtureTask(self.tuning, row)

  def _benchmark(self, row: TuningRow, base: Base, parts: Parts) -> None:
    """Runs the config's benchmarks on a model, into benchmarks/<row>."""
    if not self._jobs:
      return
    settings = self._benchmark_settings(base.directory, row)
    answerer = Answerer(
      parts.graphdef,
      parts.weights(),
      base.tokenizer,
      stop_ids=answering.stop_ids(base.tokenizer),
      batch_size=settings.batch_size,
      seed=row.seed,
    )
    origin = {'model': row.name, 'model_sha256': base.digest, 'run': self.tuning.name}
    benchmarking.execute(settings, self._jobs, answerer, origin)

  @functools.cached_property
  def _jobs(self) -> list[Job]:
    """The benchmarks of every row, with data that is read once; raises ConfigError."""
    if isinstance(self.tuning, SymbolicTuning) or not self.tuning.benchmarks.names:
      return []
    directory = Path(self.tuning.base.directory or self.workdir.file(BASE))
    return benchmarking.plan(self._benchmark_settings(directory, self.rows[0]))

  def _benchmark_settings(self, model: Path, row: TuningRow) -> benchmarking.Settings:
    assert isinstance(self.tuning, MixtureTuning)
    b = self.tuning.benchmarks
    return benchmarking.Settings(
      model=model,
      out=self.workdir.file(f'benchmarks/{row.name}'),
      benchmarks=b.names,
      protocol=b.protocol,
      data=Path(b.data) if b.data else None,
      workers=b.workers,
      allow_network=b.allow_network,
      batch_size=self.tuning.answers.batch_size,
      seed=row.seed,
    )

  def base_rows(self) -> list[Row]:
    """The rows that a small base is trained on."""
    if isinstance(self.tuning, SymbolicTuning):
      return symbolic.base_rows(self.tuning, self.tuning.scratch.examples)
    return mixed.base_rows(self.tuning)

  def _certify(self, base: Base) -> None:
    """Writes the certificates of the splits, or the manifest of the mixtures."""
    if isinstance(self.tuning, SymbolicTuning):
      reports = [
        report
        for row in self.rows
        for report in symbolic.certificates(self.tuning, row)
      ]
      self.workdir.write_json('splits.json', reports)
    else:
      mixed.write(self.tuning, self.workdir.path, base.directory)

  def _cut_back(self) -> None:
    """Drops the results of rows that are not done."""
    done = self.done
    for name, columns in _TABLES.items():
      kept = [row for row in self.workdir.read_csv(name) if row['name'] in done]
      if self.workdir.file(name).exists():
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator='\n')
        writer.writeheader()
        writer.writerows(kept)
        self.workdir.write_text(name, table.getvalue())
    if wrong := self.workdir.read_json_lines('wrong.jsonl'):
      lines = [json.dumps(line) + '\n' for line in wrong if line['row'] in done]
      self.workdir.write_text('wrong.jsonl', ''.join(lines))


def stored_config(path: Path) -> Tuning | None:
  """The config of a workdir, None if there is no run yet; raises ConfigError."""
  file = path / 'config.json'
  if not file.exists():
    return None
  try:
    return tuning_config.freeze(json.loads(file.read_text()))
  except (ValueError, TypeError, AttributeError, KeyError, ConfigError) as e:
    raise ConfigError(
      f'{file} is not a config of fine-tuning ({e}); give another --workdir'
    ) from None


def extended(stored: Tuning, new: Tuning) -> Tuning:
  """The stored config with the union of both calls' rows."""
  if isinstance(stored, SymbolicTuning) and isinstance(new, SymbolicTuning):
    old, more = stored.instructions, new.instructions
    variants = tuple(dict.fromkeys([*(old.variants or ['']), *(more.variants or [''])]))
    union = dataclasses.replace(
      old,
      counts=tuple(sorted({*old.counts, *more.counts})),
      variants=() if variants == ('',) else variants,
      seeds=max(old.seeds, more.seeds),
    )
    return dataclasses.replace(stored, instructions=union, devices=new.devices)
  assert isinstance(stored, MixtureTuning)
  assert isinstance(new, MixtureTuning)
  mixture = dataclasses.replace(
    stored.mixture, rows=tuple(dict.fromkeys((*stored.mixture.rows, *new.mixture.rows)))
  )
  seeds = max(stored.seeds, new.seeds)
  return dataclasses.replace(stored, mixture=mixture, seeds=seeds, devices=new.devices)
