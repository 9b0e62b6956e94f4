/* checks_process.c - what a process may have: descriptors, memory, threads, cores. */
#include "checks_table.h"

enum { STEP = 1024, MEBIBYTE = 1 << 20 };

/* Kernels since 5.x set fs.file-max to the largest number there is. */
static const int64_t NEVER_REACHED = INT64_C(1) << 40;

static int64_t divide_up(int64_t number, int64_t by)
{
    return (number + by - 1) / by;
}

static int64_t round_up(int64_t number, int64_t step)
{
    return divide_up(number, step) * step;
}

/* `redis` may name several servers. The pool is split over the workers, with one subscriber beside. */
static int64_t redis_files(const struct checks_input *in)
{
    const struct config *config = in->config;
    int64_t servers = 1;

    if (config->redis[0] == '\0' && config->redis_host[0] == '\0')
        return 0;
    for (const char *at = config->redis; *at; at++)
        servers += *at == ',';
    return servers * (divide_up(config->redis_pool_size, in->workers) + 1);
}

static int64_t mongodb_pool(const struct checks_input *in)
{
    int64_t pool = divide_up(in->config->mongodb_pool_size, in->workers);

    return in->config->store[0] == '\0' ? 0 : pool > 2 ? pool : 2;
}

static int64_t own_files(const struct checks_input *in)
{
    return CHECKS_WORKER_FILES + redis_files(in) + mongodb_pool(in);
}

/* The descriptors a worker needs so that all of them together hold what is wanted. */
static int64_t files_wanted(const struct checks_input *in)
{
    return round_up(divide_up(in->wanted, in->workers) + own_files(in), STEP);
}

static int64_t files_hold(const struct checks_input *in, int64_t limit)
{
    return checks_clamp(limit - own_files(in)) * in->workers;
}

/* More than chatd ever asks for: only more workers help. */
static bool beyond_chatd(const struct checks_input *in, struct finding *out)
{
    if (files_wanted(in) <= CHECKS_FILES_MAX)
        return false;
    checks_set(out, "workers = %lld",
               (long long)divide_up(in->wanted, CHECKS_FILES_MAX - own_files(in)));
    checks_say(out->keep, "chat.conf: workers");
    return true;
}

bool checks_open_files(const struct checks_input *in, struct finding *out)
{
    const struct facts *facts = in->facts;
    int64_t limit = facts->open_files, most = CHECKS_FILES_MAX;

    if (limit == FACTS_UNKNOWN)
        return checks_unknown(out);
    if (facts->nr_open != FACTS_UNKNOWN && facts->nr_open < most)
        most = facts->nr_open;
    /* chatd raises its own limit where it may: descriptors.c. */
    if (limit > most || (facts->may_raise == 1 && limit < most))
        limit = most;
    out->holds = files_hold(in, limit);
    checks_say(out->value, "%lld for each of %lld workers%s", (long long)limit, (long long)in->workers,
               facts->may_raise == 1 && facts->open_files < limit ? ", raised by chatd" : "");
    checks_say(
        out->reason,
        "(%lld - %lld of its own) x %lld workers; a connection is a descriptor (RLIMIT_NOFILE, hard, of %s)",
        (long long)limit, (long long)own_files(in), (long long)in->workers,
        facts->pid > 0 ? "the chatd that runs" : "the shell that starts chatd");
    if (beyond_chatd(in, out))
        return true;
    checks_say(out->now, "ulimit -n %lld", (long long)files_wanted(in));
    checks_say(out->keep, "`systemctl edit chatd`: [Service] LimitNOFILE=%lld", (long long)files_wanted(in));
    return true;
}

bool checks_nr_open(const struct checks_input *in, struct finding *out)
{
    int64_t limit = in->facts->nr_open;

    if (limit == FACTS_UNKNOWN)
        return checks_unknown(out);
    checks_say(out->value, "%lld", (long long)limit);
    if (limit >= CHECKS_FILES_MAX)
        limit = CHECKS_FILES_MAX;
    out->holds = files_hold(in, limit);
    checks_say(out->reason, "no process may have more descriptors, and chatd asks for %d at most",
               CHECKS_FILES_MAX);
    if (!beyond_chatd(in, out))
        checks_sysctl_number(out, "fs.nr_open", CHECKS_FILES_MAX);
    return true;
}

