/* test_store_mongo.c - with Redis: what is acked is stored, once, under one number, whatever MongoDB does. */
#include "chatd/metrics.h"
#include "mongo_host.h"

enum { MANY = 500 };

static void test_pages_are_the_newest_of_the_asked_range(void **state)
{
    const uint64_t base = 5ULL << 40; /* numbers are 64 bits wide */
    struct host host;
    uint64_t seqs[10];

    (void)state;
    need_server(false);
    host_open(&host, NULL);
    host_start(&host);
    for (int i = 0; i < 10; i++) {
        struct message message = make_message("a", "ana", NO_KEY, seqs[i] = base + (uint64_t)i);
        struct message other = make_message("b", "ana", NO_KEY, base + (uint64_t)i);

        assert_answer(commit(&host, &message), STORE_OK, message.seq);
        assert_answer(commit(&host, &other), STORE_OK, other.seq);
    }
    assert_page(&host, "a", 0, UINT64_MAX, 100, seqs, 10, false);
    assert_page(&host, "a", 0, UINT64_MAX, 10, seqs, 10, false);
    assert_page(&host, "a", 0, UINT64_MAX, 9, seqs + 1, 9, true);
    assert_page(&host, "a", 0, seqs[4], 3, seqs + 2, 3, true);
    assert_page(&host, "a", seqs[4], seqs[7], 3, seqs + 5, 3, false);
    assert_page(&host, "a", seqs[4], seqs[7], 2, seqs + 6, 2, true);
    assert_page(&host, "a", seqs[9], UINT64_MAX, 100, NULL, 0, false);
    assert_page(&host, "a", 0, UINT64_MAX, 0, NULL, 0, true);
    assert_page(&host, "nowhere", 0, UINT64_MAX, 100, NULL, 0, false);
    assert_answer(highest(&host, "a"), STORE_OK, seqs[9]);
    assert_answer(highest(&host, "nowhere"), STORE_OK, 0);
    host_close(&host);
}

static void test_keys_are_compared_as_bytes(void **state)
{
    static const struct text keys[] = {{"k", 1},  {"k\0", 2}, {"k\0a", 3},     {"K", 1},        {"1", 1},
                                       {"01", 2}, {"k ", 2},  {"\xc3\xa9", 2}, {"e\xcc\x81", 3}};
    enum { KEYS = sizeof(keys) / sizeof(keys[0]) };
    struct message keyless = make_message("a", "ana", NO_KEY, 100);
    struct host host;

    (void)state;
    need_server(false);
    host_open(&host, NULL);
    host_start(&host);
    for (int i = 0; i < KEYS; i++) {
        struct message message = make_message("a", "ana", keys[i], 1 + (uint64_t)i);

        assert_answer(commit(&host, &message), STORE_OK, message.seq);
    }
    assert_answer(commit(&host, &keyless), STORE_OK, 100);
    for (int i = 0; i < KEYS; i++)
        assert_answer(find(&host, "a", "ana", keys[i], NULL), STORE_OK, 1 + i);
    assert_answer(find(&host, "a", "ana", NO_KEY, keyless.uid), STORE_OK, 100);
    keyless.uid[0] ^= 1;
    assert_answer(find(&host, "a", "ana", NO_KEY, keyless.uid), STORE_NONE, 0);
    assert_answer(find(&host, "a", "bob", keys[0], NULL), STORE_NONE, 0);
    assert_answer(find(&host, "b", "ana", keys[0], NULL), STORE_NONE, 0);
    host_close(&host);
}

