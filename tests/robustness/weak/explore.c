/* explore: every execution that C11 allows of a few threads over shm/, as it is compiled.
 *
 * gcc -fsanitize=thread puts a call before each access to memory and in place of each atomic one. Here those calls
 * do not lead into ThreadSanitizer but to this file. So the C that ships is what is explored, each
 * access with the order that it ships with; nothing is written a second time.
 *
 * Memory. A word that several threads use is no cell but a list of messages in modification order. A message has a
 * value and a view: for each word, the oldest message that whoever acquires this one may still read. A thread has
 * three views: what it must have seen (current), what it would have with an acquire fence, and what it
 * had at its last release fence. Reading: any message that is not older than the current view has;
 * acquire joins the message's view. Writing: anywhere behind the message that the current view has, but not between a
 * message and the read-modify-write that read it; release gives the message the current view. A
 * read-modify-write also hands on the view of what it read (release sequences as of C++20). A
 * seq_cst fence joins the thread's view and one that all those fences share. This is RC11
 * (Lahav et al., 2017) for programs whose seq_cst is in fences alone, in the operational form of Kang et al. (2017)
 * without promises. What it leaves out: a load that reads a store which follows it in
 * its own causal past (load buffering).
 *
 * Plain accesses are checked with vector clocks, which views carry: two that are not ordered by happens-before, one
 * of them a write, are a fault.
 *
 * Exploration. Threads are coroutines that stop before each access to a word that another thread writes or
 * that they write for others. Which words these are is found out by running: when one more
 * turns up, the exploration begins again. A depth-first search takes every thread and every message at
 * each state, and leaves out states that were seen: same history of every thread (messages read, accesses), same
 * modification orders, same view of the fences. A loop that reads the same again is followed REPEATS times
 * and then waits until there is something new in a word that it has read since.
 *
 * usage: weak SCENARIO [--weaken SITE=ORDER]... [--limit STATES]      SITE: an address of this program, hexadecimal
 *        weak --list
 * Prints `key value` lines: states, executions, seconds, used SITE KIND ORDER FAILURE_ORDER; fault and trace lines for
 * the first broken promise. Returns 0; 1: a fault; 2: usage; 3: the limit was reached. */
#include "weak.h"

#include <errno.h>
#include <linux/futex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>

#define WORDS 40
#define MESSAGES 16
#define VISITS 24
#define ARENA (128 * 1024)
#define PRIVATE (32 * 1024)
#define LINE 64
#define LINES (ARENA / LINE)
#define STACK (32 * 1024)
#define DEPTH 400
#define CELLS 512
#define EVENTFDS 2
#ifndef REPEATS
#define REPEATS 1
#endif

enum {
    RELAXED,
    CONSUME,
    ACQUIRE,
    RELEASE,
    ACQ_REL,
    SEQ_CST,
    NO_FENCE
};
enum kind {
    LOAD,
    STORE,
    RMW,
    CAS,
    FENCE,
    WAIT,
    WOKEN,
    WAKE,
    EVENT_WAIT,
    EVENT_WRITE,
    JOIN,
    ENDED
};
static const char *kinds[] = { "load", "store", "rmw", "cas", "fence", "futex wait", "woken", "futex wake",
                               "eventfd wait", "eventfd write", "join", "ended" };
enum status {
    LIVE,
    WAITING,
    KILLED
};

struct view {
    uint8_t at[WORDS];
    uint8_t clock[THREADS];
};

struct message {
    uint64_t value;
    uint8_t place, thread, number, rmw; /* place in modification order; number: the thread's n-th store */
    struct view view;
};

struct word {
    uint8_t count;
    uint8_t order[MESSAGES];
    struct message message[MESSAGES];
};

struct request {
    enum kind kind;
    int word, size, order, failure;
    char *address;
    uint64_t operand, expected;
    char operation;
    const char *site;
};

struct thread {
    jmp_buf context;
    char *stack; /* what is above is in use */
    enum status status;
    struct view current, acquired, released;
    uint64_t history;
    uint8_t stores;
    struct request request;
    uint64_t result;
    int success;
    uint8_t visits;
    struct {
        const char *site;
        uint8_t word, times;
    } visit[VISITS];
};

/* Plain accesses to four bytes. */
struct cell {
    uint8_t writer, written, read[THREADS];
};

/* All that a step may change, but for stacks and lines of the arena. */
static struct world {
    struct thread thread[THREADS];
    struct view fences;
    uint8_t events[EVENTFDS];
    struct view event_view[EVENTFDS];
    int words; /* used, of what follows */
    int cells;
    struct cell cell[CELLS];
    struct word word[WORDS];
} w;

static _Alignas(LINE) char arena[ARENA], initial[ARENA];
static _Alignas(LINE) char own[PRIVATE];
static char stacks[THREADS][STACK];
static size_t arena_used, own_used;
static int threads, running = -1;
static jmp_buf scheduler;
static ucontext_t starting, started;
static const struct scenario *scenario;

