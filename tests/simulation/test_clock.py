"""How time passes."""

from simulation.clock import RealClock, SimulatedClock


def test_simulated_time_passes_only_by_sleeping() -> None:
    clock = SimulatedClock()
    before = clock.now()
    assert clock.now() == before
    clock.sleep()
    assert 0 < clock.now() - before < 1


def test_things_happen_at_their_simulated_time() -> None:
    clock, happened = SimulatedClock(), []
    clock.after(0.25, lambda: happened.append(round(clock.now(), 1)))
    for _ in range(5):
        clock.sleep()
    assert happened == [0.3]


def test_the_real_clock_pauses_by_waiting_for_a_reply() -> None:
    waited: list[float] = []
    clock = RealClock(waited.append)
    before = clock.now()
    clock.sleep()
    assert waited == [0.1]
    assert 0 <= clock.now() - before < 0.1, "nothing else is waited for"
