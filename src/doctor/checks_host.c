/* checks_host.c - what stands beside chatd: file systems, Redis, the clock. */
#include "checks_table.h"

#include <linux/magic.h>

enum { MEBIBYTE = 1 << 20, DATA_MIN_MIB = 1024 };

static bool has_redis(const struct config *config)
{
    return config->redis[0] != '\0' || config->redis_host[0] != '\0';
}

bool checks_shared_memory(const struct checks_input *in, struct finding *out)
{
    long long wanted = (long long)(in->config->bus_log_bytes / MEBIBYTE);

    if (has_redis(in->config))
        return false;
    if (in->facts->shm_free == FACTS_UNKNOWN)
        return checks_unknown(out);
    checks_say(out->value, "%lld MiB free", (long long)(in->facts->shm_free / MEBIBYTE));
    checks_say(out->reason, "bus_log_bytes are %lld MiB: without place for them chatd doesn't start", wanted);
    /* The one that runs has its log already. */
    if (in->facts->pid > 0 || in->facts->shm_free > in->config->bus_log_bytes)
        return true;
    out->holds = 0;
    checks_say(out->now, "mount -o remount,size=%lldM /dev/shm", 2 * wanted + 64);
    checks_say(out->keep, "/etc/fstab: tmpfs /dev/shm tmpfs size=%lldM 0 0; docker's --shm-size=%lldm",
               2 * wanted + 64, 2 * wanted + 64);
    return true;
}

static const struct {
    int64_t type;
    bool remote; /* where SQLite's locks and shared memory don't work */
    const char *name, *fault;
} types[] = {
    {NFS_SUPER_MAGIC, true, "NFS", "SQLite's log can't be shared over a network"},
    {SMB_SUPER_MAGIC, true, "SMB", "SQLite's log can't be shared over a network"},
    {CIFS_SUPER_MAGIC, true, "CIFS", "SQLite's log can't be shared over a network"},
    {SMB2_SUPER_MAGIC, true, "SMB2", "SQLite's log can't be shared over a network"},
    {CEPH_SUPER_MAGIC, true, "Ceph", "SQLite's log can't be shared over a network"},
    {TMPFS_MAGIC, false, "tmpfs", "what is there ends with the machine's next start"},
    {OVERLAYFS_SUPER_MAGIC, false, "overlay", "what is there ends with the container: give it a volume"},
};

bool checks_data_dir(const struct checks_input *in, struct finding *out)
{
    long long free = (long long)(in->facts->data_free / MEBIBYTE);

    if (in->facts->data_free == FACTS_UNKNOWN)
        return checks_unknown(out);
    checks_say(out->value, "%lld MiB free", free);
    checks_say(out->reason, "%.150s holds %s", in->config->data_dir,
               in->config->store[0] ? "what MongoDB hasn't got yet when chatd stops" : "the whole history");
    if (free < DATA_MIN_MIB) {
        out->verdict = CHECKS_ADVICE;
        out->advice = CHECKS_DO;
        checks_say(out->now, "make place below %.150s", in->config->data_dir);
    }
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        if (in->facts->data_type != types[i].type || (types[i].remote && in->config->store[0]))
            continue;
        out->verdict = CHECKS_ADVICE;
        checks_say(out->value, "%s, %lld MiB free", types[i].name, free);
        checks_say(out->reason, "%s", types[i].fault);
        checks_set(out, "data_dir = a directory on a disk of this machine, and start again");
        checks_say(out->keep, "chat.conf: data_dir");
    }
    return true;
}

bool checks_redis_host(const struct checks_input *in, struct finding *out)
{
    const struct facts *facts = in->facts;

    if (facts->redis_here != 1)
        return false;
    checks_say(out->value, "overcommit_memory %lld, huge pages %s", (long long)facts->overcommit,
               facts->huge_pages_always == 1 ? "always" : "not always");
    checks_say(out->reason,
               "without overcommit 1 its snapshots fail when memory is half full; huge pages slow them");
    if (facts->overcommit != 1) {
        out->verdict = CHECKS_ADVICE;
        checks_sysctl_number(out, "vm.overcommit_memory", 1);
    } else if (facts->huge_pages_always == 1) {
        out->verdict = CHECKS_ADVICE;
        checks_say(out->now, "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled");
        checks_say(out->keep, "kernel command line: transparent_hugepage=madvise");
    }
    return true;
}

bool checks_clock(const struct checks_input *in, struct finding *out)
{
    if (!has_redis(in->config) && in->config->store[0] == '\0')
        return false; /* one server is in step with itself */
    if (in->facts->clock_set == FACTS_UNKNOWN)
        return checks_unknown(out);
    checks_say(out->value, in->facts->clock_set ? "synchronised" : "not synchronised");
    checks_say(out->reason, "times of messages, and latencies between servers, are as right as their clocks");
    if (in->facts->clock_set)
        return true;
    out->verdict = CHECKS_ADVICE;
    checks_say(out->now, "timedatectl set-ntp true");
    checks_say(out->keep, "that is kept; or install chrony");
    return true;
}
