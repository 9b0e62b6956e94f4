/* Who is the master: real sentinels, a real cluster, and what is known without asking. */
#include "redis_cluster_host.h"

#include "bus/redis_conn.h"
#include "bus/redis_topology.h"
#include "chatd/log.h"

struct fixture {
    uv_loop_t loop;
    struct redis_target target;
    struct redis_topology *topology;
    unsigned changes;
    char log[64];
};

static struct text text(const char *string)
{
    return (struct text){string, strlen(string)};
}

static void on_change(void *arg)
{
    ((struct fixture *)arg)->changes++;
}

static void begin(struct fixture *f)
{
    int fd;

    snprintf(f->log, sizeof(f->log), "/tmp/chatd-topology-XXXXXX");
    fd = mkstemp(f->log);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(log_open(f->log, LOG_READABLE, LOG_INFO), 0);
    f->changes = 0;
    uv_loop_init(&f->loop);
    assert_int_equal(redis_topology_new(&f->topology, &f->loop, &f->target, on_change, f), 0);
}

static void end(struct fixture *f)
{
    redis_topology_close(f->topology);
    redis_host_close_loop(&f->loop);
    assert_int_equal(log_open("", LOG_READABLE, LOG_WARN), 0);
    unlink(f->log);
}

static unsigned logged(const struct fixture *f, const char *event)
{
    FILE *file = fopen(f->log, "r");
    char line[LOG_LINE_MAX + 1], word[64];
    unsigned count = 0;

    assert_non_null(file);
    snprintf(word, sizeof(word), " %s ", event);
    while (fgets(line, sizeof(line), file))
        count += strstr(line, word) != NULL;
    fclose(file);
    return count;
}

static int master_port(const struct fixture *f, unsigned partition)
{
    const struct redis_address *master = redis_topology_master(f->topology, partition);

    return master ? master->port : 0;
}

/* Runs the loop for a while; nothing that is waited for could tell that something does NOT happen. */
static void run_for(struct fixture *f, int ms)
{
    int64_t until = clock_monotonic_ms() + ms;

    while (clock_monotonic_ms() < until)
        redis_host_step(&f->loop);
}

/* --- Without asking --- */

static void a_partition_is_the_crc_of_the_name(void **state)
{
    struct redis_target target = {.form = REDIS_CLUSTER, .count = 1};

    (void)state;
    assert_int_equal(redis_topology_partitions(&target), 256);
    assert_int_equal(redis_topology_partition(&target, text("123456789")), 0x31c3 % 256);
    assert_int_equal(redis_topology_partition(&target, text("")), 0);
    target = (struct redis_target){.form = REDIS_SHARDS, .count = 3};
    assert_int_equal(redis_topology_partitions(&target), 3);
    assert_int_equal(redis_topology_partition(&target, text("123456789")), 0x31c3 % 3);
    target = (struct redis_target){.form = REDIS_SENTINEL, .count = 5};
    assert_int_equal(redis_topology_partitions(&target), 1);
    assert_int_equal(redis_topology_partition(&target, text("123456789")), 0);
}

static void moved_is_taken_apart(void **state)
{
    struct redis_address asked = {"10.0.0.1", 7000}, moved;
    unsigned slot;

    (void)state;
    assert_true(redis_moved_parse("MOVED 3999 127.0.0.1:6381", &asked, &slot, &moved));
    assert_int_equal(slot, 3999);
    assert_string_equal(moved.host, "127.0.0.1");
    assert_int_equal(moved.port, 6381);
    assert_true(redis_moved_parse("MOVED 1 2001:db8::1:6381", &asked, &slot, &moved));
    assert_string_equal(moved.host, "2001:db8::1");
    assert_true(redis_moved_parse("MOVED 1 redis-1.example:6381", &asked, &slot, &moved));
    assert_string_equal(moved.host, "redis-1.example");
    assert_true(redis_moved_parse("MOVED 16383 :6382", &asked, &slot, &moved));
    assert_string_equal(moved.host, "10.0.0.1");
    assert_int_equal(moved.port, 6382);
    assert_true(redis_moved_parse("MOVED 1 ?:6382", &asked, &slot, &moved));
    assert_string_equal(moved.host, "10.0.0.1");
    assert_false(redis_moved_parse("MOVED 3999", &asked, &slot, &moved));
    assert_false(redis_moved_parse("MOVED 3999 host", &asked, &slot, &moved));
    assert_false(redis_moved_parse("MOVED 3999 host:0", &asked, &slot, &moved));
    assert_false(redis_moved_parse("MOVED 3999 host:65536", &asked, &slot, &moved));
    assert_false(redis_moved_parse("MOVED x:y host:1", &asked, &slot, &moved));
    assert_false(redis_moved_parse("ASK 3999 127.0.0.1:6381", &asked, &slot, &moved));
    assert_false(redis_moved_parse("", &asked, &slot, &moved));
}

