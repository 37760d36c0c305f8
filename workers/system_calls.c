/* Theory. Allowed calls stand in two lists, the most frequent first: `common` for every worker, `of_control` for
 * control in addition. A call that is harmless only with some arguments has a rule that names these arguments. A
 * filter sees an argument's number, never the memory behind a pointer. All other calls are refused in one of
 * three ways (docs/adr/0002):
 *   kill    calls by which a process reaches outside itself, listed in `escapes`, and calls by another
 *           ABI (i386, x32). No library makes such a call unasked: a process that makes one was taken over.
 *   ENOSYS  calls that came with Linux 5.1 or later. A kernel before 5.1 answers ENOSYS too, so glibc and
 *           Python have a fallback. clone3 is such a call; its flags stand in memory, where no filter sees them.
 *   EPERM   all other calls. A program can handle this error.
 * The filter is built here and not with libseccomp, because building it takes few lines. */
#include "workers/system_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

#ifdef ARCHITECTURE
/* The calls of receivers and consumers, then those of Python and the allocator around them. mremap is missing
 * because it could map keys again that were unmapped (shm/secrecy.c), mprotect because it could make a
 * read-only table writable. The heap of a process with one thread needs neither call. */
/* clang-format off */
static const uint16_t common[] = {
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
    SYS_membarrier, SYS_gettimeofday, SYS_newfstatat,
#ifdef SYS_time
    SYS_time,
#endif
};
/* clang-format on */

/* Control serves `wg`, asks the kernel about links and routes, makes and locks room in the segments, imports modules,
 * and starts threads (workers/control/crypto_threads.py). */
/* clang-format off */
static const uint16_t of_control[] = {
    SYS_sendto, SYS_recvfrom, SYS_accept, SYS_accept4, SYS_shutdown, SYS_getsockname, SYS_getpeername,
    SYS_getsockopt, SYS_fallocate, SYS_ftruncate, SYS_mremap, SYS_dup, SYS_statx, SYS_getdents64,
    SYS_readlinkat, SYS_getcwd, SYS_faccessat, SYS_pread64, SYS_pwrite64, SYS_pselect6, SYS_uname, SYS_sysinfo,
    SYS_getrusage, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_clock_getres, SYS_times,
    SYS_sched_getaffinity, SYS_set_robust_list, SYS_rseq, SYS_getcpu, SYS_mlock2,
#ifdef SYS_access
    SYS_access, SYS_stat, SYS_lstat, SYS_readlink, SYS_unlink, SYS_select,
#endif
};
/* clang-format on */

/* Calls by which a process runs another program, reaches another process's memory or descriptors, signals
 * another process (no worker does), changes its privileges or its view of the file system, or
 * makes the kernel act for it (io_uring, BPF, modules, reboot). */
/* clang-format off */
static const uint16_t escapes[] = {
    SYS_execve, SYS_execveat, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp,
    SYS_move_pages, SYS_migrate_pages, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_pidfd_send_signal,
    SYS_setns, SYS_unshare, SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_open_tree, SYS_move_mount,
    SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_open_by_handle_at, SYS_fanotify_init,
    SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid, SYS_setfsuid, SYS_setfsgid,
    SYS_setgroups, SYS_personality, SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_keyctl, SYS_add_key,
    SYS_request_key, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_init_module,
    SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_reboot, SYS_swapon, SYS_swapoff, SYS_quotactl, SYS_acct,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef SYS_iopl
    SYS_iopl, SYS_ioperm, SYS_modify_ldt,
#endif
#ifdef SYS_pidfd_getfd
    SYS_pidfd_getfd,
#endif
#ifdef SYS_process_madvise
    SYS_process_madvise,
#endif
#ifdef SYS_mount_setattr
    SYS_mount_setattr,
#endif
#ifdef SYS_process_mrelease
    SYS_process_mrelease,
#endif
};
/* clang-format on */

#define ALL 0xFFFFFFFFu
#define UPPER 8         /* in `argument`: check its upper 32 bits; without it, the lower 32 */
#define CHECKS_MOST 3
#define FIRST_YOUNG 424 /* first call of Linux 5.1; from here on a call has one number on all architectures */

