"""The Hugging Face side of a benchmark: GPT-2 under torch, in its own process.

Between turns the process blocks on its standard input, so it takes no time from the
other side. Without jax; torch is loaded in that process only.
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
WARM = 3  # untimed steps at the start of each turn
IGNORED = -100  # label of a position without loss


def check() -> None:
  """Raises ConfigError if a package is missing; imports none of them."""
  missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
  if missing:
    raise ConfigError(
      f'--peers needs {", ".join(missing)}: pip install "onlyif_jax[hf]", or leave '
      'out --peers'
    )


class Worker:
  """The process, on a folder with model/ and data.npz (tokens and labels [N, L]).

  settings: batch_size, cores, and optimizer (learning_rate, b1, b2, eps, weight_decay,
  clip). `about` has versions, sides and the loss of the first batch.
  """

  def __init__(self, folder: Path, settings: Mapping[str, Any]):
    (folder / 'settings.json').write_text(json.dumps(settings))
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')]))
    quiet = {'HF_HUB_OFFLINE': '1', 'TRANSFORMERS_VERBOSITY': 'error'}
    self.log = folder / 'said.txt'
    with self.log.open('w') as log:
      self.process = subprocess.Popen(
        [sys.executable, '-m', 'onlyif_jax.benchmark_torch', str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=os.environ | quiet | {'PYTHONPATH': path},
      )
    try:
      self.about = self._answer()
    except BaseException:
      self.close()
      raise

  def turn(self, side: str, steps: int) -> float:
    """Seconds that one of `about['sides']` takes for a number of steps."""
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
    lines = self.log.read_text().strip().splitlines() or ['nothing']
    raise ConfigError(f'--peers: the process of torch ended and said: {lines[-1]}')

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
  """GPT-2 of transformers on the examples of a folder, with several training loops."""

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
    self.trainer_model = self.model()

  def model(self):
    """A model with the initial weights, in training mode."""
    cls = self.transformers.GPT2LMHeadModel
    model = cls.from_pretrained(self.folder / 'model', dtype=self.torch.float32)
    model.config.use_cache = False
    return model.to(self.device).train()

  def about(self) -> dict[str, Any]:
    """Versions, settings, sides, and the loss of the first batch."""
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
      'attention': self.trainer_model.config._attn_implementation,
      'sides': list(self.runs),
      'first_loss': float(loss),
    }

  def wait(self) -> None:
    """Waits until the device is idle."""
    if self.gpu:
      self.torch.cuda.synchronize()

  def mixed(self):
    """A context of bfloat16 matmuls on a GPU, of float32 elsewhere."""
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
      model=self.trainer_model,
      args=arguments,
      train_dataset=Examples(self.tokens_NL, self.labels_NL),
      callbacks=[clock],
    ).train()
    return clock.seconds

  def _clock(self, steps: int):
    """A callback that takes the `seconds` of all steps but the first WARM ones."""
    wait = self.wait

    class Clock(self.transformers.TrainerCallback):
      began = seconds = 0.0

      def on_step_end(self, args, state, control, **kwargs):
        """Times from the end of step WARM to the end of the last, data included."""
        if state.global_step == WARM:
          wait()
          self.began = time.perf_counter()
        elif state.global_step == WARM + steps:
          wait()
          self.seconds = time.perf_counter() - self.began

    return Clock()


class Examples:
  """A map-style dataset for torch."""

  def __init__(self, tokens_NL, labels_NL):
    self.tokens_NL, self.labels_NL = tokens_NL, labels_NL

  def __len__(self):
    return len(self.tokens_NL)

  def __getitem__(self, i):
    return {'input_ids': self.tokens_NL[i], 'labels': self.labels_NL[i]}


class Bare:
  """A plain loop: forward, loss, backward and AdamW on batches in device memory."""

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
    """Trains on, and returns the seconds of `steps` steps."""
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
  """Answers each line [side, steps] of standard input with the seconds it took."""
  answers = os.fdopen(os.dup(1), 'w', buffering=1)
  os.dup2(2, 1)  # what the libraries print must not mix with the answers
  peer = Peer(folder)
  print(json.dumps(peer.about()), file=answers)
  for line in sys.stdin:
    side, steps = json.loads(line)
    print(json.dumps({'seconds': peer.runs[side](steps)}), file=answers)


if __name__ == '__main__':
  serve(Path(sys.argv[1]))
