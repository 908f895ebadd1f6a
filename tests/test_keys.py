import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onlyif_jax import keys
from onlyif_jax.keys import Purpose


def all_of(n, seed=0):
  key = keys.key(seed, Purpose.EPOCH_ORDER)
  permute = jax.jit(jax.vmap(lambda i: keys.permute(key, i, n)))
  return np.asarray(permute(jnp.arange(n)))


@pytest.mark.parametrize('n', [1, 2, 3, 1009])
def test_permute_is_a_bijection_with_its_inverse(n):
  out = all_of(n)
  assert sorted(out) == list(range(n))
  key = keys.key(0, Purpose.EPOCH_ORDER)
  back = jax.vmap(lambda i: keys.unpermute(key, i, n))(jnp.asarray(out))
  assert list(back) == list(range(n))


def test_permute_depends_on_the_key_and_looks_uniform():
  n, draws = 11, 600

  def order(seed):
    key = keys.key(seed, Purpose.EPOCH_ORDER)
    return jax.vmap(lambda i: keys.permute(key, i, n))(jnp.arange(n))

  orders = np.asarray(jax.jit(jax.vmap(order))(jnp.arange(draws)))
  assert (orders[0] != orders[1]).any()
  # Each place takes each value about draws / n times (chi-square, 100 d.o.f.).
  table = np.stack([np.bincount(orders[:, i], minlength=n) for i in range(n)])
  expected = draws / n
  chi2 = ((table - expected) ** 2 / expected).sum()
  assert chi2 < 170  # p = 1e-5


def test_large_domains_stay_inside():
  n = 2**31 - 2**16
  key = keys.key(3, Purpose.NOOP_CHOICE)
  i = jnp.asarray([0, 1, n // 2, n - 1])
  out = jax.vmap(lambda v: keys.permute(key, v, n))(i)
  assert ((out >= 0) & (out < n)).all()
  assert list(jax.vmap(lambda v: keys.unpermute(key, v, n))(out)) == list(i)
  with pytest.raises(ValueError, match='does not fit int32'):
    keys.permute(key, 0, 2**31)


def test_keys_are_addressed():
  data = {
    tuple(jax.random.key_data(keys.key(seed, purpose, index)).tolist())
    for seed in (0, 1)
    for purpose in Purpose
    for index in (0, 1)
  }
  assert len(data) == 4 * len(Purpose)
  # Fixed for good: changing one of these changes every number ever published.
  assert [p.value for p in Purpose] == list(range(1, len(Purpose) + 1))