/* A rule allows its call if each check holds: (argument & mask) == value. A mask of 0 ends the checks. */
struct check {
    uint32_t argument, mask, value;
};
struct rule {
    uint32_t call;
    struct check checks[CHECKS_MOST];
};

#define SELF 0

static const struct rule common_rules[] = {
    /* workers/datapath/priority.c; RLIMIT_RTPRIO bounds the priority where it is set (workers/priorities.py) */
    { SYS_sched_setscheduler, { { 0, ALL, SELF }, { 1, ALL, SCHED_RR | SCHED_RESET_ON_FORK } } },
    { SYS_sched_setscheduler, { { 0, ALL, SELF }, { 1, ALL, SCHED_NORMAL | SCHED_RESET_ON_FORK } } },
    { SYS_sched_setaffinity, { { 0, ALL, SELF } } }, /* workers/datapath/affinity.c */
    { SYS_mmap, { { 2, PROT_EXEC, 0 } } },
    { SYS_ioctl, { { 1, ALL, FIOCLEX } } },
};

/* The flags that pthread_create of glibc and of musl gives to clone: a thread, and no new namespace. */
#define THREAD (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS | \
                CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)
#define OPENED_FLAGS ((uint32_t)(O_ACCMODE | O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY)))
#define SOCKET_KIND (~(uint32_t)(SOCK_CLOEXEC | SOCK_NONBLOCK))
#define NETLINK_ROUTE 0
#define TUNGETIFF 0x800454D2u
#define TUNGETDEVNETNS 0x54E3u

static const struct rule rules_of_control[] = {
    { SYS_mprotect, { { 2, PROT_EXEC, 0 } } },
    { SYS_openat, { { 2, OPENED_FLAGS, O_RDONLY } } },
#ifdef SYS_open
    { SYS_open, { { 1, OPENED_FLAGS, O_RDONLY } } }, /* musl opens files with it */
#endif
    { SYS_unlinkat, { { 2, AT_REMOVEDIR, 0 } } },
    { SYS_clone, { { 0, ~(uint32_t)CLONE_DETACHED, THREAD } } },
    { SYS_socket, { { 0, ALL, AF_UNIX }, { 1, SOCKET_KIND, SOCK_DGRAM } } }, /* glibc's if_nametoindex */
    { SYS_socket, { { 0, ALL, AF_INET }, { 1, SOCKET_KIND, SOCK_DGRAM } } },
    { SYS_socket, { { 0, ALL, AF_NETLINK }, { 1, SOCKET_KIND, SOCK_RAW }, { 2, ALL, NETLINK_ROUTE } } },
    { SYS_setsockopt, { { 1, ALL, SOL_SOCKET }, { 2, ALL, SO_MARK } } },
    { SYS_ioctl, { { 1, ALL, FIONCLEX } } },
    { SYS_ioctl, { { 1, ALL, FIONBIO } } },
    { SYS_ioctl, { { 1, ALL, TCGETS } } },
    { SYS_ioctl, { { 1, ALL, TUNGETIFF } } },
    { SYS_ioctl, { { 1, ALL, TUNGETDEVNETNS } } },
    { SYS_ioctl, { { 1, ALL, SIOCGIFFLAGS } } },
    { SYS_ioctl, { { 1, ALL, SIOCGIFMTU } } },
    { SYS_ioctl, { { 1, ALL, SIOCGIFINDEX } } },
    { SYS_ioctl, { { 1, ALL, SIOCGIFNAME } } },
    { SYS_fcntl, { { 1, ALL, F_DUPFD } } },
    { SYS_fcntl, { { 1, ALL, F_DUPFD_CLOEXEC } } },
    { SYS_fcntl, { { 1, ALL, F_GETFD } } },
    { SYS_fcntl, { { 1, ALL, F_SETFD } } },
    { SYS_fcntl, { { 1, ALL, F_GETFL } } },
    { SYS_fcntl, { { 1, ALL, F_SETFL } } },
    { SYS_prctl, { { 0, ALL, PR_SET_NAME } } },
    { SYS_prlimit64, { { 0, ALL, SELF }, { 2, ALL, 0 }, { 2 | UPPER, ALL, 0 } } },
    { SYS_sched_setscheduler, { { 0, ALL, SELF } } },
    { SYS_setpriority, { { 0, ALL, PRIO_PROCESS }, { 1, ALL, SELF } } },
};

