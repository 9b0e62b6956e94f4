/* test_top.c - rates and percentiles between two readings, addresses, and what may get to the terminal. */
#include "top/view.h"

#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "top/target.h"

static struct fetch_answer page(long status, bool text, const char *body)
{
    struct fetch_answer answer = {.status = status, .text = text};

    buf_add_string(&answer.body, body);
    return answer;
}

static struct sample *sample(const char *metrics, const char *text, const char *health, const char *alerts)
{
    char error[SAMPLE_ERROR_MAX];
    struct fetch_answer answers[FETCH_PAGES] = {page(200, false, metrics), page(200, true, text),
                                                page(503, false, health), page(200, false, alerts)};
    struct sample *made = sample_new(answers, error);

    for (int i = 0; i < FETCH_PAGES; i++)
        buf_deinit(&answers[i].body);
    return made;
}

static struct sample *counters(const char *metrics)
{
    return sample(metrics, "", "{}", "{}");
}

#define BUCKETS(a, b, c) \
    "# HELP x\nchatd_delivery_latency_seconds_bucket{le=\"0.001\"} " #a "\n" \
    "chatd_delivery_latency_seconds_bucket{le=\"0.01\"} " #b "\n" \
    "chatd_delivery_latency_seconds_bucket{le=\"+Inf\"} " #c "\nchatd_other_bucket{le=\"1\"} 7\n"

static double percentile(const char *before_text, const char *now_text, double fraction, double *last)
{
    struct sample *before = sample("{\"connections\":0,\"workers\":[]}", before_text, "", "");
    struct sample *now = sample("{\"connections\":0,\"workers\":[]}", now_text, "", "");
    double value;

    assert_non_null(before);
    assert_non_null(now);
    value =
        sample_percentile(&before->buckets[SAMPLE_DELIVERY], &now->buckets[SAMPLE_DELIVERY], fraction, last);
    sample_free(before);
    sample_free(now);
    return value;
}

static void percentiles_are_those_of_the_interval(void **state)
{
    double last;

    (void)state;
    /* 1,000 old ones in the first bucket say nothing about the 100 new ones, 80 and 20. */
    assert_float_equal(percentile(BUCKETS(1000, 1000, 1000), BUCKETS(1080, 1100, 1100), 0.5, &last), 0.000625,
                       1e-9);
    assert_float_equal(percentile(BUCKETS(1000, 1000, 1000), BUCKETS(1080, 1100, 1100), 0.9, &last), 0.0055,
                       1e-9);
    assert_float_equal(last, 0.01, 1e-9);
    assert_true(isinf(percentile(BUCKETS(1, 1, 1), BUCKETS(1, 1, 2), 0.5, &last)));
    assert_true(isnan(percentile(BUCKETS(5, 5, 5), BUCKETS(5, 5, 5), 0.5, &last)));
    assert_true(isnan(percentile(BUCKETS(9, 9, 9), BUCKETS(1, 12, 12), 0.5, &last)));
    assert_true(isnan(percentile("", BUCKETS(1, 1, 1), 0.5, &last)));
    assert_true(isnan(percentile("", "", 0.5, &last)));
}

static void rates_are_by_the_servers_clock(void **state)
{
    struct sample *a =
        counters("{\"time\":10000,\"uptime_ms\":9000,\"connections\":1,\"workers\":[],\"n\":5}");
    struct sample *b =
        counters("{\"time\":12000,\"uptime_ms\":11000,\"connections\":1,\"workers\":[],\"n\":9}");
    struct sample *set =
        counters("{\"time\":992000,\"uptime_ms\":991000,\"connections\":1,\"workers\":[],\"n\":9}");

    (void)state;
    b->at_ms = set->at_ms = a->at_ms + 2100;
    assert_float_equal(sample_seconds(a, b), 2.0, 1e-9);
    assert_float_equal(sample_seconds(a, set), 2.1, 1e-9);
    assert_float_equal(sample_rate(a->metrics, b->metrics, "n", 2), 2, 1e-9);
    assert_true(isnan(sample_rate(b->metrics, a->metrics, "n", 2)));
    assert_true(isnan(sample_rate(a->metrics, b->metrics, "other", 2)));
    assert_true(isnan(sample_seconds(NULL, b)));
    sample_free(a);
    sample_free(b);
    sample_free(set);
}

