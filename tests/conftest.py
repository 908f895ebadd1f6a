"""Hostile settings for every test: 8 devices, no silent rank promotion."""

import os
import shutil
import tempfile

import jax

collect_ignore = ['data']  # a script that made recorded data, with torch

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Compiling dominates at toy sizes; CI's runs compile as users do.
jax.config.update('jax_disable_most_optimizations', True)
# The workers of one call, and the processes that tests start, inherit the environment:
# they find on disk what another has compiled.
_FOLDER = 'ONLYIF_JAX_TEST_CACHE'
if _FOLDER not in os.environ:
  os.environ[_FOLDER] = tempfile.mkdtemp(prefix='onlyif_jax_tests_')
  # These save a third of a file's time: plain emitters of code, and no parts of a
  # module for threads, for which the workers leave no cores. XLA ends a process that
  # gives it an unknown flag; the versions that were tried know these.
  if jax.__version_info__[:2] <= (0, 11):
    flags = (
      '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
    )
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flags}'.strip()
jax.config.update('jax_compilation_cache_dir', os.environ[_FOLDER])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def pytest_sessionfinish(session):
  """The last process of the call removes what was compiled."""
  if not hasattr(session.config, 'workerinput'):
    shutil.rmtree(os.environ[_FOLDER], ignore_errors=True)
