"""A pretrained model to talk to, from Python or a notebook.

from onlyif_jax import assistant

model = assistant.load('models/Mistral-7B-v0.3', adapter='out/adapter', quantize='int8')
print(model.ask('In mississippi replace iss by art.'))
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import prompts
from onlyif_jax.corpora.rows import Turn
from onlyif_jax.corpora.tokenizer import Tokenizer, load_tokenizer
from onlyif_jax.finetune import base as base_lib
from onlyif_jax.finetune import restore
from onlyif_jax.models import adapters, llama, pretrained
from onlyif_jax.models.generate import Sampling, generate
from onlyif_jax.models.lora import Parts
from onlyif_jax.tuning_settings import QUANTIZED


@dataclasses.dataclass(frozen=True)
class Assistant:
  """A model with its tokenizer and template."""

  parts: Parts
  tokenizer: Tokenizer
  template: str

  def ask(
    self,
    prompt: str | Sequence[Turn] | Sequence[str],
    *,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    batch_size: int = 8,
  ) -> Any:
    """The answer to a question or a conversation, or the answers to several questions.

    temperature 0 is greedy. stop: texts that end an answer and are cut off.
    """
    single = isinstance(prompt, str) or (
      len(prompt) > 0 and isinstance(prompt[0], Turn)
    )
    inputs: list[Any] = [prompt] if single else list(prompt)
    ids = []
    for item in inputs:
      turns = (Turn('user', item),) if isinstance(item, str) else item
      ids.append(prompts.question(self.template, turns, self.tokenizer))
    answers = [''] * len(ids)
    for generated in generate(
      self.parts.graphdef,
      self.parts.weights(),
      self.tokenizer,
      ids,
      max_new_tokens=max_tokens,
      batch_size=batch_size,
      sampling=Sampling(temperature, top_p),
      key=jax.random.key(seed) if temperature else None,
      stop_strings=stop,
    ):
      answers[generated.index] = generated.text.strip()
    return answers[0] if single else answers


def load(
  directory,
  adapter=None,
  *,
  row: str | None = None,
  quantize: str | None = None,
  dtype: str | None = None,
  template: str | None = None,
) -> Assistant:
  """The model of a Hugging Face directory, or of a row of a fine-tuning workdir.

  For a Hugging Face directory: adapter, a PEFT directory; quantize, 'int8' or 'nf4' for
  the weights of the layers; dtype of the weights, by default 'bfloat16'; template, by
  default 'alpaca'. A workdir determines all of these, and only needs `row`. Raises
  ConfigError.
  """
  path = Path(directory)
  if restore.is_tuning(path):
    overrides = {'quantize': quantize, 'dtype': dtype, 'template': template}
    for name, value in {'adapter': adapter, **overrides}.items():
      if value is not None:
        raise ConfigError(
          f'{name}={value}: {path} is a fine-tuning run, which says that itself; '
          'leave it out, or give a Hugging Face directory'
        )
    run, base, parts = restore.row(path, row)
    return Assistant(parts, base.tokenizer, run.tuning.tune.template)
  if row is not None:
    raise ConfigError(
      f'row={row}: {path} is not the workdir of a fine-tuning run; leave it out'
    )
  quantize, dtype = quantize or 'none', dtype or 'bfloat16'
  template = template or 'alpaca'
  prompts.check_template(template)
  if quantize not in QUANTIZED:
    raise ConfigError(f'quantize={quantize!r} is not one of {", ".join(QUANTIZED)}')
  config, params = pretrained.load(path, dtype=dtype)
  tokenizer = load_tokenizer(path)
  if adapter is None and quantize == 'none':
    # Nothing is trained, so the weights stay in their dtype.
    parts = Parts(llama.graphdef(config), None, params, {}, dtype)
  else:
    digest = base_lib.digest(path)
    parts = adapters.attach(config, params, adapter, quantize, digest)
  return Assistant(parts, tokenizer, template)
