/* Theory. Three walls that do not lean on each other. Capabilities are dropped from all five sets; with
 * no_new_privs nothing that is executed could bring them back. Landlock takes the file system away where
 * the kernel has it, and newer kernels' Landlock also TCP, signals to others and abstract unix sockets;
 * chroot would need a capability at the wrong time, and a mount namespace is what containers often
 * forbid. The third wall is the filter of system calls (system_calls.c). */
#include "workers/sandbox.h"

#include "workers/system_calls.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CAPABILITIES_MOST 64

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

/* struct landlock_ruleset_attr of version 6; an older kernel takes a longer one whose rest is zero. */
struct ruleset {
    uint64_t files, network, scopes;
};

static int use_landlock(const char *const *readable, const char *const *removable)
{
    struct ruleset attributes = { 0 };
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    int ruleset, refused;

    if (version < 1)
        return -1;
    attributes.files = file_rights(version);
    if (version >= 4)
        attributes.network = 3; /* bind and connect TCP */
    if (version >= 6)
        attributes.scopes = 3; /* abstract unix sockets and signals of processes outside */
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
static int use_landlock(const char *const *readable, const char *const *removable)
{
    (void)readable;
    (void)removable;
    return -1;
}
#endif

int sandbox_enter(uint64_t keep, const char *const *readable, const char *const *removable, int packets)
{
    int refused = 0;

    /* Without it neither of the other two is granted to a process without CAP_SYS_ADMIN. */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        refused |= SANDBOX_FILES | SANDBOX_SYSTEM_CALLS;
    if (drop_capabilities(keep))
        refused |= SANDBOX_CAPABILITIES;
    if (use_landlock(readable, removable))
        refused |= SANDBOX_FILES;
    if (system_calls_restrict(packets))
        refused |= SANDBOX_SYSTEM_CALLS;
    return refused;
}
