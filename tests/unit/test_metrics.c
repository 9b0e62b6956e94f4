/* Metrics: slots, what a death clears, and the JSON of totals. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counting_works_before_a_slot_is_taken),
        cmocka_unit_test(totals_sum_gauges_and_take_the_largest_peak),
        cmocka_unit_test(a_death_clears_gauges_but_not_counters),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
