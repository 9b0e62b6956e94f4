/* test_redis_conn.c - one connection to a real redis-server: what it does by itself, and each way it ends. */
#include "redis_peer.h"

#include "bus/redis_conn.h"
#include "chatd/metrics.h"

enum { REPLIES = 4096 };

struct test {
    uv_loop_t loop;
    struct redis_target target;
    struct redis_address address;
    struct redis_conn *conn;
    int ready, lost, replies;
    char life[REDIS_LIFE_SIZE + 1];
    bool has_life;
    enum redis_fault fault;
    char error[256];
    long long numbers[REPLIES]; /* of integer replies */
    char last[256];             /* a string or error reply, or what was pushed */
    bool close_in_reply;
};

static void on_ready(void *arg, const char *life)
{
    struct test *t = arg;

    t->ready++;
    t->has_life = life != NULL;
    if (life)
        memcpy(t->life, life, REDIS_LIFE_SIZE);
}

static void on_reply(void *arg, const redisReply *reply)
{
    struct test *t = arg;

    assert_true(t->replies < REPLIES);
    t->numbers[t->replies++] = reply->integer;
    if (reply->str)
        snprintf(t->last, sizeof(t->last), "%s", reply->str);
    if (reply->type == REDIS_REPLY_ARRAY && reply->elements > 0 && reply->element[0]->str)
        snprintf(t->last, sizeof(t->last), "%s", reply->element[0]->str);
    if (t->close_in_reply) {
        redis_conn_close(t->conn);
        t->conn = NULL;
    }
}

static void on_lost(void *arg, enum redis_fault fault, const char *error)
{
    struct test *t = arg;

    assert_int_equal(t->lost, 0);
    t->lost++;
    t->conn = NULL;
    t->fault = fault;
    snprintf(t->error, sizeof(t->error), "%s", error);
}

static void open_loop(struct test *t)
{
    signal(SIGPIPE, SIG_IGN);
    *t = (struct test){.address = {.host = "127.0.0.1"}};
    assert_int_equal(uv_loop_init(&t->loop), 0);
}

static void open_conn(struct test *t, enum redis_conn_kind kind, const struct redis_script *scripts)
{
    struct redis_conn_options options = {&t->loop, &t->target, &t->address, kind, scripts,
                                         {t, on_ready, on_reply, on_lost}};

    t->ready = t->lost = t->replies = 0;
    assert_int_equal(redis_conn_open(&t->conn, &options), 0);
    assert_int_equal(t->ready + t->lost, 0);
}

static void await_ready(struct test *t)
{
    redis_host_until(&t->loop, t->ready || t->lost, (void)0);
    if (t->lost)
        fail_msg("%s: %s", redis_fault_word(t->fault), t->error);
}

static void await_lost(struct test *t, enum redis_fault fault)
{
    redis_host_until(&t->loop, t->lost, (void)0);
    if (t->fault != fault)
        fail_msg("%s instead of %s: %s", redis_fault_word(t->fault), redis_fault_word(fault), t->error);
    assert_true(t->error[0] != '\0');
}

static void open_server(struct test *t, const struct redis_host *host, enum redis_conn_kind kind)
{
    t->address.port = host->port;
    open_conn(t, kind, NULL);
}

static void end(struct test *t)
{
    redis_conn_close(t->conn);
    redis_host_close_loop(&t->loop);
}

static void send_command(struct test *t, const char *format, ...)
{
    va_list arguments;
    char *resp;
    int length;

    va_start(arguments, format);
    length = redisvFormatCommand(&resp, format, arguments);
    va_end(arguments);
    assert_true(length > 0);
    redis_conn_append(t->conn, resp, (size_t)length);
    redisFreeCommand(resp);
}

