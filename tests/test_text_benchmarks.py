"""Questions in the Eurus suite's files: read, asked, answered, scored, resumed."""

import json
import shutil
from pathlib import Path

import pytest
from test_benchmarks import TOKENIZER, canned, settings
from test_sandbox import sandboxed

from onlyif_jax import benchmarking
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.tokenizer import Tokenizer, load_tokenizer
from onlyif_jax.evals import protocols, questions, sandbox, text_answers, text_scores
from onlyif_jax.evals.answering import Answerer
from onlyif_jax.evals.code import Times

DATA = Path(__file__).parent / 'data' / 'eurus'
NAME = 'eurus-2024-09'
COT = "A: Let's think step by step."
STEPS = 'Solve the following math problem step-by-step.\n'
BOXED = (
  f'{STEPS}Simplify your answer as much as possible. '
  'Present your final answer as \\boxed{Your Answer}.\n'
)
TOOL = (
  'Tool available:\n[1] Python interpreter\nWhen you send a message containing Python '
  'code to python, it will be executed in a stateful Jupyter notebook environment.'
)
FENCED = ' Present code in ```python```\n'
FORMS = (
  'Simplify your answer as much as possible. The answer can only be one of the '
  'following forms:\n1. a numerical value like 0.1, no symbol at all.\n2. a list of '
  'number like [2, 3, 4].\n3. True/False.\n4. an option like (a), (b), (c), (d)\n\n'
)
SUBJECT = (
  'The following are multiple choice questions (with answers) about  '
  'abstract algebra.\n\nWhat is 3 times 2?\nA. 6\nB. 3\nC. 9\nD. 12\nAnswer: A\n\n'
)


def chat(*turns, system=''):
  """Turns in the template of the tests' tokenizer, by hand."""
  roles = ('user', 'assistant')
  text = '<s>' + (f'<|system|>\n{system}<|end|>\n' if system else '')
  for n, turn in enumerate(turns):
    text += f'<|{roles[n % 2]}|>\n{turn}<|end|>\n'
  return text + '<|assistant|>\n'


BAKER = 'A baker sells 4 loaves for 2 coins each. How many coins?'
CRATE = 'A crate holds 12 jars. How many jars are in 3 crates?'
BO = 'Bo had 9 nuts and ate 4. How many has he?'
HALF = 'What is half of one?'
ROOTS = 'Question: What are the roots of x^2 = 3x - 2?'
ASKED = {  # the whole prompt of a benchmark's first question
  'math': chat(BOXED + HALF),
  'math-program': chat(
    f'{TOOL}{FENCED}{STEPS}Simplify your answer as much as possible.\n{HALF}'
  ),
  'gsm-plus': chat(BOXED + BAKER),
  'svamp': chat(BOXED + CRATE),
  'asdiv': chat(BOXED + BO),
  'gsm-plus-program': chat(BOXED + BAKER, system=TOOL + FENCED),
  'svamp-program': chat(BOXED + CRATE, system=TOOL + FENCED),
  'asdiv-program': chat(BOXED + BO, system=TOOL + FENCED),
  'theoremqa': chat(BOXED + ROOTS),
  'theoremqa-program': chat(f'{TOOL}\n{STEPS}{FORMS}{ROOTS}'),
  'bbh': chat(
    'Follow the given examples and answer the question.\n\n'
    'Evaluate the expression.\nQ: not True is',
    f'{COT}\nIt is False. So the answer is False.',
    'Q: not False is',
    f'{COT}\nIt is True. So the answer is True.',
    'Q: True and True is',
    f'{COT}\nIt is True. So the answer is True.',
    'Q: False or True is',
  ),
  'mmlu': f'<s>{SUBJECT}...What is 5, doubled?\nA. 5\nB. 10\nC. 15\nD. None\nAnswer:',
}


def benchmark(name):
  return protocols.get(NAME).benchmark(name)


@pytest.mark.parametrize('name', ASKED)
def test_questions_are_asked_as_the_suite_asks_them(name):
  tokenizer = load_tokenizer(TOKENIZER)
  first = questions.read(name, DATA).questions[0]
  ids = text_answers.ask(benchmark(name), first, tokenizer)
  text = tokenizer.decode(ids)
  if name == 'mmlu':
    start, end = ASKED[name].split('...')
    assert text.startswith(start)
    assert text.endswith(end)
    assert text.count('\nAnswer: A\n\n') == 5  # the dev file has six
  else:
    assert text == ASKED[name]
  assert text.count('<s>') == 1


