/* redis_cluster_host.h - a cluster of real servers, or a master with a replica and sentinels, for the tests
 * that need more than one server. Start-up takes a second or two. */
#ifndef REDIS_CLUSTER_HOST_H
#define REDIS_CLUSTER_HOST_H

#include "redis_host.h"

#include "bus/redis_target.h"

enum { CLUSTER_MASTERS = 3, CLUSTER_NODES = 4, CLUSTER_SLOTS = 16384, SENTINELS = 3, QUORUM = 2 };

static inline void redis_target_add(struct redis_target *target, int port)
{
    struct redis_address *address = &target->servers[target->count++];

    snprintf(address->host, sizeof(address->host), "127.0.0.1");
    address->port = port;
}

/* --- A cluster: the slots in equal parts on three masters, and a replica of the first --- */

struct redis_cluster_host {
    struct redis_host *nodes[CLUSTER_NODES];
    int bus_ports[CLUSTER_NODES];
    char bus_texts[CLUSTER_NODES][8];
    char ids[CLUSTER_NODES][48];
};

static inline void redis_cluster_text(struct redis_host *host, char *text, size_t size, const char *what)
{
    redisReply *reply = redis_host_command(host, "CLUSTER %s", what);

    assert_non_null(reply->str);
    snprintf(text, size, "%s", reply->str);
    freeReplyObject(reply);
}

static inline bool redis_cluster_is_up(const struct redis_cluster_host *cluster)
{
    char info[2048];

    for (int i = 0; i < CLUSTER_NODES; i++) {
        redis_cluster_text(cluster->nodes[i], info, sizeof(info), "INFO");
        if (!strstr(info, "cluster_state:ok") || !strstr(info, "cluster_known_nodes:4") ||
            !strstr(info, "cluster_size:3"))
            return false;
    }
    return true;
}

static inline void redis_cluster_wait(bool (*condition)(const struct redis_cluster_host *cluster),
                                      const struct redis_cluster_host *cluster)
{
    int64_t end = clock_monotonic_ms() + REDIS_HOST_DEADLINE_MS;

    while (!condition(cluster)) {
        assert_true(clock_monotonic_ms() < end);
        redis_host_pause_ms(10);
    }
}

static inline bool redis_cluster_has_met(const struct redis_cluster_host *cluster)
{
    char info[2048];

    redis_cluster_text(cluster->nodes[CLUSTER_MASTERS], info, sizeof(info), "INFO");
    return strstr(info, "cluster_known_nodes:4") && strstr(info, "cluster_state:ok");
}

static inline bool redis_cluster_has_replica(const struct redis_cluster_host *cluster)
{
    redisReply *reply = redis_host_command(cluster->nodes[CLUSTER_MASTERS], "INFO replication");
    bool up = strstr(reply->str, "master_link_status:up") != NULL;

    freeReplyObject(reply);
    return up;
}

static inline void redis_cluster_start_node(struct redis_cluster_host *cluster, int i)
{
    const char *arguments[] = {"--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port",
                               cluster->bus_texts[i], "--cluster-replica-validity-factor", "0",
                               "--repl-diskless-sync-delay", "0", NULL};

    cluster->bus_ports[i] = redis_host_port();
    snprintf(cluster->bus_texts[i], sizeof(cluster->bus_texts[i]), "%d", cluster->bus_ports[i]);
    cluster->nodes[i] = redis_host_new(arguments, true);
    redis_cluster_text(cluster->nodes[i], cluster->ids[i], sizeof(cluster->ids[i]), "MYID");
    redis_host_do(cluster->nodes[i], "CLUSTER SET-CONFIG-EPOCH %d", i + 1);
}

