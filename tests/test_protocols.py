"""Stop lists, extraction on canned generations, protocols as data."""

import copy
import dataclasses
import functools
import importlib.resources
import sys
from pathlib import Path

import pytest
import yaml

from onlyif_jax.config import ConfigError
from onlyif_jax.evals import postprocess, problems, protocols
from onlyif_jax.evals.postprocess import Target, cut, extract

DATA = Path(__file__).parent / 'data' / 'code'
PROMPT = 'import math\n\ndef root(x):\n    """ Square root. """\n'
ROOT = Target(PROMPT, 'root')
BODY = '    return math.sqrt(x)\n'
CANNED = [  # way, answer, program
  ('text', 'the answer is 3', 'the answer is 3'),
  ('magicoder', BODY, PROMPT + BODY),
  ('magicoder', PROMPT + BODY, PROMPT + BODY),
  ('magicoder', '\n' + PROMPT + BODY, '\n' + PROMPT + BODY),
  ('magicoder', f'def root(x):\n{BODY}', f'import math\n\ndef root(x):\n{BODY}'),
  ('magicoder', BODY + '```\nThis is the root.', PROMPT + BODY),
  ('magicoder-mbpp', 'x = 1\n```\nDone.', 'x = 1\n'),
  (
    'evalplus',
    BODY + '\nThe function works.\n\nprint(root(4)\n',
    'import math\n' + PROMPT[len('import math\n\n') :] + BODY.rstrip(),
  ),
  (
    'evalplus',
    '```python\nimport re\nA = 2\nB = 3\n@cache\ndef f(x):\n  return 1\n'
    'def helper(x):\n  return A\ndef root(x):\n  return helper(x)\nprint(root(2))\n```',
    'import re\nA = 2\ndef helper(x):\n  return A\ndef root(x):\n  return helper(x)',
  ),
  ('eurus-humaneval', ' root(x):\n' + BODY + '```', f'{PROMPT}def  root(x):\n{BODY}'),
  (
    'eurus-mbpp',
    ' root(x):\n  return x ** 0.5\nThis works.\nprint(root(4))',
    'def root(x):\n  return x ** 0.5',
  ),
  ('eurus-mbpp', '\ndef root(x):\n  return x', '\ndef root(x):\n  return x'),
  (
    'eurus-leetcode',
    '\nx = 1\n```\nThis works.',
    '\nx = 1\n',
  ),
  ('eurus-leetcode', 'I think.\n```\na\n```\n```python\nx = 1\n```', '\nx = 1\n'),
  ('eurus-leetcode', '\nx = 1\n```\nThis is ```fast```', '\nThis is '),
]


@pytest.mark.parametrize(('way', 'answer', 'program'), CANNED)
def test_canned_answers_give_their_programs(way, answer, program):
  assert extract(answer, way, ROOT) == program


def test_every_way_is_tried_on_an_answer():
  assert {way for way, *_ in CANNED} == set(postprocess.read()['extracts'])
  assert {
    s for w in postprocess.read()['extracts'] for s in postprocess.steps(w)
  } == set(postprocess.STEPS)


def test_every_list_is_used_by_a_protocol():
  used = [b for p in protocols.load().values() for b in p.benchmarks.values()]
  assert {b.stops for b in used} == set(postprocess.read()['stops'])
  assert {b.extract for b in used} == set(postprocess.read()['extracts'])


def test_answers_are_cut_at_the_first_stop():
  text = '    return 1\n\nprint(root(4))\n\ndef other():\n'
  stops = postprocess.stops('evalplus-humaneval')
  assert cut(text, stops) == '    return 1\n'
  assert cut(text, stops[::-1]) == '    return 1\n'
  assert cut(text, ()) == text
  assert cut(text, postprocess.stops('eurus-mbpp', 'root')) == '    return 1'
  assert cut(text, postprocess.stops('eurus-mbpp', 'f')) == text.split('\ndef ')[0]
  with pytest.raises(ConfigError, match="stops: 'nothing' is not in"):
    postprocess.stops('nothing')


def test_deep_nesting_in_an_answer_is_no_error():
  deep = 'x = ' + '(' * 5000 + '\ny = 1\nz = 2'
  assert extract(deep, 'evalplus') == 'y = 1\nz = 2'


def raw():
  files = importlib.resources.files('onlyif_jax.evals')
  return yaml.safe_load((files / 'protocols.yaml').read_text())


