/* The send queue over a socket pair: order, the counted bytes, the way through a full buffer. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "chatd/clock.h"
#include "net/outq.h"

struct fixture {
    int here;
    int there;
    struct outq queue;
    struct outq_tally tally;
};

static int setup(void **state)
{
    static struct fixture fixture;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0)
        return -1;
    fixture = (struct fixture){.here = pair[0], .there = pair[1]};
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    outq_clear(&fixture->queue);
    close(fixture->here);
    close(fixture->there);
    return 0;
}

static void push(struct outq *queue, const char *bytes, size_t length)
{
    struct frame *frame = frame_new(length);
    frame_add(frame, bytes, length);
    outq_push(queue, frame);
    frame_unref(frame);
}

static void frames_leave_in_order_by_one_call(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 50; i++) {
        char text[16];
        push(&f->queue, text, (size_t)snprintf(text, sizeof(text), "%02d,", i));
        assert_int_equal(f->queue.bytes, 3 * (i + 1));
        assert_int_equal(f->queue.heap, i >= OUTQ_SLOTS);
    }
    assert_int_equal(outq_write(&f->queue, f->here, &f->tally), 0);
    assert_int_equal(f->tally.writes, 1);
    assert_int_equal(f->tally.bytes, 150);
    assert_int_equal(f->queue.bytes, 0);
    assert_int_equal(f->queue.heap, 0);
    char got[200];
    assert_int_equal(read(f->there, got, sizeof(got)), 150);
    for (int i = 0; i < 50; i++) {
        char text[16];
        snprintf(text, sizeof(text), "%02d,", i);
        assert_memory_equal(got + 3 * i, text, 3);
    }
}

static void two_frames_need_no_heap(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 3; i++) {
        push(&f->queue, "a", 1);
        push(&f->queue, "b", 1);
        assert_int_equal(f->queue.heap, 0);
        assert_int_equal(outq_write(&f->queue, f->here, &f->tally), 0);
    }
    char got[8];
    assert_int_equal(read(f->there, got, sizeof(got)), 6);
    assert_memory_equal(got, "ababab", 6);
}

/* Writes against a peer that reads little at a time: everything arrives once, in order, whatever the cuts. */
static void short_writes_lose_nothing(void **state)
{
    struct fixture *f = *state;
    int size = 4096;
    setsockopt(f->here, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    static char chunk[1777];
    size_t pushed = 0, received = 0;
    bool blocked = false;
    for (int i = 0; i < 300; i++) {
        for (size_t k = 0; k < sizeof(chunk); k++)
            chunk[k] = (char)((pushed + k) % 251);
        push(&f->queue, chunk, sizeof(chunk));
        pushed += sizeof(chunk);
    }
    while (received < pushed) {
        uint64_t before = f->queue.bytes, sent = f->tally.bytes;
        int rest = outq_write(&f->queue, f->here, &f->tally);
        assert_true(rest == 0 || rest == 1);
        blocked |= rest == 1;
        assert_int_equal(before - f->queue.bytes, f->tally.bytes - sent);
        char got[999];
        ssize_t n = read(f->there, got, sizeof(got));
        assert_true(n > 0);
        for (ssize_t k = 0; k < n; k++)
            assert_int_equal((unsigned char)got[k], (received + (size_t)k) % 251);
        received += (size_t)n;
    }
    assert_true(blocked);
    assert_int_equal(f->queue.count, 0);
    assert_int_equal(f->tally.bytes, pushed);
}

static void a_gone_peer_is_an_error_and_no_signal(void **state)
{
    struct fixture *f = *state;
    close(f->there);
    f->there = -1;
    push(&f->queue, "x", 1);
    assert_int_equal(outq_write(&f->queue, f->here, &f->tally), -EPIPE);
    push(&f->queue, "y", 1);
    assert_int_equal(outq_write(&f->queue, f->here, &f->tally), -EPIPE);
}

static void only_a_frame_that_is_under_way_survives_a_drop(void **state)
{
    struct fixture *f = *state;
    int size = 4096;
    setsockopt(f->here, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    static char large[1 << 20];
    push(&f->queue, large, sizeof(large));
    push(&f->queue, "dropped", 7);
    push(&f->queue, "dropped", 7);
    assert_int_equal(outq_write(&f->queue, f->here, &f->tally), 1);
    outq_drop_unsent(&f->queue);
    assert_int_equal(f->queue.count, 1);
    assert_int_equal(f->queue.bytes, sizeof(large) - f->tally.bytes);
    push(&f->queue, "end", 3);
    outq_clear(&f->queue);

    push(&f->queue, "dropped", 7);
    outq_drop_unsent(&f->queue);
    assert_int_equal(f->queue.count, 0);
    assert_int_equal(f->queue.bytes, 0);
}

/* One frame with `count` messages of `length` bytes, received `age_us` ago and each a microsecond later. */
static void push_messages(struct outq *queue, unsigned count, size_t length, int64_t age_us)
{
    struct frame *frame = frame_new(count * length);
    int64_t received_us = clock_wall_us() - age_us;
    char byte = 'm';

    for (unsigned i = 0; i < count; i++) {
        for (size_t k = 0; k < length; k++)
            frame_add(frame, &byte, 1);
        frame_stamp(frame, received_us + i);
    }
    outq_push(queue, frame);
    frame_unref(frame);
}

static uint64_t latencies(const struct outq_tally *tally)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < METRICS_BUCKETS; i++)
        sum += tally->latencies[i];
    return sum;
}