/* Found out by running, kept from one exploration to the next. */
static struct known {
    char *address;
    int size, shared;
    unsigned users, writers;
} known[1024];
static int known_count;
static char *word_address[WORDS];
static int word_size[WORDS], word_waited[WORDS], word_count, again;
static short cell_of[ARENA / 4], touched[LINES];
static int cell_count, touched_count;
static uint8_t is_touched[LINES];

static jmp_buf finishing;
static char fault[400];
static unsigned long states, executions, limit = 100000000;

static void die(const char *what)
{
    fprintf(stderr, "weak: %s. Raise it in tests/robustness/weak/explore.c, or make the scenario %s smaller.\n", what, scenario->name);
    exit(2);
}

/* --- sites and mutants --- */

static struct site {
    const char *address;
    int kind, order, failure, weakened;
} sites[1024];
static int site_count;

static struct site *site_of(const char *address)
{
    for (int i = 0; i < site_count; i++)
        if (sites[i].address == address)
            return &sites[i];
    if (site_count == 1024)
        die("more than 1024 sites");
    sites[site_count] = (struct site){ .address = address, .kind = -1, .weakened = -1 };
    return &sites[site_count++];
}

static int order_of(const char *address, enum kind kind, int order, int failure)
{
    struct site *site = site_of(address);
    site->kind = kind;
    site->order = order;
    site->failure = failure;
    return site->weakened >= 0 ? site->weakened : order;
}

/* --- views --- */

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash ^= value + 0x9e3779b97f4a7c15ull + (hash << 6) + (hash >> 2);
    hash *= 0xff51afd7ed558ccdull;
    return hash ^ hash >> 32;
}

static uint64_t view_hash(const struct view *view)
{
    uint64_t hash = 1;
    for (int i = 0; i < word_count; i++) {
        const struct message *m = &w.word[i].message[view->at[i]];
        hash = mix(hash, (uint64_t)m->thread << 8 | m->number);
    }
    for (int i = 0; i < threads; i++)
        hash = mix(hash, view->clock[i]);
    return hash;
}

static int place_of(int word, int message)
{
    return w.word[word].message[message].place;
}

static void view_join(struct view *view, const struct view *other)
{
    for (int i = 0; i < word_count; i++)
        if (view->at[i] != other->at[i] && place_of(i, other->at[i]) > place_of(i, view->at[i]))
            view->at[i] = other->at[i];
    for (int i = 0; i < threads; i++)
        if (other->clock[i] > view->clock[i])
            view->clock[i] = other->clock[i];
}

static void view_see(struct view *view, int word, int message)
{
    if (place_of(word, message) > place_of(word, view->at[word]))
        view->at[word] = (uint8_t)message;
}

/* --- memory --- */

static int in_arena(const void *address)
{
    return (const char *)address >= arena && (const char *)address < arena + ARENA;
}

static void touch(const void *address, size_t size)
{
    size_t first = (size_t)((const char *)address - arena) / LINE, last = (size_t)((const char *)address + size - 1 - arena) / LINE;
    for (size_t line = first; line <= last && line < LINES; line++)
        if (!is_touched[line]) {
            is_touched[line] = 1;
            touched[touched_count++] = (short)line;
        }
}

static uint64_t memory_read(const void *address, int size)
{
    uint64_t value = 0;
    memcpy(&value, address, (size_t)size);
    return value;
}

static void memory_write(void *address, int size, uint64_t value)
{
    touch(address, (size_t)size);
    memcpy(address, &value, (size_t)size);
}

void *shared_new(size_t bytes)
{
    size_t at = (arena_used + LINE - 1) / LINE * LINE;
    if (at + bytes > ARENA)
        die("the arena is full");
    arena_used = at + bytes;
    return arena + at;
}

void *private_new(size_t bytes)
{
    size_t at = (own_used + 15) / 16 * 16;
    if (at + bytes > PRIVATE)
        die("private memory is full");
    own_used = at + bytes;
    return own + at;
}

static __attribute__((noinline)) void stop_here(void)
{
    if (running < 0)
        return;
    struct thread *t = &w.thread[running];
    t->stack = (char *)__builtin_frame_address(0) - 512; /* and what is below it of this very function */
    if (_setjmp(t->context) == 0)
        _longjmp(scheduler, 1);
}

void fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    if (!fault[0])
        vsnprintf(fault, sizeof fault, format, list);
    va_end(list);
    if (running < 0) { /* in finish(): it has one reader */
        _longjmp(finishing, 1);
    }
    for (;;)
        stop_here();
}

