"""Bad input: one clear line on standard error, exit code 2, and nothing is lost."""

import json
from pathlib import Path

import pytest
import runs

TOY = f'--config={runs.toy.__file__}'


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  server = runs.Server(tmp_path_factory.getbasetemp() / 'compiled')
  yield server
  server.close()


def line(result):
  """The one line of a user's error, without its prefix."""
  code, out, err = result
  assert code == 2, (code, out, err)
  assert err.startswith('error: '), err
  assert err.count('\n') == 1, err
  assert out == ''
  return err.removeprefix('error: ').strip()


# arguments -> what the line must say: the field, and the remedy
BAD_SETTINGS = {
  (TOY, '--config.optim.learning_rat=1'): ('optim.learning_rat.', 'learning_rate?'),
  ('--config.optim.learning_rat=1', TOY): ('optim.learning_rat.', 'learning_rate?'),
  (TOY, '--config.optm.learning_rate=1'): ('--config.optm', 'Did you mean optim?'),
  (TOY, '--config.xyzzy=1'): ('--config.xyzzy', 'config.py'),
  (TOY, '--config.data.examples=abc'): ('data.examples=abc', 'not a whole number'),
  (TOY, '--config.data.examples=2.5'): ('data.examples=2.5', 'not a whole number'),
  (TOY, '--config.optim.clip=x'): ('optim.clip=x', 'not a number'),
  (TOY, '--config.model=3'): ('config.model', 'its fields'),
  (TOY + ':ful',): ("'ful'", 'Did you mean full?'),
  (TOY + ':cpu,sed=3',): ("'sed=3'", 'counts=, seeds=', 'Did you mean seeds?'),
  (TOY + ':counts=3|x',): ("counts='3|x'",),
  (TOY, 'extra'): ("'extra'", '--config.KEY=VALUE'),
  (TOY, '--wrkdir=x'): ("'wrkdir'", 'Did you mean: workdir'),
  (TOY, '--config.optim.name=adm'): ('optim.name', 'adamw'),
  (TOY, '--config.data.batch_size=0'): ('data.batch_size=0', '1 or more'),
  (TOY, '--config.sweep.counts=(3,300)'): ('sweep.counts', 'raise data.examples'),
  (TOY, '--config.stack.data_devices=2'): (
    'data.batch_size=7',
    'divisible by stack.data_devices=2',
  ),
  ('--config=absent.py',): ('--config=absent.py', 'No such file', 'path of a config'),
  ('--config', 'absent.py'): ('--config=absent.py', 'No such file', 'path of a config'),
}


@pytest.mark.parametrize('words', BAD_SETTINGS, ids=' '.join)
def test_bad_settings(words, server, tmp_path):
  workdir = tmp_path / 'run'
  said = line(server.call('main', f'--workdir={workdir}', *words))
  for part in BAD_SETTINGS[words]:
    assert part in said
  assert not workdir.exists()


@pytest.mark.parametrize(
  ('code', 'parts'),
  [
    ('def get_config(:\n', ('SyntaxError', 'line 1')),
    ('import no_such_module\n', ('no_such_module',)),
    ('x = 1\n', ('get_config',)),
    (
      'from onlyif_jax.config import base_config\n'
      'def get_config(arg=None):\n'
      '  c = base_config()\n'
      '  c.optim.learning_rat = 1\n'
      '  return c\n',
      ('learning_rat,', 'Did you mean learning_rate?'),
    ),
  ],
)
def test_bad_config_files(code, parts, server, tmp_path):
  file = tmp_path / 'own.py'
  file.write_text(code)
  said = line(server.call('main', f'--config={file}', f'--workdir={tmp_path / "run"}'))
  for part in (str(file), *parts):
    assert part in said


def test_more_instructions_than_rules_tells_the_capacity(server, tmp_path):
  words = (TOY, '--config.data.examples=9001', f'--workdir={tmp_path / "run"}')
  said = line(server.call('main', *words, '--config.sweep.counts=(3,9001)'))
  assert 'sweep.counts has 9001' in said
  capacity = int(said.partition(' training rules')[0].split()[-1])
  assert 200 < capacity < 7**3  # 70 % of the 343 strings
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'words',
  [
    ('--shard=1/2',),
    ('--multihost',),
    ('--launcher=ray', '--gpus=1'),
    ('--retries=2',),
    ('--workdir=gs://bucket/run',),
  ],
  ids=' '.join,
)
def test_fine_tuning_refuses_what_is_for_sweeps(words, server, tmp_path):
  config = Path(__file__).parent.parent / 'configs' / 'cipher_lm.py'
  before = f'os.chdir({str(tmp_path)!r})'
  said = line(server.call('main', f'--config={config}', *words, before=before))
  assert said.startswith(words[0].partition('=')[0])
  remedy = 'mount the bucket' if 'gs:' in words[0] else 'leave it out'
  assert remedy in said
  assert list(tmp_path.iterdir()) == []


