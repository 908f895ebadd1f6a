import io
import itertools

import fake_figures
import fake_run
import matplotlib.image
import matplotlib.text
import numpy as np
import pytest

from onlyif_jax.analysis import figures, figures_style, panels, results
from onlyif_jax.config import FIGURES, REFERENCES

# Fewer counts and seeds than a figure of `fake_figures` has: fits take time.
SMALL = {
  'noop': {'shares': (0.1, 0.2, 0.3, 0.4, 0.5), 'counts': (101, 503, 1009)},
  'longtail': {'seeds': 1},
  'tradeoff': {'seeds': 1},
  'lengths': {'counts': (101, 503, 1009, 3001)},
  'algebra': {'counts': (11, 41, 307)},
  'occurrences': {'counts': (200, 1000, 2000)},
  'semantics': {'counts': (503, 1009, 5003)},
  'alphabet': {
    'seeds': 1,
    'counts': (101, 401, 809, 1201),
    'variants': fake_figures.RUNS['alphabet']['variants'][::2],
  },
  'sensitivity': {'counts': (101, 401, 601)},
  'cipher': {'counts': (31, 307, 3001)},
  'markov': {'counts': (101, 1009, 10007)},
}
VARIED = ('longtail', 'lengths', 'tradeoff', 'alphabet', 'sensitivity')


@pytest.fixture
def drawn(monkeypatch):
  """Keeps the figures instead of writing them, to look at their parts."""
  kept = []
  for module in (figures, figures_style):
    monkeypatch.setattr(module, 'save', lambda plt, figure, file: kept.append(figure))
  yield kept
  for figure in kept:
    figures_style.pyplot().close(figure)


@pytest.fixture(scope='module')
def imin(tmp_path_factory):
  return results.load(fake_run.make(tmp_path_factory.mktemp('f') / 'run'))


def draw(run, **options):
  figures.draw(run, io.BytesIO(), **options)


def texts(figure):
  """What is written, tick labels left out."""
  figure.canvas.draw()  # makes the tick labels that are then recognised
  ticks = {
    t
    for axes in figure.axes
    for axis in (axes.xaxis, axes.yaxis)
    for t in axis.get_ticklabels(which='both')
  }
  found = figure.findobj(matplotlib.text.Text)
  shown = [t for t in found if t.get_text().strip() and t.get_visible()]
  return [t for t in shown if t not in ticks]


def boxes_of(figure):
  """(text, its box); a label's box is without its leader line."""
  box = matplotlib.text.Text.get_window_extent
  return [(t.get_text(), box(t)) for t in texts(figure)]


def overlaps(figure):
  """Pairs of texts whose boxes overlap."""
  boxes = boxes_of(figure)
  return [
    (a, b)
    for n, (a, box) in enumerate(boxes)
    for b, other in boxes[n + 1 :]
    if box.overlaps(other)
  ]


def outside(figure):
  width, height = figure.bbox.size
  boxes = boxes_of(figure)
  return [
    name
    for name, b in boxes
    if b.x0 < -1 or b.y0 < -1 or b.x1 > width + 1 or b.y1 > height + 1
  ]


def crowded_ticks(figure):
  """Pairs of neighbouring tick labels of one axis that overlap."""
  out = []
  for axes in figure.axes:
    for axis in (axes.xaxis, axes.yaxis):
      labels = [
        t
        for t in axis.get_ticklabels(which='both')
        if t.get_text() and t.get_visible() and inside(t, axes)
      ]
      boxes = sorted(
        ((t.get_window_extent(), t.get_text()) for t in labels),
        key=lambda pair: (pair[0].x0, pair[0].y0),
      )
      out += [(a[1], b[1]) for a, b in itertools.pairwise(boxes) if a[0].overlaps(b[0])]
  return out


def inside(tick, axes):
  """Whether a tick lies within its panel, which alone draws it."""
  (x, y), box = tick.get_transform().transform(tick.get_position()), axes.bbox
  return box.x0 - 1 <= x <= box.x1 + 1 or box.y0 - 1 <= y <= box.y1 + 1


def said(figure):
  return ' '.join(t.get_text() for t in texts(figure)).replace('\n', ' ')


def check(figure):
  """What goes for every figure: nothing overlaps, leaves the page or is too small."""
  assert overlaps(figure) == []
  assert outside(figure) == []
  assert crowded_ticks(figure) == []
  assert min(t.get_fontsize() for t in texts(figure)) >= 8
  assert figure.axes
  for axes in figure.axes:
    if axes.axison and axes.get_shared_x_axes().get_siblings(axes) == [axes]:
      assert axes.get_xlabel() or axes.get_ylabel()