static void replies_come_in_order_and_a_turn_is_one_write(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test t;
    int64_t writes;

    (void)state;
    open_loop(&t);
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_ready(&t);
    assert_true(t.has_life);
    assert_int_equal(strlen(t.life), REDIS_LIFE_SIZE);
    assert_true(redis_conn_heard_ms(t.conn) > 0);
    writes = metrics_get(metrics_mine, bus_writes_total);
    for (int i = 0; i < 500; i++)
        send_command(&t, "INCR n");
    redis_conn_flush(t.conn);
    redis_conn_flush(t.conn);
    assert_int_equal(metrics_get(metrics_mine, bus_writes_total) - writes, 1);
    redis_host_until(&t.loop, t.replies == 500, (void)0);
    for (int i = 0; i < 500; i++)
        assert_int_equal(t.numbers[i], i + 1);
    end(&t);
    redis_host_free(host);
}

static void looks_are_not_handed_up(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test t;
    int64_t from, sent = 0;

    (void)state;
    open_loop(&t);
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_ready(&t);
    from = clock_monotonic_ms();
    /* Commands between the looks, some of them answered together with one. */
    while (clock_monotonic_ms() - from < 3 * REDIS_CONN_PING_MS) {
        send_command(&t, "INCR n");
        redis_conn_flush(t.conn);
        sent++;
        redis_host_until(&t.loop, t.replies == sent || t.lost, (void)0);
        assert_int_equal(t.lost, 0);
        assert_int_equal(t.numbers[sent - 1], sent);
        if (sent == REPLIES - 1) {
            t.replies = (int)(sent = 0);
            redis_host_do(host, "SET n 0");
        }
    }
    assert_true(redis_host_number(host, "EVAL %s 0",
                                  "local i = redis.call('INFO', 'commandstats'); "
                                  "return tonumber(string.match(i, 'cmdstat_info:calls=(%d+)'))") >= 3);
    end(&t);
    redis_host_free(host);
}

static void more_than_the_socket_takes_at_once_arrives(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test t;
    size_t size = 24 << 20;
    char *big = malloc(size);

    (void)state;
    assert_non_null(big);
    memset(big, 'x', size);
    open_loop(&t);
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_ready(&t);
    send_command(&t, "SET big %b", big, size);
    send_command(&t, "STRLEN big");
    redis_conn_flush(t.conn);
    redis_host_until(&t.loop, t.replies == 2, (void)0);
    assert_int_equal(t.numbers[1], (long long)size);
    send_command(&t, "GET big");
    send_command(&t, "STRLEN big");
    redis_conn_flush(t.conn);
    redis_host_until(&t.loop, t.replies == 4, (void)0);
    assert_int_equal(t.numbers[3], (long long)size);
    end(&t);
    free(big);
    redis_host_free(host);
}

static void passwords_users_and_databases(void **state)
{
    static const char *const extra[] = {"--requirepass", "s3cret", "--user", "chat", "on",
                                        ">pa%ss", "~*", "&*", "+@all", NULL};
    struct redis_host *host = redis_host_new(extra, true);
    struct test t;

    (void)state;
    open_loop(&t);
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_lost(&t, REDIS_FAULT_AUTH);
    strcpy(t.target.password, "wrong");
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_lost(&t, REDIS_FAULT_AUTH);
    assert_null(strstr(t.error, "wrong "));
    strcpy(t.target.password, "s3cret");
    t.target.database = 3;
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_ready(&t);
    send_command(&t, "SET here 1");
    send_command(&t, "CLIENT GETNAME");
    redis_conn_flush(t.conn);
    redis_host_until(&t.loop, t.replies == 2, (void)0);
    assert_string_equal(t.last, "chatd");
    host->password = "s3cret";
    assert_int_equal(redis_host_number(host, "EXISTS here"), 0);
    redis_conn_close(t.conn);
    strcpy(t.target.user, "chat");
    strcpy(t.target.password, "pa%ss");
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_ready(&t);
    redis_conn_close(t.conn);
    t.target.database = 99;
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_lost(&t, REDIS_FAULT_REFUSED);
    end(&t);
    redis_host_free(host);
}

static void a_password_that_nobody_asked_for_is_a_wrong_one(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test t;

    (void)state;
    open_loop(&t);
    strcpy(t.target.password, "s3cret");
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_lost(&t, REDIS_FAULT_AUTH);
    end(&t);
    redis_host_free(host);
}