/* The word at an address, if several threads use it and one writes it; else -1. */
static int word_at(char *address, int size, int writes)
{
    struct known *k = known;
    for (; k < known + known_count; k++)
        if (k->address == address)
            break;
    if (k == known + known_count) {
        if (known_count == 1024)
            die("more than 1024 atomic words");
        known_count++;
        *k = (struct known){ .address = address, .size = size, .shared = -1 };
    }
    k->users |= 1u << running;
    k->writers |= (unsigned)writes << running;
    if (k->shared < 0 && k->writers && (k->users & (k->users - 1))) {
        if (word_count == WORDS)
            die("too many shared words");
        word_address[word_count] = address;
        word_size[word_count] = size;
        k->shared = word_count++;
        again = 1;
    }
    if (again) /* begin again with what is known now */
        for (;;)
            stop_here();
    return k->shared;
}

static struct cell *cell_at(size_t quarter)
{
    if (!cell_of[quarter]) {
        if (cell_count == CELLS - 1)
            die("too many plain places");
        cell_of[quarter] = (short)++cell_count;
    }
    return &w.cell[cell_of[quarter]];
}

static void race(const char *what, const void *address, int other)
{
    fail("race: thread %d %s at arena+%zu, not ordered with thread %d", running, what,
         (size_t)((const char *)address - arena), other);
}

static void plain(char *address, size_t size, int writes)
{
    if (!in_arena(address))
        return;
    touch(address, size);
    if (running < 0)
        return;
    struct thread *t = &w.thread[running];
    for (int i = 0; i < word_count; i++) /* of a word that is atomic elsewhere: only with all of its stores seen */
        if (word_address[i] < address + size && address < word_address[i] + word_size[i]) {
            if (writes)
                fail("a plain store to a word that others use atomically");
            struct word *word = &w.word[i];
            if (place_of(i, t->current.at[i]) != word->count - 1)
                race("reads plainly an atomic word", address, word->message[word->order[word->count - 1]].thread);
        }
    for (struct known *k = known; k < known + known_count; k++)
        if (k->address < address + size && address < k->address + k->size)
            (void)word_at(k->address, k->size, writes);
    t->acquired.clock[running] = ++t->current.clock[running];
    if (t->current.clock[running] == 255)
        die("more than 254 plain accesses of one thread");
    for (size_t at = (size_t)(address - arena) / 4; at <= ((size_t)(address - arena) + size - 1) / 4; at++) {
        struct cell *cell = cell_at(at);
        if (cell->written && cell->writer != running && cell->written > t->current.clock[cell->writer])
            race(writes ? "writes over" : "reads", address, cell->writer);
        if (writes) {
            for (int other = 0; other < threads; other++)
                if (other != running && cell->read[other] > t->current.clock[other])
                    race("writes over what is read", address, other);
            cell->writer = (uint8_t)running;
            cell->written = t->current.clock[running];
        }
        cell->read[running] = t->current.clock[running];
    }
}

/* --- what instrumented code calls --- */

static uint64_t operate(char operation, uint64_t old, uint64_t operand)
{
    switch (operation) {
    case '+': return old + operand;
    case '-': return old - operand;
    case '|': return old | operand;
    case '&': return old & operand;
    default: return operand;
    }
}

static uint64_t sized(uint64_t value, int size)
{
    return size == 8 ? value : value & 0xffffffffull;
}

/* Makes the access at once when no other thread can tell, else stops before it. */
static uint64_t access_word(struct request request, int *success)
{
    int word = running < 0 || !in_arena(request.address)
                   ? -1
                   : word_at(request.address, request.size, request.kind != LOAD);
    if (word < 0) {
        uint64_t old = memory_read(request.address, request.size);
        int equal = old == request.expected;
        if (success)
            *success = equal;
        if (request.kind == LOAD || (request.kind == CAS && !equal))
            return old;
        uint64_t value = sized(request.kind == RMW ? operate(request.operation, old, request.operand) : request.operand, request.size);
        if (in_arena(request.address))
            memory_write(request.address, request.size, value);
        else
            memcpy(request.address, &value, (size_t)request.size);
        return old;
    }
    request.word = word;
    struct thread *t = &w.thread[running];
    t->request = request;
    stop_here();
    if (success)
        *success = t->success;
    return t->result;
}

