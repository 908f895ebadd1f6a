"""Rows of general instructions, in the formats of Alpaca and OpenOrca."""

import random
from collections.abc import Iterator

Asked = tuple[str, str, str]  # instruction, input, output
# Pairs, and the ways to ask for the second of a pair.
PAIRS: dict[tuple[str, ...], str] = {
  (
    'Give the plural of the noun.',
    'Write this noun in the plural.',
    'How is the plural of this word spelt?',
  ): 'child children, mouse mice, leaf leaves, city cities, box boxes, foot feet, '
  'knife knives, goose geese, tooth teeth, berry berries, potato potatoes',
  (
    'Put the verb into the past tense.',
    'What is the simple past of this verb?',
    'Give the past form of the word.',
  ): 'go went, sing sang, buy bought, write wrote, swim swam, catch caught, fly flew, '
  'bring brought, keep kept, begin began, teach taught',
  (
    'Name the opposite of the word.',
    'Find an antonym.',
    'Which word means the contrary?',
  ): 'hot cold, early late, full empty, loud quiet, narrow wide, ancient modern, '
  'brave cowardly, rough smooth, shallow deep, strong weak, dry wet',
  (
    'Name the capital of the country.',
    'Which city is the capital?',
    'Tell me the capital city of this country.',
  ): 'Peru Lima, Kenya Nairobi, Norway Oslo, Japan Tokyo, Portugal Lisbon, '
  'Egypt Cairo, '
  'Chile Santiago, Canada Ottawa, Vietnam Hanoi, Austria Vienna, Cuba Havana',
  (
    'What is the young of this animal called?',
    'Name the young animal.',
    'Give the word for the baby of this animal.',
  ): 'dog puppy, cat kitten, cow calf, sheep lamb, horse foal, goose gosling, '
  'bear cub, '
  'frog tadpole, deer fawn, goat kid, swan cygnet',
  (
    'Translate the word into German.',
    'How do you say this in German?',
    'Give the German noun.',
  ): 'house Haus, tree Baum, water Wasser, bread Brot, book Buch, dog Hund, moon Mond, '
  'hand Hand, table Tisch, window Fenster',
  (
    'Translate the word into French.',
    'How do you say this in French?',
    'Give the French noun.',
  ): 'cat chat, milk lait, sun soleil, bird oiseau, apple pomme, night nuit, sea mer, '
  'door porte, snow neige, key clé',
  (
    'Give the chemical symbol of the element.',
    'How is this element abbreviated?',
    'Write the symbol of the element.',
  ): 'gold Au, iron Fe, oxygen O, sodium Na, silver Ag, helium He, carbon C, lead Pb, '
  'copper Cu, tin Sn',
  (
    'Is it a fruit, a tool or an animal?',
    'Classify the word as fruit, tool or animal.',
    'Choose the right class: fruit, tool, animal.',
  ): 'hammer tool, plum fruit, otter animal, saw tool, cherry fruit, heron animal, '
  'chisel tool, mango fruit, badger animal, pear fruit, wrench tool',
  (
    'Name a word that rhymes with it.',
    'Find a rhyme.',
    'Which word sounds alike at the end?',
  ): 'light night, bread head, moon spoon, tall wall, rain train, stone bone, '
  'flower tower, mouse house, sing ring, four door',
}
ODD = (
  ('oak, pine, salmon, birch', 'salmon', 'The others are trees.'),
  ('violin, cello, harp, drum', 'drum', 'The others have strings.'),
  ('Mars, Venus, Paris, Saturn', 'Paris', 'The others are planets.'),
  ('red, round, green, blue', 'round', 'The others are colours.'),
  ('Monday, Friday, April, Sunday', 'April', 'The others are days.'),
  ('bee, ant, beetle, sparrow', 'sparrow', 'The others are insects.'),
  ('rye, wheat, barley, basil', 'basil', 'The others are grains.'),
  ('boat, ferry, canoe, tram', 'tram', 'The others move on water.'),
  ('soup, chair, table, bench', 'soup', 'The others are furniture.'),
  ('three, seven, nine, first', 'first', 'The others are cardinal numbers.'),
)
OPEN = (
  ('Give two reasons to ride a bicycle.', 'It keeps you fit, and it makes no fumes.'),
  ('Why do ships float?', 'They push aside water that weighs as much as they do.'),
  ('Explain why the sky is blue.', 'Air scatters blue light more than red light.'),
  ('Name three things to pack for rain.', 'A coat, an umbrella and dry socks.'),
  ('Suggest a name for a bakery.', 'The Warm Crust'),
  ('Write one sentence about autumn.', 'Leaves fall softly on the wet path.'),
  ('Tell me how to keep bread fresh.', 'Wrap it in cloth and keep it in a box.'),
  ('What does a thermometer measure?', 'It measures temperature.'),
  ('Describe snow to someone who never saw it.', 'It is soft, cold, white and silent.'),
  ('How can I fall asleep faster?', 'Put the phone away and keep the room dark.'),
  ('Write a polite way to say no.', 'Thank you, but I cannot come this time.'),
  ('List the four seasons.', 'Spring, summer, autumn and winter.'),
  ('Give a tip for learning words.', 'Use each new word in a sentence of your own.'),
  ('What is the use of a compass?', 'It shows where north is.'),
  ('Name two uses of salt.', 'It seasons food, and it melts ice on roads.'),
  ('Write a title for a story about a lost key.', 'The Door That Waited'),
  ('Why should one wash hands?', 'It removes germs before they reach the mouth.'),
  ('How do plants make sugar?', 'They make it from light, water and air.'),
  ('Give an example of a renewable source of energy.', 'Wind is one.'),
  ('What is a synonym?', 'It is a word with the same meaning as another.'),
  ('Invent a slogan for a library.', 'Every shelf is a journey.'),
  ('Write a thank-you note of one line.', 'Thank you for the book, I love it.'),
  ('How many legs does a spider have?', 'A spider has eight legs.'),
  ('What should I do with old batteries?', 'Take them to a collection point.'),
)
WORDS = [
  'apple',
  'bridge',
  'candle',
  'desert',
  'engine',
  'forest',
  'garden',
  'harbour',
  'island',
  'jacket',
  'kettle',
  'lantern',
  'market',
  'needle',
  'orchard',
  'pepper',
  'quarry',
  'ribbon',
  'saddle',
  'timber',
  'umbrella',
  'valley',
  'window',
]
LINES = (
  'The old clock stopped at noon.',
  'A gentle wind moved the tall grass.',
  'We carried seven boxes up the stairs.',
  'Nobody heard the bell last night.',
  'Fresh bread smells better than perfume.',
  'The river turned grey after the storm.',
  'Her brother repairs broken radios.',
  'Children painted the fence yellow.',
  'My neighbour grows giant pumpkins.',
  'Snow covered every roof in town.',
  'The teacher forgot his green umbrella.',
  'Three tired hikers reached the hut.',
)


