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

  bos_id starts every sequence, None where this tokenizer starts them without. eos_id
  ends a response. pad_id fills; where the tokenizer has none it is eos_id, so nothing
  may be concluded from the id.
  """

  directory: str
  size: int  # ids are below it
  eos_id: int
  bos_id: int | None
  pad_id: int
  _hf: Any = dataclasses.field(repr=False, compare=False)
  _markers: Any = dataclasses.field(repr=False, compare=False)  # special tokens are
  _literal: Any = dataclasses.field(repr=False, compare=False)  # special, or text
  _prefixes: bool = False  # whether encode puts a space before a text

  def encode(
    self, text: str, *, continues: bool = False, markers: bool = False
  ) -> list[int]:
    """The ids of a text, without special tokens around it.

    continues: the text follows other text, so tokenizers of the SentencePiece kind
    must not put a space before it. markers: whether the names of special tokens in
    the text ('[INST]') mean these tokens; by default they are letters as any other.
    Raises ConfigError where a text that continues another has no ids of its own.
    """
    encoder = self._markers if markers else self._literal
    if not (continues and self._prefixes):
      return encoder.encode(text, add_special_tokens=False).ids
    # The text behind a line feed, which melts with nothing in vocabularies of this
    # kind: they know it as a byte.
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
    says so itself; otherwise it is what each assistant turn adds to the text before
    it. Raises ConfigError where the tokenizer has no template, where the template
    refuses the turns, or where it does not tell which text is a response.
    """
    messages = _messages(turns)
    try:
      template = self._hf.get_chat_template()
    except ValueError:
      raise ConfigError(
        f'{self.directory} has no chat template; choose the template alpaca, '
        'magicoder or mistral'
      ) from None
    wanted = sum(t.role == 'assistant' for t in turns)
    if not _GENERATION.search(template):
      return self._by_prefixes(messages)
    out = self._render(
      messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = list(out['input_ids']), [bool(m) for m in out['assistant_masks']]
    starts = sum(
      m and not before for m, before in zip(mask, [False, *mask], strict=False)
    )
    if starts != wanted:
      raise ConfigError(
        f'{self.directory}: the chat template marks {starts} of {wanted} assistant '
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
    except Exception as e:  # a template may raise what it likes (jinja2)
      reason = str(e).splitlines()[0] if str(e) else type(e).__name__
      raise ConfigError(
        f'{self.directory}: the chat template refuses a conversation: {reason}'
      ) from None


def _messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
  return [{'role': t.role, 'content': t.text} for t in turns]


def load_tokenizer(directory) -> Tokenizer:
  """The tokenizer of a Hugging Face directory, read from the disk alone.

  Raises ConfigError where transformers or the files are missing, or where there is
  no end-of-text token.
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
  except Exception as e:  # whatever a broken file makes of a dozen loaders
    reason = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise ConfigError(f'the tokenizer in {path} cannot be loaded: {reason}') from None
  if hf.eos_token_id is None:
    raise ConfigError(
      f'the tokenizer in {path} has no eos_token; name one in tokenizer_config.json'
    )
  markers, literal = (tokenizers.Tokenizer.from_str(backend) for _ in range(2))
  literal.encode_special_tokens = True
  for own in (markers, literal):  # a published file may ask for either
    own.no_truncation()
    own.no_padding()
  one, two = (literal.encode(s, add_special_tokens=False).ids for s in ('a', '\na'))
  feed = literal.encode('\n', add_special_tokens=False).ids
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
    _prefixes=two[len(feed) :] != one,
  )