#define SITE __builtin_return_address(0)
#define ATOMICS(bits, type) \
    type __tsan_atomic##bits##_load(const volatile type *a, int order); \
    type __tsan_atomic##bits##_load(const volatile type *a, int order) \
    { \
        return (type)access_word((struct request){ \
                                     .kind = LOAD, \
                                     .size = sizeof(type), \
                                     .address = (char *)(uintptr_t)a, \
                                     .order = order_of(SITE, LOAD, order, 0), \
                                     .site = SITE, \
                                 }, \
                                 0); \
    } \
    void __tsan_atomic##bits##_store(volatile type *a, type v, int order); \
    void __tsan_atomic##bits##_store(volatile type *a, type v, int order) \
    { \
        access_word((struct request){ \
                        .kind = STORE, \
                        .size = sizeof(type), \
                        .address = (char *)(uintptr_t)a, \
                        .operand = v, \
                        .order = order_of(SITE, STORE, order, 0), \
                        .site = SITE, \
                    }, \
                    0); \
    } \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile type *a, type *e, type v, int order, int failure); \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile type *a, type *e, type v, int order, int failure) \
    { \
        int success; \
        uint64_t old = access_word((struct request){ \
                                       .kind = CAS, \
                                       .size = sizeof(type), \
                                       .address = (char *)(uintptr_t)a, \
                                       .operand = v, \
                                       .expected = *e, \
                                       .order = order_of(SITE, CAS, order, failure), \
                                       .failure = failure, \
                                       .site = SITE, \
                                   }, \
                                   &success); \
        if (!success) \
            *e = (type)old; \
        return success; \
    } \
    RMW_OF(bits, type, exchange, '=') \
    RMW_OF(bits, type, fetch_add, '+') \
    RMW_OF(bits, type, fetch_sub, '-') \
    RMW_OF(bits, type, fetch_or, '|') \
    RMW_OF(bits, type, fetch_and, '&')
#define RMW_OF(bits, type, name, sign) \
    type __tsan_atomic##bits##_##name(volatile type *a, type v, int order); \
    type __tsan_atomic##bits##_##name(volatile type *a, type v, int order) \
    { \
        return (type)access_word((struct request){ \
                                     .kind = RMW, \
                                     .size = sizeof(type), \
                                     .address = (char *)(uintptr_t)a, \
                                     .operand = v, \
                                     .operation = sign, \
                                     .order = order_of(SITE, RMW, order, 0), \
                                     .site = SITE, \
                                 }, \
                                 0); \
    }
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)

void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order)
{
    int as = order_of(SITE, FENCE, order, 0);
    if (running < 0 || as == NO_FENCE)
        return;
    struct thread *t = &w.thread[running];
    t->request = (struct request){ .kind = FENCE, .order = as, .site = SITE };
    if (as == SEQ_CST) {
        stop_here();
        return;
    }
    if (as == ACQUIRE || as == ACQ_REL) /* nobody can tell when */
        t->current = t->acquired;
    if (as == RELEASE || as == ACQ_REL)
        t->released = t->current;
}
void __tsan_atomic_signal_fence(int order);
void __tsan_atomic_signal_fence(int order) { (void)order; }

#define PLAIN(bytes) \
    void __tsan_read##bytes(void *a); \
    void __tsan_read##bytes(void *a) { plain(a, bytes, 0); } \
    void __tsan_write##bytes(void *a); \
    void __tsan_write##bytes(void *a) { plain(a, bytes, 1); }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)
#define UNALIGNED(bytes) \
    void __tsan_unaligned_read##bytes(void *a); \
    void __tsan_unaligned_read##bytes(void *a) { plain(a, bytes, 0); } \
    void __tsan_unaligned_write##bytes(void *a); \
    void __tsan_unaligned_write##bytes(void *a) { plain(a, bytes, 1); }
UNALIGNED(2)
UNALIGNED(4)
UNALIGNED(8)
UNALIGNED(16)
void __tsan_read_range(void *a, size_t size);
void __tsan_read_range(void *a, size_t size) { plain(a, size, 0); }
void __tsan_write_range(void *a, size_t size);
void __tsan_write_range(void *a, size_t size) { plain(a, size, 1); }
void __tsan_init(void);
void __tsan_init(void) {}
void __tsan_func_entry(void *a);
void __tsan_func_entry(void *a) { (void)a; }
void __tsan_func_exit(void *a);
void __tsan_func_exit(void *a) { (void)a; }

/* Compiled in for the library's: -Dmemcpy=weak_memcpy and so on. */
void *weak_memcpy(void *to, const void *from, size_t size);
void *weak_memcpy(void *to, const void *from, size_t size)
{
    if (size != 0) {
        plain((char *)(uintptr_t)from, size, 0);
        plain(to, size, 1);
    }
    return memcpy(to, from, size);
}
void *weak_calloc(size_t count, size_t size);
void *weak_calloc(size_t count, size_t size) { return private_new(count * size); }
void *weak_malloc(size_t size);
void *weak_malloc(size_t size) { return private_new(size); }
void weak_free(void *memory);
void weak_free(void *memory) { (void)memory; }

static uint64_t ask(struct request request)
{
    if (running < 0)
        return 0;
    struct thread *t = &w.thread[running];
    t->request = request;
    stop_here();
    return t->result;
}

