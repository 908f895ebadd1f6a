"""The Hugging Face side of a benchmark: GPT-2 under torch, in a process of its own.

The process is kept alive between turns, waiting for its next line, so that it takes
nothing from the other side. No jax here; torch is loaded in that process alone.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onlyif_jax.config import ConfigError

NEEDED = ('torch', 'transformers', 'accelerate', 'safetensors')
WARM = 3  # steps before those that are timed
IGNORED = -100  # label of a position without loss


def check() -> None:
  """Raises ConfigError where a package is missing; loads none of them."""
  missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
  if missing:
    raise ConfigError(
      f'--peers needs {", ".join(missing)}: pip install "onlyif_jax[hf]", or leave '
      'out --peers'
    )


class Worker:
  """The process, over a folder with model/, data.npz and settings.json.

  settings: batch_size, cores, optimizer (learning_rate, b1, b2, eps, weight_decay,
  clip) and steps. data.npz: tokens and labels [n, L].
  """

  def __init__(self, folder: Path, settings: Mapping[str, Any]):
    (folder / 'settings.json').write_text(json.dumps(settings))
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')]))
    quiet = {'HF_HUB_OFFLINE': '1', 'TRANSFORMERS_VERBOSITY': 'error'}
    self.said = folder / 'said.txt'
    with self.said.open('w') as said:
      self.process = subprocess.Popen(
        [sys.executable, '-m', 'onlyif_jax.benchmark_torch', str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
        env=os.environ | quiet | {'PYTHONPATH': path},
      )
    try:
      self.about = self._answer()
    except BaseException:
      self.close()
      raise

  def turn(self, side: str, steps: int) -> float:
    """Seconds that a side of `about['sides']` needs for so many steps."""
    assert self.process.stdin is not None
    self.process.stdin.write(json.dumps([side, steps]) + '\n')
    self.process.stdin.flush()
    return self._answer()['seconds']

  def _answer(self) -> dict[str, Any]:
    assert self.process.stdout is not None
    line = self.process.stdout.readline()
    if line:
      return json.loads(line)
    self.process.wait()
    said = self.said.read_text().strip().splitlines() or ['nothing']
    raise ConfigError(f'--peers: the process of torch ended and said: {said[-1]}')

  def close(self) -> None:
    """Ends the process."""
    for pipe in (self.process.stdin, self.process.stdout):
      if pipe is not None:
        with contextlib.suppress(BrokenPipeError):
          pipe.close()
    self.process.wait()

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()


class Peer:
  """GPT-2 of transformers on the examples of a folder, trained in several ways."""

  def __init__(self, folder: Path):
    self.torch: Any = importlib.import_module('torch')
    self.transformers: Any = importlib.import_module('transformers')
    self.folder = folder
    self.settings = json.loads((folder / 'settings.json').read_text())
    self.torch.set_num_threads(self.settings['cores'])
    self.gpu = self.torch.cuda.is_available()
    self.device = 'cuda' if self.gpu else 'cpu'
    arrays = np.load(folder / 'data.npz')
    self.tokens_NL, self.labels_NL = (
      self.torch.from_numpy(arrays[k].astype(np.int64)) for k in ('tokens', 'labels')
    )
    self.runs = {'trainer': self.trainer, 'bare': Bare(self, self.model())}
    if self.gpu:
      compiled = self.torch.compile(self.model())
      self.runs['compiled'] = Bare(self, compiled)
    self.trained = self.model()  # by Trainer

  def model(self):
    """A model with the folder's weights, in training mode."""
    cls = self.transformers.GPT2LMHeadModel
    model = cls.from_pretrained(self.folder / 'model', dtype=self.torch.float32)
    model.config.use_cache = False
    return model.to(self.device).train()

  def about(self) -> dict[str, Any]:
    """Versions, sides, and the loss of the first batch, for a check."""
    rows = slice(0, self.settings['batch_size'])
    with self.torch.no_grad():
      loss = self.model()(
        input_ids=self.tokens_NL[rows].to(self.device),
        labels=self.labels_NL[rows].to(self.device),
      ).loss
    versions = {name: importlib.import_module(name).__version__ for name in NEEDED[:3]}
    return {
      'versions': versions,
      'device': self.device,
      'threads': self.torch.get_num_threads(),
      'attention': self.trained.config._attn_implementation,
      'sides': list(self.runs),
      'first_loss': float(loss),
    }

  def wait(self) -> None:
    """Returns when the device has done what it was given."""
    if self.gpu:
      self.torch.cuda.synchronize()

  def mixed(self):
    """bfloat16 matmuls on a GPU, float32 elsewhere."""
    return self.torch.autocast('cuda', self.torch.bfloat16, enabled=self.gpu)

  def trainer(self, steps: int) -> float:
    """Seconds of `steps` steps of transformers.Trainer with its DataLoader."""
    s, optimizer, clock = self.settings, self.settings['optimizer'], self._clock(steps)
    arguments = self.transformers.TrainingArguments(
      output_dir=str(self.folder / 'trainer'),
      per_device_train_batch_size=s['batch_size'],
      max_steps=WARM + steps,
      learning_rate=optimizer['learning_rate'],
      adam_beta1=optimizer['b1'],
      adam_beta2=optimizer['b2'],
      adam_epsilon=optimizer['eps'],
      weight_decay=optimizer['weight_decay'],
      max_grad_norm=optimizer['clip'],
      bf16=self.gpu,
      use_cpu=not self.gpu,
      dataloader_num_workers=min(4, s['cores'] // 2) if self.gpu else 0,
      dataloader_pin_memory=self.gpu,
      report_to='none',
      save_strategy='no',
      logging_strategy='no',
      disable_tqdm=True,
    )
    self.transformers.Trainer(
      model=self.trained,
      args=arguments,
      train_dataset=Examples(self.tokens_NL, self.labels_NL),
      callbacks=[clock],
    ).train()
    return clock.seconds

  def _clock(self, steps: int):
    """A callback whose `seconds` are of the steps after the first WARM ones."""
    wait = self.wait

    class Clock(self.transformers.TrainerCallback):
      began = seconds = 0.0

      def on_step_end(self, args, state, control, **kwargs):
        """From the end of a step to the end of another: fetching data is inside."""
        if state.global_step == WARM:
          wait()
          self.began = time.perf_counter()
        elif state.global_step == WARM + steps:
          wait()
          self.seconds = time.perf_counter() - self.began

    return Clock()


class Examples:
  """A dataset as torch wants it."""

  def __init__(self, tokens_NL, labels_NL):
    self.tokens_NL, self.labels_NL = tokens_NL, labels_NL

  def __len__(self):
    return len(self.tokens_NL)

  def __getitem__(self, i):
    return {'input_ids': self.tokens_NL[i], 'labels': self.labels_NL[i]}


class Bare:
  """Forward, loss, backward and AdamW on batches that lie on the device."""

  def __init__(self, peer: Peer, model):
    self.peer, self.model, self.done = peer, model, 0
    torch, o, size = peer.torch, peer.settings['optimizer'], peer.settings['batch_size']
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
      {'params': matrices, 'weight_decay': o['weight_decay']},
      {'params': others, 'weight_decay': 0.0},
    ]
    betas = (o['b1'], o['b2'])
    self.optimizer = torch.optim.AdamW(
      groups, o['learning_rate'], betas, o['eps'], fused=True
    )
    self.clip = o['clip']
    whole = len(peer.tokens_NL) // size * size
    self.batches = list(
      zip(
        peer.tokens_NL[:whole].to(peer.device).split(size),
        peer.labels_NL[:whole].to(peer.device).split(size),
        strict=True,
      )
    )

  def __call__(self, steps: int) -> float:
    """Seconds of `steps` steps."""
    self._train(WARM)
    self.peer.wait()
    began = time.perf_counter()
    self._train(steps)
    self.peer.wait()
    return time.perf_counter() - began

  def _train(self, steps: int) -> None:
    for _ in range(steps):
      tokens_BL, labels_BL = self.batches[self.done % len(self.batches)]
      self.done += 1
      with self.peer.mixed():
        loss = self.model(input_ids=tokens_BL, labels=labels_BL).loss
      loss.backward()
      if self.clip:
        parameters = self.model.parameters()
        self.peer.torch.nn.utils.clip_grad_norm_(parameters, self.clip)
      self.optimizer.step()
      self.optimizer.zero_grad(set_to_none=True)


def serve(folder: Path) -> None:
  """Answers each line [side, steps] on standard input with the seconds it took."""
  answers = os.fdopen(os.dup(1), 'w', buffering=1)
  os.dup2(2, 1)  # whatever the libraries print
  peer = Peer(folder)
  print(json.dumps(peer.about()), file=answers)
  for line in sys.stdin:
    side, steps = json.loads(line)
    print(json.dumps({'seconds': peer.runs[side](steps)}), file=answers)


if __name__ == '__main__':
  serve(Path(sys.argv[1]))
