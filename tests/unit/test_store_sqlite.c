/* test_store_sqlite.c - what is acked is stored, once, under one number, whatever dies or fails then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "bus/ring_layout.h"
#include "chatd/bus_log.h"
#include "chatd/clock.h"
#include "chatd/config.h"
#include "chatd/store_sqlite.h"
#include "store/sqlite_batch.h"

#define NO_KEY ((struct text){NULL, 0})

enum { RING_BYTES = 1 << 20, DEADLINE_MS = 20000, ANSWERS = 8192 };

/* One worker of a host; several may share a data directory. */
struct host {
    char dir[64];
    uint8_t store_id[RING_ID_SIZE];
    struct ring *ring;
    uv_loop_t loop;
    uv_timer_t tick;
    struct bus *bus;
    struct store *store; /* NULL before start_store */
    struct config config;
};

struct answer {
    enum store_status status;
    uint64_t seq;
    int calls;
};

/* --- A worker without chat --- */

static void ignore_record(void *arg, const struct message *message)
{
    (void)arg;
    (void)message;
}

static void ignore_event(void *arg, struct text room, struct text user, struct text event)
{
    (void)arg;
    (void)room;
    (void)user;
    (void)event;
}

static void ignore_lost(void *arg, struct text room)
{
    (void)arg;
    (void)room;
}

static void ignore_orphan(void *arg, const struct message *message, bool stands)
{
    (void)arg;
    (void)message;
    (void)stands;
}

static void ignore_gone(void *arg, struct text room, struct text user, uint32_t members)
{
    (void)arg;
    (void)room;
    (void)user;
    (void)members;
}

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

static void open_host(struct host *host, const char *dir)
{
    char error[RING_ERROR_MAX] = "";

    memset(host, 0, sizeof(*host));
    config_defaults(&host->config);
    snprintf(host->dir, sizeof(host->dir), "%s", dir != NULL ? dir : "/tmp/chatd-store-XXXXXX");
    if (dir == NULL)
        assert_non_null(mkdtemp(host->dir));
    if (store_sqlite_prepare(host->dir, host->store_id, error) != 0)
        fail_msg("prepare: %s", error);
    if (ring_open(&host->ring, host->dir, host->store_id, RING_BYTES, error) != 0)
        fail_msg("ring: %s", error);
    assert_int_equal(uv_loop_init(&host->loop), 0);
    uv_timer_init(&host->loop, &host->tick);
    uv_timer_start(&host->tick, on_tick, 5, 5);
}

static void start_store(struct host *host)
{
    const struct bus_handler handler = {
        NULL, ignore_record, ignore_event, ignore_lost, ignore_gone, ignore_orphan};

    assert_int_equal(store_sqlite_new(&host->store, &host->loop, host->ring, host->dir, &host->config), 0);
    assert_int_equal(
        bus_log_new(&host->bus, &host->loop, host->ring, &handler, store_sqlite_on_committed, host->store),
        0);
}

static void stop_store(struct host *host, int patience_ms)
{
    store_sqlite_close(host->store, patience_ms);
    bus_log_close(host->bus);
    uv_run(&host->loop, UV_RUN_NOWAIT); /* the close callbacks */
    host->store = NULL;
}

static void close_host(struct host *host, bool forget)
{
    char command[128];

    if (host->store != NULL)
        stop_store(host, 5000);
    uv_close((uv_handle_t *)&host->tick, NULL);
    uv_run(&host->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&host->loop), 0);
    if (forget) {
        unlink(ring_path(host->ring));
        snprintf(command, sizeof(command), "rm -r '%s'", host->dir);
        assert_int_equal(system(command), 0);
    }
    ring_close(host->ring);
}

static void turn(struct host *host)
{
    uv_run(&host->loop, UV_RUN_ONCE);
    bus_turn(host->bus);
}

