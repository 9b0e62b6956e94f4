/* limit_rows.c - connections per address, counted for each process so that a dead one's can be taken back. */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "chatd/limit.h"
#include "limit_shared.h"

uint64_t limit_address(const struct sockaddr_storage *address)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
    const uint64_t mapped = 0x0000ffffULL << 32; /* no IPv6 network in use looks like this */
    uint64_t network;
    uint32_t host;

    if (address->ss_family == AF_INET)
        return mapped | ntohl(v4->sin_addr.s_addr);
    if (address->ss_family != AF_INET6)
        return 0;
    if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
        memcpy(&host, &v6->sin6_addr.s6_addr[12], sizeof(host));
        return mapped | ntohl(host);
    }
    memcpy(&network, &v6->sin6_addr, sizeof(network));
    network = be64toh(network);
    return network != 0 ? network : 1; /* ::1 */
}

static uint32_t *find_head(struct limit *limit, uint64_t address)
{
    return &limit->heads[limit_hash(limit, 0, &address, sizeof(address)) % LIMIT_HEADS];
}

static void link_row(struct limit *limit, uint32_t index)
{
    struct limit_row *row = &limit->rows[index];
    uint32_t *head = atomic_load(&row->count) > 0 ? find_head(limit, row->address) : &limit->free_row;

    row->next = *head;
    *head = index + 1;
}

/* Counts are right at any moment, links are not: a process that died between two of them left a chain cut or
 * a row in none. All chains are made anew from the rows. */
static void rebuild(struct limit *limit)
{
    memset(limit->heads, 0, sizeof(limit->heads));
    limit->free_row = 0;
    for (uint32_t i = limit->rows_used; i > 0; i--)
        link_row(limit, i - 1);
}

static void lock(struct limit *limit)
{
    if (pthread_mutex_lock(&limit->row_mutex) == EOWNERDEAD) {
        rebuild(limit);
        pthread_mutex_consistent(&limit->row_mutex);
    }
}

static void unlock(struct limit *limit)
{
    pthread_mutex_unlock(&limit->row_mutex);
}

/* An empty row, out of the free list or never used. NULL when there is none. */
static struct limit_row *take_row(struct limit *limit, uint32_t *index)
{
    if (limit->free_row != 0) {
        *index = limit->free_row - 1;
        limit->free_row = limit->rows[*index].next;
    } else if (limit->rows_used < LIMIT_ROWS) {
        *index = limit->rows_used++;
    } else {
        return NULL;
    }
    return &limit->rows[*index];
}

bool limit_connect(struct limit *limit, uint64_t address, int32_t owner, int64_t max)
{
    struct limit_row *row, *mine = NULL;
    int64_t sum = 0;
    uint32_t index;

    if (address == 0)
        return true;
    lock(limit);
    for (uint32_t at = *find_head(limit, address); at != 0; at = row->next) {
        row = &limit->rows[at - 1];
        if (row->address != address)
            continue;
        sum += atomic_load(&row->count);
        if (row->owner == owner)
            mine = row;
    }
    if (max > 0 && sum >= max) {
        unlock(limit);
        return false;
    }
    if (mine != NULL) {
        atomic_fetch_add(&mine->count, 1);
    } else if ((mine = take_row(limit, &index)) != NULL) {
        mine->address = address;
        mine->owner = owner;
        /* The count makes it a row, so it comes after what it counts. */
        atomic_store(&mine->count, 1);
        link_row(limit, index);
    }
    unlock(limit);
    return true;
}

/* `at` is the link that points to the row. */
static void drop_row(struct limit *limit, uint32_t *at)
{
    uint32_t index = *at - 1;

    *at = limit->rows[index].next;
    atomic_store(&limit->rows[index].count, 0);
    link_row(limit, index);
}

void limit_disconnect(struct limit *limit, uint64_t address, int32_t owner)
{
    if (address == 0)
        return;
    lock(limit);
    for (uint32_t *at = find_head(limit, address); *at != 0; at = &limit->rows[*at - 1].next) {
        struct limit_row *row = &limit->rows[*at - 1];

        if (row->owner != owner || row->address != address)
            continue;
        if (atomic_load(&row->count) > 1)
            atomic_fetch_sub(&row->count, 1);
        else
            drop_row(limit, at);
        break;
    }
    unlock(limit);
}

void limit_forget(struct limit *limit, int32_t owner)
{
    lock(limit);
    for (uint32_t i = 0; i < limit->rows_used; i++) {
        if (limit->rows[i].owner == owner)
            atomic_store(&limit->rows[i].count, 0);
    }
    rebuild(limit);
    unlock(limit);
}
