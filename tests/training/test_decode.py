"""Greedy and beam decoding, on a model whose probabilities are written down."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from nybble.training.models.decode import beam, greedy
from nybble.training.models.seq2seq import TranslationTransformer

BOS, EOS, A, B = 0, 1, 2, 3


class Table(nn.Module):
    """p(next | beginning) from a dict; a beginning that is not in it is followed by <eos>."""

    def __init__(self, table: dict[tuple[int, ...], dict[int, float]]) -> None:
        super().__init__()
        self.table = table

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        logits = torch.full((*target.shape, 4), -1e9)
        for row, tokens in enumerate(target.tolist()):
            following = self.table.get((int(source[row, 0]), *tokens[1:]), {EOS: 1.0})
            for token, p in following.items():
                logits[row, -1, token] = math.log(p)
        return logits


GREEDY_IS_WRONG = {
    # source 0: "a" looks better at first, "b a" is better altogether
    (0,): {A: 0.6, B: 0.4},
    (0, A): {A: 0.5, B: 0.3, EOS: 0.2},
    (0, B): {A: 1.0},
    # source 1: ends at once
    (1,): {EOS: 1.0},
    # source 2: never ends
    **{(2, *(A,) * n): {A: 1.0} for n in range(10)},
    # source 3: nothing has p = 0.4, "a a" 0.336, which is more for its length
    (3,): {EOS: 0.4, A: 0.6},
    (3, A): {A: 0.7, EOS: 0.3},
    (3, A, A): {EOS: 0.8, A: 0.2},
}


@pytest.mark.parametrize("form", ["whole", "encode"])
def test_greedy_and_beam(form: str) -> None:
    model: nn.Module = Table(GREEDY_IS_WRONG)
    if form == "encode":
        model.encode = lambda source: (source,)  # type: ignore[method-assign]
        model.decode = lambda target, source: model(source, target)  # type: ignore[method-assign]
    source = torch.tensor([[0], [1], [2], [0]])
    assert greedy(model, source, BOS, EOS, 5) == [[A, A], [], [A] * 5, [A, A]]
    assert beam(model, source, BOS, EOS, 5, size=2, alpha=0.0) == [[B, A], [], [A] * 5, [B, A]]
    assert beam(model, source, BOS, EOS, 5, size=1, alpha=0.0)[0] == [A, A]


def test_the_length_penalty() -> None:
    source = torch.tensor([[3]])
    assert beam(Table(GREEDY_IS_WRONG), source, BOS, EOS, 5, size=3, alpha=0.0) == [[]]
    assert beam(Table(GREEDY_IS_WRONG), source, BOS, EOS, 5, size=3, alpha=1.0) == [[A, A]]


def test_a_wide_beam_finds_what_trying_everything_finds() -> None:
    torch.manual_seed(0)
    model = TranslationTransformer(4, length=8, width=8, layers=1, heads=2, pad=9).eval()
    for parameter in model.parameters():  # far from uniform
        nn.init.normal_(parameter, std=0.7)
    source = torch.tensor([[A, B], [B, B]])
    limit, alpha = 3, 0.6
    found = beam(model, source, BOS, EOS, limit, size=64, alpha=alpha)
    for row in range(2):
        best = (-math.inf, [])
        for length in range(1, limit + 1):
            for tokens in itertools.product((BOS, A, B), repeat=length):
                whole = [*tokens, EOS] if length < limit else list(tokens)
                for words in {(EOS,), tuple(whole), (*tokens[:-1], EOS)}:
                    target = torch.tensor([[BOS, *words[:-1]]])
                    with torch.no_grad():
                        log_p = model(source[row : row + 1], target)[0].log_softmax(-1)
                    total = float(log_p[range(len(words)), list(words)].sum())
                    score = total / ((5 + len(words)) / 6) ** alpha
                    kept = [w for w in words if w != EOS]
                    best = max(best, (score, kept), key=lambda pair: pair[0])
        assert found[row] == best[1]


def test_greedy_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(1)
    model = TranslationTransformer(20, length=16, width=16, layers=1, heads=2, pad=0).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    sources = [torch.randint(2, 20, (1, size)) for size in (3, 7, 5)]
    padded = torch.zeros(3, 7, dtype=torch.int64)
    for row, source in enumerate(sources):
        padded[row, : source.shape[1]] = source[0]
    together = greedy(model, padded, BOS, EOS, 10)
    assert together == [greedy(model, source, BOS, EOS, 10)[0] for source in sources]
    assert len(set(map(tuple, together))) > 1
