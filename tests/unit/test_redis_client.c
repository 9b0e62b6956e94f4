/* test_redis_client.c - calls to real servers that are killed, hang, are full, move their slots: each is
 * answered once, in order, and nothing is carried out that its caller was told is not. */
#include "redis_peer.h"

#include "bus/redis_client.h"
#include "chatd/metrics.h"

enum { CALLS = 10000, BATCH = 50 };

/* Carried out twice it is carried out once: KEYS a mark, a list. */
static const char append_once[] =
    "if redis.call('SETNX', KEYS[1], '1') == 1 then redis.call('RPUSH', KEYS[2], ARGV[1]) end return ARGV[1]";
static const char say_life[] = "return ARGV[1]";

enum { SCRIPT_APPEND, SCRIPT_LIFE };

struct test;

struct asked {
    struct test *test;
    int number;
    bool wanted;
    int answers, questions;
    enum redis_result result;
    uint32_t life;
    long long integer;
    char text[200];
    void (*after)(struct asked *asked);
};

struct test {
    uv_loop_t loop;
    struct redis_target target;
    struct redis_topology *topology;
    struct redis_client *client;
    struct redis_script scripts[3];
    int answered, last, lives, changes;
    int results[4];
    bool out_of_order;
    struct asked asked[CALLS];
};

static void on_life(void *arg, unsigned partition, bool changed)
{
    struct test *t = arg;

    (void)partition;
    t->lives++;
    t->changes += changed;
}

static void on_change(void *arg)
{
    struct test *t = arg;

    if (t->client)
        redis_client_topology(t->client);
}

static struct test *prepare(void)
{
    struct test *t = calloc(1, sizeof(*t));

    assert_non_null(t);
    signal(SIGPIPE, SIG_IGN);
    t->scripts[SCRIPT_APPEND] =
        (struct redis_script){.source = append_once, .length = sizeof(append_once) - 1};
    t->scripts[SCRIPT_LIFE] = (struct redis_script){.source = say_life, .length = sizeof(say_life) - 1};
    redis_script_init(&t->scripts[0]);
    redis_script_init(&t->scripts[1]);
    t->last = -1;
    for (int i = 0; i < CALLS; i++)
        t->asked[i] = (struct asked){.test = t, .number = i, .wanted = true};
    assert_int_equal(uv_loop_init(&t->loop), 0);
    t->target.form = REDIS_SINGLE;
    return t;
}

static void add_server(struct test *t, int port)
{
    strcpy(t->target.servers[t->target.count].host, "127.0.0.1");
    t->target.servers[t->target.count++].port = port;
}

static void begin(struct test *t, unsigned connections, int64_t queue_bytes)
{
    struct redis_client_options options = {.loop = &t->loop,
                                           .target = &t->target,
                                           .connections = connections,
                                           .queue_bytes = queue_bytes,
                                           .scripts = t->scripts,
                                           .handler = {t, on_life}};

    assert_int_equal(redis_topology_new(&t->topology, &t->loop, &t->target, on_change, t), 0);
    options.topology = t->topology;
    assert_int_equal(redis_client_new(&t->client, &options), 0);
}

static struct test *begin_with(const struct redis_host *host)
{
    struct test *t = prepare();

    add_server(t, host->port);
    begin(t, 1, 64 << 20);
    return t;
}

static void close_client(struct test *t)
{
    struct redis_client *client = t->client;

    t->client = NULL;
    if (client)
        redis_client_close(client);
}

static void end(struct test *t)
{
    close_client(t);
    redis_topology_close(t->topology);
    redis_host_close_loop(&t->loop);
    free(t);
}

#define until(t, condition) \
    redis_host_until(&(t)->loop, condition, if ((t)->client) redis_client_turn((t)->client))

static void run_for(struct test *t, int ms)
{
    int64_t end = clock_monotonic_ms() + ms;

    until(t, clock_monotonic_ms() >= end);
}

static void on_answer(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct asked *asked = arg;
    struct test *t = asked->test;

    asked->answers++;
    asked->result = result;
    asked->life = life;
    if (reply) {
        asked->integer = reply->integer;
        snprintf(asked->text, sizeof(asked->text), "%s", reply->str ? reply->str : "");
    }
    assert_int_equal(result == REDIS_ANSWERED, life != 0);
    t->out_of_order |= asked->number != t->last + 1;
    t->last = asked->number;
    t->results[result]++;
    t->answered++;
    if (asked->after)
        asked->after(asked);
}

static bool is_wanted(void *arg)
{
    struct asked *asked = arg;

    asked->questions++;
    return asked->wanted;
}

static struct text text(const char *string)
{
    return (struct text){string, strlen(string)};
}

enum { PATIENT = 1, WANTED = 2 };

