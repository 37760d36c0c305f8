/* Theory. A wake costs more than a small packet, and under real-time priority each packet has a wake of its own: the
 * worker preempts the sender before the second packet is sent. Network cards moderate their interrupts for the same
 * reason. A receiver holds its next round only after several small rounds that followed each other closely, so that
 * a lone packet never waits; and not when trains come, for a train is a gathered batch already. It stops when a hold
 * gathers next to nothing. After a round that is not small, more may wait already: the next is not held. */
#include "workers/datapath/moderation.h"

int moderation_round(struct moderation *moderation, uint64_t now, uint32_t messages, int with_train)
{
    int is_small = messages < MODERATION_SMALL && !with_train;
    int is_close = now - moderation->round_at < MODERATION_CLOSE_NS + (moderation->held ? MODERATION_HOLD_NS : 0);
    int was_in_vain = moderation->held && messages < MODERATION_LEAST;

    if (!is_close || was_in_vain || with_train || (!is_small && moderation->close_rounds < MODERATION_ROUNDS))
        moderation->close_rounds = 0;
    else if (moderation->close_rounds < MODERATION_ROUNDS)
        moderation->close_rounds++;
    moderation->round_at = now;
    moderation->held = is_small && moderation->close_rounds == MODERATION_ROUNDS;
    return (int)moderation->held;
}
