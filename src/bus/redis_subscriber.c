/* redis_subscriber.c - which channel is subscribed where, and what has to be done about it.
 *
 * A channel is in exactly one list at any time: its partition's `subscribed`, its partition's `todo`, or
 * `channels` of the one command about it that is on its way. So there is never more than one, and whatever is
 * wanted meanwhile is looked at when its answer comes.
 *
 * Answers come in the order of the commands, one per name or one error for the whole command. The exception
 * is a cluster's `sunsubscribe` when it gives a slot away: nobody asked for it, and it is told from an answer
 * by the channel not being in the command that is due. What doesn't fit is cured by a new connection.
 *
 * Callbacks of redis_conn and of the topology only note things and set `dirty`; the turn acts. A callback up
 * is the last thing a function does: the subscriber may be closed in it. */
#include "redis_subscriber.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "chatd/buf.h"
#include "chatd/clock.h"
#include "chatd/log.h"
#include "redis_conn.h"

/* A connection that lived that long begins with the shortest pause again when it is lost. */
enum { STEADY_MS = 5000 };

struct channel {
    UT_hash_handle hh;
    struct channel *prev, *next, **list;
    struct partition *partition;
    void *channel;   /* the user's */
    bool wanted;     /* not removed */
    bool subscribed; /* as far as the server has said */
    bool confirmed;  /* on_subscribed was called */
    size_t length;
    char name[];
};

struct command {
    struct command *prev, *next;
    struct partition *partition;
    struct channel *channels; /* not answered yet; without those that went elsewhere meanwhile */
    unsigned expected;        /* answers */
    bool subscribe;
};

struct partition {
    struct server *server; /* NULL: nobody knows its master yet */
    struct channel *subscribed, *todo;
    unsigned count, slot;
    int64_t hold_ms; /* not before: a command was refused */
    unsigned pause;
    bool refused;
};

struct server {
    struct server *prev, *next;
    struct redis_subscriber *subscriber;
    struct redis_address address;
    char name[REDIS_ADDRESS_MAX];
    struct redis_conn *conn;
    struct command *commands; /* on their way, oldest first */
    unsigned partitions, channels, refused;
    bool ready, written;
    enum { TOLD_NOTHING, TOLD_READY, TOLD_LOST } told; /* in the log */
    int64_t try_ms, ready_ms, unused_ms;
    unsigned pause;
    char life[REDIS_LIFE_SIZE]; /* while `ready` */
    char error[160];
};

struct redis_subscriber {
    uv_timer_t timer;
    uv_loop_t *loop;
    const struct redis_target *target;
    struct redis_topology *topology;
    struct redis_subscriber_handler handler;
    bool is_sharded; /* SSUBSCRIBE */
    bool dirty;
    struct channel *channels; /* by name */
    struct partition *partitions;
    unsigned partition_count;
    struct server *servers;
    struct buf out;
    bool ok;
    int64_t since_ms;
};

static int64_t now_ms(const struct redis_subscriber *s)
{
    return (int64_t)uv_now(s->loop);
}

/* --- Channels --- */

static struct channel *find(struct redis_subscriber *s, const char *name, size_t length)
{
    struct channel *c;

    HASH_FIND(hh, s->channels, name, length, c);
    return c;
}

static void move(struct channel *c, struct channel **list)
{
    DL_DELETE(*c->list, c);
    DL_APPEND(*list, c);
    c->list = list;
}

static void forget(struct redis_subscriber *s, struct channel *c)
{
    DL_DELETE(*c->list, c);
    HASH_DEL(s->channels, c);
    c->partition->count--;
    if (c->partition->server)
        c->partition->server->channels--;
    free(c);
}

/* The channel is subscribed nowhere now. */
static void release(struct redis_subscriber *s, struct channel *c)
{
    c->subscribed = false;
    if (!c->wanted)
        forget(s, c);
    else if (c->list != &c->partition->todo)
        move(c, &c->partition->todo);
    s->dirty = true;
}

static void release_all(struct redis_subscriber *s, struct channel **list)
{
    struct channel *c, *next;

    DL_FOREACH_SAFE(*list, c, next)
        release(s, c);
}

static void drop_command(struct server *server, struct command *command)
{
    release_all(server->subscriber, &command->channels);
    DL_DELETE(server->commands, command);
    free(command);
}

static void hold(struct redis_subscriber *s, struct partition *p)
{
    /* Several commands of a partition that are refused together count once. */
    if (p->hold_ms <= now_ms(s))
        p->hold_ms = now_ms(s) + redis_pause_next(&p->pause);
}

