"""Which class a sentence names: "The KL grade is 2." names the class 2."""

import re
from collections.abc import Mapping

_BEFORE = r"(?<!\w)(?<!\d[.,])(?<!(?<!\w)[-−])"
_AFTER = r"(?!\w)(?![.,]\d)"
"""What may not stand beside a word: letters, digits, and what makes another number of it, as in 2.5 or -1."""


class Wording:
    """Finds labels in sentences.

    A label is found where it stands as a whole word, in capitals or not unless other labels differ in that
    alone. Where one label is part of a longer one, as ``mild`` of ``very mild``, the longer one is meant.

    Parameters
    ----------
    classes
        The class of each label.
    """

    def __init__(self, classes: Mapping[str, int]) -> None:
        labels = sorted(classes, key=len, reverse=True)  # of alternatives the first that fits is taken
        self._classes = [classes[label] for label in labels]
        alternatives = "|".join(f"({re.escape(label)})" for label in labels)
        distinct = len({label.casefold() for label in labels}) == len(labels)
        flags = re.IGNORECASE if distinct else re.NOFLAG
        self._pattern = re.compile(f"{_BEFORE}(?:{alternatives}){_AFTER}", flags)

    def classes_in(self, sentence: str) -> list[int]:
        """Return the classes that a sentence names, each once, in order."""
        found = {self._classes[(match.lastindex or 0) - 1] for match in self._pattern.finditer(sentence)}
        return sorted(found)
