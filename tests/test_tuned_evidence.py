"""What fine-tuning runs say to the papers' targets: sizes, versions, noise."""

import dataclasses
import functools
import json
import tempfile
from pathlib import Path

import fake_tuned
import pytest
from fake_tuned import right

from onlyif_jax.analysis import (
  pooled,
  scoreboard,
  targets,
  tuned,
  tuned_evidence,
  verdict,
)
from onlyif_jax.finetune import rows as rows_lib
from onlyif_jax.models import llama, published

TARGETS = targets.load()
WEIGHTS = targets.experiments()['cipher_lm']['settings']['base.parameters']


def judged(path, name):
  target = TARGETS[name]
  return verdict.judge(target, tuned_evidence.of(tuned.load(path)))


def weights(path, number):
  """The workdir, with so many weights of its base in provenance.json."""
  file = path / 'provenance.json'
  told = json.loads(file.read_text()) | {'base_parameters': number}
  file.write_text(json.dumps(told))
  return path


def symbolic(path, shares, *, name='cipher_lm', arg='7b', extra=(), **settings):
  """A run in which rows have a share of right answers, alike for every seed.

  shares: (I, subset) -> share, or (share of x, share of no-ops). extra: rows without
  fine-tuning. settings: of the config, task__depth=4.
  """
  tuning = fake_tuned.config(name, arg)
  for field, value in settings.items():
    section, _, one = field.partition('__')
    part = dataclasses.replace(getattr(tuning, section), **{one: value})
    tuning = dataclasses.replace(tuning, **{section: part})
  results = []
  for (count, subset), share in shares.items():
    for seed in range(3):
      row = rows_lib.TuningRow(f'I{count}-{subset}-s{seed}', seed, count, subset)
      both = share if isinstance(share, tuple) else (share, share)
      parts = zip(('noop=0', 'noop=1', 'all'), (*both, sum(both) / 2), strict=True)
      for part, value in parts:
        total = round(value * 5_003)
        results.append((row, 'unseen', part, 'exact_match', total, 5_003))
        results.append((row, 'deeper', part, 'exact_match', total, 5_003))
      results.append((row, 'seen', 'all', 'exact_match', 5_000, 5_003))
  for row, share in extra:
    own = rows_lib.TuningRow(row, 0, 0)
    results.append((own, 'unseen', 'all', 'exact_match', round(share * 499), 499))
  return fake_tuned.write(path, tuning, results)


CIPHER = {
  (10, 'all'): (0.0, 0.97),
  (100, 'all'): (0.01, 0.95),
  (9_000, 'all'): (0.9, 0.95),
  (9_000, 'half'): (0.9, 0.95),
  (9_000, 'skewed:0.2'): (0.5, 0.6),
}


@pytest.fixture(scope='module')
def cipher(tmp_path_factory):
  return symbolic(tmp_path_factory.mktemp('cipher') / 'run', CIPHER)


@pytest.mark.parametrize(
  ('name', 'state'),
  [
    ('cipher-noop', 'supported'),
    ('cipher-hasop', 'supported'),
    ('cipher-more', 'supported'),
    ('cipher-halved', 'supported'),
    ('cipher-power', 'supported'),
    ('cipher-uniform', 'supported'),
    ('cipher-gap', 'contradicted'),
  ],
)
def test_claims_of_ciphers_are_judged(cipher, name, state):
  assert judged(weights(cipher, WEIGHTS), name).label == state


def test_only_the_papers_model_at_its_size_counts(cipher, tmp_path):
  def coverage(path):
    return scoreboard.judge([tuned_evidence.of(tuned.load(path))]).coverage[0]

  assert coverage(weights(cipher, WEIGHTS)) == 7
  assert coverage(weights(cipher, 193_088)) == 0
  found = judged(cipher, 'cipher-noop')
  assert found.label.startswith('supported (7b, but base.parameters=193088')
  tiny = symbolic(tmp_path / 'tiny', CIPHER, arg='tiny')
  assert coverage(weights(tiny, WEIGHTS)) == 0
  assert judged(tiny, 'cipher-noop').label == 'supported (tiny analogue)'
  # Half of a smaller run's examples is the half.
  assert judged(tiny, 'cipher-power').label == 'supported (tiny analogue)'
  board = scoreboard.judge([tuned_evidence.of(tuned.load(tiny))])
  assert 'as analogues of another size: 1 contradicted, 6 supported' in board.text()