static void set_refused(struct partition *p, const char *error)
{
    struct server *server = p->server;
    bool refused = error != NULL;

    if (p->refused == refused)
        return;
    p->refused = refused;
    server->refused += refused ? 1 : -1U;
    server->subscriber->dirty = true;
    if (refused && server->refused == 1) {
        snprintf(server->error, sizeof(server->error), "%s", error);
        log_warn("redis_subscriber_refused", "server=%s error=%s", server->name, error);
    } else if (server->refused == 0 && server->ready) {
        log_info("redis_subscriber_ready", "server=%s channels=%u", server->name, server->channels);
    }
}

/* --- What a server says --- */

static void tell_lost(struct server *server, enum redis_fault fault, const char *error)
{
    const char *word = redis_fault_word(fault);

    if (server->told == TOLD_LOST || server->channels == 0)
        return;
    server->told = TOLD_LOST;
    if (fault == REDIS_FAULT_CLOSED)
        log_warn("redis_subscriber_lost", "server=%s fault=%s error=%s channels=%u hint=%s", server->name,
                 word, error, server->channels, "if it repeats: client-output-buffer-limit pubsub");
    else
        log_warn("redis_subscriber_lost", "server=%s fault=%s error=%s channels=%u", server->name, word,
                 error, server->channels);
}

/* The connection is gone, and with it all subscriptions there. */
static void lose(struct server *server, enum redis_fault fault, const char *error)
{
    struct redis_subscriber *s = server->subscriber;
    bool was_steady = server->ready && now_ms(s) - server->ready_ms >= STEADY_MS;

    server->conn = NULL;
    server->ready = false;
    snprintf(server->error, sizeof(server->error), "%s: %s", redis_fault_word(fault), error);
    tell_lost(server, fault, error);
    while (server->commands)
        drop_command(server, server->commands);
    for (unsigned i = 0; i < s->partition_count; i++) {
        struct partition *p = &s->partitions[i];

        if (p->server != server)
            continue;
        set_refused(p, NULL);
        release_all(s, &p->subscribed);
        release_all(s, &p->todo);
        redis_topology_suspect(s->topology, i, NULL);
    }
    if (was_steady)
        server->pause = 0;
    server->try_ms = now_ms(s) + redis_pause_next(&server->pause);
    s->dirty = true;
}

static void on_lost(void *arg, enum redis_fault fault, const char *error)
{
    lose(arg, fault, error);
}

static void start_over(struct server *server, const char *why)
{
    redis_conn_close(server->conn);
    lose(server, REDIS_FAULT_PROTOCOL, why);
}

static void on_ready(void *arg, const char *life)
{
    struct server *server = arg;

    memcpy(server->life, life, sizeof(server->life));
    server->ready = true;
    server->ready_ms = now_ms(server->subscriber);
    if (server->told != TOLD_READY)
        log_info("redis_subscriber_ready", "server=%s channels=%u", server->name, server->channels);
    server->told = TOLD_READY;
    server->subscriber->dirty = true;
}

static void on_subscribed(struct server *server, const char *name, size_t length)
{
    struct redis_subscriber *s = server->subscriber;
    struct command *command = server->commands;
    struct channel *c = find(s, name, length);
    bool again;

    if (!command || !command->subscribe) {
        start_over(server, "an answer that nobody waits for");
        return;
    }
    if (c && c->list != &command->channels)
        c = NULL; /* forgotten or gone to another server, perhaps subscribed once more since */
    if (c) {
        c->subscribed = true;
        move(c, c->wanted ? &c->partition->subscribed : &c->partition->todo);
        c->partition->pause = 0;
        set_refused(c->partition, NULL);
        s->dirty = true;
    }
    if (--command->expected == 0)
        drop_command(server, command);
    if (!c || !c->wanted)
        return;
    again = c->confirmed;
    c->confirmed = true;
    s->handler.on_subscribed(s->handler.arg, c->channel, again);
}

static void on_unsubscribed(struct server *server, const char *name, size_t length)
{
    struct redis_subscriber *s = server->subscriber;
    struct command *command = server->commands;
    struct channel *c = find(s, name, length);

    if (c && command && !command->subscribe && c->list == &command->channels) {
        release(s, c);
        if (--command->expected == 0)
            drop_command(server, command);
        return;
    }
    /* The slot moves away. A channel with a command on its way learns of it by the command's answer. */
    if (!c || c->partition->server != server || !c->subscribed ||
        (c->list != &c->partition->subscribed && c->list != &c->partition->todo))
        return;
    hold(s, c->partition);
    redis_topology_suspect(s->topology, (unsigned)(c->partition - s->partitions), NULL);
    release(s, c);
}

