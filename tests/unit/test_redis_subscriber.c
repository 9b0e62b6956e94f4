/* Channels on real servers: what is subscribed where, after everything that can happen to a server or to a
 * wish. */
#include "redis_cluster_host.h"

#include "bus/redis_conn.h"
#include "bus/redis_subscriber.h"
#include "chatd/log.h"

enum { CROWD = 2000, CHURN = 120 };

struct fixture {
    uv_loop_t loop;
    struct redis_target target;
    struct redis_topology *topology;
    struct redis_subscriber *subscriber;
    struct redis_host *host;
    unsigned changes;
    char log[64];
};

struct channel {
    char name[32];
    unsigned partition;
    bool wanted;
    unsigned first, again, messages;
    char last[64];
    struct fixture *close_in_message;
};

static struct text text(const char *string)
{
    return (struct text){string, strlen(string)};
}

static void on_message(void *arg, void *channel, struct text payload)
{
    struct channel *c = channel;

    (void)arg;
    assert_true(c->wanted);
    assert_int_equal(c->first, 1);
    c->messages++;
    snprintf(c->last, sizeof(c->last), "%.*s", (int)payload.length, payload.data);
    if (c->close_in_message) {
        redis_subscriber_close(c->close_in_message->subscriber);
        c->close_in_message->subscriber = NULL;
    }
}

static void on_subscribed(void *arg, void *channel, bool again)
{
    struct channel *c = channel;

    (void)arg;
    assert_true(c->wanted);
    assert_int_equal(c->first, again ? 1 : 0);
    if (again)
        c->again++;
    else
        c->first++;
}

static void on_change(void *arg)
{
    struct fixture *f = arg;

    f->changes++;
    if (f->subscriber)
        redis_subscriber_topology(f->subscriber);
}

static void begin(struct fixture *f)
{
    const struct redis_subscriber_handler handler = {f, on_message, on_subscribed};
    int fd;

    snprintf(f->log, sizeof(f->log), "/tmp/chatd-subscriber-XXXXXX");
    fd = mkstemp(f->log);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(log_open(f->log, LOG_READABLE, LOG_INFO), 0);
    f->subscriber = NULL;
    f->changes = 0;
    uv_loop_init(&f->loop);
    assert_int_equal(redis_topology_new(&f->topology, &f->loop, &f->target, on_change, f), 0);
    assert_int_equal(redis_subscriber_new(&f->subscriber, &f->loop, &f->target, f->topology, &handler), 0);
}

static void begin_single(struct fixture *f)
{
    memset(f, 0, sizeof(*f));
    f->host = redis_host_new(NULL, true);
    f->target.form = REDIS_SINGLE;
    redis_target_add(&f->target, f->host->port);
    begin(f);
}

static void end(struct fixture *f)
{
    if (f->subscriber)
        redis_subscriber_close(f->subscriber);
    redis_topology_close(f->topology);
    redis_host_close_loop(&f->loop);
    if (f->host)
        redis_host_free(f->host);
    assert_int_equal(log_open("", LOG_READABLE, LOG_WARN), 0);
    unlink(f->log);
}

/* Lines of the log that have the words. */
static unsigned logged(const struct fixture *f, const char *event, const char *word)
{
    FILE *file = fopen(f->log, "r");
    char line[LOG_LINE_MAX + 1];
    unsigned count = 0;

    assert_non_null(file);
    while (fgets(line, sizeof(line), file))
        count += strstr(line, event) && strstr(line, word);
    fclose(file);
    return count;
}

#define until(f, condition) redis_host_until(&(f)->loop, condition, redis_subscriber_turn((f)->subscriber))

static void add(struct fixture *f, struct channel *c)
{
    c->wanted = true;
    c->first = 0;
    c->again = 0;
    c->messages = 0;
    c->partition = redis_topology_partition(&f->target, text(c->name));
    redis_subscriber_add(f->subscriber, c->partition, text(c->name), c);
}

static void drop(struct fixture *f, struct channel *c)
{
    c->wanted = false;
    redis_subscriber_remove(f->subscriber, text(c->name));
}

static void steps(struct fixture *f, int count)
{
    for (int i = 0; i < count; i++) {
        redis_host_step(&f->loop);
        redis_subscriber_turn(f->subscriber);
    }
}

static unsigned publish(struct redis_host *host, const char *verb, const char *name, const char *payload)
{
    return (unsigned)redis_host_number(host, "%s %s %s", verb, name, payload);
}

/* How many connections the server counts for a channel. */
static unsigned listeners(struct redis_host *host, const char *verb, const char *name)
{
    redisReply *reply = redis_host_command(host, "PUBSUB %s %s", verb, name);
    unsigned count;

    assert_int_equal(reply->type, REDIS_REPLY_ARRAY);
    assert_int_equal(reply->elements, 2);
    count = (unsigned)reply->element[1]->integer;
    freeReplyObject(reply);
    return count;
}