/* Call `number` with up to four words. */
static bool call_words(struct test *t, int number, int flags, unsigned partition, const char *const *words)
{
    struct redis_call call = {.partition = partition,
                              .script = -1,
                              .life_argument = -1,
                              .patient = flags & PATIENT,
                              .wanted = flags & WANTED ? is_wanted : NULL,
                              .done = on_answer,
                              .arg = &t->asked[number]};
    struct text argv[4];

    for (call.argc = 0; call.argc < 4 && words[call.argc]; call.argc++)
        argv[call.argc] = text(words[call.argc]);
    call.argv = argv;
    return redis_client_call(t->client, &call);
}

#define call(t, number, flags, partition, ...) \
    call_words(t, number, flags, partition, (const char *const[]){__VA_ARGS__, NULL, NULL, NULL})

static bool call_append(struct test *t, int number, unsigned partition, const char *room)
{
    char mark[64], list[64], value[16];
    struct text argv[3] = {{mark, 0}, {list, 0}, {value, 0}};
    struct redis_call call = {.partition = partition, .room = text(room), .script = SCRIPT_APPEND, .keys = 2,
                              .argc = 3, .argv = argv, .life_argument = -1, .patient = true,
                              .done = on_answer, .arg = &t->asked[number]};

    argv[0].length = (size_t)snprintf(mark, sizeof(mark), "{%u}mark%d", partition, number);
    argv[1].length = (size_t)snprintf(list, sizeof(list), "{%u}list%s", partition, room);
    argv[2].length = (size_t)snprintf(value, sizeof(value), "%d", number);
    return redis_client_call(t->client, &call);
}

static void check_list(struct redis_host *host, const char *key, int first, int step, int count)
{
    redisReply *reply = redis_host_command(host, "LRANGE %s 0 -1", key);

    assert_int_equal(reply->elements, count);
    for (int i = 0; i < count; i++)
        assert_int_equal(atoi(reply->element[i]->str), first + i * step);
    freeReplyObject(reply);
}

static void is_ok(struct test *t, bool ok, const char *part)
{
    struct bus_health health;

    redis_client_health(t->client, &health);
    if (health.ok != ok || !strstr(health.error, part))
        fail_msg("health: ok=%d error=%s instead of %s", health.ok, health.error, part);
    assert_true(health.since_ms > 0);
}

/* `everysec` may hold a write back while an fsync runs: what was answered could be lost by a kill. */
static const char *const durable[] = {"--appendonly", "yes", "--appendfsync", "always", NULL};

/* --- Order. --- */

static void order_is_kept_over_everything_that_breaks_a_connection(void **state)
{
    struct redis_host *host = redis_host_new(durable, true);
    struct test *t = begin_with(host);
    int made = 0, step = 0;

    (void)state;
    until(t, t->answered >= CALLS || ({
        /* Some are always under way when something happens. */
        for (int i = 0; i < BATCH && made < CALLS && made - t->answered < 500; i++, made++)
            assert_true(call_append(t, made, 0, "r"));
        redis_client_turn(t->client);
        if (step == 0 && t->answered > 2000) {
            step++;
            redis_host_restart(host, true);
        } else if (step == 1 && t->answered > 4000) {
            step++;
            redis_host_do(host, "CLIENT KILL TYPE normal SKIPME yes");
        } else if (step == 2 && t->answered > 6000) {
            step++;
            redis_host_do(host, "SCRIPT FLUSH");
        } else if (step == 3 && t->answered > 8000) {
            step++;
            redis_host_kill(host);
            run_for(t, 300);
            redis_host_restart(host, true);
        }
        false;
    }));
    assert_int_equal(step, 4);
    assert_false(t->out_of_order);
    assert_int_equal(t->results[REDIS_ANSWERED], CALLS);
    for (int i = 0; i < CALLS; i++)
        assert_true(t->asked[i].answers == 1 && atoi(t->asked[i].text) == i);
    check_list(host, "{0}listr", 0, 1, CALLS);
    assert_int_equal(redis_client_queued_bytes(t->client), 0);
    end(t);
    redis_host_free(host);
}

static void with_several_connections_a_room_keeps_its_order(void **state)
{
    static const char *const rooms[] = {"a", "b", "c", "d", "e"};
    struct redis_host *host = redis_host_new(durable, true);
    struct test *t = prepare();

    (void)state;
    add_server(t, host->port);
    begin(t, 3, 64 << 20);
    for (int i = 0; i < 5000; i++)
        assert_true(call_append(t, i, 0, rooms[i % 5]));
    until(t, t->answered > 500);
    redis_host_restart(host, true);
    until(t, t->answered == 5000);
    for (int i = 0; i < 5000; i++)
        assert_true(t->asked[i].answers == 1 && atoi(t->asked[i].text) == i);
    for (int i = 0; i < 5; i++) {
        char key[32];

        snprintf(key, sizeof(key), "{0}list%s", rooms[i]);
        check_list(host, key, i, 5, 1000);
    }
    end(t);
    redis_host_free(host);
}

