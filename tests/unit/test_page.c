/* test_page.c - pages grow, turn round, and are joined without doubles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "chatd/page.h"

static void add(struct page *page, uint64_t seq)
{
    char event[32];
    int length = snprintf(event, sizeof(event), "e%llu", (unsigned long long)seq);

    page_add(page, seq, event, (size_t)length);
}

static void assert_entry(const struct page *page, uint32_t i, uint64_t seq)
{
    const struct page_entry *entry = &page->entries[i];
    char event[32];
    int length = snprintf(event, sizeof(event), "e%llu", (unsigned long long)seq);

    assert_int_equal(entry->seq, seq);
    assert_int_equal(entry->length, length);
    assert_memory_equal(page->bytes.data + entry->offset, event, (size_t)length);
}

static void test_what_was_added_is_found_in_order(void **state)
{
    struct page page = PAGE_INIT;

    (void)state;
    for (uint64_t seq = 1; seq <= 100; seq++)
        add(&page, seq * 7);
    assert_int_equal(page.count, 100);
    for (uint32_t i = 0; i < 100; i++)
        assert_entry(&page, i, (i + 1) * 7);
    page_deinit(&page);
    assert_int_equal(page.count, 0);
}

static void test_reverse_turns_any_number_of_entries(void **state)
{
    (void)state;
    for (uint64_t count = 0; count <= 5; count++) {
        struct page page = PAGE_INIT;

        for (uint64_t seq = count; seq > 0; seq--)
            add(&page, seq);
        page_reverse(&page);
        assert_int_equal(page.count, count);
        for (uint32_t i = 0; i < count; i++)
            assert_entry(&page, i, i + 1);
        page_deinit(&page);
    }
}

static void test_append_leaves_out_what_is_there(void **state)
{
    struct page page = PAGE_INIT, tail = PAGE_INIT;

    (void)state;
    page_append(&page, &tail);
    assert_int_equal(page.count, 0);
    for (uint64_t seq = 1; seq <= 5; seq++)
        add(&page, seq);
    for (uint64_t seq = 4; seq <= 8; seq++)
        add(&tail, seq);
    page_append(&page, &tail);
    assert_int_equal(page.count, 8);
    for (uint32_t i = 0; i < 8; i++)
        assert_entry(&page, i, i + 1);
    page_append(&page, &tail);
    assert_int_equal(page.count, 8);
    page_deinit(&page);
    page_deinit(&tail);
}

static void test_clear_keeps_memory_and_forgets_the_rest(void **state)
{
    struct page page = PAGE_INIT;
    struct page_entry *entries;

    (void)state;
    add(&page, 1);
    entries = page.entries;
    page_clear(&page);
    assert_int_equal(page.count, 0);
    assert_int_equal(page.bytes.length, 0);
    page_add(&page, 9, NULL, 0);
    assert_ptr_equal(page.entries, entries);
    assert_int_equal(page.entries[0].length, 0);
    page_deinit(&page);
}

static void test_json_is_a_list_from_any_entry_on(void **state)
{
    static const char *const expected[] = {"[{1},{2},{3}]", "[{2},{3}]", "[{3}]", "[]"};
    struct page page = PAGE_INIT;
    struct buf out = BUF_INIT;

    (void)state;
    page_add(&page, 1, "{1}", 3);
    page_add(&page, 2, "{2}", 3);
    page_add(&page, 3, "{3}", 3);
    for (uint32_t first = 0; first < 4; first++) {
        out.length = 0;
        page_json(&page, first, &out);
        buf_add(&out, "", 1);
        assert_string_equal(out.data, expected[first]);
    }
    buf_deinit(&out);
    page_deinit(&page);
}

static void test_newest_are_those_that_fit(void **state)
{
    struct page page = PAGE_INIT;

    (void)state;
    assert_int_equal(page_newest(&page, 100), 0);
    page_add(&page, 1, "{1}", 3);
    page_add(&page, 2, "{22}", 4);
    page_add(&page, 3, "{3}", 3);
    assert_int_equal(page_newest(&page, 3), 3);
    assert_int_equal(page_newest(&page, 4), 2);
    assert_int_equal(page_newest(&page, 8), 2);
    assert_int_equal(page_newest(&page, 9), 1);
    assert_int_equal(page_newest(&page, 13), 0);
    page_deinit(&page);
}

static void test_a_stamp_goes_with_its_entry(void **state)
{
    struct page page = PAGE_INIT, tail = PAGE_INIT;

    (void)state;
    page_add(&tail, 2, "{2}", 3);
    page_stamp(&tail, 22);
    page_add(&tail, 1, "{1}", 3);
    page_reverse(&tail);
    page_append(&page, &tail);
    assert_int_equal(page.entries[0].received_us, 0);
    assert_int_equal(page.entries[1].received_us, 22);
    page_deinit(&page);
    page_deinit(&tail);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_added_is_found_in_order),
        cmocka_unit_test(test_reverse_turns_any_number_of_entries),
        cmocka_unit_test(test_append_leaves_out_what_is_there),
        cmocka_unit_test(test_clear_keeps_memory_and_forgets_the_rest),
        cmocka_unit_test(test_newest_are_those_that_fit),
        cmocka_unit_test(test_a_stamp_goes_with_its_entry),
        cmocka_unit_test(test_json_is_a_list_from_any_entry_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
