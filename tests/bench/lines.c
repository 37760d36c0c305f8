/* lines: counts how often the lines of an engine's segment move between the cores of its processes.
 *
 * Linked into each module of a build that is compiled with -fsanitize=thread, in the place of that sanitizer's own
 * runtime (tests/bench/lines.py): the compiler calls a function before each load and store. What the compiler does not
 * see is added: messages that a cipher of a library works on, and what system calls read and write, in the cache of the
 * process that asks for it.
 *
 * Each process stands for a core of its own with a cache that forgets nothing. A line is in one of the states of MESI:
 * whoever stored last has it alone until another loads it. A word of the directory, which all processes map, says for
 * each line how often it changed hands by a store, who stored last, and whether others have loaded it since; each
 * process remembers which count it has a copy of. So three things can be told:
 *
 *   a hit          the copy is the latest, and for a store nobody else has one
 *   a fetch        it is not: the line comes from the core that stored last
 *   a revocation   a store to a line of which others have copies, and the storing core too
 *
 * A first touch of a line that nobody of the others ever stored to is none of these. */

#include "engine/aead.h"
#include "shm/segment.h"
#include "tests/bench/lines.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define LINE 64
#define ROW_LINES (PEER_ROW_BYTES / LINE)

/* A word of the directory: stores that found others' copies << 20 | process << 1 | others have loaded it. */
#define SHARED 1ull
#define OWNER(word) ((uint32_t)((word) >> 1) & 0x7ffff)
#define TURN(word) ((uint32_t)((word) >> 20))
#define WORD(turn, owner) ((uint64_t)(turn) << 20 | (uint64_t)(owner) << 1)

static struct lines *lines;
static uint32_t me;          /* number of this process, from 1; 0: it has not mapped the segment */
static uint32_t *copies;     /* of each line: TURN of the copy that this process has, plus 1 */
static const char *base;
static uint64_t bytes, rows_at, rows_end;
static uint64_t begins[REGIONS];

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("PLAIT_LINES");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at;

    if (fd < 0)
        return;
    at = mmap(NULL, LINES_FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    lines = at == MAP_FAILED ? NULL : at;
    close(fd);
}

/* Not all modules have these: the linker leaves a weak one out. */
#define WRAPPED(type, name, ...) \
    __attribute__((weak)) type __real_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__)

WRAPPED(int, segment_attach, struct segment *segment, char *at, uint64_t size)
{
    int refused = __real_segment_attach(segment, at, size);
    void *made;

    if (refused || !lines)
        return refused;
    me = 0;
    if (size / LINE > LINES_MOST) {
        __atomic_store_n(&lines->too_many, 1, __ATOMIC_RELAXED);
        return 0;
    }
    made = mmap(NULL, size / LINE * sizeof *copies, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED)
        return 0;
    copies = made;
    base = at;
    bytes = size;
    for (uint32_t region = 0; region < REGIONS; region++)
        begins[region] = segment->header->offset[region];
    rows_at = begins[REGION_ROWS];
    rows_end = begins[REGION_ROWS + 1];
    me = __atomic_add_fetch(&lines->processes, 1, __ATOMIC_RELAXED);
    return 0;
}

static void count(uint64_t line, enum line_event event)
{
    uint64_t offset = line * LINE;
    uint32_t region = 0;

    if (!__atomic_load_n(&lines->counts, __ATOMIC_RELAXED))
        return;
    while (region + 1 < REGIONS && begins[region + 1] <= offset)
        region++;
    __atomic_fetch_add(&lines->events[event][region], 1, __ATOMIC_RELAXED);
    if (offset >= rows_at && offset < rows_end)
        __atomic_fetch_add(&lines->row_events[event][(offset - rows_at) / LINE % ROW_LINES], 1, __ATOMIC_RELAXED);
}