static long long calls_of(struct redis_host *host, const char *command)
{
    redisReply *reply = redis_host_command(host, "INFO commandstats");
    char field[64];
    const char *at;
    long long calls;

    snprintf(field, sizeof(field), "cmdstat_%s:calls=", command);
    at = strstr(reply->str, field);
    calls = at ? atoll(at + strlen(field)) : 0;
    freeReplyObject(reply);
    return calls;
}

static bool is_ok(const struct fixture *f)
{
    struct bus_health health;

    redis_subscriber_health(f->subscriber, &health);
    assert_true(health.ok == (health.error[0] == 0));
    return health.ok;
}

static bool says(const struct fixture *f, const char *word)
{
    struct bus_health health;

    redis_subscriber_health(f->subscriber, &health);
    return strstr(health.error, word) != NULL;
}

static bool all(const struct channel *channels, unsigned count, unsigned first, unsigned again)
{
    for (unsigned i = 0; i < count; i++) {
        if (channels[i].first < first || channels[i].again < again)
            return false;
    }
    return true;
}

static struct channel *crowd_new(struct fixture *f, unsigned count)
{
    struct channel *channels = calloc(count, sizeof(*channels));

    assert_non_null(channels);
    for (unsigned i = 0; i < count; i++) {
        snprintf(channels[i].name, sizeof(channels[i].name), "chatd:0:{0}:%u", i);
        add(f, &channels[i]);
    }
    return channels;
}

/* --- One server --- */

static void messages_reach_their_channel(void **state)
{
    struct channel a = {.name = "a"}, b = {.name = "b"};
    struct fixture f;

    (void)state;
    begin_single(&f);
    add(&f, &a);
    add(&f, &b);
    until(&f, a.first && b.first);
    assert_int_equal(publish(f.host, "PUBLISH", "a", "one"), 1);
    assert_int_equal(publish(f.host, "PUBLISH", "b", "two"), 1);
    assert_int_equal(publish(f.host, "PUBLISH", "a", ""), 1);
    until(&f, a.messages == 2 && b.messages == 1);
    assert_string_equal(a.last, "");
    assert_string_equal(b.last, "two");
    drop(&f, &a);
    until(&f, listeners(f.host, "NUMSUB", "a") == 0);
    assert_int_equal(listeners(f.host, "NUMSUB", "b"), 1);
    assert_true(is_ok(&f));
    assert_int_equal(logged(&f, "redis_subscriber_ready", "channels=2"), 1);
    end(&f);
}

static void a_restarted_server_gets_all_channels_again_in_batches(void **state)
{
    struct channel *crowd;
    struct fixture f;

    (void)state;
    begin_single(&f);
    crowd = crowd_new(&f, CROWD);
    until(&f, all(crowd, CROWD, 1, 0));
    assert_int_equal(calls_of(f.host, "subscribe"), CROWD / REDIS_SUBSCRIBER_BATCH);
    redis_host_kill(f.host);
    until(&f, !is_ok(&f));
    assert_true(says(&f, "127.0.0.1:"));
    steps(&f, 100); /* several tries meanwhile, one line */
    redis_host_restart(f.host, false);
    until(&f, all(crowd, CROWD, 1, 1));
    assert_true(is_ok(&f));
    assert_int_equal(calls_of(f.host, "subscribe"), CROWD / REDIS_SUBSCRIBER_BATCH);
    assert_int_equal(publish(f.host, "PUBLISH", crowd[CROWD - 1].name, "x"), 1);
    until(&f, crowd[CROWD - 1].messages == 1);
    for (unsigned i = 0; i < CROWD; i++)
        assert_int_equal(crowd[i].again, 1);
    assert_int_equal(logged(&f, "redis_subscriber_lost", "channels=2000"), 1);
    assert_int_equal(logged(&f, "redis_subscriber_ready", "channels=2000"), 2);
    end(&f);
    free(crowd);
}

static void a_killed_connection_is_made_again(void **state)
{
    struct channel a = {.name = "a"};
    struct fixture f;

    (void)state;
    begin_single(&f);
    add(&f, &a);
    until(&f, a.first == 1);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(redis_host_number(f.host, "CLIENT KILL TYPE pubsub"), 1);
        until(&f, a.again == i);
        assert_int_equal(publish(f.host, "PUBLISH", "a", "x"), 1);
        until(&f, a.messages == i);
    }
    assert_int_equal(logged(&f, "redis_subscriber_lost", "fault=closed"), 3);
    assert_int_equal(logged(&f, "redis_subscriber_lost", "client-output-buffer-limit"), 3);
    end(&f);
}

