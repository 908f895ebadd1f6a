"""The user's own examples: a table of instruction, prompt, answer and split.

A row is an example; an instruction is all rows with one id. I instructions are the
first I of a keyed permutation of the training ids; an example is a row of its
instruction, chosen by its key. A fifth of the rows of each instruction, chosen by the
hash of their text, is kept from training for the split `seen`. Tokens are characters.
"""

import dataclasses
import hashlib
import itertools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax import keys
from onlyif_jax.config import RulesConfig
from onlyif_jax.keys import Purpose
from onlyif_jax.settings import TableSettings
from onlyif_jax.tasks import table_file, tokens
from onlyif_jax.tasks.contract import EvalSet
from onlyif_jax.tasks.rules import Part
from onlyif_jax.tasks.table_file import NAMES, Text

RELATION = 'no id and no text of a held-out instruction is one of training'
_KINDS = {'train': 0, 'kept': 1, 'plain': 2}  # rows trained on, kept for `seen`, all


class Instruction(NamedTuple):
  """A rule of this task: the index of an instruction in `Text.ids`."""

  index: jax.Array


@dataclasses.dataclass(frozen=True)
class Table(TableSettings):
  """Answer the prompts of a table."""

  noops: ClassVar[bool] = False

  @property
  def text(self) -> Text:
    """The file's content; raises ValueError with file, line and remedy."""
    return table_file.read(self)

  @property
  def symbols(self) -> str:
    """The character of each letter."""
    return self.text.symbols

  @property
  def vocab_size(self) -> int:
    """The number of token ids in use."""
    return tokens.FIRST_LETTER + len(self.symbols)

  @property
  def answer_length(self) -> int:
    """The length of the longest answer, end token included."""
    return self.text.longest['answer'] + 1

  @property
  def sequence_length(self) -> int:
    """The length of the longest sequence; each piece is followed by SEP or EOS."""
    return sum(n + 1 for n in self.text.longest.values())

  def static(self) -> 'Table':
    """Every setting is static, as the file determines every shape."""
    return self

  def setting(self, instructions: int) -> dict[str, np.ndarray]:
    """The arrays of the table, which are traced to keep them out of the program."""
    del instructions
    names = ('letters_C', 'at_RF', 'length_RF', 'first_I', 'trained_I', 'rows_I')
    return {name: getattr(self.text, name) for name in names}

  def mix(self, noop_share: float) -> tuple[tuple[int, float], ...]:
    """All training examples are of one kind."""
    return ()

  def kind(self, name: str, i_B):
    """'train': rows of training; 'kept': rows kept for `seen`; 'plain': all rows."""
    return jnp.full_like(i_B, _KINDS[name])

  def space(self, rules: RulesConfig) -> 'TableSpace':
    """The instructions; raises ValueError for files that cannot work."""
    space = TableSpace(self, rules.dev_fraction, rules.test_fraction)
    for part in Part:
      if space.capacity(part) < 2:
        name = NAMES[part]
        remedy = f'rules.{name}_fraction' if part else 'the number of instructions'
        if self.text.parts is not None:
          remedy = f'the number of ids whose {self.split!r} is {name!r}'
        raise ValueError(
          f'{self.path} has {space.capacity(part)} {name} instructions, 2 are needed; '
          f'raise {remedy}'
        )
    return space

  def example(self, rule, key, *, kind=0, shown=None, setting=None) -> tokens.Example:
    """A row of an instruction; the prompt is that of a row of `shown`, if given."""
    table = setting or jax.tree.map(jnp.asarray, self.setting(0))
    bits = jax.random.bits(key)
    row = self._row(rule.index, bits, kind, table)
    shown_row = row if shown is None else self._row(shown.index, bits, kind, table)
    *prompt, answer = [
      self._piece(table, shown_row if name == 'prompt' else row, f, name)
      for f, name in enumerate(self.text.fields)  # prompt, perhaps input, answer
    ]
    inserted_A = jnp.arange(self.answer_length) < answer[1]
    return tokens.layout(
      prompt, answer, self.sequence_length, inserted_A=inserted_A, slices={}
    )

  def _row(self, index, bits, kind, table):
    """The index of a random row of an instruction, among those of the kind."""
    trained, rows = table['trained_I'][index], table['rows_I'][index]
    low = jnp.where(kind == _KINDS['kept'], trained, 0)
    high = jnp.where(kind == _KINDS['train'], trained, rows)
    offset = (bits % (high - low).astype(jnp.uint32)).astype(jnp.int32)
    return table['first_I'][index] + low + offset

  def _piece(self, table, row, f: int, name: str):
    """Field f of a row: (letters, length)."""
    n = jnp.arange(max(1, self.text.longest[name]))
    start, length = table['at_RF'][row, f], table['length_RF'][row, f]
    letters_C = table['letters_C']
    letters_N = letters_C[jnp.minimum(start + n, len(letters_C) - 1)]
    return letters_N.astype(jnp.int32), length

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """Held-out instructions with all their rows, training instructions with kept ones."""
    del cell_examples
    return [
      EvalSet('unseen', examples),
      EvalSet('dev', examples),
      EvalSet('seen', examples, kind='kept'),
      EvalSet('train', examples, kind='train'),
    ]

  def instruction_mask(self, example: tokens.Example):
    """True at the tokens [..., L] of the prompt column; an input column is not in it."""
    return jnp.cumsum((example.tokens_L == tokens.SEP).astype(jnp.int32), -1) == 0

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """A prompt's ids -> the letters of its columns."""
    return dict(zip(self.text.fields[:-1], tokens.split(prompt_N), strict=True))


