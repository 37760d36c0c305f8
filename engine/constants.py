"""The protocol's numbers, in two groups, each with its kind and source.

*Semantics*: a peer would notice another value. *Performance*: ours to tune.
Times are ns of CLOCK_BOOTTIME; a time is up when ``birth + time <= now``.
Sources are files of drivers/net/wireguard in Linux, or the protocol's paper (wireguard.com/papers).
What C decides per packet has its number in engine/*.h too; a test compares the two.
"""

from __future__ import annotations

from typing import Final

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000

# --- specification ------------------------------------------------------------------------------

CONSTRUCTION: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"  # Semantics: noise.c
IDENTIFIER: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"  # Semantics: noise.c; the Noise prologue
LABEL_MAC1: Final = b"mac1----"  # Semantics: cookie.c
LABEL_COOKIE: Final = b"cookie--"  # Semantics: cookie.c

KEY_BYTES: Final = 32  # Semantics: messages.h; X25519, ChaCha20 and BLAKE2s alike
TAG_BYTES: Final = 16  # Semantics: RFC 8439
MAC_BYTES: Final = 16  # Semantics: cookie.c; mac1, mac2 and the cookie itself
TIMESTAMP_BYTES: Final = 12  # Semantics: TAI64N
COOKIE_NONCE_BYTES: Final = 24  # Semantics: XChaCha20

INITIATION_BYTES: Final = 148  # Semantics: messages.h
RESPONSE_BYTES: Final = 92  # Semantics: messages.h
COOKIE_BYTES: Final = 64  # Semantics: messages.h
DATA_HEADER_BYTES: Final = 16  # Semantics: messages.h
DATA_MINIMUM_BYTES: Final = 32  # Semantics: messages.h; a keepalive

REKEY_AFTER_MESSAGES: Final = 1 << 60  # Semantics: messages.h
REJECT_AFTER_MESSAGES: Final = (1 << 64) - 8130  # Semantics: the kernel's; wireguard-go stops 63 earlier
REKEY_AFTER_TIME: Final = 120 * SECOND  # Semantics: messages.h
REJECT_AFTER_TIME: Final = 180 * SECOND  # Semantics: messages.h
REKEY_TIMEOUT: Final = 5 * SECOND  # Semantics: messages.h
REKEY_TIMEOUT_JITTER_MAX: Final = 333 * MILLISECOND  # Semantics: messages.h says HZ / 3; 0 to this, inclusive
KEEPALIVE_TIMEOUT: Final = 10 * SECOND  # Semantics: messages.h
NEW_HANDSHAKE_TIME: Final = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT  # Semantics: timers.c; without jitter
ZERO_KEYS_TIME: Final = 3 * REJECT_AFTER_TIME  # Semantics: timers.c
MAX_TIMER_HANDSHAKES: Final = 18  # Semantics: messages.h, 90 s / 5 s; given up when attempts > this
MAX_INITIATIONS: Final = MAX_TIMER_HANDSHAKES + 2  # Semantics: what that makes: the first and 19 more
COOKIE_SECRET_MAX_AGE: Final = 120 * SECOND  # Semantics: messages.h
COOKIE_SECRET_LATENCY: Final = 5 * SECOND  # Semantics: messages.h
COOKIE_USABLE_TIME: Final = COOKIE_SECRET_MAX_AGE - COOKIE_SECRET_LATENCY  # Semantics: cookie.c, 115 s
TIMESTAMP_WHITENING: Final = (1 << 24) - 1  # Semantics: noise.c; ns bits that are cleared

# --- implementation -----------------------------------------------------------------------------

INITIATION_FLOOD_TIME: Final = SECOND // 50  # Performance: noise.c; 50 initiations a second and peer
RATE_A_SECOND: Final = 20  # Performance: ratelimiter.c; handshake messages of one address under load
RATE_BURST: Final = 5  # Performance: ratelimiter.c
RATE_MAX_ENTRIES: Final = 65_536  # Performance: ratelimiter.c, its figure on a large machine
RATE_IDLE_TIME: Final = SECOND  # Performance: ratelimiter.c; an entry idle for longer is collected
UNDER_LOAD_TIME: Final = SECOND  # Performance: receive.c; under load stays so for this long
HANDSHAKE_QUEUE: Final = 4096  # Performance: messages.h; handshake messages that may wait
UNDER_LOAD_QUEUE: Final = HANDSHAKE_QUEUE // 8  # Performance: receive.c; as many waiting mean under load
MAX_PEERS: Final = 1 << 20  # Performance: messages.h
DEFAULT_MTU: Final = 1420  # Performance: device.c; 1500 less the 80 bytes of IPv6, UDP and a data message
TIMER_TICK_SHIFT: Final = 24  # Performance: a timer tick is 2^24 ns, 16.8 ms (engine/timers.h)