def test_protocols_are_there_with_their_settings():
  names = {'papers-code', 'code-sampled', 'eurus-2024-09', 'harness-default'}
  assert set(protocols.load()) == names
  papers = protocols.get('papers-code')
  for benchmark in papers.benchmarks.values():
    assert benchmark.decoding == protocols.Decoding(0.0, 512)
    assert benchmark.limits == protocols.Times(1.0, 4.0, 60.0, 4096)
  eurus = protocols.get('eurus-2024-09')
  temperatures = {k: b.decoding.temperature for k, b in eurus.benchmarks.items()}
  assert {k: t for k, t in temperatures.items() if t} == {
    'humaneval': 0.2,
    'ifeval': 0.7,
  }
  assert eurus.benchmark('mmlu').shots == 5
  assert eurus.version == 2
  with pytest.raises(ConfigError, match="protocol 'mine' is not known; give one of"):
    protocols.get('mine')
  with pytest.raises(ConfigError, match="papers-code has no benchmark 'mmlu'"):
    papers.benchmark('mmlu')


def test_the_papers_rows_stand_beside_them():
  """Averages that the papers print follow from the rows."""
  tables = protocols.get('papers-code').papers.tables
  means = {k: sum(v) / 4 for t in tables.values() for k, v in t.items()}
  printed = {'15+5/0/0': 64.2, '15+3/2/0': 67.1, '60+15/0/0': 66.4, '18/1/1': 68.5}
  printed |= {'60+12.5/1.25/1.25': 68.4, '18/2/0': 68.1, '16/4/0': 66.0}
  for row, value in printed.items():
    assert abs(means[row] - value) <= 0.051, row
  assert [len(t) for t in tables.values()] == [15, 6]
  assert len(next(iter(protocols.get('eurus-2024-09').papers.tables.values()))) == 18


def test_the_hash_covers_what_decides_scores_and_nothing_else(monkeypatch):
  before = protocols.parse(raw())
  assert before == protocols.load()
  assert len({p.sha256 for p in before.values()}) == 4

  def setting(fields, p):
    p[code]['benchmarks']['mbpp'].update(fields)

  def changed(change):
    content = raw()
    change(content['protocols'])
    after = protocols.parse(content)
    return {k for k in before if before[k].sha256 != after[k].sha256}

  code = 'papers-code'
  assert changed(lambda p: p[code].update(about='x')) == set()
  assert changed(lambda p: p[code].pop('papers')) == set()
  assert changed(lambda p: p[code].update(version=2)) == {code}
  assert changed(functools.partial(setting, {'note': 'x'})) == set()
  for field, value in (
    ('prompt', 'x'),
    ('limits', {'least': 2.0}),
    ('stops', 'eurus-bbh'),
  ):
    assert changed(functools.partial(setting, {field: value})) == {code}
  lists = copy.deepcopy(postprocess.read())
  lists['stops']['harness-math'].append('more')
  monkeypatch.setattr(postprocess, 'read', lambda: lists)
  assert changed(lambda p: None) == {'harness-default'}


def test_mistakes_in_the_file_are_named():
  def refused(change):
    content = raw()
    change(content['protocols']['papers-code'])
    with pytest.raises(ConfigError) as e:
      protocols.parse(content)
    assert '\n' not in str(e.value)
    return str(e.value)

  def mbpp(**fields):
    return refused(lambda p: p['benchmarks']['mbpp'].update(fields))

  assert "papers-code has unknown fields ['autor']" in refused(
    lambda p: p.update(autor='x')
  )
  assert "papers-code.mbpp has unknown fields ['temp']" in mbpp(temp=1)
  assert 'papers-code.mbpp.decoding lacks max_new_tokens' in mbpp(
    decoding={'temperature': 0.0}
  )
  assert "shots='5' is no int" in mbpp(shots='5')
  assert 'shots=True is no int' in mbpp(shots=True)
  assert "scorer 'bleu' is not known" in mbpp(scorer='bleu')
  assert "template 'mine' is not known" in mbpp(template='mine')
  assert "extracts 'mine' is not known" in mbpp(extract='mine')
  assert '{question} in a text is not known' in mbpp(prompt='{question}')
  assert '{test} in a text is not known' in mbpp(prompt='{test}', scorer='boxed')
  assert 'needs either task or prompt' in mbpp(task='mbpp')
  assert 'lacks limits' in refused(lambda p: p['benchmarks']['mbpp'].pop('limits'))
  assert 'lacks version' in refused(lambda p: p.pop('version'))
  assert 'has 3 values for 4 columns' in refused(
    lambda p: p['papers']['tables'].update(x={'y': [1, 2, 3]})
  )


