/* test_ring_writer.c - the store's side of the ring: one writer, what it settles and publishes again, who
 * is woken. */
#include "ring_host.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

static const struct text NO_KEY = {NULL, 0};

static int set_up(void **state)
{
    set_up_ring((struct host **)state, HOST_RING);
    open_room(((struct host *)*state)->ring, "lobby");
    return 0;
}

static int tear_down(void **state)
{
    close_host(*state);
    free(*state);
    return 0;
}

static struct message first_after(struct ring *ring, uint64_t position)
{
    struct message message;

    assert_true(ring_next(ring, &position, &message));
    return message;
}

static enum ring_outcome outcome(struct ring *ring, uint64_t *position, uint64_t *seq)
{
    *seq = 0;
    return ring_outcome(ring, position, (const uint8_t *)"one uid for all", seq);
}

/* --- The lock of the writer --- */

static void die_as_writer(struct ring *ring, int arg)
{
    (void)arg;
    must(ring_writer_lock(ring, 0));
    raise(SIGKILL);
}

static void fail_to_become_writer(struct ring *ring, int arg)
{
    must(!ring_writer_lock(ring, arg));
}

static void test_a_writer_that_died_is_replaced_and_a_living_one_is_not(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;

    for (int i = 0; i < 3; i++) {
        run_to_death(die_as_writer, ring, 0);
        assert_true(ring_writer_lock(ring, 0));
        run_child(fail_to_become_writer, ring, 0);
        run_child(fail_to_become_writer, ring, 30);
        ring_writer_unlock(ring);
    }
}