static void test_duplicates_are_settled_by_number_and_key(void **state)
{
    int64_t rows = metrics_get(metrics_mine, store_rows_total);
    struct message first, other_number, taken, keyless;
    struct host host;

    (void)state;
    need_server(false);
    host_open(&host, NULL);
    host_start(&host);
    first = make_message("a", "ana", text("key"), 10);
    assert_answer(commit(&host, &first), STORE_OK, 10);
    assert_answer(commit(&host, &first), STORE_OK,
                  10); /* this very message: a commit whose answer was lost */
    other_number = make_message("a", "ana", text("key"), 11);
    assert_answer(commit(&host, &other_number), STORE_OK, 10); /* its key is stored: under that number */
    taken = make_message("a", "bob", text("key"), 10);
    assert_answer(commit(&host, &taken), STORE_MOVED, 0);
    taken = make_message("a", "ana", text("key"), 10); /* both at once: the key decides */
    assert_answer(commit(&host, &taken), STORE_OK, 10);
    keyless = make_message("a", "ana", NO_KEY, 12);
    assert_answer(commit(&host, &keyless), STORE_OK, 12);
    keyless.seq = 13; /* published again after all */
    assert_answer(commit(&host, &keyless), STORE_OK, 12);
    assert_int_equal(count_documents(&host, "messages"), 2);
    assert_int_equal(metrics_get(metrics_mine, store_rows_total) - rows, 2);
    host_close(&host);
}

static void test_messages_of_one_batch_may_collide_with_each_other(void **state)
{
    struct answer answers[6] = {{0}};
    struct message messages[6];
    int stored = 0, moved = 0;
    struct host host;

    (void)state;
    need_server(false);
    host_open(&host, NULL);
    host_start(&host);
    wait_until(&host, is_healthy(&host));
    messages[0] = make_message("a", "ana", text("x"), 1);
    messages[1] = make_message("a", "ana", text("x"), 2); /* one key, two numbers */
    messages[2] = make_message("a", "bob", NO_KEY, 3);
    messages[3] = make_message("a", "eve", NO_KEY, 3); /* one number, two messages */
    messages[4] = make_message("a", "bob", text("y"), 4);
    messages[5] = messages[4]; /* one message twice */
    for (int i = 0; i < 6; i++)
        store_commit(host.store, &messages[i], on_number, &answers[i]);
    for (int i = 0; i < 6; i++)
        wait_until(&host, answers[i].calls == 1);
    assert_int_equal(answers[0].status, STORE_OK);
    assert_int_equal(answers[1].status, STORE_OK);
    assert_int_equal(answers[0].seq, answers[1].seq);
    for (int i = 2; i < 4; i++) {
        stored += answers[i].status == STORE_OK && answers[i].seq == 3;
        moved += answers[i].status == STORE_MOVED;
    }
    assert_int_equal(stored, 1);
    assert_int_equal(moved, 1);
    assert_answer(answers[4], STORE_OK, 4);
    assert_answer(answers[5], STORE_OK, 4);
    assert_int_equal(count_documents(&host, "messages"), 3);
    host_close(&host);
}

static void test_only_what_stands_is_committed(void **state)
{
    struct answer waits = {0}, moved = {0};
    struct message message = make_message("a", "ana", NO_KEY, 1), other = make_message("a", "ana", NO_KEY, 2);
    struct host host;
    int calls;

    (void)state;
    need_server(false);
    host_open(&host, NULL);
    host_start(&host);
    host.stand = BUS_WAITS;
    store_commit(host.store, &message, on_number, &waits);
    wait_until(&host, host.stand_calls > 3);
    assert_int_equal(waits.calls, 0);
    host.stand = BUS_STANDS;
    wait_until(&host, waits.calls > 0);
    assert_answer(waits, STORE_OK, 1);
    host.stand = BUS_MOVED;
    calls = host.stand_calls;
    store_commit(host.store, &other, on_number, &moved);
    wait_for(&host, &moved);
    assert_answer(moved, STORE_MOVED, 0);
    assert_int_equal(host.stand_calls, calls + 1);
    assert_int_equal(count_documents(&host, "messages"), 1);
    host_close(&host);
}

/* Commits `count` messages that are numbered on from `first`, without waiting. */
static void commit_many(struct host *host, uint64_t first, int count, struct answer *answers)
{
    for (int i = 0; i < count; i++) {
        struct message message = make_message("a", "ana", NO_KEY, first + (uint64_t)i);

        store_commit(host->store, &message, on_number, &answers[i]);
    }
}

static void wait_for_many(struct host *host, int count, const struct answer *answers, uint64_t first)
{
    for (int i = 0; i < count; i++) {
        wait_until(host, answers[i].calls > 0);
        assert_answer(answers[i], STORE_OK, first + (uint64_t)i);
    }
}