def test_more_devices_than_there_are(server, tmp_path):
  # As on a GPU: virtual devices cannot be made.
  before = 'import onlyif_jax.sweep as s; s.claim_devices = lambda *config: None'
  words = (TOY, f'--workdir={tmp_path / "run"}', '--config.data.batch_size=11')
  said = line(
    server.call('main', *words, '--config.stack.member_devices=11', before=before)
  )
  assert 'stack.member_devices=11' in said
  assert 'there are 8' in said
  words += ('--config.stack.member_devices=0', '--config.stack.data_devices=11')
  said = line(server.call('main', *words, before=before))
  assert 'stack.data_devices=11' in said
  assert 'there are 8' in said
  assert not (tmp_path / 'run').exists()


def test_the_workdir_of_another_config(server, tmp_path):
  (tmp_path / 'config.json').write_text(
    json.dumps(runs.config_lib.dataclasses.asdict(runs.toy_config(optim_b1=0.5)))
  )
  said = line(server.call('main', TOY, f'--workdir={tmp_path}'))
  assert 'optim.b1: 0.5 there, 0.9 now' in said
  assert 'another --workdir' in said
  (tmp_path / 'config.json').write_text('[3')
  said = line(server.call('main', TOY, f'--workdir={tmp_path}'))
  assert str(tmp_path / 'config.json') in said
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']


def test_unwritable_paths(server, tmp_path):
  file = tmp_path / 'file'
  file.write_text('mine')
  for path in (file, file / 'below'):
    said = line(server.call('main', TOY, f'--workdir={path}'))
    assert f'--workdir={path}' in said
    assert 'give another one' in said
  assert file.read_text() == 'mine'


@pytest.mark.parametrize('module', ['evaluate', 'report'])
def test_a_workdir_that_is_missing_or_empty(module, server, tmp_path):
  assert '--workdir is missing' in line(server.call(module))
  for path in (tmp_path, tmp_path / 'absent'):
    assert str(path) in line(server.call(module, f'--workdir={path}'))
  assert '--workdirr' in line(server.call(module, '--workdirr=x')).replace("'", '--')
  assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(server, tmp_path):
  for words in ((TOY, '--config.xyzzy=1'), (TOY, f'--workdir={__file__}')):
    code, _, err = server.call('main', *words, '--debug')
    assert code == 2
    assert 'Traceback' in err
    assert 'error: ' in err.splitlines()[-1]


def test_help_is_shown(server):
  code, out, err = server.call('main', '--help')
  assert (code, err) == (0, '')
  assert '--config' in out
  assert '--[no]dry_run' in out


def test_a_real_process_ends_in_one_line(tmp_path):
  words = ('-m', 'onlyif_jax.main', TOY + ':ful', f'--workdir={tmp_path}')
  assert 'Did you mean full?' in line(runs.call(tmp_path, *words))


def test_a_reader_that_has_seen_enough(tmp_path):
  csv = tmp_path / 'points.csv'
  csv.write_text('x,k,n\n' + ''.join(f'{10**i},{i * 20},100\n' for i in range(6)))
  process = runs.start(tmp_path, '-m', 'onlyif_jax.fit', f'--csv={csv}')
  process.stdout.close()
  assert process.wait(timeout=300) == 141
  assert process.stderr.read() == ''
  process.stderr.close()


def test_dry_run_predicts_and_leaves_nothing(server, tmp_path):
  words = (TOY, '--dry_run', f'--workdir={tmp_path / "run"}')
  before = 'import onlyif_jax.dry_run as d; d.TIMED_SECONDS = 0.2\n'
  before += f'os.chdir({str(tmp_path)!r})'
  code, out, err = server.call('main', *words, before=before)
  assert (code, err) == (0, '')
  for word in ('members', 'parameters', 'tokens', 'FLOPs', 'memory', 'time'):
    assert word in out
  assert f'{30 * 7 * 20:,} a member' in out
  assert '2,652' in out
  assert list(tmp_path.iterdir()) == []
