"""Rows that reason in steps, in the formats of CoT-Collection and UltraInteract."""

import random
from collections.abc import Iterator

NAMES = [
  'Jo',
  'Mia',
  'Ben',
  'Ana',
  'Tom',
  'Ida',
  'Max',
  'Eva',
  'Leo',
  'Zoe',
  'Sam',
  'Liv',
  'Tim',
  'Amy',
  'Kai',
]
ITEMS = [
  'apples',
  'pens',
  'coins',
  'shells',
  'cards',
  'stamps',
  'plums',
  'books',
  'cups',
  'nuts',
  'beads',
  'tickets',
]
DAYS = ['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday']
Thought = tuple[str, str, str]  # source, rationale, target


def cot() -> Iterator[Thought]:
  """Small tasks with their rationale."""
  rng = random.Random(21)
  for n in range(14):
    yield from (make(rng, n) for make in MAKERS)


def _spent(rng: random.Random, n: int) -> Thought:
  have, gone, more = rng.randint(20, 60), rng.randint(3, 19), rng.randint(2, 15)
  who, what = rng.choice(NAMES), rng.choice(ITEMS)
  left = have - gone
  return (
    f'{who} had {have} {what}, gave away {gone} and got {more} more. How many {what} '
    f'does {who} have now?',
    f'After giving some away there are {have} - {gone} = {left}. With the new ones '
    f'there are {left} + {more} = {left + more}.',
    str(left + more),
  )


def _shared(rng: random.Random, n: int) -> Thought:
  each, people = rng.randint(3, 12), rng.randint(2, 9)
  what, total = rng.choice(ITEMS), each * people
  return (
    f'{total} {what} are shared equally by {people} people. How many does each get?',
    f'Each gets {total} / {people} = {each}.',
    str(each),
  )


def _bought(rng: random.Random, n: int) -> Thought:
  count, price, paid = rng.randint(2, 9), rng.randint(2, 9), 100
  who, what = rng.choice(NAMES), rng.choice(ITEMS)
  cost = count * price
  return (
    f'{who} buys {count} {what} at {price} coins each and pays with {paid} coins. '
    'How many coins come back?',
    f'The cost is {count} * {price} = {cost}. The change is {paid} - {cost} = '
    f'{paid - cost}.',
    str(paid - cost),
  )


def _older(rng: random.Random, n: int) -> Thought:
  a, b, c = rng.sample(NAMES, 3)
  word, other = (('older', 'youngest'), ('taller', 'shortest'))[n % 2]
  return (
    f'{a} is {word} than {b}. {b} is {word} than {c}. Who is the {other}?\n\nOPTIONS:\n'
    f'- {b}\n- {c}\n- {a}',
    f'{a} is above {b}, and {b} is above {c}, so nobody is below {c}.',
    c,
  )


def _day(rng: random.Random, n: int) -> Thought:
  start, ahead = n % 7, rng.randint(2, 20)
  weeks, rest = divmod(ahead, 7)
  end = DAYS[(start + rest) % 7]
  return (
    f'Today is {DAYS[start]}. Which day is it in {ahead} days?',
    f'{ahead} days are {weeks} weeks and {rest} days. {rest} days after '
    f'{DAYS[start]} is {end}.',
    end,
  )


def _divides(rng: random.Random, n: int) -> Thought:
  by, number = rng.randint(3, 9), rng.randint(30, 99)
  part, rest = divmod(number, by)
  return (
    f'Can {number} be divided by {by} without a rest?\n\nOPTIONS:\n- yes\n- no',
    f'{by} * {part} = {by * part}, and {number} - {by * part} = {rest}.',
    'no' if rest else 'yes',
  )


def _letters(rng: random.Random, n: int) -> Thought:
  words = rng.sample(NAMES, 3)
  last = [w[-1] for w in words]
  return (
    f'Take the last letter of each word in "{" ".join(words)}" and join them.',
    ' '.join(f'{w} ends with {c}.' for w, c in zip(words, last, strict=True)),
    ''.join(last),
  )


def _coin(rng: random.Random, n: int) -> Thought:
  turns = [rng.random() < 0.5 for _ in range(3)]
  who = rng.sample(NAMES, 3)
  acts = (
    f'{a} {"flips" if turned else "does not flip"} it.'
    for a, turned in zip(who, turns, strict=True)
  )
  up = sum(turns) % 2 == 0
  return (
    f'A coin shows heads. {" ".join(acts)} Does it show heads now?',
    f'It was flipped {sum(turns)} times, which is {"even" if up else "odd"}.',
    'yes' if up else 'no',
  )


def _ladder(rng: random.Random, n: int) -> Thought:
  start, step = rng.randint(1, 30), rng.randint(2, 12)
  row = [start + i * step for i in range(4)]
  return (
    f'Which number comes next: {", ".join(map(str, row))}?',
    f'Each number is {step} more than the one before: {row[3]} + {step} = '
    f'{row[3] + step}.',
    str(row[3] + step),
  )


def _sides(rng: random.Random, n: int) -> Thought:
  a, b = rng.randint(2, 12), rng.randint(13, 25)
  what = ('garden', 'field', 'room')[n % 3]
  return (
    f'A {what} is {a} metres wide and {b} metres long. How many square metres has it?',
    f'The area is width times length: {a} * {b} = {a * b}.',
    str(a * b),
  )


