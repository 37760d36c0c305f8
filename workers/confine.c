/* Theory. Three walls that do not lean on each other. Capabilities are dropped from all five sets; with
 * no_new_privs nothing that is executed could bring them back. Landlock takes the file system away where
 * the kernel has it; chroot would need a capability at the wrong time, and a mount namespace is
 * what containers often forbid. The system call filter is a list of what may be called, in the order of
 * how often it is; it answers EPERM and does not kill: a libc that tries something new gets an
 * error that it can handle. The filter is made by hand because it is thirty lines of BPF. */
#include "workers/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

#define CAPABILITIES_MOST 64
#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static int drop_capabilities(uint64_t keep)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[2];

    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    /* The bounding set first: it takes CAP_SETPCAP. Without that there is nothing in it for us either. */
    for (unsigned long capability = 0; capability < CAPABILITIES_MOST; capability++)
        if (!(keep >> capability & 1) && prctl(PR_CAPBSET_READ, capability, 0, 0, 0) == 1)
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    if (syscall(SYS_capget, &header, data))
        return -1;
    for (int word = 0; word < 2; word++) {
        data[word].permitted &= (uint32_t)(keep >> 32 * word);
        data[word].effective = data[word].permitted;
        data[word].inheritable = 0;
    }
    return (int)syscall(SYS_capset, &header, data);
}

#ifdef SYS_landlock_create_ruleset
/* The rights that each version of the interface added; asking for more than the kernel knows is an error. */
static uint64_t file_rights(long version)
{
    uint64_t rights = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1; /* version 1 */

    if (version >= 2)
        rights |= 1ull << 13; /* refer */
    if (version >= 3)
        rights |= 1ull << 14; /* truncate */
    if (version >= 5)
        rights |= 1ull << 15; /* ioctl of devices opened later */
    return rights;
}

static void allow(int ruleset, const char *const *paths, uint64_t rights)
{
    struct landlock_path_beneath_attr rule = { .allowed_access = rights };

    for (; paths && *paths; paths++) {
        rule.parent_fd = open(*paths, O_PATH | O_CLOEXEC);
        if (rule.parent_fd < 0)
            continue; /* there is nothing to be opened, then */
        syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
        close(rule.parent_fd);
    }
}

static int drop_files(const char *const *readable, const char *const *removable)
{
    struct landlock_ruleset_attr attributes = { 0 };
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    int ruleset, refused;

    if (version < 1)
        return -1;
    attributes.handled_access_fs = file_rights(version);
    ruleset = (int)syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0);
    if (ruleset < 0)
        return -1;
    allow(ruleset, readable, LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR);
    allow(ruleset, removable, LANDLOCK_ACCESS_FS_REMOVE_FILE);
    refused = (int)syscall(SYS_landlock_restrict_self, ruleset, 0);
    close(ruleset);
    return refused;
}
#else
static int drop_files(const char *const *readable, const char *const *removable)
{
    (void)readable;
    (void)removable;
    return -1;
}
#endif

/* What the loops of receivers and consumers call, then what Python and the allocator do around them. Not
 * mremap: it could map again what was unmapped (shm/secrecy.c), and the allocator can do without. */
static const uint16_t needed[] = {
    SYS_futex, SYS_epoll_pwait, SYS_sendmsg, SYS_sendmmsg, SYS_recvmsg, SYS_recvmmsg, SYS_read, SYS_readv,
    SYS_write, SYS_writev, SYS_ppoll, SYS_epoll_ctl, SYS_clock_gettime,
#ifdef SYS_epoll_wait
    SYS_epoll_wait,
#endif
#ifdef SYS_poll
    SYS_poll,
#endif
    SYS_munmap, SYS_madvise, SYS_brk, SYS_close, SYS_fstat, SYS_lseek, SYS_getrandom, SYS_getpid,
    SYS_getppid, SYS_gettid, SYS_sched_yield, SYS_nanosleep, SYS_clock_nanosleep, SYS_restart_syscall,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_exit, SYS_exit_group,
    SYS_membarrier,
#ifdef SYS_newfstatat
    SYS_newfstatat,
#endif
};

