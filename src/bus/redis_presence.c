/* redis_presence.c - who is in which room: users of this worker here, those of all workers in Redis.
 *
 * Redis hears of a user's first connection to a room on this worker and of the last; what is in between is
 * answered from here. It has, for each user of a room, the ids of the workers that have the user.
 *
 * GENERATIONS. What Redis has of this worker may be wrong: emptied, failed over with its tail lost, purged
 * because this worker was silent for too long, a leave that found no place in the queue. Then all users of
 * the partition are entered again under another last character of the worker's id, and when all of that is
 * answered the old id is purged like a dead worker's. So nobody is missing in between, nobody is told to
 * have gone who didn't, and whoever is only left under the old id has gone indeed, and that is told. */
#include <stdlib.h>
#include <string.h>

#include "redis_args.h"
#include "redis_bus.h"
#include "redis_sweep.h"

/* A table per room, most of them for a handful of users: uthash's own first size (32 buckets) would be
 * most of what a small room costs. It doubles as ever. */
#undef HASH_INITIAL_NUM_BUCKETS
#undef HASH_INITIAL_NUM_BUCKETS_LOG2
#define HASH_INITIAL_NUM_BUCKETS 2U
#define HASH_INITIAL_NUM_BUCKETS_LOG2 1U

enum { USERS_A_CALL = 200 }; /* when all are entered again */

