/* test_mongo_clean.c - a run over MongoDB: what is noted before it is deleted, here or by the server itself,
 * and a run that is cut off. That a real server deletes by its index isn't seen here. */
#include "mongo_host.h"

#include "store/mongo_clean.h"
#include "store/mongo_schema.h"

enum { HOUR_MS = 3600 * 1000 };

struct run {
    struct mongo_clean clean;
    mongoc_client_t *client;
    int steps_left; /* then it is cut off; -1: never */
    uint32_t members;
    uint64_t forgot; /* the highest number that the bus was to forget */
};

static mongoc_client_t *on_next(void *arg, bson_error_t *error)
{
    struct run *run = arg;

    if (run->steps_left == 0) {
        bson_set_error(error, MONGOC_ERROR_COMMAND, 0, "cut off");
        return NULL;
    }
    run->steps_left--;
    return run->client;
}

static bool on_forget(void *arg, struct text room, uint64_t upto, uint32_t *members, bson_error_t *error)
{
    struct run *run = arg;

    (void)room;
    (void)error;
    if (upto > run->forgot)
        run->forgot = upto;
    *members = run->members;
    return true;
}

static void open_run(struct run *run, struct host *host)
{
    need_server(false);
    memset(run, 0, sizeof(*run));
    host_open(host, NULL);
    run->client = beside(host);
    assert_true(mongoc_client_set_error_api(run->client, MONGOC_ERROR_API_VERSION_2)); /* as mongo_link.c */
    run->steps_left = -1;
    run->clean = (struct mongo_clean){.database = strrchr(host->config.store, '/') + 1,
                                      .arg = run,
                                      .ttl_ms = HOUR_MS,
                                      .next = on_next,
                                      .forget = on_forget};
    run->clean.cuts.age = clock_wall_ms() - 2LL * HOUR_MS;
    run->clean.cuts.floor = run->clean.cuts.age;
}

static void close_run(struct run *run, struct host *host)
{
    mongoc_client_destroy(run->client);
    host_close(host);
}

static void insert(struct run *run, const char *name, bson_t *document)
{
    mongoc_collection_t *c = mongoc_client_get_collection(run->client, run->clean.database, name);
    bson_error_t error = {0};

    if (!mongoc_collection_insert_one(c, document, NULL, NULL, &error))
        fail_msg("%s", error.message);
    bson_destroy(document);
    mongoc_collection_destroy(c);
}

/* Messages `from` to `to`, all of that age. */
static void add_messages(struct run *run, const char *room, int from, int to, int64_t age_ms)
{
    for (int i = from; i <= to; i++)
        insert(run, MONGO_MESSAGES,
               BCON_NEW("room", BCON_UTF8(room), "seq", BCON_INT64(i), "time",
                        BCON_DATE_TIME(clock_wall_ms() - age_ms)));
}

static void add_room(struct run *run, const char *room, int highest, int64_t age_ms)
{
    insert(run, MONGO_ROOMS,
           BCON_NEW("_id", BCON_UTF8(room), "highest", BCON_INT64(highest), "active",
                    BCON_DATE_TIME(clock_wall_ms() - age_ms)));
}

static uint64_t field(struct host *host, const char *room, const char *name)
{
    bson_t *document = get_document(host, MONGO_ROOMS, room);
    uint64_t value;

    assert_non_null(document);
    value = mongo_schema_get_number(document, name);
    bson_destroy(document);
    return value;
}

static bool is_listed(struct host *host, const char *room)
{
    bson_t *document = get_document(host, MONGO_ROOMS, room);
    bool listed = bson_has_field(document, "active");

    bson_destroy(document);
    return listed;
}

static void must_run(struct run *run)
{
    if (!mongo_clean_run(&run->clean))
        fail_msg("%s", run->clean.error.message);
}

