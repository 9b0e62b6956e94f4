/* The opening handshake, RFC 6455 section 4.2: what is accepted, what is refused and with which status. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/handshake.h"

/* The request of section 1.3. */
static struct http_request sample(void)
{
    struct http_request request = {
        .method = "GET",
        .path = "/ws",
        .query = "",
        .minor = 1,
        .header_count = 5,
        .headers = {{"host", "server.example.com"},
                    {"upgrade", "websocket"},
                    {"connection", "Upgrade"},
                    {"sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="},
                    {"sec-websocket-version", "13"}},
    };
    return request;
}

enum { HOST, UPGRADE, CONNECTION, KEY, VERSION };

static int check(const struct http_request *request)
{
    char accept[HANDSHAKE_ACCEPT_SIZE];
    const char *message = NULL;
    int status = handshake_check(request, accept, &message);
    assert_true((status == 0) == (message == NULL));
    return status;
}

static void the_sample_of_the_rfc_is_answered_as_there(void **state)
{
    (void)state;
    struct http_request request = sample();
    char accept[HANDSHAKE_ACCEPT_SIZE];
    const char *message;
    assert_int_equal(handshake_check(&request, accept, &message), 0);
    assert_string_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

static void tokens_count_in_any_case_and_company(void **state)
{
    (void)state;
    struct http_request request = sample();
    request.headers[UPGRADE].value = "h2c , WebSocket";
    request.headers[CONNECTION].value = "keep-alive,\tUPGRADE ";
    assert_true(handshake_wanted(&request));
    assert_int_equal(check(&request), 0);
    request.headers[UPGRADE].value = "websockets";
    assert_false(handshake_wanted(&request));
    assert_int_equal(check(&request), 400);
    request = sample();
    request.headers[CONNECTION].value = "keep-alive, upgrade-insecure";
    assert_int_equal(check(&request), 400);
}

static void each_header_is_needed_exactly_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        struct http_request request = sample();
        request.headers[i].name = "x-other";
        assert_int_equal(check(&request), 400);
        if (i == UPGRADE || i == CONNECTION) /* lists: they may come in several lines */
            continue;
        request = sample();
        request.headers[request.header_count++] = request.headers[i];
        assert_int_equal(check(&request), 400);
    }
}

static void only_get_in_http_1_1(void **state)
{
    (void)state;
    struct http_request request = sample();
    request.method = "POST";
    assert_int_equal(check(&request), 400);
    request = sample();
    request.minor = 0;
    assert_int_equal(check(&request), 400);
}

static void another_version_is_told_ours(void **state)
{
    (void)state;
    static const char *const versions[] = {"8", "14", "013", "", "13, 8"};
    for (size_t i = 0; i < 5; i++) {
        struct http_request request = sample();
        request.headers[VERSION].value = versions[i];
        assert_int_equal(check(&request), 426);
    }
}

static void a_key_is_base64_of_16_bytes(void **state)
{
    (void)state;
    static const char *const keys[] = {
        "",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZWE=",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25*ZQ==",
        "dGhlIHNhbXBsZSBub25jZQ==x",
        "dGhlIHNhbXBsZSBub 5jZQ==",
        "dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ==",
    };
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        struct http_request request = sample();
        request.headers[KEY].value = keys[i];
        assert_int_equal(check(&request), 400);
    }
}

static void a_subprotocol_is_found_by_its_exact_name(void **state)
{
    (void)state;
    struct http_request request = sample();
    assert_false(handshake_offers(&request, "chatd.v1"));
    request.header_count = 7;
    request.headers[5] = (struct http_header){"sec-websocket-protocol", "chatd.v10, CHATD.V1"};
    request.headers[6] = (struct http_header){"sec-websocket-protocol", "x ,chatd.v1"};
    assert_true(handshake_offers(&request, "chatd.v1"));
    request.header_count = 6;
    assert_false(handshake_offers(&request, "chatd.v1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sample_of_the_rfc_is_answered_as_there),
        cmocka_unit_test(tokens_count_in_any_case_and_company),
        cmocka_unit_test(each_header_is_needed_exactly_once),
        cmocka_unit_test(only_get_in_http_1_1),
        cmocka_unit_test(another_version_is_told_ours),
        cmocka_unit_test(a_key_is_base64_of_16_bytes),
        cmocka_unit_test(a_subprotocol_is_found_by_its_exact_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
