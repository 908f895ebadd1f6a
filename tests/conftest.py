"""Hostile settings for every test: 8 devices, no silent rank promotion."""

import jax

collect_ignore = ['data']  # a script that made recorded data, with torch

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Compiling dominates at toy sizes; the slow suite and CI's runs compile as users do.
jax.config.update('jax_disable_most_optimizations', True)