#define wait_until(host, condition) \
    do { \
        int64_t deadline = clock_monotonic_ms() + DEADLINE_MS; \
        while (!(condition)) { \
            if (clock_monotonic_ms() > deadline) \
                fail_msg("never: %s", #condition); \
            turn(host); \
        } \
    } while (0)

/* --- Publishing, with a uid and a number of the test's choice --- */

static struct text text(const char *string)
{
    return (struct text){string, strlen(string)};
}

static bool append(struct host *host, const char *room, const char *user, struct text key, const char *body,
                   struct message *message)
{
    char tail[8192];
    struct ring_append append = {.kind = RING_MESSAGE, .room = text(room), .user = text(user), .key = key};
    uint8_t uid[MESSAGE_UID_SIZE];
    uint64_t position;
    uint32_t row;

    assert_int_equal(getrandom(uid, sizeof(uid), 0), sizeof(uid));
    append.uid = uid;
    append.head = text("{\"seq\":");
    append.tail.data = tail;
    append.tail.length = (size_t)snprintf(tail, sizeof(tail), ",\"text\":\"%s\"}", body);
    ring_lock(host->ring);
    row = roster_open(host->ring, append.room, 0);
    assert_int_not_equal(row, RING_NONE);
    position = ring_append(host->ring, row, &append);
    if (position != 0)
        ring_record_message(ring_at(host->ring, position), position, message);
    ring_unlock(host->ring);
    ring_kick(host->ring);
    message->room = append.room;
    message->user = append.user;
    message->key = append.key;
    return position != 0;
}

static void on_number(void *arg, enum store_status status, uint64_t seq)
{
    struct answer *answer = arg;

    answer->status = status;
    answer->seq = seq;
    answer->calls++;
}

static void wait_for(struct host *host, const struct answer *answer)
{
    assert_int_equal(answer->calls, 0); /* never before the call returns */
    wait_until(host, answer->calls > 0);
    assert_int_equal(answer->calls, 1);
}

static struct message publish(struct host *host, const char *room, const char *user, struct text key)
{
    int64_t deadline = clock_monotonic_ms() + DEADLINE_MS;
    struct message message;

    while (!append(host, room, user, key, "hello", &message)) {
        assert_true(clock_monotonic_ms() < deadline); /* full, until the writer has committed */
        usleep(1000);
    }
    return message;
}

static struct answer commit(struct host *host, const struct message *message)
{
    struct answer answer = {0};

    store_commit(host->store, message, on_number, &answer);
    wait_for(host, &answer);
    return answer;
}

/* Publishes, waits for the ack, and returns the number. */
static uint64_t say(struct host *host, const char *room, const char *user, struct text key)
{
    struct message message = publish(host, room, user, key);
    struct answer answer = commit(host, &message);

    assert_int_equal(answer.status, STORE_OK);
    return answer.seq;
}

/* --- Reading back --- */

struct page_answer {
    struct answer answer;
    uint64_t seqs[64];
    uint32_t count;
    bool more;
};

static void on_page(void *arg, enum store_status status, const struct page *page, bool more)
{
    struct page_answer *answer = arg;

    answer->answer.status = status;
    answer->answer.calls++;
    answer->count = page->count;
    answer->more = more;
    for (uint32_t i = 0; i < page->count && i < 64; i++) {
        const struct page_entry *entry = &page->entries[i];
        char expected[64];
        int length = snprintf(expected, sizeof(expected), "{\"seq\":%llu,", (unsigned long long)entry->seq);

        answer->seqs[i] = entry->seq;
        assert_true(entry->length > (uint32_t)length);
        assert_memory_equal(page->bytes.data + entry->offset, expected, (size_t)length);
    }
}

static struct page_answer read_page(struct host *host, const char *room, uint64_t above, uint64_t upto,
                                    uint32_t limit)
{
    struct page_answer answer = {0};

    store_page(host->store, text(room), above, upto, limit, on_page, &answer);
    wait_for(host, &answer.answer);
    assert_int_equal(answer.answer.status, STORE_OK);
    return answer;
}

static void assert_page(struct host *host, const char *room, uint64_t above, uint64_t upto, uint32_t limit,
                        const uint64_t *seqs, uint32_t count, bool more)
{
    struct page_answer answer = read_page(host, room, above, upto, limit);

    assert_int_equal(answer.count, count);
    assert_int_equal(answer.more, more);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(answer.seqs[i], seqs[i]);
}

static struct answer find(struct host *host, const char *room, const char *user, struct text key)
{
    struct answer answer = {0};

    store_find(host->store, text(room), text(user), key, NULL, on_number, &answer);
    wait_for(host, &answer);
    return answer;
}

static struct answer find_uid(struct host *host, const char *room, const struct message *message)
{
    struct answer answer = {0};

    store_find(host->store, text(room), message->user, NO_KEY, message->uid, on_number, &answer);
    wait_for(host, &answer);
    return answer;
}

static uint64_t highest(struct host *host, const char *room)
{
    struct answer answer = {0};

    store_highest(host->store, text(room), on_number, &answer);
    wait_for(host, &answer);
    assert_int_equal(answer.status, STORE_OK);
    return answer.seq;
}

static bool is_healthy(struct host *host)
{
    struct store_health health;

    store_health(host->store, &health);
    assert_int_equal(health.ok, health.error[0] == '\0');
    return health.ok;
}

static sqlite3 *open_beside(const char *dir)
{
    char path[96];
    sqlite3 *db;

    snprintf(path, sizeof(path), "%s/chat.db", dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    return db;
}

static void execute(sqlite3 *db, const char *sql)
{
    char *message = NULL;

    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
}

static int count_rows(const char *dir)
{
    sqlite3 *db = open_beside(dir);
    sqlite3_stmt *statement;
    int count;

    assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*) FROM messages", -1, &statement, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    count = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return count;
}

/* --- Tests --- */

static void test_pages_are_the_newest_of_the_asked_range(void **state)
{
    struct host host;
    uint64_t seqs[10];

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    for (int i = 0; i < 10; i++) {
        seqs[i] = say(&host, "a", "ana", NO_KEY);
        if (i % 3 == 0)
            say(&host, "b", "ana", NO_KEY);
    }
    assert_page(&host, "a", 0, UINT64_MAX, 100, seqs, 10, false);
    assert_page(&host, "a", 0, UINT64_MAX, 10, seqs, 10, false);
    assert_page(&host, "a", 0, UINT64_MAX, 9, seqs + 1, 9, true);
    assert_page(&host, "a", 0, seqs[4], 3, seqs + 2, 3, true);
    assert_page(&host, "a", 0, seqs[4] - 1, 3, seqs + 1, 3, true);
    assert_page(&host, "a", seqs[4], seqs[7], 100, seqs + 5, 3, false);
    assert_page(&host, "a", seqs[4], seqs[7], 3, seqs + 5, 3, false);
    assert_page(&host, "a", seqs[4], seqs[7], 2, seqs + 6, 2, true);
    assert_page(&host, "a", seqs[4], seqs[4], 100, NULL, 0, false);
    assert_page(&host, "a", seqs[9], UINT64_MAX, 100, NULL, 0, false);
    assert_page(&host, "a", UINT64_MAX, UINT64_MAX, 100, NULL, 0, false);
    assert_page(&host, "a", 0, UINT64_MAX, 0, NULL, 0, true);
    assert_page(&host, "nowhere", 0, UINT64_MAX, 100, NULL, 0, false);
    assert_int_equal(highest(&host, "a"), seqs[9]);
    assert_int_equal(highest(&host, "nowhere"), 0);
    close_host(&host, true);
}

static void test_keys_are_compared_as_bytes(void **state)
{
    static const struct text keys[] = {{"k", 1}, {"k\0", 2}, {"k\0a", 3}, {"k\0b", 3},
                                       {"K", 1}, {"1", 1},   {"01", 2}};
    enum { KEYS = sizeof(keys) / sizeof(keys[0]) };
    struct host host;
    uint64_t seqs[KEYS], other_user, other_room;

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    for (int i = 0; i < KEYS; i++)
        seqs[i] = say(&host, "a", "ana", keys[i]);
    other_user = say(&host, "a", "bob", keys[0]);
    other_room = say(&host, "b", "ana", keys[0]);
    for (int i = 0; i < KEYS; i++) {
        struct answer answer = find(&host, "a", "ana", keys[i]);

        assert_int_equal(answer.status, STORE_OK);
        assert_int_equal(answer.seq, seqs[i]);
    }
    assert_int_equal(find(&host, "a", "bob", keys[0]).seq, other_user);
    assert_int_equal(find(&host, "b", "ana", keys[0]).seq, other_room);
    assert_int_equal(find(&host, "a", "bob", keys[1]).status, STORE_NONE);
    assert_int_equal(find(&host, "a", "eve", keys[0]).status, STORE_NONE);
    assert_int_equal(find(&host, "c", "ana", keys[0]).status, STORE_NONE);
    assert_int_equal(find(&host, "a", "ana", NO_KEY).status, STORE_NONE);
    assert_int_equal(count_rows(host.dir), KEYS + 2);
    close_host(&host, true);
}

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
    for (uint32_t i = 0; i < count; i++) {
        strncat(answer->names, names[i].data, names[i].length);
        strcat(answer->names, " ");
    }
}

