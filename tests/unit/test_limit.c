/* Limits: token buckets and connection rows, exact under racing processes, whole after one died in the
 * middle. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/limit_shared.h"
#include "chatd/limit.h"

enum { PROCESSES = 4 };

static const struct config_rate thirty = {30, 60000};

static struct limit *map(void)
{
    struct limit *limit = limit_map();

    assert_non_null(limit);
    return limit;
}

static void unmap(struct limit *limit)
{
    munmap(limit, sizeof(*limit));
}

static int64_t take(struct limit *limit, const char *name, struct config_rate rate, int64_t now)
{
    return limit_take(limit, LIMIT_MESSAGE, name, strlen(name), rate, now);
}

static uint64_t address(const char *text)
{
    struct sockaddr_storage storage = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&storage;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&storage;

    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1)
        storage.ss_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1)
        storage.ss_family = AF_INET6;
    return limit_address(&storage);
}

/* Runs `body` in so many processes and waits for all; each must exit with 0. */
static void race(struct limit *limit, void (*body)(struct limit *limit, int process))
{
    pid_t pids[PROCESSES];
    int status;

    for (int i = 0; i < PROCESSES; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            body(limit, i);
            _exit(0);
        }
    }
    for (int i = 0; i < PROCESSES; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
}

static void a_bucket_gives_its_burst_and_then_one_at_a_time(void **state)
{
    struct limit *limit = map();

    (void)state;
    for (int i = 0; i < 30; i++)
        assert_int_equal(take(limit, "ana", thirty, 1000000), 0);
    assert_int_equal(take(limit, "ana", thirty, 1000000), 2000);
    assert_int_equal(take(limit, "ana", thirty, 1001500), 500);
    assert_int_equal(take(limit, "ana", thirty, 1001999), 1);
    assert_int_equal(take(limit, "ana", thirty, 1002000), 0);
    assert_int_equal(take(limit, "ana", thirty, 1002000), 2000);
    /* Others, and other kinds, have their own. */
    assert_int_equal(take(limit, "bob", thirty, 1002000), 0);
    assert_int_equal(limit_take(limit, LIMIT_TYPING, "ana", 3, thirty, 1002000), 0);
    /* Full again after the whole time. */
    for (int i = 0; i < 30; i++)
        assert_int_equal(take(limit, "ana", thirty, 1062000), 0);
    assert_int_not_equal(take(limit, "ana", thirty, 1062000), 0);
    unmap(limit);
}

static void zero_is_off_and_large_numbers_work(void **state)
{
    struct limit *limit = map();

    (void)state;
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(take(limit, "ana", (struct config_rate){0, 60000}, 1), 0);
        assert_int_equal(take(limit, "bob", (struct config_rate){10000000, 60000}, 1), 0);
    }
    assert_int_equal(take(limit, "", thirty, 1), 0);
    assert_int_equal(take(limit, "day", (struct config_rate){1, 86400000}, 5), 0);
    assert_int_equal(take(limit, "day", (struct config_rate){1, 86400000}, 5), 86400000);
    unmap(limit);
}

/* Results of the racing processes, shared. */
static int64_t *granted;

static void take_many(struct limit *limit, int process)
{
    char name[16];

    for (int round = 0; round < 50; round++) {
        for (int user = 0; user < 100; user++) {
            snprintf(name, sizeof(name), "user%d", user);
            granted[process] += take(limit, name, thirty, 1000) == 0;
        }
    }
}

static void racing_processes_get_exactly_one_burst(void **state)
{
    struct limit *limit = map();
    int64_t sum = 0;

    (void)state;
    granted = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    race(limit, take_many);
    for (int i = 0; i < PROCESSES; i++)
        sum += granted[i];
    assert_int_equal(sum, 100 * 30);
    munmap(granted, 4096);
    unmap(limit);
}

