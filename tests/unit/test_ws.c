/* Frames from a client through ws.c: the verdict on each stream is the same whole, byte by byte and cut
 * anywhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "chatd/buf.h"
#include "net/ws.h"

enum { FIN = 0x80, TEXT = 1, BINARY = 2, CLOSING = 8, PING = 9, PONG = 10, MESSAGE_MAX = 2048 };

/* Appends a masked frame. The mask comes from the payload's place, so that tests repeat. */
static void add(struct buf *out, uint8_t first, const void *payload, size_t length)
{
    uint8_t header[14] = {first};
    size_t size = 2;
    header[1] = (uint8_t)(0x80 | (length < 126 ? length : length < 65536 ? 126 : 127));
    size_t extended = length < 126 ? 0 : length < 65536 ? 2 : 8;
    for (size_t i = 0; i < extended; i++)
        header[size++] = (uint8_t)(length >> 8 * (extended - 1 - i));
    uint8_t mask[4];
    for (size_t i = 0; i < 4; i++)
        header[size++] = mask[i] = (uint8_t)(out->length * 31 + i * 97 + 0x80);
    buf_add(out, header, size);
    for (size_t i = 0; i < length; i++) {
        uint8_t c = ((const uint8_t *)payload)[i] ^ mask[i % 4];
        buf_add(out, &c, 1);
    }
}

static void add_string(struct buf *out, uint8_t first, const char *payload)
{
    add(out, first, payload, strlen(payload));
}

/* Writes down what comes out: T(text) B(bytes) O(output frame). */
static void on_message(void *arg, bool text, const char *data, size_t length)
{
    buf_add_string(arg, text ? "T(" : "B(");
    buf_add(arg, data, length);
    buf_add_string(arg, ")");
}

static void on_output(void *arg, const char *data, size_t length)
{
    buf_add_string(arg, "O(");
    buf_add(arg, data, length);
    buf_add_string(arg, ")");
}

static const struct ws_sink sink = {on_message, on_output};

/* Feeds two pieces, `step` bytes at a time (0: as a whole); the pieces lie in blocks of their own size. */
static enum ws_result run(struct ws_pool *pool, const struct buf *in, size_t cut, size_t step,
                          struct buf *out)
{
    struct ws *ws = NULL;
    enum ws_result result = WS_MORE;
    size_t at = 0;
    while (at < in->length && result == WS_MORE) {
        size_t end = step > 0 ? at + step : at < cut ? cut : in->length;
        end = end < in->length ? end : in->length;
        char *piece = malloc(end - at);
        memcpy(piece, in->data + at, end - at);
        result = ws_feed(pool, &ws, &sink, out, piece, end - at, MESSAGE_MAX);
        free(piece);
        at = end;
    }
    ws_free(ws);
    return result;
}

static void assert_same(struct ws_pool *pool, const struct buf *in, size_t cut, size_t step,
                        enum ws_result result, const char *expected, size_t length)
{
    struct buf out = BUF_INIT;
    assert_int_equal(run(pool, in, cut, step, &out), result);
    assert_int_equal(out.length, length);
    if (length > 0)
        assert_memory_equal(out.data, expected, length);
    buf_deinit(&out);
}

static void check_bytes(struct buf *in, enum ws_result result, const char *expected, size_t length)
{
    struct ws_pool pool = {0};
    assert_same(&pool, in, 0, 0, result, expected, length);
    assert_same(&pool, in, 0, 1, result, expected, length);
    assert_same(&pool, in, 0, 3, result, expected, length);
    for (size_t cut = 1; cut < in->length; cut += in->length > 1000 ? 37 : 1)
        assert_same(&pool, in, cut, 0, result, expected, length);
    ws_pool_deinit(&pool);
    buf_deinit(in);
}

static void check(struct buf *in, enum ws_result result, const char *expected)
{
    check_bytes(in, result, expected, strlen(expected));
}

static void messages_of_every_length_form_arrive(void **state)
{
    (void)state;
    static const size_t lengths[] = {0, 1, 125, 126, 127, 128, 255, 256, 2048};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        struct buf in = BUF_INIT, expected = BUF_INIT;
        char payload[2048];
        memset(payload, 'a' + (int)i, sizeof(payload));
        for (int k = 0; k < 3; k++) {
            add(&in, FIN | TEXT, payload, lengths[i]);
            on_message(&expected, true, payload, lengths[i]);
        }
        check_bytes(&in, WS_MORE, expected.data, expected.length);
        buf_deinit(&expected);
    }
}

