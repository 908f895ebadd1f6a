"""What benchmarks cannot be run with is named in one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_benchmarks import Checker, model, prompts_of_ifeval, settings
from test_code import DATA

from onlyif_jax import benchmarking
from onlyif_jax.benchmarking import Settings
from onlyif_jax.config import ConfigError
from onlyif_jax.evals import harness, ifeval, problems, sandbox, text_scores

ROOT = Path(__file__).resolve().parents[1]


def refused(tmp_path, *benchmarks, **more):
  with pytest.raises(ConfigError) as caught:
    benchmarking.run(settings(tmp_path / 'out', *benchmarks, **more))
  assert not (tmp_path / 'out').exists()
  assert '\n' not in str(caught.value)
  return str(caught.value)


def test_what_cannot_be_had_is_named_before_the_model_is_read(monkeypatch, tmp_path):
  monkeypatch.setattr(benchmarking, 'load', None)
  monkeypatch.setattr(ifeval, 'prepare', Checker)
  monkeypatch.setattr(text_scores, 'prepare', dict)
  monkeypatch.delenv(problems.VARIABLES['mbpp'], raising=False)
  assert "no benchmark 'nothing'" in refused(tmp_path, 'nothing')
  assert "'best' is not known" in refused(tmp_path, 'mbpp', protocol='best')
  assert 'no directory' in refused(tmp_path, 'mbpp', data=tmp_path / 'none')
  assert 'MBPP_OVERRIDE_PATH' in refused(tmp_path, 'mbpp', data=None)
  empty = tmp_path / 'empty'
  empty.mkdir()
  assert 'no file mbpp*.jsonl' in refused(tmp_path, 'mbpp', data=empty)
  shutil.copy(DATA / 'mbpp.json', empty)
  assert "with EvalPlus's tests" in refused(tmp_path, 'mbpp', data=empty)
  eurus = {'protocol': 'eurus-2024-09'}
  assert '0 files of IFEval' in refused(tmp_path, 'ifeval', **eurus)
  assert '0 files theorem_qa.json' in refused(tmp_path, 'theoremqa', **eurus)
  assert 'no file leetcode*.jsonl' in refused(tmp_path, 'leetcode', **eurus)
  assert '--benchmarks names none' in refused(tmp_path)
  assert 'greedily' in refused(tmp_path, 'humaneval', samples_each=2)
  assert 'samples_each out' in refused(tmp_path, 'mbpp', samples_each=2, samples=empty)
  assert 'neither a file' in refused(tmp_path, 'mbpp', samples=tmp_path / 'none')
  (tmp_path / 'ifeval.jsonl').write_text('{"key": 1}')
  assert 'line 1 is no prompt' in refused(tmp_path, 'ifeval', data=tmp_path, **eurus)
  monkeypatch.setitem(sys.modules, 'lm_eval', None)
  default = {'protocol': 'harness-default'}
  assert 'onlyif_jax[eval]' in refused(tmp_path, 'gsm8k', **default)
  monkeypatch.setattr(harness, 'library', lambda: None)
  assert 'no saved samples' in refused(tmp_path, 'gsm8k', samples=empty, **default)

  def impossible(**_):
    raise ConfigError('generated code cannot be isolated on this machine')

  monkeypatch.setattr(sandbox, 'detect', impossible)
  assert 'cannot be isolated' in refused(tmp_path, 'mbpp')


def test_a_model_without_template_or_tokenizer_is_refused(monkeypatch, tmp_path):
  monkeypatch.setattr(ifeval, 'prepare', Checker)
  prompts_of_ifeval(tmp_path)
  bare = tmp_path / 'bare'
  shutil.copytree(model(), bare)
  (bare / 'chat_template.jinja').unlink()
  own = settings(tmp_path / 'out', 'ifeval', protocol='eurus-2024-09', data=tmp_path)
  for name, said in (('bare', 'no chat template'), ('words', 'holds no tokenizer')):
    with pytest.raises(ConfigError, match=said):
      benchmarking.run(
        Settings(tmp_path / name, own.out, own.benchmarks, own.protocol, tmp_path)
      )
    shutil.copytree(bare, tmp_path / 'words', dirs_exist_ok=True)
    for file in (tmp_path / 'words').glob('tokenizer*'):
      file.unlink()


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['--model', '--data=/nowhere'], '--data=/nowhere is no directory'),
    pytest.param(
      ['--samples=/nowhere', '--data'],
      '--samples=/nowhere is neither a file nor a folder',
      marks=pytest.mark.slow,
    ),
    pytest.param(
      ['--model', '--samples=/nowhere', '--data'],
      'give --out and either --model (a directory) or --samples',
      marks=pytest.mark.slow,
    ),
  ],
)
def test_the_command_ends_in_one_line_and_code_2(words, message, tmp_path):
  whole = {'--model': f'--model={model()}', '--data': f'--data={DATA}'}
  words = [whole.get(word, word) for word in words]
  done = subprocess.run(
    [sys.executable, '-m', 'onlyif_jax.benchmarks', f'--out={tmp_path}', *words],
    **{'capture_output': True, 'text': True, 'cwd': ROOT},
  )
  assert (done.returncode, done.stderr) == (2, f'error: {message}\n')