static void a_name_without_a_place_is_let_through(void **state)
{
    struct limit *limit = map();
    char name[16];
    int live = 0;

    (void)state;
    for (int i = 0; i < LIMIT_GROUPS * LIMIT_WAYS * 2; i++) {
        snprintf(name, sizeof(name), "%d", i);
        assert_int_equal(take(limit, name, (struct config_rate){1, 60000}, 1000), 0);
    }
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "%d", i);
        live += take(limit, name, (struct config_rate){1, 60000}, 1000) != 0;
    }
    assert_true(live > 900); /* those who came first have one */
    /* Full again is forgotten: the places are free for others. */
    assert_int_equal(take(limit, "late", (struct config_rate){1, 60000}, 61001), 0);
    assert_int_not_equal(take(limit, "late", (struct config_rate){1, 60000}, 61001), 0);
    unmap(limit);
}

static void die_in_a_takeover(struct limit *limit, int process)
{
    if (process != 0)
        return;
    pthread_mutex_lock(&limit->bucket_mutex);
    for (int group = 0; group < LIMIT_GROUPS; group++)
        atomic_store(&limit->buckets[group][group % LIMIT_WAYS].until_ns, LIMIT_TAKEN_OVER);
    _exit(0);
}

static void buckets_work_after_a_death_in_a_takeover(void **state)
{
    struct limit *limit = map();
    char name[16];

    (void)state;
    for (int user = 0; user < 1000; user++) {
        snprintf(name, sizeof(name), "%d", user);
        take(limit, name, thirty, 1000);
    }
    race(limit, die_in_a_takeover);
    /* Whose bucket was hit starts with a full one; nobody gets more than that. */
    for (int user = 0; user < 1000; user++) {
        int count = 0;

        snprintf(name, sizeof(name), "%d", user);
        while (take(limit, name, thirty, 1000) == 0)
            count++;
        assert_in_range(count, 29, 30);
    }
    unmap(limit);
}

static void connections_are_counted_by_address_over_all_owners(void **state)
{
    struct limit *limit = map();
    uint64_t a = address("192.0.2.1"), mapped = address("::ffff:192.0.2.1"), b = address("192.0.2.2");
    uint64_t net = address("2001:db8::1"), same = address("2001:db8::ffff:1");
    uint64_t other = address("2001:db8:0:1::1"), local = address("no address");

    (void)state;
    assert_true(limit_connect(limit, a, 1, 3));
    assert_true(limit_connect(limit, mapped, 2, 3));
    assert_true(limit_connect(limit, a, 2, 3));
    assert_false(limit_connect(limit, a, 1, 3));
    assert_false(limit_connect(limit, mapped, 3, 3));
    assert_true(limit_connect(limit, b, 1, 3));
    limit_disconnect(limit, a, 2);
    assert_true(limit_connect(limit, a, 3, 3));
    assert_false(limit_connect(limit, a, 3, 3));
    /* 0 is off but counts on, for the reload that turns it on. */
    assert_true(limit_connect(limit, a, 3, 0));
    assert_false(limit_connect(limit, a, 3, 4));
    assert_true(limit_connect(limit, a, 3, 5));
    assert_int_equal(local, 0);
    assert_int_not_equal(address("::1"), 0);
    /* An IPv6 user is a network. */
    assert_true(limit_connect(limit, net, 1, 1));
    assert_false(limit_connect(limit, same, 1, 1));
    assert_true(limit_connect(limit, other, 1, 1));
    assert_true(limit_connect(limit, local, 1, 1));
    limit_disconnect(limit, local, 1);
    /* One too many goes nowhere. */
    limit_disconnect(limit, net, 1);
    limit_disconnect(limit, net, 1);
    limit_disconnect(limit, net, 9);
    assert_true(limit_connect(limit, net, 1, 1));
    unmap(limit);
}

static void the_dead_are_forgotten(void **state)
{
    struct limit *limit = map();
    char text[32];

    (void)state;
    for (int i = 0; i < 20000; i++) {
        uint64_t from;

        snprintf(text, sizeof(text), "10.0.%d.%d", i / 256, i % 256);
        from = address(text);
        assert_true(limit_connect(limit, from, 1 + i % 2, 1));
        assert_false(limit_connect(limit, from, 3, 1));
    }
    limit_forget(limit, 1);
    for (int i = 0; i < 20000; i++) {
        uint64_t from;

        snprintf(text, sizeof(text), "10.0.%d.%d", i / 256, i % 256);
        from = address(text);
        assert_int_equal(limit_connect(limit, from, 3, 1), i % 2 == 0);
    }
    assert_int_equal(limit->rows_used, 20000); /* rows of the dead are used again */
    unmap(limit);
}

