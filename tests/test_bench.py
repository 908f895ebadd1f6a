"""The benchmark measures what it says, and guesses nothing."""

import contextlib
import dataclasses
import io
import json
import math
import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from runs import toy_config

from onlyif_jax import (
  benchmark,
  benchmark_peaks,
  benchmark_peers,
  benchmark_stack,
  benchmark_torch,
)
from onlyif_jax import experiment as experiment_lib
from onlyif_jax.benchmark_stack import StackBench, Timed, clock
from onlyif_jax.config import ConfigError


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """One benchmark of the toy: its report, JSON file and what it printed."""
  path = tmp_path_factory.mktemp('bench') / 'new' / 'toy.json'
  out, err = io.StringIO(), io.StringIO()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(os, 'getloadavg', lambda: (97.0, 1.0, 1.0))
    patch.setattr(benchmark, 'matmul_rate', lambda devices: 7e9)
    # What other test files compiled may be found; one test looks at compiling anew.
    patch.setattr(benchmark_stack, 'compiling_anew', contextlib.nullcontext)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      report = benchmark.run(toy_config(), seconds=0.01, rounds=1, out=path)
  return SimpleNamespace(
    report=report, path=path, out=out.getvalue(), err=err.getvalue()
  )


@pytest.mark.slow
def test_the_file_holds_machine_versions_and_every_timing(made):
  report = json.loads(made.path.read_text())
  assert report == made.report
  here = report['machine']
  assert {'commit', 'versions', 'cores', 'device', 'devices', 'python'} <= set(here)
  assert (here['platform'], here['load']) == ('cpu', 97.0)
  assert report['config']['data.batch_size'] == 7
  for part in ('whole_loop', 'generation', 'evaluation'):
    timed = report[part]
    rates = [u / s for u, s in zip(timed['units'], timed['seconds'], strict=True)]
    assert timed['per_s'] == pytest.approx(np.median(rates), rel=1e-2)
    assert timed['per_s'] > 0
    assert set(timed['units']) <= {n * 2 * 7 for n in range(1, 501)} | {2 * 23}
  assert report['compile']['train']['seconds'] > 0
  assert report['memory']['process_peak_bytes'] > 2**20
  assert (
    report['memory']['program']['argument_bytes'] > 4 * 3 * 2652
  )  # of the member on one device


@pytest.mark.slow
def test_rates_and_shares_follow_from_each_other(made):
  report, experiment = made.report, experiment_lib.build(toy_config())
  whole, work = report['whole_loop'], report['work']
  assert work['sequence_length'] == 3 + 3 + 5 + 5 + 4
  assert work['flops_per_member'] == experiment.flops
  assert whole['tokens_per_s'] == pytest.approx(20 * whole['per_s'])
  examples = 30 * 7  # 211 // 7 steps
  assert whole['run_seconds'] == pytest.approx(2 * examples / whole['per_s'])
  made_s = report['generation']
  assert made_s['share_of_whole'] == pytest.approx(whole['per_s'] / made_s['per_s'])
  judged = report['evaluation']
  want = 100_000 / judged['per_s'] / (examples / whole['per_s'])
  assert judged['share_of_run'] == pytest.approx(want)
  use = report['use']
  assert use['flops_per_s'] == pytest.approx(
    experiment.flops / examples * whole['per_s']
  )
  assert use['mfu'] == pytest.approx(use['flops_per_s'] / 7e9)
  assert (use['devices'], use['roofline']) == (1, None)
  assert 'measured' in use['peak']


@pytest.mark.slow
def test_the_table_is_narrow_and_says_where_it_was_not_quiet(made):
  assert max(map(len, made.out.splitlines())) <= 100
  for word in ('whole loop', 'generation', 'MFU', 'matmul', '3 x forward'):
    assert word in made.out
  assert made.err.count('\n') == 1
  assert 'not quiet (load 97.0' in made.err


def test_checksums_change_with_the_seed_and_the_step():
  bench = StackBench(benchmark.settle(toy_config()))
  base = bench.members
  swapped = jnp.array([11, 3], jnp.int32)
  members = dataclasses.replace(
    base, order_seed=swapped, instructions=jnp.array([17, 17], jnp.int32)
  )
  members = jax.device_put(members, bench.program.sharding)
  generate = bench.generator()

  def sums(start, stop, members=members):
    return np.asarray(generate(members, jnp.int32(start), jnp.int32(stop)))

  first, second = sums(0, 1), sums(1, 2)
  assert len({*first, *second}) == 4
  np.testing.assert_array_equal(sums(0, 2), first + second)
  back = jax.device_put(
    dataclasses.replace(members, order_seed=swapped[::-1]), bench.program.sharding
  )
  np.testing.assert_array_equal(sums(0, 1, back), first[::-1])