static void a_user_who_may_not_set_a_name_may_work(void **state)
{
    static const char *const extra[] = {"--user", "chat", "on", ">p", "~*", "&*", "+@all", "-client",
                                        "--user", "poor", "on", ">p", "~*", "+ping", NULL};
    struct redis_host *host = redis_host_new(extra, true);
    struct test t;

    (void)state;
    open_loop(&t);
    strcpy(t.target.user, "chat");
    strcpy(t.target.password, "p");
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_ready(&t);
    redis_conn_close(t.conn);
    strcpy(t.target.user, "poor");
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_lost(&t, REDIS_FAULT_AUTH);
    end(&t);
    redis_host_free(host);
}

static void scripts_are_loaded_and_a_flush_ends_the_connection(void **state)
{
    static const char source[] = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
    struct redis_script scripts[] = {{.source = "return 1", .length = 8},
                                     {.source = source, .length = sizeof(source) - 1},
                                     {0}};
    struct redis_host *host = redis_host_new(NULL, true);
    struct test t;

    (void)state;
    redis_script_init(&scripts[0]);
    redis_script_init(&scripts[1]);
    assert_string_equal(scripts[0].sha, "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    open_loop(&t);
    t.address.port = host->port;
    open_conn(&t, REDIS_CONN_COMMANDS, scripts);
    await_ready(&t);
    send_command(&t, "EVALSHA %s 0", scripts[0].sha);
    send_command(&t, "EVALSHA %s 1 k 5", scripts[1].sha);
    redis_conn_flush(t.conn);
    redis_host_until(&t.loop, t.replies == 2, (void)0);
    assert_int_equal(t.numbers[0], 1);
    assert_int_equal(t.numbers[1], 5);
    redis_host_do(host, "SCRIPT FLUSH");
    send_command(&t, "EVALSHA %s 0", scripts[0].sha);
    redis_conn_flush(t.conn);
    await_lost(&t, REDIS_FAULT_NOSCRIPT);
    end(&t);
    redis_host_free(host);
}

static void each_end_has_its_name(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test t;
    int64_t losses = metrics_get(metrics_mine, bus_losses_total);

    (void)state;
    open_loop(&t);
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_ready(&t);
    redis_host_do(host, "CLIENT KILL TYPE normal SKIPME yes");
    await_lost(&t, REDIS_FAULT_CLOSED);
    assert_int_equal(metrics_get(metrics_mine, bus_losses_total) - losses, 1);

    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_ready(&t);
    redis_host_kill(host);
    await_lost(&t, REDIS_FAULT_CLOSED);
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_lost(&t, REDIS_FAULT_CONNECT);
    strcpy(t.address.host, "/tmp/chatd-no-such-socket");
    t.address.port = 0;
    open_conn(&t, REDIS_CONN_COMMANDS, NULL);
    await_lost(&t, REDIS_FAULT_CONNECT);
    strcpy(t.address.host, "no-such-host.invalid");
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_lost(&t, REDIS_FAULT_CONNECT);
    end(&t);
    redis_host_free(host);
}

static void names_and_sockets_are_addresses(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test t;

    (void)state;
    open_loop(&t);
    /* Often ::1 as well, where nobody listens. */
    strcpy(t.address.host, "localhost");
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_ready(&t);
    redis_conn_close(t.conn);
    strcpy(t.address.host, host->socket);
    t.address.port = 0;
    open_conn(&t, REDIS_CONN_COMMANDS, NULL);
    await_ready(&t);
    end(&t);
    redis_host_free(host);
}

static void a_full_server_says_so(void **state)
{
    static const char *const extra[] = {"--maxclients", "1", NULL};
    struct redis_host *host = redis_host_new(extra, true);
    redisContext *first = redisConnect("127.0.0.1", host->port);
    struct test t;

    (void)state;
    assert_true(first && !first->err);
    freeReplyObject(redisCommand(first, "PING"));
    open_loop(&t);
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_lost(&t, REDIS_FAULT_REFUSED);
    assert_non_null(strstr(t.error, "max number of clients"));
    redisFree(first);
    end(&t);
    redis_host_free(host);
}

static void a_hanging_server_is_a_lost_one(void **state)
{
    static const enum redis_conn_kind kinds[] = {REDIS_CONN_COMMANDS, REDIS_CONN_SUBSCRIBER};
    struct redis_host *host = redis_host_new(NULL, true);

    (void)state;
    for (int i = 0; i < 2; i++) {
        int64_t from, took;
        struct test t;

        open_loop(&t);
        open_server(&t, host, kinds[i]);
        await_ready(&t);
        redis_host_freeze(host);
        from = clock_monotonic_ms();
        await_lost(&t, REDIS_FAULT_SILENT);
        took = clock_monotonic_ms() - from;
        assert_in_range(took, REDIS_CONN_SILENCE_MS - 500, REDIS_CONN_SILENCE_MS + REDIS_CONN_PING_MS + 1500);
        /* It accepts (the kernel does), but doesn't sign in. */
        open_server(&t, host, kinds[i]);
        await_lost(&t, REDIS_FAULT_SILENT);
        redis_host_thaw(host);
        end(&t);
    }
    redis_host_free(host);
}

static void a_replica_is_refused_and_a_master_that_becomes_one_is_left(void **state)
{
    struct redis_host *master = redis_host_new(NULL, true), *other = redis_host_new(NULL, true);
    struct test t;

    (void)state;
    open_loop(&t);
    open_server(&t, other, REDIS_CONN_COMMANDS);
    await_ready(&t);
    redis_host_do(other, "REPLICAOF 127.0.0.1 %d", master->port);
    redis_host_until(&t.loop, t.lost, (void)0);
    /* Until its first sync its link is down. */
    assert_true(t.fault == REDIS_FAULT_READONLY || t.fault == REDIS_FAULT_MASTERDOWN ||
                t.fault == REDIS_FAULT_CLOSED);
    redis_host_until(&t.loop, redis_host_number(master, "WAIT 1 1000") == 1, (void)0);
    open_server(&t, other, REDIS_CONN_COMMANDS);
    await_lost(&t, REDIS_FAULT_READONLY);
    open_server(&t, other, REDIS_CONN_ASK);
    await_ready(&t);
    assert_false(t.has_life);
    redis_conn_close(t.conn);
    redis_host_kill(master);
    redis_host_do(other, "CONFIG SET repl-timeout 1");
    redis_host_until(&t.loop,
                     redis_host_number(other, "EVAL %s 0",
                                       "return string.find(redis.call('INFO', 'replication'), "
                                       "'link_status:down') or 0") > 0,
                     (void)0);
    open_server(&t, other, REDIS_CONN_SUBSCRIBER);
    await_lost(&t, REDIS_FAULT_MASTERDOWN);
    end(&t);
    redis_host_free(master);
    redis_host_free(other);
}

static void another_life_ends_the_connection(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test t;

    (void)state;
    open_loop(&t);
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_ready(&t);
    redis_host_do(host, "DEBUG CHANGE-REPL-ID");
    await_lost(&t, REDIS_FAULT_LIFE);
    end(&t);
    redis_host_free(host);
}

static void a_subscriber_gets_pushes_and_is_looked_after(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test t;
    int64_t from;

    (void)state;
    open_loop(&t);
    t.target.database = 5;
    open_server(&t, host, REDIS_CONN_SUBSCRIBER);
    await_ready(&t);
    assert_true(t.has_life);
    /* Two looks before the first subscription, two after. */
    from = clock_monotonic_ms();
    redis_host_until(&t.loop, clock_monotonic_ms() - from > 2 * REDIS_CONN_PING_MS, (void)0);
    send_command(&t, "SUBSCRIBE a b");
    redis_conn_flush(t.conn);
    redis_host_until(&t.loop, t.replies == 2, (void)0);
    assert_string_equal(t.last, "subscribe");
    from = clock_monotonic_ms();
    redis_host_until(&t.loop, clock_monotonic_ms() - from > 2 * REDIS_CONN_PING_MS + 500, (void)0);
    assert_int_equal(t.replies, 2);
    redis_host_do(host, "PUBLISH a hello");
    redis_host_until(&t.loop, t.replies == 3, (void)0);
    assert_string_equal(t.last, "message");
    assert_int_equal(t.lost, 0);
    end(&t);
    redis_host_free(host);
}

static void it_may_be_closed_at_any_time(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);

    (void)state;
    /* After so many rounds of the loop, with a name to look up and without. */
    for (int rounds = 0; rounds < 24; rounds++) {
        struct test t;

        open_loop(&t);
        strcpy(t.address.host, rounds % 2 ? "localhost" : "127.0.0.1");
        open_server(&t, host, REDIS_CONN_COMMANDS);
        for (int i = 0; i < rounds / 2; i++)
            redis_host_step(&t.loop);
        end(&t);
        assert_int_equal(t.lost, 0);
    }
    redis_host_free(host);
}

