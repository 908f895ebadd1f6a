"""Declarations of the settings of fine-tuning: every field, its default, its meaning.

A run fine-tunes one pretrained model per row: on examples of a symbolic task written
as instructions (`SymbolicTuning`), or on mixtures of instruction data sets
(`MixtureTuning`). `tuning_config` turns these into a ConfigDict and back.
"""

import dataclasses
from typing import Any

from onlyif_jax import config as config_lib
from onlyif_jax.settings import CipherSettings, OptimConfig, RulesConfig

QUANTIZED = ('none', 'int8', 'nf4')
_OPTIM = OptimConfig(learning_rate=1e-5)
_TASK, _RULES = CipherSettings(), RulesConfig()
LINEAR = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')


@dataclasses.dataclass(frozen=True)
class BaseConfig:
  """The pretrained model."""

  # A Hugging Face directory with weights and tokenizer; '': a small decoder that is
  # trained on the spot (section `scratch`), for the size `tiny`.
  directory: str = ''
  dtype: str = 'bfloat16'  # of the stored base weights: 'bfloat16' or 'float32'
  compute_dtype: str = 'bfloat16'  # of matmuls
  quantize: str = 'none'  # frozen weights of the layers: 'none', 'int8' or 'nf4'
  remat: bool = True  # recompute each layer in the backward pass


@dataclasses.dataclass(frozen=True)
class ScratchConfig:
  """The small decoder that stands for a pretrained one where there is none."""

  layers: int = 3
  width: int = 64
  heads: int = 2
  kv_heads: int = 1
  hidden: int = 192
  vocabulary: int = 257  # ids of its tokenizer: bytes, an end, and merged pairs
  steps: int = 0  # of training before it counts as pretrained
  examples: int = 10_000  # that it is trained on, of a symbolic task
  instructions: int = 5_000  # of these: rules
  # The task of these: one whose rules are of the same kind, with the settings that
  # both have; '': the run's own.
  task: str = ''
  prompt: str = ''  # of these; '': instructions.prompt
  learning_rate: float = 1e-3
  batch_size: int = 32


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adapters; rank 0 trains all weights instead."""

  rank: int = 0
  alpha: float = 16.0  # an adapter's output is scaled by alpha / rank
  dropout: float = 0.0  # on what goes into the adapters
  targets: tuple[str, ...] = LINEAR  # names of the linear layers that get one
  tile: int = 64  # nf4: weights that share a scale


@dataclasses.dataclass(frozen=True)
class TuneConfig:
  """How a row is trained."""

  epochs: int = 3
  batch_size: int = 4  # packed rows of text in one step
  micro_batches: int = 1  # parts of a batch computed in turn, to need less memory
  length: int = 768  # tokens of a row of a batch
  packing: str = 'first_fit'  # 'first_fit', or 'none': one example a row
  template: str = 'alpaca'  # 'alpaca', 'magicoder', 'mistral', 'plain' or 'chat'
  save_every: int = 500  # steps between checkpoints
  log_every: int = 10  # steps between rows of metrics.jsonl


@dataclasses.dataclass(frozen=True)
class DevicesConfig:
  """The mesh: batch shards, and the two ways of splitting the weights."""

  data: int = 1  # copies of the model, each with its part of the batch
  fsdp: int = 1  # parts of every weight, gathered when used; these split the batch too
  tensor: int = 1  # parts of every layer's columns or rows


@dataclasses.dataclass(frozen=True)
class AnswerConfig:
  """How answers are generated and how many."""

  examples: int = 1_000  # of each split at the end
  shown: int = 20  # wrong answers kept for the report
  max_tokens: int = 64  # of an answer
  batch_size: int = 32
  zero_shot: bool = True  # also ask the model before any fine-tuning
  # Of a symbolic task: ask it once more, with so many solved examples of training
  # rules before each prompt; 0: do not.
  shots: int = 0


@dataclasses.dataclass(frozen=True)
class _Tuning:
  """What both kinds of run have."""

  name: str = 'tuning'
  size: str = 'tiny'
  figure: str = 'tuning'
  paper: str = ''  # the papers' result, in words, printed beside ours
  seed: int = 0  # added to every seed
  base: BaseConfig = BaseConfig()
  scratch: ScratchConfig = ScratchConfig()
  lora: LoraConfig = LoraConfig()
  tune: TuneConfig = TuneConfig()
  optim: OptimConfig = _OPTIM
  devices: DevicesConfig = DevicesConfig()
  answers: AnswerConfig = AnswerConfig()


@dataclasses.dataclass(frozen=True)
class InstructionConfig:
  """A symbolic task's examples as instructions."""

  examples: int = 40_000  # N, no-ops included
  noop_share: float = 0.4
  counts: tuple[int, ...] = (1_000,)  # numbers of rules, one row each
  # Each a list of settings of the task such as 'task.depth=4,task.slots=1', crossed
  # with counts and seeds; 'instructions.counts=20|40' gives one counts of its own.
  # Empty: one variant that changes nothing.
  variants: tuple[str, ...] = ()
  # 'all', or of the largest count's examples one half: 'half' of each rule's, or
  # 'skewed:ALPHA' by a power law over the rules.
  subsets: tuple[str, ...] = ('all',)
  seeds: int = 1
  # {lhs}, {rhs}, {input} and the task's other fields stand for an example's.
  prompt: str = 'In {input} replace {lhs} by {rhs}.'


@dataclasses.dataclass(frozen=True)
class SymbolicTuning(_Tuning):
  """Fine-tuning on a symbolic task."""

  task: Any = _TASK
  rules: RulesConfig = _RULES
  instructions: InstructionConfig = InstructionConfig()


def parse_variant(task: Any, text: str) -> dict[str, Any]:
  """Parse one of instructions.variants into field -> value; raises ConfigError.

  task: the settings, or their class, whose fields a variant may change.
  """
  kinds = {f'task.{f.name}': f.type for f in dataclasses.fields(task)}
  kinds.pop('task.name', None)
  kinds['instructions.counts'] = tuple[int, ...]
  return config_lib.parse_settings(text, kinds, 'instructions.variants', ('task',))


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
  """The benchmarks that each fine-tuned model is run on; see onlyif_jax.benchmarks."""

  names: tuple[str, ...] = ()  # of the protocol; empty: none
  protocol: str = 'papers-code'
  data: str = ''  # the directory of their files; '': where the libraries keep them
  workers: int = 2  # programs judged at the same time
  allow_network: bool = False  # where this machine cannot keep programs off it


@dataclasses.dataclass(frozen=True)
class MixtureTuning(_Tuning):
  """Fine-tuning on mixtures of instruction data."""

  mixture: Any = None  # corpora.mixture_settings.MixtureSettings
  seeds: int = 1
  benchmarks: BenchmarkConfig = BenchmarkConfig()
  thousand: int = 1_000  # rows that stand for a thousand of the papers' tables
