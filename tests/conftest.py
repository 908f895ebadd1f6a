"""Hostile settings for every test: 8 devices, no silent rank promotion."""

import os
import shutil
import tempfile

import jax

collect_ignore = ['data']  # a script that made recorded data, with torch

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Compiling dominates at toy sizes; the slow suite and CI's runs compile as users do.
jax.config.update('jax_disable_most_optimizations', True)
# The workers of one call find on disk what another has compiled: they inherit this.
_FOLDER = 'ONLYIF_JAX_TEST_CACHE'
if _FOLDER not in os.environ:
  os.environ[_FOLDER] = tempfile.mkdtemp(prefix='onlyif_jax_tests_')
jax.config.update('jax_compilation_cache_dir', os.environ[_FOLDER])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def pytest_sessionfinish(session):
  """The last process of the call removes what was compiled."""
  if not hasattr(session.config, 'workerinput'):
    shutil.rmtree(os.environ[_FOLDER], ignore_errors=True)
