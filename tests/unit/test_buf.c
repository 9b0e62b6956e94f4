/* Buffers: growth, consuming from the front, JSON strings (RFC 8259 section 7). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "chatd/buf.h"

static void assert_buf(const struct buf *buf, const char *text)
{
    assert_int_equal(buf->length, strlen(text));
    assert_memory_equal(buf->data, text, strlen(text));
}

static void grows_and_keeps_its_bytes(void **state)
{
    struct buf buf = BUF_INIT;

    (void)state;
    for (int i = 0; i < 100000; i++)
        buf_add(&buf, &(char){(char)i}, 1);
    assert_int_equal(buf.length, 100000);
    for (int i = 0; i < 100000; i++)
        assert_int_equal(buf.data[i], (char)i);
    buf_deinit(&buf);
    assert_null(buf.data);
    buf_add_string(&buf, "again");
    assert_buf(&buf, "again");
    buf_deinit(&buf);
}

static void appends_pieces(void **state)
{
    struct buf buf = BUF_INIT;

    (void)state;
    buf_add(&buf, NULL, 0);
    assert_int_equal(buf.length, 0);
    buf_add_literal(&buf, "a=");
    buf_add_u64(&buf, 0);
    buf_add_literal(&buf, ",");
    buf_add_u64(&buf, UINT64_MAX);
    buf_printf(&buf, ",%s%d", "x", -5);
    buf_printf(&buf, "%s", "");
    assert_buf(&buf, "a=0,18446744073709551615,x-5");
    buf_deinit(&buf);
}

static void prints_longer_than_it_has_room(void **state)
{
    struct buf buf = BUF_INIT;

    (void)state;
    for (int width = 0; width < 300; width++) {
        buf.length = 0;
        buf_printf(&buf, "%*d", width, 7);
        assert_int_equal(buf.length, width > 1 ? width : 1);
        assert_int_equal(buf.data[buf.length - 1], '7');
    }
    buf_deinit(&buf);
}

static void assert_json(const char *text, size_t length, const char *expected)
{
    struct buf buf = BUF_INIT;
    char *copy = malloc(length + (length == 0));

    memcpy(copy, text, length); /* of exactly that size, for the address sanitizer */
    buf_add_json(&buf, copy, length);
    assert_buf(&buf, expected);
    free(copy);
    buf_deinit(&buf);
}

static void json_escapes_what_it_must_and_nothing_else(void **state)
{
    (void)state;
    assert_json("", 0, "\"\"");
    assert_json("plain", 5, "\"plain\"");
    assert_json("\"\\", 2, "\"\\\"\\\\\"");
    assert_json("a\b\t\n\f\rb", 7, "\"a\\b\\t\\n\\f\\rb\"");
    assert_json("\0\x01\x1f\x7f/", 5, "\"\\u0000\\u0001\\u001f\x7f/\"");
    assert_json("\xc3\xa4\xf0\x9f\x98\x80", 6, "\"\xc3\xa4\xf0\x9f\x98\x80\"");
    assert_json("\"mid\"dle\"", 9, "\"\\\"mid\\\"dle\\\"\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_and_keeps_its_bytes),
        cmocka_unit_test(appends_pieces),
        cmocka_unit_test(prints_longer_than_it_has_room),
        cmocka_unit_test(json_escapes_what_it_must_and_nothing_else),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