def alpaca() -> Iterator[Asked]:
  """Instructions, most of them with an input."""
  for asks, pairs in PAIRS.items():
    for n, pair in enumerate(pairs.split(', ')):
      word, _, answer = pair.partition(' ')
      yield asks[n % len(asks)], word, answer
  for n, (words, odd, why) in enumerate(ODD):
    ask = ('Which word does not belong?', 'Find the odd one out and say why.')[n % 2]
    yield ask, words, (odd, f'{odd}. {why}')[n % 2]
  for question, answer in OPEN:
    yield question, '', answer
  yield from _sorted_words()
  for n, line in enumerate(LINES):
    words = line.strip('.').split()
    longest = max(words, key=len)
    yield (
      ('How many words are in the sentence?', line, f'It has {len(words)} words.'),
      ('Write the sentence in capital letters.', line, line.upper()),
      ('What is the longest word of the sentence?', line, longest),
      ('Repeat the first word of the sentence.', line, words[0]),
    )[n % 4]


def _sorted_words() -> Iterator[Asked]:
  rng = random.Random(11)
  asks = (
    'Put the words into alphabetical order.',
    'Sort this list from A to Z.',
    'Write the words backwards, from the last to the first.',
    'Which of the words is the shortest?',
  )
  for n in range(16):
    words = rng.sample(WORDS, 4)
    shortest = [w for w in words if len(w) == min(map(len, words))]
    if n % 4 == 3 and len(shortest) > 1:  # no question without one answer
      words = ['ox', *words[:3]]
      shortest = ['ox']
    answers = (sorted(words), sorted(words), words[::-1], shortest)
    yield asks[n % 4], ', '.join(words), ', '.join(answers[n % 4])