#define LISTED (LENGTH(common) + LENGTH(of_control) + LENGTH(escapes))
#define RULES (LENGTH(common_rules) + LENGTH(rules_of_control) + 2 /* own signals */)
#define PROGRAM_MOST (2 * LISTED + (3 * CHECKS_MOST + 3) * RULES + 16)

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

/* Skips `skip` instructions unless the accumulator A equals `value` (JEQ) or is at least `value` (JGE). */
static void unless(struct program *program, uint16_t test, uint32_t value, size_t skip)
{
    add(program, (struct sock_filter)BPF_JUMP((uint16_t)(BPF_JMP | test | BPF_K), value, 0, (uint8_t)skip));
}

static void load_call(struct program *program)
{
    load(program, offsetof(struct seccomp_data, nr));
}

/* Loads 32 bits of an argument, the upper or the lower half, into A. */
static void load_argument(struct program *program, uint32_t argument)
{
    uint32_t is_upper = !!(argument & UPPER);
    uint32_t half = 4 * (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 1 - is_upper : is_upper);

    load(program, (uint32_t)offsetof(struct seccomp_data, args) + 8 * (argument & ~(uint32_t)UPPER) + half);
}

/* add_list, add_rule and add_rules find the call's number in A and leave it there. */
static void add_list(struct program *program, const uint16_t *calls, size_t count, uint32_t action)
{
    for (size_t i = 0; i < count; i++) {
        unless(program, BPF_JEQ, calls[i], 1);
        answer(program, action);
    }
}

static void add_rule(struct program *program, const struct rule *rule)
{
    size_t count = 0;

    while (count < CHECKS_MOST && rule->checks[count].mask)
        count++;
    unless(program, BPF_JEQ, rule->call, 3 * count + 1);
    for (size_t i = 0; i < count; i++) {
        load_argument(program, rule->checks[i].argument);
        add(program, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, rule->checks[i].mask));
        unless(program, BPF_JEQ, rule->checks[i].value, 3 * (count - 1 - i) + 1);
    }
    answer(program, SECCOMP_RET_ALLOW);
    load_call(program);
}

static void add_rules(struct program *program, const struct rule *rules, size_t count)
{
    for (size_t i = 0; i < count; i++)
        add_rule(program, rules + i);
}

static void add_other_abis(struct program *program)
{
    load(program, offsetof(struct seccomp_data, arch));
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0));
    answer(program, SECCOMP_RET_KILL_PROCESS);
    load_call(program);
#if defined(__x86_64__)
    unless(program, BPF_JGE, 0x40000000, 1); /* x32 */
    answer(program, SECCOMP_RET_KILL_PROCESS);
#endif
}

/* Control may signal itself: abort() does, and so does control to end by a signal that it has caught. */
static void add_own_signals(struct program *program)
{
    uint32_t pid = (uint32_t)getpid();

    add_rule(program, &(struct rule){ SYS_kill, { { 0, ALL, pid } } });
    add_rule(program, &(struct rule){ SYS_tgkill, { { 0, ALL, pid } } });
}

int system_calls_restrict(int packets)
{
    struct program program = { .length = 0 };
    struct sock_fprog loaded;

    add_other_abis(&program);
    add_list(&program, common, LENGTH(common), SECCOMP_RET_ALLOW);
    add_rules(&program, common_rules, LENGTH(common_rules));
    if (!packets) {
        add_list(&program, of_control, LENGTH(of_control), SECCOMP_RET_ALLOW);
        add_rules(&program, rules_of_control, LENGTH(rules_of_control));
        add_own_signals(&program);
    }
    add_list(&program, escapes, LENGTH(escapes), SECCOMP_RET_KILL_PROCESS);
    unless(&program, BPF_JGE, FIRST_YOUNG, 1);
    answer(&program, SECCOMP_RET_ERRNO | ENOSYS);
    answer(&program, SECCOMP_RET_ERRNO | EPERM);
    loaded = (struct sock_fprog){ .len = program.length, .filter = program.at };
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &loaded, 0, 0);
}
#else
int system_calls_restrict(int packets)
{
    (void)packets;
    errno = ENOSYS;
    return -1;
}
#endif
