/* Metrics: slots, what a death clears, and the totals as JSON and text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "chatd/metrics.h"

static json_t *totals(const struct metrics *metrics)
{
    struct buf buf = BUF_INIT;
    json_t *root;

    metrics_json(metrics, &buf);
    root = json_loadb(buf.data, buf.length, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    buf_deinit(&buf);
    return root;
}

static int64_t member(json_t *object, const char *name)
{
    assert_true(json_is_integer(json_object_get(object, name)));
    return json_integer_value(json_object_get(object, name));
}

static void count_in_child(struct metrics *metrics, int worker, int64_t connections, int64_t peak)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        metrics_enter(metrics, worker);
        metrics_add(messages_total, 5);
        metrics_set(connections, connections);
        metrics_set(cluster_connections, peak);
        metrics_set(ready, 1);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(metrics_get(&metrics->slots[worker], pid), pid);
}

static void counting_works_before_a_slot_is_taken(void **state)
{
    (void)state;
    metrics_add(acks_total, 2);
    metrics_add(acks_total, 1);
    assert_int_equal(metrics_get(metrics_mine, acks_total), 3);
}

static void totals_sum_gauges_and_take_the_largest_peak(void **state)
{
    struct metrics *metrics = metrics_map();
    json_t *root, *workers;

    (void)state;
    assert_non_null(metrics);
    count_in_child(metrics, 0, 10, 700);
    count_in_child(metrics, METRICS_WORKERS_MAX - 1, 20, 300);
    root = totals(metrics);
    assert_int_equal(member(root, "connections"), 30);
    assert_int_equal(member(root, "messages_total"), 10);
    assert_int_equal(member(root, "cluster_connections"), 700);
    workers = json_object_get(root, "workers");
    assert_int_equal(json_array_size(workers), 2);
    assert_int_equal(member(json_array_get(workers, 1), "worker"), METRICS_WORKERS_MAX - 1);
    assert_int_equal(member(json_array_get(workers, 1), "connections"), 20);
    assert_true(json_is_true(json_object_get(json_array_get(workers, 1), "ready")));
    json_decref(root);
}

static void a_death_clears_gauges_but_not_counters(void **state)
{
    struct metrics *metrics = metrics_map();
    json_t *root;

    (void)state;
    assert_non_null(metrics);
    count_in_child(metrics, 3, 10, 700);
    metrics_clear(metrics, 3);
    root = totals(metrics);
    assert_int_equal(member(root, "connections"), 0);
    assert_int_equal(member(root, "cluster_connections"), 0);
    assert_int_equal(member(root, "messages_total"), 5);
    assert_int_equal(json_array_size(json_object_get(root, "workers")), 0);
    json_decref(root);
    count_in_child(metrics, 3, 1, 1);
    root = totals(metrics);
    assert_int_equal(member(root, "connections"), 1);
    assert_int_equal(member(root, "messages_total"), 10);
    json_decref(root);
}

static char *written(const struct metrics *metrics, enum metrics_text form)
{
    static struct buf buf = BUF_INIT;

    buf.length = 0;
    metrics_text(metrics, form, &buf);
    buf_add(&buf, "", 1);
    return buf.data;
}

static struct metrics *entered(void)
{
    struct metrics *metrics = metrics_map();

    assert_non_null(metrics);
    metrics_enter(metrics, 1);
    return metrics;
}

static void a_word_counts_once_under_its_name_and_in_the_sum(void **state)
{
    struct metrics *metrics = entered();
    json_t *root, *split;
    const char *form;

    (void)state;
    metrics_add(errors_total[metrics_error_of("bad_room")], 2);
    metrics_add(errors_total[metrics_error_of("from a client")], 3);
    assert_int_equal(metrics_refusal_of("timeout"), METRICS_REFUSAL_timeout);
    assert_int_equal(metrics_refusal_of("other"), METRICS_REFUSAL_other);
    root = totals(metrics);
    split = json_object_get(root, "errors_by_code");
    assert_int_equal(json_object_size(split), 2);
    assert_int_equal(member(split, "bad_room"), 2);
    assert_int_equal(member(split, "other"), 3);
    assert_int_equal(member(root, "errors_total"), 5);
    json_decref(root);
    form = written(metrics, METRICS_PROMETHEUS);
    assert_non_null(strstr(form, "chatd_errors_total{code=\"bad_room\"} 2\n"));
    assert_non_null(strstr(form, "chatd_errors_total{code=\"forbidden\"} 0\n"));
}

static void a_bucket_takes_what_is_not_above_its_bound(void **state)
{
    (void)state;
    assert_int_equal(metrics_bucket(-5), 0);
    assert_int_equal(metrics_bucket(100), 0);
    assert_int_equal(metrics_bucket(101), 1);
    assert_int_equal(metrics_bucket(10000000), METRICS_BUCKETS - 2);
    assert_int_equal(metrics_bucket(10000001), METRICS_BUCKETS - 1);
    assert_int_equal(metrics_bucket(INT64_MAX), METRICS_BUCKETS - 1);
}

static double real(json_t *object, const char *name)
{
    assert_true(json_is_number(json_object_get(object, name)));
    return json_number_value(json_object_get(object, name));
}

static void a_histogram_is_summed_over_workers_and_shows_percentiles(void **state)
{
    struct metrics *metrics = entered();
    json_t *root, *shown;
    char *form;

    (void)state;
    metrics_observe(store_read_seconds, 1500);
    metrics_observe_many(&metrics_mine->store_read_seconds, 2000, 89);
    metrics_enter(metrics, 7);
    metrics_observe_many(&metrics_mine->store_read_seconds, 800000, 9);
    metrics_observe(store_read_seconds, -4);
    root = totals(metrics);
    shown = json_object_get(root, "store_read_seconds");
    assert_int_equal(member(shown, "count"), 100);
    assert_float_equal(real(shown, "sum"), 0.0015 + 89 * 0.002 + 9 * 0.8, 1e-9);
    assert_float_equal(real(shown, "p50"), 0.001 + 0.0015 * 49 / 90, 1e-6);
    assert_float_equal(real(shown, "p90"), 0.001 + 0.0015 * 89 / 90, 1e-6);
    assert_float_equal(real(shown, "p99"), 0.5 + 0.5 * 8 / 9, 1e-6);
    json_decref(root);
    form = written(metrics, METRICS_OPENMETRICS);
    assert_non_null(strstr(form, "# HELP chatd_store_read_seconds reads of history from the store\n"
                                 "# TYPE chatd_store_read_seconds histogram\n"
                                 "chatd_store_read_seconds_bucket{le=\"0.0001\"} 1\n"));
    assert_non_null(strstr(form, "chatd_store_read_seconds_bucket{le=\"0.0025\"} 91\n"));
    assert_non_null(strstr(form, "chatd_store_read_seconds_bucket{le=\"1.0\"} 100\n"));
    assert_non_null(strstr(form, "chatd_store_read_seconds_bucket{le=\"+Inf\"} 100\n"
                                 "chatd_store_read_seconds_sum 7.379500\n"
                                 "chatd_store_read_seconds_count 100\n"));
}

static void a_histogram_beyond_its_last_bound_shows_that_bound(void **state)
{
    struct metrics *metrics = entered();
    json_t *root;

    (void)state;
    metrics_observe(store_commit_seconds, 60000000);
    root = totals(metrics);
    assert_float_equal(real(json_object_get(root, "store_commit_seconds"), "p50"), 10, 1e-9);
    assert_float_equal(real(json_object_get(root, "store_read_seconds"), "p99"), 0, 1e-9);
    json_decref(root);
}

static void the_two_text_forms_differ_in_counters_names_and_the_end(void **state)
{
    struct metrics *metrics = entered();
    const char *form = written(metrics, METRICS_PROMETHEUS);

    (void)state;
    metrics_add(messages_total, 4);
    metrics_add(process_cpu_seconds_total, 1250000);
    form = written(metrics, METRICS_PROMETHEUS);
    assert_non_null(strstr(form, "# TYPE chatd_messages_total counter\nchatd_messages_total 4\n"));
    assert_non_null(strstr(form, "\nprocess_cpu_seconds_total 1.250000\n"));
    assert_non_null(strstr(form, "\nchatd_worker_connections{worker=\"1\"} 0\n"));
    assert_null(strstr(form, "# EOF"));
    form = written(metrics, METRICS_OPENMETRICS);
    assert_non_null(strstr(form, "# TYPE chatd_messages counter\nchatd_messages_total 4\n"));
    assert_string_equal(form + strlen(form) - 6, "# EOF\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counting_works_before_a_slot_is_taken),
        cmocka_unit_test(totals_sum_gauges_and_take_the_largest_peak),
        cmocka_unit_test(a_death_clears_gauges_but_not_counters),
        cmocka_unit_test(a_word_counts_once_under_its_name_and_in_the_sum),
        cmocka_unit_test(a_bucket_takes_what_is_not_above_its_bound),
        cmocka_unit_test(a_histogram_is_summed_over_workers_and_shows_percentiles),
        cmocka_unit_test(a_histogram_beyond_its_last_bound_shows_that_bound),
        cmocka_unit_test(the_two_text_forms_differ_in_counters_names_and_the_end),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
