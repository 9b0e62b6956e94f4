/* redis_topology.c - asks sentinels or cluster nodes who is the master, and remembers.
 *
 * A ROUND asks one candidate after the other until one gives a complete answer. Two copies of the masters are
 * kept: `next` is what is known, `masters` what was told; the timer makes them equal and calls on_change. */
#include "redis_topology.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "chatd/log.h"
#include "redis_conn.h"

enum { CLUSTER_SLOTS = 16384, NODES_MAX = 256, PAUSE_MIN_MS = 50, PAUSE_MAX_MS = 2000 };

/* What is worth telling when a round was in vain: a word of a server counts more than its silence. */
enum trouble { TROUBLE_NONE, TROUBLE_NO_ANSWER, TROUBLE_BAD_ANSWER };

struct redis_topology {
    uv_timer_t timer;
    uv_loop_t *loop;
    const struct redis_target *target;
    void (*on_change)(void *arg);
    void *arg;
    struct redis_conn *conn; /* of the question under way */
    struct redis_address asked;
    char asked_name[REDIS_ADDRESS_MAX];
    unsigned partitions;
    struct redis_address *masters, *next; /* an empty host: not known */
    bool changed;                         /* `next` differs from `masters` */
    struct redis_address *nodes;          /* of the cluster, as last heard */
    unsigned node_count;
    unsigned first_node, first_server; /* whom a round begins with */
    unsigned tried;                    /* in this round */
    unsigned pause;
    int64_t ask_ms;       /* when the next question is due */
    int64_t asked_ms;     /* when the last one began */
    int64_t suspected_ms; /* 0: nobody suspects the answer */
    bool suspected_meanwhile;
    bool lost; /* the last round was in vain */
    enum trouble trouble;
    char trouble_text[200];
    char error[200];
};

/* --- Names and numbers --- */

/* CRC-16/XMODEM, as in the Redis Cluster specification, half a byte at a time. */
static unsigned crc16(const char *data, size_t length)
{
    static const uint16_t table[16] = {0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7,
                                       0x8108, 0x9129, 0xa14a, 0xb16b, 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef};
    uint16_t crc = 0;

    for (size_t i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)data[i];

        crc = (uint16_t)(crc << 4 ^ table[crc >> 12 ^ byte >> 4]);
        crc = (uint16_t)(crc << 4 ^ table[crc >> 12 ^ (byte & 15)]);
    }
    return crc;
}

unsigned redis_topology_partitions(const struct redis_target *target)
{
    switch (target->form) {
    case REDIS_SHARDS:
        return target->count;
    case REDIS_CLUSTER:
        return REDIS_CLUSTER_PARTITIONS;
    default:
        return 1;
    }
}

unsigned redis_topology_partition(const struct redis_target *target, struct text name)
{
    return crc16(name.data, name.length) % redis_topology_partitions(target);
}

unsigned redis_topology_slot(unsigned partition)
{
    char tag[16];
    int length = snprintf(tag, sizeof(tag), "%u", partition);

    return crc16(tag, (size_t)length) % CLUSTER_SLOTS;
}

/* What a node doesn't know of itself, or won't tell, is the host at which it was asked. */
static bool take_address(struct redis_address *address, const struct redis_address *asked, const char *host,
                         size_t length, long long port)
{
    if (length >= sizeof(address->host) || port < 1 || port > 65535)
        return false;
    if (length == 0 || (length == 1 && *host == '?'))
        snprintf(address->host, sizeof(address->host), "%s", asked->host);
    else
        snprintf(address->host, sizeof(address->host), "%.*s", (int)length, host);
    address->port = (int)port;
    return true;
}

bool redis_moved_parse(const char *error, const struct redis_address *asked, unsigned *slot,
                       struct redis_address *moved)
{
    const char *colon = strrchr(error, ':'); /* the last one: an IPv6 address has its own, and no brackets */
    int start = 0;

