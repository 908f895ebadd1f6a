"""Rows are written as the templates' authors write them; the loss is on responses."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import tokenizers
from rich.console import Console
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import preview, prompts
from onlyif_jax.corpora.batching import BatchSettings
from onlyif_jax.corpora.rows import Row, Turn
from onlyif_jax.corpora.tokenizer import load_tokenizer

DIRECTORY = Path(__file__).parent / 'data' / 'tokenizer'
TOKENIZER = load_tokenizer(DIRECTORY)
HF = AutoTokenizer.from_pretrained(DIRECTORY)

ASK, INPUT = 'Which number is odd?', '4, 9, 12'
ONE = Row('a', 0, (Turn('user', ASK), Turn('assistant', 'The 9.')))
WITH_INPUT = Row(
  'a', 1, (Turn('user', f'{ASK}\n\n{INPUT}', INPUT), Turn('assistant', '9'))
)
SYSTEM = Row('a', 2, (Turn('system', 'Be brief.'), *WITH_INPUT.turns))
MANY = Row(
  'a',
  3,
  (*ONE.turns, Turn('user', f'Why?\n\n{INPUT}', INPUT), Turn('assistant', 'By 2.')),
)

# Typed off the repositories: stanford_alpaca/train.py, magicoder/prompt_template.py,
# and the v3 form in Mistral's documentation of its chat templates.
ALPACA = (
  'Below is an instruction that describes a task. Write a response that appropriately '
  'completes the request.\n\n### Instruction:\n{i}\n\n### Response:'
)
ALPACA_INPUT = (
  'Below is an instruction that describes a task, paired with an input that provides '
  'further context. Write a response that appropriately completes the request.\n\n'
  '### Instruction:\n{i}\n\n### Input:\n{c}\n\n### Response:'
)
MAGICODER = """You are an exceptionally intelligent coding assistant that consistently delivers accurate and reliable responses to user instructions.

@@ Instruction
{i}

