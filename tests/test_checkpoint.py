"""Checkpoints: exact, resharded, damaged, and on a disk without room."""

import errno
import os
import random
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from onlyif_jax import checkpoint
from onlyif_jax.checkpoint import Checkpointer, verify
from onlyif_jax.config import ConfigError


def make_state(step):
  """Numbers that follow from the step, in every kind of leaf that is saved."""
  rng = np.random.default_rng(step)
  params = {
    'w': jnp.asarray(rng.normal(size=(8, 5)), jnp.float32),
    'layers': [{'b': jnp.asarray(rng.normal(size=(16,)), jnp.bfloat16)}],
  }
  tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.masked(optax.adamw(1e-3), {'w': True, 'layers': [{'b': False}]}),
  )
  return {
    'params': params,
    'opt': jax.tree.map(lambda x: x + jnp.asarray(step, x.dtype), tx.init(params)),
    'step': jnp.int32(step),
    'rate': jnp.float32(1 / (step + 3)),
    'failed': jnp.array([True, False]),
    'key': jax.random.key(step),
    'none': None,
  }


def abstract_of(state, sharding=None):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
  )


ABSTRACT = abstract_of(make_state(0))


def as_bits(x):
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  return np.asarray(x).tobytes()


def assert_same(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert (g.dtype, g.shape) == (w.dtype, w.shape)
    assert isinstance(g, jax.Array)
    assert as_bits(g) == as_bits(w)


def save_all(directory, *steps, keep=2):
  with Checkpointer(directory, keep=keep) as saver:
    for step in steps:
      saver.save(step, make_state(step))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Steps 3, 5, 7; tests copy it before they spoil it."""
  directory = tmp_path_factory.mktemp('stack')
  save_all(directory, 3, 5, 7, keep=3)
  return directory


@pytest.fixture
def copied(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / 'moved')


def test_round_trip_is_exact_and_movable(copied):
  saver = Checkpointer(copied)
  assert saver.steps() == [3, 5, 7]
  step, state = saver.restore(ABSTRACT)
  assert (step, saver.damaged) == (7, [])
  assert_same(state, make_state(7))
  assert_same(saver.restore_step(5, ABSTRACT), make_state(5))
  with pytest.raises(ConfigError, match='absent; steps there: 3, 5, 7'):
    saver.restore_step(4, ABSTRACT)


def test_nothing_there(tmp_path):
  saver = Checkpointer(tmp_path / 'never' / 'made')
  assert saver.restore(ABSTRACT) is None
  assert saver.steps() == []
  assert list(tmp_path.iterdir()) == []


def test_keep_and_overwrite(tmp_path):
  save_all(tmp_path, 1, 2, 3)
  assert sorted(e.name for e in tmp_path.iterdir()) == ['2', '3']
  save_all(tmp_path, 2)  # a rollback: step 3 is of another past
  assert sorted(e.name for e in tmp_path.iterdir()) == ['2']
  save_all(tmp_path, 2)
  assert verify(tmp_path / '2') is None


def test_saved_on_eight_devices_restored_on_one_and_two(tmp_path):
  def sharding(devices):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[-devices:]), ('data',))
    return jax.NamedSharding(mesh, jax.P('data'))

  values = {
    'split': jnp.arange(16 * 3, dtype=jnp.float32).reshape(16, 3),
    'copied': jnp.arange(5, dtype=jnp.int32),
  }
  eight = sharding(8)
  state = {
    'split': jax.device_put(values['split'], eight),
    'copied': jax.device_put(values['copied'], jax.NamedSharding(eight.mesh, jax.P())),
  }
  with Checkpointer(tmp_path) as saver:
    saver.save(2, state)
    for devices in (1, 2):
      wanted = sharding(devices)
      abstract = {
        'split': jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=wanted),
        'copied': jax.ShapeDtypeStruct((5,), jnp.int32),
      }
      _, got = saver.restore(abstract)
      assert got['split'].sharding.is_equivalent_to(wanted, 2)
      assert got['split'].sharding.device_set == set(jax.devices()[-devices:])
      assert got['copied'].sharding.device_set == {jax.devices()[0]}
      assert_same(got, values)


@pytest.mark.parametrize('split', [False, True])
def test_donated_right_after_save(tmp_path, split):
  mesh = jax.make_mesh((8,), ('d',), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = jax.NamedSharding(mesh, jax.P('d' if split else None))
  spoil = jax.jit(lambda t: jax.tree.map(lambda x: -x - 1, t), donate_argnums=0)

  def make(n):
    leaves = {str(i): jnp.full((64, 211), n + i, jnp.float32) for i in range(7)}
    return jax.device_put(leaves, sharding)

  spoil(make(0))
  with Checkpointer(tmp_path) as saver:
    for n in range(1, 6):
      state = make(n)
      saver.save(n, state)
      state = jax.block_until_ready(spoil(state))
      step, got = saver.restore(abstract_of(state, sharding))
      assert step == n
      assert all((np.asarray(got[str(i)]) == n + i).all() for i in range(7))


def newest_file(directory, pattern):
  return max(directory.rglob(pattern), key=lambda p: p.stat().st_size)


def flip(path, byte=None, bit=3):
  data = bytearray(path.read_bytes())
  data[len(data) // 2 if byte is None else byte] ^= 1 << bit
  path.write_bytes(data)


def truncate(path):
  path.write_bytes(path.read_bytes()[:-1])


def bare(step):
  shutil.rmtree(step)
  step.mkdir()


def renamed(step):
  shutil.rmtree(step)
  shutil.copytree(step.parent / '3', step)


DAMAGE = {
  'flipped bit': (lambda s: flip(newest_file(s, 'd/*')), 'changed'),
  'truncated': (lambda s: truncate(newest_file(s, 'd/*')), 'bytes of'),
  'missing file': (lambda s: newest_file(s, 'd/*').unlink(), 'missing'),
  'bare directory': (bare, 'no digest'),
  'no digest': (lambda s: (s / 'digest.json').unlink(), 'no digest'),
  'cut digest': (lambda s: truncate(s / 'digest.json'), 'digest.json unreadable'),
  'empty digest': (lambda s: (s / 'digest.json').write_text('[]'), 'unreadable'),
  'metadata': (lambda s: flip(s / '_CHECKPOINT_METADATA'), 'changed'),
  'renamed': (renamed, 'it is step 3'),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_damage_is_named_and_passed_over(copied, name, caplog):
  spoil, reason = DAMAGE[name]
  spoil(copied / '7')
  assert reason in verify(copied / '7')
  with Checkpointer(copied) as saver:
    step, state = saver.restore(ABSTRACT)
    assert step == 5
    assert_same(state, make_state(5))
    assert [s for s, _ in saver.damaged] == [7]
    assert reason in saver.damaged[0][1]
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']
    assert str(copied / '7') in line
    assert reason in line
    with pytest.raises(ConfigError, match='steps there: 3, 5, 7'):
      saver.restore_step(7, ABSTRACT)
    saver.save(6, make_state(6))  # the damaged step is newer and must go
  assert Checkpointer(copied).steps() == [5, 6]
  assert verify(copied / '6') is None


def test_any_flipped_bit_of_any_file_is_seen(copied):
  rng = random.Random(5)
  for path in sorted(p for p in (copied / '7').rglob('*') if p.is_file()):
    good = path.read_bytes()
    for _ in range(11 if good else 0):
      byte, bit = rng.randrange(len(good)), rng.randrange(8)
      flip(path, byte, bit)
      assert verify(copied / '7') is not None, (path, byte, bit)
      path.write_bytes(good)
  assert verify(copied / '7') is None


def test_damaged_step_below_the_saved_one_is_not_kept(copied):
  bare(copied / '7')
  with Checkpointer(copied) as saver:
    assert saver.restore(ABSTRACT)[0] == 5
    saver.save(8, make_state(8))
  assert Checkpointer(copied).steps() == [5, 8]


def test_every_step_damaged_is_an_error(copied):
  for step in (3, 5, 7):
    bare(copied / str(step))
  with pytest.raises(ConfigError) as caught:
    Checkpointer(copied).restore(ABSTRACT)
  message = str(caught.value)
  assert str(copied) in message
  assert 'step 7: no digest, step 5: no digest, step 3: no digest' in message
  assert 'delete that directory' in message


def test_another_state_is_refused(saved):
  saver = Checkpointer(saved)
  for change, said in [
    ({'rate': jnp.ones((2,))}, "state['rate'] is float32[] there and float32[2] here"),
    ({'step': jnp.uint32(3)}, "state['step'] is int32[] there and uint32[] here"),
    ({'more': jnp.ones(())}, "state['more'] is absent there"),
    ({'failed': None}, 'bool[2] there and absent here'),
    ({'opt': optax.sgd(1e-3).init(0)}, "state['opt'][1].inner_state[0].count"),
  ]:
    with pytest.raises(ConfigError) as caught:
      saver.restore(abstract_of(make_state(7) | change))
    assert said in str(caught.value)
    assert '\n' not in str(caught.value)


def test_leftovers_are_not_steps_and_do_not_block(copied):
  for name in ('9.orbax-checkpoint-tmp', 'saving.9', 'removing.3', 'saving.9.tmp'):
    (copied / name).mkdir()
    (copied / name / 'part').write_text('part')
  with Checkpointer(copied) as saver:
    assert saver.restore(ABSTRACT)[0] == 7
    saver.save(9, make_state(9), wait=True)
    assert_same(saver.restore_step(9, ABSTRACT), make_state(9))
  assert sorted(e.name for e in copied.iterdir()) == ['7', '9']


def fail(code):
  def raising(*_, **__):
    raise OSError(code, os.strerror(code))

  return raising


@pytest.mark.parametrize(
  ('where', 'code'),
  [
    ((checkpoint.os, 'rename'), errno.ENOSPC),
    ((checkpoint.os, 'mkdir'), errno.ENOSPC),
    ((checkpoint, '_fingerprint'), errno.EROFS),
    ((checkpoint.ocp, 'save_async'), errno.EACCES),
  ],
)
def test_full_disk_is_one_line_and_harmless(copied, monkeypatch, where, code):
  with Checkpointer(copied) as saver:
    with monkeypatch.context() as patch:
      patch.setattr(*where, fail(code))
      with pytest.raises(ConfigError, match=os.strerror(code)) as caught:
        saver.save(9, make_state(9), wait=True)
    assert str(copied / '9') in str(caught.value)
    assert '\n' not in str(caught.value)
    assert sorted(e.name for e in copied.iterdir()) == ['3', '5', '7']
  with Checkpointer(copied) as saver:  # and when there is room again
    assert saver.restore(ABSTRACT)[0] == 7
    saver.save(9, make_state(9))
  assert Checkpointer(copied).restore(ABSTRACT)[0] == 9


def test_no_room_inside_orbax(copied, caplog, capfd):
  state = make_state(9) | {'big': jax.random.normal(jax.random.key(1), (211, 199))}
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  with Checkpointer(copied) as saver:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
      saver.save(9, state)
      with pytest.raises(ConfigError, match='File too large'):
        saver.save(11, state)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saver.restore(ABSTRACT)[0] == 7
    saver.save(9, state)
  assert Checkpointer(copied).steps() == [7, 9]
  assert 'Traceback' not in caplog.text + ''.join(capfd.readouterr())


def test_path_below_a_file(tmp_path):
  (tmp_path / 'file').write_text('')
  saver = Checkpointer(tmp_path / 'file' / 'stack')
  with pytest.raises(ConfigError, match=r'Not a directory.*choose another workdir'):
    saver.save(1, make_state(1))
  with pytest.raises(ConfigError, match='could not be read: Not a directory'):
    Checkpointer(tmp_path / 'file').restore(ABSTRACT)


def test_a_failed_save_does_not_hide_the_error_under_way(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint.os, 'rename', fail(errno.ENOSPC))

  def train(error):
    with Checkpointer(tmp_path) as saver:
      saver.save(1, make_state(1))
      if error:
        raise error

  with pytest.raises(KeyError):
    train(KeyError('of the loop'))
  with pytest.raises(ConfigError, match='No space'):
    train(None)
