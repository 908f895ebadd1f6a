"""Every setting of a run: its name, type, default and meaning.

A task class inherits its settings, so each field is declared once. Config files
choose a task with `base_config('cipher')`; a class outside the package is named as
`base_config('package.module:Class')` and declares its own fields. No jax here.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any


def _check_minimum(settings: Any, **minima: int) -> None:
  """Raise ValueError for a field of a task that is below its minimum."""
  for field, low in minima.items():
    value = getattr(settings, field)
    if value < low:
      raise ValueError(f'task.{field}={value} is below {low}; give {low} or more')


def _check_ranges(settings: Any, *names: str) -> None:
  """Raise ValueError where task.NAME_min is above task.NAME_max."""
  for name in names:
    low, high = getattr(settings, f'{name}_min'), getattr(settings, f'{name}_max')
    if low > high:
      raise ValueError(f'task.{name}_min={low} is above task.{name}_max={high}')


def _check_choices(settings: Any, **choices: tuple[str, ...]) -> None:
  """Raise ValueError for a field of a task that is none of its options."""
  for field, options in choices.items():
    value = getattr(settings, field)
    if value not in options:
      raise ValueError(f'task.{field}={value!r} is not one of {", ".join(options)}')


def _check_order(order: str) -> None:
  """Raise ValueError for a prompt order other than 'xyz' and 'zxy'."""
  if order not in ('xyz', 'zxy'):
    raise ValueError(f"task.order={order!r} is not one of 'xyz', 'zxy'")


@dataclasses.dataclass(frozen=True)
class RewriteSettings:
  """Basic and conditional rewriting."""

  name: str = 'rewrite'
  alphabet: int = 26  # letters in use
  x_min: int = 3  # shortest x, in letters
  x_max: int = 3  # longest x
  y_min: int = 3  # shortest y
  y_max: int = 3  # longest y
  input_length: int = 10  # letters of z, x included
  noops: bool = False  # whether inputs without x are made
  order: str = 'xyz'  # prompt order: 'xyz' (instruction first) or 'zxy'

  def __post_init__(self):
    _check_minimum(self, alphabet=2, x_min=1, y_min=0)
    _check_ranges(self, 'x', 'y')
    if self.x_max > self.input_length:
      raise ValueError(
        f'task.x_max={self.x_max} does not fit into task.input_length='
        f'{self.input_length}; make the input longer'
      )
    _check_order(self.order)


@dataclasses.dataclass(frozen=True)
class OccurrencesSettings(RewriteSettings):
  """Rewriting of inputs that hold x a given number of times."""

  name: str = 'occurrences'
  input_length: int = 30  # letters of z, every x included
  matches: int = 8  # tested on 1..matches occurrences of x
  train_matches: tuple[int, ...] = (1,)  # occurrences in training, in equal shares

  def __post_init__(self):
    super().__post_init__()
    _check_minimum(self, matches=1)
    if self.matches * self.x_max > self.input_length:
      raise ValueError(
        f'task.matches={self.matches} times task.x_max={self.x_max} letters do not '
        f'fit into task.input_length={self.input_length}; make the input longer'
      )
    counts = self.train_matches
    if not counts or len(set(counts)) < len(counts) or min(counts) < 1:
      raise ValueError(
        f'task.train_matches={counts} is not a list of different numbers from 1 on'
      )
    if max(counts) > self.matches:
      raise ValueError(
        f'task.train_matches has {max(counts)}, but task.matches={self.matches} is the '
        'most; raise task.matches'
      )


@dataclasses.dataclass(frozen=True)
class SemanticsSettings:
  """Rewriting with patterns of constrained form (repeat, periodic, mirror)."""

  name: str = 'semantics'
  alphabet: int = 26  # letters in use
  pattern_length: int = 12  # letters of x and of y
  input_length: int = 24  # letters of z, x included
  classes: str = 'repeat+periodic+mirror'  # trained on, joined by +
  k_min: int = 3  # trained on the divisors k of pattern_length from here
  k_max: int = 12  # to here; tested on k < 3
  order: str = 'xyz'  # prompt order: 'xyz' (instruction first) or 'zxy'

  def __post_init__(self):
    _check_minimum(self, alphabet=2, pattern_length=3, k_min=3)
    if self.pattern_length > self.input_length:
      raise ValueError(
        f'task.pattern_length={self.pattern_length} does not fit into '
        f'task.input_length={self.input_length}; make the input longer'
      )
    options, classes = ('repeat', 'periodic', 'mirror'), self.classes.split('+')
    if not set(classes) <= set(options) or len(set(classes)) < len(classes):
      raise ValueError(
        f'task.classes={self.classes!r} is not some of {", ".join(options)}, '
        'joined by +'
      )
    candidates = range(self.k_min, min(self.k_max, self.pattern_length) + 1)
    if all(self.pattern_length % k for k in candidates):
      raise ValueError(
        f'task.k_min={self.k_min} to task.k_max={self.k_max} holds no divisor of '
        f'task.pattern_length={self.pattern_length}; widen the range'
      )
    _check_order(self.order)


@dataclasses.dataclass(frozen=True)
class CipherSettings(RewriteSettings):
  """Rewriting whose inserted part is encrypted."""

  name: str = 'cipher'
  cipher: str = 'shift'  # 'shift' (Caesar) or 'table' (random substitutions)
  scope: str = 'inserted'  # 'inserted' (y alone) or 'output' (all, where x occurs)
  shifts: tuple[int, ...] = ()  # shifts in use, of 1..alphabet-1; empty: all

  def __post_init__(self):
    super().__post_init__()
    _check_choices(self, cipher=('shift', 'table'), scope=('inserted', 'output'))
    shifts, largest = self.shifts, self.alphabet - 1
    if len(set(shifts)) < len(shifts) or not all(1 <= n <= largest for n in shifts):
      raise ValueError(
        f'task.shifts={shifts} is not a list of different numbers in 1..{largest}'
      )


@dataclasses.dataclass(frozen=True)
class AlgebraSettings:
  """Rewriting of expression trees by equations between templates."""

  name: str = 'algebra'
  source: str = 'random'  # rules: 'random' templates or true 'identities'
  functions: int = 2  # most functions in a random template
  slots: int = 2  # different slots of a random template: 1 or 2
  depth: int = 2  # operators above each leaf of the input's tree
  slot_min: int = 1  # least depth of the trees in the slots, in training
  slot_max: int = 1  # greatest depth in training
  slot_test: int = 2  # depth in the split 'deeper'
  slot_shape: str = 'chain'  # trees in slots: 'chain' or 'full'
  specialist: int = 0  # rules i < specialist are in-domain; 0: all are
  diverse_share: float = 0.5  # of the examples, to the rules i >= specialist


@dataclasses.dataclass(frozen=True)
class MarkovSettings:
  """Running Markov algorithms."""

  name: str = 'markov'
  alphabet: int = 6  # letters in use
  rules: int = 3  # rules of a program
  lhs_min: int = 1  # shortest left-hand side, in letters
  lhs_max: int = 2  # longest left-hand side
  rhs_min: int = 0  # shortest right-hand side; 0: deletions too
  rhs_max: int = 2  # longest right-hand side
  stop_share: float = 0.15  # share of the rules that end the run
  input_min: int = 4  # shortest input
  input_max: int = 8  # longest input
  plants: int = 5  # left-hand sides put into an input: 0 to this many
  text_length: int = 12  # longest string of a run
  steps: int = 12  # T: most rewrites of a run
  answer: str = 'final'  # 'step', 'final' or 'trace'
  held_out: str = 'rules'  # 'rules': rules are new too; 'programs': only programs

  def __post_init__(self):
    _check_minimum(self, alphabet=2, rules=1, lhs_min=1, rhs_min=0, input_min=1)
    _check_minimum(self, plants=0, steps=1)
    _check_ranges(self, 'lhs', 'rhs', 'input')
    if self.rhs_max < 1:
      raise ValueError('task.rhs_max=0 leaves deletions only; give 1 or more')
    if not 0 <= self.stop_share <= 1:
      raise ValueError(f'task.stop_share={self.stop_share} is not a share in [0, 1]')
    longest = self.input_max + max(0, self.rhs_max - self.lhs_min)
    if self.text_length < longest:
      raise ValueError(
        f'task.text_length={self.text_length} does not hold an input after one step; '
        f'give {longest} or more'
      )
    _check_choices(
      self, answer=('step', 'final', 'trace'), held_out=('rules', 'programs')
    )


@dataclasses.dataclass(frozen=True)
class TableSettings:
  """The user's own examples, from a file of JSON lines or CSV."""

  name: str = 'table'
  path: str = ''  # the file, .jsonl or .csv
  sha256: str = ''  # of the file; filled in, so that a changed file is noticed
  instruction: str = 'instruction'  # column of the instruction's id
  prompt: str = 'prompt'  # column of what the model reads
  input: str = ''  # column of the input where the prompt states the instruction alone
  answer: str = 'answer'  # column of what the model must write
  split: str = 'split'  # column with train, dev or test; '': cut by rules.*_fraction
  prompt_max: int = 128  # most characters of a prompt
  input_max: int = 128  # most characters of an input
  answer_max: int = 64  # most characters of an answer
  characters: str = ''  # characters in use; empty: those of the file
  least_rows: int = 2  # fewest rows of an instruction that is trained on

  def __post_init__(self):
    _check_minimum(self, prompt_max=1, answer_max=1, least_rows=2)
    if len(set(self.characters)) < len(self.characters):
      raise ValueError(f'task.characters={self.characters!r} has a character twice')
    if self.path and not self.sha256:
      object.__setattr__(self, 'sha256', file_sha256(self.path))