static void test_rooms_come_latest_activity_first(void **state)
{
    struct rooms_answer all = {0}, two = {0};
    struct host host;
    uint64_t last;

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    for (const char *const *room = (const char *const[]){"a", "b", "c", "a", NULL}; *room != NULL; room++) {
        int64_t now = clock_wall_ms();

        last = say(&host, *room, "ana", NO_KEY);
        while (clock_wall_ms() == now)
            ;
    }
    store_rooms(host.store, 10, on_rooms, &all);
    wait_for(&host, &all.answer);
    assert_string_equal(all.names, "a c b ");
    assert_int_equal(all.first, last);
    store_rooms(host.store, 2, on_rooms, &two);
    wait_for(&host, &two.answer);
    assert_string_equal(two.names, "a c ");
    close_host(&host, true);
}

static void test_a_restart_finds_everything(void **state)
{
    struct host host;
    uint8_t store_id[RING_ID_SIZE];
    uint64_t seqs[5];
    char dir[64];

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    for (int i = 0; i < 5; i++)
        seqs[i] = say(&host, "a", "ana", i == 2 ? text("key") : NO_KEY);
    memcpy(store_id, host.store_id, sizeof(store_id));
    memcpy(dir, host.dir, sizeof(dir));
    unlink(ring_path(host.ring)); /* as a reboot does */
    close_host(&host, false);

    open_host(&host, dir);
    assert_memory_equal(host.store_id, store_id, sizeof(store_id));
    start_store(&host);
    assert_page(&host, "a", 0, UINT64_MAX, 10, seqs, 5, false);
    assert_int_equal(find(&host, "a", "ana", text("key")).seq, seqs[2]);
    close_host(&host, true);
}

