"""The Colab notebooks: clean in git, and every claim of them made on CPU."""

import ast
import functools
import importlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHORT = {  # the parameters that a test runs a notebook with
  'onlyif_colab': """
    SOURCE = ''
    COUNTS = (30, 100, 300, 1_000)
    SEEDS = 1
    EXAMPLES = 1_000
    PASSES = 1.0
    TEST_EXAMPLES = 64
    DOTS = 3
    OUT = 'out'
  """,
  'pretrained_colab': """
    SOURCE = ''
    MODEL = ''
    COUNTS = (30, 100)
    EXAMPLES = 640
    PASSES = 1
    QUESTIONS = 20
    BASE_STEPS = 20
    OUT = 'out'
  """,
}
SHORT = {name: textwrap.dedent(text).strip() for name, text in SHORT.items()}
each_notebook = pytest.mark.parametrize('name', SHORT)


def path_of(name: str) -> Path:
  return ROOT / 'launch' / f'{name}.ipynb'


@functools.cache
def notebook(name: str) -> dict:
  return json.loads(path_of(name).read_text())


def code(name: str) -> dict[str, str]:
  """A code cell's id -> its text."""
  return {
    cell['id']: ''.join(cell['source'])
    for cell in notebook(name)['cells']
    if cell['cell_type'] == 'code'
  }


def parameters(name: str) -> str:
  (cell,) = [
    cell
    for cell in notebook(name)['cells']
    if 'parameters' in cell['metadata'].get('tags', ())
  ]
  return ''.join(cell['source'])


def assigned(text: str) -> dict[str, ast.expr]:
  """The names that code sets at its top level -> their values."""
  return {
    target.id: node.value
    for node in ast.parse(text).body
    if isinstance(node, ast.Assign)
    for target in node.targets
    if isinstance(target, ast.Name)
  }


def test_every_notebook_is_tested():
  assert {p.stem for p in (ROOT / 'launch').glob('*.ipynb')} == set(SHORT)


@each_notebook
def test_git_has_no_output(name):
  for cell in notebook(name)['cells']:
    if cell['cell_type'] == 'code':
      assert (cell['outputs'], cell['execution_count']) == ([], None), cell['id']
  assert notebook(name)['nbformat'] == 4
  assert notebook(name)['metadata']['kernelspec']['name'] == 'python3'
  ids = [cell['id'] for cell in notebook(name)['cells']]
  assert len(set(ids)) == len(ids)


@each_notebook
def test_each_code_cell_is_introduced_and_compiles(name):
  before = None
  for cell in notebook(name)['cells']:
    if cell['cell_type'] == 'code':
      assert before == 'markdown', f'{cell["id"]} has no words before it'
      compile(''.join(cell['source']), cell['id'], 'exec')  # no magics: plain Python
    before = cell['cell_type']


@each_notebook
def test_every_import_resolves(name):
  """Names that the notebook takes from this package and others are there."""
  found = 0
  for node in ast.walk(ast.parse('\n'.join(code(name).values()))):
    if isinstance(node, ast.Import):
      modules, members = [alias.name for alias in node.names], []
    elif isinstance(node, ast.ImportFrom):
      modules, members = [node.module], [alias.name for alias in node.names]
    else:
      continue
    for module in modules:
      if module.split('.')[0] == 'IPython':  # comes with the notebook's kernel
        continue
      imported = importlib.import_module(module)
      for member in members:
        found += 1
        if not hasattr(imported, member):
          importlib.import_module(f'{module}.{member}')
  assert found > 5


@each_notebook
def test_the_parameters_are_those_that_the_test_below_shortens(name):
  text = parameters(name)
  assert list(assigned(text)) == list(assigned(SHORT[name]))
  for line in text.splitlines():
    assert not line or '#' in line, f'{line!r} is not explained'


def test_typed_words_can_be_asked():
  from onlyif_jax import asking
  from onlyif_jax.tasks.rewrite import Rewrite

  form = assigned(code('onlyif_colab')['own'])
  typed = [ast.literal_eval(form[name]) for name in ('TEXT', 'REPLACE', 'BY')]
  asking.question(Rewrite(), *typed)
  assert code('onlyif_colab')['own'].count('# @param') == 3