/* The read ends inside the payload of a message longer than the read buffer. */
static void a_message_longer_than_one_read_arrives(void **state)
{
    (void)state;
    struct ws_pool pool = {0};
    struct buf in = BUF_INIT;
    static char payload[70000];
    memset(payload, 'x', sizeof(payload));
    static const size_t lengths[] = {65528, 65535, 65536, 70000};
    for (size_t i = 0; i < 4; i++) {
        struct buf out = BUF_INIT;
        struct ws *ws = NULL;
        add(&in, FIN | TEXT, payload, lengths[i]);
        for (size_t at = 0; at < in.length; at += 65536) {
            size_t part = in.length - at < 65536 ? in.length - at : 65536;
            assert_int_equal(ws_feed(&pool, &ws, &sink, &out, in.data + at, part, 1 << 20), WS_MORE);
        }
        assert_null(ws);
        assert_int_equal(out.length, lengths[i] + 3);
        buf_deinit(&out);
        in.length = 0;
    }
    buf_deinit(&in);
    ws_pool_deinit(&pool);
}

static void fragments_make_one_message_around_pings(void **state)
{
    (void)state;
    struct buf in = BUF_INIT;
    add_string(&in, TEXT, "one ");
    add_string(&in, FIN | PING, "are you there");
    add_string(&in, 0, "");
    add_string(&in, 0, "two \xe2\x82"); /* a character across two fragments */
    add_string(&in, FIN | PONG, "unasked");
    add_string(&in, FIN, "\xac");
    add_string(&in, TEXT, "");
    add_string(&in, FIN, "");
    add_string(&in, FIN | BINARY, "bin");
    check(&in, WS_MORE, "O(\x8a\x0d" "are you there)T(one two \xe2\x82\xac)T()B(bin)");
}

static void a_close_is_echoed_and_ends_the_stream(void **state)
{
    (void)state;
    struct buf in = BUF_INIT;
    add_string(&in, FIN | TEXT, "last");
    add_string(&in, FIN | CLOSING, "\x03\xe8" "tsch\xc3\xbcss \xe2\x82\xac");
    add_string(&in, FIN | TEXT, "never");
    check(&in, WS_PEER_CLOSED, "T(last)O(\x88\x0e\x03\xe8" "tsch\xc3\xbcss \xe2\x82\xac)");
    add(&in, FIN | CLOSING, NULL, 0);
    check_bytes(&in, WS_PEER_CLOSED, "O(\x88\0)", 5);
}

static void a_bad_close_is_a_fault(void **state)
{
    (void)state;
    static const struct {
        const char *payload;
        size_t length;
        enum ws_result result;
    } rows[] = {
        {"\x03", 1, WS_BAD_PROTOCOL},
        {"\0\0", 2, WS_BAD_PROTOCOL},
        {"\x03\xe7", 2, WS_BAD_PROTOCOL},
        {"\x03\xec", 2, WS_BAD_PROTOCOL},
        {"\x03\xed", 2, WS_BAD_PROTOCOL},
        {"\x03\xee", 2, WS_BAD_PROTOCOL},
        {"\x03\xf7", 2, WS_BAD_PROTOCOL},
        {"\x0b\xb7", 2, WS_BAD_PROTOCOL},
        {"\x13\x88", 2, WS_BAD_PROTOCOL},
        {"\x03\xe8\xff", 3, WS_BAD_UTF8},
        {"\x03\xe8"
         "a\xc3",
         4, WS_BAD_UTF8},
        {"\x03\xe8"
         "abc\xc3(",
         7, WS_BAD_UTF8},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct buf in = BUF_INIT;
        add(&in, FIN | CLOSING, rows[i].payload, rows[i].length);
        check(&in, rows[i].result, "");
    }
}

