"""Makes tokenizer/: a small byte-level BPE tokenizer with a chat template.

Run where transformers is installed: python tests/data/make_tokenizer.py
"""

from pathlib import Path

from tokenizers import (
  AddedToken,
  Tokenizer,
  decoders,
  models,
  pre_tokenizers,
  processors,
  trainers,
)
from transformers import PreTrainedTokenizerFast

OUT = Path(__file__).parent / 'tokenizer'
SPECIAL = [
  *('<s>', '</s>', '[INST]', '[/INST]'),
  *('<|system|>', '<|user|>', '<|assistant|>', '<|end|>'),
]
TEMPLATE = (
  '{{ bos_token }}'
  "{% for message in messages %}{% if message['role'] == 'assistant' %}"
  '<|assistant|>\n'
  "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}{{ '\\n' }}"
  '{% else %}'
  "<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
  '{% endif %}{% endfor %}'
  '{% if add_generation_prompt %}<|assistant|>\n{% endif %}'
)
TEXT = """Below is an instruction that describes a task. Write a response that
appropriately completes the request. It is paired with an input that provides further
context. ### Instruction: ### Input: ### Response: @@ Instruction @@ Response
You are an exceptionally intelligent coding assistant that consistently delivers
accurate and reliable responses to user instructions.
Write a Python function that returns the sum of the even numbers of a list.
def total(numbers): return sum(n for n in numbers if n % 2 == 0)
How many apples are left when five of seventeen are eaten? Twelve apples are left,
because seventeen minus five is twelve. The answer is 12.
Name the largest river of the country and the city at its mouth. The river rises in the
hills, flows through three lakes and reaches the sea near the old harbour.
Why does the kettle sing before the water boils? Small bubbles form at the hot bottom
and collapse on their way up, and each collapse is a click that we hear as a song.
Translate the sentence into plain English, then give one reason for each change.
for i in range(10): print(i) while True: break if x == y: pass else: return None
class Stack: def __init__(self): self.items = [] def push(self, item): append
First, second, third, and finally: the train leaves at noon, the boat at one.
"""


def main():
  bpe = Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=611,
    special_tokens=[AddedToken(name, special=True) for name in SPECIAL],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  bpe.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
  bos = ('<s>', bpe.token_to_id('<s>'))
  bpe.post_processor = processors.TemplateProcessing(
    single='<s> $A', special_tokens=[bos]
  )
  whole = PreTrainedTokenizerFast(
    tokenizer_object=bpe, bos_token='<s>', eos_token='</s>', model_max_length=2048
  )
  whole.chat_template = TEMPLATE
  whole.save_pretrained(OUT)


if __name__ == '__main__':
  main()