static void it_may_be_closed_in_a_reply(void **state)
{
    struct redis_host *host = redis_host_new(NULL, true);
    struct test t;

    (void)state;
    open_loop(&t);
    open_server(&t, host, REDIS_CONN_COMMANDS);
    await_ready(&t);
    t.close_in_reply = true;
    for (int i = 0; i < 10; i++)
        send_command(&t, "PING");
    redis_conn_flush(t.conn);
    redis_host_until(&t.loop, t.replies, (void)0);
    end(&t);
    assert_int_equal(t.replies, 1);
    redis_host_free(host);
}

static void bytes_may_come_one_at_a_time(void **state)
{
    struct redis_peer peer;
    struct test t;

    (void)state;
    open_loop(&t);
    redis_peer_open(&peer, &t.loop);
    peer.drip = true;
    peer.rules[0] = (struct redis_peer_rule){"GET", NULL, "*2\r\n$3\r\none\r\n*1\r\n:-7\r\n", 0};
    t.address.port = peer.port;
    open_conn(&t, REDIS_CONN_COMMANDS, NULL);
    await_ready(&t);
    assert_string_equal(t.life, "0123456789012345678901234567890123456789");
    send_command(&t, "GET a");
    send_command(&t, "GET b");
    redis_conn_flush(t.conn);
    redis_host_until(&t.loop, t.replies == 2 || t.lost, (void)0);
    assert_string_equal(t.last, "one");
    redis_conn_close(t.conn);
    redis_peer_close(&peer);
    redis_host_close_loop(&t.loop);
}

