"""Rules that replace one string by another, in any task."""

from typing import Any

import jax
import jax.numpy as jnp

from onlyif_jax import keys
from onlyif_jax.data import Data, Member
from onlyif_jax.keys import Purpose
from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.rules import Part, Rule


def replaces_strings(data: Data, members: Member) -> bool:
  """Whether the rules of stacked members have an x and a y of letters."""

  def rule(member: Member):
    return data.rules.rule(member.rules_seed, Part.TRAIN, 0, member.setting)

  shapes: Any = jax.eval_shape(jax.vmap(rule), members)
  return hasattr(shapes, 'x_P') and hasattr(shapes, 'y_Q')


def rule_as_shown(example: tokens.Example, rule: Any) -> Rule:
  """The rule as its example shows it: x, and what replaces it in the answer.

  That is y, or what the task makes from it. The example's input must hold x.
  """
  length = example.inserted_A.sum()
  at_A = jnp.arange(example.inserted_A.shape[0]) + jnp.argmax(example.inserted_A)
  at_A = jnp.minimum(at_A + example.answer_start, example.tokens_L.shape[0] - 1)
  y_A = example.tokens_L[at_A] - tokens.FIRST_LETTER
  inside_A = jnp.arange(at_A.shape[0]) < length
  return Rule(rule.x_P, rule.x_len, jnp.where(inside_A, y_A, 0), length)


def example_with_x(
  data: Data, member: Member, rule, purpose: Purpose, i
) -> tokens.Example:
  """Example i of a rule, with x in its input."""
  key = keys.key(member.order_seed, purpose, i)
  return data.task.example(rule, key, setting=member.setting)