    if (sscanf(error, "MOVED %u %n", slot, &start) != 1 || start == 0 || !colon || colon < error + start)
        return false;
    return take_address(moved, asked, error + start, (size_t)(colon - error - start), atoll(colon + 1));
}

/* Workers that lose a server together shall not come back together. */
unsigned redis_pause_next(unsigned *pause)
{
    uint32_t random = 0;

    *pause = *pause == 0 ? PAUSE_MIN_MS : *pause * 2 > PAUSE_MAX_MS ? PAUSE_MAX_MS : *pause * 2;
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
        random = (uint32_t)uv_hrtime();
    return *pause - *pause / 4 + random % (*pause / 2 + 1);
}

/* --- When --- */

static void schedule(struct redis_topology *t);

static int64_t now_ms(const struct redis_topology *t)
{
    return (int64_t)uv_now(t->loop);
}

static bool is_fixed(const struct redis_topology *t)
{
    return t->target->form == REDIS_SINGLE || t->target->form == REDIS_SHARDS;
}

static unsigned candidates(const struct redis_topology *t)
{
    return t->node_count + t->target->count;
}

static const struct redis_address *candidate(const struct redis_topology *t, unsigned i)
{
    if (i < t->node_count)
        return &t->nodes[(t->first_node + i) % t->node_count];
    return &t->target->servers[(t->first_server + i - t->node_count) % t->target->count];
}

static void note(struct redis_topology *t, enum trouble trouble, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void note(struct redis_topology *t, enum trouble trouble, const char *format, ...)
{
    va_list arguments;

    if (trouble < t->trouble)
        return;
    t->trouble = trouble;
    va_start(arguments, format);
    vsnprintf(t->trouble_text, sizeof(t->trouble_text), format, arguments);
    va_end(arguments);
}

static void round_over(struct redis_topology *t)
{
    t->tried = 0;
    t->trouble = TROUBLE_NONE;
    t->suspected_meanwhile = false;
}

/* The candidate was of no use: the next one, or all again after a pause. */
static void go_on(struct redis_topology *t)
{
    if (++t->tried < candidates(t)) {
        t->ask_ms = now_ms(t);
    } else {
        snprintf(t->error, sizeof(t->error), "%s", t->trouble_text);
        if (!t->lost)
            log_warn("redis_topology_lost", "error=%s", t->error);
        t->lost = true;
        round_over(t);
        t->ask_ms = now_ms(t) + redis_pause_next(&t->pause);
    }
    schedule(t);
}

static void log_found(const struct redis_topology *t, const struct redis_address *server, unsigned partitions)
{
    char name[REDIS_ADDRESS_MAX];

    redis_address_name(server, name);
    log_info("redis_topology", "server=%s partitions=%u of=%u", name, partitions, t->partitions);
}

/* A failover takes its time: until the answer is another one, a suspicion is followed up. */
static void answered(struct redis_topology *t)
{
    int64_t now = now_ms(t);

    if (t->lost && !t->changed)
        log_found(t, &t->next[0], t->partitions);
    if (t->changed || now - t->suspected_ms >= REDIS_TOPOLOGY_REFRESH_MS)
        t->suspected_ms = 0;
    if (t->suspected_meanwhile)
        t->ask_ms = t->asked_ms + REDIS_TOPOLOGY_ASK_MS;
    else if (t->suspected_ms > 0)
        t->ask_ms = now + redis_pause_next(&t->pause);
    else
        t->ask_ms = now + REDIS_TOPOLOGY_REFRESH_MS;
    if (t->suspected_ms == 0)
        t->pause = 0;
    t->lost = false;
    t->error[0] = 0;
    round_over(t);
    schedule(t);
}

static void set_master(struct redis_topology *t, unsigned partition, const struct redis_address *address)
{
    if (redis_address_equal(&t->next[partition], address))
        return;
    t->next[partition] = *address;
    t->changed = true;
}

/* --- Sentinel --- */

static bool take_sentinel(struct redis_topology *t, const redisReply *reply)
{
    struct redis_address master;

    if (reply->type == REDIS_REPLY_NIL || (reply->type == REDIS_REPLY_ARRAY && reply->elements == 0)) {
        note(t, TROUBLE_BAD_ANSWER, "unknown master name %s (sentinel %s)", t->target->master_name,
             t->asked_name);
        return false;
    }
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
        reply->element[0]->type != REDIS_REPLY_STRING || reply->element[1]->type != REDIS_REPLY_STRING ||
        !take_address(&master, &t->asked, reply->element[0]->str, (size_t)reply->element[0]->len,
                      atoll(reply->element[1]->str))) {
        note(t, TROUBLE_BAD_ANSWER, "sentinel %s: %s", t->asked_name,
             reply->type == REDIS_REPLY_ERROR ? reply->str : "not an address");
        return false;
    }
    set_master(t, 0, &master);
    return true;
}

