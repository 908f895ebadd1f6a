"""Makes rows/: a few rows in the published format of each data set.

The texts are written for the tests; columns, their order and the kinds of files are
those of the data sets. Run where pyarrow is installed: python tests/data/make_rows.py
"""

import gzip
import json
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

OUT = Path(__file__).parent / 'rows'

ALPACA = [  # alpaca_data.json
  ('Name three rivers.', '', 'The Nile, the Danube and the Mekong.'),
  ('Put the sentence into the past tense.', 'The kettle sings.', 'The kettle sang.'),
  ('Which number is odd?', '4, 9, 12', '9'),
  ('Give a reason to drink water.', '', 'Every cell of the body needs it.'),
  ('Write a greeting in "quotes" — with a dash.', '', '“Good morning”, she said.'),
]
OSS = [  # data-oss_instruct-decontaminated.jsonl
  ('python', 3, 'def f(n):', 'Write a function `f` that doubles n.', 'n * 2'),
  (
    'rust',
    7,
    'fn main() {}',
    'Print the numbers 1 to 5, a line each.',
    'for i in 1..6',
  ),
  ('shell', 11, 'ls -l', 'Count the files of a folder.', '```sh\nls | wc -l\n```'),
]
EVOL_CODE = [  # evol-codealpaca-v1: train.jsonl
  ('Reverse a list without `reversed`.', 'Use a slice: `a[::-1]`.'),
  ('Sum the even numbers of a list.', '`sum(n for n in a if n % 2 == 0)`'),
]
COT = [  # CoT_collection_en.json
  (
    '0',
    'Is 7 prime?\n\nOPTIONS:\n- yes\n- no',
    'yes',
    'No smaller number but 1 divides 7.',
  ),
  ('3', 'Jo had 17 apples and ate 5. How many are left?', '12', '17 - 5 = 12.'),
  ('12', 'Can a whale breathe under water?', 'no', 'Whales have lungs.'),
]
ULTRA = [  # 0000_sft.parquet
  ('Coding', 'codecontest', 'Write Python code to solve the task.\nAdd two numbers.'),
  (
    'Logic',
    'hotpotqa',
    'Solve the following problem step-by-step:\nWho is older?\nStep 1: We look both up.'
    '\n```python\nprint(search("Ann"))\n```\nAnn was born in 1901.',
  ),
]
ORCA = [  # 1M-GPT4-Augmented.parquet
  ('niv.1', '', 'Name the capital of Peru.', 'Lima.'),
  ('flan.5', 'You are a helpful assistant.', 'Is ice a solid?', 'Yes, ice is a solid.'),
  ('t0.9', 'Think it over.', 'What is 3 times 4?', '3 times 4 is 12.'),
]
MATH = [  # MathInstruct.json
  (
    'data/CoT/gsm_train.json',
    'Half of 18 is 9. The answer is 9',
    'What is half of 18?',
  ),
  ('data/PoT/aqua.json', 'print(5 * 7)', 'What is 5 times 7? Write a program.'),
]
LIMA = [  # train.jsonl
  (['Why do leaves turn red?', 'They stop making the green dye.'], 'stackexchange'),
  (['Tell a joke.', 'No.', 'Please.', 'A fish walks into a bar.'], 'multi_turn'),
]
STACK = [
  ('How do I leave vim?', 'It ignores my keys.', 'Press Esc, then type :q!'),
  ('', 'What does `git stash` do?', 'It puts changes aside.'),
]
EXCHANGE = [  # stack-exchange-preferences: parquet
  ('Tea first or milk?', [('Milk.', 3, False), ('Tea.', 1, True)]),
  ('How long do eggs boil?', [('An hour.', -1, False), ('Eight minutes.', 5, False)]),
]
WORD = [('A car goes 60 km in 1 hour. How far in 3?', '180 km.'), ('2 + 2?', '4')]
SHARE = [  # ShareGPT_V3_unfiltered_cleaned_split.json
  (
    'QWJhYvA_0',
    [
      ('human', 'Name a prime.'),
      ('gpt', '7'),
      ('human', 'A larger one.'),
      ('gpt', '101'),
      ('human', 'Thanks'),
    ],
  ),
  (
    'i6IyJda_0',
    [('system', 'Be brief.'), ('user', 'Colour of snow?'), ('chatgpt', 'White.')],
  ),
]
WIZARD = [  # WizardLM_evol_instruct_V2_143k.json
  ('aKbP1', [('human', 'Explain rain to a child.'), ('gpt', 'Clouds let drops fall.')])
]
CHAT = [
  [
    ('user', 'Say hi.'),
    ('assistant', 'Hi.'),
    ('user', 'Louder.'),
    ('assistant', 'HI!'),
  ],
  [('system', 'You rhyme.'), ('user', 'A cat'), ('assistant', 'in a hat.')],
  [('system', ''), ('user', 'One plus one?'), ('assistant', 'Two.')],
]
PLAIN = [
  ('a', 'b'),
  ('What?', 'That.'),
  ('Two\nlines', 'Two\nmore'),
  ('ü', 'ß'),
  ('1', '2'),
]