/* A name or a proxy leads to another server now; the connection to the one before lives on. */
static void a_connection_to_a_server_of_another_life_is_made_again(void **state)
{
    struct channel a = {.name = "a"};
    char life[64] = "";
    struct fixture f;
    redisReply *info;

    (void)state;
    begin_single(&f);
    info = redis_host_command(f.host, "INFO replication");
    assert_int_equal(sscanf(strstr(info->str, "master_replid:"), "master_replid:%40s", life), 1);
    freeReplyObject(info);
    redis_subscriber_life(f.subscriber, 0, life); /* not connected yet: nothing to do */
    add(&f, &a);
    until(&f, a.first == 1);
    redis_subscriber_life(f.subscriber, 0, life);
    redis_subscriber_life(f.subscriber, 0, NULL);
    steps(&f, 100);
    assert_int_equal(a.again, 0);
    life[0] = life[0] == 'x' ? 'y' : 'x';
    redis_subscriber_life(f.subscriber, 0, life);
    until(&f, a.again == 1);
    assert_int_equal(logged(&f, "redis_subscriber_lost", "another server"), 1);
    assert_int_equal(publish(f.host, "PUBLISH", "a", "x"), 1);
    until(&f, a.messages == 1);
    end(&f);
}

static void a_connection_closed_for_its_output_buffer_is_made_again(void **state)
{
    struct channel a = {.name = "a"};
    char *payload = calloc(1, 100001);
    struct fixture f;

    (void)state;
    memset(payload, 'x', 100000);
    begin_single(&f);
    redis_host_do(f.host, "CONFIG SET client-output-buffer-limit %s", "pubsub 1mb 1mb 0");
    add(&f, &a);
    until(&f, a.first == 1);
    /* The loop stands still meanwhile, as a worker that is busy: the socket's buffers fill, then Redis'. */
    while (listeners(f.host, "NUMSUB", "a") == 1)
        publish(f.host, "PUBLISH", "a", payload);
    until(&f, a.again == 1);
    assert_int_equal(publish(f.host, "PUBLISH", "a", "x"), 1);
    until(&f, strcmp(a.last, "x") == 0);
    end(&f);
    free(payload);
}

static void a_silent_server_is_a_lost_one(void **state)
{
    struct channel a = {.name = "a"};
    struct fixture f;

    (void)state;
    begin_single(&f);
    add(&f, &a);
    until(&f, a.first == 1);
    redis_host_freeze(f.host);
    until(&f, !is_ok(&f));
    assert_int_equal(logged(&f, "redis_subscriber_lost", "fault=silent"), 1);
    redis_host_thaw(f.host);
    until(&f, a.again == 1);
    until(&f, is_ok(&f));
    until(&f, listeners(f.host, "NUMSUB", "a") == 1);
    end(&f);
}

static void a_channel_that_was_never_confirmed_is_not_told_again(void **state)
{
    struct channel a = {.name = "a"}, b = {.name = "b"};
    struct fixture f;

    (void)state;
    begin_single(&f);
    add(&f, &a);
    until(&f, a.first == 1);
    redis_host_freeze(f.host); /* takes the command, never answers */
    add(&f, &b);
    until(&f, !is_ok(&f));
    assert_int_equal(b.first, 0);
    redis_host_kill(f.host);
    redis_host_restart(f.host, false);
    until(&f, a.again == 1 && b.first == 1);
    assert_int_equal(b.again, 0);
    end(&f);
}

static void a_refused_subscription_is_tried_until_it_is_allowed(void **state)
{
    struct channel a = {.name = "a"};
    struct fixture f;

    (void)state;
    begin_single(&f);
    redis_host_do(f.host, "ACL SETUSER default resetchannels");
    add(&f, &a);
    until(&f, says(&f, "NOPERM"));
    until(&f, calls_of(f.host, "ping") > 1); /* some tries later */
    assert_int_equal(a.first, 0);
    assert_int_equal(logged(&f, "redis_subscriber_refused", "NOPERM"), 1);
    redis_host_do(f.host, "ACL SETUSER default allchannels");
    until(&f, a.first == 1);
    until(&f, is_ok(&f));
    end(&f);
}

static unsigned subscribers(struct redis_host *host)
{
    redisReply *reply = redis_host_command(host, "CLIENT LIST");
    unsigned count = 0;

    for (const char *at = reply->str; (at = strstr(at, "name=chatd")); at++)
        count++;
    freeReplyObject(reply);
    return count;
}