static void test_an_office_that_is_waited_for_is_taken_when_its_holder_dies(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    int ready[2];
    char byte;
    pid_t holder;

    assert_int_equal(pipe(ready), 0);
    holder = fork();
    if (holder == 0) {
        must(ring_writer_lock(ring, 0));
        must(write(ready[1], "", 1) == 1);
        usleep(50000);
        raise(SIGKILL);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_true(ring_writer_lock(ring, HOST_DEADLINE_MS));
    wait_for_exit(holder);
    ring_writer_unlock(ring);
    close(ready[0]);
    close(ready[1]);
}

/* --- What became of a record --- */

static void test_a_record_is_stored_under_its_own_number_or_the_settled_one(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint64_t own = append(ring, 0, "ann", NO_KEY, 5), other = append(ring, 0, "ann", NO_KEY, 5), seq,
             at = own;

    assert_int_equal(outcome(ring, &at, &seq), RING_WAITING);
    ring_settle(ring, other, 77);
    ring_commit(ring, other);
    assert_int_equal(outcome(ring, &at, &seq), RING_STORED);
    assert_int_equal(seq, 1 << 20);
    at = other;
    assert_int_equal(outcome(ring, &at, &seq), RING_WAITING);
    commit_all(ring);
    assert_int_equal(outcome(ring, &at, &seq), RING_STORED);
    assert_int_equal(seq, 77);
}

static void test_an_overwritten_record_is_lapped(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint64_t at = append(ring, 0, "ann", NO_KEY, 5), seq;

    commit_all(ring);
    while (ring->header->tail <= at) {
        append(ring, 0, "ann", NO_KEY, 1000);
        commit_all(ring);
    }
    assert_int_equal(outcome(ring, &at, &seq), RING_LAPPED);
    at = ring_head(ring) - ring_at(ring, ring->rooms[0].position)->size;
    assert_int_equal(ring_outcome(ring, &at, (const uint8_t *)"somebody else's", &seq), RING_LAPPED);
}

static void test_a_second_publication_stands_for_the_first(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint64_t start = ring_head(ring), at, position = start, seq, old;
    struct message message, again;
    char expected[128];

    old = append(ring, 0, "ann", text("key"), 5);
    message = first_after(ring, start);
    assert_true(ring_republish(ring, &message, 7 << 20));
    assert_true(ring_republish(ring, &message, 9 << 20)); /* done already */
    assert_true(ring_next(ring, &position, &again) && again.position == old);
    assert_true(ring_next(ring, &position, &again));
    assert_false(ring_next(ring, &position, &message));
    assert_int_equal(again.seq, 8 << 20);
    assert_memory_equal(again.uid, "one uid for all", MESSAGE_UID_SIZE);
    assert_true(text_is(again.room, "lobby") && text_is(again.user, "ann") && text_is(again.key, "key"));
    snprintf(expected, sizeof(expected), "{\"n\":%d,\"time\":%lld,\"text\":\"", 8 << 20,
             (long long)again.time_ms);
    assert_int_equal(again.event.length, strlen(expected) + 5 + 2);
    assert_memory_equal(again.event.data, expected, strlen(expected));

    ring_lock(ring);
    assert_int_equal(ring_find_key(ring, 0, text("ann"), text("key")), again.position);
    ring_unlock(ring);
    at = old;
    ring_commit(ring, again.position);
    assert_int_equal(outcome(ring, &at, &seq), RING_WAITING);
    assert_int_equal(at, again.position);
    commit_all(ring);
    at = old;
    assert_int_equal(outcome(ring, &at, &seq), RING_STORED);
    assert_int_equal(seq, 8 << 20);
    check_ring(ring);
}

static void test_a_second_publication_within_the_numbers_given_takes_the_next(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint64_t start = ring_head(ring);
    struct message message;

    append(ring, 0, "ann", NO_KEY, 5);
    append(ring, 0, "ann", NO_KEY, 5);
    message = first_after(ring, start);
    assert_true(ring_republish(ring, &message, 1 << 20));
    assert_int_equal(ring->rooms[0].seq, (1 << 20) + 2);
    check_ring(ring);
}

static void test_a_full_ring_has_place_for_second_publications(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint64_t start = ring_head(ring);
    struct message message;

    while (append(ring, 0, "ann", NO_KEY, 500) != 0)
        ;
    message = first_after(ring, start);
    assert_true(ring_republish(ring, &message, 5 << 20));
    check_ring(ring);
}

/* The writer died in the step that makes its second publication true; the one that follows must not
 * publish a third. */
static void die_while_republishing(struct ring *ring, int arg)
{
    uint64_t start = ring_committed(ring);
    struct message message;

    (void)arg;
    must(ring_writer_lock(ring, 0));
    if (!ring_next(ring, &start, &message))
        must(false);
    (void)!ring_republish(ring, &message, 3 << 20);
    ring_writer_unlock(ring);
}

static void republish_again(struct ring *ring, int arg)
{
    uint64_t position = ring_committed(ring), old, at, seq;
    struct message message;

    (void)arg;
    assert_true(ring_writer_lock(ring, 0));
    assert_true(ring_next(ring, &position, &message));
    old = message.position;
    assert_true(ring_republish(ring, &message, 3 << 20));
    ring_writer_unlock(ring);
    assert_true(ring_next(ring, &position, &message));
    at = message.position;
    assert_true(message.seq > 3 << 20);
    assert_int_equal(ring_at(ring, old)->moved, at);
    assert_false(ring_next(ring, &position, &message));
    check_ring(ring);
    commit_all(ring);
    at = old;
    assert_int_equal(outcome(ring, &at, &seq), RING_STORED);
    assert_true(append(ring, 0, "ann", NO_KEY, 100) != 0);
}

static void test_a_writer_that_dies_at_any_instruction_of_it_republishes_once(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;

    append(ring, 0, "ann", NO_KEY, 100);
    die_everywhere(die_while_republishing, ring, republish_again);
}

/* --- Waking --- */

enum { ROUNDS = 20000 };

static void publish_and_kick(struct ring *ring, int arg)
{
    int64_t deadline = clock_monotonic_ms() + HOST_DEADLINE_MS;

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t position = append(ring, 0, "ann", NO_KEY, 1);

        must(position != 0);
        ring_kick(ring);
        /* Every other time the writer has fallen asleep again, or is about to. */
        while (ring_committed(ring) <= position && arg)
            must(clock_monotonic_ms() < deadline);
        if (!arg && ring_head(ring) - ring_committed(ring) > HOST_RING / 2)
            usleep(100);
    }
}

