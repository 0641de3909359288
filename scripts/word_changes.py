"""A change of whole words of a text, as a person or an attacker would make it, for scripts/fuzz.py and tests."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

MOST_CHANGES, LONGEST_RUN = 4, 30


def words_changed(text: bytes, odd: Sequence[bytes], draw: random.Random) -> bytes:
    """Replace words by odd ones, repeat, remove or swap them, at one to four places.

    Args:
        text: The text. Its words are quoted texts, runs of letters, digits and `_.+-`, runs of spaces, and other bytes.
        odd: What may stand in the place of a word.
        draw: Decides.

    Returns:
        The changed text.
    """
    parts = re.findall(rb'"[^"\n]*"|[\w.+-]+|\s+|.', text, re.DOTALL) or [b""]
    for _ in range(draw.randint(1, MOST_CHANGES)):
        i, j = draw.randrange(len(parts)), draw.randrange(len(parts))
        kind = draw.randrange(4)
        if kind == 0:
            parts[i] = draw.choice(odd)
        elif kind == 1:
            parts[i:i] = parts[j : j + draw.randint(1, LONGEST_RUN)]
        elif kind == 2:
            parts[i : i + draw.randint(1, LONGEST_RUN // 3)] = [b" "]
        else:
            parts[i], parts[j] = parts[j], parts[i]
    return b"".join(parts)