static void test_a_frozen_server_fills_the_queue_and_then_gets_everything_once(void **state)
{
    struct answer *answers = calloc(MANY, sizeof(*answers)), late = {0}, busy = {0}, read = {0};
    struct message message;
    struct store_health health;
    struct host host;

    (void)state;
    need_server(true);
    host_open(&host, NULL);
    host.config.store_queue_bytes = 65536;
    host_start(&host);
    message = make_message("a", "ana", NO_KEY, 1);
    assert_answer(commit(&host, &message), STORE_OK, 1);
    assert_false(store_full(host.store));
    server_freeze();
    commit_many(&host, 2, MANY, answers);
    store_highest(host.store, text("a"), on_number, &read);
    assert_true(store_full(host.store));
    message = make_message("a", "ana", NO_KEY, 2 + MANY); /* it was full, and the caller comes all the same */
    store_commit(host.store, &message, on_number, &late);
    wait_until(&host, !is_healthy(&host) && read.calls > 0);
    assert_int_equal(read.status, STORE_FAILED);
    store_health(host.store, &health);
    assert_true(health.queued_bytes >= 65536);
    for (uint64_t seq = 10000; busy.calls == 0; seq++) { /* nor does it take twice as much */
        static struct answer taken[4096];
        assert_true(seq < 14000);
        message = make_message("b", "ana", NO_KEY, seq);
        busy = (struct answer){0};
        store_commit(host.store, &message, on_number, &taken[seq - 10000]);
        uv_run(&host.loop, UV_RUN_NOWAIT);
        if (taken[seq - 10000].calls > 0)
            busy = taken[seq - 10000];
    }
    assert_int_equal(busy.status, STORE_BUSY);
    assert_int_equal(answers[0].calls, 0);
    server_thaw();
    wait_for_many(&host, MANY, answers, 2);
    wait_until(&host, late.calls > 0);
    assert_answer(late, STORE_OK, 2 + MANY);
    wait_until(&host, is_healthy(&host) && !store_full(host.store));
    store_health(host.store, &health);
    wait_until(&host, (store_health(host.store, &health), health.queued_bytes == 0));
    assert_int_equal(read_page(&host, "a", 0, UINT64_MAX, 64).count, 64);
    assert_int_equal(log_lines(&host, "mongodb_lost", "cause=network"), 1);
    assert_int_equal(log_lines(&host, "mongodb_ready", "database="), 2);
    free(answers);
    host_close(&host);
}

static void test_a_server_killed_and_restarted_gets_everything_once(void **state)
{
    struct answer *answers = calloc(MANY, sizeof(*answers));
    struct host host;

    (void)state;
    need_server(true);
    host_open(&host, NULL);
    host_start(&host);
    wait_until(&host, is_healthy(&host));
    commit_many(&host, 1, 100, answers);
    uv_run(&host.loop, UV_RUN_NOWAIT); /* the batch is on its way */
    server_kill();
    commit_many(&host, 101, MANY - 100, answers + 100);
    wait_until(&host, !is_healthy(&host));
    server_start();
    wait_for_many(&host, MANY, answers, 1);
    wait_until(&host, is_healthy(&host));
    assert_int_equal(count_documents(&host, "messages"), MANY);
    assert_true(log_lines(&host, "mongodb_lost", "") <= 2); /* network, then server_selection */
    free(answers);
    host_close(&host);
}

/* Rule 8: by the time that MongoDB is back the number may be void, and the first try may have got
 * through. The bus says that it stands once, for that first try. */
static void stand_once(struct host *host)
{
    host->stand_most = host->stand_calls + 1;
    host->stand_then = BUS_MOVED;
}

static void test_what_moved_and_never_got_through_is_to_be_published_again(void **state)
{
    struct answer answer = {0};
    struct host host;

    (void)state;
    need_server(true);
    host_open(&host, NULL);
    host_start(&host);
    wait_until(&host, is_healthy(&host));
    server_kill();
    stand_once(&host);
    commit_many(&host, 1, 1, &answer);
    wait_until(&host, host.stand_calls > host.stand_most);
    assert_int_equal(answer.calls, 0); /* nobody knows */
    server_start();
    wait_until(&host, answer.calls > 0);
    assert_answer(answer, STORE_MOVED, 0);
    assert_int_equal(count_documents(&host, "messages"), 0);
    host_close(&host);
}