static void broken_frames_are_protocol_faults(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
    } rows[] = {
        {"\x81\x01x", 3},                      /* not masked */
        {"\x81\x00", 2},                       /* not masked, empty */
        {"\xc1\x81\0\0\0\0x", 7},              /* RSV1 */
        {"\xa1\x81\0\0\0\0x", 7},              /* RSV2 */
        {"\x91\x81\0\0\0\0x", 7},              /* RSV3 */
        {"\x83\x81\0\0\0\0x", 7},              /* reserved opcodes */
        {"\x87\x80\0\0\0\0", 6},
        {"\x8b\x80\0\0\0\0", 6},
        {"\x8f\x81\0\0\0\0x", 7},
        {"\x80\x81\0\0\0\0x", 7},              /* nothing to continue */
        {"\x09\x81\0\0\0\0x", 7},              /* fragmented ping */
        {"\x89\xfe\0\x7e\0\0\0\0", 8},         /* ping of 126 bytes */
        {"\x88\xff\0\0\0\0\0\x01\0\0", 10},    /* close of 65,536 bytes */
        {"\x81\xfe\0\x7d\0\0\0\0", 8},         /* 125 in the long form */
        {"\x81\xff\0\0\0\0\0\0\xff\xff\0\0\0\0", 14},
        {"\x81\xff\x80\0\0\0\0\0\0\0\0\0\0\0x", 15}, /* length with its highest bit */
        {"\x01\x81\0\0\0\0a\x81\x81\0\0\0\0b", 14},  /* a message within a message */
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct buf in = BUF_INIT;
        buf_add(&in, rows[i].bytes, rows[i].length);
        check(&in, WS_BAD_PROTOCOL, "");
    }
}

static void broken_utf8_is_a_fault_at_once(void **state)
{
    (void)state;
    static const char *const rows[] = {"\xff",       "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                       "ok\xe2\x82", "\xe2("};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct buf in = BUF_INIT;
        add_string(&in, FIN | TEXT, "good");
        add_string(&in, FIN | TEXT, rows[i]);
        check(&in, WS_BAD_UTF8, "T(good)");
    }
    struct buf in = BUF_INIT;
    add_string(&in, TEXT, "\xff");
    check(&in, WS_BAD_UTF8, "");
}

static void a_message_over_the_limit_is_refused(void **state)
{
    (void)state;
    struct buf in = BUF_INIT;
    char payload[MESSAGE_MAX + 1];
    memset(payload, 'z', sizeof(payload));
    add(&in, FIN | TEXT, payload, sizeof(payload));
    check(&in, WS_TOO_LARGE, "");
    add(&in, TEXT, payload, MESSAGE_MAX - 1);
    add(&in, 0, payload, 1);
    add(&in, FIN, payload, 1);
    check(&in, WS_TOO_LARGE, "");
}

/* One context serves all who end between two messages; who does not keeps one. */
static void a_context_is_kept_only_inside_a_message(void **state)
{
    (void)state;
    struct ws_pool pool = {0};
    struct buf in = BUF_INIT, out = BUF_INIT;
    struct ws *kept[WS_SPARES + 3] = {NULL};
    add_string(&in, FIN | TEXT, "hello");
    for (int i = 0; i < 10; i++) {
        assert_int_equal(ws_feed(&pool, &kept[0], &sink, &out, in.data, in.length, MESSAGE_MAX), WS_MORE);
        assert_null(kept[0]);
        assert_int_equal(pool.count, 1);
    }
    for (size_t i = 0; i < WS_SPARES + 3; i++) {
        assert_int_equal(ws_feed(&pool, &kept[i], &sink, &out, in.data, i + 1, MESSAGE_MAX), WS_MORE);
        assert_non_null(kept[i]);
    }
    assert_int_equal(pool.count, 0);
    for (size_t i = 0; i < WS_SPARES + 3; i++) {
        assert_int_equal(
            ws_feed(&pool, &kept[i], &sink, &out, in.data + i + 1, in.length - i - 1, MESSAGE_MAX), WS_MORE);
        assert_null(kept[i]);
    }
    assert_int_equal(pool.count, WS_SPARES);
    assert_int_equal(out.length, (10 + WS_SPARES + 3) * strlen("T(hello)"));
    buf_deinit(&in);
    buf_deinit(&out);
    ws_pool_deinit(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_of_every_length_form_arrive),
        cmocka_unit_test(a_message_longer_than_one_read_arrives),
        cmocka_unit_test(fragments_make_one_message_around_pings),
        cmocka_unit_test(a_close_is_echoed_and_ends_the_stream),
        cmocka_unit_test(a_bad_close_is_a_fault),
        cmocka_unit_test(broken_frames_are_protocol_faults),
        cmocka_unit_test(broken_utf8_is_a_fault_at_once),
        cmocka_unit_test(a_message_over_the_limit_is_refused),
        cmocka_unit_test(a_context_is_kept_only_inside_a_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
