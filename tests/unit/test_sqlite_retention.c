/* test_sqlite_retention.c - what one step deletes, what it leaves, and what it leaves to later ones. */
#include "ring_host.h"

#include <sqlite3.h>

#include "chatd/config.h"
#include "chatd/store_sqlite.h"
#include "store/sqlite_retention.h"
#include "store/store_retention.h"

enum { HOUR_S = 3600 };

struct base {
    char dir[64];
    struct ring *ring;
    struct config config;
    sqlite3 *db; /* beside the retention */
};

static void execute(struct base *base, const char *format, ...)
{
    char sql[512], *message = NULL;
    va_list args;

    va_start(args, format);
    vsnprintf(sql, sizeof(sql), format, args);
    va_end(args);
    if (sqlite3_exec(base->db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
}

static int64_t query(struct base *base, const char *sql)
{
    sqlite3_stmt *statement;
    int64_t value;

    assert_int_equal(sqlite3_prepare_v2(base->db, sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return value;
}

static void open_base(struct base *base)
{
    uint8_t store_id[RING_ID_SIZE];
    char error[RING_ERROR_MAX] = "", path[96];

    memset(base, 0, sizeof(*base));
    config_defaults(&base->config);
    snprintf(base->dir, sizeof(base->dir), "/tmp/chatd-retention-XXXXXX");
    assert_non_null(mkdtemp(base->dir));
    if (store_sqlite_prepare(base->dir, store_id, error) != 0 ||
        ring_open(&base->ring, base->dir, store_id, 1 << 20, error) != 0)
        fail_msg("%s", error);
    snprintf(path, sizeof(path), "%s/chat.db", base->dir);
    assert_int_equal(sqlite3_open(path, &base->db), SQLITE_OK);
    sqlite3_busy_timeout(base->db, 5000);
}

static void close_base(struct base *base)
{
    char command[96];

    sqlite3_close(base->db);
    unlink(ring_path(base->ring));
    ring_close(base->ring);
    snprintf(command, sizeof(command), "rm -r %s", base->dir);
    assert_int_equal(system(command), 0);
}

/* A room with messages 1 to `count`, of which those up to `old` are an hour old. */
static void add_room(struct base *base, const char *name, int count, int old)
{
    execute(base, "INSERT INTO rooms(name, highest, active) VALUES('%s', %d, unixepoch() * 1000)", name,
            count);
    execute(base,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)"
            " INSERT INTO messages(room, seq, uid, user, time, event)"
            " SELECT (SELECT id FROM rooms WHERE name = '%s'), i, randomblob(16), 'ana',"
            " (unixepoch() - CASE WHEN i > %d THEN 0 ELSE %d END) * 1000, '{}' FROM n",
            count, name, old, HOUR_S);
}

/* Steps until the run is over. How many there were. */
static int run(struct base *base)
{
    struct sqlite_retention *retention = sqlite_retention_new(&base->config, base->ring, base->dir);
    int64_t deadline = clock_monotonic_ms() + HOST_DEADLINE_MS;
    int steps = 0, ms;

    do {
        ms = sqlite_retention_step(retention);
        steps++;
        assert_true(clock_monotonic_ms() < deadline);
        usleep((ms < 1000 ? (unsigned)ms : 0) * 1000);
    } while (ms < base->config.retention_interval / 2);
    sqlite_retention_free(retention);
    return steps;
}

static void test_a_step_deletes_no_more_than_it_may(void **state)
{
    struct base base;
    struct sqlite_retention *retention;
    const int old = 2 * RETENTION_ROWS + 1;

    (void)state;
    open_base(&base);
    base.config.retention_age = 30 * 60 * 1000;
    add_room(&base, "a", old + 3, old);
    add_room(&base, "b", 5, 0);
    retention = sqlite_retention_new(&base.config, base.ring, base.dir);
    assert_true(sqlite_retention_step(retention) > 0); /* not again at once: commits get their turn */
    assert_int_equal(query(&base, "SELECT count(*) FROM messages"), old + 8 - RETENTION_ROWS);
    assert_int_equal(query(&base, "SELECT seq FROM gone"), RETENTION_ROWS);
    sqlite_retention_free(retention); /* as if it was killed here */
    assert_true(run(&base) >= 3);
    assert_int_equal(query(&base, "SELECT count(*) FROM messages WHERE room = 1"), 3);
    assert_int_equal(query(&base, "SELECT min(seq) FROM messages WHERE room = 1"), old + 1);
    assert_int_equal(query(&base, "SELECT count(*) FROM messages WHERE room = 2"), 5);
    assert_int_equal(query(&base, "SELECT seq FROM gone WHERE room = 1"), old);
    assert_int_equal(query(&base, "SELECT count(*) FROM gone"), 1);
    assert_int_equal(query(&base, "SELECT highest FROM rooms WHERE id = 1"), old + 3);
    close_base(&base);
}

static void test_nothing_goes_that_a_retry_may_ask_for(void **state)
{
    struct base base;

    (void)state;
    open_base(&base);
    base.config.retention_age = 1; /* a millisecond, and still */
    base.config.retention_messages = 1;
    base.config.retention_rooms = 1;
    add_room(&base, "a", 40, 0);
    execute(&base, "UPDATE messages SET time = time - %lld",
            (long long)base.config.retry_window + RETENTION_CLOCKS_MS - HOST_DEADLINE_MS);
    run(&base);
    assert_int_equal(query(&base, "SELECT count(*) FROM messages"), 40);
    assert_int_equal(query(&base, "SELECT active > 0 FROM rooms"), 1);
    execute(&base, "UPDATE messages SET time = time - %d WHERE seq <= 30", HOST_DEADLINE_MS + 1000);
    run(&base);
    assert_int_equal(query(&base, "SELECT min(seq) FROM messages"), 31);
    close_base(&base);
}

static void test_the_newest_are_kept_however_numbers_jump(void **state)
{
    struct base base;

    (void)state;
    open_base(&base);
    base.config.retention_messages = 10;
    add_room(&base, "few", 10, 10);
    add_room(&base, "many", 12, 12);
    execute(&base, "UPDATE messages SET seq = seq * 1000000");
    execute(&base, "UPDATE rooms SET highest = 20000000");
    run(&base);
    assert_int_equal(query(&base, "SELECT count(*) FROM messages WHERE room = 1"), 10);
    assert_int_equal(query(&base, "SELECT count(*) FROM messages WHERE room = 2"), 10);
    assert_int_equal(query(&base, "SELECT min(seq) FROM messages WHERE room = 2"), 3000000);
    close_base(&base);
}

static void test_a_room_goes_only_when_nobody_is_in_it(void **state)
{
    struct base base;
    uint32_t row;
    bool changed;

    (void)state;
    open_base(&base);
    base.config.retention_rooms = 30 * 60 * 1000;
    add_room(&base, "left", RETENTION_ROWS, RETENTION_ROWS); /* a full step, and one to see that it was all */
    add_room(&base, "sat in", 3, 3);
    add_room(&base, "silent", 0, 0);
    execute(&base, "DELETE FROM messages WHERE room = 3");
    execute(&base, "UPDATE rooms SET active = (unixepoch() - %d) * 1000", HOUR_S);
    row = open_room(base.ring, "sat in");
    ring_lock(base.ring);
    assert_true(roster_enter(base.ring, row, text("ana"), 0, &changed));
    ring_unlock(base.ring);
    run(&base);
    assert_int_equal(query(&base, "SELECT count(*) FROM messages"), 3);
    assert_int_equal(query(&base, "SELECT count(*) FROM rooms WHERE active = 0"), 2);
    assert_int_equal(query(&base, "SELECT active > 0 FROM rooms WHERE name = 'sat in'"), 1);
    assert_int_equal(query(&base, "SELECT highest FROM rooms WHERE name = 'left'"), RETENTION_ROWS);
    close_base(&base);
}

static void test_a_locked_file_is_waited_for(void **state)
{
    struct base base;
    struct sqlite_retention *retention;

    (void)state;
    open_base(&base);
    base.config.retention_age = 30 * 60 * 1000;
    add_room(&base, "a", 5, 5);
    execute(&base, "BEGIN IMMEDIATE");
    retention = sqlite_retention_new(&base.config, base.ring, base.dir);
    for (int i = 0; i < 3; i++)
        assert_in_range(usleep(1000 * (unsigned)sqlite_retention_step(retention)), 0, 0);
    execute(&base, "COMMIT");
    assert_int_equal(query(&base, "SELECT count(*) FROM messages"), 5);
    assert_true(sqlite_retention_step(retention) < base.config.retention_interval / 2);
    assert_int_equal(query(&base, "SELECT count(*) FROM messages"), 0);
    sqlite_retention_free(retention);
    close_base(&base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_step_deletes_no_more_than_it_may),
        cmocka_unit_test(test_nothing_goes_that_a_retry_may_ask_for),
        cmocka_unit_test(test_the_newest_are_kept_however_numbers_jump),
        cmocka_unit_test(test_a_room_goes_only_when_nobody_is_in_it),
        cmocka_unit_test(test_a_locked_file_is_waited_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
