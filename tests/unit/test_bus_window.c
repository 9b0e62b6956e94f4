/* test_bus_window.c - what the bus still knows: keys, the window in all its bounds, members, rooms. */
#include "bus_host.h"

/* --- Keys --- */

static void test_a_key_in_the_window_is_a_duplicate(void **state)
{
    struct pair *pair = *state;
    struct answer first, again;

    open_it(&pair->a, "lobby");
    open_it(&pair->a, "den");
    first = publish_as(&pair->a, "lobby", "ann", text("k"), "}", false, false);
    again = publish_as(&pair->b, "lobby", "ann", text("k"), "}", false, false);
    assert_int_equal(again.status, BUS_DUPLICATE);
    assert_int_equal(again.message.seq, first.message.seq);
    assert_int_equal(again.message.position, first.message.position);
    assert_memory_equal(again.message.uid, first.message.uid, MESSAGE_UID_SIZE);
    assert_int_equal(publish_as(&pair->b, "lobby", "ann", text("k"), "}", true, false).status, BUS_DUPLICATE);
    assert_int_equal(publish_as(&pair->b, "den", "ann", text("k"), "}", false, false).status, BUS_OK);
    assert_int_equal(publish_as(&pair->b, "lobby", "bob", text("k"), "}", false, false).status, BUS_OK);
}

static void test_a_retry_that_the_window_does_not_know_is_asked_for_first(void **state)
{
    struct pair *pair = *state;
    struct answer answer;

    open_it(&pair->a, "lobby");
    assert_int_equal(publish_as(&pair->a, "lobby", "ann", text("k"), "}", true, false).status,
                     BUS_NOT_FOUND_IN_WINDOW);
    answer = publish_as(&pair->a, "lobby", "ann", text("k"), "}", true, true);
    assert_int_equal(answer.status, BUS_OK);
    assert_int_equal(answer.message.seq, 1 << 20);
    answer = publish_as(&pair->a, "lobby", "ann", (struct text){NULL, 0}, "}", true, false);
    assert_int_equal(answer.status, BUS_OK); /* without a key there is nothing to ask for */
}

/* --- The window --- */

static struct answer window(struct worker *w, uint64_t above, uint64_t upto, uint32_t limit)
{
    struct answer answer = {0};

    bus_window(w->bus, text("lobby"), above, upto, limit, on_window, &answer);
    assert_int_equal(answer.calls, 1);
    assert_int_equal(answer.status, BUS_OK);
    return answer;
}

static void assert_window(struct worker *w, uint64_t above, uint64_t upto, uint32_t limit, uint64_t first,
                          unsigned count, uint64_t below)
{
    struct answer answer = window(w, above, upto, limit);

    assert_int_equal(answer.count, count);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(answer.seqs[i], first + i);
    assert_int_equal(answer.below, below);
}

static void test_a_window_in_all_its_bounds(void **state)
{
    struct worker *a = &((struct pair *)*state)->a;
    const uint64_t base = 1 << 20; /* the first number */

    open_it(a, "lobby");
    assert_window(a, 0, UINT64_MAX, 10, 0, 0, base - 1); /* nothing yet: up to the number before the first */
    assert_window(a, base - 1, UINT64_MAX, 10, 0, 0, base - 1);
    for (int i = 0; i < 10; i++)
        publish(a, "lobby", "}");
    for (int committed = 0; committed < 2; committed++) {
        assert_window(a, base - 1, UINT64_MAX, 20, base, 10, base - 1);
        assert_window(a, base - 1, base + 9, 10, base, 10, base - 1); /* the limit, exactly */
        assert_window(a, base - 1, base + 9, 9, base + 1, 9, base);
        assert_window(a, base + 4, base + 9, 20, base + 5, 5, base + 4);
        assert_window(a, base + 9, base + 9, 20, 0, 0, base + 9);
        assert_window(a, base + 9, UINT64_MAX, 20, 0, 0, base + 9);
        assert_window(a, 0, UINT64_MAX, 20, base, 10, base - 1); /* what is older is the store's */
        if (!committed)
            commit_all(a->ring);
    }
    /* Below the newest: committed, it is the store's; of what is not committed, the ring has to answer. */
    assert_window(a, base - 1, base + 4, 20, 0, 0, base + 4);
    publish(a, "lobby", "}");
    publish(a, "lobby", "}");
    assert_window(a, base + 1, base + 10, 20, base + 2, 9, base + 1);
    assert_window(a, base + 1, base + 4, 20, 0, 0, base + 4);
    assert_window(a, 0, base + 11, 0, 0, 0, base + 11);
}