def test_the_papers_models_have_the_weights_that_are_asked_for():
  from onlyif_jax.models import pretrained_config

  found = {
    llama.weight_count(pretrained_config.parse(known, name))
    for name, known in published.CONFIGS.items()
  }
  settings = [e.get('settings', {}) for e in targets.experiments().values()]
  asked = {s['base.parameters'] for s in settings if 'base.parameters' in s}
  assert asked == found


ALGEBRA = {'name': 'algebra_lm', 'arg': '7b,depth=3'}  # a run without variants
FIG_5A = {(10, 'all'): 0.44, (20, 'all'): 0.52, (40, 'all'): 0.2}


def test_algebra_is_judged_at_its_own_depth(tmp_path):
  settings = {**ALGEBRA, 'extra': (('3-shot', 0.7), ('zero-shot', 0.1))}
  path = symbolic(tmp_path / 'three', FIG_5A, **settings)
  weights(path, targets.experiments()['algebra_lm']['settings']['base.parameters'])
  assert judged(path, 'algebra-5a/10/D3').label == 'supported'
  assert judged(path, 'algebra-5a/40/D3').label == 'contradicted'
  assert judged(path, 'algebra-5a/10/D4').state == 'not run'
  assert judged(path, 'algebra-5b/20/one of the curves').state == 'not run'
  base = judged(path, 'algebra-base')  # one seed of the untuned model
  assert base.state == 'contradicted'
  assert 'few_shot' in base.ours
  tiny = symbolic(tmp_path / 'tiny', FIG_5A, **settings | {'arg': 'tiny'})
  found = judged(tiny, 'algebra-5a/10/D3')
  assert found.label == 'supported (tiny analogue)'
  assert found.reason.endswith('expressions of depth 1 stand for it')


def test_specialists_are_judged_at_unseen_depth(tmp_path):
  settings = {'task__specialist': 20, 'task__diverse_share': 0.1, **ALGEBRA}
  path = symbolic(tmp_path / 'a', {(60, 'all'): 0.4, (40, 'all'): 0.2}, **settings)
  assert judged(path, 'algebra-5c/5:45/Diver-40').state == 'supported'
  alone = judged(path, 'algebra-peak')  # 5:45 with 40 against 20 rules, no other share
  assert (alone.state, alone.partial) == ('inconclusive', True)
  assert alone.reason.startswith('not run: mixture = 1:49, diversification = 20; ')
  assert judged(path, 'algebra-5a/20/D3').state == 'not run'
  assert judged(path, 'algebra-5b/40/20 in domain').state == 'not run'
  settings['task__diverse_share'] = 40 / 60
  path = symbolic(tmp_path / 'b', {(60, 'all'): 0.33}, **settings)
  assert judged(path, 'algebra-5b/40/20 in domain').state == 'supported'


def board_of(*paths):
  runs = [tuned.load(path) for path in paths]
  board = scoreboard.judge(*pooled.pool(runs, [path.name for path in paths]))
  return {line.target.id: line for line in board.lines}


