"""A model on benchmarks: prompts, samples, results, resuming, errors."""

import dataclasses
import functools
import gzip
import json
import shutil
import tempfile
from pathlib import Path

import decoders
import numpy as np
import pytest
import yaml
from test_code import DATA, RIGHT, WRONG
from test_harness import config
from test_sandbox import sandboxed

from onlyif_jax import benchmarking
from onlyif_jax.benchmarking import Settings
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.tokenizer import load_tokenizer
from onlyif_jax.evals import (
  code_answers,
  harness,
  ifeval,
  problems,
  protocols,
  sandbox,
  shares,
)
from onlyif_jax.evals.answering import Answer, Answerer
from onlyif_jax.models import pretrained

TOKENIZER = Path(__file__).parent / 'data' / 'tokenizer'
NEW = 5


@functools.cache
def model():
  """A random model in a directory of its own, with the tests' tokenizer."""
  folder = Path(tempfile.mkdtemp(prefix='onlyif_jax_benchmarks_')) / 'toy'
  pretrained.save(folder, config(), decoders.params(config()))
  for file in TOKENIZER.iterdir():
    shutil.copy(file, folder)
  return folder


def settings(out, *benchmarks, **more):
  kept = {'protocol': 'papers-code', 'data': DATA, 'dtype': 'float32', 'batch_size': 4}
  return Settings(model(), Path(out), benchmarks, **(kept | more))


@pytest.fixture
def short(monkeypatch):
  """Protocols as they are, but for answers of a few tokens."""
  text = (Path(protocols.__file__).with_name('protocols.yaml')).read_text()
  content = yaml.safe_load(text)
  for protocol in content['protocols'].values():
    for benchmark in protocol['benchmarks'].values():
      if 'decoding' in benchmark:
        benchmark['decoding']['max_new_tokens'] = NEW
  made = protocols.parse(content)
  monkeypatch.setattr(protocols, 'load', lambda: made)


def canned(monkeypatch, write):
  """Models answer with write(the text that they are asked with)."""

  def continuations(self, prompts, how):
    return [Answer([], write(self.tokenizer.decode(ids))) for ids in prompts]

  monkeypatch.setattr(Answerer, 'continuations', continuations)


ASKED = {  # how the prompt of the file's first problem ends
  ('papers-code', 'humaneval'): '@@ Response\n```python\n{prompt}\n',
  (
    'papers-code',
    'mbpp',
  ): 'Enclose your solution in ```python and ```\n\n@@ Response\n```python\n',
  (
    'eurus-2024-09',
    'humaneval',
  ): '{prompt}```\n<|end|>\n<|assistant|>\n ```python\ndef',
  ('eurus-2024-09', 'mbpp'): '<|end|>\n<|assistant|>\n```python\ndef',
  ('harness-default', 'humaneval'): '<s>{prompt}\n',
  ('harness-default', 'mbpp'): '{prompt}\n',
}


@pytest.mark.parametrize('asked', ASKED, ids='-'.join)
def test_models_are_asked_as_the_protocol_says(asked):
  benchmark = protocols.get(asked[0]).benchmark(asked[1])
  (own,) = benchmarking._problem_sets(
    settings('', protocol=asked[0]), benchmark, asked[1]
  )
  problem = next(iter(own.problems.values()))
  tokenizer = load_tokenizer(TOKENIZER)
  ids = code_answers.ask(benchmark, problem, tokenizer)
  text = tokenizer.decode(ids)
  prompt = problem.prompt if asked[0].startswith('eurus') else problem.prompt.strip()
  assert text.endswith(ASKED[asked].replace('{prompt}', prompt))
  assert ids[0] == tokenizer.bos_id
  assert ids.count(tokenizer.bos_id) == 1


def answer(protocol, problem, program):
  """What a model that means this program would say."""
  if protocol == 'eurus-2024-09':  # the answer begins behind `def`
    return program.split('def', 1)[1] + '\n```\nThis works.'
  if protocol == 'harness-default' and problem.dataset == 'humaneval':
    body = program.removeprefix(problem.prompt)
    body = body if body != program else '    ' + program.split('):')[1].strip()
    return f'{body}\n\nprint({problem.entry_point}(2))\n'
  if protocol == 'harness-default':
    return f'\n{program}\n\nprint({problem.entry_point}(2))\n'
  return f'{program}\n```\nThis works.'


