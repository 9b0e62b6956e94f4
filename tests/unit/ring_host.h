/* ring_host.h - what the tests of src/bus share: a ring of their own, short ways to append, processes that
 * die, and the question whether everything in the shared file still fits together. */
#ifndef RING_HOST_H
#define RING_HOST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bus/ring_layout.h"
#include "chatd/clock.h"
#include "chatd/log.h"

enum { HOST_RING = 64 << 10, HOST_DEADLINE_MS = 20000, HOST_STEPS = 100000 };

struct host {
    char dir[64];
    struct ring *ring;
};

static const uint8_t HOST_STORE[RING_ID_SIZE] = "store one";

/* Asserts of cmocka jump, which a forked child must not. */
#define must(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: child: %s\n", __FILE__, __LINE__, #condition); \
            _exit(1); \
        } \
    } while (0)

/* Every death is one warning, and many die here. */
static inline void quiet_log(void)
{
    if (log_open("", LOG_READABLE, LOG_ERROR) != 0)
        abort();
}

static inline struct text text(const char *string)
{
    return (struct text){string, strlen(string)};
}

static inline bool text_is(struct text text, const char *string)
{
    return text.length == strlen(string) && memcmp(text.data, string, text.length) == 0;
}

static inline struct ring *open_ring(const char *dir, uint64_t size)
{
    char error[RING_ERROR_MAX] = "";
    struct ring *ring = NULL;

    if (ring_open(&ring, dir, HOST_STORE, size, error) != 0)
        fail_msg("ring_open: %s", error);
    return ring;
}

static inline void open_host(struct host *host, uint64_t size)
{
    snprintf(host->dir, sizeof(host->dir), "/tmp/chatd-ring-XXXXXX");
    assert_non_null(mkdtemp(host->dir));
    host->ring = open_ring(host->dir, size);
}

static inline void close_host(struct host *host)
{
    unlink(ring_path(host->ring));
    ring_close(host->ring);
    rmdir(host->dir);
}

static inline void set_up_ring(struct host **host, uint64_t size)
{
    *host = calloc(1, sizeof **host);
    assert_non_null(*host);
    open_host(*host, size);
}

static inline uint32_t open_room(struct ring *ring, const char *name)
{
    uint32_t row;

    ring_lock(ring);
    row = roster_open(ring, text(name), 0);
    ring_unlock(ring);
    return row;
}

/* One message whose event is {"n":NUMBER,"time":MS,"text":"..."} with `bytes` bytes of a letter that goes
 * with the number. Lock held. */
static inline uint64_t append_locked(struct ring *ring, uint32_t room, const char *user, struct text key,
                                     size_t bytes)
{
    static const uint8_t UID[MESSAGE_UID_SIZE] = "one uid for all";
    static char tail[1 << 16];
    const struct ring_room *r = &ring->rooms[room];
    struct ring_append append = {.kind = RING_MESSAGE, .room = {r->name, r->name_length}, .user = text(user),
                                 .key = key, .head = text("{\"n\":"), .uid = UID};

    must(bytes + 11 <= sizeof(tail));
    memcpy(tail, ",\"text\":\"", 9);
    memset(tail + 9, 'a' + (int)((r->seq + 1) % 26), bytes);
    memcpy(tail + 9 + bytes, "\"}", 2);
    append.tail = (struct text){tail, bytes + 11};
    return ring_append(ring, room, &append);
}

static inline uint64_t append(struct ring *ring, uint32_t room, const char *user, struct text key,
                              size_t bytes)
{
    uint64_t position;

    ring_lock(ring);
    position = append_locked(ring, room, user, key, bytes);
    ring_unlock(ring);
    return position;
}

static inline void commit_all(struct ring *ring)
{
    ring_commit(ring, ring_head(ring));
}

static inline int wait_for_exit(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    return status;
}

/* Runs `act` in a child, which then leaves without a word. */
static inline pid_t start_child(void (*act)(struct ring *ring, int arg), struct ring *ring, int arg)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGBUS, SIG_DFL); /* cmocka would go on with the next test, in the child */
        signal(SIGSEGV, SIG_DFL);
        act(ring, arg);
        _exit(0);
    }
    return pid;
}

static inline void run_child(void (*act)(struct ring *ring, int arg), struct ring *ring, int arg)
{
    assert_int_equal(wait_for_exit(start_child(act, ring, arg)), 0);
}

/* Like run_child, but the child is to kill itself on its way. */
static inline void run_to_death(void (*act)(struct ring *ring, int arg), struct ring *ring, int arg)
{
    int status = wait_for_exit(start_child(act, ring, arg));

    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Runs `act` instruction by instruction and kills it after `steps` of them; returns how many it made,
 * fewer when it came to its end, -1 where processes can't be traced. */
static inline long step_to_death(void (*act)(struct ring *ring, int arg), struct ring *ring, int arg,
                                 long steps)
{
    pid_t pid = fork();
    long made = 0;
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0)
            _exit(77);
        raise(SIGSTOP);
        act(ring, arg);
        raise(SIGSTOP);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status))
        return -1;
    for (; made < steps; made++) {
        assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, 0, 0), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSTOPPED(status));
        if (WSTOPSIG(status) == SIGSTOP)
            break;
    }
    kill(pid, SIGKILL);
    wait_for_exit(pid);
    return made;
}

