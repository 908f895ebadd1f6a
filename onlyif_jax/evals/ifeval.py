"""IFEval: whether answers follow instructions that a program can check.

Four numbers: a prompt counts where all its instructions are followed, an instruction
alone; strictly as answered, or loosely, also without the first or last line or
asterisks. The checkers are those of lm-evaluation-harness. What guesses a language is
random unless it is seeded, so it is.
"""

import hashlib
import json
import os
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
  """The rows of a file as published (input_data.jsonl); ConfigError names the line."""
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
      good = all(isinstance(row[name], kind) for name, kind in _FIELDS.items())
      good = good and len(row['kwargs']) == len(row['instruction_id_list']) > 0
    except (ValueError, KeyError, TypeError):
      good = False
    if not good:
      raise ConfigError(
        f'{path}: line {n} is no prompt of IFEval; each line has {", ".join(_FIELDS)}, '
        'as published'
      )
    rows.append(row)
  if not rows:
    raise ConfigError(f'{path} holds no prompts; give the file as published')
  return rows


def names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """What samples call the rows: their keys, numbered where two are the same."""
  keys = [str(row['key']) for row in rows]
  if len(set(keys)) == len(keys):
    return keys
  return [f'{key}#{n}' for n, key in enumerate(keys)]


def digest(rows: Sequence[Mapping[str, Any]]) -> str:
  """A hash of the prompts and instructions."""
  return hashlib.sha256(json.dumps(list(rows), sort_keys=True).encode()).hexdigest()


def judge(row: Mapping[str, Any], answer: str) -> dict[str, Any]:
  """One answer: for each of NUMBERS a bool, or one of every instruction."""
  return prepare().process_results(dict(row), [answer])


def numbers(judged: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """The four numbers of judged answers, in shares."""
  out = {}
  for name in NUMBERS:
    flags = [one[name] for one in judged]
    if name.startswith('inst'):
      flags = [flag for some in flags for flag in some]
    out[name] = sum(flags) / len(flags)
  return out


def prepare() -> Any:
  """lm_eval's module of the checkers, language detection seeded; or ConfigError."""
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