static void a_turn_is_one_write(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test *t = begin_with(host);
    int64_t writes, commands;

    (void)state;
    until(t, t->lives == 1);
    redis_client_turn(t->client);
    writes = metrics_get(metrics_mine, bus_writes_total);
    commands = metrics_get(metrics_mine, bus_commands_total);
    for (int i = 0; i < 500; i++)
        assert_true(call(t, i, 0, 0, "INCR", "n"));
    assert_int_equal(t->answered, 0);
    redis_client_turn(t->client);
    assert_int_equal(metrics_get(metrics_mine, bus_writes_total) - writes, 1);
    assert_int_equal(metrics_get(metrics_mine, bus_commands_total) - commands, 500);
    assert_int_equal(metrics_get(metrics_mine, bus_queue), 500);
    until(t, t->answered == 500);
    assert_int_equal(t->asked[499].integer, 500);
    assert_false(t->out_of_order);
    redis_client_turn(t->client);
    assert_int_equal(metrics_get(metrics_mine, bus_queue), 0);
    assert_int_equal(metrics_get(metrics_mine, bus_queue_bytes), 0);
    is_ok(t, true, "");
    end(t);
    redis_host_free(host);
}

/* --- Lives. --- */

static void a_life_ends_with_the_server_not_with_the_connection(void **state)
{
    struct redis_host *host = redis_host_new(durable, true);
    struct test *t = begin_with(host);
    int64_t since;

    (void)state;
    assert_int_equal(redis_client_life(t->client, 0), 0);
    assert_int_equal(redis_client_heard_ms(t->client, 0), 0);
    until(t, t->lives == 1);
    assert_int_equal(t->changes, 1);
    assert_int_equal(redis_client_life(t->client, 0), 1);
    since = redis_client_life_since_ms(t->client, 0);
    assert_in_range(since, 1, clock_monotonic_ms());
    redis_host_do(host, "CLIENT KILL TYPE normal SKIPME yes");
    until(t, t->lives == 2);
    assert_int_equal(t->changes, 1);
    assert_int_equal(redis_client_life_since_ms(t->client, 0), since);
    redis_host_restart(host, true);
    until(t, t->lives == 3);
    assert_int_equal(t->changes, 2);
    assert_int_equal(redis_client_life(t->client, 0), 2);
    assert_true(redis_client_life_since_ms(t->client, 0) > since);
    redis_host_do(host, "DEBUG CHANGE-REPL-ID");
    until(t, t->lives == 4);
    assert_int_equal(t->changes, 3);
    assert_int_equal(redis_client_life(t->client, 0), 3);
    redis_host_kill(host);
    until(t, redis_client_life(t->client, 0) == 0);
    assert_true(redis_client_heard_ms(t->client, 0) > 0);
    end(t);
    redis_host_free(host);
}

static bool call_life(struct test *t, int number)
{
    static const char filler[REDIS_LIFE_SIZE + 1] = "........................................";
    const struct text argv[] = {{"key", 3}, {filler, REDIS_LIFE_SIZE}, {"after", 5}};
    struct redis_call call = {.script = SCRIPT_LIFE, .keys = 1, .argc = 3, .argv = argv, .life_argument = 1,
                              .patient = true, .done = on_answer, .arg = &t->asked[number]};

    return redis_client_call(t->client, &call);
}

static void a_call_that_names_the_life_names_the_one_it_is_carried_out_under(void **state)
{
    struct redis_host *host = redis_host_new(durable, true);
    struct test *t = begin_with(host);
    char first[64];

    (void)state;
    assert_true(call_life(t, 0));
    until(t, t->answered == 1);
    assert_int_equal(t->asked[0].life, 1);
    assert_int_equal(strlen(t->asked[0].text), REDIS_LIFE_SIZE);
    snprintf(first, sizeof(first), "%s", t->asked[0].text);
    /* Written under the first, lost, answered under the second. */
    redis_host_freeze(host);
    assert_true(call_life(t, 1));
    redis_client_turn(t->client);
    redis_host_restart(host, true);
    until(t, t->answered == 2);
    assert_int_equal(t->asked[1].life, 2);
    assert_string_not_equal(t->asked[1].text, first);
    assert_null(strstr(t->asked[1].text, "."));
    end(t);
    redis_host_free(host);
}

/* --- Away. --- */