/* What a writer does up to and with COMMIT, and then nothing more. */
static void write_and_die(struct host *host)
{
    struct sqlite_batch *batch;
    char error[RING_ERROR_MAX] = "";
    uint64_t position = ring_committed(host->ring);
    uint32_t messages = 1;

    if (sqlite_batch_open(&batch, host->ring, host->dir, error) != 0)
        fail_msg("%s", error);
    while (messages > 0) {
        if (sqlite_batch_run(batch, host->ring, &position, &messages, error) != 0)
            fail_msg("%s", error);
    }
    assert_int_equal(position, ring_head(host->ring));
    sqlite_batch_close(batch);
}

static void test_a_writer_that_died_after_its_commit_is_done_over_without_doubles(void **state)
{
    const struct text keys[5] = {{"x", 1}, NO_KEY, {"y", 1}, NO_KEY, {"z", 1}};
    struct message messages[5];
    struct host host;

    (void)state;
    open_host(&host, NULL);
    for (int i = 0; i < 5; i++)
        messages[i] = publish(&host, "a", "ana", keys[i]);
    write_and_die(&host);
    start_store(&host);
    for (int i = 0; i < 5; i++) {
        struct answer answer = commit(&host, &messages[i]);

        assert_int_equal(answer.status, STORE_OK);
        assert_int_equal(answer.seq, messages[i].seq);
    }
    assert_int_equal(count_rows(host.dir), 5);
    close_host(&host, true);
}

static void test_a_key_that_is_stored_is_acked_with_its_number(void **state)
{
    struct host host;
    struct message again[2];
    uint64_t seq, next;

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    seq = say(&host, "a", "ana", text("key"));
    again[0] = publish(&host, "a", "ana", text("key"));
    again[1] = publish(&host, "a", "ana", text("key"));
    next = say(&host, "a", "ana", text("other"));
    for (int i = 0; i < 2; i++) {
        struct answer answer = commit(&host, &again[i]);

        assert_int_equal(answer.status, STORE_OK);
        assert_int_equal(answer.seq, seq);
    }
    assert_page(&host, "a", 0, UINT64_MAX, 10, (uint64_t[]){seq, next}, 2, false);
    close_host(&host, true);
}