/* A lost wake shows as a sleep to its end: the writer would never be told of the last record. */
static void test_a_kick_is_never_lost(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    int lost = 0;

    for (int in_step = 0; in_step < 2; in_step++) {
        uint64_t position = ring_head(ring);
        pid_t publisher = start_child(publish_and_kick, ring, in_step);
        struct message message;

        for (int seen = 0; seen < ROUNDS;) {
            int64_t start = clock_monotonic_ms();

            ring_wait(ring, position, 4000);
            if (clock_monotonic_ms() - start >= 4000)
                lost++;
            while (ring_next(ring, &position, &message))
                seen++;
            ring_commit(ring, position);
            assert_int_equal(lost, 0);
        }
        assert_int_equal(wait_for_exit(publisher), 0);
    }
}

static void kick_later(struct ring *ring, int ms)
{
    usleep((useconds_t)ms * 1000);
    ring_kick(ring);
}

static void test_waiting_ends_by_time_by_a_kick_and_at_once_when_there_is_work(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint64_t head = ring_head(ring);
    int64_t start = clock_monotonic_ms();
    pid_t kicker;

    ring_wait(ring, head, 20);
    assert_in_range(clock_monotonic_ms() - start, 19, HOST_DEADLINE_MS);
    kicker = start_child(kick_later, ring, 50);
    start = clock_monotonic_ms();
    ring_wait(ring, head, HOST_DEADLINE_MS);
    assert_true(clock_monotonic_ms() - start < HOST_DEADLINE_MS);
    wait_for_exit(kicker);
    append(ring, 0, "ann", NO_KEY, 1);
    start = clock_monotonic_ms();
    ring_wait(ring, head, HOST_DEADLINE_MS);
    assert_true(clock_monotonic_ms() - start < HOST_DEADLINE_MS / 2);
}

static void test_who_awaits_a_commit_gets_one_datagram(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    struct sockaddr_un address;
    int seat = ring_sit(ring), wakes = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    size_t length = ring_wake_address(ring, (unsigned)seat, &address);
    uint64_t position;
    char byte;

    assert_int_equal(bind(wakes, (struct sockaddr *)&address, (socklen_t)length), 0);
    position = append(ring, 0, "ann", NO_KEY, 1);
    assert_false(ring_await(ring, position));
    ring_commit(ring, position);
    assert_int_equal(recv(wakes, &byte, 1, 0), -1);
    commit_all(ring);
    commit_all(ring);
    assert_int_equal(recv(wakes, &byte, 1, 0), 1);
    assert_int_equal(recv(wakes, &byte, 1, 0), -1);
    /* What has passed already is said at once, and then nobody comes. */
    atomic_store(&ring->seats[seat].signalled, 0);
    assert_true(ring_await(ring, position));
    append(ring, 0, "ann", NO_KEY, 1);
    commit_all(ring);
    assert_int_equal(recv(wakes, &byte, 1, 0), -1);
    assert_false(ring_await(ring, 0));
    commit_all(ring);
    assert_int_equal(recv(wakes, &byte, 1, 0), -1);
    close(wakes);
    ring_stand(ring);
}

/* --- Reports --- */