def file_sha256(path: str) -> str:
  """The sha256 of a table's file; raises ValueError if it cannot be read."""
  try:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
  except OSError as e:
    raise ValueError(f'task.path={path} cannot be read: {e.strerror}') from None


TASKS = {
  cls().name: cls
  for cls in (
    RewriteSettings,
    OccurrencesSettings,
    SemanticsSettings,
    CipherSettings,
    AlgebraSettings,
    MarkovSettings,
    TableSettings,
  )
}


@dataclasses.dataclass(frozen=True)
class RulesConfig:
  """Which rules exist, and which of them training never sees."""

  distinct: str = 'xy'  # 'xy': no x and no y twice; 'pairs': no pair twice
  dev_fraction: float = 0.1  # strings set aside for tuning
  test_fraction: float = 0.2  # strings set aside for the reported test


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The fixed budget of examples."""

  examples: int = 38_400  # N = I x S, no-ops included
  epochs: float = 2.0  # passes over the N examples
  batch_size: int = 64  # sequences in one step
  alpha: float = 0.0  # 0: equal counts; else rule shares ~ power law (Fig. 3)
  balance: bool = False  # weight examples so that every rule counts equally


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A GPT-2-style decoder."""

  layers: int = 3
  width: int = 64
  heads: int = 4
  positions: str = 'learned'  # 'learned' (GPT-2) or 'rotary' (GPT-NeoX)
  rotary_base: float = 10_000.0  # wavelength base of rotary positions
  dropout: float = 0.0  # on embeddings and residual branches
  attention: str = 'plain'  # 'plain', or 'fused': jax.nn's (cuDNN in bf16 on a GPU)
  compute_dtype: str = 'float32'  # of matmuls; parameters are float32


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """The optimiser; 'muon' is Muon on the blocks' matrices and Adam elsewhere."""

  name: str = 'adamw'  # 'adamw' or 'muon'
  learning_rate: float = 1e-3  # peak
  muon_scale: float = 10.0  # Muon's rate as a multiple of learning_rate
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.01  # on matrices
  warmup: float = 0.01  # share of the steps
  schedule: str = 'linear'  # 'linear' (to zero) or 'constant'
  clip: float = 0.0  # global gradient norm; 0: no clipping


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """How much is evaluated, and when."""

  examples: int = 2_000  # of each split at the end
  cell_examples: int = 500  # of each further test cell at the end
  loop_examples: int = 256  # of dev and seen during training
  outputs: int = 200  # of each split decoded greedily at the end, for the anatomy
  loop_points: int = 8  # evaluations during training, log-spaced
  batch_size: int = 512