static void a_connection_without_channels_is_closed_after_a_while(void **state)
{
    struct channel a = {.name = "a"};
    struct fixture f;
    int64_t left_ms;

    (void)state;
    begin_single(&f);
    steps(&f, 20);
    assert_int_equal(subscribers(f.host), 0); /* none before the first channel */
    add(&f, &a);
    until(&f, a.first == 1);
    assert_int_equal(subscribers(f.host), 1);
    left_ms = clock_monotonic_ms();
    drop(&f, &a);
    until(&f, subscribers(f.host) == 0);
    assert_true(clock_monotonic_ms() - left_ms >= REDIS_SUBSCRIBER_LINGER_MS - 100);
    assert_int_equal(logged(&f, "redis_subscriber_lost", ""), 0);
    add(&f, &a);
    until(&f, a.first == 1);
    assert_int_equal(logged(&f, "redis_subscriber_ready", ""), 1);
    end(&f);
}

/* --- Wishes that change faster than they can be fulfilled --- */

static void a_wish_taken_back_in_the_same_turn_costs_nothing(void **state)
{
    struct channel a = {.name = "a"}, b = {.name = "b"};
    struct fixture f;

    (void)state;
    begin_single(&f);
    add(&f, &b);
    until(&f, b.first == 1);
    add(&f, &a);
    drop(&f, &a);
    redis_subscriber_turn(f.subscriber);
    drop(&f, &b);
    add(&f, &b); /* told anew, as nobody knows what the first one did not hear */
    until(&f, b.first == 1);
    assert_int_equal(b.again, 0);
    assert_int_equal(listeners(f.host, "NUMSUB", "a"), 0);
    assert_int_equal(calls_of(f.host, "unsubscribe"), 0);
    assert_int_equal(publish(f.host, "PUBLISH", "b", "x"), 1);
    until(&f, b.messages == 1);
    end(&f);
}

static void a_wish_taken_back_on_the_way_is_undone(void **state)
{
    struct channel a = {.name = "a"}, b = {.name = "b"};
    struct fixture f;

    (void)state;
    begin_single(&f);
    add(&f, &b);
    until(&f, b.first == 1);
    add(&f, &a);
    redis_subscriber_turn(f.subscriber); /* SUBSCRIBE a is under way */
    drop(&f, &a);
    redis_subscriber_turn(f.subscriber);
    until(&f, calls_of(f.host, "unsubscribe") == 1);
    assert_int_equal(a.first, 0);
    assert_int_equal(listeners(f.host, "NUMSUB", "a"), 0);
    assert_int_equal(listeners(f.host, "NUMSUB", "b"), 1);
    end(&f);
}

/* The confirmation of the first SUBSCRIBE may count for the second wish; but no UNSUBSCRIBE may come after
 * it. */
static void a_wish_renewed_on_the_way_is_told_once(void **state)
{
    struct channel a = {.name = "a"}, b = {.name = "b"};
    struct fixture f;

    (void)state;
    begin_single(&f);
    add(&f, &b);
    until(&f, b.first == 1);
    add(&f, &a);
    redis_subscriber_turn(f.subscriber);
    drop(&f, &a);
    redis_subscriber_turn(f.subscriber);
    add(&f, &a);
    until(&f, a.first == 1);
    drop(&f, &a);
    redis_subscriber_turn(f.subscriber); /* UNSUBSCRIBE a is under way */
    add(&f, &a);
    redis_subscriber_turn(f.subscriber);
    assert_int_equal(publish(f.host, "PUBLISH", "b", "x"), 1);
    until(&f, a.first == 1 && b.messages == 1);
    steps(&f, 5);
    assert_int_equal(a.again, 0);
    assert_int_equal(publish(f.host, "PUBLISH", "a", "x"), 1);
    until(&f, a.messages == 1);
    end(&f);
}

static void closing_in_a_callback_is_allowed(void **state)
{
    struct channel a = {.name = "a"};
    struct fixture f;

    (void)state;
    begin_single(&f);
    add(&f, &a);
    until(&f, a.first == 1);
    a.close_in_message = &f;
    assert_int_equal(publish(f.host, "PUBLISH", "a", "x"), 1);
    redis_host_until(&f.loop, a.messages == 1, (void)0);
    assert_null(f.subscriber);
    end(&f);
}

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1103515245u + 12345u;
    return *seed >> 16;
}

/* Every wanted channel is heard by exactly one connection, every other by none. */
static void expect_settled(struct fixture *f, struct channel *channels, unsigned count,
                           struct redis_host **hosts, unsigned host_count, const char *numsub)
{
    for (unsigned i = 0; i < count; i++) {
        struct channel *c = &channels[i];
        unsigned heard = c->wanted ? 1 : 0;

        until(f, !c->wanted || c->first == 1);
        until(f, ({
                  unsigned sum = 0;

                  for (unsigned j = 0; j < host_count; j++)
                      sum += listeners(hosts[j], numsub, c->name);
                  sum == heard;
              }));
    }
}