/* The frozen server has it in its socket, and stores it when it thaws: before or after it is asked for it. */
static void test_what_moved_and_got_through_is_found_or_kept_out_by_its_key(void **state)
{
    struct message message = make_message("a", "ana", NO_KEY, 1);
    struct answer answer = {0};
    struct host host;

    (void)state;
    need_server(true);
    host_open(&host, NULL);
    host_start(&host);
    wait_until(&host, is_healthy(&host));
    server_freeze();
    stand_once(&host);
    store_commit(host.store, &message, on_number, &answer);
    wait_until(&host, host.stand_calls > host.stand_most);
    server_thaw();
    wait_until(&host, answer.calls > 0);
    if (answer.status == STORE_OK) {
        assert_answer(answer, STORE_OK, 1);
    } else {
        host.stand_most = 0;
        assert_answer(answer, STORE_MOVED, 0);
        wait_until(&host, count_documents(&host, "messages") == 1);
        message.seq = 1000;
        assert_answer(commit(&host, &message), STORE_OK, 1);
    }
    assert_int_equal(count_documents(&host, "messages"), 1);
    host_close(&host);
}

static void test_an_index_that_can_not_be_made_stops_writing_but_not_reading(void **state)
{
    struct message message = make_message("a", "ana", NO_KEY, 1);
    struct answer answer = {0};
    struct host host;

    (void)state;
    need_server(false);
    host_open(&host, NULL);
    run_command(&host, "{\"createIndexes\": \"messages\", \"indexes\": [{\"key\": {\"room\": 1, \"seq\": 1}, "
                       "\"name\": \"other\"}]}");
    host_start(&host);
    store_commit(host.store, &message, on_number, &answer);
    wait_until(&host, health_says(&host, "index"));
    assert_answer(highest(&host, "a"), STORE_OK, 0);
    assert_int_equal(answer.calls, 0);
    assert_int_equal(count_documents(&host, "messages"), 0);
    assert_int_equal(log_lines(&host, "mongodb_lost", "cause=index"), 1);
    run_command(&host, "{\"dropIndexes\": \"messages\", \"index\": \"other\"}");
    wait_until(&host, answer.calls > 0);
    assert_answer(answer, STORE_OK, 1);
    host_close(&host);
}

/* ---- beside the messages ---- */

struct rooms_answer {
    struct answer answer;
    char names[256];
    uint64_t first;
};

static void on_rooms(void *arg, enum store_status status, const struct text *names, const uint64_t *numbers,
                     uint32_t count)
{
    struct rooms_answer *answer = arg;

    answer->answer.status = status;
    answer->answer.calls++;
    answer->first = count > 0 ? numbers[0] : 0;
    answer->names[0] = '\0';
    for (uint32_t i = 0; i < count; i++) {
        strncat(answer->names, names[i].data, names[i].length);
        strcat(answer->names, " ");
    }
}

static struct rooms_answer list_rooms(struct host *host, uint32_t limit)
{
    struct rooms_answer answer = {0};

    store_rooms(host->store, limit, on_rooms, &answer);
    wait_for(host, &answer.answer);
    assert_int_equal(answer.answer.status, STORE_OK);
    return answer;
}

static void test_rooms_come_latest_activity_first(void **state)
{
    static const char *const names[] = {"a", "b", "c", "a"};
    struct host host;

    (void)state;
    need_server(false);
    host_open(&host, NULL);
    host_start(&host);
    for (uint64_t i = 0; i < 4; i++) {
        struct message message = make_message(names[i], "ana", NO_KEY, 10 + i);

        message.time_ms = 1000000000000 + (int64_t)i;
        assert_answer(commit(&host, &message), STORE_OK, 10 + i);
    }
    wait_until(&host, strcmp(list_rooms(&host, 10).names, "a c b ") == 0);
    assert_int_equal(list_rooms(&host, 10).first, 13);
    assert_int_equal(list_rooms(&host, 2).first, 13);
    run_command(&host, "{\"delete\": \"messages\", \"deletes\": [{\"q\": {}, \"limit\": 0}]}");
    assert_answer(highest(&host, "a"), STORE_OK, 13); /* retention took the messages, the number stays */
    host_close(&host);
}