long weak_syscall(long number, ...);
long weak_syscall(long number, ...)
{
    va_list list;
    va_start(list, number);
    char *word = va_arg(list, char *);
    int operation = va_arg(list, int);
    uint32_t value = va_arg(list, uint32_t);
    va_end(list);
    if (number != SYS_futex)
        fail("a system call that is not known here");
    int at = running < 0 ? -1 : word_at(word, 4, 0);
    if (at >= 0 && !word_waited[at]) {
        word_waited[at] = again = 1;
        stop_here();
    }
    uint64_t answer = ask((struct request){
        .kind = operation == FUTEX_WAIT ? WAIT : WAKE,
        .address = word,
        .word = at,
        .expected = value,
        .site = SITE,
    });
    if (operation == FUTEX_WAIT && answer) {
        errno = answer == 1 ? EAGAIN : ETIMEDOUT;
        return -1;
    }
    return 0;
}

long weak_write(int fd, const void *bytes, size_t size);
long weak_write(int fd, const void *bytes, size_t size)
{
    (void)bytes;
    ask((struct request){ .kind = EVENT_WRITE, .operand = (uint64_t)fd, .site = SITE });
    return (long)size;
}

void eventfd_wait(int fd)
{
    ask((struct request){ .kind = EVENT_WAIT, .operand = (uint64_t)fd, .site = SITE });
}

int join(unsigned thread)
{
    return (int)ask((struct request){ .kind = JOIN, .operand = thread, .site = SITE });
}

/* --- steps --- */

static void seen_reset(struct thread *t)
{
    t->visits = 0;
}

static int visits_of(const struct thread *t, const char *site, int word)
{
    for (int i = 0; i < t->visits; i++)
        if (t->visit[i].site == site && t->visit[i].word == word)
            return t->visit[i].times;
    return 0;
}

static void visit(struct thread *t, const char *site, int word)
{
    for (int i = 0; i < t->visits; i++)
        if (t->visit[i].site == site && t->visit[i].word == word) {
            t->visit[i].times++;
            return;
        }
    if (t->visits == VISITS)
        die("a thread reads more than 24 places without news");
    t->visit[t->visits].site = site;
    t->visit[t->visits].word = (uint8_t)word;
    t->visit[t->visits++].times = 1;
}

static int is_newest(const struct thread *t, int word)
{
    return place_of(word, t->current.at[word]) == w.word[word].count - 1;
}

/* It has read this as often as it may: is there anything else that it read, and that has changed? */
static int news_elsewhere(const struct thread *t, int word)
{
    for (int i = 0; i < t->visits; i++)
        if (t->visit[i].word != word && !is_newest(t, t->visit[i].word))
            return 1;
    return 0;
}

static void observe(struct thread *t, int word, int message, int order)
{
    const struct message *m = &w.word[word].message[message];
    view_see(&t->current, word, message);
    view_see(&t->acquired, word, message);
    view_join(&t->acquired, &m->view);
    if (order == ACQUIRE || order == ACQ_REL || order == SEQ_CST)
        view_join(&t->current, &m->view);
}

static void emit(struct thread *t, int at, uint64_t value, int order, int behind, int rmw)
{
    struct word *word = &w.word[at];
    int me = (int)(t - w.thread);
    if (word->count == MESSAGES)
        die("more than 16 stores to one word");
    int id = word->count++, place = place_of(at, behind) + 1;
    for (int i = id; i > place; i--) {
        word->order[i] = word->order[i - 1];
        word->message[word->order[i]].place = (uint8_t)i;
    }
    word->order[place] = (uint8_t)id;
    struct message *m = &word->message[id];
    struct view from_rmw = word->message[behind].view;
    *m = (struct message){
        .value = value,
        .place = (uint8_t)place,
        .thread = (uint8_t)(me + 1),
        .number = ++t->stores,
        .rmw = (uint8_t)rmw,
        .view = t->released,
    };
    view_see(&t->current, at, id);
    view_see(&t->acquired, at, id);
    if (order == RELEASE || order == ACQ_REL || order == SEQ_CST)
        m->view = t->current;
    if (rmw)
        view_join(&m->view, &from_rmw);
    view_see(&m->view, at, id);
    /* What a plain reader sees that has seen all of it. */
    memory_write(word_address[at], word_size[at], word->message[word->order[word->count - 1]].value);
}

/* Nobody else can move: a loop of few turns may end by itself. */
static int alone;
#define PATIENT 12

/* Makes choice number `choice` of the thread's next step: 1, or 0 when there is none of that number; -1: this one
 * cannot be made now, others may. */
