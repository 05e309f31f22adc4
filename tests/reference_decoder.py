"""The symbols payload of docs/format.md read by plain Python: a second implementation that keeps the first honest."""

from __future__ import annotations

PRECISION = 24


class Reference:
    """rANS with a state under 2^64, words of 32 bits, and frequencies of 24 bits; a stack of words."""

    def __init__(self, words: list[int]):
        self.words = list(words)
        self.state = 0
        # The state is filled from the end of the words, as the encoder left it.
        while self.state < 1 << 32 and self.words:
            self.state = self.state << 32 | self.words.pop()

    def decode(self, frequencies: list[int], bits: int = 16) -> int:
        """Index of the next symbol; `frequencies` sum to 2^bits."""
        frequencies = [f << (PRECISION - bits) for f in frequencies]
        slot = self.state & ((1 << PRECISION) - 1)
        start = index = 0
        while slot >= start + frequencies[index]:
            start += frequencies[index]
            index += 1
        self.state = (self.state >> PRECISION) * frequencies[index] + slot - start
        if self.state < 1 << 32 and self.words:
            self.state = self.state << 32 | self.words.pop()
        return index

    @property
    def empty(self) -> bool:
        return self.state == 0 and not self.words