static void fail_command(struct server *server, struct command *command)
{
    hold(server->subscriber, command->partition);
    drop_command(server, command);
}

static void on_moved(struct server *server, unsigned slot, const struct redis_address *moved)
{
    struct redis_subscriber *s = server->subscriber;
    struct command *command;

    for (unsigned i = 0; i < s->partition_count; i++) {
        if (s->partitions[i].slot == slot && s->partitions[i].server == server)
            redis_topology_suspect(s->topology, i, moved);
    }
    /* None: an UNSUBSCRIBE whose slot moved away before, and was answered by that. */
    DL_FOREACH(server->commands, command) {
        if (command->partition->slot == slot) {
            fail_command(server, command);
            return;
        }
    }
}

static void on_error(struct server *server, const char *error)
{
    struct command *command = server->commands;
    struct redis_address moved;
    unsigned slot;

    if (redis_moved_parse(error, &server->address, &slot, &moved)) {
        on_moved(server, slot, &moved);
    } else if (!command) {
        start_over(server, error);
    } else {
        if (command->partition->server == server)
            set_refused(command->partition, error);
        redis_topology_suspect(server->subscriber->topology,
                               (unsigned)(command->partition - server->subscriber->partitions), NULL);
        fail_command(server, command);
    }
}

static void on_message(struct server *server, const redisReply *name, const redisReply *payload)
{
    struct redis_subscriber *s = server->subscriber;
    struct channel *c = find(s, name->str, (size_t)name->len);

    /* Not one that was removed, nor one of a server that has lost the partition: both may still be heard. */
    if (c && c->wanted && c->list == &c->partition->subscribed && c->partition->server == server)
        s->handler.on_message(s->handler.arg, c->channel, (struct text){payload->str, (size_t)payload->len});
}

static void on_reply(void *arg, const redisReply *reply)
{
    struct server *server = arg;
    redisReply **part = reply->element;
    const char *kind;

    if (reply->type == REDIS_REPLY_ERROR) {
        on_error(server, reply->str);
        return;
    }
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 3 || part[0]->type != REDIS_REPLY_STRING ||
        part[1]->type != REDIS_REPLY_STRING) {
        start_over(server, "not an answer of a subscriber");
        return;
    }
    kind = part[0]->str;
    if (server->subscriber->is_sharded && *kind == 's')
        kind++;
    if (strcmp(kind, "message") == 0 && part[2]->type == REDIS_REPLY_STRING)
        on_message(server, part[1], part[2]);
    else if (strcmp(kind, "subscribe") == 0)
        on_subscribed(server, part[1]->str, (size_t)part[1]->len);
    else if (strcmp(kind, "unsubscribe") == 0)
        on_unsubscribed(server, part[1]->str, (size_t)part[1]->len);
    else
        start_over(server, "not an answer of a subscriber");
}

/* --- Servers --- */

static struct server *server_at(struct redis_subscriber *s, const struct redis_address *address)
{
    struct server *server;

    DL_FOREACH(s->servers, server) {
        if (redis_address_equal(&server->address, address))
            return server;
    }
    server = calloc(1, sizeof(*server));
    if (!server)
        abort();
    server->subscriber = s;
    server->address = *address;
    redis_address_name(address, server->name);
    DL_APPEND(s->servers, server);
    return server;
}

static void hang_up(struct server *server)
{
    if (server->conn)
        redis_conn_close(server->conn);
    server->conn = NULL;
    server->ready = false;
    while (server->commands)
        drop_command(server, server->commands);
}

static void open_conn(struct server *server)
{
    struct redis_subscriber *s = server->subscriber;
    struct redis_conn_options options = {
        .loop = s->loop,
        .target = s->target,
        .address = &server->address,
        .kind = REDIS_CONN_SUBSCRIBER,
        .handler = {server, on_ready, on_reply, on_lost},
    };
    int error = redis_conn_open(&server->conn, &options);

    if (error < 0)
        lose(server, REDIS_FAULT_CONNECT, strerror(-error));
}

/* Opens and closes what has to be; when to look again. */
static int64_t tend(struct server *server)
{
    struct redis_subscriber *s = server->subscriber;
    int64_t now = now_ms(s);

    if (server->channels > 0) {
        server->unused_ms = 0;
        if (!server->conn && server->try_ms <= now)
            open_conn(server);
        return server->conn ? INT64_MAX : server->try_ms;
    }
    if (server->unused_ms == 0)
        server->unused_ms = now;
    if (server->conn && now - server->unused_ms >= REDIS_SUBSCRIBER_LINGER_MS)
        hang_up(server);
    return server->conn ? server->unused_ms + REDIS_SUBSCRIBER_LINGER_MS : INT64_MAX;
}