def test_imin_says_what_it_must(imin, drawn):
  draw(imin)
  (figure,) = drawn
  for part in (
    'paper: 300-1,000 at its own size',
    'I = ∞: 0.99',
    'S = ∞: 0.95',
    'I = 1: 0.00',
    'instruction masked: 0.00',
    'y permuted: 0.00',
    'S = N / I',
    '3 seeds',
    '2,003 test examples',
    'N = 38,400',
    '2 passes',
    '1,200 steps of 64',
    'adamw 0.001',
    '161,536 parameters',
    'commit abc1234567',
    'fails up to / holds from 101 / 1,009',
  ):
    assert part in said(figure)
  check(figure)
  assert set(figures.REFERENCES) == set(REFERENCES)


def test_a_figure_is_written_as_png(imin):
  file = io.BytesIO()
  figures.draw(imin, file)
  file.seek(0)
  assert matplotlib.image.imread(file).shape[:2] == (1080, 1350)


def test_unfitted_members_are_hollow(imin, drawn):
  draw(imin)
  axes = drawn[0].axes[0]
  dots = [d for d in axes.lines if d.get_marker() == 'o' and len(d.get_xdata())]
  by_fill = {d.get_markerfacecolor(): sorted(set(d.get_xdata())) for d in dots}
  # Made-up members have seen 0.98 above the step and 0.93 below it.
  assert max(by_fill['white']) <= 503
  assert min(by_fill[figures.BLUE]) >= 307
  assert len(by_fill['white']) + len(by_fill[figures.BLUE]) >= len(fake_run.COUNTS)


def test_fitted_curve_passes_half_of_the_rise_between_the_seeds(imin, drawn):
  draw(imin)
  curve = max(drawn[0].axes[0].lines, key=lambda line: len(line.get_xdata()))
  x, y = curve.get_data()
  half = x[np.argmin(abs(y - y[-1] / 2))]
  per_seed = imin.main.i_50.per_seed.values()
  assert min(per_seed) < half < max(per_seed)


def test_anonymous_leaves_the_commit_out(imin, drawn):
  draw(imin, anonymous=True)
  assert not [t for t in texts(drawn[0]) if 'commit' in t.get_text()]


def test_partial_results_can_be_drawn(tmp_path, drawn):
  run = results.load(
    fake_run.make(tmp_path / 'r', seeds=1, counts=(101, 1009), references=False)
  )
  draw(run)
  assert any('no fit' in t.get_text() for t in texts(drawn[0]))
  assert overlaps(drawn[0]) == []


def test_noop_has_a_panel_for_each_share(tmp_path, drawn):
  draw(results.load(fake_figures.make(tmp_path / 'r', 'noop', **SMALL['noop'])))
  (figure,) = drawn
  titles = [a.get_title() for a in figure.axes if a.get_title()]
  assert [t.split(' ')[0] for t in titles] == ['10%', '20%', '30%', '40%', '50%']
  names = {t.get_text() for t in figure.legends[0].get_texts()}
  assert names >= {'no-op inputs', 'has-op inputs', 'average, tested 50:50'}
  check(figure)


def test_joint_figure_names_every_run(tmp_path, drawn):
  runs = [
    results.load(fake_run.make(tmp_path / str(n), i50=i50, seeds=1, references=False))
    for n, i50 in enumerate((211, 419, 1511))
  ]
  figures.draw_joint(runs, ['first', 'second', 'third'], io.BytesIO())
  (figure,) = drawn
  names = [t.get_text() for t in figure.legends[0].get_texts()]
  assert [n.split(':')[0] for n in names] == ['first', 'second', 'third']
  assert overlaps(figure) == []
  assert outside(figure) == []


WORDS = {  # what each figure must say
  'longtail': (
    'uniform sets',
    'exp(entropy)',
    'RMSE',
    'rules with ≥',
    'I = 1,009, gradients re-weighted to uniform',
    'N = 19,200, uniform',
    'shares of I = 1,009 rules',
    'varied: alpha, balance, N, passes',
  ),
  'occurrences': ('paper 0.94', 'trained on 1, 5, 10, 15, 20', 'I = 2,000', 'not run'),
  'semantics': (
    'repeat + periodic + mirror',
    'k = 1, unconstrained',
    'k as in training',
  ),
  'lengths': ('pattern 6, input 20', 'I$_{50}$, 95 % interval over seeds', '['),
  'tradeoff': (
    'equal steps (1,250)',
    'equal passes (4)',
    'crossed: never',
    'N = I x S',
  ),
  'alphabet': (
    '6 letters',
    'pattern 4, input 14',
    'where the step lies, and each seed',
  ),
  'sensitivity': ('base', 'passes 8', 'dropout 0.1', 'I = 601'),
  'cipher': ('no-op inputs', 'seen x → y with another shift', 'N = 19,200'),
  'algebra': (
    'unseen rules, depth 3',
    'best share 0.1',
    '20 in-domain rules, share 0.1',
  ),
  'markov': ('answer: trace', 'rewrites of the run', 'programs in training'),
}


