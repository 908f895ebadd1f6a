"""Several runs as the scoreboard sees them: runs of algebra that belong together are one.

A run of algebra has one depth and one share of diverse rules, where a figure of the
papers has several: no run alone can support what is said of them all.
"""

import dataclasses
from collections.abc import Sequence

from onlyif_jax.analysis import tuned_evidence
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.analysis.selector import Evidence
from onlyif_jax.analysis.tuned import Tuned
from onlyif_jax.analysis.tuned_evidence import DEPTHS, TunedEvidence

# What runs that are judged together may differ in.
_APART = ('task.depth', 'task.specialist', 'task.diverse_share', 'instructions.counts')
_OTHERS = 'data.diversification'


def every(
  runs: Sequence[Analysis | Tuned], labels: Sequence[str]
) -> tuple[list[Evidence], list[str]]:
  """What several runs say, and their labels; raises ConfigError.

  A run of algebra has one depth and one share of diverse rules. Runs that differ in
  these alone, and in the numbers of rules, are one evidence, labelled 'a + b'.
  """
  found: list[tuple[str, list[TunedEvidence], list[str]]] = []
  others: list[tuple[Evidence, str]] = []
  for run, label in zip(runs, labels, strict=True):
    own = tuned_evidence.of(run)
    if (
      not isinstance(own, TunedEvidence) or 'task.diverse_share' not in own.flat_config
    ):
      others.append((own, label))
      continue
    key = _family(own)
    for known, parts, names in found:
      if known == key and not _spoken(own) & set().union(*map(_spoken, parts)):
        parts.append(own)
        names.append(label)
        break
    else:
      found.append((key, [own], [label]))
  pooled = [(_joined(parts), ' + '.join(names)) for _, parts, names in found]
  return [e for e, _ in (*others, *pooled)], [n for _, n in (*others, *pooled)]


def _family(run: TunedEvidence) -> str:
  """Equal for runs of algebra that may be judged together."""
  same = {k: v for k, v in run.flat_config.items() if k not in _APART}
  depth, inside = (run.flat_config[f'task.{k}'] for k in ('depth', 'specialist'))
  # Of a specialist no target tells depths apart; another depth stands for one.
  one = depth if inside or depth not in DEPTHS else None
  return repr((run.experiment, run.size, bool(inside), one, sorted(same.items())))


def _spoken(run: TunedEvidence) -> set[tuple]:
  """What targets can name of a run of algebra, less what all of a family have."""
  return {
    (r.split, r.slice, r.metric, r.instructions, *sorted(r.swept.items()))
    for r in run.rows
    if not r.reference
    and r.split != 'seen'
    and (r.slice.startswith('depth=') or r.swept.get(_OTHERS, '0') != '0')
  }


def _joined(parts: Sequence[TunedEvidence]) -> TunedEvidence:
  """One evidence of several; the runs' members keep apart by their names."""
  if len(parts) == 1:
    return parts[0]
  rows = (
    dataclasses.replace(r, member=f'{n}/{r.member}')
    for n, one in enumerate(parts)
    for r in one.rows
  )
  return dataclasses.replace(parts[0], rows=tuple(rows))
