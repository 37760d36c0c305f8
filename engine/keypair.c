/* keypair: the three key numbers of a peer and what a session may still do. */
#include "keypair.h"

#define NANOSECONDS 1000000000ull

uint32_t key_word_current(uint64_t word)
{
    return (uint32_t)word & KEYPAIR_NUMBER_MASK;
}

uint32_t key_word_previous(uint64_t word)
{
    return (uint32_t)(word >> KEYPAIR_NUMBER_BITS) & KEYPAIR_NUMBER_MASK;
}

uint32_t key_word_next(uint64_t word)
{
    return (uint32_t)(word >> (2 * KEYPAIR_NUMBER_BITS)) & KEYPAIR_NUMBER_MASK;
}

uint64_t key_word_of(uint32_t current, uint32_t previous, uint32_t next)
{
    return (uint64_t)(current & KEYPAIR_NUMBER_MASK) | (uint64_t)(previous & KEYPAIR_NUMBER_MASK) << KEYPAIR_NUMBER_BITS |
           (uint64_t)(next & KEYPAIR_NUMBER_MASK) << (2 * KEYPAIR_NUMBER_BITS);
}

int key_word_names(uint64_t word, uint32_t number)
{
    return number && (number == key_word_current(word) || number == key_word_previous(word) ||
                      number == key_word_next(word));
}

uint64_t key_word_install(uint64_t word, uint32_t number, int initiator)
{
    if (!number || key_word_names(word, number))
        return word;  /* an order is applied again after a kill */
    uint32_t current = key_word_current(word), next = key_word_next(word);

    /* The responder waits for data under the new keys before it sends under them, and what it
     * held as previous is given up now: a peer that handshakes again has lost it. */
    if (!initiator)
        return key_word_of(current, 0, number);
    /* Our own handshake overtook one that we answered and that was never confirmed: its keys
     * may still come to be used by the peer, those of before it will not. */
    return key_word_of(number, next ? next : current, 0);
}

uint64_t key_word_confirm(uint64_t word, uint32_t number)
{
    if (!number || number != key_word_next(word))
        return word;
    return key_word_of(number, key_word_current(word), 0);
}

uint64_t key_word_drop(uint64_t word, uint32_t number)
{
    uint32_t current = key_word_current(word), previous = key_word_previous(word);
    uint32_t next = key_word_next(word);

    return key_word_of(current == number ? 0 : current, previous == number ? 0 : previous,
                       next == number ? 0 : next);
}

int keypair_is_older(const struct keypair *keypair, uint64_t now, uint32_t seconds)
{
    return !keypair->birth || keypair->birth + seconds * NANOSECONDS <= now;
}

uint64_t keypair_take_nonces(struct keypair *keypair, uint32_t count, uint64_t now)
{
    uint64_t first = __atomic_load_n(&keypair->send_counter, __ATOMIC_RELAXED);

    /* Relaxed: the word says nothing of other memory. A compare-exchange, so that no nonce is taken twice whoever
     * else takes some, and a stop by the other direction's holder stands. */
    do {
        if (keypair_is_older(keypair, now, REJECT_AFTER_SECONDS) || first >= REJECT_AFTER_MESSAGES ||
            count > REJECT_AFTER_MESSAGES - first)
            return UINT64_MAX;
    } while (!__atomic_compare_exchange_n(&keypair->send_counter, &first, first + count, 0, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    /* In memory before any sealing: a holder killed later must not leave a nonce to be used
     * twice. The compiler's order is the order of a killed process (window.c). */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    return first;
}

void keypair_stop_sending(struct keypair *keypair)
{
    __atomic_store_n(&keypair->send_counter, REJECT_AFTER_MESSAGES, __ATOMIC_RELAXED);
}
