"""The protocol's numbers, in two groups, each with its kind and source.

*Semantics*: a peer would notice another value. *Performance*: ours to tune.
Times are ns of CLOCK_BOOTTIME; a time is up when ``birth + time <= now``.
Sources are files of drivers/net/wireguard in Linux, or the protocol's paper (wireguard.com/papers).
What C decides per packet has its number in engine/*.h; such numbers are taken from there.
Where implementations differ, the number is the kernel's, and the reason stands above it.
"""

from __future__ import annotations

from typing import Final

from engine._engine import lib

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000

# --- specification ------------------------------------------------------------------------------

CONSTRUCTION: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"  # Semantics: noise.c
IDENTIFIER: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"  # Semantics: noise.c; the Noise prologue
LABEL_MAC1: Final = b"mac1----"  # Semantics: cookie.c
LABEL_COOKIE: Final = b"cookie--"  # Semantics: cookie.c

KEY_BYTES: Final[int] = lib.AEAD_KEY_BYTES  # Semantics: messages.h; X25519, ChaCha20 and BLAKE2s alike
MAC_BYTES: Final[int] = lib.MAC_BYTES  # Semantics: cookie.c; mac1, mac2 and the cookie itself
TIMESTAMP_BYTES: Final[int] = lib.TIMESTAMP_BYTES  # Semantics: TAI64N
COOKIE_NONCE_BYTES: Final[int] = lib.COOKIE_NONCE_BYTES  # Semantics: XChaCha20

INITIATION_BYTES: Final[int] = lib.INITIATION_BYTES  # Semantics: messages.h; 148
RESPONSE_BYTES: Final[int] = lib.RESPONSE_BYTES  # Semantics: messages.h; 92
COOKIE_BYTES: Final[int] = lib.COOKIE_BYTES  # Semantics: messages.h; 64
DATA_HEADER_BYTES: Final[int] = lib.DATA_HEADER_BYTES  # Semantics: messages.h; 16
DATA_MINIMUM_BYTES: Final[int] = lib.DATA_OVERHEAD  # Semantics: messages.h; 32, a keepalive

REKEY_AFTER_MESSAGES: Final[int] = lib.REKEY_AFTER_MESSAGES  # Semantics: messages.h; 2^60
# wireguard-go stops 63 messages earlier. With the greater of both, nothing is refused that anybody may send.
REJECT_AFTER_MESSAGES: Final[int] = lib.REJECT_AFTER_MESSAGES  # Semantics: messages.h; 2^64 - 8130
REKEY_AFTER_TIME: Final[int] = lib.REKEY_AFTER_SECONDS * SECOND  # Semantics: messages.h; 120 s
REJECT_AFTER_TIME: Final[int] = lib.REJECT_AFTER_SECONDS * SECOND  # Semantics: messages.h; 180 s
REKEY_TIMEOUT: Final[int] = lib.REKEY_TIMEOUT_SECONDS * SECOND  # Semantics: messages.h; 5 s
# HZ / 3 depends on the kernel's configuration; 333 ms is what its authors mean, and what wireguard-go draws.
REKEY_TIMEOUT_JITTER_MAX: Final = 333 * MILLISECOND  # Semantics: messages.h says HZ / 3; 0 to this, inclusive
KEEPALIVE_TIMEOUT: Final[int] = lib.KEEPALIVE_SECONDS * SECOND  # Semantics: messages.h; 10 s
NEW_HANDSHAKE_TIME: Final = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT  # Semantics: timers.c; without jitter
ZERO_KEYS_TIME: Final = 3 * REJECT_AFTER_TIME  # Semantics: timers.c
MAX_TIMER_HANDSHAKES: Final[int] = lib.TIMER_HANDSHAKES_MOST  # Semantics: messages.h, 90 s / 5 s
MAX_INITIATIONS: Final = MAX_TIMER_HANDSHAKES + 2  # Semantics: what that makes: the first and 19 more
COOKIE_SECRET_MAX_AGE: Final[int] = lib.COOKIE_SECRET_SECONDS * SECOND  # Semantics: messages.h
COOKIE_SECRET_LATENCY: Final[int] = lib.COOKIE_LATENCY_SECONDS * SECOND  # Semantics: messages.h
# 5 s less than the secret lives, for the way back: wireguard-go shows a cookie for 120 s, which the responder
# may have forgotten by then.
COOKIE_USABLE_TIME: Final = COOKIE_SECRET_MAX_AGE - COOKIE_SECRET_LATENCY  # Semantics: cookie.c, 115 s
TIMESTAMP_WHITENING: Final = (1 << 24) - 1  # Semantics: noise.c; ns bits that are cleared

# --- implementation -----------------------------------------------------------------------------

INITIATION_FLOOD_TIME: Final = SECOND // 50  # Performance: noise.c; 50 initiations a second and peer
RATE_A_SECOND: Final = 20  # Performance: ratelimiter.c; handshake messages of one address under load
RATE_BURST: Final = 5  # Performance: ratelimiter.c
# An attacker with many addresses must not grow the table without end, as it grows in wireguard-go.
RATE_MAX_ENTRIES: Final = 65_536  # Performance: ratelimiter.c, its figure on a large machine
RATE_IDLE_TIME: Final = SECOND  # Performance: ratelimiter.c; an entry idle for longer is collected
UNDER_LOAD_TIME: Final = SECOND  # Performance: receive.c; under load stays so for this long
# Four times wireguard-go's: as many initiations as a gateway hears when its peers come back all at once.
HANDSHAKE_QUEUE: Final = 4096  # Performance: messages.h; handshake messages that may wait
UNDER_LOAD_QUEUE: Final = HANDSHAKE_QUEUE // 8  # Performance: receive.c; as many waiting mean under load
# Messages of a second that led to nothing: then under load, though none waits. Kernel and wireguard-go look
# at their queues alone; here data would share the cores with a flood that is kept up with.
UNDER_LOAD_WASTED: Final = 3000  # Performance: Plait's own
# wireguard-go stops at 2^16. Keypair numbers of 21 bits (engine/keypair.h) allow two sessions for each peer.
MAX_PEERS: Final = 1 << 20  # Performance: messages.h
MTU: Final = 1420  # Performance: wg-quick's; 1500 less outer IPv6, UDP and the data message
KEYPAIR_NUMBER_BITS: Final[int] = lib.KEYPAIR_NUMBER_BITS  # Performance: three of them stand in a word
TIMER_TICK_SHIFT: Final[int] = lib.TIMER_TICK_SHIFT  # Performance: a tick is 2^24 ns, 16.8 ms
