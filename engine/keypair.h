/* keypair: session keys and how they follow each other (kernel: noise.c). The caller is
 * a holder: inbound's changes the key word, outbound's takes nonces. Control writes a keypair once, before it orders
 * its installation. */
#ifndef ENGINE_KEYPAIR_H
#define ENGINE_KEYPAIR_H

#include "window.h"

/* cdef begin */
#define KEYPAIR_INITIATOR 1
#define KEYPAIR_NUMBER_BITS 21   /* so that three numbers fit into a word, and an index has 11 bits of a generation */
#define REKEY_AFTER_SECONDS 120
#define REJECT_AFTER_SECONDS 180
#define KEEPALIVE_SECONDS 10
#define REKEY_TIMEOUT_SECONDS 5

/* 1,152 bytes. Number 0 means none. The first line hardly ever changes; on the second one outbound writes at each
 * batch, inbound at three words of the window in 128. */
struct keypair {
    uint8_t receive_key[32];
    uint64_t birth;            /* CLOCK_BOOTTIME ns; never 0 while in use */
    uint32_t local_index;      /* what the peer writes into its data messages */
    uint32_t remote_index;     /* what we write into ours */
    uint32_t peer;             /* row */
    uint32_t peer_generation;
    uint32_t flags;
    uint32_t rekey_asked;      /* inbound: once-a-session rekey on receive was asked for */
    uint8_t send_key[32];
    uint64_t send_counter;     /* outbound: next nonce; advanced before sealing, by compare-exchange. Inbound may stop it */
    struct window window;      /* inbound */
    uint64_t reserved;
};

/* Key word: three keypair numbers of 21 bits: current | previous << 21 | next << 42. */
uint32_t key_word_current(uint64_t word);
uint32_t key_word_previous(uint64_t word);
uint32_t key_word_next(uint64_t word);
uint64_t key_word_of(uint32_t current, uint32_t previous, uint32_t next);
int key_word_names(uint64_t word, uint32_t number);
/* A fresh keypair: initiator's -> current, responder's -> next. Applying it again to a
 * word that names it changes nothing. */
uint64_t key_word_install(uint64_t word, uint32_t number, int initiator);
/* First authenticated data on `next`: it becomes current. Other numbers change nothing. */
uint64_t key_word_confirm(uint64_t word, uint32_t number);
/* Without `number`. */
uint64_t key_word_drop(uint64_t word, uint32_t number);

/* birth + seconds <= now; a wiped keypair (birth 0) is older than anything */
int keypair_is_older(const struct keypair *keypair, uint64_t now, uint32_t seconds);
/* Takes count nonces: the counter in memory advances first. Returns the first, or
 * 0xffffffffffffffff when the session may not send (age, messages). */
uint64_t keypair_take_nonces(struct keypair *keypair, uint32_t count, uint64_t now);
/* It only receives from now on (our private key changed). */
void keypair_stop_sending(struct keypair *keypair);
/* cdef end */

#define KEYPAIR_NUMBER_MASK ((1u << KEYPAIR_NUMBER_BITS) - 1)

#endif
