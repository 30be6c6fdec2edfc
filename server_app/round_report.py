"""What became of a round's messages: who answered, what failed and why, bytes and figures."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from learning.metrics import mean
from protocol.ledger import Traffic
from protocol.messages import Evaluation


@dataclass
class RoundReport:
    """What became of one round's messages."""

    round: int
    asked: list[str]
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Reason by client."""
    levels: dict[str, int] = field(default_factory=dict)
    """By client, of those that have one."""
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def clients(self) -> Evaluation | None:
        """The clients' figures, weighted by their test samples; the metric is that of those who have one."""
        return self._mean(self.evaluations)

    @property
    def clients_by_level(self) -> dict[int, tuple[int, Evaluation]]:
        """How many clients of each level were evaluated, and the same of these; empty without levels."""
        found = {}
        for level in sorted(set(self.levels.values())):
            names = [name for name in self.evaluations if self.levels.get(name) == level]
            if (mean := self._mean(names)) is not None:
                found[level] = len(names), mean
        return found

    def _mean(self, names: Iterable[str]) -> Evaluation | None:
        """Return the mean over some clients, taken in order of their names."""
        results = [self.evaluations[name] for name in sorted(names)]
        if not results:
            return None
        examples = sum(result.examples for result in results)
        accuracy = sum(result.accuracy * result.examples for result in results) / examples
        loss = sum(result.loss * result.examples for result in results) / examples
        metric = mean((result.metric, result.examples) for result in results)
        return Evaluation(accuracy, loss, examples, metric)
