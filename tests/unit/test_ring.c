/* test_ring.c - the shared file is made, found, kept or refused; records go round in it, and whoever dies
 * while writing one leaves it whole. */
#include "ring_host.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

static const struct text NO_KEY = {NULL, 0};

static int set_up(void **state)
{
    set_up_ring((struct host **)state, HOST_RING);
    return 0;
}

static int tear_down(void **state)
{
    close_host(*state);
    free(*state);
    return 0;
}

static void reopen(struct host *host, uint64_t size)
{
    ring_close(host->ring);
    host->ring = open_ring(host->dir, size);
}

/* --- Making and finding --- */

static void test_what_was_not_committed_is_found_again(void **state)
{
    struct host *host = *state;
    uint64_t position = append(host->ring, open_room(host->ring, "lobby"), "ann", text("key"), 20);

    reopen(host, HOST_RING);
    assert_int_equal(host->ring->rooms[0].position, position);
    assert_int_equal(ring_committed(host->ring), position);
    assert_int_equal(check_ring(host->ring), 1);
    ring_lock(host->ring);
    assert_int_equal(ring_find_key(host->ring, 0, text("ann"), text("key")), position);
    ring_unlock(host->ring);
    assert_int_equal(append(host->ring, 0, "ann", NO_KEY, 1), position + ring_at(host->ring, position)->size);
}

static void test_a_ring_of_another_store_is_thrown_away(void **state)
{
    struct host *host = *state;
    const uint8_t other[RING_ID_SIZE] = "store two";
    char error[RING_ERROR_MAX];

    append(host->ring, open_room(host->ring, "lobby"), "ann", NO_KEY, 20);
    ring_close(host->ring);
    assert_int_equal(ring_open(&host->ring, host->dir, other, HOST_RING, error), 0);
    assert_int_equal(host->ring->header->rooms.high, 0);
    assert_int_equal(check_ring(host->ring), 0);
}

static void test_another_size_waits_until_all_is_committed(void **state)
{
    struct host *host = *state;

    append(host->ring, open_room(host->ring, "lobby"), "ann", NO_KEY, 20);
    reopen(host, 2 * HOST_RING);
    assert_int_equal(host->ring->header->size, HOST_RING);
    assert_int_equal(check_ring(host->ring), 1);
    commit_all(host->ring);
    reopen(host, 2 * HOST_RING);
    assert_int_equal(host->ring->header->size, 2 * HOST_RING);
    assert_int_equal(check_ring(host->ring), 0);
}

static void test_half_a_ring_is_made_anew(void **state)
{
    struct host *host = *state;

    open_room(host->ring, "lobby");
    host->ring->header->ready = 0;
    reopen(host, HOST_RING);
    assert_int_equal(host->ring->header->rooms.high, 0);
    assert_int_equal(truncate(ring_path(host->ring), 100), 0);
    reopen(host, HOST_RING);
    assert_int_equal(check_ring(host->ring), 0);
}

static void test_a_planted_file_is_not_followed(void **state)
{
    struct host *host = *state;
    char error[RING_ERROR_MAX] = "", path[128];
    struct ring *ring = NULL;
    struct stat st;

    snprintf(path, sizeof(path), "%s", ring_path(host->ring));
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 12345, 12345), 0);
        assert_int_equal(ring_open(&ring, host->dir, HOST_STORE, HOST_RING, error), -EPERM);
        assert_non_null(strstr(error, path));
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/tmp/chatd-ring-target", path), 0);
    assert_int_equal(ring_open(&ring, host->dir, HOST_STORE, HOST_RING, error), -ELOOP);
    assert_int_equal(access("/tmp/chatd-ring-target", F_OK), -1);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(ring_open(&ring, "/nowhere/at/all", HOST_STORE, HOST_RING, error), -ENOENT);
    assert_non_null(strstr(error, "/nowhere/at/all"));
    reopen(host, HOST_RING);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

/* A /dev/shm of our own, with `size` as mount(8) takes it. */
static void mount_shm(const char *size)
{
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", "/dev/shm", "tmpfs", 0, size) != 0)
        _exit(77);
}

static void run_in_small_shm(void (*act)(struct ring *ring, int arg))
{
    int status = wait_for_exit(start_child(act, NULL, 0));

    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(status, 0);
}

