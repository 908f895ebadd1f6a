"""Final answers and their verdicts: literal tables, which the Eurus suite agrees with."""

import sys

import numpy as np
import pytest

from onlyif_jax.evals import latex_answers, latex_forms, typed_answers

SECONDS = 5.0
FINAL = [  # text, its final answer
  ('So \\boxed{\\frac{1}{2}}.', '\\frac{1}{2}'),
  ('\\boxed{1} or \\boxed{ 2 }', '2'),
  ('\\boxed{\\text{a {b}} c}', '\\text{a {b}} c'),
  ('\\fbox{3} is it', '3'),
  ('\\boxed{x = 5}', '5'),
  ('\\boxed{3', '\\boxed{3'),
  ('We add. The answer is 7', '7'),
  ('answer: 7. Done', '7'),
  ('Answer:\n7 cm', '7 cm'),
  ('12 is the answer', '12'),
  ('Hence 12 is the answer', 'Hence 12'),
  ('We get 4\nand x = 9', '9'),
  ('It must be 3', '3'),
  ('12', '12'),
  ('', ''),
]
RIGHT = [  # answer, reference
  # fractions and decimals
  ('\\frac{1}{2}', '\\dfrac12'),
  ('1/2', '\\frac{1}{2}'),
  ('.5', '\\frac{1}{2}'),
  ('\\tfrac{2}{4}', '0.5'),
  ('-\\frac{1}{3}', '\\frac{-1}{3}'),
  ('0.33333', '\\frac{1}{3}'),
  ('2.50', '2.5'),
  ('1e3', '1000'),
  # mixed numbers
  ('7 3/4', '7\\frac{3}{4}'),
  ('7.75', '7\\frac{3}{4}'),
  ('\\frac{31}{4}', '7 3/4'),
  # commas and words for thousands
  ('1,000', '1000'),
  ('10,\\!000', '10000'),
  ('1{,}000', '1000'),
  # money, per cent, degrees, units
  ('\\$5', '5'),
  ('$5.00', '5'),
  ('50\\%', '50'),
  ('50%', '0.5'),
  ('500', '5'),  # as a percentage
  ('90', '90^\\circ'),
  ('5 cm', '5'),
  ('5\\text{ cm}', '5'),
  ('12 inches', '12'),
  # roots, powers, pi
  ('\\sqrt3', '\\sqrt{3}'),
  ('3\\sqrt{2}', '\\sqrt{18}'),
  ('1.73205', '\\sqrt{3}'),
  ('2^{10}', '1024'),
  ('2\\pi', '6.28'),
  ('6.28319', '2\\pi'),
  ('78.5', '25\\pi'),
  # tuples, intervals, sets, lists
  ('(1,2)', '(1, 2)'),
  ('\\left( 3, \\frac{\\pi}{2} \\right)', '(3,\\frac{\\pi}{2})'),
  ('(0.5, 2)', '\\left(\\frac{1}{2}, 2\\right)'),
  ('[0,1)', '\\left[0,1\\right)'),
  ('Interval.open(0, 1)', '(0, 1)'),
  ('[1,2]', '1,2'),
  ('1, 2', '1,2'),
  # expressions
  ('1+x^2', 'x^2+1'),
  ('(x+1)^2', 'x^2 + 2x + 1'),
  ('x=5', '5'),
  ('3\\cdot 4', '12'),
  ('3 \\times 4', '12'),
  # words, letters, matrices, bases
  ('\\text{even}', 'Even'),
  ('\\text{(A)}', '(A)'),
  ('a', 'A'),
  (
    '\\begin{pmatrix}1\\\\2\\end{pmatrix}',
    '\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}',
  ),
  ('110_2', '110_{2}'),
  ('110', '110_2'),
  ('\\infty', '\\infty'),
]
WRONG = [
  ('\\frac{1}{2}', '\\frac{2}{1}'),
  ('0.333', '\\frac{1}{3}'),
  ('7 3/4', '7\\frac{1}{4}'),
  ('1,000', '1,001'),
  ('51', '50'),
  ('0.3', '30\\pi'),
  ('\\sqrt{2}', '\\sqrt{3}'),
  ('2^{10}', '1000'),
  ('2\\pi', '6'),
  ('(2,1)', '(1,2)'),
  ('(1,2]', '[1,2)'),
  ('(0, 1)', '[0, 2]'),
  ('1,2,3', '1,2'),
  ('x^2 - 1', 'x^2+1'),
  ('5', 'x'),
  ('even', 'odd'),
  ('A', 'B'),
  (
    '\\begin{pmatrix}1\\\\2\\end{pmatrix}',
    '\\begin{pmatrix}2\\\\1\\end{pmatrix}',
  ),
  ('1010_2', '110_2'),
  ('x_2', '2'),
  ('', '5'),
  ('5', ''),
  ('\\frac', '5'),
  ('\\infty', '5'),
  ('nan', 'inf'),
  # equal, but the suite does not see it
  ('2 million', '2000000'),
  ('90^{\\circ}', '90 \\text{ degrees}'),
  ('\\log_2 8', '3'),
  ('6 and 2', '6, 2'),
  ('Point(1, 2)', '(1,2)'),
]
TYPED = [  # answer, reference, kind, right
  ('6', 6, 'integer', True),
  ('6.4', 6, 'integer', True),  # rounded
  ('6.6', 6, 'integer', False),
  ('x = 6', 6, 'integer', True),
  ('6 faces', 6, 'integer', True),
  ('1,234', 1234, 'integer', True),
  ('about 6', 6, 'integer', True),
  ('2*3', 6, 'integer', True),
  ('2 x 3', 6, 'integer', True),
  ('six', 6, 'integer', False),
  ('\\frac{12}{2}', 6, 'integer', False),
  ('[6]', 6, 'integer', False),
  ('3.2', 3.14, 'float', True),  # 4 %
  ('3.3', 3.14, 'float', False),
  ('-3.14', 3.14, 'float', False),
  ('22/7', 3.14, 'float', True),
  ('np.pi', 3.14, 'float', True),
  ('Rational(22, 7)', 3.14, 'float', True),
  ('(3.14+2j)', 3.14, 'float', True),
  ('$3.14$', 3.14, 'float', True),
  ('3.14 m', 3.14, 'float', True),
  ('≈ 3.14', 3.14, 'float', True),
  ('3.14e0', 3.14, 'float', True),
  ('10^3', 1000, 'integer', False),  # calls math, which is not there
  ('1e3', 1000, 'integer', True),
  ('float("nan")', 6, 'integer', False),
  ('1e999', 6, 'integer', False),
  ('0', 0.0, 'float', True),
  ('No', False, 'bool', True),
  ('It is True', True, 'bool', True),
  ('True', False, 'bool', False),
  ('maybe', False, 'bool', False),
  ('a', '(a)', 'option', True),
  ('The (b) one', '(b)', 'option', True),
  ('c)', '(a)', 'option', False),
  ('[2, 1]', [1, 2], 'list of integer', True),
  ('{1, 2}', [1, 2], 'list of integer', True),
  ('1, 2', [1, 2], 'list of integer', True),
  ('(1, 2, 3)', [1, 2], 'list of integer', False),
  ('[0.34, 0.25]', [0.25, 0.333], 'list of float', True),
  ('[0.4, 0.25]', [0.25, 0.333], 'list of float', False),
  ('()', [], 'list of integer', False),
  ('', 6, 'integer', False),
]