static void churn(struct fixture *f, struct channel *channels, unsigned *seed, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        struct channel *c = &channels[next_random(seed) % CHURN];

        if (c->wanted)
            drop(f, c);
        else
            add(f, c);
        if (next_random(seed) % 3 == 0)
            redis_subscriber_turn(f->subscriber);
        if (next_random(seed) % 8 == 0)
            steps(f, 1);
    }
}

static void whatever_changes_how_fast_all_comes_right(void **state)
{
    struct channel channels[CHURN] = {0};
    struct fixture f;
    unsigned seed = 20261122;

    (void)state;
    begin_single(&f);
    for (unsigned i = 0; i < CHURN; i++)
        snprintf(channels[i].name, sizeof(channels[i].name), "churn-%u", i);
    for (int i = 0; i < 20; i++) {
        churn(&f, channels, &seed, 400);
        if (i % 3 == 0)
            redis_host_do(f.host, "CLIENT KILL TYPE pubsub");
        if (i % 7 == 0)
            redis_host_restart(f.host, false);
    }
    expect_settled(&f, channels, CHURN, &f.host, 1, "NUMSUB");
    for (unsigned i = 0; i < CHURN; i++) {
        unsigned before = channels[i].messages;

        assert_int_equal(publish(f.host, "PUBLISH", channels[i].name, "last"), channels[i].wanted ? 1 : 0);
        if (channels[i].wanted)
            until(&f, channels[i].messages == before + 1);
    }
    assert_int_equal(logged(&f, "redis_subscriber_lost", "not an answer"), 0);
    assert_int_equal(logged(&f, "redis_subscriber_lost", "nobody waits"), 0);
    end(&f);
}

/* --- Shards --- */

static void one_lost_shard_concerns_its_channels_only(void **state)
{
    struct redis_host *hosts[2] = {redis_host_new(NULL, true), redis_host_new(NULL, true)};
    struct channel channels[8] = {0};
    struct fixture f = {.target = {.form = REDIS_SHARDS}};
    unsigned of[2] = {0, 0};
    char port[16];

    (void)state;
    redis_target_add(&f.target, hosts[0]->port);
    redis_target_add(&f.target, hosts[1]->port);
    begin(&f);
    for (unsigned i = 0; i < 8; i++) {
        snprintf(channels[i].name, sizeof(channels[i].name), "room-%u", i);
        add(&f, &channels[i]);
        of[channels[i].partition]++;
    }
    assert_true(of[0] > 0 && of[1] > 0);
    until(&f, all(channels, 8, 1, 0));
    redis_host_kill(hosts[1]);
    snprintf(port, sizeof(port), ":%d", hosts[1]->port);
    until(&f, says(&f, port));
    redis_host_restart(hosts[1], false);
    for (unsigned i = 0; i < 8; i++)
        until(&f, channels[i].again == channels[i].partition);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(publish(hosts[channels[i].partition], "PUBLISH", channels[i].name, "x"), 1);
    for (unsigned i = 0; i < 8; i++)
        until(&f, channels[i].messages == 1);
    end(&f);
    redis_host_free(hosts[0]);
    redis_host_free(hosts[1]);
}

/* --- Sentinel --- */

static void a_failover_moves_all_channels_to_the_new_master(void **state)
{
    struct redis_sentinel_host *set = redis_sentinel_host_new();
    struct channel *crowd;
    struct fixture f = {0};

    (void)state;
    redis_sentinel_target(set, &f.target);
    begin(&f);
    crowd = crowd_new(&f, CROWD);
    until(&f, all(crowd, CROWD, 1, 0));
    redis_host_kill(set->servers[0]);
    until(&f, all(crowd, CROWD, 1, 1));
    assert_int_equal(redis_topology_master(f.topology, 0)->port, set->servers[1]->port);
    assert_int_equal(publish(set->servers[1], "PUBLISH", crowd[7].name, "x"), 1);
    until(&f, crowd[7].messages == 1);
    assert_true(is_ok(&f));
    assert_int_equal(logged(&f, "redis_subscriber_lost", ""), 1);
    end(&f);
    free(crowd);
    redis_sentinel_host_free(set);
}

/* --- Cluster --- */

/* Names with the hash tag of their partition, spread over all masters. */
static void name_sharded(struct fixture *f, struct channel *c, unsigned partition, unsigned i)
{
    c->wanted = true;
    c->first = c->again = c->messages = 0;
    c->partition = partition;
    snprintf(c->name, sizeof(c->name), "chatd:0:{%u}:%u", partition, i);
    redis_subscriber_add(f->subscriber, partition, text(c->name), c);
}

