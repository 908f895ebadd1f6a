"""Numbers of diversity against plain loops and known limits, and the map beside them."""

import io
import math
import sys
import types

import numpy as np
import pytest

from onlyif_jax.analysis import figures_map
from onlyif_jax.analysis.figures_map import Cloud
from onlyif_jax.analysis.table import Grid
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import spread


def unit(rows_ND):
  return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


ROWS_ND = unit(np.random.default_rng(0).standard_normal((53, 7)))
TESTS_QD = unit(np.random.default_rng(1).standard_normal((13, 7)))


def cosine(a, b):
  return 1 - sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def test_effective_number_is_that_of_equal_shares():
  assert spread.effective([11] * 7) == pytest.approx(7)
  assert spread.effective([5, 0, 0]) == 1
  assert spread.effective([]) == 0
  p = [0.5, 0.3, 0.2]
  wanted = math.exp(-sum(x * math.log(x) for x in p))
  assert spread.effective([50, 30, 20]) == pytest.approx(wanted)


# The Vendi score.


def test_vendi_is_that_of_the_whole_kernel():
  values = np.linalg.eigvalsh(ROWS_ND @ ROWS_ND.T / len(ROWS_ND))
  wanted = math.exp(-sum(v * math.log(v) for v in values if v > 1e-12))
  assert spread.vendi(ROWS_ND) == pytest.approx(wanted, rel=1e-9)
  assert 1 < wanted < 7


@pytest.mark.parametrize('n', [1, 5, 11])
def test_vendi_counts_different_rows(n):
  eye = np.eye(11)[:n]
  assert spread.vendi(eye) == pytest.approx(n)
  assert spread.vendi(np.repeat(eye, 3, axis=0)) == pytest.approx(n)
  assert spread.vendi(np.repeat(eye[:1], 13, axis=0)) == pytest.approx(1)


# Neighbours.


@pytest.mark.parametrize('k', [1, 3])
def test_nearest_is_that_of_a_loop(k, monkeypatch):
  monkeypatch.setattr(spread, 'CHUNK', 5)  # the last chunk is smaller
  wanted = [sorted(cosine(t, r) for r in ROWS_ND)[k - 1] for t in TESTS_QD]
  np.testing.assert_allclose(spread.nearest(TESTS_QD, ROWS_ND, k), wanted, atol=1e-12)


def test_radius_is_the_distance_to_other_prompts():
  for k in (1, 5, 50):
    wanted = []
    for n, t in enumerate(TESTS_QD):
      others = sorted(cosine(t, o) for m, o in enumerate(TESTS_QD) if m != n)
      wanted.append(others[min(k, len(others)) - 1])
    np.testing.assert_allclose(spread.radii(TESTS_QD, k), wanted, atol=1e-12)
  with pytest.raises(ValueError, match='one test prompt'):
    spread.radii(TESTS_QD[:1], 1)


def test_cover_is_the_share_within_reach():
  near = np.array([0.1, 0.2, 0.3, 0.9, 0.2])
  assert spread.cover(near, 0.2) == pytest.approx(3 / 5)
  assert spread.cover(near, np.array([0.0, 0.3, 0.3, 1.0, 0.1])) == pytest.approx(3 / 5)
  assert spread.cover(spread.nearest(TESTS_QD, TESTS_QD), 0.0) == 1  # its own rows


def test_more_rows_never_cover_less():
  radius_Q = spread.radii(TESTS_QD, 3)
  found = [
    spread.cover(spread.nearest(TESTS_QD, ROWS_ND[:n]), radius_Q) for n in (2, 11, 53)
  ]
  assert found == sorted(found)
  assert found[0] < found[-1]


# Clusters.


def test_clusters_are_a_fixed_point_of_lloyds_rounds():
  cluster_N, centres_CD = spread.k_means(ROWS_ND, 5, seed=3)
  for n, row in enumerate(ROWS_ND):
    far = [sum((a - b) ** 2 for a, b in zip(row, c, strict=True)) for c in centres_CD]
    assert far[cluster_N[n]] == pytest.approx(min(far))
  for c, centre in enumerate(centres_CD):
    own = [row for row, cluster in zip(ROWS_ND, cluster_N, strict=True) if cluster == c]
    assert len(own) > 0
    np.testing.assert_allclose(sum(own) / len(own), centre, atol=1e-12)


