"""Peak rates of devices by their data sheets, and shares of them; without jax.

Rates are dense; those of a GPU are of its tensor cores where these take the dtype.
"""

import dataclasses
import re
from collections.abc import Mapping

FORMULA = (
  'FLOPs = 3 x forward matmul FLOPs of an example (as really done) x examples/s; '
  'MFU = FLOPs/s / (devices x peak of one device)'
)


@dataclasses.dataclass(frozen=True)
class Peak:
  """The peaks of one device."""

  name: str
  tflops: Mapping[str, float]  # 'bf16', 'f16', 'tf32' or 'f32' -> TFLOP/s
  bandwidth: float  # of its memory, GB/s


def _hopper(name: str, bandwidth: float) -> Peak:
  rates = {'bf16': 989.4, 'f16': 989.4, 'tf32': 494.7, 'f32': 66.9}
  return Peak(name, rates, bandwidth)


def _ampere(name: str, bandwidth: float) -> Peak:
  rates = {'bf16': 312.0, 'f16': 312.0, 'tf32': 156.0, 'f32': 19.5}
  return Peak(name, rates, bandwidth)


# Pattern of JAX's full name for a device -> its peaks. Other names, such as a MIG slice
# of a GPU, are unknown: nothing is guessed.
_TABLE = {
  r'(NVIDIA )?A100-(SXM4|PCIE)-40GB': _ampere('A100 40 GB', 1555),
  r'(NVIDIA )?A100-SXM4-80GB': _ampere('A100 SXM 80 GB', 2039),
  r'(NVIDIA )?A100 80GB PCIe': _ampere('A100 PCIe 80 GB', 1935),
  r'NVIDIA H100 80GB HBM3': _hopper('H100 SXM', 3350),
  r'NVIDIA H200': _hopper('H200 SXM', 4800),
  r'NVIDIA L4': Peak(
    'L4', {'bf16': 121.0, 'f16': 121.0, 'tf32': 60.0, 'f32': 30.3}, 300
  ),
  r'(Tesla|NVIDIA) T4': Peak('T4', {'f16': 65.0, 'f32': 8.1}, 320),
  r'(Tesla |NVIDIA )?V100-SXM2-\d+GB': Peak(
    'V100 SXM', {'f16': 125.0, 'f32': 15.7}, 900
  ),
  r'(Tesla |NVIDIA )?V100-PCIE-\d+GB': Peak(
    'V100 PCIe', {'f16': 112.0, 'f32': 14.0}, 900
  ),
  r'(NVIDIA GeForce )?RTX 4090': Peak(
    'RTX 4090', {'bf16': 165.2, 'f16': 165.2, 'tf32': 82.6, 'f32': 82.6}, 1008
  ),
  r'TPU v4': Peak('TPU v4', {'bf16': 275.0}, 1228),
  r'TPU v5 lite|TPU v5e': Peak('TPU v5e', {'bf16': 197.0}, 819),
  r'TPU v5p?': Peak('TPU v5p', {'bf16': 459.0}, 2765),
  r'TPU v6 lite|TPU v6e': Peak('TPU v6e', {'bf16': 918.0}, 1640),
}


def find(device_kind: str) -> Peak | None:
  """The peaks of a device by JAX's name for it, None if unknown."""
  for pattern, peak in _TABLE.items():
    if re.fullmatch(pattern, device_kind):
      return peak
  return None


def arithmetic(platform: str, compute_dtype: str, precision: str | None = None) -> str:
  """The arithmetic of matmuls: 'bf16', 'tf32' or 'f32'.

  precision: jax_default_matmul_precision. By default a TPU multiplies float32 in one
  pass of bfloat16, and a GPU in TF32 if it has that.
  """
  if compute_dtype == 'bfloat16':
    return 'bf16'
  if precision not in (None, 'default'):
    return 'f32'
  return {'tpu': 'bf16', 'gpu': 'tf32'}.get(platform, 'f32')


def rate(peak: Peak | None, kind: str) -> float | None:
  """FLOP/s of a device in an arithmetic, None if unknown."""
  if peak is None:
    return None
  if kind == 'tf32' and kind not in peak.tflops:
    kind = 'f32'  # a GPU older than TF32
  return peak.tflops[kind] * 1e12 if kind in peak.tflops else None


def mfu(flops_per_s: float, devices: int, peak: float | None) -> float | None:
  """Model FLOPs utilisation: the share of all devices' peak; None if unknown."""
  return None if not peak else flops_per_s / (devices * peak)


def roofline(model, length: int, peak: Peak | None, kind: str) -> str | None:
  """Estimates, as text, whether memory or arithmetic bounds training; None if unknown.

  model: width, heads, compute_dtype. The forward pass reads and writes 34 D elements
  per token and layer, and 4 H L for the scores, if only matmuls, norms, GELU, residual
  sums and softmax are separate passes over memory; the backward pass twice as many.
  """
  flops_per_s = rate(peak, kind)
  if peak is None or flops_per_s is None:
    return None
  d, itemsize = model.width, 2 if model.compute_dtype == 'bfloat16' else 4
  moved = 3 * itemsize * (34 * d + 4 * model.heads * length)
  flops = 3 * (24 * d * d + 4 * length * d)
  memory, compute = moved / (peak.bandwidth * 1e9), flops / flops_per_s
  bound = 'memory' if memory > compute else 'arithmetic'
  return (
    f'{moved:,} bytes and {flops:,} FLOPs per token and layer (estimate): '
    f'{memory * 1e9:.2g} ns of {peak.bandwidth:,.0f} GB/s, {compute * 1e9:.2g} ns of '
    f'{flops_per_s / 1e12:,.0f} TFLOP/s, so {bound} bounds it; at best '
    f'{min(1, compute / memory):.0%} MFU'
  )
