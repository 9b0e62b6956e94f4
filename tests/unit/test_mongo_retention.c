/* test_mongo_retention.c - when a run is due, what is noted of one that fails, and that the lease is given
 * back. What a run deletes: test_mongo_clean.c. */
#include "mongo_host.h"

#include "store/mongo_lease.h"
#include "store/mongo_link.h"
#include "store/mongo_retention.h"
#include "store/mongo_schema.h"

enum { HOUR_MS = 3600 * 1000, INTERVAL_MS = 600 };

/* The retention of a worker, whose bus answers when the test wants. */
struct keeper {
    struct host host;
    struct mongo_link *link;
    struct mongo_retention *retention;
    bus_redis_on_forgot *done; /* NULL: nothing is asked */
    void *done_arg;
};

static void on_forget(void *bus, struct text room, uint64_t upto, bus_redis_on_forgot *done, void *arg)
{
    struct keeper *keeper = bus;

    (void)room;
    (void)upto;
    assert_null(keeper->done);
    keeper->done = done;
    keeper->done_arg = arg;
}

static void on_wake(void *arg)
{
    (void)arg; /* the test looks all the time */
}

static void keeper_answer(struct keeper *keeper)
{
    bus_redis_on_forgot *done = keeper->done;

    keeper->done = NULL;
    done(keeper->done_arg, true, 0);
}

static bool is_asked(struct keeper *keeper)
{
    mongo_retention_turn(keeper->retention);
    return keeper->done;
}

static void insert(struct keeper *keeper, const char *name, bson_t *document)
{
    mongoc_client_t *client = beside(&keeper->host);
    mongoc_collection_t *collection = collection_of(&keeper->host, client, name);
    bson_error_t error = {0};

    if (!mongoc_collection_insert_one(collection, document, NULL, NULL, &error))
        fail_msg("%s", error.message);
    bson_destroy(document);
    mongoc_collection_destroy(collection);
    mongoc_client_destroy(client);
}

/* Two rooms, with an old message each. */
static void keeper_open(struct keeper *keeper)
{
    static const char *const rooms[] = {"a", "b"};
    int64_t old = clock_wall_ms() - HOUR_MS;

    need_server(false);
    memset(keeper, 0, sizeof(*keeper));
    host_open(&keeper->host, NULL);
    keeper->host.config.retention_age = 1;
    keeper->host.config.retention_interval = INTERVAL_MS;
    for (int i = 0; i < 2; i++) {
        insert(keeper, MONGO_ROOMS,
               BCON_NEW("_id", BCON_UTF8(rooms[i]), "highest", BCON_INT64(1), "active",
                        BCON_DATE_TIME(clock_wall_ms())));
        insert(keeper, MONGO_MESSAGES,
               BCON_NEW("room", BCON_UTF8(rooms[i]), "seq", BCON_INT64(1), "time", BCON_DATE_TIME(old)));
    }
    assert_int_equal(mongo_link_new(&keeper->link, &keeper->host.config), 0);
}

static void keeper_start(struct keeper *keeper)
{
    struct mongo_retention_options options = {.link = keeper->link,
                                              .config = &keeper->host.config,
                                              .forget = on_forget,
                                              .bus = keeper,
                                              .wake = on_wake};

    assert_int_equal(mongo_retention_start(&keeper->retention, &options), 0);
}

static void keeper_stop(struct keeper *keeper)
{
    if (keeper->retention)
        mongo_retention_stop(keeper->retention);
    keeper->retention = NULL;
    if (keeper->done)
        keeper_answer(keeper); /* to nobody */
}

static void keeper_close(struct keeper *keeper)
{
    keeper_stop(keeper);
    mongo_link_free(keeper->link);
    host_close(&keeper->host);
}

static int64_t retained(struct keeper *keeper, const char *field)
{
    bson_t *document = get_document(&keeper->host, MONGO_LEASES, "retained");
    int64_t value;

    if (!document)
        return 0;
    value = mongo_schema_get_date(document, field);
    bson_destroy(document);
    return value;
}

static bool is_leased(struct keeper *keeper)
{
    bson_t *document = get_document(&keeper->host, MONGO_LEASES, "retention");

    if (!document)
        return false;
    bson_destroy(document);
    return true;
}

