/* entry: where libFuzzer, or the replay below, comes in, and a watch for inputs that never end.
 *
 * The watch counts the CPU time of the process, not the clock's: a process that is stopped for
 * minutes, or hardly scheduled, is not stuck. */
#include "input.h"

#include <signal.h>
#include <sys/time.h>

#define TICK_SECONDS 5
#define TICKS_MOST 4

static volatile uint64_t inputs;

static void on_tick(int signal)
{
    static uint64_t seen;
    static int ticks;

    (void)signal;
    ticks = inputs == seen ? ticks + 1 : 0;
    seen = inputs;
    if (inputs && ticks >= TICKS_MOST)
        abort();
}

__attribute__((constructor)) static void watch(void)
{
    struct itimerval every = { { TICK_SECONDS, 0 }, { TICK_SECONDS, 0 } };

    signal(SIGVTALRM, on_tick);
    setitimer(ITIMER_VIRTUAL, &every, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = { data, size };

    inputs++;
    fuzz_one(&input);
    return 0;
}

#ifdef REPLAY
/* Runs the files that are named, without a fuzzer: for compilers that have none. */
int main(int count, char **words)
{
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(words[i], "rb");
        static uint8_t room[1 << 20];
        size_t size;
        uint8_t *exact;

        if (!file) {
            perror(words[i]);
            return 2;
        }
        size = fread(room, 1, sizeof room, file);
        fclose(file);
        exact = memcpy(malloc(size), room, size);
        fprintf(stderr, "%s\n", words[i]);  /* the last name is the one that failed */
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    return 0;
}
#endif
