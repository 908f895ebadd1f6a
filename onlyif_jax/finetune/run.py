"""A whole fine-tuning run: base, rows, answers, and the files that it leaves.

<workdir>/config.json, provenance.json, splits.json, ledger.jsonl, metrics.jsonl,
results.csv, anatomy.csv, wrong.jsonl, checkpoints/<row>/<step>, and base/ where the
model was made on the spot. The same command resumes; more counts, seeds or mixtures
extend it.
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
from typing import Any

from onlyif_jax import benchmarking
from onlyif_jax.analysis import reporting, tuned
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import preview
from onlyif_jax.corpora.tokenizer import load_tokenizer
from onlyif_jax.evals import answering
from onlyif_jax.evals.answering import Answerer
from onlyif_jax.evals.jobs import Job
from onlyif_jax.finetune import answers, loop, mixed, symbolic, tuning_config
from onlyif_jax.finetune import base as base_lib
from onlyif_jax.finetune import rows as rows_lib
from onlyif_jax.finetune.base import Base
from onlyif_jax.finetune.rows import TuningRow
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
  """Runs or resumes; prints the results.

  0 done, 1 where a row stopped being finite (the others went on), 143 stopped.
  """
  began, stop = time.perf_counter(), StopSignal()
  run = TuningRun(tuning, Path(path), stop)
  if not run.train():
    print(f'stopped after a save; the same command goes on from there ({path})')
    return 128 + stop.number
  if run.workdir.file('results.csv').exists():  # else no row was finite
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
  """Prints the first rows as the model reads them, with what the loss counts."""
  run = TuningRun(tuning, Path(path))
  row = run.rows[0]
  sources, chosen = run.task(row).training()
  with contextlib.ExitStack() as stack:
    place = Path(tuning.base.directory or run.workdir.file(BASE))
    if not tuning.base.directory and not place.exists():
      # Its tokenizer is what is needed of a base that is still to be made.
      place = Path(stack.enter_context(tempfile.TemporaryDirectory())) / BASE
      scratch = dataclasses.replace(tuning.scratch, steps=0)
      bare = dataclasses.replace(tuning, scratch=scratch)
      base_lib.make(bare, run.base_rows(), place)
    settings = loop.batch_settings(tuning, row)
    preview.preview(chosen, sources, load_tokenizer(place), settings, count)


class TuningRun:
  """The rows of a config in a workdir."""

  def __init__(self, tuning: Tuning, path: Path, stop: StopSignal | None = None):
    """Raises ConfigError for a workdir of another config."""
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
    """The names of the rows whose results are whole."""
    return {e['row'] for e in self.workdir.ledger() if e['event'] == 'done'}

  @property
  def failed(self) -> dict[str, int]:
    """Row -> the step at which its loss stopped being finite; they are not tried again."""
    events = [e for e in self.workdir.ledger() if e['event'] == 'failed']
    return {e['row']: e['step'] for e in events}

  def base(self) -> Base:
    """The pretrained model; a small one is made if the config names none."""
    where = self.tuning.base.directory
    directory = Path(where) if where else self.workdir.file(BASE)
    if not where and not directory.exists():
      steps = self.tuning.scratch.steps
      print(f'making a small base on the spot, {steps:,} steps', file=sys.stderr)
      base_lib.make(self.tuning, self.base_rows(), directory)
    return base_lib.load(self.tuning, directory, self.mesh)

  def train(self) -> bool:
    """Trains and judges every row that is not done; False where a signal stopped it."""
    over = self.done | set(self.failed)
    left = [row for row in self.rows if row.name not in over]
    if not left:
      print(f'already done: the results of all {len(self.rows)} rows')
      return True
    self.workdir.create()
    _ = self._jobs  # benchmarks that cannot be run are refused before all else
    base = self.base()
    lora.check(self.tuning.lora, self.tuning.base.quantize, base.config)
    self._certify(base)
    # From here on the workdir is this config's: all that may be mistaken was read.
    self.workdir.write_json('config.json', dataclasses.asdict(self.tuning))
    self._cut_back()
    call = provenance() | base_lib.describe(base)
    call['devices'] = [str(d) for d in self.mesh.devices.flat]
    name = 'provenance.json'
    if self.workdir.file(name).exists():
      self.workdir.append_json('resumes.jsonl', call)
    else:
      self.workdir.write_json(name, call)
    for shots in self._askings():
      self._untuned(base, shots)
    progress = Progress(len(self.rows), [self._examples(row) for row in left])
    with progress:
      progress.rows_done = len(self.rows) - len(left)
      for row in left:
        if not self._row(row, base, progress):
          return False
    return True

  def _examples(self, row: TuningRow) -> float:
    """About how many examples a row's passes have."""
    if isinstance(self.tuning, SymbolicTuning):
      return tuning_config.parse_subset(row.subset)[0]
    return sum(self.tuning.mixture.counts(row.mixture).values())

  def _row(self, row: TuningRow, base: Base, progress: Progress) -> bool:
    task = self.task(row)
    sources, chosen = task.training()
    plan = loop.make_plan(self.tuning, row, base, sources, chosen)
    size = plan.survey.batches, self.tuning.tune.batch_size
    told = progress.stack(1, *size, compiles=not progress.trained)
    try:
      parts = loop.RowRun(
        self.tuning, row, base, plan, self.workdir, self.mesh, told, self.stop
      ).run()
    except loop.NotFiniteError as e:
      event = {'event': 'failed', 'row': row.name, 'step': e.step}
      self.workdir.append_json('ledger.jsonl', event)
      told.done()
      return True
    if parts is None:
      return False
    self._judge(row, task, base, parts)
    self._benchmark(row, base, parts)
    facts = dataclasses.asdict(plan.survey) | task.facts()
    self.workdir.append_json(
      'ledger.jsonl',
      {'event': 'done', 'row': row.name, 'steps': plan.survey.batches} | facts,
    )
    told.done()
    return True

  def _askings(self) -> list[int]:
    """With how many solved examples the base is still to be asked."""
    a = self.tuning.answers
    wanted = [*([0] if a.zero_shot else []), *([a.shots] if a.shots else [])]
    return [n for n in wanted if tuned.shots_row(n) not in self.done]

  def _untuned(self, base: Base, shots: int) -> None:
    """Judges the base before any fine-tuning, on the questions of the first row."""
    first, name = self.rows[0], tuned.shots_row(shots)
    row = dataclasses.replace(first, name=name, instructions=0, mixture='')
    parts = loop.adapt(self.tuning, first, base)
    self._judge(row, self.task(first, shots), base, parts)
    self._benchmark(row, base, parts)
    self.workdir.append_json('ledger.jsonl', {'event': 'done', 'row': name})

  def _judge(self, row: TuningRow, task: Any, base: Base, parts: Parts) -> None:
    found = task.judge(self.tuning, base, parts)
    own = row.columns()
    for name, rows in (('results.csv', found.results), ('anatomy.csv', found.anatomy)):
      self.workdir.append_csv(name, _TABLES[name], [own | one for one in rows])
    wrong = [{'row': row.name} | one for one in found.wrong]
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
    told = {'model': row.name, 'model_sha256': base.digest, 'run': self.tuning.name}
    benchmarking.execute(settings, self._jobs, answerer, told)

  @functools.cached_property
  def _jobs(self) -> list[Job]:
    """The benchmarks of every row, their data read once; ConfigError."""
    if isinstance(self.tuning, SymbolicTuning) or not self.tuning.benchmarks.names:
      return []
    place = Path(self.tuning.base.directory or self.workdir.file(BASE))
    return benchmarking.plan(self._benchmark_settings(place, self.rows[0]))

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

  def base_rows(self):
    """What a small base is made with."""
    if isinstance(self.tuning, SymbolicTuning):
      return symbolic.base_rows(self.tuning, self.tuning.scratch.examples)
    return mixed.base_rows(self.tuning)

  def _certify(self, base: Base) -> None:
    """Writes the proof of the splits, or the plan of the mixtures."""
    if isinstance(self.tuning, SymbolicTuning):
      reports = [
        r for row in self.rows for r in symbolic.certificates(self.tuning, row)
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
        out = io.StringIO()
        writer = csv.DictWriter(out, columns, lineterminator='\n')
        writer.writeheader()
        writer.writerows(kept)
        self.workdir.write_text(name, out.getvalue())
    found = self.workdir.read_json_lines('wrong.jsonl')
    lines = ''.join(json.dumps(one) + '\n' for one in found if one['row'] in done)
    if found:
      self.workdir.write_text('wrong.jsonl', lines)


class SymbolicTask:
  """The examples of a symbolic row, and the judgement of a model on them."""

  def __init__(self, tuning: SymbolicTuning, row: TuningRow, shots: int = 0):
    self.tuning, self.row, self.shots = tuning, row, shots
    self.examples = symbolic.examples(tuning, row)

  def training(self):
    """(rows by source, the plan)."""
    rows = self.examples.rows
    return {'train': rows}, [('train', n) for n in range(len(rows))]

  def facts(self) -> dict[str, Any]:
    """What the ledger says of the row's data."""
    rules = {tuple(sorted(_rule(q).items())) for q in self.examples.train}
    return {'rules_met': len(rules)}

  def judge(self, tuning: SymbolicTuning, base: Base, parts: Parts) -> answers.Found:
    """Asks every split's questions."""
    a, params = tuning.answers, parts.weights()
    noops = getattr(tuning.task, 'noops', False)
    shots = [
      symbolic.as_row('shot', n, q)
      for n, q in enumerate(self.examples.train[: self.shots])
    ]
    algebra = tuning.task.name == 'algebra'
    trained = None if algebra else answers.trained_rules(self.examples.train)
    found = answers.Found([], [], [])
    for split, questions in self.examples.questions.items():
      texts, ended = answers.ask(
        parts.graphdef, params, base, tuning.tune.template, questions, a, shots
      )
      judged = answers.judge(
        split, questions, texts, ended, noops=noops, trained=trained
      )
      found.results.extend(answers.results(judged, symbolically=algebra))
      found.anatomy.extend(answers.anatomy(judged))
      found.wrong.extend(answers.wrong(judged, a.shown))
    return found


def _rule(question) -> dict[str, str]:
  return {k: v for k, v in question.fields.items() if k != 'input'}


def stored_config(path: Path) -> Tuning | None:
  """The config of a workdir, None where there is no run yet."""
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
    a, b = stored.instructions, new.instructions
    counts = tuple(sorted({*a.counts, *b.counts}))
    both = dataclasses.replace(a, counts=counts, seeds=max(a.seeds, b.seeds))
    return dataclasses.replace(stored, instructions=both, devices=new.devices)
  assert isinstance(stored, MixtureTuning)
  assert isinstance(new, MixtureTuning)
  mixture = dataclasses.replace(
    stored.mixture, rows=tuple(dict.fromkeys((*stored.mixture.rows, *new.mixture.rows)))
  )
  seeds = max(stored.seeds, new.seeds)
  return dataclasses.replace(stored, mixture=mixture, seeds=seeds, devices=new.devices)
