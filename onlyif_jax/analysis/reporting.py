"""Writes a report (figure, html page, scoreboard) or a comparison of two runs."""

import json
from collections.abc import Sequence
from pathlib import Path

from onlyif_jax import shards
from onlyif_jax.analysis import (
  compare,
  compare_tuned,
  figures,
  html,
  pooled,
  results,
  scoreboard,
  table,
  tuned,
)
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.analysis.tuned import Tuned
from onlyif_jax.config import ConfigError

Run = Analysis | Tuned


def load(folder: Path) -> Run:
  """A workdir's results, of either kind; gathers a sweep's shards first."""
  if tuned.is_tuned(folder):
    return tuned.load(folder)
  return results.load(shards.gather(folder))


def report(
  runs: Sequence[Run],
  names: Sequence[str],
  out: Path,
  *,
  also_own: bool = False,
  anonymous: bool = False,
) -> None:
  """Prints every run's tables; writes figure, page and scoreboard.json into `out`.

  also_own: also writes each of several runs' figures into its own workdir.
  """
  for run in runs:
    _show(run)
    if also_own and len(runs) > 1:
      _draw(run, _workdir(run), anonymous)
  out.mkdir(parents=True, exist_ok=True)
  sweeps = [(r, n) for r, n in zip(runs, names, strict=True) if isinstance(r, Analysis)]
  if len(runs) == 1:
    _draw(runs[0], out, anonymous)
    print(f'figure: {out / "figure.png"}')
  elif len(sweeps) > 1:
    figures.draw_joint(
      [r for r, _ in sweeps], [n for _, n in sweeps], out / 'joint.png'
    )
    print(f'figure: {out / "joint.png"}')
  _write_page(runs, names, out, anonymous)
  print(f'report: {out / "report.html"}')


def finish(run: Run | Path) -> None:
  """Ends a run: prints its tables, writes its page and, for fine-tuning, its figure.

  run: an analysis whose figure is already written, or a fine-tuning workdir.
  """
  if isinstance(run, Path):
    run = tuned.load(run)
    tuned.write(run, run.path)
  _show(run)
  workdir = _workdir(run)
  _write_page([run], [run.label], workdir, anonymous=False)
  print(f'figure: {workdir / "figure.png"}\nreport: {workdir / "report.html"}')


def side_by_side(
  runs: Sequence[Run],
  names: Sequence[str],
  out: Path | None,
  *,
  anonymous: bool = False,
) -> None:
  """Prints run B beside run A; writes compare.json and a page into `out`, if given."""
  a, b = runs
  grids, text = _compare(a, b)
  print(f'A: {names[0]}\nB: {names[1]}')
  table.show_grids(grids)
  if out:
    out.mkdir(parents=True, exist_ok=True)
    (out / 'compare.json').write_text(text)
    page = html.page(runs, names, anonymous=anonymous, comparison=grids)
    (out / 'report.html').write_text(page, encoding='utf-8')
    print(f'report: {out / "report.html"}')


def labels(runs: Sequence[Run], places: Sequence[str], anonymous: bool) -> list[str]:
  """The runs' names, made unique by their places or, if anonymous, by number."""
  names = [run.label for run in runs]
  if len(set(names)) == len(names):
    return names
  if anonymous:
    return [f'{name} ({n})' for n, name in enumerate(names, start=1)]
  return [f'{name} ({place})' for name, place in zip(names, places, strict=True)]


def _compare(a: Run, b: Run) -> tuple[list[table.Grid], str]:
  """The tables that compare two runs, and compare.json; raises ConfigError."""
  if isinstance(a, Tuned) and isinstance(b, Tuned):
    return compare_tuned.grids(a, b), compare_tuned.to_json(a, b)
  if isinstance(a, Analysis) and isinstance(b, Analysis):
    return compare.grids(a, b), compare.to_json(a, b)
  raise ConfigError(
    '--compare is for two runs of a kind: two sweeps from scratch or two of '
    'fine-tuning; `report --workdir=A --workdir=B` shows one of each beside the other'
  )


def _show(run: Run) -> None:
  if isinstance(run, Tuned):
    tuned.show(run)
  else:
    table.show(run)


def _draw(run: Run, out: Path, anonymous: bool) -> None:
  if isinstance(run, Tuned):
    tuned.write(run, out)
  else:
    results.write(run, out, anonymous=anonymous)


def _workdir(run: Run) -> Path:
  return run.path if isinstance(run, Tuned) else run.workdir


def _write_page(
  runs: Sequence[Run], names: Sequence[str], out: Path, anonymous: bool
) -> None:
  board = scoreboard.judge(*pooled.pool(runs, names))
  text = json.dumps(board.to_json(), indent=1, allow_nan=False)
  try:
    (out / 'scoreboard.json').write_text(text + '\n')
    page = html.page(runs, names, anonymous=anonymous)
    (out / 'report.html').write_text(page, encoding='utf-8')
  except OSError as e:
    raise ConfigError(f'{out}: cannot write the report ({e.strerror})') from e