static int step(int me, int choice)
{
    struct thread *t = &w.thread[me];
    struct request *r = &t->request;
    struct view before = t->current, before_acquired = t->acquired;
    int wrote = 0;
    uint64_t key = (uint64_t)(uintptr_t)r->site;

    switch (r->kind) {
    case LOAD:
    case RMW:
    case CAS:
    case STORE: {
        struct word *word = &w.word[r->word];
        int place = place_of(r->word, t->current.at[r->word]) + choice;
        if (place >= word->count)
            return 0;
        int id = word->order[place];
        uint64_t value = word->message[id].value;
        int is_followed = place + 1 < word->count && word->message[word->order[place + 1]].rmw;
        uint64_t tag = (uint64_t)word->message[id].thread << 8 | word->message[id].number;
        t->success = r->kind == CAS && value == r->expected;
        int writes = r->kind == STORE || r->kind == RMW || t->success;
        if (writes && is_followed)
            return -1;
        if (!writes) {
            int times = visits_of(t, r->site, r->word);
            if (choice == 0 && times > REPEATS &&
                (!is_newest(t, r->word) || (!news_elsewhere(t, r->word) && (!alone || times > PATIENT))))
                return -1;
            visit(t, r->site, r->word);
        }
        t->result = value;
        t->history = mix(t->history, mix(key, r->kind == STORE ? 0 : tag));
        int order = r->kind == CAS && !t->success ? r->failure : r->order;
        if (r->kind != STORE)
            observe(t, r->word, id, order);
        if (writes)
            emit(t, r->word, sized(r->kind == RMW ? operate(r->operation, value, r->operand) : r->operand, r->size), order,
                 id, r->kind != STORE);
        wrote = writes;
        break;
    }
    case FENCE:
        if (choice)
            return 0;
        view_join(&t->acquired, &w.fences);
        w.fences = t->released = t->current = t->acquired;
        t->history = mix(t->history, mix(key, view_hash(&t->current)));
        break;
    case WAIT: {
        if (choice > 1 || t->status == WAITING)
            return 0;
        if (choice == 1) { /* its time is over */
            t->result = 2;
            t->history = mix(t->history, mix(key, 2));
            break;
        }
        uint64_t value = memory_read(r->address, 4); /* the kernel has the newest, and this thread after it */
        if (r->word >= 0) {
            view_see(&t->current, r->word, w.word[r->word].order[w.word[r->word].count - 1]);
            view_see(&t->acquired, r->word, w.word[r->word].order[w.word[r->word].count - 1]);
        }
        t->result = value != r->expected;
        t->history = mix(t->history, mix(key, t->result));
        if (t->result == 0)
            t->status = WAITING;
        wrote = 1;
        break;
    }
    case WOKEN:
        if (choice)
            return 0;
        t->result = 0;
        wrote = 1;
        break;
    case WAKE:
        if (choice)
            return 0;
        for (int i = 0; i < threads; i++)
            if (w.thread[i].status == WAITING && w.thread[i].request.address == r->address)
                w.thread[i].status = LIVE, w.thread[i].request.kind = WOKEN;
        t->history = mix(t->history, key);
        wrote = 1;
        break;
    case EVENT_WRITE:
        if (choice)
            return 0;
        w.events[r->operand]++;
        view_join(&w.event_view[r->operand], &t->current); /* the kernel's lock orders what is before and after */
        t->history = mix(t->history, key);
        wrote = 1;
        break;
    case EVENT_WAIT:
        if (choice || w.events[r->operand] == 0)
            return 0;
        w.events[r->operand] = 0;
        view_join(&t->current, &w.event_view[r->operand]);
        view_join(&t->acquired, &t->current);
        t->history = mix(t->history, mix(key, view_hash(&t->current)));
        wrote = 1;
        break;
    case JOIN: {
        struct thread *other = &w.thread[r->operand];
        if (choice || (other->request.kind != ENDED && other->status != KILLED))
            return 0;
        view_join(&t->current, &other->current);
        view_join(&t->acquired, &t->current);
        t->result = other->status == KILLED;
        t->history = mix(t->history, mix(key, view_hash(&t->current)));
        wrote = 1;
        break;
    }
    case ENDED:
        return 0;
    }
    if (wrote || memcmp(&before, &t->current, sizeof before) != 0 || memcmp(&before_acquired, &t->acquired, sizeof before) != 0)
        seen_reset(t);
    return 1;
}

static void resume(int me)
{
    running = me;
    if (_setjmp(scheduler) == 0)
        _longjmp(w.thread[me].context, 1);
    running = -1;
}

static void body(int me)
{
    scenario->run[me]();
    w.thread[me].request = (struct request){ .kind = ENDED };
    for (;;)
        stop_here();
}

/* --- search --- */

static uint64_t *seen_table;
static size_t seen_size, seen_used;

