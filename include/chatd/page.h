/* page.h - a run of stored messages of one room, ascending by number: what window and store answer with.
 *
 * The caller's storage. Events are the final bytes of the message event as members got them, so an answer is
 * made by putting them one after the other. */
#ifndef CHATD_PAGE_H
#define CHATD_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include "chatd/buf.h"

struct page_entry {
    uint64_t seq;
    uint32_t offset; /* into bytes */
    uint32_t length;
    int64_t received_us; /* as in struct message; 0 from the store */
};

struct page {
    struct page_entry *entries;
    uint32_t count;
    uint32_t capacity;
    struct buf bytes;
    uint64_t gone; /* messages up to this number were deleted (retention), as the store says; 0: none */
};

#define PAGE_INIT \
    { \
        NULL, 0, 0, BUF_INIT, 0 \
    }

void page_deinit(struct page *page);
void page_clear(struct page *page); /* empty, memory kept */
void page_add(struct page *page, uint64_t seq, const void *event, size_t length);
void page_stamp(struct page *page, int64_t received_us); /* of the entry added last */
void page_reverse(struct page *page); /* after adding from the newest down */

/* Copies what `tail` holds behind what `page` holds; numbers not above the page's last are left out. */
void page_append(struct page *page, const struct page *tail);

/* The first entry of the newest ones that take at most `bytes` in page_json; `count` when not even the
 * last does. */
uint32_t page_newest(const struct page *page, size_t bytes);

/* Appends `[event,event,…]`: the entries from number `first` on. */
void page_json(const struct page *page, uint32_t first, struct buf *out);

#endif