static void a_restart_makes_no_rates(void **state)
{
    struct sample *a =
        counters("{\"time\":10000,\"uptime_ms\":9000,\"connections\":1,\"workers\":[],\"n\":5}");
    struct sample *b =
        counters("{\"time\":12000,\"uptime_ms\":500,\"connections\":1,\"workers\":[],\"n\":9}");

    (void)state;
    assert_true(isnan(sample_seconds(a, b)));
    sample_free(a);
    sample_free(b);
}

static void others_are_no_chatd(void **state)
{
    static const char *const bodies[] = {
        "", "<html>", "[]", "{}", "{\"connections\":1}", "{\"connections\":1"};

    (void)state;
    for (size_t i = 0; i < sizeof(bodies) / sizeof(*bodies); i++)
        assert_null(counters(bodies[i]));
}

static void add_objects(struct buf *out, const char *before, int count)
{
    buf_add_string(out, before);
    for (int i = 0; i < count; i++)
        buf_add_string(out, i == 0 ? "{}" : ",{}");
    buf_add(out, "]}", sizeof("]}"));
}

/* A list of millions would be drawn for minutes, and no key would be heard. */
static void lists_without_end_are_not_drawn(void **state)
{
    (void)state;
    for (int over = 0; over <= 1; over++) {
        struct buf workers = BUF_INIT, alerts = BUF_INIT;
        struct sample *all, *rest;

        add_objects(&workers, "{\"connections\":1,\"workers\":[", SAMPLE_LIST_MAX + over);
        add_objects(&alerts, "{\"alerts\":[", SAMPLE_LIST_MAX + over);
        all = sample(workers.data, "", "{}", alerts.data);
        rest = sample("{\"connections\":1,\"workers\":[]}", "", "{}", alerts.data);
        assert_int_equal(all == NULL, over);
        assert_non_null(rest);
        assert_int_equal(json_array_size(rest->alerts), over ? 0 : SAMPLE_LIST_MAX);
        sample_free(all);
        sample_free(rest);
        buf_deinit(&workers);
        buf_deinit(&alerts);
    }
}

static char *drawn(struct view *view)
{
    struct sheet sheet = {0};
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    view_draw(view, &sheet);
    sheet_print(&sheet, out);
    fclose(out);
    sheet_deinit(&sheet);
    return text;
}

/* Every string a server can send holds what a terminal would obey. */
static void nothing_of_a_server_is_obeyed_by_the_terminal(void **state)
{
#define EVIL "\\u001b[2J\\u0007\\u009b31m\\u202e\\r\\n"
    struct sample *bad =
        sample("{\"version\":\"" EVIL "\",\"connections\":1,\"workers\":[{},7,{\"worker\":\"" EVIL "\"}],"
               "\"errors_total\":9,\"errors_by_code\":{\"" EVIL "\":9,\"\\u00fc\":{}}}",
               "chatd_delivery_latency_seconds_bucket{le=\"x\"} y\n",
               "{\"status\":\"" EVIL "\",\"parts\":{\"" EVIL "\":{\"status\":\"" EVIL "\",\"kind\":\"" EVIL
               "\",\"error\":\"" EVIL "\",\"since\":\"" EVIL "\"},\"x\":3}}",
               "{\"alerts\":[7,{\"name\":\"" EVIL "\",\"since\":\"" EVIL "\",\"advice\":\"" EVIL
               "\",\"value\":1}]}");
    struct view_server server = {.label = "\033[2J", .now = bad};
    struct view view = {.servers = &server, .count = 1, .interval = 1};
    const char *const locales[] = {"C", "C.UTF-8"};

    (void)state;
    assert_non_null(bad);
    for (int i = 0; i < 2; i++) {
        char *text;

        assert_non_null(setlocale(LC_CTYPE, locales[i]));
        text = drawn(&view);
        for (const unsigned char *at = (unsigned char *)text; *at; at++)
            assert_true(*at == '\n' || (*at >= 0x20 && *at < 0x7f));
        assert_non_null(strstr(text, "?[2J??"));
        free(text);
    }
    sample_free(bad);
}

