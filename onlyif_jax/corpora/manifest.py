"""The files of a mixture: reads its sources, and writes and reads its manifest.

A manifest directory holds manifest.json (settings, what was removed, counts, hashes),
rows.csv (every mixture's rows in order) and decontamination.jsonl (every hit). The same
settings and files give the same bytes; manifest.json is written last.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
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
# Where test sets keep their prompts, the first that a row has.
FIELDS = ('prompt', 'text', 'question', 'instruction', 'problem', 'input')


@dataclasses.dataclass(frozen=True)
class Pool:
  """Everything that mixtures draw from.

  rows: of each source, as in its file; sources: what is left of them without hits and
  duplicates, in the keyed order; hits: rows that give a test away; unchecked: prompts
  too short to look for; facts: path, format and hash of each file, by name.
  """

  settings: MixtureSettings
  rows: Mapping[str, Sequence[Row]]
  prompts: tuple[TestPrompt, ...]
  sources: tuple[Source, ...]
  hits: tuple[Hit, ...]
  unchecked: tuple[TestPrompt, ...]
  facts: Mapping[str, Mapping[str, Any]]

  def row(self, where: RowId) -> Row:
    """A row by its place."""
    return self.rows[where.source][where.index]

  @functools.cached_property
  def wanted(self) -> list[dict[str, int]]:
    """Rows per source, of every mixture."""
    return [self.settings.counts(text) for text in self.settings.rows]

  @functools.cached_property
  def vectors(self) -> 'Vectors':
    """Vectors of prompts and rows: of every row that can be chosen for a core set,
    else of the first `sample` of each source."""
    most = None if self.settings.selection == 'kcenter' else self.settings.sample
    ids = [RowId(s.name, index) for s in self.sources for index in s.indices[:most]]
    texts = [mixture.instruction(self.row(where)) for where in ids]
    texts += [prompt.text for prompt in self.prompts]
    rows_ND = embeddings.encode(texts, self.settings.encoder, self.settings.dimensions)
    return Vectors({where: n for n, where in enumerate(ids)}, rows_ND)

  @functools.cached_property
  def drawn(self) -> tuple[Source, ...]:
    """The sources in the order of drawing: keyed, or with a core set in front."""
    if self.settings.selection == 'random':
      return self.sources
    out = []
    for own in self.sources:
      count = max(min(w.get(own.name, 0), len(own.indices)) for w in self.wanted)
      rows_ND = self.vectors.of(RowId(own.name, index) for index in own.indices)
      core = coreset.k_centre(rows_ND, count).tolist()
      rest = sorted(set(range(len(own.indices))).difference(core))
      out.append(mixture.reordered(own, [*core, *rest]))
    return tuple(out)

  @functools.cached_property
  def plans(self) -> list[Plan]:
    """The mixtures; raises ConfigError where a source has too few rows."""
    seed = self.settings.seed
    for counts in self.wanted:  # before anything is embedded
      mixture.plan(self.sources, counts, seed)
    return [mixture.plan(self.drawn, counts, seed) for counts in self.wanted]


@dataclasses.dataclass(frozen=True)
class Vectors:
  """Unit vectors of rows, then of the test prompts in their order (float32 [N, D])."""

  places: Mapping[RowId, int]
  rows_ND: Any

  def of(self, ids) -> Any:
    """The vectors of rows."""
    return self.rows_ND[[self.places[where] for where in ids]]

  @property
  def prompts_QD(self) -> Any:
    """The vectors of the test prompts."""
    return self.rows_ND[len(self.places) :]


def gather(settings: MixtureSettings) -> Pool:
  """Reads sources and tests, and removes contaminated and repeated rows; ConfigError."""
  rows, facts, prompts = {}, {}, []
  for file in settings.source_files:
    rows[file.name], told = _read(file, settings)
    facts[file.name] = {'path': file.path, 'sha256': _digest(file.path)} | told
  for file in settings.test_files:
    own = read_prompts(file)
    prompts += own
    facts[file.name] = {'path': file.path, 'sha256': _digest(file.path)}
  hits, unchecked = [], ()
  if prompts and settings.ngram:
    of = decontaminate.Detector.of(prompts, settings.ngram, settings.substring)
    hits = [hit for own in rows.values() for hit in decontaminate.find(of, own)]
    unchecked = of.unchecked
  sources = []
  for name, own in rows.items():
    gone = (hit.index for hit in hits if hit.source == name)
    sources.append(mixture.without(mixture.source_of(name, own, settings.dedup), gone))
  sources = tuple(
    mixture.keyed(own, settings.seed) for own in mixture.deduplicate(sources)
  )
  for own in sources:
    logging.info('%s', own.text())
  return Pool(
    settings, rows, tuple(prompts), sources, tuple(hits), tuple(unchecked), facts
  )


def _read(file: SourceFile, settings: MixtureSettings):
  """(rows, their format and how many were left out) of a source."""
  if settings.prepared:
    from onlyif_jax.corpora import instructions  # TFDS is slow to import

    how = file.path, settings.prepared, file.format, file.name, settings.bad
    rows = instructions.open_rows(*how)
    told = {k: rows.metadata[k] for k in ('format', 'dropped')}
  else:
    reader = readers.Reader(file.path, file.format, file.name, settings.bad)
    rows = list(reader)
    told = {'format': reader.format, 'dropped': reader.dropped}
  return rows, told | {'dropped': dict(sorted(told['dropped'].items()))}


def read_prompts(file: TestFile) -> list[TestPrompt]:
  """The prompts of a test file: JSON, JSON lines or Parquet, each also as .gz."""
  out = []
  # Rows as they are: a prompt without a response is none for `Reader`.
  for place, raw in readers.raw_rows(readers.data_files(Path(file.path))):
    names = (file.field,) if file.field else FIELDS
    field = next((name for name in names if name in raw), None)
    if field is None or not isinstance(raw[field], str):
      wrong = 'is not text' if field else f'is missing; it has {", ".join(sorted(raw))}'
      raise ConfigError(
        f'{place}: the field {field or " or ".join(names)} {wrong}; name the field of '
        f'the prompts as {file.name}={file.path}:FIELD in mixture.tests'
      )
    out.append(TestPrompt(file.name, len(out), raw[field]))
  if not out:
    raise ConfigError(f'{file.path} is empty; give a file with test prompts')
  return out


def tokens(
  pool: Pool, plans: Sequence[Plan], tokenizer: str = ''
) -> list[dict[str, int]] | None:
  """Tokens per source of every mixture, all turns, no template; None: no tokenizer.

  tokenizer: the directory of one, where the settings name none.
  """
  named = pool.settings.tokenizer or tokenizer
  if not named:
    return None
  from onlyif_jax.corpora.tokenizer import load_tokenizer

  counter = load_tokenizer(named)
  lengths = {
    where: sum(len(counter.encode(turn.text)) for turn in pool.row(where).turns)
    for where in mixture.chosen(plans)
  }
  out = []
  for own in plans:
    sums = dict.fromkeys(own.counts, 0)
    for where in own.rows:
      sums[where.source] += lengths[where]
    out.append(sums)
  return out


def write(pool: Pool, directory, tokenizer: str = '') -> dict[str, Any]:
  """Writes the manifest's files into a directory, replacing; its manifest.json.

  tokenizer: what counts tokens where the settings name none.
  """
  folder, settings = Path(directory), pool.settings
  plans = pool.plans  # what cannot be drawn is refused before anything is written
  counted = tokens(pool, plans, tokenizer)
  found = {
    'seed': settings.seed,
    'settings': dataclasses.asdict(settings)
    | {'tokenizer': settings.tokenizer or tokenizer},
    'sources': [_told(own, pool.facts[own.name]) for own in pool.sources],
    'tests': [_tested(pool, file.name) for file in settings.test_files],
    'encoder': embeddings.identity(settings.encoder, settings.dimensions),
    'mixtures': [
      {
        'rows': text,
        'counts': own.counts,
        'total': len(own.rows),
        'tokens': counted[n] if counted else None,
        'sha256': own.sha256,
      }
      for n, (text, own) in enumerate(zip(settings.rows, plans, strict=True))
    ],
  }
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'manifest.json').unlink(missing_ok=True)
  lines = io.StringIO()
  table = csv.writer(lines, lineterminator='\n')
  table.writerow(COLUMNS)
  for n, own in enumerate(plans):
    table.writerows((n, place, *where) for place, where in enumerate(own.rows))
  hits = ''.join(json.dumps(hit._asdict()) + '\n' for hit in pool.hits)
  (folder / 'rows.csv').write_text(lines.getvalue(), encoding='utf-8')
  (folder / 'decontamination.jsonl').write_text(hits)
  (folder / 'manifest.json').write_text(json.dumps(found, indent=1) + '\n')
  return found


def read(directory) -> list[Plan]:
  """The mixtures that a manifest directory holds; raises ConfigError where damaged."""
  folder = Path(directory)
  if not (folder / 'manifest.json').exists():
    raise ConfigError(
      f'{folder} holds no manifest.json; write one with python -m onlyif_jax.mixture'
    )
  try:
    told = json.loads((folder / 'manifest.json').read_text())['mixtures']
    rows: list[list[RowId]] = [[] for _ in told]
    with open(folder / 'rows.csv', encoding='utf-8', newline='') as file:
      for row in csv.DictReader(file):
        rows[int(row['mixture'])].append(RowId(row['source'], int(row['index'])))
    plans = [
      Plan(one['counts'], tuple(own)) for one, own in zip(told, rows, strict=True)
    ]
    wrong = [n for n, one in enumerate(told) if plans[n].sha256 != one['sha256']]
  except (ValueError, KeyError, TypeError, IndexError) as e:
    raise ConfigError(f'{folder} is not a manifest ({e}); write it anew') from None
  if wrong:
    raise ConfigError(
      f'{folder / "rows.csv"}: the rows of mixture {wrong[0]} are not those of '
      'manifest.json (their sha256 differs); write the manifest anew'
    )
  return plans


def _told(own: Source, facts: Mapping[str, Any]) -> dict[str, Any]:
  return {
    'name': own.name,
    **facts,
    'read': own.read,
    'contaminated': own.contaminated,
    'duplicates': own.duplicates,
    'left': len(own.indices),
  }


def _tested(pool: Pool, name: str) -> dict[str, Any]:
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
