"""What is wrong with one output, in plain Python; shares no code with the package."""


def mistake(z, x, y, expected, output, *, noops, trained) -> str:
  """The class of one output.

  output: text, or None where it is malformed; trained: (x, what it inserts) of every
  training rule; x = None for tasks without patterns.
  """
  if output is None:
    return 'malformed'
  if output == expected:
    return 'right'
  if output == z:
    return 'false_no_op' if noops else 'copied'
  wrong_length = 'length' if len(output) != len(expected) else 'wrong_letters'
  if x is None:
    return wrong_length
  if x not in z:
    if expected != z:
      return wrong_length
    places = range(len(z) - len(x) + 1)
    if output in [z[:k] + y + z[k + len(x) :] for k in places]:
      return 'false_op'
    return 'length' if len(output) != len(z) else 'edit_elsewhere'
  return _with_x(z, x, expected, output, trained) or wrong_length


def _with_x(z, x, expected, output, trained):
  first = z.index(x)
  head, tail = z[:first], z[first + len(x) :]
  around = len(head) + len(tail)
  if not (expected.startswith(head) and expected.endswith(tail)):
    return None
  if len(expected) < around:
    return None
  w = expected[len(head) : len(expected) - len(tail)]
  for k in range(first + 1, len(z)):
    if z.startswith(x, k) and output == z[:k] + w + z[k + len(x) :]:
      return 'later_occurrence'
  sized = len(output) == len(expected)
  if output.startswith(head) and output.endswith(tail) and len(output) >= around:
    v = output[len(head) : len(output) - len(tail)]
    if (x, v) in trained:
      return 'training_y'
    others = [
      (sum(a != b for a, b in zip(x, other, strict=True)), y)
      for other, y in trained
      if len(other) == len(x) and other != x
    ]
    if v in [y for d, y in others if d == min(others)[0]]:
      return 'nearest_y'
    if sized:
      return 'wrong_y'
  in_front = output.startswith(x, first)
  end = first + len(output) - len(z)
  stands = in_front or (end >= 0 and output.startswith(x, end))
  if sized and output.startswith(w, first) and (w or not stands):
    return 'extra_edit'
  if stands and len(output) in (len(z), len(expected)):
    return 'edit_elsewhere'
  return None