static void a_wrong_password_is_told_and_waited_out(void **state)
{
    static const char *const extra[] = {"--requirepass", "s3cret", NULL};
    struct redis_host *host = redis_host_new(extra, true);
    struct test *t = prepare();

    (void)state;
    strcpy(t->target.password, "wr0ng");
    add_server(t, host->port);
    begin(t, 1, 1 << 20);
    assert_true(call(t, 0, PATIENT, 0, "SET", "k", "v"));
    until(t, ({
        struct bus_health health;

        redis_client_health(t->client, &health);
        strstr(health.error, "wrong_password") != NULL;
    }));
    is_ok(t, false, "127.0.0.1");
    host->password = "s3cret";
    redis_host_do(host, "CONFIG SET requirepass wr0ng");
    until(t, t->answered == 1);
    assert_int_equal(t->asked[0].result, REDIS_ANSWERED);
    is_ok(t, true, "");
    end(t);
    redis_host_free(host);
}

static void patience_ends_and_nobody_is_asked_in_vain(void **state)
{
    struct redis_host *host = redis_host_new(durable, true);
    struct test *t = begin_with(host);
    int64_t from;

    (void)state;
    until(t, t->lives == 1);
    redis_host_kill(host);
    until(t, redis_client_life(t->client, 0) == 0);
    from = clock_monotonic_ms();
    assert_true(call(t, 0, WANTED, 0, "RPUSH", "l", "impatient"));
    assert_true(call(t, 1, PATIENT | WANTED, 0, "RPUSH", "l", "unwanted"));
    assert_true(call(t, 2, PATIENT | WANTED, 0, "RPUSH", "l", "wanted"));
    assert_true(call(t, 3, PATIENT, 0, "RPUSH", "l", "patient"));
    t->asked[1].wanted = false;
    until(t, t->answered == 1);
    assert_in_range(clock_monotonic_ms() - from, REDIS_CLIENT_PATIENCE_MS, REDIS_CLIENT_PATIENCE_MS + 1500);
    assert_int_equal(t->asked[0].result, REDIS_AWAY);
    run_for(t, 500);
    assert_int_equal(t->answered, 1);
    redis_host_restart(host, true);
    until(t, t->answered == 4);
    assert_int_equal(t->asked[1].result, REDIS_AWAY);
    assert_int_equal(t->asked[2].result, REDIS_ANSWERED);
    assert_int_equal(t->asked[3].result, REDIS_ANSWERED);
    assert_int_equal(t->asked[2].questions, 1);
    assert_int_equal(redis_host_number(host, "LLEN l"), 2);
    /* One that goes out in the turn it was made in is not asked. */
    assert_true(call(t, 4, WANTED, 0, "PING"));
    until(t, t->answered == 5);
    assert_int_equal(t->asked[4].questions, 0);
    end(t);
    redis_host_free(host);
}

static void a_server_that_hangs_is_left_and_its_calls_are_sent_again(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test *t = begin_with(host);

    (void)state;
    until(t, t->lives == 1);
    redis_host_freeze(host);
    for (int i = 0; i < 10; i++)
        assert_true(call_append(t, i, 0, "r"));
    until(t, metrics_get(metrics_mine, bus_latency_seconds) > 1000000); /* of what has no answer */
    until(t, redis_client_life(t->client, 0) == 0);
    is_ok(t, false, "silent");
    assert_int_equal(t->answered, 0);
    redis_host_thaw(host);
    until(t, t->answered == 10);
    assert_false(t->out_of_order);
    assert_int_equal(t->results[REDIS_ANSWERED], 10);
    /* It had read them before: each counts once all the same. */
    check_list(host, "{0}listr", 0, 1, 10);
    end(t);
    redis_host_free(host);
}

static void a_replica_is_no_server(void **state)
{
    struct redis_host *master = redis_host_new(NULL, true), *host = redis_host_new(NULL, true);
    struct test *t = begin_with(host);

    (void)state;
    until(t, t->lives == 1);
    redis_host_do(host, "REPLICAOF 127.0.0.1 %d", master->port);
    assert_true(call(t, 0, PATIENT, 0, "SET", "k", "v"));
    until(t, redis_client_life(t->client, 0) == 0);
    run_for(t, 500);
    assert_int_equal(t->answered, 0);
    redis_host_do(host, "REPLICAOF NO ONE");
    until(t, t->answered == 1);
    assert_int_equal(t->asked[0].result, REDIS_ANSWERED);
    assert_int_equal(redis_host_number(host, "EXISTS k"), 1);
    end(t);
    redis_host_free(host);
    redis_host_free(master);
}

/* --- Servers that refuse. --- */