def test_runs_of_algebra_that_differ_in_share_and_depth_are_judged_together(tmp_path):
  paths = []
  for name, share, lift in (('low', 0.02, 0.0), ('mid', 0.1, 0.2), ('high', 0.2, 0.1)):
    own = {'task__specialist': 20, 'task__diverse_share': share, **ALGEBRA}
    shares = {(60, 'all'): 0.4 + lift, (40, 'all'): 0.2 + lift}
    paths.append(symbolic(tmp_path / name, shares, **own))
  for depth, lift in ((3, 0.1), (4, 0.0)):
    shares = {(10, 'all'): 0.4 - lift, (20, 'all'): 0.5, (40, 'all'): 0.6 + lift}
    own = {'task__depth': depth, **ALGEBRA}
    paths.append(symbolic(tmp_path / f'depth{depth}', shares, **own))
  found = board_of(*paths)
  assert found['algebra-peak'].best.state == 'supported'
  assert found['algebra-peak'].results[0][0] == 'low + mid + high'
  assert found['algebra-rules'].best.state == 'supported'
  assert found['algebra-rules'].results[1][0] == 'depth3 + depth4'
  assert found['algebra-5a/20/D3'].best.state == 'supported'
  for apart in (paths[:2], paths[3:4], paths[3:4] * 2):
    one = board_of(*apart)
    assert one['algebra-peak'].best.state != 'supported'
    assert one['algebra-rules'].best.state != 'supported'
  # A second run of the same rows is another run.
  again = board_of(paths[3], paths[3])['algebra-5a/20/D3'].results
  assert [state.state for _, state in again] == ['supported', 'supported']
  # Other training is another evidence.
  told = json.loads((paths[4] / 'config.json').read_text())
  told['optim']['learning_rate'] = 0.5
  (paths[4] / 'config.json').write_text(json.dumps(told))
  assert board_of(*paths[3:])['algebra-rules'].best.state == 'inconclusive'


def test_diverse_rules_are_judged_over_runs(tmp_path):
  paths = []
  for inside in (20, 40):
    for others, share in ((5, 0.05), (20, 0.2), (40, 0.35)):
      own = {'task__specialist': inside, **ALGEBRA}
      own['task__diverse_share'] = others / (inside + others)
      path = tmp_path / f'{inside}-{others}'
      paths.append(symbolic(path, {(inside + others, 'all'): share}, **own))
  assert board_of(*paths)['algebra-diverse'].best.state == 'supported'
  assert board_of(*paths[:5])['algebra-diverse'].best.partial
  assert board_of(*paths[:1])['algebra-diverse'].best.state == 'not run'


# Mixtures.


def code(path, lift, *, seeds=3, arg='7b', sizes=(399,), spread=0.0):
  """A run of code_deepseek; lift: of the rows of 20K, over 0.6, by their place."""
  tuning = fake_tuned.config('code_deepseek', arg)
  own = [r for r in rows_lib.rows(tuning) if r.seed < seeds]
  order = list(tuning.mixture.rows)
  own = [r for r in own if order.index(r.mixture) < len(lift)]
  sources = [file.name for file in tuning.mixture.source_files]
  results = [(r, 'heldout', f'source={sources[0]}', 'response_nll', 7, 11) for r in own]
  fake_tuned.write(path, tuning, results)
  for r in own:
    share = 0.6 + lift[order.index(r.mixture)] + spread * (r.seed - 1)
    fake_tuned.solve(
      path, r.name, {'base': right(164, share), 'plus': right(164, share - 0.05)}
    )
    for size in sizes:
      both = {'base': right(size, share + 0.1, 1), 'plus': right(size, share, 1)}
      fake_tuned.solve(path, r.name, both, folder=f'mbpp-{size}')
  return path


PEAK = (0.0, 0.05, 0.15, 0.05, 0.0, -0.05)


@functools.cache
def peaked():
  with tempfile.TemporaryDirectory() as name:
    return tuned_evidence.of(tuned.load(code(Path(name) / 'run', PEAK)))