def test_a_template_without_system_turns_has_its_text_in_the_question(monkeypatch):
  before = Tokenizer.ask

  def ask(self, turns):
    if turns[0].role == 'system':
      raise ConfigError('the chat template refuses a conversation')
    return before(self, turns)

  monkeypatch.setattr(Tokenizer, 'ask', ask)
  tokenizer = load_tokenizer(TOKENIZER)
  first = questions.read('svamp', DATA).questions[0]
  ids = text_answers.ask(benchmark('svamp-program'), first, tokenizer)
  assert tokenizer.decode(ids) == chat(TOOL + FENCED + BOXED + CRATE)


def code(text):
  return f'I run this.\n```python\n{text}\n```\n'


ANSWERS = {  # of a benchmark's questions: what a model says, whether it is right
  'math': [
    ('So it is $\\boxed{0.5}$.', True),
    ('The angle is \\boxed{90}. ', True),
    ('\\boxed{(-2, 3)}', False),
  ],
  'math-program': [
    (code('from __future__ import annotations\n1 / 2') + 'It prints 7.', True),
    (code('print(3') + code('import math\nmath.degrees(math.asin(1))'), True),
    (code('print("(-2,2)", flush=True)\nprint(1 / 0)'), False),
  ],
  'gsm-plus': [('The answer is $8', True), ('None', True), ('6.0', True)],
  'svamp': [('\\boxed{36}', True), ('so there are 2.50 meters', True)],
  'asdiv': [('He has = 5', True)],
  'asdiv-program': [(code('import sys\nsys.stderr.write("4")\n9 - 4'), True)],
  'theoremqa': [
    ('\\boxed{[2, 1]}', True),
    ('Answer: 3.1', True),
    ('\\boxed{True}', False),
    ('the even one is (a)', True),
    ('\\boxed{\\frac{12}{2}}', False),
  ],
  'theoremqa-program': [
    (code('roots = [1, 2]\nprint("They are", roots)'), True),
    (code('3.3'), False),
    (code('print("It is", 91 in (2, 3))'), True),
    ('It is (a)', True),
    (code('x = 6') + code('x'), False),  # each block runs alone
  ],
  'bbh': [('So the answer is True.', True), ('(A).\nQ: (B)', False)],
  'mmlu': [(' B', True), ('A', True), ('Dogs', False)],
}


def whole(monkeypatch):
  """The tests' model is short; its prompts are not cut here."""
  monkeypatch.setattr(Answerer, 'longest', 10**6)


@sandboxed
def test_right_answers_score_and_wrong_ones_do_not(monkeypatch, tmp_path):
  for name in text_scores._PACKAGES[:2]:
    pytest.importorskip(name)
  whole(monkeypatch)
  said = [text for pairs in ANSWERS.values() for text, _ in pairs]
  canned(monkeypatch, lambda _: said.pop(0))
  own = settings(tmp_path, *ANSWERS, protocol=NAME, data=DATA)
  loaded = benchmarking.load(own)
  found = benchmarking.execute(own, benchmarking.plan(own), *loaded)
  for (name, pairs), result in zip(ANSWERS.items(), found, strict=True):
    right = [good for _, good in pairs]
    lines = (tmp_path / name / 'scores' / 'problems.csv').read_text().splitlines()
    assert [line.endswith(',1,1') for line in lines[1:]] == right, name
    assert result['score'] == sum(right) / len(right)
    assert result['count'] == len(right)
    assert result['metric'] == 'accuracy'
    assert result['interval'][0] < 1.0 > result['score'] - result['interval'][1]
    assert json.loads((tmp_path / f'{name}.json').read_text()) == result
    expected = protocols.get(NAME).stamp() | {'seed': 0, 'adapter_sha256': None}
    assert {k: result[k] for k in expected} == expected
    assert len(result['data_sha256']) == len(result['model_sha256']) == 64
  parts = {r['benchmark']: r['subtasks'] for r in found}
  assert parts['math']['Level 2'] == {'accuracy': 0.5}
  assert parts['mmlu'] == {
    'abstract algebra': {'accuracy': 1.0},
    'world religions': {'accuracy': 0.0},
  }
  assert parts['bbh']['date_understanding'] == {'accuracy': 0.0}
  # Neither run nor compared once more.
  monkeypatch.setattr(sandbox, 'run_all', lambda jobs, *_: [None for _ in jobs])
  said[:] = [text for pairs in ANSWERS.values() for text, _ in pairs]
  again = benchmarking.execute(own, benchmarking.plan(own), *loaded)
  assert [r['score'] for r in again] == [r['score'] for r in found]