static void connect_and_disconnect(struct limit *limit, int process)
{
    uint64_t from[16];
    char text[32];
    unsigned seed = (unsigned)process;
    int held[16] = {0};

    for (int i = 0; i < 16; i++) {
        snprintf(text, sizeof(text), "192.0.2.%d", i);
        from[i] = address(text);
    }
    for (int i = 0; i < 50000; i++) {
        int which = rand_r(&seed) % 16;

        if (rand_r(&seed) % 2 && limit_connect(limit, from[which], process, 5)) {
            held[which]++;
        } else if (held[which] > 0) {
            limit_disconnect(limit, from[which], process);
            held[which]--;
        }
    }
    /* Each leaves one at every address, if there is room. */
    for (int i = 0; i < 16; i++) {
        for (; held[i] > 1; held[i]--)
            limit_disconnect(limit, from[i], process);
        while (held[i] == 0)
            held[i] += limit_connect(limit, from[i], process, 5);
    }
}

static void racing_processes_count_exactly(void **state)
{
    struct limit *limit = map();
    uint64_t from = address("192.0.2.7");

    (void)state;
    race(limit, connect_and_disconnect);
    assert_false(limit_connect(limit, from, 99, PROCESSES));
    assert_true(limit_connect(limit, from, 99, PROCESSES + 1));
    unmap(limit);
}

/* Killed while it holds the mutex, its links half written. */
static void die_inside(struct limit *limit, int process)
{
    if (process != 0)
        return;
    if (pthread_mutex_lock(&limit->row_mutex) != 0)
        _exit(1);
    memset(limit->heads, 0, sizeof(limit->heads));
    limit->free_row = 0;
    limit->rows[0].next = 1; /* a circle */
    limit->rows_used++;      /* a row taken, not yet counted */
    if (fork() == 0)
        kill(getppid(), SIGKILL), _exit(0);
    for (;;)
        pause();
}

static void counts_survive_a_kill_inside_the_mutex(void **state)
{
    struct limit *limit = map();
    uint64_t a = address("192.0.2.1"), b = address("192.0.2.2"), c = address("192.0.2.3");
    pid_t pid;
    int status;

    (void)state;
    assert_true(limit_connect(limit, a, 1, 2));
    assert_true(limit_connect(limit, a, 2, 2));
    assert_true(limit_connect(limit, b, 1, 2));
    pid = fork();
    if (pid == 0)
        die_inside(limit, 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_false(limit_connect(limit, a, 3, 2));
    assert_true(limit_connect(limit, b, 3, 2));
    assert_false(limit_connect(limit, b, 3, 2));
    limit_disconnect(limit, a, 1);
    assert_true(limit_connect(limit, a, 3, 2));
    assert_true(limit_connect(limit, c, 3, 2));
    for (int owner = 1; owner <= 3; owner++)
        limit_forget(limit, owner);
    race(limit, connect_and_disconnect);
    unmap(limit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bucket_gives_its_burst_and_then_one_at_a_time),
        cmocka_unit_test(zero_is_off_and_large_numbers_work),
        cmocka_unit_test(racing_processes_get_exactly_one_burst),
        cmocka_unit_test(a_name_without_a_place_is_let_through),
        cmocka_unit_test(buckets_work_after_a_death_in_a_takeover),
        cmocka_unit_test(connections_are_counted_by_address_over_all_owners),
        cmocka_unit_test(the_dead_are_forgotten),
        cmocka_unit_test(racing_processes_count_exactly),
        cmocka_unit_test(counts_survive_a_kill_inside_the_mutex),
    };
    return cmocka_run_group_tests_name("limit", tests, NULL, NULL);
}