static int64_t date_of(const bson_t *document, const char *field)
{
    bson_iter_t at;

    assert_true(bson_iter_init_find(&at, document, field));
    assert_true(BSON_ITER_HOLDS_DATE_TIME(&at));
    return bson_iter_date_time(&at);
}

static void test_users_are_noted_once_a_minute_at_most(void **state)
{
    int64_t start = clock_wall_ms();
    struct host host;
    bson_t *user;

    (void)state;
    need_server(false);
    host_open(&host, NULL);
    host_start(&host);
    for (int i = 0; i < 1000; i++)
        store_seen(host.store, text("ana"));
    store_seen(host.store, text("bob"));
    wait_until(&host, count_documents(&host, "users") == 2);
    user = get_document(&host, "users", "ana");
    assert_non_null(user);
    assert_true(date_of(user, "first") >= start);
    assert_int_equal(date_of(user, "first"), date_of(user, "last"));
    bson_destroy(user);

    /* Another worker, or the same one after a restart: first stays, last rises. */
    host_stop(&host, 1000);
    start = clock_wall_ms();
    host_start(&host);
    store_seen(host.store, text("ana"));
    user = NULL;
    do {
        bson_destroy(user);
        uv_run(&host.loop, UV_RUN_ONCE);
        user = get_document(&host, "users", "ana");
    } while (date_of(user, "last") < start);
    assert_true(date_of(user, "first") < start);
    bson_destroy(user);
    host_close(&host);
}

/* ---- the spool ---- */

static int spool_files(const struct host *host, char *first)
{
    char path[128];
    struct dirent *file;
    int count = 0;
    DIR *dir;

    snprintf(path, sizeof(path), "%s/spool", host->dir);
    dir = opendir(path);
    while (dir && (file = readdir(dir))) {
        if (!strstr(file->d_name, ".spool"))
            continue;
        count++;
        if (first)
            snprintf(first, 512, "%s/%s", path, file->d_name);
    }
    if (dir)
        closedir(dir);
    return count;
}

/* Leaves a spool file with 5 messages behind; the server is up again. */
static void make_spool(struct host *host, struct message messages[5])
{
    struct answer answers[5] = {{0}};

    host_start(host);
    wait_until(host, is_healthy(host));
    server_kill();
    for (int i = 0; i < 5; i++) {
        messages[i] = make_message("a", "ana", i % 2 ? text("key") : NO_KEY, 1 + (uint64_t)i);
        store_commit(host->store, &messages[i], on_number, &answers[i]);
    }
    host_stop(host, 200);
    for (int i = 0; i < 5; i++)
        assert_answer(answers[i], STORE_FAILED, 0);
    assert_int_equal(spool_files(host, NULL), 1);
    assert_int_equal(log_lines(host, "spooled", "messages=5"), 1);
}

static void test_what_can_not_be_committed_is_spooled_and_handed_up_by_the_next(void **state)
{
    struct message messages[5];
    struct host host;

    (void)state;
    need_server(true);
    host_open(&host, NULL);
    make_spool(&host, messages);

    /* MongoDB is away: nobody waits for the spool, and nothing is handed up. */
    host_start(&host);
    wait_until(&host, !store_mongo_spooling(host.store));
    assert_true(health_says(&host, "server_selection"));
    assert_int_equal(host.spooled.count, 0);
    server_start();
    wait_until(&host, host.spooled.count == 5 && spool_files(&host, NULL) == 0);
    for (int i = 0; i < 5; i++)
        assert_memory_equal(host.spooled.uids[i], messages[i].uid, MESSAGE_UID_SIZE);
    wait_until(&host, !store_mongo_spooling(host.store));
    host_close(&host);
}