static void a_full_server_is_not_asked_again(void **state)
{
    static const char *const extra[] = {"--maxmemory", "1", "--maxmemory-policy", "noeviction", NULL};
    struct redis_host *host = redis_host_new(extra, true);
    struct test *t = begin_with(host);

    (void)state;
    until(t, t->lives == 1);
    assert_true(call_append(t, 0, 0, "r"));
    assert_true(call(t, 1, PATIENT, 0, "SET", "k", "v"));
    assert_true(call(t, 2, PATIENT, 0, "GET", "k"));
    until(t, t->answered == 3);
    assert_int_equal(t->asked[0].result, REDIS_FULL);
    assert_int_equal(t->asked[1].result, REDIS_FULL);
    assert_int_equal(t->asked[2].result, REDIS_ANSWERED);
    is_ok(t, false, "OOM");
    redis_host_do(host, "CONFIG SET maxmemory 0");
    run_for(t, 2600);
    assert_true(call_append(t, 3, 0, "r"));
    until(t, t->answered == 4);
    assert_int_equal(t->asked[3].result, REDIS_ANSWERED);
    is_ok(t, true, "");
    end(t);
    redis_host_free(host);
}

static void without_replicas_calls_wait_in_their_order(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test *t = begin_with(host);

    (void)state;
    until(t, t->lives == 1);
    redis_host_do(host, "CONFIG SET min-replicas-to-write 1");
    for (int i = 0; i < 100; i++)
        assert_true(call_append(t, i, 0, "r"));
    run_for(t, 600);
    assert_int_equal(t->answered, 0);
    is_ok(t, false, "NOREPLICAS");
    for (int i = 100; i < 200; i++)
        assert_true(call_append(t, i, 0, "r"));
    redis_host_do(host, "CONFIG SET min-replicas-to-write 0");
    until(t, t->answered == 200);
    assert_false(t->out_of_order);
    check_list(host, "{0}listr", 0, 1, 200);
    end(t);
    redis_host_free(host);
}

static void a_wrong_call_is_refused_alone(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test *t = begin_with(host);

    (void)state;
    assert_true(call(t, 0, PATIENT, 0, "SET", "k", "v"));
    assert_true(call(t, 1, PATIENT, 0, "LPUSH", "k", "v"));
    assert_true(call(t, 2, PATIENT, 0, "GET", "k"));
    until(t, t->answered == 3);
    assert_int_equal(t->asked[1].result, REDIS_REFUSED);
    assert_non_null(strstr(t->asked[1].text, "WRONGTYPE"));
    assert_string_equal(t->asked[2].text, "v");
    is_ok(t, true, "");
    end(t);
    redis_host_free(host);
}

/* Errors that a server says in rare moments, once, in the middle of others; byte by byte. */
static void words_that_mean_later_lose_nothing(void **state)
{
    static const char *const words[] = {
        "-LOADING Redis is loading the dataset in memory\r\n", "-MASTERDOWN Link with MASTER is down\r\n",
        "-NOSCRIPT No matching script. Please use EVAL.\r\n",
        "-READONLY You can't write against a replica\r\n",
        "-BUSY Redis is busy running a script\r\n", "-MISCONF Errors writing to the AOF file\r\n",
        "-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
        "-CLUSTERDOWN Hash slot not served\r\n",
        "-NOREPLICAS Not enough good replicas to write.\r\n", "-ASK 1 nonsense\r\n",
        "-MOVED nonsense\r\n", "-ERR Error running script (call to f_1): @user_script:1: -BUSY x\r\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        struct test *t = prepare();
        struct redis_peer peer;

        redis_peer_open(&peer, &t->loop);
        peer.drip = i % 2;
        peer.rules[0] = (struct redis_peer_rule){"GET", "2", words[i], 1};
        peer.rules[1] = (struct redis_peer_rule){"GET", NULL, ":7\r\n", 0};
        add_server(t, peer.port);
        begin(t, 1, 1 << 20);
        until(t, t->lives == 1);
        for (int k = 0; k < 5; k++) {
            char number[8];

            snprintf(number, sizeof(number), "%d", k);
            assert_true(call(t, k, 0, 0, "GET", number));
        }
        until(t, t->answered == 5);
        assert_int_equal(t->results[REDIS_ANSWERED], 5);
        for (int k = 0; k < 5; k++)
            assert_true(t->asked[k].answers == 1 && t->asked[k].integer == 7);
        redis_peer_close(&peer);
        end(t);
    }
}

/* --- Bounds and ends. --- */

static void the_queue_is_bounded(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test *t = prepare();
    int made = 0;

    (void)state;
    add_server(t, host->port);
    begin(t, 1, 4096);
    while (call(t, made, PATIENT, 0, "INCR", "n"))
        assert_true(++made < 100);
    assert_true(made > 5);
    assert_in_range(redis_client_queued_bytes(t->client), 1, 4096);
    until(t, t->answered == made);
    assert_int_equal(redis_client_queued_bytes(t->client), 0);
    assert_true(call(t, made, PATIENT, 0, "INCR", "n"));
    until(t, t->answered == made + 1);
    assert_int_equal(t->asked[made].integer, made + 1);
    end(t);
    redis_host_free(host);
}