/* Makes the bus forget that it gave the room's last number. */
static void turn_numbers_back(struct host *host, const char *room)
{
    ring_lock(host->ring);
    host->ring->rooms[roster_find(host->ring, text(room))].seq--;
    ring_unlock(host->ring);
}

static void test_a_number_taken_by_another_message_is_given_anew(void **state)
{
    struct message second, third;
    struct answer answers[2] = {{0}};
    struct host host;
    uint64_t seq;

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    seq = say(&host, "a", "ana", NO_KEY);
    turn_numbers_back(&host, "a");
    second = publish(&host, "a", "bob", NO_KEY);
    assert_int_equal(second.seq, seq);
    third = publish(&host, "b", "bob", NO_KEY);
    store_commit(host.store, &second, on_number, &answers[0]);
    store_commit(host.store, &third, on_number, &answers[1]);
    wait_for(&host, &answers[1]);
    wait_until(&host, answers[0].calls > 0);
    assert_int_equal(answers[0].status, STORE_OK);
    assert_true(answers[0].seq > seq);
    assert_int_equal(answers[1].seq, third.seq);
    assert_page(&host, "a", 0, UINT64_MAX, 10, (uint64_t[]){seq, answers[0].seq}, 2, false);
    close_host(&host, true);
}

static void test_a_message_given_a_new_number_by_a_writer_that_died_is_not_given_another(void **state)
{
    struct message first, second, third;
    struct host host;

    (void)state;
    open_host(&host, NULL);
    first = publish(&host, "a", "ana", NO_KEY);
    write_and_die(&host);
    turn_numbers_back(&host, "a");
    second = publish(&host, "a", "bob", NO_KEY);
    turn_numbers_back(&host, "a");
    third = publish(&host, "a", "bob", text("key"));
    assert_int_equal(second.seq, first.seq);
    assert_int_equal(third.seq, first.seq);
    write_and_die(&host);
    start_store(&host);
    assert_int_equal(commit(&host, &first).seq, first.seq);
    assert_true(commit(&host, &second).seq > first.seq);
    assert_true(commit(&host, &third).seq > first.seq);
    assert_int_equal(count_rows(host.dir), 3);
    close_host(&host, true);
}

static void test_a_locked_database_delays_and_nothing_is_lost(void **state)
{
    struct answer answer = {0};
    struct store_health health;
    struct message message;
    struct host host;
    sqlite3 *db;

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    say(&host, "a", "ana", NO_KEY);
    assert_true(is_healthy(&host));
    db = open_beside(host.dir);
    execute(db, "BEGIN IMMEDIATE");
    message = publish(&host, "a", "ana", NO_KEY);
    store_commit(host.store, &message, on_number, &answer);
    wait_until(&host, !is_healthy(&host));
    store_health(host.store, &health);
    assert_non_null(strstr(health.error, "locked"));
    assert_true(health.queued_bytes > 0);
    assert_true(health.since_ms > 0);
    assert_int_equal(read_page(&host, "a", 0, UINT64_MAX, 10).count, 1);
    assert_int_equal(answer.calls, 0);
    execute(db, "ROLLBACK");
    wait_for(&host, &answer);
    assert_int_equal(answer.status, STORE_OK);
    assert_int_equal(answer.seq, message.seq);
    wait_until(&host, is_healthy(&host));
    sqlite3_close(db);
    close_host(&host, true);
}

/* A file size limit stands for a full disk: SQLite's writes fail in the middle of a transaction. */
static void test_a_full_disk_delays_and_nothing_is_lost(void **state)
{
    enum { MESSAGES = 60 };
    struct answer answers[MESSAGES] = {{0}};
    struct rlimit before, small;
    struct host host;

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    say(&host, "a", "ana", NO_KEY);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 100 * 1024;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (int i = 0; i < MESSAGES; i++) {
        static char body[4000];
        struct message message;

        memset(body, 'x', sizeof(body) - 1);
        assert_true(append(&host, "a", "ana", NO_KEY, body, &message));
        store_commit(host.store, &message, on_number, &answers[i]);
    }
    wait_until(&host, !is_healthy(&host));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    for (int i = 0; i < MESSAGES; i++) {
        wait_until(&host, answers[i].calls > 0);
        assert_int_equal(answers[i].status, STORE_OK);
    }
    wait_until(&host, is_healthy(&host));
    assert_int_equal(count_rows(host.dir), MESSAGES + 1);
    close_host(&host, true);
}

