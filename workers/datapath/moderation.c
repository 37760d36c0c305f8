/* Theory. A wake costs more than a small packet, and under real-time priority each packet has a wake of its own: the
 * worker preempts the sender before the second packet is sent. Network cards moderate their interrupts for the same
 * reason. A receiver holds its next round only after several small rounds that followed each other closely, so that
 * a lone packet never waits. It stops when a hold gathers next to nothing. After a round that is not small, more may
 * wait already: the next is not held.
 *
 * A train is a gathered batch already. But a stream of trains wakes the worker between any two of them, and each wake
 * takes the core from the sender, whose caches go cold. So trains that keep coming are held as well, for as short a
 * time as a sleep can be: a ping beside the stream waits that long at each receiver. */
#include "workers/datapath/moderation.h"

uint32_t moderation_round(struct moderation *moderation, uint64_t now, uint32_t messages, int with_train)
{
    int is_small = messages < MODERATION_SMALL;
    int is_close = now - moderation->round_at < MODERATION_CLOSE_NS + moderation->hold;
    int was_in_vain = moderation->hold == MODERATION_HOLD_NS && messages < MODERATION_LEAST;

    if (!is_close)
        moderation->busy_rounds = 0;
    else if (moderation->busy_rounds < MODERATION_BUSY_ROUNDS)
        moderation->busy_rounds++;
    if (!is_close || was_in_vain || with_train || (!is_small && moderation->close_rounds < MODERATION_ROUNDS))
        moderation->close_rounds = 0;
    else if (moderation->close_rounds < MODERATION_ROUNDS)
        moderation->close_rounds++;
    moderation->round_at = now;
    moderation->hold = 0;
    if (is_small && moderation->close_rounds == MODERATION_ROUNDS)
        moderation->hold = MODERATION_HOLD_NS;
    else if (is_small && with_train && moderation->busy_rounds == MODERATION_BUSY_ROUNDS)
        moderation->hold = MODERATION_TRAINS_NS;
    return moderation->hold;
}
