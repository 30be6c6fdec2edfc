"""Which class a sentence names: "The KL grade is 2." names the class 2."""

import re
from collections.abc import Mapping

_BEFORE = r"(?<!\w)(?<!\d[.,])(?<!(?<!\w)[-−])"
_AFTER = r"(?!\w)(?![.,]\d)"
"""A label does not match next to a letter or digit, nor as part of another number, as in 2.5 or -1."""


class LabelFinder:
    """Finds labels in sentences.

    A label is found as a whole word. Case is ignored, unless two labels differ in case only. Where one label
    is part of a longer one, as ``mild`` of ``very mild``, only the longer one is found.

    Parameters
    ----------
    classes
        The class of each label.
    """

    def __init__(self, classes: Mapping[str, int]) -> None:
        labels = sorted(classes, key=len, reverse=True)  # a regular expression takes the first match
        self._classes = [classes[label] for label in labels]
        alternatives = "|".join(f"({re.escape(label)})" for label in labels)
        distinct = len({label.casefold() for label in labels}) == len(labels)
        flags = re.IGNORECASE if distinct else re.NOFLAG
        self._pattern = re.compile(f"{_BEFORE}(?:{alternatives}){_AFTER}", flags)

    def classes_in(self, sentence: str) -> list[int]:
        """Return the classes whose labels a sentence contains, each once, in ascending order."""
        found = {self._classes[(match.lastindex or 0) - 1] for match in self._pattern.finditer(sentence)}
        return sorted(found)
