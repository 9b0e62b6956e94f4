/* test_doctor.c - recorded machines: what each holds, what stops it first, and that following the advice
 * lifts that. */
#include "doctor/checks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <linux/magic.h>

/* A machine is files below a directory of its own. */
struct recorded {
    const char *path, *content;
};

/* Debian 12 with 16 GiB and 8 cores as it comes, seen by an ordinary user's shell. */
static const struct recorded debian[] = {
    {"/proc/self/limits", "Limit                     Soft Limit           Hard Limit           Units     \n"
                          "Max processes             63432                63432                processes \n"
                          "Max open files            1024                 1048576              files     \n"
                          "Max address space         unlimited            unlimited            bytes     \n"},
    {"/proc/self/status", "Name:\tchatd\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"},
    {"/proc/self/cgroup", "0::/user.slice/session-3.scope\n"},
    {"/sys/fs/cgroup/user.slice/session-3.scope/memory.max", "max\n"},
    {"/sys/fs/cgroup/user.slice/memory.max", "max\n"},
    {"/sys/fs/cgroup/user.slice/pids.max", "20919\n"},
    {"/proc/meminfo",
     "MemTotal:       16393068 kB\nMemFree:          201376 kB\nMemAvailable:   15000000 kB\n"},
    {"/proc/stat", "cpu  1 2 3\ncpu0 1\ncpu1 1\ncpu2 1\ncpu3 1\ncpu4 1\ncpu5 1\ncpu6 1\ncpu7 1\nintr 5\n"},
    {"/proc/sys/fs/nr_open", "1048576\n"},
    {"/proc/sys/fs/file-max", "9223372036854775807\n"},
    {"/proc/sys/fs/file-nr", "1088\t0\t9223372036854775807\n"},
    {"/proc/sys/net/ipv4/tcp_mem", "187383\t249847\t374766\n"},
    {"/proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"},
    {"/proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"},
    {"/proc/sys/net/core/somaxconn", "4096\n"},
    {"/proc/sys/net/ipv4/tcp_max_syn_backlog", "1024\n"},
    {"/proc/sys/net/core/netdev_max_backlog", "1000\n"},
    {"/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"},
    {"/proc/sys/net/ipv4/ip_local_reserved_ports", "\n"},
    {"/proc/sys/kernel/pid_max", "4194304\n"},
    {"/proc/sys/kernel/threads-max", "127421\n"},
    {"/proc/sys/vm/max_map_count", "65530\n"},
    {"/proc/sys/vm/overcommit_memory", "0\n"},
    {"/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"},
    {NULL, NULL},
};

struct machine {
    char root[64];
    struct config config;
    struct facts facts;
    struct checks_input input;
    struct finding findings[CHECKS_MAX];
    int count;
};

