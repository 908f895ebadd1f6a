"""The user's own examples: a table of instruction, prompt, answer and split.

A row is an example, an instruction is all rows of one id. I instructions are the first
I of a keyed permutation of the training ids; an example takes one of its instruction's
rows by its key. A fifth of the rows of each instruction, by the hash of their text, is
kept from training for the split `seen`. Text is read letter by letter.
"""

import dataclasses
import hashlib
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
  """An instruction's number in the file's order of parts."""

  index: jax.Array


@dataclasses.dataclass(frozen=True)
class Table(TableSettings):
  """Answer the prompts of a table."""

  noops: ClassVar[bool] = False

  @property
  def text(self) -> Text:
    """The file's content; raises ValueError naming file, line and remedy."""
    return table_file.read(self)

  @property
  def symbols(self) -> str:
    """The character of each letter."""
    return self.text.symbols

  @property
  def vocab_size(self) -> int:
    """Token ids in use."""
    return tokens.FIRST_LETTER + len(self.symbols)

  @property
  def answer_length(self) -> int:
    """The longest answer, end token included."""
    return self.text.longest['answer'] + 1

  @property
  def sequence_length(self) -> int:
    """The longest sequence: every piece is followed by one token."""
    return sum(n + 1 for n in self.text.longest.values())

  def static(self) -> 'Table':
    """The file decides every shape."""
    return self

  def setting(self, instructions: int) -> dict[str, np.ndarray]:
    """The table itself, so that the compiled program does not hold it.

    letters_C: all text; at_RF, length_RF: where each field of a row stands in it;
    first_I, trained_I, rows_I: an instruction's first row, the number of its rows
    that training has, and of all.
    """
    del instructions
    t = self.text
    return {
      'letters_C': t.letters_C,
      'at_RF': t.at_RF,
      'length_RF': t.length_RF,
      'first_I': t.first_I,
      'trained_I': t.trained_I,
      'rows_I': t.rows_I,
    }

  def mix(self, noop_share: float) -> tuple[tuple[int, float], ...]:
    """All training examples are of one kind."""
    return ()

  def kind(self, name: str, i_B):
    """'train': rows of training; 'kept': rows kept for `seen`; 'plain': all."""
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
    """A row of an instruction; `shown` lends the prompt of its own row."""
    s = setting or jax.tree.map(jnp.asarray, self.setting(0))
    bits = jax.random.bits(key)
    own = self._row(rule.index, bits, kind, s)
    lent = own if shown is None else self._row(shown.index, bits, kind, s)
    fields = self.text.fields  # prompt, perhaps input, answer
    pieces = [
      self._piece(s, lent if name == 'prompt' else own, f, name)
      for f, name in enumerate(fields)
    ]
    length = pieces[-1][1]
    inserted_A = jnp.arange(self.answer_length) < length
    return tokens.layout(
      pieces[:-1], pieces[-1], self.sequence_length, inserted_A=inserted_A, slices={}
    )

  def _row(self, index, bits, kind, s):
    """A row of an instruction: of those that the kind allows."""
    trained, every = s['trained_I'][index], s['rows_I'][index]
    low = jnp.where(kind == _KINDS['kept'], trained, 0)
    high = jnp.where(kind == _KINDS['train'], trained, every)
    place = (bits % (high - low).astype(jnp.uint32)).astype(jnp.int32)
    return s['first_I'][index] + low + place

  def _piece(self, s, row, f: int, name: str):
    """A field of a row as (letters, length)."""
    n = jnp.arange(max(1, self.text.longest[name]))
    at, length = s['at_RF'][row, f], s['length_RF'][row, f]
    letters_N = s['letters_C'][jnp.minimum(at + n, len(s['letters_C']) - 1)]
    return letters_N.astype(jnp.int32), length

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """Held-out instructions with all their rows, training ones with kept rows."""
    del cell_examples
    return [
      EvalSet('unseen', examples),
      EvalSet('dev', examples),
      EvalSet('seen', examples, kind='kept'),
      EvalSet('train', examples, kind='train'),
    ]

  def instruction_mask(self, example: tokens.Example):
    """The prompt; where the table has an input column, that stays."""
    first = jnp.cumsum((example.tokens_L == tokens.SEP).astype(jnp.int32), -1) == 0
    return first

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """A prompt's ids on the host -> its columns in letters."""
    return dict(zip(self.text.fields[:-1], tokens.split(prompt_N), strict=True))


@dataclasses.dataclass(frozen=True)
class TableSpace:
  """The instructions of a table, cut by its split column or else by fractions."""

  table: Table
  dev_fraction: float = 0.1
  test_fraction: float = 0.2

  @property
  def description(self) -> str:
    """The instructions in words."""
    return f'{self.table.path} with {len(self.table.text.ids)} instructions'

  @property
  def cuts(self) -> tuple[int, ...]:
    """Where each part begins, and the end."""
    text = self.table.text
    if text.parts is not None:
      return (0, *np.cumsum(text.parts).tolist())
    n = len(text.ids)
    dev, test = round(n * self.dev_fraction), round(n * self.test_fraction)
    return 0, n - dev - test, n - test, n

  def capacity(self, part: Part = Part.TRAIN, setting: Any = None) -> int:
    """Instructions of a part."""
    del setting
    return self.cuts[part + 1] - self.cuts[part]

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """There are no more than these."""
    return self.capacity(part)

  def rule(self, seed, part: Part, i, setting: Any = None) -> Instruction:
    """Instruction i of a part; the seed decides their order and, unless the table
    has a split column, the parts.
    """
    del setting
    first, n = self.cuts[part], self.capacity(part)
    if self.table.text.parts is not None:
      key = keys.key(seed, Purpose.RULE_STRINGS, int(part))
      return Instruction(first + keys.permute(key, i, n))
    key = keys.key(seed, Purpose.RULE_STRINGS)
    return Instruction(keys.permute(key, first + i % n, len(self.table.text.ids)))

  def cell_rule(self, seed, part: Part, cell: str, i, instructions, setting=None):
    """There are no further cells."""
    raise ValueError(f'unknown cell {cell!r}; a table has none')

  def lend(self, rule: Instruction, other: Instruction) -> Instruction:
    """The other instruction: the prompt is then of one of its rows."""
    del rule
    return other

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """The proof that parts share no id and no text, read from the rows themselves."""
    del setting
    text = self.table.text
    report: dict = {'rules_seed': seed, 'relation': RELATION, 'parts': {}}
    report['file'] = {'path': self.table.path, 'sha256': self.table.sha256}
    seen: dict[str, tuple[set, set]] = {}
    for part in Part:
      count = self.capacity(part)
      count = min(count, instructions if part == Part.TRAIN else held_out)
      made = jax.vmap(lambda i, part=part: self.rule(seed, part, i))(jnp.arange(count))
      ids = [text.ids[n] for n in np.asarray(made.index)]
      shown = set().union(*(text.shown[n] for n in ids)) if ids else set()
      seen[NAMES[part]] = set(ids), shown
      report['parts'][NAMES[part]] = {
        'rules': count,
        'distinct_pairs': len(set(ids)),
        'texts': len(shown),
        'capacity': self.capacity(part),
        'sha256': hashlib.sha256('\n'.join(ids).encode()).hexdigest(),
      }
    report['collisions'] = {
      f'{a}-{b}: {what}': len(seen[a][n] & seen[b][n])
      for a, b in (('train', 'dev'), ('train', 'test'), ('dev', 'test'))
      for n, what in enumerate(('ids', 'texts'))
    }
    return report