static void sharded_channels_are_subscribed_at_their_masters(void **state)
{
    struct redis_cluster_host *cluster = *state;
    struct channel *channels = calloc(CROWD, sizeof(*channels));
    struct fixture f = {0};

    redis_cluster_target(cluster, &f.target);
    begin(&f);
    for (unsigned i = 0; i < CROWD; i++)
        name_sharded(&f, &channels[i], i < 1200 ? 17 : i % REDIS_CLUSTER_PARTITIONS, i);
    until(&f, all(channels, CROWD, 1, 0));
    for (unsigned i = 0; i < CROWD; i += 97) {
        int owner = redis_cluster_owner(redis_topology_slot(channels[i].partition));

        assert_int_equal(publish(cluster->nodes[owner], "SPUBLISH", channels[i].name, "x"), 1);
        until(&f, channels[i].messages == 1);
    }
    assert_int_equal(logged(&f, "redis_subscriber_ready", ""), CLUSTER_MASTERS);
    for (unsigned i = 0; i < CROWD; i++) {
        channels[i].wanted = false;
        redis_subscriber_remove(f.subscriber, text(channels[i].name));
    }
    until(&f, listeners(cluster->nodes[redis_cluster_owner(redis_topology_slot(17))], "SHARDNUMSUB",
                        channels[0].name) == 0);
    end(&f);
    free(channels);
}

static void a_slot_that_moves_takes_its_channels_along(void **state)
{
    struct redis_cluster_host *cluster = *state;
    struct channel moves[600] = {0}, stays = {0}, late = {0};
    unsigned slot = redis_topology_slot(17);
    int from = redis_cluster_owner(slot), to = (from + 1) % CLUSTER_MASTERS;
    int64_t moved_ms;
    struct fixture f = {0};

    redis_cluster_target(cluster, &f.target);
    begin(&f);
    for (unsigned i = 0; i < 600; i++)
        name_sharded(&f, &moves[i], 17, i);
    for (unsigned i = 0; i < REDIS_CLUSTER_PARTITIONS; i++) {
        if (i != 17 && redis_cluster_owner(redis_topology_slot(i)) == from) {
            name_sharded(&f, &stays, i, 0);
            break;
        }
    }
    until(&f, all(moves, 600, 1, 0) && stays.first);
    redis_cluster_move(cluster, slot, from, to);
    moved_ms = clock_monotonic_ms();
    until(&f, all(moves, 600, 1, 1));
    assert_true(clock_monotonic_ms() - moved_ms <
                REDIS_TOPOLOGY_REFRESH_MS / 2); /* told, not found by chance */
    assert_int_equal(redis_topology_master(f.topology, 17)->port, cluster->nodes[to]->port);
    assert_int_equal(publish(cluster->nodes[to], "SPUBLISH", moves[599].name, "x"), 1);
    until(&f, moves[599].messages == 1);
    assert_int_equal(stays.again, 0);

    /* Nobody of ours has a channel there, so only MOVED tells of it. */
    for (unsigned i = 0; i < 600; i++)
        redis_subscriber_remove(f.subscriber, text(moves[i].name));
    until(&f, listeners(cluster->nodes[to], "SHARDNUMSUB", moves[599].name) == 0);
    until(&f, redis_cluster_agrees(cluster, slot, to));
    redis_cluster_move(cluster, slot, to, from);
    moved_ms = clock_monotonic_ms();
    name_sharded(&f, &late, 17, 1000);
    until(&f, late.first == 1);
    assert_true(clock_monotonic_ms() - moved_ms < REDIS_TOPOLOGY_REFRESH_MS / 2);
    assert_int_equal(late.again, 0);
    assert_int_equal(publish(cluster->nodes[from], "SPUBLISH", late.name, "x"), 1);
    until(&f, late.messages == 1);
    assert_int_equal(stays.again, 0);
    assert_int_equal(logged(&f, "redis_subscriber_lost", ""), 0);
    end(&f);
}

/* The loop stands still until the slot is back, so the map never says that it was away: only the server's
 * word does. */
static void a_slot_that_went_and_came_back_is_subscribed_again(void **state)
{
    struct redis_cluster_host *cluster = *state;
    struct channel a = {0};
    unsigned slot = redis_topology_slot(17);
    int home = redis_cluster_owner(slot), other = (home + 1) % CLUSTER_MASTERS;
    struct fixture f = {0};

    redis_cluster_target(cluster, &f.target);
    begin(&f);
    name_sharded(&f, &a, 17, 0);
    until(&f, a.first == 1);
    redis_cluster_move(cluster, slot, home, other);
    while (!redis_cluster_agrees(cluster, slot, other))
        redis_host_pause_ms(5);
    redis_cluster_move(cluster, slot, other, home);
    while (!redis_cluster_agrees(cluster, slot, home))
        redis_host_pause_ms(5);
    assert_int_equal(publish(cluster->nodes[home], "SPUBLISH", a.name, "x"), 0);
    until(&f, a.again == 1);
    assert_int_equal(publish(cluster->nodes[home], "SPUBLISH", a.name, "x"), 1);
    until(&f, a.messages == 1);
    assert_int_equal(f.changes, 1);
    end(&f);
}

