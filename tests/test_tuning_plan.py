"""What mixtures of a config will be and need, before any file is there."""

import json
import re

import fake_tuned
import pytest
from published_configs import PUBLISHED

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.mixture_settings import of_thousands
from onlyif_jax.corpora.rows import Row, Turn
from onlyif_jax.corpora.tokenizer import load_tokenizer
from onlyif_jax.finetune import base, predict, tuning_config
from onlyif_jax.models import pretrained_config, published


def test_dry_run_prints_the_counts_of_every_row_without_files(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  tuning = fake_tuned.config('code_codeqwen')
  found = predict.show(tuning)
  out = capsys.readouterr().out
  for cells in ('20,000 +0 +0 +20,000', '18,000 +1,000 +1,000 +20,000'):
    assert re.search(cells, out), cells
  assert 'models/CodeQwen1.5-7B (not there; as published), 7,250,284,544' in out
  assert 'data/alpaca_data.json' in out
  rows = len(tuning.mixture.rows) * tuning.seeds
  assert f'at most {rows * 20_000 * 3 * 768:,}' in out
  assert 6e9 < found.frozen < 9e9
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', PUBLISHED)
def test_known_configs_are_the_published_ones(name):
  known = pretrained_config.parse(published.CONFIGS[name])
  assert known == pretrained_config.parse(PUBLISHED[name][0])


def test_a_directory_that_is_there_is_read_itself(tmp_path):
  directory = tmp_path / 'CodeQwen1.5-7B'
  directory.mkdir()
  tuning = fake_tuned.config('code_codeqwen', f'7b,base={directory}')
  with pytest.raises(ConfigError, match=r'config\.json cannot be read'):
    predict.decoder(tuning)
  (directory / 'config.json').write_text(json.dumps(PUBLISHED['Llama-2-7b-hf'][0]))
  assert predict.decoder(tuning).vocab_size == 32_000
  other = fake_tuned.config('code_codeqwen', f'7b,base={tmp_path}/mine')
  with pytest.raises(ConfigError, match=r'mine/config\.json cannot be read'):
    predict.decoder(other)


@pytest.mark.parametrize(
  ('key', 'thousand', 'row'),
  [
    ('18/2/0', 1_000, 'a=18000,b=2000'),
    ('67.5/3.25/3.25', 1_000, 'a=67500,b=3250,c=3250'),
    ('67.5/3.25/3.25', 2, 'a=135,b=7,c=6'),  # 6.5 each; the first of equals gets more
    ('0/0.5/0', 2, 'b=1'),
  ],
)
def test_thousands_become_rows(key, thousand, row):
  assert of_thousands('abc', key, thousand) == row


def test_thousand_is_at_least_one():
  c = tuning_config.mixture_config()
  c.mixture.sources, c.mixture.rows = ('a=x.jsonl',), ('a=7',)
  tuning_config.freeze(c)
  c.thousand = 0
  with pytest.raises(ConfigError, match='thousand=0 is below 1'):
    tuning_config.freeze(c)


def test_a_line_end_is_a_token_of_its_own(tmp_path):
  """So an answer that is begun up to a line's end goes on as in training."""
  c = tuning_config.mixture_config()
  c.mixture.sources, c.mixture.rows = ('a=x.jsonl',), ('a=7',)
  c.scratch.update(layers=1, width=8, heads=2, kv_heads=1, hidden=8, vocabulary=290)
  c.tune.template = 'magicoder'
  text = 'def f(n):\n    """One."""\n    return n\n'
  rows = [Row('a', n, (Turn('user', 'f'), Turn('assistant', text))) for n in range(5)]
  base.make(tuning_config.freeze(c), rows, tmp_path / 'base')
  tokenizer = load_tokenizer(tmp_path / 'base')
  begun, rest = 'def f(n):\n    """One."""\n', '    return n\n'
  whole = tokenizer.encode(begun + rest)
  assert whole == tokenizer.encode(begun) + tokenizer.encode(rest, continues=True)
  assert len(whole) < len(text)  # pairs were merged
  template = 'You are an exceptionally intelligent coding assistant'
  assert len(tokenizer.encode(template)) < len(template)  # the template's, too