static void test_a_spool_file_stays_while_one_of_its_messages_fails(void **state)
{
    struct message messages[5];
    struct host host;

    (void)state;
    need_server(true);
    host_open(&host, NULL);
    make_spool(&host, messages);
    server_start();
    host.spooled.answer = STORE_FAILED;
    host_start(&host);
    assert_true(store_mongo_spooling(host.store));
    wait_until(&host, !store_mongo_spooling(host.store));
    assert_int_equal(host.spooled.count, 5);
    assert_int_equal(spool_files(&host, NULL), 1);
    host.spooled.answer = STORE_OK;
    wait_until(&host, spool_files(&host, NULL) == 0); /* tried again by itself */
    assert_int_equal(host.spooled.count, 10);
    assert_int_equal(log_lines(&host, "spool_kept", "files=1"), 1);
    host_close(&host);
}

static void test_a_damaged_spool_gives_what_is_whole(void **state)
{
    struct message messages[5];
    struct host host;
    char path[512];
    long size;
    FILE *file;

    (void)state;
    need_server(true);
    host_open(&host, NULL);
    make_spool(&host, messages);
    server_start();
    assert_int_equal(spool_files(&host, path), 1);
    file = fopen(path, "r+");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    size = ftell(file);
    fseek(file, 14 + 16 + 60, SEEK_SET); /* inside the first message */
    fputc('!', file);
    fclose(file);
    assert_int_equal(truncate(path, size - 3), 0); /* the last is cut off */
    host_start(&host);
    wait_until(&host, spool_files(&host, NULL) == 0);
    assert_int_equal(host.spooled.count, 3);
    for (int i = 0; i < 3; i++)
        assert_memory_equal(host.spooled.uids[i], messages[i + 1].uid, MESSAGE_UID_SIZE);
    assert_int_equal(log_lines(&host, "spool_damaged", "a message is damaged"), 1);
    assert_int_equal(log_lines(&host, "spool_damaged", "a message is cut off"), 1);
    host_close(&host);
}

static void test_close_commits_what_is_queued(void **state)
{
    struct answer *answers = calloc(MANY, sizeof(*answers)), after = {0};
    struct host host;

    (void)state;
    need_server(false);
    host_open(&host, NULL);
    host_start(&host);
    wait_until(&host, is_healthy(&host));
    commit_many(&host, 1, MANY, answers);
    store_highest(host.store, text("a"), on_number, &after);
    host_stop(&host, 20000);
    for (int i = 0; i < MANY; i++)
        assert_answer(answers[i], STORE_OK, 1 + i);
    assert_int_equal(after.calls, 1);
    assert_int_equal(spool_files(&host, NULL), 0);
    assert_int_equal(count_documents(&host, "messages"), MANY);
    assert_int_equal(count_documents(&host, "rooms"), 1);
    free(answers);
    host_close(&host);
}

/* Nothing may be lost between the batch that is out and the file. */
static void test_a_batch_that_is_out_when_the_worker_ends_is_spooled_as_well(void **state)
{
    struct answer answers[40] = {{0}};
    struct host host;

    (void)state;
    need_server(true);
    host_open(&host, NULL);
    host_start(&host);
    wait_until(&host, is_healthy(&host));
    server_freeze();
    commit_many(&host, 1, 20, answers);
    uv_run(&host.loop, UV_RUN_NOWAIT);
    commit_many(&host, 21, 20, answers + 20);
    host_stop(&host, 100);
    for (int i = 0; i < 40; i++)
        assert_answer(answers[i], STORE_FAILED, 0);
    server_thaw();
    host_start(&host);
    wait_until(&host, host.spooled.count == 40 && spool_files(&host, NULL) == 0);
    host_close(&host);
}

/* ---- settings and causes ---- */

static void test_an_unreachable_host_is_one_line_and_a_reason(void **state)
{
    struct answer commit_answer = {0}, read = {0};
    struct message message = make_message("a", "ana", NO_KEY, 1);
    struct host host;
    char uri[64];

    (void)state;
    snprintf(uri, sizeof(uri), "mongodb://127.0.0.1:%d/chat", free_port());
    host_open(&host, uri);
    host_start(&host);
    assert_true(store_mongo_spooling(host.store));
    store_commit(host.store, &message, on_number, &commit_answer);
    store_highest(host.store, text("a"), on_number, &read);
    wait_until(&host, read.calls > 0 && health_says(&host, "server_selection"));
    assert_int_equal(read.status, STORE_FAILED);
    assert_false(store_mongo_spooling(host.store));
    for (int i = 0; i < 600; i++) /* some more tries */
        uv_run(&host.loop, UV_RUN_ONCE);
    assert_int_equal(log_lines(&host, "mongodb_lost", "cause=server_selection"), 1);
    assert_int_equal(log_lines(&host, "mongo", ""), 1);
    host_stop(&host, 0);
    assert_answer(commit_answer, STORE_FAILED, 0);
    assert_int_equal(spool_files(&host, NULL), 1);
    host_close(&host);
}