static int seen_before(uint64_t hash)
{
    if (hash == 0)
        hash = 1;
    if (2 * seen_used >= seen_size) {
        uint64_t *old = seen_table;
        size_t count = seen_size;
        seen_size = count ? 2 * count : 1 << 16;
        seen_table = calloc(seen_size, sizeof *seen_table);
        if (!seen_table)
            die("no memory for more states");
        for (size_t i = 0; i < count; i++)
            if (old[i]) {
                size_t at = old[i] & (seen_size - 1);
                while (seen_table[at])
                    at = (at + 1) & (seen_size - 1);
                seen_table[at] = old[i];
            }
        free(old);
    }
    size_t at = hash & (seen_size - 1);
    for (; seen_table[at]; at = (at + 1) & (seen_size - 1))
        if (seen_table[at] == hash)
            return 1;
    seen_table[at] = hash;
    seen_used++;
    return 0;
}

static uint64_t state_hash(void)
{
    uint64_t hash = view_hash(&w.fences);
    for (int i = 0; i < threads; i++)
        hash = mix(hash, mix(w.thread[i].history, w.thread[i].status * 16u + (unsigned)w.thread[i].request.kind));
    for (int i = 0; i < word_count; i++)
        for (int at = 1; at < w.word[i].count; at++) {
            const struct message *m = &w.word[i].message[w.word[i].order[at]];
            hash = mix(hash, (uint64_t)i << 16 | (uint64_t)m->thread << 8 | m->number);
        }
    for (int i = 0; i < EVENTFDS; i++)
        hash = mix(hash, w.events[i]);
    return hash;
}

struct snapshot {
    int lines, cells;
    size_t stack_at[THREADS];
    size_t bytes;
    char *memory;
};

static struct snapshot snapshots[DEPTH];

static size_t stack_from(int me)
{
    return (size_t)(w.thread[me].stack - stacks[me]);
}

static size_t world_bytes(void)
{
    return offsetof(struct world, word) + (size_t)word_count * sizeof(struct word);
}

static void save(struct snapshot *s)
{
    size_t bytes = world_bytes() + own_used + (size_t)touched_count * LINE;
    for (int i = 0; i < threads; i++)
        bytes += STACK - (s->stack_at[i] = stack_from(i));
    if (bytes > s->bytes) {
        s->bytes = bytes + 8192;
        s->memory = realloc(s->memory, s->bytes);
        if (!s->memory)
            die("no memory for a snapshot");
    }
    char *to = s->memory;
    to = (char *)memcpy(to, &w, world_bytes()) + world_bytes();
    to = (char *)memcpy(to, own, own_used) + own_used;
    s->lines = touched_count;
    for (int i = 0; i < touched_count; i++, to += LINE)
        memcpy(to, arena + touched[i] * LINE, LINE);
    for (int i = 0; i < threads; i++)
        to = (char *)memcpy(to, stacks[i] + s->stack_at[i], STACK - s->stack_at[i]) + STACK - s->stack_at[i];
}

static void load(const struct snapshot *s)
{
    const char *from = s->memory;
    memcpy(&w, from, world_bytes());
    from += world_bytes();
    memcpy(own, from, own_used);
    from += own_used;
    for (int i = 0; i < s->lines; i++, from += LINE)
        memcpy(arena + touched[i] * LINE, from, LINE);
    for (int i = s->lines; i < touched_count; i++)
        memcpy(arena + touched[i] * LINE, initial + touched[i] * LINE, LINE);
    for (int i = 0; i < threads; i++) {
        memcpy(stacks[i] + s->stack_at[i], from, STACK - s->stack_at[i]);
        from += STACK - s->stack_at[i];
    }
}

static struct {
    int thread, killed;
    struct request request;
    uint64_t value;
} path[DEPTH];

static void tell(int depth)
{
    printf("fault %s\n", fault);
    for (int i = 0; i < depth; i++)
        printf("trace %d %s %p %zd %llx %llx\n", path[i].thread, path[i].killed ? "killed" : kinds[path[i].request.kind],
               (const void *)path[i].request.site, in_arena(path[i].request.address) ? (ssize_t)(path[i].request.address - arena) : -1,
               (unsigned long long)path[i].value, (unsigned long long)path[i].request.operand);
}

static void finish_here(unsigned waiting)
{
    if (_setjmp(finishing) == 0)
        scenario->finish(waiting);
}

/* The thread whose next step may be made before all others', or -1. A plain store may: whatever others do before it,
 * they can do after it as well, since they need not read it and may still write in front of it. Not
 * where the newest counts (a futex), nor where the thread may be killed instead. */
static int first_mover(void)
{
    for (int me = 0; me < threads; me++) {
        const struct thread *t = &w.thread[me];
        if (t->status == LIVE && t->request.kind == STORE && !word_waited[t->request.word] && !(scenario->mortal >> me & 1))
            return me;
    }
    return -1;
}