@pytest.mark.parametrize(('text', 'answer'), FINAL)
def test_the_final_answer_of_a_text_is_found(text, answer):
  assert latex_forms.final_answer(text) == answer


def libraries():
  pytest.importorskip('sympy')
  pytest.importorskip('pylatexenc')
  pytest.importorskip('antlr4')


@pytest.mark.parametrize(('answer', 'reference'), RIGHT)
def test_equal_answers_are_right(answer, reference):
  libraries()
  assert latex_answers.equal(answer, reference, SECONDS)


@pytest.mark.parametrize(('answer', 'reference'), WRONG)
def test_other_answers_are_wrong(answer, reference):
  libraries()
  assert not latex_answers.equal(answer, reference, SECONDS)


def test_equal_forms_need_no_library():
  for answer, reference in (('1/2', '\\frac12'), ('\\text{A }', 'A'), ('x=5', '5')):
    assert latex_forms.same_form(answer, reference)
  assert not latex_forms.same_form('1/2', '\\frac{2}{4}')
  assert not latex_forms.same_form('\\frac', '\\sqrt')  # cut short: as they are


def test_an_answer_cannot_reach_python():
  """Neither by names that it evaluates, nor by being equal to everything."""
  libraries()
  for text in (
    '__import__("os").getcwd()',
    'open(chr(47))',
    'exit()',
    '(lambda: 5)()',
    '().__class__',
    'print(5)*\\pi',
  ):
    assert not latex_answers.equal(text, '5', SECONDS), text
    assert not typed_answers.equal(text, 5, 'integer'), text


def test_a_long_step_is_ended():
  libraries()

  def endless():
    with latex_answers._within(0.05):
      while True:
        pass

  with pytest.raises(latex_answers.TooLong):
    endless()
  heavy = ' + '.join(f'sin({n}*x)**7*cos({n}*y)**5' for n in range(2, 9))
  assert not latex_answers._symbolically(heavy, '(x+y)*z', 0.1)


@pytest.mark.parametrize(('answer', 'reference', 'kind', 'right'), TYPED)
def test_typed_answers_are_judged_by_their_kind(answer, reference, kind, right):
  if 'Rational' in answer:
    pytest.importorskip('sympy')
  assert typed_answers.equal(answer, reference, kind) is right


def test_a_typed_answer_reaches_nothing_that_judges_the_next():
  before = sys.getswitchinterval()
  for text in (
    *('np.testing.sys.setswitchinterval(1)', '[np.random.seed(3), 5][1]'),
    *('[g.gi_frame for g in [(0 for _ in [1])]]', 'np.sqrt.types', '(5).real'),
    *('np.seterr(1) and 5', 'np.array([5]).dump(1)', '(np := 5) and np.e.real'),
  ):
    assert typed_answers.value_of(text) is None, text
    assert not typed_answers.equal(text, 5, 'integer'), text
  assert sys.getswitchinterval() == before
  assert typed_answers.value_of('np.array([1, np.sqrt(4)])') == [1.0, 2.0]
  assert typed_answers.value_of('[n + np.e for n in range(2)]')[1] == np.e + 1
  assert all(hasattr(np, name) for name in typed_answers._NUMPY)


def test_typed_answers_are_found_in_texts_and_outputs():
  assert typed_answers.stated_answer('Thus.\nAnswer: \\boxed{[1, 2]} it is') == '[1, 2]'
  assert typed_answers.stated_answer('no box. answer:\n7') == '7'
  assert typed_answers.printed_answer('x 1\nThe area is 4.5 m.\n') == '4.5 m'
  assert typed_answers.printed_answer('Roots: [1, 2]') == '[1, 2]'
  assert typed_answers.printed_answer('') == ''