def main():
  OUT.mkdir(exist_ok=True)
  keys = ('instruction', 'input', 'output')
  whole('alpaca_data.json', [dict(zip(keys, r, strict=True)) for r in ALPACA], indent=4)
  lines('oss_instruct.jsonl', [_oss(n, *r) for n, r in enumerate(OSS)])
  lines(
    'evol_codealpaca.jsonl', [{'output': o, 'instruction': i} for i, o in EVOL_CODE]
  )
  whole('CoT_collection_en.json', {key: _cot(*rest) for key, *rest in COT}, indent=4)
  table('ultrainteract_sft.parquet', [_ultra(n, *r) for n, r in enumerate(ULTRA)])
  keys = ('id', 'system_prompt', 'question', 'response')
  table('openorca.parquet', [dict(zip(keys, r, strict=True)) for r in ORCA])
  keys = ('source', 'output', 'instruction')
  whole('MathInstruct.json', [dict(zip(keys, r, strict=True)) for r in MATH])
  lines('lima.jsonl', [{'conversations': c, 'source': s} for c, s in LIMA])
  keys = ('title', 'question', 'answer')
  lines('stackoverflow.jsonl', [dict(zip(keys, r, strict=True)) for r in STACK])
  table('stack_exchange.parquet', [_exchange(n, *r) for n, r in enumerate(EXCHANGE)])
  table('orca_math.parquet', [{'question': q, 'answer': a} for q, a in WORD])
  whole('sharegpt.json', [{'id': i, 'conversations': _said(c)} for i, c in SHARE])
  whole('wizardlm.json', [{'idx': i, 'conversations': _said(c)} for i, c in WIZARD])
  lines('chat.jsonl', [{'messages': [_message(*m) for m in c]} for c in CHAT])
  plain = [{'prompt': p, 'response': r} for p, r in PLAIN]
  (OUT / 'plain').mkdir(exist_ok=True)
  table('plain/part-2.parquet', plain[3:])
  whole('plain/part-0.json', plain[:1])
  with gzip.GzipFile(OUT / 'plain/part-1.jsonl.gz', 'wb', mtime=0) as file:
    file.write(''.join(json.dumps(r) + '\n' for r in plain[1:3]).encode())


def _oss(n, lang, index, seed, problem, solution) -> dict:
  row = {'lang': lang, 'raw_index': 100 + n, 'index': index, 'seed': seed}
  return row | {'openai_fingerprint': 'fp_x', 'problem': problem, 'solution': solution}


def _cot(source, target, rationale) -> dict:
  row = {'source': source, 'target': target, 'rationale': rationale}
  return row | {'task': 'task', 'type': 'CoT'}


def _ultra(n, task, dataset, instruction) -> dict:
  row = {'task': task, 'dataset': dataset, 'instruction': instruction}
  return row | {'response': f'Step {n + 1}: done.', 'id': f'a{n}_1_1', 'parent_id': 'b'}


def _exchange(n, question, answers) -> dict:
  made = [
    {'answer_id': k, 'author': 'x', 'pm_score': score, 'selected': chosen, 'text': text}
    for k, (text, score, chosen) in enumerate(answers)
  ]
  return {'qid': n, 'question': question, 'answers': made, 'date': '2023/01/01'}


def _said(turns) -> list[dict]:
  return [{'from': role, 'value': text} for role, text in turns]


def _message(role, content) -> dict:
  return {'role': role, 'content': content}


def whole(name, value, indent=None):
  text = json.dumps(value, indent=indent, ensure_ascii=False)
  (OUT / name).write_text(text + '\n', encoding='utf-8')


def lines(name, rows):
  text = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
  (OUT / name).write_text(text, encoding='utf-8')


def table(name, rows):
  parquet.write_table(pa.Table.from_pylist(rows), OUT / name)


if __name__ == '__main__':
  main()