/* --- Commands --- */

static void add_bulk(struct buf *out, const char *data, size_t length)
{
    buf_add_literal(out, "$");
    buf_add_u64(out, length);
    buf_add_literal(out, "\r\n");
    buf_add(out, data, length);
    buf_add_literal(out, "\r\n");
}

static void append(struct server *server, const struct command *command)
{
    static const char *const verbs[2][2] = {{"UNSUBSCRIBE", "SUBSCRIBE"}, {"SUNSUBSCRIBE", "SSUBSCRIBE"}};
    struct redis_subscriber *s = server->subscriber;
    const char *verb = verbs[s->is_sharded][command->subscribe];
    const struct channel *c;

    s->out.length = 0;
    buf_add_literal(&s->out, "*");
    buf_add_u64(&s->out, command->expected + 1);
    buf_add_literal(&s->out, "\r\n");
    add_bulk(&s->out, verb, strlen(verb));
    DL_FOREACH(command->channels, c)
        add_bulk(&s->out, c->name, c->length);
    redis_conn_append(server->conn, s->out.data, s->out.length);
    server->written = true;
}

/* One command, about as many channels as go into it: all of one partition, as a cluster wants one slot. */
static void send_batch(struct partition *p)
{
    struct server *server = p->server;
    struct command *command = calloc(1, sizeof(*command));
    struct channel *c, *next;

    if (!command)
        abort();
    command->partition = p;
    command->subscribe = p->todo->wanted;
    DL_FOREACH_SAFE(p->todo, c, next) {
        if (c->wanted != command->subscribe)
            continue;
        move(c, &command->channels);
        if (++command->expected == REDIS_SUBSCRIBER_BATCH)
            break;
    }
    DL_APPEND(server->commands, command);
    append(server, command);
}

/* Writes what is to be done; when to look again. */
static int64_t work(struct redis_subscriber *s)
{
    int64_t now = now_ms(s), due = INT64_MAX;
    struct server *server;

    for (unsigned i = 0; i < s->partition_count; i++) {
        struct partition *p = &s->partitions[i];

        if (!p->todo || !p->server || !p->server->ready)
            continue;
        if (p->hold_ms > now) {
            due = p->hold_ms < due ? p->hold_ms : due;
            continue;
        }
        while (p->todo)
            send_batch(p);
    }
    DL_FOREACH(s->servers, server) {
        if (server->written && server->conn)
            redis_conn_flush(server->conn);
        server->written = false;
    }
    return due;
}

static const char *find_error(const struct redis_subscriber *s, const struct server **where)
{
    const struct server *server;

    *where = NULL;
    for (unsigned i = 0; i < s->partition_count; i++) {
        if (s->partitions[i].count > 0 && !s->partitions[i].server)
            return redis_topology_error(s->topology);
    }
    DL_FOREACH(s->servers, server) {
        if (server->channels > 0 && (server->told == TOLD_LOST || server->refused > 0)) {
            *where = server;
            return server->error;
        }
    }
    return NULL;
}

static void on_timer(uv_timer_t *timer)
{
    struct redis_subscriber *s = timer->data;

    s->dirty = true;
    redis_subscriber_turn(s);
}

void redis_subscriber_turn(struct redis_subscriber *subscriber)
{
    struct redis_subscriber *s = subscriber;
    struct server *server, *next;
    const struct server *where;
    int64_t due = INT64_MAX, at;

    if (!s->dirty)
        return;
    s->dirty = false;
    DL_FOREACH_SAFE(s->servers, server, next) {
        if (server->partitions == 0) {
            hang_up(server);
            DL_DELETE(s->servers, server);
            free(server);
            continue;
        }
        at = tend(server);
        due = at < due ? at : due;
    }
    at = work(s);
    due = at < due ? at : due;
    if (s->ok != !find_error(s, &where)) {
        s->ok = !s->ok;
        s->since_ms = clock_wall_ms();
    }
    /* A connection may have been lost by writing: look at once. */
    at = s->dirty ? 0 : due - now_ms(s);
    if (s->dirty || due < INT64_MAX)
        uv_timer_start(&s->timer, on_timer, at > 0 ? (uint64_t)at : 0, 0);
    else
        uv_timer_stop(&s->timer);
}

/* --- For the owner --- */