struct word {
    const char *command, *reply;
    enum redis_fault fault;
};

static void error_words_are_faults(void **state)
{
    static const struct word words[] = {
        {"SCRIPT", "-LOADING Redis is loading the dataset in memory\r\n", REDIS_FAULT_LOADING},
        {"INFO", "-MASTERDOWN Link with MASTER is down\r\n", REDIS_FAULT_MASTERDOWN},
        {"CLIENT", "-NOAUTH Authentication required.\r\n", REDIS_FAULT_AUTH},
        {"AUTH", "-WRONGPASS invalid username-password pair or user is disabled.\r\n", REDIS_FAULT_AUTH},
        {"AUTH", "-ERR invalid password\r\n", REDIS_FAULT_AUTH},
        {"AUTH", "-ERR Client sent AUTH, but no password is set\r\n", REDIS_FAULT_AUTH},
        {"AUTH", "-ERR unknown command `AUTH`, with args beginning with: `s3cret`\r\n", REDIS_FAULT_REFUSED},
        {"SELECT", "-ERR DB index is out of range\r\n", REDIS_FAULT_REFUSED},
        {"CLIENT", "-ERR max number of clients reached\r\n", REDIS_FAULT_REFUSED},
        {"CLIENT", "-DENIED Redis is running in protected mode\r\n", REDIS_FAULT_REFUSED},
        {"INFO", "$15\r\nrole:master\r\nx:\r\n", REDIS_FAULT_REFUSED},
        {"INFO", "$10\r\nrole:slave\r\n", REDIS_FAULT_READONLY},
        {"INFO", "!what\r\n", REDIS_FAULT_PROTOCOL},
        {"SCRIPT", NULL, REDIS_FAULT_SILENT},
        {"GET", "-READONLY You can't write against a read only replica.\r\n", REDIS_FAULT_READONLY},
        {"GET", "-READONLY You can't write against a read only replica. script: 1234, on @user_script:1.\r\n",
         REDIS_FAULT_READONLY},
        {"GET", "-ERR Error running script (call to f_12): @user_script:3: -READONLY You can't write\r\n",
         REDIS_FAULT_READONLY},
        {"GET", "-NOSCRIPT No matching script. Please use EVAL.\r\n", REDIS_FAULT_NOSCRIPT},
        {"GET", "-LOADING Redis is loading\r\n", REDIS_FAULT_LOADING},
        {"GET", "-NOAUTH Authentication required.\r\n", REDIS_FAULT_AUTH},
        {"GET", "-MASTERDOWN Link\r\n", REDIS_FAULT_MASTERDOWN},
    };
    struct redis_script scripts[] = {{.source = "return 1", .length = 8}, {0}};

    (void)state;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        struct redis_peer peer;
        struct test t;

        open_loop(&t);
        redis_peer_open(&peer, &t.loop);
        strcpy(t.target.password, "s3cret");
        t.target.database = 1;
        peer.rules[0] = (struct redis_peer_rule){words[i].command, NULL, words[i].reply, 0};
        t.address.port = peer.port;
        open_conn(&t, REDIS_CONN_COMMANDS, scripts);
        if (strcmp(words[i].command, "GET") == 0) {
            await_ready(&t);
            send_command(&t, "GET a");
            redis_conn_flush(t.conn);
        }
        await_lost(&t, words[i].fault);
        assert_null(strstr(t.error, "s3cret"));
        assert_int_equal(t.replies, 0);
        redis_peer_close(&peer);
        redis_host_close_loop(&t.loop);
    }
}

