"""IFEval: whether answers follow instructions that a program can check.

Four numbers: the share of prompts with all instructions followed and the share of
instructions followed, each strict (the answer as it is) or loose (also without its
first or last line or asterisks). The checkers are those of lm-evaluation-harness; the
detection of languages among them is random unless seeded, so it is seeded.
"""

import hashlib
import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onlyif_jax.config import ConfigError

NUMBERS = (
  'prompt_level_strict_acc',
  'inst_level_strict_acc',
  'prompt_level_loose_acc',
  'inst_level_loose_acc',
)
_FIELDS = {'key': int, 'prompt': str, 'instruction_id_list': list, 'kwargs': list}
SEED = 0


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows of input_data.jsonl as published; ConfigError names a malformed line."""
  try:
    text = Path(path).read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as e:
    reason = getattr(e, 'strerror', None) or 'no UTF-8'
    raise ConfigError(f'{path} cannot be read ({reason}); name another file') from None
  rows = []
  for n, line in enumerate(text.split('\n'), start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError:
      row = None
    if malformed := _malformed(row):
      raise ConfigError(
        f'{path}: line {n} is no prompt of IFEval ({malformed}); each line has '
        f'{", ".join(_FIELDS)}, as published'
      )
    rows.append(row)
  if not rows:
    raise ConfigError(f'{path} holds no prompts; give the file as published')
  return rows


def _malformed(row: Any) -> str:
  """What is wrong with a row; '' if nothing."""
  if not isinstance(row, dict):
    return 'no JSON object'
  for name, kind in _FIELDS.items():
    if name not in row:
      return f'it lacks {name!r}'
    if not isinstance(row[name], kind):
      return f'{name!r} is no {kind.__name__}'
  if not row['instruction_id_list']:
    return "'instruction_id_list' is empty"
  if len(row['kwargs']) != len(row['instruction_id_list']):
    return "'kwargs' is not as long as 'instruction_id_list'"
  return ''


def check(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
  """Raises ConfigError where the checkers cannot read a row's instructions.

  Judging an empty answer reads the instructions but checks nothing.
  """
  state = random.getstate()  # what kwargs lack is drawn at random, also when scoring
  for row in rows:
    try:
      judge(row, '')
    except ConfigError:
      raise
    except Exception as e:  # the checkers raise what the values happen to raise
      reason = ': '.join([type(e).__name__, *str(e).splitlines()[:1]])
      raise ConfigError(
        f"{path}: 'instruction_id_list' or 'kwargs' of key {row['key']} cannot be "
        f'checked ({reason}); give the file as published'
      ) from e
  random.setstate(state)


def names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """The task_ids of the rows: their keys, numbered where two are the same."""
  keys = [str(row['key']) for row in rows]
  if len(set(keys)) == len(keys):
    return keys
  return [f'{key}#{n}' for n, key in enumerate(keys)]


def digest(rows: Sequence[Mapping[str, Any]]) -> str:
  """The hash of the prompts and instructions."""
  return hashlib.sha256(json.dumps(list(rows), sort_keys=True).encode()).hexdigest()


def judge(row: Mapping[str, Any], answer: str) -> dict[str, Any]:
  """Judges an answer: for each of NUMBERS a bool, or a list with one an instruction."""
  return prepare().process_results(dict(row), [answer])


def prepare() -> Any:
  """lm_eval's module of checkers, with seeded language detection; else ConfigError."""
  try:
    import langdetect  # pyright: ignore[reportMissingImports]
    import nltk  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise ConfigError(
      f"IFEval needs {e.name}: pip install 'onlyif_jax[eval]'"
    ) from None
  try:
    nltk.data.find('tokenizers/punkt_tab')
  except LookupError:
    raise ConfigError(
      "IFEval needs nltk's punkt_tab: python -m nltk.downloader punkt_tab, or name the "
      'folder that holds it in NLTK_DATA'
    ) from None
  langdetect.DetectorFactory.seed = SEED
  try:
    from lm_eval.tasks.ifeval import utils  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise ConfigError(
      f"IFEval needs {e.name}: pip install 'onlyif_jax[eval]'"
    ) from None
  return utils
