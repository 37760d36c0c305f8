"""Orders of shm/ that no execution needs, with the reason. All others are caught when they are weakened.

They stay in the C: each says on the spot what travels there, costs nothing on x86, and keeps the compiler
(hence a kill, which leaves a prefix of the stores in program order) from moving what stands around it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.robustness.weak.memory import Mutant


@dataclass(frozen=True)
class Argument:
    """Why the order at one place may be weaker."""

    file: str
    function: str
    begins: str
    """How the line begins, where the function has several."""
    because: str

    def covers(self, mutant: Mutant) -> bool:
        """Whether this is about the mutant's place."""
        place = mutant.place
        return (place.file, place.function) == (self.file, self.function) and place.text.startswith(
            self.begins
        )


RELEASED_BY_FENCE = (
    "the seq_cst fence before it is a release fence too, and what the ringer goes on to do "
    "reads nothing that "
    "the sleeper wrote"
)
STARVING_BY_FENCES = (
    "the seq_cst fences of ringer and sleeper decide: behind the sleeper's, the ringer's later reads see its "
    "bell; else the sleeper's last sweep finds the nodes"
)
BEHIND_WAITPID = (
    "only repair reads it, after waitpid, which orders all that the dead did; what a kill "
    "leaves is a matter of "
    "program order, which a release store keeps the compiler from changing"
)
FENCED = (
    "the row's bit carries what the row has to say; the summaries only lead there, and a taker "
    "that follows one "
    "and finds the word below empty clears it, fences and looks again: that fence comes after "
    "the setter's"
)

ARGUMENTS = (
    Argument("shm/bell.c", "bell_ring", "if (__atomic_exchange_n(", RELEASED_BY_FENCE),
    Argument("shm/bell.c", "starving_wake", "if (__atomic_exchange_n(", RELEASED_BY_FENCE),
    Argument("shm/bell.c", "bell_starve", "__atomic_fetch_or(", STARVING_BY_FENCES),
    Argument("shm/bell.c", "bell_ring_starving", "uint64_t bits = __atomic_exchange_n(", STARVING_BY_FENCES),
    Argument(
        "shm/bell.c", "bell_wait", "while (__atomic_load_n(",
        "the exchange behind the loop reads the same word and acquires; that one is needed when the"
        " time is over",
    ),
    Argument(
        "shm/bell.c", "bell_wake", "",
        "what repair schedules is published by ready_set; a sleeper woken for nothing sleeps again",
    ),
    Argument(
        "shm/orders.c", "word_clear", "",
        "its acquire: it succeeds on the very message that orders_read acquired, since the count "
        "changes with each that gives, and bits only become fewer in between",
    ),
    Argument(
        "shm/queue.c", "end_help", "__atomic_compare_exchange_n(",
        "the end is tagged: who sees it before its node's latest next reads another generation "
        "there and tries "
        "again; with the order nobody has to",
    ),
    Argument(
        "shm/queue.c", "end_help", "next = __atomic_load_n(",
        "the end is at most one chain behind (who links the next one has helped), and a chain is one "
        "producer's: end_read acquired all of it; a walk from an older end fails in its compare-exchange",
    ),
    Argument(
        "shm/queue.c", "head_move", "",
        "the next holder has the token's acquire, repair has waitpid; all others read the head as a"
        " hint. As "
        "with the journal, it keeps program order for a kill",
    ),
    Argument(
        "shm/queue.c", "queue_initialise", "",
        "a row is found through index, trie or mailbox, which control publishes afterwards with "
        "release",
    ),
    Argument(
        "shm/queue.c", "queue_is_empty", "",
        "the answer is a yes or no: who acts on it takes the token and reads the stub's next again,"
        " with acquire; "
        "that it is not too old is the business of the fence or the acquire before it",
    ),
    Argument(
        "shm/queue.c", "queue_is_published", "",
        "the number is compared with nil and not followed; the dead producer's own stores are "
        "behind waitpid",
    ),
    Argument(
        "shm/queue.c", "queue_next", "",
        "repair follows what the dead had linked or marked, all of it behind waitpid, and compares "
        "of other nodes "
        "only a state that nobody else gives them",
    ),
    Argument(
        "shm/queue.c", "queue_pop_sc", "next = NUMBER(",
        "stub_push came behind that chain, so its end_read acquired the word that names it",
    ),
    Argument("shm/queue.c", "queue_push_mpsc", "__atomic_store_n(&line->journal_queue", BEHIND_WAITPID),
    Argument(
        "shm/ready.c", "ready_take", "",
        "its release: setters only add to the word and acquire nothing from it",
    ),
    Argument("shm/ready.c", "summary_clear", "__atomic_fetch_or(", FENCED),
    Argument("shm/ready.c", "summary_set", "__atomic_fetch_or(", FENCED),
    Argument("shm/ready.c", "word_load", "", FENCED),
    Argument(
        "shm/schedule.c", "consumer_of", "",
        "a number alone, checked against its limit; a stale one sets a bit that the other consumer "
        "passes on",
    ),
    Argument(
        "shm/token.c", "token_read", "",
        "sweep and repair compare it and then take the token or set a bit; the dead's own is behind"
        " waitpid. Outbound that retires because inbound's is dead uses nothing of inbound's, and before the"
        " row is used again comes a grace period",
    ),
    Argument(
        "shm/token.c", "token_schedule", "",
        "a read-modify-write continues the release sequence of the giver's store (C11 5.1.2.4), and"
        " what the "
        "publisher has to say is published by the queue's link or the order's word",
    ),
)  # fmt: skip

OUTSIDE = {
    "shm/orders.c events_read": "as orders_read, the other way round: word_give and ready_set are walked",
    "shm/schedule.c schedule_sweep_waiting": "a hint of the sweep, which acts on what it saw twice",
}
"""Functions with an order that no scenario passes."""