static void put(const struct machine *machine, const char *path, const char *content)
{
    char full[256];
    FILE *file;

    snprintf(full, sizeof(full), "%s%s", machine->root, path);
    for (char *slash = full + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    file = fopen(full, "w");
    assert_non_null(file);
    fputs(content, file);
    assert_int_equal(fclose(file), 0);
}

static int setup(void **state)
{
    struct machine *machine = calloc(1, sizeof(*machine));

    if (!machine)
        return -1;
    strcpy(machine->root, "/tmp/test_doctor_XXXXXX");
    if (!mkdtemp(machine->root))
        return -1;
    for (const struct recorded *file = debian; file->path; file++)
        put(machine, file->path, file->content);
    config_defaults(&machine->config);
    machine->config.workers = 8;
    machine->config.max_connections_per_ip = 0;
    machine->input = (struct checks_input){.config = &machine->config,
                                           .facts = &machine->facts,
                                           .workers = 8,
                                           .demand = 200000,
                                           .wanted = 200000};
    *state = machine;
    return 0;
}

static int teardown(void **state)
{
    struct machine *machine = *state;
    char command[128];

    snprintf(command, sizeof(command), "rm -rf %s", machine->root);
    if (system(command) != 0)
        return -1;
    free(machine);
    return 0;
}

static void look(struct machine *machine)
{
    facts_read(&machine->facts, machine->root, &machine->config);
}

static void judge(struct machine *machine)
{
    machine->count = checks_run(&machine->input, machine->findings);
}

static const struct finding *find(const struct machine *machine, const char *name)
{
    for (int i = 0; i < machine->count; i++) {
        if (strcmp(machine->findings[i].name, name) == 0)
            return &machine->findings[i];
    }
    return NULL;
}

static const struct finding *need(const struct machine *machine, const char *name)
{
    const struct finding *finding = find(machine, name);

    assert_non_null(finding);
    return finding;
}

static const struct finding *first(const struct machine *machine)
{
    return &machine->findings[checks_first(machine->findings, machine->count)];
}

static void a_debian_machine_is_stopped_by_tcp_memory(void **state)
{
    struct machine *machine = *state;

    look(machine);
    judge(machine);
    assert_string_equal(first(machine)->name, "net.ipv4.tcp_mem");
    assert_int_equal(first(machine)->holds, 374766 / 2);
    assert_int_equal(first(machine)->verdict, CHECKS_SHORT);
    assert_string_equal(first(machine)->now, "sysctl -w net.ipv4.tcp_mem=\"200000 300000 400000\"");
    put(machine, "/proc/sys/net/ipv4/tcp_mem", "200000 300000 400000\n");
    look(machine);
    judge(machine);
    assert_int_equal(need(machine, "net.ipv4.tcp_mem")->verdict, CHECKS_OK);
    assert_true(first(machine)->holds >= 200000);
}

static void descriptors_are_counted_for_each_worker(void **state)
{
    struct machine *machine = *state;
    struct config *config = &machine->config;
    const struct finding *files;

    put(machine, "/proc/self/limits",
        "Max open files            1024                 4096                 files     \n");
    look(machine);
    assert_int_equal(machine->facts.open_files, 4096);
    judge(machine);
    files = need(machine, "open files");
    assert_ptr_equal(files, first(machine));
    assert_int_equal(files->holds, (4096 - 64) * 8);
    assert_string_equal(files->now, "ulimit -n 25600"); /* 200,000 / 8 + 64, up to whole 1,024s */

    /* Two Redis servers, a connection of the pool and a subscriber to each; MongoDB's pool has two at least.
     */
    strcpy(config->redis, "redis://a,b");
    strcpy(config->store, "mongodb://c/");
    judge(machine);
    assert_int_equal(need(machine, "open files")->holds, (4096 - 64 - 2 * 2 - 2) * 8);
    config->mongodb_pool_size = 81;
    config->redis_pool_size = 17;
    judge(machine);
    assert_int_equal(need(machine, "open files")->holds, (4096 - 64 - 2 * 4 - 11) * 8);
}

static void whoever_may_raise_his_limit_is_held_to_what_chatd_asks_for(void **state)
{
    struct machine *machine = *state;

    put(machine, "/proc/self/limits",
        "Max open files            1024                 4096                 files     \n");
    put(machine, "/proc/self/status", "CapEff:\t000001ffffffffff\n");
    look(machine);
    judge(machine);
    assert_int_equal(need(machine, "open files")->holds, INT64_C(8) * (1048576 - 64));
    put(machine, "/proc/self/status", "CapEff:\t000001fffeffffff\n"); /* all but CAP_SYS_RESOURCE */
    look(machine);
    judge(machine);
    assert_int_equal(need(machine, "open files")->holds, 8 * (4096 - 64));
    put(machine, "/proc/self/status", "CapEff:\t000001ffffffffff\n");
    put(machine, "/proc/sys/fs/nr_open", "65536\n");
    look(machine);
    judge(machine);
    assert_int_equal(need(machine, "open files")->holds, 8 * (65536 - 64));
    assert_int_equal(need(machine, "fs.nr_open")->holds, 8 * (65536 - 64));
}

static void more_than_a_process_can_have_needs_more_workers(void **state)
{
    struct machine *machine = *state;

    machine->input.workers = 1;
    machine->input.demand = machine->input.wanted = 3000000;
    look(machine);
    judge(machine);
    assert_string_equal(need(machine, "open files")->now, "workers = 3");
    assert_int_equal(need(machine, "open files")->advice, CHECKS_SET);
}

static void memory_is_eighty_percent_by_the_bytes_of_a_connection(void **state)
{
    struct machine *machine = *state;
    int64_t fixed = 8 * CHECKS_WORKER_BYTES + machine->config.bus_log_bytes;
    int64_t bytes = INT64_C(15000000) * 1024 / 100 * 80;

    look(machine);
    judge(machine);
    assert_int_equal(need(machine, "memory")->holds, (bytes - fixed) / (800 + 5100 + 4096 + 4096));
    assert_null(find(machine, "control group memory"));

    put(machine, "/proc/sys/net/ipv4/tcp_rmem", "8192 131072 6291456\n");
    machine->input.proxy_here = true;                    /* two sockets more for each connection */
    strcpy(machine->config.redis_host, "redis.example"); /* no log in shared memory */
    look(machine);
    judge(machine);
    assert_int_equal(need(machine, "memory")->holds,
                     (bytes - 8 * CHECKS_WORKER_BYTES) / (800 + 3 * 5100 + 8192 + 4096));
}

static void the_narrowest_control_group_counts(void **state)
{
    struct machine *machine = *state;

    put(machine, "/sys/fs/cgroup/user.slice/memory.max", "1073741824\n");
    put(machine, "/sys/fs/cgroup/user.slice/session-3.scope/memory.max", "2147483648\n");
    put(machine, "/sys/fs/cgroup/user.slice/session-3.scope/cpu.max", "150000 100000\n");
    look(machine);
    assert_int_equal(machine->facts.cgroup_memory, 1073741824);
    assert_int_equal(machine->facts.cgroup_tasks, 20919);
    assert_int_equal(machine->facts.cgroup_cpus, 1500);
    judge(machine);
    assert_ptr_equal(first(machine), need(machine, "control group memory"));
    assert_int_equal(need(machine, "cores")->verdict, CHECKS_ADVICE);
    assert_string_equal(need(machine, "cores")->now, "workers = 2 and send HUP");
}

static void a_container_of_version_1_sees_its_own_mount(void **state)
{
    struct machine *machine = *state;

    put(machine, "/proc/self/cgroup",
        "4:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n2:pids:/docker/0123\n0::/\n");
    put(machine, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
    put(machine, "/sys/fs/cgroup/pids/pids.max", "max\n");
    put(machine, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    put(machine, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    look(machine);
    assert_int_equal(machine->facts.cgroup_memory, 536870912);
    assert_int_equal(machine->facts.cgroup_tasks, FACTS_NONE);
    assert_int_equal(machine->facts.cgroup_cpus, FACTS_UNKNOWN);
    put(machine, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    look(machine);
    assert_int_equal(machine->facts.cgroup_memory, FACTS_NONE);
}

static void a_proxy_takes_ports_and_hides_addresses(void **state)
{
    struct machine *machine = *state;

    put(machine, "/proc/sys/net/ipv4/ip_local_reserved_ports", "33000-33099,40000\n");
    machine->config.max_connections_per_ip = 50;
    look(machine);
    judge(machine);
    assert_null(find(machine, "local ports"));
    assert_int_equal(need(machine, "max_connections_per_ip")->holds, FACTS_NONE);
    machine->input.sources = 3;
    judge(machine);
    assert_int_equal(need(machine, "local ports")->holds, 3 * (60999 - 32768 + 1 - 101));
    assert_non_null(strstr(need(machine, "local ports")->now, "(-a 4)")); /* 200,000 / 64,512 */
    assert_int_equal(need(machine, "max_connections_per_ip")->holds, 150);
    assert_ptr_equal(first(machine), need(machine, "max_connections_per_ip"));
    machine->input.sources = 4;
    put(machine, "/proc/sys/net/ipv4/ip_local_port_range", "1024 65535\n");
    put(machine, "/proc/sys/net/ipv4/ip_local_reserved_ports", "\n");
    look(machine);
    judge(machine);
    assert_int_equal(need(machine, "local ports")->verdict, CHECKS_OK);
}

static void conntrack_counts_when_it_is_loaded(void **state)
{
    struct machine *machine = *state;

    look(machine);
    judge(machine);
    assert_null(find(machine, "nf_conntrack_max"));
    put(machine, "/proc/sys/net/netfilter/nf_conntrack_max", "65536\n");
    put(machine, "/proc/sys/net/netfilter/nf_conntrack_count", "536\n");
    machine->input.proxy_here = true;
    look(machine);
    judge(machine);
    assert_int_equal(need(machine, "nf_conntrack_max")->holds, (65536 - 536) / 2);
    assert_string_equal(need(machine, "nf_conntrack_max")->now,
                        "sysctl -w net.netfilter.nf_conntrack_max=400536");
    assert_string_equal(need(machine, "nf_conntrack_max")->keep,
                        "/etc/sysctl.d/99-chatd.conf: net.netfilter.nf_conntrack_max = 400536");
}

static void queues_too_short_for_a_storm_are_advice(void **state)
{
    struct machine *machine = *state;

    look(machine);
    judge(machine);
    /* 20,000 a second over 8 workers are 2,501. */
    assert_int_equal(need(machine, "net.core.somaxconn")->verdict, CHECKS_OK);
    assert_int_equal(need(machine, "tcp_max_syn_backlog")->verdict, CHECKS_ADVICE);
    assert_int_equal(need(machine, "tcp_max_syn_backlog")->holds, FACTS_NONE);
    assert_string_equal(need(machine, "netdev_max_backlog")->now,
                        "sysctl -w net.core.netdev_max_backlog=65535");
    assert_string_equal(need(machine, "netdev_max_backlog")->keep,
                        "/etc/sysctl.d/99-chatd.conf: net.core.netdev_max_backlog = 65535, or install "
                        "deploy/sysctl/90-chatd.conf");
}

static void threads_that_do_not_fit_hold_nobody(void **state)
{
    struct machine *machine = *state;

    put(machine, "/sys/fs/cgroup/user.slice/pids.max", "64\n");
    look(machine);
    judge(machine);
    assert_int_equal(need(machine, "tasks")->holds, 0); /* 1 + 8 x 8 */
    assert_string_equal(need(machine, "tasks")->now, "systemctl set-property chatd TasksMax=1024");
    machine->input.workers = 7;
    judge(machine);
    assert_int_equal(need(machine, "tasks")->holds, FACTS_NONE);
}

static void what_can_not_be_read_is_unknown(void **state)
{
    struct machine *machine = *state;

    strcat(machine->root, "/nothing");
    look(machine);
    judge(machine);
    machine->root[strlen(machine->root) - strlen("/nothing")] = '\0';
    for (int i = 0; i < machine->count; i++)
        assert_int_equal(machine->findings[i].verdict, CHECKS_UNKNOWN);
    assert_int_equal(first(machine)->holds, FACTS_UNKNOWN);
}

static void what_only_a_running_machine_tells(void **state)
{
    struct machine *machine = *state;
    struct facts *facts = &machine->facts;

    look(machine);
    assert_int_equal(facts->shm_free, FACTS_UNKNOWN);
    facts->shm_free = machine->config.bus_log_bytes - 1;
    facts->data_free = INT64_C(5) << 30;
    facts->data_type = NFS_SUPER_MAGIC;
    facts->clock_set = 0;
    judge(machine);
    assert_int_equal(need(machine, "/dev/shm")->holds, 0);
    assert_int_equal(need(machine, "data_dir")->verdict, CHECKS_ADVICE);
    assert_null(find(machine, "clock"));
    facts->pid = 1;                                /* it has its log */
    strcpy(machine->config.store, "mongodb://c/"); /* no SQLite on NFS then */
    judge(machine);
    assert_int_equal(need(machine, "/dev/shm")->verdict, CHECKS_OK);
    assert_int_equal(need(machine, "data_dir")->verdict, CHECKS_OK);
    assert_int_equal(need(machine, "clock")->verdict, CHECKS_ADVICE);
    facts->data_free = 1000;
    judge(machine);
    assert_int_equal(need(machine, "data_dir")->verdict, CHECKS_ADVICE);
}

static void a_redis_beside_chatd_wants_overcommit(void **state)
{
    struct machine *machine = *state;

    look(machine);
    judge(machine);
    assert_null(find(machine, "Redis on this host"));
    put(machine, "/proc/77/comm", "redis-server\n");
    look(machine);
    judge(machine);
    assert_string_equal(need(machine, "Redis on this host")->now, "sysctl -w vm.overcommit_memory=1");
    put(machine, "/proc/sys/vm/overcommit_memory", "1\n");
    look(machine);
    judge(machine);
    assert_non_null(strstr(need(machine, "Redis on this host")->now, "transparent_hugepage"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_debian_machine_is_stopped_by_tcp_memory),
        TEST(descriptors_are_counted_for_each_worker),
        TEST(whoever_may_raise_his_limit_is_held_to_what_chatd_asks_for),
        TEST(more_than_a_process_can_have_needs_more_workers),
        TEST(memory_is_eighty_percent_by_the_bytes_of_a_connection),
        TEST(the_narrowest_control_group_counts),
        TEST(a_container_of_version_1_sees_its_own_mount),
        TEST(a_proxy_takes_ports_and_hides_addresses),
        TEST(conntrack_counts_when_it_is_loaded),
        TEST(queues_too_short_for_a_storm_are_advice),
        TEST(threads_that_do_not_fit_hold_nobody),
        TEST(what_can_not_be_read_is_unknown),
        TEST(what_only_a_running_machine_tells),
        TEST(a_redis_beside_chatd_wants_overcommit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
