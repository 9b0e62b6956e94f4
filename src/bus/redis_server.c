/* redis_server.c - the servers of a client: their answers, what they refuse, their lives. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/metrics.h"
#include "redis_client_core.h"

enum {
    PAUSE_MIN_MS = 50, /* of a hold, when the server told to come again */
    PAUSE_MAX_MS = 200,
    WORD_PAUSE_MS = 60000,
    REFUSAL_MS = 2500, /* at least so long a server that refused is not well: longer than between two beats */
    UNUSED_MS = 10000, /* a server without partitions is kept so long */
};

/* --- Refusals. --- */

/* Each word of an error once a minute. */
static bool may_tell(struct redis_client *client, const char *error)
{
    int64_t now = clock_monotonic_ms();
    int length = (int)strcspn(error, " ");
    struct word *oldest = &client->words[0];
    char word[REDIS_WORD_SIZE];

    snprintf(word, sizeof(word), "%.*s", length, error);
    for (int i = 0; i < REDIS_WORDS_MAX; i++) {
        struct word *w = &client->words[i];

        if (w->told_ms > 0 && strcmp(w->word, word) == 0) {
            oldest = w;
            break;
        }
        if (w->told_ms < oldest->told_ms)
            oldest = w;
    }
    if (oldest->told_ms > 0 && strcmp(oldest->word, word) == 0 && now - oldest->told_ms < WORD_PAUSE_MS)
        return false;
    strcpy(oldest->word, word);
    oldest->told_ms = now;
    return true;
}

static void tell_refusal(struct server *server, const char *error)
{
    char name[REDIS_ADDRESS_MAX];

    if (!may_tell(server->client, error))
        return;
    redis_address_name(&server->address, name);
    log_warn("redis_refuses", "server=%s error=%s", name, error);
}

/* The server is there and doesn't work: out of memory, disk or replicas, or this user may not do that. */
static void note_refusal(struct server *server, const char *error)
{
    tell_refusal(server, error);
    server->refused_ms = clock_monotonic_ms();
    snprintf(server->refusal, sizeof(server->refusal), "%s", error);
    redis_client_judge(server->client);
}

/* What only reads is answered all the time: a success soon after a refusal says little. */
static void note_success(struct server *server)
{
    if (server->refusal[0] == '\0' || clock_monotonic_ms() - server->refused_ms < REFUSAL_MS)
        return;
    server->refusal[0] = '\0';
    redis_client_judge(server->client);
}

/* --- Up and down. --- */

static uint32_t number_of_life(struct redis_client *client, const char *id)
{
    uint32_t known = client->lives_given < REDIS_LIVES_MAX ? client->lives_given : REDIS_LIVES_MAX;
    struct life *life;

    for (uint32_t i = 0; i < known; i++) {
        life = &client->lives[(client->lives_given - i) % REDIS_LIVES_MAX];
        if (memcmp(life->id, id, REDIS_LIFE_SIZE) == 0)
            return life->number;
    }
    client->lives_given++;
    life = &client->lives[client->lives_given % REDIS_LIVES_MAX];
    memcpy(life->id, id, REDIS_LIFE_SIZE);
    life->number = client->lives_given;
    return life->number;
}

const char *redis_server_life(const struct server *server)
{
    return server->client->lives[server->life % REDIS_LIVES_MAX].id;
}

static void on_up(void *arg, const char *life)
{
    struct server *server = arg;
    struct redis_client *client = server->client;

    server->up = true;
    server->failed = false;
    server->life = number_of_life(client, life);
    server->refusal[0] = '\0';
    redis_client_server_up(client, server);
}

static void lose_written(struct server *server)
{
    struct redis_client *client = server->client;

    for (unsigned i = 0; i < client->connections; i++) {
        struct written *written = &server->written[i];
        struct redis_request *r;

        while ((r = written->first)) {
            written->first = r->next_written;
            r->asking = false;
            redis_client_take_back(client, r);
            redis_client_hold(client, r->partition, 0);
        }
        written->end = &written->first;
    }
}