static const char generations[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

struct partition {
    char generation;
    bool wanted;    /* all are to be entered again, under a new generation */
    bool entering;  /* that goes on */
    bool unclean;   /* `owners` may have earlier generations of ours */
    uint32_t calls; /* of entering, not answered */
};

struct redis_presence {
    bool work; /* some partition is wanted or entering, and there was place in the queue when last tried */
    unsigned count;
    struct partition partitions[];
};

struct waiter {
    struct waiter *next;
    bus_on_members *done;
    void *arg;
};

/* An enter, a leave or a batch of enters on its way. A leave that is `quiet` is told to nobody. */
struct redis_enter {
    struct bus_redis *bus;
    struct redis_user *user; /* NULL: has left meanwhile, or isn't needed */
    struct waiter *waiters;  /* enters of the same user, in order */
    struct waiter **waiters_end;
    bool quiet;
    char generation;
    uint8_t room_length, user_length;
    char names[];
};

void redis_presence_new(struct bus_redis *b)
{
    unsigned count = redis_topology_partitions(&b->target);

    b->presence = calloc(1, sizeof(*b->presence) + count * sizeof(b->presence->partitions[0]));
    if (!b->presence)
        abort();
    b->presence->count = count;
    for (unsigned i = 0; i < count; i++)
        b->presence->partitions[i].generation = b->id[WORKER_ID_SIZE - 1];
}

void redis_presence_free(struct bus_redis *b)
{
    free(b->presence);
    b->presence = NULL;
}

/* --- Users of this worker --- */

static struct redis_user *user_find(struct redis_room *room, struct text name)
{
    struct redis_user *user;

    HASH_FIND(hh, room->users, name.data, name.length, user);
    return user;
}

static struct redis_user *user_add(struct redis_room *room, struct text name, char generation)
{
    struct redis_user *user = malloc(sizeof(*user) + name.length);

    if (!user)
        abort();
    *user = (struct redis_user){.connections = 1, .length = (uint8_t)name.length, .generation = generation};
    memcpy(user->name, name.data, name.length);
    HASH_ADD_KEYPTR(hh, room->users, user->name, user->length, user);
    return user;
}

static void user_remove(struct redis_room *room, struct redis_user *user)
{
    HASH_DEL(room->users, user);
    free(user);
}

void redis_presence_forget(struct redis_room *room)
{
    while (room->users) {
        struct redis_user *user = room->users;

        if (user->entering)
            user->entering->user = NULL;
        user_remove(room, user);
    }
}

uint32_t redis_count(struct bus *bus, struct text name)
{
    struct redis_room *room = redis_bus_room(bus_redis_self(bus), name);

    return room ? room->members : 0;
}

/* Version 0 is that of a room without members: nothing is known of when that was. */
void redis_presence_count(struct redis_room *room, uint32_t members, uint64_t version)
{
    if (!room || version <= room->version)
        return;
    room->members = members;
    room->version = version;
}

void redis_presence_gone(struct bus_redis *b, struct text room, struct text user, uint32_t members,
                         uint64_t version)
{
    redis_presence_count(redis_bus_room(b, room), members, version);
    if (b->closing)
        return;
    b->gone_members = members;
    b->gone_version = version;
    b->bus.handler.on_gone(b->bus.handler.arg, room, user, members);
    b->gone_version = 0;
}

/* --- Enter and leave --- */

static struct redis_enter *enter_new(struct bus_redis *b, struct text room, struct text user, char generation)
{
    struct redis_enter *enter = calloc(1, sizeof(*enter) + room.length + user.length);

    if (!enter)
        abort();
    enter->bus = b;
    enter->waiters_end = &enter->waiters;
    enter->generation = generation;
    enter->room_length = (uint8_t)room.length;
    enter->user_length = (uint8_t)user.length;
    memcpy(enter->names, room.data, room.length);
    if (user.length > 0)
        memcpy(enter->names + room.length, user.data, user.length);
    return enter;
}

static struct text enter_room(const struct redis_enter *enter)
{
    return (struct text){enter->names, enter->room_length};
}

static struct text enter_user(const struct redis_enter *enter)
{
    return (struct text){enter->names + enter->room_length, enter->user_length};
}

static void wait_for(struct redis_enter *enter, bus_on_members *done, void *arg)
{
    struct waiter *waiter = malloc(sizeof(*waiter));

    if (!waiter)
        abort();
    *waiter = (struct waiter){NULL, done, arg};
    *enter->waiters_end = waiter;
    enter->waiters_end = &waiter->next;
}

/* Keys and first arguments that enter.lua and leave.lua have in common. `id` has to live until the call. */
static void start_args(struct redis_args *args, const struct redis_enter *enter, char id[WORKER_ID_SIZE])
{
    struct text room = enter_room(enter), worker = {id, WORKER_ID_SIZE};
    unsigned partition = redis_bus_partition(enter->bus, room);

    memcpy(id, enter->bus->id, WORKER_ID_SIZE);
    id[WORKER_ID_SIZE - 1] = enter->generation;
    redis_args_init(args);
    redis_args_key(args, partition, "members", room);
    redis_args_key(args, partition, "active", (struct text){NULL, 0});
    redis_args_key(args, partition, "of", worker);
    redis_args_key(args, partition, "owners", (struct text){NULL, 0});
    redis_args_text(args, worker);
    redis_args_text(args, room);
}

static bool send_call(struct redis_args *args, struct redis_enter *enter, int script, redis_on_reply *done)
{
    struct redis_call call = {
        .partition = redis_bus_partition(enter->bus, enter_room(enter)),
        .room = enter_room(enter),
        .script = script,
        .keys = 4,
        .life_argument = -1,
        .patient = script == SCRIPT_LEAVE,
        .done = done,
        .arg = enter,
    };

    return redis_args_send(args, enter->bus, &call);
}

static void on_left(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct redis_enter *leave = arg;
    struct bus_redis *b = leave->bus;
    struct text room = enter_room(leave);
    uint32_t members = (uint32_t)redis_reply_number(reply, 0);
    uint64_t version = redis_reply_number(reply, 1);

    (void)life;
    if (result != REDIS_ANSWERED)
        redis_presence_again(b, redis_bus_partition(b, room));
    else if (redis_reply_number(reply, 2) == 1 && !leave->quiet)
        redis_presence_gone(b, room, enter_user(leave), members, version);
    else
        redis_presence_count(redis_bus_room(b, room), members, version);
    free(leave);
}

static void send_leave(struct bus_redis *b, struct text room, struct text user, char generation, bool last,
                       bool quiet)
{
    struct redis_enter *leave = enter_new(b, room, user, generation);
    struct redis_args args;
    char id[WORKER_ID_SIZE];

    leave->quiet = quiet;
    start_args(&args, leave, id);
    redis_args_text(&args, enter_user(leave));
    redis_args_word(&args, last ? "1" : "0");
    if (!send_call(&args, leave, SCRIPT_LEAVE, on_left)) {
        free(leave);
        redis_presence_again(b, redis_bus_partition(b, room));
    }
}

/* One that wasn't answered may have been carried out all the same, and all may have been entered again
 * meanwhile. One that was carried out has failed if this worker ends. */
static void enter_failed(struct redis_enter *enter, enum redis_result result)
{
    struct redis_room *room = redis_bus_room(enter->bus, enter_room(enter));
    char generation;

    if (!room || !enter->user)
        return; /* a leave is on its way already */
    generation = enter->user->generation;
    user_remove(room, enter->user);
    if (enter->bus->closing)
        return;
    if (result == REDIS_AWAY || result == REDIS_ANSWERED || generation != enter->generation)
        send_leave(enter->bus, enter_room(enter), enter_user(enter), generation, !room->users, true);
}

static void on_entered(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct redis_enter *enter = arg;
    struct redis_room *room = redis_bus_room(enter->bus, enter_room(enter));
    enum bus_status status = result == REDIS_ANSWERED ? BUS_OK : result == REDIS_FULL ? BUS_FULL : BUS_FAILED;
    uint32_t members = (uint32_t)redis_reply_number(reply, 0);
    bool changed = redis_reply_number(reply, 2) == 1;

    (void)life;
    if (enter->bus->ending)
        status = BUS_FAILED;
    if (status == BUS_OK) {
        redis_presence_count(room, members, redis_reply_number(reply, 1));
        members = room ? room->members : members;
        if (enter->user)
            enter->user->entering = NULL;
    } else
        enter_failed(enter, result);
    while (enter->waiters) {
        struct waiter *waiter = enter->waiters;

        enter->waiters = waiter->next;
        waiter->done(waiter->arg, status, members, changed);
        changed = false; /* the others came to a user who was there */
        free(waiter);
    }
    free(enter);
}

void redis_enter(struct bus *bus, struct text name, struct text user_name, bus_on_members *done, void *arg)
{
    struct bus_redis *b = bus_redis_self(bus);
    struct redis_room *room = redis_bus_room(b, name);
    struct redis_user *user = room ? user_find(room, user_name) : NULL;
    struct redis_args args;
    struct redis_enter *enter;
    char id[WORKER_ID_SIZE];

    if (b->ending || !room || !room->subscribed) {
        done(arg, b->ending ? BUS_FAILED : BUS_NOT_OPEN, 0, false);
        return;
    }
    if (user) {
        user->connections++;
        if (user->entering)
            wait_for(user->entering, done, arg);
        else
            done(arg, BUS_OK, room->members, false);
        return;
    }
    enter = enter_new(b, name, user_name, b->presence->partitions[room->partition].generation);
    start_args(&args, enter, id);
    redis_args_text(&args, enter_user(enter));
    if (!send_call(&args, enter, SCRIPT_ENTER, on_entered)) {
        free(enter);
        done(arg, redis_bus_usable(b, room->partition) ? BUS_FULL : BUS_FAILED, 0, false);
        return;
    }
    wait_for(enter, done, arg);
    enter->user = user_add(room, user_name, enter->generation);
    enter->user->entering = enter;
}

/* If the enter is still under way, this comes after it: a room's calls are carried out in order. */
void redis_leave(struct bus *bus, struct text name, struct text user_name)
{
    struct bus_redis *b = bus_redis_self(bus);
    struct redis_room *room = redis_bus_room(b, name);
    struct redis_user *user = room ? user_find(room, user_name) : NULL;
    char generation;

    if (!user || --user->connections > 0)
        return;
    if (user->entering)
        user->entering->user = NULL;
    generation = user->generation;
    user_remove(room, user);
    send_leave(b, name, user_name, generation, !room->users, false);
}

/* --- Everything again --- */

static char next_generation(char generation)
{
    const char *at = strchr(generations, generation);

    return at && at[0] && at[1] ? at[1] : generations[0];
}

/* All of this worker's users are in Redis under the present generation. */
static bool settled(const struct partition *p)
{
    return !p->wanted && !p->entering && p->calls == 0;
}

void redis_presence_again(struct bus_redis *b, unsigned partition)
{
    if (b->ending || b->closing)
        return;
    b->presence->partitions[partition].wanted = true;
    b->presence->work = true;
}

bool redis_presence_own(const struct bus_redis *b, unsigned partition, const char id[WORKER_ID_SIZE],
                        bool *stale)
{
    const struct partition *p = &b->presence->partitions[partition];
    bool own = memcmp(id, b->id, WORKER_ID_SIZE - 1) == 0;

    *stale = own && id[WORKER_ID_SIZE - 1] != p->generation && settled(p);
    return own;
}

void redis_presence_clean(struct bus_redis *b, unsigned partition)
{
    struct partition *p = &b->presence->partitions[partition];

    if (settled(p))
        p->unclean = false;
}

static void on_entered_again(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct redis_enter *enter = arg;
    struct bus_redis *b = enter->bus;
    unsigned partition = redis_bus_partition(b, enter_room(enter));

    (void)life;
    b->presence->partitions[partition].calls--;
    if (result == REDIS_ANSWERED)
        redis_presence_count(redis_bus_room(b, enter_room(enter)), (uint32_t)redis_reply_number(reply, 0),
                             redis_reply_number(reply, 1));
    else /* not at once: the next tick tries it */
        b->presence->partitions[partition].wanted = true;
    free(enter);
}

/* The next users of the room that aren't entered under `generation`; `users` is where to begin, and where
 * to go on (NULL: that was all). False: no place. */
static bool enter_some(struct redis_room *room, struct redis_user **users, struct partition *p)
{
    const struct text nobody = {NULL, 0};
    struct redis_enter *enter = enter_new(room->bus, redis_room_name(room), nobody, p->generation);
    struct redis_user *first = *users, *user;
    struct redis_args args;
    char id[WORKER_ID_SIZE];
    int count = 0;

    start_args(&args, enter, id);
    for (user = first; user && count < USERS_A_CALL; user = user->hh.next) {
        if (user->generation == p->generation)
            continue;
        redis_args_text(&args, (struct text){user->name, user->length});
        count++;
    }
    *users = user;
    if (count == 0 || !send_call(&args, enter, SCRIPT_ENTER, on_entered_again)) {
        free(enter);
        if (count == 0)
            buf_deinit(&args.bytes);
        return count == 0;
    }
    p->calls++;
    for (struct redis_user *done = first; done != user; done = done->hh.next)
        done->generation = p->generation;
    return true;
}

/* Those that want it and have a server get a new generation. Counts of an earlier life mean nothing any
 * more. */
static void begin(struct bus_redis *b)
{
    bool begun = false;

    for (unsigned i = 0; i < b->presence->count; i++) {
        struct partition *p = &b->presence->partitions[i];

        if (!p->wanted || redis_client_life(b->client, i) == 0 || !redis_bus_usable(b, i))
            continue;
        p->generation = next_generation(p->generation);
        p->wanted = false;
        p->entering = p->unclean = begun = true;
    }
    for (struct redis_room *room = begun ? b->rooms : NULL; room; room = room->hh.next) {
        if (b->presence->partitions[room->partition].entering)
            room->version = 0;
    }
}

void redis_presence_turn(struct bus_redis *b)
{
    if (!b->presence->work || b->ending)
        return;
    b->presence->work = false;
    begin(b);
    for (struct redis_room *room = b->rooms; room; room = room->hh.next) {
        struct partition *p = &b->presence->partitions[room->partition];
        struct redis_user *users = p->entering ? room->users : NULL;

        while (users) {
            if (!enter_some(room, &users, p))
                return; /* the next tick goes on where this one stopped */
        }
    }
    for (unsigned i = 0; i < b->presence->count; i++)
        b->presence->partitions[i].entering = false;
}

void redis_presence_tick(struct bus_redis *b)
{
    for (unsigned i = 0; i < b->presence->count; i++) {
        struct partition *p = &b->presence->partitions[i];

        if (p->wanted || p->entering)
            b->presence->work = true;
        else if (p->unclean && p->calls == 0 && redis_client_life(b->client, i) != 0)
            redis_purge_look(b, i);
    }
}
