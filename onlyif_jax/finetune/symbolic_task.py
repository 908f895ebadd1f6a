"""A row of a symbolic task: what it trains on, and how a model is judged on it."""

from typing import Any

from onlyif_jax.corpora.rows import Row
from onlyif_jax.finetune import answers, symbolic, tuning_config
from onlyif_jax.finetune.answers import Evaluation
from onlyif_jax.finetune.base import Base
from onlyif_jax.finetune.rows import TuningRow
from onlyif_jax.models.lora import Parts
from onlyif_jax.tuning_settings import SymbolicTuning


class SymbolicTask:
  """The examples of a symbolic row, and the judgement of a model on them.

  shots: solved examples before each question.
  """

  def __init__(self, tuning: SymbolicTuning, row: TuningRow, shots: int = 0):
    self.settings = tuning_config.variant(tuning, row.variant).task
    self.examples = symbolic.examples(tuning, row)
    self.shots = [
      symbolic.as_row('shot', n, question)
      for n, question in enumerate(self.examples.train[:shots])
    ]

  def training(self) -> tuple[dict[str, list[Row]], list[tuple[str, int]]]:
    """(rows by source, the plan)."""
    rows = self.examples.rows
    return {'train': rows}, [('train', n) for n in range(len(rows))]

  def facts(self) -> dict[str, Any]:
    """What the ledger says of the row's data."""
    rules = {
      tuple(sorted((k, v) for k, v in question.fields.items() if k != 'input'))
      for question in self.examples.train
    }
    return {'rules_met': len(rules)}

  def judge(self, tuning: SymbolicTuning, base: Base, parts: Parts) -> Evaluation:
    """Asks every split's questions."""
    params = parts.weights()
    noops = getattr(self.settings, 'noops', False)
    algebra = self.settings.name == 'algebra'
    trained = None if algebra else answers.trained_rules(self.examples.train)
    evaluation = Evaluation([], [], [])
    for split, questions in self.examples.questions.items():
      texts, ended = answers.ask(
        parts.graphdef,
        params,
        base,
        tuning.tune.template,
        questions,
        tuning.answers,
        self.shots,
      )
      judged = answers.judge(
        split, questions, texts, ended, noops=noops, trained=trained
      )
      evaluation.results.extend(answers.results(judged, symbolically=algebra))
      evaluation.anatomy.extend(answers.anatomy(judged))
      evaluation.wrong.extend(answers.wrong(judged, tuning.answers.shown))
    return evaluation
