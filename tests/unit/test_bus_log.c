/* test_bus_log.c - what one worker publishes reaches the other, or it is told that it missed something;
 * and what becomes of one that dies. */
#include "bus_host.h"

#include <sys/socket.h>
#include <sys/un.h>

/* --- Records --- */

static void test_a_room_that_is_not_open_is_refused_everywhere(void **state)
{
    struct worker *a = &((struct pair *)*state)->a;
    struct answer answer = {0};

    assert_int_equal(publish(a, "lobby", "}").status, BUS_NOT_OPEN);
    bus_subscribe(a->bus, text("lobby"), on_subscribed, &answer);
    assert_int_equal(answer.status, BUS_NOT_OPEN);
    bus_enter(a->bus, text("lobby"), text("ann"), on_members, &answer);
    assert_int_equal(answer.status, BUS_NOT_OPEN);
    bus_window(a->bus, text("lobby"), 3, 9, 5, on_window, &answer);
    assert_int_equal(answer.status, BUS_NOT_OPEN);
    assert_int_equal(answer.below, 9); /* all of it is the store's */
    bus_leave(a->bus, text("lobby"), text("ann"));
    bus_unsubscribe(a->bus, text("lobby"));
    assert_false(bus_emit(a->bus, text("lobby"), text("ann"), text("{}")));
    assert_int_equal(bus_count(a->bus, text("lobby")), 0);
    assert_int_equal(a->gone, 0);
}

static void test_what_one_publishes_both_get_in_order_and_after_one_wake(void **state)
{
    struct pair *pair = *state;
    char expected[64];

    assert_int_equal(subscribe(&pair->a, "lobby"), (1 << 20) - 1);
    subscribe(&pair->b, "lobby");
    open_it(&pair->a, "elsewhere");
    for (int i = 0; i < 100; i++)
        assert_int_equal(publish(&pair->a, "lobby", ",\"text\":\"hi\"}").message.seq, (1 << 20) + i);
    publish(&pair->a, "elsewhere", "}");
    assert_false(sleep_once(&pair->b, 20)); /* not before the publisher's turn ends */
    bus_turn(pair->a.bus);
    assert_int_equal(pair->a.records, 100);
    assert_true(sleep_once(&pair->b, 5000));
    bus_turn(pair->b.bus);
    assert_int_equal(pair->b.records, 100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(pair->b.seqs[i], (1 << 20) + i);
    snprintf(expected, sizeof(expected), "{\"n\":%d,\"time\":", (1 << 20) + 99);
    assert_memory_equal(pair->b.last_event, expected, strlen(expected));
    assert_non_null(strstr(pair->b.last_event, ",\"text\":\"hi\"}"));
    assert_false(sleep_once(&pair->b, 20));
    bus_unsubscribe(pair->b.bus, text("lobby"));
    publish(&pair->a, "lobby", "}");
    bus_turn(pair->a.bus);
    bus_turn(pair->b.bus);
    assert_int_equal(pair->b.records, 100);
    assert_int_equal(pair->b.lost + pair->a.lost, 0);
}

static void test_a_batch_is_one_datagram(void **state)
{
    struct pair *pair = *state;
    struct ring *third = open_ring(pair->host.dir, BUS_RING);
    struct sockaddr_un address;
    int wakes = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    char byte;

    open_it(&pair->a, "lobby");
    assert_int_equal(ring_sit(third), 2);
    third->rooms[0].interested[0] |= 1 << 2;
    size_t length = ring_wake_address(third, 2, &address);
    assert_int_equal(bind(wakes, (struct sockaddr *)&address, (socklen_t)length), 0);
    for (int batch = 0; batch < 3; batch++) {
        for (int i = 0; i < 50; i++)
            publish(&pair->a, "lobby", "}");
        bus_turn(pair->a.bus);
    }
    assert_int_equal(recv(wakes, &byte, 1, 0), 1); /* none more until it has looked */
    assert_int_equal(recv(wakes, &byte, 1, 0), -1);
    assert_int_equal(third->seats[2].inbox_head, 150);
    ring_stand(third);
    ring_close(third);
    close(wakes);
}

static void test_what_a_handler_publishes_reaches_its_own_worker_without_another_event(void **state)
{
    struct pair *pair = *state;

    subscribe(&pair->a, "lobby");
    pair->a.answer_room = text("lobby");
    publish(&pair->a, "lobby", "}");
    bus_turn(pair->a.bus);
    assert_int_equal(pair->a.records, 1);
    assert_true(sleep_once(&pair->a, 5000));
    bus_turn(pair->a.bus);
    assert_int_equal(pair->a.records, 2);
}

static void test_events_pass_and_are_in_no_window(void **state)
{
    struct pair *pair = *state;
    struct answer answer = {0};

    subscribe(&pair->b, "lobby");
    assert_true(bus_emit(pair->a.bus, text("lobby"), text("ann"), text("{\"typing\":1}")));
    bus_turn(pair->a.bus);
    bus_turn(pair->b.bus);
    assert_int_equal(pair->b.events, 1);
    assert_string_equal(pair->b.last_event, "{\"typing\":1}");
    bus_window(pair->a.bus, text("lobby"), 0, UINT64_MAX, 5, on_window, &answer);
    assert_int_equal(answer.count, 0);
}

static void test_events_leave_half_of_a_stuck_ring_to_messages(void **state)
{
    struct pair *pair = *state;
    uint64_t used;
    int messages = 0;

    open_it(&pair->a, "lobby");
    while (bus_emit(pair->a.bus, text("lobby"), text("ann"), text("{\"typing\":1}")))
        ;
    used = ring_head(pair->a.ring) - ring_committed(pair->a.ring);
    assert_in_range(used, BUS_RING / 2, BUS_RING / 2 + 1024);
    for (; publish(&pair->a, "lobby", "}").status == BUS_OK; messages++)
        ;
    assert_true(messages > BUS_RING / 3 / 256);
    commit_all(pair->a.ring);
    assert_true(bus_emit(pair->a.bus, text("lobby"), text("ann"), text("{\"typing\":1}")));
    assert_int_equal(publish(&pair->a, "lobby", "}").status, BUS_OK);
}

/* Turns must not be missing for so long, but when they are, it is noticed. */
static void test_an_inbox_that_runs_over_is_told(void **state)
{
    struct pair *pair = *state;

    subscribe(&pair->b, "lobby");
    for (int i = 0; i < RING_INBOX + 500; i++)
        assert_int_equal(publish(&pair->a, "lobby", "}").status, BUS_OK);
    bus_turn(pair->a.bus);
    bus_turn(pair->b.bus);
    assert_int_equal(pair->b.records, RING_INBOX);
    assert_int_equal(pair->b.lost, 1);
    publish(&pair->a, "lobby", "}");
    bus_turn(pair->b.bus);
    assert_int_equal(pair->b.records, RING_INBOX + 1);
    assert_int_equal(pair->b.lost, 1);
}

static void test_a_record_that_is_overwritten_before_it_was_read_is_told(void **state)
{
    struct pair *pair = *state;
    char tail[1000];

    memset(tail, 'x', sizeof(tail) - 1);
    tail[sizeof(tail) - 1] = 0;
    subscribe(&pair->b, "lobby");
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(publish(&pair->a, "lobby", tail).status, BUS_OK);
        commit_all(pair->a.ring);
    }
    bus_turn(pair->b.bus);
    assert_int_equal(pair->b.lost, 1);
    assert_in_range(pair->b.records, 100, 300);
    assert_int_equal(pair->b.seqs[pair->b.records - 1], (1 << 20) + 999);
}