static void change_lease(struct keeper *keeper, const char *command)
{
    mongoc_client_t *client = beside(&keeper->host);
    bson_error_t error = {0};
    bson_t *document = bson_new_from_json((const uint8_t *)command, -1, &error);

    assert_non_null(document);
    if (!mongoc_client_command_simple(client, strrchr(keeper->host.config.store, '/') + 1, document, NULL,
                                      NULL, &error))
        fail_msg("%s", error.message);
    bson_destroy(document);
    mongoc_client_destroy(client);
}

static void test_who_stops_between_two_steps_gives_the_lease_back(void **state)
{
    struct keeper keeper;

    (void)state;
    keeper_open(&keeper);
    keeper_start(&keeper);
    wait_until(&keeper.host, is_asked(&keeper));
    assert_true(is_leased(&keeper));
    usleep(300 * 1000);     /* as long is the pause that follows */
    keeper_answer(&keeper); /* so the first room's step ends well, and no other begins */
    keeper_stop(&keeper);
    assert_int_equal(count_documents(&keeper.host, MONGO_MESSAGES), 1);
    assert_false(is_leased(&keeper));
    keeper_close(&keeper);
}

/* Somebody else takes the lease in the middle of a run: that fails, and counts as one, or all would try at
 * once; but what it was to note isn't. */
static void test_a_failed_run_has_not_noted_what_is_gone(void **state)
{
    struct keeper keeper;
    int64_t failed_at;

    (void)state;
    keeper_open(&keeper);
    keeper_start(&keeper);
    wait_until(&keeper.host, is_asked(&keeper));
    usleep(RETENTION_LEASE_MS / 4 * 1000); /* then it renews its lease */
    change_lease(&keeper, "{\"update\": \"leases\", \"updates\": [{\"q\": {\"_id\": \"retention\"},"
                          " \"u\": {\"$set\": {\"owner\": \"another\"}}}]}");
    keeper_answer(&keeper);
    wait_until(&keeper.host, retained(&keeper, "at") != 0);
    failed_at = retained(&keeper, "at");
    assert_int_equal(log_lines(&keeper.host, "retention_failed", "another"), 1);
    assert_int_equal(retained(&keeper, "noted"), 0);
    assert_int_equal(count_documents(&keeper.host, MONGO_MESSAGES), 1);
    change_lease(&keeper, "{\"delete\": \"leases\", \"deletes\": [{\"q\": {\"_id\": \"retention\"},"
                          " \"limit\": 0}]}");
    wait_until(&keeper.host, is_asked(&keeper));
    keeper_answer(&keeper);
    wait_until(&keeper.host, retained(&keeper, "noted") > failed_at);
    assert_int_equal(count_documents(&keeper.host, MONGO_MESSAGES), 0);
    keeper_close(&keeper);
}

/* Not at once because its begin lies ahead: two servers whose clocks differ would run in turns. */
static void test_a_run_of_a_clock_that_is_ahead_counts(void **state)
{
    struct keeper keeper;
    int64_t ahead;

    (void)state;
    keeper_open(&keeper);
    ahead = clock_wall_ms() + INTERVAL_MS / 2;
    insert(&keeper, MONGO_LEASES, BCON_NEW("_id", BCON_UTF8("retained"), "at", BCON_DATE_TIME(ahead)));
    keeper_start(&keeper);
    wait_until(&keeper.host, is_asked(&keeper));
    assert_true(clock_wall_ms() >= ahead + INTERVAL_MS);
    keeper_close(&keeper);
}

static void test_a_run_from_far_ahead_is_a_mistake(void **state)
{
    struct keeper keeper;

    (void)state;
    keeper_open(&keeper);
    keeper.host.config.retention_interval = HOUR_MS;
    insert(&keeper, MONGO_LEASES,
           BCON_NEW("_id", BCON_UTF8("retained"), "at", BCON_DATE_TIME(clock_wall_ms() + 2LL * HOUR_MS)));
    keeper_start(&keeper);
    wait_until(&keeper.host, is_asked(&keeper));
    keeper_close(&keeper);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_stops_between_two_steps_gives_the_lease_back),
        cmocka_unit_test(test_a_failed_run_has_not_noted_what_is_gone),
        cmocka_unit_test(test_a_run_of_a_clock_that_is_ahead_counts),
        cmocka_unit_test(test_a_run_from_far_ahead_is_a_mistake),
    };

    return cmocka_run_group_tests(tests, server_set_up, server_tear_down);
}