bool checks_file_max(const struct checks_input *in, struct finding *out)
{
    int64_t used = in->facts->files_used > 0 ? in->facts->files_used : 0;
    int64_t limit = in->facts->file_max, own = in->workers * own_files(in);

    if (limit == FACTS_UNKNOWN)
        return checks_unknown(out);
    checks_say(out->value, "%lld, %lld in use", (long long)limit, (long long)used);
    if (limit > NEVER_REACHED)
        checks_say(out->value, "no limit");
    else
        out->holds = checks_clamp(limit - used - own);
    checks_say(out->reason, "all open files of the host, less those of others and %lld of the workers",
               (long long)own);
    checks_sysctl_number(out, "fs.file-max", round_up(in->wanted + used + own, STEP));
    return true;
}

/* ---- memory ---- */

/* A proxy on this host has two sockets for each of chatd's. */
static int64_t kernel_bytes(const struct checks_input *in)
{
    return in->proxy_here ? 3 * CHECKS_KERNEL_BYTES : CHECKS_KERNEL_BYTES;
}

/* An idle connection and a small message waiting in each direction. */
static int64_t connection_bytes(const struct checks_input *in)
{
    const struct facts *facts = in->facts;
    int64_t read = facts->tcp_read_min > 0 ? facts->tcp_read_min : CHECKS_PAGE;
    int64_t write = facts->tcp_write_min > 0 ? facts->tcp_write_min : CHECKS_PAGE;

    return CHECKS_CHATD_BYTES + kernel_bytes(in) + read + write;
}

static int64_t fixed_bytes(const struct checks_input *in)
{
    bool embedded = in->config->redis[0] == '\0' && in->config->redis_host[0] == '\0';

    return in->workers * CHECKS_WORKER_BYTES + (embedded ? in->config->bus_log_bytes : 0);
}

static int64_t memory_wanted(const struct checks_input *in)
{
    int64_t bytes = fixed_bytes(in) + in->wanted * connection_bytes(in);

    return divide_up(bytes / CHECKS_MEMORY_PERCENT * 100, MEBIBYTE);
}

static int64_t memory_holds(const struct checks_input *in, int64_t bytes)
{
    return checks_clamp(bytes / 100 * CHECKS_MEMORY_PERCENT - fixed_bytes(in)) / connection_bytes(in);
}

static void explain_memory(const struct checks_input *in, struct finding *out)
{
    long long kernel = (long long)kernel_bytes(in);

    checks_say(
        out->reason,
        "%d %% of it, less %lld MiB for workers and bus, by %d bytes in chatd + %lld in the kernel + %lld in "
        "socket buffers (first of tcp_rmem and tcp_wmem)%s",
        CHECKS_MEMORY_PERCENT, (long long)(fixed_bytes(in) / MEBIBYTE), CHECKS_CHATD_BYTES, kernel,
        (long long)connection_bytes(in) - CHECKS_CHATD_BYTES - kernel,
        in->proxy_here ? "; the proxy's sockets are in it, its memory isn't" : "");
}

bool checks_host_memory(const struct checks_input *in, struct finding *out)
{
    int64_t free = in->facts->memory_free;

    if (free == FACTS_UNKNOWN)
        return checks_unknown(out);
    out->holds = memory_holds(in, free);
    checks_say(out->value, "%lld MiB available of %lld", (long long)(free / MEBIBYTE),
               (long long)(in->facts->memory / MEBIBYTE));
    explain_memory(in, out);
    out->advice = CHECKS_DO;
    checks_say(out->now, "give the host %lld MiB for chatd, or use more servers",
               (long long)memory_wanted(in));
    return true;
}

bool checks_group_memory(const struct checks_input *in, struct finding *out)
{
    int64_t limit = in->facts->cgroup_memory;
    long long wanted = memory_wanted(in);

    if (limit == FACTS_UNKNOWN || limit == FACTS_NONE)
        return false;
    out->holds = memory_holds(in, limit);
    checks_say(out->value, "%lld MiB", (long long)(limit / MEBIBYTE));
    explain_memory(in, out);
    checks_say(out->now, "systemctl set-property chatd MemoryMax=%lldM", wanted);
    checks_say(out->keep,
               "that is kept; in a container: docker's --memory=%lldm, Kubernetes' limits.memory: %lldMi",
               wanted, wanted);
    return true;
}