@sandboxed
@pytest.mark.parametrize('asked', ASKED, ids='-'.join)
def test_right_answers_pass_and_wrong_ones_fail(asked, monkeypatch, tmp_path):
  """The first problem is answered rightly, the second wrongly."""
  name, benchmark = asked
  own = protocols.get(name).benchmark(benchmark)
  (found,) = benchmarking._problem_sets(settings('', protocol=name), own, benchmark)
  right, wrong = list(found.problems.values())[:2]
  solution = right.solution
  if solution.startswith('import re\n'):  # an answer behind `def` has it inside
    solution = solution.removeprefix('import re\n').replace('\n', '\n  import re\n', 1)
  programs = {
    right.entry_point: RIGHT.get(right.entry_point, solution),
    wrong.entry_point: WRONG[wrong.entry_point],
  }

  def write(text):
    (problem,) = (p for p in (right, wrong) if p.entry_point in text)
    return answer(name, problem, programs[problem.entry_point])

  canned(monkeypatch, write)
  more = {'protocol': name, 'limit': 2}
  (result,) = benchmarking.run(settings(tmp_path, benchmark, **more))
  assert result['score'] == 0.5
  assert result['count'] == 2
  assert 0.0 <= result['interval'][0] < 0.5 < result['interval'][1] <= 1.0
  kinds = (
    ['base pass@1', 'plus pass@1'] if own.scorer == 'evalplus' else ['base pass@1']
  )
  assert list(result['scores']) == kinds
  assert result['metric'] == kinds[-1]


@sandboxed
def test_a_result_names_all_that_it_depends_on_and_is_resumed(
  monkeypatch, tmp_path, short
):
  own = settings(tmp_path / 'a', 'humaneval', 'mbpp', limit=2)
  results = benchmarking.run(own)
  assert [r['benchmark'] for r in results] == ['humaneval', 'mbpp']
  for result in results:
    file = tmp_path / 'a' / f'{result["benchmark"]}.json'
    assert json.loads(file.read_text()) == result
    expected = {'seed': 0, 'limit': 2, 'count': 2, 'score': 0.0, 'dtype': 'float32'}
    expected |= {'adapter_sha256': None, 'quantize': 'none', 'model': 'toy'}
    expected |= protocols.get('papers-code').stamp()
    assert {k: result[k] for k in expected} == expected
    for name in ('model_sha256', 'tokenizer_sha256', 'data_sha256'):
      assert len(result[name]) == 64
  grid = benchmarking.table(results)
  assert [row[:3] for row in grid.rows][1] == ('humaneval', 'plus pass@1 *', '0.0')
  samples = tmp_path / 'a' / 'humaneval' / 'samples.jsonl'
  assert len(samples.read_text().splitlines()) == 2
  # Killed while it generated: half of the answers, no samples.
  shutil.copytree(tmp_path / 'a' / 'humaneval', tmp_path / 'b' / 'humaneval')
  (tmp_path / 'b' / 'humaneval' / 'samples.jsonl').unlink()
  shutil.rmtree(tmp_path / 'b' / 'humaneval' / 'scores')
  answers = tmp_path / 'b' / 'humaneval' / 'answers.jsonl'
  answers.write_text(''.join(answers.read_text().splitlines(keepends=True)[:2]))
  (again,) = benchmarking.run(settings(tmp_path / 'b', 'humaneval', limit=2))
  assert again | {'provenance': 0} == results[0] | {'provenance': 0}
  assert (tmp_path / 'b' / 'humaneval' / 'samples.jsonl').read_text() == (
    samples.read_text()
  )
  # Neither generated nor executed once more.
  monkeypatch.setattr('onlyif_jax.evals.answering.generate', None)
  monkeypatch.setattr(sandbox, 'run_all', lambda jobs, *_: [None for _ in jobs])
  assert benchmarking.run(own)[1]['score'] == 0.0
  with pytest.raises(ConfigError, match='answers of another quantize'):
    benchmarking.run(settings(tmp_path / 'a', 'mbpp', limit=2, quantize='int8'))