/* 1: stop (a fault, a word more, the limit). */
static int search(int depth)
{
    if (depth == DEPTH) {
        snprintf(fault, sizeof fault, "an execution of more than %d steps", DEPTH);
        tell(depth);
        return 1;
    }
    if (seen_before(state_hash()))
        return 0;
    if (++states >= limit)
        return 1;
    struct snapshot *here = &snapshots[depth];
    save(here);
    int moved = 0, first = first_mover();
    for (alone = 0; alone < 2 && !moved; alone++)
        for (int me = 0; me < threads; me++) {
            if (w.thread[me].status == KILLED || (first >= 0 && me != first))
                continue;
            for (int choice = 0;; choice++) {
                path[depth].thread = me;
                path[depth].killed = 0;
                path[depth].request = w.thread[me].request;
                int was_alone = alone, made = w.thread[me].status == LIVE ? step(me, choice) : 0;
                if (made == 0)
                    break;
                if (made < 0)
                    continue;
                moved = 1;
                path[depth].value = w.thread[me].result;
                if (w.thread[me].status == LIVE)
                    resume(me);
                if (fault[0]) {
                    tell(depth + 1);
                    return 1;
                }
                if (again || search(depth + 1))
                    return 1;
                load(here);
                alone = was_alone;
            }
            if (!alone && scenario->mortal >> me & 1 && w.thread[me].request.kind != ENDED) {
                path[depth].killed = 1;
                w.thread[me].status = KILLED;
                if (search(depth + 1))
                    return 1;
                load(here);
                alone = 0;
            }
        }
    if (moved)
        return 0;
    executions++;
    unsigned waiting = 0;
    for (int me = 0; me < threads; me++)
        if (w.thread[me].status != KILLED && w.thread[me].request.kind != ENDED) {
            waiting |= 1u << me;
            if (w.thread[me].request.kind <= CAS)
                snprintf(fault, sizeof fault, "thread %d goes round for ever", me);
        }
    if (!fault[0])
        finish_here(waiting);
    load(here);
    if (fault[0])
        tell(depth);
    return fault[0] != 0;
}

static void begin(void)
{
    memset(&w, 0, sizeof w);
    memset(arena, 0, sizeof arena);
    memset(own, 0, sizeof own);
    memset(seen_table, 0, seen_size * sizeof *seen_table);
    memset(cell_of, 0, sizeof cell_of);
    memset(is_touched, 0, sizeof is_touched);
    arena_used = own_used = seen_used = 0;
    cell_count = touched_count = again = 0;
    states = executions = 0;
    scenario->prepare();
    memcpy(initial, arena, sizeof arena);
    memset(is_touched, 0, sizeof is_touched);
    touched_count = 0;
    for (int i = 0; i < word_count; i++) {
        w.word[i].count = 1;
        w.word[i].message[0].value = memory_read(word_address[i], word_size[i]);
    }
    for (threads = 0; threads < THREADS && scenario->run[threads]; threads++)
        ;
    for (int me = 0; me < threads; me++) {
        w.thread[me].stack = stacks[me];
        if (again)
            return;
        getcontext(&starting);
        starting.uc_stack.ss_sp = stacks[me];
        starting.uc_stack.ss_size = STACK;
        makecontext(&starting, (void (*)(void))body, 1, me);
        running = me;
        if (_setjmp(scheduler) == 0)
            swapcontext(&started, &starting);
        running = -1;
    }
}

int main(int count, char **words)
{
    const char *name = count > 1 ? words[1] : "";
    if (strcmp(name, "--list") == 0) {
        for (scenario = scenarios; scenario->name; scenario++)
            printf("%s\t%d\t%s\n", scenario->name, scenario->large, scenario->says);
        return 0;
    }
    for (scenario = scenarios; scenario->name && strcmp(scenario->name, name) != 0; scenario++)
        ;
    for (int i = 2; i < count && scenario->name; i++) {
        char *end = 0;
        if (strcmp(words[i], "--weaken") == 0 && i + 1 < count) {
            char *site = (char *)(uintptr_t)strtoull(words[++i], &end, 16);
            if (*end == '=') {
                site_of(site)->weakened = atoi(end + 1);
                continue;
            }
        } else if (strcmp(words[i], "--limit") == 0 && i + 1 < count) {
            limit = strtoul(words[++i], &end, 10);
            if (*end == 0)
                continue;
        }
        scenario = &(struct scenario){ 0 };
    }
    if (!scenario->name) {
        fputs("usage: weak SCENARIO [--weaken SITE=ORDER]... [--limit STATES] | weak --list\n", stderr);
        return 2;
    }
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    int stopped;
    do {
        begin();
        stopped = again || search(0);
        if (fault[0] && states == 0)
            tell(0);
    } while (again);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("states %lu\nexecutions %lu\nseconds %.2f\n", states, executions,
           (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
    for (int i = 0; i < site_count; i++)
        if (sites[i].kind >= 0)
            printf("used %p %s %d %d\n", (const void *)sites[i].address, kinds[sites[i].kind], sites[i].order, sites[i].failure);
    return fault[0] ? 1 : stopped ? 3
                                  : 0;
}