def fake_bench(kind, dtype='bfloat16', count=3):
  device = SimpleNamespace(platform='gpu', device_kind=kind)
  experiment = experiment_lib.build(toy_config())
  model = dataclasses.replace(experiment.model, compute_dtype=dtype)
  experiment = dataclasses.replace(experiment, model=model)
  mesh = SimpleNamespace(devices=np.array([device] * count))
  return SimpleNamespace(experiment=experiment, mesh=mesh)


def test_mfu_by_hand():
  use = benchmark.use(fake_bench('NVIDIA H100 80GB HBM3'), 1e6)
  d, length, answer, vocabulary = 13, 20, 6, 7 + 6
  # One layer: keys and values everywhere, the rest at answer positions.
  forward = 2 * 2 * length * d * d + 2 * 10 * answer * d * d + 4 * answer * length * d
  forward += 2 * answer * d * vocabulary
  assert use['flops_per_s'] == pytest.approx(3 * forward * 1e6)
  assert use['mfu'] == pytest.approx(3 * forward * 1e6 / (3 * 989.4e12))
  assert use['peak'] == 'H100 SXM, bf16'
  moved = 3 * 2 * (34 * d + 4 * 1 * length)
  assert use['roofline'].startswith(f'{moved:,} bytes')
  assert 'memory bounds it' in use['roofline']
  f32 = benchmark.use(fake_bench('NVIDIA H100 80GB HBM3', 'float32'), 1e6)
  assert (f32['arithmetic'], f32['peak_flops_per_s']) == ('tf32', 494.7e12)


@pytest.mark.slow
@pytest.mark.parametrize(
  'kind',
  ['Imaginary 9000', 'NVIDIA H100 80GB HBM3 MIG 3g.40gb', 'NVIDIA L40', 'TPU v55'],
)
def test_an_unknown_device_has_no_peak(kind, made, capsys):
  use = benchmark.use(fake_bench(kind), 1e6)
  assert (use['peak'], use['mfu'], use['roofline']) == (
    *(f'unknown peak ({kind})', None),
    None,
  )
  assert use['flops_per_s'] > 0
  benchmark.show(made.report | {'use': use})
  shown = capsys.readouterr().out
  assert 'MFU unknown' in shown
  assert 'unknown peak' in shown


def test_peaks_depend_on_the_arithmetic():
  arithmetic = benchmark_peaks.arithmetic
  assert arithmetic('gpu', 'float32') == 'tf32'
  assert arithmetic('gpu', 'float32', 'highest') == 'f32'
  assert arithmetic('tpu', 'float32') == 'bf16'
  assert arithmetic('cpu', 'float32') == 'f32'
  v100, a100 = map(benchmark_peaks.find, ('Tesla V100-SXM2-16GB', 'A100-SXM4-40GB'))
  assert benchmark_peaks.rate(v100, 'tf32') == 15.7e12  # it has no TF32
  assert benchmark_peaks.rate(v100, 'bf16') is None  # nor bfloat16
  assert benchmark_peaks.rate(a100, 'bf16') == 312e12


def test_a_rate_is_the_median_of_dispatches_of_enough_work():
  assert Timed((2, 2, 2), (1.0, 0.5, 4.0)).rate == 2
  calls = []
  timed = clock(calls.append, 3, seconds=1e-3, most=17)
  assert calls[:2] == [1, 1]
  assert set(calls[2:]) == {int(timed.units[0] / 3)}
  assert sum(timed.seconds) >= 1e-3
  assert timed.units[0] <= 3 * 17


def test_compiling_anew_finds_nothing_that_was_compiled():
  traced, found = [], []

  @jax.jit
  def double(x):
    traced.append(x)
    return 2 * x

  def on_event(name, **_):
    found.append(name)

  jax.monitoring.register_event_listener(on_event)
  double(jnp.int32(3))
  double(jnp.int32(5))
  assert len(traced) == 1
  with benchmark_stack.compiling_anew():
    found.clear()
    double(jnp.int32(7))
    assert len(traced) == 2
    assert not any('requests_use_cache' in name for name in found)
  assert jax.config.jax_enable_compilation_cache
  jax.clear_caches()
  found.clear()
  double(jnp.int32(7))
  assert any('requests_use_cache' in name for name in found)


def test_peers_without_torch_end_in_one_line():
  code = (
    'import sys, runpy; sys.modules["torch"] = None; '
    f'sys.argv = ["bench", "--peers", "--config={runs.toy.__file__}"]; '
    'runpy.run_module("onlyif_jax.bench", run_name="__main__", alter_sys=True)'
  )
  status, out, err = runs.call(runs.CACHE, '-c', code)
  assert (status, out) == (2, ''), err
  assert err.startswith('error: --peers needs torch')
  assert 'pip install' in err
  assert err.count('\n') == 1


