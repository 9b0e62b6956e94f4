/* test_replay.c - window and store merged: every range, every limit, every place where the window may begin.
 */
#include "chatd/replay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/chat_fake.h"

struct answer {
    unsigned count;
    enum store_status status;
    bool more, pending;
    uint32_t listed;
    uint64_t seqs[64];
};

static void on_page(void *arg, enum store_status status, const struct page *page, bool more, bool pending)
{
    struct answer *answer = arg;

    answer->count++;
    answer->status = status;
    answer->more = more;
    answer->pending = pending;
    answer->listed = status == STORE_OK ? page->count : 0;
    for (uint32_t i = 0; i < answer->listed; i++) {
        char seq[40];

        answer->seqs[i] = page->entries[i].seq;
        snprintf(seq, sizeof(seq), "\"seq\":%llu,", (unsigned long long)page->entries[i].seq);
        assert_non_null(
            memmem(page->bytes.data + page->entries[i].offset, page->entries[i].length, seq, strlen(seq)));
    }
}

static struct answer ask(struct world *w, uint64_t above, uint64_t upto, uint32_t limit)
{
    struct answer answer = {0};

    replay_start(&w->bus, &w->store, (struct text){"r", 1}, above, upto, limit, on_page, &answer);
    while (let_go(w, CALL_KINDS))
        continue;
    assert_int_equal(answer.count, 1);
    return answer;
}

enum { MESSAGES = 6 };

static struct world *world_with_messages(void)
{
    struct world *w = world_new();

    for (int i = 0; i < MESSAGES; i++)
        other_says(w, "r", "hi");
    return w;
}

static void check_range(struct world *w, uint64_t above, uint64_t upto, uint32_t limit)
{
    struct answer answer = ask(w, above, upto, limit);
    uint64_t last = upto < MESSAGES ? upto : MESSAGES, there = last > above ? last - above : 0;

    assert_int_equal(answer.status, STORE_OK);
    assert_int_equal(answer.listed, there < limit ? there : limit);
    assert_int_equal(answer.more, there > limit);
    for (uint32_t i = 0; i < answer.listed; i++)
        assert_int_equal(answer.seqs[i], last - answer.listed + 1 + i);
}

static void test_every_range_wherever_the_window_begins(void **state)
{
    struct world *w = world_with_messages();

    (void)state;
    for (uint64_t from = 1; from <= MESSAGES + 2; from++) {
        room_of(w, "r")->window_from = from;
        room_of(w, "r")->open = from < MESSAGES + 2; /* the bus may not know the room at all */
        for (uint64_t above = 0; above <= MESSAGES + 1; above++)
            for (uint32_t limit = 1; limit <= MESSAGES + 1; limit++) {
                for (uint64_t upto = 0; upto <= MESSAGES + 1; upto++)
                    check_range(w, above, upto, limit);
                check_range(w, above, REPLAY_NEWEST, limit);
            }
    }
    world_free(w);
}

static void test_void_numbers_are_left_out_and_do_not_make_more(void **state)
{
    struct world *w = world_with_messages();
    struct answer answer;

    (void)state;
    room_of(w, "r")->records[0].committed = false; /* its number was given twice: void */
    room_of(w, "r")->window_from = 4;
    answer = ask(w, 0, REPLAY_NEWEST, MESSAGES - 1);
    assert_int_equal(answer.listed, MESSAGES - 1);
    assert_false(answer.more);
    world_free(w);
}

static void test_the_window_alone_answers_at_once(void **state)
{
    struct world *w = world_with_messages();
    struct answer answer = {0};

    (void)state;
    replay_start(&w->bus, &w->store, (struct text){"r", 1}, 2, REPLAY_NEWEST, 10, on_page, &answer);
    assert_int_equal(answer.count, 1);
    replay_start(&w->bus, &w->store, (struct text){"r", 1}, 0, REPLAY_NEWEST, MESSAGES - 1, on_page, &answer);
    assert_int_equal(answer.count, 2);
    assert_true(answer.more);
    world_free(w);
}

static void test_a_bus_that_fails_is_no_empty_page(void **state)
{
    struct world *w = world_with_messages();

    (void)state;
    w->fails[CALL_WINDOW] = BUS_FAILED;
    assert_int_equal(ask(w, 0, REPLAY_NEWEST, 10).status, STORE_FAILED);
    world_free(w);
}

static void test_what_is_pending_is_said_so_wherever_it_is(void **state)
{
    struct world *w = world_with_messages();

    (void)state;
    assert_false(ask(w, 0, REPLAY_NEWEST, 10).pending);
    w->pending = true;
    assert_true(ask(w, 0, REPLAY_NEWEST, 10).pending);
    room_of(w, "r")->window_from = 4;
    assert_true(ask(w, 0, REPLAY_NEWEST, 10).pending);
    w->fails[CALL_PAGE] = STORE_FAILED;
    assert_false(ask(w, 0, REPLAY_NEWEST, 10).pending);
    world_free(w);
}

static void test_a_store_that_fails_is_no_empty_page(void **state)
{
    struct world *w = world_with_messages();

    (void)state;
    room_of(w, "r")->window_from = 4;
    w->fails[CALL_PAGE] = STORE_BUSY;
    assert_int_equal(ask(w, 0, REPLAY_NEWEST, 10).status, STORE_BUSY);
    assert_int_equal(ask(w, 3, REPLAY_NEWEST, 10).status, STORE_OK);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_range_wherever_the_window_begins),
        cmocka_unit_test(test_void_numbers_are_left_out_and_do_not_make_more),
        cmocka_unit_test(test_the_window_alone_answers_at_once),
        cmocka_unit_test(test_a_bus_that_fails_is_no_empty_page),
        cmocka_unit_test(test_what_is_pending_is_said_so_wherever_it_is),
        cmocka_unit_test(test_a_store_that_fails_is_no_empty_page),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
