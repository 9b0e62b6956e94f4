/* Frames: references, headers at the borders of each length form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "chatd/frame.h"

static void assert_header(uint64_t length, size_t size, const char *bytes)
{
    char header[FRAME_HEADER_MAX];
    assert_int_equal(frame_header(header, FRAME_TEXT, length), size);
    assert_memory_equal(header, bytes, size);
}

static void header_takes_the_shortest_form(void **state)
{
    (void)state;
    assert_header(0, 2, "\x81\x00");
    assert_header(125, 2, "\x81\x7d");
    assert_header(126, 4, "\x81\x7e\x00\x7e");
    assert_header(65535, 4, "\x81\x7e\xff\xff");
    assert_header(65536, 10, "\x81\x7f\0\0\0\0\0\x01\0\0");
    assert_header(0x0102030405060708, 10, "\x81\x7f\x01\x02\x03\x04\x05\x06\x07\x08");
}

static void messages_stand_one_behind_the_other(void **state)
{
    (void)state;
    struct frame *frame = frame_new(2 * (3 + FRAME_HEADER_MAX));
    frame_add_text(frame, "one", 3);
    frame_add_text(frame, "two", 3);
    assert_int_equal(frame->length, 10);
    assert_memory_equal(frame->data, "\x81\x03one\x81\x03two", 10);
    frame_unref(frame);
}

static void frame_lives_until_its_last_reference(void **state)
{
    (void)state;
    struct frame *frame = frame_text("x", 1);
    assert_ptr_equal(frame_ref(frame), frame);
    assert_int_equal(frame->refs, 2);
    frame_unref(frame);
    assert_int_equal(frame->refs, 1);
    assert_memory_equal(frame->data, "\x81\x01x", 3);
    frame_unref(frame);
    frame_unref(NULL);
}

static void stamps_say_when_what_is_before_them_was_received(void **state)
{
    struct frame *frame = frame_new(4);

    (void)state;
    assert_null(frame->stamps);
    for (int64_t i = 0; i < 20; i++) {
        frame = frame_grow(frame, 2 * frame->length + 3);
        frame_add_text(frame, "x", 1);
        frame_stamp(frame, 1000 + (i % 5) * 10);
    }
    assert_int_equal(frame->length, 60);
    assert_memory_equal(frame->data + 57, "\x81\x01x", 3);
    assert_int_equal(frame->stamps->count, 20);
    assert_int_equal(frame->stamps->list[19].end, 60);
    assert_int_equal(frame->stamps->list[7].received_us, 1020);
    assert_int_equal(frame->stamps->earliest_us, 1000);
    assert_int_equal(frame->stamps->latest_us, 1040);
    assert_int_equal(frame->stamps->sum_us, 4 * (10 + 20 + 30 + 40));
    assert_ptr_equal(frame_grow(frame, 10), frame);
    frame_unref(frame);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_takes_the_shortest_form),
        cmocka_unit_test(messages_stand_one_behind_the_other),
        cmocka_unit_test(frame_lives_until_its_last_reference),
        cmocka_unit_test(stamps_say_when_what_is_before_them_was_received),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