LEETCODE = {
  'halved': ('\nclass Solution:\n  def countSteps(self, n):\n    ', 'log2(n)'),
  'pairs': (
    '\nclass Solution:\n  def __init__(self):\n    self.calls = deque()\n'
    '  def pairSums(self, nums: List[int]):\n    ',
    'sorted(map(sum, combinations(nums, 2)))',
  ),
  'linked': (
    '\nclass ListNode:\n  def __init__(self, val=0, next=None):\n'
    '    self.val, self.next = val, next\nclass Solution:\n  made = 0\n'
    '  def __init__(self):\n    Solution.made += 1\n    assert Solution.made == 1\n'
    '  def dropLast(self, head):\n    ',
    'head.next and ListNode(head.val, self.dropLast(head.next))',
  ),
}


@sandboxed
def test_leetcode_programs_meet_their_tests(monkeypatch, tmp_path):
  (own,) = benchmarking._problem_sets(
    settings('', data=DATA), benchmark('leetcode'), 'leetcode'
  )
  assert own.version == 'leetcode, 3 problems'
  asked = []

  def write(text):
    asked.append(text)
    head, value = next(x for name, x in LEETCODE.items() if name in text)
    uses = 'from itertools import combinations\n' if 'combinations' in value else ''
    return f'\n{uses}{head}return {value}\n```\nThis works.'

  canned(monkeypatch, write)
  more = {'protocol': NAME, 'data': DATA}
  (result,) = benchmarking.run(settings(tmp_path, 'leetcode', **more))
  lines = (tmp_path / 'leetcode' / 'scores' / 'problems.csv').read_text().splitlines()
  # log2 is not imported by the suite: math is.
  assert lines[1:] == ['count-steps,1,0,', 'pair-sums,1,1,', 'drop-last,1,1,']
  assert result['metric'] == 'base pass@1'
  assert result['score'] == pytest.approx(2 / 3)
  assert asked[0] == chat(next(iter(own.problems.values())).text) + '```python'


def answered(folder, name, answers):
  own = questions.read(name, DATA)
  folder.mkdir(exist_ok=True)
  lines = [
    json.dumps({'task_id': q.task_id, 'answer': a})
    for q, a in zip(own.questions, answers, strict=True)
  ]
  (folder / 'samples.jsonl').write_text('\n'.join(lines))
  return own


def scored(folder, own, scorer, times=None, seed=0):
  return text_scores.score(
    folder / 'samples.jsonl',
    own,
    scorer,
    folder / 'scores',
    origin={'seed': seed},
    times=times,
  )


@pytest.mark.slow
@sandboxed
def test_a_scoring_goes_on_and_answers_that_end_their_cell_cost_only_themselves(
  tmp_path,
):
  for name in text_scores._PACKAGES[:2]:
    pytest.importorskip(name)
  own = answered(tmp_path, 'svamp', ['\\frac{72}{2}', '9**9**9**9 * \\pi'])
  times = Times(least=0.05)
  found = scored(tmp_path, own, 'boxed', times=times)
  assert list(found.values()) == [True, False]
  verdicts = tmp_path / 'scores' / 'verdicts.jsonl'
  lines = verdicts.read_text().splitlines(keepends=True)
  assert len(lines) == 3
  assert 'CPU time ran out' in lines[2]
  verdicts.write_text(''.join(lines[:2]) + lines[2][:9])  # killed in the last line
  assert scored(tmp_path, own, 'boxed', times=times) == found
  assert sorted(verdicts.read_text().splitlines(keepends=True)) == sorted(lines)
  with pytest.raises(ConfigError, match='verdicts of another origin'):
    scored(tmp_path, own, 'boxed', times=times, seed=1)


PROGRAMS = [
  ('no block', None),
  (code('x = 1\nx'), 'x = 1\nprint(x)'),
  (code('print(1)'), 'print(1)'),
  (code('1') + code('2'), 'print(2)'),
  (code('1') + '<execute>3</execute>' + code('2'), 'print(3)'),
  ('```bash\nls\n```', '!'),
  ('```bash\nls\n```' + code('1'), 'print(1)'),
  ('```python\n1', None),
  ('```\n1\n```', None),
  (code(''), 'print()'),
]