def test_averages_and_cells_stand_on_their_problems():
  found = {(r.slice, r.swept['data.mixture']): r for r in peaked().rows}
  he, average = (
    found['benchmark=humaneval', '20/0/0'],
    found['benchmark=average', '20/0/0'],
  )
  assert (he.count, he.value) == (164, round(0.6 * 164) / 164)
  assert average.count == TARGETS['deepseek-20k/20/0/0/Avg'].n == 465
  assert found['benchmark=mbpp_plus', '15/5/0'].count == 399
  parts = [
    round(s * n) / n for s, n in ((0.6, 164), (0.55, 164), (0.7, 399), (0.6, 399))
  ]
  assert average.value == pytest.approx(sum(parts) / 4)
  # Each problem's two suites go together: more than four independent parts would say.
  assert average.rule_se > 0.5 * (0.24 / 164 + 0.24 / 399) ** 0.5 / 2**0.5
  assert {r.swept['version'] for r in peaked().rows} == {''}


def test_a_peak_beyond_its_noise_is_supported_and_one_within_is_not(tmp_path):
  peak = verdict.judge(TARGETS['deepseek-peak'], peaked())
  assert peak.label == 'supported'
  few = tuple(0.003 * (n == 2) for n in range(6))  # one problem of each suite
  path = code(tmp_path / 'few', few)
  found = judged(path, 'deepseek-peak')
  assert found.state == 'inconclusive'
  assert found.ours.startswith('0.00 [-0.00, 0.0')  # a difference may be negative
  rough = code(tmp_path / 'rough', PEAK, spread=0.12)
  assert judged(rough, 'deepseek-peak').state == 'inconclusive'  # as seeds differ


def test_one_seed_does_not_tell_what_seeds_do(tmp_path):
  path = code(tmp_path / 'one', PEAK, seeds=1)
  assert judged(path, 'deepseek-peak').state == 'inconclusive'


def test_problems_are_paired(tmp_path):
  """The same gap on other problems than the baseline's is not told from noise."""
  path = code(tmp_path / 'run', (0.0, 0.0, 0.04))
  evidence = tuned_evidence.of(tuned.load(path))
  rows = {}
  for r in evidence.rows:
    if r.slice == 'benchmark=humaneval':
      rows.setdefault(r.swept['data.mixture'], {})[r.seed] = r
  gap = evidence.difference(rows['18/2/0'], rows['20/0/0'])
  assert gap.value == pytest.approx(0.04, abs=0.005)
  unpaired = 1.96 * (2 * 0.24 / 164) ** 0.5
  assert gap.half < unpaired / 2
  assert gap.beyond(0.0, above=True)
  assert evidence.difference(rows['20/0/0'], rows['18/2/0']).value == -gap.value


def test_a_number_is_held_against_the_version_of_its_size(tmp_path):
  path = code(tmp_path / 'run', (0.057,), sizes=(378, 399))
  evidence = tuned_evidence.of(tuned.load(path))
  cells = [r for r in evidence.rows if r.slice == 'benchmark=mbpp' and r.seed == '0']
  assert sorted(r.count for r in cells) == [378, 399]
  assert len({r.swept['version'] for r in cells}) == 2
  found = judged(path, 'deepseek-20k/20/0/0/MBPP')
  assert found.label == 'supported'
  assert found.ours.startswith(f'{100 * round(0.757 * 399) / 399:.1f} [')


def test_a_short_average_is_of_an_analogue_alone(tmp_path):
  path = code(tmp_path / 'full', PEAK, sizes=())
  assert judged(path, 'deepseek-20k/18/2/0/HE').label == 'supported'
  assert judged(path, 'deepseek-peak').state == 'not run'
  path = code(tmp_path / 'tiny', PEAK, sizes=(), arg='tiny')
  found = judged(path, 'deepseek-20k/18/2/0/Avg')
  assert found.analogue == 'tiny'
  assert 'here the mean of humaneval base, humaneval plus alone' in found.reason
  assert 'here the mean' in judged(path, 'deepseek-20k/18/2/0/gain').reason
  assert 'here the mean' not in judged(path, 'deepseek-20k/18/2/0/HE').reason