/* Messages for a server that is away leave a place for what others are asked, which is bounded as well. */
static void patient_calls_do_not_take_all_of_the_queue(void **state)
{
    struct redis_host *hosts[2] = {redis_host_new(NULL, true), redis_host_new(NULL, true)};
    struct test *t = prepare();
    int made = 0, waiting;

    (void)state;
    t->target.form = REDIS_SHARDS;
    add_server(t, hosts[0]->port);
    add_server(t, hosts[1]->port);
    begin(t, 1, 8192);
    until(t, t->lives == 2);
    redis_host_kill(hosts[1]);
    until(t, redis_client_life(t->client, 1) == 0);
    while (call(t, made, PATIENT, 1, "INCR", "n"))
        assert_true(++made < 100);
    waiting = made;
    assert_false(call(t, made, PATIENT, 0, "INCR", "n"));
    while (call(t, made, 0, 0, "INCR", "n"))
        assert_true(++made < 100);
    assert_true(made > waiting);
    assert_in_range(redis_client_queued_bytes(t->client), 1, 8192 + 8192 / 4);
    until(t, t->answered == made - waiting);
    assert_int_equal(t->asked[made - 1].integer, made - waiting);
    end(t);
    redis_host_free(hosts[0]);
    redis_host_free(hosts[1]);
}

static void call_next(struct asked *asked)
{
    struct asked *next = asked + 1;

    if (next->number == 50)
        return;
    next->after = call_next;
    assert_true(call(asked->test, next->number, 0, 0, "INCR", "n"));
}

static void a_callback_may_call(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test *t = begin_with(host);

    (void)state;
    t->asked[0].after = call_next;
    assert_true(call(t, 0, 0, 0, "INCR", "n"));
    until(t, t->answered == 50);
    assert_int_equal(t->asked[49].integer, 50);
    end(t);
    redis_host_free(host);
}

static void close_in_it(struct asked *asked)
{
    close_client(asked->test);
}

static void a_callback_may_close(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);

    (void)state;
    /* In an answer, with others written and unwritten; then in the end of somebody's patience. */
    for (int away = 0; away < 2; away++) {
        struct test *t = begin_with(host);

        until(t, t->lives == 1);
        if (away) {
            redis_host_kill(host);
            until(t, redis_client_life(t->client, 0) == 0);
        }
        t->asked[1].after = close_in_it;
        for (int i = 0; i < 5; i++)
            assert_true(call(t, i, 0, 0, "INCR", "n"));
        until(t, t->answered == 5);
        assert_null(t->client);
        assert_int_equal(t->results[REDIS_AWAY], away ? 5 : 3);
        end(t);
    }
    redis_host_free(host);
}

static void closing_answers_everybody(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test *t = begin_with(host);

    (void)state;
    until(t, t->lives == 1);
    for (int i = 0; i < 10; i++) {
        assert_true(call(t, i, PATIENT, 0, "INCR", "n"));
        if (i == 5)
            redis_client_turn(t->client);
    }
    close_client(t);
    assert_int_equal(t->results[REDIS_AWAY], 10);
    assert_false(t->out_of_order);
    end(t);
    redis_host_free(host);
}

/* --- Cluster. --- */

struct cluster {
    struct redis_host *nodes[2];
    char cluster_ports[2][8];
    const char *extra[2][8];
    char ids[2][41];
};

static void open_cluster(struct cluster *c)
{
    for (int i = 0; i < 2; i++) {
        redisReply *id;

        snprintf(c->cluster_ports[i], sizeof(c->cluster_ports[i]), "%d", redis_host_port());
        memcpy(c->extra[i],
               (const char *[]){"--cluster-enabled", "yes", "--cluster-port", c->cluster_ports[i],
                                "--cluster-require-full-coverage", "no", NULL},
               7 * sizeof(char *));
        c->nodes[i] = redis_host_new(c->extra[i], true);
        id = redis_host_command(c->nodes[i], "CLUSTER MYID");
        snprintf(c->ids[i], sizeof(c->ids[i]), "%s", id->str);
        freeReplyObject(id);
    }
    redis_host_do(c->nodes[0], "CLUSTER ADDSLOTSRANGE 0 8191");
    redis_host_do(c->nodes[1], "CLUSTER ADDSLOTSRANGE 8192 16383");
    redis_host_do(c->nodes[1], "CLUSTER SET-CONFIG-EPOCH 2");
    redis_host_do(c->nodes[0], "CLUSTER MEET 127.0.0.1 %d %s", c->nodes[1]->port, c->cluster_ports[1]);
}

