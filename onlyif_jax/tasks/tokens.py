"""Token ids and the layout of one sequence: x SEP y SEP z SEP out EOS.

Sequences are right-padded without gaps, and a token's position is its index.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

PAD, EOS, SEP, MASK = 0, 1, 2, 3  # MASK hides text; 4 and 5 are free for tasks
FIRST_LETTER = 6
_NAMES = {PAD: '.', EOS: '$', SEP: '|', MASK: '?', 4: '{', 5: '}'}
# 26 letters by alphabet; beyond them upper case, then code points from 0x100.
_LETTERS = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'


class Example(NamedTuple):
  """One example as a model reads it, and what is known about it.

  tokens_L: the sequence. answer_start, answer_len: the answer within it, end token
  included. inserted_A: True at the answer's letters that the rule inserted (the
  others are copied). prompt_hash_2: 64 bits of the prompt. slices: name -> integer.
  """

  tokens_L: jax.Array
  answer_start: jax.Array
  answer_len: jax.Array
  inserted_A: jax.Array
  prompt_hash_2: jax.Array
  slices: dict[str, jax.Array]


def join(pieces, size: int):
  """Concatenate (values_N, length) pieces to (tokens_L, total length); L is size."""
  t = jnp.arange(size)
  tokens_L, start = jnp.zeros(size, jnp.int32), jnp.int32(0)
  for values_N, length in pieces:
    inside_L = (t >= start) & (t < start + length)
    index_L = jnp.clip(t - start, 0, values_N.shape[0] - 1)
    tokens_L = jnp.where(inside_L, values_N[index_L], tokens_L)
    start = start + length
  return tokens_L, start


def layout(prompt, answer, size: int, *, inserted_A, slices) -> Example:
  """Lay out the pieces of a prompt, each followed by SEP, and an answer with EOS.

  prompt: (letters_N, length) pieces in order. answer: (letters_O, length). size: the
  length L of a sequence. inserted_A, slices: see `Example`.
  """
  sep, eos = (jnp.array([SEP]), 1), (jnp.array([EOS]), 1)
  pieces = []
  for letters_N, length in prompt:
    pieces += [(letters_to_ids(letters_N), length), sep]
  out_O, out_len = answer
  pieces += [(letters_to_ids(out_O), out_len), eos]
  tokens_L, total = join(pieces, size)
  start = total - out_len - 1
  return Example(
    tokens_L=tokens_L,
    answer_start=start,
    answer_len=out_len + 1,
    inserted_A=inserted_A,
    prompt_hash_2=hash_prompt(tokens_L, start),
    slices=slices,
  )


def letters_to_ids(letters_N):
  """Letters 0..A-1 -> token ids."""
  return letters_N + FIRST_LETTER


def hash_prompt(tokens_L, length):
  """Two 32-bit hashes (uint32 [2]) of the first `length` tokens."""
  t = jnp.arange(tokens_L.shape[0], dtype=jnp.uint32)
  in_prompt = t < length.astype(jnp.uint32)
  hashes = []
  for salt in (0x9E3779B1, 0x85EBCA77):
    h = (tokens_L.astype(jnp.uint32) + 1) * jnp.uint32(salt) + t
    h = (h ^ (h >> 15)) * jnp.uint32(0x2C1B3C6D) * (2 * t + 1)
    h = (h ^ (h >> 12)) * jnp.uint32(0x297A2D39)
    hashes.append(jnp.where(in_prompt, h ^ (h >> 15), 0).sum(dtype=jnp.uint32))
  return jnp.stack(hashes)


def split(prompt_N) -> list[list[int]]:
  """The letters of each part of a prompt (ids, on the host); each part ends in SEP.

  A hidden token becomes letter -3.
  """
  parts: list[list[int]] = [[]]
  for token in map(int, prompt_N):
    if token == SEP:
      parts.append([])
    else:
      parts[-1].append(token - FIRST_LETTER)
  return parts[:-1]


def encode(text: str) -> list[int]:
  """Text -> letters 0..A-1; the inverse of `decode`."""
  return [
    _LETTERS.index(c) if c in _LETTERS else ord(c) - 0x100 + len(_LETTERS) for c in text
  ]


def decode(letters) -> str:
  """Letters 0..A-1 -> text."""
  return ''.join(
    _LETTERS[n] if n < len(_LETTERS) else chr(0x100 + n - len(_LETTERS))
    for n in map(int, letters)
  )


def character(token: int, symbols: str = '') -> str:
  """The character of a letter's token id; symbols: a task's own characters, if any."""
  letter = token - FIRST_LETTER
  return symbols[letter] if letter < len(symbols) else decode([letter])


def show(tokens, symbols: str = '') -> str:
  """Token ids -> readable text without the padding at the end."""
  ids = [int(n) for n in tokens]
  while ids and ids[-1] == PAD:
    ids.pop()
  return ''.join(_NAMES[n] if n < FIRST_LETTER else character(n, symbols) for n in ids)