def test_a_stamp_names_the_protocol_and_its_hash():
  protocol = protocols.get('papers-code')
  stamp = protocol.stamp()
  assert stamp['protocol'] == 'papers-code'
  assert len(stamp['protocol_sha256']) == 64


def asked(protocol, name, file):
  benchmark = protocols.get(protocol).benchmark(name)
  problem = next(iter(problems.read(name, DATA / file).problems.values()))
  return protocols.ask(benchmark, problem)


def test_problems_are_asked_as_the_suites_ask_them():
  instruction, prefill = asked('papers-code', 'humaneval', 'humaneval_plus.jsonl')
  assert instruction.startswith(
    'Write a solution to the following problem:\n```python\n'
  )
  assert instruction.endswith('"""\n```')
  assert prefill.startswith('```python\ndef second_smallest(')
  assert prefill.endswith('"""\n')
  instruction, prefill = asked('papers-code', 'mbpp', 'mbpp_plus.jsonl')
  assert instruction == (
    'Write a function to find what two tuples have in common. Your code should satisfy '
    'the following assertion:\n```python\n'
    'assert set(similar_elements((3, 4), (4, 5))) == set((4,))\n```\n'
    'Enclose your solution in ```python and ```'
  )
  instruction, prefill = asked('eurus-2024-09', 'humaneval', 'humaneval.jsonl')
  assert 'function `halves(xs: List[int]) -> List[int]` to solve' in instruction
  assert instruction.endswith('"""\n```\n')
  assert prefill == ' ```python\ndef'
  instruction, prefill = asked('eurus-2024-09', 'mbpp', 'mbpp.json')
  assert instruction == (
    'Write Python code to solve the task.\nWrite a Python function `count_words(text)` '
    'to solve the following problem: Present code in ```python```\n'
    "Write a function to count the words of a text.\n>>> assert count_words('a b') == 2\n"
  )
  instruction, _ = asked('harness-default', 'mbpp', 'mbpp_plus.jsonl')
  assert instruction.startswith('"""\nWrite a function')


def test_answers_under_each_protocol_become_programs_that_define_the_function():
  for name, protocol, file, answer in (
    ('humaneval', 'papers-code', 'humaneval_plus.jsonl', '    return None\n```'),
    (
      'humaneval',
      'eurus-2024-09',
      'humaneval.jsonl',
      ' halves(xs):\n    return xs\n```',
    ),
    ('mbpp', 'eurus-2024-09', 'mbpp.json', ' count_words(text):\n  return 2\n'),
    (
      'mbpp',
      'papers-code',
      'mbpp_plus.jsonl',
      'def similar_elements(a, b): return a\n```',
    ),
  ):
    problem = next(iter(problems.read(name, DATA / file).problems.values()))
    benchmark = protocols.get(protocol).benchmark(name)
    program = extract(
      cut(answer, postprocess.stops(benchmark.stops, problem.entry_point)),
      benchmark.extract,
      Target(problem.prompt, problem.entry_point),
    )
    names = {}
    exec(program, names)
    assert callable(names[problem.entry_point])


@pytest.mark.hf
def test_extraction_equals_that_of_evalplus(monkeypatch):
  """Needs evalplus and tree-sitter; `datasets`, which it only imports, may be absent."""
  stub = type(sys)('datasets')
  stub.load_dataset = None  # type: ignore[attr-defined]
  monkeypatch.setitem(sys.modules, 'datasets', stub)
  sanitize = pytest.importorskip('evalplus.sanitize').sanitize
  answers = [PROMPT + answer for way, answer, _ in CANNED if way == 'evalplus']
  answers += [answer for *_, answer in CANNED] + [answer for _, answer, _ in CANNED]
  for answer in answers:
    ours = extract(answer, 'evalplus', Target('', 'root'))
    assert ours.strip() == sanitize(answer, 'root').strip(), answer


def test_sampled_code_is_asked_and_scored_as_the_papers_are():
  sampled, papers = protocols.get('code-sampled'), protocols.get('papers-code')
  assert sampled.benchmarks.keys() == papers.benchmarks.keys()
  for name, benchmark in sampled.benchmarks.items():
    greedy = papers.benchmarks[name]
    assert benchmark == dataclasses.replace(greedy, decoding=benchmark.decoding)
    assert (benchmark.decoding.temperature, benchmark.decoding.top_p) == (0.8, 0.95)
    assert benchmark.decoding.samples == 20
  assert sampled.sha256 != papers.sha256