def test_clusters_find_groups_that_lie_apart():
  rng = np.random.default_rng(2)
  group_N = np.repeat(np.arange(5), 11)
  rows_ND = unit(np.eye(7)[group_N] + 0.01 * rng.standard_normal((55, 7)))
  for seed in range(7):
    cluster_N, _ = spread.k_means(rows_ND, 5, seed)
    pairs = set(zip(group_N.tolist(), cluster_N.tolist(), strict=True))
    assert len(pairs) == 5
    assert spread.cluster_entropy(cluster_N) == pytest.approx(5)


def test_clusters_are_no_more_than_different_rows():
  rows_ND = np.repeat(np.eye(7)[:3], 11, axis=0)
  cluster_N, centres_CD = spread.k_means(rows_ND, 13, seed=0)
  assert len(centres_CD) == 3
  assert spread.cluster_entropy(cluster_N) == pytest.approx(3)
  assert spread.cluster_entropy(cluster_N[:11]) == 1


def test_seed_decides_the_clusters():
  one, two = (spread.k_means(ROWS_ND, 11, seed=5)[0] for _ in range(2))
  np.testing.assert_array_equal(one, two)
  others = {tuple(spread.k_means(ROWS_ND, 11, seed)[0].tolist()) for seed in range(5)}
  assert len(others) > 1


# The map.


def test_plane_holds_the_most_variance():
  points_N2, names = figures_map.project(ROWS_ND)
  centred = ROWS_ND - ROWS_ND.mean(axis=0)
  left, values, _ = np.linalg.svd(centred, full_matrices=False)
  wanted = left[:, :2] * values[:2]
  np.testing.assert_allclose(np.abs(points_N2), np.abs(wanted), atol=1e-9)
  for d in range(2):  # whatever the sign that the decomposition gave
    assert points_N2[np.argmax(np.abs(points_N2[:, d])), d] > 0
  share = values[0] ** 2 / sum(values**2)
  assert names[0] == f'PC 1 ({share:.0%} of variance)'


def test_umap_that_is_missing_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'umap', None)
  with pytest.raises(ConfigError, match=r"pip install 'onlyif_jax\[viz\]'"):
    figures_map.project(ROWS_ND, 'umap')


def test_umap_has_a_fixed_seed(monkeypatch):
  given = {}

  class UMAP:
    def __init__(self, **options):
      given.update(options)

    def fit_transform(self, rows_ND):
      return rows_ND[:, :2]

  monkeypatch.setitem(sys.modules, 'umap', types.SimpleNamespace(UMAP=UMAP))
  points_N2, names = figures_map.project(ROWS_ND, 'umap', seed=11)
  np.testing.assert_array_equal(points_N2, ROWS_ND[:, :2])
  assert given == {'metric': 'cosine', 'random_state': 11, 'n_jobs': 1}
  assert names == ('UMAP 1', 'UMAP 2')


def drawn(count, monkeypatch=None):
  points_N2, names = figures_map.project(ROWS_ND)
  clouds = [Cloud(f'set{n}', points_N2[n : n + 23]) for n in range(count)]
  clouds.append(Cloud('humaneval', points_N2[40:], test=True))
  grid = Grid('Numbers', ('set', 'cover of humaneval'), (('set0', '0.50 (0.21)'),))
  file = io.BytesIO()
  figures_map.draw(clouds, names, [grid, grid], ['encoder tfidf'], file)
  return file.getvalue()


def test_map_has_a_name_and_a_legend_for_every_set(monkeypatch):
  seen = {}

  def keep(plt, figure, file):
    axes, numbers = figure.axes
    seen['labels'] = [t.get_text() for t in axes.texts]
    seen['legend'] = [t.get_text() for t in figure.legends[0].get_texts()]
    seen['cells'] = [t.get_text() for t in numbers.texts]
    seen['points'] = sum(len(c.get_offsets()) for c in axes.collections)
    plt.close(figure)

  monkeypatch.setattr(figures_map, 'save', keep)
  drawn(3)
  assert sorted(seen['labels']) == ['humaneval', 'set0', 'set1', 'set2']
  assert seen['legend'][0] == 'set0 (23)'
  assert 'test: humaneval (13)' in seen['legend']
  assert seen['cells'].count('0.50 (0.21)') == 2
  assert seen['points'] == 3 * 23 + 13


def test_map_of_many_sets_is_the_same_picture_twice():
  one, two = drawn(11), drawn(11)
  assert one[:4] == b'\x89PNG'
  assert one == two