def test_scores_without_problems_are_judged_by_their_errors(tmp_path):
  tuning = fake_tuned.config('generalist')
  own = rows_lib.rows(tuning)[:3]
  results = [(r, 'heldout', 'source=ultra', 'response_nll', 7, 11) for r in own]
  path = fake_tuned.write(tmp_path / 'run', tuning, results)
  for n, r in enumerate(own):
    for name in ('math', 'theoremqa', 'mmlu', 'bbh', 'ifeval'):
      value = 0.4 + 0.02 * n
      fake_tuned.score(path, r.name, name, acc=(value, value - 0.05, value + 0.05))
    whole = {'base': right(163, 0.4)}
    fake_tuned.solve(path, r.name, whole)
    fake_tuned.solve(path, r.name, whole, version='MBPP')
  found = judged(path, 'generalist-20k/10/10/0/overall')
  assert found.state == 'supported'
  assert 'test size is not given' in found.reason
  assert judged(path, 'generalist-20k/10/10/0/in budget').ours.startswith('3.57 [')
  (path / 'benchmarks' / own[1].name / 'bbh.json').unlink()
  assert judged(path, 'generalist-20k/10/10/0/overall').state == 'not run'
  assert judged(path, 'generalist-20k/20/0/0/overall').state != 'not run'


def test_scores_by_another_protocol_are_no_rows_of_the_papers(tmp_path):
  path = code(tmp_path / 'run', (0.02,))
  assert judged(path, 'deepseek-20k/20/0/0/HE').analogue == ''
  for file in path.glob('benchmarks/*/*/scores.json'):
    told = json.loads(file.read_text())
    told['origin']['protocol'] = 'harness-default'
    file.write_text(json.dumps(told))
  found = judged(path, 'deepseek-20k/20/0/0/HE')
  assert found.analogue == '7b, but benchmarks.protocol=harness-default:'


def test_the_generalist_is_judged_by_the_papers_suite():
  asked = targets.experiments()['generalist']['settings']['benchmarks.protocol']
  own = fake_tuned.config('generalist').benchmarks.protocol
  assert (own, asked) == ('harness-default', 'eurus-2024-09')


def covering(path, shares, prompts=163):
  """A run of code_deepseek whose mixtures cover so much of two tests."""
  fake_tuned.mixtures(path, 'code_deepseek', keep=3)
  rows = fake_tuned.config('code_deepseek').mixture.rows
  tests = ('humaneval', 'mbpp')
  told = {
    'tests': {name: {'prompts': prompts} for name in tests},
    'mixtures': [
      {'rows': rows[n], 'cover': dict(zip(tests, both, strict=True))}
      for n, both in shares.items()
    ],
  }
  (path / 'mixture').mkdir()
  (path / 'mixture' / 'diversity.json').write_text(json.dumps(told))
  return path


@pytest.mark.parametrize(
  ('shares', 'state'),
  [
    ({0: (0.3, 0.4), 2: (0.6, 0.7)}, 'supported'),
    ({0: (0.3, 0.4), 2: (0.6, 0.41)}, 'inconclusive'),  # two of 163 prompts
    ({0: (0.3, 0.7), 2: (0.6, 0.4)}, 'contradicted'),
    ({0: (0.3, 0.4)}, 'not run'),
    ({2: (0.6, 0.7)}, 'not run'),
  ],
)
def test_covers_of_the_tests_are_judged(tmp_path, shares, state):
  found = judged(covering(tmp_path / 'run', shares), 'embedding-cover')
  assert found.state == state
  if state == 'supported':
    half = 1.96 * (2 * 0.24 / 163) ** 0.5
    low, high = (float(x) for x in found.ours.split('[')[1].split(']')[0].split(','))
    assert (high - low) / 2 == pytest.approx(half, abs=0.011)


def test_without_scores_or_of_no_paper_nothing_is_judged(tmp_path):
  path = fake_tuned.mixtures(tmp_path / 'a', 'code_codeqwen', keep=2)
  assert tuned_evidence.of(tuned.load(path)).rows == ()
  board = scoreboard.judge([tuned_evidence.of(tuned.load(path))])
  assert {x.best.state for x in board.of(['code_codeqwen'])} == {'not run'}