static void on_down(void *arg, const char *error)
{
    struct server *server = arg;

    server->up = false;
    server->failed = true;
    snprintf(server->error, sizeof(server->error), "%s", error);
    lose_written(server);
    redis_client_server_down(server->client, server);
}

/* --- Answers. --- */

static int some_pause(void)
{
    uint32_t dice = 0;

    uv_random(NULL, NULL, &dice, sizeof(dice), 0, NULL);
    return PAUSE_MIN_MS + (int)(dice % (PAUSE_MAX_MS - PAUSE_MIN_MS + 1));
}

static void follow_move(struct server *server, struct redis_request *r, const char *error)
{
    struct redis_address moved;
    unsigned slot;
    bool known = redis_moved_parse(error, &server->address, &slot, &moved);

    /* Until the topology says so the old master would only say it again. */
    redis_client_hold(server->client, r->partition, PAUSE_MIN_MS);
    redis_topology_suspect(server->client->topology, r->partition, known ? &moved : NULL);
}

void redis_server_ask(struct redis_request *r, struct server *server)
{
    if (r->ask)
        r->ask->asked--;
    r->ask = server;
    if (server)
        server->asked++;
}

static void follow_ask(struct server *server, struct redis_request *r, const char *error)
{
    char moved[REDIS_ADDRESS_MAX + 32];
    struct redis_address address;
    unsigned slot;

    snprintf(moved, sizeof(moved), "MOVED%s", error + strlen("ASK"));
    if (redis_moved_parse(moved, &server->address, &slot, &address)) {
        redis_server_ask(r, redis_server_find(server->client, &address));
        redis_client_hold(server->client, r->partition, 0);
    } else {
        redis_client_hold(server->client, r->partition, some_pause());
    }
}

static void try_later(struct server *server, struct redis_request *r, const char *error)
{
    (void)error;
    redis_client_hold(server->client, r->partition, some_pause());
}

static void refuse_for_now(struct server *server, struct redis_request *r, const char *error)
{
    note_refusal(server, error);
    try_later(server, r, error);
}

static void ask_who_serves(struct server *server, struct redis_request *r, const char *error)
{
    redis_topology_suspect(server->client->topology, r->partition, NULL);
    try_later(server, r, error);
}

/* True when the call stays in its place, to be written again. */
static bool is_later(struct server *server, struct redis_request *r, const redisReply *reply)
{
    static const struct {
        const char *code;
        void (*follow)(struct server *server, struct redis_request *r, const char *error);
    } later[] = {
        {"MOVED", follow_move},          {"ASK", follow_ask},       {"TRYAGAIN", try_later},
        {"CLUSTERDOWN", ask_who_serves}, {"BUSY", refuse_for_now},  {"NOREPLICAS", refuse_for_now},
        {"MISCONF", refuse_for_now},
    };

    for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
        if (!redis_error_is(reply, later[i].code))
            continue;
        later[i].follow(server, r, redis_error_code(reply));
        return true;
    }
    return false;
}

static void finish(struct server *server, struct redis_request *r, const redisReply *reply)
{
    enum redis_result result = REDIS_ANSWERED;

    if (reply->type == REDIS_REPLY_ERROR) {
        if (is_later(server, r, reply))
            return;
        result = redis_error_is(reply, "OOM") ? REDIS_FULL : REDIS_REFUSED;
    }
    redis_client_remove(server->client, r);
    if (result == REDIS_ANSWERED)
        note_success(server);
    else if (result == REDIS_FULL || redis_error_is(reply, "NOPERM"))
        note_refusal(server, redis_error_code(reply));
    else
        tell_refusal(server, redis_error_code(reply));
    redis_client_answer(r, result, reply);
}

