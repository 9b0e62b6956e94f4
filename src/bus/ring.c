/* ring.c - the shared file: made, found, mapped, locked. What is in it is the business of ring_append.c
 * (records), roster.c (rooms, members) and seat.c (workers). */
#include "chatd/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chatd/log.h"
#include "chatd/thread.h"
#include "ring_layout.h"

enum { PAGE = 4096 };

static uint64_t power_of_two_above(uint64_t n)
{
    uint64_t p = 1;

    while (p < n)
        p <<= 1;
    return p;
}

static size_t pages(size_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

/* Where everything lies, for a given size of the records. Also says how much of it must have memory from
 * the start. */
struct plan {
    uint64_t size, rooms, key_buckets;
    size_t seats_at, room_buckets_at, member_buckets_at, key_buckets_at, inboxes_at, rooms_at, members_at,
        records_at;
    size_t total;
};

static struct plan plan_for(uint64_t size)
{
    struct plan p = {.size = pages(size)};
    size_t at = pages(sizeof(struct ring_header));

    p.rooms = power_of_two_above(size / 512 < 4096 ? 4096 : size / 512);
    if (p.rooms > 1 << 22)
        p.rooms = 1 << 22;
    p.key_buckets = power_of_two_above(size / 512);
    p.seats_at = at, at += pages(RING_ATTACH_MAX * sizeof(struct ring_seat));
    p.room_buckets_at = at, at += pages(p.rooms * sizeof(uint32_t));
    p.member_buckets_at = at, at += pages(RING_MEMBERS_MAX * sizeof(uint32_t));
    p.key_buckets_at = at, at += pages(p.key_buckets * sizeof(uint64_t));
    p.inboxes_at = at, at += pages((size_t)RING_ATTACH_MAX * RING_INBOX * sizeof(uint64_t));
    p.rooms_at = at, at += pages(p.rooms * sizeof(struct ring_room));
    p.members_at = at, at += pages((size_t)RING_MEMBERS_MAX * sizeof(struct ring_member));
    p.records_at = at, at += p.size;
    p.total = at;
    return p;
}

static void set_views(struct ring *ring, char *base, const struct plan *p)
{
    ring->header = (struct ring_header *)base;
    ring->seats = (struct ring_seat *)(base + p->seats_at);
    ring->room_buckets = (uint32_t *)(base + p->room_buckets_at);
    ring->member_buckets = (uint32_t *)(base + p->member_buckets_at);
    ring->key_buckets = (_Atomic uint64_t *)(base + p->key_buckets_at);
    ring->inboxes = (_Atomic uint64_t *)(base + p->inboxes_at);
    ring->rooms = (struct ring_room *)(base + p->rooms_at);
    ring->members = (struct ring_member *)(base + p->members_at);
    ring->records = base + p->records_at;
    ring->mapped = p->total;
}

/* A ring begins at position `size`, not 0, so that 0 can mean "none" everywhere. */
static int fill_new(struct ring *ring, const struct plan *p, const uint8_t store_id[RING_ID_SIZE])
{
    struct ring_header *h = ring->header;
    int error;

    if (!ring_reserve(ring, h, p->inboxes_at) || !ring_reserve(ring, ring->records, p->size))
        return -ENOSPC;
    h->magic = RING_MAGIC;
    h->layout = RING_LAYOUT;
    h->size = p->size;
    h->key_buckets = p->key_buckets;
    if (getrandom(&h->hash_seed, sizeof(h->hash_seed), 0) < 0)
        return -errno;
    memcpy(h->store_id, store_id, RING_ID_SIZE);
    error = thread_mutex_init_shared(&h->lock);
    if (error == 0)
        error = thread_mutex_init_shared(&h->writer);
    if (error == 0)
        error = thread_mutex_init_shared(&h->report_lock);
    for (int i = 0; i < RING_ATTACH_MAX && error == 0; i++)
        error = thread_mutex_init_shared(&ring->seats[i].life);
    if (error != 0)
        return -error;
    h->head = h->tail = h->committed = p->size;
    h->rooms = (struct ring_rows){.capacity = (uint32_t)p->rooms, .free = RING_NONE};
    h->members = (struct ring_rows){.capacity = RING_MEMBERS_MAX, .free = RING_NONE};
    roster_rebuild(ring);
    h->ready = 1;
    return 0;
}

static int map(struct ring *ring, const struct plan *p)
{
    char *base = mmap(NULL, p->total, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);

    if (base == MAP_FAILED)
        return -errno;
    set_views(ring, base, p);
    return 0;
}

static int make_new(struct ring *ring, const struct plan *p, const uint8_t store_id[RING_ID_SIZE])
{
    int error;

    unlink(ring->path);
    ring->fd = open(ring->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (ring->fd < 0)
        return -errno;
    if (ftruncate(ring->fd, (off_t)p->total) != 0)
        error = -errno;
    else if ((error = map(ring, p)) == 0)
        error = fill_new(ring, p, store_id);
    if (error != 0)
        unlink(ring->path); /* half a ring is none */
    return error;
}

/* Opens the file that is there. 1 when it is ours to use, 0 when a new one must be made, negative errno. */
static int find_old(struct ring *ring, const struct plan *wanted, const uint8_t store_id[RING_ID_SIZE])
{
    struct ring_header head;
    struct stat st;
    struct plan p;

    ring->fd = open(ring->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (ring->fd < 0)
        return errno == ENOENT ? 0 : -errno;
    if (fstat(ring->fd, &st) != 0 || st.st_uid != geteuid())
        return -EPERM; /* /dev/shm is everybody's: a planted file is not followed */
    if (pread(ring->fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) || head.magic != RING_MAGIC ||
        !head.ready || memcmp(head.store_id, store_id, RING_ID_SIZE) != 0)
        return 0;
    if (head.layout != RING_LAYOUT) {
        log_warn("bus_replaced", "reason=%s layout=%u wanted=%u",
                 "it was left by another version; what was not stored, and so not acknowledged, is gone",
                 head.layout, RING_LAYOUT);
        return 0;
    }
    p = plan_for(head.size);
    if ((size_t)st.st_size != p.total)
        return 0;
    if (p.size != wanted->size) {
        if (head.committed == head.head)
            return 0;
        log_warn("bus_size_kept", "reason=%s bytes=%llu wanted=%llu", "messages in it are not stored yet",
                 (unsigned long long)p.size, (unsigned long long)wanted->size);
    }
    return map(ring, &p) == 0 ? 1 : -ENOMEM;
}

static int make_path(char *path, size_t size, const char *data_dir)
{
    char boot[64] = "", real[4096];
    uint64_t hash = 1469598103934665603ULL;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, boot, sizeof(boot) - 1);

    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return -EIO;
    boot[strcspn(boot, "\n")] = 0;
    if (!realpath(data_dir, real))
        return -errno;
    for (const char *c = real; *c; c++)
        hash = (hash ^ (uint8_t)*c) * 1099511628211ULL; /* FNV-1a */
    snprintf(path, size, "/dev/shm/chatd-%s-%016llx", boot, (unsigned long long)hash);
    return 0;
}

int ring_open(struct ring **out, const char *data_dir, const uint8_t store_id[RING_ID_SIZE], uint64_t size,
              char error[RING_ERROR_MAX])
{
    struct plan plan = plan_for(size);
    struct ring *ring = calloc(1, sizeof(*ring));
    int status;

    if (!ring)
        return -ENOMEM;
    ring->fd = ring->wake_fd = ring->seat = -1;
    status = make_path(ring->path, sizeof(ring->path), data_dir);
    if (status == 0)
        status = find_old(ring, &plan, store_id);
    if (status == 0) {
        if (ring->fd >= 0)
            close(ring->fd);
        status = make_new(ring, &plan, store_id);
    }
    if (status >= 0) {
        ring->wake_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        status = ring->wake_fd < 0 ? -errno : 0;
    }
    if (status < 0) {
        snprintf(error, RING_ERROR_MAX, "%.99s: %s%s", ring->path[0] ? ring->path : data_dir,
                 strerror(-status),
                 status == -ENOSPC ? "; free memory in /dev/shm or make bus_log_bytes smaller" : "");
        ring_close(ring);
        return status;
    }
    ring_sweep(ring, NULL); /* seats of an earlier life: nobody is there to be told */
    *out = ring;
    return 0;
}

void ring_close(struct ring *ring)
{
    if (!ring)
        return;
    if (ring->header)
        munmap(ring->header, ring->mapped);
    if (ring->fd >= 0)
        close(ring->fd);
    if (ring->wake_fd >= 0)
        close(ring->wake_fd);
    free(ring);
}

const uint8_t *ring_store_id(const struct ring *ring)
{
    return ring->header->store_id;
}

bool ring_is_new(const struct ring *ring)
{
    return !ring->header->begun;
}

void ring_begin(struct ring *ring)
{
    ring->header->begun = 1;
}

const char *ring_path(const struct ring *ring)
{
    return ring->path;
}

/* A page of a sparse file that /dev/shm has no memory for would kill us with SIGBUS at the first touch:
 * ask before. */
bool ring_reserve(struct ring *ring, const void *start, size_t length)
{
    off_t at = (const char *)start - (const char *)ring->header;

    int error = 0;

    do {
        if (length > 0)
            error = posix_fallocate(ring->fd, at, (off_t)length);
    } while (error == EINTR); /* tmpfs undoes it all for any signal that is pending */
    return error == 0;
}

static void repair(struct ring *ring)
{
    struct ring_header *h = ring->header;

    if (h->redo.armed) {
        if (atomic_load(&h->head) == h->redo.end)
            ring_apply(ring);
        h->redo.armed = 0; /* a head that didn't move yet: nobody has seen the record */
    }
    roster_rebuild(ring);
    log_warn("bus_lock_recovered", "reason=%s", "its holder died inside it");
}

void ring_lock(struct ring *ring)
{
    if (pthread_mutex_lock(&ring->header->lock) == EOWNERDEAD) {
        repair(ring);
        pthread_mutex_consistent(&ring->header->lock);
    }
}

void ring_unlock(struct ring *ring)
{
    pthread_mutex_unlock(&ring->header->lock);
}

uint32_t ring_row_take(struct ring *ring, struct ring_rows *rows, void *table, size_t row_size,
                       const uint32_t *next_of_free)
{
    uint32_t row = rows->free;

    if (row != RING_NONE) {
        rows->free = *next_of_free;
        return row;
    }
    if (rows->high == rows->capacity)
        return RING_NONE;
    if (rows->high == rows->reserved) {
        uint32_t more =
            rows->capacity - rows->reserved < RING_CHUNK ? rows->capacity - rows->reserved : RING_CHUNK;

        if (!ring_reserve(ring, (char *)table + rows->reserved * row_size, more * row_size))
            return RING_NONE;
        rows->reserved += more;
    }
    return rows->high++;
}

/* Multiply and fold, eight bytes at a time, seeded: names come from strangers who would love to make one
 * chain long. */
uint64_t ring_hash(const struct ring *ring, uint64_t seed, const void *data, size_t length)
{
    const uint8_t *bytes = data;
    uint64_t hash = ring->header->hash_seed ^ (seed + length) * 0x9e3779b97f4a7c15ULL;

    while (length > 0) {
        uint64_t word = 0;
        size_t n = length < 8 ? length : 8;
        __uint128_t product;

        memcpy(&word, bytes, n);
        product = (__uint128_t)(hash ^ word) * 0xd6e8feb86659fd93ULL;
        hash = (uint64_t)product ^ (uint64_t)(product >> 64) ^ (hash << 7 | hash >> 57);
        bytes += n;
        length -= n;
    }
    return hash ^ hash >> 32;
}