static void test_a_window_that_was_partly_overwritten_says_where_the_store_begins(void **state)
{
    struct worker *a = &((struct pair *)*state)->a;
    const uint64_t base = 1 << 20, many = 3000;
    struct answer answer;
    char tail[200];

    memset(tail, 'x', sizeof(tail) - 1);
    tail[sizeof(tail) - 1] = 0;
    open_it(a, "lobby");
    for (uint64_t i = 0; i < many; i++) {
        publish(a, "lobby", tail);
        commit_all(a->ring);
    }
    answer = window(a, base, UINT64_MAX, 100000);
    assert_in_range(answer.count, 200, many - 1);
    assert_int_equal(answer.below, base + many - 1 - answer.count);
    answer = window(a, base + many - 11, UINT64_MAX, 100000);
    assert_int_equal(answer.count, 10);
    assert_int_equal(answer.below, base + many - 11);
}

static void test_void_numbers_are_left_out_of_the_window(void **state)
{
    struct worker *a = &((struct pair *)*state)->a;
    const uint64_t base = 1 << 20;
    uint64_t position = ring_head(a->ring);
    struct message message;
    struct answer answer;

    open_it(a, "lobby");
    for (int i = 0; i < 4; i++)
        publish(a, "lobby", "}");
    assert_true(ring_next(a->ring, &position, &message));
    ring_settle(a->ring, message.position, 17);
    assert_true(ring_next(a->ring, &position, &message));
    assert_true(ring_republish(a->ring, &message, 2 << 20));
    answer = window(a, base - 1, UINT64_MAX, 10);
    assert_int_equal(answer.count, 3);
    assert_int_equal(answer.seqs[0], base + 2);
    assert_int_equal(answer.seqs[1], base + 3);
    assert_int_equal(answer.seqs[2], 3 << 20);
    assert_int_equal(answer.below, base - 1);
    assert_window(a, base - 1, base + 1, 10, 0, 0, base - 1);
}

/* --- Members and rooms --- */

static void test_a_user_on_two_workers_is_one_member(void **state)
{
    struct pair *pair = *state;
    struct answer answer = {0};

    open_it(&pair->a, "lobby");
    assert_true(enter(&pair->a, "lobby", "ann").changed);
    assert_false(enter(&pair->b, "lobby", "ann").changed);
    assert_int_equal(enter(&pair->b, "lobby", "bob").members, 2);
    assert_int_equal(bus_count(pair->a.bus, text("lobby")), 2);
    bus_members(pair->a.bus, text("lobby"), 10, on_listed, &answer);
    assert_int_equal(answer.members, 2);
    assert_int_equal(answer.listed, 2);
    assert_string_not_equal(answer.names[0], answer.names[1]);
    bus_members(pair->a.bus, text("lobby"), 1, on_listed, &answer);
    assert_int_equal(answer.members, 2);
    assert_int_equal(answer.listed, 1);
    bus_members(pair->a.bus, text("lobby"), 0, on_listed, &answer);
    assert_int_equal(answer.listed, 0);
    bus_leave(pair->a.bus, text("lobby"), text("ann"));
    assert_int_equal(pair->a.gone, 0);
    bus_leave(pair->b.bus, text("lobby"), text("ann"));
    assert_int_equal(pair->b.gone, 1);
    assert_int_equal(pair->b.left, 1);
    assert_string_equal(pair->b.last_gone, "lobby/ann");
}

static void test_rooms_with_members_come_first(void **state)
{
    struct pair *pair = *state;
    struct answer answer = {0};
    char name[8];

    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "r%d", i);
        open_it(&pair->a, name);
    }
    enter(&pair->a, "r150", "ann");
    publish(&pair->a, "r150", "}");
    bus_rooms(pair->b.bus, 1, on_rooms, &answer);
    assert_int_equal(answer.count, 1);
    assert_string_equal(answer.names[0], "r150");
    assert_int_equal(answer.members, 1);
    assert_int_equal(answer.seqs[0], 1 << 20);
    answer = (struct answer){0};
    bus_rooms(pair->b.bus, 250, on_rooms, &answer);
    assert_int_equal(answer.count, 200);
    answer = (struct answer){0};
    bus_rooms(pair->b.bus, 0, on_rooms, &answer);
    assert_int_equal(answer.calls, 1);
    assert_int_equal(answer.count, 0);
}

