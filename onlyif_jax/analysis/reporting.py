"""Writes what a report leaves: figure, html page, scoreboard; or a comparison."""

import json
from collections.abc import Sequence
from pathlib import Path

from onlyif_jax.analysis import (
  compare,
  figures,
  html,
  html_tuned,
  results,
  scoreboard,
  table,
  tuned,
  tuned_tables,
)
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.config import ConfigError


def report(
  runs: Sequence[Analysis],
  names: Sequence[str],
  out: Path,
  *,
  also_own: bool = False,
  anonymous: bool = False,
) -> None:
  """Prints every run's tables; writes figure, page and scoreboard.json into `out`.

  also_own: of several runs, writes each one's figure into its own workdir too.
  """
  for run in runs:
    table.show(run)
    if also_own and len(runs) > 1:
      results.write(run, run.workdir, anonymous=anonymous)
  if len(runs) == 1:
    results.write(runs[0], out, anonymous=anonymous)
    figure = out / 'figure.png'
  else:
    out.mkdir(parents=True, exist_ok=True)
    figure = out / 'joint.png'
    figures.draw_joint(runs, names, figure)
  board = scoreboard.judge(runs, names).to_json()
  text = json.dumps(board, indent=1, allow_nan=False)
  (out / 'scoreboard.json').write_text(text + '\n')
  page = out / 'report.html'
  page.write_text(html.page(runs, names, anonymous=anonymous), encoding='utf-8')
  print(f'figure: {figure}\nreport: {page}')


def tuned_runs(folders: Sequence[Path], out: Path, *, anonymous: bool = False) -> int:
  """The same of fine-tuning runs: tables, figure.png of one run, report.html; 0.

  Raises ConfigError where some of the runs are sweeps from scratch.
  """
  if others := [f for f in folders if not html_tuned.is_tuned(f)]:
    raise ConfigError(
      f'{others[0]} is no run of fine-tuning; report it apart from such runs'
    )
  runs = [tuned.load(folder) for folder in folders]
  for run in runs:
    tuned.show(run)
  out.mkdir(parents=True, exist_ok=True)
  if len(runs) == 1:
    tuned_tables.draw(runs[0], out / 'figure.png')
    print(f'figure: {out / "figure.png"}')
  page = out / 'report.html'
  page.write_text(html_tuned.page(runs, anonymous=anonymous), encoding='utf-8')
  print(f'report: {page}')
  return 0


def side_by_side(
  runs: Sequence[Analysis],
  names: Sequence[str],
  out: Path | None,
  *,
  anonymous: bool = False,
) -> None:
  """Prints run B beside run A; into `out`, if given, compare.json and a page."""
  a, b = runs
  print(f'A: {names[0]}\nB: {names[1]}')
  grids = compare.grids(a, b)
  table.show_grids(grids)
  if out:
    out.mkdir(parents=True, exist_ok=True)
    (out / 'compare.json').write_text(compare.to_json(a, b))
    page = html.page(runs, names, anonymous=anonymous, comparison=grids)
    (out / 'report.html').write_text(page, encoding='utf-8')
    print(f'report: {out / "report.html"}')


def labels(
  runs: Sequence[Analysis], places: Sequence[str], anonymous: bool
) -> list[str]:
  """The runs' names, told apart by their places or, anonymously, by number."""
  names = [run.label for run in runs]
  if len(set(names)) == len(names):
    return names
  if anonymous:
    return [f'{name} ({n})' for n, name in enumerate(names, start=1)]
  return [f'{name} ({place})' for name, place in zip(names, places, strict=True)]