/* For control, which asks the kernel about links and routes and serves `wg`. */
static const uint16_t dangerous[] = {
    SYS_execve, SYS_execveat, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kill, SYS_tkill,
    SYS_tgkill, SYS_pidfd_send_signal, SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_setns, SYS_unshare,
    SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_keyctl, SYS_add_key, SYS_request_key, SYS_init_module,
    SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_reboot, SYS_swapon, SYS_swapoff, SYS_quotactl,
    SYS_acct, SYS_open_by_handle_at, SYS_personality, SYS_setuid, SYS_setgid, SYS_setresuid, SYS_setresgid,
    SYS_io_uring_setup,
};

#ifdef ARCHITECTURE
#define PROGRAM_MOST 160

struct program {
    struct sock_filter at[PROGRAM_MOST];
    uint16_t length;
};

static void add(struct program *program, struct sock_filter instruction)
{
    program->at[program->length++] = instruction;
}

static void load(struct program *program, uint32_t offset)
{
    add(program, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset));
}

static void answer(struct program *program, uint32_t action)
{
    add(program, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

/* Goes on behind the next instruction unless A equals value (JEQ) or shares a bit with it (JSET). */
static void unless(struct program *program, uint16_t test, uint32_t value)
{
    add(program, (struct sock_filter)BPF_JUMP((uint16_t)(BPF_JMP | test | BPF_K), value, 0, 1));
}

/* The lower half of argument `number` of the call. */
static void load_argument(struct program *program, uint32_t number)
{
    load(program, (uint32_t)offsetof(struct seccomp_data, args) + 8 * number +
                      (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 4 : 0));
}

static const uint32_t refuse = SECCOMP_RET_ERRNO | EPERM;

/* Memory may be had, but not to be executed. */
static void add_mapping(struct program *program, uint32_t call)
{
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 4));
    load_argument(program, 2);
    unless(program, BPF_JSET, PROT_EXEC);
    answer(program, refuse);
    answer(program, SECCOMP_RET_ALLOW);
}

static int filter(int packets)
{
    struct program program = { .length = 0 };
    const uint16_t *calls = packets ? needed : dangerous;
    size_t count = packets ? LENGTH(needed) : LENGTH(dangerous);
    struct sock_fprog loaded;

    load(&program, offsetof(struct seccomp_data, arch));
    add(&program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0));
    answer(&program, refuse);
    load(&program, offsetof(struct seccomp_data, nr));
#if defined(__x86_64__)
    add(&program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1)); /* x32 */
    answer(&program, refuse);
#endif
    for (size_t i = 0; i < count; i++) {
        unless(&program, BPF_JEQ, calls[i]);
        answer(&program, packets ? SECCOMP_RET_ALLOW : refuse);
    }
    if (packets) {
        add_mapping(&program, SYS_mmap);
        add_mapping(&program, SYS_mprotect);
        /* Of ioctl: what marks a descriptor as ours alone. The call is in A unless it was one of the two. */
        add(&program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 1, 0));
        answer(&program, refuse);
        load_argument(&program, 1);
        unless(&program, BPF_JEQ, FIOCLEX);
        answer(&program, SECCOMP_RET_ALLOW);
    }
    answer(&program, packets ? refuse : SECCOMP_RET_ALLOW);
    loaded = (struct sock_fprog){ .len = program.length, .filter = program.at };
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &loaded, 0, 0);
}
#else
static int filter(int packets)
{
    (void)packets;
    return -1;
}
#endif

int confine(uint64_t keep, const char *const *readable, const char *const *removable, int packets)
{
    int refused = 0;

    /* Without it neither of the other two is granted to a process without CAP_SYS_ADMIN. */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        refused |= CONFINE_FILES | CONFINE_SYSTEM_CALLS;
    if (drop_capabilities(keep))
        refused |= CONFINE_CAPABILITIES;
    if (drop_files(readable, removable))
        refused |= CONFINE_FILES;
    if (filter(packets))
        refused |= CONFINE_SYSTEM_CALLS;
    return refused;
}
