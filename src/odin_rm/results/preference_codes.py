"""What the values of ``preference`` mean: AlpacaEval's numbers, words that say it, or codes that a user names.

AlpacaEval writes 1 (the baseline is better) to 2 (the candidate is better), and 0 for a tie in older files. Other
people write 0 and 1, -1 and 1, 1 to 5, A and B. None of these can be told from AlpacaEval's by one row, and several not
by all of them: so a whole file is looked at first, and what is not for sure is refused until somebody says what it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odin_rm.core.errors import ConfigError, DataError

FLAG = "--preference_codes"
_FIX = f"Say what the values mean, the baseline's first: odin-rm win-rate and judge take {FLAG} 0 1, or A B tie, ..."
_ROUNDING = 1e-6
"""Means of preferences are a little off."""
_WORDS = {"output_1": 1.0, "output_2": 2.0, "tie": 1.5}
_MOST_BEYOND = 0.05
"""More numbers above 2 than this share are another scale, not slips."""


class UnknownPreferenceError(ValueError):
    """A value that is no preference; the message says what it is instead."""


@dataclass(frozen=True)
class PreferenceCodes:
    """How preferences are written.

    Attributes:
        words: of the baseline's win, the candidate's and, if there is one, of a tie; none for AlpacaEval's numbers.
    """

    words: tuple[str, ...] = ()

    def read(self, given: Any) -> float | None:
        """The preference, 1 (baseline) to 2 (candidate); ``None`` where there is none.

        Raises:
            UnknownPreferenceError: the value is none of the codes.
        """
        if given is None or given == "" or (isinstance(given, float) and math.isnan(given)):
            return None
        word = str(given).strip().lower()
        if self.words:
            return self._coded(given, word)
        if isinstance(given, str) and word in _WORDS:
            return _WORDS[word]
        value = _number(given)
        if value is None:
            raise UnknownPreferenceError(
                f"the preference is {given}" if isinstance(given, bool) else "the preference is not a number"
            )
        if math.isnan(value):
            return None
        if value == 0:
            return 1.5
        near = min(max(value, 1.0), 2.0)
        if abs(near - value) > _ROUNDING:
            raise UnknownPreferenceError(f"the preference is {given}, not between 1 and 2")
        return near

    def _coded(self, given: Any, word: str) -> float:
        for code, preference in zip(self.words, (1.0, 2.0, 1.5), strict=False):
            if word == code.lower() or (_number(word) is not None and _number(word) == _number(code)):
                return preference
        low, high = (_number(code) for code in self.words[:2])
        value = _number(given)
        if low is not None and high is not None and value is not None:
            preference = 1.0 + (value - low) / (high - low)  # a degree between two numbers
            near = min(max(preference, 1.0), 2.0)
            if abs(near - preference) <= _ROUNDING:
                return near
        raise UnknownPreferenceError(f"the preference is {given}, none of {', '.join(self.words)}")

    def check_file(self, path: Path, values: Sequence[Any]) -> None:
        """Refuse a file whose values are not for sure on AlpacaEval's scale; with codes of the user's all are.

        Args:
            path: the file, for messages.
            values: all its preferences as they stand.

        Raises:
            DataError: see the module.
        """
        if self.words:
            return
        numbers = [value for given in values if (value := _number(given)) is not None and math.isfinite(value)]
        if not numbers:
            return
        why = ""
        if any(value < -_ROUNDING for value in numbers):
            why = f"some are below 0 ({min(numbers):g})"
        elif any(_ROUNDING < value < 1 - _ROUNDING for value in numbers):
            odd = next(value for value in numbers if _ROUNDING < value < 1 - _ROUNDING)
            why = f"some lie between 0 and 1 ({odd:g})"
        elif 0 in numbers and max(numbers) <= 1 + _ROUNDING:
            why = "all are 0 or 1, and 0 may be a tie or a loss"
        elif sum(value > 2 + _ROUNDING for value in numbers) > max(1, _MOST_BEYOND * len(numbers)):
            why = f"many are above 2 (up to {max(numbers):g})"
        if why:
            what = f"the preferences are not from 1 (baseline) to 2 (candidate): {why}"
            raise DataError(what, where=str(path), fix=_FIX)


ALPACA_EVAL = PreferenceCodes()


def preference_codes(words: Sequence[str] | None) -> PreferenceCodes:
    """The codes that a user names, AlpacaEval's where there are none.

    Raises:
        ConfigError: they are not two or three different words.
    """
    if not words:
        return ALPACA_EVAL
    plain = [str(word).strip() for word in words]
    numbers = [_number(word) for word in plain]
    different = {number if number is not None else word.lower() for word, number in zip(plain, numbers, strict=True)}
    if len(plain) not in (2, 3) or len(different) < len(plain) or not all(plain):
        fix = "Give the code of the baseline's win, of the candidate's and, if there is one, of a tie: 0 1 0.5."
        raise ConfigError(f"is {' '.join(plain) or 'empty'}", where=FLAG, fix=fix)
    if any(number is not None and not math.isfinite(number) for number in numbers):
        raise ConfigError("is not finite", where=FLAG, fix="Give numbers or words.")
    return PreferenceCodes(tuple(plain))


def _number(given: Any) -> float | None:
    try:
        return None if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        return None
