/* test_proto.c - commands from JSON, whole and cut at every offset, and the answers' bytes. */
#include "chatd/proto.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* From the heap and not terminated, so that the address sanitizer sees a byte read too many. */
static bool parse(const char *text, size_t length, struct command *command, struct refusal *refusal)
{
    char *copy = malloc(length + (length == 0));
    bool ok;

    memcpy(copy, text, length);
    *refusal = (struct refusal){NULL, ""};
    ok = proto_parse(copy, length, command, refusal);
    free(copy);
    return ok;
}

/* NULL: it is a command; else the refusal's code. */
static void expect(const char *text, const char *code, const char *id)
{
    struct command command;
    struct refusal refusal;
    bool ok = parse(text, strlen(text), &command, &refusal);

    if (ok != (code == NULL) || (code && strcmp(code, refusal.code) != 0))
        fail_msg("%s: %s", text, ok ? "accepted" : refusal.code);
    if (!ok)
        assert_true(strlen(refusal.message) > 0);
    if (id) {
        assert_int_equal(command.id.length, strlen(id));
        assert_memory_equal(command.id.data, id, strlen(id));
    } else {
        assert_null(command.id.data);
    }
    proto_free(&command);
}

static void test_each_member_has_its_kind(void **state)
{
    (void)state;
    expect("{\"type\":\"hello\"}", NULL, NULL);
    expect("{\"type\":\"hello\",\"user\":1}", "bad_request", NULL);
    expect("{\"type\":\"hello\",\"session\":null}", "bad_request", NULL);
    expect("{\"type\":\"hello\",\"token\":[]}", "bad_request", NULL);
    expect("{\"type\":\"join\",\"id\":1}", "bad_request", "1");
    expect("{\"type\":\"join\",\"room\":\"r\"}", NULL, NULL);
    expect("{\"type\":\"join\",\"room\":\"r\",\"since\":0}", NULL, NULL);
    expect("{\"type\":\"join\",\"room\":\"r\",\"since\":-1}", "bad_request", NULL);
    expect("{\"type\":\"join\",\"room\":\"r\",\"since\":1.5}", "bad_request", NULL);
    expect("{\"type\":\"join\",\"room\":\"r\",\"since\":2e0}", NULL, NULL);
    expect("{\"type\":\"join\",\"room\":\"r\",\"since\":9007199254740991}", NULL, NULL);
    expect("{\"type\":\"join\",\"room\":\"r\",\"since\":9007199254740993}", "bad_request", NULL);
    expect("{\"type\":\"join\",\"room\":\"r\",\"since\":123456789012345678901}", "bad_request", NULL);
    expect("{\"type\":\"join\",\"room\":\"r\",\"since\":1,\"recent\":1}", "bad_request", NULL);
    expect("{\"type\":\"message\",\"room\":\"r\"}", "bad_request", NULL);
    expect("{\"type\":\"message\",\"room\":\"r\",\"text\":\"\",\"key\":7}", "bad_request", NULL);
    expect("{\"type\":\"message\",\"room\":\"r\",\"text\":\"\",\"retry\":1}", "bad_request", NULL);
    expect("{\"type\":\"message\",\"room\":\"r\",\"text\":\"\",\"retry\":false}", NULL, NULL);
    expect("{\"type\":\"typing\",\"room\":\"r\"}", "bad_request", NULL);
    expect("{\"type\":\"typing\",\"room\":\"r\",\"on\":true}", NULL, NULL);
    expect("{\"type\":\"history\",\"room\":\"r\",\"before\":\"5\"}", "bad_request", NULL);
    expect("{\"type\":\"history\",\"room\":\"r\"}", NULL, NULL);
    expect("{\"type\":\"members\"}", "bad_request", NULL);
    expect("{\"type\":\"leave\"}", "bad_request", NULL);
    expect("{\"type\":\"refresh\"}", "bad_request", NULL);
    expect("{\"type\":\"rooms\",\"other\":{\"x\":[1]}}", NULL, NULL);
    expect("{\"type\":\"ping\"}", NULL, NULL);
}

static void test_what_is_no_command_is_refused_with_its_code(void **state)
{
    (void)state;
    expect("", "bad_json", NULL);
    expect("{", "bad_json", NULL);
    expect("{\"type\":\"ping\"} {}", "bad_json", NULL);
    expect("[]", "bad_json", NULL);
    expect("\"ping\"", "bad_json", NULL);
    expect("{\"type\":\"ping\",\"id\":\"\xff\"}", "bad_json", NULL);
    expect("{\"type\":\"ping\",\"id\":\"\\ud800\"}", "bad_json", NULL);
    expect("{}", "bad_request", NULL);
    expect("{\"id\":\"a\",\"type\":1}", "bad_request", "\"a\"");
    expect("{\"id\":5,\"type\":\"\"}", "unknown_type", "5");
    expect("{\"id\":5,\"type\":\"pin\"}", "unknown_type", "5");
    expect("{\"id\":5,\"type\":\"ping\\u0000\"}", "unknown_type", "5");
    expect("{\"id\":5,\"type\":\"PING\"}", "unknown_type", "5");
}

