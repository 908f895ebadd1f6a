"""A Hugging Face tokenizer behind a small facade; works without torch.

transformers (extra `llm`) is imported when a tokenizer is loaded.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.rows import Turn

_GENERATION = re.compile(r'{%-?\s*generation\s*-?%}')
_FILES = ('tokenizer.json', 'tokenizer.model', 'tokenizer_config.json', 'vocab.json')


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Text to token ids and back; made by `load_tokenizer`.

  bos_id starts every sequence, None if this tokenizer uses none. eos_id ends a
  response. pad_id fills lines; without one of its own it is eos_id, so the id alone
  does not tell padding.
  """

  directory: str
  size: int  # ids are below it
  eos_id: int
  bos_id: int | None
  pad_id: int
  _hf: Any = dataclasses.field(repr=False, compare=False)
  # Two encoders: names of special tokens in a text are these tokens, or plain text.
  _markers: Any = dataclasses.field(repr=False, compare=False)
  _literal: Any = dataclasses.field(repr=False, compare=False)
  _prefixes: bool = False  # whether encode puts a space before a text

  def encode(
    self, text: str, *, continues: bool = False, markers: bool = False
  ) -> list[int]:
    """The ids of a text, without special tokens around it.

    continues: the text follows other text, so tokenizers of the SentencePiece kind
    must not put a space before it. markers: whether names of special tokens in the
    text ('[INST]') are these tokens; by default they are plain text. Raises ConfigError
    if a text that continues another has no ids of its own.
    """
    encoder = self._markers if markers else self._literal
    if not (continues and self._prefixes):
      return encoder.encode(text, add_special_tokens=False).ids
    # Encode the text after a line feed: vocabularies of this kind have it as a byte,
    # which merges with nothing.
    ids = encoder.encode('\n' + text, add_special_tokens=False).ids
    feed = encoder.encode('\n', add_special_tokens=False).ids
    if ids[: len(feed)] != feed:
      raise ConfigError(
        f'{self.directory}: this tokenizer joins a line feed with {text[:9]!r} behind '
        'it, so the ids of a text that continues another are not known; use a model '
        'whose tokenizer keeps them apart'
      )
    return ids[len(feed) :]

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids, special tokens by name."""
    return self._markers.decode(list(ids), skip_special_tokens=False)

  def chat(self, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
    """(ids, mask) of turns in the tokenizer's own chat template.

    The mask is true on what the assistant says. A template with generation markers
    marks that itself; otherwise it is what each assistant turn adds to the text before
    it. Raises ConfigError if the tokenizer has no template, if the template refuses the
    turns, or if it is not known which text is a response.
    """
    messages = _messages(turns)
    try:
      template = self._hf.get_chat_template()
    except ValueError:
      raise ConfigError(
        f'{self.directory} has no chat template; choose the template alpaca, '
        'magicoder or mistral'
      ) from None
    responses = sum(t.role == 'assistant' for t in turns)
    if not _GENERATION.search(template):
      return self._by_prefixes(messages)
    rendered = self._render(
      messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids = list(rendered['input_ids'])
    mask = [bool(m) for m in rendered['assistant_masks']]
    starts = sum(
      m and not before for m, before in zip(mask, [False, *mask], strict=False)
    )
    if starts != responses:
      raise ConfigError(
        f'{self.directory}: the chat template marks {starts} of {responses} assistant '
        'turns with {% generation %}; mend it, or choose another template'
      )
    return ids, mask

  def ask(self, turns: Sequence[Turn]) -> list[int]:
    """The ids that ask the assistant to answer turns, in the chat template."""
    options = {'tokenize': False, 'add_generation_prompt': True}
    text = self._render(_messages(turns), **options)
    return self.encode(text, markers=True)

  def _by_prefixes(self, messages) -> tuple[list[int], list[bool]]:
    """The rendered text in pieces, each tokenised alone."""
    whole = self._render(messages, tokenize=False)
    cuts = [0]
    for n, message in enumerate(messages):
      if message['role'] == 'assistant':
        asked = self._render(messages[:n], tokenize=False, add_generation_prompt=True)
        answered = self._render(messages[: n + 1], tokenize=False)
        if not (whole.startswith(answered) and answered.startswith(asked)):
          raise ConfigError(
            f'{self.directory}: its chat template renders turn {n + 1} differently '
            'alone and in a conversation, so the loss mask is not known; give it '
            '{% generation %} markers, or choose another template'
          )
        cuts += [len(asked), len(answered)]
    ids: list[int] = []
    mask: list[bool] = []
    for n, (start, end) in enumerate(zip(cuts, [*cuts[1:], len(whole)], strict=True)):
      piece = self.encode(whole[start:end], continues=n > 0, markers=True)
      ids += piece
      mask += [n % 2 == 1] * len(piece)
    return ids, mask

  def _render(self, messages, **options):
    try:
      return self._hf.apply_chat_template(messages, **options)
    except Exception as e:  # a jinja2 template may raise anything
      reason = str(e).splitlines()[0] if str(e) else type(e).__name__
      raise ConfigError(
        f'{self.directory}: the chat template refuses a conversation: {reason}'
      ) from None


def _messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
  return [{'role': t.role, 'content': t.text} for t in turns]


def load_tokenizer(directory) -> Tokenizer:
  """The tokenizer of a Hugging Face directory, read from disk alone.

  Raises ConfigError if transformers, the files or an end-of-text token are missing.
  """
  path = Path(directory)
  if not any((path / name).exists() for name in _FILES):
    raise ConfigError(
      f'{path} holds no tokenizer (none of {", ".join(_FILES)}); copy the tokenizer '
      'files of the model there'
    )
  try:
    import tokenizers
    from transformers import AutoTokenizer
  except ImportError:
    raise ConfigError(
      "a tokenizer needs transformers: pip install 'onlyif_jax[llm]'"
    ) from None
  try:
    hf = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    backend = hf.backend_tokenizer.to_str()
  except Exception as e:  # a broken file makes the loaders raise all kinds
    reason = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise ConfigError(f'the tokenizer in {path} cannot be loaded: {reason}') from None
  if hf.eos_token_id is None:
    raise ConfigError(
      f'the tokenizer in {path} has no eos_token; name one in tokenizer_config.json'
    )
  markers, literal = (tokenizers.Tokenizer.from_str(backend) for _ in range(2))
  literal.encode_special_tokens = True
  for encoder in (markers, literal):  # a published file may ask for either
    encoder.no_truncation()
    encoder.no_padding()
  alone, after_feed, feed = (
    literal.encode(text, add_special_tokens=False).ids for text in ('a', '\na', '\n')
  )
  starts = hf('a')['input_ids'][:1] == [hf.bos_token_id]
  return Tokenizer(
    directory=str(path),
    size=len(hf),
    eos_id=hf.eos_token_id,
    bos_id=hf.bos_token_id if starts else None,
    pad_id=hf.eos_token_id if hf.pad_token_id is None else hf.pad_token_id,
    _hf=hf,
    _markers=markers,
    _literal=literal,
    _prefixes=after_feed[len(feed) :] != alone,
  )
