/* page.c - a run of stored messages of one room. */
#include "chatd/page.h"

#include <stdlib.h>

enum { PAGE_FIRST_CAPACITY = 16 };

void page_deinit(struct page *page)
{
    free(page->entries);
    buf_deinit(&page->bytes);
    *page = (struct page)PAGE_INIT;
}

void page_clear(struct page *page)
{
    page->count = 0;
    page->bytes.length = 0;
    page->gone = 0;
}

static void make_room(struct page *page)
{
    uint32_t capacity = page->capacity > 0 ? page->capacity * 2 : PAGE_FIRST_CAPACITY;
    struct page_entry *entries;

    if (page->count < page->capacity)
        return;
    entries = realloc(page->entries, capacity * sizeof(*entries));
    if (entries == NULL)
        abort();
    page->entries = entries;
    page->capacity = capacity;
}

void page_add(struct page *page, uint64_t seq, const void *event, size_t length)
{
    /* Offsets are 32 bits: a page is an answer to one client and nowhere near that. */
    if (length > UINT32_MAX - page->bytes.length)
        abort();
    make_room(page);
    page->entries[page->count++] =
        (struct page_entry){seq, (uint32_t)page->bytes.length, (uint32_t)length, 0};
    buf_add(&page->bytes, event, length);
}

void page_stamp(struct page *page, int64_t received_us)
{
    page->entries[page->count - 1].received_us = received_us;
}

void page_reverse(struct page *page)
{
    /* The bytes stay where they are: entries say where. */
    for (uint32_t low = 0, high = page->count; low + 1 < high; low++, high--) {
        struct page_entry entry = page->entries[low];

        page->entries[low] = page->entries[high - 1];
        page->entries[high - 1] = entry;
    }
}

void page_append(struct page *page, const struct page *tail)
{
    for (uint32_t i = 0; i < tail->count; i++) {
        const struct page_entry *entry = &tail->entries[i];

        if (page->count == 0 || entry->seq > page->entries[page->count - 1].seq) {
            page_add(page, entry->seq, tail->bytes.data + entry->offset, entry->length);
            page_stamp(page, entry->received_us);
        }
    }
}

uint32_t page_newest(const struct page *page, size_t bytes)
{
    uint32_t first = page->count;

    while (first > 0 && page->entries[first - 1].length + 1 <= bytes) {
        first--;
        bytes -= page->entries[first].length + 1; /* and its comma */
    }
    return first;
}

void page_json(const struct page *page, uint32_t first, struct buf *out)
{
    buf_add_literal(out, "[");
    for (uint32_t i = first; i < page->count; i++) {
        if (i > first)
            buf_add_literal(out, ",");
        buf_add(out, page->bytes.data + page->entries[i].offset, page->entries[i].length);
    }
    buf_add_literal(out, "]");
}