static void test_a_refused_user_is_one_line_and_no_secret(void **state)
{
    struct host host;
    char uri[600];

    (void)state;
    need_server(true);
    snprintf(uri, sizeof(uri), "mongodb://ana:topsecret@%schat", server.uri + strlen("mongodb://"));
    host_open(&host, uri);
    host_start(&host);
    wait_until(&host, health_says(&host, "auth"));
    for (int i = 0; i < 200; i++)
        uv_run(&host.loop, UV_RUN_ONCE);
    assert_int_equal(log_lines(&host, "mongodb_lost", "cause=auth"), 1);
    assert_int_equal(log_lines(&host, "mongo", ""), 1);
    assert_int_equal(log_lines(&host, "topsecret", ""), 0);
    assert_false(health_says(&host, "topsecret"));
    host_close(&host);
}

static void test_settings_are_checked_without_telling_secrets(void **state)
{
    static const struct {
        const char *uri, *word; /* NULL: it is right */
    } cases[] = {
        {"mongodb://h/chat", NULL},
        {"mongodb://u:topsecret@h1:1,h2:2/chat?replicaSet=r&w=majority&tls=true", NULL},
        {"mongodb+srv://u:topsecret@chat.example.org/", NULL},
        {"mongodb://h/?w=1&readPreference=secondary&readConcernLevel=local", NULL}, /* overruled */
        {"http://u:topsecret@h/", "mongodb://"},
        {"mongodb://u:topsecret@/chat", "host"},
        {"mongodb://u:topsecret@h:99999/", "ort"},
        {"mongodb://u:top/secret@h/", "ost"},
        {"mongodb://u:top%zzsecret@h/", "escape"},
        {"mongodb://u:top@secret@h/", "percent-encoded"},
        {"mongodb://u:top@secret/chat@h/", "percent-encoded"},
        {"mongodb://u:topsecret@h/?pool=3", "pool"},
        {"mongodb://u:topsecret@h/?tls=perhaps", "tls"},
        {"mongodb://u:topsecret@h/a.b", "database"},
        {"mongodb+srv://u:topsecret@chat.example.org:1/", "ort"},
    };
    struct host host;

    (void)state;
    host_open(&host, "");
    assert_false(store_mongo_wanted(&host.config));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char error[STORE_MONGO_ERROR_MAX] = "";
        int status;

        snprintf(host.config.store, sizeof(host.config.store), "%s", cases[i].uri);
        assert_true(store_mongo_wanted(&host.config));
        status = store_mongo_check(&host.config, error);
        if ((status == 0) != !cases[i].word || (status == 0) != (error[0] == '\0'))
            fail_msg("%s: %d %s", cases[i].uri, status, error);
        if (cases[i].word && !strstr(error, cases[i].word))
            fail_msg("%s: %s", cases[i].uri, error);
        assert_null(strstr(error, "secret"));
    }
    assert_int_equal(log_lines(&host, "mongodb_overruled", ""), 3);
    host_close(&host);
}

static void make_id(const char *uri, uint8_t id[RING_ID_SIZE])
{
    struct config config;

    config_defaults(&config);
    snprintf(config.store, sizeof(config.store), "%s", uri);
    store_mongo_id(&config, id);
}

static void test_the_identity_is_hosts_and_database(void **state)
{
    static const char *const same[] = {"mongodb://ana:x@b:1,a:2/chat", "mongodb://a:2,b:1/chat?w=1"};
    static const char *const others[] = {"mongodb://a:2,b:1/chat2", "mongodb://a:2/chat",
                                         "mongodb://a:2,b:2/chat", "mongodb+srv://a.b.c/chat"};
    uint8_t id[RING_ID_SIZE], other[RING_ID_SIZE];

    (void)state;
    make_id("mongodb://a:2,b:1/chat", id);
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        make_id(same[i], other);
        assert_memory_equal(id, other, RING_ID_SIZE);
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        make_id(others[i], other);
        assert_memory_not_equal(id, other, RING_ID_SIZE);
    }
}