static void on_reply(void *arg, unsigned conn, const redisReply *reply)
{
    struct server *server = arg;
    struct redis_client *client = server->client;
    struct written *written = &server->written[conn];
    struct redis_request *r = written->first;
    int64_t took;

    if (!r)
        return;
    if (r->asking) {
        r->asking = false;
        return;
    }
    written->first = r->next_written;
    if (!written->first)
        written->end = &written->first;
    took = clock_monotonic_us() - r->written_us;
    metrics_observe(bus_call_seconds, took);
    if (took > client->latency_us)
        client->latency_us = took;
    redis_client_take_back(client, r);
    finish(server, r, reply);
}

/* --- Opened and dropped. --- */

static struct server *add_server(struct redis_client *client, const struct redis_address *address)
{
    struct server *server = calloc(1, sizeof(*server) + client->connections * sizeof(server->written[0]));
    struct redis_link_options options = {.loop = client->loop,
                                         .target = client->target,
                                         .address = address,
                                         .connections = client->connections,
                                         .scripts = client->scripts,
                                         .handler = {server, on_up, on_reply, on_down}};
    char name[REDIS_ADDRESS_MAX];

    if (!server || redis_link_open(&server->link, &options) != 0)
        abort();
    server->client = client;
    server->address = *address;
    redis_address_name(address, name);
    snprintf(server->error, sizeof(server->error), "%.150s: connecting", name);
    for (unsigned i = 0; i < client->connections; i++)
        server->written[i].end = &server->written[i].first;
    server->next = client->servers;
    client->servers = server;
    return server;
}

struct server *redis_server_find(struct redis_client *client, const struct redis_address *address)
{
    struct server *server = client->servers;

    while (server && !redis_address_equal(&server->address, address))
        server = server->next;
    if (!server)
        server = add_server(client, address);
    server->used_ms = clock_monotonic_ms();
    return server;
}

static bool is_used(const struct redis_client *client, const struct server *server)
{
    bool used = server->asked > 0;

    for (unsigned i = 0; i < client->partition_count && !used; i++)
        used = client->partitions[i].server == server;
    for (unsigned i = 0; i < client->connections && !used; i++)
        used = server->written[i].first != NULL;
    return used;
}

int64_t redis_server_oldest_us(const struct redis_client *client)
{
    int64_t now = clock_monotonic_us(), oldest = now;

    for (const struct server *server = client->servers; server; server = server->next) {
        for (unsigned i = 0; i < client->connections; i++) {
            const struct redis_request *r = server->written[i].first;

            if (r && r->written_us < oldest)
                oldest = r->written_us;
        }
    }
    return now - oldest;
}

void redis_server_drop_unused(struct redis_client *client)
{
    int64_t now = clock_monotonic_ms();

    for (struct server **at = &client->servers; *at;) {
        struct server *server = *at;

        if (is_used(client, server))
            server->used_ms = now;
        if (now - server->used_ms < UNUSED_MS) {
            at = &server->next;
            continue;
        }
        *at = server->next;
        redis_link_close(server->link);
        free(server);
    }
}

void redis_server_free_all(struct redis_client *client)
{
    while (client->servers) {
        struct server *server = client->servers;

        client->servers = server->next;
        free(server);
    }
}

/* --- Writing. --- */

void redis_server_write(struct server *server, struct redis_request *r, int64_t now_us)
{
    static const char asking[] = "*1\r\n$6\r\nASKING\r\n";
    const struct redis_client *client = server->client;
    unsigned conn = r->room_hash % client->connections;
    struct written *written = &server->written[conn];

    if (r->life_offset > 0)
        memcpy(r->resp + r->life_offset, redis_server_life(server), REDIS_LIFE_SIZE);
    if (r->ask) {
        redis_link_append(server->link, conn, asking, sizeof(asking) - 1);
        r->asking = true;
        redis_server_ask(r, NULL);
    }
    redis_link_append(server->link, conn, r->resp, r->length);
    metrics_add(bus_commands_total, 1);
    r->life = server->life;
    r->written_us = now_us;
    r->written = r->tried = true;
    r->next_written = NULL;
    *written->end = r;
    written->end = &r->next_written;
    server->touched = true;
}