static void open_in_too_small_shm(struct ring *ring, int arg)
{
    char error[RING_ERROR_MAX] = "";

    (void)arg;
    mount_shm("size=1m");
    must(ring_open(&ring, "/tmp", HOST_STORE, HOST_RING, error) == -ENOSPC);
    must(strstr(error, "bus_log_bytes"));
    must(access("/dev/shm", W_OK) == 0 && rmdir("/dev/shm") != 0 &&
         system("test -z \"$(ls /dev/shm)\"") == 0);
}

static void test_too_little_shared_memory_is_an_error_and_leaves_nothing(void **state)
{
    (void)state;
    run_in_small_shm(open_in_too_small_shm);
}

static void fill_shm_later(struct ring *ring, int arg)
{
    char error[RING_ERROR_MAX] = "", name[16];
    int opened = 0, fd;
    bool changed;

    (void)arg;
    mount_shm("size=32m");
    must(ring_open(&ring, "/tmp", HOST_STORE, HOST_RING, error) == 0);
    /* As many rooms as memory was reserved for, and all of them needed. */
    ring_lock(ring);
    for (; opened < RING_CHUNK; opened++) {
        snprintf(name, sizeof(name), "room%d", opened);
        must(roster_open(ring, text(name), 0) == (uint32_t)opened);
        ring->rooms[opened].interested[0] = 1;
    }
    ring_unlock(ring);
    fd = open("/dev/shm/filler", O_RDWR | O_CREAT, 0600);
    must(fd >= 0 && posix_fallocate(fd, 0, 64 << 20) != 0);
    for (off_t size = 0; posix_fallocate(fd, size, 4096) == 0; size += 4096)
        ;
    ring_lock(ring);
    for (int i = 0; i < 3; i++) /* the search for a room to forget goes on where it ended */
        must(roster_open(ring, text("lobby"), 0) == RING_NONE);
    ring_unlock(ring);
    must(ring_sit(ring) == -ENOSPC);
    must(unlink("/dev/shm/filler") == 0 && close(fd) == 0);
    ring_lock(ring);
    for (; opened < 2 * RING_CHUNK; opened++) {
        snprintf(name, sizeof(name), "room%d", opened);
        must(roster_open(ring, text(name), 0) != RING_NONE);
    }
    must(roster_enter(ring, 0, text("ann"), 0, &changed) && changed);
    ring_unlock(ring);
    must(ring_sit(ring) == 0);
}

static void test_memory_that_runs_out_later_is_no_place_and_no_sigbus(void **state)
{
    (void)state;
    run_in_small_shm(fill_shm_later);
}

/* --- Appending --- */

static void test_records_of_all_sizes_go_round_many_times(void **state)
{
    struct host *host = *state;
    struct ring *ring = host->ring;
    char key[MESSAGE_KEY_MAX];
    uint64_t seq = 0;

    for (unsigned i = 0; i < 6000; i++) {
        size_t bytes = i % 3 == 0 ? i * 7919 % 15000 : i * 31 % 300;
        struct text of = {key, i * 13 % (MESSAGE_KEY_MAX + 1)};
        uint64_t position;

        memset(key, 0, sizeof(key));
        memcpy(key, &i, sizeof(i) < of.length ? sizeof(i) : of.length);
        position = append(ring, open_room(ring, "lobby"), i % 2 ? "ann" : "bob", of, bytes);
        assert_int_not_equal(position, 0);
        seq = seq == 0 ? 1 << 20 : seq + 1;
        assert_int_equal(ring_at(ring, position)->seq, seq);
        commit_all(ring);
        if (i % 50 == 0)
            check_ring(ring);
    }
    assert_true(ring_head(ring) > 100 * ring->header->size);
}