SYSTEM = (
  '',
  'You are a helpful assistant.',
  'You are an AI assistant. You will be given a task. Answer shortly.',
  'You are a teacher. Explain your answer in one sentence.',
)
# Two sentences: does the second follow from the first?
FOLLOWS = (
  ('A man plays a guitar on a stage.', 'A man makes music.', 'yes'),
  ('A dog sleeps under the table.', 'The dog is running.', 'no'),
  ('Two girls eat soup.', 'Somebody is eating.', 'yes'),
  ('The shop closes at five.', 'The shop is open all night.', 'no'),
  ('All seats are taken.', 'There is a free seat.', 'no'),
  ('Ann is taller than Ben.', 'Ben is shorter than Ann.', 'yes'),
  ('It rained the whole day.', 'It was dry in the morning.', 'no'),
  ('The red car is parked.', 'A car is parked.', 'yes'),
  ('Nobody came to the party.', 'The party was crowded.', 'no'),
  ('The cat sits on the roof.', 'An animal is on the roof.', 'yes'),
)
OPINIONS = (
  ('The soup was cold and the waiter rude.', 'negative'),
  ('What a bright and charming film!', 'positive'),
  ('The bag broke after two days.', 'negative'),
  ('Best pillow I ever had.', 'positive'),
  ('I would not stay in this hotel again.', 'negative'),
  ('The staff helped us at once, lovely.', 'positive'),
  ('A dull book with a weak end.', 'negative'),
  ('My plants thrive since I use this pot.', 'positive'),
  ('The app crashes every hour.', 'negative'),
  ('Clear sound, easy to set up.', 'positive'),
)
FACTS = (  # who, what, where
  ('Mia', 'a baker', 'Porto'),
  ('Omar', 'a pilot', 'Oslo'),
  ('Lena', 'a nurse', 'Lima'),
  ('Ivan', 'a plumber', 'Riga'),
  ('Sara', 'a judge', 'Hanoi'),
  ('Paul', 'a tailor', 'Cairo'),
  ('Nina', 'a farmer', 'Quito'),
  ('Karl', 'a dentist', 'Turin'),
  ('Rosa', 'a painter', 'Ghent'),
  ('Amir', 'a chemist', 'Perth'),
)
BETWEEN = (
  ('Monday', 'Wednesday', 'Tuesday'),
  ('March', 'May', 'April'),
  ('six', 'eight', 'seven'),
  ('Thursday', 'Saturday', 'Friday'),
  ('September', 'November', 'October'),
  ('spring', 'autumn', 'summer'),
  ('B', 'D', 'C'),
  ('fourth', 'sixth', 'fifth'),
)


def openorca() -> Iterator[Asked]:
  """(system prompt, question, response)."""
  out: list[tuple[str, str]] = []
  for first, second, answer in FOLLOWS:
    word = {'yes': 'Yes, that follows.', 'no': 'No, that contradicts it.'}[answer]
    out.append(
      (f'Premise: {first}\nHypothesis: {second}\nDoes the premise entail it?', word)
    )
  for text, mood in OPINIONS:
    out.append((f'Review: {text}\nIs it positive or negative?', f'It is {mood}.'))
  for n, (who, what, where) in enumerate(FACTS):
    out.append(
      (
        f'Make a sentence of: name = {who}; job = {what[2:]}; city = {where}',
        f'{who} is {what} in {where}.',
      )
    )
    asked = (('Who is it about?', who), ('Which city is named?', where))[n % 2]
    out.append((f'{who} works in {where} as {what}. {asked[0]}', f'{asked[1]}.'))
  for first, last, middle in BETWEEN:
    out.append((f'What comes between {first} and {last}?', f'It is {middle}.'))
  rng = random.Random(12)
  for n in range(20):
    words = rng.sample(WORDS, 3)
    place = n % 3
    out.append(
      (
        f'Text: {words[0]} {words[1]} {words[2]}. Give word number {place + 1}.',
        f'Word number {place + 1} is {words[place]}.',
      )
    )
  for n, line in enumerate(LINES):
    words = line.strip('.').split()
    gap = n % (len(words) - 1)
    shown = ' '.join('___' if i == gap else w for i, w in enumerate(words))
    choices = sorted({words[gap], WORDS[n], WORDS[-1 - n]})
    out.append(
      (
        f'The sentence "{line}" lost a word: {shown}. Choose: {", ".join(choices)}',
        f'The missing word is {words[gap]}.',
      )
    )
  for n, (question, answer) in enumerate(out):
    yield SYSTEM[n % len(SYSTEM)], question, answer
