import io
import itertools

import fake_run
import matplotlib.image
import matplotlib.text
import numpy as np
import pytest

from onlyif_jax.analysis import figures, results
from onlyif_jax.config import REFERENCES


@pytest.fixture
def drawn(monkeypatch):
  """Keeps what `draw` would close: the figure, to look at its parts."""
  kept = []
  plt = figures._pyplot()
  close = plt.close
  monkeypatch.setattr(plt, 'close', kept.append)
  yield kept
  for figure in kept:
    close(figure)


@pytest.fixture(scope='module')
def imin(tmp_path_factory):
  return results.load(fake_run.make(tmp_path_factory.mktemp('f') / 'run'))


def draw(run, **options):
  file = io.BytesIO()
  figures.draw(run, file, **options)
  file.seek(0)
  return matplotlib.image.imread(file)


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


def test_imin_says_what_it_must(imin, drawn):
  image = draw(imin)
  assert image.shape[:2] == (1080, 1350)
  (figure,) = drawn
  said = '\n'.join(t.get_text() for t in texts(figure)).replace('\n', ' ')
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
    assert part in said
  assert overlaps(figure) == []
  assert outside(figure) == []
  assert set(figures.REFERENCES) == set(REFERENCES)


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
  shares = (0.1, 0.2, 0.3, 0.4, 0.5)
  path = fake_run.make(tmp_path / 'r', figure='noop', shares=shares)
  draw(results.load(path))
  (figure,) = drawn
  titles = [a.get_title() for a in figure.axes if a.get_title()]
  assert [t.split(' ')[0] for t in titles] == ['10%', '20%', '30%', '40%', '50%']
  names = {t.get_text() for t in figure.legends[0].get_texts()}
  assert names >= {'no-op inputs', 'has-op inputs', 'average, tested 50:50'}
  assert overlaps(figure) == []
  assert outside(figure) == []


def test_joint_figure_names_every_run(tmp_path, drawn):
  runs = [
    results.load(fake_run.make(tmp_path / str(n), i50=i50, references=False))
    for n, i50 in enumerate((211, 419, 1511))
  ]
  figures.draw_joint(runs, ['first', 'second', 'third'], io.BytesIO())
  (figure,) = drawn
  names = [t.get_text() for t in figure.legends[0].get_texts()]
  assert [n.split(':')[0] for n in names] == ['first', 'second', 'third']
  assert overlaps(figure) == []
  assert outside(figure) == []


@pytest.mark.parametrize(
  'values', [[0, 0, 0.001, 0.95, 0.985], [0.5] * 5, [0.97, 0.98, 0.99, 1.0], []]
)
def test_labels_keep_their_distance_and_order(values):
  heights = figures._spread(values, 0.06)
  assert all(b - a >= 0.06 - 1e-9 for a, b in itertools.pairwise(heights))
  assert not heights or (min(heights) >= 0 and max(heights) <= 1)
