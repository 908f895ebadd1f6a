"""The layers of the package: a module imports only from earlier ones."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / 'onlyif_jax'
# Entry points come last and are imported by nothing.
LAYERS = [
  [
    'settings',
    'tuning_settings',
    'config',
    'presets',
    'keys',
    'extending',
    'workdir',
    'bucket',
    'shards',
    'provenance',
  ],
  ['distributed', 'units', 'engines'],
  ['tasks', 'corpora'],
  ['data'],
  ['models'],
  ['training'],
  ['evals'],
  ['checkpoint'],
  ['experiment'],
  ['progress', 'stacks', 'loop', 'evaluation', 'asking'],
  ['analysis'],
  [
    *(
      'adaptive',
      'sweep',
      'launchers',
      'api',
      'exporting',
      'dry_run',
      'subject',
      'checking',
    ),
    *('benchmark', 'benchmark_stack', 'benchmark_peaks'),
    *('benchmark_peers', 'benchmark_torch'),
    'mixing',
    'mixture_presets',
    'finetune',
    'assistant',
    'benchmark_tuning',
    'benchmarking',
  ],
  ['cli'],
  [
    'main',
    'evaluate',
    'report',
    'fit',
    'export',
    'check',
    'bench',
    'mixture',
    'benchmarks',
  ],
]
LEVEL = {name: n for n, names in enumerate(LAYERS) for name in names}
FILES = [p for p in sorted(ROOT.rglob('*.py')) if p.name != '__init__.py']


def layer(path: Path) -> str:
  return path.relative_to(ROOT).parts[0].removesuffix('.py')


def imports(path: Path) -> set[str]:
  """First-level names of the package that a file imports anywhere in it."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      parts = node.module.split('.')
      if parts[0] == 'onlyif_jax':
        names = [parts[1]] if len(parts) > 1 else [a.name for a in node.names]
        found |= set(names)
    elif isinstance(node, ast.Import):
      for alias in node.names:
        if alias.name.startswith('onlyif_jax.'):
          found.add(alias.name.split('.')[1])
  return found


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
  own = layer(path)
  for name in imports(path):
    assert name == own or LEVEL[name] <= LEVEL[own], f'{own} imports {name}'
    assert LEVEL[name] < LEVEL['main'], 'entry points are imported by nothing'


def test_every_module_has_a_layer():
  assert {layer(p) for p in FILES} <= set(LEVEL)


def test_only_one_file_touches_orbax():
  users = [p.name for p in FILES if 'orbax' in p.read_text().replace('orbax-', '')]
  assert sorted(users) == ['checkpoint.py', 'hf.py', 'pretrained.py']


def test_config_and_analysis_do_without_jax():
  for path in FILES:
    if layer(path) in (
      'settings',
      'config',
      'analysis',
      'workdir',
      'provenance',
      'cli',
      'fit',
    ):
      tree = ast.parse(path.read_text())
      names = {
        alias.name.split('.')[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
      } | {
        (node.module or '').split('.')[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
      }
      assert not names & {'jax', 'flax', 'optax', 'orbax'}, path.name


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
  text = path.read_text()
  assert text.count('\n') <= 400
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < 60, node.name
