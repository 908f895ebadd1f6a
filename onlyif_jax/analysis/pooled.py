"""Pools the runs of algebra that the scoreboard has to judge together.

A run of algebra may have one depth and one share of diverse rules, while a figure of
the papers has several: such a run alone cannot support a claim about all of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from onlyif_jax.analysis import tuned_evidence
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.analysis.selector import Evidence
from onlyif_jax.analysis.tuned import Tuned
from onlyif_jax.analysis.tuned_evidence import DEPTHS, TunedEvidence

# The settings in which runs of one pool may differ.
_VARIED = (
  *('task.depth', 'task.specialist', 'task.diverse_share'),
  *('instructions.counts', 'instructions.variants'),
)
_DIVERSIFICATION = 'data.diversification'


class _Pool(NamedTuple):
  family: str
  members: list[TunedEvidence]
  labels: list[str]


def pool(
  runs: Sequence[Analysis | Tuned], labels: Sequence[str]
) -> tuple[list[Evidence], list[str]]:
  """The evidence of several runs, and its labels; raises ConfigError.

  Runs of algebra that differ only in depth, share of diverse rules and numbers of rules
  become one evidence, labelled 'a + b'.
  """
  pools: list[_Pool] = []
  evidence: list[Evidence] = []
  names: list[str] = []
  for run, label in zip(runs, labels, strict=True):
    member = tuned_evidence.of(run)
    if (
      not isinstance(member, TunedEvidence)
      or 'task.diverse_share' not in member.flat_config
    ):
      evidence.append(member)
      names.append(label)
      continue
    family, points = _family(member), _points(member)
    for candidate in pools:
      taken = set().union(*map(_points, candidate.members))
      if candidate.family == family and not points & taken:
        candidate.members.append(member)
        candidate.labels.append(label)
        break
    else:
      pools.append(_Pool(family, [member], [label]))
  evidence += [_join(p.members) for p in pools]
  names += [' + '.join(p.labels) for p in pools]
  return evidence, names


def _family(run: TunedEvidence) -> str:
  """A key that is equal for runs of algebra that may be judged together."""
  same = {k: v for k, v in run.flat_config.items() if k not in _VARIED}
  inside = any(task['specialist'] for task in run.tasks)
  # Targets name the depth of generalists alone, and only the papers' depths.
  depths = sorted({task['depth'] for task in run.tasks})
  fixed_depths = depths if inside or not set(depths) <= set(DEPTHS) else None
  key = (run.experiment, run.size, inside, fixed_depths, sorted(same.items()))
  return repr(key)


def _points(run: TunedEvidence) -> set[tuple]:
  """The points of a run that targets can name, except those that a family shares."""
  return {
    (r.split, r.slice, r.metric, r.instructions, *sorted(r.swept.items()))
    for r in run.rows
    if not r.reference
    and r.split != 'seen'
    and (r.slice.startswith('depth=') or r.swept.get(_DIVERSIFICATION, '0') != '0')
  }


def _join(runs: Sequence[TunedEvidence]) -> TunedEvidence:
  """One evidence with all rows; a prefix keeps member names unique."""
  if len(runs) == 1:
    return runs[0]
  rows = (
    dataclasses.replace(r, member=f'{n}/{r.member}')
    for n, run in enumerate(runs)
    for r in run.rows
  )
  return dataclasses.replace(runs[0], rows=tuple(rows))