def _member(rng: random.Random, n: int) -> Thought:
  kind, other = (('birds', 'wings'), ('fish', 'gills'), ('trees', 'roots'))[n % 3]
  who = rng.choice(('Pip', 'Zed', 'Tok', 'Mup', 'Lom', 'Rax'))
  right = n % 2 == 0
  said = f'is one of the {kind}' if right else f'has no {other}'
  asked = f'Does {who} have {other}?' if right else f'Is {who} one of the {kind}?'
  because = (
    f'{who} is one of the {kind}, so {who} has {other}.'
    if right
    else f'If {who} were one of the {kind}, {who} would have {other}.'
  )
  return (
    f'All {kind} have {other}. {who} {said}. {asked}\n\nOPTIONS:\n- yes\n- no',
    because,
    'yes' if right else 'no',
  )


def _pair(rng: random.Random, n: int) -> Thought:
  small, gap = rng.randint(4, 30), rng.randint(2, 15)
  total = 2 * small + gap
  return (
    f'Two numbers add up to {total} and differ by {gap}. What is the smaller one?',
    f'Twice the smaller one is {total} - {gap} = {2 * small}, and {2 * small} / 2 = '
    f'{small}.',
    str(small),
  )


MAKERS = (
  *(_spent, _shared, _bought, _older, _day, _divides),
  *(_letters, _coin, _ladder, _sides, _member, _pair),
)
STEP = (
  'Solve the following math problem step-by-step.\n'
  'Simplify your answer as much as possible.'
)
BOX = 'Present your final answer as \\boxed{Your Answer}.'
Task = tuple[str, str, str, str]  # task, dataset, instruction, response


def ultrainteract() -> Iterator[Task]:
  """Mathematics in words and in programs, small programs, and logic."""
  rng = random.Random(22)
  for _ in range(30):
    yield _equation(rng)
    yield _program(rng)
    yield _percent(rng)
    yield _code(rng)
    yield _truth(rng)
    yield _modulus(rng)


def _equation(rng: random.Random) -> Task:
  a, x, b = rng.randint(2, 12), rng.randint(2, 15), rng.randint(1, 40)
  total = a * x + b
  return (
    'Math_CoT',
    'mathqa',
    f'{STEP} {BOX}\n{a} x + {b} = {total}. What is x?',
    f'Step 1: Subtract {b} from both sides: {a} x = {a * x}.\nStep 2: Divide by {a}: '
    f'x = {x}.\n\nAnswer:\n\\boxed{{{x}}}',
  )


def _program(rng: random.Random) -> Task:
  low, high, by = rng.randint(1, 20), rng.randint(40, 90), rng.randint(3, 11)
  count = high // by - (low - 1) // by
  return (
    'Math_PoT',
    'numglue',
    'Tool available:\n[1] Python interpreter\n'
    f'{STEP}\nHow many multiples of {by} are there from {low} to {high}?',
    'Step 1: Count them with a loop.\n```python\ncount = 0\nfor n in '
    f'range({low}, {high} + 1):\n    if n % {by} == 0:\n        count += 1\n'
    f'print(count)\n```\nObservation:\n{count}\nAnswer:\n{count}',
  )


def _percent(rng: random.Random) -> Task:
  share, whole = rng.choice((10, 20, 25, 50, 75)), 4 * rng.randint(5, 45) * 5
  part = whole * share // 100
  return (
    'Math_CoT',
    'gsm8k',
    f'{STEP} {BOX}\nWhat is {share} per cent of {whole}?',
    f'Step 1: One per cent of {whole} is {whole / 100:g}.\n'
    f'Step 2: {share} of these are {part}.\n\nAnswer:\n\\boxed{{{part}}}',
  )


def _code(rng: random.Random) -> Task:
  k, op = rng.randint(2, 40), rng.choice('+*-')
  word = {'+': 'plus', '*': 'times', '-': 'minus'}[op]
  given = rng.randint(2, 9)
  result = {'+': given + k, '*': given * k, '-': given - k}[op]
  return (
    'Coding',
    'codecontest',
    'Write Python code to solve the task. Present code in ```python```\nRead a whole '
    f'number and print it {word} {k}.\nInput: {given}\nOutput: {result}',
    f'```python\nn = int(input())\nprint(n {op} {k})\n```',
  )


def _truth(rng: random.Random) -> Task:
  a, b = rng.randint(10, 99), rng.randint(10, 99)
  word = rng.choice(('larger', 'smaller'))
  right = a > b if word == 'larger' else a < b
  return (
    'Logic',
    'strategyqa',
    'Solve the following problem step-by-step.\nAnswer yes or no: is '
    f'{a} {word} than {b}?',
    f'Step 1: {max(a, b)} lies above {min(a, b)} by {abs(a - b)}.\nAnswer:\n'
    f'{"yes" if right else "no"}',
  )


def _modulus(rng: random.Random) -> Task:
  number, by = rng.randint(40, 300), rng.randint(4, 16)
  return (
    'Math_PoT',
    'math',
    'Tool available:\n[1] Python interpreter\n'
    f'{STEP}\nWhat is the rest of {number} divided by {by}?',
    f'Step 1: Use the operator for rests.\n```python\nprint({number} % {by})\n```\n'
    f'Observation:\n{number % by}\nAnswer:\n{number % by}',
  )