static void hold_a_transaction(struct host *host, int ready)
{
    sqlite3 *db;

    if (!ring_writer_lock(host->ring, 5000))
        _exit(1);
    db = open_beside(host->dir);
    execute(db, "BEGIN IMMEDIATE; INSERT INTO rooms(name, highest, active) VALUES('a', 99, 99)");
    if (write(ready, "", 1) != 1)
        _exit(1);
    for (;;)
        pause();
}

static void test_a_writer_killed_inside_its_transaction_is_replaced(void **state)
{
    struct answer answer = {0};
    struct message message;
    struct host host;
    int ready[2];
    char byte;
    pid_t child;

    (void)state;
    open_host(&host, NULL);
    assert_int_equal(pipe(ready), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0)
        hold_a_transaction(&host, ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    start_store(&host);
    message = publish(&host, "a", "ana", NO_KEY);
    store_commit(host.store, &message, on_number, &answer);
    for (int i = 0; i < 20; i++)
        turn(&host);
    assert_int_equal(answer.calls, 0);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    wait_for(&host, &answer);
    assert_int_equal(answer.status, STORE_OK);
    assert_page(&host, "a", 0, UINT64_MAX, 10, &message.seq, 1, false);
    close(ready[0]);
    close(ready[1]);
    close_host(&host, true);
}

static void test_the_office_passes_to_the_next_worker(void **state)
{
    struct host first, second;
    struct answer answer = {0};
    struct message message;

    (void)state;
    open_host(&first, NULL);
    start_store(&first);
    say(&first, "a", "ana", NO_KEY);
    open_host(&second, first.dir);
    start_store(&second);
    message = publish(&second, "a", "bob", NO_KEY);
    store_commit(second.store, &message, on_number, &answer);
    wait_for(&second, &answer);
    assert_int_equal(answer.seq, message.seq);
    close_host(&first, false);
    say(&second, "a", "bob", NO_KEY);
    assert_int_equal(read_page(&second, "a", 0, UINT64_MAX, 10).count, 3);
    close_host(&second, true);
}

static void test_a_message_without_a_key_is_found_by_its_uid(void **state)
{
    struct message first, second;
    struct host host;

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    first = publish(&host, "a", "ana", NO_KEY);
    second = publish(&host, "a", "ana", NO_KEY);
    assert_int_equal(commit(&host, &first).status, STORE_OK);
    assert_int_equal(commit(&host, &second).status, STORE_OK);
    assert_int_equal(find_uid(&host, "a", &first).seq, first.seq);
    assert_int_equal(find_uid(&host, "a", &second).seq, second.seq);
    assert_int_equal(find_uid(&host, "b", &first).status, STORE_NONE);
    first.uid[MESSAGE_UID_SIZE - 1] ^= 1;
    assert_int_equal(find_uid(&host, "a", &first).status, STORE_NONE);
    close_host(&host, true);
}

static void test_a_record_that_the_ring_has_overwritten_is_found_in_the_database(void **state)
{
    struct message old, old_void, message;
    struct answer answers[3] = {{0}};
    struct host host;
    uint64_t tail;

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    old = publish(&host, "a", "ana", text("key"));
    old_void = publish(&host, "a", "ana", text("key"));
    store_commit(host.store, &old, on_number, &answers[0]);
    store_commit(host.store, &old_void, on_number, &answers[1]);
    /* The loop doesn't run meanwhile, as if it were busy until the ring has turned over once. */
    do {
        message = publish(&host, "b", "bob", NO_KEY);
        ring_lock(host.ring);
        tail = host.ring->header->tail;
        ring_unlock(host.ring);
    } while (tail <= old_void.position);
    store_commit(host.store, &message, on_number, &answers[2]);
    for (int i = 0; i < 3; i++) {
        wait_until(&host, answers[i].calls > 0);
        assert_int_equal(answers[i].calls, 1);
        assert_int_equal(answers[i].status, STORE_OK);
    }
    assert_int_equal(answers[0].seq, old.seq);
    assert_int_equal(answers[1].seq, old.seq);
    assert_int_equal(answers[2].seq, message.seq);
    close_host(&host, true);
}

static void test_too_many_requests_are_refused_and_all_are_answered(void **state)
{
    struct answer *answers = calloc(ANSWERS, sizeof(*answers));
    int ok = 0, busy = 0;
    struct host host;

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    say(&host, "a", "ana", NO_KEY);
    for (int i = 0; i < ANSWERS; i++) {
        store_find(host.store, text("a"), text("ana"), text("key"), NULL, on_number, &answers[i]);
        assert_int_equal(answers[i].calls, 0);
    }
    for (int i = 0; i < ANSWERS; i++) {
        wait_until(&host, answers[i].calls > 0);
        assert_int_equal(answers[i].calls, 1);
        ok += answers[i].status == STORE_NONE;
        busy += answers[i].status == STORE_BUSY;
    }
    assert_int_equal(ok + busy, ANSWERS);
    assert_true(ok >= 4096);
    free(answers);
    close_host(&host, true);
}

/* They may all be read by one look-up; they are not all answered in one turn of the loop. */
static void test_those_who_ask_for_the_same_page_all_get_it_a_turns_worth_at_a_time(void **state)
{
    enum { ASKERS = 2000, OF_A_TURN = 256 };
    struct page_answer *answers = calloc(ASKERS, sizeof(*answers));
    struct answer busy[500] = {0};
    int answered = 0;
    uint64_t seq = 0;
    struct host host;

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    for (int i = 0; i < 3; i++)
        seq = say(&host, "a", "ana", NO_KEY);
    for (int i = 0; i < 500; i++)
        store_highest(host.store, text("a"), on_number, &busy[i]);
    for (int i = 0; i < ASKERS; i++)
        store_page(host.store, text("a"), seq - 2, seq, 1 + (uint32_t)i % 2, on_page, &answers[i]);
    while (answered < ASKERS) {
        int before = answered;

        turn(&host);
        answered = 0;
        for (int i = 0; i < ASKERS; i++)
            answered += answers[i].answer.calls;
        assert_true(answered - before <= OF_A_TURN);
    }
    for (int i = 0; i < ASKERS; i++) {
        assert_int_equal(answers[i].answer.calls, 1);
        assert_int_equal(answers[i].answer.status, STORE_OK);
        assert_int_equal(answers[i].count, 1 + i % 2);
        assert_int_equal(answers[i].more, i % 2 == 0);
        assert_int_equal(answers[i].seqs[i % 2], seq);
    }
    free(answers);
    close_host(&host, true);
}

static void test_close_answers_whoever_still_waits(void **state)
{
    struct answer stored = {0}, stuck = {0}, *reads = calloc(100, sizeof(*reads));
    struct message message;
    struct host host;
    sqlite3 *db;

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    message = publish(&host, "a", "ana", NO_KEY);
    store_commit(host.store, &message, on_number, &stored);
    stop_store(&host, 5000);
    assert_int_equal(stored.calls, 1);
    assert_int_equal(stored.status, STORE_OK);

    start_store(&host);
    db = open_beside(host.dir);
    execute(db, "BEGIN IMMEDIATE");
    message = publish(&host, "a", "ana", NO_KEY);
    store_commit(host.store, &message, on_number, &stuck);
    for (int i = 0; i < 100; i++)
        store_highest(host.store, text("a"), on_number, &reads[i]);
    stop_store(&host, 300);
    assert_int_equal(stuck.calls, 1);
    assert_int_equal(stuck.status, STORE_FAILED);
    for (int i = 0; i < 100; i++)
        assert_int_equal(reads[i].calls, 1);
    execute(db, "ROLLBACK");
    sqlite3_close(db);

    /* What was left is in the ring, and the next one stores it. */
    start_store(&host);
    assert_int_equal(commit(&host, &message).seq, message.seq);
    free(reads);
    close_host(&host, true);
}

struct publisher {
    struct host *host;
    const char *user;
    int messages;
};

static void *publish_many(void *arg)
{
    const struct publisher *publisher = arg;

    for (int i = 0; i < publisher->messages;) {
        struct message message;
        char room[16];

        snprintf(room, sizeof(room), "room-%d", i % 50);
        if (append(publisher->host, room, publisher->user, NO_KEY, "hello", &message))
            i++;
        else
            usleep(1000);
    }
    return NULL;
}

static void test_publishers_writer_and_reader_run_side_by_side(void **state)
{
    struct publisher publishers[2];
    pthread_t threads[2];
    struct host host;
    uint64_t seen = 0;

    (void)state;
    open_host(&host, NULL);
    start_store(&host);
    for (int i = 0; i < 2; i++) {
        publishers[i] = (struct publisher){&host, i == 0 ? "ana" : "bob", 5000};
        assert_int_equal(pthread_create(&threads[i], NULL, publish_many, &publishers[i]), 0);
    }
    for (int i = 0; i < 200; i++) {
        struct page_answer page = read_page(&host, "room-7", 0, UINT64_MAX, 50);

        for (uint32_t j = 1; j < page.count; j++)
            assert_true(page.seqs[j] == page.seqs[j - 1] + 1);
        if (page.count > 0) {
            assert_true(page.seqs[page.count - 1] >= seen);
            seen = page.seqs[page.count - 1];
        }
        say(&host, "room-7", "eve", NO_KEY);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    wait_until(&host, ring_committed(host.ring) == ring_head(host.ring));
    assert_int_equal(count_rows(host.dir), 10200);
    close_host(&host, true);
}

static void test_a_database_that_is_not_ours_is_refused(void **state)
{
    uint8_t store_id[RING_ID_SIZE];
    char error[RING_ERROR_MAX] = "", dir[] = "/tmp/chatd-store-XXXXXX", command[128];
    sqlite3 *db;

    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(store_sqlite_prepare(dir, store_id, error), 0);
    db = open_beside(dir);
    execute(db, "UPDATE meta SET value = 2 WHERE name = 'schema'");
    assert_true(store_sqlite_prepare(dir, store_id, error) < 0);
    assert_non_null(strstr(error, "newer chatd"));
    execute(db, "DROP TABLE meta");
    assert_true(store_sqlite_prepare(dir, store_id, error) < 0);
    assert_non_null(strstr(error, "another program"));
    sqlite3_close(db);
    snprintf(command, sizeof(command), "rm -r %s && mkdir %s && head -c 8192 /bin/sh > %s/chat.db", dir, dir,
             dir);
    assert_int_equal(system(command), 0);
    assert_true(store_sqlite_prepare(dir, store_id, error) < 0);
    assert_non_null(strstr(error, "not a database"));
    snprintf(command, sizeof(command), "rm -r %s", dir);
    assert_int_equal(system(command), 0);
    assert_true(store_sqlite_prepare(dir, store_id, error) < 0);
    assert_non_null(strstr(error, "No such file"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages_are_the_newest_of_the_asked_range),
        cmocka_unit_test(test_keys_are_compared_as_bytes),
        cmocka_unit_test(test_rooms_come_latest_activity_first),
        cmocka_unit_test(test_a_restart_finds_everything),
        cmocka_unit_test(test_a_writer_that_died_after_its_commit_is_done_over_without_doubles),
        cmocka_unit_test(test_a_key_that_is_stored_is_acked_with_its_number),
        cmocka_unit_test(test_a_number_taken_by_another_message_is_given_anew),
        cmocka_unit_test(test_a_message_given_a_new_number_by_a_writer_that_died_is_not_given_another),
        cmocka_unit_test(test_a_locked_database_delays_and_nothing_is_lost),
        cmocka_unit_test(test_a_full_disk_delays_and_nothing_is_lost),
        cmocka_unit_test(test_a_writer_killed_inside_its_transaction_is_replaced),
        cmocka_unit_test(test_the_office_passes_to_the_next_worker),
        cmocka_unit_test(test_a_message_without_a_key_is_found_by_its_uid),
        cmocka_unit_test(test_a_record_that_the_ring_has_overwritten_is_found_in_the_database),
        cmocka_unit_test(test_too_many_requests_are_refused_and_all_are_answered),
        cmocka_unit_test(test_those_who_ask_for_the_same_page_all_get_it_a_turns_worth_at_a_time),
        cmocka_unit_test(test_close_answers_whoever_still_waits),
        cmocka_unit_test(test_publishers_writer_and_reader_run_side_by_side),
        cmocka_unit_test(test_a_database_that_is_not_ours_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