@dataclasses.dataclass(frozen=True)
class TableSpace:
  """The instructions of a table, cut into parts by its split column or by fractions."""

  table: Table
  dev_fraction: float = 0.1
  test_fraction: float = 0.2

  @property
  def description(self) -> str:
    """The instructions in words, for error messages."""
    return f'{self.table.path} with {len(self.table.text.ids)} instructions'

  @property
  def cuts(self) -> tuple[int, ...]:
    """The first index of each part, and the end of the last."""
    text = self.table.text
    if text.parts is not None:
      return (0, *np.cumsum(text.parts).tolist())
    n = len(text.ids)
    dev, test = round(n * self.dev_fraction), round(n * self.test_fraction)
    return 0, n - dev - test, n - test, n

  def capacity(self, part: Part = Part.TRAIN, setting: Any = None) -> int:
    """The number of instructions of a part."""
    del setting
    return self.cuts[part + 1] - self.cuts[part]

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """As `capacity`."""
    return self.capacity(part)

  def rule(self, seed, part: Part, i, setting: Any = None) -> Instruction:
    """Instruction i of a part.

    The seed determines the order and, without a split column, the parts.
    """
    del setting
    first, n = self.cuts[part], self.capacity(part)
    if self.table.text.parts is not None:
      key = keys.key(seed, Purpose.RULE_STRINGS, int(part))
      return Instruction(first + keys.permute(key, i, n))
    key = keys.key(seed, Purpose.RULE_STRINGS)
    return Instruction(keys.permute(key, first + i % n, len(self.table.text.ids)))

  def cell_rule(self, seed, part: Part, cell: str, i, instructions, setting=None):
    """Raise ValueError: there are no further cells."""
    raise ValueError(f'unknown cell {cell!r}; a table has none')

  def lend(self, rule: Instruction, other: Instruction) -> Instruction:
    """The other instruction, from one of whose rows the prompt is then taken."""
    del rule
    return other

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """Check on the rows themselves that the parts share no id and no prompt."""
    del setting
    text = self.table.text
    report: dict = {'rules_seed': seed, 'relation': RELATION, 'parts': {}}
    report['file'] = {'path': self.table.path, 'sha256': self.table.sha256}
    contents: dict[str, dict[str, set]] = {}
    for part in Part:
      count = min(self.capacity(part), instructions if part == Part.TRAIN else held_out)
      rules = jax.vmap(lambda i, part=part: self.rule(seed, part, i))(jnp.arange(count))
      ids = [text.ids[n] for n in np.asarray(rules.index)]
      prompts = set().union(*(text.shown[name] for name in ids))
      contents[NAMES[part]] = {'ids': set(ids), 'texts': prompts}
      report['parts'][NAMES[part]] = {
        'rules': count,
        'distinct_pairs': len(set(ids)),
        'texts': len(prompts),
        'capacity': self.capacity(part),
        'sha256': hashlib.sha256('\n'.join(ids).encode()).hexdigest(),
      }
    report['collisions'] = {
      f'{a}-{b}: {kind}': len(contents[a][kind] & contents[b][kind])
      for a, b in itertools.combinations(NAMES, 2)
      for kind in ('ids', 'texts')
    }
    return report
