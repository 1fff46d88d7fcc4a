"""Tokenizers and batches of text: every token once, pure functions of seed, epoch and step."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from nybble.errors import UserError
from nybble.training.data.text import stream as streams
from nybble.training.data.text import tokenizers
from nybble.training.data.text.lengths import POOL, BucketedBatches, in_order_of_length, pad
from nybble.training.data.text.stream import CarriedBatches, ChunkBatches, token_stream
from nybble.training.data.text.tokenizers import train_tokenizer

LM = ("<unk>", "<eos>")

# -- tokenizers ------------------------------------------------------------------------------------


def test_words_are_the_most_frequent_ones_ties_by_the_alphabet() -> None:
    words = train_tokenizer("word", ["b a c", "a b c d", "<unk> <unk> <unk>"], 5, LM)
    assert words.size == 5 and words.encode("a b c d e") == [2, 3, 4, 0, 0]
    assert words.encode("<unk> a") == [0, 2]  # as prepared files write it
    assert words.encode("<eos> a") == [0, 2]  # but a special token cannot be written in a text
    assert words.decode([2, 1, 0]) == "a <unk>"


def test_characters() -> None:
    chars = train_tokenizer("char", ["aab ", "é"], 256, LM)
    assert chars.size == 6 and chars.encode("a é?") == [2, 3, 5, 0]
    assert chars.decode(chars.encode("a é")) == "a é"
    assert train_tokenizer("char", ["aab ", "é"], 4, LM).encode("ab é") == [2, 0, 3, 0]


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    with pytest.raises(UserError, match="vocabulary is too small"):
        train_tokenizer("word", ["a"], 2, LM)
    with pytest.raises(UserError, match="Unknown tokens 'byte'; choose one of word, char, bpe"):
        train_tokenizer("byte", ["a"], 9, LM)


def test_byte_pairs() -> None:
    pytest.importorskip("tokenizers")
    texts = ["the cat sat on the mat", "the dog ate the <eos> cat"] * 3
    bpe = train_tokenizer("bpe", texts, 270, ("<pad>", *LM))
    again = train_tokenizer("bpe", texts, 270, ("<pad>", *LM))
    assert bpe.size == 270
    for text in (*texts, "ein Übermut 日本 <pad>", "two  spaces"):
        ids = bpe.encode(text)
        assert bpe.decode(ids) == text and min(ids) >= 3  # special tokens are not found in a text
        assert again.encode(text) == ids
    assert len(bpe.encode("the cat")) < len("the cat")
    assert bpe.decode([1, *bpe.encode("cat"), 2, 0]) == "cat"
    with pytest.raises(UserError, match="A vocabulary of 200 is too small for BPE"):
        train_tokenizer("bpe", texts, 200, LM)


def test_byte_pairs_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"Install it with: pip install 'nybble\[language\]'"):
        train_tokenizer("bpe", ["a"], 300, LM)


# -- a language model's batches --------------------------------------------------------------------


def test_the_stream_has_an_end_before_and_after_every_line() -> None:
    words = train_tokenizer("word", ["a b", "c"], 10, LM)
    assert token_stream(["a b", "c"], words, 1).tolist() == [1, 2, 3, 1, 4, 1]


@pytest.mark.parametrize("kind", [CarriedBatches, ChunkBatches])
@pytest.mark.parametrize(("count", "batch", "length"), [(101, 4, 5), (40, 3, 7), (11, 2, 35)])
def test_batches_are_pure_functions_and_targets_are_the_next_tokens(
    kind: type, count: int, batch: int, length: int
) -> None:
    batches = kind(torch.arange(count, dtype=torch.int32), batch, length, 3)
    again = kind(torch.arange(count, dtype=torch.int32), batch, length, 3)
    seen = []
    for step in range(batches.steps_per_epoch):
        inputs, targets = batches.batch(1, step)
        assert inputs.dtype == targets.dtype == torch.int64
        assert torch.equal(targets, (inputs + 1) % count)
        seen += inputs.flatten().tolist()
    assert len(set(seen)) == len(seen)  # no token twice in a pass
    assert len(seen) > count / 2 - batch * length
    last = batches.steps_per_epoch - 1
    assert torch.equal(again.batch(1, last)[0], batches.batch(1, last)[0])
    other = kind(torch.arange(count, dtype=torch.int32), batch, length, 4)
    first = [batches.batch(epoch, 0)[0] for epoch in range(5)]
    assert not all(torch.equal(now, first[0]) for now in first)
    assert not all(torch.equal(other.batch(epoch, 0)[0], first[epoch]) for epoch in range(5))


def test_carried_batches_follow_each_other() -> None:
    batches = CarriedBatches(torch.arange(1000), batch_size=4, length=7, seed=0)
    for step in range(1, batches.steps_per_epoch):
        before, now = batches.batch(2, step - 1)[1], batches.batch(2, step)[0]
        assert torch.equal(before[:, -1], now[:, 0])


def test_an_epoch_of_so_many_steps() -> None:
    text = torch.arange(100)
    assert CarriedBatches(text, 2, 10, 0, steps=3).steps_per_epoch == 3
    assert CarriedBatches(text, 2, 10, 0, steps=300).steps_per_epoch == 5
    whole = ChunkBatches(text, 2, 10, 0)
    parts = ChunkBatches(text, 2, 10, 0, steps=3)
    longer = ChunkBatches(text, 2, 10, 0, steps=9)
    assert (whole.steps_per_epoch, parts.steps_per_epoch, longer.steps_per_epoch) == (4, 3, 9)
    for number in range(8):  # the same steps, cut in other epochs
        expected = whole.batch(*divmod(number, 4))[0]
        assert torch.equal(parts.batch(*divmod(number, 3))[0], expected)
        assert torch.equal(longer.batch(0, number)[0], expected)


@pytest.mark.parametrize(
    "batches",
    [
        lambda stream: streams.evaluation_rows(stream, 4, 6),
        lambda stream: streams.evaluation_rows(stream, 100, 6),
        lambda stream: streams.evaluation_chunks(stream, 3, 8),
        lambda stream: streams.evaluation_chunks(stream, 50, 500),
    ],
)
@pytest.mark.parametrize("count", [2, 3, 50, 97])
def test_every_token_of_a_test_set_is_predicted_once(batches: object, count: int) -> None:
    stream = torch.arange(count, dtype=torch.int32)
    seen = []
    for inputs, targets in batches(stream):  # type: ignore[operator]
        real = targets != streams.IGNORED
        assert torch.equal(targets[real], inputs[real] + 1)
        seen += targets[real].tolist()
    assert sorted(seen) == list(range(1, count))


def test_a_text_of_two_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="shorter than three tokens"):
        ChunkBatches(torch.arange(2), 1, 1, 0)


# -- sequences of different lengths ----------------------------------------------------------------


def test_buckets_take_everything_once_a_pass_and_pad_little() -> None:
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 60, (997,), generator=random)
    batches = BucketedBatches(lengths, 10, seed=0)
    chosen = [batches.batch(0, step) for step in range(batches.steps_per_epoch)]
    assert len(chosen) == 99 and all(len(batch) == 10 for batch in chosen)
    assert len(set(torch.cat(chosen).tolist())) == 990
    padded = sum(int(lengths[batch].max()) * 10 for batch in chosen)
    assert padded < 1.05 * int(lengths[torch.cat(chosen)].sum())
    firsts = [int(lengths[batch][0]) for batch in chosen]
    assert firsts != sorted(firsts) and sorted(firsts[:POOL]) != sorted(firsts)[:POOL]
    second = torch.cat([batches.batch(1, step) for step in range(99)])
    assert not torch.equal(second, torch.cat(chosen))
    assert torch.equal(batches.batch(0, 7), chosen[7])  # after another pass was looked at
    cut = BucketedBatches(lengths, 10, seed=0, steps=40)
    assert cut.steps_per_epoch == 40 and torch.equal(cut.batch(2, 20), batches.batch(1, 1))


def test_fewer_sequences_than_a_batch_and_a_test_sets_order() -> None:
    batches = BucketedBatches(torch.tensor([3, 1, 2]), 10, seed=0)
    assert sorted(batches.batch(5, 0).tolist()) == [0, 1, 2]
    order = in_order_of_length(torch.tensor([3, 1, 2, 1]), 3)
    assert [part.tolist() for part in order] == [[1, 3, 2], [0]]
    assert pad([[1], [2, 3], []], -100).tolist() == [[1, -100], [2, 3], [-100, -100]]


def test_kinds_are_those_that_can_be_made() -> None:
    assert tokenizers.KINDS == ("word", "char", "bpe")