/* For every distance of the head from the end of the ring. */
static void test_a_record_that_does_not_fit_before_the_end_goes_behind_a_pad(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    struct ring_header *h = ring->header;
    uint32_t room = open_room(ring, "lobby");
    unsigned padded = 0;

    for (uint64_t distance = 8; distance < 800; distance += 8) {
        uint64_t head = (ring_head(ring) / h->size + 2) * h->size - distance, position;

        h->head = h->tail = h->committed = head;
        ring->rooms[room].position = 0;
        position = append(ring, room, "ann", text("key"), 300);
        assert_true(position == head || position == head + distance);
        padded += position != head;
        assert_true(position % h->size + ring_at(ring, position)->size <= h->size);
        assert_int_not_equal(append(ring, room, "ann", NO_KEY, 300), 0);
        assert_int_equal(check_ring(ring), 2);
    }
    assert_in_range(padded, 400 / 8, 600 / 8);
}

static void test_what_is_not_committed_is_never_overwritten(void **state)
{
    struct host *host = *state;
    struct ring *ring = host->ring;
    uint32_t room = open_room(ring, "lobby"), appended = 0;
    uint64_t first = ring_head(ring), position = first;
    struct message message;

    while (append(ring, room, "ann", NO_KEY, 200) != 0)
        appended++;
    assert_true(ring_head(ring) - first <= ring->header->size);
    assert_int_equal(check_ring(ring), appended);
    assert_int_equal(append(ring, room, "ann", NO_KEY, 200), 0);
    assert_int_equal(check_ring(ring), appended);
    for (uint32_t i = 0; i < appended; i++) {
        assert_true(ring_next(ring, &position, &message));
        assert_int_equal(message.seq, (1 << 20) + i);
    }
    assert_false(ring_next(ring, &position, &message));
    /* One committed is room for one of its size, beyond what is kept for second publications. */
    ring_commit(ring, first + 2 * ring_at(ring, first)->size);
    assert_int_not_equal(append(ring, room, "ann", NO_KEY, 200), 0);
    commit_all(ring);
    assert_int_not_equal(append(ring, room, "ann", NO_KEY, 200), 0);
    assert_int_equal(append(ring, room, "ann", NO_KEY, HOST_RING / 4), 0);
    check_ring(ring);
}

static void test_time_never_falls_in_a_room(void **state)
{
    struct host *host = *state;
    uint32_t room = open_room(host->ring, "lobby");
    int64_t ahead = clock_wall_ms() + 3600000;
    uint64_t position;

    host->ring->rooms[room].time_ms = ahead;
    position = append(host->ring, room, "ann", NO_KEY, 1);
    assert_int_equal(ring_at(host->ring, position)->time_ms, ahead);
    assert_int_equal(host->ring->rooms[room].time_ms, ahead);
}

/* --- Keys --- */

static uint64_t find(struct ring *ring, uint32_t room, const char *user, struct text key)
{
    uint64_t position;

    ring_lock(ring);
    position = ring_find_key(ring, room, text(user), key);
    ring_unlock(ring);
    return position;
}

static void test_a_key_is_found_for_its_room_and_user_alone(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint32_t lobby = open_room(ring, "lobby"), den = open_room(ring, "den");
    struct text nul = {"a\0b", 3}, shorter = {"a", 1}, longer = {"a\0b\0", 4};
    uint64_t first = append(ring, lobby, "ann", text("k"), 5), second = append(ring, lobby, "ann", nul, 5);

    assert_int_equal(find(ring, lobby, "ann", text("k")), first);
    assert_int_equal(find(ring, lobby, "bob", text("k")), 0);
    assert_int_equal(find(ring, den, "ann", text("k")), 0);
    assert_int_equal(find(ring, lobby, "ann", nul), second);
    assert_int_equal(find(ring, lobby, "ann", shorter), 0);
    assert_int_equal(find(ring, lobby, "ann", longer), 0);
    /* Where user and key meet says nothing: ("annk", "") is not ("ann", "k"). */
    assert_int_equal(find(ring, lobby, "an", text("nk")), 0);
}

static void test_key_chains_end_at_the_tail(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint32_t room = open_room(ring, "lobby"), known = 0;
    char key[16];

    for (int i = 0; i < 3000; i++) {
        snprintf(key, sizeof(key), "key %d", i);
        assert_int_not_equal(append(ring, room, "ann", text(key), 10), 0);
        commit_all(ring);
    }
    check_ring(ring); /* finds every key that is in the window */
    for (int i = 0; i < 3000; i++) {
        uint64_t position;

        snprintf(key, sizeof(key), "key %d", i);
        position = find(ring, room, "ann", text(key));
        assert_true(position == 0 || position >= ring->header->tail);
        known += position != 0;
        if (position != 0)
            assert_int_equal(ring_at(ring, position)->seq, (1 << 20) + i);
    }
    assert_int_equal(known, check_ring(ring));
}

