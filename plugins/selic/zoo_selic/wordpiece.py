"""Word pieces of a caption, as BERT's uncased tokeniser makes them, in plain Python."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping

MAX_PIECES = 256
"""Word pieces of a text, [CLS] and [SEP] included; what is longer is cut."""

_MAX_LETTERS = 100
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_ASCII_PUNCTUATION = ((33, 47), (58, 64), (91, 96), (123, 126))


def token_ids(text: str, vocabulary: Mapping[str, int]) -> list[int]:
    """[CLS], the word pieces of `text`, [SEP], as numbers of the vocabulary."""
    pieces = [piece for word in words(text) for piece in _pieces(word, vocabulary)]
    pieces = pieces[: MAX_PIECES - 2]
    return [vocabulary[piece] for piece in ("[CLS]", *pieces, "[SEP]")]


def words(text: str) -> list[str]:
    """Lower-case words without accents; every punctuation mark and every CJK letter is one of its own."""
    plain = "".join(_spaced(letter) for letter in text)
    plain = unicodedata.normalize("NFD", plain.lower())
    plain = "".join(letter for letter in plain if unicodedata.category(letter) != "Mn")
    return [word for chunk in plain.split() for word in _at_punctuation(chunk)]


def _spaced(letter: str) -> str:
    """A letter as it is kept: control characters vanish, all white space is a blank, CJK stands alone."""
    code, kind = ord(letter), unicodedata.category(letter)
    if letter in "\t\r\n" or kind == "Zs":
        return " "
    if code in (0, 0xFFFD) or kind.startswith("C"):
        return ""
    return f" {letter} " if _within(code, _CJK) else letter


def _at_punctuation(chunk: str) -> Iterator[str]:
    word = ""
    for letter in chunk:
        if _within(ord(letter), _ASCII_PUNCTUATION) or unicodedata.category(letter).startswith("P"):
            if word:
                yield word
            yield letter
            word = ""
        else:
            word += letter
    if word:
        yield word


def _pieces(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """Longest pieces first, all but the first marked by ##; [UNK] for a word that they do not make up."""
    if len(word) > _MAX_LETTERS:
        return ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if mark + word[start:end] in vocabulary), None)
        if end is None:
            return ["[UNK]"]
        pieces.append(mark + word[start:end])
        start = end
    return pieces


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)
