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
        cmocka_unit_test(the_queue_is_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
