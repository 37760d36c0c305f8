#include "workers/process_state.h"

#include <link.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

static void set(int number, void (*handler)(int))
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigaction(number, &action, NULL);
}

void signals_forget(void)
{
    struct sigaction found;
    sigset_t none;
    int number;

    for (number = 1; number < NSIG; number++)
        if (sigaction(number, NULL, &found) == 0 && found.sa_handler != SIG_DFL && found.sa_handler != SIG_IGN)
            set(number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

void signal_ignore(int number)
{
    set(number, SIG_IGN);
}

int process_option(int option, uint64_t value)
{
    return prctl(option, (unsigned long)value, 0ul, 0ul, 0ul);
}

/* Whether the loader changed code in place (text relocations): those pages differ from the file, and stay. */
static int has_text_relocations(const struct dl_phdr_info *object, const ElfW(Phdr) * dynamic)
{
    const ElfW(Dyn) *entry = (const ElfW(Dyn) *)(object->dlpi_addr + dynamic->p_vaddr);

    for (; entry->d_tag != DT_NULL; entry++)
        if (entry->d_tag == DT_TEXTREL || (entry->d_tag == DT_FLAGS && entry->d_un.d_val & DF_TEXTREL))
            return 1;
    return 0;
}

static int let_go_of(struct dl_phdr_info *object, size_t size, void *passed)
{
    uint64_t *looked_through = passed;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first, end;
    int i;

    (void)size;
    if (object->dlpi_name[0] && !strchr(object->dlpi_name, '/')) /* the vDSO, which has no file; "" is the program */
        return 0;
    for (i = 0; i < object->dlpi_phnum; i++)
        if (object->dlpi_phdr[i].p_type == PT_DYNAMIC && has_text_relocations(object, &object->dlpi_phdr[i]))
            return 0;
    for (i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];

        if (part->p_type != PT_LOAD || part->p_flags & PF_W)
            continue;
        first = (object->dlpi_addr + part->p_vaddr) & ~(page - 1);
        end = (object->dlpi_addr + part->p_vaddr + part->p_memsz + page - 1) & ~(page - 1);
        if (madvise((void *)first, end - first, MADV_DONTNEED) == 0)
            *looked_through += end - first;
    }
    return 0;
}

uint64_t program_let_go(void)
{
    uint64_t looked_through = 0;

    dl_iterate_phdr(let_go_of, &looked_through);
    return looked_through;
}