/* A wrong word of MOVED takes the channel elsewhere and back while the first command is still unanswered. */
static void the_answer_to_an_overtaken_command_counts_for_nothing(void **state)
{
    struct redis_cluster_host *cluster = *state;
    struct channel a = {0}, b[CLUSTER_MASTERS] = {0};
    int home = redis_cluster_owner(redis_topology_slot(17)), other = (home + 1) % CLUSTER_MASTERS;
    struct redis_address lie = {"127.0.0.1", cluster->nodes[other]->port};
    struct fixture f = {0};

    redis_cluster_target(cluster, &f.target);
    begin(&f);
    for (unsigned i = 0; i < REDIS_CLUSTER_PARTITIONS; i++) {
        int owner = redis_cluster_owner(redis_topology_slot(i));

        if (i != 17 && !b[owner].wanted)
            name_sharded(&f, &b[owner], i, 0);
    }
    until(&f, all(b, CLUSTER_MASTERS, 1, 0)); /* so that all connections are there */
    redis_host_freeze(cluster->nodes[home]);  /* for less than cluster-node-timeout */
    name_sharded(&f, &a, 17, 0);
    redis_subscriber_turn(f.subscriber);
    redis_topology_suspect(f.topology, 17, &lie);
    until(&f, f.changes == 3);
    assert_int_equal(redis_topology_master(f.topology, 17)->port, cluster->nodes[home]->port);
    redis_subscriber_turn(f.subscriber);
    redis_host_thaw(cluster->nodes[home]);
    until(&f, a.first == 1);
    assert_int_equal(publish(cluster->nodes[home], "SPUBLISH", a.name, "x"), 1);
    until(&f, a.messages == 1);
    assert_int_equal(a.again, 0);
    end(&f);
    redis_cluster_wait(redis_cluster_is_up, cluster);
}

static void a_slot_that_nobody_serves_is_waited_for(void **state)
{
    struct redis_cluster_host *cluster = *state;
    struct channel a = {0};
    unsigned slot = redis_topology_slot(17);
    int owner = redis_cluster_owner(slot);
    struct fixture f = {0};

    redis_cluster_target(cluster, &f.target);
    begin(&f);
    name_sharded(&f, &a, 17, 0);
    until(&f, a.first == 1);
    for (int i = 0; i < CLUSTER_MASTERS; i++)
        redis_host_do(cluster->nodes[i], "CLUSTER DELSLOTS %u", slot);
    until(&f, says(&f, "CLUSTERDOWN"));
    steps(&f, 100);
    assert_int_equal(logged(&f, "redis_subscriber_refused", "CLUSTERDOWN"), 1);
    assert_int_equal(a.again, 0);
    redis_host_do(cluster->nodes[owner], "CLUSTER ADDSLOTS %u", slot);
    until(&f, a.again == 1);
    until(&f, is_ok(&f));
    end(&f);
    redis_cluster_wait(redis_cluster_is_up, cluster);
}