def test_the_typed_question_is_in_the_words_of_training():
  cells = code('pretrained_colab')
  question = ast.literal_eval(assigned(cells['own'])['QUESTION'])
  text, replace, by, shift = question.split(' ')
  assert "prompt = '{input} {lhs} {rhs} {shift}'" in cells['base']
  assert (len(text), len(replace), len(by), shift) == (10, 3, 3, '1')
  assert replace in text


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


class Executed:
  """What the cells of an executed notebook show."""

  def __init__(self, cells):
    self.outputs = {cell.id: cell.outputs for cell in cells if 'outputs' in cell}

  def pages(self, cell: str, kind: str = 'text/html') -> list[str]:
    outputs = self.outputs[cell]
    return [o.data[kind] for o in outputs if kind in o.get('data', {})]

  def printed(self, cell: str) -> str:
    return ''.join(o.text for o in self.outputs[cell] if o.output_type == 'stream')


def executed(name: str, folder: Path, monkeypatch) -> Executed:
  """The notebook with short parameters, run to its end in a folder."""
  nbclient = pytest.importorskip('nbclient')
  nbformat = pytest.importorskip('nbformat')
  pytest.importorskip('ipykernel')
  environment = {
    'JAX_PLATFORMS': 'cpu',
    # Compiling is most of a short run.
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), *sys.path])),
    'IPYTHONDIR': str(folder / 'ipython'),
  }
  for variable, value in environment.items():
    monkeypatch.setenv(variable, value)
  cells = nbformat.read(path_of(name), as_version=4)
  nbformat.validate(cells)
  for cell in cells.cells:
    if 'parameters' in cell.metadata.get('tags', ()):
      cell.source = SHORT[name]
  resources = {'metadata': {'path': str(folder)}}
  nbclient.NotebookClient(
    cells, timeout=600, kernel_name='python3', resources=resources
  ).execute()
  return Executed(cells.cells)


@pytest.mark.slow
def test_the_sweep_notebook_runs_to_its_end(tmp_path, monkeypatch):
  shown = executed('onlyif_colab', tmp_path, monkeypatch)
  # One plot, redrawn in place: it holds a curve of each model.
  (plot,) = shown.pages('sweep', 'image/png')
  assert len(plot) > 20_000
  (figure,) = shown.pages('fit', 'image/png')
  assert len(figure) > 20_000
  assert shown.printed('fit').startswith('I_50: ')
  (table,) = shown.pages('task')
  assert [table.count(f'<code>{s}</code>') for s in ('train', 'unseen')] == [3, 3]
  shares, wrong = shown.pages('wrong')
  assert 'I = 1,000' in shares
  assert '<span class="miss">' in wrong
  (answers,) = shown.pages('own')
  assert shown.printed('own') == 'in wonderland replace der by ful: wonfulland\n'
  assert answers.count('right') + answers.count('wrong') == 4
  out = tmp_path / 'out'
  for name in ('bundle.zip', 'model.zip', 'model/config.json', 'sweep/figure.png'):
    assert (out / name).stat().st_size > 100
  assert 'bundle.zip' in shown.printed('export')


@pytest.mark.slow
def test_the_pretrained_notebook_runs_to_its_end(tmp_path, monkeypatch):
  shown = executed('pretrained_colab', tmp_path, monkeypatch)
  (before,) = shown.pages('base')
  assert before.count('<tr>') == 6
  tables = ''.join(shown.pages('tune'))  # rich draws them in a notebook's way
  for word in ('zero-shot', 'I30', 'I100', 'unseen noop=0'):
    assert word in tables, word
  assert 'out/run/report.html' in shown.printed('tune')
  (figure,) = shown.pages('figure', 'image/png')
  assert len(figure) > 20_000
  (after,) = shown.pages('again')
  assert '<th>after 100 rules</th>' in after
  rows = [page.split('<tr>')[2:] for page in (before, after)]
  asked = [[row.split('</code>')[0] for row in page] for page in rows]
  assert asked[0] == asked[1], 'the same questions'
  assert shown.printed('own').endswith('\n')
  out = tmp_path / 'out'
  files = ('adapter.zip', 'adapter/adapter_model.safetensors', 'run/report.html')
  for name in files:
    assert (out / name).stat().st_size > 100
  assert 'adapter.zip' in shown.printed('export')