/* --- Several processes --- */

enum { PUBLISHERS = 4, EACH = 1500, RACE_ROOMS = 3 };

static void publish_many(struct ring *ring, int publisher)
{
    int64_t deadline = clock_monotonic_ms() + HOST_DEADLINE_MS;

    for (int i = 0; i < EACH;) {
        uint32_t room;

        ring_lock(ring);
        room = roster_open(ring, text(i % RACE_ROOMS == 0 ? "a" : i % RACE_ROOMS == 1 ? "b" : "c"), 0);
        i += append_locked(ring, room, "ann", NO_KEY, (size_t)(i * 37 + publisher) % 500) != 0;
        ring_unlock(ring);
        must(clock_monotonic_ms() < deadline);
        ring_kick(ring);
    }
}

static void test_numbers_rise_one_by_one_whoever_publishes(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint64_t position = ring_head(ring), last[256] = {0};
    int64_t deadline = clock_monotonic_ms() + HOST_DEADLINE_MS;
    pid_t children[PUBLISHERS];
    struct message message;
    int seen = 0;

    for (int i = 0; i < PUBLISHERS; i++)
        children[i] = start_child(publish_many, ring, i);
    while (seen < PUBLISHERS * EACH) {
        while (ring_next(ring, &position, &message)) {
            uint64_t *before = &last[(uint8_t)message.room.data[0]];

            assert_int_equal(message.seq, *before == 0 ? 1 << 20 : *before + 1);
            assert_int_equal(message.previous, message.seq - 1);
            *before = message.seq;
            seen++;
        }
        ring_commit(ring, position);
        assert_true(clock_monotonic_ms() < deadline);
        ring_wait(ring, position, 50);
    }
    for (int i = 0; i < PUBLISHERS; i++)
        assert_int_equal(wait_for_exit(children[i]), 0);
    check_ring(ring);
}

static void write_on_and_on(struct ring *ring, int arg)
{
    int64_t end = clock_monotonic_ms() + arg;

    for (unsigned i = 0; clock_monotonic_ms() < end; i++) {
        must(append(ring, 0, "ann", NO_KEY, i * 7919 % 3000) != 0);
        commit_all(ring);
    }
}

static void test_a_reader_without_the_lock_never_gets_torn_bytes(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint32_t room = open_room(ring, "lobby");
    struct buf copy = BUF_INIT;
    uint64_t copied = 0;
    int status = 0;
    pid_t writer = start_child(write_on_and_on, ring, 500);

    while (waitpid(writer, &status, WNOHANG) == 0) {
        uint64_t at = __atomic_load_n(&ring->rooms[room].position, __ATOMIC_RELAXED);

        for (; at != 0 && ring_copy(ring, at, &copy); copied++) {
            const struct ring_record *r = (const struct ring_record *)copy.data;
            struct message m;
            size_t from = 0;

            ring_record_message(r, at, &m);
            assert_int_equal(copy.length, r->size);
            assert_true(text_is(m.room, "lobby") && text_is(m.user, "ann"));
            while (m.event.data[from] != 't' || memcmp(m.event.data + from, "text\":\"", 7) != 0)
                from++;
            for (from += 7; from < m.event.length - 2; from++)
                assert_int_equal(m.event.data[from], 'a' + (int)(m.seq % 26));
            at = r->previous_position;
        }
    }
    assert_int_equal(status, 0);
    assert_true(copied > 0);
    buf_deinit(&copy);
}

/* --- Death inside the lock --- */

static uint32_t appended_so_far;

static void append_one(struct ring *ring, int arg)
{
    static char key[8];

    snprintf(key, sizeof(key), "%d", arg);
    append(ring, 0, "ann", text(key), (size_t)arg * 331 % 4000);
}