static void load(uint64_t line)
{
    uint64_t word = __atomic_load_n(&lines->directory[line], __ATOMIC_RELAXED);

    if (OWNER(word) == me || copies[line] == TURN(word) + 1)
        return;
    while (!(word & SHARED) && !__atomic_compare_exchange_n(&lines->directory[line], &word, word | SHARED, 0,
                                                            __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    copies[line] = TURN(word) + 1;
    if (OWNER(word))
        count(line, LINE_FETCHED);
}

static void store(uint64_t line)
{
    uint64_t word = __atomic_load_n(&lines->directory[line], __ATOMIC_RELAXED);

    do {
        if (OWNER(word) == me && !(word & SHARED))
            return;
    } while (!__atomic_compare_exchange_n(&lines->directory[line], &word, WORD(TURN(word) + 1, me), 0, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    if (OWNER(word))
        count(line, OWNER(word) == me || copies[line] == TURN(word) + 1 ? LINE_REVOKED : LINE_FETCHED);
}

static void touch(const volatile void *at, uint64_t size, int stores)
{
    uint64_t offset = (uint64_t)((const char *)at - base);

    if (!me || offset >= bytes || !size)
        return;
    for (uint64_t line = offset / LINE; line <= (offset + size - 1) / LINE && line < bytes / LINE; line++) {
        if (stores)
            store(line);
        else
            load(line);
    }
}

/* -- what the compiler calls ---------------------------------------------------------------------- */

#define PLAIN(size) \
    void __tsan_read##size(void *at); \
    void __tsan_read##size(void *at) { touch(at, size, 0); } \
    void __tsan_write##size(void *at); \
    void __tsan_write##size(void *at) { touch(at, size, 1); } \
    void __tsan_unaligned_read##size(void *at); \
    void __tsan_unaligned_read##size(void *at) { touch(at, size, 0); } \
    void __tsan_unaligned_write##size(void *at); \
    void __tsan_unaligned_write##size(void *at) { touch(at, size, 1); }

PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

void __tsan_read_range(void *at, unsigned long size);
void __tsan_read_range(void *at, unsigned long size) { touch(at, size, 0); }
void __tsan_write_range(void *at, unsigned long size);
void __tsan_write_range(void *at, unsigned long size) { touch(at, size, 1); }
void __tsan_init(void);
void __tsan_init(void) {}
void __tsan_func_entry(void *at);
void __tsan_func_entry(void *at) { (void)at; }
void __tsan_func_exit(void);
void __tsan_func_exit(void) {}
void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order)
{
    (void)order;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
void __tsan_atomic_signal_fence(int order);
void __tsan_atomic_signal_fence(int order)
{
    (void)order;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

#define CHANGE(bits, name) \
    uint##bits##_t __tsan_atomic##bits##_##name(volatile uint##bits##_t *at, uint##bits##_t value, int order); \
    uint##bits##_t __tsan_atomic##bits##_##name(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
    { \
        (void)order; \
        touch(at, bits / 8, 1); \
        return __atomic_##name(at, value, __ATOMIC_SEQ_CST); \
    }
#define COMPARE(bits, kind) \
    int __tsan_atomic##bits##_compare_exchange_##kind(volatile uint##bits##_t *at, uint##bits##_t *seen, \
                                                      uint##bits##_t value, int order, int failed); \
    int __tsan_atomic##bits##_compare_exchange_##kind(volatile uint##bits##_t *at, uint##bits##_t *seen, \
                                                      uint##bits##_t value, int order, int failed) \
    { \
        (void)order, (void)failed; \
        touch(at, bits / 8, 1); \
        return __atomic_compare_exchange_n(at, seen, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    }
#define ATOMIC(bits) \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *at, int order); \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *at, int order) \
    { \
        (void)order; \
        touch(at, bits / 8, 0); \
        return __atomic_load_n(at, __ATOMIC_SEQ_CST); \
    } \
    void __tsan_atomic##bits##_store(volatile uint##bits##_t *at, uint##bits##_t value, int order); \
    void __tsan_atomic##bits##_store(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
    { \
        (void)order; \
        touch(at, bits / 8, 1); \
        __atomic_store_n(at, value, __ATOMIC_SEQ_CST); \
    } \
    uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t *at, uint##bits##_t value, int order); \
    uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
    { \
        (void)order; \
        touch(at, bits / 8, 1); \
        return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST); \
    } \
    CHANGE(bits, fetch_add) \
    CHANGE(bits, fetch_sub) \
    CHANGE(bits, fetch_or) \
    CHANGE(bits, fetch_and) \
    CHANGE(bits, fetch_xor) \
    COMPARE(bits, strong) \
    COMPARE(bits, weak)

ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)

/* -- what it does not see ------------------------------------------------------------------------- */

static void touch_jobs(const struct aead_job *jobs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        touch(jobs[i].data, jobs[i].length, 1);
}

static void touch_parts(const struct iovec *parts, size_t count, uint64_t size, int stores)
{
    for (size_t i = 0; i < count && size; i++) {
        uint64_t part = parts[i].iov_len < size ? parts[i].iov_len : size;

        touch(parts[i].iov_base, part, stores);
        size -= part;
    }
}

static void touch_messages(const struct mmsghdr *messages, int count, int stores)
{
    for (int i = 0; i < count; i++)
        touch_parts(messages[i].msg_hdr.msg_iov, messages[i].msg_hdr.msg_iovlen, messages[i].msg_len, stores);
}

WRAPPED(void, aead_seal, struct aead *aead, struct aead_job *jobs, uint32_t count)
{
    touch_jobs(jobs, count);
    __real_aead_seal(aead, jobs, count);
}

WRAPPED(void, aead_open, struct aead *aead, struct aead_job *jobs, uint32_t count)
{
    touch_jobs(jobs, count);
    __real_aead_open(aead, jobs, count);
}

WRAPPED(void *, memcpy, void *to, const void *from, size_t size)
{
    touch(from, size, 0);
    touch(to, size, 1);
    return __real_memcpy(to, from, size);
}

WRAPPED(void *, memmove, void *to, const void *from, size_t size)
{
    touch(from, size, 0);
    touch(to, size, 1);
    return __real_memmove(to, from, size);
}

WRAPPED(void *, memset, void *to, int value, size_t size)
{
    touch(to, size, 1);
    return __real_memset(to, value, size);
}

WRAPPED(int, memcmp, const void *one, const void *other, size_t size)
{
    touch(one, size, 0);
    touch(other, size, 0);
    return __real_memcmp(one, other, size);
}

WRAPPED(ssize_t, readv, int fd, const struct iovec *parts, int count)
{
    ssize_t got = __real_readv(fd, parts, count);

    touch_parts(parts, (size_t)count, got > 0 ? (uint64_t)got : 0, 1);
    return got;
}

WRAPPED(ssize_t, writev, int fd, const struct iovec *parts, int count)
{
    touch_parts(parts, (size_t)count, UINT64_MAX, 0);
    return __real_writev(fd, parts, count);
}

WRAPPED(int, recvmmsg, int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
    int got = __real_recvmmsg(fd, messages, count, flags, timeout);

    touch_messages(messages, got, 1);
    return got;
}

WRAPPED(int, sendmmsg, int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    int sent = __real_sendmmsg(fd, messages, count, flags);

    touch_messages(messages, sent, 0);
    return sent;
}
