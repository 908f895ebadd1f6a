"""Plain-Python oracle of algebraic rewriting; shares no code with the package."""

import itertools

SYMBOLS = '0123456789uvwxyznscleq+-*/^()ABC'
ATOMS, FUNCTIONS, SLOTS = '0123456789uvwxyz', 'nscleq', 'ABC'


def parse_row(row: list[int]) -> tuple[str, str, str, str]:
  """Token ids -> lhs, rhs, input and output; checks the layout."""
  end = row.index(1)  # EOS
  assert all(t == 0 for t in row[end + 1 :]), 'padding only after the end'
  text = ''.join('|' if t == 2 else SYMBOLS[t - 6] for t in row[:end])
  assert min(row[:end]) >= 2
  lhs, rhs, before, after = text.split('|')
  return lhs, rhs, before, after


def parse(text: str):
  """Text -> nested tuples, with a stack: a closing bracket ends a pair."""
  stack: list = []

  def push(tree):
    while stack and isinstance(stack[-1], str) and stack[-1] in FUNCTIONS:
      tree = (stack.pop(), tree)
    stack.append(tree if isinstance(tree, tuple) else (tree,))

  for c in text:
    if c in ATOMS or c in SLOTS:
      push((c,))
    elif c == ')':
      bracket, left, operator, right = stack[-4:]
      assert bracket == '('
      assert operator in '+-*/^'
      assert isinstance(left, tuple)
      assert isinstance(right, tuple)
      del stack[-4:]
      push((operator, left, right))
    else:
      stack.append(c)
  assert len(stack) == 1, text
  return stack[0]


def render(tree) -> str:
  """The text of a tree."""
  if len(tree) == 3:
    return '(' + render(tree[1]) + tree[0] + render(tree[2]) + ')'
  return tree[0] + ''.join(render(t) for t in tree[1:])


def match(template, tree, found: dict) -> bool:
  """Whether a tree is an instance of a template; fills in the slots."""
  if template[0] in SLOTS:
    return found.setdefault(template[0], tree) == tree
  return (
    template[0] == tree[0]
    and len(template) == len(tree)
    and all(match(a, b, found) for a, b in zip(template[1:], tree[1:], strict=True))
  )


def put(template, found: dict):
  """A template with its slots filled in."""
  if template[0] in SLOTS:
    return found[template[0]]
  return (template[0], *(put(t, found) for t in template[1:]))


def rewrites(lhs, rhs, tree):
  """Every tree that one application of the rule gives, with its path and slots."""
  found: dict = {}
  if match(lhs, tree, found):
    yield put(rhs, found), (), found
  for k, child in enumerate(tree[1:], start=1):
    for new, path, own in rewrites(lhs, rhs, child):
      yield (*tree[:k], new, *tree[k + 1 :]), (k, *path), own


def depth(tree) -> int:
  """Operators on the longest path."""
  return (len(tree) == 3) + max((depth(t) for t in tree[1:]), default=0)


def functions(tree) -> int:
  """The number of functions."""
  return (len(tree) == 2) + sum(functions(t) for t in tree[1:])


def operators(tree) -> int:
  """The number of operators."""
  return (len(tree) == 3) + sum(operators(t) for t in tree[1:])


def start(tree, path) -> int:
  """The first character of the subtree at a path."""
  if not path:
    return 0
  before = sum(len(render(t)) for t in tree[1 : path[0]])
  operator = 1 if path[0] == 2 else 0
  return 1 + before + operator + start(tree[path[0]], path[1:])


def variants(tree):
  """A tree with the operands of + and * in every order."""
  if len(tree) == 1:
    return {tree}
  below = itertools.product(*(variants(t) for t in tree[1:]))
  out = {(tree[0], *children) for children in below}
  if tree[0] in '+*':
    out |= {(o, b, a) for o, a, b in out}
  return out


def class_of(text: str) -> str:
  """The least of all texts that renaming and commutation give."""
  texts = [render(t) for t in variants(parse(text))]
  names = sorted(set(text) & set(SLOTS))
  tables = [
    str.maketrans(''.join(names), ''.join(p))
    for p in itertools.permutations(SLOTS, len(names))
  ]
  return min(t.translate(table) for t in texts for table in tables)
