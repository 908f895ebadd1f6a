"""A run as one small zip file: settings, provenance, numbers and figure, no weights.

A fine-tuning run's bundle also has its mixtures' manifest and benchmark scores, but no
samples.
"""

import contextlib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from onlyif_jax.analysis import benchmark_scores, results, tuned
from onlyif_jax.config import ConfigError

LIMIT = 1_000_000  # bytes of the whole file
NEEDED = ('config.json', 'results.csv')
FILES = (
  *NEEDED,
  *('provenance.json', 'splits.json', 'ledger.jsonl', 'transition.json'),
  *('timing.csv', 'anatomy.csv', 'cells.csv', 'figure.png', 'anatomy.png'),
  *('mixture/manifest.json', 'mixture/diversity.json'),
)
# Left out, in this order, while the bundle is too large.
OPTIONAL = (
  'dynamics.csv',
  'wrong.jsonl',
  'mixture/map.png',
  'anatomy.png',
  'timing.csv',
  'ledger.jsonl',
  'figure.png',
)
_PART = r'(?!\.)[\w.+=,-]+'  # a path component: not hidden, not '..'
# A benchmark's result, or the files of a code benchmark in a folder.
_SCORES = re.compile(
  rf'{benchmark_scores.FOLDER}/{_PART}/'
  rf'({_PART}\.json|({_PART}/){{1,4}}(scores\.json|problems\.csv))'
)
_DATE = (1980, 1, 1, 0, 0, 0)  # constant, so that equal content gives equal bytes


def write(workdir: str | os.PathLike, out: str | os.PathLike) -> tuple[Path, list[str]]:
  """Writes a workdir's bundle to `out` (.zip is added): (its path, files left out).

  The figure and transition.json are redrawn from the numbers. Raises ConfigError if the
  workdir has no results, `out` exists or cannot be written, or the bundle is above
  LIMIT even without the optional files.
  """
  source = Path(workdir)
  path = Path(out)
  path = path if path.suffix == '.zip' else path.with_name(path.name + '.zip')
  if path.exists():
    raise ConfigError(f'--out={path} exists; give a new name')
  with tempfile.TemporaryDirectory() as name:
    folder, packed = Path(name) / 'run', Path(name) / 'bundle.zip'
    folder.mkdir()
    for file in _names(source):
      (folder / file).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(source / file, folder / file)
    if tuned.is_tuned(source):
      tuned.write(tuned.load(source), folder)
    else:
      results.write(results.load(source), folder)
    left_out: list[str] = []
    while _pack(folder, packed) > LIMIT:
      optional = [f for f in OPTIONAL if (folder / f).exists()]
      if not optional:
        size = packed.stat().st_size
        raise ConfigError(
          f'the bundle of {source} has {size:,} bytes, above {LIMIT:,}; export a run '
          'with fewer members'
        )
      (folder / optional[0]).unlink()
      left_out.append(optional[0])
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(packed, path)
    except OSError as e:
      raise ConfigError(f'--out={path} cannot be written ({e.strerror})') from e
  return path, left_out


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[Path]:
  """A temporary directory with a bundle's files; raises ConfigError."""
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    try:
      with zipfile.ZipFile(path) as file:
        for item in file.infolist():
          # A bundle may come from anybody: allow known names and sizes only.
          if not _allowed(item.filename):
            raise ConfigError(f'--bundle={path} holds {item.filename!r}, not a run')
          if item.file_size > 100 * LIMIT:
            raise ConfigError(f'--bundle={path}: {item.filename} is too large')
          target = folder.joinpath(*PurePosixPath(item.filename).parts)
          target.parent.mkdir(parents=True, exist_ok=True)
          target.write_bytes(file.read(item))
    except (OSError, zipfile.BadZipFile) as e:
      reason = getattr(e, 'strerror', None) or e
      raise ConfigError(f'--bundle={path} cannot be read ({reason})') from None
    yield folder


def _allowed(name: str) -> bool:
  """Whether a bundle may hold a file of that name."""
  return name in (*FILES, *OPTIONAL) or bool(_SCORES.fullmatch(name))


def _names(source: Path) -> list[str]:
  """The files of a workdir that its bundle holds."""
  below = (source / benchmark_scores.FOLDER).rglob('*')
  scores = sorted(p.relative_to(source).as_posix() for p in below if p.is_file())
  return [
    *(f for f in (*FILES, *OPTIONAL) if (source / f).is_file()),
    *(f for f in scores if _SCORES.fullmatch(f)),
  ]


def _pack(folder: Path, packed: Path) -> int:
  """Zips a folder reproducibly; the size in bytes."""
  packed.unlink(missing_ok=True)
  files = sorted(p for p in folder.rglob('*') if p.is_file())
  with zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as file:
    for path in files:
      item = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _DATE)
      item.compress_type = zipfile.ZIP_DEFLATED
      item.external_attr = 0o644 << 16
      file.writestr(item, path.read_bytes(), compresslevel=9)
  return packed.stat().st_size