@sandboxed
def test_saved_samples_are_scored_without_a_model(monkeypatch, tmp_path):
  """In EvalPlus's three formats; twice, the second time from what was judged."""
  monkeypatch.setattr(benchmarking, 'load', None)
  found = problems.read('humaneval', DATA / 'humaneval_plus.jsonl').problems
  first, *rest = found.values()
  pairs = [(first.task_id, RIGHT.get(first.entry_point, first.solution))]
  pairs += [(p.task_id, WRONG[p.entry_point]) for p in (first, *rest, *rest)]
  lines = [json.dumps({'task_id': t, 'solution': text}) for t, text in pairs]
  (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
  (tmp_path / 'b.jsonl.gz').write_bytes(gzip.compress('\n'.join(lines).encode()))
  for n, (task_id, text) in enumerate(pairs):
    file = tmp_path / 'c' / task_id.replace('/', '_') / f'{n}.py'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
  results = []
  for name in ('a.jsonl', 'b.jsonl.gz', 'c', 'a.jsonl'):
    if results[2:]:  # again: nothing runs
      monkeypatch.setattr(sandbox, 'run_all', lambda jobs, *_: [None for _ in jobs])
    own = settings(tmp_path / f'out-{name}', 'humaneval', samples=tmp_path / name)
    (result,) = benchmarking.run(dataclasses.replace(own, model=None))
    results.append(result)
    assert result['scores']['plus pass@1']['value'] == 0.5 / len(found)
    assert result['samples'] == name
    assert 'seed' not in result
  assert len({r['samples_sha256'] for r in results}) == 3


@sandboxed
@pytest.mark.parametrize(
  ('protocol', 'given', 'each', 'of_ten'),
  [('eurus-2024-09', 10, 10, 1.0), ('code-sampled', None, 20, 29 / 38)],
)
def test_many_samples_of_a_problem_give_pass_at_more(
  protocol, given, each, of_ten, monkeypatch, tmp_path
):
  """Two samples of the first problem are right, none of the second."""
  own = {'protocol': protocol, 'limit': 2, 'samples_each': given}
  count = [0]

  def write(text):
    count[0] += 1
    entry = next(name for name in solutions if name in text)
    right = RIGHT.get(entry) or solutions[entry]
    text = right if count[0] in (1, 4) else WRONG[entry]
    return answer(protocol, None, text)

  (found,) = benchmarking._problem_sets(
    settings('', protocol=own['protocol']),
    protocols.get(own['protocol']).benchmark('humaneval'),
    'humaneval',
  )
  solutions = {p.entry_point: p.solution for p in found.problems.values()}
  canned(monkeypatch, write)
  (result,) = benchmarking.run(settings(tmp_path, 'humaneval', **own))
  assert count[0] == 2 * each
  values = {k: v['value'] for k, v in result['scores'].items()}
  assert values['base pass@1'] == pytest.approx(1 / each)
  assert values['base pass@10'] == pytest.approx(of_ten / 2)
  assert result.get('samples_each') == given
  with pytest.raises(ConfigError, match='answers of another samples_each'):
    benchmarking.run(settings(tmp_path, 'humaneval', **own | {'samples_each': 7}))


def test_every_version_of_a_file_is_scored_alone(tmp_path):
  for name in ('MbppPlus-v0.1.0.jsonl', 'MbppPlus-v0.2.0.jsonl'):
    shutil.copy(DATA / 'mbpp_plus.jsonl', tmp_path / name)
  shutil.copy(DATA / 'mbpp.json', tmp_path)
  own = settings(tmp_path, data=tmp_path)
  jobs = list(benchmarking._jobs(own, protocols.get('papers-code'), 'mbpp'))
  names = [job.name for job in jobs]
  assert names == ['mbpp-MbppPlus-v0.1.0', 'mbpp-MbppPlus-v0.2.0']


def prompts_of_ifeval(folder, count=3):
  rows = [
    {
      'key': n,
      'prompt': f'Write {n} words.',
      'instruction_id_list': ['punctuation:no_comma'] * (1 + n % 2),
      'kwargs': [{}] * (1 + n % 2),
    }
    for n in range(count)
  ]
  (folder / 'input_data.jsonl').write_text('\n'.join(map(json.dumps, rows)))


class Checker:
  """Stands for the harness's checkers: no comma, in an answer or without its stars."""

  @staticmethod
  def process_results(doc, results):
    n, strict = len(doc['instruction_id_list']), ',' not in results[0]
    loose = strict or results[0].startswith('*')
    both = zip(('strict', 'loose'), (strict, loose), strict=True)
    out = {}
    for kind, good in both:
      out |= {f'prompt_level_{kind}_acc': good, f'inst_level_{kind}_acc': [good] * n}
    return out


def test_instructions_are_asked_in_the_chat_template(monkeypatch, tmp_path):
  monkeypatch.setattr(ifeval, 'prepare', Checker)
  prompts_of_ifeval(tmp_path)
  texts = {'0': 'one', '1': 'one, two', '2': '*one, two'}
  asked = []

  def write(text):
    asked.append(text)
    return texts[text.split('Write ')[1][0]]

  canned(monkeypatch, write)
  own = settings(tmp_path / 'out', 'ifeval', protocol='eurus-2024-09', data=tmp_path)
  (result,) = benchmarking.run(own)
  assert asked[1] == '<s><|user|>\nWrite 1 words.<|end|>\n<|assistant|>\n'
  values = {k: round(v['value'], 4) for k, v in result['scores'].items()}
  assert values == dict(zip(ifeval.NUMBERS, (0.3333, 0.25, 0.6667, 0.5), strict=True))
  assert result['score'] == result['scores'][ifeval.NUMBERS[0]]['value']
  told = (tmp_path / 'out' / 'ifeval' / 'problems.csv').read_text().splitlines()
  assert told == ['task_id,samples,correct', '0,1,1', '1,1,0', '2,1,0']
  saved = settings(
    tmp_path / 'again',
    *('ifeval',),
    **{'protocol': 'eurus-2024-09', 'data': tmp_path},
    samples=tmp_path / 'out' / 'ifeval' / 'samples.jsonl',
  )
  (again,) = benchmarking.run(saved)
  assert again['scores'] == result['scores']


def test_tasks_of_the_harness_get_the_settings_of_the_protocol(monkeypatch, tmp_path):
  calls = []

  def evaluate(answerer, task, **told):
    calls.append((task, told))
    scores = {'exact_match,flexible-extract': 0.5, 'exact_match,strict-match': 0.25}
    if task == 'mmlu':
      scores = {'acc,none': 0.0}
    errors = {'exact_match,strict-match': 0.1, 'acc,none': 0.0}
    right = {'exact_match,strict-match': {f'gsm8k/{n}': n == 3 for n in range(7)}}
    return harness.TaskResult(scores, errors, 7, 'd', {}, '0', right)

  monkeypatch.setattr(harness, 'evaluate', evaluate)
  monkeypatch.setattr(harness, 'library', lambda: None)
  own = settings(tmp_path, 'gsm8k', 'mmlu', protocol='harness-default', limit=7)
  gsm8k, mmlu = benchmarking.run(own)
  assert gsm8k['metric'] == 'exact_match,strict-match'
  assert gsm8k['interval'] == pytest.approx([0.25 - 0.196, 0.25 + 0.196])
  assert gsm8k['scores']['exact_match,flexible-extract'] == {'value': 0.5}
  assert mmlu['interval'] == pytest.approx([0.0, 0.354], abs=1e-3)  # not empty
  told = (tmp_path / 'gsm8k' / 'problems.csv').read_text().splitlines()
  assert told[0] == 'task_id,samples,correct'
  assert told[1:] == [f'gsm8k/{n},1,{int(n == 3)}' for n in range(7)]
  assert not (tmp_path / 'mmlu' / 'problems.csv').exists()
  (task, told), (other, _) = calls
  assert (task, other) == ('gsm8k', 'mmlu')
  assert (told['shots'], told['limit'], told['chat']) == (5, 7, False)
  assert told['generation'] == {
    'max_gen_toks': 256,
    'do_sample': False,
    'temperature': 0.0,
    'until': ['Question:', '</s>', '<|im_end|>'],
  }


def test_an_interval_is_over_problems():
  def ends(value, n):
    """Wilson's: the shares from which the observed one is 1.96 standard errors."""
    shares = np.linspace(0, 1, 100_001)
    near = np.abs(shares - value) <= 1.96 * np.sqrt(shares * (1 - shares) / n)
    return {'value': value, 'low': shares[near].min(), 'high': shares[near].max()}

  for right, count in [
    ([1, 0, 3], [1, 1, 3]),
    ([0, 0, 0, 0, 0], [1] * 5),
    ([2], [2]),
    ([0, 1] * 500, [1] * 1000),
  ]:
    found = shares.interval(np.array(right), np.array(count))
    assert found == pytest.approx(ends(sum(right) / sum(count), len(right)), abs=2e-5)


def test_a_quantised_model_answers_nearly_the_same():
  pairs = [('The river', ' rises'), ('Why', ' not')]
  found = []
  for quantize in ('none', 'int8'):
    answerer, told = benchmarking.load(settings('', quantize=quantize))
    assert told['quantize'] == quantize
    found.append([total for total, _ in answerer.loglikelihood(pairs)])
  assert found[0] != found[1]
  np.testing.assert_allclose(*found, atol=0.3)