@pytest.mark.parametrize(('text', 'expected'), PROGRAMS)
def test_the_last_block_of_an_answer_is_its_program(text, expected):
  assert text_scores.program(text) == expected


def test_texts_are_compared_as_the_suite_does():
  assert text_scores.contains(' It is (B) or (C).', ' (B)\n')
  assert not text_scores.contains('(A)\nQ: (B)', '(B)')
  assert not text_scores.contains('', '(B)')
  assert text_scores.first_letter(' B', 'B')
  assert not text_scores.first_letter('Bo', 'B')
  assert not text_scores.first_letter('b', 'B')


def test_a_prompt_that_is_too_long_is_answered_by_nothing(monkeypatch, tmp_path):
  asked = []
  canned(monkeypatch, lambda text: asked.append(text) or ' A')
  answerer, _ = benchmarking.load(settings(''))
  own = questions.read('mmlu', DATA)
  lengths = [
    len(text_answers.ask(benchmark('mmlu'), q, answerer.tokenizer))
    for q in own.questions
  ]
  monkeypatch.setattr(Answerer, 'longest', max(lengths))
  text_answers.generate(answerer, own, benchmark('mmlu'), tmp_path / 'samples.jsonl')
  answers = text_scores.read_answers(tmp_path / 'samples.jsonl')
  assert list(answers.values()) == ['' if n == max(lengths) else ' A' for n in lengths]
  assert len(asked) == len([n for n in lengths if n < max(lengths)]) > 0


@sandboxed
def test_a_killed_generation_goes_on(monkeypatch, tmp_path):
  own = settings(tmp_path / 'a', 'svamp', protocol=NAME, data=DATA)
  short = protocols.get(NAME).benchmark('svamp').decoding
  object.__setattr__(short, 'max_new_tokens', 3)
  try:
    (first,) = benchmarking.run(own)
    shutil.copytree(tmp_path / 'a' / 'svamp', tmp_path / 'b' / 'svamp')
    answers = tmp_path / 'b' / 'svamp' / 'answers.jsonl'
    answers.write_text(''.join(answers.read_text().splitlines(keepends=True)[:2]))
    (tmp_path / 'b' / 'svamp' / 'samples.jsonl').unlink()
    (again,) = benchmarking.run(
      settings(tmp_path / 'b', 'svamp', protocol=NAME, data=DATA)
    )
  finally:
    object.__setattr__(short, 'max_new_tokens', 1024)
  assert again | {'provenance': 0} == first | {'provenance': 0}
  texts = [(tmp_path / x / 'svamp' / 'samples.jsonl').read_text() for x in 'ab']
  assert texts[0] == texts[1]


def test_missing_examples_packages_and_samples_are_named(monkeypatch, tmp_path):
  shutil.copytree(DATA / 'mmlu', tmp_path / 'mmlu')
  dev = tmp_path / 'mmlu' / 'dev' / 'world_religions_dev.csv'
  dev.write_text(''.join(dev.read_text().splitlines(keepends=True)[:3]))
  more = {'protocol': NAME, 'data': tmp_path}
  with pytest.raises(ConfigError, match='has 3 worked examples where the protocol sh'):
    benchmarking.plan(settings(tmp_path, 'mmlu', **more))
  own = answered(tmp_path / 'a', 'mmlu', ['A', 'B', 'C'])
  lines = (tmp_path / 'a' / 'samples.jsonl').read_text().splitlines()
  for text, said in (
    ('\n'.join(lines[:2]), 'has no answer to 1 of 3 questions'),
    ('\n'.join([*lines, lines[0]]), 'line 4 is no sample'),
    ('{"task_id": "x"}', 'line 1 is no sample'),
  ):
    (tmp_path / 'a' / 'samples.jsonl').write_text(text)
    with pytest.raises(ConfigError, match=said):
      scored(tmp_path / 'a', own, 'first_letter')
  monkeypatch.setattr(text_scores, '_PACKAGES', ('nothing-of-that-name',))
  with pytest.raises(ConfigError, match=r'need nothing-of-that-name: .*\[eval\]'):
    benchmarking.plan(settings(tmp_path, 'math', protocol=NAME, data=DATA))
