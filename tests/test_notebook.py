"""The Colab notebook: clean in git, and every claim of it made on CPU."""

import ast
import importlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / 'launch' / 'onlyif_colab.ipynb'
NOTEBOOK = json.loads(PATH.read_text())
CODE = {
  cell['id']: ''.join(cell['source'])
  for cell in NOTEBOOK['cells']
  if cell['cell_type'] == 'code'
}
SHORT = textwrap.dedent("""
  SOURCE = ''
  COUNTS = (30, 100, 300, 1_000)
  SEEDS = 1
  EXAMPLES = 1_000
  PASSES = 1.0
  TEST_EXAMPLES = 64
  DOTS = 3
  OUT = 'out'
""").strip()


def parameters() -> dict:
  (cell,) = [
    cell
    for cell in NOTEBOOK['cells']
    if 'parameters' in cell['metadata'].get('tags', ())
  ]
  return cell


def names(code: str) -> list[str]:
  return [
    target.id
    for node in ast.parse(code).body
    if isinstance(node, ast.Assign)
    for target in node.targets
    if isinstance(target, ast.Name)
  ]


def test_git_has_no_output():
  for cell in NOTEBOOK['cells']:
    if cell['cell_type'] == 'code':
      assert (cell['outputs'], cell['execution_count']) == ([], None), cell['id']
  assert NOTEBOOK['nbformat'] == 4
  assert NOTEBOOK['metadata']['kernelspec']['name'] == 'python3'
  ids = [cell['id'] for cell in NOTEBOOK['cells']]
  assert len(set(ids)) == len(ids)


def test_each_code_cell_is_introduced_and_compiles():
  before = None
  for cell in NOTEBOOK['cells']:
    if cell['cell_type'] == 'code':
      assert before == 'markdown', f'{cell["id"]} has no words before it'
      compile(''.join(cell['source']), cell['id'], 'exec')  # no magics: plain Python
    before = cell['cell_type']


def test_every_import_resolves():
  """Names that the notebook takes from this package and others are there."""
  found = 0
  for node in ast.walk(ast.parse('\n'.join(CODE.values()))):
    if isinstance(node, ast.Import):
      modules, wanted = [alias.name for alias in node.names], []
    elif isinstance(node, ast.ImportFrom):
      modules, wanted = [node.module], [alias.name for alias in node.names]
    else:
      continue
    for module in modules:
      if module.split('.')[0] == 'IPython':  # comes with the notebook's kernel
        continue
      made = importlib.import_module(module)
      for name in wanted:
        found += 1
        if not hasattr(made, name):
          importlib.import_module(f'{module}.{name}')
  assert found > 5


def test_the_parameters_are_those_that_the_test_below_shortens():
  cell = parameters()
  code = ''.join(cell['source'])
  assert names(code) == names(SHORT)
  for line in code.splitlines():
    assert not line or '#' in line, f'{line!r} is not explained'


def test_typed_words_can_be_asked():
  from onlyif_jax import asking
  from onlyif_jax.tasks.rewrite import Rewrite

  form = dict(
    zip(
      names(CODE['own']),
      [n.value for n in ast.parse(CODE['own']).body if isinstance(n, ast.Assign)],
      strict=True,
    )
  )
  typed = [ast.literal_eval(form[name]) for name in ('TEXT', 'REPLACE', 'BY')]
  asking.question(Rewrite(), *typed)
  assert CODE['own'].count('# @param') == 3


def test_figures_of_a_run_leave_the_way_of_showing_others_alone():
  """A notebook's own plots after the sweep are shown as before it."""
  code = """
    import sys
    from onlyif_jax.analysis.figures_style import pyplot
    if sys.argv[1] == 'first':
      import matplotlib.pyplot as plt
      plt.switch_backend('svg')
    print(pyplot().get_backend().lower())
  """
  for word, backend in (('first', 'svg'), ('alone', 'agg')):
    words = [sys.executable, '-c', textwrap.dedent(code), word]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == backend


@pytest.mark.slow
def test_the_notebook_runs_to_its_end(tmp_path, monkeypatch):
  nbclient = pytest.importorskip('nbclient')
  nbformat = pytest.importorskip('nbformat')
  pytest.importorskip('ipykernel')
  made = {
    'JAX_PLATFORMS': 'cpu',
    # Compiling is most of a short run.
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), *sys.path])),
    'IPYTHONDIR': str(tmp_path / 'ipython'),
  }
  for name, value in made.items():
    monkeypatch.setenv(name, value)
  notebook = nbformat.read(PATH, as_version=4)
  nbformat.validate(notebook)
  for cell in notebook.cells:
    if 'parameters' in cell.metadata.get('tags', ()):
      cell.source = SHORT
  client = nbclient.NotebookClient(
    notebook,
    timeout=600,
    kernel_name='python3',
    resources={'metadata': {'path': str(tmp_path)}},
  )
  client.execute()
  outputs = {cell.id: cell.outputs for cell in notebook.cells if 'outputs' in cell}

  def pages(cell, kind='text/html'):
    return [o.data[kind] for o in outputs[cell] if kind in o.get('data', {})]

  def printed(cell):
    return ''.join(o.text for o in outputs[cell] if o.output_type == 'stream')

  # One plot, redrawn in place: it holds a curve of each model.
  (plot,) = pages('sweep', 'image/png')
  assert len(plot) > 20_000
  (figure,) = pages('fit', 'image/png')
  assert len(figure) > 20_000
  assert printed('fit').startswith('I_50: ')
  (table,) = pages('task')
  assert [table.count(f'<code>{s}</code>') for s in ('train', 'unseen')] == [3, 3]
  shares, wrong = pages('wrong')
  assert 'I = 1,000' in shares
  assert '<span class="miss">' in wrong
  (answers,) = pages('own')
  assert printed('own') == 'in wonderland replace der by ful: wonfulland\n'
  assert answers.count('right') + answers.count('wrong') == 4
  out = tmp_path / 'out'
  for name in ('bundle.zip', 'model.zip', 'model/config.json', 'sweep/figure.png'):
    assert (out / name).stat().st_size > 100
  assert 'bundle.zip' in printed('export')