static bool knows_all(struct redis_host *host)
{
    redisReply *info = redis_host_command(host, "CLUSTER INFO");
    bool all = strstr(info->str, "cluster_slots_ok:16384") && strstr(info->str, "cluster_state:ok");

    freeReplyObject(info);
    return all;
}

static void a_slot_that_moves_takes_its_calls_with_it(void **state)
{
    struct cluster c;
    struct test *t = prepare();
    unsigned partition = 0, slot;
    int made = 0, from, to;

    (void)state;
    open_cluster(&c);
    redis_host_until(&t->loop, knows_all(c.nodes[0]) && knows_all(c.nodes[1]), (void)0);
    t->target.form = REDIS_CLUSTER;
    add_server(t, c.nodes[0]->port);
    begin(t, 1, 64 << 20);
    until(t, t->lives >= REDIS_CLUSTER_PARTITIONS);
    slot = redis_topology_slot(partition);
    from = slot < 8192 ? 0 : 1;
    to = 1 - from;
    for (; made < 1000; made++)
        assert_true(call_append(t, made, partition, "r"));
    until(t, t->answered == made);

    /* Half moved: the list is there, new marks are not: ASK for what is on the other side alone, TRYAGAIN for
     * both. */
    redis_host_do(c.nodes[to], "CLUSTER SETSLOT %u IMPORTING %s", slot, c.ids[from]);
    redis_host_do(c.nodes[from], "CLUSTER SETSLOT %u MIGRATING %s", slot, c.ids[to]);
    redis_host_do(c.nodes[from], "MIGRATE 127.0.0.1 %d {%u}listr 0 5000", c.nodes[to]->port, partition);
    {
        char key[32];

        snprintf(key, sizeof(key), "{%u}listr", partition);
        assert_true(call(t, made, 0, partition, "LLEN", key));
        made++;
        until(t, t->answered == made);
        assert_int_equal(t->asked[made - 1].integer, 1000);
        /* Its own mark is on the old side, the list on the new one. */
        assert_true(call_append(t, 999, partition, "r"));
    }
    for (; made < 1500; made++)
        assert_true(call_append(t, made, partition, "r"));
    run_for(t, 400);
    assert_int_equal(t->answered, 1001);

    for (int i = 0; i < 1000; i++)
        redis_host_do(c.nodes[from], "MIGRATE 127.0.0.1 %d {%u}mark%d 0 5000", c.nodes[to]->port, partition,
                      i);
    redis_host_do(c.nodes[to], "CLUSTER SETSLOT %u NODE %s", slot, c.ids[to]);
    redis_host_do(c.nodes[from], "CLUSTER SETSLOT %u NODE %s", slot, c.ids[to]);
    until(t, t->answered == made + 1);
    {
        redisReply *list = redis_host_command(c.nodes[to], "LRANGE {%u}listr 0 -1", partition);

        /* 1000 was the question for the length. */
        assert_int_equal(list->elements, made - 1);
        for (int i = 0; i < made - 1; i++)
            assert_int_equal(atoi(list->element[i]->str), i < 1000 ? i : i + 1);
        freeReplyObject(list);
    }
    assert_int_equal(t->results[REDIS_ANSWERED], made + 1);
    end(t);
    redis_host_free(c.nodes[0]);
    redis_host_free(c.nodes[1]);
}

/* To a server that nobody knew, and to one that isn't there; the first is let go when nothing is there for it
 * any more. */
static void an_ask_is_followed_once(void **state)
{
    struct test *t = prepare();
    struct redis_peer peer, other;
    char there[64], nowhere[64];

    (void)state;
    redis_peer_open(&peer, &t->loop);
    redis_peer_open(&other, &t->loop);
    snprintf(there, sizeof(there), "-ASK 1 127.0.0.1:%d\r\n", other.port);
    snprintf(nowhere, sizeof(nowhere), "-ASK 1 127.0.0.1:%d\r\n", redis_host_port());
    peer.rules[0] = (struct redis_peer_rule){"GET", "1", there, 1};
    peer.rules[1] = (struct redis_peer_rule){"GET", "3", nowhere, 1};
    peer.rules[2] = (struct redis_peer_rule){"GET", NULL, ":7\r\n", 0};
    other.rules[0] = (struct redis_peer_rule){"ASKING", NULL, "+OK\r\n", 1};
    other.rules[1] = (struct redis_peer_rule){"GET", "1", ":8\r\n", 1};
    other.rules[2] = (struct redis_peer_rule){"GET", NULL, "-ERR not here\r\n", 0};
    add_server(t, peer.port);
    begin(t, 1, 1 << 20);
    until(t, t->lives == 1);
    for (int i = 0; i < 5; i++) {
        char number[8];

        snprintf(number, sizeof(number), "%d", i);
        assert_true(call(t, i, PATIENT, 0, "GET", number));
    }
    until(t, t->answered == 5);
    assert_int_equal(t->results[REDIS_ANSWERED], 5);
    for (int i = 0; i < 5; i++)
        assert_int_equal(t->asked[i].integer, i == 1 ? 8 : 7);
    assert_int_equal(t->asked[1].life, t->asked[0].life);
    assert_int_equal(other.connections, 1);
    assert_non_null(other.links);
    until(t, !other.links);
    is_ok(t, true, "");
    redis_peer_close(&peer);
    redis_peer_close(&other);
    end(t);
}