static void messages_count_with_the_write_of_their_last_byte(void **state)
{
    struct fixture *f = *state;
    unsigned minute = METRICS_BUCKETS - 1, hundred_ms = metrics_bucket(130000);

    push(&f->queue, "presence", 8);
    push_messages(&f->queue, 3, 10, 60000000);
    push_messages(&f->queue, 2, 10, 130000);
    push_messages(&f->queue, 1, 10, -5000000); /* the publisher's clock is ahead */
    assert_int_equal(outq_write(&f->queue, f->here, &f->tally), 0);
    assert_int_equal(f->tally.deliveries, 6);
    assert_int_equal(f->tally.latencies[minute], 3);
    assert_int_equal(f->tally.latencies[hundred_ms], 2);
    assert_int_equal(f->tally.latencies[0], 1);
    assert_in_range(f->tally.latency_us, 3 * 60000000 + 2 * 130000 - 10, 3 * 60000000 + 2 * 130000 + 600000);
}

static void messages_of_one_frame_may_fall_into_several_buckets(void **state)
{
    struct fixture *f = *state;
    struct frame *frame = frame_new(3);
    int64_t now_us = clock_wall_us(), ages[] = {20000000, 180000, -1000000};

    for (unsigned i = 0; i < 3; i++) {
        frame_add(frame, "m", 1);
        frame_stamp(frame, now_us - ages[i]);
    }
    outq_push(&f->queue, frame);
    frame_unref(frame);
    assert_int_equal(outq_write(&f->queue, f->here, &f->tally), 0);
    assert_int_equal(f->tally.deliveries, 3);
    assert_int_equal(f->tally.latencies[METRICS_BUCKETS - 1], 1);
    assert_int_equal(f->tally.latencies[metrics_bucket(180000)], 1);
    assert_int_equal(f->tally.latencies[0], 1);
    assert_in_range(f->tally.latency_us, 20180000, 20180000 + 600000);
}

static void what_is_cut_short_counts_up_to_the_last_whole_message(void **state)
{
    struct fixture *f = *state;
    const size_t length = 1000;
    char sink[4096];
    ssize_t got;

    push_messages(&f->queue, 2000, length, 5000);
    assert_int_equal(outq_write(&f->queue, f->here, &f->tally), 1);
    assert_in_range(f->tally.bytes, 1, 2000 * length - 1);
    assert_int_equal(f->tally.deliveries, f->tally.bytes / length);
    while (f->queue.count > 0) {
        got = read(f->there, sink, sizeof(sink));
        assert_true(got > 0);
        assert_in_range(outq_write(&f->queue, f->here, &f->tally), 0, 1);
        assert_int_equal(f->tally.deliveries, f->tally.bytes / length);
    }
    assert_int_equal(f->tally.deliveries, 2000);
    assert_int_equal(latencies(&f->tally), 2000);
}

static void what_is_dropped_does_not_count(void **state)
{
    struct fixture *f = *state;

    push_messages(&f->queue, 5, 10, 0);
    outq_clear(&f->queue);
    assert_int_equal(outq_write(&f->queue, f->here, &f->tally), 0);
    assert_int_equal(f->tally.deliveries, 0);
}

static void the_queue_is_small(void **state)
{
    (void)state;
    assert_true(sizeof(struct outq) <= 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(frames_leave_in_order_by_one_call, setup, teardown),
        cmocka_unit_test_setup_teardown(two_frames_need_no_heap, setup, teardown),
        cmocka_unit_test_setup_teardown(short_writes_lose_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(a_gone_peer_is_an_error_and_no_signal, setup, teardown),
        cmocka_unit_test_setup_teardown(only_a_frame_that_is_under_way_survives_a_drop, setup, teardown),
        cmocka_unit_test_setup_teardown(messages_count_with_the_write_of_their_last_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(messages_of_one_frame_may_fall_into_several_buckets, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_cut_short_counts_up_to_the_last_whole_message, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_is_dropped_does_not_count, setup, teardown),
        cmocka_unit_test(the_queue_is_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
