"""Connected digits for recognition: `digits:PATH`, sentences made of the recordings of `fsdd:PATH`.

A sentence is 3 to 5 recordings of one speaker, one after the other, with a pause of 50 to 150 ms of
zeros between them, and the text "three one four". Which recordings follow which is drawn once, by a
fixed generator, and the training sentences hold training recordings only (the split is that of
fsdd): every recording is used in ROUNDS sentences of its part.
The words are spoken, the sentences are joined: no coarticulation, no prosody over a sentence.
"""

from __future__ import annotations

import numpy as np

from nybble.training.data.audio import fsdd
from nybble.training.data.audio.base import Recording, SoundOptions, SpeechData, make_transcribed
from nybble.training.data.base import Found, Source

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHORTEST, LONGEST = 3, 5
PAUSE = (0.05, 0.15)
ROUNDS = 3
INSTALL = fsdd.INSTALL


def find() -> Found:
    """Where the digits are."""
    return fsdd.find()


def load(argument: str = "", options: SoundOptions | None = None) -> SpeechData:
    """Join the digits of each part of the split to sentences."""
    options = options or SoundOptions()
    words, indices, rate, notes = fsdd.read_digits(argument, options)
    is_test, how = fsdd.split_digits(options.split, words, indices)
    sentences: list[Recording] = []
    parts: list[bool] = []
    for part in (False, True):
        chosen = [word for word, test in zip(words, is_test, strict=True) if test == part]
        made = join(chosen, rate, ROUNDS, seed=int(part))
        sentences += made
        parts += [part] * len(made)
    joined = f"{SHORTEST} to {LONGEST} digits of one speaker joined to a sentence"
    return make_transcribed("digits", rate, sentences, parts, (how, joined, *notes))


def join(words: list[Recording], rate: int, rounds: int, seed: int) -> list[Recording]:
    """Sentences in which every word is used `rounds` times (a rest of a speaker's words that is
    shorter than a sentence is one all the same)."""
    random = np.random.default_rng(seed)
    sentences = []
    for speaker in sorted({word.speaker for word in words}):
        own = [word for word in words if word.speaker == speaker]
        for _ in range(rounds):
            order = random.permutation(len(own)).tolist()
            while order:
                size = int(random.integers(SHORTEST, LONGEST + 1))
                taken, order = order[:size], order[size:]
                sentences.append(_sentence([own[k] for k in taken], rate, random))
    return sentences


def _sentence(words: list[Recording], rate: int, random: np.random.Generator) -> Recording:
    pieces = []
    for word in words:
        pause = round(rate * random.uniform(*PAUSE))
        pieces += [word.samples, np.zeros(pause, dtype=np.int16)]
    text = " ".join(WORDS[int(word.label)] for word in words)
    name = f"'{text}' by {words[0].speaker}"
    samples = np.concatenate(pieces[:-1])
    return Recording(name, samples, speaker=words[0].speaker, text=text)


SOURCE = Source(
    name="digits",
    usage="digits:PATH",
    summary="sentences of 3 to 5 spoken digits, joined from the recordings of fsdd:PATH",
    install=INSTALL,
    load=load,
    find=find,
    tasks=("ctc",),
    argument="optional",
    licence="CC BY-SA 4.0",
)