static void test_who_awaits_a_commit_is_called_once(void **state)
{
    struct pair *pair = *state;
    uint64_t position;

    open_it(&pair->a, "lobby");
    position = publish(&pair->a, "lobby", "}").message.position;
    assert_false(ring_await(pair->a.ring, position));
    bus_turn(pair->a.bus);
    assert_false(sleep_once(&pair->a, 20));
    assert_int_equal(pair->a.committed, 0);
    commit_all(pair->b.ring);
    assert_true(sleep_once(&pair->a, 5000));
    bus_turn(pair->a.bus);
    bus_turn(pair->a.bus);
    assert_int_equal(pair->a.committed, 1);
}

/* --- A worker that dies --- */

static void join_and_die(struct ring *ring, int unused)
{
    struct worker c = {0};

    (void)unused;
    start_worker(&c, ring);
    subscribe(&c, "lobby");
    enter(&c, "lobby", "ann");
    enter(&c, "lobby", "cat");
    publish(&c, "lobby", "}");
    raise(SIGKILL);
}

static void test_a_dead_worker_is_noticed_by_one_and_its_records_still_arrive(void **state)
{
    struct pair *pair = *state;
    struct worker *a = &pair->a, *b = &pair->b;

    subscribe(a, "lobby");
    enter(a, "lobby", "ann");
    run_to_death(join_and_die, pair->host.ring, 0);
    assert_int_equal(bus_count(a->bus, text("lobby")), 2);
    bus_tick(a->bus);
    bus_tick(b->bus);
    bus_turn(a->bus);
    assert_int_equal(a->records, 1);
    assert_int_equal(a->gone, 1);
    assert_int_equal(b->gone, 0);
    assert_string_equal(a->last_gone, "lobby/cat");
    assert_int_equal(a->left, 1);
    assert_int_equal(bus_count(a->bus, text("lobby")), 1);
    assert_int_equal(check_ring(a->ring), 1);
}

static void sit_and_die(struct ring *ring, int unused)
{
    (void)unused;
    ring->seat = -1;
    must(ring_sit(ring) >= 0);
    raise(SIGKILL);
}

static void test_seats_of_workers_that_died_unnoticed_are_found_when_none_is_left(void **state)
{
    struct pair *pair = *state;
    struct worker c = {0};

    for (int i = 2; i < RING_ATTACH_MAX; i++)
        run_to_death(sit_and_die, pair->host.ring, 0);
    assert_int_equal(ring_sit(pair->host.ring), -EUSERS);
    start_worker(&c, open_ring(pair->host.dir, BUS_RING));
    assert_int_equal(c.ring->seat, 2);
    stop_worker(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_room_that_is_not_open_is_refused_everywhere, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_what_one_publishes_both_get_in_order_and_after_one_wake, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_batch_is_one_datagram, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            test_what_a_handler_publishes_reaches_its_own_worker_without_another_event, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_events_pass_and_are_in_no_window, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_events_leave_half_of_a_stuck_ring_to_messages, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_an_inbox_that_runs_over_is_told, set_up_large, tear_down),
        cmocka_unit_test_setup_teardown(test_a_record_that_is_overwritten_before_it_was_read_is_told, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_who_awaits_a_commit_is_called_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_dead_worker_is_noticed_by_one_and_its_records_still_arrive,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_seats_of_workers_that_died_unnoticed_are_found_when_none_is_left,
                                        set_up, tear_down),
    };

    quiet_log();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