static void test_a_probe_says_what_is_wrong(void **state)
{
    char error[STORE_MONGO_ERROR_MAX];
    struct host host;

    (void)state;
    need_server(true);
    host_open(&host, NULL);
    assert_int_equal(store_mongo_probe(&host.config, error), 0);
    snprintf(host.config.store, sizeof(host.config.store), "mongodb://127.0.0.1:%d/", free_port());
    assert_true(store_mongo_probe(&host.config, error) < 0);
    assert_non_null(strstr(error, "server_selection"));
    host_close(&host);
}

static void test_too_many_reads_are_refused_all_are_answered_and_no_commit_waits_for_them(void **state)
{
    enum { READS = 6000 };
    struct answer *answers = calloc(READS, sizeof(*answers));
    struct message message = make_message("b", "ana", NO_KEY, 1);
    int none = 0, busy = 0, failed = 0, open = 0;
    struct host host;

    (void)state;
    need_server(false);
    host_open(&host, NULL);
    host_start(&host);
    for (int i = 0; i < READS; i++) {
        store_find(host.store, text("a"), text("ana"), text("key"), NULL, on_number, &answers[i]);
        assert_int_equal(answers[i].calls, 0);
    }
    assert_answer(commit(&host, &message), STORE_OK, 1);
    for (int i = 0; i < READS; i++)
        open += answers[i].calls == 0;
    assert_true(open > 0);
    for (int i = 0; i < READS; i++) {
        wait_until(&host, answers[i].calls > 0);
        none += answers[i].status == STORE_NONE;
        busy += answers[i].status == STORE_BUSY;
        failed += answers[i].status == STORE_FAILED; /* waited for longer than STORE_MONGO_READ_MS */
    }
    assert_int_equal(none + busy + failed, READS);
    assert_true(none > 0);
    assert_true(busy > 0);
    free(answers);
    host_close(&host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages_are_the_newest_of_the_asked_range),
        cmocka_unit_test(test_keys_are_compared_as_bytes),
        cmocka_unit_test(test_duplicates_are_settled_by_number_and_key),
        cmocka_unit_test(test_messages_of_one_batch_may_collide_with_each_other),
        cmocka_unit_test(test_only_what_stands_is_committed),
        cmocka_unit_test(test_a_frozen_server_fills_the_queue_and_then_gets_everything_once),
        cmocka_unit_test(test_a_server_killed_and_restarted_gets_everything_once),
        cmocka_unit_test(test_what_moved_and_never_got_through_is_to_be_published_again),
        cmocka_unit_test(test_what_moved_and_got_through_is_found_or_kept_out_by_its_key),
        cmocka_unit_test(test_an_index_that_can_not_be_made_stops_writing_but_not_reading),
        cmocka_unit_test(test_rooms_come_latest_activity_first),
        cmocka_unit_test(test_users_are_noted_once_a_minute_at_most),
        cmocka_unit_test(test_what_can_not_be_committed_is_spooled_and_handed_up_by_the_next),
        cmocka_unit_test(test_a_spool_file_stays_while_one_of_its_messages_fails),
        cmocka_unit_test(test_a_damaged_spool_gives_what_is_whole),
        cmocka_unit_test(test_close_commits_what_is_queued),
        cmocka_unit_test(test_a_batch_that_is_out_when_the_worker_ends_is_spooled_as_well),
        cmocka_unit_test(test_an_unreachable_host_is_one_line_and_a_reason),
        cmocka_unit_test(test_a_refused_user_is_one_line_and_no_secret),
        cmocka_unit_test(test_settings_are_checked_without_telling_secrets),
        cmocka_unit_test(test_the_identity_is_hosts_and_database),
        cmocka_unit_test(test_a_probe_says_what_is_wrong),
        cmocka_unit_test(test_too_many_reads_are_refused_all_are_answered_and_no_commit_waits_for_them),
    };

    return cmocka_run_group_tests(tests, server_set_up, server_tear_down);
}
