"""The outcome of a round: replies, failures with their reasons, bytes and evaluations."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from learning.metrics import mean
from protocol.ledger import Traffic
from protocol.messages import Evaluation


@dataclass
class RoundReport:
    """The outcome of one round."""

    round: int
    asked: list[str]
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Reason by client."""
    levels: dict[str, int] = field(default_factory=dict)
    """Levels by client; only clients with a level."""
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def clients(self) -> Evaluation | None:
        """The clients' mean evaluation, weighted by their test samples; undefined metrics are left out."""
        return self._mean(self.evaluations)

    @property
    def clients_by_level(self) -> dict[int, tuple[int, Evaluation]]:
        """For each level, the number of evaluated clients and their mean evaluation; empty without levels."""
        found = {}
        for level in sorted(set(self.levels.values())):
            names = [name for name in self.evaluations if self.levels.get(name) == level]
            if (mean := self._mean(names)) is not None:
                found[level] = len(names), mean
        return found

    def _mean(self, names: Iterable[str]) -> Evaluation | None:
        """Return the mean over some clients, summed in order of their names."""
        results = [self.evaluations[name] for name in sorted(names)]
        if not results:
            return None
        examples = sum(result.examples for result in results)
        accuracy = sum(result.accuracy * result.examples for result in results) / examples
        loss = sum(result.loss * result.examples for result in results) / examples
        metric = mean((result.metric, result.examples) for result in results)
        return Evaluation(accuracy, loss, examples, metric)
