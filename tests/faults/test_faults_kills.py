import random
import signal
from collections import Counter

import pytest
from fault_data import DIGITS
from fault_kills import interrupt_until_finished

pytestmark = pytest.mark.slow


def hurt(bench, *, at_least, seed, **settings):
    """Finish runs under fire until there were so many signals; return what became of each run."""
    draw, found = random.Random(seed), []
    while sum(each.phases.total() for each in found) < at_least:
        found.append(interrupt_until_finished(bench, DIGITS, draw, **settings))
    return found


def check(found):
    for each in found:
        assert each.differences == []
        assert each.orphans == []
        assert each.steps == sorted(each.steps), "a signal cost saved steps"
        # One process leaves one file at most; nothing takes it away.
        assert len(each.temporaries) <= each.phases.total()


@pytest.mark.parametrize("fresh", [False, True], ids=["forked", "command"])
def test_killed_again_and_again_ends_bit_for_bit(bench, fresh):
    kills = 1 if fresh else 3
    free = ("--checkpoint-every", "1")
    found = hurt(bench, at_least=kills, seed=fresh, free=free, fresh=fresh, most=kills)
    check(found)
    assert sum((each.endings for each in found), Counter()).keys() == {"SIGKILL", "finished"}


def test_killed_with_sharded_states_ends_bit_for_bit(bench):
    free = ("--checkpoint-every", "1")
    words = (*DIGITS, "--parallel", "fsdp")
    found = interrupt_until_finished(bench, words, random.Random(7), free=free, most=3)
    check([found])
    assert found.endings == {"SIGKILL": 3, "finished": 1}


def test_killed_with_readers_leaves_no_process_and_ends_bit_for_bit(bench):
    check(hurt(bench, at_least=1, seed=5, free=("--checkpoint-every", "2", "--num-workers", "2")))


def test_stopped_again_and_again_ends_bit_for_bit(bench):
    found = hurt(bench, at_least=2, seed=3, numbers=(signal.SIGTERM, signal.SIGINT))
    check(found)
    assert not any(each.temporaries for each in found)
