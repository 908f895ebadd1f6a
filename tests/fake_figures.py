"""Made-up runs of every figure: what `fake_run.make` takes for each."""

import fake_run

_SHAPES = [
  ','.join(
    [
      f'task.input_length={z}',
      *(f'task.{s}={x}' for s in ('x_min', 'x_max', 'y_min', 'y_max')),
    ]
  )
  for z, x in ((10, 3), (14, 4), (20, 6))
]
_MIXES = ('1', '10', '20', '1|5|10|15|20')
_CLASSES = ('repeat', 'repeat+periodic', 'repeat+periodic+mirror')
_CELLS = [(i, s) for i in (101, 401, 1601, 6397) for s in (1, 3, 12, 48)]


def _plane(cells, epochs):
  """Variants with one N each, and as many passes as epochs(N) says."""
  out = []
  for n in sorted({i * s for i, s in cells}):
    counts = '|'.join(str(i) for i, s in cells if i * s == n)
    out.append(f'data.examples={n},data.epochs={epochs(n):.9g},sweep.counts={counts}')
  return out


_STEPS = [(i, s) for i, s in _CELLS if 1_000 < i * s <= 80_000]
_ALPHAS = (2, 1, 0.5, 0.2, 0.1, 0.07, 0.03)
RUNS = {
  'imin': {},
  'noop': {'shares': (0.1, 0.2, 0.3, 0.4, 0.5)},
  'longtail': {
    'counts': (1009, 10007),
    'variants': (
      'data.alpha=0.0,sweep.counts=101|307|503|1009|3001|10007',
      *(f'data.alpha={a:g}' for a in _ALPHAS),
      'data.alpha=0.1,data.balance=true',
      'data.alpha=0.03,data.balance=true',
      'data.examples=19200,data.epochs=4,data.alpha=0.0',
      'data.examples=19200,data.epochs=4,data.alpha=0.2',
    ),
  },
  'occurrences': {
    'task': 'occurrences',
    'counts': (200, 500, 1000, 2000),
    'variants': tuple(f'task.train_matches={m}' for m in _MIXES),
    'task__matches': 20,
    'task__input_length': 60,
  },
  'semantics': {
    'task': 'semantics',
    'counts': (503, 1009, 5003, 10007),
    'variants': tuple(
      f'task.classes={c},task.k_max={k}' for c in _CLASSES for k in (4, 6, 12)
    ),
  },
  'lengths': {'counts': (101, 199, 503, 1009, 3001), 'variants': tuple(_SHAPES)},
  'tradeoff': {
    'counts': (101,),
    'variants': tuple(
      dict.fromkeys(
        _plane(_STEPS, lambda n: 80_000 / n)
        + _plane([c for c in _STEPS if c[1] > 3], lambda n: 4.0)
      )
    ),
  },
  'alphabet': {
    'counts': (101, 199, 401, 809, 1201),
    'variants': (
      *(f'task.alphabet={n}' for n in (6, 13, 26, 52)),
      _SHAPES[1],
      _SHAPES[1] + ',task.alphabet=13',
    ),
  },
  'sensitivity': {
    'counts': (101, 199, 401, 601, 1009),
    'variants': (
      '',
      'optim.name=muon',
      'model.positions=rotary',
      'data.epochs=8',
      'model.dropout=0.1',
      'task.order=zxy',
    ),
  },
  'cipher': {
    'task': 'cipher',
    'counts': (31, 101, 307, 1009, 3001),
    'shares': (0.4,),
    'task__noops': True,
    'variants': (
      'data.alpha=0.0',
      'data.examples=19200,data.alpha=0.0,sweep.counts=1009|3001',
      'data.examples=19200,data.alpha=0.2,sweep.counts=1009|3001',
    ),
  },
  'algebra': {
    'task': 'algebra',
    'counts': (11, 19, 41, 101, 307),
    'variants': (
      'task.depth=3',
      'task.depth=4',
      *(
        f'task.depth=2,task.specialist=20,task.diverse_share={s},sweep.counts=25|40|60'
        for s in (0.02, 0.05, 0.1, 0.2, 0.5)
      ),
      'task.depth=2,task.specialist=20,task.diverse_share=0.0,sweep.counts=20',
    ),
  },
  'markov': {
    'task': 'markov',
    'counts': (101, 307, 1009, 3001, 10007),
    'variants': tuple(f'task.answer={a}' for a in ('step', 'final', 'trace')),
  },
}


def make(path, figure, **options):
  """A made-up run of a figure; options replace those of RUNS."""
  given = {'references': figure in ('imin', 'noop'), **RUNS[figure], **options}
  return fake_run.make(path, figure=figure, **given)