/* The record is there with all that belongs to it, or nothing of it. */
static void check_appended(struct ring *ring, int arg)
{
    uint64_t head;
    uint32_t messages;
    char key[8];

    (void)arg;
    messages = check_ring(ring);
    assert_in_range(messages, appended_so_far, appended_so_far + 1);
    snprintf(key, sizeof(key), "%d", arg);
    assert_int_equal(find(ring, 0, "ann", text(key)) != 0, messages > appended_so_far);
    head = ring_head(ring);
    commit_all(ring);
    assert_int_not_equal(append(ring, 0, "bob", text("after"), 1), 0);
    assert_true(ring_head(ring) > head);
    commit_all(ring);
    appended_so_far = check_ring(ring);
    /* So that make_place, which forgets records, doesn't spoil the count: begin again well before the ring
     * is full. */
    if (ring_head(ring) - ring->header->tail > ring->header->size / 2)
        atomic_store(&ring->header->tail, ring_head(ring));
    appended_so_far = check_ring(ring);
}

static void test_death_at_any_instruction_of_append_leaves_all_or_nothing(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;

    open_room(ring, "lobby");
    appended_so_far = 0;
    die_everywhere(append_one, ring, check_appended);
}

/* By hand, for machines without ptrace: the head has moved and nothing else has. */
static void die_with_moved_head(struct ring *ring, int seat)
{
    struct ring_room before;
    uint64_t inbox, bucket;

    ring_lock(ring);
    before = ring->rooms[0];
    inbox = ring->seats[seat].inbox_head;
    append_locked(ring, 0, "ann", text("k"), 50);
    bucket = ring->header->redo.key_bucket;
    atomic_store(&ring->key_buckets[bucket], 0);
    atomic_store(&ring->seats[seat].inbox_head, inbox);
    ring->rooms[0] = before;
    ring->header->redo.armed = 1;
    raise(SIGKILL);
}

static void die_before_head_moves(struct ring *ring, int seat)
{
    struct ring_room before;
    uint64_t inbox, head;

    ring_lock(ring);
    before = ring->rooms[0];
    inbox = ring->seats[seat].inbox_head;
    head = ring_head(ring);
    append_locked(ring, 0, "ann", text("not k"), 50);
    atomic_store(&ring->key_buckets[ring->header->redo.key_bucket], 0);
    atomic_store(&ring->seats[seat].inbox_head, inbox);
    atomic_store(&ring->header->head, head);
    ring->rooms[0] = before;
    ring->header->redo.armed = 1;
    raise(SIGKILL);
}

static void test_the_next_holder_of_the_lock_applies_the_redo_note(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    int seat;

    open_room(ring, "lobby");
    seat = ring_sit(ring);
    assert_true(seat >= 0);
    ring->rooms[0].interested[0] = 1ULL << seat;
    run_to_death(die_before_head_moves, ring, seat);
    assert_int_equal(check_ring(ring), 0);
    assert_int_equal(ring->seats[seat].inbox_head, 0);
    run_to_death(die_with_moved_head, ring, seat);
    assert_int_equal(check_ring(ring), 1);
    assert_int_equal(ring->seats[seat].inbox_head, 1);
    assert_int_equal(ring->rooms[0].seq, 1 << 20);
    assert_int_not_equal(find(ring, 0, "ann", text("k")), 0);
    assert_int_equal(find(ring, 0, "ann", text("not k")), 0);
    ring_stand(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_was_not_committed_is_found_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_ring_of_another_store_is_thrown_away, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_another_size_waits_until_all_is_committed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_half_a_ring_is_made_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_planted_file_is_not_followed, set_up, tear_down),
        cmocka_unit_test(test_too_little_shared_memory_is_an_error_and_leaves_nothing),
        cmocka_unit_test(test_memory_that_runs_out_later_is_no_place_and_no_sigbus),
        cmocka_unit_test_setup_teardown(test_records_of_all_sizes_go_round_many_times, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_record_that_does_not_fit_before_the_end_goes_behind_a_pad,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_not_committed_is_never_overwritten, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_time_never_falls_in_a_room, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_key_is_found_for_its_room_and_user_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_key_chains_end_at_the_tail, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_numbers_rise_one_by_one_whoever_publishes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_reader_without_the_lock_never_gets_torn_bytes, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_death_at_any_instruction_of_append_leaves_all_or_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_the_next_holder_of_the_lock_applies_the_redo_note, set_up,
                                        tear_down),
    };

    quiet_log();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