/* --- Cluster --- */

/* A node of CLUSTER SLOTS: [host, port, id, …]. */
static bool take_node(const struct redis_topology *t, const redisReply *node, struct redis_address *address)
{
    const redisReply *host;

    if (node->type != REDIS_REPLY_ARRAY || node->elements < 2 ||
        node->element[1]->type != REDIS_REPLY_INTEGER)
        return false;
    host = node->element[0];
    if (host->type == REDIS_REPLY_STRING)
        return take_address(address, &t->asked, host->str, (size_t)host->len, node->element[1]->integer);
    return host->type == REDIS_REPLY_NIL &&
           take_address(address, &t->asked, "", 0, node->element[1]->integer);
}

static void add_node(struct redis_topology *t, const struct redis_address *address)
{
    for (unsigned i = 0; i < t->node_count; i++) {
        if (redis_address_equal(&t->nodes[i], address))
            return;
    }
    if (t->node_count < NODES_MAX)
        t->nodes[t->node_count++] = *address;
}

/* [first slot, last slot, master, replica…]; marks the partitions in it. */
static bool take_range(struct redis_topology *t, const redisReply *range,
                       bool served[REDIS_CLUSTER_PARTITIONS])
{
    struct redis_address master;

    if (range->type != REDIS_REPLY_ARRAY || range->elements < 3 ||
        range->element[0]->type != REDIS_REPLY_INTEGER || range->element[1]->type != REDIS_REPLY_INTEGER ||
        !take_node(t, range->element[2], &master))
        return false;
    for (unsigned i = 0; i < t->partitions; i++) {
        long long slot = redis_topology_slot(i);

        if (slot >= range->element[0]->integer && slot <= range->element[1]->integer) {
            set_master(t, i, &master);
            served[i] = true;
        }
    }
    return true;
}

static void take_nodes(struct redis_topology *t, const redisReply *reply)
{
    struct redis_address address;

    t->node_count = 0;
    for (size_t i = 0; i < reply->elements; i++) {
        for (size_t j = 2; j < reply->element[i]->elements; j++) {
            if (take_node(t, reply->element[i]->element[j], &address))
                add_node(t, &address);
        }
    }
    t->first_node = 0;
    for (unsigned i = 0; i < t->node_count; i++) {
        if (redis_address_equal(&t->nodes[i], &t->asked))
            t->first_node = i;
    }
}

/* A node that was taken out of its cluster knows of no masters, or of few: what it knows is taken, and
 * somebody else is asked as well. */
static bool take_cluster(struct redis_topology *t, const redisReply *reply)
{
    bool served[REDIS_CLUSTER_PARTITIONS] = {false};

    if (reply->type != REDIS_REPLY_ARRAY) {
        note(t, TROUBLE_BAD_ANSWER, "cluster node %s: %s", t->asked_name,
             reply->type == REDIS_REPLY_ERROR ? reply->str : "no list of slots");
        return false;
    }
    for (size_t i = 0; i < reply->elements; i++) {
        if (!take_range(t, reply->element[i], served)) {
            note(t, TROUBLE_BAD_ANSWER, "cluster node %s: no list of slots", t->asked_name);
            return false;
        }
    }
    for (unsigned i = 0; i < t->partitions; i++) {
        if (!served[i]) {
            note(t, TROUBLE_BAD_ANSWER, "slot %u is served by nobody (cluster node %s)",
                 redis_topology_slot(i), t->asked_name);
            return false;
        }
    }
    take_nodes(t, reply);
    return true;
}

