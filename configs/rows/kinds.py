"""Small Python functions that the rows of code ask for, and the problems like them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Kind(NamedTuple):
  """Functions that differ in one value, {k}, and in the name of their argument, {a}.

  words: ways to name such a function and to say what it does. truth: (k, argument) ->
  result, written apart from the body, so that a wrong body is found. inputs: arguments
  of examples.
  """

  words: tuple[tuple[str, str], ...]
  body: str
  truth: Callable[[Any, Any], Any]
  inputs: tuple


def single(name: str, doc: str, body: str, truth, inputs: tuple) -> Kind:
  """A kind of one function."""
  return Kind(((name, doc),), body, truth, inputs)


# One digit each: a small model can learn to copy them.
DIGITS = (2, 3, 4, 5, 6, 7, 8, 9)
LETTERS = tuple('abdelnot')
WORD = ('banana', 'pelican', 'tomato')
LINE = ('a small red boat', 'two birds sing at dawn', 'cold tea is not bad')
SOME = ([3, 11, 7, 2, 8], [6, 5, 14, 9, 4, 1], [8, 0, 13, 4, 7, 6])
FEW = ([3, 11], [30, 5, 14])
ONE = (12, 31, 5)

# fmt: off
NUMBER_KINDS = (
  Kind((('add_{k}', 'Return {a} plus {k}.'),
        ('plus_{k}', 'Add {k} to {a}.'),
        ('increase_by_{k}', 'Make {a} larger by {k}.')),
       'return {a} + {k}', lambda k, a: sum((a, k)), ONE),
  Kind((('subtract_{k}', 'Return {a} minus {k}.'),
        ('minus_{k}', 'Take {k} from {a}.'),
        ('decrease_by_{k}', 'Make {a} smaller by {k}.')),
       'return {a} - {k}', lambda k, a: -(k - a), ONE),
  Kind((('times_{k}', 'Return {a} times {k}.'),
        ('multiply_by_{k}', 'Multiply {a} by {k}.'),
        ('scale_by_{k}', 'Make {a} {k} times as large.')),
       'return {a} * {k}', lambda k, a: sum([a] * k), ONE),
  Kind((('remainder_by_{k}', 'Return what is left of {a} divided by {k}.'),
        ('modulo_{k}', 'Return {a} modulo {k}.'),
        ('rest_by_{k}', 'Divide {a} by {k} and return the rest.')),
       'return {a} % {k}', lambda k, a: a - k * math.floor(a / k), ONE),
  Kind((('at_least_{k}', 'Return {a}, or {k} if that is more.'),
        ('larger_of_{k}', 'Return the larger of {a} and {k}.'),
        ('raise_to_{k}', 'Raise {a} to {k} if it is less.')),
       'return max({a}, {k})', lambda k, a: a if a > k else k, (12, 1, 5)),
)
LIST_KINDS = (
  Kind((('first_{k}', 'Return the first {k} items of {a}.'),
        ('head_{k}', 'Keep {k} items from the start of {a}.'),
        ('take_{k}', 'Take the {k} leading items of {a}.')),
       'return {a}[:{k}]', lambda k, a: [x for n, x in enumerate(a) if n < k], SOME),
  Kind((('last_{k}', 'Return the last {k} items of {a}.'),
        ('tail_{k}', 'Keep {k} items from the end of {a}.'),
        ('final_{k}', 'Take the {k} closing items of {a}.')),
       'return {a}[-{k}:]',
       lambda k, a: [x for n, x in enumerate(a) if n >= len(a) - k], SOME),
  Kind((('drop_{k}', 'Return {a} without its first {k} items.'),
        ('skip_{k}', 'Skip {k} items of {a} and return the others.'),
        ('after_{k}', 'Return the items of {a} behind the first {k}.')),
       'return {a}[{k}:]', lambda k, a: [x for n, x in enumerate(a) if n >= k], SOME),
  Kind((('above_{k}', 'Return the numbers of {a} above {k}.'),
        ('larger_than_{k}', 'Keep the numbers of {a} that exceed {k}.'),
        ('more_than_{k}', 'Filter {a} for numbers larger than {k}.')),
       'return [n for n in {a} if n > {k}]',
       lambda k, a: list(filter(lambda x: x > k, a)), SOME),
  Kind((('append_{k}', 'Return {a} with {k} at the end.'),
        ('end_with_{k}', 'Put {k} behind the items of {a}.'),
        ('extend_by_{k}', 'Add the item {k} to the end of {a}.')),
       'return {a} + [{k}]', lambda k, a: [*a, k], FEW),
  Kind((('add_{k}_to_all', 'Add {k} to each number of {a}.'),
        ('shift_by_{k}', 'Increase every number of {a} by {k}.'),
        ('each_plus_{k}', 'Return the numbers of {a}, each plus {k}.')),
       'return [n + {k} for n in {a}]', lambda k, a: list(map(k.__add__, a)), FEW),
)
TEXT_KINDS = (
  Kind((('repeat_{k}', 'Return {a} written {k} times.'),
        ('echo_{k}', 'Say {a} {k} times in a row.'),
        ('copies_{k}', 'Join {k} copies of {a}.')),
       'return {a} * {k}', lambda k, a: ''.join(a for _ in range(k)), ('ha', 'tick')),
  Kind((('is_longer_than_{k}', 'Tell whether {a} has more than {k} letters.'),
        ('exceeds_{k}', 'Tell whether the length of {a} exceeds {k}.'),
        ('has_over_{k}', 'Check that {a} is longer than {k}.')),
       'return len({a}) > {k}', lambda k, a: bool(a[k:]), ('ha', 'tomato', 'pelicans')),
)
LETTER_KINDS = (
  Kind((('count_{k}', "Count the letters '{k}' in {a}."),
        ('how_many_{k}', "Return how many '{k}' are in {a}."),
        ('number_of_{k}', "Return the number of '{k}' in {a}.")),
       "return {a}.count('{k}')", lambda k, a: sum(c == k for c in a), WORD),
)
# Kinds without a value: one function each.
SINGLE_KINDS = (
  single('reverse_text', 'Return {a} backwards.', 'return {a}[::-1]',
       lambda _, a: ''.join(reversed(a)), WORD),
  single('shout', 'Return {a} in capital letters.', 'return {a}.upper()',
       lambda _, a: ''.join(c.upper() for c in a), LINE),
  single('title_case', 'Return {a} with a capital at the start of each word.',
       'return {a}.title()',
       lambda _, a: ' '.join(w[0].upper() + w[1:] for w in a.split()), LINE),
  single('count_words', 'Return how many words {a} has.', 'return len({a}.split())',
       lambda _, a: a.count(' ') + 1, LINE),
  single('longest_word', 'Return the longest word of {a}, the first of equals.',
       'return max({a}.split(), key=len)',
       lambda _, a: sorted(a.split(), key=lambda w: -len(w))[0], LINE),
  single('initials', 'Return the first letters of the words of {a}.',
       "return ''.join(w[0] for w in {a}.split())",
       lambda _, a: a[0] + ''.join(a[n + 1] for n, c in enumerate(a) if c == ' '),
       LINE),
  single('count_vowels', 'Count the vowels a, e, i, o and u in {a}.',
       "return sum(c in 'aeiou' for c in {a})", lambda _, a: sum(map(a.count, 'aeiou')),
       WORD),
  single('is_palindrome', 'Tell whether {a} reads the same backwards.',
       'return {a} == {a}[::-1]',
       lambda _, a: all(a[n] == a[-1 - n] for n in range(len(a))),
       ('level', 'pelican')),
  single('double_letters', 'Return {a} with each letter written twice.',
       "return ''.join(2 * c for c in {a})", lambda _, a: ''.join(c + c for c in a),
       WORD),
  single('sorted_letters', 'Return the letters of {a} in order.',
       "return ''.join(sorted({a}))",
       lambda _, a: ''.join(c * a.count(c) for c in map(chr, range(97, 123))), WORD),
  single('largest', 'Return the largest number of {a}.', 'return max({a})',
       lambda _, a: sorted(a)[-1], SOME),
  single('smallest', 'Return the smallest number of {a}.', 'return min({a})',
       lambda _, a: sorted(a)[0], SOME),
  single('total', 'Return the sum of {a}.', 'return sum({a})',
       lambda _, a: math.fsum(a).__int__(), SOME),
  single('product', 'Return the product of all numbers of {a}.',
       'out = 1\nfor n in {a}:\n    out *= n\nreturn out', lambda _, a: math.prod(a),
       ([2, 3, 4], [5, 6])),
  single('mean', 'Return the mean of {a}.', 'return sum({a}) / len({a})',
       lambda _, a: math.fsum(a) / len(a), ([4, 8], [3, 5, 10])),
  single('spread', 'Return the largest less the smallest of {a}.',
       'return max({a}) - min({a})', lambda _, a: sorted(a)[-1] - sorted(a)[0], SOME),
  single('ascending', 'Return {a} from small to large.', 'return sorted({a})',
       lambda _, a: [min(a), *sorted(x for x in a if x != min(a))], SOME),
  single('descending', 'Return {a} from large to small.',
       'return sorted({a}, reverse=True)', lambda _, a: sorted(a)[::-1], SOME),
  single('reverse_list', 'Return the items of {a} backwards.', 'return {a}[::-1]',
       lambda _, a: list(reversed(a)), SOME),
  single('distinct', 'Return each item of {a} once, in order.',
       'return list(dict.fromkeys({a}))',
       lambda _, a: [x for n, x in enumerate(a) if x not in a[:n]],
       ([5, 3, 5, 7], [9, 2, 9, 9])),
  single('evens', 'Return the even numbers of {a}.',
       'return [n for n in {a} if n % 2 == 0]',
       lambda _, a: [x for x in a if str(x)[-1] in '02468'], SOME),
  single('odds', 'Return the odd numbers of {a}.',
       'return [n for n in {a} if n % 2 == 1]',
       lambda _, a: [x for x in a if str(x)[-1] in '13579'], SOME),
  single('squares', 'Return the square of each number of {a}.',
       'return [n * n for n in {a}]', lambda _, a: [x**2 for x in a],
       ([3, 11], [30, 5, 14])),
  single('swap_ends', 'Return {a} with its first and last item swapped.',
       'return [{a}[-1], *{a}[1:-1], {a}[0]]', lambda _, a: a[-1:] + a[1:-1] + a[:1],
       SOME),
  single('running_total', 'Return the sums of the first 1, 2, ... items of {a}.',
       'out = []\nfor n in {a}:\n    out.append(sum(out[-1:], n))\nreturn out',
       lambda _, a: [sum(a[: n + 1]) for n in range(len(a))],
       ([3, 11, 7], [30, 5, 14])),
  single('steps', 'Return the difference of each two neighbours in {a}.',
       'return [y - x for x, y in zip({a}, {a}[1:])]',
       lambda _, a: [a[n + 1] - a[n] for n in range(len(a) - 1)], SOME),
  single('factorial', 'Return the product of the numbers from 1 to {a}.',
       'out = 1\nfor n in range(2, {a} + 1):\n    out *= n\nreturn out',
       lambda _, a: math.factorial(a), (4, 6)),
  single('triangle', 'Return the sum of the numbers from 1 to {a}.',
       'return {a} * ({a} + 1) // 2', lambda _, a: sum(range(a + 1)), (4, 10)),
  single('digit_sum', 'Return the sum of the digits of {a}.',
       'return sum(int(d) for d in str({a}))',
       lambda _, a: a % 10 + a // 10 % 10 + a // 100, (45, 307)),
  single('is_prime', 'Tell whether {a} is a prime number.',
       'return {a} > 1 and all({a} % n for n in range(2, {a}))',
       lambda _, a: len([n for n in range(1, a + 1) if a % n == 0]) == 2, (13, 21)),
  single('divisors', 'Return the numbers that divide {a}, from small to large.',
       'return [n for n in range(1, {a} + 1) if {a} % n == 0]',
       lambda _, a: sorted(n for n in range(1, a + 1) if math.gcd(n, a) == n),
       (12, 13)),
  single('swap_pair', 'Return the pair {a} the other way round.',
       'return ({a}[1], {a}[0])', lambda _, a: a[::-1], ((3, 5), ('x', 'y'))),
  single('key_of', 'Return a dictionary from the values of {a} to its keys.',
       'return {{v: k for k, v in {a}.items()}}',
       lambda _, a: dict(zip(a.values(), a, strict=True)),
       ({'a': 1, 'b': 2}, {'x': 7})),
  single('lengths', 'Return the length of each word in the list {a}.',
       'return [len(w) for w in {a}]', lambda _, a: [sum(1 for _ in w) for w in a],
       (['tea', 'milk'], ['sun', 'rain', 'snow'])),
  single('flatten', 'Return the items of the lists in {a} as one list.',
       'return [x for part in {a} for x in part]',
       lambda _, a: [x for n in range(len(a)) for x in a[n]],
       ([[1, 2], [3]], [[7], [], [4, 5]])),
  single('halves', 'Return both halves of {a}; the second is not the shorter.',
       'middle = len({a}) // 2\nreturn {a}[:middle], {a}[middle:]',
       lambda _, a: (a[: len(a) // 2], a[len(a) // 2 :]), ([1, 2, 3], [4, 5, 6, 7])),
)
# fmt: on
GROUPS = (  # kinds, values, names of the argument
  (NUMBER_KINDS, DIGITS, ('n', 'x', 'number', 'value')),
  (LIST_KINDS, DIGITS, ('items', 'xs', 'numbers', 'values')),
  (TEXT_KINDS, DIGITS, ('text', 's', 'word', 'line')),
  (LETTER_KINDS, LETTERS, ('text', 's', 'word', 'line')),
)