static void text_is_cut_by_columns(void **state)
{
    int used;

    (void)state;
    assert_non_null(setlocale(LC_CTYPE, "C.UTF-8"));
    assert_int_equal(sheet_fit("a\xe4\xb8\xad\xe6\x96\x87z", 8, 4, &used), 4); /* the second one is 2 wide */
    assert_int_equal(used, 3);
    assert_int_equal(sheet_fit("abc", 3, 9, &used), 3);
    assert_int_equal(sheet_fit("abc", 3, -1, &used), 0);
}

static void addresses_are_completed(void **state)
{
    static const struct {
        const char *given, *url, *label;
    } rows[] = {
        {"a.example", "http://a.example:5000", "a.example:5000"},
        {"127.0.0.1:81", "http://127.0.0.1:81", "127.0.0.1:81"},
        {"::1", "http://[::1]:5000", "[::1]:5000"},
        {"[::1]:81", "http://[::1]:81", "[::1]:81"},
        {"http://a/", "http://a", "a"},
        {"https://u:s3@a:444/chat/?x#y", "https://u:s3@a:444/chat", "https://a:444/chat"},
        {"ftp://a", NULL, NULL},
        {"a b", NULL, NULL},
        {"a:99999", NULL, NULL},
        {"", NULL, NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char *url, *label;

        assert_int_equal(target_parse(rows[i].given, &url, &label), rows[i].url != NULL);
        if (!rows[i].url)
            continue;
        assert_string_equal(url, rows[i].url);
        assert_string_equal(label, rows[i].label);
        free(url);
        free(label);
    }
}

static void numbers_are_short(void **state)
{
    char out[SHEET_NUMBER_MAX];

    (void)state;
    assert_string_equal(sheet_count((double)NAN, out), "-");
    assert_string_equal(sheet_count(12040, out), "12040");
    assert_string_equal(sheet_count(0.123, out), "0.12");
    assert_string_equal(sheet_count(12.34, out), "12.3");
    assert_string_equal(sheet_bytes(999, out), "999");
    assert_string_equal(sheet_bytes(1023, out), "1.00K");
    assert_string_equal(sheet_bytes(64 << 20, out), "64.0M");
    assert_string_equal(sheet_bytes(1e30, out), "888178419700125P");
    assert_string_equal(sheet_seconds(0.00082, out), "0.82 ms");
    assert_string_equal(sheet_seconds(0.25, out), "250.0 ms");
    assert_string_equal(sheet_seconds(2, out), "2.00 s");
    assert_string_equal(sheet_span(12, out), "12 s");
    assert_string_equal(sheet_span(3 * 86400 + 3661, out), "3d 1:01:01");
    assert_string_equal(sheet_span(-1, out), "-");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles_are_those_of_the_interval),
        cmocka_unit_test(rates_are_by_the_servers_clock),
        cmocka_unit_test(a_restart_makes_no_rates),
        cmocka_unit_test(others_are_no_chatd),
        cmocka_unit_test(lists_without_end_are_not_drawn),
        cmocka_unit_test(nothing_of_a_server_is_obeyed_by_the_terminal),
        cmocka_unit_test(text_is_cut_by_columns),
        cmocka_unit_test(addresses_are_completed),
        cmocka_unit_test(numbers_are_short),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