/* What a room's document says lags behind its messages: the highest number is noted before it is lost. */
static void test_what_goes_is_noted_first(void **state)
{
    struct host host;
    struct run run;

    (void)state;
    open_run(&run, &host);
    add_room(&run, "a", 3, 0);
    add_messages(&run, "a", 1, 9, 3 * HOUR_MS);
    run.steps_left = 2; /* the list of rooms, and this one's messages */
    must_run(&run);
    assert_int_equal(count_documents(&host, MONGO_MESSAGES), 0);
    assert_int_equal(field(&host, "a", "highest"), 9);
    assert_int_equal(field(&host, "a", "gone"), 9);
    assert_int_equal(run.forgot, 9);
    assert_int_equal(run.clean.tally.messages, 9);
    close_run(&run, &host);
}

static void test_a_run_that_was_cut_off_is_gone_on_with(void **state)
{
    struct host host;
    struct run run;

    (void)state;
    open_run(&run, &host);
    add_room(&run, "a", RETENTION_ROWS + 20, 0);
    add_messages(&run, "a", 1, RETENTION_ROWS + 10, 3 * HOUR_MS);
    add_messages(&run, "a", RETENTION_ROWS + 11, RETENTION_ROWS + 20, 0);
    run.steps_left = 2;
    assert_false(mongo_clean_run(&run.clean));
    assert_string_equal(run.clean.error.message, "cut off");
    assert_int_equal(run.clean.tally.messages, RETENTION_ROWS);
    assert_int_equal(field(&host, "a", "gone"), RETENTION_ROWS);
    run.steps_left = -1;
    must_run(&run);
    assert_int_equal(run.clean.tally.messages, 10);
    assert_int_equal(count_documents(&host, MONGO_MESSAGES), 10);
    assert_int_equal(field(&host, "a", "gone"), RETENTION_ROWS + 10);
    close_run(&run, &host);
}

static void test_what_the_server_deletes_itself_is_noted_and_counted_once(void **state)
{
    struct host host;
    struct run run;

    (void)state;
    open_run(&run, &host);
    run.clean.ttl = true;
    add_room(&run, "a", 12, 0);
    add_messages(&run, "a", 1, 9, 3 * HOUR_MS);
    add_messages(&run, "a", 10, 12, 0);
    must_run(&run);
    assert_int_equal(count_documents(&host, MONGO_MESSAGES), 12); /* left to the server */
    assert_int_equal(field(&host, "a", "gone"), 9);
    assert_int_equal(run.clean.tally.messages, 9);
    must_run(&run);
    assert_int_equal(run.clean.tally.messages, 0);
    /* By number they are deleted from here all the same. */
    run.clean.cuts.messages = 2;
    run.clean.cuts.floor = clock_wall_ms() + HOUR_MS;
    must_run(&run);
    assert_int_equal(count_documents(&host, MONGO_MESSAGES), 2);
    assert_int_equal(field(&host, "a", "gone"), 10);
    close_run(&run, &host);
}

static void test_a_server_that_never_gets_to_it_is_not_waited_for(void **state)
{
    struct host host;
    struct run run;

    (void)state;
    open_run(&run, &host);
    run.clean.ttl = true;
    add_room(&run, "a", 9, 0);
    add_messages(&run, "a", 1, 9, 5 * HOUR_MS); /* 2 h, 1 h for the server, 1 h of patience, and more */
    must_run(&run);
    assert_int_equal(count_documents(&host, MONGO_MESSAGES), 0);
    assert_int_equal(run.clean.tally.messages, 9);
    close_run(&run, &host);
}

static void test_what_went_while_nobody_was_here_counts_as_gone(void **state)
{
    struct host host;
    struct run run;

    (void)state;
    open_run(&run, &host);
    run.clean.ttl = run.clean.late = true;
    add_room(&run, "a", 9, 0);
    add_messages(&run, "a", 7, 9, 0);
    add_room(&run, "emptied", 5, 0);
    must_run(&run);
    assert_int_equal(field(&host, "a", "gone"), 6);
    assert_int_equal(field(&host, "emptied", "gone"), 5);
    assert_int_equal(count_documents(&host, MONGO_MESSAGES), 3);
    close_run(&run, &host);
}