static void change_server(struct redis_subscriber *s, struct partition *p, const struct redis_address *master)
{
    struct server *old = p->server;
    struct command *command;

    if (old) {
        old->refused -= p->refused;
        p->refused = false;
        /* What is on its way there is answered as before, but counts for nothing. Those that are being
         * unsubscribed wait for it. What the old one still has is heard no more, and goes with its slot or
         * its connection. */
        DL_FOREACH(old->commands, command) {
            if (command->partition == p && command->subscribe)
                release_all(s, &command->channels);
        }
        release_all(s, &p->subscribed);
        release_all(s, &p->todo);
        old->partitions--;
        old->channels -= p->count;
    }
    p->server = server_at(s, master);
    p->server->partitions++;
    p->server->channels += p->count;
    p->hold_ms = 0;
    p->pause = 0;
}

void redis_subscriber_topology(struct redis_subscriber *subscriber)
{
    struct redis_subscriber *s = subscriber;

    for (unsigned i = 0; i < s->partition_count; i++) {
        const struct redis_address *master = redis_topology_master(s->topology, i);
        struct partition *p = &s->partitions[i];

        if (master && !(p->server && redis_address_equal(&p->server->address, master)))
            change_server(s, p, master);
    }
    s->dirty = true;
}

void redis_subscriber_life(struct redis_subscriber *subscriber, unsigned partition, const char *life)
{
    struct server *server = subscriber->partitions[partition].server;

    if (server && life && server->ready && memcmp(server->life, life, sizeof(server->life)) != 0)
        start_over(server, "another server answers at this address now");
}

int redis_subscriber_new(struct redis_subscriber **subscriber, uv_loop_t *loop,
                         const struct redis_target *target, struct redis_topology *topology,
                         const struct redis_subscriber_handler *handler)
{
    struct redis_subscriber *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    s->partition_count = redis_topology_partitions(target);
    s->partitions = calloc(s->partition_count, sizeof(*s->partitions));
    if (!s->partitions) {
        free(s);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < s->partition_count; i++)
        s->partitions[i].slot = redis_topology_slot(i);
    s->loop = loop;
    s->target = target;
    s->topology = topology;
    s->handler = *handler;
    s->is_sharded = target->form == REDIS_CLUSTER;
    s->ok = true;
    uv_timer_init(loop, &s->timer);
    s->timer.data = s;
    redis_subscriber_topology(s);
    *subscriber = s;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void redis_subscriber_close(struct redis_subscriber *subscriber)
{
    struct redis_subscriber *s = subscriber;
    struct server *server, *next_server;
    struct channel *c, *next;

    DL_FOREACH_SAFE(s->servers, server, next_server)
        hang_up(server);
    HASH_ITER(hh, s->channels, c, next)
        forget(s, c);
    DL_FOREACH_SAFE(s->servers, server, next_server) {
        DL_DELETE(s->servers, server);
        free(server);
    }
    free(s->partitions);
    buf_deinit(&s->out);
    uv_close((uv_handle_t *)&s->timer, on_closed);
}

void redis_subscriber_add(struct redis_subscriber *subscriber, unsigned partition, struct text name,
                          void *channel)
{
    struct redis_subscriber *s = subscriber;
    struct partition *p = &s->partitions[partition];
    struct channel *c = find(s, name.data, name.length);

    if (!c) {
        c = calloc(1, sizeof(*c) + name.length);
        if (!c)
            abort();
        memcpy(c->name, name.data, name.length);
        c->length = name.length;
        c->partition = p;
        c->list = &p->todo;
        DL_APPEND(p->todo, c);
        HASH_ADD(hh, s->channels, name, c->length, c);
        p->count++;
        if (p->server)
            p->server->channels++;
    } else if (c->list == &p->subscribed) {
        /* Subscribed once more, so that on_subscribed comes in its turn. */
        move(c, &p->todo);
    }
    c->channel = channel;
    c->wanted = true;
    c->confirmed = false;
    s->dirty = true;
}

void redis_subscriber_remove(struct redis_subscriber *subscriber, struct text name)
{
    struct redis_subscriber *s = subscriber;
    struct channel *c = find(s, name.data, name.length);

    if (!c)
        return;
    c->wanted = false;
    if (c->list == &c->partition->subscribed)
        move(c, &c->partition->todo);
    else if (c->list == &c->partition->todo && !c->subscribed)
        forget(s, c);
    s->dirty = true;
}

void redis_subscriber_health(const struct redis_subscriber *subscriber, struct bus_health *health)
{
    const struct server *where;
    const char *error = subscriber->ok ? NULL : find_error(subscriber, &where);

    health->ok = subscriber->ok;
    health->since_ms = subscriber->since_ms;
    health->error[0] = 0;
    if (error && where)
        snprintf(health->error, sizeof(health->error), "subscriptions at %.80s: %.100s", where->name,
                 error);
    else if (error)
        snprintf(health->error, sizeof(health->error), "%s", error);
}