static struct answer publish_again(struct worker *w, struct text key, const uint8_t *uid, uint64_t instead_of)
{
    struct bus_publish publish = {.room = text("lobby"),
                                  .user = text("ann"),
                                  .key = key,
                                  .head = text("{\"n\":"),
                                  .tail = text("}"),
                                  .uid = uid,
                                  .asked = true,
                                  .retry = true,
                                  .instead_of = instead_of};
    struct answer answer = {0};

    bus_publish(w->bus, &publish, on_published, &answer);
    assert_int_equal(answer.calls, 1);
    return answer;
}

static void test_what_is_published_again_keeps_its_uid_and_gets_another_number(void **state)
{
    static const uint8_t uid[MESSAGE_UID_SIZE] = "0123456789abcde";
    struct pair *pair = *state;
    uint8_t tried[MESSAGE_UID_SIZE];
    struct answer first, answer;

    answer = publish_again(&pair->a, text("k"), NULL, 0);
    assert_int_equal(answer.status, BUS_NOT_OPEN);
    memcpy(tried, answer.message.uid, sizeof(tried));
    open_it(&pair->a, "lobby");
    first = publish(&pair->a, "lobby", "}");
    assert_memory_not_equal(first.message.uid, tried, sizeof(tried));
    first = publish_as(&pair->a, "lobby", "ann", text("k"), "}", false, false);
    answer = publish_again(&pair->b, text("k"), uid, 0);
    assert_int_equal(answer.status, BUS_DUPLICATE);
    assert_int_equal(answer.message.seq, first.message.seq);
    assert_memory_equal(answer.message.uid, first.message.uid, MESSAGE_UID_SIZE);
    answer = publish_again(&pair->b, text("k"), uid, first.message.seq);
    assert_int_equal(answer.status, BUS_OK);
    assert_int_equal(answer.message.seq, first.message.seq + 1);
    assert_memory_equal(answer.message.uid, uid, MESSAGE_UID_SIZE);
    answer = publish_again(&pair->a, text("k"), NULL, first.message.seq);
    assert_int_equal(answer.status, BUS_DUPLICATE);
    assert_memory_equal(answer.message.uid, uid, MESSAGE_UID_SIZE);
}

static void test_the_bus_of_one_host_is_always_well(void **state)
{
    struct pair *pair = *state;
    struct bus_health health = {.ok = false, .since_ms = 1, .error = "x"};

    bus_health(pair->a.bus, &health);
    assert_true(health.ok);
    assert_int_equal(health.since_ms, 0);
    assert_string_equal(health.error, "");
}

/* 25,000 users on two workers in one room: names are found without looking at all of them. */
static void test_a_large_room_is_listed_fast(void **state)
{
    enum { USERS = 25000 };
    struct pair *pair = *state;
    struct answer *answer = calloc(1, sizeof(*answer));
    int64_t start;
    char name[8];

    open_it(&pair->a, "lobby");
    for (int i = 0; i < USERS; i++) {
        snprintf(name, sizeof(name), "u%d", i);
        enter(&pair->a, "lobby", name);
        enter(&pair->b, "lobby", name);
    }
    start = clock_monotonic_us();
    bus_members(pair->a.bus, text("lobby"), 200, on_listed, answer);
    print_message("members: %lld us\n", (long long)(clock_monotonic_us() - start));
    assert_int_equal(answer->listed, 200);
    assert_int_equal(answer->members, USERS);
    start = clock_monotonic_us();
    bus_log_close(pair->b.bus);
    print_message("leaving a seat of %d members: %lld us\n", USERS,
                  (long long)(clock_monotonic_us() - start));
    assert_int_equal(bus_count(pair->a.bus, text("lobby")), USERS);
    uv_run(&pair->b.loop, UV_RUN_NOWAIT);
    attach(&pair->b);
    free(answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_key_in_the_window_is_a_duplicate, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_retry_that_the_window_does_not_know_is_asked_for_first, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_window_in_all_its_bounds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_window_that_was_partly_overwritten_says_where_the_store_begins,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_void_numbers_are_left_out_of_the_window, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_user_on_two_workers_is_one_member, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_rooms_with_members_come_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_published_again_keeps_its_uid_and_gets_another_number,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_bus_of_one_host_is_always_well, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_large_room_is_listed_fast, set_up_large, tear_down),
    };

    quiet_log();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