/* The node to which a slot moves dies: its master goes on sending there what it hasn't got. */
static void an_ask_to_a_server_that_is_away_is_not_asked_at_once_again(void **state)
{
    struct test *t = prepare();
    struct redis_peer peer;
    char nowhere[64];
    int64_t commands;

    (void)state;
    redis_peer_open(&peer, &t->loop);
    snprintf(nowhere, sizeof(nowhere), "-ASK 1 127.0.0.1:%d\r\n", redis_host_port());
    peer.rules[0] = (struct redis_peer_rule){"GET", "1", nowhere, 0};
    peer.rules[1] = (struct redis_peer_rule){"GET", NULL, ":7\r\n", 0};
    add_server(t, peer.port);
    begin(t, 1, 1 << 20);
    until(t, t->lives == 1);
    assert_true(call(t, 0, PATIENT, 0, "GET", "0"));
    assert_true(call(t, 1, PATIENT, 0, "GET", "1"));
    assert_true(call(t, 2, PATIENT, 0, "GET", "2"));
    until(t, t->asked[0].answers == 1);
    commands = metrics_get(metrics_mine, bus_commands_total);
    run_for(t, 1000);
    assert_in_range(metrics_get(metrics_mine, bus_commands_total) - commands, 4, 60);
    peer.rules[0].times = -1; /* the move was given up */
    until(t, t->answered == 3);
    assert_int_equal(t->results[REDIS_ANSWERED], 3);
    redis_peer_close(&peer);
    end(t);
}

static void each_partition_has_its_server_and_its_life(void **state)
{
    struct redis_host *hosts[2] = {redis_host_new(durable, true), redis_host_new(durable, true)};
    struct test *t = prepare();

    (void)state;
    t->target.form = REDIS_SHARDS;
    add_server(t, hosts[0]->port);
    add_server(t, hosts[1]->port);
    begin(t, 1, 1 << 20);
    until(t, t->lives == 2);
    assert_int_not_equal(redis_client_life(t->client, 0), redis_client_life(t->client, 1));
    redis_host_kill(hosts[1]);
    until(t, redis_client_life(t->client, 1) == 0);
    is_ok(t, false, "127.0.0.1");
    assert_true(call(t, 0, PATIENT, 1, "INCR", "n"));
    assert_true(call(t, 1, 0, 0, "INCR", "n"));
    until(t, t->answered == 1);
    assert_int_equal(t->asked[1].answers, 1);
    redis_host_restart(hosts[1], true);
    until(t, t->answered == 2);
    is_ok(t, true, "");
    end(t);
    redis_host_free(hosts[0]);
    redis_host_free(hosts[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_is_kept_over_everything_that_breaks_a_connection),
        cmocka_unit_test(with_several_connections_a_room_keeps_its_order),
        cmocka_unit_test(a_turn_is_one_write),
        cmocka_unit_test(a_life_ends_with_the_server_not_with_the_connection),
        cmocka_unit_test(a_call_that_names_the_life_names_the_one_it_is_carried_out_under),
        cmocka_unit_test(a_wrong_password_is_told_and_waited_out),
        cmocka_unit_test(patience_ends_and_nobody_is_asked_in_vain),
        cmocka_unit_test(a_server_that_hangs_is_left_and_its_calls_are_sent_again),
        cmocka_unit_test(a_replica_is_no_server),
        cmocka_unit_test(a_full_server_is_not_asked_again),
        cmocka_unit_test(without_replicas_calls_wait_in_their_order),
        cmocka_unit_test(a_wrong_call_is_refused_alone),
        cmocka_unit_test(words_that_mean_later_lose_nothing),
        cmocka_unit_test(the_queue_is_bounded),
        cmocka_unit_test(patient_calls_do_not_take_all_of_the_queue),
        cmocka_unit_test(a_callback_may_call),
        cmocka_unit_test(a_callback_may_close),
        cmocka_unit_test(closing_answers_everybody),
        cmocka_unit_test(a_slot_that_moves_takes_its_calls_with_it),
        cmocka_unit_test(an_ask_is_followed_once),
        cmocka_unit_test(an_ask_to_a_server_that_is_away_is_not_asked_at_once_again),
        cmocka_unit_test(each_partition_has_its_server_and_its_life),
    };

    return redis_host_run_all(tests);
}