/* --- The question --- */

static void on_ready(void *arg, const char *life)
{
    struct redis_topology *t = arg;
    const char *sentinel[] = {"SENTINEL", "get-master-addr-by-name", t->target->master_name};
    const char *cluster[] = {"CLUSTER", "SLOTS"};
    bool is_cluster = t->target->form == REDIS_CLUSTER;
    char *resp;
    int length = redisFormatCommandArgv(&resp, is_cluster ? 2 : 3, is_cluster ? cluster : sentinel, NULL);

    (void)life;
    if (length < 0)
        abort();
    redis_conn_append(t->conn, resp, (size_t)length);
    redisFreeCommand(resp);
    redis_conn_flush(t->conn);
}

static void on_reply(void *arg, const redisReply *reply)
{
    struct redis_topology *t = arg;
    bool is_seed = t->tried >= t->node_count;
    unsigned server = t->first_server + t->tried - t->node_count;
    bool taken = t->target->form == REDIS_CLUSTER ? take_cluster(t, reply) : take_sentinel(t, reply);

    redis_conn_close(t->conn);
    t->conn = NULL;
    if (taken && is_seed)
        t->first_server = server % t->target->count;
    if (taken)
        answered(t);
    else
        go_on(t);
}

static void on_lost(void *arg, enum redis_fault fault, const char *error)
{
    struct redis_topology *t = arg;

    t->conn = NULL;
    note(t, TROUBLE_NO_ANSWER, "%s: no answer (%s: %s: %s)",
         t->target->form == REDIS_CLUSTER ? "cluster" : "sentinels", t->asked_name, redis_fault_word(fault),
         error);
    go_on(t);
}

static void ask(struct redis_topology *t)
{
    struct redis_conn_options options = {
        .loop = t->loop,
        .target = t->target,
        .address = &t->asked,
        .kind = t->target->form == REDIS_CLUSTER ? REDIS_CONN_ASK : REDIS_CONN_SENTINEL,
        .handler = {t, on_ready, on_reply, on_lost},
    };
    int error;

    t->asked = *candidate(t, t->tried);
    redis_address_name(&t->asked, t->asked_name);
    t->asked_ms = now_ms(t);
    t->suspected_meanwhile = false;
    error = redis_conn_open(&t->conn, &options);
    if (error < 0) {
        t->conn = NULL;
        note(t, TROUBLE_NO_ANSWER, "%s: %s", t->asked_name, strerror(-error));
        go_on(t);
    }
}

/* Makes what is known what is told. The number of partitions with another master. */
static unsigned publish(struct redis_topology *t)
{
    unsigned count = 0, first = 0;

    for (unsigned i = t->partitions; i-- > 0;) {
        if (redis_address_equal(&t->masters[i], &t->next[i]))
            continue;
        t->masters[i] = t->next[i];
        first = i;
        count++;
    }
    t->changed = false;
    if (count > 0)
        log_found(t, &t->masters[first], count);
    return count;
}

static void on_timer(uv_timer_t *timer)
{
    struct redis_topology *t = timer->data;
    bool told = t->changed && publish(t) > 0;

    if (!t->conn && now_ms(t) >= t->ask_ms)
        ask(t);
    schedule(t);
    if (told)
        t->on_change(t->arg);
}

static void on_fixed(uv_timer_t *timer)
{
    struct redis_topology *t = timer->data;

    t->on_change(t->arg);
}