bool checks_address_space(const struct checks_input *in, struct finding *out)
{
    int64_t limit = in->facts->address_space;

    if (limit == FACTS_UNKNOWN || limit == FACTS_NONE)
        return false;
    out->holds = checks_clamp(limit - fixed_bytes(in)) / CHECKS_CHATD_BYTES * in->workers;
    checks_say(out->value, "%lld MiB for each process", (long long)(limit / MEBIBYTE));
    checks_say(out->reason, "RLIMIT_AS counts what is mapped, used or not: chatd should have no such limit");
    checks_say(out->now, "ulimit -v unlimited");
    checks_say(out->keep, "`systemctl edit chatd`: [Service] LimitAS=infinity");
    out->verdict = CHECKS_ADVICE;
    return true;
}

/* ---- threads and cores ---- */

static void least(int64_t *limit, const char **name, int64_t found, const char *its)
{
    if (found == FACTS_UNKNOWN || found >= *limit)
        return;
    *limit = found;
    *name = its;
}

bool checks_tasks(const struct checks_input *in, struct finding *out)
{
    const struct facts *facts = in->facts;
    int64_t needed = 1 + in->workers * (CHECKS_WORKER_THREADS + mongodb_pool(in)), limit = FACTS_NONE;
    const char *name = "";

    least(&limit, &name, facts->threads_max, "kernel.threads-max");
    least(&limit, &name, facts->pid_max, "kernel.pid_max");
    least(&limit, &name, facts->cgroup_tasks, "pids.max of the control group");
    if (facts->may_raise != 1)
        least(&limit, &name, facts->processes, "RLIMIT_NPROC");
    if (limit == FACTS_NONE)
        return checks_unknown(out);
    checks_say(out->value, "%lld (%s)", (long long)limit, name);
    checks_say(out->reason, "processes and threads; chatd needs up to %lld, others theirs",
               (long long)needed);
    if (limit < needed)
        out->holds = 0;
    if (limit == facts->threads_max || limit == facts->pid_max) {
        checks_sysctl_number(out, name, round_up(needed + limit, STEP));
        return true;
    }
    checks_say(out->now,
               limit == facts->cgroup_tasks ? "systemctl set-property chatd TasksMax=%lld" : "ulimit -u %lld",
               (long long)round_up(needed, STEP));
    checks_say(out->keep,
               "`systemctl edit chatd`: [Service] TasksMax= and LimitNPROC=; docker's --pids-limit");
    return true;
}

bool checks_mappings(const struct checks_input *in, struct finding *out)
{
    if (in->facts->map_count == FACTS_UNKNOWN)
        return checks_unknown(out);
    checks_say(out->value, "%lld", (long long)in->facts->map_count);
    checks_say(out->reason, "a worker has up to %d mappings, however many connections", CHECKS_WORKER_MAPS);
    if (in->facts->map_count < CHECKS_WORKER_MAPS)
        out->verdict = CHECKS_ADVICE;
    checks_sysctl_number(out, "vm.max_map_count", 65530);
    return true;
}

bool checks_cores(const struct checks_input *in, struct finding *out)
{
    const struct facts *facts = in->facts;
    int64_t thousandths;

    if (facts->cores == FACTS_UNKNOWN)
        return checks_unknown(out);
    thousandths = facts->cores * 1000;
    if (facts->cgroup_cpus != FACTS_UNKNOWN && facts->cgroup_cpus < thousandths)
        thousandths = facts->cgroup_cpus;
    checks_say(out->value, "%lld.%lld for %lld workers", (long long)(thousandths / 1000),
               (long long)(thousandths % 1000 / 100), (long long)in->workers);
    checks_say(out->reason,
               "a worker is one thread at work: more of them than cores take turns, with fewer cores idle");
    if (in->workers * 1000 >= thousandths && (in->workers - 1) * 1000 < thousandths)
        return true;
    out->verdict = CHECKS_ADVICE;
    checks_set(out, "workers = %lld and send HUP", (long long)divide_up(thousandths, 1000));
    checks_say(out->keep, "chat.conf: workers");
    return true;
}