static void test_a_report_says_since_when(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    char error[RING_ERROR_MAX], longest[2 * RING_ERROR_MAX];
    int64_t since, now = clock_wall_ms(), again;

    assert_true(ring_report_get(ring, error, &since));
    assert_int_equal(since, 0);
    memset(longest, 'e', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = 0;
    ring_report(ring, longest);
    assert_false(ring_report_get(ring, error, &since));
    assert_int_equal(strlen(error), RING_ERROR_MAX - 1);
    assert_true(since >= now);
    ring_report(ring, "disk full");
    assert_false(ring_report_get(ring, error, &again));
    assert_string_equal(error, "disk full");
    assert_int_equal(again, since);
    ring_report(ring, "");
    assert_true(ring_report_get(ring, error, &again));
}

static void test_a_writer_that_hangs_shows_once_something_waits_for_it(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;

    must(ring_writer_lock(ring, 0));
    ring->header->writer_beat_ms -= 60000; /* in fdatasync, say, for a minute */
    assert_int_equal(ring_stalled_ms(ring), 0);
    append(ring, 0, "ann", NO_KEY, 5);
    assert_in_range(ring_stalled_ms(ring), 60000, 120000);
    ring_wait(ring, 0, 0);
    assert_in_range(ring_stalled_ms(ring), 0, 59000);
    ring_commit(ring, ring_head(ring));
    assert_int_equal(ring_stalled_ms(ring), 0);
    ring_writer_unlock(ring);
}

static void test_messages_that_wait_are_counted_without_the_events_between_them(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    struct ring_append event = {
        .kind = RING_EVENT, .room = text("r"), .user = text("ann"), .head = text("{}")};
    struct message message;
    uint64_t position = ring_committed(ring);

    assert_int_equal(ring_waiting(ring), 0);
    for (int i = 0; i < 3; i++) {
        append(ring, 0, "ann", NO_KEY, 5);
        ring_lock(ring);
        assert_true(ring_append(ring, 0, &event) > 0);
        ring_unlock(ring);
    }
    assert_int_equal(ring_waiting(ring), 3);
    must(ring_writer_lock(ring, 0));
    for (unsigned left = 3; left > 0; left--) {
        must(ring_next(ring, &position, &message));
        ring_commit(ring, position);
        assert_int_equal(ring_waiting(ring), left - 1);
    }
    ring_commit(ring, ring_head(ring));
    assert_int_equal(ring_waiting(ring), 0);
    for (unsigned turn = 0; ring_head(ring) < 3 * ring->header->size; turn++) {
        append(ring, 0, "ann", NO_KEY, 500 + turn % 400);
        assert_int_equal(ring_waiting(ring), 1);
        ring_commit(ring, ring_head(ring));
    }
    ring_writer_unlock(ring);
}

static void test_one_of_those_that_live_speaks_for_the_host(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    struct ring other = *ring;

    ring->header->begun = 1;
    assert_in_range(ring_sit(ring), 0, 0);
    other.seat = 1;
    atomic_store(&ring->seats[1].state, RING_SEAT_TAKEN);
    assert_true(ring_speaks(ring));
    assert_false(ring_speaks(&other));
    ring_stand(ring);
    assert_true(ring_speaks(&other));
    atomic_store(&ring->seats[1].state, RING_SEAT_FREE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_writer_that_died_is_replaced_and_a_living_one_is_not, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_an_office_that_is_waited_for_is_taken_when_its_holder_dies,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_record_is_stored_under_its_own_number_or_the_settled_one,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_an_overwritten_record_is_lapped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_second_publication_stands_for_the_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_second_publication_within_the_numbers_given_takes_the_next,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_full_ring_has_place_for_second_publications, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_writer_that_dies_at_any_instruction_of_it_republishes_once,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_kick_is_never_lost, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_messages_that_wait_are_counted_without_the_events_between_them,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_one_of_those_that_live_speaks_for_the_host, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_waiting_ends_by_time_by_a_kick_and_at_once_when_there_is_work,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_who_awaits_a_commit_gets_one_datagram, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_report_says_since_when, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_writer_that_hangs_shows_once_something_waits_for_it, set_up,
                                        tear_down),
    };

    quiet_log();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