static inline struct redis_cluster_host *redis_cluster_host_new(void)
{
    struct redis_cluster_host *cluster = calloc(1, sizeof(*cluster));

    assert_non_null(cluster);
    for (int i = 0; i < CLUSTER_NODES; i++)
        redis_cluster_start_node(cluster, i);
    for (int i = 0; i < CLUSTER_MASTERS; i++)
        redis_host_do(cluster->nodes[i], "CLUSTER ADDSLOTSRANGE %d %d", i * CLUSTER_SLOTS / CLUSTER_MASTERS,
                      (i + 1) * CLUSTER_SLOTS / CLUSTER_MASTERS - 1);
    for (int i = 1; i < CLUSTER_NODES; i++)
        redis_host_do(cluster->nodes[i], "CLUSTER MEET 127.0.0.1 %d %d", cluster->nodes[0]->port,
                      cluster->bus_ports[0]);
    redis_cluster_wait(redis_cluster_has_met, cluster);
    redis_host_do(cluster->nodes[CLUSTER_MASTERS], "CLUSTER REPLICATE %s", cluster->ids[0]);
    redis_cluster_wait(redis_cluster_is_up, cluster);
    redis_cluster_wait(redis_cluster_has_replica, cluster);
    return cluster;
}

static inline void redis_cluster_host_free(struct redis_cluster_host *cluster)
{
    for (int i = 0; i < CLUSTER_NODES; i++)
        redis_host_free(cluster->nodes[i]);
    free(cluster);
}

/* Index of the master that the slots were given to at the start. */
static inline int redis_cluster_owner(unsigned slot)
{
    int i = 0;

    while ((int)slot >= (i + 1) * CLUSTER_SLOTS / CLUSTER_MASTERS)
        i++;
    return i;
}

/* Whether all nodes say that the slot is that one's. Two moves in a row, without waiting for it, may be
 * undone by Redis: both get the same epoch. */
static inline bool redis_cluster_agrees(const struct redis_cluster_host *cluster, unsigned slot, int owner)
{
    unsigned agree = 0;

    for (int i = 0; i < CLUSTER_NODES; i++) {
        redisReply *reply = redis_host_command(cluster->nodes[i], "CLUSTER SLOTS");

        for (size_t j = 0; j < reply->elements; j++) {
            redisReply **range = reply->element[j]->element;

            if (range[0]->integer <= slot && slot <= range[1]->integer)
                agree += range[2]->element[1]->integer == cluster->nodes[owner]->port;
        }
        freeReplyObject(reply);
    }
    return agree == CLUSTER_NODES;
}

/* As a resharding does it, of a slot without keys. */
static inline void redis_cluster_move(struct redis_cluster_host *cluster, unsigned slot, int from, int to)
{
    redis_host_do(cluster->nodes[to], "CLUSTER SETSLOT %u IMPORTING %s", slot, cluster->ids[from]);
    redis_host_do(cluster->nodes[from], "CLUSTER SETSLOT %u MIGRATING %s", slot, cluster->ids[to]);
    redis_host_do(cluster->nodes[to], "CLUSTER SETSLOT %u NODE %s", slot, cluster->ids[to]);
    redis_host_do(cluster->nodes[from], "CLUSTER SETSLOT %u NODE %s", slot, cluster->ids[to]);
}

static inline void redis_cluster_target(const struct redis_cluster_host *cluster, struct redis_target *target)
{
    memset(target, 0, sizeof(*target));
    target->form = REDIS_CLUSTER;
    for (int i = 0; i < CLUSTER_NODES; i++)
        redis_target_add(target, cluster->nodes[i]->port);
}

/* --- A master, a replica and sentinels --- */

/* With two of them an election may have no winner for a long time. */
struct redis_sentinel_host {
    struct redis_host *servers[2];
    struct {
        pid_t pid;
        int port;
        char dir[64];
    } sentinels[SENTINELS];
};

/* Whether a sentinel counts at least that many of something. */
static inline bool redis_sentinel_knows(int port, const char *field, int count)
{
    redisContext *context = redisConnect("127.0.0.1", port);
    redisReply *reply = context && !context->err ? redisCommand(context, "SENTINEL MASTER mymaster") : NULL;
    bool knows = false;

    for (size_t i = 0; reply && reply->type == REDIS_REPLY_ARRAY && i + 1 < reply->elements; i += 2) {
        if (strcmp(reply->element[i]->str, field) == 0)
            knows = atoi(reply->element[i + 1]->str) >= count;
    }
    if (reply)
        freeReplyObject(reply);
    if (context)
        redisFree(context);
    return knows;
}

