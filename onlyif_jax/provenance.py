"""Provenance of a run's numbers, which is written before anything else."""

import datetime
import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'onlyif_jax')


def provenance() -> dict:
  """Command, code, versions and machine of this process."""
  return {
    'command': shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
    'started': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    **_code(),
    'python': platform.python_version(),
    'versions': {name: _version(name) for name in PACKAGES},
    'cores': len(os.sched_getaffinity(0))
    if hasattr(os, 'sched_getaffinity')
    else os.cpu_count(),
    'machine': platform.machine(),
  }


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _code() -> dict:
  """The commit of this package's source, and a hash of the changes since."""
  root = Path(__file__).resolve().parent

  def git(*words):
    return subprocess.run(
      ['git', '-C', str(root), *words], capture_output=True, text=True, check=False
    )

  try:
    head = git('rev-parse', 'HEAD')
  except OSError:
    return {'commit': None, 'diff': None}
  if head.returncode:
    return {'commit': None, 'diff': None}
  diff = git('diff', 'HEAD', '--', '.').stdout
  changed = hashlib.sha256(diff.encode()).hexdigest()[:12] if diff else ''
  return {'commit': head.stdout.strip(), 'diff': changed}