static void test_a_room_in_which_something_new_is_found_stays(void **state)
{
    struct host host;
    struct run run;

    (void)state;
    open_run(&run, &host);
    run.clean.cuts.age = 0;
    run.clean.cuts.rooms = clock_wall_ms() - 2LL * HOUR_MS;
    add_room(&run, "forsaken", 3, 3 * HOUR_MS);
    add_messages(&run, "forsaken", 1, 3, 3 * HOUR_MS);
    add_room(&run, "late", 3, 3 * HOUR_MS); /* its document wasn't written yet */
    add_messages(&run, "late", 1, 3, 3 * HOUR_MS);
    add_messages(&run, "late", 4, 4, 0);
    run.members = 1;
    must_run(&run);
    assert_int_equal(count_documents(&host, MONGO_MESSAGES), 7);
    run.members = 0;
    must_run(&run);
    assert_int_equal(run.clean.tally.rooms, 1);
    assert_int_equal(count_documents(&host, MONGO_MESSAGES), 1);
    assert_false(is_listed(&host, "forsaken"));
    assert_int_equal(field(&host, "forsaken", "highest"), 3);
    assert_true(is_listed(&host, "late"));
    must_run(&run);
    assert_int_equal(run.clean.tally.rooms + run.clean.tally.messages, 0);
    close_run(&run, &host);
}

/* The server that stands in here refuses: no error, and messages are deleted one way or the other. */
static void test_a_server_without_such_an_index_is_no_error(void **state)
{
    struct host host;
    struct run run;
    bson_error_t error = {0};
    bool works = true;

    (void)state;
    open_run(&run, &host);
    add_messages(&run, "a", 1, 1, 0);
    if (!mongo_clean_expire(run.client, run.clean.database, 30 * HOUR_MS, &works, &error) ||
        !mongo_clean_expire(run.client, run.clean.database, 40 * HOUR_MS, &works, &error) ||
        !mongo_clean_expire(run.client, run.clean.database, 0, &works, &error))
        fail_msg("%s", error.message);
    assert_false(works);
    close_run(&run, &host);
}

/* mongo_notes.c takes a document that it made for one that is there. */
static void test_what_was_deleted_and_is_back_is_noted_anew(void **state)
{
    struct host host;
    struct message first, second;

    (void)state;
    need_server(false);
    host_open(&host, NULL);
    host_start(&host);
    first = make_message("a", "ana", NO_KEY, 1);
    second = make_message("a", "ana", NO_KEY, 2);
    assert_answer(commit(&host, &first), STORE_OK, 1);
    wait_until(&host, count_documents(&host, MONGO_ROOMS) == 1);
    run_command(&host, "{\"delete\": \"rooms\", \"deletes\": [{\"q\": {}, \"limit\": 0}]}");
    assert_int_equal(count_documents(&host, MONGO_ROOMS), 0);
    assert_answer(commit(&host, &second), STORE_OK, 2);
    wait_until(&host, count_documents(&host, MONGO_ROOMS) == 1);
    assert_int_equal(field(&host, "a", "highest"), 2);
    host_close(&host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_goes_is_noted_first),
        cmocka_unit_test(test_a_run_that_was_cut_off_is_gone_on_with),
        cmocka_unit_test(test_what_the_server_deletes_itself_is_noted_and_counted_once),
        cmocka_unit_test(test_a_server_that_never_gets_to_it_is_not_waited_for),
        cmocka_unit_test(test_what_went_while_nobody_was_here_counts_as_gone),
        cmocka_unit_test(test_a_room_in_which_something_new_is_found_stays),
        cmocka_unit_test(test_what_was_deleted_and_is_back_is_noted_anew),
        cmocka_unit_test(test_a_server_without_such_an_index_is_no_error),
    };

    return cmocka_run_group_tests(tests, server_set_up, server_tear_down);
}