/* Starts it, for the first time or again: what it knows is in its file. */
static inline void redis_sentinel_run(struct redis_sentinel_host *set, int i)
{
    char path[96];

    snprintf(path, sizeof(path), "%s/conf", set->sentinels[i].dir);
    set->sentinels[i].pid = fork();
    assert_true(set->sentinels[i].pid >= 0);
    if (set->sentinels[i].pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("redis-sentinel", "redis-sentinel", path, (char *)NULL);
        _exit(127);
    }
}

static inline void redis_sentinel_start(struct redis_sentinel_host *set, int i)
{
    char path[96];
    FILE *file;

    snprintf(set->sentinels[i].dir, sizeof(set->sentinels[i].dir), "/tmp/chatd-sentinel-XXXXXX");
    assert_non_null(mkdtemp(set->sentinels[i].dir));
    set->sentinels[i].port = redis_host_port();
    snprintf(path, sizeof(path), "%s/conf", set->sentinels[i].dir);
    file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "port %d\nbind 127.0.0.1\ndir %s\nlogfile log\n", set->sentinels[i].port,
            set->sentinels[i].dir);
    fprintf(file, "sentinel monitor mymaster 127.0.0.1 %d %d\n", set->servers[0]->port, QUORUM);
    fprintf(file, "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 1000\n");
    fclose(file);
    redis_sentinel_run(set, i);
}

static inline struct redis_sentinel_host *redis_sentinel_host_new(void)
{
    const char *extra[] = {"--repl-diskless-sync-delay", "0", NULL};
    struct redis_sentinel_host *set = calloc(1, sizeof(*set));
    int64_t end = clock_monotonic_ms() + REDIS_HOST_DEADLINE_MS;

    assert_non_null(set);
    for (int i = 0; i < 2; i++)
        set->servers[i] = redis_host_new(extra, true);
    redis_host_do(set->servers[1], "REPLICAOF 127.0.0.1 %d", set->servers[0]->port);
    for (;;) {
        redisReply *reply = redis_host_command(set->servers[0], "INFO replication");
        bool online = strstr(reply->str, "state=online") != NULL;

        freeReplyObject(reply);
        if (online)
            break;
        assert_true(clock_monotonic_ms() < end);
        redis_host_pause_ms(10);
    }
    for (int i = 0; i < SENTINELS; i++)
        redis_sentinel_start(set, i);
    for (int i = 0; i < SENTINELS; i++) {
        while (!redis_sentinel_knows(set->sentinels[i].port, "num-slaves", 1) ||
               !redis_sentinel_knows(set->sentinels[i].port, "num-other-sentinels", SENTINELS - 1)) {
            assert_true(clock_monotonic_ms() < end);
            redis_host_pause_ms(10);
        }
    }
    return set;
}

static inline void redis_sentinel_stop(struct redis_sentinel_host *set, int i)
{
    if (set->sentinels[i].pid == 0)
        return;
    kill(set->sentinels[i].pid, SIGKILL);
    waitpid(set->sentinels[i].pid, NULL, 0);
    set->sentinels[i].pid = 0;
}

static inline void redis_sentinel_host_free(struct redis_sentinel_host *set)
{
    char command[96];

    for (int i = 0; i < SENTINELS; i++) {
        redis_sentinel_stop(set, i);
        snprintf(command, sizeof(command), "rm -rf %s", set->sentinels[i].dir);
        assert_int_equal(system(command), 0);
    }
    redis_host_free(set->servers[0]);
    redis_host_free(set->servers[1]);
    free(set);
}

static inline void redis_sentinel_target(const struct redis_sentinel_host *set, struct redis_target *target)
{
    memset(target, 0, sizeof(*target));
    target->form = REDIS_SENTINEL;
    snprintf(target->master_name, sizeof(target->master_name), "mymaster");
    for (int i = 0; i < SENTINELS; i++)
        redis_target_add(target, set->sentinels[i].port);
}

#endif
