"""Measures how many different instructions a model needs before it follows unseen ones.

    import onlyif_jax
    from configs.imin import get_config

    run = onlyif_jax.sweep(get_config('cpu,counts=100|1000,seeds=1'), 'runs/mine')
    print(run.results[0]['member'], run.fit().bracket)

`onlyif_jax.sweep` is a callable module, so `from onlyif_jax import sweep` and
`sweep.run` work too. It is imported on first use.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
  if name == 'sweep':
    return importlib.import_module('onlyif_jax.sweep')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
