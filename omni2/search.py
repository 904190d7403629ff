"""Beam search: several texts of an answer grow side by side, and the likeliest is told.

The likeliest token is not always the beginning of the likeliest answer.  Where a hundred answers begin with "The", none
of them sure, "The" is likelier than the "I" of "I don't know that yet.", and still each of the hundred is less likely
than that.

A question may be put in several ways, by its sound and in words: a text then counts by how likely it is as an answer to
each, weighed in logarithms (a log-linear model, Och and Ney, ACL 2002).

Source: Lowerre, The HARPY speech recognition system, 1976; for networks Sutskever et al., arXiv 1409.3215.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Ids of a text so far, and the weighed logarithms of its probability."""

    ids: tuple[int, ...] = ()
    score: float = 0.0


class Search:
    """At most `beams` open texts, and the likeliest of those that came to the id `end`; it begins with one, empty.

    `weights` has one for each way in which the question is put.
    """

    def __init__(self, beams: int, end: int, weights: Sequence[float] = (1.0,)) -> None:
        self.beams, self.end, self.weights = beams, end, tuple(weights)
        self._open = [Text()]
        self._ended: Text | None = None

    def grow(self, logits: Tensor) -> list[tuple[int, int]]:
        """Logits (open texts, ways, vocabulary) of the next ids → the texts that stay open: which of those before each
        goes on from, and by which id.  None are left once no open text is as likely as the best that ended.

        With one beam it is the likeliest id at each step.
        """
        before = torch.tensor([text.score for text in self._open], device=logits.device)
        weights = torch.tensor(self.weights, device=logits.device)
        scores = (torch.einsum("twv,w->tv", logits.float().log_softmax(-1), weights) + before[:, None]).flatten()
        # A text that ends takes the place of none that goes on: those behind it are less likely, so dropped below.
        best = scores.topk(min(self.beams, len(scores)))
        grown: list[tuple[int, Text]] = []
        for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            parent, token = divmod(place, logits.shape[-1])
            ids = self._open[parent].ids
            if token != self.end:
                grown.append((parent, Text((*ids, token), score)))
            elif self._ended is None or score > self._ended.score:
                self._ended = Text(ids, score)
        least = self._ended.score if self._ended is not None else -torch.inf
        grown = [(parent, text) for parent, text in grown if text.score > least]
        self._open = [text for _, text in grown]
        return [(parent, text.ids[-1]) for parent, text in grown]

    @property
    def most(self) -> float:
        """What the text to be found scores at most while some are open: each id makes them less likely."""
        return max(text.score for text in self._open)

    def best(self) -> Text:
        """The likeliest text that ended, with `end`; if none did, the likeliest open one."""
        if self._ended is None:
            return self._open[0]
        return Text((*self._ended.ids, self.end), self._ended.score)
