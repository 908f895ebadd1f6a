import io

import fake_figures
import fake_run
import matplotlib.image
import pytest
from test_figures import check, drawn, said  # noqa: F401 - a fixture

from onlyif_jax.analysis import figures_anatomy, results
from onlyif_jax.config import ConfigError


def make(path, **options):
  path = fake_run.make(path, counts=(101, 307, 503, 1009), seeds=2, **options)
  fake_run.anatomy(path)
  return results.load(path)


@pytest.fixture
def kept(drawn, monkeypatch):  # noqa: F811
  monkeypatch.setattr(
    figures_anatomy, 'save', lambda plt, figure, file: drawn.append(figure)
  )
  return drawn


def test_classes_are_those_of_the_anatomy():
  mistakes = pytest.importorskip('onlyif_jax.evals.mistakes')
  assert set(figures_anatomy.CLASSES) == {m.name.lower() for m in mistakes.Mistake}
  looks = [(colour, hatch) for _, colour, hatch in figures_anatomy.CLASSES.values()]
  assert len(set(looks)) == len(looks)


def test_bars_are_means_over_seeds_and_reach_one(tmp_path):
  run = make(tmp_path / 'r', spread=0.5)
  (bars,) = figures_anatomy.shares(run).values()
  assert list(bars) == [101, 307, 503, 1009]
  for count, kinds in bars.items():
    assert sum(kinds.values()) == pytest.approx(1)
    own = [r.value for r in run.curves[0].by_count()[count] if r.reference == '']
    assert kinds['right'] == pytest.approx(sum(own) / len(own), abs=0.02)


def test_bars_without_references(kept, tmp_path):
  run = make(tmp_path / 'r')
  figures_anatomy.draw_anatomy(run, io.BytesIO())
  (figure,) = kept
  (axes,) = figure.axes
  assert len(axes.containers) == 6  # five kinds of mistakes and the right outputs
  assert {len(c) for c in axes.containers} == {4}
  names = [t.get_text() for t in figure.legends[0].get_texts()]
  assert names == [c.get_label() for c in axes.containers]
  assert 'up to 199 outputs of each member decoded' in said(figure)
  check(figure)


def test_a_panel_for_each_variant(kept, tmp_path):
  path = fake_figures.make(tmp_path / 'r', 'sensitivity', counts=(101, 401), seeds=1)
  fake_run.anatomy(path)
  figures_anatomy.draw_anatomy(results.load(path), io.BytesIO(), anonymous=True)
  (figure,) = kept
  titles = [axes.get_title() for axes in figure.axes]
  assert len(set(titles)) == 6
  assert titles[:2] == ['base', 'optimiser muon']
  assert 'commit' not in said(figure)
  check(figure)


def test_one_bar_of_one_class(tmp_path):
  path = fake_run.make(tmp_path / 'r', counts=(29,), seeds=1, references=False)
  fake_run.anatomy(path, classes={'right': 0.0, 'a_class_of_tomorrow': 1.0})
  file = io.BytesIO()
  figures_anatomy.draw_anatomy(results.load(path), file)
  file.seek(0)
  assert matplotlib.image.imread(file).ndim == 3


def test_a_run_without_outputs_is_named(tmp_path):
  path = fake_run.make(tmp_path / 'r', counts=(29,), seeds=1)
  with pytest.raises(ConfigError, match='has no outputs of split unseen'):
    figures_anatomy.draw_anatomy(results.load(path), io.BytesIO())