static void other_errors_are_replies(void **state)
{
    static const char *const replies[] = {
        "-ERR Error running script (call to f_12): @user_script:3: -OOM too much\r\n", "-NOPERM no\r\n",
        "-LOADINGS of it\r\n", "-OOM\r\n"};
    static const char *const codes[] = {"OOM", "NOPERM", "LOADINGS", "OOM"};

    (void)state;
    for (int i = 0; i < 4; i++) {
        redisReader *reader = redisReaderCreate();
        void *reply = NULL;

        redisReaderFeed(reader, replies[i], strlen(replies[i]));
        assert_int_equal(redisReaderGetReply(reader, &reply), REDIS_OK);
        assert_true(redis_error_is(reply, codes[i]));
        assert_false(redis_error_is(reply, "LOADING"));
        freeReplyObject(reply);
        redisReaderFree(reader);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_come_in_order_and_a_turn_is_one_write),
        cmocka_unit_test(looks_are_not_handed_up),
        cmocka_unit_test(more_than_the_socket_takes_at_once_arrives),
        cmocka_unit_test(passwords_users_and_databases),
        cmocka_unit_test(a_password_that_nobody_asked_for_is_a_wrong_one),
        cmocka_unit_test(a_user_who_may_not_set_a_name_may_work),
        cmocka_unit_test(scripts_are_loaded_and_a_flush_ends_the_connection),
        cmocka_unit_test(each_end_has_its_name),
        cmocka_unit_test(names_and_sockets_are_addresses),
        cmocka_unit_test(a_full_server_says_so),
        cmocka_unit_test(a_hanging_server_is_a_lost_one),
        cmocka_unit_test(a_replica_is_refused_and_a_master_that_becomes_one_is_left),
        cmocka_unit_test(another_life_ends_the_connection),
        cmocka_unit_test(a_subscriber_gets_pushes_and_is_looked_after),
        cmocka_unit_test(it_may_be_closed_at_any_time),
        cmocka_unit_test(it_may_be_closed_in_a_reply),
        cmocka_unit_test(bytes_may_come_one_at_a_time),
        cmocka_unit_test(error_words_are_faults),
        cmocka_unit_test(other_errors_are_replies),
    };

    return redis_host_run_all(tests);
}
