"""The publication of a chain is sound in every interleaving; the model can tell when it is not."""

import pytest

from tests.robustness.model.memory import Scenario
from tests.robustness.model.publication import MUTANTS, dead_push, judge, scenarios, undecidable
from tests.robustness.model.space import Fault

TITLES = ["two kills", "a chain of two and two holders", "recycled", "recycled into another queue"]


def longest_chains(scenario: Scenario) -> int:
    """Return the packets that all producers can have announced and not published at one moment."""
    return sum(max(count for _, count in chains) for chains in scenario.pushes)


@pytest.mark.parametrize("scenario", scenarios("link-first"), ids=TITLES)
def test_link_first_is_sound(scenario: Scenario) -> None:
    """No node is lost or taken twice or out of order, no repair is wrong, and every state can be finished.

    Besides: holders and the supervisor alone can empty the queue from *every* state, so that a producer that
    is dead or merely slow holds up nobody; and the count is never below what the queue holds by more than
    what producers have announced while they were between count and link.
    """
    found = judge(scenario)
    assert not found.stuck, "\n".join(found.stuck)
    assert found.waiting == 0
    assert found.shortage <= longest_chains(scenario)


def test_journalled_is_sound_but_waits() -> None:
    """The candidate that does not ship breaks nothing either; but a live producer between its two steps is
    waited for. `python -m tests.robustness.model.publication` judges all its scenarios."""
    scenario = scenarios("journalled")[TITLES.index("recycled into another queue")]
    found = judge(scenario)
    assert not found.stuck, "\n".join(found.stuck)
    assert found.waiting > 0
    assert found.shortage <= longest_chains(scenario)


def test_without_generations_a_slow_producer_links_into_another_queue() -> None:
    """A node that has been recycled is taken for the end that it once was."""
    with pytest.raises(Fault, match="a node was taken that this queue does not hold"):
        judge(MUTANTS["untagged"])


def test_a_head_that_passes_a_lagging_end_sticks() -> None:
    """The end names a node of an older generation for ever; no push can be finished."""
    found = judge(MUTANTS["unhelped"])
    assert any("kill producer" in move for move in found.stuck)


def test_a_stub_pushed_before_the_head_is_stored_loses_nodes() -> None:
    """The holder dies with the stub renewed while the stored head still is that stub."""
    with pytest.raises(Fault, match="repair sent home a node that its queue still holds"):
        judge(MUTANTS["stub before head"])


@pytest.mark.parametrize("candidate", ["link-first", "journalled"])
def test_what_a_dead_push_leaves_decides_its_repair(candidate: str) -> None:
    """No memory that a kill can leave needs two different repairs."""
    memories, different = undecidable(dead_push(candidate))
    assert memories > 1000
    assert different == 0


def test_a_journal_without_prev_decides_nothing() -> None:
    """After a blind exchange the same memory needs a link here in one history and elsewhere in another."""
    _, different = undecidable(dead_push("journalled", "blind"))
    assert different > 0
