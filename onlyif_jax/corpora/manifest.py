"""Reads the sources of mixtures, and writes and reads their manifest.

A manifest directory holds manifest.json (settings, removals, counts, hashes), rows.csv
(every mixture's rows in order) and decontamination.jsonl (every hit). The same settings
and files give the same bytes; manifest.json is written last.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import coreset, decontaminate, embeddings, mixture, readers
from onlyif_jax.corpora.decontaminate import Hit, TestPrompt
from onlyif_jax.corpora.mixture import Plan, RowId, Source
from onlyif_jax.corpora.mixture_settings import MixtureSettings, SourceFile, TestFile
from onlyif_jax.corpora.rows import Row

COLUMNS = ('mixture', 'order', 'source', 'index')
# Where test sets keep their prompts; the first that a row has counts.
FIELDS = ('prompt', 'text', 'question', 'instruction', 'problem', 'input')


@dataclasses.dataclass(frozen=True)
class Pool:
  """Everything that mixtures are drawn from.

  rows: of each source, as in its file; sources: the rows without hits and duplicates,
  in the keyed order; hits: rows that give a test away; unchecked: prompts that are too
  short to search for; facts: path, format and hash of each file, by name.
  """

  settings: MixtureSettings
  rows: Mapping[str, Sequence[Row]]
  prompts: tuple[TestPrompt, ...]
  sources: tuple[Source, ...]
  hits: tuple[Hit, ...]
  unchecked: tuple[TestPrompt, ...]
  facts: Mapping[str, Mapping[str, Any]]

  def row(self, row_id: RowId) -> Row:
    """The row with an id."""
    return self.rows[row_id.source][row_id.index]

  @functools.cached_property
  def counts(self) -> list[dict[str, int]]:
    """The number of rows of each source, for every mixture."""
    return [self.settings.counts(text) for text in self.settings.rows]

  @functools.cached_property
  def vectors(self) -> 'Vectors':
    """Vectors of test prompts and of the rows that are compared.

    With core sets these are all rows, else the first `sample` of each source.
    """
    most = None if self.settings.selection == 'kcenter' else self.settings.sample
    ids = [RowId(s.name, index) for s in self.sources for index in s.indices[:most]]
    texts = [mixture.instruction(self.row(row_id)) for row_id in ids]
    texts += [prompt.text for prompt in self.prompts]
    rows_ND = embeddings.encode(texts, self.settings.encoder, self.settings.dimensions)
    return Vectors({row_id: n for n, row_id in enumerate(ids)}, rows_ND)

  @functools.cached_property
  def drawn(self) -> tuple[Source, ...]:
    """The sources in the order of drawing: keyed, or with a core set in front."""
    if self.settings.selection == 'random':
      return self.sources
    reordered = []
    for source in self.sources:
      most = max(counts.get(source.name, 0) for counts in self.counts)
      rows_ND = self.vectors.of(RowId(source.name, i) for i in source.indices)
      core = coreset.k_centre(rows_ND, min(most, len(source.indices))).tolist()
      rest = sorted(set(range(len(source.indices))).difference(core))
      reordered.append(mixture.reordered(source, [*core, *rest]))
    return tuple(reordered)

  @functools.cached_property
  def plans(self) -> list[Plan]:
    """The mixtures; raises ConfigError if a source has too few rows."""
    seed = self.settings.seed
    for counts in self.counts:  # refuses before anything is embedded
      mixture.plan(self.sources, counts, seed)
    return [mixture.plan(self.drawn, counts, seed) for counts in self.counts]


@dataclasses.dataclass(frozen=True)
class Vectors:
  """Unit vectors (float32 [N, D]) of rows, then of the test prompts in their order."""

  places: Mapping[RowId, int]
  rows_ND: Any

  def of(self, ids: Iterable[RowId]) -> Any:
    """The vectors of rows."""
    return self.rows_ND[[self.places[row_id] for row_id in ids]]

  @property
  def prompts_QD(self) -> Any:
    """The vectors of the test prompts."""
    return self.rows_ND[len(self.places) :]


def gather(settings: MixtureSettings) -> Pool:
  """Reads sources and tests and drops contaminated and repeated rows; ConfigError."""
  rows, facts, prompts = {}, {}, []
  for file in settings.source_files:
    rows[file.name], read_facts = _read(file, settings)
    facts[file.name] = {'path': file.path, 'sha256': _digest(file.path)} | read_facts
  for file in settings.test_files:
    prompts += read_prompts(file)
    facts[file.name] = {'path': file.path, 'sha256': _digest(file.path)}
  hits, unchecked = [], ()
  if prompts and settings.ngram:
    detector = decontaminate.Detector.of(prompts, settings.ngram, settings.substring)
    for source_rows in rows.values():
      hits += decontaminate.find(detector, source_rows)
    unchecked = detector.unchecked
  sources = []
  for name, source_rows in rows.items():
    contaminated = (hit.index for hit in hits if hit.source == name)
    source = mixture.source_of(name, source_rows, settings.dedup)
    sources.append(mixture.without(source, contaminated))
  sources = tuple(
    mixture.keyed(source, settings.seed) for source in mixture.deduplicate(sources)
  )
  for source in sources:
    logging.info('%s', source.text())
  return Pool(
    settings, rows, tuple(prompts), sources, tuple(hits), tuple(unchecked), facts
  )


def _read(
  file: SourceFile, settings: MixtureSettings
) -> tuple[Sequence[Row], dict[str, Any]]:
  """(rows, their format and the numbers of rows left out by reason) of a source."""
  if settings.prepared:
    from onlyif_jax.corpora import instructions  # TFDS is slow to import

    rows = instructions.open_rows(
      file.path, settings.prepared, file.format, file.name, settings.bad
    )
    name, dropped = rows.metadata['format'], rows.metadata['dropped']
  else:
    reader = readers.Reader(file.path, file.format, file.name, settings.bad)
    rows = list(reader)
    name, dropped = reader.format, reader.dropped
  return rows, {'format': name, 'dropped': dict(sorted(dropped.items()))}


def read_prompts(file: TestFile) -> list[TestPrompt]:
  """The prompts of a test file: JSON, JSON lines or Parquet; JSON also as .gz."""
  prompts = []
  # Raw rows, since `Reader` refuses a prompt without a response.
  for place, raw in readers.raw_rows(readers.data_files(Path(file.path))):
    names = (file.field,) if file.field else FIELDS
    field = next((name for name in names if name in raw), None)
    if field is None or not isinstance(raw[field], str):
      wrong = 'is not text' if field else f'is missing; it has {", ".join(sorted(raw))}'
      raise ConfigError(
        f'{place}: the field {field or " or ".join(names)} {wrong}; name the field of '
        f'the prompts as {file.name}={file.path}:FIELD in mixture.tests'
      )
    prompts.append(TestPrompt(file.name, len(prompts), raw[field]))
  if not prompts:
    raise ConfigError(f'{file.path} is empty; give a file with test prompts')
  return prompts


def tokens(
  pool: Pool, plans: Sequence[Plan], tokenizer: str = ''
) -> list[dict[str, int]] | None:
  """Tokens per source of every mixture, all turns without a template.

  tokenizer: a directory, if the settings name none. None without either.
  """
  directory = pool.settings.tokenizer or tokenizer
  if not directory:
    return None
  from onlyif_jax.corpora.tokenizer import load_tokenizer

  counter = load_tokenizer(directory)
  lengths = {
    row_id: sum(len(counter.encode(turn.text)) for turn in pool.row(row_id).turns)
    for row_id in mixture.chosen(plans)
  }
  totals = []
  for plan in plans:
    sums = dict.fromkeys(plan.counts, 0)
    for row_id in plan.rows:
      sums[row_id.source] += lengths[row_id]
    totals.append(sums)
  return totals


def write(pool: Pool, directory, tokenizer: str = '') -> dict[str, Any]:
  """Writes or replaces the files of a manifest; the content of manifest.json.

  tokenizer: the directory of one that counts tokens if the settings name none.
  """
  folder, settings = Path(directory), pool.settings
  plans = pool.plans  # raises before anything is written
  totals = tokens(pool, plans, tokenizer)
  content = {
    'seed': settings.seed,
    'settings': dataclasses.asdict(settings)
    | {'tokenizer': settings.tokenizer or tokenizer},
    'sources': [_source_entry(s, pool.facts[s.name]) for s in pool.sources],
    'tests': [_test_entry(pool, file.name) for file in settings.test_files],
    'encoder': embeddings.identity(settings.encoder, settings.dimensions),
    'mixtures': [
      {
        'rows': text,
        'counts': plan.counts,
        'total': len(plan.rows),
        'tokens': totals[n] if totals else None,
        'sha256': plan.sha256,
      }
      for n, (text, plan) in enumerate(zip(settings.rows, plans, strict=True))
    ],
  }
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'manifest.json').unlink(missing_ok=True)
  lines = io.StringIO()
  table = csv.writer(lines, lineterminator='\n')
  table.writerow(COLUMNS)
  for n, plan in enumerate(plans):
    table.writerows((n, place, *row_id) for place, row_id in enumerate(plan.rows))
  hits = ''.join(json.dumps(hit._asdict()) + '\n' for hit in pool.hits)
  (folder / 'rows.csv').write_text(lines.getvalue(), encoding='utf-8')
  (folder / 'decontamination.jsonl').write_text(hits)
  (folder / 'manifest.json').write_text(json.dumps(content, indent=1) + '\n')
  return content


def read(directory) -> list[Plan]:
  """The mixtures of a manifest directory; raises ConfigError if it is damaged."""
  folder = Path(directory)
  if not (folder / 'manifest.json').exists():
    raise ConfigError(
      f'{folder} holds no manifest.json; write one with python -m onlyif_jax.mixture'
    )
  try:
    entries = json.loads((folder / 'manifest.json').read_text())['mixtures']
    rows: list[list[RowId]] = [[] for _ in entries]
    with open(folder / 'rows.csv', encoding='utf-8', newline='') as file:
      for row in csv.DictReader(file):
        rows[int(row['mixture'])].append(RowId(row['source'], int(row['index'])))
    plans = [
      Plan(entry['counts'], tuple(row_ids))
      for entry, row_ids in zip(entries, rows, strict=True)
    ]
    wrong = [n for n, e in enumerate(entries) if plans[n].sha256 != e['sha256']]
  except (ValueError, KeyError, TypeError, IndexError) as e:
    raise ConfigError(f'{folder} is not a manifest ({e}); write it anew') from None
  if wrong:
    raise ConfigError(
      f'{folder / "rows.csv"}: the rows of mixture {wrong[0]} are not those of '
      'manifest.json (their sha256 differs); write the manifest anew'
    )
  return plans


def _source_entry(source: Source, facts: Mapping[str, Any]) -> dict[str, Any]:
  return {
    'name': source.name,
    **facts,
    'read': source.read,
    'contaminated': source.contaminated,
    'duplicates': source.duplicates,
    'left': len(source.indices),
  }


def _test_entry(pool: Pool, name: str) -> dict[str, Any]:
  return {
    'name': name,
    **pool.facts[name],
    'prompts': sum(prompt.test == name for prompt in pool.prompts),
    'found': len({hit.item for hit in pool.hits if hit.test == name}),
    'unchecked': sum(prompt.test == name for prompt in pool.unchecked),
  }


def _digest(path: str) -> str:
  """sha256 of a file, or of the files of a directory one after the other."""
  digest = hashlib.sha256()
  for file in readers.data_files(Path(path)):
    with open(file, 'rb') as stream:
      while block := stream.read(2**20):
        digest.update(block)
  return digest.hexdigest()