static void pauses_grow_to_two_seconds(void **state)
{
    unsigned pause = 0, expected = 50;

    (void)state;
    for (int i = 0; i < 20; i++) {
        unsigned ms = redis_pause_next(&pause);

        assert_true(ms >= expected - expected / 4 && ms <= expected + expected / 4);
        expected = expected * 2 > 2000 ? 2000 : expected * 2;
    }
}

static void shards_are_known_at_once(void **state)
{
    struct fixture f = {.target = {.form = REDIS_SHARDS}};

    (void)state;
    for (int i = 1; i <= 3; i++)
        redis_target_add(&f.target, i);
    begin(&f);
    assert_int_equal(f.changes, 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(master_port(&f, i), i + 1);
    assert_string_equal(redis_topology_error(f.topology), "");
    redis_host_until(&f.loop, f.changes == 1, (void)0);
    redis_topology_suspect(f.topology, 1, NULL);
    redis_topology_suspect(f.topology, 1, &(struct redis_address){"127.0.0.1", 9});
    run_for(&f, 50);
    assert_int_equal(f.changes, 1);
    assert_int_equal(master_port(&f, 1), 2);
    end(&f);
}

/* --- Sentinel --- */

static void a_sentinel_names_the_master_and_a_dead_one_is_passed_over(void **state)
{
    struct redis_sentinel_host *set = *state;
    struct fixture f;

    redis_sentinel_target(set, &f.target);
    f.target.count = 0;
    redis_target_add(&f.target, redis_host_port()); /* nobody there */
    redis_target_add(&f.target, set->sentinels[0].port);
    begin(&f);
    assert_null(redis_topology_master(f.topology, 0));
    assert_string_equal(redis_topology_error(f.topology), "sentinels not asked yet");
    redis_host_until(&f.loop, f.changes > 0, (void)0);
    assert_int_equal(master_port(&f, 0), set->servers[0]->port);
    assert_string_equal(redis_topology_error(f.topology), "");
    assert_int_equal(logged(&f, "redis_topology"), 1);
    assert_int_equal(logged(&f, "redis_topology_lost"), 0);
    redis_topology_suspect(f.topology, 0, NULL);
    run_for(&f, 300);
    assert_int_equal(f.changes, 1); /* the same answer is no news */
    end(&f);
}

static void a_sentinel_that_hangs_is_passed_over(void **state)
{
    struct redis_sentinel_host *set = *state;
    struct fixture f;

    redis_sentinel_target(set, &f.target);
    kill(set->sentinels[0].pid, SIGSTOP);
    begin(&f);
    redis_host_until(&f.loop, f.changes > 0, (void)0);
    kill(set->sentinels[0].pid, SIGCONT);
    assert_int_equal(master_port(&f, 0), set->servers[0]->port);
    end(&f);
}

static void a_name_that_no_sentinel_knows_is_said_once(void **state)
{
    struct redis_sentinel_host *set = *state;
    struct fixture f;

    redis_sentinel_target(set, &f.target);
    snprintf(f.target.master_name, sizeof(f.target.master_name), "nosuch");
    redis_target_add(&f.target, redis_host_port()); /* its silence says less than the others' answer */
    begin(&f);
    redis_host_until(&f.loop, strstr(redis_topology_error(f.topology), "unknown master name nosuch"),
                     (void)0);
    run_for(&f, 1000);
    assert_int_equal(logged(&f, "redis_topology_lost"), 1);
    assert_null(redis_topology_master(f.topology, 0));
    assert_int_equal(f.changes, 0);
    end(&f);
}

static void no_sentinel_is_there_until_one_is(void **state)
{
    struct redis_sentinel_host *set = *state;
    struct fixture f;
    int late = set->sentinels[1].port;

    redis_sentinel_target(set, &f.target);
    f.target.count = 0;
    redis_target_add(&f.target, late);
    redis_sentinel_stop(set, 1);
    begin(&f);
    redis_host_until(&f.loop, strstr(redis_topology_error(f.topology), "sentinels: no answer"), (void)0);
    run_for(&f, 500);
    assert_int_equal(logged(&f, "redis_topology_lost"), 1);
    redis_sentinel_run(set, 1);
    redis_host_until(&f.loop, f.changes > 0, (void)0);
    assert_int_equal(master_port(&f, 0), set->servers[0]->port);
    assert_string_equal(redis_topology_error(f.topology), "");
    assert_int_equal(logged(&f, "redis_topology"), 1);
    end(&f);
}

/* The last one: the set is not what it was. One suspicion is enough, though the answer changes only seconds
 * later. */
static void after_one_suspicion_the_failover_is_found(void **state)
{
    struct redis_sentinel_host *set = *state;
    struct fixture f;

    redis_sentinel_target(set, &f.target);
    begin(&f);
    redis_host_until(&f.loop, f.changes == 1, (void)0);
    redis_host_kill(set->servers[0]);
    redis_topology_suspect(f.topology, 0, NULL);
    redis_host_until(&f.loop, f.changes == 2, (void)0);
    assert_int_equal(master_port(&f, 0), set->servers[1]->port);
    assert_int_equal(logged(&f, "redis_topology"), 2);
    assert_int_equal(logged(&f, "redis_topology_lost"), 0);
    end(&f);
}

/* --- Cluster --- */

static void expect_map(const struct fixture *f, const struct redis_cluster_host *cluster)
{
    for (unsigned i = 0; i < REDIS_CLUSTER_PARTITIONS; i++)
        assert_int_equal(master_port(f, i),
                         cluster->nodes[redis_cluster_owner(redis_topology_slot(i))]->port);
}

static void slots_are_those_of_the_hash_tags(void **state)
{
    struct redis_cluster_host *cluster = *state;

    for (unsigned i = 0; i < REDIS_CLUSTER_PARTITIONS; i++)
        assert_int_equal(redis_host_number(cluster->nodes[0], "CLUSTER KEYSLOT chatd:{%u}:room:x", i),
                         redis_topology_slot(i));
}

static void any_node_tells_the_whole_map(void **state)
{
    struct redis_cluster_host *cluster = *state;

    for (int i = 0; i < CLUSTER_NODES; i++) { /* the last one is a replica */
        struct fixture f = {.target = {.form = REDIS_CLUSTER}};

        redis_target_add(&f.target, cluster->nodes[i]->port);
        begin(&f);
        assert_null(redis_topology_master(f.topology, 255));
        redis_host_until(&f.loop, f.changes > 0, (void)0);
        expect_map(&f, cluster);
        assert_int_equal(f.changes, 1);
        assert_int_equal(logged(&f, "redis_topology"), 1);
        end(&f);
    }
}

static void what_moved_said_counts_until_the_map_says_otherwise(void **state)
{
    struct redis_cluster_host *cluster = *state;
    struct fixture f;
    unsigned slot = redis_topology_slot(17);
    int owner = redis_cluster_owner(slot), other = (owner + 1) % CLUSTER_MASTERS;
    struct redis_address moved = {"127.0.0.1", cluster->nodes[other]->port};

    redis_cluster_target(cluster, &f.target);
    begin(&f);
    redis_host_until(&f.loop, f.changes == 1, (void)0);
    redis_topology_suspect(f.topology, 17, &moved);
    assert_int_equal(f.changes, 1);
    redis_host_until(&f.loop, f.changes == 2, (void)0);
    assert_int_equal(master_port(&f, 17), moved.port);
    redis_host_until(&f.loop, f.changes == 3, (void)0); /* it was a lie */
    expect_map(&f, cluster);

    redis_cluster_move(cluster, slot, owner, other);
    redis_topology_suspect(f.topology, 17, &moved);
    redis_host_until(&f.loop, f.changes == 4, (void)0);
    run_for(&f, 500); /* asked meanwhile: the map says the same */
    assert_int_equal(f.changes, 4);
    assert_int_equal(master_port(&f, 17), moved.port);
    redis_host_until(&f.loop, redis_cluster_agrees(cluster, slot, other), (void)0);
    redis_cluster_move(cluster, slot, other, owner);
    redis_topology_suspect(f.topology, 17, NULL);
    redis_host_until(&f.loop, f.changes == 5, (void)0);
    expect_map(&f, cluster);
    end(&f);
}

static void a_server_without_cluster_is_named(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct fixture f = {.target = {.form = REDIS_CLUSTER}};

    (void)state;
    redis_target_add(&f.target, host->port);
    begin(&f);
    redis_host_until(&f.loop, strstr(redis_topology_error(f.topology), "cluster support disabled"), (void)0);
    end(&f);
    redis_host_free(host);
}

/* One node of its own, with and without a slot. */
static void a_slot_that_nobody_serves_is_named(void **state)
{
    const char *extra[] = {"--cluster-enabled", "yes", "--cluster-port", NULL, NULL};
    struct fixture f = {.target = {.form = REDIS_CLUSTER}};
    struct redis_host *host;
    unsigned slot = redis_topology_slot(17);
    char expected[64], port[8];

    (void)state;
    snprintf(port, sizeof(port), "%d", redis_host_port());
    extra[3] = port;
    host = redis_host_new(extra, true);
    redis_host_do(host, "CLUSTER ADDSLOTSRANGE 0 16383");
    redis_host_do(host, "CLUSTER DELSLOTS %u", slot);
    redis_target_add(&f.target, host->port);
    begin(&f);
    snprintf(expected, sizeof(expected), "slot %u is served by nobody", slot);
    redis_host_until(&f.loop, strstr(redis_topology_error(f.topology), expected), (void)0);
    redis_host_until(&f.loop, f.changes == 1, (void)0);
    assert_null(redis_topology_master(f.topology, 17));
    assert_int_equal(master_port(&f, 18), host->port); /* the others are known */
    redis_host_do(host, "CLUSTER ADDSLOTS %u", slot);
    redis_host_until(&f.loop, f.changes == 2, (void)0);
    assert_string_equal(redis_topology_error(f.topology), "");
    /* It doesn't know its own host: the one at which it was asked. */
    assert_int_equal(master_port(&f, 17), host->port);
    assert_string_equal(redis_topology_master(f.topology, 17)->host, "127.0.0.1");
    assert_int_equal(logged(&f, "redis_topology_lost"), 1);
    end(&f);
    redis_host_free(host);
}

/* The last one: the only seed is the master that dies; nodes that it named know what came after. */
static void when_the_seed_dies_other_nodes_tell_of_the_failover(void **state)
{
    struct redis_cluster_host *cluster = *state;
    struct fixture f = {.target = {.form = REDIS_CLUSTER}};

    redis_target_add(&f.target, cluster->nodes[0]->port);
    begin(&f);
    redis_host_until(&f.loop, f.changes == 1, (void)0);
    redis_host_kill(cluster->nodes[0]);
    redis_topology_suspect(f.topology, 0, NULL);
    redis_host_until(&f.loop, f.changes == 2, (void)0);
    for (unsigned i = 0; i < REDIS_CLUSTER_PARTITIONS; i++) {
        int owner = redis_cluster_owner(redis_topology_slot(i));

        assert_int_equal(master_port(&f, i), cluster->nodes[owner == 0 ? CLUSTER_MASTERS : owner]->port);
    }
    assert_int_equal(logged(&f, "redis_topology_lost"), 0);
    end(&f);
}

static int set_up_sentinels(void **state)
{
    *state = redis_sentinel_host_new();
    return 0;
}

static int tear_down_sentinels(void **state)
{
    redis_sentinel_host_free(*state);
    return 0;
}

static int set_up_cluster(void **state)
{
    *state = redis_cluster_host_new();
    return 0;
}

static int tear_down_cluster(void **state)
{
    redis_cluster_host_free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest alone[] = {
        cmocka_unit_test(a_partition_is_the_crc_of_the_name),
        cmocka_unit_test(moved_is_taken_apart),
        cmocka_unit_test(pauses_grow_to_two_seconds),
        cmocka_unit_test(shards_are_known_at_once),
        cmocka_unit_test(a_server_without_cluster_is_named),
        cmocka_unit_test(a_slot_that_nobody_serves_is_named),
    };
    const struct CMUnitTest sentinel[] = {
        cmocka_unit_test(a_sentinel_names_the_master_and_a_dead_one_is_passed_over),
        cmocka_unit_test(a_sentinel_that_hangs_is_passed_over),
        cmocka_unit_test(a_name_that_no_sentinel_knows_is_said_once),
        cmocka_unit_test(no_sentinel_is_there_until_one_is),
        cmocka_unit_test(after_one_suspicion_the_failover_is_found),
    };
    const struct CMUnitTest cluster[] = {
        cmocka_unit_test(slots_are_those_of_the_hash_tags),
        cmocka_unit_test(any_node_tells_the_whole_map),
        cmocka_unit_test(what_moved_said_counts_until_the_map_says_otherwise),
        cmocka_unit_test(when_the_seed_dies_other_nodes_tell_of_the_failover),
    };
    int failed = cmocka_run_group_tests(alone, NULL, NULL);

    failed += cmocka_run_group_tests(sentinel, set_up_sentinels, tear_down_sentinels);
    return failed + cmocka_run_group_tests(cluster, set_up_cluster, tear_down_cluster);
}