static void test_an_id_is_any_number_or_string(void **state)
{
    (void)state;
    expect("{\"id\":0,\"type\":\"ping\"}", NULL, "0");
    expect("{\"id\":-9223372036854775808,\"type\":\"ping\"}", NULL, "-9223372036854775808");
    expect("{\"id\":1.5,\"type\":\"ping\"}", NULL, "1.5");
    expect("{\"id\":\"\",\"type\":\"ping\"}", NULL, "\"\"");
    expect("{\"id\":\"\\u0000\\n\\\"\",\"type\":\"ping\"}", NULL, "\"\\u0000\\n\\\"\"");
    expect("{\"id\":\"\\u00e9\",\"type\":\"ping\"}", NULL, "\"\xc3\xa9\"");
    expect("{\"id\":100000000000000000000,\"type\":\"ping\"}", NULL, "1e20");
    expect("{\"id\":null,\"type\":\"ping\"}", "bad_request", NULL);
    expect("{\"id\":true,\"type\":\"ping\"}", "bad_request", NULL);
    expect("{\"id\":{},\"type\":\"ping\"}", "bad_request", NULL);
}

static void test_a_command_holds_what_was_said(void **state)
{
    static const char text[] =
        "{\"type\":\"message\",\"id\":3,\"room\":\"r\",\"text\":\"a\\u0000b\",\"key\":\"k\",\"retry\":true}";
    struct command command;
    struct refusal refusal;

    (void)state;
    assert_true(parse(text, sizeof(text) - 1, &command, &refusal));
    assert_int_equal(command.type, COMMAND_MESSAGE);
    assert_int_equal(command.text.length, 3);
    assert_memory_equal(command.text.data, "a\0b", 3);
    assert_int_equal(command.key.length, 1);
    assert_true(command.retry);
    assert_null(command.user.data);
    proto_free(&command);
    assert_true(parse("{\"type\":\"history\",\"room\":\"r\",\"limit\":7}", 39, &command, &refusal));
    assert_true(command.before == UINT64_MAX);
    assert_int_equal(command.limit, 7);
    proto_free(&command);
    /* Cut at every offset it is no JSON. */
    for (size_t length = 0; length < sizeof(text) - 1; length++) {
        assert_false(parse(text, length, &command, &refusal));
        assert_string_equal(refusal.code, "bad_json");
        proto_free(&command);
    }
}

static void test_the_answers_bytes(void **state)
{
    struct buf out = BUF_INIT;

    (void)state;
    proto_begin(&out, "ack", (struct text){"\"x\"", 3});
    proto_member(&out, "room", (struct text){"a\"b", 3});
    proto_number(&out, "seq", UINT64_MAX);
    proto_error(&out, (struct text){NULL, 0}, "overloaded", "later", 5);
    proto_error(&out, (struct text){"1", 1}, "bad_name", "no", 0);
    proto_message_head(&out, (struct text){"r", 1});
    proto_message_tail(&out, (struct text){"u", 1}, (struct text){"\n", 1}, (struct text){"k", 1});
    proto_message_tail(&out, (struct text){"u", 1}, (struct text){"t", 1}, (struct text){NULL, 0});
    buf_add(&out, "", 1);
    assert_string_equal(out.data,
                        "{\"type\":\"ack\",\"id\":\"x\",\"room\":\"a\\\"b\",\"seq\":18446744073709551615"
                        "{\"type\":\"error\",\"code\":\"overloaded\",\"message\":\"later\",\"retry_ms\":5}"
                        "{\"type\":\"error\",\"id\":1,\"code\":\"bad_name\",\"message\":\"no\"}"
                        "{\"type\":\"message\",\"room\":\"r\",\"seq\":"
                        ",\"user\":\"u\",\"text\":\"\\n\",\"key\":\"k\"}"
                        ",\"user\":\"u\",\"text\":\"t\"}");
    buf_deinit(&out);
}

static void test_an_event_tells_its_time(void **state)
{
    static const char event[] =
        "{\"type\":\"message\",\"room\":\"r\",\"seq\":7,\"time\":1790000000123,\"text\":\",\\\"time\\\":1\"}";
    static const char typing[] = "{\"type\":\"typing\"}";

    (void)state;
    assert_int_equal(proto_message_time((struct text){event, strlen(event)}), 1790000000123);
    assert_int_equal(proto_message_time((struct text){typing, strlen(typing)}), 0);
    assert_int_equal(proto_message_time((struct text){event, strlen(event) - 36}), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_member_has_its_kind),
        cmocka_unit_test(test_what_is_no_command_is_refused_with_its_code),
        cmocka_unit_test(test_an_id_is_any_number_or_string),
        cmocka_unit_test(test_a_command_holds_what_was_said),
        cmocka_unit_test(test_the_answers_bytes),
        cmocka_unit_test(test_an_event_tells_its_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