static void schedule(struct redis_topology *t)
{
    int64_t wait = t->ask_ms - now_ms(t);

    if (t->changed)
        uv_timer_start(&t->timer, on_timer, 0, 0);
    else if (t->conn)
        uv_timer_stop(&t->timer);
    else
        uv_timer_start(&t->timer, on_timer, wait > 0 ? (uint64_t)wait : 0, 0);
}

/* --- For the owner --- */

int redis_topology_new(struct redis_topology **topology, uv_loop_t *loop, const struct redis_target *target,
                       void (*on_change)(void *arg), void *arg)
{
    struct redis_topology *t = calloc(1, sizeof(*t));
    uint32_t random = 0;

    if (!t)
        return -ENOMEM;
    t->loop = loop;
    t->target = target;
    t->on_change = on_change;
    t->arg = arg;
    t->partitions = redis_topology_partitions(target);
    t->masters = calloc(t->partitions, sizeof(*t->masters));
    t->next = calloc(t->partitions, sizeof(*t->next));
    t->nodes = calloc(target->form == REDIS_CLUSTER ? NODES_MAX : 1, sizeof(*t->nodes));
    if (!t->masters || !t->next || !t->nodes) {
        free(t->masters);
        free(t->next);
        free(t->nodes);
        free(t);
        return -ENOMEM;
    }
    uv_timer_init(loop, &t->timer);
    t->timer.data = t;
    if (is_fixed(t)) {
        memcpy(t->masters, target->servers, t->partitions * sizeof(*t->masters));
        uv_timer_start(&t->timer, on_fixed, 0, 0);
    } else {
        snprintf(t->error, sizeof(t->error), "%s not asked yet",
                 target->form == REDIS_CLUSTER ? "cluster nodes" : "sentinels");
        /* All workers of all servers shall not ask the same one. */
        if (getrandom(&random, sizeof(random), GRND_NONBLOCK) == sizeof(random))
            t->first_server = random % target->count;
        t->ask_ms = now_ms(t);
        schedule(t);
    }
    *topology = t;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct redis_topology *t = handle->data;

    free(t->masters);
    free(t->next);
    free(t->nodes);
    free(t);
}

void redis_topology_close(struct redis_topology *topology)
{
    if (topology->conn)
        redis_conn_close(topology->conn);
    uv_close((uv_handle_t *)&topology->timer, on_closed);
}

const struct redis_address *redis_topology_master(const struct redis_topology *topology, unsigned partition)
{
    const struct redis_address *master = &topology->masters[partition];

    return master->host[0] ? master : NULL;
}

/* Who is named by MOVED serves that slot and knows so: it is asked first, for others may lag behind, and an
 * answer that is under way as well. */
static void ask_first(struct redis_topology *t, const struct redis_address *node)
{
    add_node(t, node);
    for (unsigned i = 0; i < t->node_count; i++) {
        if (redis_address_equal(&t->nodes[i], node))
            t->first_node = i;
    }
    if (t->conn) {
        redis_conn_close(t->conn);
        t->conn = NULL;
        t->ask_ms = t->asked_ms + REDIS_TOPOLOGY_ASK_MS;
    }
    t->tried = 0;
}

void redis_topology_suspect(struct redis_topology *topology, unsigned partition,
                            const struct redis_address *moved)
{
    struct redis_topology *t = topology;
    int64_t soon = t->asked_ms + REDIS_TOPOLOGY_ASK_MS;

    if (is_fixed(t))
        return;
    t->suspected_ms = now_ms(t);
    t->suspected_meanwhile = true;
    if (moved && !redis_address_equal(&t->next[partition], moved)) {
        set_master(t, partition, moved);
        ask_first(t, moved);
    }
    /* A round that fails keeps its pauses, however many ask for it. */
    if (!t->lost && t->tried == 0 && t->ask_ms > soon)
        t->ask_ms = soon;
    schedule(t);
}

const char *redis_topology_error(const struct redis_topology *topology)
{
    return topology->error;
}