/* Kills `act` at points spread evenly over all its instructions, as many as HOST_STEPS steps allow, and
 * calls `check` after each. */
static inline void die_everywhere(void (*act)(struct ring *ring, int arg), struct ring *ring,
                                  void (*check)(struct ring *ring, int arg))
{
    long all = step_to_death(act, ring, 0, 1 << 20), stride;

    if (all < 0)
        skip();
    check(ring, 0);
    stride = all * all / 2 / HOST_STEPS + 1;
    for (long steps = stride / 2, i = 1; steps < all; steps += stride, i++) {
        step_to_death(act, ring, (int)i, steps);
        check(ring, (int)i);
    }
}

/* --- Does everything fit together? Lock held; tables are small here. --- */

static inline void check_rooms(const struct ring *ring)
{
    const struct ring_rows *rows = &ring->header->rooms;
    uint32_t free_rows = 0, unused = 0;

    for (uint32_t row = rows->free; row != RING_NONE; row = ring->rooms[row].next, free_rows++) {
        assert_true(row < rows->high && free_rows <= rows->high);
        assert_false(ring->rooms[row].used);
    }
    for (uint32_t row = 0; row < rows->high; row++) {
        const struct ring_room *room = &ring->rooms[row];

        unused += !room->used;
        if (room->used)
            assert_int_equal(roster_find(ring, (struct text){room->name, room->name_length}), row);
    }
    /* A row that was taken by one who died is on no list until the next repair. */
    assert_int_equal(free_rows, unused);
}

static inline void check_members(const struct ring *ring)
{
    const struct ring_rows *rows = &ring->header->members;
    uint32_t listed = 0, used = 0, free_rows = 0;

    for (uint32_t row = rows->free; row != RING_NONE; row = ring->members[row].next, free_rows++)
        assert_true(!ring->members[row].used && free_rows <= rows->high);
    for (uint32_t i = 0; i < ring->header->rooms.high; i++) {
        const struct ring_room *room = &ring->rooms[i];
        uint32_t users = 0, previous = RING_NONE;

        if (!room->used)
            continue;
        for (uint32_t row = room->first_member; row != RING_NONE; row = ring->members[row].room_next) {
            const struct ring_member *m = &ring->members[row];

            assert_true(m->used && m->room == i && ++listed <= rows->high);
            assert_int_equal(m->room_previous, previous);
            users += roster_first(ring, row);
            previous = row;
        }
        assert_int_equal(room->members, users);
    }
    for (uint32_t row = 0; row < rows->high; row++)
        used += ring->members[row].used;
    assert_int_equal(listed, used);
    assert_int_equal(used + free_rows, rows->high);
}

/* All records from tail to head, each of which leads to the one before in its room; returns the number of
 * messages. */
static inline uint32_t check_records(const struct ring *ring)
{
    const struct ring_header *h = ring->header;
    uint64_t at = h->tail, newest[64] = {0};
    uint32_t messages = 0;

    assert_true(h->tail <= h->committed && h->committed <= h->head && h->head - h->tail <= h->size);
    assert_true(h->rooms.high <= 64);
    while (at < h->head) {
        const struct ring_record *r = ring_at(ring, at);

        assert_true(r->size >= 8 && r->size % 8 == 0 && at % h->size + r->size <= h->size);
        if (r->kind == RING_MESSAGE) {
            struct text room = {r->data, r->room_length}, user = {room.data + room.length, r->user_length},
                        key = {user.data + user.length, r->key_length};
            uint32_t row = roster_find(ring, room);

            assert_int_equal(row, r->room);
            assert_true(newest[row] == 0 || r->previous_position == newest[row]);
            /* One by one, but for a jump to a multiple of 2^20. */
            if (newest[row] != 0 && (r->previous + 1) % (1 << 20) != 0)
                assert_int_equal(r->previous, ring_at(ring, newest[row])->seq);
            assert_true(r->seq > r->previous);
            if (key.length > 0)
                assert_int_not_equal(ring_find_key(ring, row, user, key), 0);
            newest[row] = at;
            messages++;
        }
        at += r->size;
    }
    assert_int_equal(at, h->head);
    for (uint32_t row = 0; row < h->rooms.high; row++) {
        const struct ring_room *room = &ring->rooms[row];

        if (!room->used || newest[row] == 0)
            continue;
        assert_int_equal(room->position, newest[row]);
        assert_true(room->seq >= ring_at(ring, newest[row])->seq);
        assert_int_equal(room->time_ms, ring_at(ring, newest[row])->time_ms);
    }
    return messages;
}

static inline uint32_t check_ring(struct ring *ring)
{
    uint32_t messages;

    ring_lock(ring);
    check_rooms(ring);
    check_members(ring);
    messages = check_records(ring);
    assert_int_equal(ring->header->redo.armed, 0);
    ring_unlock(ring);
    return messages;
}

#endif
