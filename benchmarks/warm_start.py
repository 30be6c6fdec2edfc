"""What a round costs that does nothing: stock Flower beside warm starts, over two real SuperNodes.

    python -m benchmarks.warm_start --rounds 5 --repeats 3

Flower as it comes does two exchanges a round and starts a Python for each message. The other rows are what
Motley makes of it step by step; all are measured in turn, several times. Loopback, without TLS.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from deploy.local_flower import BIN, LocalFlower, free_port, local_flower

APP = Path(__file__).parent / "empty_app"
NODES = 2
SECONDS = 600


@dataclass(frozen=True)
class Setting:
    """A way to run a round."""

    name: str
    style: str
    warm: bool
    quick: bool


SETTINGS = (
    Setting("stock Flower: two exchanges, a new Python a message", "flower", False, False),
    Setting("one exchange a round, replies fetched soon", "one-exchange", False, False),
    Setting("and warm starts (deploy.warm_executor)", "one-exchange", True, False),
    Setting("and a quick SuperNode (deploy.supernode)", "one-exchange", True, True),
)


def start_node(flower: LocalFlower, name: str, setting: Setting) -> None:
    """Start a SuperNode and what starts its ClientApps."""
    port = str(free_port())
    command = [sys.executable, "-m", "deploy.supernode"] if setting.quick else [str(BIN / "flower-supernode")]
    link = ["--insecure", "--superlink", f"127.0.0.1:{flower.fleet_port}", "--port", port]
    isolation = ["--isolation", "process"] if setting.warm else []
    flower.start(f"supernode-{name}", [*command, *link, *isolation])
    if setting.warm:
        executor = [sys.executable, "-m", "deploy.warm_executor", "--insecure"]
        flower.start(f"executor-{name}", [*executor, "--runtime-api-address", f"127.0.0.1:{port}"])


def measure(setting: Setting, rounds: int) -> list[float]:
    """Return the seconds of each round of a run."""
    with tempfile.TemporaryDirectory() as folder, local_flower(Path(folder) / "flower") as flower:
        flower.start_superlink()
        for number in range(NODES):
            start_node(flower, str(number), setting)
        output = Path(folder) / "seconds.json"
        config = f'rounds={rounds} nodes={NODES} style="{setting.style}" output="{output}"'
        done = flower.command(["flwr", "run", str(APP), "test", "--stream", "--run-config", config], SECONDS)
        if not output.exists():
            sys.exit(done.stdout)
        seconds: list[float] = json.loads(output.read_text())
        return seconds


def table(results: Sequence[tuple[Setting, Sequence[float]]]) -> str:
    """Show what was measured."""
    lines = [f"{'':52}  median s  least  most"]
    for setting, seconds in results:
        figures = f"{median(seconds):8.2f}  {min(seconds):5.2f}  {max(seconds):4.2f}"
        lines.append(f"{setting.name:52}  {figures}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds a run; one more is not counted")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each setting, in turn")
    parser.add_argument("--only", type=int, nargs="*", help="rows to measure, from 0")
    arguments = parser.parse_args()
    chosen = [SETTINGS[row] for row in arguments.only] if arguments.only else list(SETTINGS)
    seconds: dict[Setting, list[float]] = {setting: [] for setting in chosen}
    for _ in range(arguments.repeats):
        for setting in chosen:
            seconds[setting] += measure(setting, arguments.rounds)
            print(setting.name, seconds[setting][-arguments.rounds :], flush=True)
    print(table(list(seconds.items())))


if __name__ == "__main__":
    main()