@@ Response
"""
BOTH = f'{ASK}\n\n{INPUT}'
# template -> for each row its texts, prompts and responses by turns
EXPECTED = {
  'alpaca': [
    [ALPACA.format(i=ASK), 'The 9.'],
    [ALPACA_INPUT.format(i=ASK, c=INPUT), '9'],
    [
      f'Be brief.\n\n### Instruction:\n{ASK}\n\n### Input:\n{INPUT}\n\n### Response:',
      '9',
    ],
    [
      ALPACA.format(i=ASK),
      'The 9.',
      f'\n\n### Instruction:\nWhy?\n\n### Input:\n{INPUT}\n\n### Response:',
      'By 2.',
    ],
  ],
  'magicoder': [
    [MAGICODER.format(i=ASK), 'The 9.'],
    [MAGICODER.format(i=BOTH), '9'],
    [f'Be brief.\n\n@@ Instruction\n{BOTH}\n\n@@ Response\n', '9'],
    [
      MAGICODER.format(i=ASK),
      'The 9.',
      f'\n\n@@ Instruction\nWhy?\n\n{INPUT}\n\n@@ Response\n',
      'By 2.',
    ],
  ],
  'mistral': [
    [f'[INST] {ASK}[/INST]', ' The 9.'],
    [f'[INST] {BOTH}[/INST]', ' 9'],
    [f'[INST] Be brief.\n\n{BOTH}[/INST]', ' 9'],
    [f'[INST] {ASK}[/INST]', ' The 9.', f'[INST] Why?\n\n{INPUT}[/INST]', ' By 2.'],
  ],
  'plain': [
    [ASK, 'The 9.'],
    [BOTH, '9'],
    [f'Be brief.\n\n{BOTH}', '9'],
    [ASK, 'The 9.', f'\n\nWhy?\n\n{INPUT}', 'By 2.'],
  ],
}
ROWS = [ONE, WITH_INPUT, SYSTEM, MANY]
CASES = [(name, n) for name in EXPECTED for n in range(len(ROWS))]


def ids_of(texts) -> tuple[list[int], list[bool]]:
  """Each text tokenised alone by transformers, with <s> before and </s> after."""
  ids, mask = [0], [False]
  for n, text in enumerate(texts):
    part = HF.encode(text, add_special_tokens=False) + [1] * (n % 2)
    ids, mask = ids + part, mask + [n % 2 == 1] * len(part)
  return ids, mask


@pytest.mark.parametrize(('name', 'n'), CASES)
def test_templates_write_what_their_authors_write(name, n):
  texts = EXPECTED[name][n]
  made = prompts.pieces(name, ROWS[n].turns)
  assert [piece.text for piece in made] == texts
  assert [piece.is_response for piece in made] == [
    k % 2 == 1 for k in range(len(texts))
  ]
  assert prompts.tokens(name, ROWS[n], TOKENIZER) == ids_of(texts)


@pytest.mark.parametrize('name', prompts.NAMES)
@pytest.mark.parametrize('row', ROWS, ids=lambda row: f'row{row.index}')
def test_a_question_is_what_stands_before_the_response(name, row):
  ids, mask = prompts.tokens(name, row, TOKENIZER)
  asked = prompts.question(name, row.turns[:-1], TOKENIZER)
  assert asked == ids[: len(asked)]
  rest = mask[len(asked) :]
  assert rest[0]
  assert sum(mask) > sum(rest) or row is not MANY
  assert sum(mask[: len(asked)]) == (sum(mask) - sum(rest))


def test_special_tokens_in_texts_are_text():
  row = Row('a', 0, (Turn('user', 'Say </s> [INST]'), Turn('assistant', '</s>[/INST]')))
  for name in ('alpaca', 'magicoder'):
    ids, mask = prompts.tokens(name, row, TOKENIZER)
    assert ids.count(1) == 1
    assert not {2, 3} & set(ids)
    said = [i for i, counted in zip(ids, mask, strict=True) if counted]
    assert TOKENIZER.decode(said) == '</s>[/INST]</s>'
  ids, _ = prompts.tokens('mistral', ONE, TOKENIZER)
  assert (ids.count(2), ids.count(3)) == (1, 1)


def decoded(row, tokenizer) -> tuple[str, list[str]]:
  """The whole text of a row in the chat template, and its parts in the loss."""
  ids, mask = tokenizer.chat(row.turns)
  parts, last = [], False
  for i, counted in zip(ids, mask, strict=True):
    if counted and not last:
      parts.append([])
    if counted:
      parts[-1].append(i)
    last = counted
  return tokenizer.decode(ids), [tokenizer.decode(part) for part in parts]


MANY_TEXT = (
  f'<s><|user|>\n{ASK}<|end|>\n<|assistant|>\nThe 9.<|end|>\n'
  f'<|user|>\nWhy?\n\n{INPUT}<|end|>\n<|assistant|>\nBy 2.<|end|>\n'
)


def changed(tmp_path, old: str, new: str):
  """The test tokenizer with another chat template."""
  shutil.copytree(DIRECTORY, tmp_path / 'it')
  path = tmp_path / 'it' / 'chat_template.jinja'
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))
  return load_tokenizer(tmp_path / 'it')


def test_generation_markers_are_the_mask():
  assert decoded(MANY, TOKENIZER) == (MANY_TEXT, ['The 9.<|end|>', 'By 2.<|end|>'])
  text = HF.apply_chat_template(
    [{'role': t.role, 'content': t.text} for t in MANY.turns], tokenize=False
  )
  assert text == MANY_TEXT


def test_without_markers_a_turn_is_what_it_adds(tmp_path):
  shutil.copytree(DIRECTORY, tmp_path / 'it')
  path = tmp_path / 'it' / 'chat_template.jinja'
  text = re.sub(r'{% (end)?generation %}', '', path.read_text())
  path.write_text(text)
  plain = load_tokenizer(tmp_path / 'it')
  assert decoded(MANY, plain) == (MANY_TEXT, ['The 9.<|end|>\n', 'By 2.<|end|>\n'])
  # A template that says the last turn differently does not tell where turns end.
  path.write_text(
    text.replace('<|assistant|>', "{{ '~' if loop.last }}<|assistant|>", 1)
  )
  with pytest.raises(ConfigError, match='renders turn 2 differently'):
    load_tokenizer(tmp_path / 'it').chat(MANY.turns)


def test_templates_that_hide_responses_are_refused(tmp_path):
  last = changed(
    tmp_path,
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}",
    "{% if loop.last %}{% generation %}{{ message['content'] }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}",
  )
  assert decoded(ONE, last)[1] == ['The 9.']
  with pytest.raises(ConfigError, match='marks 1 of 2 assistant turns'):
    last.chat(MANY.turns)


def test_templates_that_refuse_are_reported(tmp_path):
  refusing = changed(
    tmp_path,
    '{{ bos_token }}',
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('No system here') }}{% endif %}",
  )
  assert refusing.chat(ONE.turns)
  with pytest.raises(ConfigError, match='refuses a conversation: No system here'):
    refusing.chat(SYSTEM.turns)
  (tmp_path / 'it' / 'chat_template.jinja').unlink()
  with pytest.raises(ConfigError, match='has no chat template; choose'):
    load_tokenizer(tmp_path / 'it').chat(ONE.turns)


def sentence_pieces(directory) -> PreTrainedTokenizerFast:
  """A tokenizer of the Llama kind: a space before each text, unknown letters by byte."""
  bpe = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token='<unk>'))
  bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='first', split=False)
  bpe.decoder = decoders.Metaspace(prepend_scheme='first', split=False)
  names = ['<unk>', '<s>', '</s>', '[INST]', '[/INST]']
  bpe.train_from_iterator(
    [text.replace('\n', '') for texts in EXPECTED['alpaca'] for text in texts],
    trainers.BpeTrainer(
      vocab_size=293,
      special_tokens=[*names, *(f'<0x{n:02X}>' for n in range(256))],
      show_progress=False,
    ),
  )
  bpe.post_processor = processors.TemplateProcessing(
    single='<s> $A', special_tokens=[('<s>', 1)]
  )
  whole = PreTrainedTokenizerFast(
    tokenizer_object=bpe, bos_token='<s>', eos_token='</s>', unk_token='<unk>'
  )
  whole.save_pretrained(directory)
  return whole


def test_no_space_comes_in_where_pieces_meet(tmp_path):
  hf = sentence_pieces(tmp_path)
  own = load_tokenizer(tmp_path)
  assert own.encode('The') == own.encode(' The', continues=True)
  assert own.encode('The') != own.encode('The', continues=True)
  for texts, row in zip(EXPECTED['alpaca'], ROWS, strict=True):
    ids, _ = prompts.tokens('alpaca', row, own)
    whole = ''.join(t + '</s>' * (n % 2) for n, t in enumerate(texts))
    names = hf.convert_ids_to_tokens(ids)
    joined = ''.join(
      chr(int(t[3:5], 16)) if t.startswith('<0x') else t for t in names
    ).replace('▁', ' ')
    assert joined == '<s> ' + whole
  ids, _ = prompts.tokens('mistral', ONE, own)
  assert ids[:2] == [1, 3]
  assert own.encode(' The 9.', continues=True) == ids[ids.index(4) + 1 : -1]


def test_a_line_feed_that_melts_with_what_follows_is_refused(tmp_path):
  joined = models.BPE(
    {**{c: n for n, c in enumerate('▁ab\n')}, '\nb': 4, '</s>': 5}, [('\n', 'b')]
  )
  bpe = tokenizers.Tokenizer(joined)
  bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='first', split=False)
  whole = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token='</s>')
  whole.save_pretrained(tmp_path)
  own = load_tokenizer(tmp_path)
  assert own.encode('ab', continues=True) == [1, 2]
  with pytest.raises(ConfigError, match="joins a line feed with 'ba' behind it"):
    own.encode('ba', continues=True)


def test_the_facade():
  assert (TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.pad_id) == (0, 1, 1)
  assert TOKENIZER.size == 611
  text = 'Zürich: x\n\n  y\t“z”'
  assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
  assert TOKENIZER.encode(text) == HF.encode(text, add_special_tokens=False)


def test_a_tokenizer_without_begin_and_with_padding(tmp_path):
  bpe = tokenizers.Tokenizer.from_file(str(DIRECTORY / 'tokenizer.json'))
  bpe.post_processor = processors.ByteLevel()
  bpe.enable_truncation(3)
  bpe.enable_padding(length=5)
  kind = {'bos_token': '<s>', 'eos_token': '</s>', 'pad_token': '<|end|>'}
  PreTrainedTokenizerFast(tokenizer_object=bpe, **kind).save_pretrained(tmp_path)
  own = load_tokenizer(tmp_path)
  assert (own.bos_id, own.pad_id) == (None, 7)
  assert prompts.tokens('alpaca', ONE, own)[0] == ids_of(EXPECTED['alpaca'][0])[0][1:]


def test_missing_tokenizers_are_said_in_a_line(tmp_path, monkeypatch):
  def problem() -> str:
    with pytest.raises(ConfigError) as error:
      load_tokenizer(tmp_path)
    assert '\n' not in str(error.value)
    return str(error.value)

  assert 'holds no tokenizer (none of tokenizer.json' in problem()
  (tmp_path / 'tokenizer.json').write_text('{')
  assert 'cannot be loaded: ' in problem()
  shutil.copytree(DIRECTORY, tmp_path, dirs_exist_ok=True)
  path = tmp_path / 'tokenizer_config.json'
  path.write_text(path.read_text().replace('"eos_token": "</s>",', ''))
  assert 'has no eos_token' in problem()
  monkeypatch.setitem(sys.modules, 'transformers', None)
  assert "pip install 'onlyif_jax[llm]'" in problem()


def printed(rows, settings, **options) -> str:
  console = Console(width=61, record=True, **options)
  with console.capture() as capture:
    preview.show(rows, TOKENIZER, settings, console)
  return capture.get()


def test_preview_marks_what_the_loss_counts():
  settings = BatchSettings('mistral', length=29, batch_size=1)
  text = printed([MANY, SYSTEM], settings)
  assert f'<s>[INST] {ASK}[/INST][[ The 9.</s>]][INST] Why?' in text
  ids, mask = prompts.tokens('mistral', MANY, TOKENIZER)
  assert len(ids) > 29
  assert f'a, row 3: 29 tokens, {sum(mask[:29])} in the loss' in text
  assert 'a, row 2' in text
  long = Row('b', 5, (Turn('user', 'x y z ' * 17), Turn('assistant', 'a')))
  assert 'b, row 5: left out, no response within 29 tokens' in printed([long], settings)
  coloured = printed([ONE], settings, force_terminal=True, color_system='standard')
  assert '\x1b[32m The 9.</s>\x1b[0m' in coloured
  assert '[[' not in coloured


def test_unknown_templates_are_refused():
  with pytest.raises(ConfigError, match="template='vicuna' is not one of alpaca"):
    BatchSettings('vicuna', 5, 1)