@dataclasses.dataclass(frozen=True)
class SweepConfig:
  """The members: variants x counts x no-op shares x rates x seeds, and references."""

  counts: tuple[int, ...] = (1_000,)  # numbers of instructions, I
  seeds: str = '1'  # '3': three of (rules, init, order) at once; '3x2': rules x rest
  noop_shares: tuple[float, ...] = (0.0,)  # no-op inputs / all training inputs
  learning_rates: tuple[float, ...] = ()  # empty: optim.learning_rate
  # Lists of settings such as 'task.alphabet=13,optim.name=adamw'; empty: a single
  # variant that changes nothing.
  variants: tuple[str, ...] = ()
  # of 'one', 'infinite_rules', 'infinite_inputs', 'masked', 'permuted'
  references: tuple[str, ...] = ()
  reference_count: int = 1_000  # I of the references that have one
  adaptive_width: float = 0.0  # decades of I_50's interval to reach; 0: not adaptive
  adaptive_counts: int = 4  # counts placed in one round
  adaptive_budget: int = 12  # most members added to the first round
  explored: tuple[str, ...] = ()  # 'round:count', filled in by an adaptive run
  reported: tuple[int, ...] = ()  # its final counts, filled in


@dataclasses.dataclass(frozen=True)
class StackConfig:
  """How members share a program; 0 and 'auto' are filled in per platform."""

  mode: str = 'auto'  # 'auto', 'map', 'vmap', 'serial' or 'measure'
  members: int = 0  # members in one stack
  member_devices: int = 0  # devices along the member axis
  data_devices: int = 0  # devices along the batch axis
  chunk: int = 0  # training steps in one dispatch
  micro_batches: int = 1  # parts of a batch computed in turn, to save memory


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When a stack of members is saved."""

  every: int = 400  # steps between saves
  keep: int = 2  # how many of the newest saves are kept


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """One run: everything that decides its numbers."""

  name: str = 'run'  # the config file's name
  size: str = 'cpu'
  figure: str = 'imin'  # what the report draws, one of FIGURES
  paper: str = ''  # the papers' result, in words, printed beside ours
  seed: int = 0  # added to every seed of the sweep
  task: Any = RewriteSettings()  # the settings of the task that `task.name` names
  rules: RulesConfig = RulesConfig()
  data: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  optim: OptimConfig = OptimConfig()
  eval: EvalConfig = EvalConfig()
  sweep: SweepConfig = SweepConfig()
  stack: StackConfig = StackConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()


REFERENCES = ('one', 'infinite_rules', 'infinite_inputs', 'masked', 'permuted')
FIGURES = (
  'imin', 'noop', 'longtail', 'occurrences', 'semantics', 'lengths', 'tradeoff',
  'alphabet', 'sensitivity', 'cipher', 'algebra', 'markov',
)  # fmt: skip
# Settings that a later call in the same workdir may change: they extend the run.
EXTENDABLE = ('sweep.counts', 'sweep.seeds', 'sweep.explored', 'sweep.reported')