@pytest.mark.parametrize('name', WORDS)
def test_figure_of_an_experiment_says_what_it_must(tmp_path, drawn, name):
  options = SMALL.get(name, {})
  if name == 'occurrences':
    options = {**options, 'drop': [('task.train_matches=10', 1000)]}
  draw(results.load(fake_figures.make(tmp_path / 'r', name, **options)))
  (figure,) = drawn
  text = said(figure) + ' '.join(tick_labels(figure))
  missing = [part for part in WORDS[name] if part not in text]
  assert missing == []
  check(figure)


def tick_labels(figure):
  return [
    t.get_text()
    for axes in figure.axes
    for axis in (axes.xaxis, axes.yaxis)
    for t in axis.get_ticklabels()
  ]


@pytest.mark.parametrize('name', WORDS)
def test_one_cell_of_one_seed_can_be_drawn(tmp_path, drawn, name):
  given = fake_figures.RUNS[name]
  path = fake_figures.make(
    tmp_path / 'r', name, counts=(1009,), seeds=1, variants=given['variants'][-1:]
  )
  draw(results.load(path))
  assert len(drawn) == 1
  assert outside(drawn[0]) == []
  assert overlaps(drawn[0]) == []


@pytest.mark.parametrize(
  'name',
  [
    name
    if name in ('longtail', 'algebra')
    else pytest.param(name, marks=pytest.mark.slow)
    for name in WORDS
  ],
)
def test_missing_cells_can_be_drawn(tmp_path, drawn, name):
  given = {**fake_figures.RUNS[name], **SMALL.get(name, {})}
  counts, variants = given['counts'][:3], given['variants']
  # Every second variant ran at the least count alone, one has no results at all.
  drop = [(v, i) for v in variants[1::2] for i in counts[1:]]
  drop += [(variants[-1], i) for i in range(20, 10008)]
  run = results.load(
    fake_figures.make(
      tmp_path / 'r', name, **{**given, 'counts': counts, 'drop': set(drop), 'seeds': 1}
    )
  )
  draw(run)
  assert len(drawn) == 1


@pytest.mark.parametrize('name', VARIED)
def test_a_comparison_without_variants_is_drawn_as_one_curve(tmp_path, drawn, name):
  path = fake_run.make(tmp_path / 'r', figure=name, counts=(101, 1009), seeds=1)
  draw(results.load(path))
  assert 'S = N / I' in said(drawn[0])


@pytest.mark.parametrize(
  'name', ['occurrences', 'semantics', 'cipher', 'algebra', 'markov']
)
def test_a_task_without_variants_has_its_own_figure(tmp_path, drawn, name):
  path = fake_run.make(
    tmp_path / 'r',
    figure=name,
    task=name,
    counts=(101, 1009),
    seeds=1,
    references=False,
  )
  draw(results.load(path))
  assert 'S = N / I' not in said(drawn[0])


def test_every_figure_has_its_function():
  assert set(figures.FIGURES) == set(FIGURES) == set(fake_figures.RUNS)


def test_equal_steps_are_one_plane_and_equal_passes_another(tmp_path):
  from onlyif_jax.analysis import figures_tradeoff

  run = results.load(fake_figures.make(tmp_path / 'r', 'tradeoff', seeds=1))
  steps, passes, early = figures_tradeoff.planes(panels.View(run)).values()
  cells = [(i, s) for i in (101, 401, 1601, 6397) for s in (1, 3, 12, 48)]
  within = {(i, s) for i, s in cells if 1_000 < i * s <= 80_000}
  assert {(c.instructions, c.per_rule) for c in steps} == within
  assert {(c.instructions, c.per_rule) for c in passes} == {
    c for c in within if c[1] > 3
  }
  # Made-up members learn their own rules from two examples of each on.
  assert {c.per_rule for c in early if not c.rows} == {1.0}
  assert {r.step for c in early for r in c.rows} == {127}
  assert {r.split for c in early for r in c.rows} == {'dev'}


@pytest.mark.parametrize(
  'values', [[0, 0, 0.001, 0.95, 0.985], [0.5] * 5, [0.97, 0.98, 0.99, 1.0], []]
)
def test_labels_keep_their_distance_and_order(values):
  heights = figures_style.apart(values, 0.06)
  assert all(b - a >= 0.06 - 1e-9 for a, b in itertools.pairwise(heights))
  assert not heights or (min(heights) >= 0 and max(heights) <= 1)


def test_no_two_series_look_alike_but_for_their_colour():
  looks = [figures_style.look(n) for n in range(24)]
  assert len({(own.marker, own.colour) for own in looks}) == len(looks)
  first = looks[:8]
  assert len({own.marker for own in first}) == len({own.line for own in first}) == 8