def test_ratios_are_of_one_round():
  rates = {'ours_one': (2, 4), 'ours_stack': (6, 20), 'bare': (1, 4)}
  turns = [
    {'round': n, 'side': side, 'examples_per_s': float(each[n])}
    for n in range(2)
    for side, each in rates.items()
  ]
  found = benchmark_peers.summary(turns)
  assert found['examples_per_s'] == {'ours_one': 3, 'ours_stack': 13, 'bare': 2.5}
  assert found['ratios']['ours_stack/bare'] == {
    **{'median': 5.5, 'low': 5.0, 'high': 6.0},
    'per_round': [6.0, 5.0],
  }
  assert set(found['ratios']) == {'ours_one/bare', 'ours_stack/bare'}


def test_what_peers_cannot_do_is_refused():
  with pytest.raises(ConfigError, match=r'data\.balance'):
    benchmark_peers.comparable(toy_config(data_balance=True))
  config = benchmark_peers.comparable(
    toy_config(model_positions='rotary', model_width=6, optim_name='muon')
  )
  assert (config.model.positions, config.optim.name) == ('learned', 'adamw')


@pytest.mark.slow
def test_ways_of_stacking_differ_in_one_thing():
  config = benchmark.settle(toy_config(data_batch_size=8))
  ways = benchmark.ways(config, 0.01)
  shapes = [
    (w['mode'], w['members'], w['member_devices'], w['data_devices']) for w in ways
  ]
  assert shapes[0] == ('map', 2, 2, 1)
  assert len(set(shapes)) == len(shapes)
  assert {('vmap', 2, 2, 1), ('serial', 2, 1, 1), ('map', 4, 2, 1)} <= set(shapes)
  assert ('map', 2, 1, jax.device_count()) in shapes
  assert all(w['whole_loop']['per_s'] > 0 for w in ways)
  benchmark.Console(width=80).print(benchmark._ways(ways))


@pytest.mark.hf
def test_the_other_side_gets_our_tokens_weights_and_loss(tmp_path):
  for name in benchmark_torch.NEEDED:
    pytest.importorskip(name)
  config = benchmark_peers.comparable(
    benchmark.settle(
      toy_config('cpu,counts=97', task_x_min=1, task_y_min=1, optim_clip=1.0)
    )
  )
  bench = StackBench(config)
  settings, loss = benchmark_peers.prepare(bench.experiment, tmp_path)
  arrays = np.load(tmp_path / 'data.npz')
  plan, data = bench.experiment.data.plan, bench.experiment.data
  member = jax.tree.map(lambda v: v[0], bench.members)
  batch = jax.jit(data.train_examples)(
    member, jnp.arange(plan.steps * plan.batch_size, dtype=jnp.int32)
  )
  np.testing.assert_array_equal(arrays['tokens'], batch.tokens_BL)
  answers = arrays['labels'] != benchmark_torch.IGNORED
  np.testing.assert_array_equal(answers, np.asarray(batch.weights_BL) > 0)
  np.testing.assert_array_equal(
    arrays['labels'][answers], np.asarray(batch.tokens_BL)[answers]
  )
  assert len(np.unique(answers.sum(1))) > 1
  with benchmark_torch.Worker(tmp_path, settings) as worker:
    assert worker.about['first_loss'] == pytest.approx(loss, rel=1e-5)
    assert loss == pytest.approx(math.log(13), rel=0.2)
    assert worker.about['sides'][:2] == ['trainer', 'bare']
    for side in worker.about['sides']:
      assert worker.turn(side, 2) > 0


@pytest.mark.hf
def test_peers_run_in_turn(tmp_path, capsys):
  for name in benchmark_torch.NEEDED:
    pytest.importorskip(name)
  found = benchmark_peers.compare(benchmark.settle(toy_config()), 0.02, 2)
  sides = ['ours_one', 'ours_stack', *found['about']['sides']]
  assert [turn['side'] for turn in found['turns']] == sides * 2
  assert [turn['round'] for turn in found['turns']] == [0] * len(sides) + [1] * len(
    sides
  )
  members = {'ours_stack': 2}
  for turn in found['turns']:
    examples = 7 * members.get(turn['side'], 1) * turn['steps']
    assert turn['examples_per_s'] == pytest.approx(examples / turn['seconds'], rel=1e-2)
  assert json.loads(json.dumps(found)) == found
  benchmark_peers.show(found, benchmark.Console(width=80))
  assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.hf
def test_a_dead_worker_is_told_in_one_line(tmp_path):
  for name in benchmark_torch.NEEDED:
    pytest.importorskip(name)
  with pytest.raises(ConfigError, match=r'data\.npz'):
    benchmark_torch.Worker(tmp_path, {'batch_size': 7, 'cores': 1})