static void whatever_moves_how_fast_all_comes_right(void **state)
{
    struct redis_cluster_host *cluster = *state;
    struct channel channels[CHURN] = {0};
    struct fixture f = {0};
    unsigned seed = 1, moved = 0;
    int owners[REDIS_CLUSTER_PARTITIONS];

    redis_cluster_target(cluster, &f.target);
    begin(&f);
    for (unsigned i = 0; i < REDIS_CLUSTER_PARTITIONS; i++)
        owners[i] = redis_cluster_owner(redis_topology_slot(i));
    for (unsigned i = 0; i < CHURN; i++) {
        unsigned partition = i % 4;

        snprintf(channels[i].name, sizeof(channels[i].name), "churn-{%u}-%u", partition, i);
        channels[i].partition = partition;
    }
    for (int i = 0; i < 40; i++) {
        unsigned partition = next_random(&seed) % 4;
        int to = (owners[partition] + 1) % CLUSTER_MASTERS;

        for (int j = 0; j < 100; j++) {
            struct channel *c = &channels[next_random(&seed) % CHURN];

            if (c->wanted) {
                drop(&f, c);
            } else {
                c->wanted = true;
                c->first = c->again = c->messages = 0;
                redis_subscriber_add(f.subscriber, c->partition, text(c->name), c);
            }
            if (next_random(&seed) % 8 == 0)
                steps(&f, 1);
        }
        until(&f, redis_cluster_agrees(cluster, redis_topology_slot(moved), owners[moved]));
        redis_cluster_move(cluster, redis_topology_slot(partition), owners[partition], to);
        owners[partition] = to;
        moved = partition;
    }
    until(&f, redis_cluster_agrees(cluster, redis_topology_slot(moved), owners[moved]));
    expect_settled(&f, channels, CHURN, cluster->nodes, CLUSTER_MASTERS, "SHARDNUMSUB");
    for (unsigned i = 0; i < CHURN; i++) {
        struct redis_host *node = cluster->nodes[owners[channels[i].partition]];
        unsigned before = channels[i].messages;

        assert_int_equal(publish(node, "SPUBLISH", channels[i].name, "last"), channels[i].wanted ? 1 : 0);
        if (channels[i].wanted)
            until(&f, channels[i].messages == before + 1);
    }
    assert_int_equal(logged(&f, "redis_subscriber_lost", ""), 0);
    for (unsigned i = 0; i < 4; i++) {
        int home = redis_cluster_owner(redis_topology_slot(i));

        if (owners[i] != home)
            redis_cluster_move(cluster, redis_topology_slot(i), owners[i], home);
        until(&f, redis_cluster_agrees(cluster, redis_topology_slot(i), home));
    }
    end(&f);
}

/* The last one: the cluster has a master less. */
static void a_failed_masters_channels_go_to_its_replica(void **state)
{
    struct redis_cluster_host *cluster = *state;
    struct channel channels[64] = {0};
    struct fixture f = {0};

    redis_cluster_target(cluster, &f.target);
    begin(&f);
    for (unsigned i = 0; i < 64; i++)
        name_sharded(&f, &channels[i], i, i);
    until(&f, all(channels, 64, 1, 0));
    redis_host_kill(cluster->nodes[0]);
    for (unsigned i = 0; i < 64; i++) {
        int owner = redis_cluster_owner(redis_topology_slot(i));

        until(&f, channels[i].again == (owner == 0 ? 1 : 0));
        if (owner == 0)
            owner = CLUSTER_MASTERS;
        assert_int_equal(publish(cluster->nodes[owner], "SPUBLISH", channels[i].name, "x"), 1);
        until(&f, channels[i].messages == 1);
    }
    assert_true(is_ok(&f));
    assert_int_equal(logged(&f, "redis_subscriber_lost", ""), 1);
    end(&f);
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
        cmocka_unit_test(messages_reach_their_channel),
        cmocka_unit_test(a_restarted_server_gets_all_channels_again_in_batches),
        cmocka_unit_test(a_killed_connection_is_made_again),
        cmocka_unit_test(a_connection_to_a_server_of_another_life_is_made_again),
        cmocka_unit_test(a_connection_closed_for_its_output_buffer_is_made_again),
        cmocka_unit_test(a_silent_server_is_a_lost_one),
        cmocka_unit_test(a_channel_that_was_never_confirmed_is_not_told_again),
        cmocka_unit_test(a_refused_subscription_is_tried_until_it_is_allowed),
        cmocka_unit_test(a_connection_without_channels_is_closed_after_a_while),
        cmocka_unit_test(a_wish_taken_back_in_the_same_turn_costs_nothing),
        cmocka_unit_test(a_wish_taken_back_on_the_way_is_undone),
        cmocka_unit_test(a_wish_renewed_on_the_way_is_told_once),
        cmocka_unit_test(closing_in_a_callback_is_allowed),
        cmocka_unit_test(whatever_changes_how_fast_all_comes_right),
        cmocka_unit_test(one_lost_shard_concerns_its_channels_only),
        cmocka_unit_test(a_failover_moves_all_channels_to_the_new_master),
    };
    const struct CMUnitTest cluster[] = {
        cmocka_unit_test(sharded_channels_are_subscribed_at_their_masters),
        cmocka_unit_test(a_slot_that_moves_takes_its_channels_along),
        cmocka_unit_test(a_slot_that_went_and_came_back_is_subscribed_again),
        cmocka_unit_test(the_answer_to_an_overtaken_command_counts_for_nothing),
        cmocka_unit_test(a_slot_that_nobody_serves_is_waited_for),
        cmocka_unit_test(whatever_moves_how_fast_all_comes_right),
        cmocka_unit_test(a_failed_masters_channels_go_to_its_replica),
    };
    int failed = redis_host_run_all(alone);

    return failed + cmocka_run_group_tests(cluster, set_up_cluster, tear_down_cluster);
}
